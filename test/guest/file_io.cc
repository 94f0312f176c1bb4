// Reading and writing files: offsets, vectors, partial transfers, copies between descriptors,
// holes.
#include <linux/falloc.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

off_t Size(int fd) {
  struct stat status = {};
  MUST(fstat(fd, &status));
  return status.st_size;
}

// A page that can be used with an unusable one after it.
char* PageBeforeGap() {
  char* memory = Pages(2);
  MUST(mprotect(memory + kPage, kPage, PROT_NONE));
  return memory;
}

}  // namespace

GUEST_TEST(FileIo, ReadWriteMoveTheOffset) {
  const int fd = TempFile();
  EXPECT_EQ(write(fd, "0123456789", 10), 10);
  EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 10);
  EXPECT_EQ(lseek(fd, 3, SEEK_SET), 3);
  CheckpointHere();
  char text[8] = {};
  EXPECT_EQ(read(fd, text, 4), 4);
  EXPECT_STREQ(text, "3456");
  EXPECT_EQ(lseek(fd, -2, SEEK_END), 8);
  EXPECT_EQ(read(fd, text, 8), 2);
  EXPECT_EQ(read(fd, text, 8), 0);
}

GUEST_TEST(FileIo, SeekRules) {
  const int fd = TempFile("abc");
  EXPECT_ERRNO(lseek(fd, -1, SEEK_SET), EINVAL);
  EXPECT_ERRNO(lseek(fd, 0, 99), EINVAL);
  EXPECT_EQ(lseek(fd, 100, SEEK_SET), 100);  // Beyond the end is fine.
  char byte;
  EXPECT_EQ(read(fd, &byte, 1), 0);
  EXPECT_EQ(write(fd, "z", 1), 1);
  EXPECT_EQ(Size(fd), 101);
  EXPECT_EQ(pread(fd, &byte, 1, 50), 1);
  EXPECT_EQ(byte, 0);
}

GUEST_TEST(FileIo, PreadPwriteLeaveTheOffset) {
  const int fd = TempFile("0123456789");
  char byte = 0;
  EXPECT_EQ(pread(fd, &byte, 1, 7), 1);
  EXPECT_EQ(byte, '7');
  EXPECT_EQ(pwrite(fd, "X", 1, 2), 1);
  EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 0);
  EXPECT_ERRNO(pread(fd, &byte, 1, -1), EINVAL);
  EXPECT_ERRNO(pwrite(fd, &byte, 1, -1), EINVAL);
  ExpectContent(fd, "01X3456789");
}

GUEST_TEST(FileIo, AppendWritesAtTheEnd) {
  TempDir dir;
  WriteFile(dir / "f", "abc");
  const int fd = MUST(open(dir / "f", O_RDWR | O_APPEND));
  EXPECT_EQ(lseek(fd, 0, SEEK_SET), 0);
  EXPECT_EQ(write(fd, "d", 1), 1);
  EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 4);
  CheckpointHere();
  const int other = MUST(open(dir / "f", O_WRONLY | O_APPEND));
  EXPECT_EQ(write(other, "e", 1), 1);
  EXPECT_EQ(write(fd, "f", 1), 1);
  ExpectContent(fd, "abcdef");
  EXPECT_EQ(pwrite(fd, "g", 1, 0), 1);  // On Linux even pwrite appends then.
  ExpectContent(fd, "abcdefg");
}

GUEST_TEST(FileIo, VectorsScatterAndGather) {
  const int fd = TempFile();
  char a[] = "one", b[] = "", c[] = "three";
  iovec out[3] = {{a, 3}, {b, 0}, {c, 5}};
  EXPECT_EQ(writev(fd, out, 3), 8);
  char x[3] = {}, y[8] = {};
  iovec in[2] = {{x, 2}, {y, 7}};
  EXPECT_EQ(preadv(fd, in, 2, 0), 8);
  EXPECT_STREQ(x, "on");
  EXPECT_STREQ(y, "ethree");
  EXPECT_EQ(pwritev(fd, out, 1, 1), 3);
  ExpectContent(fd, "oonehree");
}

