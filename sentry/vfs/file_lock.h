// Locks on files: POSIX record locks, open file description locks and flock(2). fcntl(2), flock(2), fs/locks.c.
//
// An Inode owns its FileLocks. Guarded by the kernel lock. POSIX locks belong to a descriptor table, the others to an open file; the two
// kinds of record locks see each other, flock stands apart. Nothing blocks: a conflict is EAGAIN, and queue() is notified when a
// lock goes. Deadlocks among POSIX locks are found by fcntl (EDEADLK).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "checkpoint/state.h"
#include "sentry/base/errno_or.h"
#include "sentry/kernel/wait_queue.h"
#include "sentry/vfs/lease.h"

namespace amber {

namespace vfs_state {
class Inode;
}

inline constexpr uint8_t kLastWriteHint = 5;  // RWH_WRITE_LIFE_EXTREME

enum class LockKind : uint8_t { kPosix = 1, kOfd = 2, kFlock = 3 };

struct FileLock {
  LockKind kind = LockKind::kPosix;
  bool exclusive = false;
  uint64_t start = 0;
  uint64_t end = UINT64_MAX;               // inclusive
  const state::Saveable* owner = nullptr;  // FdTable or File; compared only
  int pid = 0;                             // of who took a POSIX lock, else -1
};

class FileLocks {
 public:
  // Takes `lock`, replacing what its owner held in the range. EAGAIN if another owner's lock is in the way.
  ErrnoOr<void> Take(const FileLock& lock);
  // Gives back what the owner of `lock` holds of its kind in its range.
  void Release(const FileLock& lock);
  // Gives back everything of `owner`.
  void ReleaseAll(const state::Saveable* owner);
  // The first lock that stands in the way of `lock`, or null.
  const FileLock* Conflict(const FileLock& lock) const;
  bool empty() const { return locks_.empty(); }
  const std::vector<FileLock>& all() const { return locks_; }
  WaitQueue& queue() { return queue_; }
  // F_SET_RW_HINT: how long what is written will live (RWH_WRITE_LIFE_*). Kept and told.
  uint8_t write_hint = 0;
  std::vector<Lease>& leases() {
    std::erase_if(leases_, [](const Lease& l) { return !l.confirmed; });
    return leases_;
  }
  // `owner` was loaded, and is an open file of this inode or a process's table with one in it: locks and leases that an image gives it are its own.
  void Confirm(const state::Saveable& owner);

  void Save(state::Saver& saver, vfs_state::Inode* out) const;
  bool Load(state::Loader& loader, const vfs_state::Inode& m);

 private:
  // Removes the owner's range; true if anything changed.
  bool Cut(const FileLock& range);

  std::vector<FileLock> locks_;   // sorted by start
  std::vector<FileLock> loaded_;  // from an image, until Confirm(); their owners may be anything
  std::vector<Lease> leases_;
  WaitQueue queue_;
};

}  // namespace amber
