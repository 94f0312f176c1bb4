// Moving data between descriptors inside the kernel: splice, tee, vmsplice, sendfile, copy_file_range, and their rules.
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

void ExpectNext(int fd, const char* text) {
  char buffer[256] = {};
  EXPECT_EQ(read(fd, buffer, strlen(text)), strlen(text));
  EXPECT_STREQ(buffer, text);
}

}  // namespace

GUEST_TEST(SpliceCall, ArgumentErrors) {
  Pipe p;
  const int file = TempFile("content");
  loff_t offset = 0;
  EXPECT_ERRNO(splice(file, nullptr, p.w, nullptr, 1, 0x100), EINVAL);
  EXPECT_ERRNO(splice(999, nullptr, p.w, nullptr, 1, 0), EBADF);
  EXPECT_ERRNO(splice(file, nullptr, 999, nullptr, 1, 0), EBADF);
  EXPECT_ERRNO(splice(p.r, &offset, file, nullptr, 1, 0), ESPIPE);  // A pipe has no offset.
  EXPECT_ERRNO(splice(file, nullptr, p.w, &offset, 1, 0), ESPIPE);
  EXPECT_ERRNO(splice(p.w, nullptr, file, nullptr, 1, 0), EBADF);  // The wrong ends.
  EXPECT_ERRNO(splice(file, nullptr, p.r, nullptr, 1, 0), EBADF);
  EXPECT_ERRNO(splice(file, kBad, p.w, nullptr, 1, 0), EFAULT);
  EXPECT_EQ(splice(999, nullptr, 999, nullptr, 0, 0), 0);  // Nothing to move: nothing is looked at.
}

GUEST_TEST(SpliceCall, SamePipe) {
  Pipe p;
  MUST(write(p.w, "x", 1));
  EXPECT_ERRNO(splice(p.r, nullptr, p.w, nullptr, 1, 0), EINVAL);
  EXPECT_ERRNO(tee(p.r, p.w, 1, 0), EINVAL);
}

GUEST_TEST(SpliceCall, FileOffsetsMove) {
  const int file = TempFile("0123456789");
  Pipe p;
  EXPECT_EQ(splice(file, nullptr, p.w, nullptr, 4, 0), 4);
  EXPECT_EQ(lseek(file, 0, SEEK_CUR), 4);
  loff_t offset = 8;
  EXPECT_EQ(splice(file, &offset, p.w, nullptr, 10, 0), 2);
  EXPECT_EQ(offset, 10);
  EXPECT_EQ(lseek(file, 0, SEEK_CUR), 4);
  EXPECT_EQ(splice(file, &offset, p.w, nullptr, 10, 0), 0);  // The end.
  CheckpointHere();
  ExpectNext(p.r, "012389");
  offset = -1;
  EXPECT_ERRNO(splice(file, &offset, p.w, nullptr, 1, 0), EINVAL);
}

GUEST_TEST(SpliceCall, WithoutOffsetIntoAFile) {
  Pipe p;
  const int file = TempFile("----");
  MUST(lseek(file, 2, SEEK_SET));
  MUST(write(p.w, "abc", 3));
  EXPECT_EQ(splice(p.r, nullptr, file, nullptr, 100, 0), 3);
  EXPECT_EQ(lseek(file, 0, SEEK_CUR), 5);
  ExpectContent(file, "--abc");
}

GUEST_TEST(SpliceCall, EmptyPipeBlocksOrNot) {
  Pipe p;
  const int file = TempFile();
  EXPECT_ERRNO(splice(p.r, nullptr, file, nullptr, 1, SPLICE_F_NONBLOCK), EAGAIN);
  const pid_t pid = Fork([&] {
    p.CloseWrite();
    EXPECT_EQ(splice(p.r, nullptr, file, nullptr, 100, 0), 2);
  });
  AwaitAsleep(pid);
  CheckpointHere();
  MUST(write(p.w, "ab", 2));
  JOIN_OK(pid);
  p.CloseWrite();
  EXPECT_EQ(splice(p.r, nullptr, file, nullptr, 1, 0), 0);  // No writer any more.
}

