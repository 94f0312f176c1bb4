// seccomp(2), and its part of prctl(2).
#include "sentry/syscalls/seccomp_calls.h"

#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <algorithm>

#include "sentry/kernel/extras.h"
#include "sentry/kernel/offered_actions.h"
#include "sentry/kernel/seccomp_filter.h"
#include "sentry/kernel/seccomp_listener.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/table.h"
#include "sentry/vfs/fd_table.h"

namespace amber {
namespace {

constexpr uint32_t kTsync = 1, kLog = 2, kSpecAllow = 4, kNewListener = 8, kTsyncEsrch = 16, kWaitKillable = 32;

// struct sock_fprog of x86-64.
struct Program {
  uint16_t length;
  uint16_t pad[3];
  uint64_t code;
};
static_assert(sizeof(Program) == 16);

// seccomp_prepare_filter().
ErrnoOr<std::vector<sock_filter>> CopyInProgram(Task& task, uint64_t address) {
  Program p = TRY(task.CopyIn(UserPtr<const Program>(address)));
  if (p.length == 0 || p.length > BPF_MAXINSNS) return Errno(EINVAL);
  // Otherwise a set-user-id program could be fooled.
  if (!task.no_new_privs() && !task.creds().HasOwn(CAP_SYS_ADMIN)) return Errno(EACCES);
  std::vector<sock_filter> code = TRY(task.CopyInArray(UserPtr<const sock_filter>(p.code), p.length));
  TRY(CheckSeccompProgram(code));
  return code;
}

// seccomp_can_sync_threads(): the first other thread whose filters are not ones that `task` stands on, or null.
Task* CannotSync(Task& task) {
  for (const RefPtr<Task>& t : task.group().tasks()) {
    if (t.get() == &task || t->exiting()) continue;
    const TaskExtras& theirs = t->extras();
    if (theirs.seccomp_mode == SECCOMP_MODE_DISABLED) continue;
    const SeccompFilter* mine = task.extras().seccomp.get();
    bool ancestor = theirs.seccomp_mode == SECCOMP_MODE_FILTER && mine != nullptr && mine->StandsOn(theirs.seccomp.get());
    if (!ancestor) return t.get();
  }
  return nullptr;
}

// Has the host thread (with TSYNC every one of the process) bring calls to us that the filter is to see, and the handler executed again.
ErrnoOr<uint64_t> TrapFirst(Task& task, bool all) {
  RefPtr<Task> self(&task);
  task.StopForOps({platform::TrapNativeCallsOp(all)}, [self, all](std::span<const int64_t> results) {
    int64_t result = results.empty() ? -ENOMEM : results[0];
    // A number is that of a thread whose filters differ in the host; it is none of the guest's.
    if (result != 0) return self->FinishSyscall(result < 0 ? result : -ENOMEM);
    for (const RefPtr<Task>& t : self->group().tasks()) {
      if (all || t.get() == self.get()) t->extras().traps_native = true;
    }
    self->FinishSyscall(-static_cast<int64_t>(kErestartnointr.number()));
  });
  return kNoAnswer;
}

ErrnoOr<uint64_t> SetStrict(Task& task) {
  TaskExtras& extras = task.extras();
  if (extras.seccomp_mode != SECCOMP_MODE_DISABLED && extras.seccomp_mode != SECCOMP_MODE_STRICT) return Errno(EINVAL);
  if (!extras.traps_native) return TrapFirst(task, false);
  WithdrawActions(task);
  extras.seccomp_mode = SECCOMP_MODE_STRICT;
  return 0;
}

bool TrapsEverywhere(Task& task, bool all) {
  if (!all) return task.extras().traps_native;
  return std::ranges::all_of(task.group().tasks(), [](const RefPtr<Task>& t) { return t->exiting() || t->extras().traps_native; });
}

ErrnoOr<void> CheckFlags(uint32_t flags) {
  if ((flags & ~(kTsync | kLog | kSpecAllow | kNewListener | kTsyncEsrch | kWaitKillable)) != 0) return Errno(EINVAL);
  // The result is either a descriptor or the number of a thread.
  if ((flags & kTsync) != 0 && (flags & kNewListener) != 0 && (flags & kTsyncEsrch) == 0) return Errno(EINVAL);
  if ((flags & kWaitKillable) != 0 && (flags & kNewListener) == 0) return Errno(EINVAL);
  return Ok();
}

ErrnoOr<uint64_t> SetFilter(Task& task, uint32_t flags, uint64_t address) {
  TRY(CheckFlags(flags));
  std::vector<sock_filter> code = TRY(CopyInProgram(task, address));
  TaskExtras& extras = task.extras();
  if (extras.seccomp_mode == SECCOMP_MODE_STRICT) return Errno(EINVAL);
  // One listener in a chain (has_duplicate_listener()).
  if ((flags & kNewListener) != 0 && extras.seccomp && extras.seccomp->HasListener()) return Errno(EBUSY);
  auto filter = MakeRef<SeccompFilter>(std::move(code), extras.seccomp, (flags & kLog) != 0);
  if (filter->total() > SeccompFilter::kMaxTotal) return Errno(ENOMEM);
  if ((flags & kTsync) != 0) {
    if (Task* other = CannotSync(task)) {
      if ((flags & kTsyncEsrch) != 0) return Errno(ESRCH);
      return static_cast<uint64_t>(other->tid());
    }
  }
  bool all = (flags & kTsync) != 0;
  if (filter->WantsNativeCalls() && !TrapsEverywhere(task, all)) return TrapFirst(task, all);
  uint64_t result = 0;
  if ((flags & kNewListener) != 0) {
    auto listener = MakeRef<SeccompListener>(filter, (flags & kWaitKillable) != 0);
    result = static_cast<uint64_t>(TRY(task.files().Allocate(std::move(listener), true, task.limit(RLIMIT_NOFILE))));
  }
  if (all) {
    for (const RefPtr<Task>& t : task.group().tasks()) {
      if (t.get() == &task || t->exiting()) continue;
      t->extras().seccomp = filter;
      t->extras().seccomp_mode = SECCOMP_MODE_FILTER;
      if (task.no_new_privs()) t->set_no_new_privs();
    }
  }
  WithdrawActions(task);
  extras.seccomp = std::move(filter);
  extras.seccomp_mode = SECCOMP_MODE_FILTER;
  return result;
}

ErrnoOr<uint64_t> ActionAvailable(Task& task, uint64_t address) {
  switch (TRY(task.CopyIn(UserPtr<const uint32_t>(address)))) {
    case SECCOMP_RET_KILL_PROCESS:
    case SECCOMP_RET_KILL_THREAD:
    case SECCOMP_RET_TRAP:
    case SECCOMP_RET_ERRNO:
    case SECCOMP_RET_USER_NOTIF:
    case SECCOMP_RET_TRACE:
    case SECCOMP_RET_LOG:
    case SECCOMP_RET_ALLOW: return 0;
    default: return Errno(EOPNOTSUPP);
  }
}

ErrnoOr<uint64_t> NotificationSizes(Task& task, uint64_t address) {
  seccomp_notif_sizes sizes{sizeof(seccomp_notif), sizeof(seccomp_notif_resp), sizeof(seccomp_data)};
  TRY(task.CopyOut(UserPtr<seccomp_notif_sizes>(address), sizes));
  return 0;
}

ErrnoOr<uint64_t> Seccomp(Task& task, uint32_t operation, uint32_t flags, uint64_t address) {
  switch (operation) {
    case SECCOMP_SET_MODE_STRICT: return flags != 0 || address != 0 ? Errno(EINVAL) : SetStrict(task);
    case SECCOMP_SET_MODE_FILTER: return SetFilter(task, flags, address);
    case SECCOMP_GET_ACTION_AVAIL: return flags != 0 ? Errno(EINVAL) : ActionAvailable(task, address);
    case SECCOMP_GET_NOTIF_SIZES: return flags != 0 ? Errno(EINVAL) : NotificationSizes(task, address);
    default: return Errno(EINVAL);
  }
}

}  // namespace

ErrnoOr<uint64_t> PrctlSetSeccomp(Task& task, uint64_t mode, uint64_t program) {
  switch (mode) {
    case SECCOMP_MODE_STRICT: return SetStrict(task);  // the program is not looked at
    case SECCOMP_MODE_FILTER: return SetFilter(task, 0, program);
    default: return Errno(EINVAL);
  }
}

void RegisterSeccompCalls(SyscallTable& table) { table.Set(SYS_seccomp, Full<&Seccomp>()); }

}  // namespace amber
