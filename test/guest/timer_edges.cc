// Timers and clocks at their edges: bad values and pointers, what is told while running, overruns, clocks' differences.
#include <poll.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/times.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

itimerspec Spec(int64_t value, int64_t interval = 0) { return {.it_interval = Ns(interval), .it_value = Ns(value)}; }
int64_t Total(const timespec& t) { return t.tv_sec * 1'000'000'000 + t.tv_nsec; }

uint64_t ReadCount(int fd) {
  uint64_t count = 0;
  return read(fd, &count, 8) == 8 ? count : 0;
}

// The kernel's own timers, by number; the library would keep its own.
struct KernelTimer {
  explicit KernelTimer(sigevent* event, int clock = CLOCK_MONOTONIC) { MUST(Call(SYS_timer_create, clock, event, &id)); }
  ~KernelTimer() { Call(SYS_timer_delete, id); }
  int Set(int64_t value, int64_t interval = 0, int flags = 0) const {
    const itimerspec spec = Spec(value, interval);
    return Call(SYS_timer_settime, id, flags, &spec, nullptr);
  }
  itimerspec Get() const {
    itimerspec spec = {};
    MUST(Call(SYS_timer_gettime, id, &spec));
    return spec;
  }
  int id = -1;
};

sigevent Signal(int number) {
  sigevent event = {};
  event.sigev_notify = SIGEV_SIGNAL;
  event.sigev_signo = number;
  return event;
}

}  // namespace

GUEST_TEST(TimerfdEdge, CreationRules) {
  EXPECT_ERRNO(timerfd_create(99, 0), EINVAL);
  EXPECT_ERRNO(timerfd_create(CLOCK_PROCESS_CPUTIME_ID, 0), EINVAL);
  EXPECT_ERRNO(timerfd_create(CLOCK_MONOTONIC, 1), EINVAL);
  const int fd = MUST(timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK));
  EXPECT_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
  EXPECT(fcntl(fd, F_GETFL) & O_NONBLOCK);
  EXPECT_ERRNO(write(fd, "12345678", 8), EINVAL);
}

