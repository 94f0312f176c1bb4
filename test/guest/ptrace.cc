// ptrace, as strace and debuggers use it.
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

// A child that is traced and stopped by SIGSTOP, about to run `body`.
template <typename F>
pid_t Traced(F body) {
  const pid_t pid = Fork([&] {
    MUST(ptrace(PTRACE_TRACEME, 0, nullptr, nullptr));
    raise(SIGSTOP);
    body();
  });
  const int status = [&] {
    int word = 0;
    MUST(waitpid(pid, &word, 0));
    return word;
  }();
  ASSERT(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
  return pid;
}

long Resume(__ptrace_request request, pid_t pid, int number = 0) {
  return ptrace(request, pid, nullptr, static_cast<long>(number));
}

int Wait(pid_t pid) {
  int status = 0;
  MUST(waitpid(pid, &status, __WALL));
  return status;
}

#define EXPECT_STOPPED(status, number)         \
  do {                                         \
    const int stop_status_ = (status);         \
    EXPECT(WIFSTOPPED(stop_status_));          \
    EXPECT_EQ(WSTOPSIG(stop_status_), number); \
  } while (0)

}  // namespace

GUEST_TEST(Ptrace, TracemeStopsAtSignals) {
  const pid_t pid = Traced([] {
    raise(SIGUSR1);
    _exit(7);
  });
  EXPECT_EQ(ThreadState(pid, pid), 't');
  EXPECT_EQ(ProcField(Str("/proc/%d/status", pid), "TracerPid"), getpid());
  CheckpointHere();
  EXPECT_EQ(ThreadState(pid, pid), 't');
  MUST(Resume(PTRACE_CONT, pid));
  EXPECT_STOPPED(Wait(pid), SIGUSR1);
  MUST(Resume(PTRACE_CONT, pid));  // Not delivered.
  EXPECT_EXITED(Wait(pid), 7);
}

GUEST_TEST(Ptrace, SignalCanBePassedOn) {
  const pid_t pid = Traced([] { raise(SIGUSR1); });
  MUST(Resume(PTRACE_CONT, pid));
  EXPECT_STOPPED(Wait(pid), SIGUSR1);
  siginfo_t info = {};
  MUST(ptrace(PTRACE_GETSIGINFO, pid, nullptr, &info));
  EXPECT_EQ(info.si_signo, SIGUSR1);
  EXPECT_EQ(info.si_pid, pid);
  MUST(Resume(PTRACE_CONT, pid, SIGUSR1));
  EXPECT_KILLED(Wait(pid), SIGUSR1);
}

GUEST_TEST(Ptrace, MemoryAndRegisters) {
  static volatile long value = 1234;
  const pid_t pid = Traced([] { _exit(value == 99 ? 0 : 1); });
  errno = 0;
  EXPECT_EQ(ptrace(PTRACE_PEEKDATA, pid, &value, nullptr), 1234);
  EXPECT_EQ(errno, 0);
  MUST(ptrace(PTRACE_POKEDATA, pid, &value, 99L));
  user_regs_struct registers = {};
  MUST(ptrace(PTRACE_GETREGS, pid, nullptr, &registers));
  EXPECT_NE(registers.rip, 0);
  EXPECT_NE(registers.rsp, 0);
  iovec set = {&registers, sizeof(registers)};
  MUST(ptrace(PTRACE_GETREGSET, pid, 1L /*NT_PRSTATUS*/, &set));
  EXPECT_EQ(set.iov_len, sizeof(registers));
  EXPECT_ERRNO(ptrace(PTRACE_POKEDATA, pid, 16L, 1L), EIO);
  EXPECT_EQ(value, 1234);  // Mine is another copy.
  MUST(Resume(PTRACE_CONT, pid));
  EXPECT_EXITED(Wait(pid), 0);
}

