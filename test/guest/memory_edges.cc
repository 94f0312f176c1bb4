// Memory calls at their edges: every flag that must be refused, ranges with holes, what advice does to the content, what
// /proc tells of it.
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/uio.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

// The line of /proc/self/maps that holds `address`; its permissions in `permissions`.
bool FindMap(const void* address, char (&permissions)[5]) {
  static char text[131072];
  ReadFile("/proc/self/maps", text, sizeof(text));
  const auto wanted = reinterpret_cast<unsigned long>(address);
  for (char* line = text; line != nullptr && *line != '\0'; line = strchr(line, '\n'), line = line != nullptr ? line + 1 : nullptr) {
    unsigned long start = 0, end = 0;
    if (sscanf(line, "%lx-%lx %4s", &start, &end, permissions) == 3 && start <= wanted && wanted < end) return true;
  }
  return false;
}

bool Readable(const void* address) {
  Pipe p;
  return write(p.w, address, 1) == 1;
}

}  // namespace

GUEST_TEST(MmapEdge, FlagsAndDescriptors) {
  const int file = TempFile("content");
  EXPECT_ERRNO(mmap(nullptr, kPage, PROT_READ, MAP_PRIVATE, -1, 0), EBADF);
  EXPECT_ERRNO(mmap(nullptr, kPage, PROT_READ, MAP_PRIVATE, 999, 0), EBADF);
  EXPECT_ERRNO(mmap(nullptr, kPage, PROT_READ, MAP_PRIVATE, file, 1), EINVAL);
  EXPECT_ERRNO(mmap(nullptr, kPage, PROT_READ, 0, file, 0), EINVAL);
  EXPECT_ERRNO(mmap(nullptr, 0, PROT_READ, MAP_PRIVATE, file, 0), EINVAL);
  EXPECT_ERRNO(mmap(nullptr, SIZE_MAX, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), ENOMEM);
  EXPECT_ERRNO(mmap(nullptr, 1ul << 47, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0), ENOMEM);
  EXPECT_ERRNO(mmap(reinterpret_cast<void*>(1), kPage, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), EINVAL);
  const int path = MUST(open("/tmp", O_PATH));
  EXPECT_ERRNO(mmap(nullptr, kPage, PROT_READ, MAP_PRIVATE, path, 0), EBADF);
  EXPECT_ERRNO(mmap(nullptr, kPage, PROT_READ, MAP_PRIVATE, MUST(open("/tmp", O_RDONLY)), 0), ENODEV);
}

GUEST_TEST(MmapEdge, SharedValidateKnowsItsFlags) {
  const int file = TempFile("content");
  EXPECT_OK(mmap(nullptr, kPage, PROT_READ, 3 /*MAP_SHARED_VALIDATE*/, file, 0));
  EXPECT_ERRNO(mmap(nullptr, kPage, PROT_READ, 3 | 0x400000, file, 0), EOPNOTSUPP);
  EXPECT_OK(mmap(nullptr, kPage, PROT_READ, MAP_SHARED | 0x400000, file, 0));  // The old kind ignores what it doesn't know.
}

GUEST_TEST(MmapEdge, WriteOnlyDescriptors) {
  TempDir dir;
  WriteFile(dir / "f", "content");
  const int writer = MUST(open(dir / "f", O_WRONLY)), reader = MUST(open(dir / "f", O_RDONLY));
  EXPECT_ERRNO(mmap(nullptr, kPage, PROT_WRITE, MAP_SHARED, writer, 0), EACCES);  // Reading is always needed.
  EXPECT_ERRNO(mmap(nullptr, kPage, PROT_WRITE, MAP_SHARED, reader, 0), EACCES);
  char* memory = static_cast<char*>(MUST(mmap(nullptr, kPage, PROT_READ, MAP_SHARED, reader, 0)));
  EXPECT_ERRNO(mprotect(memory, kPage, PROT_READ | PROT_WRITE), EACCES);
  char* copy = static_cast<char*>(MUST(mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, reader, 0)));
  copy[0] = 'X';
  CheckpointHere();
  EXPECT_EQ(copy[0], 'X');
  EXPECT_EQ(memory[0], 'c');
}

