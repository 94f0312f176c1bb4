// Timers of one stack. Many are armed and moved all the time (retransmission), few ever fire; so they live in a map of their own, and the
// kernel's timer is touched only when something is due earlier than it knows. Guarded by the kernel lock.
#pragma once

#include <cstdint>
#include <functional>
#include <map>

namespace amber::net {

inline constexpr int64_t kNoDeadline = INT64_MAX;
inline constexpr int64_t kMs = 1'000'000;
inline constexpr int64_t kSecond = 1'000'000'000;

class NetTimer;

class NetTimers {
 public:
  // `arm` is told when RunDue() is to be called next, if that is earlier than before.
  explicit NetTimers(std::function<void(int64_t)> arm) : arm_(std::move(arm)) {}
  NetTimers(const NetTimers&) = delete;
  NetTimers& operator=(const NetTimers&) = delete;

  void RunDue(int64_t now);
  int64_t earliest() const { return timers_.empty() ? kNoDeadline : timers_.begin()->first; }

 private:
  friend class NetTimer;
  std::function<void(int64_t)> arm_;
  int64_t armed_ = kNoDeadline;
  std::multimap<int64_t, NetTimer*> timers_;
};

class NetTimer {
 public:
  explicit NetTimer(std::function<void()> callback) : callback_(std::move(callback)) {}
  NetTimer(const NetTimer&) = delete;
  NetTimer& operator=(const NetTimer&) = delete;
  ~NetTimer() { Cancel(); }

  // Calls back at `deadline` or, if it was armed for something earlier, at that time: the callback looks at its clock.
  void ArmBy(NetTimers& timers, int64_t deadline);
  void Cancel();
  bool armed() const { return timers_ != nullptr; }

 private:
  friend class NetTimers;
  std::function<void()> callback_;
  NetTimers* timers_ = nullptr;
  int64_t deadline_ = kNoDeadline;
  std::multimap<int64_t, NetTimer*>::iterator position_;
};

}  // namespace amber::net
