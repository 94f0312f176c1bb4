// Mapped files, memfd_create and its seals, msync, and what /proc says of it.
#include <linux/magic.h>
#include <setjmp.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <sys/vfs.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

int PagesFile(int pages) {
  const int fd = TempFile();
  for (int i = 0; i < pages; ++i) {
    char page[kPage];
    memset(page, 'a' + i, kPage);
    ASSERT_EQ(write(fd, page, kPage), kPage);
  }
  return fd;
}

char* MapFile(int fd, size_t pages, int flags, int protection = PROT_READ | PROT_WRITE, off_t offset = 0) {
  return static_cast<char*>(MUST(mmap(nullptr, pages * kPage, protection, flags, fd, offset)));
}

struct MapsLine {
  unsigned long start, end, offset, inode;
  char permissions[8];
  char path[512];
};

// The line of /proc/self/maps that holds an address.
bool FindMapping(const void* address, MapsLine& line) {
  static char text[1 << 18];
  ReadFile("/proc/self/maps", text, sizeof(text));
  const auto wanted = reinterpret_cast<unsigned long>(address);
  for (char* at = text; at != nullptr && *at != '\0';) {
    char* next = strchr(at, '\n');
    if (next != nullptr) *next++ = '\0';
    unsigned major = 0, minor = 0;
    line = {};
    if (sscanf(at, "%lx-%lx %7s %lx %x:%x %lu %511[^\n]", &line.start, &line.end, line.permissions, &line.offset, &major, &minor, &line.inode,
               line.path) >= 7 &&
        line.start <= wanted && wanted < line.end) {
      return true;
    }
    at = next;
  }
  return false;
}

int AddSeals(int fd, int seals) { return fcntl(fd, F_ADD_SEALS, seals); }

}  // namespace

GUEST_TEST(MapFile, PrivateIsCopyOnWrite) {
  const int fd = PagesFile(2);
  char* memory = MapFile(fd, 2, MAP_PRIVATE);
  memory[0] = 'X';
  CheckpointHere();
  EXPECT_EQ(memory[0], 'X');
  EXPECT_EQ(memory[1], 'a');
  EXPECT_EQ(memory[kPage], 'b');
  char byte = 0;
  EXPECT_EQ(pread(fd, &byte, 1, 0), 1);
  EXPECT_EQ(byte, 'a');
  MUST(madvise(memory, kPage, MADV_DONTNEED));
  EXPECT_EQ(memory[0], 'a');  // The file's content is back.
}

GUEST_TEST(MapFile, SharedWritesReachTheFile) {
  const int fd = PagesFile(2);
  char* memory = MapFile(fd, 2, MAP_SHARED);
  memory[5] = 'X';
  CheckpointHere();
  char byte = 0;
  EXPECT_EQ(pread(fd, &byte, 1, 5), 1);
  EXPECT_EQ(byte, 'X');
  EXPECT_EQ(pwrite(fd, "Y", 1, kPage + 7), 1);
  EXPECT_EQ(memory[kPage + 7], 'Y');
  EXPECT_OK(msync(memory, 2 * kPage, MS_SYNC));
}

GUEST_TEST(MapFile, TwoSharedMappingsAgree) {
  const int fd = PagesFile(1);
  char* first = MapFile(fd, 1, MAP_SHARED);
  char* second = MapFile(fd, 1, MAP_SHARED);
  first[0] = '1';
  EXPECT_EQ(second[0], '1');
  close(fd);  // The mapping keeps the file.
  CheckpointHere();
  second[1] = '2';
  EXPECT_EQ(first[1], '2');
}

GUEST_TEST(MapFile, OffsetSelects) {
  const int fd = PagesFile(4);
  char* memory = MapFile(fd, 1, MAP_PRIVATE, PROT_READ, 2 * kPage);
  EXPECT_EQ(memory[0], 'c');
}

GUEST_TEST(MapFile, TailOfTheLastPageIsZero) {
  const int fd = TempFile("12345");
  char* memory = MapFile(fd, 1, MAP_SHARED);
  EXPECT_EQ(memory[4], '5');
  for (size_t i = 5; i < kPage; ++i) EXPECT_EQ(memory[i], 0);
  memory[100] = 'z';  // Beyond the end: never reaches the file.
  struct stat status = {};
  MUST(fstat(fd, &status));
  EXPECT_EQ(status.st_size, 5);
}

