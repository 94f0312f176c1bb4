#include "sentry/net/unix/unix_names.h"

#include <string.h>
#include <sys/un.h>

#include <chrono>
#include <cstddef>
#include <cstdio>

#include "sentry/kernel/clock.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/net/unix/unix_socket.h"
#include "sentry/vfs/mount.h"

namespace amber {
namespace {
constexpr size_t kHeader = offsetof(sockaddr_un, sun_path);
}

int UnixName::Family(std::string_view address) {
  sa_family_t family = AF_UNSPEC;
  if (address.size() >= sizeof(family)) memcpy(&family, address.data(), sizeof(family));
  return family;
}

ErrnoOr<UnixName> UnixName::Parse(std::string_view address) {
  if (address.size() < kHeader || address.size() > sizeof(sockaddr_un)) return Errno(EINVAL);
  if (Family(address) != AF_UNIX) return Errno(EINVAL);
  std::string_view rest = address.substr(kHeader);
  UnixName name;
  if (rest.empty()) return name;
  if (rest[0] == '\0') {
    name.kind = kAbstract;
    name.name = rest.substr(1);
  } else {
    name.kind = kPath;
    name.name = rest.substr(0, rest.find('\0'));
  }
  return name;
}

std::string UnixName::Bytes() const {
  sa_family_t family = AF_UNIX;
  std::string bytes(reinterpret_cast<const char*>(&family), sizeof(family));
  if (kind == kAbstract) bytes += '\0';
  bytes += name;
  if (kind == kPath) bytes += '\0';
  return bytes;
}

std::map<UnixNames::Key, UnixSocket*>& UnixNames::Abstract() {
  static auto* names = new std::map<Key, UnixSocket*>();
  return *names;
}

std::set<UnixSocket*>& UnixNames::All() {
  static auto* sockets = new std::set<UnixSocket*>();
  return *sockets;
}

UnixName UnixNames::FreeAbstract(const NetNamespace* net) {
  static uint32_t next = 0;
  UnixName name;
  name.kind = UnixName::kAbstract;
  // The table cannot hold 2^20 names: that many sockets do not fit the descriptor tables of a sandbox.
  for (uint32_t tries = 0; tries < (1u << 20); ++tries) {
    char digits[8];
    snprintf(digits, sizeof(digits), "%05x", next++ & 0xfffff);
    name.name = digits;
    if (!Abstract().contains({net, name.Bytes()})) break;
  }
  return name;
}

void UnixNames::CollectSoon(Kernel& kernel) {
  // A walk over all sockets: with very many of them in flight it takes a small part of the time, however often somebody closes one.
  static int64_t pause = 0;
  static auto* timer = new Timer([] {
    auto start = std::chrono::steady_clock::now();
    UnixGarbage::Collect();
    int64_t took = std::chrono::nanoseconds(std::chrono::steady_clock::now() - start).count();
    pause = took < 100'000 ? 0 : 10 * took;
  });
  if (!timer->armed()) timer->Arm(kernel.timers(), kernel.clocks().Monotonic() + pause);
}

}  // namespace amber
