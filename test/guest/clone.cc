// fork, vfork, clone, clone3 and threads.
#include <linux/futex.h>
#include <linux/sched.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

// clone without a stack of its own: like fork, with flags.
pid_t RawClone(unsigned long flags, pid_t* parent_tid = nullptr, pid_t* child_tid = nullptr) {
  return static_cast<pid_t>(syscall(SYS_clone, flags, nullptr, parent_tid, child_tid, 0));
}

pid_t Clone3(clone_args args) { return static_cast<pid_t>(syscall(SYS_clone3, &args, sizeof(args))); }

// A child with shared memory (or more) on a stack of its own.
template <typename F>
pid_t CloneWithStack(int flags, F& body) {
  constexpr size_t kSize = 256 * 1024;
  char* stack = Pages(kSize / kPage);
  return clone(
      [](void* argument) -> int {
        (*static_cast<F*>(argument))();
        return Failures() != 0 ? 1 : 0;
      },
      stack + kSize, flags, &body);
}

}  // namespace

GUEST_TEST(Fork, ParentAndPids) {
  const pid_t parent = getpid();
  auto* seen = Shared<pid_t>();
  const pid_t pid = Fork([&] {
    *seen = getpid();
    EXPECT_EQ(getppid(), parent);
    EXPECT_NE(getpid(), parent);
    EXPECT_EQ(getpgrp(), parent);
  });
  JOIN_OK(pid);
  EXPECT_EQ(*seen, pid);
}

GUEST_TEST(Fork, PrivateMemoryDivergesBothWays) {
  char* memory = Pages(64);
  memset(memory, 'p', 64 * kPage);
  Gate changed, go;
  const pid_t pid = Fork([&] {
    changed.Await();
    for (int i = 0; i < 64; ++i) EXPECT_EQ(memory[i * kPage], 'p');
    memset(memory, 'c', 64 * kPage);
    CheckpointHere();
    go.Await();
    for (int i = 0; i < 64; ++i) EXPECT_EQ(memory[i * kPage], 'c');
  });
  memset(memory, 'q', 64 * kPage);
  changed.Open();
  go.Open();
  JOIN_OK(pid);
  for (int i = 0; i < 64; ++i) EXPECT_EQ(memory[i * kPage], 'q');
}

GUEST_TEST(Fork, SharedMemoryStaysShared) {
  auto* word = Shared<int>();
  const pid_t pid = Fork([&] { __atomic_store_n(word, 9, __ATOMIC_SEQ_CST); });
  JOIN_OK(pid);
  EXPECT_EQ(*word, 9);
}

GUEST_TEST(Fork, OnlyTheCallingThreadIsCopied) {
  Gate go;
  Thread other([&] { go.Await(); });
  other.AwaitAsleep();
  const pid_t pid = Fork([] {
    char text[4096];
    ReadFile("/proc/self/status", text, sizeof(text));
    EXPECT_EQ(ProcField("/proc/self/status", "Threads"), 1);
  });
  JOIN_OK(pid);
  go.Open();
}

GUEST_TEST(Fork, FromAThreadTheChildLeads) {
  Thread other([] {
    const pid_t pid = Fork([] { EXPECT_EQ(getpid(), syscall(SYS_gettid)); });
    JOIN_OK(pid);
  });
}

GUEST_TEST(Fork, ChainOfGenerations) {
  const pid_t pid = Fork([] {
    const pid_t second = Fork([] {
      const pid_t third = Fork([] {
        CheckpointHere();
        _exit(3);
      });
      EXPECT_EXITED(WaitStatus(third), 3);
    });
    JOIN_OK(second);
  });
  JOIN_OK(pid);
}

GUEST_TEST(Fork, HundredAtOnce) {
  Gate go;
  pid_t pids[100];
  for (pid_t& pid : pids) pid = Fork([&] { go.Await(); });
  for (int i = 1; i < 100; ++i) EXPECT_NE(pids[i], pids[i - 1]);
  CheckpointHere();
  for (int i = 0; i < 100; ++i) go.Open();
  for (const pid_t pid : pids) JOIN_OK(pid);
}