GUEST_TEST(MapFile, PermissionsFollowTheDescriptor) {
  TempDir dir;
  WriteFile(dir / "f", "content");
  const int reader = MUST(open(dir / "f", O_RDONLY));
  EXPECT_ERRNO(mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, reader, 0), EACCES);
  EXPECT_OK(mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, reader, 0));
  char* shared = MapFile(reader, 1, MAP_SHARED, PROT_READ);
  EXPECT_ERRNO(mprotect(shared, kPage, PROT_READ | PROT_WRITE), EACCES);
  const int writer = MUST(open(dir / "f", O_WRONLY));
  EXPECT_ERRNO(mmap(nullptr, kPage, PROT_WRITE, MAP_SHARED, writer, 0), EACCES);
}

GUEST_TEST(MapFile, WhatCannotBeMapped) {
  Pipe p;
  EXPECT_ERRNO(mmap(nullptr, kPage, PROT_READ, MAP_PRIVATE, p.r, 0), ENODEV);
  const int folder = MUST(open("/tmp", O_RDONLY));
  EXPECT_ERRNO(mmap(nullptr, kPage, PROT_READ, MAP_PRIVATE, folder, 0), ENODEV);
  const int path = MUST(open("/tmp", O_PATH));
  EXPECT_ERRNO(mmap(nullptr, kPage, PROT_READ, MAP_PRIVATE, path, 0), EBADF);
}

GUEST_TEST(MapFile, TruncationTakesThePages) {
  static sigjmp_buf recovery;
  Handle(SIGBUS, [](int, siginfo_t*, void*) { siglongjmp(recovery, 1); });
  const int fd = PagesFile(2);
  char* memory = MapFile(fd, 2, MAP_SHARED);
  EXPECT_EQ(memory[kPage], 'b');
  MUST(ftruncate(fd, kPage));
  bool faulted = false;
  if (sigsetjmp(recovery, 1) == 0) {
    (void)*static_cast<volatile char*>(memory + kPage);
  } else {
    faulted = true;
  }
  EXPECT(faulted);
  MUST(ftruncate(fd, 2 * kPage));
  EXPECT_EQ(memory[kPage], 0);
}

GUEST_TEST(MapFile, ZeroDevice) {
  const int fd = MUST(open("/dev/zero", O_RDWR));
  char* memory = MapFile(fd, 2, MAP_PRIVATE);
  EXPECT_EQ(memory[0], 0);
  memory[0] = 'z';
  CheckpointHere();
  EXPECT_EQ(memory[0], 'z');
  char* shared = MapFile(fd, 1, MAP_SHARED);
  const pid_t pid = Fork([=] { shared[0] = 's'; });
  JOIN_OK(pid);
  EXPECT_EQ(shared[0], 's');
}

GUEST_TEST(MapFile, DeletedFileStaysMapped) {
  TempDir dir;
  WriteFile(dir / "f", "going");
  const int fd = MUST(open(dir / "f", O_RDWR));
  char* memory = MapFile(fd, 1, MAP_SHARED);
  MUST(unlink(dir / "f"));
  close(fd);
  memory[0] = 'G';
  CheckpointHere();
  EXPECT_EQ(memory[0], 'G');
  EXPECT_EQ(memory[1], 'o');
  MapsLine line;
  ASSERT(FindMapping(memory, line));
  EXPECT_STREQ(line.path, Str("%s (deleted)", (dir / "f").c_str()));
}

GUEST_TEST(Msync, Arguments) {
  char* memory = Pages(3);
  EXPECT_OK(msync(memory, 3 * kPage, MS_SYNC));
  EXPECT_ERRNO(msync(memory + 1, kPage, MS_SYNC), EINVAL);
  EXPECT_ERRNO(msync(memory, kPage, MS_SYNC | MS_ASYNC), EINVAL);
  MUST(munmap(memory + kPage, kPage));
  EXPECT_ERRNO(msync(memory, 3 * kPage, MS_SYNC), ENOMEM);
}

GUEST_TEST(Memfd, IsAFile) {
  const int fd = MUST(memfd_create("some-name", 0));
  EXPECT_EQ(write(fd, "hello", 5), 5);
  char link[64] = {};
  MUST(readlink(Str("/proc/self/fd/%d", fd), link, sizeof(link) - 1));
  EXPECT_STREQ(link, "/memfd:some-name (deleted)");
  struct stat status = {};
  MUST(fstat(fd, &status));
  EXPECT(S_ISREG(status.st_mode));
  EXPECT_EQ(status.st_nlink, 0);
  EXPECT_EQ(status.st_size, 5);
  char* memory = MapFile(fd, 1, MAP_SHARED);
  memory[0] = 'H';
  CheckpointHere();
  char text[8] = {};
  EXPECT_EQ(pread(fd, text, 8, 0), 5);
  EXPECT_STREQ(text, "Hello");
}

