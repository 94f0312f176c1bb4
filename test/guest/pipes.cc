// Pipes and FIFOs.
#include <poll.h>
#include <sys/uio.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

int Fill(int fd) {
  static char block[4096];
  int total = 0;
  for (;;) {
    const ssize_t wrote = write(fd, block, sizeof(block));
    if (wrote < 0) break;
    total += static_cast<int>(wrote);
  }
  EXPECT_EQ(errno, EAGAIN);
  return total;
}

}  // namespace

GUEST_TEST(Pipe, CarriesBytesInOrder) {
  Pipe p;
  EXPECT_EQ(write(p.w, "hello ", 6), 6);
  EXPECT_EQ(write(p.w, "world", 5), 5);
  EXPECT_EQ(Queued(p.r), 11);
  CheckpointHere();
  char text[16] = {};
  EXPECT_EQ(read(p.r, text, 4), 4);
  EXPECT_STREQ(text, "hell");
  EXPECT_EQ(read(p.r, text, 16), 7);
  EXPECT_STREQ(text, "o world");
}

GUEST_TEST(Pipe, EndOfFileAfterLastWriter) {
  Pipe p;
  EXPECT_EQ(write(p.w, "x", 1), 1);
  const int second = MUST(dup(p.w));
  p.CloseWrite();
  char byte = 0;
  EXPECT_EQ(read(p.r, &byte, 1), 1);
  fcntl(p.r, F_SETFL, O_NONBLOCK);
  EXPECT_ERRNO(read(p.r, &byte, 1), EAGAIN);
  close(second);
  CheckpointHere();
  EXPECT_EQ(read(p.r, &byte, 1), 0);
  EXPECT_EQ(read(p.r, &byte, 1), 0);
}

GUEST_TEST(Pipe, WriteWithoutReaderIsEpipe) {
  signal(SIGPIPE, SIG_IGN);
  Pipe p;
  p.CloseRead();
  EXPECT_ERRNO(write(p.w, "x", 1), EPIPE);
  EXPECT_EQ(write(p.w, "x", 0), 0);
}

GUEST_TEST(Pipe, WriteWithoutReaderKills) {
  const pid_t pid = Fork([] {
    Pipe p;
    p.CloseRead();
    write(p.w, "x", 1);
  });
  EXPECT_KILLED(WaitStatus(pid), SIGPIPE);
}

GUEST_TEST(Pipe, SigpipeIsSynchronous) {
  CountSignals(SIGPIPE);
  Pipe p;
  p.CloseRead();
  EXPECT_ERRNO(write(p.w, "x", 1), EPIPE);
  EXPECT_EQ(SignalCount(), 1);
  EXPECT_EQ(LastSignal().si_pid, getpid());
}

GUEST_TEST(Pipe, ReaderBlocksForData) {
  Pipe p;
  const pid_t reader = getpid();
  const pid_t pid = Fork([&] {
    AwaitAsleep(reader);
    MUST(write(p.w, "late", 4));
  });
  char text[8] = {};
  EXPECT_EQ(read(p.r, text, 8), 4);
  EXPECT_STREQ(text, "late");
  JOIN_OK(pid);
}

GUEST_TEST(Pipe, BlockedReaderSeesEndOfFile) {
  Pipe p;
  const pid_t pid = Fork([&] {
    p.CloseWrite();
    char byte;
    EXPECT_EQ(read(p.r, &byte, 1), 0);
  });
  AwaitAsleep(pid);
  CheckpointHere();
  p.CloseWrite();
  JOIN_OK(pid);
}

GUEST_TEST(Pipe, DefaultCapacity) {
  Pipe p(O_NONBLOCK);
  EXPECT_EQ(fcntl(p.w, F_GETPIPE_SZ), 65536);
  EXPECT_EQ(Fill(p.w), 65536);
  EXPECT_EQ(Queued(p.r), 65536);
}

