// The first things a kernel must do. With --no-fork each test here needs only the calls it names.
#include <sys/uio.h>

#include "test/harness/guest_util.h"

using namespace guest;

GUEST_TEST(Basic, Nothing) {}

GUEST_TEST(Basic, WriteReturnsTheLength) { EXPECT_EQ(write(STDOUT_FILENO, "", 0), 0); }

GUEST_TEST(Basic, WriteToClosedDescriptor) {
  EXPECT_ERRNO(write(-1, "x", 1), EBADF);
  EXPECT_ERRNO(write(1000, "x", 1), EBADF);
}

GUEST_TEST(Basic, PidIsPositiveAndStable) {
  const pid_t pid = getpid();
  EXPECT_GT(pid, 0);
  EXPECT_EQ(getpid(), pid);
  EXPECT_EQ(syscall(SYS_gettid), pid);
}

GUEST_TEST(Basic, AnonymousMemoryIsZeroAndHolds) {
  char* memory = Pages(16);
  for (size_t i = 0; i < 16 * kPage; i += 512) EXPECT_EQ(memory[i], 0);
  for (size_t i = 0; i < 16; ++i) memory[i * kPage] = static_cast<char>(i + 1);
  CheckpointHere();
  for (size_t i = 0; i < 16; ++i) EXPECT_EQ(memory[i * kPage], i + 1);
  EXPECT_OK(munmap(memory, 16 * kPage));
}

GUEST_TEST(Basic, MmapRefusesZeroLength) { EXPECT_ERRNO(mmap(nullptr, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), EINVAL); }

GUEST_TEST(Basic, MmapRefusesNeitherPrivateNorShared) { EXPECT_ERRNO(mmap(nullptr, kPage, PROT_READ, MAP_ANONYMOUS, -1, 0), EINVAL); }

GUEST_TEST(Basic, BreakGrowsAndShrinks) {
  char* start = static_cast<char*>(sbrk(0));
  ASSERT_NE(start, nullptr);
  MUST(brk(start + 8 * kPage));
  EXPECT_EQ(sbrk(0), start + 8 * kPage);
  start[8 * kPage - 1] = 7;
  EXPECT_EQ(start[4 * kPage], 0);
  CheckpointHere();
  EXPECT_EQ(start[8 * kPage - 1], 7);
  MUST(brk(start));
  EXPECT_EQ(sbrk(0), start);
}

GUEST_TEST(Basic, BreakMemoryComesBackZeroed) {
  char* start = static_cast<char*>(sbrk(0));
  char* aligned = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(start) + kPage - 1) & ~(kPage - 1));
  MUST(brk(aligned + 2 * kPage));
  memset(aligned, 0x5a, 2 * kPage);
  MUST(brk(aligned));
  MUST(brk(aligned + 2 * kPage));
  EXPECT_EQ(aligned[0], 0);
  EXPECT_EQ(aligned[2 * kPage - 1], 0);
  MUST(brk(start));
}

GUEST_TEST(Basic, BreakBelowItsStartAnswersTheCurrentOne) {
  const long now = syscall(SYS_brk, 0);
  EXPECT_EQ(syscall(SYS_brk, 1), now);
  EXPECT_EQ(syscall(SYS_brk, 0), now);
}

