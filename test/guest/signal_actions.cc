// Asking for actions and changing them again and again: programs do it for all signals when they start, posix_spawn(3) before each exec. Each test
// is a new program, or a vfork's child, that has asked often; what it changes must hold for whoever looks, at any moment.
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#include <atomic>

#include "test/harness/guest_util.h"

using namespace guest;

extern char** environ;

namespace {

struct Action {
  void (*handler)(int) = SIG_DFL;
  unsigned long flags = 0;
  void (*restorer)() = nullptr;
  unsigned long mask = 0;
  bool operator==(const Action&) const = default;
};

constexpr unsigned long kRestorer = 0x04000000;
constexpr unsigned long kUnknownFlag = 0x400;  // SA_UNSUPPORTED
constexpr unsigned long kAllMaskable = ~(1ul << (SIGKILL - 1) | 1ul << (SIGSTOP - 1));

// The C library's own call site, which is used often.
Action Ask(int number) {
  Action action;
  if (Call(SYS_rt_sigaction, number, nullptr, &action, 8) != 0) _exit(99);
  return action;
}

int64_t Set(int number, const Action& action, Action* before = nullptr) { return Call(SYS_rt_sigaction, number, &action, before, 8); }

void AskOften() {
  for (int round = 0; round < 4; round++) {
    for (int number = 1; number <= 64; number++) {
      struct sigaction now;
      if (number != 32 && number != 33) sigaction(number, nullptr, &now);
      Ask(number);
    }
  }
}

int64_t Bit(int number) { return 1ll << (number - 1); }

volatile int seen = 0;
void Count(int) { seen = seen + 1; }

void RunNew(const char* helper) {
  JOIN_OK(Fork([&] {
    execl(SelfPath(), SelfPath(), helper, nullptr);
    _exit(120);
  }));
}

}  // namespace

GUEST_HELPER(Basics) {
  AskOften();
  Action odd = {.handler = Count, .flags = SA_NODEFER | kUnknownFlag | kRestorer | 1ul << 40, .restorer = abort, .mask = ~0ul};
  Action kept = {.handler = Count, .flags = SA_NODEFER | kRestorer, .restorer = abort, .mask = kAllMaskable};
  for (int number = 1; number <= 64; number++) {
    if (number == SIGKILL || number == SIGSTOP) {
      EXPECT_ERRNO(Set(number, odd), EINVAL);
      EXPECT(Ask(number) == Action{});
      continue;
    }
    Action before;
    EXPECT_OK(Set(number, odd, &before));
    EXPECT(before == Action{});
    EXPECT(Ask(number) == kept);
    // The same structure for both.
    Action both = {.handler = SIG_IGN};
    EXPECT_OK(Call(SYS_rt_sigaction, number, &both, &both, 8));
    EXPECT(both == kept);
    EXPECT(Ask(number) == Action{.handler = SIG_IGN});
    EXPECT_OK(Set(number, {}));
  }
  CheckpointHere();
  for (int number = 1; number <= 64; number++) EXPECT(Ask(number) == Action{});
  ExitWithVerdict();
}

GUEST_TEST(SignalActions, Basics) { RunNew("@Basics"); }

GUEST_HELPER(Errors) {
  AskOften();
  Action ignore = {.handler = SIG_IGN}, other = {.handler = SIG_DFL, .flags = SA_RESTART};
  EXPECT_ERRNO(Call(SYS_rt_sigaction, 0, nullptr, &other, 8), EINVAL);
  EXPECT_ERRNO(Call(SYS_rt_sigaction, 65, nullptr, &other, 8), EINVAL);
  EXPECT_ERRNO(Call(SYS_rt_sigaction, -1, nullptr, &other, 8), EINVAL);
  EXPECT_ERRNO(Call(SYS_rt_sigaction, SIGUSR1, nullptr, &other, 16), EINVAL);
  EXPECT_ERRNO(Call(SYS_rt_sigaction, SIGUSR1, kBadAddress, nullptr, 8), EFAULT);
  EXPECT_ERRNO(Call(SYS_rt_sigaction, SIGUSR1, kBadAddress, &other, 8), EFAULT);
  EXPECT(Ask(SIGUSR1) == Action{});
  EXPECT_ERRNO(Call(SYS_rt_sigaction, SIGUSR1, nullptr, kBadAddress, 8), EFAULT);
  // Set all the same.
  EXPECT_ERRNO(Call(SYS_rt_sigaction, SIGUSR1, &ignore, kBadAddress, 8), EFAULT);
  EXPECT(Ask(SIGUSR1) == ignore);
  // Half of the structure is on a page that is not there.
  char* page = static_cast<char*>(MUST(mmap(nullptr, 2 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)));
  MUST(munmap(page + kPage, kPage));
  EXPECT_ERRNO(Call(SYS_rt_sigaction, SIGUSR2, page + kPage - 16, nullptr, 8), EFAULT);
  EXPECT_ERRNO(Call(SYS_rt_sigaction, SIGUSR2, nullptr, page + kPage - 16, 8), EFAULT);
  EXPECT(Ask(SIGUSR2) == Action{});
  ExitWithVerdict();
}

