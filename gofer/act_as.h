// A thread of the gofer as another user of the host's, for one host call.
#pragma once

#include <sys/types.h>

#include <vector>

#include "sentry/base/errno_or.h"

namespace amber::gofer {

struct User {
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<gid_t> groups;  // the supplementary ones

  // As this thread is.
  static User Self();
  friend bool operator==(const User&, const User&) = default;
};

// The calling thread's effective ids and groups are another user's while the object is there; other threads' stay. It then has root's effective
// capabilities only if that user is root. The process ends if it cannot become itself again.
class ActAs {
 public:
  // `self` outlives it.
  explicit ActAs(const User& self) : self_(self) {}
  ~ActAs();
  ActAs(const ActAs&) = delete;
  ActAs& operator=(const ActAs&) = delete;
  // Once. EPERM if the host does not let the thread be `user`.
  ErrnoOr<void> Begin(const User& user);

 private:
  const User& self_;
  int steps_ = 0;  // that the destructor is to undo
};

}  // namespace amber::gofer