GUEST_TEST(MmapEdge, AddressSpaceLimit) {
  rlimit limit = {};
  MUST(getrlimit(RLIMIT_AS, &limit));
  limit.rlim_cur = 1ul << 30;
  MUST(setrlimit(RLIMIT_AS, &limit));
  EXPECT_ERRNO(mmap(nullptr, 2ul << 30, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0), ENOMEM);
  char* memory = Pages(1);
  EXPECT_ERRNO(mremap(memory, kPage, 2ul << 30, MREMAP_MAYMOVE), ENOMEM);
  EXPECT_EQ(memory[0], 0);
}

GUEST_TEST(MmapEdge, WholeRangeIsReplacedOrNothing) {
  char* memory = Pages(3);
  memory[kPage] = 'm';
  EXPECT_ERRNO(mmap(memory, 3 * kPage, PROT_READ, MAP_SHARED | MAP_FIXED, 999, 0), EBADF);
  EXPECT_EQ(memory[kPage], 'm');
  EXPECT_EQ(mmap(memory + kPage, kPage, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), memory + kPage);
  EXPECT_EQ(memory[kPage], 0);
}

GUEST_TEST(MprotectEdge, RangesAndFlags) {
  char* memory = Pages(4);
  EXPECT_ERRNO(mprotect(memory + 1, kPage, PROT_READ), EINVAL);
  EXPECT_ERRNO(mprotect(memory, kPage, 0x100), EINVAL);
  EXPECT_ERRNO(mprotect(memory, kPage, PROT_READ | PROT_GROWSDOWN | PROT_GROWSUP), EINVAL);
  EXPECT_ERRNO(mprotect(memory, kPage, PROT_READ | PROT_GROWSDOWN), EINVAL);  // It isn't such a mapping.
  EXPECT_OK(mprotect(memory, 0, PROT_READ));
  MUST(munmap(memory + 2 * kPage, kPage));
  EXPECT_ERRNO(mprotect(memory, 4 * kPage, PROT_READ), ENOMEM);
  char permissions[5];
  EXPECT(FindMap(memory, permissions));
  EXPECT_STREQ(permissions, "r--p");  // What lay before the hole has changed.
  EXPECT(FindMap(memory + 3 * kPage, permissions));
  EXPECT_STREQ(permissions, "rw-p");
}

GUEST_TEST(MprotectEdge, PkeyMprotectWithoutAKey) {
  char* memory = Pages(1);
  EXPECT_OK(Call(SYS_pkey_mprotect, memory, kPage, PROT_READ, -1));
  char permissions[5];
  EXPECT(FindMap(memory, permissions));
  EXPECT_STREQ(permissions, "r--p");
  EXPECT_ERRNO(Call(SYS_pkey_mprotect, memory, kPage, PROT_READ, 77), EINVAL);
}

GUEST_TEST(MunmapEdge, Ranges) {
  char* memory = Pages(2);
  EXPECT_ERRNO(munmap(memory + 1, kPage), EINVAL);
  EXPECT_ERRNO(munmap(memory, 0), EINVAL);
  EXPECT_ERRNO(munmap(memory, SIZE_MAX), EINVAL);
  EXPECT_ERRNO(munmap(reinterpret_cast<void*>(kKernelAddress & ~0xffful), kPage), EINVAL);
  EXPECT_OK(munmap(memory, kPage + 1));
  EXPECT(!Readable(memory));
  EXPECT(!Readable(memory + kPage));
  EXPECT_OK(munmap(memory, 2 * kPage));  // What isn't mapped is no error.
}

GUEST_TEST(MremapEdge, Arguments) {
  char* memory = Pages(4);
  EXPECT_ERRNO(mremap(memory + 1, kPage, kPage, 0), EINVAL);
  EXPECT_ERRNO(mremap(memory, kPage, 0, 0), EINVAL);
  EXPECT_ERRNO(mremap(memory, kPage, kPage, 0x40), EINVAL);
  EXPECT_ERRNO(mremap(memory, kPage, kPage, MREMAP_FIXED, memory + 8 * kPage), EINVAL);                       // Fixed, and may not move.
  EXPECT_ERRNO(mremap(memory, 4 * kPage, 4 * kPage, MREMAP_MAYMOVE | MREMAP_FIXED, memory + kPage), EINVAL);  // Onto itself.
  EXPECT_ERRNO(mremap(memory, kPage, kPage, MREMAP_MAYMOVE | MREMAP_FIXED, memory + 1), EINVAL);
  MUST(munmap(memory + kPage, kPage));
  EXPECT_ERRNO(mremap(memory + kPage, kPage, 2 * kPage, MREMAP_MAYMOVE), EFAULT);
  EXPECT_ERRNO(mremap(memory, 3 * kPage, 8 * kPage, MREMAP_MAYMOVE), EFAULT);  // Over a hole.
}

