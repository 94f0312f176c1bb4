// mmap, munmap, mprotect, mremap and friends on anonymous memory.
#include <setjmp.h>
#include <sys/resource.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

sigjmp_buf recovery;

// Whether a byte can be read, found out by trying.
bool Readable(const volatile char* address) {
  Handle(SIGSEGV, [](int, siginfo_t*, void*) { siglongjmp(recovery, 1); });
  if (sigsetjmp(recovery, 1) != 0) return false;
  (void)*address;
  return true;
}

bool Writable(volatile char* address) {
  Handle(SIGSEGV, [](int, siginfo_t*, void*) { siglongjmp(recovery, 1); });
  if (sigsetjmp(recovery, 1) != 0) return false;
  *address = *address;
  return true;
}

bool Mapped(void* address) { return msync(address, kPage, MS_ASYNC) == 0; }

char* Map(size_t pages, int protection, int flags, void* at = nullptr) {
  return static_cast<char*>(mmap(at, pages * kPage, protection, flags | MAP_ANONYMOUS, -1, 0));
}

void Fill(char* memory, size_t pages) {
  for (size_t i = 0; i < pages; ++i) memory[i * kPage] = static_cast<char>('a' + i);
}

void ExpectFilled(const char* memory, size_t first, size_t count) {
  for (size_t i = 0; i < count; ++i) EXPECT_EQ(memory[i * kPage], 'a' + static_cast<int>(first + i));
}

}  // namespace

GUEST_TEST(Mmap, FixedReplaces) {
  char* memory = Pages(3);
  Fill(memory, 3);
  EXPECT_EQ(Map(1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, memory + kPage), memory + kPage);
  CheckpointHere();
  EXPECT_EQ(memory[0], 'a');
  EXPECT_EQ(memory[kPage], 0);
  EXPECT_EQ(memory[2 * kPage], 'c');
}

GUEST_TEST(Mmap, FixedNoReplaceRefuses) {
  char* memory = Pages(2);
  EXPECT_ERRNO(Map(1, PROT_READ, MAP_PRIVATE | MAP_FIXED_NOREPLACE, memory + kPage), EEXIST);
  munmap(memory + kPage, kPage);
  EXPECT_EQ(Map(1, PROT_READ, MAP_PRIVATE | MAP_FIXED_NOREPLACE, memory + kPage), memory + kPage);
}

GUEST_TEST(Mmap, HintIsTakenWhenFree) {
  char* memory = Pages(4);
  munmap(memory, 4 * kPage);
  EXPECT_EQ(Map(1, PROT_READ, MAP_PRIVATE, memory + 2 * kPage), memory + 2 * kPage);
  EXPECT_NE(Map(1, PROT_READ, MAP_PRIVATE, memory + 2 * kPage), memory + 2 * kPage);
}

GUEST_TEST(Mmap, BadArguments) {
  EXPECT_ERRNO(Map(1, PROT_READ, MAP_PRIVATE | MAP_FIXED, reinterpret_cast<void*>(0x10001)), EINVAL);
  EXPECT_ERRNO(mmap(nullptr, SIZE_MAX, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), ENOMEM);
  EXPECT_ERRNO(mmap(nullptr, 1ULL << 47, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), ENOMEM);
  EXPECT_ERRNO(mmap(nullptr, kPage, PROT_READ, MAP_PRIVATE, -1, 0), EBADF);
  EXPECT_ERRNO(syscall(SYS_mmap, nullptr, kPage, PROT_READ, MAP_PRIVATE, 1, 100), EINVAL);
  EXPECT_ERRNO(Map(1, PROT_READ, MAP_PRIVATE | MAP_FIXED, reinterpret_cast<void*>(0x7fff'ffff'f000)), ENOMEM);
}

GUEST_TEST(Mmap, LengthIsRoundedUp) {
  auto* memory = static_cast<char*>(MUST(mmap(nullptr, 100, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)));
  EXPECT(Writable(memory + kPage - 1));
}

