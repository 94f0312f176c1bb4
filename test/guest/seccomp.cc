// A program's own seccomp filters.
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <ucontext.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

// Answers `action` for one call and lets all others pass.
long Install(long number, uint32_t action, unsigned flags = 0) {
  sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(number), 0, 1),
      BPF_STMT(BPF_RET | BPF_K, action),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program = {.len = 4, .filter = code};
  MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
  return MUST(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program));
}

constexpr unsigned kWaitKillable = 32;  // SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV

// A child whose calls of `number` its parent answers, by the returned descriptor.
struct Watched {
  pid_t pid;
  int listener;
};

template <typename F>
Watched Watch(long number, F body, unsigned flags = 0) {
  // The child's table of descriptors is ours.
  auto* listener = Shared<int>();
  auto* taken = Shared<int>();
  const pid_t pid = Fork([&] {
    *listener = static_cast<int>(Install(number, SECCOMP_RET_USER_NOTIF, SECCOMP_FILTER_FLAG_NEW_LISTENER | flags));
    while (__atomic_load_n(taken, __ATOMIC_SEQ_CST) == 0) SleepMs(1);
    close(*listener);
    body();
  });
  while (__atomic_load_n(listener, __ATOMIC_SEQ_CST) == 0) SleepMs(1);
  const int pidfd = static_cast<int>(MUST(syscall(434 /*pidfd_open*/, pid, 0)));
  const int fd = static_cast<int>(MUST(syscall(438 /*pidfd_getfd*/, pidfd, *listener, 0)));
  close(pidfd);
  __atomic_store_n(taken, 1, __ATOMIC_SEQ_CST);
  return {pid, fd};
}

seccomp_notif Receive(int listener) {
  seccomp_notif request = {};
  MUST(ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &request));
  return request;
}

long Answer(int listener, uint64_t id, int error, int64_t value, unsigned flags = 0) {
  seccomp_notif_resp answer = {.id = id, .val = value, .error = error, .flags = flags};
  return ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
}

constexpr uint32_t Errno(int error) { return SECCOMP_RET_ERRNO | static_cast<uint32_t>(error); }

}  // namespace

GUEST_TEST(Seccomp, ErrnoAction) {
  EXPECT_EQ(prctl(PR_GET_SECCOMP), 0);
  Install(SYS_getppid, Errno(E2BIG));
  EXPECT_ERRNO(syscall(SYS_getppid), E2BIG);
  EXPECT_OK(syscall(SYS_getpid));
  CheckpointHere();
  EXPECT_ERRNO(syscall(SYS_getppid), E2BIG);
  EXPECT_EQ(prctl(PR_GET_SECCOMP), 2);
}

GUEST_TEST(Seccomp, TrapAction) {
  static siginfo_t seen;
  Handle(SIGSYS, [](int, siginfo_t* info, void* context) {
    seen = *info;
    static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RAX] = 4711;
  });
  Install(SYS_getppid, SECCOMP_RET_TRAP | 77);
  CheckpointHere();
  EXPECT_EQ(syscall(SYS_getppid), 4711);
  EXPECT_EQ(seen.si_signo, SIGSYS);
  EXPECT_EQ(seen.si_code, 1);  // SYS_SECCOMP
  EXPECT_EQ(seen.si_errno, 77);
  EXPECT_EQ(seen.si_syscall, SYS_getppid);
  EXPECT_EQ(seen.si_arch, AUDIT_ARCH_X86_64);
}

GUEST_TEST(Seccomp, KillProcess) {
  const rlimit none = {0, 0};
  MUST(setrlimit(RLIMIT_CORE, &none));
  const pid_t pid = Fork([] {
    Install(SYS_getppid, SECCOMP_RET_KILL_PROCESS);
    CountSignals(SIGSYS);  // Cannot be caught.
    syscall(SYS_getppid);
  });
  EXPECT_KILLED(WaitStatus(pid), SIGSYS);
}

