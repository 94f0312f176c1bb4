// ptrace, as strace and debuggers use it.
#include <fcntl.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/sendfile.h>
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

long Resume(__ptrace_request request, pid_t pid, int number = 0) { return ptrace(request, pid, nullptr, static_cast<long>(number)); }

int Wait(pid_t pid) {
  int status = 0;
  MUST(waitpid(pid, &status, __WALL));
  return status;
}

void CopyFile(const char* from, const char* to, mode_t mode) {
  const int in = MUST(open(from, O_RDONLY)), out = MUST(open(to, O_WRONLY | O_CREAT, 0600));
  for (ssize_t n = 1; n > 0;) n = MUST(sendfile(out, in, nullptr, 1 << 20));
  MUST(fchmod(out, mode));
  close(in);
  close(out);
}

#define EXPECT_STOPPED(status, number)         \
  do {                                         \
    const int stop_status_ = (status);         \
    EXPECT(WIFSTOPPED(stop_status_));          \
    EXPECT_EQ(WSTOPSIG(stop_status_), number); \
  } while (0)

}  // namespace

// A tracer sees nothing of a program that it may not read, whatever it is in a user namespace of its own; of others it does.
GUEST_TEST(Ptrace, UnreadablePrograms) {
  if (geteuid() != 0) Skip("needs root");
  TempDir dir;
  MUST(chmod(dir.path(), 0755));
  CopyFile("/proc/self/exe", dir / "seen", 0755);
  CopyFile("/proc/self/exe", dir / "unseen", 0711);
  for (const bool in_namespace : {false, true}) {
    JOIN_OK(Fork([&] {
      MUST(setresgid(1000, 1000, 1000));
      MUST(setresuid(1000, 1000, 1000));
      if (in_namespace) {
        MUST(prctl(PR_SET_DUMPABLE, 1));  // else what is below /proc/self is root's
        MUST(unshare(CLONE_NEWUSER));
        WriteFile("/proc/self/uid_map", "0 1000 1");
        WriteFile("/proc/self/setgroups", "deny");
        WriteFile("/proc/self/gid_map", "0 1000 1");
      }
      for (const bool hidden : {false, true}) {
        char* const none[] = {nullptr};
        const pid_t pid = Traced([&] { execve(hidden ? dir / "unseen" : dir / "seen", none, none); });
        MUST(Resume(PTRACE_CONT, pid));
        EXPECT_STOPPED(Wait(pid), SIGTRAP);
        CheckpointHere();
        user_regs_struct r;
        MUST(ptrace(PTRACE_GETREGS, pid, nullptr, &r));
        errno = 0;
        ptrace(PTRACE_PEEKDATA, pid, r.rip, nullptr);
        EXPECT_EQ(errno, hidden ? EIO : 0);
        char byte;
        iovec to = {&byte, 1}, from = {reinterpret_cast<void*>(r.rip), 1};
        const ssize_t n = process_vm_readv(pid, &to, 1, &from, 1, 0);
        EXPECT_EQ(n, hidden ? -1 : 1);
        MUST(kill(pid, SIGKILL));
        Wait(pid);
      }
    }));
  }
}

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
  JOIN_OK(Fork([&] { MUST(ptrace(PTRACE_SEIZE, pid, nullptr, static_cast<long>(PTRACE_O_EXITKILL))); }));
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