GUEST_TEST(TimerfdEdge, BadValues) {
  const int fd = MUST(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
  itimerspec spec = {};
  spec.it_value.tv_nsec = 1'000'000'000;
  EXPECT_ERRNO(timerfd_settime(fd, 0, &spec, nullptr), EINVAL);
  spec.it_value = {-1, 0};
  EXPECT_ERRNO(timerfd_settime(fd, 0, &spec, nullptr), EINVAL);
  spec.it_value = {1, 0};
  spec.it_interval = {0, -1};
  EXPECT_ERRNO(timerfd_settime(fd, 0, &spec, nullptr), EINVAL);
  spec.it_interval = {0, 0};
  EXPECT_ERRNO(timerfd_settime(fd, 4, &spec, nullptr), EINVAL);
  EXPECT_ERRNO(timerfd_settime(fd, 0, kBad, nullptr), EFAULT);
  EXPECT_ERRNO(timerfd_settime(fd, 0, &spec, kBad), EFAULT);  // It is armed all the same.
  EXPECT_ERRNO(timerfd_gettime(fd, kBad), EFAULT);
  EXPECT_OK(timerfd_gettime(fd, &spec));
  EXPECT_GT(Total(spec.it_value), 0);
  EXPECT_ERRNO(timerfd_gettime(TempFile(), &spec), EINVAL);
  EXPECT_ERRNO(timerfd_settime(999, 0, &spec, nullptr), EBADF);
}

GUEST_TEST(TimerfdEdge, OldValueIsTold) {
  const int fd = MUST(timerfd_create(CLOCK_MONOTONIC, 0));
  itimerspec first = Spec(100'000 * kMs, 7 * kMs), second = Spec(0), old = {};
  MUST(timerfd_settime(fd, 0, &first, &old));
  EXPECT_EQ(Total(old.it_value), 0);
  CheckpointHere();
  MUST(timerfd_settime(fd, 0, &second, &old));
  EXPECT_LE(Total(old.it_value), 100'000 * kMs);
  EXPECT_GT(Total(old.it_value), 10'000 * kMs);
  EXPECT_EQ(Total(old.it_interval), 7 * kMs);
  MUST(timerfd_gettime(fd, &old));
  EXPECT_EQ(Total(old.it_value), 0);  // Disarmed.
}

GUEST_TEST(TimerfdEdge, ReadSizesAndAgain) {
  const int fd = MUST(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
  char small[7];
  uint64_t big[2] = {};
  EXPECT_ERRNO(read(fd, small, 7), EINVAL);
  EXPECT_ERRNO(read(fd, big, 8), EAGAIN);
  const itimerspec spec = Spec(1);
  MUST(timerfd_settime(fd, 0, &spec, nullptr));
  SleepMs(5);
  EXPECT_EQ(read(fd, big, 16), 8);
  EXPECT_EQ(big[0], 1);
  EXPECT_ERRNO(read(fd, big, 8), EAGAIN);
}

GUEST_TEST(TimerfdEdge, SettingForgetsExpirations) {
  const int fd = MUST(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
  itimerspec spec = Spec(1, kMs);
  MUST(timerfd_settime(fd, 0, &spec, nullptr));
  SleepMs(20);
  spec = Spec(100'000 * kMs);
  MUST(timerfd_settime(fd, 0, &spec, nullptr));
  uint64_t count;
  EXPECT_ERRNO(read(fd, &count, 8), EAGAIN);
}

GUEST_TEST(TimerfdEdge, AbsoluteTimeInThePast) {
  const int fd = MUST(timerfd_create(CLOCK_MONOTONIC, 0));
  itimerspec spec = Spec(1);
  MUST(timerfd_settime(fd, TFD_TIMER_ABSTIME, &spec, nullptr));
  EXPECT_EQ(ReadCount(fd), 1);
  // With an interval, all that would have been are counted.
  spec = Spec(NowNs() - 100 * kMs, 10 * kMs);
  MUST(timerfd_settime(fd, TFD_TIMER_ABSTIME, &spec, nullptr));
  EXPECT_GE(ReadCount(fd), 10);
}

GUEST_TEST(TimerfdEdge, RealTimeClock) {
  const int fd = MUST(timerfd_create(CLOCK_REALTIME, 0));
  const itimerspec spec = Spec(NowNs(CLOCK_REALTIME) + 20 * kMs);
  MUST(timerfd_settime(fd, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &spec, nullptr));
  EXPECT_EQ(ReadCount(fd), 1);
  EXPECT_GE(NowNs(CLOCK_REALTIME), Total(spec.it_value));
}

// While a sandbox is an image CLOCK_REALTIME goes on alone, which is as if somebody had set it.
GUEST_TEST(TimerfdEdge, CanceledWhenTheClockIsSet) {
  const int fd = MUST(timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK));
  const int plain = MUST(timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK));
  const itimerspec spec = Spec(NowNs(CLOCK_REALTIME) + 3600 * 1000 * kMs);
  MUST(timerfd_settime(fd, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &spec, nullptr));
  MUST(timerfd_settime(plain, TFD_TIMER_ABSTIME, &spec, nullptr));
  const int64_t before = NowNs(CLOCK_REALTIME) - NowNs();
  CheckpointHere();
  const int64_t jump = NowNs(CLOCK_REALTIME) - NowNs() - before;
  const bool was_set = jump > kMs || jump < -kMs;
  pollfd ready = {fd, POLLIN, 0};
  EXPECT_EQ(poll(&ready, 1, 0), was_set ? 1 : 0);
  uint64_t count;
  EXPECT_ERRNO(read(fd, &count, sizeof(count)), was_set ? ECANCELED : EAGAIN);
  EXPECT_ERRNO(read(fd, &count, sizeof(count)), EAGAIN);  // told once
  EXPECT_ERRNO(read(plain, &count, sizeof(count)), EAGAIN);
  itimerspec left = {};
  MUST(timerfd_gettime(fd, &left));
  EXPECT_GT(Total(left.it_value), 3000 * 1000 * kMs);
}

GUEST_TEST(TimerfdEdge, IntervalGoesOnWhileUnread) {
  const int fd = MUST(timerfd_create(CLOCK_MONOTONIC, 0));
  const itimerspec spec = Spec(5 * kMs, 5 * kMs);
  MUST(timerfd_settime(fd, 0, &spec, nullptr));
  SleepMs(60);
  CheckpointHere();
  EXPECT_GE(ReadCount(fd), 8);
  itimerspec left = {};
  MUST(timerfd_gettime(fd, &left));
  EXPECT_GT(Total(left.it_value), 0);
  EXPECT_LE(Total(left.it_value), 5 * kMs);
}

GUEST_TEST(TimerfdEdge, SignalInterruptsTheReader) {
  const int fd = MUST(timerfd_create(CLOCK_MONOTONIC, 0));
  const pid_t pid = Fork([&] {
    CountSignals(SIGUSR1);
    uint64_t count;
    EXPECT_ERRNO(read(fd, &count, 8), EINTR);
  });
  AwaitAsleep(pid);
  kill(pid, SIGUSR1);
  JOIN_OK(pid);
}

GUEST_TEST(PosixTimerEdge, CreationRules) {
  int id = -1;
  sigevent event = Signal(SIGUSR1);
  EXPECT_ERRNO(Call(SYS_timer_create, 99, &event, &id), EINVAL);
  EXPECT_ERRNO(Call(SYS_timer_create, CLOCK_MONOTONIC, &event, kBadAddress), EFAULT);
  EXPECT_ERRNO(Call(SYS_timer_create, CLOCK_MONOTONIC, kBadAddress, &id), EFAULT);
  event.sigev_signo = 65;
  EXPECT_ERRNO(Call(SYS_timer_create, CLOCK_MONOTONIC, &event, &id), EINVAL);
  event = Signal(0);
  EXPECT_ERRNO(Call(SYS_timer_create, CLOCK_MONOTONIC, &event, &id), EINVAL);
  event = Signal(SIGUSR1);
  event.sigev_notify = 99;
  EXPECT_ERRNO(Call(SYS_timer_create, CLOCK_MONOTONIC, &event, &id), EINVAL);
  event.sigev_notify = SIGEV_THREAD_ID;
  event._sigev_un._tid = 1;  // A thread of another process.
  EXPECT_ERRNO(Call(SYS_timer_create, CLOCK_MONOTONIC, &event, &id), EINVAL);
  EXPECT_OK(Call(SYS_timer_create, CLOCK_MONOTONIC, nullptr, &id));  // SIGALRM, with its own number as value.
  EXPECT_OK(Call(SYS_timer_delete, id));
  EXPECT_ERRNO(Call(SYS_timer_delete, id), EINVAL);
}

GUEST_TEST(PosixTimerEdge, DefaultEventIsAlarm) {
  CountSignals(SIGALRM);
  KernelTimer timer(nullptr);
  MUST(timer.Set(kMs));
  while (SignalCount() == 0) SleepMs(1);
  EXPECT_EQ(LastSignal().si_code, SI_TIMER);
  EXPECT_EQ(LastSignal().si_value.sival_int, timer.id);
}

GUEST_TEST(PosixTimerEdge, BadValuesAndTimers) {
  sigevent event = Signal(SIGUSR1);
  KernelTimer timer(&event);
  itimerspec spec = {};
  spec.it_value.tv_nsec = -1;
  EXPECT_ERRNO(Call(SYS_timer_settime, timer.id, 0, &spec, nullptr), EINVAL);
  spec.it_value = {0, 1'000'000'000};
  EXPECT_ERRNO(Call(SYS_timer_settime, timer.id, 0, &spec, nullptr), EINVAL);
  EXPECT_ERRNO(Call(SYS_timer_settime, timer.id, 0, nullptr, nullptr), EINVAL);
  EXPECT_ERRNO(Call(SYS_timer_settime, timer.id, 0, kBadAddress, nullptr), EFAULT);
  EXPECT_ERRNO(Call(SYS_timer_gettime, timer.id, kBadAddress), EFAULT);
  spec = Spec(0);
  EXPECT_ERRNO(Call(SYS_timer_settime, 12345, 0, &spec, nullptr), EINVAL);
  EXPECT_ERRNO(Call(SYS_timer_gettime, 12345, &spec), EINVAL);
  EXPECT_ERRNO(Call(SYS_timer_getoverrun, 12345), EINVAL);
}

GUEST_TEST(PosixTimerEdge, OverrunsWhileBlocked) {
  Block({SIGUSR1});
  sigevent event = Signal(SIGUSR1);
  KernelTimer timer(&event);
  MUST(timer.Set(2 * kMs, 2 * kMs));
  SleepMs(40);
  CheckpointHere();
  siginfo_t info = {};
  const sigset_t set = Signals({SIGUSR1});
  EXPECT_EQ(sigwaitinfo(&set, &info), SIGUSR1);
  EXPECT_GE(info.si_overrun, 10);
  EXPECT_EQ(Call(SYS_timer_getoverrun, timer.id), info.si_overrun);
}

GUEST_TEST(PosixTimerEdge, DisarmingTakesThePendingSignal) {
  Block({SIGUSR1});
  sigevent event = Signal(SIGUSR1);
  KernelTimer timer(&event);
  MUST(timer.Set(1));
  SleepMs(5);
  MUST(timer.Set(0));
  const sigset_t set = Signals({SIGUSR1});
  const timespec none = {};
  siginfo_t info;
  // Since 6.13 a timer's queued signal is dropped when the timer is set anew; before, it stayed.
  const int got = sigtimedwait(&set, &info, &none);
  EXPECT(got == SIGUSR1 || (got == -1 && errno == EAGAIN));
  EXPECT_EQ(Total(timer.Get().it_value), 0);
}

GUEST_TEST(PosixTimerEdge, DeletedTimerIsSilent) {
  CountSignals(SIGUSR1);
  int id = -1;
  sigevent event = Signal(SIGUSR1);
  MUST(Call(SYS_timer_create, CLOCK_MONOTONIC, &event, &id));
  const itimerspec spec = Spec(20 * kMs, 20 * kMs);
  MUST(Call(SYS_timer_settime, id, 0, &spec, nullptr));
  MUST(Call(SYS_timer_delete, id));
  SleepMs(60);
  EXPECT_EQ(SignalCount(), 0);
}

GUEST_TEST(PosixTimerEdge, SilentTimerTellsItsTime) {
  sigevent event = {};
  event.sigev_notify = SIGEV_NONE;
  KernelTimer timer(&event);
  MUST(timer.Set(100'000 * kMs, 3 * kMs));
  CheckpointHere();
  const itimerspec spec = timer.Get();
  EXPECT_GT(Total(spec.it_value), 10'000 * kMs);
  EXPECT_EQ(Total(spec.it_interval), 3 * kMs);
  MUST(timer.Set(1));
  SleepMs(3);
  EXPECT_EQ(Total(timer.Get().it_value), 0);
}

GUEST_TEST(PosixTimerEdge, ValueIsAPointerToo) {
  CountSignals(SIGRTMIN);
  sigevent event = Signal(SIGRTMIN);
  int marker = 0;
  event.sigev_value.sival_ptr = &marker;
  KernelTimer timer(&event);
  MUST(timer.Set(kMs));
  while (SignalCount() == 0) SleepMs(1);
  EXPECT_EQ(LastSignal().si_value.sival_ptr, &marker);
  EXPECT_EQ(LastSignal().si_timerid, timer.id);
}

GUEST_TEST(PosixTimerEdge, RealTimeClockAbsolute) {
  CountSignals(SIGUSR1);
  sigevent event = Signal(SIGUSR1);
  KernelTimer timer(&event, CLOCK_REALTIME);
  MUST(timer.Set(NowNs(CLOCK_REALTIME) - 1000 * kMs, 0, TIMER_ABSTIME));  // Past: at once.
  for (int i = 0; i < 1000 && SignalCount() == 0; ++i) SleepMs(1);
  EXPECT_EQ(SignalCount(), 1);
}

GUEST_TEST(PosixTimerEdge, ExecDeletesThem) {
  sigevent event = Signal(SIGKILL);
  const pid_t pid = Fork([&] {
    KernelTimer timer(&event);
    MUST(timer.Set(200 * kMs));
    execl(SelfPath(), SelfPath(), "@SleepALittle", nullptr);
  });
  EXPECT_EXITED(WaitStatus(pid), 3);
}
GUEST_HELPER(SleepALittle) {
  SleepMs(400);
  return 3;
}

GUEST_TEST(ItimerEdge, BadValuesAndPointers) {
  itimerval value = {};
  EXPECT_ERRNO(Call(SYS_setitimer, 3, &value, nullptr), EINVAL);
  EXPECT_ERRNO(Call(SYS_getitimer, 3, &value), EINVAL);
  EXPECT_ERRNO(Call(SYS_getitimer, ITIMER_REAL, kBadAddress), EFAULT);
  EXPECT_ERRNO(Call(SYS_setitimer, ITIMER_REAL, kBadAddress, nullptr), EFAULT);
  value.it_value.tv_usec = 1'000'000;
  EXPECT_ERRNO(setitimer(ITIMER_REAL, &value, nullptr), EINVAL);
  value.it_value = {-1, 0};
  EXPECT_ERRNO(setitimer(ITIMER_REAL, &value, nullptr), EINVAL);
}

GUEST_TEST(ItimerEdge, OldValueAndAlarmShareOneTimer) {
  alarm(100);
  itimerval value = {};
  MUST(getitimer(ITIMER_REAL, &value));
  EXPECT_GE(value.it_value.tv_sec, 90);
  EXPECT_EQ(value.it_interval.tv_sec, 0);
  itimerval fresh = {.it_interval = {5, 0}, .it_value = {50, 500'000}};
  MUST(setitimer(ITIMER_REAL, &fresh, &value));
  EXPECT_GE(value.it_value.tv_sec, 90);
  CheckpointHere();
  EXPECT_GE(alarm(0), 40);
  MUST(getitimer(ITIMER_REAL, &value));
  EXPECT_EQ(value.it_value.tv_sec, 0);
  EXPECT_EQ(value.it_interval.tv_sec, 0);
}

GUEST_TEST(ItimerEdge, SurvivesExec) {
  const pid_t pid = Fork([] {
    alarm(1);
    execl(SelfPath(), SelfPath(), "@SleepLong", nullptr);
  });
  EXPECT_KILLED(WaitStatus(pid), SIGALRM);
}
GUEST_HELPER(SleepLong) {
  SleepMs(30'000);
  return 3;
}

GUEST_TEST(ClockEdge, BadPointersAndClocks) {
  timespec time = {};
  timeval value = {};
  EXPECT_ERRNO(Call(SYS_clock_gettime, CLOCK_MONOTONIC, kBadAddress), EFAULT);
  EXPECT_ERRNO(Call(SYS_clock_gettime, 16, &time), EINVAL);
  EXPECT_ERRNO(Call(SYS_clock_getres, 16, &time), EINVAL);
  EXPECT_OK(Call(SYS_clock_getres, CLOCK_MONOTONIC, nullptr));
  EXPECT_ERRNO(Call(SYS_clock_getres, CLOCK_MONOTONIC, kBadAddress), EFAULT);
  EXPECT_ERRNO(Call(SYS_gettimeofday, kBadAddress, nullptr), EFAULT);
  EXPECT_ERRNO(Call(SYS_gettimeofday, &value, kBadAddress), EFAULT);
  EXPECT_OK(Call(SYS_gettimeofday, nullptr, nullptr));
}

GUEST_TEST(ClockEdge, CoarseClocksAreBehindByATick) {
  const int64_t coarse = NowNs(CLOCK_MONOTONIC_COARSE), fine = NowNs(CLOCK_MONOTONIC);
  EXPECT_LE(coarse, fine);
  EXPECT_LT(fine - coarse, 1000 * kMs);
  timespec resolution = {};
  MUST(clock_getres(CLOCK_MONOTONIC_COARSE, &resolution));
  EXPECT_GE(resolution.tv_nsec, 1'000'000);
}

GUEST_TEST(ClockEdge, TaiAndBoottime) {
  EXPECT_GE(NowNs(CLOCK_BOOTTIME) + kMs, NowNs(CLOCK_MONOTONIC));
  const int64_t difference = NowNs(CLOCK_TAI) - NowNs(CLOCK_REALTIME);
  EXPECT_GE(difference, -1000 * kMs);
  EXPECT_LE(difference, 100'000 * kMs);  // Leap seconds, if anybody set them.
  NowNs(CLOCK_MONOTONIC_RAW);
}

GUEST_TEST(ClockEdge, SettingIsNotForUsers) {
  AS_USER([] {
    const timespec time = {1'000'000'000, 0};
    EXPECT_ERRNO(clock_settime(CLOCK_REALTIME, &time), EPERM);
    EXPECT_ERRNO(clock_settime(CLOCK_MONOTONIC, &time), EINVAL);
    const timeval value = {1'000'000'000, 0};
    EXPECT_ERRNO(settimeofday(&value, nullptr), EPERM);
  });
}

GUEST_TEST(NanosleepEdge, ClockRules) {
  timespec time = {0, 1};
  EXPECT_ERRNO(Call(SYS_clock_nanosleep, 99, 0, &time, nullptr), EINVAL);
  EXPECT_ERRNO(Call(SYS_clock_nanosleep, CLOCK_THREAD_CPUTIME_ID, 0, &time, nullptr), EOPNOTSUPP);
  EXPECT_ERRNO(Call(SYS_clock_nanosleep, CLOCK_MONOTONIC_COARSE, 0, &time, nullptr), EOPNOTSUPP);
  EXPECT_ERRNO(Call(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, kBadAddress, nullptr), EFAULT);
  EXPECT_OK(Call(SYS_clock_nanosleep, CLOCK_BOOTTIME, 0, &time, nullptr));
  EXPECT_OK(Call(SYS_clock_nanosleep, CLOCK_TAI, 0, &time, nullptr));
  EXPECT_OK(Call(SYS_clock_nanosleep, CLOCK_REALTIME, TIMER_ABSTIME, &time, nullptr));
  time = {0, 1'000'000'000};
  EXPECT_ERRNO(Call(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &time, nullptr), EINVAL);
}

GUEST_TEST(NanosleepEdge, BadRemainderPointer) {
  CountSignals(SIGALRM);
  const itimerval soon = {.it_interval = {}, .it_value = {0, 20'000}};
  MUST(setitimer(ITIMER_REAL, &soon, nullptr));
  const timespec time = {10, 0};
  EXPECT_ERRNO(Call(SYS_nanosleep, &time, kBadAddress), EFAULT);
}

GUEST_TEST(NanosleepEdge, ProcessorClockOfTheProcess) {
  Thread busy([] {
    volatile unsigned n = 0;
    while (NowNs(CLOCK_PROCESS_CPUTIME_ID) < 3000 * kMs && NowNs(CLOCK_THREAD_CPUTIME_ID) < 100 * kMs) n = n + 1;
  });
  const int64_t before = NowNs(CLOCK_PROCESS_CPUTIME_ID);
  const timespec time = Ns(30 * kMs);
  EXPECT_OK(Call(SYS_clock_nanosleep, CLOCK_PROCESS_CPUTIME_ID, 0, &time, nullptr));
  EXPECT_GE(NowNs(CLOCK_PROCESS_CPUTIME_ID) - before, 30 * kMs);
}