GUEST_TEST(SignalActions, Errors) { RunNew("@Errors"); }

GUEST_HELPER(Delivery) {
  AskOften();
  signal(SIGUSR1, Count);
  raise(SIGUSR1);
  EXPECT_EQ(seen, 1);
  struct sigaction once = {};
  once.sa_handler = Count;
  once.sa_flags = SA_RESETHAND;
  sigaction(SIGUSR1, &once, nullptr);
  CheckpointHere();
  raise(SIGUSR1);
  EXPECT_EQ(seen, 2);
  // Reset by the kernel.
  EXPECT(Ask(SIGUSR1).handler == SIG_DFL);
  // Ignoring discards what is pending.
  Block({SIGUSR1, SIGUSR2});
  raise(SIGUSR1);
  raise(SIGUSR2);
  signal(SIGUSR1, SIG_IGN);
  sigset_t pending;
  MUST(sigpending(&pending));
  EXPECT_EQ(sigismember(&pending, SIGUSR1), 0);
  EXPECT_EQ(sigismember(&pending, SIGUSR2), 1);
  signal(SIGUSR2, SIG_IGN);
  // Children that nobody wants to know of.
  signal(SIGCHLD, SIG_IGN);
  const pid_t child = MUST(fork());
  if (child == 0) _exit(Ask(SIGUSR2).handler == SIG_IGN ? 0 : 1);
  EXPECT_ERRNO(waitpid(child, nullptr, 0), ECHILD);
  signal(SIGCHLD, SIG_DFL);
  const pid_t other = MUST(fork());
  if (other == 0) _exit(Ask(SIGUSR2).handler == SIG_IGN ? 7 : 1);
  EXPECT_EXITED(WaitStatus(other), 7);
  ExitWithVerdict();
}

GUEST_TEST(SignalActions, Delivery) { RunNew("@Delivery"); }

namespace {

struct Page {
  std::atomic<int> step, done;
};

void AwaitStep(Page* page, int step) {
  while (page->step.load() != step) sched_yield();
}

}  // namespace

// Changes actions while it computes, without any other call.
GUEST_HELPER(Spinner) {
  Page* page = static_cast<Page*>(MUST(mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, 3, 0)));
  AskOften();
  page->step = 1;
  while (page->done == 0) __builtin_ia32_pause();
  Set(SIGUSR1, {.handler = SIG_IGN});
  Set(SIGUSR2, {.handler = SIG_DFL, .flags = kRestorer, .restorer = abort});
  Set(SIGTERM, {.handler = SIG_IGN});
  page->step = 2;
  while (page->done == 1) __builtin_ia32_pause();
  Set(SIGTERM, {.handler = SIG_DFL});
  page->step = 3;
  for (;;) __builtin_ia32_pause();
}

GUEST_TEST(SignalActions, SeenByOthersAtOnce) {
  const int fd = MUST(memfd_create("page", 0));
  MUST(ftruncate(fd, kPage));
  Page* page = static_cast<Page*>(MUST(mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)));
  const pid_t pid = Fork([&] {
    MUST(dup2(fd, 3));
    execl(SelfPath(), SelfPath(), "@Spinner", nullptr);
    _exit(120);
  });
  AwaitStep(page, 1);
  page->done = 1;
  AwaitStep(page, 2);
  const Str status("/proc/%d/status", pid);
  EXPECT_EQ(ProcField(status, "SigIgn", 16) & (Bit(SIGUSR1) | Bit(SIGTERM)), Bit(SIGUSR1) | Bit(SIGTERM));
  // Ignored.
  MUST(kill(pid, SIGUSR1));
  MUST(kill(pid, SIGTERM));
  EXPECT_EQ(ThreadState(pid, pid), 'R');
  CheckpointHere();
  page->done = 2;
  AwaitStep(page, 3);
  EXPECT_EQ(ProcField(status, "SigIgn", 16) & Bit(SIGTERM), 0);
  MUST(kill(pid, SIGTERM));
  EXPECT_KILLED(WaitStatus(pid), SIGTERM);
}