GUEST_TEST(Fork, ResourceUsageStartsAtZero) {
  volatile uint64_t sum = 0;
  while (NowNs(CLOCK_PROCESS_CPUTIME_ID) < 30 * kMs) sum = sum + 1;
  const pid_t pid = Fork([] { EXPECT_LT(NowNs(CLOCK_PROCESS_CPUTIME_ID), 30 * kMs); });
  JOIN_OK(pid);
}

GUEST_TEST(Vfork, ParentWaitsForExit) {
  // The child must touch nothing; sleeping makes the order visible.
  const int64_t start = NowNs();
  const pid_t pid = vfork();
  if (pid == 0) {
    const timespec wait = {.tv_sec = 0, .tv_nsec = 50 * kMs};
    syscall(SYS_nanosleep, &wait, nullptr);
    _exit(12);
  }
  EXPECT_GE(NowNs() - start, 50 * kMs);
  EXPECT_EXITED(WaitStatus(pid), 12);
}

GUEST_TEST(Vfork, SharesMemory) {
  volatile int value = 1;
  const pid_t pid = vfork();
  if (pid == 0) {
    value = 2;
    _exit(0);
  }
  EXPECT_EQ(value, 2);
  EXPECT_EXITED(WaitStatus(pid), 0);
}

GUEST_TEST(Vfork, SignalsWaitForItsEnd) {
  CountSignals(SIGUSR1);
  volatile int made = 0;
  volatile int handled = -1;
  const pid_t self = getpid();
  const pid_t pid = vfork();
  if (pid == 0) {
    made = made + 1;
    syscall(SYS_kill, self, SIGUSR1);
    const timespec wait = {.tv_sec = 0, .tv_nsec = 30 * kMs};
    syscall(SYS_nanosleep, &wait, nullptr);
    handled = SignalCount();
    _exit(3);
  }
  EXPECT_EQ(made, 1);
  EXPECT_EQ(handled, 0);
  EXPECT_EQ(SignalCount(), 1);
  EXPECT_EXITED(WaitStatus(pid), 3);
  EXPECT_ERRNO(waitpid(-1, nullptr, WNOHANG), ECHILD);
}

GUEST_TEST(Vfork, FatalSignalEndsTheWait) {
  auto* child = Shared<pid_t>();
  const pid_t parent = Fork([=] {
    const pid_t pid = vfork();
    if (pid == 0) {
      __atomic_store_n(child, static_cast<pid_t>(syscall(SYS_getpid)), __ATOMIC_SEQ_CST);
      for (;;) syscall(SYS_pause);
    }
  });
  while (__atomic_load_n(child, __ATOMIC_SEQ_CST) == 0) SleepMs(1);
  kill(parent, SIGTERM);
  EXPECT_KILLED(WaitStatus(parent), SIGTERM);
  EXPECT_OK(kill(*child, SIGKILL));
}

GUEST_TEST(Vfork, WaitingParentSurvivesKillOfTheChild) {
  auto* child = Shared<pid_t>();
  const pid_t killer = Fork([=] {
    while (__atomic_load_n(child, __ATOMIC_SEQ_CST) == 0) SleepMs(1);
    kill(*child, SIGKILL);
  });
  const pid_t pid = vfork();
  if (pid == 0) {
    __atomic_store_n(child, static_cast<pid_t>(syscall(SYS_getpid)), __ATOMIC_SEQ_CST);
    for (;;) syscall(SYS_pause);
  }
  EXPECT_KILLED(WaitStatus(pid), SIGKILL);
  JOIN_OK(killer);
}

GUEST_TEST(Clone, BadFlagCombinations) {
  EXPECT_ERRNO(RawClone(CLONE_THREAD | SIGCHLD), EINVAL);
  EXPECT_ERRNO(RawClone(CLONE_THREAD | CLONE_VM), EINVAL);
  EXPECT_ERRNO(RawClone(CLONE_SIGHAND | SIGCHLD), EINVAL);
  EXPECT_ERRNO(RawClone(CLONE_FS | CLONE_NEWNS | SIGCHLD), EINVAL);
  EXPECT_ERRNO(RawClone(CLONE_PIDFD | CLONE_PARENT_SETTID | SIGCHLD), EINVAL);
}

GUEST_TEST(Clone, ParentSettidAndChildSettid) {
  auto* ids = Shared<pid_t[2]>();
  pid_t in_parent = 0;
  const pid_t pid = MUST(RawClone(CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | SIGCHLD, &in_parent, &(*ids)[0]));
  if (pid == 0) {
    EXPECT_EQ((*ids)[0], getpid());
    ExitWithVerdict();
  }
  EXPECT_EQ(in_parent, pid);
  JOIN_OK(pid);
  EXPECT_EQ((*ids)[0], pid);
}

