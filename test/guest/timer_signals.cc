// What timers send, and what becomes of it when they are set anew; what disarmed ones tell; what is counted as queued.
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/timex.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

// A timer on CLOCK_MONOTONIC that sends `signo`; its id.
int MakeTimer(int signo, int value = 0) {
  sigevent event{};
  event.sigev_notify = SIGEV_SIGNAL;
  event.sigev_signo = signo;
  event.sigev_value.sival_int = value;
  int id = -1;
  MUST(Call(SYS_timer_create, CLOCK_MONOTONIC, &event, &id));
  return id;
}

void Set(int id, int64_t value, int64_t interval = 0) {
  itimerspec times{Ns(interval), Ns(value)};
  MUST(Call(SYS_timer_settime, id, 0, &times, nullptr));
}

void AwaitPending(int signo) {
  sigset_t pending;
  do {
    SleepMs(1);
    MUST(sigpending(&pending));
  } while (sigismember(&pending, signo) == 0);
}

int TakeNow(int signo, siginfo_t* info) {
  sigset_t set = Signals({signo});
  timespec none{};
  return sigtimedwait(&set, info, &none);
}

}  // namespace

GUEST_TEST(TimerSignal, OfAnOlderSettingIsDropped) {
  Block({SIGUSR1});
  int id = MakeTimer(SIGUSR1);
  Set(id, 1);
  AwaitPending(SIGUSR1);
  CheckpointHere();
  Set(id, 0);
  siginfo_t info;
  EXPECT_ERRNO(TakeNow(SIGUSR1, &info), EAGAIN);
  // The next one is not.
  Set(id, 1);
  AwaitPending(SIGUSR1);
  EXPECT_EQ(TakeNow(SIGUSR1, &info), SIGUSR1);
  EXPECT_EQ(info.si_code, SI_TIMER);
  EXPECT_EQ(info.si_timerid, id);
}

GUEST_TEST(TimerSignal, OfADeletedTimerIsDropped) {
  Block({SIGUSR1, SIGRTMIN});
  int id = MakeTimer(SIGUSR1), other = MakeTimer(SIGRTMIN);
  Set(id, 1);
  Set(other, 1);
  AwaitPending(SIGUSR1);
  AwaitPending(SIGRTMIN);
  MUST(Call(SYS_timer_delete, id));
  CheckpointHere();
  MUST(Call(SYS_timer_delete, other));
  siginfo_t info;
  EXPECT_ERRNO(TakeNow(SIGUSR1, &info), EAGAIN);
  EXPECT_ERRNO(TakeNow(SIGRTMIN, &info), EAGAIN);
}

GUEST_TEST(TimerSignal, SetAnewWhilePending) {
  Block({SIGUSR1});
  int id = MakeTimer(SIGUSR1, 7);
  Set(id, 1, 1'000'000);
  AwaitPending(SIGUSR1);
  SleepMs(20);
  Set(id, 1);
  SleepMs(20);
  CheckpointHere();
  siginfo_t info;
  EXPECT_EQ(TakeNow(SIGUSR1, &info), SIGUSR1);
  EXPECT_EQ(info.si_value.sival_int, 7);
  // Overruns of the setting before do not count.
  EXPECT_EQ(info.si_overrun, 0);
  EXPECT_EQ(Call(SYS_timer_getoverrun, id), 0);
}

GUEST_TEST(TimerSignal, SettingForgetsOverruns) {
  Block({SIGUSR1});
  int id = MakeTimer(SIGUSR1);
  Set(id, 1, 1'000'000);
  AwaitPending(SIGUSR1);
  SleepMs(20);
  siginfo_t info;
  EXPECT_EQ(TakeNow(SIGUSR1, &info), SIGUSR1);
  EXPECT_GE(info.si_overrun, 5);
  CheckpointHere();
  EXPECT_EQ(Call(SYS_timer_getoverrun, id), info.si_overrun);
  Set(id, 0);
  EXPECT_EQ(Call(SYS_timer_getoverrun, id), 0);
}

