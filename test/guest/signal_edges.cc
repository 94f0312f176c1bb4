// Signals at their edges: arguments of every call, what siginfo holds by its source, flags of actions, alternate stacks,
// what interrupts which blocking call and what goes on.
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <ucontext.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

// A child that makes a blocking call while SIGUSR1 comes; `call` checks what it says.
template <typename F>
void Interrupt(int flags, F call) {
  const pid_t pid = Fork([&] {
    CountSignals(SIGUSR1, flags);
    call();
    EXPECT_EQ(SignalCount(), 1);
  });
  AwaitAsleep(pid);
  kill(pid, SIGUSR1);
  JOIN_OK(pid);
}

// The same, where the call goes on afterwards until `wake` makes it return.
template <typename F, typename W>
void Restarted(F call, W wake) {
  const pid_t pid = Fork([&] {
    CountSignals(SIGUSR1, SA_RESTART);
    call();
    EXPECT_EQ(SignalCount(), 1);
  });
  AwaitAsleep(pid);
  kill(pid, SIGUSR1);
  SleepMs(20);
  AwaitAsleep(pid);
  wake();
  JOIN_OK(pid);
}

}  // namespace

GUEST_TEST(SignalArguments, Sigaction) {
  struct {
    void* handler;
    unsigned long flags;
    void* restorer;
    unsigned long mask;
  } action = {};
  EXPECT_ERRNO(Call(SYS_rt_sigaction, 0, &action, nullptr, 8), EINVAL);
  EXPECT_ERRNO(Call(SYS_rt_sigaction, 65, nullptr, &action, 8), EINVAL);
  EXPECT_ERRNO(Call(SYS_rt_sigaction, SIGUSR1, nullptr, &action, 4), EINVAL);
  EXPECT_ERRNO(Call(SYS_rt_sigaction, SIGUSR1, kBadAddress, nullptr, 8), EFAULT);
  EXPECT_ERRNO(Call(SYS_rt_sigaction, SIGUSR1, nullptr, kBadAddress, 8), EFAULT);
  EXPECT_OK(Call(SYS_rt_sigaction, SIGKILL, nullptr, &action, 8));  // Asking is allowed.
  EXPECT_ERRNO(Call(SYS_rt_sigaction, SIGSTOP, &action, nullptr, 8), EINVAL);
}

GUEST_TEST(SignalArguments, FailedCopyOutSetsAllTheSame) {
  struct {
    void (*handler)(int);
    unsigned long flags;
    void* restorer;
    unsigned long mask;
  } ignore = {.handler = SIG_IGN, .flags = 0, .restorer = nullptr, .mask = 0};
  EXPECT_ERRNO(Call(SYS_rt_sigaction, SIGUSR1, &ignore, kBadAddress, 8), EFAULT);
  struct sigaction now = {};
  MUST(sigaction(SIGUSR1, nullptr, &now));
  EXPECT_EQ(now.sa_handler, SIG_IGN);
}

GUEST_TEST(SignalArguments, Masks) {
  uint64_t set = 0;
  EXPECT_ERRNO(Call(SYS_rt_sigprocmask, 3, &set, nullptr, 8), EINVAL);
  EXPECT_OK(Call(SYS_rt_sigprocmask, 3, nullptr, &set, 8));  // Without a set nobody looks at how.
  EXPECT_ERRNO(Call(SYS_rt_sigprocmask, SIG_BLOCK, &set, nullptr, 4), EINVAL);
  EXPECT_ERRNO(Call(SYS_rt_sigprocmask, SIG_BLOCK, kBadAddress, nullptr, 8), EFAULT);
  EXPECT_ERRNO(Call(SYS_rt_sigprocmask, SIG_BLOCK, nullptr, kBadAddress, 8), EFAULT);
  EXPECT_ERRNO(Call(SYS_rt_sigpending, &set, 16), EINVAL);
  EXPECT_ERRNO(Call(SYS_rt_sigpending, kBadAddress, 8), EFAULT);
  EXPECT_ERRNO(Call(SYS_rt_sigsuspend, &set, 4), EINVAL);
  EXPECT_ERRNO(Call(SYS_rt_sigsuspend, kBadAddress, 8), EFAULT);
}