GUEST_TEST(Ptrace, InterruptedCallEndsAndBeginsAgain) {
  Gate ready;
  const pid_t pid = Traced([&] {
    ready.Open();
    pause();
    _exit(4);
  });
  MUST(ptrace(PTRACE_SETOPTIONS, pid, nullptr, static_cast<long>(PTRACE_O_TRACESYSGOOD)));
  MUST(Resume(PTRACE_CONT, pid));
  ready.Await();
  AwaitAsleep(pid);
  kill(pid, SIGUSR1);
  EXPECT_STOPPED(Wait(pid), SIGUSR1);
  user_regs_struct registers = {};
  MUST(ptrace(PTRACE_GETREGS, pid, nullptr, &registers));
  EXPECT_EQ(registers.orig_rax, SYS_pause);
  EXPECT_EQ(static_cast<long>(registers.rax), -514);  // ERESTARTNOHAND
  CheckpointHere();
  MUST(Resume(PTRACE_SYSCALL, pid));  // Without the signal: the call begins again.
  EXPECT_STOPPED(Wait(pid), SIGTRAP | 0x80);
  MUST(ptrace(PTRACE_GETREGS, pid, nullptr, &registers));
  EXPECT_EQ(registers.orig_rax, SYS_pause);
  EXPECT_EQ(static_cast<long>(registers.rax), -ENOSYS);
  MUST(Resume(PTRACE_SYSCALL, pid));
  AwaitAsleep(pid);
  kill(pid, SIGUSR2);
  EXPECT_STOPPED(Wait(pid), SIGTRAP | 0x80);  // Its end comes before the signal.
  MUST(ptrace(PTRACE_GETREGS, pid, nullptr, &registers));
  EXPECT_EQ(static_cast<long>(registers.rax), -514);
  MUST(Resume(PTRACE_SYSCALL, pid));
  EXPECT_STOPPED(Wait(pid), SIGUSR2);
  MUST(Resume(PTRACE_CONT, pid, SIGUSR2));
  EXPECT_KILLED(Wait(pid), SIGUSR2);
}

GUEST_TEST(Ptrace, CallOfTheTracersOwn) {
  // As a debugger calls a function: out of a call that waits, and back.
  static volatile long called = 0;
  const pid_t pid = Traced([&] {
    const timespec wait = Ns(200 * kMs);
    const int64_t start = NowNs();
    EXPECT_EQ(nanosleep(&wait, nullptr), 0);
    EXPECT_GE(NowNs() - start, 200 * kMs);
    EXPECT_EQ(called, 77);
  });
  MUST(Resume(PTRACE_CONT, pid));
  AwaitAsleep(pid);
  kill(pid, SIGUSR1);
  EXPECT_STOPPED(Wait(pid), SIGUSR1);
  user_regs_struct saved = {};
  MUST(ptrace(PTRACE_GETREGS, pid, nullptr, &saved));
  static const unsigned char code[] = {0x48, 0xc7, 0x07, 77, 0, 0, 0, 0xcc};  // movq $77, (%rdi); int3
  long word = 0;
  memcpy(&word, code, sizeof(word));
  const long old = ptrace(PTRACE_PEEKTEXT, pid, saved.rip, nullptr);
  MUST(ptrace(PTRACE_POKETEXT, pid, saved.rip, word));
  user_regs_struct other = saved;
  other.rdi = reinterpret_cast<unsigned long>(&called);
  other.orig_rax = static_cast<unsigned long long>(-1);
  MUST(ptrace(PTRACE_SETREGS, pid, nullptr, &other));
  MUST(Resume(PTRACE_CONT, pid));
  EXPECT_STOPPED(Wait(pid), SIGTRAP);
  EXPECT_EQ(ptrace(PTRACE_PEEKDATA, pid, &called, nullptr), 77);
  MUST(ptrace(PTRACE_POKETEXT, pid, saved.rip, old));
  MUST(ptrace(PTRACE_SETREGS, pid, nullptr, &saved));
  MUST(Resume(PTRACE_CONT, pid));
  EXPECT_EXITED(Wait(pid), 0);
}