GUEST_TEST(FileIo, VectorArguments) {
  const int fd = TempFile("abc");
  char byte;
  static iovec many[1025];
  for (iovec& one : many) one = {&byte, 0};
  EXPECT_ERRNO(readv(fd, many, 1025), EINVAL);
  EXPECT_EQ(readv(fd, many, 1024), 0);
  EXPECT_EQ(readv(fd, many, 0), 0);
  EXPECT_ERRNO(readv(fd, many, -1), EINVAL);
  iovec huge[2] = {{&byte, SIZE_MAX / 2}, {&byte, SIZE_MAX / 2 + 2}};
  EXPECT_ERRNO(readv(fd, huge, 2), EINVAL);
  EXPECT_ERRNO(readv(fd, reinterpret_cast<iovec*>(8), 1), EFAULT);
}

GUEST_TEST(FileIo, PreadvTwoFlags) {
  const int fd = TempFile("abc");
  char text[4] = {};
  iovec in = {text, 3};
  EXPECT_EQ(preadv2(fd, &in, 1, -1, 0), 3);  // -1: the file's own offset.
  EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 3);
  EXPECT_ERRNO(preadv2(fd, &in, 1, 0, 0x4000), EOPNOTSUPP);
  char more[] = "d";
  iovec out = {more, 1};
  EXPECT_EQ(pwritev2(fd, &out, 1, 0, RWF_APPEND), 1);
  ExpectContent(fd, "abcd");
}

GUEST_TEST(FileIo, PartialReadAtABadPage) {
  const int fd = TempFile();
  char* memory = PageBeforeGap();
  memset(memory, 'x', kPage);
  MUST(write(fd, memory, kPage));
  MUST(write(fd, memory, kPage));
  EXPECT_EQ(pread(fd, memory, 2 * kPage, 0), kPage);
  EXPECT_ERRNO(pread(fd, memory + kPage, kPage, 0), EFAULT);
}

GUEST_TEST(FileIo, PartialWriteAtABadPage) {
  const int fd = TempFile();
  char* memory = PageBeforeGap();
  memset(memory, 'x', kPage);
  const ssize_t wrote = write(fd, memory, 2 * kPage);
  EXPECT_EQ(wrote, kPage);
  EXPECT_EQ(Size(fd), kPage);
  EXPECT_ERRNO(write(fd, memory + kPage, 10), EFAULT);
}

GUEST_TEST(FileIo, PartialPipeWriteAtABadPage) {
  Pipe p;
  char* memory = PageBeforeGap();
  EXPECT_EQ(write(p.w, memory, 2 * kPage), kPage);
  static char text[3 * kPage];
  EXPECT_EQ(read(p.r, text, sizeof(text)), kPage);
}

