#include "sentry/kernel/cpu_timers.h"

#include <signal.h>
#include <sys/resource.h>

#include <algorithm>

#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task_lifecycle.h"
#include "sentry/kernel/thread_group.h"

namespace amber {
namespace {

constexpr int64_t kSoonest = 1'000'000;       // a tick of Linux at HZ=1000
constexpr int64_t kIdleLongest = 64'000'000;  // how late a process that wakes up may be told

}  // namespace

int64_t CpuPoll::Delay(int64_t now, int64_t target, size_t threads) {
  idle_ = now - last_ < kSoonest / 10 && last_ >= 0 ? std::clamp(idle_ * 2, kSoonest, kIdleLongest) : 0;
  last_ = now;
  int64_t least = (target - now) / static_cast<int64_t>(std::clamp<size_t>(threads, 1, 64));
  return std::max({least, kSoonest, idle_});
}

Task* BusiestThread::Find(const ThreadGroup& group) {
  Task* busiest = nullptr;
  int64_t most = 0;
  std::map<int, int64_t> used;
  if (group.live_tasks() > 1) {
    for (const RefPtr<Task>& t : group.tasks()) {
      if (t->exiting()) continue;
      int64_t now = used[t->tid()] = t->CpuTime();
      auto before = used_.find(t->tid());
      if (before != used_.end()) now -= before->second;
      if (now > most) busiest = t.get(), most = now;
    }
  }
  used_ = std::move(used);
  return busiest;
}

CpuTimer::CpuTimer(ThreadGroup& group, std::function<void(Task*)> expired)
    : group_(group), expired_(std::move(expired)), timer_([this] { Look(); }) {}

void CpuTimer::Set(int64_t target, int64_t interval) {
  target_ = target;
  interval_ = interval;
  poll_ = CpuPoll();
  if (target == kNever) return timer_.Cancel();
  (void)busiest_.Find(group_);
  Look();
}

void CpuTimer::Look() {
  if (target_ == kNever || group_.zombie()) return;
  int64_t now = group_.CpuTime();
  if (now >= target_) {
    // The signal may be the end of the process, and, if nobody waits for it, the last that is heard of it.
    RefPtr<ThreadGroup> keep(&group_);
    target_ = interval_ > 0 ? SaturatedSum(target_ + (now - target_) / interval_ * interval_, interval_) : kNever;
    expired_(busiest_.Find(group_));
    if (target_ == kNever || group_.zombie()) return;
  }
  Kernel& kernel = group_.kernel();
  timer_.Arm(kernel.timers(), SaturatedSum(kernel.clocks().Monotonic(), poll_.Delay(now, target_, group_.live_tasks())));
}

CpuTimers::CpuTimers(ThreadGroup& group)
    : group_(group), virtual_(group, [&group](Task* t) { group.SendSignal(SigInfo::Kernel(SIGVTALRM), t); }),
      prof_(group, [&group](Task* t) { group.SendSignal(SigInfo::Kernel(SIGPROF), t); }), limit_(group, [this](Task* t) { OnLimit(t); }) {}

void CpuTimers::UpdateLimit() {
  const rlimit& limit = group_.rlim(RLIMIT_CPU);
  // check_process_timers(): a limit of 0 is one of a second.
  uint64_t seconds = std::max<uint64_t>(std::min(limit.rlim_cur, limit.rlim_max), 1);
  if (seconds >= static_cast<uint64_t>(INT64_MAX / kNsPerSecond)) return limit_.Set(kNever, 0);
  limit_.Set(static_cast<int64_t>(seconds) * kNsPerSecond, kNsPerSecond);
}

// setrlimit(2): SIGXCPU at the soft limit and every second behind it, SIGKILL at the hard one.
void CpuTimers::OnLimit(Task* busiest) {
  const rlimit& limit = group_.rlim(RLIMIT_CPU);
  uint64_t used = static_cast<uint64_t>(group_.CpuTime() / kNsPerSecond);
  if (used >= limit.rlim_max) {
    group_.SendSignal(SigInfo::Kernel(SIGKILL));
  } else if (used >= limit.rlim_cur) {
    group_.SendSignal(SigInfo::Kernel(SIGXCPU), busiest);
  }
}

void CpuTimers::CancelAll() {
  virtual_.Cancel();
  prof_.Cancel();
  limit_.Cancel();
}

}  // namespace amber