GUEST_TEST(Seccomp, KillThreadLeavesTheOthers) {
  const rlimit none = {0, 0};
  MUST(setrlimit(RLIMIT_CORE, &none));
  JOIN_OK(Fork([] {
    auto* gone = Shared<int>();
    pthread_t thread;
    pthread_create(
        &thread, nullptr,
        [](void* word) -> void* {
          Install(SYS_getppid, SECCOMP_RET_KILL_THREAD);
          syscall(SYS_getppid);
          *static_cast<int*>(word) = 1;
          return nullptr;
        },
        gone);
    pthread_join(thread, nullptr);
    EXPECT_EQ(*gone, 0);
    EXPECT_OK(syscall(SYS_getppid));  // Filters are per thread.
  }));
}

GUEST_TEST(Seccomp, InheritedByForkAndExec) {
  Install(SYS_getppid, Errno(ENODATA));
  JOIN_OK(Fork([] { EXPECT_ERRNO(syscall(SYS_getppid), ENODATA); }));
  JOIN_OK(Fork([] { execl(SelfPath(), SelfPath(), "@Filtered", nullptr); }));
  Thread other([] { EXPECT_ERRNO(syscall(SYS_getppid), ENODATA); });
}

GUEST_HELPER(Filtered) {
  EXPECT_ERRNO(syscall(SYS_getppid), ENODATA);
  ExitWithVerdict();
}

GUEST_TEST(Seccomp, StricterWins) {
  Install(SYS_getppid, Errno(EPERM));
  Install(SYS_getppid, SECCOMP_RET_ALLOW);
  EXPECT_ERRNO(syscall(SYS_getppid), EPERM);
  Install(SYS_getppid, Errno(ENODATA));
  EXPECT_ERRNO(syscall(SYS_getppid),
               ENODATA);  // Of equal actions the newest filter's value counts.
}

GUEST_TEST(Seccomp, SyncsAllThreads) {
  Gate installed;
  Thread other([&] {
    installed.Await();
    EXPECT_ERRNO(syscall(SYS_getppid), EPERM);
  });
  other.AwaitAsleep();
  Install(SYS_getppid, Errno(EPERM), SECCOMP_FILTER_FLAG_TSYNC);
  CheckpointHere();
  installed.Open();
}

GUEST_TEST(Seccomp, ArgumentsAreSeen) {
  sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_dup, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args[0])),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 77, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, Errno(EMLINK)),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program = {.len = 6, .filter = code};
  MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
  MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
  EXPECT_ERRNO(dup(77), EMLINK);
  EXPECT_ERRNO(dup(78), EBADF);
  EXPECT_OK(dup(1));
}

GUEST_TEST(Seccomp, BadFilters) {
  MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
  sock_filter no_return[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0)};
  sock_fprog program = {.len = 1, .filter = no_return};
  EXPECT_ERRNO(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), EINVAL);
  sock_filter out_of_bounds[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 4096), BPF_STMT(BPF_RET | BPF_K, 0)};
  program = {.len = 2, .filter = out_of_bounds};
  EXPECT_ERRNO(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), EINVAL);
  sock_filter backwards[] = {BPF_JUMP(BPF_JMP | BPF_JA, 100, 0, 0), BPF_STMT(BPF_RET | BPF_K, 0)};
  program = {.len = 2, .filter = backwards};
  EXPECT_ERRNO(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), EINVAL);
  program.len = 0;
  EXPECT_ERRNO(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), EINVAL);
  program.len = 2;
  EXPECT_ERRNO(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0x8000, &program), EINVAL);
  EXPECT_ERRNO(syscall(SYS_seccomp, 99, 0, nullptr), EINVAL);
}

GUEST_TEST(Seccomp, UnprivilegedNeedsNoNewPrivileges) {
  if (geteuid() != 0) Skip("needs root to drop it");
  MUST(setresuid(1000, 1000, 1000));
  sock_filter allow[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
  const sock_fprog program = {.len = 1, .filter = allow};
  EXPECT_ERRNO(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), EACCES);
}

GUEST_TEST(Seccomp, StrictMode) {
  const rlimit none = {0, 0};
  MUST(setrlimit(RLIMIT_CORE, &none));
  pid_t pid = Fork([] {
    MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT));
    syscall(SYS_write, 1, "", 0);
    syscall(SYS_exit, 0);
  });
  JOIN_OK(pid);
  pid = Fork([] {
    MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT));
    syscall(SYS_getpid);
  });
  EXPECT_KILLED(WaitStatus(pid), SIGKILL);
}

