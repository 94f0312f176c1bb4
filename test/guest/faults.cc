// Signals: alternate stacks, faults, the frame of a handler, stop and continue.
#include <setjmp.h>
#include <sys/resource.h>
#include <ucontext.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

bool Pending(int number) {
  sigset_t set;
  MUST(sigpending(&set));
  return sigismember(&set, number) == 1;
}

sigjmp_buf recovery;
volatile uintptr_t fault_address = 0;
volatile int fault_code = 0;

void Recover(int, siginfo_t* info, void*) {
  fault_address = reinterpret_cast<uintptr_t>(info->si_addr);
  fault_code = info->si_code;
  siglongjmp(recovery, 1);
}

}  // namespace

GUEST_TEST(AltStack, HandlerRunsOnIt) {
  static char stack[65536];
  static volatile bool inside = false;
  const stack_t alternate = {.ss_sp = stack, .ss_flags = 0, .ss_size = sizeof(stack)};
  MUST(sigaltstack(&alternate, nullptr));
  Handle(
      SIGUSR1,
      [](int, siginfo_t*, void*) {
        char here = 0;
        inside = &here >= stack && &here < stack + sizeof(stack);
        stack_t now = {};
        MUST(sigaltstack(nullptr, &now));
        EXPECT_EQ(now.ss_flags, SS_ONSTACK);
        EXPECT_ERRNO(sigaltstack(&now, nullptr), EPERM);
      },
      SA_ONSTACK);
  CheckpointHere();
  raise(SIGUSR1);
  EXPECT(inside);
  stack_t now = {};
  MUST(sigaltstack(nullptr, &now));
  EXPECT_EQ(now.ss_sp, stack);
  EXPECT_EQ(now.ss_size, sizeof(stack));
  EXPECT_EQ(now.ss_flags, 0);
}

GUEST_TEST(AltStack, Arguments) {
  static char stack[65536];
  stack_t alternate = {.ss_sp = stack, .ss_flags = 0, .ss_size = 1024};
  EXPECT_ERRNO(sigaltstack(&alternate, nullptr), ENOMEM);
  alternate = {.ss_sp = stack, .ss_flags = 0x40, .ss_size = sizeof(stack)};
  EXPECT_ERRNO(sigaltstack(&alternate, nullptr), EINVAL);
  alternate = {.ss_sp = nullptr, .ss_flags = SS_DISABLE, .ss_size = 0};
  EXPECT_OK(sigaltstack(&alternate, nullptr));
  MUST(sigaltstack(nullptr, &alternate));
  EXPECT_EQ(alternate.ss_flags, SS_DISABLE);
}

GUEST_TEST(AltStack, SurvivesForkNotThread) {
  static char stack[65536];
  const stack_t alternate = {.ss_sp = stack, .ss_flags = 0, .ss_size = sizeof(stack)};
  MUST(sigaltstack(&alternate, nullptr));
  const pid_t pid = Fork([] {
    stack_t now = {};
    MUST(sigaltstack(nullptr, &now));
    EXPECT_EQ(now.ss_sp, stack);
  });
  JOIN_OK(pid);
  Thread other([] {
    stack_t now = {};
    MUST(sigaltstack(nullptr, &now));
    EXPECT_EQ(now.ss_flags, SS_DISABLE);
  });
}

GUEST_TEST(AltStack, StackOverflowIsCaught) {
  static char stack[65536];
  const stack_t alternate = {.ss_sp = stack, .ss_flags = 0, .ss_size = sizeof(stack)};
  MUST(sigaltstack(&alternate, nullptr));
  Handle(SIGSEGV, Recover, SA_ONSTACK);
  struct Deep {
    static int Down(int level) {
      volatile char frame[4096];
      frame[0] = static_cast<char>(level);
      return level > 100'000'000 ? 0 : Down(level + 1) + frame[0];
    }
  };
  if (sigsetjmp(recovery, 1) == 0) {
    EXPECT_EQ(Deep::Down(0), -1);
  }
  EXPECT_NE(fault_address, 0);
}

GUEST_TEST(Fault, UnmappedAddress) {
  Handle(SIGSEGV, Recover);
  char* page = Pages(1);
  munmap(page, kPage);
  if (sigsetjmp(recovery, 1) == 0) {
    *static_cast<volatile char*>(page + 123) = 1;
    EXPECT(false);
  }
  EXPECT_EQ(fault_address, reinterpret_cast<uintptr_t>(page) + 123);
  EXPECT_EQ(fault_code, SEGV_MAPERR);
}

