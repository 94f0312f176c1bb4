// Signals: synchronous waiting, restart of interrupted calls, alternate stacks, faults, stop and
// continue.
#include <linux/futex.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/socket.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

bool Pending(int number) {
  sigset_t set;
  MUST(sigpending(&set));
  return sigismember(&set, number) == 1;
}

// Sends SIGUSR1 to the calling process when it sleeps.
pid_t Interrupter() {
  const pid_t target = getpid();
  return Fork([=] {
    AwaitAsleep(target);
    MUST(kill(target, SIGUSR1));
  });
}

}  // namespace

GUEST_TEST(SigWait, TimedwaitTakesAPendingOne) {
  Block({SIGUSR1});
  MUST(sigqueue(getpid(), SIGUSR1, {.sival_int = 5}));
  const sigset_t set = Signals({SIGUSR1});
  CheckpointHere();
  siginfo_t info = {};
  const timespec zero = {};
  EXPECT_EQ(sigtimedwait(&set, &info, &zero), SIGUSR1);
  EXPECT_EQ(info.si_value.sival_int, 5);
  EXPECT_ERRNO(sigtimedwait(&set, &info, &zero), EAGAIN);
}

GUEST_TEST(SigWait, TimedwaitTimesOut) {
  Block({SIGUSR1});
  const sigset_t set = Signals({SIGUSR1});
  const int64_t start = NowNs();
  const timespec wait = Ns(30 * kMs);
  EXPECT_ERRNO(sigtimedwait(&set, nullptr, &wait), EAGAIN);
  EXPECT_GE(NowNs() - start, 30 * kMs);
  const timespec bad = {.tv_sec = 0, .tv_nsec = 1'000'000'000};
  EXPECT_ERRNO(sigtimedwait(&set, nullptr, &bad), EINVAL);
}

GUEST_TEST(SigWait, BlocksUntilItComes) {
  Block({SIGUSR1});
  const sigset_t set = Signals({SIGUSR1});
  const pid_t pid = Interrupter();
  siginfo_t info = {};
  EXPECT_EQ(sigwaitinfo(&set, &info), SIGUSR1);
  EXPECT_EQ(info.si_pid, pid);
  JOIN_OK(pid);
}

GUEST_TEST(SigWait, AnotherSignalInterruptsIt) {
  CountSignals(SIGUSR1, SA_RESTART);
  Block({SIGUSR2});
  const sigset_t set = Signals({SIGUSR2});
  const pid_t pid = Interrupter();
  EXPECT_ERRNO(sigwaitinfo(&set, nullptr), EINTR);  // Even with SA_RESTART.
  JOIN_OK(pid);
}

GUEST_TEST(SigWait, SuspendSwapsTheMask) {
  CountSignals(SIGUSR1);
  Block({SIGUSR1});
  raise(SIGUSR1);
  const sigset_t none = Signals({});
  EXPECT_EQ(SignalCount(), 0);
  EXPECT_ERRNO(sigsuspend(&none), EINTR);
  EXPECT_EQ(SignalCount(), 1);
  raise(SIGUSR1);
  EXPECT(Pending(SIGUSR1));  // The old mask is back.
}

GUEST_TEST(SigWait, SuspendSleeps) {
  CountSignals(SIGUSR1);
  Block({SIGUSR1});
  const sigset_t none = Signals({});
  const pid_t pid = Interrupter();
  EXPECT_ERRNO(sigsuspend(&none), EINTR);
  EXPECT_EQ(SignalCount(), 1);
  JOIN_OK(pid);
}

GUEST_TEST(SigWait, SuspendedThreadSurvives) {
  CountSignals(SIGUSR1);
  const pid_t pid = Fork([] {
    const sigset_t none = Signals({});
    Block({SIGUSR1, SIGUSR2});
    EXPECT_ERRNO(sigsuspend(&none), EINTR);
    EXPECT_EQ(SignalCount(), 1);
  });
  AwaitAsleep(pid);
  CheckpointHere();
  EXPECT_EQ(ThreadState(pid, pid), 'S');
  kill(pid, SIGUSR1);
  JOIN_OK(pid);
}

GUEST_TEST(SigWait, PauseReturnsAfterAHandlerOnly) {
  CountSignals(SIGUSR1, SA_RESTART);
  signal(SIGUSR2, SIG_IGN);
  const pid_t self = getpid();
  const pid_t pid = Fork([=] {
    AwaitAsleep(self);
    kill(self, SIGUSR2);
    AwaitAsleep(self);
    kill(self, SIGUSR1);
  });
  EXPECT_ERRNO(pause(), EINTR);
  EXPECT_EQ(SignalCount(), 1);
  JOIN_OK(pid);
}

GUEST_TEST(Signalfd, ReadsPendingSignals) {
  Block({SIGUSR1, SIGRTMIN + 2});
  const sigset_t set = Signals({SIGUSR1, SIGRTMIN + 2});
  const int fd = MUST(signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC));
  signalfd_siginfo info[4] = {};
  EXPECT_ERRNO(read(fd, info, sizeof(info)), EAGAIN);
  MUST(kill(getpid(), SIGUSR1));
  MUST(sigqueue(getpid(), SIGRTMIN + 2, {.sival_int = 1}));
  MUST(sigqueue(getpid(), SIGRTMIN + 2, {.sival_int = 2}));
  CheckpointHere();
  pollfd poller = {fd, POLLIN, 0};
  EXPECT_EQ(poll(&poller, 1, 0), 1);
  EXPECT_EQ(read(fd, info, sizeof(info)), 3 * sizeof(info[0]));
  EXPECT_EQ(info[0].ssi_signo, SIGUSR1);
  EXPECT_EQ(info[0].ssi_pid, getpid());
  EXPECT_EQ(info[1].ssi_int, 1);
  EXPECT_EQ(info[2].ssi_int, 2);
  EXPECT_EQ(info[2].ssi_code, SI_QUEUE);
  EXPECT(!Pending(SIGUSR1));
  EXPECT_ERRNO(read(fd, info, 16), EINVAL);
}