GUEST_TEST(Clone, ChildCleartidWakes) {
  auto* tid = Shared<pid_t>();
  *tid = 1;
  static Gate* gate;
  Gate go;
  gate = &go;
  char* stack = Pages(64);
  const pid_t pid = MUST(clone(
      [](void*) -> int {
        gate->Await();
        return 0;
      },
      stack + 64 * kPage, CLONE_VM | CLONE_CHILD_CLEARTID | SIGCHLD, nullptr, nullptr, nullptr, tid));
  Thread waiter([=] {
    while (__atomic_load_n(tid, __ATOMIC_SEQ_CST) == 1) syscall(SYS_futex, tid, FUTEX_WAIT, 1, nullptr, nullptr, 0);
    EXPECT_EQ(*tid, 0);
  });
  waiter.AwaitAsleep();
  CheckpointHere();
  go.Open();
  waiter.Join();
  JOIN_OK(pid);
}

GUEST_TEST(Clone, SharedMemoryProcess) {
  volatile int value = 0;
  auto body = [&] { value = 5; };
  const pid_t pid = MUST(CloneWithStack(CLONE_VM | SIGCHLD, body));
  JOIN_OK(pid);
  EXPECT_EQ(value, 5);
}

GUEST_TEST(Clone, SharedFilesAndFolder) {
  char before[256], after[256];
  ASSERT_NE(getcwd(before, sizeof(before)), nullptr);
  auto body = [] {
    MUST(dup2(1, 77));
    MUST(chdir("/dev"));
    umask(077);
  };
  const pid_t pid = MUST(CloneWithStack(CLONE_VM | CLONE_FILES | CLONE_FS | SIGCHLD, body));
  JOIN_OK(pid);
  EXPECT_OK(fcntl(77, F_GETFD));
  ASSERT_NE(getcwd(after, sizeof(after)), nullptr);
  EXPECT_STREQ(after, "/dev");
  EXPECT_EQ(umask(022), 077);
}

GUEST_TEST(Clone, SharedSignalHandlers) {
  auto body = [] { signal(SIGUSR1, SIG_IGN); };
  const pid_t pid = MUST(CloneWithStack(CLONE_VM | CLONE_SIGHAND | SIGCHLD, body));
  JOIN_OK(pid);
  struct sigaction now = {};
  MUST(sigaction(SIGUSR1, nullptr, &now));
  EXPECT_EQ(now.sa_handler, SIG_IGN);
}

GUEST_TEST(Clone, ClearSighandResetsHandlers) {
  CountSignals(SIGUSR1);
  signal(SIGUSR2, SIG_IGN);
  const pid_t pid = Clone3({.flags = CLONE_CLEAR_SIGHAND, .exit_signal = SIGCHLD});
  MUST(pid);
  if (pid == 0) {
    struct sigaction now = {};
    MUST(sigaction(SIGUSR1, nullptr, &now));
    EXPECT_EQ(now.sa_handler, SIG_DFL);
    MUST(sigaction(SIGUSR2, nullptr, &now));
    EXPECT_EQ(now.sa_handler, SIG_IGN);
    ExitWithVerdict();
  }
  JOIN_OK(pid);
}

GUEST_TEST(Clone, ParentFlagMakesASibling) {
  const pid_t middle = Fork([] {
    const pid_t pid = RawClone(CLONE_PARENT | SIGCHLD);
    if (pid == 0) _exit(44);
    EXPECT_ERRNO(waitpid(pid, nullptr, 0), ECHILD);
  });
  int statuses[2] = {};
  MUST(waitpid(-1, &statuses[0], 0));
  MUST(waitpid(-1, &statuses[1], 0));
  EXPECT_EQ(WEXITSTATUS(statuses[0]) + WEXITSTATUS(statuses[1]), 44);
  EXPECT_GT(middle, 0);
}

