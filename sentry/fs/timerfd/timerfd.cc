#include "sentry/fs/timerfd/timerfd.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <sys/timerfd.h>

#include <cstdio>
#include <utility>

#include "sentry/fs/anon/anon.h"
#include "sentry/fs/timerfd/timerfd.pb.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"

namespace amber {
namespace {

constexpr uint32_t kSetTicks = _IOW('T', 0, uint64_t);  // TFD_IOC_SET_TICKS of linux/timerfd.h, which clashes with the C library

// a + b without overflow, for positive b.
int64_t AddSaturated(int64_t a, int64_t b) {
  int64_t sum = 0;
  return __builtin_add_overflow(a, b, &sum) ? kNever : sum;
}

}  // namespace

TimerFd::TimerFd() : timer_([this] { Update(); }) {}
TimerFd::TimerFd(Kernel& kernel, int clock, int flags) : TimerFd() {
  kernel_ = &kernel;
  clock_ = clock;
  set_flags(O_RDWR | flags);
}
TimerFd::~TimerFd() = default;

int64_t TimerFd::Now() const {
  switch (clock_) {
    case CLOCK_REALTIME:
    case CLOCK_REALTIME_ALARM: return kernel_->clocks().Realtime();
    case CLOCK_BOOTTIME:
    case CLOCK_BOOTTIME_ALARM: return kernel_->clocks().Boottime();
    default: return kernel_->clocks().Monotonic();
  }
}

bool TimerFd::may_be_canceled() const {
  constexpr int kBoth = TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET;
  return (clock_ == CLOCK_REALTIME || clock_ == CLOCK_REALTIME_ALARM) && (settime_flags_ & kBoth) == kBoth;
}

void TimerFd::Set(int flags, int64_t value, int64_t interval) {
  settime_flags_ = flags;
  ticks_ = 0;
  canceled_ = false;
  interval_ = interval;
  next_ = kNever;
  // One that will never expire is armed all the same.
  if (value != 0) next_ = std::min((flags & TFD_TIMER_ABSTIME) != 0 ? value : AddSaturated(Now(), value), kNever - 1);
  Update();
}

TimerFd::Setting TimerFd::Get() {
  Update();
  // An armed timer never reads as 0, which would mean disarmed.
  return {next_ == kNever ? 0 : std::max<int64_t>(next_ - Now(), 1), interval_};
}

void TimerFd::Update() {
  int64_t now = Now();
  uint64_t before = ticks_;
  if (next_ <= now) {
    if (interval_ > 0) {
      int64_t passed = (now - next_) / interval_ + 1;
      ticks_ += static_cast<uint64_t>(passed);
      int64_t step = 0;
      next_ = __builtin_mul_overflow(passed, interval_, &step) ? kNever : AddSaturated(next_, step);
    } else {
      ++ticks_;
      next_ = kNever;
    }
  }
  // A timer that nobody reads stands still until somebody does (timerfd_tmrproc), or one of a nanosecond would keep the kernel busy for ever.
  if (next_ == kNever || ticks_ > 0) {
    timer_.Cancel();
  } else {
    timer_.Arm(kernel_->timers(), AddSaturated(kernel_->clocks().Monotonic(), next_ - now));
  }
  if (ticks_ != before) queue_.Notify(POLLIN | POLLRDNORM);
}

ErrnoOr<size_t> TimerFd::Read(Task&, Sink& sink) {
  if (sink.remaining() < sizeof(uint64_t)) return Errno(EINVAL);
  Update();
  if (ticks_ == 0) return Errno(EAGAIN);
  uint64_t ticks = std::exchange(ticks_, 0);
  Update();
  if (std::exchange(canceled_, false)) {
    ticks_ = 0;
    return Errno(ECANCELED);
  }
  if (TRY(sink.Put(&ticks, sizeof(ticks))) != sizeof(ticks)) return Errno(EFAULT);
  return sizeof(ticks);
}

ErrnoOr<uint64_t> TimerFd::Ioctl(Task& task, uint32_t command, uint64_t argument) {
  if (command != kSetTicks) return Errno(ENOTTY);
  uint64_t ticks = TRY(task.CopyIn(UserPtr<const uint64_t>(argument)));
  if (ticks == 0) return Errno(EINVAL);
  ticks_ = ticks;
  Update();
  queue_.Notify(POLLIN | POLLRDNORM);
  return uint64_t{0};
}

ErrnoOr<void> TimerFd::Stat(Task&, struct stat* out) {
  FillAnonStat(out, kAnonMinor, 1, 0600);
  return Ok();
}

uint32_t TimerFd::Poll(Task&) { return ticks_ > 0 ? POLLIN | POLLRDNORM : 0; }

std::string TimerFd::FdInfo() const {
  int64_t left = next_ == kNever ? 0 : std::max<int64_t>(next_ - Now(), 0);
  char text[256];
  auto s = [](int64_t ns) { return static_cast<long long>(ns / kNsPerSecond); };
  auto n = [](int64_t ns) { return static_cast<long long>(ns % kNsPerSecond); };
  snprintf(text, sizeof(text), "clockid: %d\nticks: %llu\nsettime flags: 0%o\nit_value: (%lld, %lld)\nit_interval: (%lld, %lld)\n", clock_,
           static_cast<unsigned long long>(ticks_), static_cast<unsigned>(settime_flags_), s(left), n(left), s(interval_), n(interval_));
  return text;
}

std::string TimerFd::Save(state::Saver&) const {
  proto::TimerFd m;
  m.set_clock(clock_);
  m.set_flags(static_cast<uint32_t>(flags()));
  m.set_next(next_);
  m.set_interval(interval_);
  m.set_ticks(ticks_);
  m.set_settime_flags(static_cast<uint32_t>(settime_flags_));
  m.set_canceled(canceled_);
  return m.SerializeAsString();
}

bool TimerFd::Load(state::Loader&, std::string_view bytes) {
  proto::TimerFd m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return false;
  if (m.interval() < 0 || m.next() < 0) return false;
  clock_ = m.clock();
  set_flags(static_cast<int>(m.flags()));
  next_ = m.next() == 0 ? kNever : m.next();
  interval_ = m.interval();
  ticks_ = m.ticks();
  settime_flags_ = static_cast<int>(m.settime_flags());
  canceled_ = m.canceled();
  return true;
}

bool TimerFd::AfterLoad(state::Loader& loader) {
  kernel_ = loader.Get<Kernel>(1);
  if (kernel_ == nullptr) return false;
  // A guest cannot set the clock, but while it was an image CLOCK_REALTIME went on alone, as it does while a machine sleeps (timerfd_resume()).
  if (may_be_canceled()) {
    canceled_ = true;
    ++ticks_;
  }
  Update();
  return true;
}

}  // namespace amber
