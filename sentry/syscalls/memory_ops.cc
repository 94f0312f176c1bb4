#include "sentry/syscalls/memory_ops.h"

#include <linux/capability.h>
#include <poll.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace amber {

Errno WaitForMm(Task& task) { return task.Block(task.mm().lock_queue(), POLLIN, kNever, kErestartnointr); }

MemoryLimits MemoryLimitsOf(const Task& task) {
  return {task.limit(RLIMIT_AS), task.limit(RLIMIT_DATA), task.limit(RLIMIT_MEMLOCK), task.Has(CAP_IPC_LOCK)};
}

ErrnoOr<uint64_t> RunMemoryOps(Task& task, MmLock& lock, std::vector<platform::StubOp> ops, std::function<int64_t(std::span<const int64_t>)> finish,
                               std::function<int64_t(int64_t)> failed) {
  if (ops.empty()) {
    int64_t result = finish({});
    if (result < 0) return Errno(static_cast<int>(-result));
    return static_cast<uint64_t>(result);
  }
  lock.Pass();
  RefPtr<MemoryManager> mm(&task.mm());
  Task* self = &task;  // StopForOps() keeps it alive
  task.StopForOps(std::move(ops), [self, mm, finish = std::move(finish), failed = std::move(failed)](std::span<const int64_t> results) {
    int64_t result = results.empty() ? -EFAULT : results.back();
    if (result >= 0 || result < -4095) {
      result = finish(results);
    } else if (failed) {
      result = failed(result);
    }
    mm->Unlock(*self);
    self->FinishSyscall(result);
  });
  return kNoAnswer;
}

namespace {

platform::StubOp OwnCall(Task& task) {
  const SyscallState& call = task.syscall();
  platform::StubOp op;
  op.number = call.number;
  std::copy(std::begin(call.args), std::end(call.args), op.args);
  return op;
}

}  // namespace

ErrnoOr<uint64_t> RunUnlocked(Task& task) {
  if (!task.framed()) {
    task.ContinueSyscall(nullptr);
    return kNoAnswer;
  }
  Task* self = &task;
  task.StopForOps({OwnCall(task)}, [self](std::span<const int64_t> results) { self->FinishSyscall(results.empty() ? -EFAULT : results.back()); });
  return kNoAnswer;
}

ErrnoOr<uint64_t> RunNatively(Task& task, MmLock& lock, uint64_t start, uint64_t end, const std::function<void()>& apply) {
  apply();
  if (task.framed()) {
    return RunMemoryOps(task, lock, {OwnCall(task)}, [](std::span<const int64_t> results) { return results.back(); });
  }
  RefPtr<MemoryManager> mm(&task.mm());
  uint64_t token = mm->AddPending(task, start, end);
  task.ContinueSyscall([mm, token] { mm->RemovePending(token); });
  return kNoAnswer;
}

}  // namespace amber
