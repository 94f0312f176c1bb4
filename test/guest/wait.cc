// exit and the wait family.
#include <sys/prctl.h>
#include <sys/resource.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

pid_t ForkExit(int code) {
  return Fork([=] { _exit(code); });
}

pid_t ForkStopping(Gate* before_exit = nullptr) {
  return Fork([=] {
    raise(SIGSTOP);
    if (before_exit != nullptr) before_exit->Await();
    _exit(5);
  });
}

}  // namespace

GUEST_TEST(Wait, ChildIsFoundBeforeItsSignal) {
  static volatile sig_atomic_t signals = 0;
  struct sigaction action = {};
  action.sa_handler = [](int) { signals = signals + 1; };  // without SA_RESTART
  MUST(sigaction(SIGCHLD, &action, nullptr));
  for (int i = 0; i < 20; ++i) {
    const pid_t parent = getpid();
    const pid_t pid = Fork([&] { AwaitAsleep(parent); });
    int status = -1;
    // It sleeps when the child ends, whose signal comes with what is waited for.
    EXPECT_EQ(waitpid(pid, &status, 0), pid);
    EXPECT_EXITED(status, 0);
    EXPECT_EQ(signals, i + 1);
    if (i == 10) CheckpointHere();
  }
}

GUEST_TEST(Wait, StatusOfExit) {
  for (const int code : {0, 1, 42, 255}) EXPECT_EXITED(WaitStatus(ForkExit(code)), code);
}

GUEST_TEST(Wait, StatusOfSignal) {
  for (const int number : {SIGKILL, SIGTERM, SIGUSR1, SIGRTMIN + 3}) {
    const pid_t pid = Fork([=] {
      kill(getpid(), number);
      pause();
    });
    const int status = WaitStatus(pid);
    EXPECT_KILLED(status, number);
    EXPECT(!WCOREDUMP(status));
  }
}

GUEST_TEST(Wait, NoChildren) {
  EXPECT_ERRNO(waitpid(-1, nullptr, 0), ECHILD);
  EXPECT_ERRNO(waitpid(-1, nullptr, WNOHANG), ECHILD);
  EXPECT_ERRNO(waitpid(getpid(), nullptr, 0), ECHILD);
  EXPECT_ERRNO(waitpid(getppid(), nullptr, 0), ECHILD);
}

GUEST_TEST(Wait, UnknownOptions) {
  EXPECT_ERRNO(wait4(-1, nullptr, 0x100, nullptr), EINVAL);
  siginfo_t info;
  EXPECT_ERRNO(waitid(P_ALL, 0, &info, 0), EINVAL);
  EXPECT_ERRNO(waitid(P_ALL, 0, &info, WEXITED | 0x100), EINVAL);
  EXPECT_ERRNO(waitid(static_cast<idtype_t>(99), 0, &info, WEXITED), EINVAL);
  EXPECT_ERRNO(waitid(P_PID, 0, &info, WEXITED), EINVAL);
}

GUEST_TEST(Wait, NoHangAnswersZeroWhileTheChildRuns) {
  Gate go;
  const pid_t pid = Fork([&] { go.Await(); });
  EXPECT_EQ(waitpid(pid, nullptr, WNOHANG), 0);
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), 0);
  CheckpointHere();
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), 0);
  go.Open();
  JOIN_OK(pid);
}

GUEST_TEST(Wait, BlocksUntilTheChildEnds) {
  Gate go;
  const pid_t child = Fork([&] {
    go.Await();
    _exit(9);
  });
  const pid_t main = getpid();
  const pid_t opener = Fork([&] {
    AwaitAsleep(main);
    go.Open();
  });
  EXPECT_EXITED(WaitStatus(child), 9);
  JOIN_OK(opener);
}

GUEST_TEST(Wait, WaitOnSpecificChildLeavesOthers) {
  const pid_t first = ForkExit(1);
  const pid_t second = ForkExit(2);
  EXPECT_EXITED(WaitStatus(second), 2);
  EXPECT_EXITED(WaitStatus(first), 1);
  EXPECT_ERRNO(waitpid(first, nullptr, 0), ECHILD);
}

