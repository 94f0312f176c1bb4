// Signals: generation, queues, masks, handlers and their flags.
#include <sys/resource.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

int order[64];
int order_count = 0;

void Remember(int, siginfo_t* info, void*) { order[order_count++] = info->si_value.sival_int; }

void RememberNumber(int number, siginfo_t*, void*) { order[order_count++] = number; }

bool Pending(int number) {
  sigset_t set;
  MUST(sigpending(&set));
  return sigismember(&set, number) == 1;
}

bool Blocked(int number) {
  sigset_t set;
  MUST(sigprocmask(SIG_BLOCK, nullptr, &set));
  return sigismember(&set, number) == 1;
}

int QueueInfo(pid_t pid, int number, int code, int value) {
  siginfo_t info = {};
  info.si_signo = number;
  info.si_code = code;
  info.si_pid = getpid();
  info.si_value.sival_int = value;
  return static_cast<int>(syscall(SYS_rt_sigqueueinfo, pid, number, &info));
}

}  // namespace

GUEST_TEST(Signal, HandlerRunsAndCallReturns) {
  CountSignals(SIGUSR1);
  EXPECT_EQ(kill(getpid(), SIGUSR1), 0);
  EXPECT_EQ(SignalCount(), 1);
  EXPECT_EQ(LastSignal().si_signo, SIGUSR1);
  EXPECT_EQ(LastSignal().si_code, SI_USER);
  EXPECT_EQ(LastSignal().si_pid, getpid());
  EXPECT_EQ(LastSignal().si_uid, getuid());
}

GUEST_TEST(Signal, TgkillTellsItsCode) {
  CountSignals(SIGUSR1);
  EXPECT_OK(syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), SIGUSR1));
  EXPECT_EQ(SignalCount(), 1);
  EXPECT_EQ(LastSignal().si_code, SI_TKILL);
}

GUEST_TEST(Signal, SigqueueCarriesAValue) {
  CountSignals(SIGUSR1);
  EXPECT_OK(sigqueue(getpid(), SIGUSR1, {.sival_int = 4711}));
  EXPECT_EQ(LastSignal().si_code, SI_QUEUE);
  EXPECT_EQ(LastSignal().si_value.sival_int, 4711);
}

GUEST_TEST(Signal, BadTargets) {
  EXPECT_ERRNO(kill(getpid(), 65), EINVAL);
  EXPECT_ERRNO(kill(getpid(), -1), EINVAL);
  EXPECT_ERRNO(kill(0x3ffffff, 0), ESRCH);
  EXPECT_ERRNO(syscall(SYS_tgkill, getpid(), 0x3ffffff, 0), ESRCH);
  EXPECT_ERRNO(syscall(SYS_tgkill, -1, 1, 0), EINVAL);
  EXPECT_ERRNO(syscall(SYS_tkill, 0, 0), EINVAL);
  EXPECT_ERRNO(syscall(SYS_tgkill, getppid(), syscall(SYS_gettid), 0), ESRCH);
}

GUEST_TEST(Signal, StandardSignalsDoNotQueue) {
  CountSignals(SIGUSR1);
  Block({SIGUSR1});
  for (int i = 0; i < 5; ++i) MUST(kill(getpid(), SIGUSR1));
  EXPECT(Pending(SIGUSR1));
  CheckpointHere();
  EXPECT(Pending(SIGUSR1));
  EXPECT_EQ(SignalCount(), 0);
  Unblock({SIGUSR1});
  EXPECT_EQ(SignalCount(), 1);
  EXPECT(!Pending(SIGUSR1));
}

GUEST_TEST(Signal, RealTimeSignalsQueueInOrder) {
  Handle(SIGRTMIN + 1, Remember);
  Block({SIGRTMIN + 1});
  for (int i = 0; i < 20; ++i) MUST(sigqueue(getpid(), SIGRTMIN + 1, {.sival_int = i}));
  CheckpointHere();
  Unblock({SIGRTMIN + 1});
  EXPECT_EQ(order_count, 20);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(order[i], i);
}