GUEST_TEST(Mmap, NullPageIsOutOfReach) {
  if (geteuid() == 0) {
    EXPECT(!Readable(nullptr));
  } else {
    EXPECT_ERRNO(Map(1, PROT_READ, MAP_PRIVATE | MAP_FIXED, nullptr), EPERM);
  }
}

GUEST_TEST(Mmap, NoreserveGivesSparseGigabytes) {
  const size_t size = 4ULL << 30;
  auto* memory = static_cast<char*>(MUST(mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)));
  for (size_t at = 0; at < size; at += 512 << 20) memory[at] = 'x';
  CheckpointHere();
  for (size_t at = 0; at < size; at += 512 << 20) {
    EXPECT_EQ(memory[at], 'x');
    EXPECT_EQ(memory[at + kPage], 0);
  }
}

GUEST_TEST(Mmap, SharedAnonymousOverFork) {
  char* memory = Map(4, PROT_READ | PROT_WRITE, MAP_SHARED);
  Fill(memory, 4);
  Gate go;
  const pid_t pid = Fork([&] {
    go.Await();
    ExpectFilled(memory, 0, 4);
    memory[kPage] = 'Z';
  });
  CheckpointHere();
  go.Open();
  JOIN_OK(pid);
  EXPECT_EQ(memory[kPage], 'Z');
}

GUEST_TEST(Mmap, PopulateMakesResident) {
  char* memory = Map(8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_POPULATE);
  unsigned char present[8] = {};
  MUST(mincore(memory, 8 * kPage, present));
  for (const unsigned char one : present) EXPECT_EQ(one & 1, 1);
}

GUEST_TEST(Mmap, TooManyMappingsAreRefused) {
  rlimit limit = {};
  MUST(getrlimit(RLIMIT_AS, &limit));
  limit.rlim_cur = static_cast<rlim_t>(ProcField("/proc/self/status", "VmSize")) * 1024 + 100 * kPage;
  MUST(setrlimit(RLIMIT_AS, &limit));
  EXPECT_ERRNO(Map(200, PROT_READ, MAP_PRIVATE), ENOMEM);
  EXPECT_OK(Map(10, PROT_READ, MAP_PRIVATE));
}

GUEST_TEST(Munmap, MiddleSplits) {
  char* memory = Pages(5);
  Fill(memory, 5);
  MUST(munmap(memory + 2 * kPage, kPage));
  CheckpointHere();
  ExpectFilled(memory, 0, 2);
  ExpectFilled(memory + 3 * kPage, 3, 2);
  EXPECT(!Mapped(memory + 2 * kPage));
  EXPECT(!Readable(memory + 2 * kPage));
}

GUEST_TEST(Munmap, OverGapsAndMappings) {
  char* memory = Pages(6);
  MUST(munmap(memory + kPage, kPage));
  MUST(munmap(memory + 3 * kPage, kPage));
  EXPECT_OK(munmap(memory, 6 * kPage));
  for (int i = 0; i < 6; ++i) EXPECT(!Mapped(memory + i * kPage));
  EXPECT_OK(munmap(memory, 6 * kPage));  // Nothing there: fine.
}

GUEST_TEST(Munmap, BadArguments) {
  char* memory = Pages(1);
  EXPECT_ERRNO(munmap(memory + 1, kPage), EINVAL);
  EXPECT_ERRNO(munmap(memory, 0), EINVAL);
  EXPECT_ERRNO(munmap(memory, SIZE_MAX & ~(kPage - 1)), EINVAL);
}

GUEST_TEST(Mprotect, ChangesWhatIsAllowed) {
  char* memory = Pages(3);
  Fill(memory, 3);
  MUST(mprotect(memory + kPage, kPage, PROT_READ));
  CheckpointHere();
  EXPECT(Writable(memory));
  EXPECT(!Writable(memory + kPage));
  EXPECT(Readable(memory + kPage));
  MUST(mprotect(memory, 3 * kPage, PROT_NONE));
  for (int i = 0; i < 3; ++i) EXPECT(!Readable(memory + i * kPage));
  MUST(mprotect(memory, 3 * kPage, PROT_READ | PROT_WRITE));
  ExpectFilled(memory, 0, 3);
}