GUEST_TEST(Wait, ZombieStaysUntilReaped) {
  const pid_t pid = ForkExit(3);
  AwaitState(pid, pid, 'Z');
  EXPECT_OK(kill(pid, 0));
  EXPECT_OK(kill(pid, SIGKILL));  // Without effect, but no error.
  CheckpointHere();
  EXPECT_EQ(ThreadState(pid, pid), 'Z');
  EXPECT_EXITED(WaitStatus(pid), 3);
  EXPECT_ERRNO(kill(pid, 0), ESRCH);
}

GUEST_TEST(Wait, NoWaitLeavesTheZombie) {
  const pid_t pid = ForkExit(4);
  siginfo_t info = {};
  for (int i = 0; i < 2; ++i) {
    MUST(waitid(P_PID, pid, &info, WEXITED | WNOWAIT));
    EXPECT_EQ(info.si_pid, pid);
    EXPECT_EQ(info.si_status, 4);
  }
  EXPECT_EXITED(WaitStatus(pid), 4);
}

GUEST_TEST(Wait, WaitidInfoOfExit) {
  const pid_t pid = ForkExit(300);
  siginfo_t info = {};
  MUST(waitid(P_ALL, 0, &info, WEXITED));
  EXPECT_EQ(info.si_signo, SIGCHLD);
  EXPECT_EQ(info.si_code, CLD_EXITED);
  EXPECT_EQ(info.si_pid, pid);
  EXPECT_EQ(info.si_uid, getuid());
  EXPECT_EQ(info.si_status, 300 & 0xff);
}

GUEST_TEST(Wait, WaitidInfoOfKill) {
  const pid_t pid = Fork([] { pause(); });
  kill(pid, SIGTERM);
  siginfo_t info = {};
  MUST(waitid(P_PID, pid, &info, WEXITED));
  EXPECT_EQ(info.si_code, CLD_KILLED);
  EXPECT_EQ(info.si_status, SIGTERM);
}

GUEST_TEST(Wait, WaitidNoHangClearsTheInfo) {
  Gate go;
  const pid_t pid = Fork([&] { go.Await(); });
  siginfo_t info;
  memset(&info, 0x55, sizeof(info));
  MUST(waitid(P_PID, pid, &info, WEXITED | WNOHANG));
  EXPECT_EQ(info.si_pid, 0);
  EXPECT_EQ(info.si_signo, 0);
  go.Open();
  JOIN_OK(pid);
}

GUEST_TEST(Wait, StoppedAndContinued) {
  Gate go;
  const pid_t pid = ForkStopping(&go);
  int status = 0;
  EXPECT_EQ(waitpid(pid, &status, WUNTRACED), pid);
  EXPECT(WIFSTOPPED(status));
  EXPECT_EQ(WSTOPSIG(status), SIGSTOP);
  EXPECT_EQ(ThreadState(pid, pid), 'T');
  EXPECT_EQ(waitpid(pid, &status, WUNTRACED | WNOHANG), 0);  // Told once only.
  CheckpointHere();
  EXPECT_EQ(ThreadState(pid, pid), 'T');
  kill(pid, SIGCONT);
  EXPECT_EQ(waitpid(pid, &status, WCONTINUED), pid);
  EXPECT_EQ(status, 0xffff);
  EXPECT(WIFCONTINUED(status));
  go.Open();
  EXPECT_EXITED(WaitStatus(pid), 5);
}

GUEST_TEST(Wait, WaitidStoppedAndContinued) {
  Gate go;
  const pid_t pid = ForkStopping(&go);
  siginfo_t info = {};
  MUST(waitid(P_PID, pid, &info, WSTOPPED));
  EXPECT_EQ(info.si_code, CLD_STOPPED);
  EXPECT_EQ(info.si_status, SIGSTOP);
  kill(pid, SIGCONT);
  MUST(waitid(P_PID, pid, &info, WCONTINUED));
  EXPECT_EQ(info.si_code, CLD_CONTINUED);
  EXPECT_EQ(info.si_status, SIGCONT);
  go.Open();
  EXPECT_EXITED(WaitStatus(pid), 5);
}

GUEST_TEST(Wait, StopIsNotToldWithoutUntraced) {
  const pid_t pid = ForkStopping();
  AwaitState(pid, pid, 'T');
  EXPECT_EQ(waitpid(pid, nullptr, WNOHANG), 0);
  kill(pid, SIGCONT);
  EXPECT_EXITED(WaitStatus(pid), 5);
}