GUEST_TEST(Signal, LowestNumberIsTakenFirst) {
  const int numbers[] = {SIGRTMIN + 5, SIGUSR2, SIGRTMIN + 1, SIGHUP, SIGTERM};
  Block({SIGRTMIN + 5, SIGUSR2, SIGRTMIN + 1, SIGHUP, SIGTERM});
  for (const int number : numbers) MUST(kill(getpid(), number));
  const sigset_t set = Signals({SIGRTMIN + 5, SIGUSR2, SIGRTMIN + 1, SIGHUP, SIGTERM});
  CheckpointHere();
  const int expected[] = {SIGHUP, SIGUSR2, SIGTERM, SIGRTMIN + 1, SIGRTMIN + 5};
  for (const int number : expected) EXPECT_EQ(sigwaitinfo(&set, nullptr), number);
}

GUEST_TEST(Signal, HandlersNestSoTheHighestEndsFirst) {
  // All handlers' frames are pushed before any runs, so the last pushed (the highest number) runs
  // first.
  Block({SIGUSR1, SIGUSR2});
  Handle(SIGUSR1, RememberNumber);
  Handle(SIGUSR2, RememberNumber);
  kill(getpid(), SIGUSR1);
  kill(getpid(), SIGUSR2);
  Unblock({SIGUSR1, SIGUSR2});
  ASSERT_EQ(order_count, 2);
  EXPECT_EQ(order[0], SIGUSR2);
  EXPECT_EQ(order[1], SIGUSR1);
}

GUEST_TEST(Signal, SynchronousSignalGoesFirst) {
  // A fault is delivered before other pending signals, whatever their numbers.
  static const pid_t self = getpid();
  Handle(SIGHUP, RememberNumber);
  Handle(SIGSEGV, [](int number, siginfo_t*, void*) { order[order_count++] = number; });
  Block({SIGHUP, SIGSEGV});
  EXPECT_OK(QueueInfo(self, SIGHUP, SI_QUEUE, 0));
  siginfo_t info = {};
  info.si_code = SEGV_MAPERR;  // Positive codes are allowed to oneself.
  EXPECT_OK(syscall(SYS_rt_tgsigqueueinfo, self, syscall(SYS_gettid), SIGSEGV, &info));
  Unblock({SIGHUP, SIGSEGV});
  ASSERT_EQ(order_count, 2);
  EXPECT_EQ(order[0], SIGHUP);  // Pushed last, so it runs first.
  EXPECT_EQ(order[1], SIGSEGV);
}

GUEST_TEST(Signal, ForgedCodesAreRefusedToOthers) {
  const pid_t parent = getppid();
  EXPECT_ERRNO(QueueInfo(parent, 0, SI_USER, 0), EPERM);
  EXPECT_ERRNO(QueueInfo(parent, 0, SI_TKILL, 0), EPERM);
  EXPECT_OK(QueueInfo(parent, 0, SI_QUEUE, 0));
}

GUEST_TEST(Signal, QueueLimitIsPerUser) {
  const rlimit limit = {.rlim_cur = 0, .rlim_max = 1000};
  MUST(setrlimit(RLIMIT_SIGPENDING, &limit));
  Block({SIGRTMIN});
  EXPECT_ERRNO(sigqueue(getpid(), SIGRTMIN, {.sival_int = 1}), EAGAIN);
  EXPECT_OK(kill(getpid(), SIGRTMIN));  // kill never fails for want of memory; the information is lost.
  EXPECT(Pending(SIGRTMIN));
}

GUEST_TEST(Signal, MaskDuringHandler) {
  Handle(SIGUSR1, [](int, siginfo_t*, void*) {
    EXPECT(Blocked(SIGUSR1));
    EXPECT(!Blocked(SIGUSR2));
    ++order_count;
  });
  raise(SIGUSR1);
  EXPECT_EQ(order_count, 1);
  EXPECT(!Blocked(SIGUSR1));
}