GUEST_TEST(SignalArguments, Timedwait) {
  uint64_t set = 1ull << (SIGUSR1 - 1);
  timespec time = {0, 1'000'000'000};
  EXPECT_ERRNO(Call(SYS_rt_sigtimedwait, &set, nullptr, &time, 8), EINVAL);
  time = {-1, 0};
  EXPECT_ERRNO(Call(SYS_rt_sigtimedwait, &set, nullptr, &time, 8), EINVAL);
  time = {0, 0};
  EXPECT_ERRNO(Call(SYS_rt_sigtimedwait, &set, nullptr, &time, 4), EINVAL);
  EXPECT_ERRNO(Call(SYS_rt_sigtimedwait, kBadAddress, nullptr, &time, 8), EFAULT);
  EXPECT_ERRNO(Call(SYS_rt_sigtimedwait, &set, nullptr, kBadAddress, 8), EFAULT);
  Block({SIGUSR1});
  raise(SIGUSR1);
  EXPECT_ERRNO(Call(SYS_rt_sigtimedwait, &set, kBadAddress, &time, 8), EFAULT);  // The signal is taken by then.
  EXPECT_ERRNO(Call(SYS_rt_sigtimedwait, &set, nullptr, &time, 8), EAGAIN);
}

GUEST_TEST(SignalArguments, KillTargets) {
  EXPECT_ERRNO(kill(getpid(), 65), EINVAL);
  EXPECT_ERRNO(kill(getpid(), -1), EINVAL);
  EXPECT_OK(kill(getpid(), 0));
  EXPECT_ERRNO(kill(4'000'000, 0), ESRCH);
  EXPECT_ERRNO(kill(-4'000'000, SIGUSR1), ESRCH);
  EXPECT_ERRNO(kill(INT32_MIN, SIGUSR1), ESRCH);
  EXPECT_ERRNO(Call(SYS_tgkill, getpid(), 0, SIGUSR1), EINVAL);
  EXPECT_ERRNO(Call(SYS_tgkill, -1, getpid(), SIGUSR1), EINVAL);
  EXPECT_ERRNO(Call(SYS_tgkill, 1, getpid(), SIGUSR1), ESRCH);  // Another process's thread.
  EXPECT_ERRNO(Call(SYS_tkill, 0, SIGUSR1), EINVAL);
  EXPECT_ERRNO(Call(SYS_tkill, 4'000'000, SIGUSR1), ESRCH);
  EXPECT_OK(Call(SYS_tgkill, getpid(), getpid(), 0));
}

GUEST_TEST(SignalArguments, Queueinfo) {
  siginfo_t info = {};
  info.si_code = SI_QUEUE;
  EXPECT_ERRNO(Call(SYS_rt_sigqueueinfo, getpid(), 65, &info), EINVAL);
  EXPECT_ERRNO(Call(SYS_rt_sigqueueinfo, getpid(), SIGUSR1, kBadAddress), EFAULT);
  EXPECT_ERRNO(Call(SYS_rt_sigqueueinfo, 4'000'000, SIGUSR1, &info), ESRCH);
  EXPECT_ERRNO(Call(SYS_rt_tgsigqueueinfo, getpid(), 0, SIGUSR1, &info), EINVAL);
  EXPECT_ERRNO(Call(SYS_rt_tgsigqueueinfo, 1, getpid(), SIGUSR1, &info), ESRCH);
  CountSignals(SIGUSR1);
  info.si_code = -60;  // To itself a process may say anything below zero.
  info.si_value.sival_int = 5;
  EXPECT_OK(Call(SYS_rt_tgsigqueueinfo, getpid(), getpid(), SIGUSR1, &info));
  EXPECT_EQ(LastSignal().si_code, -60);
  EXPECT_EQ(LastSignal().si_value.sival_int, 5);
}

GUEST_TEST(SignalArguments, AlternateStack) {
  stack_t stack = {};
  char* memory = Pages(16);
  stack.ss_sp = memory;
  stack.ss_size = 16 * kPage;
  stack.ss_flags = 0x10;
  EXPECT_ERRNO(sigaltstack(&stack, nullptr), EINVAL);
  stack.ss_flags = 0;
  stack.ss_size = 100;
  EXPECT_ERRNO(sigaltstack(&stack, nullptr), ENOMEM);
  EXPECT_ERRNO(sigaltstack(kBad, nullptr), EFAULT);
  EXPECT_ERRNO(sigaltstack(nullptr, kBad), EFAULT);
  stack.ss_size = 16 * kPage;
  EXPECT_OK(sigaltstack(&stack, nullptr));
  stack_t old = {};
  stack.ss_flags = SS_DISABLE;
  stack.ss_size = 1;
  EXPECT_OK(sigaltstack(&stack, &old));
  EXPECT_EQ(old.ss_sp, memory);
  EXPECT_EQ(old.ss_flags, 0);
  EXPECT_OK(sigaltstack(nullptr, &old));
  EXPECT_EQ(old.ss_flags, SS_DISABLE);
}

GUEST_TEST(SignalAltStack, AutodisarmFreesItInTheHandler) {
  static int flags_inside;
  stack_t stack = {};
  stack.ss_sp = Pages(16);
  stack.ss_size = 16 * kPage;
  stack.ss_flags = static_cast<int>(1u << 31);  // SS_AUTODISARM
  MUST(sigaltstack(&stack, nullptr));
  Handle(
      SIGUSR1,
      [](int, siginfo_t*, void*) {
        stack_t now = {};
        sigaltstack(nullptr, &now);
        flags_inside = now.ss_flags;
      },
      SA_ONSTACK);
  CheckpointHere();
  raise(SIGUSR1);
  EXPECT_EQ(flags_inside, SS_DISABLE);
  stack_t after = {};
  MUST(sigaltstack(nullptr, &after));
  EXPECT_EQ(after.ss_sp, stack.ss_sp);
  EXPECT_EQ(after.ss_flags, stack.ss_flags);
}

GUEST_TEST(SignalAltStack, InUseCannotBeChanged) {
  static int error, flags_inside;
  stack_t stack = {};
  stack.ss_sp = Pages(16);
  stack.ss_size = 16 * kPage;
  MUST(sigaltstack(&stack, nullptr));
  Handle(
      SIGUSR1,
      [](int, siginfo_t*, void*) {
        stack_t now = {};
        sigaltstack(nullptr, &now);
        flags_inside = now.ss_flags;
        now.ss_flags = SS_DISABLE;
        error = sigaltstack(&now, nullptr) < 0 ? errno : 0;
      },
      SA_ONSTACK);
  raise(SIGUSR1);
  EXPECT_EQ(flags_inside, SS_ONSTACK);
  EXPECT_EQ(error, EPERM);
}

GUEST_TEST(SignalInfo, BySource) {
  CountSignals(SIGUSR1);
  kill(getpid(), SIGUSR1);
  EXPECT_EQ(LastSignal().si_code, SI_USER);
  EXPECT_EQ(LastSignal().si_pid, getpid());
  EXPECT_EQ(LastSignal().si_uid, getuid());
  Call(SYS_tgkill, getpid(), getpid(), SIGUSR1);
  EXPECT_EQ(LastSignal().si_code, SI_TKILL);
  sigval value = {.sival_int = 99};
  MUST(sigqueue(getpid(), SIGUSR1, value));
  EXPECT_EQ(LastSignal().si_code, SI_QUEUE);
  EXPECT_EQ(LastSignal().si_value.sival_int, 99);
  alarm(0);
}

GUEST_TEST(SignalInfo, ChildTellsHowItEnded) {
  CountSignals(SIGCHLD);
  const pid_t exited = Fork([] { _exit(9); });
  while (SignalCount() < 1) SleepMs(1);
  EXPECT_EQ(LastSignal().si_code, CLD_EXITED);
  EXPECT_EQ(LastSignal().si_status, 9);
  EXPECT_EQ(LastSignal().si_pid, exited);
  const pid_t killed = Fork([] { pause(); });
  kill(killed, SIGKILL);
  while (SignalCount() < 2) SleepMs(1);
  EXPECT_EQ(LastSignal().si_code, CLD_KILLED);
  EXPECT_EQ(LastSignal().si_status, SIGKILL);
  WaitStatus(exited);
  WaitStatus(killed);
}

GUEST_TEST(SignalInfo, PidIsThatOfTheReceiversNamespace) {
  CountSignals(SIGUSR1);
  const pid_t pid = Fork([] { kill(getppid(), SIGUSR1); });
  JOIN_OK(pid);
  EXPECT_EQ(LastSignal().si_pid, pid);
}

GUEST_TEST(SignalFlags, UnknownOnesAreCleared) {
  // signal(7), SA_UNSUPPORTED: a way to ask which flags the kernel knows.
  struct {
    void* handler;
    unsigned long flags;
    void* restorer;
    unsigned long mask;
  } action = {}, told = {};
  action.flags = 0x400 | 0x800 | 0x40000000;
  MUST(Call(SYS_rt_sigaction, SIGUSR1, &action, nullptr, 8));
  MUST(Call(SYS_rt_sigaction, SIGUSR1, nullptr, &told, 8));
  EXPECT_EQ(told.flags & 0x400, 0);
  EXPECT_EQ(told.flags & 0x800, 0x800);  // SA_EXPOSE_TAGBITS is known.
  EXPECT_EQ(told.flags & 0x40000000, 0x40000000);
}

GUEST_TEST(SignalFlags, MaskOfAnActionLeavesOutKillAndStop) {
  struct sigaction action = {};
  action.sa_handler = SIG_IGN;
  sigfillset(&action.sa_mask);
  MUST(sigaction(SIGUSR1, &action, nullptr));
  struct sigaction told = {};
  MUST(sigaction(SIGUSR1, nullptr, &told));
  EXPECT(!sigismember(&told.sa_mask, SIGKILL));
  EXPECT(!sigismember(&told.sa_mask, SIGSTOP));
  EXPECT(sigismember(&told.sa_mask, SIGTERM));
}

GUEST_TEST(SignalContext, RegistersOfTheInterrupted) {
  static volatile unsigned long seen_rip, seen_rsp, error_address;
  Handle(SIGSEGV, [](int, siginfo_t* info, void* context) {
    auto* c = static_cast<ucontext_t*>(context);
    seen_rip = static_cast<unsigned long>(c->uc_mcontext.gregs[REG_RIP]);
    seen_rsp = static_cast<unsigned long>(c->uc_mcontext.gregs[REG_RSP]);
    error_address = reinterpret_cast<unsigned long>(info->si_addr);
    c->uc_mcontext.gregs[REG_RIP] += 3;  // Over the instruction below.
  });
  unsigned long rip = 0;
  asm volatile("lea 1f(%%rip), %0\n1: movb (%1), %%al\n nop" : "=&r"(rip) : "r"(kBadAddress) : "rax", "memory");
  EXPECT_EQ(seen_rip, rip);
  EXPECT_NE(seen_rsp, 0);
  EXPECT_EQ(error_address, kBadAddress);
}

GUEST_TEST(SignalPending, ProcessAndThreadSetsAreJoined) {
  Block({SIGUSR1, SIGUSR2});
  kill(getpid(), SIGUSR1);
  Call(SYS_tkill, getpid(), SIGUSR2);
  CheckpointHere();
  sigset_t pending;
  MUST(sigpending(&pending));
  EXPECT(sigismember(&pending, SIGUSR1));
  EXPECT(sigismember(&pending, SIGUSR2));
  Thread other([] {
    sigset_t own;
    MUST(sigpending(&own));
    EXPECT(sigismember(&own, SIGUSR1));
    EXPECT(!sigismember(&own, SIGUSR2));
  });
}

GUEST_TEST(SignalPending, ForkStartsWithNone) {
  Block({SIGUSR1});
  raise(SIGUSR1);
  JOIN_OK(Fork([] {
    sigset_t pending;
    MUST(sigpending(&pending));
    EXPECT(!sigismember(&pending, SIGUSR1));
    sigset_t mask;
    MUST(sigprocmask(SIG_BLOCK, nullptr, &mask));
    EXPECT(sigismember(&mask, SIGUSR1));
  }));
}

GUEST_TEST(Interrupted, PollNeverRestarts) {
  Pipe p;
  Interrupt(SA_RESTART, [&] {
    pollfd poll_for = {p.r, POLLIN, 0};
    EXPECT_ERRNO(poll(&poll_for, 1, -1), EINTR);
  });
}

GUEST_TEST(Interrupted, SelectNeverRestarts) {
  Pipe p;
  Interrupt(SA_RESTART, [&] {
    fd_set set;
    FD_ZERO(&set);
    FD_SET(p.r, &set);
    EXPECT_ERRNO(select(p.r + 1, &set, nullptr, nullptr, nullptr), EINTR);
  });
}

GUEST_TEST(Interrupted, EpollNeverRestarts) {
  Interrupt(SA_RESTART, [] {
    const int fd = MUST(epoll_create1(0));
    epoll_event event;
    EXPECT_ERRNO(epoll_wait(fd, &event, 1, -1), EINTR);
  });
}

GUEST_TEST(Interrupted, PauseAndSigsuspend) {
  Interrupt(SA_RESTART, [] { EXPECT_ERRNO(pause(), EINTR); });
  Interrupt(SA_RESTART, [] {
    const sigset_t none = Signals({});
    EXPECT_ERRNO(sigsuspend(&none), EINTR);
  });
}

GUEST_TEST(Interrupted, SigtimedwaitByAnother) {
  Interrupt(SA_RESTART, [] {
    Block({SIGUSR2});
    const sigset_t set = Signals({SIGUSR2});
    EXPECT_ERRNO(sigwaitinfo(&set, nullptr), EINTR);
  });
}

GUEST_TEST(Interrupted, SocketsWithATimeNeverRestart) {
  int ends[2];
  MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
  Interrupt(SA_RESTART, [&] {
    const timeval time = {100, 0};
    MUST(setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &time, sizeof(time)));
    char byte;
    EXPECT_ERRNO(recv(ends[0], &byte, 1, 0), EINTR);
  });
}

