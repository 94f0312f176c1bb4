// Shelved calls: notified calls that wait without an outstanding notification. See thread_impl.h.
#include <errno.h>
#include <signal.h>
#include <sys/syscall.h>

#include <algorithm>
#include <utility>

#include "sentry/platform/listener.h"
#include "sentry/platform/platform_impl.h"
#include "sentry/platform/thread_impl.h"

namespace amber::platform {
namespace {

constexpr int64_t kRestartNointr = -513;

}  // namespace

// Called when the client left a call unanswered. Costs a kick and a hand-over, so only where many
// calls wait.
void ThreadImpl::ShelveIfCrowded() {
  Listener& listener = process_->listener();
  if (!listener.Crowded()) return;
  uint64_t id, kick;
  {
    absl::MutexLock lock(&mu_);
    if (state_ != State::kNotified || shelf_ != Shelf::kNo || fast_ != Fast::kNo || call_.instruction_pointer >= kGuestTop) return;
    shelf_ = Shelf::kGoing;
    deed_ = Deed::kNone;
    shelf_kick_ = kick = platform_.NextKick();
    id = notification_;
    outstanding_ = false;
    listener.CountOutstanding(-1);
  }
  platform_.counters().parks.fetch_add(1, std::memory_order_relaxed);
  // As in AnswerStop(): the kernel finds the signal pending and rewinds the call.
  SendKick();
  platform_.monitor().WatchKick(*this, kick);
  listener.Answer(id, kRestartNointr);
}

// The frame of a call that is being shelved; false if it is anything else.
bool ThreadImpl::OnShelfContact(uint64_t id, uint64_t context) {
  if (shelf_ != Shelf::kGoing || released_ || !ContextOk(context) || box_->signo != SIGURG) return false;
  context_ = context;
  notification_ = id;
  held_ = id != 0;
  LoadFrame();
  shelf_ = Shelf::kThere;
  return true;
}

// If the call is shelved: notes what the client wants done with it, and does it if the frame is
// there. False if not.
bool ThreadImpl::ShelvedDeed(Deed deed, int64_t value, std::function<void()> done) {
  bool there;
  DropFastMemory(/*write=*/true);
  {
    absl::MutexLock lock(&mu_);
    if (state_ != State::kNotified || (shelf_ == Shelf::kNo && fast_ == Fast::kNo)) return false;
    if (deed_ != Deed::kNone) return true;  // one answer only
    // More than a value is wanted: the guest has to make the call itself first.
    if (fast_ == Fast::kTaken) Redo();
    deed_ = deed;
    deed_value_ = value;
    deed_done_ = std::move(done);
    there = shelf_ == Shelf::kThere;
  }
  if (there) DoDeed();
  return true;
}

// The frame is there. Does what the client answered; if it did not answer yet the thread is parked.
void ThreadImpl::DoDeed() {
  Deed deed;
  std::function<void()> done;
  StubOp call = {};
  {
    absl::MutexLock lock(&mu_);
    if (state_ != State::kNotified || shelf_ != Shelf::kThere) return;
    deed = std::exchange(deed_, Deed::kNone);
    if (deed == Deed::kNone) {
      if (std::exchange(held_, false)) process_->listener().Answer(notification_, 0);
      return;
    }
    done = std::exchange(deed_done_, nullptr);
    shelf_ = Shelf::kNo;
    SetState(State::kStopped);
    if (deed == Deed::kAnswer || deed == Deed::kAnswerAndStop || deed == Deed::kContinue) {
      frame_.regs.rip = call_.instruction_pointer;
      frame_.regs.rax = static_cast<uint64_t>(deed_value_);
    }
    call.number = static_cast<uint32_t>(call_.nr);
    std::copy(std::begin(call_.args), std::end(call_.args), call.args);
    if (deed == Deed::kStop || deed == Deed::kAnswerAndStop) kick_ = 0;
    if (deed == Deed::kContinue) continued_ = std::move(done);  // runs, too, if the thread ends before
  }
  if (deed == Deed::kAnswer) return Resume();
  if (deed == Deed::kExit) return Exit();
  if (deed == Deed::kContinue) {
    return RunOps({call}, [this](std::span<const int64_t> results) {
      std::function<void()> continued;
      {
        absl::MutexLock lock(&mu_);
        continued = std::exchange(continued_, nullptr);
      }
      if (continued) continued();
      frame_.regs.rax = static_cast<uint64_t>(results[0]);
      Resume();
    });
  }
  // Not inside the client's call.
  if (!platform_.workers().Run([self = RefPtr<ThreadImpl>(this)] { self->Deliver(Stop::kKick, nullptr); })) {
    process_->Kill();
  }
}

}  // namespace amber::platform