GUEST_TEST(Fault, ProtectedAddress) {
  Handle(SIGSEGV, Recover);
  char* page = Pages(1, PROT_READ);
  CheckpointHere();
  if (sigsetjmp(recovery, 1) == 0) {
    *static_cast<volatile char*>(page + 5) = 1;
    EXPECT(false);
  }
  EXPECT_EQ(fault_address, reinterpret_cast<uintptr_t>(page) + 5);
  EXPECT_EQ(fault_code, SEGV_ACCERR);
}

GUEST_TEST(Fault, NonCanonicalAddressHasNoAddress) {
  Handle(SIGSEGV, Recover);
  if (sigsetjmp(recovery, 1) == 0) {
    *reinterpret_cast<volatile char*>(0x8000'0000'0000'0000) = 1;
    EXPECT(false);
  }
  EXPECT_EQ(fault_address, 0);
  EXPECT_EQ(fault_code, SI_KERNEL);
}

GUEST_TEST(Fault, BeyondTheEndOfAFile) {
  Handle(SIGBUS, Recover);
  const int fd = TempFile("x");
  auto* page = static_cast<char*>(MUST(mmap(nullptr, 2 * kPage, PROT_READ, MAP_SHARED, fd, 0)));
  EXPECT_EQ(page[0], 'x');
  if (sigsetjmp(recovery, 1) == 0) {
    EXPECT_EQ(static_cast<volatile char*>(page)[kPage], 0);
    EXPECT(false);
  }
  EXPECT_EQ(fault_address, reinterpret_cast<uintptr_t>(page) + kPage);
  EXPECT_EQ(fault_code, BUS_ADRERR);
}

GUEST_TEST(Fault, HandlerRepairsAndTheInstructionRunsAgain) {
  static char* page;
  page = Pages(1, PROT_NONE);
  Handle(SIGSEGV, [](int, siginfo_t*, void*) { mprotect(page, kPage, PROT_READ | PROT_WRITE); });
  *static_cast<volatile char*>(page) = 42;
  EXPECT_EQ(page[0], 42);
}

GUEST_TEST(Fault, DivisionByZero) {
  Handle(SIGFPE, Recover);
  static volatile int zero = 0;
  if (sigsetjmp(recovery, 1) == 0) {
    int quotient = 1;
    asm volatile("cltd\n idivl %1" : "+a"(quotient) : "m"(zero) : "edx", "cc");
    EXPECT(false);
  }
  EXPECT_EQ(fault_code, FPE_INTDIV);
  EXPECT_NE(fault_address, 0);
}

GUEST_TEST(Fault, InvalidInstruction) {
  Handle(SIGILL, [](int, siginfo_t* info, void* context) {
    fault_code = info->si_code;
    static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP] += 2;
  });
  asm volatile("ud2");
  EXPECT_EQ(fault_code, ILL_ILLOPN);
}

GUEST_TEST(Fault, Breakpoint) {
  static volatile uint64_t after = 0;
  Handle(SIGTRAP, [](int, siginfo_t* info, void* context) {
    fault_code = info->si_code;
    after = static_cast<uint64_t>(static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP]);
  });
  uint64_t expected = 0;
  asm volatile("lea 1f(%%rip), %0\n int3\n1:" : "=r"(expected));
  EXPECT_EQ(fault_code, SI_KERNEL);
  EXPECT_EQ(after, expected);
}

GUEST_TEST(Fault, BlockedFaultKills) {
  const rlimit none = {0, 0};
  MUST(setrlimit(RLIMIT_CORE, &none));
  const pid_t pid = Fork([] {
    CountSignals(SIGSEGV);
    Block({SIGSEGV});
    *reinterpret_cast<volatile char*>(16) = 1;
  });
  EXPECT_KILLED(WaitStatus(pid), SIGSEGV);
}

GUEST_TEST(Fault, IgnoredFaultKills) {
  const rlimit none = {0, 0};
  MUST(setrlimit(RLIMIT_CORE, &none));
  const pid_t pid = Fork([] {
    signal(SIGSEGV, SIG_IGN);
    *reinterpret_cast<volatile char*>(16) = 1;
  });
  EXPECT_KILLED(WaitStatus(pid), SIGSEGV);
}

GUEST_TEST(Frame, HandlerMayChangeRegisters) {
  Handle(SIGUSR1, [](int, siginfo_t*, void* context) { static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_R12] = 0x1234567; });
  uint64_t value = 0;
  const long pid = getpid();
  asm volatile(
      "xor %%r12d, %%r12d\n"
      "syscall\n"
      "mov %%r12, %0"
      : "=r"(value)
      : "a"(SYS_kill), "D"(pid), "S"(SIGUSR1)
      : "rcx", "r11", "r12", "memory");
  EXPECT_EQ(value, 0x1234567);
}