GUEST_TEST(Interrupted, EventfdAndFlockWithoutRestart) {
  Interrupt(0, [] {
    const int fd = MUST(eventfd(0, 0));
    uint64_t value;
    EXPECT_ERRNO(read(fd, &value, 8), EINTR);
  });
  TempDir dir;
  WriteFile(dir / "f", "");
  const int holder = MUST(open(dir / "f", O_RDONLY));
  MUST(flock(holder, LOCK_EX));
  Interrupt(0, [&] {
    const int fd = MUST(open(dir / "f", O_RDONLY));
    EXPECT_ERRNO(flock(fd, LOCK_EX), EINTR);
  });
}

GUEST_TEST(Interrupted, WaitWithoutRestart) {
  Interrupt(0, [] {
    const pid_t pid = Fork([] { SleepMs(5000); });
    EXPECT_ERRNO(waitpid(pid, nullptr, 0), EINTR);
    kill(pid, SIGKILL);
  });
}

GUEST_TEST(Interrupted, OpenOfAFifo) {
  TempDir dir;
  MUST(mkfifo(dir / "p", 0600));
  Interrupt(0, [&] { EXPECT_ERRNO(open(dir / "p", O_RDONLY), EINTR); });
}

GUEST_TEST(RestartedCall, ReadOfAPipe) {
  Pipe p;
  Restarted(
      [&] {
        char byte;
        EXPECT_EQ(read(p.r, &byte, 1), 1);
      },
      [&] { MUST(write(p.w, "x", 1)); });
}