GUEST_TEST(Signalfd, BlockedReaderWakes) {
  Block({SIGUSR1});
  const sigset_t set = Signals({SIGUSR1});
  const int fd = MUST(signalfd(-1, &set, 0));
  const pid_t pid = Interrupter();
  signalfd_siginfo info = {};
  EXPECT_EQ(read(fd, &info, sizeof(info)), sizeof(info));
  EXPECT_EQ(info.ssi_pid, pid);
  JOIN_OK(pid);
}

GUEST_TEST(Signalfd, SetCanBeChanged) {
  Block({SIGUSR1, SIGUSR2});
  sigset_t set = Signals({SIGUSR1});
  const int fd = MUST(signalfd(-1, &set, SFD_NONBLOCK));
  raise(SIGUSR2);
  signalfd_siginfo info = {};
  EXPECT_ERRNO(read(fd, &info, sizeof(info)), EAGAIN);
  set = Signals({SIGUSR2});
  EXPECT_EQ(signalfd(fd, &set, 0), fd);
  CheckpointHere();
  EXPECT_EQ(read(fd, &info, sizeof(info)), sizeof(info));
  EXPECT_EQ(info.ssi_signo, SIGUSR2);
  EXPECT_ERRNO(signalfd(1, &set, 0), EINVAL);
  EXPECT_ERRNO(signalfd(-1, &set, 0x100), EINVAL);
}

GUEST_TEST(Restart, PipeReadWithRestart) {
  CountSignals(SIGUSR1, SA_RESTART);
  Pipe p;
  const pid_t self = getpid();
  const pid_t pid = Fork([&] {
    AwaitAsleep(self);
    kill(self, SIGUSR1);
    AwaitAsleep(self);
    MUST(write(p.w, "x", 1));
  });
  char byte = 0;
  EXPECT_EQ(read(p.r, &byte, 1), 1);
  EXPECT_EQ(SignalCount(), 1);
  JOIN_OK(pid);
}