GUEST_TEST(Ptrace, SyscallStops) {
  const pid_t pid = Traced([] {
    syscall(SYS_getppid);
    _exit(0);
  });
  MUST(ptrace(PTRACE_SETOPTIONS, pid, nullptr, static_cast<long>(PTRACE_O_TRACESYSGOOD)));
  bool seen = false;
  for (int i = 0; i < 200; ++i) {
    MUST(Resume(PTRACE_SYSCALL, pid));
    const int status = Wait(pid);
    if (!WIFSTOPPED(status)) break;
    EXPECT_EQ(WSTOPSIG(status), SIGTRAP | 0x80);
    user_regs_struct registers = {};
    MUST(ptrace(PTRACE_GETREGS, pid, nullptr, &registers));
    if (registers.orig_rax != SYS_getppid) continue;
    EXPECT_EQ(static_cast<long>(registers.rax), -ENOSYS);  // At entry.
    MUST(Resume(PTRACE_SYSCALL, pid));
    EXPECT_STOPPED(Wait(pid), SIGTRAP | 0x80);
    MUST(ptrace(PTRACE_GETREGS, pid, nullptr, &registers));
    EXPECT_EQ(registers.rax, getpid());
    seen = true;
  }
  EXPECT(seen);
}

GUEST_TEST(Ptrace, CallNumberCanBeReplaced) {
  const pid_t pid = Traced([] { EXPECT_EQ(syscall(SYS_getppid), getpid()); });
  for (int i = 0; i < 200; ++i) {
    MUST(Resume(PTRACE_SYSCALL, pid));
    const int status = Wait(pid);
    if (!WIFSTOPPED(status)) {
      EXPECT_EXITED(status, 0);
      break;
    }
    user_regs_struct registers = {};
    MUST(ptrace(PTRACE_GETREGS, pid, nullptr, &registers));
    if (registers.orig_rax == SYS_getppid && static_cast<long>(registers.rax) == -ENOSYS) {
      registers.orig_rax = SYS_getpid;
      MUST(ptrace(PTRACE_SETREGS, pid, nullptr, &registers));
    }
  }
}

GUEST_TEST(Ptrace, SingleStep) {
  const pid_t pid = Traced([] {
    for (;;) {
    }
  });
  user_regs_struct before = {}, after = {};
  MUST(ptrace(PTRACE_GETREGS, pid, nullptr, &before));
  for (int i = 0; i < 20; ++i) {
    MUST(Resume(PTRACE_SINGLESTEP, pid));
    EXPECT_STOPPED(Wait(pid), SIGTRAP);
  }
  MUST(ptrace(PTRACE_GETREGS, pid, nullptr, &after));
  EXPECT_NE(after.rip, before.rip);
  kill(pid, SIGKILL);
  EXPECT_KILLED(Wait(pid), SIGKILL);
}

GUEST_TEST(Ptrace, AttachAndDetach) {
  const pid_t pid = Fork([] {
    for (;;) pause();
  });
  AwaitAsleep(pid);
  MUST(ptrace(PTRACE_ATTACH, pid, nullptr, nullptr));
  EXPECT_STOPPED(Wait(pid), SIGSTOP);
  EXPECT_ERRNO(ptrace(PTRACE_ATTACH, pid, nullptr, nullptr), EPERM);
  CheckpointHere();
  MUST(ptrace(PTRACE_DETACH, pid, nullptr, nullptr));
  AwaitAsleep(pid);
  EXPECT_EQ(ProcField(Str("/proc/%d/status", pid), "TracerPid"), 0);
  kill(pid, SIGTERM);
  EXPECT_KILLED(WaitStatus(pid), SIGTERM);
}

GUEST_TEST(Ptrace, SeizeAndInterrupt) {
  const pid_t pid = Fork([] {
    for (;;) pause();
  });
  AwaitAsleep(pid);
  MUST(ptrace(PTRACE_SEIZE, pid, nullptr, nullptr));
  EXPECT_EQ(waitpid(pid, nullptr, WNOHANG | __WALL), 0);  // Runs on.
  MUST(ptrace(PTRACE_INTERRUPT, pid, nullptr, nullptr));
  const int status = Wait(pid);
  EXPECT_STOPPED(status, SIGTRAP);
  EXPECT_EQ(status >> 16, PTRACE_EVENT_STOP);
  MUST(Resume(PTRACE_CONT, pid));
  kill(pid, SIGKILL);
  EXPECT_KILLED(Wait(pid), SIGKILL);
}

