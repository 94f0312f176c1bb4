// The guest's clocks and the timers that follow them.
//
// Guest CLOCK_MONOTONIC and CLOCK_BOOTTIME are the host's plus an offset that makes them go on where a checkpoint stopped
// them; CLOCK_REALTIME is the host's. Times are nanoseconds, guest time unless a name says "host".
#pragma once

#include <time.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <thread>

namespace amber {

inline constexpr int64_t kNever = INT64_MAX;
inline constexpr int64_t kNsPerSecond = 1'000'000'000;

class Clocks {
 public:
  int64_t Monotonic() const;
  int64_t Realtime() const;
  int64_t Boottime() const;
  // Host CLOCK_MONOTONIC for a guest monotonic time.
  int64_t ToHostMonotonic(int64_t guest_ns) const { return guest_ns == kNever ? kNever : guest_ns - monotonic_offset_; }
  int64_t monotonic_offset() const { return monotonic_offset_; }
  int64_t boottime_offset() const { return boottime_offset_; }
  // At restore: the clocks go on from these values.
  void Continue(int64_t monotonic, int64_t boottime);

 private:
  int64_t monotonic_offset_ = 0;
  int64_t boottime_offset_ = 0;
};

class TimerQueue;

// A callback at a time. Guarded by the kernel lock; unlinks itself when destroyed.
class Timer {
 public:
  explicit Timer(std::function<void()> callback) : callback_(std::move(callback)) {}
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  ~Timer() { Cancel(); }

  // Calls back once guest CLOCK_MONOTONIC reaches `deadline`; replaces an earlier deadline. kNever cancels.
  void Arm(TimerQueue& queue, int64_t deadline);
  void Cancel();
  bool armed() const { return queue_ != nullptr; }
  int64_t deadline() const { return deadline_; }

 private:
  friend class TimerQueue;
  std::function<void()> callback_;
  TimerQueue* queue_ = nullptr;
  int64_t deadline_ = kNever;
  std::multimap<int64_t, Timer*>::iterator position_;
};

// All armed timers of the kernel, and the host thread that runs them under the kernel lock.
class TimerQueue {
 public:
  // `run` takes the kernel lock, calls RunDue() and drains what became runnable.
  TimerQueue(const Clocks& clocks, std::function<void()> run);
  ~TimerQueue();
  TimerQueue(const TimerQueue&) = delete;
  TimerQueue& operator=(const TimerQueue&) = delete;

  // Runs the callbacks whose time has come. Kernel lock held.
  void RunDue();
  // Tells the thread that deadlines or clocks changed.
  void Reprogram();

 private:
  friend class Timer;
  void Loop();

  const Clocks& clocks_;
  std::function<void()> run_;
  int host_timer_ = -1;
  int64_t programmed_ = kNever;
  std::atomic<bool> stopping_{false};
  std::multimap<int64_t, Timer*> timers_;
  std::thread thread_;
};

}  // namespace amber
