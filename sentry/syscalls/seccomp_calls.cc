// seccomp(2), and its part of prctl(2).
#include "sentry/syscalls/seccomp_calls.h"

#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/syscall.h>

#include "sentry/kernel/extras.h"
#include "sentry/kernel/seccomp_filter.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/table.h"

namespace amber {
namespace {

constexpr uint32_t kTsync = 1, kLog = 2, kSpecAllow = 4, kTsyncEsrch = 16;

// struct sock_fprog of x86-64.
struct Program {
  uint16_t length;
  uint16_t pad[3];
  uint64_t code;
};
static_assert(sizeof(Program) == 16);

ErrnoOr<uint64_t> SetStrict(Task& task) {
  TaskExtras& extras = task.extras();
  if (extras.seccomp_mode != SECCOMP_MODE_DISABLED && extras.seccomp_mode != SECCOMP_MODE_STRICT) return Errno(EINVAL);
  extras.seccomp_mode = SECCOMP_MODE_STRICT;
  return 0;
}

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

ErrnoOr<uint64_t> SetFilter(Task& task, uint32_t flags, uint64_t address) {
  // SECCOMP_FILTER_FLAG_NEW_LISTENER is unknown, as to a kernel before 5.0.
  if ((flags & ~(kTsync | kLog | kSpecAllow | kTsyncEsrch)) != 0) return Errno(EINVAL);
  std::vector<sock_filter> code = TRY(CopyInProgram(task, address));
  TaskExtras& extras = task.extras();
  if (extras.seccomp_mode == SECCOMP_MODE_STRICT) return Errno(EINVAL);
  auto filter = MakeRef<SeccompFilter>(std::move(code), extras.seccomp, (flags & kLog) != 0);
  if (filter->total() > SeccompFilter::kMaxTotal) return Errno(ENOMEM);
  if ((flags & kTsync) != 0) {
    if (Task* other = CannotSync(task)) {
      if ((flags & kTsyncEsrch) != 0) return Errno(ESRCH);
      return static_cast<uint64_t>(other->tid());
    }
    for (const RefPtr<Task>& t : task.group().tasks()) {
      if (t.get() == &task || t->exiting()) continue;
      t->extras().seccomp = filter;
      t->extras().seccomp_mode = SECCOMP_MODE_FILTER;
      if (task.no_new_privs()) t->set_no_new_privs();
    }
  }
  extras.seccomp = std::move(filter);
  extras.seccomp_mode = SECCOMP_MODE_FILTER;
  return 0;
}

ErrnoOr<uint64_t> ActionAvailable(Task& task, uint64_t address) {
  switch (TRY(task.CopyIn(UserPtr<const uint32_t>(address)))) {
    case SECCOMP_RET_KILL_PROCESS:
    case SECCOMP_RET_KILL_THREAD:
    case SECCOMP_RET_TRAP:
    case SECCOMP_RET_ERRNO:
    case SECCOMP_RET_TRACE:
    case SECCOMP_RET_LOG:
    case SECCOMP_RET_ALLOW:
      return 0;
    default:
      return Errno(EOPNOTSUPP);
  }
}

ErrnoOr<uint64_t> NotificationSizes(Task& task, uint64_t address) {
  seccomp_notif_sizes sizes{sizeof(seccomp_notif), sizeof(seccomp_notif_resp), sizeof(seccomp_data)};
  TRY(task.CopyOut(UserPtr<seccomp_notif_sizes>(address), sizes));
  return 0;
}

ErrnoOr<uint64_t> Seccomp(Task& task, uint32_t operation, uint32_t flags, uint64_t address) {
  switch (operation) {
    case SECCOMP_SET_MODE_STRICT:
      return flags != 0 || address != 0 ? Errno(EINVAL) : SetStrict(task);
    case SECCOMP_SET_MODE_FILTER:
      return SetFilter(task, flags, address);
    case SECCOMP_GET_ACTION_AVAIL:
      return flags != 0 ? Errno(EINVAL) : ActionAvailable(task, address);
    case SECCOMP_GET_NOTIF_SIZES:
      return flags != 0 ? Errno(EINVAL) : NotificationSizes(task, address);
    default:
      return Errno(EINVAL);
  }
}

}  // namespace

ErrnoOr<uint64_t> PrctlSetSeccomp(Task& task, uint64_t mode, uint64_t program) {
  switch (mode) {
    case SECCOMP_MODE_STRICT:
      return SetStrict(task);  // the program is not looked at
    case SECCOMP_MODE_FILTER:
      return SetFilter(task, 0, program);
    default:
      return Errno(EINVAL);
  }
}

void RegisterSeccompCalls(SyscallTable& table) {
  table.Set(SYS_seccomp, Partial<&Seccomp>("no listener; calls that the host executes by itself are not filtered: futex without a "
                                           "time-out, sched_yield, rt_sigreturn"));
}

}  // namespace amber