GUEST_TEST(Pipe, CapacityCanBeSet) {
  Pipe p(O_NONBLOCK);
  EXPECT_EQ(fcntl(p.w, F_SETPIPE_SZ, 1 << 18), 1 << 18);
  EXPECT_EQ(fcntl(p.r, F_GETPIPE_SZ), 1 << 18);
  EXPECT_EQ(Fill(p.w), 1 << 18);
  EXPECT_ERRNO(fcntl(p.w, F_SETPIPE_SZ, 4096), EBUSY);
  CheckpointHere();
  EXPECT_EQ(Queued(p.r), 1 << 18);
  EXPECT_EQ(fcntl(p.r, F_GETPIPE_SZ), 1 << 18);
}

GUEST_TEST(Pipe, CapacityRoundsUpToPages) {
  Pipe p;
  EXPECT_EQ(fcntl(p.w, F_SETPIPE_SZ, 1), 4096);
  EXPECT_EQ(fcntl(p.w, F_SETPIPE_SZ, 4097), 8192);
  EXPECT_EQ(fcntl(p.w, F_SETPIPE_SZ, 5 * 4096), 8 * 4096);
}

GUEST_TEST(Pipe, BlockedWriterGoesOnAfterRead) {
  Pipe p;
  fcntl(p.w, F_SETPIPE_SZ, 4096);
  const pid_t pid = Fork([&] {
    static char block[8192];
    memset(block, 'a', 4096);
    memset(block + 4096, 'b', 4096);
    EXPECT_EQ(write(p.w, block, 8192), 8192);
  });
  AwaitAsleep(pid);
  CheckpointHere();
  p.CloseWrite();
  static char got[16384];
  size_t total = 0;
  ssize_t n = 0;
  while ((n = read(p.r, got + total, sizeof(got) - total)) > 0) total += n;
  EXPECT_EQ(total, 8192);
  EXPECT_EQ(got[4095], 'a');
  EXPECT_EQ(got[4096], 'b');
  JOIN_OK(pid);
}

GUEST_TEST(Pipe, SmallWritesAreAtomicWhenNonblocking) {
  Pipe p(O_NONBLOCK);
  fcntl(p.w, F_SETPIPE_SZ, 4096);
  static char block[4096];
  EXPECT_EQ(write(p.w, block, 100), 100);
  EXPECT_ERRNO(write(p.w, block, 4096), EAGAIN);  // PIPE_BUF or less: all or nothing.
  EXPECT_EQ(Queued(p.r), 100);
}

GUEST_TEST(Pipe, LargeNonblockingWriteIsPartial) {
  Pipe p(O_NONBLOCK);
  static char block[100000];
  EXPECT_EQ(write(p.w, block, sizeof(block)), 65536);
  EXPECT_ERRNO(write(p.w, block, sizeof(block)), EAGAIN);
}

GUEST_TEST(Pipe, InterruptedWriteTellsWhatItWrote) {
  CountSignals(SIGUSR1);
  Pipe p;
  static char block[100000];
  const pid_t writer = getpid();
  const pid_t pid = Fork([&] {
    AwaitAsleep(writer);
    kill(writer, SIGUSR1);
  });
  EXPECT_EQ(write(p.w, block, sizeof(block)), 65536);
  EXPECT_ERRNO((alarm(0), fcntl(p.w, F_SETFL, O_NONBLOCK), write(p.w, block, 1)), EAGAIN);
  JOIN_OK(pid);
}

GUEST_TEST(Pipe, WrongDirection) {
  Pipe p;
  char byte = 0;
  EXPECT_ERRNO(read(p.w, &byte, 1), EBADF);
  EXPECT_ERRNO(write(p.r, &byte, 1), EBADF);
}

GUEST_TEST(Pipe, NotSeekable) {
  Pipe p;
  char byte = 0;
  EXPECT_ERRNO(lseek(p.r, 0, SEEK_CUR), ESPIPE);
  EXPECT_ERRNO(pread(p.r, &byte, 1, 0), ESPIPE);
  EXPECT_ERRNO(pwrite(p.w, &byte, 1, 0), ESPIPE);
}