GUEST_TEST(Memfd, Arguments) {
  EXPECT_ERRNO(memfd_create("x", 0x8000), EINVAL);
  EXPECT_ERRNO(memfd_create(reinterpret_cast<char*>(8), 0), EFAULT);
  char name[300];
  memset(name, 'n', sizeof(name) - 1);
  name[299] = '\0';
  EXPECT_ERRNO(memfd_create(name, 0), EINVAL);
  const int fd = MUST(memfd_create("", MFD_CLOEXEC));
  EXPECT_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
}

GUEST_TEST(Memfd, SealsNeedToBeAllowed) {
  const int fd = MUST(memfd_create("x", 0));
  EXPECT_EQ(fcntl(fd, F_GET_SEALS), F_SEAL_SEAL);
  EXPECT_ERRNO(AddSeals(fd, F_SEAL_WRITE), EPERM);
  // Of files tmpfs's have seals, and never take any.
  const int file = TempFile();
  struct statfs st;
  MUST(fstatfs(file, &st));
  if (st.f_type == TMPFS_MAGIC) {
    EXPECT_EQ(fcntl(file, F_GET_SEALS), F_SEAL_SEAL);
  } else {
    EXPECT_ERRNO(fcntl(file, F_GET_SEALS), EINVAL);
  }
}

GUEST_TEST(Memfd, SizeSeals) {
  const int fd = MUST(memfd_create("x", MFD_ALLOW_SEALING));
  MUST(ftruncate(fd, kPage));
  EXPECT_OK(AddSeals(fd, F_SEAL_SHRINK));
  EXPECT_ERRNO(ftruncate(fd, 10), EPERM);
  EXPECT_OK(ftruncate(fd, 2 * kPage));
  EXPECT_OK(AddSeals(fd, F_SEAL_GROW));
  CheckpointHere();
  EXPECT_ERRNO(ftruncate(fd, 3 * kPage), EPERM);
  EXPECT_ERRNO(pwrite(fd, "x", 1, 2 * kPage), EPERM);
  EXPECT_EQ(pwrite(fd, "x", 1, 0), 1);
  EXPECT_EQ(fcntl(fd, F_GET_SEALS), F_SEAL_SHRINK | F_SEAL_GROW);
}

GUEST_TEST(Memfd, WriteSeal) {
  const int fd = MUST(memfd_create("x", MFD_ALLOW_SEALING));
  MUST(ftruncate(fd, kPage));
  char* memory = MapFile(fd, 1, MAP_SHARED);
  EXPECT_ERRNO(AddSeals(fd, F_SEAL_WRITE), EBUSY);
  MUST(munmap(memory, kPage));
  EXPECT_OK(AddSeals(fd, F_SEAL_WRITE | F_SEAL_SEAL));
  EXPECT_ERRNO(pwrite(fd, "x", 1, 0), EPERM);
  EXPECT_ERRNO(mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), EPERM);
  EXPECT_OK(mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0));
  EXPECT_ERRNO(AddSeals(fd, F_SEAL_GROW), EPERM);
}

GUEST_TEST(Memfd, FutureWriteSealKeepsOldMappings) {
  const int fd = MUST(memfd_create("x", MFD_ALLOW_SEALING));
  MUST(ftruncate(fd, kPage));
  char* memory = MapFile(fd, 1, MAP_SHARED);
  EXPECT_OK(AddSeals(fd, 0x10 /*F_SEAL_FUTURE_WRITE*/));
  memory[0] = 'x';
  EXPECT_EQ(memory[0], 'x');
  EXPECT_ERRNO(pwrite(fd, "x", 1, 0), EPERM);
  EXPECT_ERRNO(mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), EPERM);
}

GUEST_TEST(Memfd, SharedBetweenProcesses) {
  const int fd = MUST(memfd_create("x", 0));
  MUST(ftruncate(fd, 16 * kPage));
  char* memory = MapFile(fd, 16, MAP_SHARED);
  Gate go;
  const pid_t pid = Fork([&] {
    go.Await();
    char* own = MapFile(fd, 16, MAP_SHARED);
    for (int i = 0; i < 16; ++i) EXPECT_EQ(own[i * kPage], 'p');
    own[kPage] = 'c';
  });
  for (int i = 0; i < 16; ++i) memory[i * kPage] = 'p';
  CheckpointHere();
  go.Open();
  JOIN_OK(pid);
  EXPECT_EQ(memory[kPage], 'c');
}

