// A timer behind a descriptor (timerfd_create(2), fs/timerfd.c). Guarded by the kernel lock.
#pragma once

#include <time.h>

#include <cstdint>
#include <memory>

#include "sentry/kernel/clock.h"
#include "sentry/vfs/file.h"

namespace amber {

class Kernel;

class TimerFd final : public File {
 public:
  TimerFd();  // for Load()
  // `clock`: CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME or one of the two ALARM clocks.
  TimerFd(Kernel& kernel, int clock, int flags);
  ~TimerFd() override;

  int clock() const { return clock_; }
  // Arms for `value` ns (0 disarms), relative to now or, with TFD_TIMER_ABSTIME in `flags`, on the clock.
  void Set(int flags, int64_t value, int64_t interval);
  struct Setting {
    int64_t remaining;  // 0: not armed
    int64_t interval;
  };
  Setting Get();

  ErrnoOr<size_t> Read(Task& task, Sink& sink) override;
  ErrnoOr<uint64_t> Ioctl(Task& task, uint32_t command, uint64_t argument) override;
  ErrnoOr<void> Stat(Task& task, struct stat* out) override;
  uint32_t Poll(Task& task) override;
  WaitQueue* wait_queue() override { return &queue_; }
  bool pollable() const override { return true; }
  std::string LinkName() const override { return "anon_inode:[timerfd]"; }
  std::string FdInfo() const override;

  state::Kind kind() const override { return state::Kind::kTimerFd; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 private:
  // Now on the timer's own clock.
  int64_t Now() const;
  // It wants to know when somebody sets its clock (TFD_TIMER_CANCEL_ON_SET).
  bool may_be_canceled() const;
  // Counts what has expired by now and arms the timer for what comes next.
  void Update();

  Kernel* kernel_ = nullptr;
  int clock_ = CLOCK_MONOTONIC;
  int settime_flags_ = 0;
  int64_t next_ = kNever;  // on the timer's clock
  int64_t interval_ = 0;
  uint64_t ticks_ = 0;
  bool canceled_ = false;  // the clock was set, and nobody has read it since
  Timer timer_;
  WaitQueue queue_;
};

}  // namespace amber