GUEST_TEST(Signal, SaMaskAddsToTheMask) {
  struct sigaction action = {};
  action.sa_handler = [](int) {
    EXPECT(Blocked(SIGUSR2));
    EXPECT(Blocked(SIGTERM));
    ++order_count;
  };
  action.sa_mask = Signals({SIGUSR2, SIGTERM, SIGKILL, SIGSTOP});
  MUST(sigaction(SIGUSR1, &action, nullptr));
  raise(SIGUSR1);
  EXPECT_EQ(order_count, 1);
  struct sigaction old = {};
  MUST(sigaction(SIGUSR1, nullptr, &old));
  EXPECT_EQ(sigismember(&old.sa_mask, SIGUSR2), 1);
  EXPECT_EQ(sigismember(&old.sa_mask, SIGKILL), 0);
  EXPECT_EQ(sigismember(&old.sa_mask, SIGSTOP), 0);
}

GUEST_TEST(Signal, NodeferLetsItselfIn) {
  Handle(
      SIGUSR1,
      [](int, siginfo_t*, void*) {
        EXPECT(!Blocked(SIGUSR1));
        if (++order_count < 3) raise(SIGUSR1);
      },
      SA_NODEFER);
  raise(SIGUSR1);
  EXPECT_EQ(order_count, 3);
}

GUEST_TEST(Signal, ResetHandIsForOneSignal) {
  CountSignals(SIGUSR1, static_cast<int>(SA_RESETHAND));
  raise(SIGUSR1);
  EXPECT_EQ(SignalCount(), 1);
  struct sigaction now = {};
  MUST(sigaction(SIGUSR1, nullptr, &now));
  EXPECT_EQ(now.sa_handler, SIG_DFL);
}

GUEST_TEST(Signal, ActionReadsBack) {
  struct sigaction action = {};
  action.sa_handler = [](int) {};
  action.sa_flags = SA_RESTART | SA_ONSTACK | SA_NODEFER;
  MUST(sigaction(SIGUSR1, &action, nullptr));
  CheckpointHere();
  struct sigaction old = {};
  MUST(sigaction(SIGUSR1, nullptr, &old));
  EXPECT_EQ(old.sa_handler, action.sa_handler);
  EXPECT_EQ(old.sa_flags & ~0x04000000, action.sa_flags);  // SA_RESTORER comes with the C library.
}

GUEST_TEST(Signal, KillAndStopCannotBeHandled) {
  struct sigaction action = {};
  action.sa_handler = SIG_IGN;
  EXPECT_ERRNO(sigaction(SIGKILL, &action, nullptr), EINVAL);
  EXPECT_ERRNO(sigaction(SIGSTOP, &action, nullptr), EINVAL);
  EXPECT_OK(sigaction(SIGKILL, nullptr, &action));
  EXPECT_EQ(action.sa_handler, SIG_DFL);
  EXPECT_ERRNO(syscall(SYS_rt_sigaction, 65, nullptr, nullptr, 8), EINVAL);
  EXPECT_ERRNO(syscall(SYS_rt_sigaction, SIGUSR1, nullptr, nullptr, 16), EINVAL);
}

GUEST_TEST(Signal, KillAndStopCannotBeBlocked) {
  sigset_t all;
  sigfillset(&all);
  MUST(sigprocmask(SIG_SETMASK, &all, nullptr));
  EXPECT(!Blocked(SIGKILL));
  EXPECT(!Blocked(SIGSTOP));
  EXPECT(Blocked(SIGTERM));
}

