// Locks, owner and mode of open files without a place in the tree: pipes, whose object stands for an inode.
//
// Guarded by the kernel lock.
#pragma once

#include <cstdint>
#include <string>

#include "checkpoint/state.h"
#include "sentry/base/errno_or.h"
#include "sentry/vfs/file_lock.h"

namespace amber {

class LockKeeper {
 public:
  virtual FileLocks& locks() = 0;

 protected:
  ~LockKeeper() = default;
};

struct AnonOwner {
  uint32_t mode = 0, uid = 0, gid = 0;
};

class OwnerKeeper {
 public:
  // What fchmod(2) and fchown(2) change and fstat(2) shows.
  virtual AnonOwner& owner_and_mode() = 0;
  // EPERM if it may not have these permissions (seals).
  virtual ErrnoOr<void> CheckMode(uint32_t /*mode*/) const { return Ok(); }

 protected:
  ~OwnerKeeper() = default;
};

std::string SaveLocks(const FileLocks& locks, state::Saver& saver);
bool LoadLocks(state::Loader& loader, const std::string& bytes, FileLocks* locks);

}  // namespace amber