GUEST_TEST(Clone, ExitSignalIsHonoured) {
  CountSignals(SIGUSR1, SA_RESTART);
  const pid_t pid = MUST(RawClone(SIGUSR1));
  if (pid == 0) _exit(0);
  int status = -1;
  while (waitpid(pid, &status, __WALL) < 0 && errno == EINTR) {
  }
  EXPECT_EQ(status, 0);
  EXPECT_EQ(SignalCount(), 1);
}

GUEST_TEST(Clone, PidfdFromClone) {
  int fd = -1;
  const pid_t pid = static_cast<pid_t>(MUST(syscall(SYS_clone, CLONE_PIDFD | SIGCHLD, nullptr, &fd, nullptr, 0)));
  if (pid == 0) _exit(1);
  EXPECT_GE(fd, 0);
  siginfo_t info = {};
  MUST(waitid(P_PIDFD, fd, &info, WEXITED));
  EXPECT_EQ(info.si_pid, pid);
}

GUEST_TEST(Clone3, LikeFork) {
  const pid_t pid = MUST(Clone3({.exit_signal = SIGCHLD}));
  if (pid == 0) _exit(17);
  EXPECT_EXITED(WaitStatus(pid), 17);
}

GUEST_TEST(Clone3, Arguments) {
  clone_args args = {.exit_signal = SIGCHLD};
  EXPECT_ERRNO(syscall(SYS_clone3, &args, 8), EINVAL);
  EXPECT_ERRNO(syscall(SYS_clone3, &args, 1 << 20), E2BIG);
  EXPECT_ERRNO(syscall(SYS_clone3, 8, sizeof(args)), EFAULT);
  EXPECT_ERRNO(Clone3({.exit_signal = 65}), EINVAL);
  EXPECT_ERRNO(Clone3({.flags = SIGCHLD}), EINVAL);  // No signal in the flags here.
  EXPECT_ERRNO(Clone3({.exit_signal = SIGCHLD, .stack = 4096}), EINVAL);
  EXPECT_ERRNO(Clone3({.exit_signal = SIGCHLD, .stack_size = 4096}), EINVAL);
  struct {
    clone_args args;
    uint64_t more;
  } larger = {.args = {.exit_signal = SIGCHLD}, .more = 1};
  EXPECT_ERRNO(syscall(SYS_clone3, &larger, sizeof(larger)), E2BIG);
}

GUEST_TEST(Clone3, ChosenPid) {
  if (geteuid() != 0) Skip("needs root");
  const pid_t free_pid = Fork([] {});
  JOIN_OK(free_pid);
  pid_t wanted[1] = {free_pid};
  const pid_t pid = Clone3({.exit_signal = SIGCHLD, .set_tid = reinterpret_cast<uint64_t>(wanted), .set_tid_size = 1});
  if (pid < 0 && errno == EEXIST) Skip("the number was taken meanwhile");
  MUST(pid);
  if (pid == 0) _exit(0);
  EXPECT_EQ(pid, free_pid);
  JOIN_OK(pid);
}

// Orphans send SIGCHLD, whatever they were made to send (kernel/exit.c, reparent_leader()).
GUEST_TEST(Clone3, OrphansSendSigchld) {
  MUST(prctl(PR_SET_CHILD_SUBREAPER, 1));
  // One that ended before its parent did, one that was killed, and one that goes on.
  auto* ids = reinterpret_cast<int*>(Shared<int[3]>());
  Gate end;
  pid_t parent = Fork([&] {
    struct sigaction ignore{};
    ignore.sa_handler = SIG_IGN;
    MUST(sigaction(SIGUSR1, &ignore, nullptr));
    for (int i = 0; i < 3; ++i) {
      clone_args args{};
      args.exit_signal = SIGUSR1;
      const int child = MUST(Call(SYS_clone3, &args, sizeof(args)));
      if (child == 0) {
        if (i == 1) raise(SIGKILL);
        if (i == 2) end.Await();
        _exit(i + 5);
      }
      ids[i] = child;
      if (i < 2) AwaitState(child, child, 'Z');
    }
  });
  JOIN_OK(parent);
  CheckpointHere();
  EXPECT_EXITED(WaitStatus(ids[0]), 5);
  siginfo_t info;
  EXPECT_EQ(waitid(P_PID, static_cast<id_t>(ids[1]), &info, WEXITED), 0);
  EXPECT_EQ(info.si_code, CLD_KILLED);
  end.Open();
  EXPECT_EXITED(WaitStatus(ids[2]), 7);
}
