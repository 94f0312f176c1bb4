// The life of a system call: entry, blocking, interruption, completion, and the way back to the guest.
#include <signal.h>
#include <sys/mman.h>

#include <algorithm>
#include <optional>

#include "sentry/kernel/cgroup.h"
#include "sentry/kernel/core_dump.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/helper_task.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/seccomp.h"
#include "sentry/kernel/seccomp_listener.h"
#include "sentry/kernel/served_call.h"
#include "sentry/kernel/sigio.h"
#include "sentry/kernel/strace.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/task_lifecycle.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/tracing.h"
#include "sentry/kernel/under_lock.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/mm/moved.h"
#include "sentry/platform/fast_memory.h"
#include "sentry/syscalls/stack_growth.h"
#include "sentry/syscalls/table.h"
#include "sentry/vfs/file.h"
#include "sentry/vfs/notify.h"

namespace amber {

namespace {

// True for a fault at memory that the tree says may be used so, while an operation is about to change what the host has, or at memory that was just moved: a fault
// from before the end of that may be heard of after it.
bool IsPassingFault(const MemoryManager& mm, const platform::Fault& fault) {
  constexpr uint64_t kPageFault = 14, kWrite = 2, kFetch = 16, kProtectionKey = 32;
  if (fault.signo != SIGSEGV || fault.trapno != kPageFault || (fault.error_code & kProtectionKey) != 0) return false;
  const Vma* vma = mm.vmas().Find(fault.address);
  if (!mm.locked() && (vma == nullptr || !IsMoved(*vma))) return false;
  int needed = (fault.error_code & kWrite) != 0 ? PROT_WRITE : (fault.error_code & kFetch) != 0 ? PROT_EXEC : PROT_READ;
  return vma != nullptr && (vma->prot & needed) != 0;
}

bool IsAway(const GroupExtras& extras, uint64_t address) {
  return std::ranges::any_of(extras.away, [&](const auto& range) { return range.first <= address && address < range.second; });
}

}  // namespace

void Task::QueueWaiter::OnEvent(uint32_t) { task_.kernel().MakeRunnable(task_); }

Errno Task::Block(std::span<const WaitOn> on, int64_t deadline, Errno on_signal) {
  if (syscall_.deadline == kNever) syscall_.deadline = deadline;
  syscall_.on_signal = on_signal.number();
  for (const WaitOn& w : on) {
    waiters_.push_back(std::make_unique<QueueWaiter>(*this));
    w.queue->Add(waiters_.back().get(), w.events, w.exclusive);
  }
  if (syscall_.deadline != kNever) {
    if (block_timer_ == nullptr) {
      block_timer_ = std::make_unique<Timer>([this] {
        syscall_.timed_out = true;
        kernel_->MakeRunnable(*this);
      });
    }
    block_timer_->Arm(kernel_->timers(), syscall_.deadline);
  }
  return kBlocked;
}

Errno Task::BlockOn(File& file, uint32_t events, int64_t deadline, Errno on_signal) {
  WaitQueue* queue = file.wait_queue();
  if (queue == nullptr) return Errno(EAGAIN);
  return Block(*queue, events, deadline, on_signal);
}

void Task::EndBlock() {
  waiters_.clear();
  if (block_timer_ != nullptr) block_timer_->Cancel();
}

void Task::EnterCall(const platform::Syscall& call, bool framed) {
  AMBER_CHECK(call_ == Call::kNone);
  syscall_ = SyscallState{};
  syscall_.number = call.number;
  std::copy(std::begin(call.args), std::end(call.args), syscall_.args);
  syscall_.ip = call.ip;
  syscall_.framed = framed;
  extras_->notification.reset();  // of a call that its tracer has ended
  extras_->served.reset();        // ... or a signal
  ++kernel_->stats().syscalls;
  if (kernel_->strace() != nullptr) kernel_->strace()->Enter(*this);
  if (extras_->tracee != nullptr && Tracing::AtEntry(*this)) return;
  if (extras_->seccomp_mode != 0) {
    call_ = Call::kRunning;
    if (!SeccompGate::Pass(*this)) return;
  }
  RunHandler();
}

void Task::RunHandler() {
  call_ = Call::kRunning;
  RefPtr<Task> self(this);
  if (extras_->notification != nullptr) {
    if (std::optional<ErrnoOr<uint64_t>> answer = SeccompGate::Await(*this)) return ActOn(*answer);
  }
  const SyscallEntry* entry = SyscallTable::Get().Find(syscall_.number);
  if (entry == nullptr || entry->handler == nullptr) {
    kernel_->CountUnknown(syscall_.number);
    return CompleteCall(-ENOSYS);
  }
  if (extras_->served != nullptr) {
    if (std::optional<ErrnoOr<uint64_t>> result = extras_->served->Resume(*this)) return ActOn(*result);
  }
  on_stack_ = true;
  Task* actor = std::exchange(notify_actor, this);
  ErrnoOr<uint64_t> result = [&] {
    ServedCall::Scope scope(*this);
    return entry->handler(*this, syscall_.args);
  }();
  // While what the call has used is still ours.
  SigioOwner::DeliverDue();
  notify_actor = actor;
  on_stack_ = false;
  ActOn(result);
}

void Task::ActOn(ErrnoOr<uint64_t> result) {
  if (exiting_) return kernel_->lifecycle().Release(*this);  // exit, exit_group, or a signal to itself
  if (extras_->served != nullptr) {
    result = extras_->served->OnResult(*this, result);
    // It went on without an answer, or has it: what waited for one is in the way of the next call.
    if (result.ok()) EndBlock();
  }
  if (result.ok()) return CompleteCall(static_cast<int64_t>(*result));
  // Others may go on with this call from here on.
  platform::EndPosted(thread_);
  if (result.error() == kNoAnswer) {
    // FinishSyscall() may have run inside the handler already.
    if (call_ == Call::kRunning) call_ = Call::kContinuation;
    return;
  }
  if (result.error() == kBlocked) {
    ++kernel_->stats().blocks;
    call_ = Call::kBlocked;
    if (HasDeliverableSignal() || MustHold()) Interrupt();
    return;
  }
  EndBlock();  // an error after a Block() of the same round
  CompleteCall(-static_cast<int64_t>(result.error().number()));
}

void Task::FinishSyscall(int64_t result) {
  if (exiting_) return;
  AMBER_CHECK(call_ == Call::kRunning || call_ == Call::kContinuation);
  CompleteCall(result);
}

namespace {

// What /proc/PID/io counts (fs/read_write.c, add_rchar() and its like): calls that got as far as their file.
void CountIo(uint64_t number, int64_t result, IoCounts* io) {
  if (result == -EBADF || result == -ESPIPE) return;
  uint64_t bytes = result > 0 ? static_cast<uint64_t>(result) : 0;
  bool reads = false, writes = false;
  switch (number) {
    case SYS_read:
    case SYS_pread64:
    case SYS_readv:
    case SYS_preadv:
    case SYS_preadv2: reads = true; break;
    case SYS_write:
    case SYS_pwrite64:
    case SYS_writev:
    case SYS_pwritev:
    case SYS_pwritev2: writes = true; break;
    case SYS_sendfile:
    case SYS_copy_file_range: reads = writes = true; break;
    default: return;
  }
  if (reads) io->Add({.read_bytes = bytes, .read_calls = 1});
  if (writes) io->Add({.written_bytes = bytes, .write_calls = 1});
}

}  // namespace

void Task::CompleteCall(int64_t result) {
  extras_->served.reset();
  if (helper_) {
    call_ = Call::kNone;
    if (call_owner_ != nullptr) call_owner_->OnDone(result <= -512 && result >= -516 ? -EINTR : result);
    return;
  }
  bool restart_code = result <= -512 && result >= -516;
  if (restart_code) {
    // Only meaningful with a signal about to be delivered; then the way through the frame sorts it out.
    syscall_.on_signal = static_cast<int>(-result);
    call_ = Call::kBlocked;
    Interrupt();
    return;
  }
  call_ = Call::kNone;
  CountIo(syscall_.number, result, &extras_->io);
  if (kernel_->strace() != nullptr) kernel_->strace()->Exit(*this, result);
  if (extras_->tracee != nullptr) Tracing::AtExit(*this);
  if (has_saved_mask_) {
    has_saved_mask_ = false;
    blocked_ = saved_mask_;
  }
  if (where_ == Where::kNotified) {
    if (HasDeliverableSignal() || MustHold()) {
      where_ = Where::kStopping;
      thread_->AnswerAndStop(result);
    } else {
      where_ = Where::kGuest;
      thread_->Answer(result);
    }
    return;
  }
  AMBER_CHECK(where_ == Where::kStopped);
  thread_->frame().regs.rax = static_cast<uint64_t>(result);
  ReturnToGuest();
}

void Task::ContinueSyscall(std::function<void()> done) {
  AMBER_CHECK(where_ == Where::kNotified && call_ == Call::kRunning);
  call_ = Call::kNone;
  where_ = Where::kGuest;
  if (kernel_->strace() != nullptr) kernel_->strace()->Exit(*this, 0);
  RefPtr<Task> self(this);
  thread_->AnswerContinue(UnderLock(*kernel_, [self, done = std::move(done)] {
    if (done) done();
  }));
  // A kick pends until the call is done, so nothing is lost by sending it now.
  if (HasDeliverableSignal() || MustHold()) thread_->Kick();
}

void Task::StopForOps(std::vector<platform::StubOp> ops, std::function<void(std::span<const int64_t>)> done) {
  AMBER_CHECK(call_ == Call::kRunning || call_ == Call::kContinuation);
  if (helper_) return HelperTask::PassOperations(*this, std::move(ops), std::move(done));
  call_ = Call::kContinuation;
  RefPtr<Task> self(this);
  auto run = [self, ops = std::move(ops), done = std::move(done)]() mutable {
    self->thread_->RunOps(std::move(ops), UnderLock(self->kernel(), [self, done = std::move(done)](std::span<const int64_t> results) {
                            if (!self->exiting_) done(results);
                          }));
  };
  if (where_ == Where::kStopped) return run();
  AMBER_CHECK(where_ == Where::kNotified);
  // The call is undone and completes through the frame; AdoptCallIntoFrame() moves rip behind it.
  where_ = Where::kStopping;
  undone_ = true;
  when_stopped_ = std::move(run);
  thread_->AnswerStop();
}

bool Task::MustHold() const {
  if (kernel_->frozen() || extras_->waits_for_memory || extras_->cgroup_held || CoreDump::Holds(*this)) return true;
  if (extras_->tracee != nullptr) return Tracing::Holds(*this);
  return group_->stopped() && !waits_killably();
}

void Task::Interrupt() {
  if (extras_->served != nullptr && call_ == Call::kBlocked && (pending() & ~blocked_) != 0) extras_->served->OnSignal();
  // What it waits for has come already. Sleepers of Linux look for that first, and for signals only before they sleep again (do_wait(),
  // ep_poll() and their like): so does ActOn() when the call has been executed once more.
  if (call_ == Call::kBlocked && runnable_ && !held_ && !native_wait_ && !MustHold() && !HasFatalSignal()) return;
  switch (where_) {
    case Where::kGuest: thread_->Kick(); return;
    case Where::kNotified:
      // In a continuation or on a worker's stack: CompleteCall() looks again.
      if (call_ != Call::kBlocked) return;
      EndBlock();
      undone_ = true;
      where_ = Where::kStopping;
      thread_->AnswerStop();
      return;
    case Where::kStopped:
      if (call_ != Call::kBlocked) return;
      // A native futex wait ends by a kick, and its own callback goes on from there.
      if (native_wait_) {
        thread_->Kick();
        return;
      }
      EndBlock();
      ReturnToGuest();
      return;
    case Where::kNone:
    case Where::kStopping: return;
  }
}

void Task::AdoptCallIntoFrame() {
  undone_ = false;
  platform::Registers& regs = thread_->frame().regs;
  regs.rip = syscall_.ip;
  syscall_.framed = true;
}

void Task::ReturnToGuest() {
  AMBER_CHECK(where_ == Where::kStopped);
  if (extras_->returning) return;
  RefPtr<Task> self(this);
  // False if it does not go on now.
  auto find_way = [this] {
    for (;;) {
      if (exiting_) return false;
      if (extras_->tracee != nullptr) Tracing::OnReturn(*this);
      if (exiting_) return false;
      // A fatal signal goes through a stop; everything else waits.
      if (MustHold() && !HasFatalSignal()) {
        held_ = true;
        return false;
      }
      held_ = false;
      if (extras_->tracee != nullptr && Tracing::WillGoOn(*this)) return true;
      if (!DeliverSignals() || exiting_) return false;
      // Who heard of a stop may have ended it, or tracing.
      if (MustHold() || HasDeliverableSignal()) continue;
      if (extras_->tracee != nullptr && call_ == Call::kBlocked && Tracing::BeginsAgain(*this)) continue;
      return true;
    }
  };
  extras_->returning = true;
  bool goes = find_way();
  extras_->returning = false;
  if (held_) kernel_->OnHeld(*this);
  if (held_ && extras_->cgroup_held) Cgroup::Of(*this).LookWhetherFrozen();
  if (!goes) return;
  if (extras_->tracee != nullptr && Tracing::GoesOn(*this)) return;
  if (call_ == Call::kBlocked) {
    // Interrupted without a handler: the call goes on where it was.
    ++kernel_->stats().restarts;
    syscall_.restarted = true;
    RunHandler();
    return;
  }
  if (!extras_->before_guest.empty()) return PrepareForGuest();
  if (extras_->tracee != nullptr) Tracing::BeforeGuest(*this);
  where_ = Where::kGuest;
  thread_->Resume();
}

void Task::PrepareForGuest() {
  RefPtr<Task> self(this);
  thread_->RunOps(std::exchange(extras_->before_guest, {}), UnderLock(*kernel_, [self](std::span<const int64_t>) {
                    if (!self->exiting_ && self->where_ == Where::kStopped) self->ReturnToGuest();
                  }));
}

void Task::OnStopped(platform::Stop stop, const platform::Fault* fault) {
  where_ = Where::kStopped;
  if (when_stopped_) {
    AdoptCallIntoFrame();
    std::exchange(when_stopped_, nullptr)();
    return;
  }
  platform::Registers& regs = thread_->frame().regs;
  SigInfo info;
  switch (stop) {
    case platform::Stop::kSyscall: EnterCall({regs.rax, {regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9}, regs.rip}, true); return;
    case platform::Stop::kFault:
      // Memory that another thread has moved at this moment is read-only (sentry/fs/nvidia/moved_memory.h): the access is made again.
      if (IsPassingFault(*mm_, *fault)) break;
      if (fault->signo == SIGSEGV && IsAway(group_->extras(), fault->address)) {
        extras_->waits_for_memory = true;
        break;
      }
      if (std::optional<Vma> more = StackGrowth(*this, *fault)) {
        if (!mm_->TryLock(*this)) break;  // the access is made again
        auto grown = [self = RefPtr<Task>(this), mm = mm_, more = *more, fault = *fault](std::span<const int64_t> results) {
          if (self->exiting_) return;
          bool done = results.size() == 1 && static_cast<uint64_t>(results[0]) == more.start;
          if (done) mm->Record(more);
          mm->Unlock(*self);
          self->last_fault_ = fault;
          if (!done) self->ForceSignal(SigInfo::Fault(fault.signo, fault.code, fault.address));
          self->ReturnToGuest();
        };
        thread_->RunOps({MemoryManager::MapOp(*more, {})}, UnderLock(*kernel_, std::move(grown)));
        return;
      }
      last_fault_ = *fault;
      info = SigInfo::Fault(fault->signo, fault->code, fault->address);
      if (fault->signo == SIGTRAP && extras_->tracee != nullptr && !Tracing::OnTrap(*this, &info)) break;
      if (kernel_->strace() != nullptr) kernel_->strace()->Fault(*this, fault->signo, fault->address, regs.rip);
      ForceSignal(info);
      break;
    case platform::Stop::kForeign: ForceSignal(SigInfo::Kernel(SIGSEGV)); break;
    case platform::Stop::kKick: break;
  }
  ReturnToGuest();
}

Errno Task::BlockNatively(uint64_t address, uint32_t value, uint32_t bitset, bool shared, int64_t deadline) {
  AMBER_CHECK(where_ == Where::kStopped);
  if (syscall_.deadline == kNever) syscall_.deadline = deadline;
  syscall_.on_signal = (syscall_.deadline == kNever ? kErestartsys : kErestartRestartblock).number();
  native_wait_ = true;
  RefPtr<Task> self(this);
  auto waited = [self](int64_t result) {
    if (self->exiting_) return;
    self->native_wait_ = false;
    bool interrupted = result == -EINTR;
    if (!interrupted) self->syscall_.scratch[3] = kNativeWaitDone | static_cast<uint32_t>(-result);
    // A wait that was interrupted for a signal lets the signal decide; else the handler runs again.
    self->call_ = Call::kBlocked;
    if (interrupted) return self->ReturnToGuest();
    self->syscall_.restarted = true;
    self->RunHandler();
  };
  thread_->FutexWait(address, value, bitset, shared, /*realtime=*/false, kernel_->clocks().ToHostMonotonic(syscall_.deadline),
                     UnderLock(*kernel_, std::move(waited)));
  return kBlocked;
}

}  // namespace amber