GUEST_TEST(Basic, ReadOfBadBuffer) {
  const int fd = MUST(open("/dev/zero", O_RDONLY));
  EXPECT_ERRNO(read(fd, reinterpret_cast<void*>(8), 16), EFAULT);
  EXPECT_ERRNO(read(fd, reinterpret_cast<void*>(0xffff'8000'0000'0000), 16), EFAULT);
}

GUEST_TEST(Basic, WriteOfBadBuffer) {
  Pipe p;
  EXPECT_ERRNO(write(p.w, reinterpret_cast<void*>(8), 16), EFAULT);
  EXPECT_ERRNO(write(p.w, reinterpret_cast<void*>(0xffff'8000'0000'0000), 16), EFAULT);
}

GUEST_TEST(Basic, UnknownCallsAreRefused) {
  for (const long number : {1000L, 1023L, 5000L, 0x3fffffffL, -1L}) EXPECT_ERRNO(syscall(number, 1, 2, 3), ENOSYS);
  EXPECT_ERRNO(syscall(340),
               ENOSYS);  // The gap between the old numbers (to 336) and the shared ones (from 424).
  EXPECT_ERRNO(syscall(423), ENOSYS);
}

GUEST_TEST(Basic, RetiredCallsAreRefused) {
  for (const long number : {156L /*_sysctl*/, 174L /*create_module*/, 177L /*get_kernel_syms*/, 178L /*query_module*/, 180L /*nfsservctl*/,
                            181L /*getpmsg*/, 183L /*afs_syscall*/, 184L /*tuxcall*/, 185L /*security*/, 205L /*set_thread_area*/,
                            211L /*get_thread_area*/, 214L /*epoll_ctl_old*/, 236L /*vserver*/}) {
    EXPECT_ERRNO(syscall(number, 0, 0, 0), ENOSYS);
  }
}

GUEST_TEST(Basic, OnlyRaxRcxAndR11ChangeInACall) {
  uint64_t rbx = 0x1111, rbp_like = 0x2222, r12 = 0x3333, r8 = 0x4444, r9 = 0x5555, r10 = 0x6666, rdi = 0x7777;
  uint64_t rsi = 0x8888, rdx = 0x9999;
  uint64_t result = SYS_getppid;
  register uint64_t r8r asm("r8") = r8;
  register uint64_t r9r asm("r9") = r9;
  register uint64_t r10r asm("r10") = r10;
  register uint64_t r12r asm("r12") = r12;
  register uint64_t r13r asm("r13") = rbp_like;
  asm volatile("syscall"
               : "+a"(result), "+b"(rbx), "+D"(rdi), "+S"(rsi), "+d"(rdx), "+r"(r8r), "+r"(r9r), "+r"(r10r), "+r"(r12r), "+r"(r13r)
               :
               : "rcx", "r11", "memory");
  const uint64_t after[] = {r8r, r9r, r10r, r12r, r13r};
  EXPECT_EQ(rbx, 0x1111);
  EXPECT_EQ(rdi, 0x7777);
  EXPECT_EQ(rsi, 0x8888);
  EXPECT_EQ(rdx, 0x9999);
  EXPECT_EQ(after[0], 0x4444);
  EXPECT_EQ(after[1], 0x5555);
  EXPECT_EQ(after[2], 0x6666);
  EXPECT_EQ(after[3], 0x3333);
  EXPECT_EQ(after[4], 0x2222);
  EXPECT_EQ(result, getppid());
}

GUEST_TEST(Basic, RcxHoldsTheReturnAddressAndR11TheFlags) {
  uint64_t result = SYS_getppid, rcx = 0, r11 = 0, here = 0;
  asm volatile("lea 1f(%%rip), %3\n syscall\n1: mov %%r11, %2" : "+a"(result), "=c"(rcx), "=r"(r11), "=&r"(here) : : "r11", "memory");
  EXPECT_EQ(rcx, here);
  EXPECT_NE(r11 & 2, 0);      // Bit 1 of the flags is always set.
  EXPECT_NE(r11 & 0x200, 0);  // Interrupts are on in user mode.
}

GUEST_TEST(Basic, VectorRegistersSurviveACall) {
  alignas(16) uint64_t in[2] = {0x0123456789abcdef, 0xfedcba9876543210};
  alignas(16) uint64_t out[2] = {};
  uint64_t number = SYS_getppid;
  asm volatile("movdqa %1, %%xmm7\n syscall\n movdqa %%xmm7, %2" : "+a"(number) : "m"(in), "m"(out) : "rcx", "r11", "xmm7", "memory");
  EXPECT_EQ(out[0], in[0]);
  EXPECT_EQ(out[1], in[1]);
}

GUEST_TEST(Basic, CallNumberIsTakenFromTheLow32Bits) {
  // The kernel's entry code sign-extends eax before it looks the number up.
  uint64_t result = (0x1'0000'0000ULL) | SYS_getppid;
  asm volatile("syscall" : "+a"(result) : : "rcx", "r11", "memory");
  EXPECT_EQ(result, getppid());
}

GUEST_TEST(Basic, ExitStatusIsOneByte) {
  const pid_t pid = MUST(fork());
  if (pid == 0) _exit(0x1234);
  EXPECT_EXITED(WaitStatus(pid), 0x34);
}

GUEST_TEST(Basic, ChildHasACopyOfMemory) {
  volatile int value = 1;
  const pid_t pid = Fork([&] {
    EXPECT_EQ(value, 1);
    value = 2;
    EXPECT_EQ(value, 2);
  });
  JOIN_OK(pid);
  EXPECT_EQ(value, 1);
}

GUEST_TEST(Basic, ManyCallsInARow) {
  const pid_t parent = getppid();
  for (int i = 0; i < 10000; ++i) {
    if (syscall(SYS_getppid) != parent) EXPECT_EQ(i, -1);
  }
}

GUEST_TEST(Basic, StackGrows) {
  struct Deep {
    static int Down(int levels) {
      volatile char frame[8192];
      frame[0] = static_cast<char>(levels);
      frame[8191] = 1;
      if (levels == 0) return frame[8191];
      return Down(levels - 1) + (frame[0] == static_cast<char>(levels) ? 1 : 1000);
    }
  };
  EXPECT_EQ(Deep::Down(500), 501);
}

GUEST_TEST(Basic, FloatingPointControlIsDefault) {
  uint32_t mxcsr = 0;
  uint16_t control = 0;
  asm volatile("stmxcsr %0\n fnstcw %1" : "=m"(mxcsr), "=m"(control));
  EXPECT_EQ(mxcsr & 0xffc0, 0x1f80);
  EXPECT_EQ(control, 0x37f);
}