GUEST_TEST(Ptrace, SyscallInfo) {
  const pid_t pid = Traced([] { syscall(SYS_close, -5); });
  MUST(ptrace(PTRACE_SETOPTIONS, pid, nullptr, static_cast<long>(PTRACE_O_TRACESYSGOOD)));
  struct {
    uint8_t op, pad[3];
    uint32_t arch;
    uint64_t ip, sp, a, b, rest[5];
  } info = {};
  auto get = [&] { return ptrace(static_cast<__ptrace_request>(0x420e), pid, sizeof(info), &info); };
  EXPECT_EQ(MUST(get()), 24);
  EXPECT_EQ(info.op, 0);
  for (int i = 0; i < 200; ++i) {
    MUST(Resume(PTRACE_SYSCALL, pid));
    EXPECT_STOPPED(Wait(pid), SIGTRAP | 0x80);
    EXPECT_EQ(MUST(get()), 80);
    EXPECT_EQ(info.op, 1);
    const bool found = info.a == SYS_close && static_cast<int>(info.b) == -5;
    MUST(Resume(PTRACE_SYSCALL, pid));
    EXPECT_STOPPED(Wait(pid), SIGTRAP | 0x80);
    EXPECT_EQ(MUST(get()), 33);
    EXPECT_EQ(info.op, 2);
    if (!found) continue;
    EXPECT_EQ(static_cast<long>(info.a), -EBADF);
    break;
  }
  MUST(ptrace(PTRACE_DETACH, pid, nullptr, nullptr));
  EXPECT_EXITED(Wait(pid), 0);
}

GUEST_TEST(Ptrace, SysemuSkipsTheCall) {
  const pid_t pid = Traced([] {
    syscall(SYS_getppid);
    EXPECT_EQ(syscall(SYS_getppid), 4242);
  });
  user_regs_struct registers = {};
  for (int i = 0; i < 200 && registers.orig_rax != SYS_getppid; ++i) {
    MUST(Resume(PTRACE_SYSCALL, pid));
    EXPECT_STOPPED(Wait(pid), SIGTRAP);
    MUST(ptrace(PTRACE_GETREGS, pid, nullptr, &registers));
  }
  MUST(Resume(PTRACE_SYSCALL, pid));  // The end of the first.
  EXPECT_STOPPED(Wait(pid), SIGTRAP);
  MUST(Resume(static_cast<__ptrace_request>(31 /*PTRACE_SYSEMU*/), pid));
  EXPECT_STOPPED(Wait(pid), SIGTRAP);
  MUST(ptrace(PTRACE_GETREGS, pid, nullptr, &registers));
  EXPECT_EQ(registers.orig_rax, SYS_getppid);
  registers.rax = 4242;
  MUST(ptrace(PTRACE_SETREGS, pid, nullptr, &registers));
  MUST(Resume(PTRACE_CONT, pid));
  EXPECT_EXITED(Wait(pid), 0);
}

GUEST_TEST(Ptrace, SignalsCanBeChanged) {
  const pid_t pid = Traced([] {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    sigprocmask(SIG_BLOCK, &set, nullptr);
    raise(SIGUSR1);
    siginfo_t info = {};
    EXPECT_EQ(sigwaitinfo(&set, &info), SIGRTMIN);
    EXPECT_EQ(info.si_pid, getppid());
  });
  MUST(Resume(PTRACE_CONT, pid));
  EXPECT_STOPPED(Wait(pid), SIGUSR1);
  uint64_t mask = 0;
  MUST(ptrace(PTRACE_GETSIGMASK, pid, 8L, &mask));
  EXPECT_EQ(mask, uint64_t{1} << (SIGRTMIN - 1));
  MUST(Resume(PTRACE_CONT, pid, SIGRTMIN));  // Blocked: it stays pending.
  int status = Wait(pid);
  if (WIFSTOPPED(status)) {
    MUST(Resume(PTRACE_CONT, pid, WSTOPSIG(status)));
    status = Wait(pid);
  }
  EXPECT_EXITED(status, 0);
}

GUEST_TEST(Ptrace, GroupStopAndListen) {
  const pid_t pid = Fork([] {
    for (;;) pause();
  });
  AwaitAsleep(pid);
  MUST(ptrace(PTRACE_SEIZE, pid, nullptr, nullptr));
  kill(pid, SIGSTOP);
  EXPECT_STOPPED(Wait(pid), SIGSTOP);
  MUST(Resume(PTRACE_CONT, pid, SIGSTOP));
  int status = Wait(pid);
  EXPECT_STOPPED(status, SIGSTOP);
  EXPECT_EQ(status >> 16, PTRACE_EVENT_STOP);
  CheckpointHere();
  MUST(Resume(PTRACE_LISTEN, pid));
  EXPECT_EQ(waitpid(pid, nullptr, WNOHANG | __WALL), 0);
  EXPECT_ERRNO(Resume(PTRACE_CONT, pid), ESRCH);
  kill(pid, SIGCONT);
  status = Wait(pid);
  EXPECT_STOPPED(status, SIGTRAP);
  EXPECT_EQ(status >> 16, PTRACE_EVENT_STOP);
  MUST(Resume(PTRACE_CONT, pid));
  EXPECT_STOPPED(Wait(pid), SIGCONT);
  MUST(ptrace(PTRACE_DETACH, pid, nullptr, static_cast<long>(SIGTERM)));
  EXPECT_KILLED(Wait(pid), SIGTERM);
}

