// Calls of the fast path. See watcher.h, fast_sites.h, stub_fast.cc; the states of a call are in stub_abi.h.
//
// A posted call that was taken is, to the client, a notified call like any other. If the client answers while it handles it, the answer goes
// into the mailbox. If not (the call blocks, or wants more than a value), the guest is told to make the call itself; when the notification
// arrives it is the same call still, and what the client decided meanwhile is done to it. So nothing runs twice.
#include <errno.h>
#include <signal.h>
#include <string.h>

#include <utility>

#include "sentry/platform/fast_sites.h"
#include "sentry/platform/listener.h"
#include "sentry/platform/platform_impl.h"
#include "sentry/platform/stub_text.h"
#include "sentry/platform/thread_impl.h"

namespace amber::platform {
namespace {

constexpr int64_t kRestartNointr = -513;
constexpr size_t kSiblings = 4;  // of a thread that is to be watched: watched, too

uint32_t StateOf(const FastCall& call) { return __atomic_load_n(&call.state, __ATOMIC_ACQUIRE); }

void SetStateOf(FastCall& call, uint32_t state) { __atomic_store_n(&call.state, state, __ATOMIC_RELEASE); }

}  // namespace

uint64_t ThreadImpl::MailboxAddress() const { return kWindowAddress + offsetof(Window, mailboxes) + slot_ * sizeof(Mailbox); }

uint64_t ThreadImpl::FastMemoryAddress() const { return kWindowAddress + offsetof(Window, memory) + slot_ * sizeof(FastMemory); }

void ThreadImpl::SetWatched(bool on) {
  if (on) box_->fast.memory = FastMemoryAddress();
  __atomic_store_n(&box_->fast.watching, on ? 1u : 0u, __ATOMIC_SEQ_CST);
}

void ThreadImpl::SetWaits(bool on) { __atomic_store_n(&box_->fast.waits, on ? 1u : 0u, __ATOMIC_RELAXED); }

bool ThreadImpl::IsServed() {
  absl::MutexLock lock(&mu_);
  return callbacks_ > 0;
}

bool ThreadImpl::IsWatched() const { return __atomic_load_n(&box_->fast.watching, __ATOMIC_RELAXED) != 0; }

ThreadImpl::Fast ThreadImpl::TakePosted() {
  Fast taken = TakeFast();
  if (taken != Fast::kNo) return taken;
  return TakeContact() ? Fast::kTaken : Fast::kNo;
}

// A stub that hands over while its mailbox is watched posts the contact instead of making the call. From here on it is the same; only
// that there is no notification to answer: the order word is all that the stub looks at.
bool ThreadImpl::TakeContact() {
  FastCall& fast = box_->fast;
  uint32_t kind = __atomic_load_n(&fast.contact, __ATOMIC_ACQUIRE);
  if (kind == 0) return false;
  {
    absl::MutexLock lock(&mu_);
    if (state_ == State::kGone) return false;  // the mailbox may be another thread's by now
    if (!__atomic_compare_exchange_n(&fast.contact, &kind, 0u, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) return false;
  }
  uint64_t context = __atomic_load_n(&fast.context, __ATOMIC_RELAXED);
  platform_.counters().posted_contacts.fetch_add(1, std::memory_order_relaxed);
  if (BeginContact() != State::kGone) OnContact(0, kind, context);
  return true;
}

ThreadImpl::Fast ThreadImpl::TakeFast() {
  FastCall& fast = box_->fast;
  if (StateOf(fast) != kFastPosted) return Fast::kNo;
  Syscall call = {};
  std::function<void()> continued;
  {
    absl::MutexLock lock(&mu_);
    // Only a forger posts while its thread does something else.
    if (state_ != State::kRunning || released_ || shelf_ != Shelf::kNo) return Fast::kNo;
    uint32_t posted = kFastPosted;
    if (!__atomic_compare_exchange_n(&fast.state, &posted, kFastTaken, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) return Fast::kNo;
    // Copied once: the guest can write here at any time.
    call.number = __atomic_load_n(&fast.number, __ATOMIC_RELAXED);
    for (int i = 0; i < 6; i++) call.args[i] = __atomic_load_n(&fast.args[i], __ATOMIC_RELAXED);
    call.ip = __atomic_load_n(&fast.behind, __ATOMIC_RELAXED);
    if (!FastCallable(static_cast<uint32_t>(call.number)) || call.ip >= kGuestTop) {
      SetStateOf(fast, kFastRedo);
      return Fast::kRedo;
    }
    fast_ = Fast::kTaken;
    call_ = {};
    call_.nr = static_cast<int>(call.number);
    call_.instruction_pointer = call.ip;
    memcpy(call_.args, call.args, sizeof(call.args));
    gone_ahead_ = false;
    if (continue_pending_) {
      continue_pending_ = false;
      continued = std::exchange(continued_, nullptr);
    }
    SetState(State::kNotified);
  }
  platform_.counters().fast_calls.fetch_add(1, std::memory_order_relaxed);
  {
    Callback callback(*this);
    if (continued) continued();
    BeginFastMemory();
    if (callback.ok()) platform_.client().OnSyscall(*this, call);
    DropFastMemory(/*write=*/true);
  }
  absl::MutexLock lock(&mu_);
  if (state_ != State::kNotified || fast_ != Fast::kTaken) return fast_ == Fast::kRedo ? Fast::kRedo : Fast::kTaken;
  Redo();
  return Fast::kRedo;
}

// The guest is to make the call itself.
void ThreadImpl::Redo() {
  platform_.counters().fast_redone.fetch_add(1, std::memory_order_relaxed);
  fast_ = Fast::kRedo;
  SetStateOf(box_->fast, kFastRedo);
}

// Answers a taken call in its mailbox. False if this is not one.
bool ThreadImpl::FastAnswer(int64_t value) {
  uint64_t kick;
  {
    absl::MutexLock lock(&mu_);
    if (state_ != State::kNotified || fast_ != Fast::kTaken) return false;
    fast_ = Fast::kNo;
    kick = kick_;
    SetState(State::kRunning);
    GiveFastMemory();
    __atomic_store_n(&box_->fast.result, value, __ATOMIC_RELAXED);
    SetStateOf(box_->fast, kFastDone);
  }
  if (kick != 0) platform_.monitor().WatchKick(*this, kick);
  return true;
}

// Answers a taken call whose thread is to stop: it does by itself, without a signal from here. False if this is not one.
bool ThreadImpl::FastStop(int64_t value) {
  DropFastMemory(/*write=*/true);
  uint64_t kick;
  {
    absl::MutexLock lock(&mu_);
    if (state_ != State::kNotified || fast_ != Fast::kTaken) return false;
    fast_ = Fast::kStopping;
    fast_value_ = value;
    if (kick_ == 0) kick_ = platform_.NextKick();
    kick = kick_;
    SetState(State::kRunning);
    SetStateOf(box_->fast, kFastStop);
  }
  platform_.monitor().WatchKick(*this, kick);
  return true;
}

// The frame of a thread that was told to stop is there: it is put behind its call, or before it if that was undone.
void ThreadImpl::LeaveStopping() {
  bool undone = fast_value_ == kRestartNointr;
  frame_.regs.rip = call_.instruction_pointer - (undone ? 2 : 0);
  frame_.regs.rax = undone ? static_cast<uint32_t>(call_.nr) : static_cast<uint64_t>(fast_value_);
  fast_ = Fast::kNo;
  SetStateOf(box_->fast, kFastIdle);
}

// A call that the guest was told to make itself has arrived.
bool ThreadImpl::BindFast(uint64_t id, const seccomp_data& data) {
  Deed deed;
  int64_t value;
  std::function<void()> done;
  {
    absl::MutexLock lock(&mu_);
    if (state_ != State::kNotified || fast_ != Fast::kRedo || shelf_ != Shelf::kNo) return false;
    if (data.nr != call_.nr || data.instruction_pointer != call_.instruction_pointer || memcmp(data.args, call_.args, sizeof(data.args)) != 0) {
      return false;
    }
    fast_ = Fast::kNo;
    notification_ = id;
    SetState(State::kNotified);  // counts it
    deed = std::exchange(deed_, Deed::kNone);
    value = deed_value_;
    done = std::exchange(deed_done_, nullptr);
  }
  switch (deed) {
    case Deed::kNone: break;
    case Deed::kAnswer: Answer(value); break;
    case Deed::kStop: AnswerStop(); break;
    case Deed::kAnswerAndStop: AnswerAndStop(value); break;
    case Deed::kContinue: AnswerContinue(std::move(done)); break;
    case Deed::kExit: Exit(); break;
  }
  return true;
}

// A kick came while a call was taken, or on its way back to be made by the guest: the thread is put before its `syscall` instruction and
// the call is shelved there, see thread_shelf.cc.
bool ThreadImpl::OnFastContact(uint64_t id, uint64_t context) {
  if (fast_ == Fast::kNo || shelf_ != Shelf::kNo || released_ || !ContextOk(context) || box_->signo != SIGURG) return false;
  context_ = context;
  notification_ = id;
  held_ = id != 0;
  LoadFrame();
  frame_.regs.rip = call_.instruction_pointer - 2;
  frame_.regs.rax = static_cast<uint32_t>(call_.nr);
  fast_ = Fast::kNo;
  SetStateOf(box_->fast, kFastIdle);
  shelf_ = Shelf::kThere;
  return true;
}

// A thread that stopped inside the fast path's code leaves it: it is as if it were before its `syscall` instruction, or behind it if the
// answer is there. What the mailbox says is the guest's word, about its own registers.
bool ThreadImpl::LeaveFastCode() {
  Registers& regs = frame_.regs;
  if (regs.rip == kFastEntry) regs.rip = StubAddress(stub_fast_start);
  if (regs.rip < StubAddress(stub_fast_start) || regs.rip >= StubAddress(stub_fast_end)) return false;
  FastCall& fast = box_->fast;
  uint64_t behind = __atomic_load_n(&fast.behind, __ATOMIC_RELAXED);
  uint64_t number = __atomic_load_n(&fast.number, __ATOMIC_RELAXED);
  uint64_t rip = regs.rip;
  if (rip >= StubAddress(stub_fast_ask)) return LeaveActions(behind);
  bool gathers = rip >= StubAddress(stub_fast_gather) && rip < StubAddress(stub_fast_posted);
  bool scatters = rip >= StubAddress(stub_fast_scatter) && rip < StubAddress(stub_fast_scattered);
  if (gathers || scatters) {
    regs.rdi = __atomic_load_n(&fast.args[0], __ATOMIC_RELAXED);
    regs.rsi = __atomic_load_n(&fast.args[1], __ATOMIC_RELAXED);
  }
  if (gathers) {
    regs.rax = number;
    regs.rip = behind - 2;
    return true;
  }
  if (rip < StubAddress(stub_fast_posted) || (rip >= StubAddress(stub_fast_given_up) && rip < StubAddress(stub_fast_taken))) {
    regs.rip = regs.rcx - 2;
    return false;
  }
  uint32_t state = StateOf(fast);
  bool answered_part = rip >= StubAddress(stub_fast_answered) && rip < StubAddress(stub_fast_redo);
  SetStateOf(fast, kFastIdle);
  if (state == kFastDone) {
    regs.rax = static_cast<uint64_t>(__atomic_load_n(&fast.result, __ATOMIC_RELAXED));
    regs.rip = behind;
    // Its memory went away between answer and copy.
    if (!FinishFastMemory()) regs.rax = static_cast<uint64_t>(-EFAULT);
  } else if (state == kFastIdle && answered_part) {
    regs.rip = behind;  // rax is loaded
  } else {
    regs.rax = number;
    regs.rip = behind - 2;
  }
  return scatters;
}

// A thread met the breakpoint of a patch being written: it goes on with what is there now. True if that was it.
bool ThreadImpl::LeavePatching() {
  FastSites* sites = process_->space().fast_sites();
  uint64_t address = frame_.regs.rip - 1;
  if (sites == nullptr || !sites->IsPatched(address + 7)) return false;
  uint8_t now = 0xcc;
  if (!process_->space().CopyRaw(address, &now, 1, false) || now == 0xcc) return false;
  frame_.regs.rip = address;
  return true;
}

// Counts a call of the base path; true if whoever handles it should watch afterwards.
bool ThreadImpl::NoteSite(const seccomp_data& data) {
  FastSites* sites = process_->space().fast_sites();
  if (sites == nullptr) return false;
  // Calls that are never posted are no reason to watch, and none against it.
  if (!FastCallable(static_cast<uint32_t>(data.nr))) return false;
  if (!sites->Note(process_->space(), process_->pid(), data, process_->IsAlone())) {
    process_->NoteOtherCall();
    return false;
  }
  return NoteClose();
}

// The same for a contact that came by a notification.
void ThreadImpl::NoteContact() {
  if (process_->space().fast_sites() != nullptr && NoteClose()) process_->listener().WatchAfterwards();
}

// Its calls are made at sites that are patched already, and a thread is as busy as the one that made it. A process is about to exec, for which
// posix_spawn(3) of glibc alone makes 128 calls.
void ThreadImpl::WatchFromBirth(const ThreadImpl& parent) {
  if (process_->space().fast_sites() == nullptr) return;
  if (parent.IsWatched()) return platform_.watcher().Join(*this);
  if (process_ == parent.process_) return;
  if (platform_.watcher().Consider(*this, process_->listener().watch_credit(), WatchClock())) process_->listener().WatchAfterwards();
}

bool ThreadImpl::NoteClose() {
  constexpr int kStreak = 6;
  int64_t now = WatchClock();
  if (process_->NoteCall(now) < kStreak || !platform_.watcher().Consider(*this, process_->listener().watch_credit(), now)) return false;
  // Whoever it waits for may be the next to call.
  for (const RefPtr<ThreadImpl>& other : process_->threads(kSiblings)) {
    if (other.get() != this) platform_.watcher().Join(*other);
  }
  return true;
}

}  // namespace amber::platform
