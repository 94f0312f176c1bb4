// Clocks, sleeping and timers.
#include <poll.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/times.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

int64_t Value(const timespec& time) { return time.tv_sec * 1'000'000'000 + time.tv_nsec; }

itimerspec Timer(int64_t first, int64_t interval = 0) { return {.it_interval = Ns(interval), .it_value = Ns(first)}; }

timer_t CreateTimer(clockid_t clock, int notify, int number, int value = 0) {
  sigevent event = {};
  event.sigev_notify = notify;
  event.sigev_signo = number;
  event.sigev_value.sival_int = value;
  timer_t timer = nullptr;
  ASSERT_EQ(timer_create(clock, &event, &timer), 0);
  return timer;
}

void AwaitCount(int count) {
  for (int i = 0; i < 20000 && SignalCount() < count; ++i) SleepMs(1);
  EXPECT_GE(SignalCount(), count);
}

}  // namespace

GUEST_TEST(Clock, MonotonicNeverGoesBack) {
  for (const clockid_t clock : {CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_MONOTONIC_RAW, CLOCK_MONOTONIC_COARSE}) {
    int64_t last = NowNs(clock);
    for (int i = 0; i < 5000; ++i) {
      const int64_t now = NowNs(clock);
      if (now < last) EXPECT_GE(now, last);
      last = now;
    }
  }
}

GUEST_TEST(Clock, VdsoAgreesWithTheCall) {
  for (const clockid_t clock : {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME}) {
    for (int i = 0; i < 200; ++i) {
      timespec call = {};
      const int64_t before = NowNs(clock);
      MUST(syscall(SYS_clock_gettime, clock, &call));
      const int64_t after = NowNs(clock);
      EXPECT_LE(before, Value(call));
      EXPECT_LE(Value(call), after);
    }
  }
}

GUEST_TEST(Clock, MonotonicOverCheckpoint) {
  const int64_t before = NowNs();
  const int64_t real = NowNs(CLOCK_REALTIME);
  CheckpointHere();
  EXPECT_GE(NowNs(), before);
  EXPECT_GE(NowNs(CLOCK_REALTIME), real);
}

GUEST_TEST(Clock, TimeAndGettimeofdayAgree) {
  timeval day = {};
  const int64_t before = NowNs(CLOCK_REALTIME) / 1000;
  MUST(gettimeofday(&day, nullptr));
  const int64_t after = NowNs(CLOCK_REALTIME) / 1000;
  EXPECT_LE(before, day.tv_sec * 1'000'000 + day.tv_usec);
  EXPECT_LE(day.tv_sec * 1'000'000 + day.tv_usec, after);
  EXPECT_LE(time(nullptr), after / 1'000'000);
  EXPECT_GE(time(nullptr), before / 1'000'000 - 1);
}

GUEST_TEST(Clock, ResolutionOfClocks) {
  timespec resolution = {};
  MUST(clock_getres(CLOCK_MONOTONIC, &resolution));
  EXPECT_EQ(Value(resolution), 1);
  MUST(clock_getres(CLOCK_REALTIME_COARSE, &resolution));
  EXPECT_GE(Value(resolution), 1'000'000);
  EXPECT_OK(clock_getres(CLOCK_PROCESS_CPUTIME_ID, nullptr));
}

GUEST_TEST(Clock, UnknownClocks) {
  timespec now;
  EXPECT_ERRNO(clock_gettime(100, &now), EINVAL);
  EXPECT_ERRNO(clock_getres(100, &now), EINVAL);
  EXPECT_ERRNO(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, 8), EFAULT);
  const timespec some = {.tv_sec = 1};
  EXPECT_ERRNO(clock_settime(CLOCK_MONOTONIC, &some), EINVAL);
}

GUEST_TEST(Clock, CpuTimeCountsWork) {
  const int64_t process = NowNs(CLOCK_PROCESS_CPUTIME_ID);
  const int64_t thread = NowNs(CLOCK_THREAD_CPUTIME_ID);
  const int64_t start = NowNs();
  while (NowNs(CLOCK_THREAD_CPUTIME_ID) - thread < 20 * kMs && NowNs() - start < 20000 * kMs) {
  }
  EXPECT_GE(NowNs(CLOCK_THREAD_CPUTIME_ID) - thread, 20 * kMs);
  EXPECT_GE(NowNs(CLOCK_PROCESS_CPUTIME_ID) - process, 19 * kMs);
}

