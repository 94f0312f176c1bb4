// Delivering signals to a stopped thread: dispositions, and the frame of a handler (arch/x86/kernel/signal_64.c).
#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/ucontext.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <span>
#include <vector>

#include "sentry/kernel/core_dump.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/offered_actions.h"
#include "sentry/kernel/seccomp_listener.h"
#include "sentry/kernel/signal_frame.h"
#include "sentry/kernel/strace.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/task_lifecycle.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/tracing.h"
#include "sentry/mm/memory_manager.h"

namespace amber {
namespace {

enum class DefaultAction { kIgnore, kTerminate, kCore, kStop };

DefaultAction DefaultActionOf(int signo) {
  switch (signo) {
    case SIGCHLD:
    case SIGURG:
    case SIGWINCH:
    case SIGCONT: return DefaultAction::kIgnore;
    case SIGSTOP:
    case SIGTSTP:
    case SIGTTIN:
    case SIGTTOU: return DefaultAction::kStop;
    case SIGQUIT:
    case SIGILL:
    case SIGTRAP:
    case SIGABRT:
    case SIGBUS:
    case SIGFPE:
    case SIGSEGV:
    case SIGSYS:
    case SIGXCPU:
    case SIGXFSZ: return DefaultAction::kCore;
    default: return DefaultAction::kTerminate;
  }
}

constexpr uint64_t kHandlerIgnore = 1;

// poll_select_finish(): select and its kin that a handler interrupts tell what is left of their time-out, whose address is in scratch[2].
// That it cannot be written is no error.
void CopyOutPollRemaining(Task& task) {
  const SyscallState& call = task.syscall();
  bool seconds = call.number == SYS_select;
  if (!seconds && call.number != SYS_pselect6 && call.number != SYS_ppoll) return;
  if (call.scratch[2] == 0 || call.deadline == kNever) return;
  int64_t left = std::max<int64_t>(call.deadline - task.kernel().clocks().Monotonic(), 0);
  int64_t out[2] = {left / kNsPerSecond, seconds ? left % kNsPerSecond / 1000 : left % kNsPerSecond};
  (void)task.CopyOutBytes(call.scratch[2], out, sizeof(out));
}

// Of the last signal frame that was pushed, to copy the next one in at once: all threads of a machine have the same.
std::atomic<size_t> usual_frame_size{0};

// Loads the extended state that a guest's frame names. `near` are the bytes there, as many as were copied.
ErrnoOr<void> LoadXstate(Task& task, uint64_t address, std::span<const uint8_t> near) {
  std::vector<uint8_t> bytes;
  auto need = [&](size_t size) -> ErrnoOr<void> {
    if (near.size() >= size) return Ok();
    bytes.resize(size);
    TRY(task.CopyInBytes(address, bytes.data(), size));
    near = bytes;
    return Ok();
  };
  TRY(need(kXstateSoftwareOffset + sizeof(XstateSoftware)));
  XstateSoftware software;
  memcpy(&software, near.data() + kXstateSoftwareOffset, sizeof(software));
  size_t size = software.magic1 == kXstateMagic1 ? software.extended_size : kLegacyXstateSize;
  if (size < kLegacyXstateSize || size > kMaxXstateSize) return Errno(EFAULT);
  TRY(need(size));
  return task.thread()->set_xstate(near.first(size));
}

}  // namespace

// A futex wait without a time-out runs in the host, which rewinds it for a kick: the frame stands before the call, with its number in
// rax. (It may also be one that has not begun yet.)
bool Task::BeforeNativeFutexWait() {
  const platform::Registers& regs = thread_->frame().regs;
  if (regs.rax != SYS_futex || regs.r10 != 0) return false;
  uint64_t command = regs.rsi & FUTEX_CMD_MASK;
  if (command != FUTEX_WAIT && command != FUTEX_WAIT_BITSET) return false;
  uint8_t code[2];
  return CopyInBytes(regs.rip, code, sizeof(code)).ok() && code[0] == 0x0f && code[1] == 0x05;
}

bool Task::StandsBeforeFutexWait() {
  if (exiting_ || where_ != Where::kStopped || thread_ == nullptr || group_->stopped() || extras_->tracee != nullptr) return false;
  if (call_ == Call::kNone) return BeforeNativeFutexWait();
  uint64_t command = syscall_.args[1] & FUTEX_CMD_MASK;
  return call_ == Call::kBlocked && syscall_.number == SYS_futex && (command == FUTEX_WAIT || command == FUTEX_WAIT_BITSET);
}

SignalSet Task::Takeable() const {
  if (!waits_killably()) return ~blocked_;
  // complete_signal(): what ends the process without a core file and is not traced kills all of its threads at once.
  SignalSet fatal = 0;
  if (group_->is_init() || extras_->tracee != nullptr) return fatal;
  for (int signo = 1; signo <= kNumSignals; ++signo) {
    if (group_->handlers()[signo].handler == 0 && DefaultActionOf(signo) == DefaultAction::kTerminate) fatal |= SignalBit(signo);
  }
  return fatal & ~blocked_;
}

bool Task::DeliverSignals() {
  if (undone_) AdoptCallIntoFrame();
  for (;;) {
    if (exiting_) return false;
    if (group_->exiting()) return false;  // its death is under way
    SigInfo info;
    if (extras_->tracee == nullptr || !Tracing::TakeDecided(*this, &info)) {
      if (!TakeSignal(Takeable(), &info)) break;
      if (extras_->tracee != nullptr && Tracing::StopsForSignal(*this, info)) return true;
    }
    if (info.signo() == 0) continue;  // its tracer has taken it away
    int signo = info.signo();
    SigAction& action = group_->handlers()[signo];
    if (action.handler == kHandlerIgnore) continue;
    if (action.handler != 0) {
      SigAction taken = action;
      if ((taken.flags & SA_RESETHAND) != 0) {
        action.handler = 0;
        TellAction(*this, signo);
      }
      ApplyRestart(taken);
      if (!PushSignalFrame(info, taken)) {
        // No stack for it: SIGSEGV, fatal if that is the one that failed (force_sigsegv).
        if (signo == SIGSEGV) {
          group_->handlers()[SIGSEGV] = SigAction{};
          TellAction(*this, SIGSEGV);
        }
        ForceSignal(SigInfo::Kernel(SIGSEGV));
      }
      continue;
    }
    // A namespace's init has no default actions for what comes from inside it (sig_task_ignored).
    // What the kernel or the runtime sends carries no sender's pid.
    // (What programs make themselves may say anything there.)
    if (group_->is_init() && (info.raw.si_code < 0 || (info.raw.si_code == SI_USER && info.raw.si_pid != 0))) continue;
    // A nested namespace's init: from outside, too, but for SIGKILL and SIGSTOP and its own faults.
    bool fault = info.raw.si_code > 0 && (SignalBit(signo) & kSynchronousSignals) != 0;
    if (group_->is_init() && group_->pids().level() > 0 && signo != SIGSTOP && !fault) continue;
    switch (DefaultActionOf(signo)) {
      case DefaultAction::kIgnore: continue;
      case DefaultAction::kStop:
        // An orphaned process group is not stopped by the terminal.
        if (signo != SIGSTOP && group_->process_group().IsOrphaned()) continue;
        if (extras_->tracee != nullptr) Tracing::OnNewGroupStop(*this);
        group_->Stop(signo);
        return true;
      case DefaultAction::kCore:
        if (CoreDump::Begin(*this, info)) return true;
        [[fallthrough]];
      case DefaultAction::kTerminate:
        if (extras_->tracee != nullptr && Tracing::BeforeExit(*this, signo, signo)) return true;
        kernel_->lifecycle().KillGroup(*group_, signo);
        return false;
    }
  }
  if (has_saved_mask_ && call_ == Call::kNone) {
    has_saved_mask_ = false;
    SetBlocked(saved_mask_);
  }
  return true;
}

void Task::ForceSignal(const SigInfo& info) {
  // force_sig_info: blocked or ignored means the default action.
  int signo = info.signo();
  SigAction& action = group_->handlers()[signo];
  if ((blocked_ & SignalBit(signo)) != 0 || action.handler == kHandlerIgnore) {
    action = SigAction{};
    TellAction(*this, signo);
    blocked_ &= ~SignalBit(signo);
  }
  pending_.Discard(SignalBit(signo));
  pending_.Add(info);
}

void Task::ApplyRestart(const SigAction& action) {
  platform::Registers& regs = thread_->frame().regs;
  if (call_ != Call::kBlocked) {
    if ((action.flags & SA_RESTART) == 0 && BeforeNativeFutexWait()) {
      regs.rax = static_cast<uint64_t>(-EINTR);
      regs.rip += 2;
    }
    return;
  }
  call_ = Call::kNone;
  extras_->notification.reset();
  int64_t result;
  bool restart = syscall_.on_signal == kErestartnointr.number() || (syscall_.on_signal == kErestartsys.number() && (action.flags & SA_RESTART) != 0);
  if (syscall_.done != 0) {
    result = static_cast<int64_t>(syscall_.done);
  } else if (restart) {
    regs.rax = syscall_.number;
    regs.rip = syscall_.ip - 2;
    if (kernel_->strace() != nullptr) kernel_->strace()->Exit(*this, -kErestartsys.number());
    return;
  } else {
    result = syscall_.on_signal >= 512 ? -EINTR : -syscall_.on_signal;
    if (syscall_.scratch[2] != 0 && (syscall_.number == SYS_nanosleep || syscall_.number == SYS_clock_nanosleep)) {
      int64_t left = std::max<int64_t>(syscall_.deadline - kernel_->clocks().Monotonic(), 0);
      timespec remaining{left / kNsPerSecond, left % kNsPerSecond};
      if (!CopyOutBytes(syscall_.scratch[2], &remaining, sizeof(remaining)).ok()) result = -EFAULT;
    }
  }
  CopyOutPollRemaining(*this);
  regs.rax = static_cast<uint64_t>(result);
  if (kernel_->strace() != nullptr) kernel_->strace()->Exit(*this, result);
}

bool Task::PushSignalFrame(const SigInfo& info, const SigAction& action) {
  platform::Frame& frame = thread_->frame();
  auto xstate = thread_->xstate();
  if (!xstate.ok()) return false;

  uint64_t sp = frame.regs.rsp - 128;  // the red zone
  bool on_alt = altstack_.Contains(frame.regs.rsp);
  if ((action.flags & SA_ONSTACK) != 0 && (altstack_.flags & SS_DISABLE) == 0 && !on_alt) {
    sp = altstack_.sp + altstack_.size;
  }
  sp = (sp - xstate->size()) & ~uint64_t{63};
  uint64_t fpstate = sp;
  sp = ((sp - sizeof(SignalFrame)) & ~uint64_t{15}) - 8;
  if ((on_alt || ((action.flags & SA_ONSTACK) != 0 && (altstack_.flags & SS_DISABLE) == 0)) && !altstack_.Contains(sp)) {
    return false;  // would run over the end of the alternate stack
  }

  SignalFrame out{};
  out.return_address = action.restorer;
  out.context.flags = kUcFpXstate | kUcSigcontextSs | kUcStrictRestoreSs;
  out.context.stack = {altstack_.sp, altstack_.flags | (on_alt ? SS_ONSTACK : 0u), altstack_.size};
  out.context.regs = frame.regs;
  out.context.cs = kUserCs;
  out.context.ss = kUserSs;
  out.context.error_code = last_fault_.error_code;
  out.context.trapno = last_fault_.trapno;
  out.context.cr2 = last_fault_.address;
  out.context.fpstate = fpstate;
  out.context.mask = has_saved_mask_ ? saved_mask_ : blocked_;
  out.context.old_mask = out.context.mask;
  out.info = info.raw;
  // In one copy. What lies between the two (alignment) is nobody's.
  std::vector<uint8_t> bytes(fpstate - sp + xstate->size());
  memcpy(bytes.data(), &out, sizeof(out));
  memcpy(bytes.data() + (fpstate - sp), xstate->data(), xstate->size());
  if (!CopyOutBytes(sp, bytes.data(), bytes.size()).ok()) return false;
  usual_frame_size.store(bytes.size(), std::memory_order_relaxed);

  has_saved_mask_ = false;
  if ((altstack_.flags & kSsAutodisarm) != 0) altstack_ = AltStack{};
  SignalSet mask = blocked_ | action.mask;
  if ((action.flags & SA_NODEFER) == 0) mask |= SignalBit(info.signo());
  SetBlocked(mask);
  frame.regs.rsp = sp;
  frame.regs.rip = action.handler;
  frame.regs.rdi = static_cast<uint64_t>(info.signo());
  frame.regs.rsi = sp + offsetof(SignalFrame, info);
  frame.regs.rdx = sp + offsetof(SignalFrame, context);
  frame.regs.rax = 0;
  frame.regs.rflags &= ~(kFlagDf | kFlagRf | kFlagTf);
  last_fault_ = {};
  return true;
}

ErrnoOr<void> Task::SignalReturn() {
  platform::Frame& frame = thread_->frame();
  // The handler's `ret` has popped the return address.
  uint64_t sp = frame.regs.rsp - 8;
  std::vector<uint8_t> whole(std::max(sizeof(SignalFrame), usual_frame_size.load(std::memory_order_relaxed)));
  size_t have = TRY(mm_->space().Read(sp, whole.data(), whole.size()));
  if (have < sizeof(SignalFrame)) return Errno(EFAULT);
  SignalFrame in;
  memcpy(&in, whole.data(), sizeof(in));
  if (in.context.fpstate != 0) {
    std::span<const uint8_t> near;  // the state, if it was copied with the frame
    uint64_t offset = in.context.fpstate - sp;
    if (offset >= sizeof(in) && offset < have) near = std::span<const uint8_t>(whole).first(have).subspan(offset);
    TRY(LoadXstate(*this, in.context.fpstate, near));
  }
  uint64_t flags = (frame.regs.rflags & ~kUserFlags) | (in.context.regs.rflags & kUserFlags);
  frame.regs = in.context.regs;
  frame.regs.rflags = flags;
  altstack_.sp = in.context.stack.sp;
  altstack_.size = in.context.stack.size;
  altstack_.flags = in.context.stack.flags & (SS_DISABLE | kSsAutodisarm);
  SetBlocked(in.context.mask);
  return Ok();
}

}  // namespace amber