GUEST_TEST(Frame, MaskInTheFrameIsRestored) {
  Handle(SIGUSR1, [](int, siginfo_t*, void* context) { sigaddset(&static_cast<ucontext_t*>(context)->uc_sigmask, SIGTERM); });
  raise(SIGUSR1);
  sigset_t now;
  MUST(sigprocmask(SIG_BLOCK, nullptr, &now));
  EXPECT_EQ(sigismember(&now, SIGTERM), 1);
}

GUEST_TEST(Frame, VectorStateSurvivesTheHandler) {
  Handle(SIGUSR1, [](int, siginfo_t*, void*) { asm volatile("pxor %%xmm6, %%xmm6" ::: "xmm6"); });
  alignas(16) const uint64_t in[2] = {0xaaaa5555aaaa5555, 0x123456789abcdef0};
  alignas(16) uint64_t out[2] = {};
  const long pid = getpid();
  long number = SYS_kill;
  asm volatile(
      "movdqa %1, %%xmm6\n"
      "syscall\n"
      "movdqa %%xmm6, %2"
      : "+a"(number)
      : "m"(in), "m"(out), "D"(pid), "S"(SIGUSR1)
      : "rcx", "r11", "xmm6", "memory");
  EXPECT_EQ(out[0], in[0]);
  EXPECT_EQ(out[1], in[1]);
}

GUEST_TEST(Frame, RedZoneIsKept) {
  Handle(SIGUSR1, [](int, siginfo_t*, void*) {});
  uint64_t value = 0;
  const long pid = getpid();
  asm volatile(
      "movq $0x7e57, -120(%%rsp)\n"
      "syscall\n"
      "movq -120(%%rsp), %0"
      : "=r"(value)
      : "a"(SYS_kill), "D"(pid), "S"(SIGUSR1)
      : "rcx", "r11", "memory");
  EXPECT_EQ(value, 0x7e57);
}

GUEST_TEST(Frame, StackIsAlignedInTheHandler) {
  static volatile uintptr_t frame = 0;
  Handle(SIGUSR1, [](int, siginfo_t*, void*) { frame = reinterpret_cast<uintptr_t>(__builtin_frame_address(0)); });
  raise(SIGUSR1);
  EXPECT_EQ(frame % 16, 0);
}

GUEST_TEST(Stop, ContinueDropsPendingStops) {
  Block({SIGTSTP});
  raise(SIGTSTP);
  EXPECT(Pending(SIGTSTP));
  MUST(kill(getpid(), SIGCONT));
  EXPECT(!Pending(SIGTSTP));
}

GUEST_TEST(Stop, StopDropsPendingContinue) {
  Block({SIGCONT, SIGTSTP});
  raise(SIGCONT);
  EXPECT(Pending(SIGCONT));
  raise(SIGTSTP);
  EXPECT(!Pending(SIGCONT));
}

GUEST_TEST(Stop, AllThreadsStop) {
  int64_t* shared = Shared<int64_t>();
  const pid_t pid = Fork([=] {
    Thread worker([=] {
      for (;;) __atomic_fetch_add(shared, 1, __ATOMIC_RELAXED);
    });
    pause();
  });
  while (__atomic_load_n(shared, __ATOMIC_RELAXED) == 0) SleepMs(1);
  kill(pid, SIGSTOP);
  int status = 0;
  EXPECT_EQ(waitpid(pid, &status, WUNTRACED), pid);
  const int64_t before = __atomic_load_n(shared, __ATOMIC_RELAXED);
  CheckpointHere();
  SleepMs(20);
  EXPECT_EQ(__atomic_load_n(shared, __ATOMIC_RELAXED), before);
  kill(pid, SIGCONT);
  while (__atomic_load_n(shared, __ATOMIC_RELAXED) == before) SleepMs(1);
  kill(pid, SIGKILL);
  EXPECT_KILLED(WaitStatus(pid), SIGKILL);
}

GUEST_TEST(Stop, HandlerOfContinueRunsAfterwards) {
  CountSignals(SIGCONT);
  const pid_t pid = Fork([] {
    raise(SIGSTOP);
    EXPECT_EQ(SignalCount(), 1);
  });
  AwaitState(pid, pid, 'T');
  kill(pid, SIGCONT);
  JOIN_OK(pid);
}