GUEST_TEST(SpliceCall, FullPipe) {
  Pipe p(O_NONBLOCK);
  const int zero = MUST(open("/dev/zero", O_RDONLY));
  const int capacity = fcntl(p.w, F_GETPIPE_SZ);
  int moved = 0;
  for (ssize_t got; (got = splice(zero, nullptr, p.w, nullptr, 65536, 0)) > 0;) moved += static_cast<int>(got);
  EXPECT_EQ(errno, EAGAIN);
  EXPECT_EQ(moved, capacity);
  EXPECT_EQ(Queued(p.r), capacity);
}

GUEST_TEST(SpliceCall, WithoutReaders) {
  Pipe p;
  const int file = TempFile("abc");
  p.CloseRead();
  CountSignals(SIGPIPE);
  EXPECT_ERRNO(splice(file, nullptr, p.w, nullptr, 3, 0), EPIPE);
  EXPECT_EQ(SignalCount(), 1);
}

GUEST_TEST(SpliceCall, AppendingFilesAreRefused) {
  TempDir dir;
  WriteFile(dir / "f", "abc");
  const int file = MUST(open(dir / "f", O_WRONLY | O_APPEND));
  Pipe p;
  MUST(write(p.w, "x", 1));
  EXPECT_ERRNO(splice(p.r, nullptr, file, nullptr, 1, 0), EINVAL);
  EXPECT_EQ(Queued(p.r), 1);
}

GUEST_TEST(SpliceCall, Sockets) {
  int ends[2];
  MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
  Pipe p;
  MUST(write(p.w, "through", 7));
  EXPECT_EQ(splice(p.r, nullptr, ends[0], nullptr, 100, 0), 7);
  Pipe q;
  EXPECT_EQ(splice(ends[1], nullptr, q.w, nullptr, 100, 0), 7);
  ExpectNext(q.r, "through");
  loff_t offset = 0;
  EXPECT_ERRNO(splice(ends[1], &offset, q.w, nullptr, 1, 0), EINVAL);
}

GUEST_TEST(SpliceCall, PipeToPipeMovesPartOfABuffer) {
  Pipe a, b;
  MUST(write(a.w, "abcdef", 6));
  EXPECT_EQ(splice(a.r, nullptr, b.w, nullptr, 4, 0), 4);
  CheckpointHere();
  ExpectNext(a.r, "ef");
  ExpectNext(b.r, "abcd");
}

GUEST_TEST(TeeCall, Rules) {
  Pipe a, b;
  const int file = TempFile();
  EXPECT_ERRNO(tee(file, b.w, 1, 0), EINVAL);
  EXPECT_ERRNO(tee(a.r, file, 1, 0), EINVAL);
  EXPECT_ERRNO(tee(999, b.w, 1, 0), EBADF);
  EXPECT_ERRNO(tee(a.w, b.w, 1, 0), EBADF);
  EXPECT_ERRNO(tee(a.r, b.w, 1, 0x100), EINVAL);
  EXPECT_ERRNO(tee(a.r, b.w, 1, SPLICE_F_NONBLOCK), EAGAIN);
  EXPECT_EQ(tee(a.r, b.w, 0, 0), 0);
  a.CloseWrite();
  EXPECT_EQ(tee(a.r, b.w, 10, 0), 0);
}

GUEST_TEST(TeeCall, Partial) {
  Pipe a, b;
  MUST(write(a.w, "abcdef", 6));
  EXPECT_EQ(tee(a.r, b.w, 3, 0), 3);
  EXPECT_EQ(tee(a.r, b.w, 100, 0), 6);
  ExpectNext(b.r, "abcabcdef");
  ExpectNext(a.r, "abcdef");
}

