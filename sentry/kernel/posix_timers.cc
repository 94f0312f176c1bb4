#include "sentry/kernel/posix_timers.h"

#include <algorithm>

#include "sentry/kernel/kernel.h"
#include "sentry/kernel/thread_group.h"

namespace amber {

PosixTimer& PosixTimers::Create() {
  while (timers_.contains(next_id_)) next_id_ = next_id_ == INT32_MAX ? 0 : next_id_ + 1;
  return Add(next_id_++);
}

PosixTimer* PosixTimers::Restore(int id) {
  if (id < 0 || timers_.contains(id)) return nullptr;
  next_id_ = std::max(next_id_, id);
  return &Add(id);
}

void PosixTimers::ArmAll() {
  for (auto& [id, timer] : timers_) Program(*timer);
}

PosixTimer& PosixTimers::Add(int id) {
  auto timer = std::make_unique<PosixTimer>();
  PosixTimer& result = *timer;
  result.id = id;
  result.timer = std::make_unique<Timer>([this, &result] { Expire(result); });
  timers_[result.id] = std::move(timer);
  return result;
}

PosixTimer* PosixTimers::Find(int id) {
  auto it = timers_.find(id);
  return it == timers_.end() ? nullptr : it->second.get();
}

void PosixTimers::CancelAll() {
  for (auto& [id, timer] : timers_) timer->timer->Cancel();
}

void PosixTimers::Arm(PosixTimer& timer, int64_t deadline, int64_t interval) {
  timer.deadline = deadline;
  timer.interval = interval;
  timer.overrun_now = 0;
  timer.poll = CpuPoll();
  if (timer.cpu && timer.notify != SIGEV_THREAD_ID) (void)timer.busiest.Find(group_);
  Program(timer);
}

int64_t PosixTimers::Now(const PosixTimer& timer) const {
  if (!timer.cpu) return group_.kernel().clocks().Monotonic();
  Task* task = timer.cpu_tid == 0 ? group_.leader() : group_.pids().FindTask(timer.cpu_tid);
  if (task == nullptr || (timer.cpu_thread && task->exiting()) || task->group().zombie()) return kNever;
  return timer.cpu_thread ? task->CpuTime() : task->group().CpuTime();
}

void PosixTimers::Program(PosixTimer& timer) {
  if (!timer.cpu || timer.deadline == kNever) return timer.timer->Arm(group_.kernel().timers(), timer.deadline);
  int64_t now = Now(timer);
  if (now == kNever) return timer.timer->Cancel();
  int64_t delay = now >= timer.deadline ? 0 : timer.poll.Delay(now, timer.deadline, timer.cpu_thread ? 1 : group_.live_tasks());
  timer.timer->Arm(group_.kernel().timers(), SaturatedSum(group_.kernel().clocks().Monotonic(), delay));
}

int PosixTimers::OnDelivered(int id) {
  PosixTimer* timer = Find(id);
  if (timer == nullptr) return 0;
  timer->overrun = std::exchange(timer->overrun_now, 0);
  return timer->overrun;
}

void PosixTimers::Expire(PosixTimer& timer) {
  int64_t now = Now(timer);
  if (timer.cpu && (now == kNever || now < timer.deadline)) return Program(timer);
  int64_t missed = 0;
  if (timer.interval > 0) {
    missed = (now - timer.deadline) / timer.interval;
    timer.deadline = SaturatedSum(timer.deadline + missed * timer.interval, timer.interval);
    Program(timer);
  } else {
    timer.deadline = kNever;
  }
  if (timer.notify == SIGEV_NONE) return;
  SigInfo info;
  info.raw.si_signo = timer.signo;
  info.raw.si_code = SI_TIMER;
  info.raw.si_timerid = timer.id;
  info.raw.si_value.sival_ptr = reinterpret_cast<void*>(timer.value);
  Task* thread = timer.notify == SIGEV_THREAD_ID ? group_.pids().FindTask(timer.thread_id) : nullptr;
  // The thread has ended; its number may be another process's by now.
  if (timer.notify == SIGEV_THREAD_ID && (thread == nullptr || &thread->group() != &group_)) return;
  bool queued = thread != nullptr ? (thread->pending() & SignalBit(timer.signo)) != 0 : (group_.leader()->pending() & SignalBit(timer.signo)) != 0;
  // While its signal is pending a timer only counts.
  timer.overrun_now = static_cast<int>(std::min<int64_t>(timer.overrun_now + missed + (queued ? 1 : 0), INT32_MAX));
  if (queued) return;
  if (thread != nullptr) {
    thread->SendSignal(info);
  } else {
    group_.SendSignal(info, timer.cpu ? timer.busiest.Find(group_) : nullptr);
  }
}

}  // namespace amber
