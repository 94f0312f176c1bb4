// rseq: restartable sequences. The C library has registered an area of its own for each thread.
#include <sched.h>
#include <sys/rseq.h>
#include <sys/time.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

constexpr unsigned kSize = 32, kUnregister = 1;

char* LibraryArea() { return static_cast<char*>(__builtin_thread_pointer()) + __rseq_offset; }

long Rseq(void* area, unsigned size, int flags, unsigned signature) { return syscall(SYS_rseq, area, size, flags, signature); }

volatile struct rseq* Area() { return reinterpret_cast<volatile struct rseq*>(LibraryArea()); }

void NeedLibrary() {
  if (__rseq_size == 0) Skip("the C library has not registered itself");
}

}  // namespace

GUEST_TEST(Rseq, LibraryIsRegistered) {
  // Fails where the call does.
  ASSERT(__rseq_size != 0);
  EXPECT_GE(static_cast<int>(Area()->cpu_id), 0);
  Thread other([] { EXPECT_GE(static_cast<int>(Area()->cpu_id), 0); });
  other.Join();
  JOIN_OK(Fork([] { EXPECT_GE(static_cast<int>(Area()->cpu_id), 0); }));
}

GUEST_TEST(Rseq, Errors) {
  NeedLibrary();
  alignas(32) static char mine[64];
  EXPECT_ERRNO(Rseq(LibraryArea(), kSize, 0, RSEQ_SIG), EBUSY);
  EXPECT_ERRNO(Rseq(LibraryArea(), kSize, 0, RSEQ_SIG + 1), EPERM);
  EXPECT_ERRNO(Rseq(mine, kSize, 0, RSEQ_SIG), EINVAL);
  EXPECT_ERRNO(Rseq(LibraryArea(), kSize, 2, RSEQ_SIG), EINVAL);
  EXPECT_ERRNO(Rseq(mine, kSize, kUnregister, RSEQ_SIG), EINVAL);
  EXPECT_ERRNO(Rseq(LibraryArea(), kSize, kUnregister, RSEQ_SIG + 1), EPERM);
  EXPECT_OK(Rseq(LibraryArea(), kSize, kUnregister, RSEQ_SIG));
  EXPECT_ERRNO(Rseq(LibraryArea(), kSize, kUnregister, RSEQ_SIG), EINVAL);
  EXPECT_ERRNO(Rseq(mine + 4, kSize, 0, RSEQ_SIG), EINVAL);
  EXPECT_ERRNO(Rseq(mine, 16, 0, RSEQ_SIG), EINVAL);
  EXPECT_ERRNO(Rseq(reinterpret_cast<void*>(0xffff'8000'0000'0000), kSize, 0, RSEQ_SIG), EFAULT);
  EXPECT_OK(Rseq(mine, kSize, 0, 0x1234));
  EXPECT_GE(static_cast<int>(reinterpret_cast<volatile struct rseq*>(mine)->cpu_id), 0);
  EXPECT_OK(Rseq(mine, kSize, kUnregister, 0x1234));
}

GUEST_TEST(Rseq, NumberOfTheProcessorIsKept) {
  NeedLibrary();
  CheckpointHere();
  for (int i = 0; i < 1000; ++i) {
    unsigned before = Area()->cpu_id, now = static_cast<unsigned>(sched_getcpu()), after = Area()->cpu_id;
    if (before == after) EXPECT_EQ(now, before);
    if (i % 100 == 0) SleepMs(1);
  }
  // Still registered.
  EXPECT_ERRNO(Rseq(LibraryArea(), kSize, 0, RSEQ_SIG), EBUSY);
  Area()->cpu_id = 4711;
  SleepMs(10);
  EXPECT_NE(Area()->cpu_id, 4711);
}

GUEST_TEST(Rseq, SignalAbortsASequence) {
  NeedLibrary();
  CheckpointHere();
  CountSignals(SIGALRM);
  const itimerval timer = {.it_interval = {}, .it_value = {.tv_sec = 0, .tv_usec = 20000}};
  MUST(setitimer(ITIMER_REAL, &timer, nullptr));
  long aborted = 0;
  volatile struct rseq* area = Area();
  // Spins inside until it is interrupted, by whatever it be; then goes on at the abort handler.
  asm volatile(
      ".pushsection __rseq_cs, \"aw\"\n"
      ".balign 32\n"
      "3: .long 0, 0\n"
      ".quad 1f, 2f - 1f, 4f\n"
      ".popsection\n"
      "leaq 3b(%%rip), %%rax\n"
      "movq %%rax, %[cs]\n"
      "1: pause\n"
      "jmp 1b\n"
      "2: jmp 5f\n"
      ".byte 0x0f, 0xb9, 0x3d\n"
      ".long 0x53053053\n"
      "4: movq $1, %[aborted]\n"
      "5:\n"
      : [aborted] "+r"(aborted), [cs] "=m"(area->rseq_cs)
      :
      : "rax", "memory", "cc");
  EXPECT_EQ(aborted, 1);
  EXPECT_EQ(area->rseq_cs, 0);
}

GUEST_TEST(Rseq, ForkInheritsExecDoesNot) {
  NeedLibrary();
  JOIN_OK(Fork([] { EXPECT_ERRNO(Rseq(LibraryArea(), kSize, 0, RSEQ_SIG), EBUSY); }));
  JOIN_OK(Fork([] { execl(SelfPath(), SelfPath(), "@Registered", nullptr); }));
}

GUEST_HELPER(Registered) {
  // By this program's own library, which could not if the old area still counted.
  EXPECT(__rseq_size != 0);
  EXPECT_ERRNO(Rseq(LibraryArea(), kSize, 0, RSEQ_SIG), EBUSY);
  ExitWithVerdict();
}
