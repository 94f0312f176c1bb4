#include "sentry/platform/thread_impl.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/futex.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <utility>

#include "sentry/base/sandbox_log.h"
#include "sentry/platform/fast_sites.h"
#include "sentry/platform/filter.h"
#include "sentry/platform/listener.h"
#include "sentry/platform/platform_impl.h"
#include "sentry/platform/ranges.h"
#include "sentry/platform/stub_sys.h"
#include "sentry/platform/stub_text.h"

namespace amber::platform {
namespace {

constexpr int64_t kRestartNointr = -513;  // the kernel rewinds the call, if a signal is pending

bool Canonical(uint64_t address) {
  uint64_t top = address >> 47;
  return top == 0 || top == 0x1ffff;
}

}  // namespace

ThreadImpl::Callback::Callback(ThreadImpl& thread) : thread_(thread) {
  absl::MutexLock lock(&thread_.mu_);
  ok_ = thread_.state_ != State::kGone && !thread_.released_ && !thread_.platform_.stopping();
  if (ok_) thread_.callbacks_++;
}

ThreadImpl::Callback::~Callback() {
  if (!ok_) return;
  absl::MutexLock lock(&thread_.mu_);
  thread_.callbacks_--;
}

ThreadImpl::ThreadImpl(PlatformImpl& platform, std::shared_ptr<Process> process, RefPtr<SpaceImpl> space, pid_t tid, uint32_t slot)
    : platform_(platform), process_(std::move(process)), tid_(tid), slot_(slot), box_(process_->space().mailbox(slot)), space_(std::move(space)) {
  __atomic_store_n(&box_->fast.state, uint32_t{kFastIdle}, __ATOMIC_RELAXED);
  __atomic_store_n(&box_->fast.contact, 0u, __ATOMIC_RELAXED);
  WithdrawActions();
  SetWatched(false);
  SetWaits(false);
}

ThreadImpl::~ThreadImpl() = default;

void ThreadImpl::SetState(State state) {
  state_ = state;
  bool outstanding = state == State::kNotified && fast_ == Fast::kNo;
  if (outstanding != outstanding_) {
    outstanding_ = outstanding;
    process_->listener().CountOutstanding(outstanding ? 1 : -1);
  }
  bool counts = state == State::kRunning || state == State::kOrdered;
  if (counts == counted_) return;
  counted_ = counts;
  process_->listener().CountRunning(counts ? 1 : -1);
}

// The guest did what only a forger does (or the platform has a bug, which the log then shows).
void ThreadImpl::Hostile(std::source_location where) {
  LogNote("a guest process is killed: its stub did what nobody ordered", where);
  process_->Kill();
}

bool ThreadImpl::ContextOk(uint64_t context) const {
  uint64_t base = kStacksAddress + slot_ * kStackSize;
  return context >= base && context <= base + kStackSize - sizeof(StubContext) && context % 8 == 0;
}

void ThreadImpl::LoadFrame() {
  static_assert(sizeof(Registers) == sizeof(box_->regs));
  memcpy(&frame_.regs, box_->regs, sizeof(frame_.regs));
  frame_.fs_base = box_->fs_base;
  host_gs_base_ = box_->gs_base;
  fpstate_ = box_->fpstate;
  bool ours = process_->space().fast_sites() != nullptr && host_gs_base_ == MailboxAddress();
  frame_.gs_base = ours ? 0 : host_gs_base_;
  handed_over_ = frame_;
  load_bases_ = false;
  xstate_valid_ = false;
}

void ThreadImpl::StoreFrame(const Frame& frame, bool bases) {
  memcpy(box_->regs, &frame.regs, sizeof(frame.regs));
  uint32_t flags = kResumeRegisters;
  bool ours = process_->space().fast_sites() != nullptr && frame.gs_base == 0;
  uint64_t gs_base = ours ? MailboxAddress() : Canonical(frame.gs_base) ? frame.gs_base : 0;
  if (bases || frame.fs_base != handed_over_.fs_base || gs_base != host_gs_base_) {
    flags |= kResumeBases;
    // A fault in the handler would end the process.
    box_->fs_base = Canonical(frame.fs_base) ? frame.fs_base : 0;
    box_->gs_base = gs_base;
    host_gs_base_ = gs_base;
  }
  if (close_listener_) {
    flags |= kResumeClose;
    close_listener_ = false;
  }
  box_->flags = flags;
}

void ThreadImpl::AnswerHeld(uint64_t id, bool going) {
  if (going) {
    process_->listener().Continue(id);
  } else {
    process_->listener().Answer(id, 0);
  }
}

void ThreadImpl::Post(Command command) {
  sequence_ = (sequence_ + 1) & 0xffffff;
  order_count_++;
  bool held = std::exchange(held_, false), going = std::exchange(going_, false);
  uint64_t id = notification_;
  int fd = std::exchange(last_fd_, -1), number = last_number_;
  // As soon as it is posted the thread may run, end, and be released.
  RefPtr<ThreadImpl> self(this);
  __atomic_store_n(&box_->order, (sequence_ << 8) | command, __ATOMIC_RELEASE);
  mu_.Unlock();
  if (command != kCommandResume) platform_.monitor().NoteOrder();
  if (fd >= 0) {
    // The operation must not be done with whatever else has this number.
    if (process_->listener().AddFd(id, fd, number, true) != 0) process_->Kill();
  } else if (held) {
    AnswerHeld(id, going);
  } else {
    std::atomic_thread_fence(std::memory_order_seq_cst);
    // A stub that forges this word waits for ever, which is its own loss: see Monitor.
    if (__atomic_load_n(&box_->fast.waiting, __ATOMIC_RELAXED) != 0 && !Listener::WakeAfterwards(*this)) WakeStub();
  }
}

void ThreadImpl::WakeStub() { syscall(SYS_futex, &box_->order, FUTEX_WAKE, 1); }

// --- arrivals ---

// The thread is heard of again: what was to be done then is done. Returns the state it is in.
ThreadImpl::State ThreadImpl::BeginContact() {
  std::function<void()> continued;
  State state;
  {
    absl::MutexLock lock(&mu_);
    gone_ahead_ = false;
    state = state_;
    if (continue_pending_) {
      continue_pending_ = false;
      continued = std::move(continued_);
      continued_ = nullptr;
    }
  }
  if (continued) {
    Callback callback(*this);
    continued();
    continued = nullptr;
  }
  return state;
}

// An operation that was taken for done comes once more: something that is no signal (the mask is full) restarted it.
bool ThreadImpl::OperationAgain(const seccomp_notif& notification) {
  {
    absl::MutexLock lock(&mu_);
    if (!gone_ahead_ || !InStubText(notification.data.instruction_pointer) || !Same(ahead_op_, notification.data)) return false;
  }
  process_->listener().Continue(notification.id);
  return true;
}

void ThreadImpl::OnNotification(const seccomp_notif& notification) {
  const seccomp_data& data = notification.data;
  if (OperationAgain(notification)) return;
  State state = BeginContact();
  if (state == State::kGone) return;
  if (InStubText(data.instruction_pointer) && static_cast<uint32_t>(data.nr) == kStubCall) {
    OnContact(notification.id, data.args[0], data.args[1]);
  } else if (state == State::kOrdered) {
    OnOrderedCall(notification.id, data);
  } else {
    OnGuestCall(notification.id, data);
  }
}

// Only what a thread does after its last order: the call that an order consists of comes before the close that is part of it.
void ThreadImpl::FreeForkFds() {
  if (uint64_t fds = fork_fds_.exchange(0); fds != 0) process_->FreeFds(fds);
}

void ThreadImpl::OnGuestCall(uint64_t id, const seccomp_data& data) {
  FreeForkFds();
  if (BindFast(id, data)) return;
  Syscall call;
  {
    absl::MutexLock lock(&mu_);
    if (state_ != State::kRunning) return Hostile();
    // What the stub text does by itself is ordered, or not notified.
    if (InStubText(data.instruction_pointer) || released_) return Hostile();
    notification_ = id;
    call_ = data;
    fast_ = Fast::kNo;  // if it was told to stop it did not, and will be kicked
    SetState(State::kNotified);
  }
  call.number = static_cast<uint32_t>(data.nr);
  memcpy(call.args, data.args, sizeof(call.args));
  call.ip = data.instruction_pointer;
  bool watch = NoteSite(data);
  if (watch) process_->listener().WatchAfterwards();
  {
    Callback callback(*this);
    if (callback.ok()) platform_.client().OnSyscall(*this, call);
  }
  ShelveIfCrowded();
}

void ThreadImpl::OnContact(uint64_t id, uint64_t kind, uint64_t context) {
  FreeForkFds();
  if (kind == kContactFrame) {
    OnFrameContact(id, context);
  } else if (kind == kContactReport) {
    OnReport(id);
  } else if (kind == kContactFailed) {
    LogNote("a guest process is killed: the host has no memory for a mapping");
    process_->Kill();
  } else {
    Hostile();
  }
}

void ThreadImpl::OnFrameContact(uint64_t id, uint64_t context) {
  Fault fault = {};
  Stop stop = Stop::kFault;
  // In one go: as long as the thread counts as running, whoever watches may take what is posted in its name.
  mu_.Lock();
  if (state_ == State::kNotified && (OnShelfContact(id, context) || OnFastContact(id, context))) {
    mu_.Unlock();
    return DoDeed();
  }
  if (state_ == State::kGone) return mu_.Unlock();
  bool futex = state_ == State::kOrdered && order_ == Order::kFutex;
  if ((state_ != State::kRunning && !futex) || !ContextOk(context) || released_) {
    mu_.Unlock();
    return Hostile();
  }
  context_ = context;
  notification_ = id;
  held_ = id != 0;
  LoadFrame();
  bool stopping = fast_ == Fast::kStopping, copying = false;
  if (stopping) {
    LeaveStopping();
  } else if (!futex) {
    copying = LeaveFastCode();
  }
  fault = {box_->signo, box_->code, box_->address, box_->trapno, box_->error_code};
  bool foreign = box_->error == kTrapForeign || static_cast<uint32_t>(box_->arch) != AUDIT_ARCH_X86_64;
  if (fault.signo == SIGSYS) stop = foreign ? Stop::kForeign : Stop::kSyscall;
  if (fault.signo == SIGURG || stopping) stop = Stop::kKick;
  platform_.counters().stops.fetch_add(1, std::memory_order_relaxed);
  if (futex) {
    mu_.Unlock();
    return stop == Stop::kSyscall || stop == Stop::kKick ? OnFutexStop(id) : Hostile();
  }
  by_call_ = stop == Stop::kSyscall;
  // A kick that was overtaken by another stop has been delivered with it.
  bool overtaken = stop == Stop::kKick && kick_ == 0;
  // A pointer that leads nowhere: the call, made the ordinary way, fails as it should.
  bool astray = copying && stop == Stop::kFault && (fault.signo == SIGSEGV || fault.signo == SIGBUS);
  if (overtaken || astray || (fault.signo == SIGTRAP && !stopping && LeavePatching())) {
    memcpy(box_->regs, &frame_.regs, sizeof(frame_.regs));
    box_->flags = kResumeRegisters;
    return Post(kCommandResume);
  }
  if (stop == Stop::kKick) kick_ = 0;
  SetState(State::kStopped);
  mu_.Unlock();
  if (id != 0) NoteContact();
  if (stop == Stop::kFault) platform_.counters().faults.fetch_add(1, std::memory_order_relaxed);
  Deliver(stop, stop == Stop::kFault ? &fault : nullptr);
}

void ThreadImpl::Deliver(Stop stop, const Fault* fault) {
  {
    Callback callback(*this);
    if (callback.ok()) platform_.client().OnFrame(*this, stop, fault);
  }
  ParkIfStopped();
}

// A thread that stays stopped waits on its mailbox word and holds nothing up.
void ThreadImpl::ParkIfStopped() {
  uint64_t id;
  bool going;
  {
    absl::MutexLock lock(&mu_);
    if (state_ != State::kStopped || !held_) return;
    held_ = false;
    going = std::exchange(going_, false);
    id = notification_;
  }
  platform_.counters().parks.fetch_add(1, std::memory_order_relaxed);
  AnswerHeld(id, going);
}

// --- notified ---

void ThreadImpl::Answer(int64_t value) {
  RefPtr<ThreadImpl> self(this);
  if (FastAnswer(value) || ShelvedDeed(Deed::kAnswer, value, nullptr)) return;
  uint64_t id, kick;
  {
    absl::MutexLock lock(&mu_);
    if (state_ != State::kNotified) return;
    SetState(State::kRunning);
    id = notification_;
    kick = kick_;
  }
  if (kick != 0) platform_.monitor().WatchKick(*this, kick);
  process_->listener().Answer(id, value);
}

void ThreadImpl::AnswerContinue(std::function<void()> done) {
  RefPtr<ThreadImpl> self(this);
  if (ShelvedDeed(Deed::kContinue, 0, done)) return;
  uint64_t id, kick;
  bool refused;
  {
    absl::MutexLock lock(&mu_);
    // It died while the client was at it.
    if (state_ == State::kGone && !dropped_) continued_ = std::move(done);
    if (state_ != State::kNotified) return;
    SetState(State::kRunning);
    id = notification_;
    kick = kick_;
    continued_ = std::move(done);
    continue_pending_ = true;
    refused = TouchesStubRegion(static_cast<uint32_t>(call_.nr), call_.args);
  }
  platform_.counters().answers_continue.fetch_add(1, std::memory_order_relaxed);
  if (kick != 0) platform_.monitor().WatchKick(*this, kick);
  if (refused) {
    process_->listener().Answer(id, -EINVAL);
  } else {
    process_->listener().Continue(id);
  }
}

void ThreadImpl::AnswerStop() { AnswerAndStop(kRestartNointr); }

void ThreadImpl::AnswerAndStop(int64_t value) {
  RefPtr<ThreadImpl> self(this);
  if (FastStop(value) || ShelvedDeed(value == kRestartNointr ? Deed::kStop : Deed::kAnswerAndStop, value, nullptr)) return;
  uint64_t id, kick;
  {
    absl::MutexLock lock(&mu_);
    if (state_ != State::kNotified) return;
    SetState(State::kRunning);
    id = notification_;
    if (kick_ == 0) kick_ = platform_.NextKick();
    kick = kick_;
  }
  // First the signal, then the answer: so the kernel finds it pending when the call returns.
  SendKick();
  platform_.monitor().WatchKick(*this, kick);
  process_->listener().Answer(id, value);
}

// --- kicks ---

void ThreadImpl::SendKick() {
  platform_.counters().kicks.fetch_add(1, std::memory_order_relaxed);
  syscall(SYS_tgkill, process_->pid(), tid_, SIGURG);
}

void ThreadImpl::Kick() {
  RefPtr<ThreadImpl> self(this);
  uint64_t kick = 0;
  {
    absl::MutexLock lock(&mu_);
    if (state_ == State::kGone || kick_ != 0) return;
    kick_ = platform_.NextKick();
    if (state_ == State::kRunning || order_ == Order::kFutex) kick = kick_;
  }
  SendKick();
  if (kick != 0) platform_.monitor().WatchKick(*this, kick);
}

uint64_t ThreadImpl::KickDue() {
  absl::MutexLock lock(&mu_);
  if (shelf_ == Shelf::kGoing) return shelf_kick_;
  bool runs = state_ == State::kRunning || (state_ == State::kOrdered && order_ == Order::kFutex);
  return runs ? kick_ : 0;
}

void ThreadImpl::ResendKick() {
  platform_.counters().kick_resends.fetch_add(1, std::memory_order_relaxed);
  SendKick();
}

// --- stopped ---

uint64_t ThreadImpl::XstateAddress() {
  uint64_t address = fpstate_;
  if (address == 0 && !process_->space().CopyRaw(context_ + offsetof(StubContext, fpstate), &address, 8, false)) return 0;
  uint64_t top = kStacksAddress + (slot_ + 1ull) * kStackSize;
  uint64_t size = platform_.xstate_layout().frame_size();
  if (address % 64 != 0 || address < context_ || address > top - size) return 0;
  return address;
}

ErrnoOr<std::span<const uint8_t>> ThreadImpl::xstate() {
  if (!xstate_valid_) {
    std::vector<uint8_t> bytes(platform_.xstate_layout().frame_size());
    uint64_t address = XstateAddress();
    if (address == 0 || !process_->space().CopyRaw(address, bytes.data(), bytes.size(), false)) return Errno(EFAULT);
    if (!platform_.xstate_layout().Loadable(bytes)) return Errno(EFAULT);
    xstate_ = std::move(bytes);
    xstate_valid_ = true;
  }
  return std::span<const uint8_t>(xstate_);
}

ErrnoOr<void> ThreadImpl::set_xstate(std::span<const uint8_t> bytes) {
  const XstateLayout& layout = platform_.xstate_layout();
  if (!layout.Loadable(bytes)) return Errno(EINVAL);
  std::vector<uint8_t> state = layout.Convert(bytes);
  uint64_t address = XstateAddress();
  if (address == 0 || !process_->space().CopyRaw(address, state.data(), state.size(), true)) return Errno(EFAULT);
  xstate_ = std::move(state);
  xstate_valid_ = true;
  return Ok();
}

void ThreadImpl::Resume() {
  RefPtr<ThreadImpl> self(this);
  mu_.Lock();
  if (state_ != State::kStopped) return mu_.Unlock();
  SetState(State::kRunning);
  StoreFrame(frame_, load_bases_);
  load_bases_ = false;
  uint64_t kick = kick_;
  if (kick != 0) {
    // The signal may have been used up by another stop; it stays pending until the frame is back.
    SendKick();
    mu_.Unlock();
    platform_.monitor().WatchKick(*this, kick);
    mu_.Lock();
    if (state_ != State::kRunning) return mu_.Unlock();
  }
  Post(kCommandResume);
}

void ThreadImpl::Release() {
  RefPtr<SpaceImpl> space;
  {
    absl::MutexLock lock(&mu_);
    if (released_) return;
    released_ = true;
    space = std::move(space_);
  }
  space.reset();
  Unref();
}

void ThreadImpl::SetFirstFrame(const Frame& frame, uint64_t context, bool load_bases) {
  frame_ = frame;
  handed_over_ = frame;
  context_ = context;
  fpstate_ = 0;
  load_bases_ = load_bases;
  xstate_valid_ = false;
}

void ThreadImpl::SetListenerOpen() {
  absl::MutexLock lock(&mu_);
  close_listener_ = true;
}

// --- death ---

bool ThreadImpl::SetGone() {
  absl::MutexLock lock(&mu_);
  SetState(State::kGone);
  return callbacks_ == 0;
}

void ThreadImpl::AwaitCallbacks() {
  absl::MutexLock lock(&mu_);
  mu_.Await(absl::Condition(+[](int* callbacks) { return *callbacks == 0; }, &callbacks_));
}

void ThreadImpl::FreeSlot() {
  {
    absl::MutexLock lock(&mu_);
    if (std::exchange(slot_freed_, true)) return;
    if (in_watch_) {
      slot_owed_ = true;
      return;
    }
  }
  process_->space().FreeSlot(slot_);
}

bool ThreadImpl::BeginWatch() {
  absl::MutexLock lock(&mu_);
  return !slot_freed_ && !std::exchange(in_watch_, true);
}

void ThreadImpl::EndWatch() {
  {
    absl::MutexLock lock(&mu_);
    in_watch_ = false;
    if (!std::exchange(slot_owed_, false)) return;
  }
  process_->space().FreeSlot(slot_);
}

bool ThreadImpl::released() {
  absl::MutexLock lock(&mu_);
  return released_;
}

bool ThreadImpl::gone() {
  absl::MutexLock lock(&mu_);
  return state_ == State::kGone;
}

void ThreadImpl::DropOrders() {
  std::function<void()> continued;
  std::unique_ptr<Birth> birth;
  uint64_t nonce;
  {
    absl::MutexLock lock(&mu_);
    birth = std::move(birth_);
    continued = std::exchange(continued_, nullptr);
    // Or it was still to be asked for, by the guest's own call or at the frame of a shelved one.
    if (deed_ == Deed::kContinue && deed_done_) continued = std::exchange(deed_done_, nullptr);
    continue_pending_ = false;
    dropped_ = true;
    nonce = std::exchange(nonce_, 0);
  }
  // Callbacks of orders are dropped: the death that is reported now stands for them.
  ops_callback_ = nullptr;
  clone_callback_ = nullptr;
  futex_callback_ = nullptr;
  if (continued && !platform_.stopping()) continued();
  continued = nullptr;
  if (nonce != 0) DropBirth(nonce);
  FreeCloneSlot();
  if (birth != nullptr) birth->parent->FinishBirth(birth->nonce, Errno(EAGAIN));
}

uint64_t ThreadImpl::OrderInFlight() {
  absl::MutexLock lock(&mu_);
  return state_ == State::kOrdered && order_ != Order::kFutex ? order_count_ : 0;
}

}  // namespace amber::platform