GUEST_HELPER(Threads) {
  AskOften();
  signal(SIGUSR1, SIG_IGN);
  Thread first([&] {
    EXPECT(Ask(SIGUSR1).handler == SIG_IGN);
    signal(SIGUSR2, Count);
  });
  first.Join();
  EXPECT(Ask(SIGUSR2).handler == Count);
  signal(SIGUSR1, Count);
  CheckpointHere();
  Thread second([&] { EXPECT(Ask(SIGUSR1).handler == Count); });
  second.Join();
  raise(SIGUSR1);
  EXPECT_EQ(seen, 1);
  ExitWithVerdict();
}

GUEST_TEST(SignalActions, Threads) { RunNew("@Threads"); }

GUEST_HELPER(AfterExec) {
  EXPECT(Ask(SIGUSR1).handler == SIG_IGN);
  EXPECT(Ask(SIGUSR2).handler == SIG_DFL);
  EXPECT_EQ(Ask(SIGUSR1).flags, 0);
  AskOften();
  EXPECT(Ask(SIGUSR1).handler == SIG_IGN);
  EXPECT(Ask(SIGUSR2).handler == SIG_DFL);
  ExitWithVerdict();
}

GUEST_HELPER(BorrowedMemory) {
  AskOften();
  signal(SIGUSR2, Count);
  for (int round = 0; round < 3; round++) {
    const pid_t child = vfork();
    if (child == 0) {
      // Its own actions, in its parent's memory.
      if (Ask(SIGUSR2).handler != Count) _exit(98);
      AskOften();
      Set(SIGUSR1, {.handler = SIG_IGN, .flags = SA_RESTART});
      if (Ask(SIGUSR1) != Action{.handler = SIG_IGN, .flags = SA_RESTART}) _exit(97);
      execl(SelfPath(), SelfPath(), "@AfterExec", nullptr);
      _exit(120);
    }
    MUST(child);
    JOIN_OK(child);
    EXPECT(Ask(SIGUSR1).handler == SIG_DFL);
    EXPECT(Ask(SIGUSR2).handler == Count);
  }
  ExitWithVerdict();
}

GUEST_TEST(SignalActions, BorrowedMemory) { RunNew("@BorrowedMemory"); }

// A filter sees the calls.
GUEST_HELPER(Filtered) {
  AskOften();
  signal(SIGUSR1, SIG_IGN);
  sock_filter code[] = {{BPF_LD | BPF_W | BPF_ABS, 0, 0, 0},
                        {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, SYS_rt_sigaction},
                        {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | ENETDOWN},
                        {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW}};
  sock_fprog program = {sizeof(code) / sizeof(code[0]), code};
  MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
  MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
  Action action;
  for (int i = 0; i < 50; i++) EXPECT_ERRNO(Call(SYS_rt_sigaction, SIGUSR1, nullptr, &action, 8), ENETDOWN);
  EXPECT_EQ(ProcField("/proc/self/status", "SigIgn", 16) & Bit(SIGUSR1), Bit(SIGUSR1));
  ExitWithVerdict();
}

GUEST_TEST(SignalActions, Filtered) { RunNew("@Filtered"); }

// A tracer sees them.
GUEST_HELPER(Traced) {
  AskOften();
  signal(SIGUSR1, SIG_IGN);
  MUST(ptrace(PTRACE_TRACEME, 0, nullptr, nullptr));
  raise(SIGSTOP);
  for (int i = 0; i < 10; i++) Ask(SIGUSR1);
  _exit(3);
}

GUEST_TEST(SignalActions, Traced) {
  const pid_t pid = Fork([&] {
    execl(SelfPath(), SelfPath(), "@Traced", nullptr);
    _exit(120);
  });
  int status = 0, calls = 0;
  MUST(waitpid(pid, &status, 0));
  EXPECT(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
  MUST(ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD));
  for (;;) {
    MUST(ptrace(PTRACE_SYSCALL, pid, 0, 0));
    MUST(waitpid(pid, &status, 0));
    if (!WIFSTOPPED(status)) break;
    __ptrace_syscall_info info = {};
    MUST(ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof(info), &info));
    calls += info.op == PTRACE_SYSCALL_INFO_ENTRY && info.entry.nr == SYS_rt_sigaction;
  }
  EXPECT_EXITED(status, 3);
  EXPECT_EQ(calls, 10);
}
