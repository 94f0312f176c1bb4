// Futexes, threads, clone and exec at their edges, and what ptrace refuses.
#include <linux/futex.h>
#include <linux/sched.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

int Futex(void* word, int operation, unsigned value, const timespec* time = nullptr, void* second = nullptr, unsigned third = 0) {
  return Call(SYS_futex, word, operation, value, time, second, third);
}

constexpr unsigned kU32 = 2;  // FUTEX2_SIZE_U32

struct WaitEntry {
  uint64_t value, address;
  uint32_t flags, reserved;
};
struct CloneArgs {
  uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};

pid_t Traced() {
  const pid_t pid = Fork([] {
    MUST(ptrace(PTRACE_TRACEME, 0, nullptr, nullptr));
    raise(SIGSTOP);
    _exit(4);
  });
  int status;
  MUST(waitpid(pid, &status, 0));
  ASSERT(WIFSTOPPED(status));
  return pid;
}

}  // namespace

GUEST_TEST(FutexEdge, AddressesAndOperations) {
  alignas(8) static unsigned words[4] = {};
  EXPECT_ERRNO(Futex(reinterpret_cast<char*>(words) + 1, FUTEX_WAIT, 0), EINVAL);
  EXPECT_ERRNO(Futex(reinterpret_cast<char*>(words) + 1, FUTEX_WAKE, 1), EINVAL);
  EXPECT_ERRNO(Futex(reinterpret_cast<void*>(kBadAddress), FUTEX_WAIT, 0), EFAULT);
  EXPECT_ERRNO(Futex(reinterpret_cast<void*>(kKernelAddress), FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 0), EFAULT);
  EXPECT_ERRNO(Futex(words, 99, 0), ENOSYS);
  EXPECT_ERRNO(Futex(words, FUTEX_WAIT_BITSET, 0, nullptr, nullptr, 0), EINVAL);
  EXPECT_ERRNO(Futex(words, FUTEX_WAKE_BITSET, 0, nullptr, nullptr, 0), EINVAL);
  EXPECT_EQ(Futex(words, FUTEX_WAKE, 0), 0);
  EXPECT_EQ(Futex(words, FUTEX_WAKE, INT32_MAX), 0);
}

