// Timers on processor time: ITIMER_VIRTUAL, ITIMER_PROF, RLIMIT_CPU, and the clocks of POSIX timers that count it.
//
// The host has no timer on another process's processor time, so these look when it may have come: n running threads cannot use more
// than n times the wall clock. A process that sleeps is looked at ever more seldom. All processor time counts as user time.
//
// Owned by GroupExtras and PosixTimers. Guarded by the kernel lock.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>

#include "sentry/kernel/clock.h"

namespace amber {

class Task;
class ThreadGroup;

// a + b, for b >= 0; kNever where that is beyond the end of time.
inline int64_t SaturatedSum(int64_t a, int64_t b) {
  int64_t sum;
  return __builtin_add_overflow(a, b, &sum) ? kNever : sum;
}

// When to look again.
class CpuPoll {
 public:
  // ns of wall clock until a process with `threads` running threads, which has used `now`, may have used `target`.
  int64_t Delay(int64_t now, int64_t target, size_t threads);

 private:
  int64_t last_ = -1;
  int64_t idle_ = 0;
};

// The thread that uses the processor: signals of timers on a process's time go to the one that was running then (complete_signal()).
class BusiestThread {
 public:
  // The one that has used most since the last call; null if there is only one.
  Task* Find(const ThreadGroup& group);

 private:
  std::map<int, int64_t> used_;  // by thread id
};

// One timer on the processor time of a process.
class CpuTimer {
 public:
  // `expired` is called with the busiest thread; it may Set() again.
  CpuTimer(ThreadGroup& group, std::function<void(Task*)> expired);

  // At `target` of the process's time (kNever: disarms), then every `interval` if that is not 0.
  void Set(int64_t target, int64_t interval);
  int64_t target() const { return target_; }
  int64_t interval() const { return interval_; }
  void Cancel() { timer_.Cancel(); }

 private:
  void Look();

  ThreadGroup& group_;
  std::function<void(Task*)> expired_;
  Timer timer_;
  int64_t target_ = kNever, interval_ = 0;
  CpuPoll poll_;
  BusiestThread busiest_;
};

// The three that a process may have.
class CpuTimers {
 public:
  explicit CpuTimers(ThreadGroup& group);

  CpuTimer& virtual_timer() { return virtual_; }
  CpuTimer& prof_timer() { return prof_; }
  const CpuTimer& virtual_timer() const { return virtual_; }
  const CpuTimer& prof_timer() const { return prof_; }
  // RLIMIT_CPU may be another now.
  void UpdateLimit();
  void CancelAll();

 private:
  void OnLimit(Task* busiest);

  ThreadGroup& group_;
  CpuTimer virtual_, prof_, limit_;
};

}  // namespace amber