GUEST_TEST(FileIo, LargeTransferIsCapped) {
  // One call moves at most 0x7ffff000 bytes.
  const int fd = MUST(open("/dev/zero", O_RDWR));
  const size_t size = 1ULL << 32;
  void* memory = MUST(mmap(nullptr, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  EXPECT_EQ(write(fd, memory, size), 0x7ffff000);
}

GUEST_TEST(FileIo, TruncateBothWays) {
  const int fd = TempFile("0123456789");
  MUST(ftruncate(fd, 4));
  MUST(ftruncate(fd, 8));
  char text[16];
  EXPECT_EQ(pread(fd, text, 16, 0), 8);
  EXPECT_EQ(memcmp(text, "0123\0\0\0\0", 8), 0);
  EXPECT_ERRNO(ftruncate(fd, -1), EINVAL);
  TempDir dir;
  WriteFile(dir / "f", "long content");
  MUST(truncate(dir / "f", 4));
  CheckpointHere();
  EXPECT_EQ(ReadFile(dir / "f", text, sizeof(text)), 4);
  const int reader = MUST(open(dir / "f", O_RDONLY));
  EXPECT_ERRNO(ftruncate(reader, 0), EINVAL);
  EXPECT_ERRNO(truncate(dir.path(), 0), EISDIR);
  EXPECT_ERRNO(truncate(dir / "none", 0), ENOENT);
}

GUEST_TEST(FileIo, SparseFileAndHoles) {
  const int fd = TempFile();
  MUST(pwrite(fd, "a", 1, 0));
  MUST(pwrite(fd, "b", 1, 1 << 20));
  struct stat status = {};
  MUST(fstat(fd, &status));
  EXPECT_EQ(status.st_size, (1 << 20) + 1);
  EXPECT_LT(status.st_blocks * 512, 1 << 20);
  CheckpointHere();
  const off_t hole = lseek(fd, 0, SEEK_HOLE);
  EXPECT_GT(hole, 0);
  EXPECT_LE(hole, 1 << 20);
  EXPECT_EQ(lseek(fd, hole, SEEK_DATA), 1 << 20);
  EXPECT_EQ(lseek(fd, (1 << 20) + 0, SEEK_HOLE), (1 << 20) + 1);
  EXPECT_ERRNO(lseek(fd, (1 << 20) + 1, SEEK_DATA), ENXIO);
}

GUEST_TEST(FileIo, Fallocate) {
  const int fd = TempFile("abc");
  MUST(fallocate(fd, 0, 0, 10000));
  EXPECT_EQ(Size(fd), 10000);
  MUST(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 100000));
  EXPECT_EQ(Size(fd), 10000);
  char text[5] = {};
  EXPECT_EQ(pread(fd, text, 5, 0), 5);
  EXPECT_EQ(memcmp(text, "abc\0\0", 5), 0);
  EXPECT_ERRNO(fallocate(fd, 0, -1, 10), EINVAL);
  EXPECT_ERRNO(fallocate(fd, 0, 0, 0), EINVAL);
  Pipe p;
  EXPECT_ERRNO(fallocate(p.w, 0, 0, 10), ESPIPE);
}

GUEST_TEST(FileIo, PunchHole) {
  const int fd = TempFile();
  char block[3 * kPage];
  memset(block, 'x', sizeof(block));
  MUST(write(fd, block, sizeof(block)));
  EXPECT_ERRNO(fallocate(fd, FALLOC_FL_PUNCH_HOLE, kPage, kPage), EOPNOTSUPP);
  MUST(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, kPage, kPage));
  MUST(pread(fd, block, sizeof(block), 0));
  EXPECT_EQ(block[kPage - 1], 'x');
  EXPECT_EQ(block[kPage], 0);
  EXPECT_EQ(block[2 * kPage], 'x');
  EXPECT_EQ(Size(fd), 3 * kPage);
}

GUEST_TEST(SendFile, FileToPipe) {
  const int fd = TempFile("0123456789");
  Pipe p;
  off_t offset = 3;
  EXPECT_EQ(sendfile(p.w, fd, &offset, 4), 4);
  EXPECT_EQ(offset, 7);
  EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 0);
  EXPECT_EQ(sendfile(p.w, fd, nullptr, 100), 10);
  EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 10);
  EXPECT_EQ(sendfile(p.w, fd, nullptr, 100), 0);
  char text[32] = {};
  EXPECT_EQ(read(p.r, text, 32), 14);
  EXPECT_STREQ(text, "34560123456789");
}

GUEST_TEST(SendFile, FileToFileAndSocket) {
  const int from = TempFile("payload"), to = TempFile();
  EXPECT_EQ(sendfile(to, from, nullptr, 100), 7);
  ExpectContent(to, "payload");
  int ends[2];
  MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
  off_t offset = 0;
  EXPECT_EQ(sendfile(ends[0], from, &offset, 7), 7);
  char text[8] = {};
  EXPECT_EQ(read(ends[1], text, 8), 7);
  Pipe p;
  EXPECT_ERRNO(sendfile(to, p.r, nullptr, 1), EINVAL);
  EXPECT_ERRNO(sendfile(p.r, from, nullptr, 1), EBADF);
}

