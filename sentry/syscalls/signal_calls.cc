// Signals: sigaction(2), sigprocmask(2), kill(2), sigqueue(3), sigsuspend(2), sigtimedwait(2), sigaltstack(2).
#include <linux/capability.h>
#include <signal.h>
#include <sys/syscall.h>

#include "sentry/kernel/kernel.h"
#include "sentry/kernel/offered_actions.h"
#include "sentry/kernel/posix_timers.h"
#include "sentry/kernel/signal_frame.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/may_signal.h"
#include "sentry/syscalls/table.h"
#include "sentry/syscalls/time_util.h"

namespace amber {
namespace {

constexpr uint64_t kMinSigStackSize = 2048;

ErrnoOr<void> CheckSetSize(uint64_t size) { return size == sizeof(SignalSet) ? ErrnoOr<void>() : Errno(EINVAL); }
bool ValidSignal(int signo) { return signo >= 0 && signo <= kNumSignals; }

ErrnoOr<uint64_t> RtSigaction(Task& task, int signo, UserPtr<const SigAction> act, UserPtr<SigAction> old, uint64_t set_size) {
  TRY(CheckSetSize(set_size));
  // kernel/signal.c: what cannot be read is EFAULT whatever the number is.
  SigAction next{};
  if (act) next = TRY(task.CopyIn(act));
  if (signo < 1 || signo > kNumSignals) return Errno(EINVAL);
  SigAction before = task.group().handlers()[signo];
  if (act) {
    if ((SignalBit(signo) & kUnblockable) != 0) return Errno(EINVAL);
    SetAction(task.group(), signo, next);
    TellAction(task, signo);
  }
  if (old) TRY(task.CopyOut(old, before));
  return 0;
}

ErrnoOr<uint64_t> RtSigprocmask(Task& task, int how, UserPtr<const SignalSet> set, UserPtr<SignalSet> old, uint64_t set_size) {
  TRY(CheckSetSize(set_size));
  SignalSet before = task.blocked();
  if (set) {
    SignalSet value = TRY(task.CopyIn(set));
    switch (how) {
      case SIG_BLOCK: task.SetBlocked(before | value); break;
      case SIG_UNBLOCK: task.SetBlocked(before & ~value); break;
      case SIG_SETMASK: task.SetBlocked(value); break;
      default: return Errno(EINVAL);
    }
  }
  if (old) TRY(task.CopyOut(old, before));
  return 0;
}

ErrnoOr<uint64_t> RtSigpending(Task& task, UserPtr<SignalSet> set, uint64_t set_size) {
  if (set_size > sizeof(SignalSet)) return Errno(EINVAL);
  SignalSet pending = task.pending() & task.blocked();
  TRY(task.CopyOutBytes(set.address(), &pending, set_size));
  return 0;
}

// Blocks until a signal is handled.
ErrnoOr<uint64_t> WaitForSignal(Task& task) { return task.Block({}, kNever, kErestartnohand); }

ErrnoOr<uint64_t> RtSigsuspend(Task& task, UserPtr<const SignalSet> set, uint64_t set_size) {
  TRY(CheckSetSize(set_size));
  if (!task.syscall().restarted) task.SetSavedMask(TRY(task.CopyIn(set)));
  return WaitForSignal(task);
}

ErrnoOr<uint64_t> Pause(Task& task) { return WaitForSignal(task); }

ErrnoOr<uint64_t> RtSigtimedwait(Task& task, UserPtr<const SignalSet> set, UserPtr<siginfo_t> info, UserPtr<const timespec> timeout,
                                 uint64_t set_size) {
  TRY(CheckSetSize(set_size));
  SignalSet wanted = TRY(task.CopyIn(set)) & ~kUnblockable;
  int64_t wait = kNever;
  if (timeout) wait = TRY(CopyInDuration(task, timeout));
  SigInfo found;
  if (task.TakeSignal(wanted, &found)) {
    if (info) TRY(task.CopyOut(info, found.raw));
    return found.signo();
  }
  if (task.syscall().timed_out || wait == 0) return Errno(EAGAIN);
  int64_t deadline = DeadlineAfter(task, wait);
  // Signals that are waited for need not interrupt: they are in the queue when this is executed again.
  return task.Block(task.group().signal_queue(), POLLIN, deadline, Errno(EINTR));
}

void SendChecked(Task& task, ThreadGroup& target, const SigInfo& info) {
  if (!ImmuneTo(task, target, info.signo())) target.SendSignal(info);
}

ErrnoOr<uint64_t> KillMany(Task& task, int signo, const std::vector<RefPtr<ThreadGroup>>& targets) {
  bool any = false, allowed = false;
  for (const RefPtr<ThreadGroup>& g : targets) {
    if (g->tasks().empty()) continue;  // reaped, because one before it died
    any = true;
    if (!MaySignal(task, *g->leader(), signo)) continue;
    allowed = true;
    SendChecked(task, *g, SignalFrom(task, *g, signo, SI_USER));
  }
  if (!any) return Errno(ESRCH);
  if (!allowed) return Errno(EPERM);
  return 0;
}

ErrnoOr<uint64_t> Kill(Task& task, int pid, int signo) {
  // kill_something_info(): whoever is not there is missed before a signal that is none (check_kill_permission()). No group has this number.
  if (pid == INT32_MIN) return Errno(ESRCH);
  if (pid > 0) {
    // Any thread's id names its process.
    Task* found = task.FindTask(pid);
    if (found == nullptr) return Errno(ESRCH);
    if (!ValidSignal(signo)) return Errno(EINVAL);
    ThreadGroup& target = found->group();
    if (!MaySignal(task, *found, signo)) return Errno(EPERM);
    SendChecked(task, target, SignalFrom(task, target, signo, SI_USER));
    return 0;
  }
  std::vector<RefPtr<ThreadGroup>> targets;
  if (pid == -1) {
    for (const RefPtr<ThreadGroup>& g : task.group().pids().Groups()) {
      // All but oneself and the namespace's own init.
      if (task.group().pids().IdOf(*g) != 1 && g.get() != &task.group()) targets.push_back(g);
    }
    if (targets.empty()) return Errno(ESRCH);
    if (!ValidSignal(signo)) return Errno(EINVAL);
    return KillMany(task, signo, targets);
  }
  ProcessGroup* group = pid == 0 ? &task.group().process_group() : task.group().pids().FindProcessGroup(-pid);
  if (group == nullptr) return Errno(ESRCH);
  if (!ValidSignal(signo)) return Errno(EINVAL);
  for (ThreadGroup* g : group->members()) targets.emplace_back(g);
  return KillMany(task, signo, targets);
}

// Without `given` it is a signal from `task`.
ErrnoOr<uint64_t> SendToThread(Task& task, int tgid, int tid, int signo, const SigInfo* given = nullptr) {
  Task* target = task.FindTask(tid);
  if (target == nullptr || (tgid > 0 && task.group().pids().IdOf(target->group()) != tgid)) return Errno(ESRCH);
  if (!ValidSignal(signo)) return Errno(EINVAL);
  if (!MaySignal(task, *target, signo)) return Errno(EPERM);
  if (signo >= kFirstRealtime && !target->group().MayQueueSignal()) return Errno(EAGAIN);
  SigInfo info = given != nullptr ? *given : SignalFrom(task, target->group(), signo, SI_TKILL);
  if (!ImmuneTo(task, target->group(), signo)) target->SendSignal(info);
  return 0;
}

ErrnoOr<uint64_t> Tgkill(Task& task, int tgid, int tid, int signo) {
  if (tgid <= 0 || tid <= 0) return Errno(EINVAL);
  return SendToThread(task, tgid, tid, signo);
}

ErrnoOr<uint64_t> Tkill(Task& task, int tid, int signo) {
  if (tid <= 0) return Errno(EINVAL);
  return SendToThread(task, 0, tid, signo);
}

ErrnoOr<SigInfo> CopyInSigInfo(Task& task, int target, int signo, UserPtr<const siginfo_t> p) {
  SigInfo info;
  info.raw = TRY(task.CopyIn(p));
  PosixTimers::Unmark(&info);
  if (!ValidSignal(signo)) return Errno(EINVAL);
  info.raw.si_signo = signo;
  // Only a process itself may pretend that a signal came from the kernel or from kill.
  if ((info.raw.si_code >= 0 || info.raw.si_code == SI_TKILL) && target != task.pid()) return Errno(EPERM);
  return info;
}

ErrnoOr<uint64_t> RtSigqueueinfo(Task& task, int pid, int signo, UserPtr<const siginfo_t> p) {
  SigInfo info = TRY(CopyInSigInfo(task, pid, signo, p));
  ThreadGroup* target = task.FindGroup(pid);
  if (target == nullptr) return Errno(ESRCH);
  if (!MaySignal(task, *target->leader(), signo)) return Errno(EPERM);
  if (signo >= kFirstRealtime && !target->MayQueueSignal()) return Errno(EAGAIN);
  SendChecked(task, *target, info);
  return 0;
}

ErrnoOr<uint64_t> RtTgsigqueueinfo(Task& task, int tgid, int tid, int signo, UserPtr<const siginfo_t> p) {
  SigInfo info = TRY(CopyInSigInfo(task, tgid, signo, p));
  if (tgid <= 0 || tid <= 0) return Errno(EINVAL);
  return SendToThread(task, tgid, tid, signo, &info);
}

ErrnoOr<uint64_t> Sigaltstack(Task& task, UserPtr<const SignalStack> in, UserPtr<SignalStack> out) {
  AltStack before = task.altstack();
  // The call comes with its frame, because whether the thread is on the stack shows in its stack pointer only.
  bool on_stack = task.framed() && before.Contains(task.frame().regs.rsp);
  if (in) {
    SignalStack next = TRY(task.CopyIn(in));
    if (on_stack) return Errno(EPERM);
    uint32_t mode = next.flags & ~kSsAutodisarm;
    if (mode != SS_DISABLE && mode != SS_ONSTACK && mode != 0) return Errno(EINVAL);
    if (mode == SS_DISABLE) {
      task.set_altstack(AltStack{0, SS_DISABLE | (next.flags & kSsAutodisarm), 0});
    } else {
      if (next.size < kMinSigStackSize) return Errno(ENOMEM);
      task.set_altstack(AltStack{next.sp, next.flags & kSsAutodisarm, next.size});
    }
  }
  if (out) {
    SignalStack show{before.sp, before.flags | (on_stack ? SS_ONSTACK : 0u), 0, before.size};
    TRY(task.CopyOut(out, show));
  }
  return 0;
}

ErrnoOr<uint64_t> RtSigreturn(Task& task) {
  auto restored = task.SignalReturn();
  if (!restored.ok()) {
    task.SendForced(SigInfo::Kernel(SIGSEGV));
    return task.frame().regs.rax;
  }
  // The whole frame is the answer, rax included.
  return task.frame().regs.rax;
}

}  // namespace

void RegisterSignalCalls(SyscallTable& table) {
  table.Set(SYS_rt_sigaction, Full<&RtSigaction>());
  table.Set(SYS_rt_sigprocmask, Full<&RtSigprocmask>());
  table.Set(SYS_rt_sigpending, Full<&RtSigpending>());
  table.Set(SYS_rt_sigsuspend, Full<&RtSigsuspend>());
  table.Set(SYS_pause, Full<&Pause>());
  table.Set(SYS_rt_sigtimedwait, Full<&RtSigtimedwait>());
  table.Set(SYS_rt_sigqueueinfo, Full<&RtSigqueueinfo>());
  table.Set(SYS_rt_tgsigqueueinfo, Full<&RtTgsigqueueinfo>());
  table.Set(SYS_kill, Full<&Kill>());
  table.Set(SYS_tkill, Full<&Tkill>());
  table.Set(SYS_tgkill, Full<&Tgkill>());
  table.Set(SYS_sigaltstack, Full<&Sigaltstack>());
  table.Set(SYS_rt_sigreturn, Full<&RtSigreturn>());
}

}  // namespace amber
