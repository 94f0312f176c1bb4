#include "sentry/kernel/seccomp.h"

#include <linux/audit.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>

#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/seccomp_filter.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/task_lifecycle.h"
#include "sentry/kernel/thread_group.h"

namespace amber {
namespace {

constexpr int kMaxErrno = 4095;
constexpr int kSysSeccomp = 1;  // SYS_SECCOMP of siginfo.h

// Mode 1: these and nothing else (mode1_syscalls).
bool AllowedInStrictMode(uint64_t number) {
  return number == SYS_read || number == SYS_write || number == SYS_exit || number == SYS_rt_sigreturn;
}

SigInfo SigsysOf(const SyscallState& call, uint32_t data) {
  SigInfo info;
  info.raw.si_signo = SIGSYS;
  info.raw.si_code = kSysSeccomp;
  info.raw.si_errno = static_cast<int>(data);
  info.raw.si_call_addr = reinterpret_cast<void*>(call.ip);
  info.raw.si_syscall = static_cast<int>(call.number);
  info.raw.si_arch = AUDIT_ARCH_X86_64;
  return info;
}

// do_exit(), or the end of the process if nobody else is left or `whole`.
void End(Task& task, int signo, bool whole) {
  TaskLifecycle& lifecycle = task.kernel().lifecycle();
  if (whole || task.group().live_tasks() == 1) return lifecycle.KillGroup(task.group(), signo);
  lifecycle.ExitThread(task, 0);
}

}  // namespace

bool SeccompGate::Pass(Task& task) {
  const TaskExtras& extras = task.extras();
  const SyscallState& call = task.syscall();
  if (extras.seccomp_mode == SECCOMP_MODE_STRICT) {
    if (AllowedInStrictMode(call.number)) return true;
    End(task, SIGKILL, false);
    return false;
  }
  seccomp_data data{};
  data.nr = static_cast<int>(call.number);
  data.arch = AUDIT_ARCH_X86_64;
  data.instruction_pointer = call.ip;
  std::copy(std::begin(call.args), std::end(call.args), data.args);
  // The chain may be replaced by nobody meanwhile: the lock is held.
  uint32_t verdict = extras.seccomp->Run(data).action;
  uint32_t value = verdict & SECCOMP_RET_DATA;
  switch (verdict & SECCOMP_RET_ACTION_FULL) {
    case SECCOMP_RET_ALLOW:
    case SECCOMP_RET_LOG:
      return true;
    case SECCOMP_RET_ERRNO:
      // Restart codes would have the call executed after all; a program sees none of them but by such a filter.
      if (value >= 512 && value <= 516) value = EINTR;
      task.FinishSyscall(-static_cast<int64_t>(std::min<uint32_t>(value, kMaxErrno)));
      return false;
    case SECCOMP_RET_TRAP:
      // The registers are as before the call but for rip, which is behind it (syscall_rollback).
      task.SendForced(SigsysOf(call, value));
      task.FinishSyscall(static_cast<int64_t>(call.number));
      return false;
    case SECCOMP_RET_TRACE:       // nobody traces
    case SECCOMP_RET_USER_NOTIF:  // nobody listens
      task.FinishSyscall(-ENOSYS);
      return false;
    case SECCOMP_RET_KILL_THREAD:
      End(task, SIGSYS, false);
      return false;
    default:  // SECCOMP_RET_KILL_PROCESS, and what nobody knows
      End(task, SIGSYS, true);
      return false;
  }
}

}  // namespace amber