GUEST_TEST(Seccomp, SeesLocksAndYields) {
  int word = 0;
  Thread waiter([&] { EXPECT_EQ(syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, nullptr, nullptr, 0), 0); });
  waiter.AwaitAsleep();
  JOIN_OK(Fork([] {
    Install(SYS_sched_yield, Errno(E2BIG));
    CheckpointHere();
    EXPECT_ERRNO(sched_yield(), E2BIG);
    int own = 0;
    EXPECT_EQ(syscall(SYS_futex, &own, FUTEX_WAKE, 1, nullptr, nullptr, 0), 0);
    JOIN_OK(Fork([] { EXPECT_ERRNO(sched_yield(), E2BIG); }));
    Thread other([] { EXPECT_ERRNO(sched_yield(), E2BIG); });
  }));
  JOIN_OK(Fork([] {
    Install(SYS_futex, Errno(ENOTTY));
    int own = 0;
    EXPECT_ERRNO(syscall(SYS_futex, &own, FUTEX_WAKE, 1, nullptr, nullptr, 0), ENOTTY);
    EXPECT_ERRNO(syscall(SYS_futex, &own, FUTEX_WAIT, 0, nullptr, nullptr, 0), ENOTTY);
  }));
  EXPECT_EQ(syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0), 1);
}

GUEST_TEST(Seccomp, FilteredThreadsLockAsOthersDo) {
  // A filter that looks at the arguments of futex, and lets them pass.
  sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args[1])),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x7777, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, Errno(EMLINK)),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program = {.len = 4, .filter = code};
  int first = 0, second = 0;
  Gate go;
  Thread early([&] {
    go.Await();
    EXPECT_EQ(syscall(SYS_futex, &first, FUTEX_WAIT, 0, nullptr, nullptr, 0), 0);
  });
  MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
  MUST(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program));
  EXPECT_ERRNO(syscall(SYS_futex, &first, 0x7777, 0, nullptr, nullptr, 0), EMLINK);
  go.Open();
  Thread late([&] { EXPECT_EQ(syscall(SYS_futex, &first, FUTEX_WAIT, 0, nullptr, nullptr, 0), 0); });
  early.AwaitAsleep();
  late.AwaitAsleep();
  CheckpointHere();
  EXPECT_EQ(syscall(SYS_futex, &first, FUTEX_REQUEUE, 1, 1, &second, 0), 2);
  EXPECT_EQ(syscall(SYS_futex, &second, FUTEX_WAKE, 9, nullptr, nullptr, 0), 1);
  early.Join();
  late.Join();
  const timespec wait = Ns(20 * kMs);
  EXPECT_ERRNO(syscall(SYS_futex, &first, FUTEX_WAIT, 0, &wait, nullptr, 0), ETIMEDOUT);
}

GUEST_TEST(Seccomp, LockOfAFilteredThreadIsInterrupted) {
  CountSignals(SIGUSR1);
  auto* word = Shared<int>();
  const pid_t pid = Fork([=] {
    Install(SYS_futex, SECCOMP_RET_LOG);
    EXPECT_ERRNO(syscall(SYS_futex, word, FUTEX_WAIT, 0, nullptr, nullptr, 0), EINTR);
    EXPECT_EQ(SignalCount(), 1);
  });
  AwaitAsleep(pid);
  kill(pid, SIGUSR1);
  JOIN_OK(pid);
}