GUEST_TEST(Mprotect, BadArguments) {
  char* memory = Pages(3);
  EXPECT_ERRNO(mprotect(memory + 1, kPage, PROT_READ), EINVAL);
  MUST(munmap(memory + kPage, kPage));
  EXPECT_ERRNO(mprotect(memory, 3 * kPage, PROT_READ), ENOMEM);
  EXPECT(!Writable(memory));  // What came before the gap is changed all the same.
  EXPECT_OK(mprotect(memory, 0, PROT_READ));
  EXPECT_ERRNO(syscall(SYS_mprotect, memory, kPage, 0x1000), EINVAL);
}

GUEST_TEST(Mprotect, ExecutableCodeRuns) {
  char* memory = Pages(1);
  const unsigned char code[] = {0xb8, 0x2a, 0, 0, 0, 0xc3};  // mov $42, %eax; ret
  memcpy(memory, code, sizeof(code));
  MUST(mprotect(memory, kPage, PROT_READ | PROT_EXEC));
  CheckpointHere();
  EXPECT_EQ(reinterpret_cast<int (*)()>(memory)(), 42);
  MUST(mprotect(memory, kPage, PROT_READ | PROT_WRITE));
  memory[1] = 43;
  MUST(mprotect(memory, kPage, PROT_READ | PROT_EXEC));
  EXPECT_EQ(reinterpret_cast<int (*)()>(memory)(), 43);
}

GUEST_TEST(Mprotect, WritableAndExecutable) {
  char* memory = Pages(1, PROT_READ | PROT_WRITE | PROT_EXEC);
  for (unsigned char value = 1; value < 50; ++value) {
    const unsigned char code[] = {0xb8, value, 0, 0, 0, 0xc3};
    memcpy(memory, code, sizeof(code));
    EXPECT_EQ(reinterpret_cast<int (*)()>(memory)(), value);
  }
}

GUEST_TEST(Mprotect, SeenByOtherThreads) {
  char* memory = Pages(1);
  static volatile bool stop = false;
  volatile int64_t writes = 0;
  static char* repaired;
  repaired = memory;
  static volatile int faults = 0;
  Handle(SIGSEGV, [](int, siginfo_t*, void*) {
    faults = faults + 1;
    mprotect(repaired, kPage, PROT_READ | PROT_WRITE);
  });
  Thread writer([&] {
    while (!stop) {
      *static_cast<volatile char*>(memory) = 1;
      writes = writes + 1;
    }
  });
  for (int i = 0; i < 20; ++i) {
    MUST(mprotect(memory, kPage, PROT_READ));
    const int64_t before = writes;
    while (writes < before + 2) SleepMs(0);
  }
  stop = true;
  writer.Join();
  EXPECT_GE(faults, 20);
}

GUEST_TEST(Mremap, GrowsInPlaceOrMoves) {
  char* memory = Pages(2);
  Fill(memory, 2);
  auto* larger = static_cast<char*>(MUST(mremap(memory, 2 * kPage, 64 * kPage, MREMAP_MAYMOVE)));
  CheckpointHere();
  ExpectFilled(larger, 0, 2);
  for (int i = 2; i < 64; ++i) EXPECT_EQ(larger[i * kPage], 0);
  EXPECT(Writable(larger + 63 * kPage));
  if (larger != memory) EXPECT(!Mapped(memory));
}

GUEST_TEST(Mremap, GrowthIsZeroAfterRestore) {
  char* memory = Pages(4);
  Fill(memory, 4);
  CheckpointHere();
  auto* larger = static_cast<char*>(MUST(mremap(memory, 4 * kPage, 8 * kPage, MREMAP_MAYMOVE)));
  ExpectFilled(larger, 0, 4);
  for (int i = 4; i < 8; ++i) EXPECT_EQ(larger[i * kPage], 0);
}