GUEST_TEST(Ptrace, ForkEvent) {
  const pid_t pid = Traced([] {
    const pid_t child = fork();
    if (child == 0) _exit(3);
    EXPECT_EXITED(WaitStatus(child), 3);
  });
  MUST(ptrace(PTRACE_SETOPTIONS, pid, nullptr, static_cast<long>(PTRACE_O_TRACEFORK)));
  MUST(Resume(PTRACE_CONT, pid));
  const int status = Wait(pid);
  EXPECT_STOPPED(status, SIGTRAP);
  EXPECT_EQ(status >> 16, PTRACE_EVENT_FORK);
  unsigned long child = 0;
  MUST(ptrace(PTRACE_GETEVENTMSG, pid, nullptr, &child));
  EXPECT_STOPPED(Wait(static_cast<pid_t>(child)), SIGSTOP);
  MUST(Resume(PTRACE_CONT, pid));
  MUST(Resume(PTRACE_CONT, static_cast<pid_t>(child)));
  EXPECT_EXITED(Wait(static_cast<pid_t>(child)), 3);
  int last = Wait(pid);
  while (WIFSTOPPED(last)) {  // Its SIGCHLD.
    MUST(Resume(PTRACE_CONT, pid, WSTOPSIG(last)));
    last = Wait(pid);
  }
  EXPECT_EXITED(last, 0);
}

GUEST_TEST(Ptrace, ExecEventOrTrap) {
  const pid_t pid = Traced([] { execl(SelfPath(), SelfPath(), "@Nine", nullptr); });
  MUST(Resume(PTRACE_CONT, pid));
  EXPECT_STOPPED(Wait(pid), SIGTRAP);  // Without the option: a plain SIGTRAP after exec.
  MUST(ptrace(PTRACE_SETOPTIONS, pid, nullptr, static_cast<long>(PTRACE_O_TRACEEXIT)));
  MUST(Resume(PTRACE_CONT, pid));
  const int status = Wait(pid);
  EXPECT_EQ(status >> 16, PTRACE_EVENT_EXIT);
  unsigned long code = 0;
  MUST(ptrace(PTRACE_GETEVENTMSG, pid, nullptr, &code));
  EXPECT_EQ(code, 9 << 8);
  MUST(Resume(PTRACE_CONT, pid));
  EXPECT_EXITED(Wait(pid), 9);
}

GUEST_HELPER(Nine) { return 9; }

GUEST_TEST(Ptrace, BreakpointInstruction) {
  const pid_t pid = Traced([] {
    asm volatile("int3");
    _exit(5);
  });
  MUST(Resume(PTRACE_CONT, pid));
  EXPECT_STOPPED(Wait(pid), SIGTRAP);
  MUST(Resume(PTRACE_CONT, pid));
  EXPECT_EXITED(Wait(pid), 5);
}

GUEST_TEST(Ptrace, TracerDeathFrees) {
  const pid_t pid = Fork([] {
    for (;;) pause();
  });
  AwaitAsleep(pid);
  JOIN_OK(Fork([&] {
    MUST(ptrace(PTRACE_SEIZE, pid, nullptr, nullptr));
    EXPECT_NE(ProcField(Str("/proc/%d/status", pid), "TracerPid"), 0);
  }));
  EXPECT_EQ(ProcField(Str("/proc/%d/status", pid), "TracerPid"), 0);
  kill(pid, SIGTERM);
  EXPECT_KILLED(WaitStatus(pid), SIGTERM);
}

GUEST_TEST(Ptrace, ExitkillKills) {
  const pid_t pid = Fork([] {
    for (;;) pause();
  });
  AwaitAsleep(pid);
  JOIN_OK(Fork(
      [&] { MUST(ptrace(PTRACE_SEIZE, pid, nullptr, static_cast<long>(PTRACE_O_EXITKILL))); }));
  EXPECT_KILLED(WaitStatus(pid), SIGKILL);
}

GUEST_TEST(Ptrace, Errors) {
  EXPECT_ERRNO(ptrace(PTRACE_ATTACH, getpid(), nullptr, nullptr), EPERM);
  EXPECT_ERRNO(ptrace(PTRACE_ATTACH, 0x3ffffff, nullptr, nullptr), ESRCH);
  const pid_t pid = Fork([] { pause(); });
  EXPECT_ERRNO(ptrace(PTRACE_CONT, pid, nullptr, nullptr), ESRCH);  // Not traced.
  if (geteuid() == 0) {
    JOIN_OK(Fork([&] {
      MUST(setresuid(1000, 1000, 1000));
      EXPECT_ERRNO(ptrace(PTRACE_ATTACH, pid, nullptr, nullptr), EPERM);
    }));
  }
  kill(pid, SIGKILL);
  WaitStatus(pid);
}