GUEST_TEST(FutexEdge, Times) {
  static unsigned word = 0;
  timespec time = {0, 1'000'000'000};
  EXPECT_ERRNO(Futex(&word, FUTEX_WAIT, 0, &time), EINVAL);
  time = {-1, 0};
  EXPECT_ERRNO(Futex(&word, FUTEX_WAIT, 0, &time), EINVAL);
  EXPECT_ERRNO(Call(SYS_futex, &word, FUTEX_WAIT, 0, kBadAddress, nullptr, 0), EFAULT);
  time = {0, 0};
  EXPECT_ERRNO(Futex(&word, FUTEX_WAIT, 0, &time), ETIMEDOUT);
  EXPECT_ERRNO(Futex(&word, FUTEX_WAIT, 1, &time), EAGAIN);
  time = {1, 0};  // 1970.
  EXPECT_ERRNO(Futex(&word, FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME, 0, &time, nullptr, ~0u), ETIMEDOUT);
}

GUEST_TEST(FutexEdge, RequeueArguments) {
  static unsigned a = 5, b = 0;
  EXPECT_ERRNO(Call(SYS_futex, &a, FUTEX_CMP_REQUEUE, 1, 1L, &b, 6), EAGAIN);
  EXPECT_EQ(Call(SYS_futex, &a, FUTEX_CMP_REQUEUE, 1, 1L, &b, 5), 0);
  EXPECT_ERRNO(Call(SYS_futex, &a, FUTEX_REQUEUE, -1, 1L, &b, 0), EINVAL);
  EXPECT_ERRNO(Call(SYS_futex, &a, FUTEX_REQUEUE, 1, -1L, &b, 0), EINVAL);
  EXPECT_ERRNO(Call(SYS_futex, &a, FUTEX_REQUEUE, 1, 1L, reinterpret_cast<char*>(&b) + 1, 0), EINVAL);
  EXPECT_ERRNO(Call(SYS_futex, &a, FUTEX_CMP_REQUEUE, 1, 1L, kBadAddress, 5), EFAULT);
}

GUEST_TEST(FutexEdge, NewCallsRequeue) {
  static unsigned a = 0, b = 0;
  WaitEntry pair[2] = {{0, reinterpret_cast<uint64_t>(&a), kU32, 0}, {0, reinterpret_cast<uint64_t>(&b), kU32, 0}};
  if (syscall(456 /*futex_requeue*/, pair, 0, 0, 0) < 0 && errno == ENOSYS) Skip("no futex_requeue");
  Thread waiter([] { EXPECT_EQ(syscall(455 /*futex_wait*/, &a, 0ul, 0xfffffffful, kU32, nullptr, 0), 0); });
  waiter.AwaitAsleep();
  EXPECT_EQ(Call(456, pair, 0, 0, 1), 1);
  CheckpointHere();
  EXPECT_EQ(Call(454 /*futex_wake*/, &a, 0xfffffffful, 1, kU32), 0);
  EXPECT_EQ(Call(454, &b, 0xfffffffful, 1, kU32), 1);
  EXPECT_ERRNO(Call(456, pair, 1, 0, 1), EINVAL);
  EXPECT_ERRNO(Call(456, kBadAddress, 0, 0, 1), EFAULT);
  pair[0].value = 7;
  EXPECT_ERRNO(Call(456, pair, 0, 0, 1), EAGAIN);
}

GUEST_TEST(FutexEdge, NewCallsArguments) {
  static unsigned word = 0;
  if (syscall(454, &word, 0xfffffffful, 1, kU32) < 0 && errno == ENOSYS) Skip("no futex_wake");
  EXPECT_ERRNO(Call(454, &word, 0xfffffffful, 1, 0), EINVAL);  // One byte is not for futexes yet.
  EXPECT_ERRNO(Call(454, &word, 0ul, 1, kU32), EINVAL);
  EXPECT_ERRNO(Call(455, &word, 1ul, 0xfffffffful, kU32, nullptr, 0), EAGAIN);
  const timespec time = {1, 0};
  EXPECT_ERRNO(Call(455, &word, 0ul, 0xfffffffful, kU32, &time, 99), EINVAL);
  WaitEntry entry = {1, reinterpret_cast<uint64_t>(&word), kU32, 0};
  EXPECT_ERRNO(Call(449 /*futex_waitv*/, &entry, 1, 0, nullptr, 0), EAGAIN);
  EXPECT_ERRNO(Call(449, &entry, 0, 0, nullptr, 0), EINVAL);
  EXPECT_ERRNO(Call(449, &entry, 129, 0, nullptr, 0), EINVAL);
  EXPECT_ERRNO(Call(449, &entry, 1, 1, nullptr, 0), EINVAL);
  EXPECT_ERRNO(Call(449, kBadAddress, 1, 0, nullptr, 0), EFAULT);
  entry.reserved = 1;
  EXPECT_ERRNO(Call(449, &entry, 1, 0, nullptr, 0), EINVAL);
}

GUEST_TEST(FutexEdge, RobustListArguments) {
  void* head = nullptr;
  size_t length = 0;
  EXPECT_ERRNO(Call(SYS_set_robust_list, &head, 8L), EINVAL);
  EXPECT_OK(Call(SYS_get_robust_list, 0, &head, &length));
  EXPECT_EQ(length, 24);
  EXPECT_ERRNO(Call(SYS_get_robust_list, 4'000'000, &head, &length), ESRCH);
  EXPECT_ERRNO(Call(SYS_get_robust_list, 0, kBadAddress, &length), EFAULT);
  EXPECT_ERRNO(Call(SYS_get_robust_list, 0, &head, kBadAddress), EFAULT);
  AS_USER([&] { EXPECT_ERRNO(Call(SYS_get_robust_list, 1, &head, &length), EPERM); });
}

GUEST_TEST(CloneEdge, Clone3Sizes) {
  CloneArgs arguments = {};
  arguments.exit_signal = SIGCHLD;
  EXPECT_ERRNO(Call(SYS_clone3, &arguments, 63L), EINVAL);
  EXPECT_ERRNO(Call(SYS_clone3, &arguments, 5000L), E2BIG);
  EXPECT_ERRNO(Call(SYS_clone3, kBadAddress, sizeof(arguments)), EFAULT);
  struct {
    CloneArgs known;
    uint64_t beyond;
  } longer = {arguments, 1};
  EXPECT_ERRNO(Call(SYS_clone3, &longer, sizeof(longer)), E2BIG);
  arguments.exit_signal = 0x100 | SIGCHLD;
  EXPECT_ERRNO(Call(SYS_clone3, &arguments, sizeof(arguments)), EINVAL);
  arguments.exit_signal = 65;
  EXPECT_ERRNO(Call(SYS_clone3, &arguments, sizeof(arguments)), EINVAL);
  arguments.exit_signal = SIGCHLD;
  arguments.stack_size = 4096;  // A size without a stack.
  EXPECT_ERRNO(Call(SYS_clone3, &arguments, sizeof(arguments)), EINVAL);
  arguments.stack_size = 0;
  arguments.set_tid_size = 1;
  EXPECT_ERRNO(Call(SYS_clone3, &arguments, sizeof(arguments)), EINVAL);
}

GUEST_TEST(CloneEdge, FlagsThatExclude) {
  constexpr uint64_t kClearSighand = 0x100000000;
  for (const uint64_t flags :
       {uint64_t{CLONE_THREAD}, uint64_t{CLONE_SIGHAND}, CLONE_SIGHAND | kClearSighand | CLONE_VM, uint64_t{CLONE_NEWNS | CLONE_FS},
        uint64_t{CLONE_NEWUSER | CLONE_FS}, uint64_t{CLONE_NEWIPC | CLONE_SYSVSEM}, uint64_t{CLONE_NEWPID | CLONE_THREAD}}) {
    CloneArgs arguments = {};
    arguments.flags = flags;
    EXPECT_ERRNO(Call(SYS_clone3, &arguments, sizeof(arguments)), EINVAL);
  }
  EXPECT_ERRNO(Call(SYS_clone, CLONE_PIDFD | CLONE_PARENT_SETTID | SIGCHLD, 0, kBadAddress, 0, 0), EINVAL);
}

GUEST_TEST(CloneEdge, BadTidPointerIsForgiven) {
  // CLONE_PARENT_SETTID to a bad address: the child runs all the same (kernel/fork.c ignores put_user).
  const int pid = Call(SYS_clone, CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | SIGCHLD, 0, 0, kBadAddress, 0);
  if (pid == 0) _exit(6);
  ASSERT_GT(pid, 0);
  EXPECT_EXITED(WaitStatus(pid), 6);
}

GUEST_TEST(CloneEdge, ProcessLimitOfAUser) {
  AS_USER([] {
    const rlimit limit = {0, 0};
    MUST(setrlimit(RLIMIT_NPROC, &limit));
    EXPECT_ERRNO(fork(), EAGAIN);
    EXPECT_ERRNO(vfork(), EAGAIN);
  });
}

GUEST_TEST(ExecEdge, PointersAndFlags) {
  char* const none[] = {nullptr};
  char* const bad[] = {reinterpret_cast<char*>(kBadAddress), nullptr};
  EXPECT_ERRNO(execve(SelfPath(), bad, none), EFAULT);
  EXPECT_ERRNO(execve(SelfPath(), none, bad), EFAULT);
  EXPECT_ERRNO(Call(SYS_execve, SelfPath(), kBadAddress, none), EFAULT);
  EXPECT_ERRNO(Call(SYS_execve, SelfPath(), none, kBadAddress), EFAULT);
  EXPECT_ERRNO(Call(SYS_execveat, AT_FDCWD, SelfPath(), none, none, 0x40000000), EINVAL);
  EXPECT_ERRNO(Call(SYS_execveat, 999, "x", none, none, 0), EBADF);
  EXPECT_ERRNO(Call(SYS_execveat, 1, "x", none, none, 0), ENOTDIR);
  TempDir dir;
  MUST(symlink(SelfPath(), dir / "link"));
  EXPECT_ERRNO(Call(SYS_execveat, AT_FDCWD, (dir / "link").c_str(), none, none, AT_SYMLINK_NOFOLLOW), ELOOP);
  EXPECT_ERRNO(Call(SYS_execveat, TempFile(), "", none, none, AT_EMPTY_PATH), EACCES);
}

GUEST_TEST(ExecEdge, OneArgumentHasALimit) {
  const size_t size = 33 * kPage;  // MAX_ARG_STRLEN is 32 pages.
  char* text = Pages(33);
  memset(text, 'a', size - 1);
  char* const arguments[] = {text, nullptr};
  char* const none[] = {nullptr};
  EXPECT_ERRNO(execve(SelfPath(), arguments, none), E2BIG);
  EXPECT_ERRNO(execve(SelfPath(), none, arguments), E2BIG);
}

GUEST_TEST(ExecEdge, InterpretersLineIsCut) {
  TempDir dir;
  char script[600];
  memset(script, 'x', sizeof(script));
  memcpy(script, "#!/", 3);
  WriteFile(dir / "s", script, sizeof(script), 0755);
  char* const none[] = {nullptr};
  EXPECT_ERRNO(execve(dir / "s", none, none), ENOEXEC);
  WriteFile(dir / "e", "#!\n", 3, 0755);
  EXPECT_ERRNO(execve(dir / "e", none, none), ENOEXEC);
  WriteFile(dir / "z", "", 0, 0755);
  EXPECT_ERRNO(execve(dir / "z", none, none), ENOEXEC);
  WriteFile(dir / "m", "#!/nothing/there\n", 17, 0755);
  EXPECT_ERRNO(execve(dir / "m", none, none), ENOENT);
  WriteFile(dir / "d", "#!/tmp\n", 7, 0755);
  EXPECT_ERRNO(execve(dir / "d", none, none), EACCES);
}

GUEST_TEST(PtraceEdge, RequestsAndTargets) {
  EXPECT_ERRNO(ptrace(PTRACE_ATTACH, getpid(), nullptr, nullptr), EPERM);
  EXPECT_ERRNO(ptrace(PTRACE_ATTACH, 4'000'000, nullptr, nullptr), ESRCH);
  EXPECT_ERRNO(ptrace(PTRACE_CONT, 1, nullptr, nullptr), ESRCH);
  EXPECT_ERRNO(ptrace(PTRACE_SEIZE, 4'000'000, nullptr, nullptr), ESRCH);
  const pid_t pid = Fork([] { pause(); });
  EXPECT_ERRNO(ptrace(PTRACE_SEIZE, pid, 5, nullptr), EIO);
  EXPECT_ERRNO(ptrace(PTRACE_SEIZE, pid, nullptr, 0x40000000), EIO);
  EXPECT_ERRNO(Call(SYS_ptrace, 0x7777, pid, 0, 0), ESRCH);
  AS_USER([&] { EXPECT_ERRNO(ptrace(PTRACE_ATTACH, pid, nullptr, nullptr), EPERM); });
  kill(pid, SIGKILL);
  WaitStatus(pid);
}

GUEST_TEST(PtraceEdge, BadPointersOfAStopped) {
  const pid_t pid = Traced();
  user_regs_struct registers = {};
  EXPECT_OK(ptrace(PTRACE_GETREGS, pid, nullptr, &registers));
  EXPECT_ERRNO(ptrace(PTRACE_GETREGS, pid, nullptr, kBadAddress), EFAULT);
  EXPECT_ERRNO(Call(SYS_ptrace, PTRACE_PEEKDATA, pid, kBadAddress, &registers), EIO);
  EXPECT_ERRNO(Call(SYS_ptrace, PTRACE_POKEDATA, pid, kBadAddress, 0), EIO);
  EXPECT_ERRNO(Call(SYS_ptrace, PTRACE_PEEKUSER, pid, 1L, &registers), EIO);
  EXPECT_ERRNO(Call(SYS_ptrace, PTRACE_PEEKUSER, pid, 100'000L, &registers), EIO);
  EXPECT_ERRNO(ptrace(PTRACE_CONT, pid, nullptr, 65), EIO);
  EXPECT_ERRNO(ptrace(PTRACE_SETOPTIONS, pid, nullptr, 0x40000000), EINVAL);
  EXPECT_ERRNO(Call(SYS_ptrace, 0x7777, pid, 0, 0), EIO);
  siginfo_t info = {};
  EXPECT_OK(ptrace(PTRACE_GETSIGINFO, pid, nullptr, &info));
  EXPECT_EQ(info.si_signo, SIGSTOP);
  CheckpointHere();
  EXPECT_OK(ptrace(PTRACE_CONT, pid, nullptr, nullptr));
  EXPECT_EXITED(WaitStatus(pid), 4);
}

GUEST_TEST(PtraceEdge, OneTracerAtATime) {
  const pid_t pid = Traced();
  JOIN_OK(Fork([&] { EXPECT_ERRNO(ptrace(PTRACE_ATTACH, pid, nullptr, nullptr), EPERM); }));
  JOIN_OK(Fork([&] { EXPECT_ERRNO(ptrace(PTRACE_CONT, pid, nullptr, nullptr), ESRCH); }));  // Not its tracee.
  EXPECT_OK(ptrace(PTRACE_KILL, pid, nullptr, nullptr));
  EXPECT_KILLED(WaitStatus(pid), SIGKILL);
}

GUEST_TEST(PtraceEdge, TracemeTwice) {
  JOIN_OK(Fork([] {
    MUST(ptrace(PTRACE_TRACEME, 0, nullptr, nullptr));
    EXPECT_ERRNO(ptrace(PTRACE_TRACEME, 0, nullptr, nullptr), EPERM);
  }));
}

GUEST_TEST(PtraceEdge, RegisterSetsBySize) {
  const pid_t pid = Traced();
  user_regs_struct registers = {};
  iovec set = {&registers, sizeof(registers)};
  EXPECT_OK(ptrace(PTRACE_GETREGSET, pid, 1 /*NT_PRSTATUS*/, &set));
  EXPECT_EQ(set.iov_len, sizeof(registers));
  set.iov_len = 16;  // As much as there is room for.
  EXPECT_OK(ptrace(PTRACE_GETREGSET, pid, 1, &set));
  EXPECT_EQ(set.iov_len, 16);
  set.iov_len = 7;
  EXPECT_ERRNO(ptrace(PTRACE_GETREGSET, pid, 1, &set), EINVAL);
  EXPECT_ERRNO(ptrace(PTRACE_GETREGSET, pid, 0x7777, &set), EINVAL);
  EXPECT_ERRNO(ptrace(PTRACE_GETREGSET, pid, 1, kBadAddress), EFAULT);
  kill(pid, SIGKILL);
  WaitStatus(pid);
}

GUEST_TEST(MembarrierEdge, CommandsAndFlags) {
  const int known = Call(SYS_membarrier, 0, 0, 0);
  if (known < 0 && errno == ENOSYS) Skip("no membarrier");
  EXPECT_ERRNO(Call(SYS_membarrier, 1 << 20, 0, 0), EINVAL);
  EXPECT_ERRNO(Call(SYS_membarrier, 0, 1, 0), EINVAL);
  EXPECT_ERRNO(Call(SYS_membarrier, 8 /*PRIVATE_EXPEDITED*/, 0, 0), EPERM);  // Not registered.
}

GUEST_TEST(RseqEdge, RegisteringTwice) {
  alignas(32) static char area[32];
  EXPECT_ERRNO(Call(SYS_rseq, area, 32, 0x40, 0), EINVAL);
  const int twice = Call(SYS_rseq, area, 32, 0, 0x12345678);  // The library has registered its own.
  EXPECT_EQ(twice, -1);
  EXPECT(errno == EINVAL || errno == EBUSY || errno == EPERM);
}

GUEST_TEST(ArchPrctlEdge, BasesAndErrors) {
  unsigned long base = 0;
  EXPECT_OK(Call(SYS_arch_prctl, 0x1003 /*ARCH_GET_FS*/, &base));
  EXPECT_NE(base, 0);
  EXPECT_ERRNO(Call(SYS_arch_prctl, 0x1003, kBadAddress), EFAULT);
  EXPECT_ERRNO(Call(SYS_arch_prctl, 0x1001 /*ARCH_SET_GS*/, kKernelAddress), EPERM);
  EXPECT_ERRNO(Call(SYS_arch_prctl, 0x7777, 0), EINVAL);
  EXPECT_OK(Call(SYS_arch_prctl, 0x1001, 0x1234000));
  CheckpointHere();
  EXPECT_OK(Call(SYS_arch_prctl, 0x1004 /*ARCH_GET_GS*/, &base));
  EXPECT_EQ(base, 0x1234000);
}
