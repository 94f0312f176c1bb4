#include "gofer/act_as.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>

#include "sentry/base/check.h"

namespace amber::gofer {
namespace {

// The C library's functions change all threads.
bool SetGroups(const std::vector<gid_t>& groups) { return syscall(SYS_setgroups, groups.size(), groups.data()) == 0; }
bool SetGid(gid_t gid) { return syscall(SYS_setresgid, -1, gid, -1) == 0; }
bool SetUid(uid_t uid) { return syscall(SYS_setresuid, -1, uid, -1) == 0; }

}  // namespace

User User::Self() {
  User self = {geteuid(), getegid(), {}};
  int count = getgroups(0, nullptr);
  self.groups.resize(count > 0 ? static_cast<size_t>(count) : 0);
  count = getgroups(static_cast<int>(self.groups.size()), self.groups.data());
  self.groups.resize(count > 0 ? static_cast<size_t>(count) : 0);
  return self;
}

ErrnoOr<void> ActAs::Begin(const User& user) {
  AMBER_CHECK(steps_ == 0);
  // -1 would leave the id as it is: root's.
  if (user.uid == static_cast<uid_t>(-1) || user.gid == static_cast<gid_t>(-1)) return Errno(EPERM);
  if (user == self_) return {};
  // The user comes last, as the capabilities for the rest go with root. The real and the saved user stay: that is the way back, and what keeps
  // other processes of `user` from sending signals to this one.
  if (!SetGroups(user.groups)) return Errno(EPERM);
  steps_ = 1;
  if (!SetGid(user.gid)) return Errno(EPERM);
  steps_ = 2;
  if (!SetUid(user.uid)) return Errno(EPERM);
  steps_ = 3;
  return {};
}

ActAs::~ActAs() {
  // All capabilities come back with the user (capabilities(7)).
  if (steps_ > 2) AMBER_CHECK(SetUid(self_.uid));
  if (steps_ > 1) AMBER_CHECK(SetGid(self_.gid));
  if (steps_ > 0) AMBER_CHECK(SetGroups(self_.groups));
}

}  // namespace amber::gofer