GUEST_TEST(Wait, KillWakesAStoppedProcess) {
  const pid_t pid = ForkStopping();
  AwaitState(pid, pid, 'T');
  kill(pid, SIGKILL);
  EXPECT_KILLED(WaitStatus(pid), SIGKILL);
}

GUEST_TEST(Wait, ByProcessGroup) {
  const pid_t same = ForkExit(1);
  const pid_t other = Fork([] {
    MUST(setpgid(0, 0));
    _exit(2);
  });
  setpgid(other, other);
  int status = 0;
  EXPECT_EQ(waitpid(-other, &status, 0), other);
  EXPECT_EXITED(status, 2);
  EXPECT_EQ(waitpid(0, &status, 0), same);
  EXPECT_EXITED(status, 1);
}

GUEST_TEST(Wait, ByPidfd) {
  Gate go;
  const pid_t pid = Fork([&] {
    go.Await();
    _exit(6);
  });
  const int fd = MUST(syscall(SYS_pidfd_open, pid, 0));
  siginfo_t info = {};
  MUST(waitid(P_PIDFD, fd, &info, WEXITED | WNOHANG));
  EXPECT_EQ(info.si_pid, 0);
  CheckpointHere();
  go.Open();
  MUST(waitid(P_PIDFD, fd, &info, WEXITED));
  EXPECT_EQ(info.si_pid, pid);
  EXPECT_EQ(info.si_status, 6);
  EXPECT_ERRNO(syscall(SYS_pidfd_send_signal, fd, 0, nullptr, 0), ESRCH);
}

GUEST_TEST(Wait, ChildOfThreadIsWaitableByAnyThread) {
  pid_t pid = 0;
  Thread forker([&] { pid = ForkExit(8); });
  forker.Join();
  EXPECT_EXITED(WaitStatus(pid), 8);
}

GUEST_TEST(Wait, WnothreadSeesOnlyOwnChildren) {
  pid_t pid = 0;
  Gate forked, done;
  Thread forker([&] {
    pid = ForkExit(8);
    forked.Open();
    done.Await();
  });
  forked.Await();
  EXPECT_ERRNO(wait4(pid, nullptr, __WNOTHREAD, nullptr), ECHILD);
  EXPECT_EXITED(WaitStatus(pid), 8);
  done.Open();
}

GUEST_TEST(Wait, CloneWithoutSignalNeedsWclone) {
  const pid_t pid = static_cast<pid_t>(MUST(syscall(SYS_clone, 0, nullptr, nullptr, nullptr, 0)));
  if (pid == 0) _exit(7);
  EXPECT_ERRNO(waitpid(pid, nullptr, 0), ECHILD);
  int status = 0;
  EXPECT_EQ(waitpid(pid, &status, __WCLONE), pid);
  EXPECT_EXITED(status, 7);
}

GUEST_TEST(Wait, WallSeesBothKinds) {
  const pid_t pid = static_cast<pid_t>(MUST(syscall(SYS_clone, 0, nullptr, nullptr, nullptr, 0)));
  if (pid == 0) _exit(7);
  int status = 0;
  EXPECT_EQ(waitpid(pid, &status, __WALL), pid);
  EXPECT_EXITED(status, 7);
}

GUEST_TEST(Wait, IgnoredSigchldReapsByItself) {
  signal(SIGCHLD, SIG_IGN);
  const pid_t pid = ForkExit(0);
  EXPECT_ERRNO(waitpid(pid, nullptr, 0), ECHILD);  // Waits for the end, then finds nothing.
  EXPECT_ERRNO(kill(pid, 0), ESRCH);
}

GUEST_TEST(Wait, NoCldWaitReapsByItselfButSignals) {
  CountSignals(SIGCHLD, SA_NOCLDWAIT);
  const pid_t pid = ForkExit(0);
  while (waitpid(pid, nullptr, 0) >= 0 || errno == EINTR) {
  }
  EXPECT_EQ(errno, ECHILD);
  EXPECT_EQ(SignalCount(), 1);
}