GUEST_TEST(Vmsplice, MemoryIntoAPipe) {
  Pipe p;
  char one[] = "one", two[] = "two";
  const iovec vector[2] = {{one, 3}, {two, 3}};
  EXPECT_EQ(vmsplice(p.w, vector, 2, 0), 6);
  CheckpointHere();
  ExpectNext(p.r, "onetwo");
}

GUEST_TEST(Vmsplice, PipeIntoMemory) {
  Pipe p;
  MUST(write(p.w, "abcdef", 6));
  char one[3] = {}, two[10] = {};
  const iovec vector[2] = {{one, 2}, {two, 9}};
  EXPECT_EQ(vmsplice(p.r, vector, 2, 0), 6);
  EXPECT_STREQ(one, "ab");
  EXPECT_STREQ(two, "cdef");
}

GUEST_TEST(Vmsplice, Rules) {
  Pipe p;
  char byte = 'x';
  const iovec vector = {&byte, 1};
  EXPECT_ERRNO(vmsplice(TempFile(), &vector, 1, 0), EBADF);
  EXPECT_ERRNO(vmsplice(999, &vector, 1, 0), EBADF);
  EXPECT_ERRNO(vmsplice(p.w, &vector, 1, 0x100), EINVAL);
  EXPECT_ERRNO(vmsplice(p.w, kBad, 1, 0), EFAULT);
  EXPECT_ERRNO(vmsplice(p.w, &vector, 1025, 0), EINVAL);
  EXPECT_EQ(vmsplice(p.w, &vector, 0, 0), 0);
  const iovec bad = {reinterpret_cast<void*>(kBadAddress), 10};
  EXPECT_ERRNO(vmsplice(p.w, &bad, 1, 0), EFAULT);
  EXPECT_ERRNO(vmsplice(p.r, &vector, 1, SPLICE_F_NONBLOCK), EAGAIN);
}

GUEST_TEST(Vmsplice, FullPipeStopsHalfway) {
  Pipe p;
  MUST(fcntl(p.w, F_SETPIPE_SZ, 2 * kPage));
  char* memory = Pages(4);
  memset(memory, 'm', 4 * kPage);
  const iovec vector = {memory, 4 * kPage};
  EXPECT_EQ(vmsplice(p.w, &vector, 1, SPLICE_F_NONBLOCK), 2 * kPage);
  EXPECT_ERRNO(vmsplice(p.w, &vector, 1, SPLICE_F_NONBLOCK), EAGAIN);
}

GUEST_TEST(SendFileCall, Rules) {
  const int from = TempFile("0123456789"), to = TempFile();
  off_t offset = -1;
  EXPECT_ERRNO(sendfile(to, from, &offset, 1), EINVAL);
  EXPECT_ERRNO(sendfile(to, from, kBad, 1), EFAULT);
  EXPECT_ERRNO(sendfile(999, from, nullptr, 1), EBADF);
  EXPECT_ERRNO(sendfile(to, 999, nullptr, 1), EBADF);
  EXPECT_EQ(sendfile(to, from, nullptr, 0), 0);
  const int writer = MUST(open("/dev/null", O_WRONLY)), reader = MUST(open("/dev/null", O_RDONLY));
  EXPECT_ERRNO(sendfile(to, writer, nullptr, 1), EBADF);
  EXPECT_ERRNO(sendfile(reader, from, nullptr, 1), EBADF);
  Pipe p;
  MUST(write(p.w, "x", 1));
  off_t zero = 0;
  EXPECT_ERRNO(sendfile(to, p.r, &zero, 1), ESPIPE);
}

GUEST_TEST(SendFileCall, OffsetBeyondTheEnd) {
  const int from = TempFile("abc"), to = TempFile();
  off_t offset = 100;
  EXPECT_EQ(sendfile(to, from, &offset, 10), 0);
  EXPECT_EQ(offset, 100);
  offset = 2;
  EXPECT_EQ(sendfile(to, from, &offset, 10), 1);
  EXPECT_EQ(offset, 3);
  EXPECT_EQ(lseek(to, 0, SEEK_CUR), 1);
  CheckpointHere();
  ExpectContent(to, "c");
}