GUEST_TEST(MremapEdge, MovedFilePagesKeepTheirFile) {
  const int file = TempFile();
  MUST(ftruncate(file, 2 * kPage));
  MUST(pwrite(file, "second", 6, kPage));
  char* memory = static_cast<char*>(MUST(mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0)));
  char* moved = static_cast<char*>(MUST(mremap(memory, kPage, 2 * kPage, MREMAP_MAYMOVE)));
  CheckpointHere();
  EXPECT_EQ(memcmp(moved + kPage, "second", 6), 0);
  moved[0] = 'w';
  char byte = 0;
  EXPECT_EQ(pread(file, &byte, 1, 0), 1);
  EXPECT_EQ(byte, 'w');
}

GUEST_TEST(MadviseEdge, Arguments) {
  char* memory = Pages(4);
  EXPECT_ERRNO(madvise(memory + 1, kPage, MADV_NORMAL), EINVAL);
  EXPECT_ERRNO(madvise(memory, kPage, 9999), EINVAL);
  EXPECT_ERRNO(madvise(memory, SIZE_MAX - kPage, MADV_NORMAL), EINVAL);
  EXPECT_OK(madvise(memory, 0, MADV_DONTNEED));
  for (const int advice :
       {MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED, MADV_DONTDUMP, MADV_DODUMP, MADV_DONTFORK, MADV_DOFORK, 20, 21}) {
    EXPECT_OK(madvise(memory, kPage, advice));
  }
  MUST(munmap(memory + kPage, kPage));
  memory[2 * kPage] = 'x';
  EXPECT_ERRNO(madvise(memory, 3 * kPage, MADV_DONTNEED), ENOMEM);
  EXPECT_EQ(memory[2 * kPage], 0);  // What is mapped was treated all the same.
}

GUEST_TEST(MadviseEdge, KindsOfMemory) {
  char* shared = static_cast<char*>(MUST(mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)));
  EXPECT_ERRNO(madvise(shared, kPage, MADV_FREE), EINVAL);
  EXPECT_ERRNO(madvise(shared, kPage, 18 /*MADV_WIPEONFORK*/), EINVAL);
  char* memory = Pages(1);
  EXPECT_ERRNO(madvise(memory, kPage, MADV_REMOVE), EINVAL);
  shared[0] = 'x';
  EXPECT_OK(madvise(shared, kPage, MADV_REMOVE));  // A hole in the memory's file.
  EXPECT_EQ(shared[0], 0);
}

GUEST_TEST(MadviseEdge, PopulateAndItsErrors) {
  char* memory = Pages(4);
  if (madvise(memory, 4 * kPage, 23 /*MADV_POPULATE_WRITE*/) < 0 && errno == EINVAL) Skip("no MADV_POPULATE_WRITE");
  unsigned char resident[4] = {};
  MUST(mincore(memory, 4 * kPage, resident));
  EXPECT_EQ(resident[3] & 1, 1);
  MUST(mprotect(memory, kPage, PROT_READ));
  EXPECT_ERRNO(madvise(memory, kPage, 23), EINVAL);
  EXPECT_OK(madvise(memory, kPage, 22 /*MADV_POPULATE_READ*/));
  MUST(munmap(memory, kPage));
  EXPECT_ERRNO(madvise(memory, kPage, 22), ENOMEM);
}

GUEST_TEST(MincoreEdge, Arguments) {
  char* memory = Pages(3);
  unsigned char resident[3] = {};
  EXPECT_ERRNO(mincore(memory + 1, kPage, resident), EINVAL);
  EXPECT_ERRNO(mincore(memory, kPage, kBad), EFAULT);
  EXPECT_OK(mincore(memory, 0, resident));
  memory[kPage] = 'x';
  EXPECT_OK(mincore(memory, 3 * kPage, resident));
  EXPECT_EQ(resident[1] & 1, 1);
  EXPECT_EQ(resident[2] & 1, 0);
  MUST(munmap(memory + kPage, kPage));
  EXPECT_ERRNO(mincore(memory, 3 * kPage, resident), ENOMEM);
}

