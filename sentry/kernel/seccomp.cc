#include "sentry/kernel/seccomp.h"

#include <linux/audit.h>
#include <poll.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>

#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/seccomp_filter.h"
#include "sentry/kernel/seccomp_listener.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/task_lifecycle.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/tracing.h"

namespace amber {
namespace {

constexpr int kMaxErrno = 4095;
constexpr int kSysSeccomp = 1;  // SYS_SECCOMP of siginfo.h

// Mode 1: these and nothing else (mode1_syscalls).
bool AllowedInStrictMode(uint64_t number) { return number == SYS_read || number == SYS_write || number == SYS_exit || number == SYS_rt_sigreturn; }

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

// Restart codes would have the call executed after all; a program sees none of them but by a filter.
int64_t NoRestart(int64_t value) { return value <= -512 && value >= -516 ? -EINTR : value; }

// seccomp_do_user_notification(). False if nobody listens.
bool Notify(Task& task, const SeccompFilter& filter, const seccomp_data& data) {
  if (filter.listener() == nullptr) return false;
  auto notification = std::make_unique<SeccompNotification>(task);
  notification->data = data;
  filter.listener()->Add(*notification);
  task.extras().notification = std::move(notification);
  return true;
}

}  // namespace

std::optional<ErrnoOr<uint64_t>> SeccompGate::Await(Task& task) {
  TaskExtras& extras = task.extras();
  SeccompNotification& n = *extras.notification;
  if (n.state != SeccompNotification::State::kReplied) {
    bool killable = n.state == SeccompNotification::State::kReceived && n.listener->wait_killable();
    return task.Block(n.queue, POLLIN, kNever, killable ? kKillable : kErestartsys);
  }
  bool goes_on = n.goes_on;
  int64_t value = NoRestart(n.error != 0 ? n.error : n.value);
  extras.notification.reset();
  if (!goes_on) return static_cast<uint64_t>(value);
  // Nothing of the wait is the call's.
  SyscallState& call = task.syscall();
  call.restarted = call.timed_out = false;
  call.deadline = kNever;
  call.on_signal = kErestartsys.number();
  return std::nullopt;
}

bool SeccompGate::Pass(Task& task, bool after_trace) {
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
  SeccompFilter::Verdict said = extras.seccomp->Run(data);
  uint32_t verdict = said.action;
  uint32_t value = verdict & SECCOMP_RET_DATA;
  switch (verdict & SECCOMP_RET_ACTION_FULL) {
    case SECCOMP_RET_ALLOW:
    case SECCOMP_RET_LOG: return true;
    case SECCOMP_RET_ERRNO: task.FinishSyscall(NoRestart(-static_cast<int64_t>(std::min<uint32_t>(value, kMaxErrno)))); return false;
    case SECCOMP_RET_TRAP:
      // The registers are as before the call but for rip, which is behind it (syscall_rollback).
      task.SendForced(SigsysOf(call, value));
      task.FinishSyscall(static_cast<int64_t>(call.number));
      return false;
    case SECCOMP_RET_TRACE:
      if (after_trace) return true;
      if (extras.tracee == nullptr || !Tracing::AtFilter(task, value)) task.FinishSyscall(-ENOSYS);
      return false;
    case SECCOMP_RET_USER_NOTIF:
      if (Notify(task, *said.filter, data)) return true;
      task.FinishSyscall(-ENOSYS);
      return false;
    case SECCOMP_RET_KILL_THREAD: End(task, SIGSYS, false); return false;
    default:  // SECCOMP_RET_KILL_PROCESS, and what nobody knows
      End(task, SIGSYS, true);
      return false;
  }
}

}  // namespace amber