GUEST_TEST(Ptrace, ThreadsAreTraced) {
  const pid_t pid = Traced([] {
    Thread thread([] {});
    thread.Join();
    _exit(0);
  });
  MUST(ptrace(PTRACE_SETOPTIONS, pid, nullptr, static_cast<long>(PTRACE_O_TRACECLONE)));
  MUST(Resume(PTRACE_CONT, pid));
  const int event = Wait(pid);
  EXPECT_EQ(event >> 16, PTRACE_EVENT_CLONE);
  unsigned long tid = 0;
  MUST(ptrace(PTRACE_GETEVENTMSG, pid, nullptr, &tid));
  EXPECT_STOPPED(Wait(static_cast<pid_t>(tid)), SIGSTOP);
  CheckpointHere();
  MUST(Resume(PTRACE_CONT, pid));
  MUST(Resume(PTRACE_CONT, static_cast<pid_t>(tid)));
  EXPECT_EXITED(Wait(static_cast<pid_t>(tid)), 0);
  EXPECT_EXITED(Wait(pid), 0);
}

// Each traced thread of a process that ends as a whole is waited for, the one that ended it included; then nothing is left to wait for.
GUEST_TEST(Ptrace, ThreadsEndWithTheirGroup) {
  const pid_t pid = Traced([] {
    int gate[2];
    MUST(pipe(gate));
    Thread sleeper([] { pause(); });
    Thread last([&] {
      char go;
      if (read(gate[0], &go, 1) == 1) _exit(3);
    });
    MUST(write(gate[1], "", 1));
    pause();
  });
  MUST(ptrace(PTRACE_SETOPTIONS, pid, nullptr, static_cast<long>(PTRACE_O_TRACECLONE)));
  unsigned long tids[2] = {};
  for (unsigned long& tid : tids) {
    MUST(Resume(PTRACE_CONT, pid));
    EXPECT_EQ(Wait(pid) >> 16, PTRACE_EVENT_CLONE);
    MUST(ptrace(PTRACE_GETEVENTMSG, pid, nullptr, &tid));
    EXPECT_STOPPED(Wait(static_cast<pid_t>(tid)), SIGSTOP);
    MUST(Resume(PTRACE_CONT, static_cast<pid_t>(tid)));
  }
  CheckpointHere();
  MUST(Resume(PTRACE_CONT, pid));
  for (const unsigned long tid : tids) EXPECT_EXITED(Wait(static_cast<pid_t>(tid)), 3);
  EXPECT_EXITED(Wait(pid), 3);
  EXPECT_ERRNO(waitpid(-1, nullptr, __WALL | WNOHANG), ECHILD);
}

GUEST_TEST(Ptrace, VforkEvents) {
  const pid_t pid = Traced([] {
    const pid_t child = vfork();
    if (child == 0) _exit(3);
    EXPECT_EXITED(WaitStatus(child), 3);
  });
  MUST(ptrace(PTRACE_SETOPTIONS, pid, nullptr, static_cast<long>(PTRACE_O_TRACEVFORK | PTRACE_O_TRACEVFORKDONE)));
  MUST(Resume(PTRACE_CONT, pid));
  EXPECT_EQ(Wait(pid) >> 16, PTRACE_EVENT_VFORK);
  unsigned long child = 0, done = 0;
  MUST(ptrace(PTRACE_GETEVENTMSG, pid, nullptr, &child));
  MUST(Resume(PTRACE_CONT, pid));
  EXPECT_STOPPED(Wait(static_cast<pid_t>(child)), SIGSTOP);
  MUST(Resume(PTRACE_CONT, static_cast<pid_t>(child)));
  EXPECT_EXITED(Wait(static_cast<pid_t>(child)), 3);
  int status = Wait(pid);
  while (WIFSTOPPED(status)) {
    if (status >> 16 == PTRACE_EVENT_VFORK_DONE) {
      MUST(ptrace(PTRACE_GETEVENTMSG, pid, nullptr, &done));
      MUST(Resume(PTRACE_CONT, pid));
    } else {
      MUST(Resume(PTRACE_CONT, pid, WSTOPSIG(status)));  // SIGCHLD
    }
    status = Wait(pid);
  }
  EXPECT_EQ(done, child);
  EXPECT_EXITED(status, 0);
}

