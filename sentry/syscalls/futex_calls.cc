// futex(2), as far as it does not run natively.
//
// Waits without a time-out, wakes and requeues are executed by the host on the guest's own words (platform README). What comes here:
// timed waits, which the sentry orders as native waits with a deadline in host time, and priority inheritance.
#include <linux/futex.h>
#include <sys/syscall.h>

#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/table.h"
#include "sentry/syscalls/time_util.h"

namespace amber {
namespace {

constexpr uint64_t kRobustListHeadSize = 24;

ErrnoOr<uint64_t> TimedWait(Task& task, uint64_t address, int op, uint32_t value, UserPtr<const timespec> timeout,
                            uint32_t bitset) {
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
  if (!call.restarted) {
    int64_t time = TRY(CopyInDuration(task, timeout));
    // FUTEX_WAIT takes a duration, FUTEX_WAIT_BITSET a time.
    if (command == FUTEX_WAIT) {
      deadline = DeadlineAfter(task, time);
    } else {
      deadline = DeadlineAt(task, (op & FUTEX_CLOCK_REALTIME) != 0 ? CLOCK_REALTIME : CLOCK_MONOTONIC, time);
    }
  }
  return task.BlockNatively(address, value, bitset, (op & FUTEX_PRIVATE_FLAG) == 0, deadline);
}

ErrnoOr<uint64_t> Futex(Task& task, uint64_t address, int op, unsigned value, UserPtr<const timespec> timeout,
                        uint64_t address2, unsigned value3) {
  (void)address2;
  switch (op & FUTEX_CMD_MASK) {
    case FUTEX_WAIT:
    case FUTEX_WAIT_BITSET:
      // Without its frame this is an untimed wait that the filter should have let through.
      if (!task.framed()) return Errno(ENOSYS);
      return TimedWait(task, address, op, value, timeout, value3);
    default:
      return Errno(ENOSYS);
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
  if (target->creds().uid != task.creds().euid && !task.creds().HasIn(target->creds().user_ns.get(), 19 /* CAP_SYS_PTRACE */)) return Errno(EPERM);
  TRY(task.CopyOut(size, kRobustListHeadSize));
  TRY(task.CopyOut(head, target->robust_list()));
  return 0;
}

}  // namespace

void RegisterFutexCalls(SyscallTable& table) {
  table.Set(SYS_futex, Partial<&Futex>("no priority inheritance yet"));
  table.Set(SYS_set_robust_list, Full<&SetRobustList>());
  table.Set(SYS_get_robust_list, Full<&GetRobustList>());
}

}  // namespace amber