GUEST_TEST(Mremap, WithoutRoomInPlaceFails) {
  char* memory = Pages(3);
  EXPECT_ERRNO(mremap(memory, kPage, 2 * kPage, 0), ENOMEM);
}

GUEST_TEST(Mremap, Shrinks) {
  char* memory = Pages(4);
  Fill(memory, 4);
  EXPECT_EQ(mremap(memory, 4 * kPage, 2 * kPage, 0), memory);
  ExpectFilled(memory, 0, 2);
  EXPECT(!Mapped(memory + 2 * kPage));
}

GUEST_TEST(Mremap, FixedMovesAndReplaces) {
  char* memory = Pages(2);
  Fill(memory, 2);
  char* target = Pages(4);
  memset(target, 'x', 4 * kPage);
  EXPECT_EQ(mremap(memory, 2 * kPage, 2 * kPage, MREMAP_MAYMOVE | MREMAP_FIXED, target + kPage), target + kPage);
  CheckpointHere();
  EXPECT_EQ(target[0], 'x');
  ExpectFilled(target + kPage, 0, 2);
  EXPECT_EQ(target[3 * kPage], 'x');
  EXPECT(!Mapped(memory));
}

GUEST_TEST(Mremap, DontUnmapLeavesEmptyPages) {
  char* memory = Pages(2);
  Fill(memory, 2);
  auto* moved = static_cast<char*>(MUST(mremap(memory, 2 * kPage, 2 * kPage, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, nullptr)));
  EXPECT_NE(moved, memory);
  ExpectFilled(moved, 0, 2);
  EXPECT_EQ(memory[0], 0);
}

GUEST_TEST(Mremap, OldSizeZeroDuplicatesSharedMemory) {
  char* memory = Map(2, PROT_READ | PROT_WRITE, MAP_SHARED);
  Fill(memory, 2);
  auto* second = static_cast<char*>(MUST(mremap(memory, 0, 2 * kPage, MREMAP_MAYMOVE)));
  EXPECT_NE(second, memory);
  ExpectFilled(second, 0, 2);
  second[0] = 'q';
  CheckpointHere();
  EXPECT_EQ(memory[0], 'q');
  memory[kPage] = 'r';
  EXPECT_EQ(second[kPage], 'r');
}

GUEST_TEST(Mremap, BadArguments) {
  char* memory = Pages(4);
  EXPECT_ERRNO(mremap(memory + 1, kPage, kPage, 0), EINVAL);
  EXPECT_ERRNO(mremap(memory, kPage, 0, MREMAP_MAYMOVE), EINVAL);
  EXPECT_ERRNO(mremap(memory, kPage, kPage, 0x100), EINVAL);
  EXPECT_ERRNO(mremap(memory, kPage, kPage, MREMAP_FIXED, memory + kPage), EINVAL);
  EXPECT_ERRNO(mremap(memory, 2 * kPage, 2 * kPage, MREMAP_FIXED | MREMAP_MAYMOVE, memory + kPage), EINVAL);
  MUST(munmap(memory, 4 * kPage));
  EXPECT_ERRNO(mremap(memory, kPage, 2 * kPage, MREMAP_MAYMOVE), EFAULT);
}

GUEST_TEST(Mremap, KeepsProtection) {
  char* memory = Pages(1);
  memory[0] = 'a';
  MUST(mprotect(memory, kPage, PROT_READ));
  auto* larger = static_cast<char*>(MUST(mremap(memory, kPage, 16 * kPage, MREMAP_MAYMOVE)));
  EXPECT(Readable(larger + 15 * kPage));
  EXPECT(!Writable(larger + 15 * kPage));
}

GUEST_TEST(Madvise, DontneedZeroes) {
  char* memory = Pages(3);
  Fill(memory, 3);
  CheckpointHere();
  MUST(madvise(memory + kPage, kPage, MADV_DONTNEED));
  EXPECT_EQ(memory[0], 'a');
  EXPECT_EQ(memory[kPage], 0);
  EXPECT_EQ(memory[2 * kPage], 'c');
  memory[kPage] = 'n';
  EXPECT_EQ(memory[kPage], 'n');
}