GUEST_TEST(Seccomp, ListenerAnswers) {
  const Watched child = Watch(SYS_getppid, [] {
    EXPECT_EQ(syscall(SYS_getppid, 1L, 2L, 3L, 4L, 5L, 6L), 4711);
    EXPECT_ERRNO(syscall(SYS_getppid), EXDEV);
    EXPECT_EQ(syscall(SYS_getppid), getppid());
  });
  const int fd = child.listener;
  seccomp_notif request = Receive(fd);
  EXPECT_EQ(request.pid, child.pid);
  EXPECT_EQ(request.data.nr, SYS_getppid);
  EXPECT_EQ(request.data.arch, AUDIT_ARCH_X86_64);
  for (int i = 0; i < 6; ++i) EXPECT_EQ(request.data.args[i], i + 1);
  EXPECT_EQ(ThreadState(child.pid, child.pid), 'S');
  EXPECT_OK(ioctl(fd, SECCOMP_IOCTL_NOTIF_ID_VALID, &request.id));
  CheckpointHere();
  EXPECT_OK(ioctl(fd, SECCOMP_IOCTL_NOTIF_ID_VALID, &request.id));
  EXPECT_ERRNO(Answer(fd, request.id + 77, 0, 0), ENOENT);
  EXPECT_ERRNO(Answer(fd, request.id, 0, 0, 2), EINVAL);
  EXPECT_ERRNO(Answer(fd, request.id, -1, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE), EINVAL);
  EXPECT_OK(Answer(fd, request.id, 0, 4711));
  request = Receive(fd);
  EXPECT_OK(Answer(fd, request.id, -EXDEV, 0));
  request = Receive(fd);
  EXPECT_OK(Answer(fd, request.id, 0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE));
  request = Receive(fd);  // EXPECT_EQ's second side.
  EXPECT_OK(Answer(fd, request.id, 0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE));
  JOIN_OK(child.pid);
  pollfd poll_of = {.fd = fd, .events = POLLIN | POLLOUT, .revents = 0};
  EXPECT_EQ(poll(&poll_of, 1, 1000), 1);
  EXPECT_EQ(poll_of.revents, POLLHUP);
}

GUEST_TEST(Seccomp, ListenerIsPolled) {
  Gate go;
  const Watched child = Watch(SYS_getppid, [&] {
    go.Await();
    EXPECT_EQ(syscall(SYS_getppid), 5);
  });
  pollfd poll_of = {.fd = child.listener, .events = POLLIN | POLLOUT, .revents = 0};
  EXPECT_EQ(poll(&poll_of, 1, 0), 0);
  go.Open();
  EXPECT_EQ(poll(&poll_of, 1, 10000), 1);
  EXPECT_EQ(poll_of.revents, POLLIN);
  CheckpointHere();
  seccomp_notif dirty = {};
  dirty.flags = 1;
  EXPECT_ERRNO(ioctl(child.listener, SECCOMP_IOCTL_NOTIF_RECV, &dirty), EINVAL);
  const seccomp_notif request = Receive(child.listener);
  EXPECT_EQ(poll(&poll_of, 1, 10000), 1);
  EXPECT_EQ(poll_of.revents, POLLOUT);
  EXPECT_OK(Answer(child.listener, request.id, 0, 5));
  JOIN_OK(child.pid);
}

GUEST_TEST(Seccomp, CallsFailWhenTheirListenerGoes) {
  const Watched child = Watch(SYS_getppid, [] {
    EXPECT_ERRNO(syscall(SYS_getppid), ENOSYS);
    EXPECT_ERRNO(syscall(SYS_getppid), ENOSYS);
  });
  Receive(child.listener);
  close(child.listener);
  JOIN_OK(child.pid);
}

GUEST_TEST(Seccomp, SignalTakesACallFromItsListener) {
  CountSignals(SIGUSR1);
  const Watched child = Watch(SYS_getppid, [] {
    EXPECT_ERRNO(syscall(SYS_getppid), EINTR);
    EXPECT_EQ(SignalCount(), 1);
  });
  const seccomp_notif request = Receive(child.listener);
  kill(child.pid, SIGUSR1);
  JOIN_OK(child.pid);
  EXPECT_ERRNO(ioctl(child.listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &request.id), ENOENT);
  EXPECT_ERRNO(Answer(child.listener, request.id, 0, 0), ENOENT);
}

GUEST_TEST(Seccomp, ReceivedCallsCanBeKeptFromSignals) {
  CountSignals(SIGUSR1);
  const Watched child = Watch(
      SYS_getppid,
      [] {
        EXPECT_EQ(syscall(SYS_getppid), 9);
        EXPECT_EQ(SignalCount(), 1);
      },
      kWaitKillable);
  const seccomp_notif request = Receive(child.listener);
  kill(child.pid, SIGUSR1);
  SleepMs(20);
  CheckpointHere();
  EXPECT_OK(Answer(child.listener, request.id, 0, 9));
  JOIN_OK(child.pid);
}