GUEST_TEST(RestartedCall, WriteIntoAFullPipe) {
  Pipe p;
  MUST(fcntl(p.w, F_SETPIPE_SZ, kPage));
  char* memory = Pages(2);
  MUST(write(p.w, memory, kPage));
  Restarted([&] { EXPECT_EQ(write(p.w, "x", 1), 1); }, [&] { MUST(read(p.r, memory, kPage)); });
}

GUEST_TEST(RestartedCall, AcceptAndReceive) {
  const int listener = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
  sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = {}};
  MUST(bind(listener, reinterpret_cast<sockaddr*>(&name), sizeof(sa_family_t)));
  socklen_t length = sizeof(name);
  MUST(getsockname(listener, reinterpret_cast<sockaddr*>(&name), &length));
  MUST(listen(listener, 4));
  Restarted([&] { EXPECT_GE(accept(listener, nullptr, nullptr), 0); },
            [&] { MUST(connect(MUST(socket(AF_UNIX, SOCK_STREAM, 0)), reinterpret_cast<sockaddr*>(&name), length)); });
  int ends[2];
  MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends));
  Restarted(
      [&] {
        char byte;
        EXPECT_EQ(recv(ends[0], &byte, 1, 0), 1);
      },
      [&] { MUST(send(ends[1], "x", 1, 0)); });
}

