// Interval timers and POSIX timers: setitimer(2), alarm(2), timer_create(2).
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include "sentry/kernel/cpu_timers.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/posix_timers.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/usage.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/table.h"
#include "sentry/syscalls/time_util.h"

namespace amber {
namespace {

constexpr int kCapWakeAlarm = 35;

// A timer that will never expire is armed all the same.
int64_t Armed(int64_t deadline) { return std::min(deadline, kNever - 1); }

itimerval ReadRealTimer(Task& task) {
  itimerval out{};
  ThreadGroup& group = task.group();
  out.it_interval = ToTimeval(group.real_interval());
  int64_t deadline = group.real_deadline();
  if (deadline == kNever) return out;
  int64_t left = deadline - task.kernel().clocks().Monotonic();
  out.it_value = ToTimeval(std::max<int64_t>(left, 1000));  // an armed timer never reads as zero
  return out;
}

CpuTimer& CpuTimerOf(Task& task, int which) {
  CpuTimers& timers = task.group().extras().cpu_timers(task.group());
  return which == ITIMER_VIRTUAL ? timers.virtual_timer() : timers.prof_timer();
}

itimerval ReadCpuTimer(Task& task, int which) {
  itimerval out{};
  if (task.group().extras().cpu_timers_if_any() == nullptr) return out;
  const CpuTimer& timer = CpuTimerOf(task, which);
  out.it_interval = ToTimeval(timer.interval());
  if (timer.target() == kNever) return out;
  out.it_value = ToTimeval(std::max<int64_t>(timer.target() - task.group().CpuTime(), 1000));
  return out;
}

ErrnoOr<uint64_t> Getitimer(Task& task, int which, UserPtr<itimerval> out) {
  if (which != ITIMER_REAL && which != ITIMER_VIRTUAL && which != ITIMER_PROF) return Errno(EINVAL);
  TRY(task.CopyOut(out, which == ITIMER_REAL ? ReadRealTimer(task) : ReadCpuTimer(task, which)));
  return 0;
}

ErrnoOr<uint64_t> Setitimer(Task& task, int which, UserPtr<const itimerval> in, UserPtr<itimerval> old) {
  if (which != ITIMER_REAL && which != ITIMER_VIRTUAL && which != ITIMER_PROF) return Errno(EINVAL);
  itimerval next{};
  if (in) next = TRY(task.CopyIn(in));
  int64_t value = TRY(ToNanoseconds(next.it_value));
  int64_t interval = TRY(ToNanoseconds(next.it_interval));
  itimerval before = which == ITIMER_REAL ? ReadRealTimer(task) : ReadCpuTimer(task, which);
  if (which == ITIMER_REAL) {
    // A timer that is disarmed forgets its interval (do_setitimer()).
    task.group().ArmRealTimer(value == 0 ? kNever : Armed(DeadlineAfter(task, value)), value == 0 ? 0 : interval);
  } else {
    int64_t now = task.group().CpuTime();
    CpuTimerOf(task, which).Set(value == 0 ? kNever : Armed(SaturatedSum(now, value)), interval);
  }
  if (old) TRY(task.CopyOut(old, before));
  return 0;
}

ErrnoOr<uint64_t> Alarm(Task& task, unsigned seconds) {
  itimerval before = ReadRealTimer(task);
  task.group().ArmRealTimer(seconds == 0 ? kNever : DeadlineAfter(task, int64_t{seconds} * kNsPerSecond), 0);
  // Rounded, but never down to zero (alarm_setitimer).
  uint64_t left = static_cast<uint64_t>(before.it_value.tv_sec);
  if ((left == 0 && before.it_value.tv_usec != 0) || before.it_value.tv_usec >= 500'000) ++left;
  return left;
}

ErrnoOr<uint64_t> TimerCreate(Task& task, int clock, UserPtr<const sigevent> event, UserPtr<int> out) {
  sigevent e = {};
  if (event) e = TRY(task.CopyIn(event));
  TRY(ReadClock(task, clock));
  bool cpu = clock < 0 || clock == CLOCK_PROCESS_CPUTIME_ID || clock == CLOCK_THREAD_CPUTIME_ID;
  bool cpu_thread = clock == CLOCK_THREAD_CPUTIME_ID || (clock < 0 && (clock & 4) != 0);
  // ~(clock >> 3) is the id in a clock id of another's; 0 is oneself (clock_getcpuclockid(3)).
  int cpu_tid = clock < 0 ? ~(clock >> 3) : 0;
  if (cpu && cpu_tid == 0 && cpu_thread) cpu_tid = task.tid();
  Task* counted = cpu_tid == 0 ? &task : task.FindTask(cpu_tid);
  // posix_cpu_timer_create(): threads of other processes are out of reach.
  if (counted == nullptr || (cpu_thread && &counted->group() != &task.group())) return Errno(EINVAL);
  if (clock == CLOCK_REALTIME_COARSE || clock == CLOCK_MONOTONIC_COARSE || clock == CLOCK_MONOTONIC_RAW) {
    return Errno(EOPNOTSUPP);
  }
  // Checked before a timer exists, so that nothing has to be undone.
  int notify = SIGEV_SIGNAL, signo = SIGALRM, thread = 0;
  uint64_t value = 0;
  if (event) {
    notify = e.sigev_notify;
    signo = e.sigev_signo;
    value = reinterpret_cast<uint64_t>(e.sigev_value.sival_ptr);
    if (notify == SIGEV_THREAD_ID) {
      thread = e._sigev_un._tid;
      Task* target = task.FindTask(thread);
      if (target == nullptr || &target->group() != &task.group()) return Errno(EINVAL);
    } else if (notify != SIGEV_SIGNAL && notify != SIGEV_NONE && notify != SIGEV_THREAD) {
      return Errno(EINVAL);
    }
    if (notify != SIGEV_NONE && (signo < 1 || signo > kNumSignals)) return Errno(EINVAL);
  }
  // alarm_timer_create().
  if ((clock == CLOCK_REALTIME_ALARM || clock == CLOCK_BOOTTIME_ALARM) && !task.Has(kCapWakeAlarm)) return Errno(EPERM);
  // Each could have a signal queued (do_timer_create() takes its place in the queue).
  if (!task.group().MayQueueSignal()) return Errno(EAGAIN);
  PosixTimers& timers = task.group().posix_timers();
  int wanted = timers.ids_are_chosen ? TRY(task.CopyIn(out.Cast<const int>())) : -1;
  if (timers.ids_are_chosen && wanted < 0) return Errno(EINVAL);
  PosixTimer* made = timers.ids_are_chosen ? timers.Restore(wanted) : &timers.Create();
  if (made == nullptr) return Errno(EBUSY);
  PosixTimer& timer = *made;
  timer.clock = clock;
  timer.cpu = cpu;
  timer.cpu_thread = cpu_thread;
  timer.cpu_tid = cpu_tid;
  timer.notify = notify;
  timer.signo = signo;
  timer.thread_id = thread;
  timer.value = event ? value : static_cast<uint64_t>(timer.id);
  auto copied = task.CopyOut(out, timer.id);
  if (!copied.ok()) {
    task.group().posix_timers().Delete(timer.id);
    return copied.error();
  }
  return 0;
}

itimerspec Read(Task& task, const PosixTimer& timer) {
  itimerspec out{};
  out.it_interval = ToTimespec(timer.interval);
  if (timer.deadline == kNever) return out;
  int64_t left = timer.deadline - task.group().posix_timers().Now(timer);
  out.it_value = ToTimespec(std::max<int64_t>(left, 1));
  return out;
}

ErrnoOr<uint64_t> TimerGettime(Task& task, int id, UserPtr<itimerspec> out) {
  PosixTimer* timer = task.group().posix_timers().Find(id);
  if (timer == nullptr) return Errno(EINVAL);
  TRY(task.CopyOut(out, Read(task, *timer)));
  return 0;
}

ErrnoOr<uint64_t> TimerSettime(Task& task, int id, int flags, UserPtr<const itimerspec> in, UserPtr<itimerspec> old) {
  if (in.is_null()) return Errno(EINVAL);
  itimerspec next = TRY(task.CopyIn(in));
  int64_t value = TRY(ToNanoseconds(next.it_value));
  int64_t interval = TRY(ToNanoseconds(next.it_interval));
  PosixTimer* timer = task.group().posix_timers().Find(id);
  if (timer == nullptr) return Errno(EINVAL);
  itimerspec before = Read(task, *timer);
  int64_t deadline = kNever;
  if (value != 0 && timer->cpu) {
    int64_t now = (flags & TIMER_ABSTIME) != 0 ? 0 : task.group().posix_timers().Now(*timer);
    if (now == kNever) return Errno(ESRCH);
    deadline = Armed(SaturatedSum(now, value));
  } else if (value != 0) {
    deadline = Armed((flags & TIMER_ABSTIME) != 0 ? DeadlineAt(task, timer->clock, value) : DeadlineAfter(task, value));
  }
  // Disarmed it forgets its interval (common_timer_set()), but on processor time.
  task.group().posix_timers().Arm(*timer, deadline, value == 0 && !timer->cpu ? 0 : interval);
  if (old) TRY(task.CopyOut(old, before));
  return 0;
}

ErrnoOr<uint64_t> TimerGetoverrun(Task& task, int id) {
  PosixTimer* timer = task.group().posix_timers().Find(id);
  if (timer == nullptr) return Errno(EINVAL);
  return timer->overrun;
}

ErrnoOr<uint64_t> TimerDelete(Task& task, int id) {
  if (task.group().posix_timers().Find(id) == nullptr) return Errno(EINVAL);
  task.group().posix_timers().Delete(id);
  return 0;
}

}  // namespace

void RegisterTimerCalls(SyscallTable& table) {
  table.Set(SYS_getitimer, Full<&Getitimer>());
  table.Set(SYS_setitimer, Full<&Setitimer>());
  table.Set(SYS_alarm, Full<&Alarm>());
  table.Set(SYS_timer_create, Full<&TimerCreate>());
  table.Set(SYS_timer_gettime, Full<&TimerGettime>());
  table.Set(SYS_timer_settime, Full<&TimerSettime>());
  table.Set(SYS_timer_getoverrun, Full<&TimerGetoverrun>());
  table.Set(SYS_timer_delete, Full<&TimerDelete>());
}

}  // namespace amber