GUEST_TEST(Maps, ShowMyMappings) {
  char* memory = Pages(3);
  MapsLine line;
  ASSERT(FindMapping(memory + kPage, line));
  EXPECT_STREQ(line.permissions, "rw-p");
  EXPECT_EQ(line.inode, 0);
  MUST(mprotect(memory + kPage, kPage, PROT_READ | PROT_EXEC));
  CheckpointHere();
  ASSERT(FindMapping(memory + kPage, line));
  EXPECT_STREQ(line.permissions, "r-xp");
  EXPECT_EQ(line.start, reinterpret_cast<unsigned long>(memory + kPage));
  EXPECT_EQ(line.end, line.start + kPage);
  MUST(munmap(memory + kPage, kPage));
  EXPECT(!FindMapping(memory + kPage, line));
}

GUEST_TEST(Maps, ShowFiles) {
  TempDir dir;
  WriteFile(dir / "a file", "content");
  const int fd = MUST(open(dir / "a file", O_RDWR));
  MUST(ftruncate(fd, 4 * kPage));
  char* memory = MapFile(fd, 2, MAP_SHARED, PROT_READ | PROT_WRITE, kPage);
  struct stat status = {};
  MUST(fstat(fd, &status));
  CheckpointHere();
  MapsLine line;
  ASSERT(FindMapping(memory, line));
  EXPECT_STREQ(line.permissions, "rw-s");
  EXPECT_EQ(line.offset, kPage);
  EXPECT_EQ(line.inode, status.st_ino);
  EXPECT_STREQ(line.path, dir / "a file");
}

GUEST_TEST(Maps, NameStackHeapAndVdso) {
  MapsLine line;
  int local = 0;
  ASSERT(FindMapping(&local, line));
  EXPECT_STREQ(line.path, "[stack]");
  EXPECT_STREQ(line.permissions, "rw-p");
  void* end = sbrk(kPage);
  ASSERT(FindMapping(end, line));
  EXPECT_STREQ(line.path, "[heap]");
  static char text[1 << 18];
  ReadFile("/proc/self/maps", text, sizeof(text));
  EXPECT_NE(strstr(text, "[vdso]"), nullptr);
  EXPECT_NE(strstr(text, SelfPath()), nullptr);
}

GUEST_TEST(Maps, AdjacentMappingsMerge) {
  char* memory = Pages(4);
  MUST(mprotect(memory + kPage, kPage, PROT_READ));
  MUST(mprotect(memory + kPage, kPage, PROT_READ | PROT_WRITE));
  MapsLine line;
  ASSERT(FindMapping(memory, line));
  EXPECT_GE(line.end, reinterpret_cast<unsigned long>(memory + 4 * kPage));
}

GUEST_TEST(Maps, MemFileReadsAndWrites) {
  static volatile char secret[] = "original";
  const int fd = MUST(open("/proc/self/mem", O_RDWR));
  const auto at = reinterpret_cast<off_t>(secret);
  char copy[9] = {};
  EXPECT_EQ(pread(fd, copy, 8, at), 8);
  EXPECT_STREQ(copy, "original");
  EXPECT_EQ(pwrite(fd, "O", 1, at), 1);
  EXPECT_EQ(secret[0], 'O');
  EXPECT_ERRNO(pread(fd, copy, 1, 16), EIO);
}

GUEST_TEST(ProcessVm, ReadsAndWritesAnother) {
  char* memory = Pages(2);
  strcpy(memory, "from the child");

  const pid_t pid = Fork([=] { pause(); });
  char copy[32] = {};
  iovec local = {copy, sizeof(copy)}, remote = {memory, sizeof(copy)};
  EXPECT_EQ(process_vm_readv(pid, &local, 1, &remote, 1, 0), sizeof(copy));
  EXPECT_STREQ(copy, "from the child");
  EXPECT_EQ(process_vm_writev(pid, &local, 1, &remote, 1, 0), sizeof(copy));
  remote.iov_base = reinterpret_cast<void*>(16);
  EXPECT_ERRNO(process_vm_readv(pid, &local, 1, &remote, 1, 0), EFAULT);
  EXPECT_ERRNO(process_vm_readv(pid, &local, 1, &remote, 1, 1), EINVAL);
  kill(pid, SIGKILL);
  WaitStatus(pid);
  EXPECT_ERRNO(process_vm_readv(pid, &local, 1, &remote, 1, 0), ESRCH);
}
