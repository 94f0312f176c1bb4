// What the memory calls share: the operation lock as a scope, and the two ways to have the host do something.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "sentry/base/errno_or.h"
#include "sentry/kernel/task.h"
#include "sentry/mm/memory_manager.h"

namespace amber {

// Holds the operation lock of the task's memory until it goes, or until Pass() hands it to a continuation.
class MmLock {
 public:
  // Locks with respect to [start, end); see MemoryManager::TryLock.
  MmLock(Task& task, uint64_t start, uint64_t end) : task_(task), held_(task.mm().TryLock(task, start, end)) {}
  ~MmLock() {
    if (held_) task_.mm().Unlock(task_);
  }
  MmLock(const MmLock&) = delete;
  MmLock& operator=(const MmLock&) = delete;
  bool held() const { return held_; }
  void Pass() { held_ = false; }

 private:
  Task& task_;
  bool held_;
};

// What a handler returns if it did not get the lock: it is executed again when that is free.
Errno WaitForMm(Task& task);

MemoryLimits MemoryLimitsOf(const Task& task);

// Has the task's thread run `ops`, then calls `finish` with their results, all with the lock held; `finish` returns the
// call's result (a value, or -errno). If an operation failed, and so ended the run, `failed` is called with -errno instead; without it
// that is the result. Without operations `finish` is called at once. The handler returns what this returns.
ErrnoOr<uint64_t> RunMemoryOps(Task& task, MmLock& lock, std::vector<platform::StubOp> ops, std::function<int64_t(std::span<const int64_t>)> finish,
                               std::function<int64_t(int64_t)> failed = nullptr);

// The call does in the host exactly what the guest asked, in [start, end): lets it run there if it came by the base path, else by an
// operation. `apply` changes the tree; it is called before the host acts (and a failure of the host would be the sentry's
// mistake, or the host's want of memory: the tree then says less than the host has).
ErrnoOr<uint64_t> RunNatively(Task& task, MmLock& lock, uint64_t start, uint64_t end, const std::function<void()>& apply);

// The same for a call that changes no mapping: no lock is needed.
ErrnoOr<uint64_t> RunUnlocked(Task& task);

}  // namespace amber