GUEST_TEST(MsyncEdge, FlagsAndHoles) {
  const int file = TempFile();
  MUST(ftruncate(file, 3 * kPage));
  char* memory = static_cast<char*>(MUST(mmap(nullptr, 3 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0)));
  EXPECT_ERRNO(msync(memory + 1, kPage, MS_SYNC), EINVAL);
  EXPECT_ERRNO(msync(memory, kPage, MS_SYNC | MS_ASYNC), EINVAL);
  EXPECT_ERRNO(msync(memory, kPage, 8), EINVAL);
  EXPECT_OK(msync(memory, kPage, 0));
  EXPECT_OK(msync(memory, kPage, MS_INVALIDATE | MS_SYNC));
  EXPECT_OK(msync(memory, 0, MS_SYNC));
  MUST(munmap(memory + kPage, kPage));
  EXPECT_ERRNO(msync(memory, 3 * kPage, MS_SYNC), ENOMEM);
  MUST(mlock(memory, kPage));
  EXPECT_ERRNO(msync(memory, kPage, MS_INVALIDATE), EBUSY);
}

GUEST_TEST(MlockEdge, Ranges) {
  char* memory = Pages(4);
  EXPECT_OK(mlock(memory + 100, 1));  // The page around it.
  EXPECT_EQ(ProcField("/proc/self/status", "VmLck"), 4);
  EXPECT_OK(mlock(memory, 0));
  EXPECT_OK(munlock(memory, kPage));
  EXPECT_EQ(ProcField("/proc/self/status", "VmLck"), 0);
  MUST(munmap(memory + kPage, kPage));
  EXPECT_ERRNO(mlock(memory, 3 * kPage), ENOMEM);
  EXPECT_ERRNO(munlock(memory, 3 * kPage), ENOMEM);
  EXPECT_ERRNO(mlock(memory, -2 * kPage), EINVAL);  // The end wraps.
  EXPECT_ERRNO(Call(SYS_mlock2, memory, kPage, 2), EINVAL);
  EXPECT_OK(Call(SYS_mlock2, memory, kPage, 1 /*MLOCK_ONFAULT*/));
}

GUEST_TEST(MlockEdge, ForkDoesNotInherit) {
  char* memory = Pages(2);
  MUST(mlock(memory, 2 * kPage));
  JOIN_OK(Fork([] { EXPECT_EQ(ProcField("/proc/self/status", "VmLck"), 0); }));
  EXPECT_EQ(ProcField("/proc/self/status", "VmLck"), 8);
  CheckpointHere();
  EXPECT_EQ(ProcField("/proc/self/status", "VmLck"), 8);
  MUST(munmap(memory, 2 * kPage));
  EXPECT_EQ(ProcField("/proc/self/status", "VmLck"), 0);
}