GUEST_TEST(Pipe, FlagsOfTheEnds) {
  Pipe p(O_NONBLOCK | O_CLOEXEC);
  EXPECT_EQ(fcntl(p.r, F_GETFL), O_RDONLY | O_NONBLOCK);
  EXPECT_EQ(fcntl(p.w, F_GETFL), O_WRONLY | O_NONBLOCK);
  EXPECT_EQ(fcntl(p.r, F_GETFD), FD_CLOEXEC);
  int ends[2];
  EXPECT_ERRNO(pipe2(ends, O_APPEND), EINVAL);
  EXPECT_ERRNO(pipe(reinterpret_cast<int*>(8)), EFAULT);
}

GUEST_TEST(Pipe, StatIsFifo) {
  Pipe p;
  struct stat first = {}, second = {};
  MUST(fstat(p.r, &first));
  MUST(fstat(p.w, &second));
  EXPECT(S_ISFIFO(first.st_mode));
  EXPECT_EQ(first.st_mode & 07777, 0600);
  EXPECT_EQ(first.st_ino, second.st_ino);
  EXPECT_EQ(first.st_uid, geteuid());
}

// fifo_open() never waits for the other side of a pipe that has no name.
GUEST_TEST(Pipe, ReopenWithoutTheOtherSide) {
  Pipe p;
  MUST(write(p.w, "left", 4));
  const int writer = MUST(open(Str("/proc/self/fd/%d", p.w), O_WRONLY));
  close(writer);
  p.CloseWrite();
  const int reader = MUST(open(Str("/proc/self/fd/%d", p.r), O_RDONLY));
  pollfd poll_fd = {reader, POLLIN, 0};
  EXPECT_EQ(poll(&poll_fd, 1, 0), 1);
  EXPECT_EQ(poll_fd.revents, POLLIN | POLLHUP);
  char text[8];
  EXPECT_EQ(read(reader, text, sizeof(text)), 4);
  EXPECT_EQ(read(reader, text, sizeof(text)), 0);
  close(reader);
}

GUEST_TEST(Pipe, ReopenThroughProc) {
  Pipe p;
  const int again = MUST(open(Str("/proc/self/fd/%d", p.w), O_WRONLY));
  EXPECT_EQ(write(again, "z", 1), 1);
  p.CloseWrite();
  char byte = 0;
  EXPECT_EQ(read(p.r, &byte, 1), 1);
  close(again);
  EXPECT_EQ(read(p.r, &byte, 1), 0);
}

GUEST_TEST(Pipe, ProcLinkNamesTheInode) {
  Pipe p;
  struct stat status = {};
  MUST(fstat(p.r, &status));
  char link[64] = {};
  MUST(readlink(Str("/proc/self/fd/%d", p.r), link, sizeof(link) - 1));
  EXPECT_STREQ(link, Str("pipe:[%lu]", status.st_ino));
}

GUEST_TEST(Pipe, PollTellsBothEnds) {
  Pipe p(O_NONBLOCK);
  pollfd fds[2] = {{p.r, POLLIN, 0}, {p.w, POLLOUT, 0}};
  EXPECT_EQ(poll(fds, 2, 0), 1);
  EXPECT_EQ(fds[0].revents, 0);
  EXPECT_EQ(fds[1].revents, POLLOUT);
  Fill(p.w);
  EXPECT_EQ(poll(fds, 2, 0), 1);
  EXPECT_EQ(fds[0].revents, POLLIN);
  EXPECT_EQ(fds[1].revents, 0);
  CheckpointHere();
  char half[2048];
  EXPECT_EQ(read(p.r, half, sizeof(half)), sizeof(half));
  EXPECT_EQ(poll(fds, 2, 0), 1);  // A whole slot has to be free before there is room.
  EXPECT_EQ(read(p.r, half, sizeof(half)), sizeof(half));
  EXPECT_EQ(poll(fds, 2, 0), 2);
  EXPECT_EQ(fds[1].revents, POLLOUT);
}

GUEST_TEST(Pipe, PollTellsHangup) {
  Pipe p;
  MUST(write(p.w, "x", 1));
  p.CloseWrite();
  pollfd fd = {p.r, POLLIN, 0};
  EXPECT_EQ(poll(&fd, 1, 0), 1);
  EXPECT_EQ(fd.revents, POLLIN | POLLHUP);
  Pipe q;
  q.CloseRead();
  pollfd writer = {q.w, POLLOUT, 0};
  EXPECT_EQ(poll(&writer, 1, 0), 1);
  EXPECT_EQ(writer.revents, POLLOUT | POLLERR);
}