GUEST_TEST(Wait, NoCldStopSuppressesStopSignals) {
  CountSignals(SIGCHLD, SA_NOCLDSTOP | SA_RESTART);
  const pid_t pid = ForkStopping();
  AwaitState(pid, pid, 'T');
  EXPECT_EQ(SignalCount(), 0);
  kill(pid, SIGCONT);
  EXPECT_EXITED(WaitStatus(pid), 5);
  EXPECT_EQ(SignalCount(), 1);
}

GUEST_TEST(Wait, SigchldTellsWho) {
  CountSignals(SIGCHLD, SA_RESTART);
  const pid_t pid = ForkExit(11);
  EXPECT_EXITED(WaitStatus(pid), 11);
  EXPECT_EQ(SignalCount(), 1);
  EXPECT_EQ(LastSignal().si_code, CLD_EXITED);
  EXPECT_EQ(LastSignal().si_pid, pid);
  EXPECT_EQ(LastSignal().si_status, 11);
}

GUEST_TEST(Wait, SignalInterruptsWait) {
  CountSignals(SIGUSR1);
  Gate go;
  const pid_t parent = getpid();
  const pid_t pid = Fork([&] {
    AwaitAsleep(parent);
    kill(parent, SIGUSR1);
    go.Await();
  });
  EXPECT_ERRNO(waitpid(pid, nullptr, 0), EINTR);
  EXPECT_EQ(SignalCount(), 1);
  go.Open();
  JOIN_OK(pid);
}

GUEST_TEST(Wait, OrphanGoesToTheSubreaper) {
  MUST(prctl(PR_SET_CHILD_SUBREAPER, 1));
  auto* orphan = Shared<pid_t>();
  Gate go;
  const pid_t middle = Fork([&] {
    *orphan = Fork([&] {
      go.Await();
      _exit(33);
    });
  });
  JOIN_OK(middle);
  CheckpointHere();
  EXPECT_EQ(waitpid(*orphan, nullptr, WNOHANG), 0);
  go.Open();
  EXPECT_EXITED(WaitStatus(*orphan), 33);
}

GUEST_TEST(Wait, OrphanSeesItsNewParent) {
  MUST(prctl(PR_SET_CHILD_SUBREAPER, 1));
  const pid_t reaper = getpid();
  Gate middle_gone;
  auto* orphan = Shared<pid_t>();
  const pid_t middle = Fork([&] {
    *orphan = Fork([&] {
      middle_gone.Await();
      EXPECT_EQ(getppid(), reaper);
    });
  });
  JOIN_OK(middle);
  middle_gone.Open();
  JOIN_OK(*orphan);
}

GUEST_TEST(Wait, SubreaperIsNotInherited) {
  MUST(prctl(PR_SET_CHILD_SUBREAPER, 1));
  const pid_t pid = Fork([] {
    int is = -1;
    MUST(prctl(PR_GET_CHILD_SUBREAPER, &is));
    EXPECT_EQ(is, 0);
  });
  JOIN_OK(pid);
  int is = -1;
  MUST(prctl(PR_GET_CHILD_SUBREAPER, &is));
  EXPECT_EQ(is, 1);
}

GUEST_TEST(Wait, ParentDeathSignal) {
  MUST(prctl(PR_SET_CHILD_SUBREAPER, 1));
  auto* orphan = Shared<pid_t>();
  Gate ready;
  const pid_t middle = Fork([&] {
    *orphan = Fork([&] {
      MUST(prctl(PR_SET_PDEATHSIG, SIGUSR2));
      ready.Open();
      pause();
    });
    ready.Await();
  });
  JOIN_OK(middle);
  EXPECT_KILLED(WaitStatus(*orphan), SIGUSR2);
}