GUEST_TEST(Clock, CpuTimeDoesNotCountSleep) {
  const int64_t before = NowNs(CLOCK_PROCESS_CPUTIME_ID);
  SleepMs(100);
  EXPECT_LT(NowNs(CLOCK_PROCESS_CPUTIME_ID) - before, 60 * kMs);
}

GUEST_TEST(Clock, CpuClockOfAnotherProcess) {
  const pid_t pid = Fork([] { pause(); });
  clockid_t clock = 0;
  ASSERT_EQ(clock_getcpuclockid(pid, &clock), 0);
  timespec used = {};
  EXPECT_OK(clock_gettime(clock, &used));
  EXPECT_LT(Value(used), 5000 * kMs);
  kill(pid, SIGKILL);
  WaitStatus(pid);
  EXPECT_NE(clock_getcpuclockid(pid, &clock), 0);
}

GUEST_TEST(Sleep, LastsAtLeastAsLong) {
  for (const int64_t ms : {1, 5, 30}) {
    const timespec wait = Ns(ms * kMs);
    const int64_t start = NowNs();
    EXPECT_OK(nanosleep(&wait, nullptr));
    EXPECT_GE(NowNs() - start, ms * kMs);
  }
}

GUEST_TEST(Sleep, Arguments) {
  timespec bad = {.tv_sec = 0, .tv_nsec = 1'000'000'000};
  EXPECT_ERRNO(nanosleep(&bad, nullptr), EINVAL);
  bad = {.tv_sec = -1, .tv_nsec = 0};
  EXPECT_ERRNO(nanosleep(&bad, nullptr), EINVAL);
  EXPECT_ERRNO(syscall(SYS_nanosleep, 8, nullptr), EFAULT);
  EXPECT_EQ(clock_nanosleep(CLOCK_THREAD_CPUTIME_ID, 0, &bad, nullptr), EINVAL);
  const timespec zero = {};
  EXPECT_OK(nanosleep(&zero, nullptr));
}

GUEST_TEST(Sleep, AbsoluteTime) {
  for (const clockid_t clock : {CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_BOOTTIME}) {
    const timespec until = Ns(NowNs(clock) + 20 * kMs);
    EXPECT_EQ(clock_nanosleep(clock, TIMER_ABSTIME, &until, nullptr), 0);
    EXPECT_GE(NowNs(clock), Value(until));
    EXPECT_EQ(clock_nanosleep(clock, TIMER_ABSTIME, &until, nullptr), 0);  // Past: at once.
  }
}

GUEST_TEST(Sleep, SleeperSurvives) {
  const pid_t pid = Fork([] {
    const int64_t start = NowNs();
    const timespec wait = Ns(200 * kMs);
    EXPECT_OK(nanosleep(&wait, nullptr));
    EXPECT_GE(NowNs() - start, 200 * kMs);
  });
  AwaitAsleep(pid);
  CheckpointHere();
  JOIN_OK(pid);
}

GUEST_TEST(Sleep, AbsoluteSleepInterrupted) {
  CountSignals(SIGUSR1, SA_RESTART);
  const pid_t self = getpid();
  const pid_t pid = Fork([=] {
    AwaitAsleep(self);
    kill(self, SIGUSR1);
  });
  const timespec until = Ns(NowNs() + 100'000 * kMs);
  timespec left = {.tv_sec = 77};
  // Unlike most sleeps this one restarts by itself only without a handler (clock_nanosleep(2)).
  EXPECT_EQ(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, &left), EINTR);
  EXPECT_EQ(left.tv_sec, 77);  // Untouched for absolute times.
  JOIN_OK(pid);
}

GUEST_TEST(Alarm, FiresOnce) {
  CountSignals(SIGALRM);
  EXPECT_EQ(alarm(1), 0);
  EXPECT_ERRNO(pause(), EINTR);
  EXPECT_EQ(SignalCount(), 1);
  EXPECT_EQ(LastSignal().si_code, SI_KERNEL);
  EXPECT_EQ(alarm(0), 0);
}

GUEST_TEST(Alarm, ReplacingTellsTheRest) {
  EXPECT_EQ(alarm(1000), 0);
  CheckpointHere();
  const unsigned left = alarm(0);
  EXPECT_GT(left, 800);
  EXPECT_LE(left, 1000);
}

GUEST_TEST(Alarm, IsNotInherited) {
  alarm(1000);
  const pid_t pid = Fork([] { EXPECT_EQ(alarm(0), 0); });
  JOIN_OK(pid);
  EXPECT_GT(alarm(0), 0);
}

GUEST_TEST(Itimer, RealRepeats) {
  CountSignals(SIGALRM, SA_RESTART);
  const itimerval timer = {{0, 10000}, {0, 10000}};
  MUST(setitimer(ITIMER_REAL, &timer, nullptr));
  AwaitCount(3);
  CheckpointHere();
  AwaitCount(SignalCount() + 2);
  itimerval now = {};
  MUST(getitimer(ITIMER_REAL, &now));
  EXPECT_EQ(now.it_interval.tv_usec, 10000);
  EXPECT_LE(now.it_value.tv_usec, 10000);
}

GUEST_TEST(Itimer, VirtualCountsCpuTime) {
  CountSignals(SIGVTALRM);
  const itimerval timer = {{0, 0}, {0, 20000}};
  MUST(setitimer(ITIMER_VIRTUAL, &timer, nullptr));
  SleepMs(50);
  EXPECT_EQ(SignalCount(), 0);
  const int64_t start = NowNs();
  while (SignalCount() == 0 && NowNs() - start < 30000 * kMs) {
  }
  EXPECT_EQ(SignalCount(), 1);
}

GUEST_TEST(Itimer, ProfCountsCpuTime) {
  CountSignals(SIGPROF);
  const itimerval timer = {{0, 0}, {0, 20000}};
  MUST(setitimer(ITIMER_PROF, &timer, nullptr));
  const int64_t start = NowNs();
  while (SignalCount() == 0 && NowNs() - start < 30000 * kMs) syscall(SYS_getppid);
  EXPECT_EQ(SignalCount(), 1);
}

volatile int here, elsewhere;
volatile pid_t burner;

// complete_signal(): the thread whose time made it expire gets the signal, not the one that sleeps.
GUEST_TEST(Itimer, ProfGoesToTheThreadThatRuns) {
  Thread thread([] {
    burner = gettid();
    struct sigaction action = {};
    action.sa_handler = [](int) {
      if (gettid() == burner) {
        here = here + 1;
      } else {
        elsewhere = elsewhere + 1;
      }
    };
    MUST(sigaction(SIGPROF, &action, nullptr));
    const itimerval timer = {{0, 10000}, {0, 10000}};
    MUST(setitimer(ITIMER_PROF, &timer, nullptr));
    const int64_t start = NowNs();
    while (here + elsewhere < 5 && NowNs() - start < 30000 * kMs) {
    }
    const itimerval off = {};
    MUST(setitimer(ITIMER_PROF, &off, nullptr));
  });
  thread.Join();
  EXPECT_GE(here, 5);
  EXPECT_EQ(elsewhere, 0);
}

GUEST_TEST(Itimer, Arguments) {
  itimerval timer = {{0, 0}, {0, 1'000'000}};
  EXPECT_ERRNO(setitimer(ITIMER_REAL, &timer, nullptr), EINVAL);
  EXPECT_ERRNO(syscall(SYS_setitimer, 7, &timer, nullptr), EINVAL);
  EXPECT_ERRNO(syscall(SYS_getitimer, ITIMER_REAL, 8), EFAULT);
}

GUEST_TEST(PosixTimer, SignalsWithItsValue) {
  CountSignals(SIGRTMIN);
  const timer_t timer = CreateTimer(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN, 99);
  const itimerspec once = Timer(10 * kMs);
  MUST(timer_settime(timer, 0, &once, nullptr));
  AwaitCount(1);
  EXPECT_EQ(LastSignal().si_code, SI_TIMER);
  EXPECT_EQ(LastSignal().si_value.sival_int, 99);
  EXPECT_EQ(LastSignal().si_overrun, 0);
  itimerspec now = {};
  MUST(timer_gettime(timer, &now));
  EXPECT_EQ(Value(now.it_value), 0);
}

GUEST_TEST(PosixTimer, CountsOverruns) {
  Block({SIGRTMIN});
  const timer_t timer = CreateTimer(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN);
  const itimerspec often = Timer(kMs, kMs);
  MUST(timer_settime(timer, 0, &often, nullptr));
  SleepMs(50);
  const sigset_t set = Signals({SIGRTMIN});
  siginfo_t info = {};
  EXPECT_EQ(sigwaitinfo(&set, &info), SIGRTMIN);
  EXPECT_GE(info.si_overrun, 20);  // One signal stands for all expirations until it is taken.
  EXPECT_GE(timer_getoverrun(timer), 20);
  EXPECT_EQ(timer_delete(timer), 0);
}

GUEST_TEST(PosixTimer, RemainingTime) {
  const timer_t timer = CreateTimer(CLOCK_MONOTONIC, SIGEV_NONE, 12345);
  const itimerspec long_one = Timer(1000'000 * kMs, 5000 * kMs);
  MUST(timer_settime(timer, 0, &long_one, nullptr));
  CheckpointHere();
  itimerspec now = {};
  MUST(timer_gettime(timer, &now));
  EXPECT_GT(Value(now.it_value), 900'000 * kMs);
  EXPECT_LE(Value(now.it_value), 1000'000 * kMs);
  EXPECT_EQ(Value(now.it_interval), 5000 * kMs);
  itimerspec old = {};
  const itimerspec off = Timer(0);
  MUST(timer_settime(timer, 0, &off, &old));
  EXPECT_GT(Value(old.it_value), 900'000 * kMs);
}

GUEST_TEST(PosixTimer, AbsoluteTime) {
  CountSignals(SIGRTMIN);
  const timer_t timer = CreateTimer(CLOCK_REALTIME, SIGEV_SIGNAL, SIGRTMIN);
  const itimerspec at = Timer(NowNs(CLOCK_REALTIME) + 20 * kMs);
  MUST(timer_settime(timer, TIMER_ABSTIME, &at, nullptr));
  AwaitCount(1);
  EXPECT_GE(NowNs(CLOCK_REALTIME), Value(at.it_value));
}

GUEST_TEST(PosixTimer, ToOneThread) {
  static volatile pid_t taker = 0;
  Handle(SIGRTMIN, [](int, siginfo_t*, void*) { taker = static_cast<pid_t>(syscall(SYS_gettid)); });
  Gate done;
  Thread other([&] { done.Await(); });
  sigevent event = {};
  event.sigev_notify = SIGEV_THREAD_ID;
  event.sigev_signo = SIGRTMIN;
  event._sigev_un._tid = other.tid();
  timer_t timer = nullptr;
  ASSERT_EQ(timer_create(CLOCK_MONOTONIC, &event, &timer), 0);
  const itimerspec once = Timer(10 * kMs);
  MUST(timer_settime(timer, 0, &once, nullptr));
  for (int i = 0; i < 20000 && taker == 0; ++i) SleepMs(1);
  EXPECT_EQ(taker, other.tid());
  done.Open();
}

GUEST_TEST(PosixTimer, Arguments) {
  timer_t timer = nullptr;
  sigevent event = {};
  event.sigev_notify = SIGEV_SIGNAL;
  event.sigev_signo = 99;
  EXPECT_ERRNO(timer_create(CLOCK_MONOTONIC, &event, &timer), EINVAL);
  EXPECT_ERRNO(timer_create(77, nullptr, &timer), EINVAL);
  itimerspec now = {};
  EXPECT_ERRNO(syscall(SYS_timer_gettime, 12345, &now), EINVAL);
  EXPECT_ERRNO(syscall(SYS_timer_delete, 12345), EINVAL);
}

GUEST_TEST(PosixTimer, IsNotInherited) {
  const timer_t timer = CreateTimer(CLOCK_MONOTONIC, SIGEV_NONE, 0);
  const pid_t pid = Fork([=] {
    itimerspec now = {};
    EXPECT_ERRNO(timer_gettime(timer, &now), EINVAL);
  });
  JOIN_OK(pid);
}

GUEST_TEST(PosixTimer, CpuTimeTimer) {
  CountSignals(SIGRTMIN);
  const timer_t timer = CreateTimer(CLOCK_PROCESS_CPUTIME_ID, SIGEV_SIGNAL, SIGRTMIN);
  const itimerspec once = Timer(20 * kMs);
  MUST(timer_settime(timer, 0, &once, nullptr));
  const int64_t start = NowNs();
  while (SignalCount() == 0 && NowNs() - start < 30000 * kMs) {
  }
  EXPECT_EQ(SignalCount(), 1);
  EXPECT_GE(NowNs(CLOCK_PROCESS_CPUTIME_ID), 20 * kMs);
}

// Times that end behind the end of time: they never come, and nothing else is late for them.
GUEST_TEST(PosixTimer, TheEndOfTime) {
  CountSignals(SIGRTMIN);
  constexpr int64_t kLongest = 9'223'372'036;  // seconds that 64 bits of nanoseconds hold
  for (const clockid_t clock : {CLOCK_MONOTONIC, CLOCK_PROCESS_CPUTIME_ID, CLOCK_THREAD_CPUTIME_ID}) {
    const int before = SignalCount();
    const timer_t timer = CreateTimer(clock, SIGEV_SIGNAL, SIGRTMIN);
    for (const int64_t seconds : {kLongest, kLongest - 1, int64_t{INT64_MAX}}) {
      const itimerspec late = {.it_interval = {}, .it_value = {.tv_sec = seconds}};
      MUST(timer_settime(timer, 0, &late, nullptr));
      MUST(timer_settime(timer, TIMER_ABSTIME, &late, nullptr));
    }
    EXPECT_EQ(SignalCount(), before);
    // Once now, and then not again.
    const itimerspec once = {.it_interval = {.tv_sec = kLongest}, .it_value = {.tv_nsec = 1}};
    MUST(timer_settime(timer, 0, &once, nullptr));
    for (int64_t start = NowNs(); SignalCount() == before && NowNs() - start < 30000 * kMs;) {
    }
    SleepMs(5);
    CheckpointHere();
    EXPECT_EQ(SignalCount(), before + 1);
    EXPECT_EQ(timer_delete(timer), 0);
  }
}

GUEST_TEST(Itimer, TheEndOfTime) {
  CountSignals(SIGALRM);
  const itimerval once = {.it_interval = {.tv_sec = 9'223'372'036}, .it_value = {.tv_usec = 1}};
  MUST(setitimer(ITIMER_REAL, &once, nullptr));
  AwaitCount(1);
  SleepMs(5);
  EXPECT_EQ(SignalCount(), 1);
}

GUEST_TEST(Timerfd, CountsExpirations) {
  const int fd = MUST(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
  uint64_t count = 0;
  EXPECT_ERRNO(read(fd, &count, 8), EAGAIN);
  const itimerspec often = Timer(kMs, kMs);
  MUST(timerfd_settime(fd, 0, &often, nullptr));
  SleepMs(30);
  EXPECT_EQ(read(fd, &count, 8), 8);
  EXPECT_GE(count, 20);
  EXPECT_ERRNO(read(fd, &count, 4), EINVAL);
}

GUEST_TEST(Timerfd, BlockingReadWaits) {
  const int fd = MUST(timerfd_create(CLOCK_MONOTONIC, 0));
  const int64_t start = NowNs();
  const itimerspec once = Timer(30 * kMs);
  MUST(timerfd_settime(fd, 0, &once, nullptr));
  uint64_t count = 0;
  EXPECT_EQ(read(fd, &count, 8), 8);
  EXPECT_EQ(count, 1);
  EXPECT_GE(NowNs() - start, 30 * kMs);
}

GUEST_TEST(Timerfd, PollAndRearm) {
  const int fd = MUST(timerfd_create(CLOCK_REALTIME, TFD_CLOEXEC));
  EXPECT_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
  const itimerspec at = Timer(NowNs(CLOCK_REALTIME) + 20 * kMs);
  MUST(timerfd_settime(fd, TFD_TIMER_ABSTIME, &at, nullptr));
  pollfd poller = {fd, POLLIN, 0};
  EXPECT_EQ(poll(&poller, 1, 20000), 1);
  CheckpointHere();
  EXPECT_EQ(poll(&poller, 1, 0), 1);
  const itimerspec later = Timer(1000'000 * kMs);
  MUST(timerfd_settime(fd, 0, &later, nullptr));
  EXPECT_EQ(poll(&poller, 1, 0), 0);  // Setting forgets what was not read.
}

GUEST_TEST(Timerfd, ArmedTimerSurvives) {
  const int fd = MUST(timerfd_create(CLOCK_MONOTONIC, 0));
  const itimerspec timer = Timer(50 * kMs, 1000'000 * kMs);
  MUST(timerfd_settime(fd, 0, &timer, nullptr));
  CheckpointHere();
  uint64_t count = 0;
  EXPECT_EQ(read(fd, &count, 8), 8);
  EXPECT_EQ(count, 1);
  itimerspec now = {};
  MUST(timerfd_gettime(fd, &now));
  EXPECT_EQ(Value(now.it_interval), 1000'000 * kMs);
  EXPECT_GT(Value(now.it_value), 900'000 * kMs);
}

GUEST_TEST(Timerfd, SharedByFork) {
  const int fd = MUST(timerfd_create(CLOCK_MONOTONIC, 0));
  const pid_t pid = Fork([=] {
    const itimerspec once = Timer(kMs);
    MUST(timerfd_settime(fd, 0, &once, nullptr));
  });
  JOIN_OK(pid);
  uint64_t count = 0;
  EXPECT_EQ(read(fd, &count, 8), 8);
}

GUEST_TEST(Timerfd, Arguments) {
  EXPECT_ERRNO(timerfd_create(CLOCK_PROCESS_CPUTIME_ID, 0), EINVAL);
  EXPECT_ERRNO(timerfd_create(CLOCK_MONOTONIC, 0x100), EINVAL);
  const itimerspec bad = {.it_interval = {}, .it_value = {.tv_sec = 0, .tv_nsec = 2'000'000'000}};
  const int fd = MUST(timerfd_create(CLOCK_MONOTONIC, 0));
  EXPECT_ERRNO(timerfd_settime(fd, 0, &bad, nullptr), EINVAL);
  EXPECT_ERRNO(timerfd_settime(1, 0, &bad, nullptr), EINVAL);
}

GUEST_TEST(Times, CountTicks) {
  tms used = {};
  const clock_t first = times(&used);
  EXPECT_NE(first, -1);
  SleepMs(30);
  EXPECT_GE(times(nullptr) - first, 2);
}

GUEST_TEST(Times, WhatChildrenUsedSurvives) {
  JOIN_OK(Fork([] {
    while (NowNs(CLOCK_PROCESS_CPUTIME_ID) < 30 * kMs) {
    }
  }));
  rusage before = {}, after = {};
  MUST(getrusage(RUSAGE_CHILDREN, &before));
  CheckpointHere();
  MUST(getrusage(RUSAGE_CHILDREN, &after));
  auto used = [](const rusage& u) { return u.ru_utime.tv_sec * 1'000'000 + u.ru_utime.tv_usec + u.ru_stime.tv_sec * 1'000'000 + u.ru_stime.tv_usec; };
  EXPECT_GT(used(before), 0);
  EXPECT_EQ(used(after), used(before));
}

GUEST_TEST(Times, RusageIsSane) {
  rusage self = {}, thread = {};
  MUST(getrusage(RUSAGE_SELF, &self));
  MUST(getrusage(RUSAGE_THREAD, &thread));
  EXPECT_GT(self.ru_maxrss, 0);
  EXPECT_ERRNO(getrusage(static_cast<__rusage_who>(5), &self), EINVAL);
}
