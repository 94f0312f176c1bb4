// Names of Unix sockets: decoding addresses, and the table of abstract ones. Guarded by the kernel lock.
#pragma once

#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "sentry/base/errno_or.h"

namespace amber {

class Kernel;
class NetNamespace;
class UnixSocket;

struct UnixName {
  enum Kind { kUnnamed, kAbstract, kPath };
  Kind kind = kUnnamed;
  std::string name;  // without the leading NUL of an abstract one, without the final NUL of a path

  // From the bytes of a sockaddr_un; EINVAL if they are none.
  static ErrnoOr<UnixName> Parse(std::string_view address);
  static int Family(std::string_view address);
  // As the bytes of a sockaddr_un, as getsockname gives them.
  std::string Bytes() const;
};

class UnixNames {
 public:
  // Bound abstract names, by network namespace and the bytes of their address.
  using Key = std::pair<const NetNamespace*, std::string>;
  static std::map<Key, UnixSocket*>& Abstract();
  // Every Unix socket.
  static std::set<UnixSocket*>& All();
  // An abstract name of five hexadecimal digits that is free (autobind, unix(7)).
  static UnixName FreeAbstract(const NetNamespace* net);
  // Runs UnixGarbage::Collect() once the present call is over.
  static void CollectSoon(Kernel& kernel);
};

}  // namespace amber
