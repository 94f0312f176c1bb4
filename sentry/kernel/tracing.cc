#include "sentry/kernel/tracing.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/ptrace.h>
#include <linux/sched.h>
#include <poll.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "sentry/base/unique_fd.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/offered_actions.h"
#include "sentry/kernel/seccomp.h"
#include "sentry/kernel/signal_frame.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/task_lifecycle.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/mm/memory_manager.h"

namespace amber {
namespace {

// In the scratch of a call that has not begun: PTRACE_SYSEMU, it will not.
constexpr uint64_t kEmulated = 1;

constexpr int EventCode(int event) { return SIGTRAP | event << 8; }

Tracee::Pending CallStop(const Tracee& t, Tracee::Stop stop) { return {stop, SIGTRAP | ((t.options & PTRACE_O_TRACESYSGOOD) != 0 ? 0x80 : 0), 0}; }

// Minus the code or errno that says how an interrupted call ends, as it stands in rax then.
uint64_t RestartValue(const Task& task) { return static_cast<uint64_t>(-static_cast<int64_t>(const_cast<Task&>(task).syscall().on_signal)); }

}  // namespace

Tracee& Tracing::Of(Task& task) { return *task.extras().tracee; }

bool Tracing::InterruptsCall(const Task& task) {
  const Tracee& t = *task.extras().tracee;
  return t.in_call && t.run == Tracee::Run::kSyscall && task.call_ == Task::Call::kBlocked;
}

// --- who traces whom ---

void Tracing::Link(Task& tracee, ThreadGroup& tracer, uint32_t options, bool seized) {
  WithdrawActions(tracee, /*may_run=*/true);
  auto state = std::make_unique<Tracee>();
  state->tracer = &tracer;
  state->options = options;
  state->seized = seized;
  tracee.extras().tracee = std::move(state);
  tracer.extras().tracees.insert(&tracee);
}

void Tracing::Unlink(Task& tracee) {
  std::unique_ptr<Tracee> state = std::move(tracee.extras().tracee);
  state->tracer->extras().tracees.erase(&tracee);
}

ErrnoOr<Task*> Tracing::Find(Task& tracer, int tid, bool running) {
  Task* task = tracer.FindTask(tid);
  if (task == nullptr || task->exiting() || task->extras().tracee == nullptr) return Errno(ESRCH);
  Tracee& t = Of(*task);
  if (t.tracer != &tracer.group()) return Errno(ESRCH);
  if (!running && (t.stop == Tracee::Stop::kNone || task->where_ != Task::Where::kStopped)) return Errno(ESRCH);
  return task;
}

ErrnoOr<void> Tracing::TraceMe(Task& task) {
  ThreadGroup* parent = task.group().parent();
  if (task.extras().tracee != nullptr || parent == nullptr || parent->exiting()) return Errno(EPERM);
  // cap_ptrace_traceme(): a tracer may do what its tracee may.
  const Credentials& above = parent->leader()->creds();
  const Credentials& own = task.creds();
  bool covers = above.user_ns == own.user_ns && (own.permitted & ~above.permitted) == 0;
  if (!covers && !above.HasIn(own.user_ns.get(), CAP_SYS_PTRACE)) return Errno(EPERM);
  Link(task, *parent, 0, false);
  return Ok();
}

ErrnoOr<void> Tracing::Attach(Task& tracer, Task& target, bool seize, uint32_t options) {
  if (&target.group() == &tracer.group() || target.exiting()) return Errno(EPERM);
  if (!MayAccess(tracer, target)) return Errno(EPERM);
  if (target.extras().tracee != nullptr) return Errno(EPERM);
  Link(target, tracer.group(), options, seize);
  // One that job control has stopped goes over into a stop of the tracer's.
  if (!seize) target.SendSignal(SigInfo::Kernel(SIGSTOP));
  if (target.extras().tracee != nullptr && target.held_ && target.group().stopped()) target.ReturnToGuest();
  return Ok();
}

void Tracing::Resume(Task& task, Tracee::Run run, int signo) {
  RefPtr<Task> self(&task);
  Tracee& t = Of(task);
  Tracee::Stop stop = std::exchange(t.stop, Tracee::Stop::kNone);
  t.run = run;
  t.reported = true;
  t.listening = false;
  if (run != Tracee::Run::kSyscall) t.in_call = false;
  if (stop == Tracee::Stop::kSignal) {
    t.injecting = true;
    if (signo == 0) {
      t.info = SigInfo();
    } else if (t.info.signo() != signo) {
      t.info = SigInfo::User(signo, SI_USER, t.tracer->pid(), t.tracer->leader()->creds().uid);
    }
  } else if (signo != 0 && stop != Tracee::Stop::kGroup) {
    task.SendSignal(SigInfo::User(signo, SI_USER, t.tracer->pid(), t.tracer->leader()->creds().uid));
  }
  if (task.exiting()) return;
  // The tracer may have put it somewhere else: then the call that it was in is over (arch_do_signal_or_restart() looks at the same registers).
  platform::Registers& regs = task.thread_->frame().regs;
  if (!t.goes_on) {
    if (task.call_ == Task::Call::kBlocked &&
        (t.orig_rax != static_cast<int64_t>(task.syscall_.number) || regs.rip != task.syscall_.ip || regs.rax != RestartValue(task))) {
      task.call_ = Task::Call::kNone;
    }
    int64_t code = -static_cast<int64_t>(regs.rax);
    if (task.call_ == Task::Call::kNone && t.orig_rax >= 0 && stop != Tracee::Stop::kExit && code >= 512 && code <= 516) {
      regs.rax = static_cast<uint64_t>(t.orig_rax);
      regs.rip -= 2;
    }
  }
  task.ReturnToGuest();
}

ErrnoOr<void> Tracing::Interrupt(Task& task) {
  Tracee& t = Of(task);
  if (!t.seized) return Errno(EIO);
  if (t.stop != Tracee::Stop::kNone) return Ok();
  t.interrupt = true;
  t.listening = false;
  if (task.held_) {
    task.ReturnToGuest();
  } else {
    task.Interrupt();
  }
  return Ok();
}

ErrnoOr<void> Tracing::Listen(Task& task) {
  Tracee& t = Of(task);
  if (!t.seized || t.stop != Tracee::Stop::kGroup) return Errno(EIO);
  t.stop = Tracee::Stop::kNone;
  t.listening = !t.interrupt;
  if (t.interrupt) task.ReturnToGuest();
  return Ok();
}

void Tracing::Detach(Task& task, int signo) {
  RefPtr<Task> self(&task);
  bool stopped = Of(task).stop != Tracee::Stop::kNone || task.held_;
  int death = Of(task).death;
  // A call that had not begun, or that only awaits its end, is executed; a handler that comes first restarts it.
  if (Of(task).goes_on && !task.waits_killably()) task.syscall_.on_signal = kErestartnointr.number();
  if (Of(task).stepping && task.where_ == Task::Where::kStopped) task.thread_->frame().regs.rflags &= ~kFlagTf;
  Unlink(task);
  if (death != 0) return task.kernel().lifecycle().KillGroup(task.group(), death);
  if (signo != 0) task.SendSignal(SigInfo::User(signo, SI_USER, task.pid(), task.creds().uid));
  if (!task.exiting() && stopped && task.where_ == Task::Where::kStopped) task.ReturnToGuest();
}

// --- stops ---

bool Tracing::Holds(const Task& task) {
  const Tracee& t = *task.extras().tracee;
  if (t.stop != Tracee::Stop::kNone || !t.pending.empty()) return true;
  if (task.waits_killably()) return false;
  if (t.listening || t.interrupt) return true;
  return task.group().stopped() && !t.group_stop_seen;
}

void Tracing::Notify(ThreadGroup& tracer, Task& task, int code, int status) {
  RefPtr<ThreadGroup> keep(&tracer);
  TakeActionsOf(tracer);
  const SigAction& action = tracer.handlers()[SIGCHLD];
  if ((action.flags & SA_NOCLDSTOP) == 0 && action.handler != reinterpret_cast<uint64_t>(SIG_IGN)) {
    SigInfo info = SigInfo::Kernel(SIGCHLD);
    info.raw.si_code = code;
    info.raw.si_pid = tracer.pids().IdOf(task);
    info.raw.si_uid = task.creds().uid;
    info.raw.si_status = status;
    tracer.SendSignal(info);
  }
  tracer.child_queue().Notify(POLLIN);
}

void Tracing::Enter(Task& task, const Tracee::Pending& stop) {
  if (task.undone_) task.AdoptCallIntoFrame();
  Tracee& t = Of(task);
  platform::Registers& regs = task.thread_->frame().regs;
  if (t.stepping) {
    t.stepping = false;
    regs.rflags &= ~kFlagTf;
  }
  t.stop = stop.stop;
  t.code = stop.code;
  t.reported = false;
  if (stop.stop == Tracee::Stop::kEvent) t.message = stop.message;
  if (stop.stop == Tracee::Stop::kEntry) t.message = PTRACE_EVENTMSG_SYSCALL_ENTRY;
  if (stop.stop == Tracee::Stop::kExit) t.message = PTRACE_EVENTMSG_SYSCALL_EXIT;
  if (stop.stop != Tracee::Stop::kSignal) {
    // ptrace_notify().
    t.info = SigInfo::Kernel(SIGTRAP);
    t.info.raw.si_code = stop.code;
    t.info.raw.si_pid = task.tid();
    t.info.raw.si_uid = task.creds().uid;
  }
  bool in_call = task.call_ == Task::Call::kBlocked;
  if (in_call) regs.rax = t.goes_on ? static_cast<uint64_t>(-int64_t{ENOSYS}) : RestartValue(task);
  bool at_end = stop.stop == Tracee::Stop::kExit || stop.stop == Tracee::Stop::kEvent;
  t.orig_rax = in_call || at_end ? static_cast<int64_t>(task.syscall_.number) : -1;
  t.in_call = stop.stop == Tracee::Stop::kEntry || (t.in_call && stop.stop != Tracee::Stop::kExit);
  Notify(*t.tracer, task, CLD_TRAPPED, stop.code & 0x7f);
}

void Tracing::OnReturn(Task& task) {
  Tracee& t = Of(task);
  if (t.stop != Tracee::Stop::kNone || t.listening) return;
  if (!t.pending.empty()) {
    Tracee::Pending stop = t.pending.front();
    t.pending.pop_front();
    return Enter(task, stop);
  }
  if (t.goes_on || (task.waits_killably() && t.death == 0)) return;
  if (t.death != 0) return task.kernel().lifecycle().KillGroup(task.group(), std::exchange(t.death, 0));
  bool group_stop = task.group().stopped() && !t.group_stop_seen;
  // A call that its tracer saw begin ends for now.
  if ((t.interrupt || group_stop) && InterruptsCall(task)) return Enter(task, CallStop(t, Tracee::Stop::kExit));
  if (t.interrupt) {
    t.interrupt = false;
    int signo = task.group().stopped() ? task.group().stop_signal() : SIGTRAP;
    t.group_stop_seen = task.group().stopped();
    return Enter(task, {Tracee::Stop::kGroup, signo | PTRACE_EVENT_STOP << 8, 0});
  }
  if (group_stop) {
    t.group_stop_seen = true;
    int signo = task.group().stop_signal();
    return Enter(task, {Tracee::Stop::kGroup, t.seized ? signo | PTRACE_EVENT_STOP << 8 : signo, 0});
  }
}

bool Tracing::GoesOn(Task& task) {
  Tracee& t = Of(task);
  if (!t.goes_on) return false;
  t.goes_on = false;
  bool fresh = std::exchange(t.call_is_new, false);
  bool filter_told = std::exchange(t.filter_told, false);
  platform::Registers& regs = task.thread_->frame().regs;
  if (fresh) {
    if (t.orig_rax < 0 || task.syscall_.scratch[0] == kEmulated) {
      task.call_ = Task::Call::kRunning;
      task.CompleteCall(static_cast<int64_t>(regs.rax));
      return true;
    }
    SyscallState& call = task.syscall_;
    call = SyscallState{};
    call.number = static_cast<uint64_t>(t.orig_rax);
    uint64_t args[6] = {regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9};
    std::copy(std::begin(args), std::end(args), call.args);
    call.ip = regs.rip;
    call.framed = true;
    // Filters see what the tracer made of the call (syscall_trace_enter()).
    if (task.extras().seccomp_mode != 0) {
      task.call_ = Task::Call::kRunning;
      if (!SeccompGate::Pass(task, filter_told)) return true;
    }
  } else {
    task.syscall_.restarted = true;
  }
  task.RunHandler();
  return true;
}

bool Tracing::BeginsAgain(Task& task) {
  Tracee& t = Of(task);
  if (t.in_call || (t.run != Tracee::Run::kSyscall && t.run != Tracee::Run::kSysemu)) return false;
  t.goes_on = true;
  t.pending.push_back(CallStop(t, Tracee::Stop::kEntry));
  return true;
}

void Tracing::BeforeGuest(Task& task) {
  Tracee& t = Of(task);
  platform::Registers& regs = task.thread_->frame().regs;
  bool watches = t.debug != nullptr && t.debug->armed();
  // What was written meanwhile by others is not news of its.
  if (watches && !t.stepping) (void)t.debug->Check(task, 0, false);
  if (watches) t.debug->Prime(task);  // after a restore, too
  if (t.run == Tracee::Run::kStep || watches) {
    t.stepping = true;
    regs.rflags |= kFlagTf;
  } else if (t.stepping) {
    t.stepping = false;
    regs.rflags &= ~kFlagTf;
  }
}

bool Tracing::OnTrap(Task& task, SigInfo* info) {
  Tracee& t = Of(task);
  if (!t.stepping) return true;
  platform::Registers& regs = task.thread_->frame().regs;
  bool by_tracer = t.run == Tracee::Run::kStep;
  if (t.debug != nullptr && t.debug->armed() && info->raw.si_code == TRAP_TRACE) {
    bool hit = t.debug->Check(task, regs.rip, true) != 0;
    if (!hit && !by_tracer) return false;
    if (by_tracer) t.debug->NoteStep();
    if (hit && !by_tracer) info->raw.si_code = TRAP_HWBKPT;
  }
  t.stepping = false;
  regs.rflags &= ~kFlagTf;
  return true;
}

bool Tracing::AtEntry(Task& task) {
  Tracee& t = Of(task);
  if (t.run != Tracee::Run::kSyscall && t.run != Tracee::Run::kSysemu) return false;
  t.goes_on = true;
  t.call_is_new = true;
  t.pending.push_back(CallStop(t, Tracee::Stop::kEntry));
  task.syscall_.on_signal = kErestartnointr.number();
  task.syscall_.scratch[0] = t.run == Tracee::Run::kSysemu ? kEmulated : 0;
  task.call_ = Task::Call::kBlocked;
  task.Interrupt();
  return true;
}

bool Tracing::AtFilter(Task& task, uint32_t data) {
  Tracee& t = Of(task);
  if ((t.options & PTRACE_O_TRACESECCOMP) == 0) return false;
  t.goes_on = t.call_is_new = t.filter_told = true;
  t.pending.push_back({Tracee::Stop::kEvent, EventCode(PTRACE_EVENT_SECCOMP), data});
  task.syscall_.on_signal = kErestartnointr.number();
  task.syscall_.scratch[0] = 0;
  task.call_ = Task::Call::kBlocked;
  task.Interrupt();
  return true;
}

void Tracing::AtExit(Task& task) {
  Tracee& t = Of(task);
  if (t.run == Tracee::Run::kSyscall) {
    t.pending.push_back(CallStop(t, Tracee::Stop::kExit));
  } else if (t.run == Tracee::Run::kStep) {
    // user_single_step_report(): a call is one instruction.
    SigInfo info = SigInfo::Kernel(SIGTRAP);
    info.raw.si_code = TRAP_BRKPT;
    task.pending_.Add(info);
  } else if (t.debug != nullptr && t.debug->armed() && t.debug->Check(task, task.syscall_.ip, false) != 0) {
    SigInfo info = SigInfo::Kernel(SIGTRAP);
    info.raw.si_code = TRAP_HWBKPT;
    task.pending_.Add(info);
  }
  t.in_call = t.in_call && t.run == Tracee::Run::kSyscall;
}

bool Tracing::StopsForSignal(Task& task, const SigInfo& info) {
  Tracee& t = Of(task);
  if (info.signo() == SIGKILL) return false;
  // The call that it interrupts is over for now; its tracer sees that first.
  if (InterruptsCall(task)) {
    task.pending_.Add(info);
    Enter(task, CallStop(t, Tracee::Stop::kExit));
    return true;
  }
  t.info = info;
  Enter(task, {Tracee::Stop::kSignal, info.signo(), 0});
  return true;
}

bool Tracing::TakeDecided(Task& task, SigInfo* info) {
  Tracee& t = Of(task);
  if (!std::exchange(t.injecting, false)) return false;
  *info = t.info;
  int signo = info->signo();
  if (signo != 0 && (task.blocked_ & SignalBit(signo)) != 0) {
    task.pending_.Add(*info);
    *info = SigInfo();
  }
  return true;
}

// --- events ---

bool Tracing::BeforeExit(Task& task, int status, int death) {
  Tracee& t = Of(task);
  if ((t.options & PTRACE_O_TRACEEXIT) == 0 || t.exit_told) return false;
  t.exit_told = true;
  t.death = death;
  t.goes_on = death == 0;
  t.pending.push_back({Tracee::Stop::kEvent, EventCode(PTRACE_EVENT_EXIT), static_cast<uint64_t>(static_cast<uint32_t>(status))});
  return true;
}

bool Tracing::OnClone(Task& parent, Task& child, uint64_t flags, int exit_signal) {
  Tracee& t = Of(parent);
  int event = (flags & CLONE_VFORK) != 0 ? PTRACE_EVENT_VFORK : exit_signal != SIGCHLD ? PTRACE_EVENT_CLONE : PTRACE_EVENT_FORK;
  bool wanted = (flags & CLONE_UNTRACED) == 0 && (t.options & (1u << event)) != 0;
  if (wanted || (flags & CLONE_PTRACE) != 0) {
    Link(child, *t.tracer, t.options, t.seized);
    if (t.seized) {
      Of(child).interrupt = true;
    } else {
      child.pending_.Add(SigInfo::Kernel(SIGSTOP));
    }
  }
  if (!wanted) return false;
  t.goes_on = true;
  t.pending.push_back({Tracee::Stop::kEvent, EventCode(event), static_cast<uint64_t>(t.tracer->pids().IdOf(child))});
  return true;
}

void Tracing::OnVforkDone(Task& parent, int child) {
  Tracee& t = Of(parent);
  if ((t.options & PTRACE_O_TRACEVFORKDONE) == 0) return;
  t.pending.push_back({Tracee::Stop::kEvent, EventCode(PTRACE_EVENT_VFORK_DONE), static_cast<uint64_t>(child)});
}

void Tracing::OnExec(Task& task, int old_tid) {
  Tracee& t = Of(task);
  t.debug.reset();  // flush_ptrace_hw_breakpoint()
  if ((t.options & PTRACE_O_TRACEEXEC) != 0) {
    t.pending.push_back({Tracee::Stop::kEvent, EventCode(PTRACE_EVENT_EXEC), static_cast<uint64_t>(old_tid)});
  } else if (!t.seized) {
    task.pending_.Add(SigInfo::User(SIGTRAP, SI_USER, task.pid(), task.creds().uid));
  }
  if (t.run == Tracee::Run::kSyscall) AtExit(task);
}

void Tracing::OnContinue(ThreadGroup& group) {
  for (const RefPtr<Task>& task : group.tasks()) {
    if (task->exiting() || task->extras().tracee == nullptr) continue;
    Tracee& t = Of(*task);
    t.group_stop_seen = false;
    // JOBCTL_TRAP_NOTIFY: also if it has not been told to listen yet.
    if (std::exchange(t.listening, false) || (t.seized && t.stop == Tracee::Stop::kGroup)) t.interrupt = true;
  }
}

void Tracing::OnNewGroupStop(Task& task) { Of(task).group_stop_seen = false; }

void Tracing::OnExit(Task& task, int status) {
  ThreadGroup& tracer = *Of(task).tracer;
  Unlink(task);
  bool own_child = task.is_leader() && task.group().parent() == &tracer;
  // A child of the tracer's is waited for as any child is.
  if (own_child || tracer.exiting()) return;
  std::vector<DeadTracee>& dead = tracer.extras().dead_tracees;
  // In Linux each of them is a task still, and there are no more of these.
  if (dead.size() >= task.kernel().max_tasks()) dead.erase(dead.begin());
  dead.push_back({tracer.pids().IdOf(task), task.creds().uid, status});
  Notify(tracer, task, WIFSIGNALED(status) ? CLD_KILLED : CLD_EXITED, WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
}

void Tracing::OnTracerExit(ThreadGroup& group) {
  std::vector<RefPtr<Task>> tracees;
  for (Task* task : group.extras().tracees) tracees.emplace_back(task);
  for (const RefPtr<Task>& task : tracees) {
    if (task->extras().tracee == nullptr || Of(*task).tracer != &group) continue;
    if (task->exiting()) {
      Unlink(*task);
    } else if ((Of(*task).options & PTRACE_O_EXITKILL) != 0) {
      task->kernel().lifecycle().KillGroup(task->group(), SIGKILL);
      // One whose handler is on a worker's stack still goes later, and this process before it.
      if (task->extras().tracee != nullptr) Unlink(*task);
    } else {
      Detach(*task, 0);
    }
  }
  group.extras().dead_tracees.clear();
}

ErrnoOr<size_t> DebugCopy(MemoryManager& mm, uint64_t address, void* buffer, size_t size, bool write) {
  auto n = write ? mm.space().Write(address, buffer, size) : mm.space().Read(address, buffer, size);
  size_t done = n.ok() ? *n : 0;
  int host_pid = mm.space().host_pid();
  if (done == size || host_pid == 0) return done > 0 ? ErrnoOr<size_t>(done) : Errno(EIO);
  char path[32];
  snprintf(path, sizeof(path), "/proc/%d/mem", host_pid);
  UniqueFd memory(open(path, (write ? O_RDWR : O_RDONLY) | O_CLOEXEC));
  while (memory.valid() && done < size) {
    // The guest's mappings alone; and within one, what Linux's check_vma_flags() allows.
    uint64_t at = address + done;
    const Vma* vma = at < platform::kGuestTop ? mm.vmas().Find(at) : nullptr;
    if (vma == nullptr) break;
    if (write && vma->shared && (vma->prot & PROT_WRITE) == 0) break;
    size_t part = std::min<size_t>(size - done, vma->end - at);
    char* p = static_cast<char*>(buffer) + done;
    ssize_t moved = write ? pwrite(memory.get(), p, part, static_cast<off_t>(at)) : pread(memory.get(), p, part, static_cast<off_t>(at));
    if (moved <= 0) break;
    done += static_cast<size_t>(moved);
  }
  if (done == 0) return Errno(EIO);
  return done;
}

}  // namespace amber
