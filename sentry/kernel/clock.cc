#include "sentry/kernel/clock.h"

#include <poll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>

#include "sentry/base/check.h"

namespace amber {
namespace {

int64_t HostNow(clockid_t clock) {
  timespec ts;
  clock_gettime(clock, &ts);
  return ts.tv_sec * kNsPerSecond + ts.tv_nsec;
}

// While a queue runs its due timers, on this thread: the time of the round. What is armed for it or before comes in the next round, so that no
// callback can keep the kernel lock for ever.
thread_local int64_t round_time = INT64_MIN;

}  // namespace

int64_t Clocks::Monotonic() const { return HostNow(CLOCK_MONOTONIC) + monotonic_offset_; }
int64_t Clocks::Realtime() const { return HostNow(CLOCK_REALTIME); }
int64_t Clocks::Boottime() const { return HostNow(CLOCK_BOOTTIME) + boottime_offset_; }

void Clocks::Continue(int64_t monotonic, int64_t boottime) {
  monotonic_offset_ = monotonic - HostNow(CLOCK_MONOTONIC);
  boottime_offset_ = boottime - HostNow(CLOCK_BOOTTIME);
}

void Timer::Arm(TimerQueue& queue, int64_t deadline) {
  Cancel();
  if (deadline == kNever) return;
  deadline = std::max(deadline, round_time);
  deadline_ = deadline;
  queue_ = &queue;
  position_ = queue.timers_.emplace(deadline, this);
  if (position_ == queue.timers_.begin()) queue.Reprogram();
}

void Timer::Cancel() {
  if (queue_ == nullptr) return;
  queue_->timers_.erase(position_);
  queue_ = nullptr;
  deadline_ = kNever;
}

TimerQueue::TimerQueue(const Clocks& clocks, std::function<void()> run)
    : clocks_(clocks), run_(std::move(run)), host_timer_(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC)) {
  AMBER_CHECK(host_timer_ >= 0);
  thread_ = std::thread([this] { Loop(); });
}

TimerQueue::~TimerQueue() {
  stopping_.store(true);
  itimerspec now{};
  now.it_value.tv_nsec = 1;
  timerfd_settime(host_timer_, 0, &now, nullptr);
  thread_.join();
  close(host_timer_);
}

void TimerQueue::Loop() {
  while (!stopping_.load()) {
    uint64_t expirations;
    if (read(host_timer_, &expirations, sizeof(expirations)) != sizeof(expirations)) continue;
    if (!stopping_.load()) run_();
  }
}

void TimerQueue::RunDue() {
  // Callbacks arm and cancel timers: look at the first one anew each time.
  int64_t now = clocks_.Monotonic();
  round_time = now + 1;
  while (!timers_.empty() && timers_.begin()->first <= now) {
    Timer* timer = timers_.begin()->second;
    timers_.erase(timers_.begin());
    timer->queue_ = nullptr;
    timer->deadline_ = kNever;
    timer->callback_();
  }
  round_time = INT64_MIN;
  programmed_ = kNever;
  Reprogram();
}

void TimerQueue::Reprogram() {
  if (timers_.empty()) return;  // a spurious expiry is harmless
  int64_t first = timers_.begin()->first;
  // Timers that are as good as never are as far away as times go.
  int64_t host;
  if (__builtin_sub_overflow(first, clocks_.monotonic_offset(), &host)) host = kNever;
  if (host == programmed_) return;
  programmed_ = host;
  if (host <= 0) host = 1;  // zero would disarm
  itimerspec spec{};
  spec.it_value.tv_sec = host / kNsPerSecond;
  spec.it_value.tv_nsec = host % kNsPerSecond;
  AMBER_CHECK(timerfd_settime(host_timer_, TFD_TIMER_ABSTIME, &spec, nullptr) == 0);
}

}  // namespace amber
