// futex(2), as far as it does not run natively.
//
// Waits without a time-out, wakes and requeues are executed by the host on the guest's own words (platform README). What comes here:
// timed waits, which the sentry orders as native waits with a deadline in host time, priority inheritance, and every call of a thread whose
// own filters look at it (TaskExtras::WantsNativeCalls).
#include <linux/futex.h>
#include <sys/syscall.h>

#include "sentry/kernel/futex_pi.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/task_lifecycle.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/tracing.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/memory_ops.h"
#include "sentry/syscalls/table.h"
#include "sentry/syscalls/time_util.h"

namespace amber {
namespace {

constexpr uint64_t kRobustListHeadSize = 24;

ErrnoOr<uint64_t> TimedWait(Task& task, uint64_t address, int op, uint32_t value, UserPtr<const timespec> timeout, uint32_t bitset) {
  int command = op & FUTEX_CMD_MASK;
  if (command == FUTEX_WAIT) bitset = FUTEX_BITSET_MATCH_ANY;
  if (bitset == 0) return Errno(EINVAL);
  if (address % 4 != 0) return Errno(EINVAL);
  SyscallState& call = task.syscall();
  if ((call.scratch[3] & Task::kNativeWaitDone) != 0) {
    int error = static_cast<int>(call.scratch[3] & 0xffffffff);
    call.scratch[3] = 0;
    if (error == 0) return 0;
    return Errno(error);
  }
  int64_t deadline = call.deadline;
  if (!call.restarted && timeout) {
    int64_t time = TRY(CopyInDuration(task, timeout));
    // FUTEX_WAIT takes a duration, FUTEX_WAIT_BITSET a time.
    if (command == FUTEX_WAIT) {
      deadline = DeadlineAfter(task, time);
    } else {
      deadline = DeadlineAt(task, (op & FUTEX_CLOCK_REALTIME) != 0 ? CLOCK_REALTIME : CLOCK_MONOTONIC, time);
    }
  }
  if (!timeout) deadline = kNever;
  return task.BlockNatively(address, value, bitset, (op & FUTEX_PRIVATE_FLAG) == 0, deadline);
}

// Guest monotonic; `clock` is that of the caller's absolute time.
ErrnoOr<int64_t> PiDeadline(Task& task, UserPtr<const timespec> timeout, clockid_t clock) {
  if (!timeout) return kNever;
  return DeadlineAt(task, clock, TRY(CopyInDuration(task, timeout)));
}

// FUTEX_LOCK_PI and its kin. FUTEX_LOCK_PI alone always takes times of CLOCK_REALTIME.
ErrnoOr<uint64_t> PriorityInheritance(Task& task, uint64_t address, int op, unsigned value, UserPtr<const timespec> timeout, uint64_t address2,
                                      unsigned value3) {
  PiFutexes& locks = task.kernel().lifecycle().pi_futexes();
  bool shared = (op & FUTEX_PRIVATE_FLAG) == 0;
  int command = op & FUTEX_CMD_MASK;
  bool realtime = (op & FUTEX_CLOCK_REALTIME) != 0;
  // futex_cmd_has_timeout() and do_futex(): who takes the flag.
  if (realtime && command != FUTEX_LOCK_PI2 && command != FUTEX_WAIT_REQUEUE_PI) return Errno(ENOSYS);
  clockid_t clock = realtime || command == FUTEX_LOCK_PI ? CLOCK_REALTIME : CLOCK_MONOTONIC;
  switch (command) {
    case FUTEX_LOCK_PI:
    case FUTEX_LOCK_PI2: return locks.Lock(task, address, shared, TRY(PiDeadline(task, timeout, clock)), false);
    case FUTEX_TRYLOCK_PI: return locks.Lock(task, address, shared, kNever, true);
    case FUTEX_UNLOCK_PI: return locks.Unlock(task, address, shared);
    case FUTEX_WAIT_REQUEUE_PI: return locks.WaitRequeue(task, address, shared, value, TRY(PiDeadline(task, timeout, clock)), address2);
    case FUTEX_CMP_REQUEUE_PI:
      // The fourth argument is a number here.
      return locks.Requeue(task, address, shared, static_cast<int>(value), static_cast<int>(timeout.address()), address2, value3);
    default: return Errno(ENOSYS);
  }
}

ErrnoOr<uint64_t> Futex(Task& task, uint64_t address, int op, unsigned value, UserPtr<const timespec> timeout, uint64_t address2, unsigned value3) {
  switch (op & FUTEX_CMD_MASK) {
    case FUTEX_WAIT:
    case FUTEX_WAIT_BITSET:
      // Without its frame this is an untimed wait that the filter should have let through.
      if (!task.framed()) return Errno(ENOSYS);
      return TimedWait(task, address, op, value, timeout, value3);
    case FUTEX_WAKE:
    case FUTEX_WAKE_BITSET:
    case FUTEX_REQUEUE:
    case FUTEX_CMP_REQUEUE:
    case FUTEX_WAKE_OP: return RunUnlocked(task);
    default: return PriorityInheritance(task, address, op, value, timeout, address2, value3);
  }
}

ErrnoOr<uint64_t> SetRobustList(Task& task, uint64_t head, uint64_t size) {
  if (size != kRobustListHeadSize) return Errno(EINVAL);
  task.set_robust_list(head);
  return 0;
}

ErrnoOr<uint64_t> GetRobustList(Task& task, int tid, UserPtr<uint64_t> head, UserPtr<uint64_t> size) {
  Task* target = tid == 0 ? &task : task.FindTask(tid);
  if (target == nullptr) return Errno(ESRCH);
  if (!Tracing::MayAccess(task, *target)) return Errno(EPERM);
  TRY(task.CopyOut(size, kRobustListHeadSize));
  TRY(task.CopyOut(head, target->robust_list()));
  return 0;
}

}  // namespace

void RegisterFutexCalls(SyscallTable& table) {
  table.Set(SYS_futex, Partial<&Futex>("priority inheritance locks hand over by priority, but no thread is boosted"));
  table.Set(SYS_set_robust_list, Full<&SetRobustList>());
  table.Set(SYS_get_robust_list, Full<&GetRobustList>());
}

}  // namespace amber