GUEST_TEST(SendFileCall, AppendingTargetIsRefused) {
  TempDir dir;
  WriteFile(dir / "f", "abc");
  const int to = MUST(open(dir / "f", O_WRONLY | O_APPEND)), from = TempFile("x");
  EXPECT_ERRNO(sendfile(to, from, nullptr, 1), EINVAL);
}

GUEST_TEST(SendFileCall, NonblockingSocketTakesWhatFits) {
  int ends[2];
  MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends));
  const int from = TempFile();
  MUST(ftruncate(from, 8 << 20));
  off_t offset = 0;
  const ssize_t sent = sendfile(ends[0], from, &offset, 8 << 20);
  EXPECT_GT(sent, 0);
  EXPECT_LT(sent, 8 << 20);
  EXPECT_EQ(offset, sent);
  EXPECT_ERRNO(sendfile(ends[0], from, &offset, 1 << 20), EAGAIN);
}

GUEST_TEST(CopyRange, Rules) {
  const int from = TempFile("0123456789"), to = TempFile();
  loff_t negative = -1;
  EXPECT_ERRNO(copy_file_range(999, nullptr, to, nullptr, 1, 0), EBADF);
  EXPECT_ERRNO(copy_file_range(from, nullptr, 999, nullptr, 1, 0), EBADF);
  EXPECT_ERRNO(copy_file_range(from, kBad, to, nullptr, 1, 0), EFAULT);
  EXPECT_ERRNO(copy_file_range(from, nullptr, to, kBad, 1, 0), EFAULT);
  EXPECT_ERRNO(copy_file_range(from, &negative, to, nullptr, 1, 0), EOVERFLOW);  // As unsigned numbers, the sum wraps.
  negative = -5;
  EXPECT_ERRNO(copy_file_range(from, &negative, to, nullptr, 1, 0), EINVAL);
  EXPECT_EQ(copy_file_range(from, nullptr, to, nullptr, 0, 0), 0);
  const int folder = MUST(open("/tmp", O_RDONLY));
  EXPECT_ERRNO(copy_file_range(folder, nullptr, to, nullptr, 1, 0), EISDIR);
  TempDir dir;
  WriteFile(dir / "f", "");
  const int reader = MUST(open(dir / "f", O_RDONLY)), writer = MUST(open(dir / "f", O_WRONLY)), appender = MUST(open(dir / "f", O_RDWR | O_APPEND));
  EXPECT_ERRNO(copy_file_range(from, nullptr, reader, nullptr, 1, 0), EBADF);
  EXPECT_ERRNO(copy_file_range(writer, nullptr, to, nullptr, 1, 0), EBADF);
  EXPECT_ERRNO(copy_file_range(from, nullptr, appender, nullptr, 1, 0), EBADF);
  int ends[2];
  MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
  EXPECT_ERRNO(copy_file_range(ends[0], nullptr, to, nullptr, 1, 0), EINVAL);
}

GUEST_TEST(CopyRange, StopsAtTheEndAndExtends) {
  TempDir dir;
  WriteFile(dir / "a", "0123456789");
  WriteFile(dir / "b", "");
  const int from = MUST(open(dir / "a", O_RDONLY)), to = MUST(open(dir / "b", O_RDWR));
  loff_t in = 6, out = 3;
  EXPECT_EQ(copy_file_range(from, &in, to, &out, 100, 0), 4);
  EXPECT_EQ(in, 10);
  EXPECT_EQ(out, 7);
  EXPECT_EQ(copy_file_range(from, &in, to, &out, 100, 0), 0);
  CheckpointHere();
  char text[8] = {};
  EXPECT_EQ(pread(to, text, 8, 0), 7);
  EXPECT_EQ(memcmp(text, "\0\0\0006789", 7), 0);
}