GUEST_TEST(Signal, MaskCallArguments) {
  sigset_t set = Signals({SIGUSR1});
  EXPECT_ERRNO(syscall(SYS_rt_sigprocmask, 99, &set, nullptr, 8), EINVAL);
  EXPECT_OK(syscall(SYS_rt_sigprocmask, 99, nullptr, nullptr, 8));
  EXPECT_ERRNO(syscall(SYS_rt_sigprocmask, SIG_BLOCK, &set, nullptr, 128), EINVAL);
  EXPECT_ERRNO(syscall(SYS_rt_sigprocmask, SIG_BLOCK, 8, nullptr, 8), EFAULT);
  EXPECT_ERRNO(syscall(SYS_rt_sigpending, &set, 16), EINVAL);
}

GUEST_TEST(Signal, IgnoringDropsWhatIsPending) {
  Block({SIGUSR1});
  raise(SIGUSR1);
  EXPECT(Pending(SIGUSR1));
  signal(SIGUSR1, SIG_IGN);
  EXPECT(!Pending(SIGUSR1));
  raise(SIGUSR1);
  EXPECT(Pending(SIGUSR1));  // Blocked, it is kept even while ignored: the action may still change.
  Unblock({SIGUSR1});
  EXPECT(!Pending(SIGUSR1));
}

GUEST_TEST(Signal, DefaultIgnoredSignals) {
  for (const int number : {SIGCHLD, SIGURG, SIGWINCH, SIGCONT}) EXPECT_OK(raise(number));
}

GUEST_TEST(Signal, DefaultDeadlySignals) {
  for (const int number : {SIGHUP, SIGINT, SIGPIPE, SIGALRM, SIGUSR2, SIGVTALRM, SIGPROF, SIGIO, SIGPWR, SIGSTKFLT}) {
    const pid_t pid = Fork([=] { raise(number); });
    EXPECT_KILLED(WaitStatus(pid), number);
  }
}

GUEST_TEST(Signal, DefaultCoreSignals) {
  const rlimit none = {0, 0};
  MUST(setrlimit(RLIMIT_CORE, &none));
  for (const int number : {SIGQUIT, SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV, SIGXCPU, SIGXFSZ, SIGSYS}) {
    const pid_t pid = Fork([=] { raise(number); });
    EXPECT_KILLED(WaitStatus(pid), number);
  }
}

GUEST_TEST(Signal, DispositionOverFork) {
  CountSignals(SIGUSR1);
  signal(SIGUSR2, SIG_IGN);
  Block({SIGTERM});
  raise(SIGTERM);
  const pid_t pid = Fork([] {
    EXPECT(Blocked(SIGTERM));
    EXPECT(!Pending(SIGTERM));  // What is pending belongs to the parent.
    raise(SIGUSR1);
    EXPECT_EQ(SignalCount(), 1);
    raise(SIGUSR2);
  });
  JOIN_OK(pid);
  EXPECT(Pending(SIGTERM));
}

GUEST_TEST(Signal, ToTheGroup) {
  Gate ready;
  const pid_t leader = Fork([&] {
    MUST(setpgid(0, 0));
    signal(SIGUSR1, SIG_IGN);
    const pid_t second = Fork([&] {
      signal(SIGUSR1, SIG_DFL);
      ready.Open();
      for (;;) pause();
    });
    EXPECT_KILLED(WaitStatus(second), SIGUSR1);
  });
  ready.Await();
  CheckpointHere();
  EXPECT_OK(kill(-leader, 0));
  EXPECT_OK(kill(-leader, SIGUSR1));
  JOIN_OK(leader);
  EXPECT_ERRNO(kill(-leader, 0), ESRCH);
}

GUEST_TEST(Signal, ProcessSignalGoesToAThreadThatTakesIt) {
  Block({SIGUSR1});
  static volatile pid_t taker = 0;
  Handle(SIGUSR1, [](int, siginfo_t*, void*) { taker = static_cast<pid_t>(syscall(SYS_gettid)); });
  Gate done;
  Thread willing([&] {
    const sigset_t set = Signals({SIGUSR1});
    pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
    done.Await();
  });
  willing.AwaitAsleep();
  CheckpointHere();
  MUST(kill(getpid(), SIGUSR1));
  for (int i = 0; i < 5000 && taker == 0; ++i) SleepMs(1);
  EXPECT_EQ(taker, willing.tid());
  done.Open();
}

