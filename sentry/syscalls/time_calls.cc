// Clocks and sleeping: clock_gettime(2), clock_nanosleep(2), times(2), getrusage(2).
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/times.h>
#include <sys/timex.h>

#include <algorithm>

#include "sentry/kernel/cpu_timers.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/late_usage.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/time_namespace.h"
#include "sentry/kernel/usage.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/table.h"
#include "sentry/syscalls/time_util.h"

namespace amber {
namespace {

constexpr int kCapWakeAlarm = 35;

}  // namespace

ErrnoOr<int64_t> ToNanoseconds(const timespec& ts) {
  if (ts.tv_sec < 0 || ts.tv_nsec < 0 || ts.tv_nsec >= kNsPerSecond) return Errno(EINVAL);
  int64_t ns;
  if (__builtin_mul_overflow(ts.tv_sec, kNsPerSecond, &ns) || __builtin_add_overflow(ns, ts.tv_nsec, &ns)) return kNever;
  return ns;
}

ErrnoOr<int64_t> ToNanoseconds(const timeval& tv) {
  if (tv.tv_usec < 0 || tv.tv_usec >= 1'000'000) return Errno(EINVAL);
  return ToNanoseconds(timespec{tv.tv_sec, tv.tv_usec * 1000});
}

timespec ToTimespec(int64_t ns) { return {ns / kNsPerSecond, ns % kNsPerSecond}; }

ErrnoOr<int64_t> CopyInDuration(Task& task, UserPtr<const timespec> p) { return ToNanoseconds(TRY(task.CopyIn(p))); }

int64_t DeadlineAfter(Task& task, int64_t duration) {
  if (duration == kNever) return kNever;
  int64_t deadline;
  if (__builtin_add_overflow(task.kernel().clocks().Monotonic(), duration, &deadline)) return kNever;
  return deadline;
}

int64_t ToKernelTime(const Task& task, clockid_t clock, int64_t absolute) {
  if (absolute == kNever) return kNever;
  int64_t sum, offset = TimeOffsetsOf(task).Of(clock);
  if (absolute < offset) return 0;  // long ago
  return __builtin_sub_overflow(absolute, offset, &sum) ? kNever : sum;
}

int64_t DeadlineAt(Task& task, clockid_t clock, int64_t absolute) {
  if (absolute == kNever) return kNever;
  absolute = ToKernelTime(task, clock, absolute);
  const Clocks& clocks = task.kernel().clocks();
  int64_t now = clocks.Monotonic();
  switch (clock) {
    case CLOCK_REALTIME:
    case CLOCK_REALTIME_ALARM:
    case CLOCK_TAI: now = clocks.Realtime(); break;
    case CLOCK_BOOTTIME:
    case CLOCK_BOOTTIME_ALARM: now = clocks.Boottime(); break;
    default: break;
  }
  return DeadlineAfter(task, std::max<int64_t>(absolute - now, 0));
}

namespace {

// The host's CPU clock of one guest process or thread (its stub's).
ErrnoOr<int64_t> CpuClock(Task& task, clockid_t clock) {
  // Negative ids name a process or thread: (~id << 3) | kind, with 4 for threads (clock_getcpuclockid(3)).
  int id = ~(clock >> 3);
  bool thread = (clock & 4) != 0;
  if ((clock & 3) > 2) return Errno(EINVAL);
  Task* target = id == 0 ? &task : task.FindTask(id);
  if (target == nullptr || target->exiting()) return Errno(EINVAL);
  if (!thread) return target->group().CpuTime();
  return target->CpuTime();
}

}  // namespace

ErrnoOr<int64_t> ReadClock(Task& task, clockid_t clock) {
  const Clocks& clocks = task.kernel().clocks();
  switch (clock) {
    case CLOCK_REALTIME:
    case CLOCK_REALTIME_COARSE:
    case CLOCK_REALTIME_ALARM:
    case CLOCK_TAI: return clocks.Realtime();
    case CLOCK_MONOTONIC:
    case CLOCK_MONOTONIC_RAW:
    case CLOCK_MONOTONIC_COARSE: return clocks.Monotonic() + TimeOffsetsOf(task).monotonic;
    case CLOCK_BOOTTIME:
    case CLOCK_BOOTTIME_ALARM: return clocks.Boottime() + TimeOffsetsOf(task).boottime;
    case CLOCK_PROCESS_CPUTIME_ID: return task.group().CpuTime();
    case CLOCK_THREAD_CPUTIME_ID: return task.CpuTime();
    default:
      if (clock < 0) return CpuClock(task, clock);
      return Errno(EINVAL);
  }
}

namespace {

// What the guest's vDSO will add: if the host's vDSO, which it calls, cannot read the clock itself, it makes the call and
// expects the host's time.
int64_t VdsoOffset(Task& task, clockid_t clock) {
  const platform::Platform& platform = task.kernel().platform();
  if (task.syscall().ip - platform.host_vdso_base() >= platform.host_vdso_size()) return 0;
  const Clocks& clocks = task.kernel().clocks();
  int64_t own = TimeOffsetsOf(task).Of(clock);
  switch (clock) {
    case CLOCK_MONOTONIC:
    case CLOCK_MONOTONIC_RAW:
    case CLOCK_MONOTONIC_COARSE: return clocks.monotonic_offset() + own;
    case CLOCK_BOOTTIME: return clocks.boottime_offset() + own;
    default: return 0;
  }
}

ErrnoOr<uint64_t> ClockGettime(Task& task, int clock, UserPtr<timespec> out) {
  int64_t now = TRY(ReadClock(task, clock)) - VdsoOffset(task, clock);
  TRY(task.CopyOut(out, ToTimespec(now)));
  return 0;
}

ErrnoOr<uint64_t> ClockGetres(Task& task, int clock, UserPtr<timespec> out) {
  TRY(ReadClock(task, clock));
  // Time in user mode and time of profiling are counted by ticks (posix_cpu_clock_getres()).
  constexpr int kCpuSched = 2;
  bool by_ticks = clock < 0 && (clock & 3) != kCpuSched;
  bool coarse = clock == CLOCK_REALTIME_COARSE || clock == CLOCK_MONOTONIC_COARSE || by_ticks;
  if (out) TRY(task.CopyOut(out, timespec{0, coarse ? 4'000'000 : 1}));
  return 0;
}

ErrnoOr<uint64_t> ClockSettime(Task& task, int clock, UserPtr<const timespec> in) {
  if (clock != CLOCK_REALTIME && clock >= 0) return Errno(EINVAL);
  // posix_cpu_clock_set(): another's CPU time may be set by nobody.
  if (clock < 0) {
    TRY(task.CopyIn(in));
    TRY(ReadClock(task, clock));
    return Errno(EPERM);
  }
  TRY(CopyInDuration(task, in));
  return Errno(EPERM);
}

ErrnoOr<uint64_t> Gettimeofday(Task& task, UserPtr<timeval> tv, UserPtr<struct timezone> tz) {
  if (tv) TRY(task.CopyOut(tv, ToTimeval(task.kernel().clocks().Realtime())));
  if (tz) TRY(task.CopyOut(tz, {}));
  return 0;
}

// The arguments are looked at first, as in kernel/time/time.c.
ErrnoOr<uint64_t> Settimeofday(Task& task, UserPtr<const timeval> tv, UserPtr<const struct timezone> tz) {
  constexpr int64_t kMicroseconds = 1'000'000;
  timeval time{};
  if (tv) time = TRY(task.CopyIn(tv));
  if (time.tv_usec < 0 || time.tv_usec > kMicroseconds) return Errno(EINVAL);
  if (tz) TRY(task.CopyIn(tz));
  if (time.tv_sec < 0 || time.tv_usec == kMicroseconds) return Errno(EINVAL);
  return Errno(EPERM);
}

ErrnoOr<uint64_t> Time(Task& task, UserPtr<int64_t> out) {
  int64_t now = task.kernel().clocks().Realtime() / kNsPerSecond;
  if (out) TRY(task.CopyOut(out, now));
  return now;
}

// `remaining` is written only for a relative sleep that a handler ended: the deadline is in syscall().deadline by then.
ErrnoOr<uint64_t> SleepUntil(Task& task, int64_t deadline, UserPtr<timespec> remaining, bool relative) {
  if (task.syscall().timed_out) return 0;
  int64_t left = (task.syscall().restarted ? task.syscall().deadline : deadline) - task.kernel().clocks().Monotonic();
  if (left <= 0) return 0;
  if (relative && remaining) task.set_sleep_remaining(remaining.address());
  return task.Block({}, deadline, relative ? kErestartRestartblock : kErestartnohand);
}

ErrnoOr<uint64_t> Nanosleep(Task& task, UserPtr<const timespec> request, UserPtr<timespec> remaining) {
  int64_t duration = TRY(CopyInDuration(task, request));
  return SleepUntil(task, DeadlineAfter(task, duration), remaining, true);
}

// process_cpu_nsleep(): until `clock`, of processor time, says `target`. It cannot say so before that much time has gone by on every processor, so it is
// looked at again then; what a handler leaves of a relative sleep is told beforehand.
ErrnoOr<uint64_t> SleepByCpuTime(Task& task, int clock, bool absolute, int64_t time, UserPtr<timespec> remaining) {
  constexpr int64_t kLeast = 1'000'000, kMost = 100'000'000;  // ns
  int64_t now = TRY(ReadClock(task, clock));
  auto& call = task.syscall();
  if (call.scratch[0] == 0) call.scratch[0] = static_cast<uint64_t>(absolute ? time : SaturatedSum(now, time));
  int64_t left = static_cast<int64_t>(call.scratch[0]) - now;
  if (left <= 0) return 0;
  if (!absolute && remaining) TRY(task.CopyOut(remaining, ToTimespec(left)));
  call.timed_out = false;
  call.deadline = kNever;
  int64_t wait = std::clamp(left / std::max(1, static_cast<int>(task.group().live_tasks())), kLeast, kMost);
  return task.Block({}, task.kernel().clocks().Monotonic() + wait, kErestartnohand);
}

ErrnoOr<uint64_t> ClockNanosleep(Task& task, int clock, int flags, UserPtr<const timespec> request, UserPtr<timespec> remaining) {
  if (clock == CLOCK_THREAD_CPUTIME_ID || clock == CLOCK_MONOTONIC_RAW || clock == CLOCK_REALTIME_COARSE || clock == CLOCK_MONOTONIC_COARSE) {
    return Errno(EOPNOTSUPP);
  }
  TRY(ReadClock(task, clock));
  int64_t time = TRY(CopyInDuration(task, request));
  // alarm_timer_nsleep().
  if ((clock == CLOCK_REALTIME_ALARM || clock == CLOCK_BOOTTIME_ALARM) && !task.Has(kCapWakeAlarm)) return Errno(EPERM);
  if (clock < 0 || clock == CLOCK_PROCESS_CPUTIME_ID) {
    // posix_cpu_nsleep(): a thread cannot sleep by its own clock.
    int id = ~(clock >> 3);
    if (clock < 0 && (clock & 4) != 0 && (id == 0 || task.FindTask(id) == &task)) return Errno(EINVAL);
    return SleepByCpuTime(task, clock, (flags & TIMER_ABSTIME) != 0, time, remaining);
  }
  if ((flags & TIMER_ABSTIME) != 0) return SleepUntil(task, DeadlineAt(task, clock, time), {}, false);
  return SleepUntil(task, DeadlineAfter(task, time), remaining, true);
}

ErrnoOr<uint64_t> Times(Task& task, UserPtr<tms> out) {
  auto ticks = [](int64_t ns) { return static_cast<clock_t>(ns / (kNsPerSecond / 100)); };
  auto of = [&](const timeval& tv) { return ticks(tv.tv_sec * kNsPerSecond + tv.tv_usec * 1000); };
  if (out) {
    TRY(AwaitUsage(task, task.group()));
    const rusage& children = task.group().child_usage();
    rusage own = UsageOf(task.group());
    TRY(task.CopyOut(out, tms{of(own.ru_utime), of(own.ru_stime), of(children.ru_utime), of(children.ru_stime)}));
  }
  return ticks(task.kernel().clocks().Monotonic());
}

ErrnoOr<uint64_t> Getrusage(Task& task, int who, UserPtr<rusage> out) {
  rusage usage{};
  if (who == RUSAGE_SELF || who == RUSAGE_CHILDREN) TRY(AwaitUsage(task, task.group()));
  switch (who) {
    case RUSAGE_SELF: usage = UsageOf(task.group()); break;
    case RUSAGE_THREAD: usage = UsageOf(task); break;
    case RUSAGE_CHILDREN: usage = task.group().child_usage(); break;
    default: return Errno(EINVAL);
  }
  TRY(task.CopyOut(out, usage));
  return 0;
}

// Reading the clock's state is allowed, setting it is not.
ErrnoOr<uint64_t> Adjtimex(Task& task, UserPtr<timex> p) {
  // timekeeping_validate_timex().
  constexpr unsigned kAdjtime = 0x8000, kSingleShot = 0x0001, kReadOnly = 0x2000;
  timex t = TRY(task.CopyIn(p));
  if ((t.modes & kAdjtime) != 0 && (t.modes & kSingleShot) == 0) return Errno(EINVAL);
  if (t.modes != 0 && t.modes != (kAdjtime | kSingleShot | kReadOnly)) return Errno(EPERM);
  t = {.modes = t.modes};
  t.status = STA_UNSYNC;
  t.tick = 10000;
  // What ntp.c starts with: SHIFT_PLL, MAXFREQ_SCALED, a second's fraction.
  t.constant = 2;
  t.tolerance = 32768000;
  t.precision = 1;
  t.maxerror = t.esterror = 16'000'000;
  t.time = ToTimeval(task.kernel().clocks().Realtime());
  TRY(task.CopyOut(p, t));
  return TIME_ERROR;
}

ErrnoOr<uint64_t> ClockAdjtime(Task& task, int clock, UserPtr<timex> p) {
  TRY(task.CopyIn(UserPtr<const timex>(p.address())));
  // Clocks that nobody can adjust are known ones (kernel/time/posix-timers.c).
  if (clock != CLOCK_REALTIME) return Errno(clock >= 0 && (clock > CLOCK_TAI || clock == 10 /* CLOCK_SGI_CYCLE */) ? EINVAL : EOPNOTSUPP);
  return Adjtimex(task, p);
}

}  // namespace

void RegisterTimeCalls(SyscallTable& table) {
  table.Set(SYS_clock_gettime, Full<&ClockGettime>());
  table.Set(SYS_clock_getres, Full<&ClockGetres>());
  table.Set(SYS_clock_settime, Refused<&ClockSettime>("a container may not set the host's clock"));
  table.Set(SYS_gettimeofday, Full<&Gettimeofday>());
  table.Set(SYS_settimeofday, Refused<&Settimeofday>("a container may not set the host's clock"));
  table.Set(SYS_time, Full<&Time>());
  table.Set(SYS_nanosleep, Full<&Nanosleep>());
  table.Set(SYS_clock_nanosleep, Full<&ClockNanosleep>());
  table.Set(SYS_times, Full<&Times>());
  table.Set(SYS_getrusage, Full<&Getrusage>());
  table.Set(SYS_adjtimex, Partial<&Adjtimex>("read only"));
  table.Set(SYS_clock_adjtime, Partial<&ClockAdjtime>("read only, CLOCK_REALTIME"));
}

}  // namespace amber
