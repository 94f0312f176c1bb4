#include "sentry/kernel/posix_timers.h"

#include <algorithm>

#include "sentry/kernel/kernel.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/under_lock.h"

namespace amber {
namespace {

// Tells the kernel's own signals of timers from what sigqueue(3) made. It lies in siginfo's padding, and programs do not see it.
constexpr uint32_t kOwn = 0x74696d65;
constexpr size_t kMarkAt = sizeof(siginfo_t) - sizeof(kOwn);

void Mark(SigInfo* info, uint32_t mark) { memcpy(reinterpret_cast<char*>(&info->raw) + kMarkAt, &mark, sizeof(mark)); }
bool IsMarked(const SigInfo& info) { return memcmp(reinterpret_cast<const char*>(&info.raw) + kMarkAt, &kOwn, sizeof(kOwn)) == 0; }

}  // namespace

void PosixTimers::Unmark(SigInfo* info) { Mark(info, 0); }

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
  timer.overrun = timer.overrun_now = 0;
  timer.stale = timer.queued;
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

bool PosixTimers::Deliver(SigInfo* info) {
  if (!IsMarked(*info)) return true;
  Mark(info, 0);
  PosixTimer* timer = Find(info->raw.si_timerid);
  if (timer == nullptr || !std::exchange(timer->queued, false) || std::exchange(timer->stale, false)) return false;
  timer->overrun = std::exchange(timer->overrun_now, 0);
  info->raw.si_overrun = timer->overrun;
  return true;
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
  Mark(&info, kOwn);
  Task* thread = timer.notify == SIGEV_THREAD_ID ? group_.pids().FindTask(timer.thread_id) : nullptr;
  // The thread has ended; its number may be another process's by now.
  if (timer.notify == SIGEV_THREAD_ID && (thread == nullptr || &thread->group() != &group_)) return;
  RefPtr<Task> receiver(thread != nullptr ? thread : group_.leader());
  // Of this number; which of several it is, the mark in the signal tells (posixtimer_send_sigqueue() queues one for each timer).
  const bool pending = (receiver->pending() & SignalBit(timer.signo)) != 0;
  if (!pending) timer.queued = timer.stale = false;  // it was discarded
  auto missed_now = [&](int64_t before) { return static_cast<int>(std::min<int64_t>(before + missed, INT32_MAX)); };
  if (timer.stale) {
    // What is queued is this one's from now on.
    timer.stale = false;
    timer.overrun_now = missed_now(0);
    return;
  }
  // While its signal is pending a timer only counts; of a standard signal there is one.
  if (timer.queued || (pending && timer.signo < kFirstRealtime)) {
    timer.overrun_now = missed_now(int64_t{timer.overrun_now} + 1);
    return;
  }
  timer.overrun_now = missed_now(0);
  timer.queued = true;
  // The signal may be the end of the process, and with it of this timer, whose callback this is.
  RefPtr<ThreadGroup> group(&group_);
  if (thread != nullptr) {
    receiver->SendSignal(info);
  } else {
    group->SendSignal(info, timer.cpu ? timer.busiest.Find(group_) : nullptr);
  }
  Discard([group, receiver] {});
}

}  // namespace amber