GUEST_TEST(Pipe, PacketModeKeepsBoundaries) {
  Pipe p(O_DIRECT);
  MUST(write(p.w, "one", 3));
  MUST(write(p.w, "three", 5));
  CheckpointHere();
  char text[16] = {};
  EXPECT_EQ(read(p.r, text, 16), 3);
  EXPECT_EQ(read(p.r, text, 2), 2);  // The rest of that packet is gone.
  MUST(write(p.w, "four", 4));
  EXPECT_EQ(read(p.r, text, 16), 4);
}

GUEST_TEST(Pipe, VectorsInAndOut) {
  Pipe p;
  char a[] = "abc", b[] = "defg";
  iovec out[2] = {{a, 3}, {b, 4}};
  EXPECT_EQ(writev(p.w, out, 2), 7);
  char x[5] = {}, y[8] = {};
  iovec in[2] = {{x, 4}, {y, 7}};
  EXPECT_EQ(readv(p.r, in, 2), 7);
  EXPECT_STREQ(x, "abcd");
  EXPECT_STREQ(y, "efg");
}

GUEST_TEST(Pipe, SharedOffsetlessBetweenProcesses) {
  Pipe p;
  const pid_t pid = Fork([&] { MUST(write(p.w, "child", 5)); });
  JOIN_OK(pid);
  char text[8] = {};
  EXPECT_EQ(read(p.r, text, 8), 5);
  EXPECT_STREQ(text, "child");
}

GUEST_TEST(Fifo, OpenMeets) {
  TempDir dir;
  const Str path = dir / "fifo";
  MUST(mkfifo(path, 0600));
  const pid_t pid = Fork([&] {
    const int fd = MUST(open(path, O_WRONLY));
    MUST(write(fd, "met", 3));
  });
  AwaitAsleep(pid);
  CheckpointHere();
  const int fd = MUST(open(path, O_RDONLY));
  char text[8] = {};
  EXPECT_EQ(read(fd, text, 8), 3);
  EXPECT_EQ(read(fd, text, 8), 0);
  JOIN_OK(pid);
}

GUEST_TEST(Fifo, NonblockingOpen) {
  TempDir dir;
  const Str path = dir / "fifo";
  MUST(mkfifo(path, 0600));
  EXPECT_ERRNO(open(path, O_WRONLY | O_NONBLOCK), ENXIO);
  const int reader = MUST(open(path, O_RDONLY | O_NONBLOCK));
  char byte = 0;
  EXPECT_EQ(read(reader, &byte, 1), 0);  // No writer yet: end of file, not EAGAIN.
  const int writer = MUST(open(path, O_WRONLY | O_NONBLOCK));
  EXPECT_ERRNO(read(reader, &byte, 1), EAGAIN);
  MUST(write(writer, "x", 1));
  EXPECT_EQ(read(reader, &byte, 1), 1);
}

GUEST_TEST(Fifo, ReadWriteOpenNeedsNoPeer) {
  TempDir dir;
  const Str path = dir / "fifo";
  MUST(mkfifo(path, 0600));
  const int fd = MUST(open(path, O_RDWR));
  MUST(write(fd, "self", 4));
  CheckpointHere();
  char text[8] = {};
  EXPECT_EQ(read(fd, text, 8), 4);
}

GUEST_TEST(Fifo, NodeAttributes) {
  TempDir dir;
  const Str path = dir / "fifo";
  MUST(mkfifo(path, 0640));
  struct stat status = {};
  MUST(stat(path, &status));
  EXPECT(S_ISFIFO(status.st_mode));
  EXPECT_EQ(status.st_mode & 0777, 0640);
  EXPECT_ERRNO(mkfifo(path, 0640), EEXIST);
  MUST(unlink(path));
  EXPECT_ERRNO(open(path, O_RDONLY), ENOENT);
}