GUEST_TEST(Ptrace, FloatingPointAndUserWords) {
  const pid_t pid = Traced([] {});
  user_fpregs_struct floating = {};
  MUST(ptrace(PTRACE_GETFPREGS, pid, nullptr, &floating));
  EXPECT_NE(floating.mxcsr, 0);
  floating.xmm_space[0] = 0x12345678;
  MUST(ptrace(PTRACE_SETFPREGS, pid, nullptr, &floating));
  user_fpregs_struct again = {};
  MUST(ptrace(PTRACE_GETFPREGS, pid, nullptr, &again));
  EXPECT_EQ(again.xmm_space[0], 0x12345678);
  CheckpointHere();
  char state[8192];
  iovec set = {state, sizeof(state)};
  MUST(ptrace(PTRACE_GETREGSET, pid, 0x202L /*NT_X86_XSTATE*/, &set));
  EXPECT_GE(set.iov_len, 576);
  uint32_t word = 0;
  memcpy(&word, state + 160, sizeof(word));
  EXPECT_EQ(word, 0x12345678);
  user_regs_struct registers = {};
  MUST(ptrace(PTRACE_GETREGS, pid, nullptr, &registers));
  errno = 0;
  EXPECT_EQ(ptrace(PTRACE_PEEKUSER, pid, offsetof(user, regs.rsp), nullptr), static_cast<long>(registers.rsp));
  MUST(ptrace(PTRACE_POKEUSER, pid, offsetof(user, regs.rbx), 5L));
  EXPECT_EQ(ptrace(PTRACE_PEEKUSER, pid, offsetof(user, regs.rbx), nullptr), 5);
  EXPECT_EQ(ptrace(PTRACE_PEEKUSER, pid, offsetof(user, u_debugreg[7]), nullptr), 0);
  EXPECT_ERRNO(ptrace(PTRACE_PEEKUSER, pid, 3L, nullptr), EIO);
  kill(pid, SIGKILL);
  EXPECT_KILLED(Wait(pid), SIGKILL);
}

GUEST_TEST(Ptrace, MemoryByItsFile) {
  static volatile long value = 5;
  const pid_t pid = Traced([] { _exit(value == 6 ? 0 : 1); });
  const int fd = MUST(open(Str("/proc/%d/mem", pid), O_RDWR));
  long copy = 0;
  EXPECT_EQ(pread(fd, &copy, sizeof(copy), reinterpret_cast<off_t>(&value)), sizeof(copy));
  EXPECT_EQ(copy, 5);
  CheckpointHere();
  copy = 6;
  EXPECT_EQ(pwrite(fd, &copy, sizeof(copy), reinterpret_cast<off_t>(&value)), sizeof(copy));
  // Text can be written, too.
  const auto text = reinterpret_cast<off_t>(&getppid);
  char byte = 0;
  EXPECT_EQ(pread(fd, &byte, 1, text), 1);
  EXPECT_EQ(pwrite(fd, &byte, 1, text), 1);
  MUST(Resume(PTRACE_CONT, pid));
  EXPECT_EXITED(Wait(pid), 0);
  EXPECT_EQ(pread(fd, &copy, sizeof(copy), reinterpret_cast<off_t>(&value)), 0);
}