GUEST_TEST(Seccomp, ListenerGivesDescriptors) {
  const Watched child = Watch(SYS_getppid, [] {
    const int fd = static_cast<int>(syscall(SYS_getppid));
    char text[4] = {};
    EXPECT_EQ(read(fd, text, 3), 3);
    EXPECT_STREQ(text, "abc");
    EXPECT_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    EXPECT_EQ(fcntl(77, F_GETFD), 0);
  });
  Pipe pipe;
  MUST(write(pipe.w, "abc", 3));
  const seccomp_notif request = Receive(child.listener);
  seccomp_notif_addfd add = {.id = request.id, .flags = 0, .srcfd = static_cast<uint32_t>(pipe.r), .newfd = 77, .newfd_flags = 0};
  EXPECT_ERRNO(ioctl(child.listener, SECCOMP_IOCTL_NOTIF_ADDFD, &add), EINVAL);
  add.flags = SECCOMP_ADDFD_FLAG_SETFD;
  EXPECT_EQ(ioctl(child.listener, SECCOMP_IOCTL_NOTIF_ADDFD, &add), 77);
  add.newfd = 0;
  add.flags = SECCOMP_ADDFD_FLAG_SEND;
  add.newfd_flags = O_CLOEXEC;
  EXPECT_GE(ioctl(child.listener, SECCOMP_IOCTL_NOTIF_ADDFD, &add), 3);
  EXPECT_ERRNO(ioctl(child.listener, SECCOMP_IOCTL_NOTIF_ADDFD, &add), ENOENT);
  JOIN_OK(child.pid);
}

GUEST_TEST(Seccomp, OneListenerInAChain) {
  Install(SYS_getppid, SECCOMP_RET_USER_NOTIF, SECCOMP_FILTER_FLAG_NEW_LISTENER);
  sock_filter allow[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
  const sock_fprog program = {.len = 1, .filter = allow};
  EXPECT_ERRNO(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program), EBUSY);
  EXPECT_ERRNO(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_TSYNC, &program), EINVAL);
  EXPECT_ERRNO(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, kWaitKillable, &program), EINVAL);
}

GUEST_TEST(Seccomp, TracerDecides) {
  const pid_t pid = Fork([] {
    MUST(ptrace(PTRACE_TRACEME, 0, nullptr, nullptr));
    raise(SIGSTOP);
    Install(SYS_getppid, SECCOMP_RET_TRACE | 99);
    EXPECT_EQ(syscall(SYS_getppid), getpid());
    EXPECT_ERRNO(syscall(SYS_getppid), ENOSYS);
  });
  int status = 0;
  MUST(waitpid(pid, &status, 0));
  MUST(ptrace(PTRACE_SETOPTIONS, pid, nullptr, static_cast<long>(PTRACE_O_TRACESECCOMP)));
  MUST(ptrace(PTRACE_CONT, pid, nullptr, nullptr));
  MUST(waitpid(pid, &status, 0));
  ASSERT_EQ(status >> 8, SIGTRAP | PTRACE_EVENT_SECCOMP << 8);
  unsigned long message = 0;
  MUST(ptrace(PTRACE_GETEVENTMSG, pid, nullptr, &message));
  EXPECT_EQ(message, 99);
  CheckpointHere();
  // Another call in its place; the filters look at that one again.
  MUST(ptrace(PTRACE_POKEUSER, pid, static_cast<long>(15 * 8) /* orig_rax */, static_cast<long>(SYS_getpid)));
  MUST(ptrace(PTRACE_SETOPTIONS, pid, nullptr, 0L));
  MUST(ptrace(PTRACE_CONT, pid, nullptr, nullptr));
  JOIN_OK(pid);
}

GUEST_TEST(Seccomp, StatusTells) {
  EXPECT_EQ(ProcField("/proc/self/status", "Seccomp"), 0);
  Install(SYS_getppid, SECCOMP_RET_ALLOW);
  EXPECT_EQ(ProcField("/proc/self/status", "Seccomp"), 2);
}

GUEST_TEST(Seccomp, ActionAvailable) {
  uint32_t action = SECCOMP_RET_TRAP;
  EXPECT_OK(syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action));
  action = SECCOMP_RET_USER_NOTIF;
  EXPECT_OK(syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action));
  action = 0x12340000;
  EXPECT_ERRNO(syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action), EOPNOTSUPP);
}