GUEST_TEST(Restart, PipeReadWithout) {
  CountSignals(SIGUSR1);
  Pipe p;
  const pid_t pid = Interrupter();
  char byte = 0;
  EXPECT_ERRNO(read(p.r, &byte, 1), EINTR);
  EXPECT_EQ(SignalCount(), 1);
  JOIN_OK(pid);
}

GUEST_TEST(Restart, CallsThatNeverRestart) {
  CountSignals(SIGUSR1, SA_RESTART);
  pid_t pid = Interrupter();
  EXPECT_ERRNO(poll(nullptr, 0, 20000), EINTR);
  JOIN_OK(pid);
  pid = Interrupter();
  timeval timeout = {20, 0};
  EXPECT_ERRNO(select(0, nullptr, nullptr, nullptr, &timeout), EINTR);
  JOIN_OK(pid);
  const int epoll = MUST(epoll_create1(0));
  epoll_event event;
  pid = Interrupter();
  EXPECT_ERRNO(epoll_wait(epoll, &event, 1, 20000), EINTR);
  JOIN_OK(pid);
  EXPECT_EQ(SignalCount(), 3);
}

GUEST_TEST(Restart, NanosleepTellsTheRemainder) {
  CountSignals(SIGUSR1, SA_RESTART);
  const pid_t pid = Interrupter();
  timespec left = {};
  const timespec wait = {.tv_sec = 1000};
  EXPECT_ERRNO(nanosleep(&wait, &left), EINTR);
  EXPECT_GT(left.tv_sec, 900);
  EXPECT_LE(left.tv_sec, 1000);
  JOIN_OK(pid);
}

GUEST_TEST(Restart, SocketReceiveTimeoutStopsRestart) {
  CountSignals(SIGUSR1, SA_RESTART);
  int ends[2];
  MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
  const timeval timeout = {100, 0};
  MUST(setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)));
  const pid_t pid = Interrupter();
  char byte;
  EXPECT_ERRNO(recv(ends[0], &byte, 1, 0), EINTR);
  JOIN_OK(pid);
}

GUEST_TEST(Restart, FutexWaitWithRestart) {
  CountSignals(SIGUSR1, SA_RESTART);
  int* word = Shared<int>();
  const pid_t self = getpid();
  const pid_t pid = Fork([=] {
    AwaitAsleep(self);
    kill(self, SIGUSR1);
    for (int woken = 0; woken == 0; SleepMs(1)) {
      woken = static_cast<int>(syscall(SYS_futex, word, FUTEX_WAKE, 1, nullptr, nullptr, 0));
    }
  });
  EXPECT_EQ(syscall(SYS_futex, word, FUTEX_WAIT, 0, nullptr, nullptr, 0), 0);
  JOIN_OK(pid);
}

GUEST_TEST(Restart, StopAndContinueDoNotInterrupt) {
  Pipe p;
  const pid_t pid = Fork([&] {
    char byte = 0;
    EXPECT_EQ(read(p.r, &byte, 1), 1);
    const timespec wait = Ns(50 * kMs);
    EXPECT_EQ(nanosleep(&wait, nullptr), 0);
  });
  AwaitAsleep(pid);
  kill(pid, SIGSTOP);
  AwaitState(pid, pid, 'T');
  CheckpointHere();
  kill(pid, SIGCONT);
  AwaitAsleep(pid);
  MUST(write(p.w, "x", 1));
  JOIN_OK(pid);
}

GUEST_TEST(Restart, EpollWaitIsInterruptedByStop) {
  // epoll_wait and a few others fail with EINTR after SIGSTOP and SIGCONT without any handler
  // (signal(7)).
  const pid_t pid = Fork([] {
    const int epoll = MUST(epoll_create1(0));
    epoll_event event;
    EXPECT_ERRNO(epoll_wait(epoll, &event, 1, 60000), EINTR);
  });
  AwaitAsleep(pid);
  kill(pid, SIGSTOP);
  AwaitState(pid, pid, 'T');
  kill(pid, SIGCONT);
  JOIN_OK(pid);
}