GUEST_TEST(BrkEdge, LimitsAndOverlap) {
  char* start = reinterpret_cast<char*>(syscall(SYS_brk, 0));
  EXPECT_EQ(reinterpret_cast<char*>(syscall(SYS_brk, start + 3 * kPage)), start + 3 * kPage);
  start[2 * kPage] = 'h';
  EXPECT_EQ(reinterpret_cast<char*>(syscall(SYS_brk, 1ul << 62)), start + 3 * kPage);
  char* end = reinterpret_cast<char*>((reinterpret_cast<unsigned long>(start) + 3 * kPage + kPage - 1) & ~(kPage - 1));
  if (mmap(end, kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == end) {
    EXPECT_EQ(reinterpret_cast<char*>(syscall(SYS_brk, start + 8 * kPage)), start + 3 * kPage);  // Something is in the way.
  }
  CheckpointHere();
  EXPECT_EQ(start[2 * kPage], 'h');
  EXPECT_EQ(reinterpret_cast<char*>(syscall(SYS_brk, start)), start);
}

GUEST_TEST(ProcessVmEdge, Arguments) {
  char from[] = "payload", to[16] = {};
  iovec local = {to, 7}, remote = {from, 7};
  EXPECT_EQ(process_vm_readv(getpid(), &local, 1, &remote, 1, 0), 7);
  EXPECT_STREQ(to, "payload");
  EXPECT_ERRNO(process_vm_readv(getpid(), &local, 1, &remote, 1, 1), EINVAL);
  EXPECT_ERRNO(process_vm_readv(4'000'000, &local, 1, &remote, 1, 0), ESRCH);
  EXPECT_ERRNO(process_vm_readv(getpid(), kBad, 1, &remote, 1, 0), EFAULT);
  EXPECT_ERRNO(process_vm_readv(getpid(), &local, 1025, &remote, 1, 0), EINVAL);
  EXPECT_EQ(process_vm_readv(getpid(), &local, 0, &remote, 1, 0), 0);
  remote.iov_base = reinterpret_cast<void*>(kBadAddress);
  EXPECT_ERRNO(process_vm_readv(getpid(), &local, 1, &remote, 1, 0), EFAULT);
  AS_USER([&] { EXPECT_ERRNO(process_vm_readv(1, &local, 1, &remote, 1, 0), EPERM); });
}

GUEST_TEST(ProcessVmEdge, PartialAtABadPage) {
  char* memory = Pages(2);
  memset(memory, 'm', kPage);
  MUST(mprotect(memory + kPage, kPage, PROT_NONE));
  static char into[2 * kPage];
  iovec local = {into, sizeof(into)}, remote[2] = {{memory, kPage}, {memory + kPage, kPage}};
  EXPECT_EQ(process_vm_readv(getpid(), &local, 1, remote, 2, 0), kPage);
  EXPECT_EQ(into[kPage - 1], 'm');
  local.iov_len = kPage;
  char* target = Pages(1, PROT_READ);
  iovec readonly = {target, 1};
  EXPECT_ERRNO(process_vm_writev(getpid(), &local, 1, &readonly, 1, 0), EFAULT);
}

GUEST_TEST(ProcessMadviseEdge, Arguments) {
  char* memory = Pages(2);
  const int pidfd = MUST(Call(SYS_pidfd_open, getpid(), 0));
  iovec range = {memory, kPage};
  if (syscall(440, pidfd, &range, 1, 20, 0) < 0 && errno == ENOSYS) Skip("no process_madvise");
  EXPECT_EQ(syscall(440, pidfd, &range, 1, 20 /*MADV_COLD*/, 0), kPage);
  EXPECT_ERRNO(syscall(440, pidfd, &range, 1, 20, 1), EINVAL);
  EXPECT_ERRNO(syscall(440, 999, &range, 1, 20, 0), EBADF);
  EXPECT_ERRNO(syscall(440, pidfd, kBadAddress, 1, 20, 0), EFAULT);
  range.iov_base = memory + 1;
  EXPECT_ERRNO(syscall(440, pidfd, &range, 1, 20, 0), EINVAL);
}

GUEST_TEST(ProcessMrelease, OnlyOfTheDying) {
  const int self = MUST(Call(SYS_pidfd_open, getpid(), 0));
  if (syscall(448, self, 0) < 0 && errno == ENOSYS) Skip("no process_mrelease");
  EXPECT_ERRNO(syscall(448, self, 0), EINVAL);
  EXPECT_ERRNO(syscall(448, self, 1), EINVAL);
  EXPECT_ERRNO(syscall(448, 999, 0), EBADF);
  EXPECT_ERRNO(syscall(448, TempFile(), 0), EBADF);
}

GUEST_TEST(MapsEdge, PermissionsAndOffsets) {
  char permissions[5];
  const int file = TempFile();
  MUST(ftruncate(file, 4 * kPage));
  void* shared = MUST(mmap(nullptr, kPage, PROT_READ | PROT_EXEC, MAP_SHARED, file, 2 * kPage));
  EXPECT(FindMap(shared, permissions));
  EXPECT_STREQ(permissions, "r-xs");
  char* none = Pages(1, PROT_NONE);
  EXPECT(FindMap(none, permissions));
  EXPECT_STREQ(permissions, "---p");
  CheckpointHere();
  EXPECT(FindMap(shared, permissions));
  EXPECT_STREQ(permissions, "r-xs");
  EXPECT(!FindMap(reinterpret_cast<void*>(kBadAddress), permissions));
}

GUEST_TEST(CowEdge, ForkedCopiesBothWrite) {
  char* memory = Pages(2);
  memory[0] = 'p';
  Gate ready, go;
  const pid_t pid = Fork([&] {
    EXPECT_EQ(memory[0], 'p');
    memory[0] = 'c';
    ready.Open();
    go.Await();
    EXPECT_EQ(memory[0], 'c');
  });
  ready.Await();
  EXPECT_EQ(memory[0], 'p');
  memory[0] = 'q';
  CheckpointHere();
  go.Open();
  JOIN_OK(pid);
  EXPECT_EQ(memory[0], 'q');
}

GUEST_TEST(CowEdge, KernelWritesBreakItToo) {
  char* memory = Pages(1);
  memory[0] = 'p';
  Gate done, seen;
  const pid_t pid = Fork([&] {
    const int file = TempFile("kernel");
    MUST(read(file, memory, 6));
    done.Open();
    seen.Await();
    EXPECT_EQ(memory[0], 'k');
  });
  done.Await();
  EXPECT_EQ(memory[0], 'p');
  seen.Open();
  JOIN_OK(pid);
}

namespace {

constexpr int kGuardInstall = 102, kGuardRemove = 103;

char* GuardedMemory(size_t pages) {
  auto* memory = static_cast<char*>(mmap(nullptr, pages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (madvise(memory, kPage, kGuardInstall) < 0 && errno == EINVAL) Skip("an older kernel");
  MUST(madvise(memory, kPage, kGuardRemove));
  memset(memory, 7, pages * kPage);
  return memory;
}

void ExpectFault(char* at) {
  const pid_t pid = fork();
  if (pid == 0) {
    *static_cast<volatile char*>(at) = 1;
    _exit(0);
  }
  EXPECT_KILLED(WaitStatus(pid), SIGSEGV);
}

}  // namespace

GUEST_TEST(MemoryEdge, GuardRegions) {
  char* memory = GuardedMemory(6);
  MUST(madvise(memory + kPage, 2 * kPage, kGuardInstall));
  auto check = [=] {
    for (int page : {1, 2}) {
      EXPECT(!Readable(memory + page * static_cast<long>(kPage)));
      ExpectFault(memory + page * static_cast<long>(kPage));
    }
    EXPECT_EQ(memory[0], 7);
    EXPECT_EQ(memory[3 * kPage], 7);
  };
  check();
  CheckpointHere();
  check();
  JOIN_OK(Fork(check));
  // Emptying them leaves them what they are, and so does another protection.
  MUST(madvise(memory, 3 * kPage, MADV_DONTNEED));
  EXPECT_EQ(memory[0], 0);
  memory[0] = 7;
  MUST(mprotect(memory, 6 * kPage, PROT_READ));
  MUST(mprotect(memory, 6 * kPage, PROT_READ | PROT_WRITE));
  check();
  // The mapping stays one.
  char* moved = static_cast<char*>(mremap(memory, 6 * kPage, 8 * kPage, MREMAP_MAYMOVE));
  ASSERT(moved != MAP_FAILED);
  EXPECT(!Readable(moved + kPage));
  EXPECT_EQ(moved[3 * kPage], 7);
  EXPECT_EQ(moved[7 * kPage], 0);
  MUST(madvise(moved, 2 * kPage, kGuardRemove));
  EXPECT_EQ(moved[kPage], 0);  // What was there is gone.
  moved[kPage] = 9;
  EXPECT(!Readable(moved + 2 * kPage));
  CheckpointHere();
  EXPECT_EQ(moved[kPage], 9);
  EXPECT(!Readable(moved + 2 * kPage));
  // On memory that a checkpoint has kept, too.
  MUST(madvise(moved + 3 * kPage, kPage, kGuardInstall));
  ExpectFault(moved + 3 * kPage);
  MUST(madvise(moved + 3 * kPage, kPage, kGuardRemove));
  EXPECT_EQ(moved[3 * kPage], 0);
  EXPECT_EQ(moved[4 * kPage], 7);
}

GUEST_TEST(MemoryEdge, GuardRegionsAreChecked) {
  char* memory = GuardedMemory(4);
  MUST(munmap(memory + kPage, kPage));
  EXPECT_ERRNO(madvise(memory, 4 * kPage, kGuardInstall), ENOMEM);
  EXPECT(!Readable(memory));  // As far as there is memory.
  EXPECT(!Readable(memory + 2 * kPage));
  EXPECT_ERRNO(madvise(memory + 1, kPage, kGuardInstall), EINVAL);
  MUST(madvise(memory, kPage, kGuardRemove));
  MUST(mlock(memory, kPage));
  EXPECT_ERRNO(madvise(memory, kPage, kGuardInstall), EINVAL);
  EXPECT_OK(madvise(memory, kPage, kGuardRemove));
  // Children do not inherit guards of memory that they get empty.
  MUST(madvise(memory + 2 * kPage, 2 * kPage, MADV_WIPEONFORK));
  JOIN_OK(Fork([=] {
    EXPECT(Readable(memory + 2 * kPage));
    EXPECT_EQ(memory[3 * kPage], 0);
  }));
}
