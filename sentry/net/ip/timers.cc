#include "sentry/net/ip/timers.h"

namespace amber::net {

void NetTimers::RunDue(int64_t now) {
  armed_ = kNoDeadline;
  while (!timers_.empty() && timers_.begin()->first <= now) {
    NetTimer* timer = timers_.begin()->second;
    timers_.erase(timers_.begin());
    timer->timers_ = nullptr;
    timer->callback_();
  }
  if (earliest() < armed_) arm_(armed_ = earliest());
}

void NetTimer::ArmBy(NetTimers& timers, int64_t deadline) {
  if (deadline == kNoDeadline) return;
  if (timers_ != nullptr) {
    if (deadline_ <= deadline) return;
    Cancel();
  }
  deadline_ = deadline;
  timers_ = &timers;
  position_ = timers.timers_.emplace(deadline, this);
  if (deadline < timers.armed_) timers.arm_(timers.armed_ = deadline);
}

void NetTimer::Cancel() {
  if (timers_ == nullptr) return;
  timers_->timers_.erase(position_);
  timers_ = nullptr;
}

}  // namespace amber::net