GUEST_TEST(RestartedCall, WaitForAChild) {
  Pipe p;
  Restarted(
      [&] {
        const pid_t pid = Fork([&] {
          char byte;
          read(p.r, &byte, 1);
        });
        EXPECT_EQ(waitpid(pid, nullptr, 0), pid);
      },
      [&] { MUST(write(p.w, "x", 1)); });
}

GUEST_TEST(RestartedCall, RecordLockAndFlock) {
  TempDir dir;
  WriteFile(dir / "f", "");
  const int holder = MUST(open(dir / "f", O_RDWR));
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  MUST(fcntl(holder, F_SETLK, &lock));
  Restarted(
      [&] {
        const int fd = MUST(open(dir / "f", O_RDWR));
        EXPECT_OK(fcntl(fd, F_SETLKW, &lock));
      },
      [&] {
        struct flock unlock = {};
        unlock.l_type = F_UNLCK;
        MUST(fcntl(holder, F_SETLK, &unlock));
      });
  MUST(flock(holder, LOCK_EX));
  Restarted(
      [&] {
        const int fd = MUST(open(dir / "f", O_RDONLY));
        EXPECT_OK(flock(fd, LOCK_EX));
      },
      [&] { MUST(flock(holder, LOCK_UN)); });
}

GUEST_TEST(RestartedCall, EventfdAndSignalfd) {
  const int counter = MUST(eventfd(0, 0));
  Restarted(
      [&] {
        uint64_t value;
        EXPECT_EQ(read(counter, &value, 8), 8);
      },
      [&] {
        const uint64_t one = 1;
        MUST(write(counter, &one, 8));
      });
}

// Whoever is not there is missed before a signal that is none.
GUEST_TEST(KillEdge, WhatIsLookedAtFirst) {
  constexpr int kNobody = 0x3ffffff;
  EXPECT_ERRNO(kill(kNobody, 65), ESRCH);
  EXPECT_ERRNO(kill(-kNobody, 65), ESRCH);
  EXPECT_ERRNO(Call(SYS_kill, INT32_MIN, 65), ESRCH);
  EXPECT_ERRNO(Call(SYS_kill, INT32_MIN, 0), ESRCH);
  EXPECT_ERRNO(kill(getpid(), 65), EINVAL);
  EXPECT_ERRNO(kill(0, -1), EINVAL);
}