GUEST_TEST(Madvise, DontneedKeepsSharedContent) {
  char* memory = Map(2, PROT_READ | PROT_WRITE, MAP_SHARED);
  Fill(memory, 2);
  MUST(madvise(memory, 2 * kPage, MADV_DONTNEED));
  ExpectFilled(memory, 0, 2);
  MUST(madvise(memory, kPage, MADV_REMOVE));
  EXPECT_EQ(memory[0], 0);
  EXPECT_EQ(memory[kPage], 'b');
}

GUEST_TEST(Madvise, FreeKeepsOrZeroes) {
  char* memory = Pages(2);
  Fill(memory, 2);
  CheckpointHere();
  MUST(madvise(memory, kPage, MADV_FREE));
  EXPECT(memory[0] == 'a' || memory[0] == 0);
  memory[0] = 'w';
  EXPECT_EQ(memory[0], 'w');
  EXPECT_EQ(memory[kPage], 'b');
}

GUEST_TEST(Madvise, DontforkHidesFromTheChild) {
  char* memory = Pages(2);
  Fill(memory, 2);
  MUST(madvise(memory, kPage, MADV_DONTFORK));
  const pid_t pid = Fork([=] {
    EXPECT(!Mapped(memory));
    EXPECT(Mapped(memory + kPage));
  });
  JOIN_OK(pid);
}

GUEST_TEST(Madvise, WipeonforkZeroesTheChild) {
  char* memory = Pages(1);
  memory[0] = 'a';
  MUST(madvise(memory, kPage, MADV_WIPEONFORK));
  CheckpointHere();
  const pid_t pid = Fork([=] { EXPECT_EQ(memory[0], 0); });
  JOIN_OK(pid);
  EXPECT_EQ(memory[0], 'a');
}

GUEST_TEST(Madvise, BadArguments) {
  char* memory = Pages(3);
  EXPECT_ERRNO(madvise(memory + 1, kPage, MADV_NORMAL), EINVAL);
  EXPECT_ERRNO(madvise(memory, kPage, 9999), EINVAL);
  MUST(munmap(memory + kPage, kPage));
  EXPECT_ERRNO(madvise(memory, 3 * kPage, MADV_DONTNEED), ENOMEM);
  EXPECT_OK(madvise(memory, kPage, MADV_HUGEPAGE));
  EXPECT_OK(madvise(memory, kPage, MADV_SEQUENTIAL));
  EXPECT_OK(madvise(memory, kPage, MADV_WILLNEED));
}

GUEST_TEST(Mincore, ToldForMappedOnly) {
  char* memory = Pages(2);
  unsigned char present[2] = {};
  memory[0] = 1;
  MUST(mincore(memory, kPage, present));
  EXPECT_EQ(present[0] & 1, 1);
  EXPECT_ERRNO(mincore(memory + 1, kPage, present), EINVAL);
  EXPECT_ERRNO(mincore(memory, kPage, reinterpret_cast<unsigned char*>(8)), EFAULT);
  MUST(munmap(memory, 2 * kPage));
  EXPECT_ERRNO(mincore(memory, kPage, present), ENOMEM);
}

GUEST_TEST(Mlock, LocksAndCounts) {
  char* memory = Pages(4);
  MUST(mlock(memory, 2 * kPage));
  EXPECT_EQ(ProcField("/proc/self/status", "VmLck"), 8);
  CheckpointHere();
  EXPECT_EQ(ProcField("/proc/self/status", "VmLck"), 8);
  MUST(munlock(memory, kPage));
  EXPECT_EQ(ProcField("/proc/self/status", "VmLck"), 4);
  const pid_t pid = Fork([] { EXPECT_EQ(ProcField("/proc/self/status", "VmLck"), 0); });
  JOIN_OK(pid);
  MUST(munmap(memory, 4 * kPage));
  EXPECT_EQ(ProcField("/proc/self/status", "VmLck"), 0);
  EXPECT_ERRNO(mlock(memory, kPage), ENOMEM);
}

