// Priority inheritance futexes: FUTEX_LOCK_PI and its kin (kernel/futex/pi.c, kernel/futex/requeue.c).
//
// The host cannot do them for a guest: the words hold the guest's thread ids. So waiters wait here, and the words are changed from here.
// Only setting FUTEX_WAITERS races with the guest's own instructions; a stub operation of the calling thread does that atomically. A word
// with FUTEX_WAITERS is changed by the kernel alone, under the kernel lock. Priority itself is the host's: it knows one class of threads,
// so nothing is boosted; waiters go by their SCHED_FIFO or SCHED_RR priority, then by age.
//
// One per kernel, owned by TaskLifecycle. PiWait is one per task, owned by TaskExtras. Guarded by the kernel lock.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "sentry/base/errno_or.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/kernel/futex_key.h"
#include "sentry/kernel/wait_queue.h"
#include "sentry/vfs/file.h"

namespace amber {

class Task;

// What a task waits for.
struct PiWait {
  explicit PiWait(Task& t) : task(t) {}
  Task& task;
  WaitQueue queue;
  // In the list of `key`: of the locks, or of those that wait to be requeued to one.
  enum class Where { kNowhere, kLock, kRequeue } where = Where::kNowhere;
  FutexKey key, target;   // `target`: the lock to be requeued to
  uint64_t address = 0;   // the lock's word, in the task's memory
  uint64_t age = 0;       // 0: a new wait
  uint64_t granted = 0;   // the address of a lock that the task got and does not know of yet
  bool requeued = false;  // FUTEX_WAIT_REQUEUE_PI: waits for the lock by now
};

class PiFutexes {
 public:
  // The handlers' parts. `deadline`: guest monotonic.
  ErrnoOr<uint64_t> Lock(Task& task, uint64_t address, bool shared, int64_t deadline, bool try_only);
  ErrnoOr<uint64_t> Unlock(Task& task, uint64_t address, bool shared);
  ErrnoOr<uint64_t> WaitRequeue(Task& task, uint64_t address, bool shared, uint32_t value, int64_t deadline, uint64_t lock);
  ErrnoOr<uint64_t> Requeue(Task& task, uint64_t address, bool shared, int wake, int requeue, uint64_t lock, uint32_t value);
  // exit_pi_state_list(): `task` is no more. Its locks go to who waits for them.
  void OnExit(Task& task);

 private:
  struct Waiters {
    Task* owner = nullptr;  // of a lock
    RefPtr<File> pin;       // keeps a key's inode number from becoming another file's
    std::vector<PiWait*> list;
  };
  using Map = std::map<FutexKey, Waiters>;

  PiWait& WaitOf(Task& task);
  Map& MapOf(PiWait::Where where) { return where == PiWait::Where::kRequeue ? requeues_ : locks_; }
  void Enter(PiWait& wait, PiWait::Where where, const FutexKey& key, RefPtr<File> pin, Task* owner);
  void Leave(PiWait& wait);
  // The waiter whose turn it is, or null; drops those that no longer wait.
  PiWait* Next(Map& map, const FutexKey& key);
  size_t CountOf(const FutexKey& key) const;
  bool WouldDeadlock(const Task& task, const Task* owner) const;
  bool TakeGrant(PiWait& wait, uint64_t address);
  // The waiter becomes the owner: its id is written to the word, with FUTEX_OWNER_DIED or not.
  ErrnoOr<void> Grant(PiWait& wait, uint32_t flags);

  Map locks_, requeues_;
  uint64_t next_age_ = 1;
};

}  // namespace amber