GUEST_TEST(Signal, ThreadSignalStaysWithItsThread) {
  CountSignals(SIGUSR1);
  Block({SIGUSR1});
  Gate start, done;
  Thread target([&] {
    start.Await();
    EXPECT(Pending(SIGUSR1));
    done.Open();
  });
  MUST(syscall(SYS_tgkill, getpid(), target.tid(), SIGUSR1));
  EXPECT(!Pending(SIGUSR1));
  Unblock({SIGUSR1});
  EXPECT_EQ(SignalCount(), 0);
  CheckpointHere();
  start.Open();
  done.Await();
}

GUEST_TEST(Signal, FatalSignalToAThreadKillsAll) {
  const pid_t pid = Fork([] {
    Thread other([] { pause(); });
    other.AwaitAsleep();
    syscall(SYS_tgkill, getpid(), other.tid(), SIGTERM);
    pause();
  });
  EXPECT_KILLED(WaitStatus(pid), SIGTERM);
}

GUEST_TEST(Signal, ThreadsHaveMasksOfTheirOwn) {
  Block({SIGUSR1});
  Thread other([] {
    EXPECT(Blocked(SIGUSR1));  // Inherited.
    const sigset_t set = Signals({SIGUSR2});
    pthread_sigmask(SIG_SETMASK, &set, nullptr);
    EXPECT(!Blocked(SIGUSR1));
  });
  other.Join();
  EXPECT(Blocked(SIGUSR1));
  EXPECT(!Blocked(SIGUSR2));
}

GUEST_TEST(Signal, PermissionByUid) {
  if (geteuid() != 0) Skip("needs root");
  const pid_t victim = Fork([] { pause(); });
  const pid_t pid = Fork([&] {
    MUST(setresuid(1000, 1000, 1000));
    EXPECT_ERRNO(kill(victim, SIGTERM), EPERM);
    EXPECT_ERRNO(kill(victim, 0), EPERM);
  });
  JOIN_OK(pid);
  kill(victim, SIGKILL);
  EXPECT_KILLED(WaitStatus(victim), SIGKILL);
}

GUEST_TEST(Signal, ProcDirectoryServesAsPidfd) {
  const pid_t pid = Fork([] { pause(); });
  char path[64];
  snprintf(path, sizeof(path), "/proc/%d", pid);
  const int fd = MUST(open(path, O_DIRECTORY | O_CLOEXEC));
  snprintf(path, sizeof(path), "/proc/%d/task/%d", pid, pid);
  const int thread = MUST(open(path, O_DIRECTORY));
  const int proc = MUST(open("/proc", O_DIRECTORY));
  CheckpointHere();
  EXPECT_ERRNO(syscall(SYS_pidfd_send_signal, thread, 0, nullptr, 0), EBADF);
  EXPECT_ERRNO(syscall(SYS_pidfd_send_signal, proc, 0, nullptr, 0), EBADF);
  EXPECT_OK(syscall(SYS_pidfd_send_signal, fd, 0, nullptr, 0));
  EXPECT_OK(syscall(SYS_pidfd_send_signal, fd, SIGTERM, nullptr, 0));
  EXPECT_KILLED(WaitStatus(pid), SIGTERM);
  EXPECT_ERRNO(syscall(SYS_pidfd_send_signal, fd, 0, nullptr, 0), ESRCH);
}

GUEST_TEST(Signal, PidfdSendSignal) {
  const pid_t pid = Fork([] { pause(); });
  const int fd = MUST(syscall(SYS_pidfd_open, pid, 0));
  EXPECT_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
  EXPECT_OK(syscall(SYS_pidfd_send_signal, fd, SIGTERM, nullptr, 0));
  EXPECT_KILLED(WaitStatus(pid), SIGTERM);
}