GUEST_TEST(Ptrace, WaitidTellsOfStops) {
  const pid_t pid = Fork([] {
    for (;;) pause();
  });
  AwaitAsleep(pid);
  MUST(ptrace(PTRACE_SEIZE, pid, nullptr, static_cast<long>(PTRACE_O_TRACEEXIT)));
  kill(pid, SIGUSR1);
  siginfo_t info = {};
  MUST(waitid(P_PID, static_cast<id_t>(pid), &info, WSTOPPED | WNOWAIT));
  EXPECT_EQ(info.si_code, CLD_TRAPPED);
  EXPECT_EQ(info.si_status, SIGUSR1);
  MUST(waitid(P_PID, static_cast<id_t>(pid), &info, WSTOPPED));
  MUST(Resume(PTRACE_CONT, pid, SIGUSR1));
  MUST(waitid(P_PID, static_cast<id_t>(pid), &info, WSTOPPED));
  EXPECT_EQ(info.si_status, SIGTRAP | PTRACE_EVENT_EXIT << 8);
  unsigned long status = 0;
  MUST(ptrace(PTRACE_GETEVENTMSG, pid, nullptr, &status));
  EXPECT_EQ(status, SIGUSR1);
  MUST(Resume(PTRACE_CONT, pid));
  EXPECT_KILLED(Wait(pid), SIGUSR1);
}

namespace {

volatile long watched = 1;
[[gnu::noinline]] void Passed() { asm volatile("" ::: "memory"); }
// The number of a data breakpoint, and what the control register says for writes of 8 bytes to the first.
constexpr long kWatchFirst = 0x000d0001, kStopAtSecond = 0x00000004;

long SetDebug(pid_t pid, int number, const volatile void* value) {
  return ptrace(PTRACE_POKEUSER, pid, offsetof(user, u_debugreg) + static_cast<size_t>(number) * 8, value);
}
long SetDebug(pid_t pid, int number, long value) { return SetDebug(pid, number, reinterpret_cast<void*>(value)); }
long GetDebug(pid_t pid, int number) { return ptrace(PTRACE_PEEKUSER, pid, offsetof(user, u_debugreg) + static_cast<size_t>(number) * 8, nullptr); }

int StopCode(pid_t pid) {
  siginfo_t info = {};
  MUST(ptrace(PTRACE_GETSIGINFO, pid, nullptr, &info));
  return info.si_code;
}

}  // namespace

GUEST_TEST(Ptrace, WatchpointStopsAtWrites) {
  const pid_t pid = Traced([] {
    for (int i = 0; i < 100; ++i) Passed();
    watched = 2;
    getppid();
    watched = 3;
    Passed();
  });
  MUST(SetDebug(pid, 0, &watched));
  MUST(SetDebug(pid, 7, kWatchFirst));
  EXPECT_EQ(GetDebug(pid, 0), reinterpret_cast<long>(&watched));
  EXPECT_EQ(GetDebug(pid, 7), kWatchFirst);
  for (long expected : {2, 3}) {
    CheckpointHere();
    MUST(Resume(PTRACE_CONT, pid));
    EXPECT_STOPPED(Wait(pid), SIGTRAP);
    EXPECT_EQ(StopCode(pid), TRAP_HWBKPT);
    EXPECT_EQ(GetDebug(pid, 6) & 15, 1);
    EXPECT_EQ(ptrace(PTRACE_PEEKDATA, pid, &watched, nullptr), expected);
    user_regs_struct registers = {};
    MUST(ptrace(PTRACE_GETREGS, pid, nullptr, &registers));
    EXPECT_EQ(registers.eflags & 0x100, 0u);  // No trace of how it is done.
  }
  MUST(SetDebug(pid, 7, 0L));
  MUST(Resume(PTRACE_CONT, pid));
  EXPECT_EXITED(Wait(pid), 0);
}

GUEST_TEST(Ptrace, ChildrenOfWatchedProcessesAreNot) {
  const pid_t pid = Traced([] {
    const pid_t child = Fork([] { Passed(); });
    if (WaitStatus(child) != 0) _exit(3);
    Thread second([] { Passed(); });
    second.Join();
  });
  MUST(SetDebug(pid, 0, &watched));
  MUST(SetDebug(pid, 7, kWatchFirst));
  MUST(Resume(PTRACE_CONT, pid));
  EXPECT_STOPPED(Wait(pid), SIGCHLD);  // and nobody has died of a SIGTRAP
  MUST(Resume(PTRACE_CONT, pid));
  EXPECT_EXITED(Wait(pid), 0);
}