GUEST_TEST(CopyRange, WithinOneFile) {
  const int fd = TempFile("0123456789");
  loff_t in = 0, out = 10;
  EXPECT_EQ(copy_file_range(fd, &in, fd, &out, 5, 0), 5);
  ExpectContent(fd, "012345678901234");
  in = 3, out = 0;
  EXPECT_EQ(copy_file_range(fd, &in, fd, &out, 3, 0), 3);  // Side by side is no overlap.
  ExpectContent(fd, "345345678901234");
}

GUEST_TEST(CopyRange, RespectsTheFileSizeLimit) {
  const int from = TempFile("0123456789"), to = TempFile();
  rlimit limit = {4, 4};
  MUST(setrlimit(RLIMIT_FSIZE, &limit));
  CountSignals(SIGXFSZ);
  EXPECT_EQ(copy_file_range(from, nullptr, to, nullptr, 10, 0), 4);
  EXPECT_ERRNO(copy_file_range(from, nullptr, to, nullptr, 10, 0), EFBIG);
  EXPECT_EQ(SignalCount(), 1);
}

GUEST_TEST(PipeSize, RulesForUsersAndRoot) {
  Pipe p;
  EXPECT_EQ(fcntl(p.r, F_GETPIPE_SZ), 65536);
  EXPECT_EQ(fcntl(p.w, F_SETPIPE_SZ, 1), kPage);
  EXPECT_EQ(fcntl(p.w, F_SETPIPE_SZ, 5 * kPage), 8 * kPage);
  EXPECT_ERRNO(fcntl(p.w, F_SETPIPE_SZ, -1), EINVAL);
  EXPECT_ERRNO(fcntl(1, F_GETPIPE_SZ + 2000), EINVAL);
  EXPECT_ERRNO(fcntl(TempFile(), F_SETPIPE_SZ, kPage), EBADF);
  AS_USER([] {
    Pipe own;
    EXPECT_EQ(fcntl(own.w, F_SETPIPE_SZ, 1 << 20), 1 << 20);
    EXPECT_ERRNO(fcntl(own.w, F_SETPIPE_SZ, (1 << 20) + 1), EPERM);
  });
}

GUEST_TEST(PipeSize, CannotShrinkBelowItsContent) {
  Pipe p;
  char* memory = Pages(4);
  MUST(write(p.w, memory, 4 * kPage));
  EXPECT_ERRNO(fcntl(p.w, F_SETPIPE_SZ, 2 * kPage), EBUSY);
  EXPECT_EQ(fcntl(p.w, F_GETPIPE_SZ), 65536);
  CheckpointHere();
  EXPECT_EQ(Queued(p.r), 4 * kPage);
  EXPECT_EQ(fcntl(p.w, F_SETPIPE_SZ, 4 * kPage), 4 * kPage);
}

// Unlike write(2) it does not wait for more room than it finds.
GUEST_TEST(Splices, VmspliceTakesWhatFits) {
  Pipe p;
  constexpr size_t kSize = 100 << 10, kRoom = 64 << 10;
  void* memory = mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  MUST(memory == MAP_FAILED ? -1 : 0);
  memset(memory, 'x', kSize);
  struct iovec range = {memory, kSize};
  EXPECT_EQ(vmsplice(p.w, &range, 1, 0), static_cast<ssize_t>(kRoom));
  EXPECT_ERRNO(vmsplice(p.w, &range, 1, SPLICE_F_NONBLOCK), EAGAIN);
  const pid_t child = Fork([&] { EXPECT_GT(vmsplice(p.w, &range, 1, 0), 0); });
  AwaitAsleep(child);
  CheckpointHere();
  static char copy[kRoom];
  EXPECT_EQ(read(p.r, copy, kRoom), static_cast<ssize_t>(kRoom));
  JOIN_OK(child);
}