GUEST_TEST(Wait, RusageOfTheChild) {
  const pid_t pid = Fork([] {
    volatile uint64_t sum = 0;
    while (NowNs(CLOCK_PROCESS_CPUTIME_ID) < 60 * kMs) sum = sum + 1;
  });
  rusage usage = {};
  int status = 0;
  EXPECT_EQ(wait4(pid, &status, 0, &usage), pid);
  EXPECT_EQ(status, 0);
  EXPECT_GE((usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000 + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1000, 30);
  rusage children = {};
  MUST(getrusage(RUSAGE_CHILDREN, &children));
  EXPECT_EQ(children.ru_utime.tv_usec, usage.ru_utime.tv_usec);
}

// Touches pages of its own, so that its accounting says something, and ends within a tick.
void TouchPages() {
  constexpr size_t kBytes = 64 * 4096;
  char* memory = static_cast<char*>(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  for (size_t at = 0; at < kBytes; at += 4096) memory[at] = 1;
}

GUEST_TEST(Wait, UsageOfShortChildrenIsThereWhenTheyAreWaitedFor) {
  rusage before = {};
  MUST(getrusage(RUSAGE_CHILDREN, &before));
  long faults = 0;
  for (int i = 0; i < 20; i++) {
    const pid_t pid = Fork(TouchPages);
    rusage usage = {};
    int status = 0;
    if (i % 2 == 0) {
      // Known to have ended, it is told without waiting.
      siginfo_t info = {};
      MUST(waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOWAIT));
      EXPECT_EQ(wait4(pid, &status, WNOHANG, &usage), pid);
    } else {
      EXPECT_EQ(wait4(pid, &status, 0, &usage), pid);
    }
    EXPECT_GE(usage.ru_minflt, 64);
    EXPECT_GE(usage.ru_maxrss, 256);
    faults += usage.ru_minflt;
  }
  rusage after = {};
  MUST(getrusage(RUSAGE_CHILDREN, &after));
  EXPECT_EQ(after.ru_minflt - before.ru_minflt, faults);
}

GUEST_TEST(Wait, UsageOfShortChildrenWithoutAskingEach) {
  rusage before = {};
  MUST(getrusage(RUSAGE_CHILDREN, &before));
  for (int i = 0; i < 10; i++) EXPECT_EXITED(WaitStatus(Fork(TouchPages)), 0);
  rusage after = {};
  MUST(getrusage(RUSAGE_CHILDREN, &after));
  EXPECT_GE(after.ru_minflt - before.ru_minflt, 640);
}

// getrusage(RUSAGE_BOTH) of kernel/exit.c: wait4() tells what the child's own children used, too, however short they were.
GUEST_TEST(Wait, UsageHasGrandchildren) {
  const pid_t pid = Fork([] {
    for (int i = 0; i < 5; i++) EXPECT_EXITED(WaitStatus(Fork(TouchPages)), 0);
  });
  rusage usage = {};
  int status = 0;
  EXPECT_EQ(wait4(pid, &status, 0, &usage), pid);
  EXPECT_EQ(status, 0);
  EXPECT_GE(usage.ru_minflt, 5 * 64);
}

GUEST_TEST(Wait, ExitGroupEndsAllThreads) {
  const pid_t pid = Fork([] {
    Thread sleeper([] { pause(); });
    sleeper.AwaitAsleep();
    Thread ender([] { syscall(SYS_exit_group, 21); });
    pause();
  });
  EXPECT_EXITED(WaitStatus(pid), 21);
}

GUEST_TEST(Wait, LeaderMayExitBeforeItsThreads) {
  Gate go;
  const pid_t pid = Fork([&] {
    static Gate* gate;
    gate = &go;
    pthread_t thread;
    pthread_create(
        &thread, nullptr,
        [](void*) -> void* {
          gate->Await();
          syscall(SYS_exit_group, 22);
          return nullptr;
        },
        nullptr);
    syscall(SYS_exit, 1);
  });
  AwaitState(pid, pid, 'Z');
  EXPECT_EQ(waitpid(pid, nullptr, WNOHANG), 0);  // The group is alive.
  CheckpointHere();
  EXPECT_EQ(waitpid(pid, nullptr, WNOHANG), 0);
  go.Open();
  EXPECT_EXITED(WaitStatus(pid), 22);
}

GUEST_TEST(Wait, ManyChildren) {
  pid_t pids[50];
  for (int i = 0; i < 50; ++i) pids[i] = ForkExit(i);
  CheckpointHere();
  for (int i = 0; i < 50; ++i) EXPECT_EXITED(WaitStatus(pids[i]), i);
  EXPECT_ERRNO(waitpid(-1, nullptr, 0), ECHILD);
}

GUEST_TEST(Wait, BadStatusPointerStillReaps) {
  const pid_t pid = ForkExit(1);
  EXPECT_ERRNO(syscall(SYS_wait4, pid, 8, 0, nullptr), EFAULT);
  EXPECT_ERRNO(waitpid(pid, nullptr, 0), ECHILD);
}