GUEST_TEST(Ptrace, WatchpointIsBlindToCalls) {
  Pipe pipe;
  MUST(write(pipe.w, "12345678", 8));
  const pid_t pid = Traced([&] {
    if (read(pipe.r, const_cast<long*>(&watched), 8) != 8) _exit(3);
    Passed();
  });
  MUST(SetDebug(pid, 0, &watched));
  MUST(SetDebug(pid, 7, kWatchFirst));
  MUST(Resume(PTRACE_CONT, pid));
  EXPECT_EXITED(Wait(pid), 0);
}

GUEST_TEST(Ptrace, BreakpointWithoutPatching) {
  const pid_t pid = Traced([] {
    Passed();
    Passed();
  });
  void (*const function)() = &Passed;
  MUST(SetDebug(pid, 1, reinterpret_cast<long>(function)));
  MUST(SetDebug(pid, 7, kStopAtSecond));
  for (int i = 0; i < 2; ++i) {
    MUST(Resume(PTRACE_CONT, pid));
    EXPECT_STOPPED(Wait(pid), SIGTRAP);
    EXPECT_EQ(StopCode(pid), TRAP_HWBKPT);
    EXPECT_EQ(GetDebug(pid, 6) & 15, 2);
    user_regs_struct registers = {};
    MUST(ptrace(PTRACE_GETREGS, pid, nullptr, &registers));
    EXPECT_EQ(registers.rip, reinterpret_cast<unsigned long>(function));
    CheckpointHere();
  }
  MUST(Resume(PTRACE_CONT, pid));
  EXPECT_EXITED(Wait(pid), 0);
}

GUEST_TEST(Ptrace, WatchpointsAndSteps) {
  const pid_t pid = Traced([] {
    watched = 5;
    Passed();
  });
  MUST(SetDebug(pid, 0, &watched));
  MUST(SetDebug(pid, 7, kWatchFirst));
  bool hit = false;
  for (int i = 0; i < 3000 && !hit; ++i) {
    MUST(Resume(PTRACE_SINGLESTEP, pid));
    EXPECT_STOPPED(Wait(pid), SIGTRAP);
    hit = (GetDebug(pid, 6) & 1) != 0;
    if (!hit) EXPECT_EQ(ptrace(PTRACE_PEEKDATA, pid, &watched, nullptr), 1);
  }
  EXPECT(hit);
  EXPECT_EQ(ptrace(PTRACE_PEEKDATA, pid, &watched, nullptr), 5);
  MUST(Resume(PTRACE_CONT, pid));
  EXPECT_EXITED(Wait(pid), 0);
}

GUEST_TEST(Ptrace, DebugRegistersAreChecked) {
  const pid_t pid = Traced([] {});
  EXPECT_ERRNO(SetDebug(pid, 4, 1L), EIO);
  EXPECT_ERRNO(SetDebug(pid, 5, 1L), EIO);
  EXPECT_ERRNO(SetDebug(pid, 0, static_cast<long>(kKernelAddress)), EINVAL);
  MUST(SetDebug(pid, 0, 0x10001L));
  EXPECT_ERRNO(SetDebug(pid, 7, kWatchFirst), EINVAL);  // Not aligned.
  EXPECT_ERRNO(SetDebug(pid, 7, 0x00020001L), EINVAL);  // Ports.
  EXPECT_ERRNO(SetDebug(pid, 7, 0x000c0001L), EINVAL);  // An instruction of 8 bytes.
  EXPECT_EQ(GetDebug(pid, 7), 0);
  JOIN_OK(Fork([] { EXPECT_ERRNO(SetDebug(getppid(), 7, 0L), ESRCH); }));
  MUST(Resume(PTRACE_CONT, pid));
  EXPECT_EXITED(Wait(pid), 0);
}