GUEST_TEST(Mlock, LimitForTheUnprivileged) {
  if (geteuid() != 0) Skip("needs root to drop it");
  const rlimit limit = {.rlim_cur = 2 * kPage, .rlim_max = 2 * kPage};
  MUST(setrlimit(RLIMIT_MEMLOCK, &limit));
  MUST(setresuid(1000, 1000, 1000));
  char* memory = Pages(4);
  EXPECT_OK(mlock(memory, 2 * kPage));
  EXPECT_ERRNO(mlock(memory, 3 * kPage), ENOMEM);
  EXPECT_ERRNO(syscall(SYS_mlock2, memory, kPage, 0x10), EINVAL);
}

GUEST_TEST(Growsdown, GrowsToItsLimitOnly) {
  char* area = Map(64, PROT_NONE, MAP_PRIVATE);
  MUST(munmap(area, 64 * kPage));
  // Room of 60 pages below; the gap to the next mapping below is what bounds growth.
  char* stack = Map(2, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_GROWSDOWN | MAP_FIXED, area + 62 * kPage);
  stack[-1] = 'g';
  EXPECT_EQ(stack[-1], 'g');
  EXPECT_EQ(stack[-static_cast<int>(kPage)], 0);
}

GUEST_TEST(Growsdown, GrowsAfterACheckpointAndWithinTheLimit) {
  char* area = Map(600, PROT_NONE, MAP_PRIVATE);
  MUST(munmap(area, 600 * kPage));
  char* stack = Map(2, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_GROWSDOWN | MAP_FIXED, area + 598 * kPage);
  strcpy(stack, "top");
  stack[-1] = 'g';
  CheckpointHere();
  // Several pages at once.
  stack[-static_cast<int>(20 * kPage)] = 'h';
  EXPECT_EQ(stack[-1], 'g');
  EXPECT_STREQ(stack, "top");
  const rlimit limit = {64 * kPage, RLIM_INFINITY};
  const rlimit none = {0, 0};
  MUST(setrlimit(RLIMIT_CORE, &none));
  MUST(setrlimit(RLIMIT_STACK, &limit));
  EXPECT_KILLED(WaitStatus(Fork([&] { stack[-static_cast<int>(100 * kPage)] = 1; })), SIGSEGV);
  JOIN_OK(Fork([&] {
    stack[-static_cast<int>(61 * kPage)] = 1;
    EXPECT_EQ(stack[-static_cast<int>(21 * kPage)], 0);
  }));
}

GUEST_TEST(Growsdown, ProtectionFromTheStart) {
  char* area = Map(64, PROT_NONE, MAP_PRIVATE);
  MUST(munmap(area, 64 * kPage));
  char* stack = Map(2, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_GROWSDOWN | MAP_FIXED, area + 62 * kPage);
  stack[-1] = 'g';
  EXPECT_ERRNO(mprotect(area + 61 * kPage, kPage, PROT_READ | PROT_GROWSDOWN | PROT_GROWSUP), EINVAL);
  MUST(mprotect(area + 63 * kPage, kPage, PROT_READ | PROT_GROWSDOWN));
  EXPECT_KILLED(WaitStatus(Fork([&] { stack[-1] = 1; })), SIGSEGV);
  char* plain = Pages(1);
  EXPECT_ERRNO(mprotect(plain, kPage, PROT_READ | PROT_GROWSDOWN), EINVAL);
}

GUEST_TEST(Rss, TouchedPagesCount) {
  const int64_t before = ProcField("/proc/self/status", "VmRSS");
  char* memory = Pages(2048);
  EXPECT_LT(ProcField("/proc/self/status", "VmRSS"), before + 4096);
  memset(memory, 1, 2048 * kPage);
  EXPECT_GE(ProcField("/proc/self/status", "VmRSS"), before + 7000);
  MUST(munmap(memory, 2048 * kPage));
  EXPECT_LT(ProcField("/proc/self/status", "VmRSS"), before + 4096);
}