GUEST_TEST(TimerSignal, OtherSendersAreHeard) {
  Block({SIGUSR1});
  int id = MakeTimer(SIGUSR1);
  MUST(raise(SIGUSR1));
  Set(id, 1);
  SleepMs(10);
  Set(id, 0);
  CheckpointHere();
  siginfo_t info;
  EXPECT_EQ(TakeNow(SIGUSR1, &info), SIGUSR1);
  EXPECT_EQ(info.si_code, SI_USER);  // sigtimedwait(3) takes tgkill(2) for kill(2)
  EXPECT_ERRNO(TakeNow(SIGUSR1, &info), EAGAIN);
}

GUEST_TEST(TimerSignal, WhatAProgramMadeUpIsKept) {
  Block({SIGUSR1});
  int id = MakeTimer(SIGUSR1);
  siginfo_t sent{};
  sent.si_code = SI_TIMER;
  sent.si_timerid = id;
  sent.si_overrun = 66;
  sent.si_value.sival_int = 55;
  MUST(Call(SYS_rt_sigqueueinfo, getpid(), SIGUSR1, &sent));
  CheckpointHere();
  MUST(Call(SYS_timer_delete, id));
  siginfo_t info;
  EXPECT_EQ(TakeNow(SIGUSR1, &info), SIGUSR1);
  EXPECT_EQ(info.si_timerid, id);
  EXPECT_EQ(info.si_overrun, 66);
  EXPECT_EQ(info.si_value.sival_int, 55);
}

GUEST_TEST(TimerSignal, DisarmedTimersHaveNoInterval) {
  int id = MakeTimer(SIGUSR1);
  itimerspec times{{5, 0}, {0, 0}}, now{};
  MUST(Call(SYS_timer_settime, id, 0, &times, nullptr));
  MUST(Call(SYS_timer_gettime, id, &now));
  EXPECT_EQ(now.it_interval.tv_sec, 0);
  itimerval value{{4, 0}, {0, 0}}, read{};
  MUST(setitimer(ITIMER_REAL, &value, nullptr));
  CheckpointHere();
  MUST(getitimer(ITIMER_REAL, &read));
  EXPECT_EQ(read.it_interval.tv_sec, 0);
  value.it_value.tv_sec = 1000;
  MUST(setitimer(ITIMER_REAL, &value, nullptr));
  MUST(getitimer(ITIMER_REAL, &read));
  EXPECT_EQ(read.it_interval.tv_sec, 4);
}

// The kernel's clock as ntp.c starts it, and what may be asked without privilege.
GUEST_TEST(Adjtimex, ReadingIsForAll) {
  timex t{};
  EXPECT_GE(adjtimex(&t), 0);
  EXPECT_EQ(t.precision, 1);
  EXPECT_EQ(t.tolerance, 32768000);
  t = {};
  t.modes = 0x8000;  // ADJ_ADJTIME without a single shot
  EXPECT_ERRNO(adjtimex(&t), EINVAL);
  AS_USER([] {
    timex u{};
    u.modes = 0x8000;
    EXPECT_ERRNO(adjtimex(&u), EINVAL);
    u.modes = ADJ_OFFSET_SS_READ;
    EXPECT_GE(adjtimex(&u), 0);
    u.modes = ADJ_OFFSET_SINGLESHOT;
    EXPECT_ERRNO(adjtimex(&u), EPERM);
    u.modes = ADJ_STATUS;
    EXPECT_ERRNO(adjtimex(&u), EPERM);
  });
}

GUEST_TEST(ClockResolution, OfProcessorTime) {
  // Of this thread: 5 is time in user mode, 6 what it ran (CPUCLOCK_PERTHREAD).
  timespec resolution{};
  MUST(Call(SYS_clock_getres, (~0 << 3) | 5, &resolution));
  EXPECT_GE(resolution.tv_nsec, 1'000'000);
  MUST(Call(SYS_clock_getres, (~0 << 3) | 6, &resolution));
  EXPECT_EQ(resolution.tv_nsec, 1);
}