GUEST_TEST(CopyFileRange, Copies) {
  const int from = TempFile("0123456789"), to = TempFile("----------");
  loff_t in = 2, out = 5;
  const ssize_t copied = copy_file_range(from, &in, to, &out, 3, 0);
  if (copied < 0 && errno == EXDEV) Skip("two file systems");
  EXPECT_EQ(copied, 3);
  EXPECT_EQ(in, 5);
  EXPECT_EQ(out, 8);
  ExpectContent(to, "-----234--");
  EXPECT_EQ(copy_file_range(from, nullptr, to, nullptr, 100, 0), 10);
  EXPECT_EQ(lseek(to, 0, SEEK_CUR), 10);
  EXPECT_ERRNO(copy_file_range(from, nullptr, to, nullptr, 1, 1), EINVAL);
  Pipe p;
  EXPECT_ERRNO(copy_file_range(p.r, nullptr, to, nullptr, 1, 0), EINVAL);
}

GUEST_TEST(CopyFileRange, OverlapIsRefused) {
  const int fd = TempFile("0123456789");
  loff_t in = 0, out = 2;
  EXPECT_ERRNO(copy_file_range(fd, &in, fd, &out, 5, 0), EINVAL);
}

GUEST_TEST(Splice, PipeToPipeAndFile) {
  Pipe a, b;
  MUST(write(a.w, "spliced", 7));
  EXPECT_EQ(splice(a.r, nullptr, b.w, nullptr, 100, SPLICE_F_NONBLOCK), 7);
  const int fd = TempFile();
  loff_t offset = 2;
  EXPECT_EQ(splice(b.r, nullptr, fd, &offset, 4, 0), 4);
  EXPECT_EQ(offset, 6);
  CheckpointHere();
  char text[16] = {};
  EXPECT_EQ(read(b.r, text, 16), 3);
  EXPECT_STREQ(text, "ced");
  EXPECT_EQ(pread(fd, text, 4, 2), 4);
  EXPECT_EQ(memcmp(text, "spli", 4), 0);
  EXPECT_ERRNO(splice(fd, nullptr, fd, nullptr, 1, 0), EINVAL);  // One end has to be a pipe.
}

GUEST_TEST(Tee, DuplicatesWithoutTaking) {
  Pipe a, b;
  MUST(write(a.w, "twice", 5));
  EXPECT_EQ(tee(a.r, b.w, 100, 0), 5);
  char text[8] = {};
  EXPECT_EQ(read(b.r, text, 8), 5);
  EXPECT_EQ(read(a.r, text, 8), 5);
  EXPECT_STREQ(text, "twice");
}

GUEST_TEST(Sync, AllForms) {
  const int fd = TempFile("abc");
  EXPECT_OK(fsync(fd));
  EXPECT_OK(fdatasync(fd));
  EXPECT_OK(sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE));
  EXPECT_OK(posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL));
  EXPECT_EQ(posix_fadvise(fd, 0, 0, 99), EINVAL);
  Pipe p;
  EXPECT_ERRNO(fsync(p.w), EINVAL);
  EXPECT_ERRNO(fsync(999), EBADF);
}

GUEST_TEST(FileIo, ConcurrentAppendsDoNotMix) {
  TempDir dir;
  WriteFile(dir / "f", "");
  pid_t pids[4];
  for (int i = 0; i < 4; ++i) {
    pids[i] = Fork([&] {
      const int fd = MUST(open(dir / "f", O_WRONLY | O_APPEND));
      char line[32];
      memset(line, 'a' + i, sizeof(line));
      for (int n = 0; n < 100; ++n) EXPECT_EQ(write(fd, line, sizeof(line)), sizeof(line));
    });
  }
  CheckpointHere();
  for (const pid_t pid : pids) JOIN_OK(pid);
  const int fd = MUST(open(dir / "f", O_RDONLY));
  EXPECT_EQ(Size(fd), 4 * 100 * 32);
  char line[32];
  while (read(fd, line, sizeof(line)) == sizeof(line)) {
    for (const char byte : line) {
      if (byte != line[0]) EXPECT_EQ(byte, line[0]);
    }
  }
}
