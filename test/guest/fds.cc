// Descriptor tables and fcntl.
#include <sys/ioctl.h>
#include <sys/resource.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

bool IsOpen(int fd) { return fcntl(fd, F_GETFD) >= 0; }

int CloseRange(unsigned first, unsigned last, int flags) { return static_cast<int>(syscall(SYS_close_range, first, last, flags)); }

}  // namespace

GUEST_TEST(Fds, LowestFreeNumber) {
  const int a = MUST(open("/dev/null", O_RDWR));
  const int b = MUST(dup(a));
  const int c = MUST(dup(a));
  EXPECT_EQ(b, a + 1);
  EXPECT_EQ(c, a + 2);
  close(b);
  CheckpointHere();
  EXPECT_EQ(dup(a), b);
  EXPECT_EQ(dup(a), c + 1);
}

GUEST_TEST(Fds, CloseTwice) {
  const int fd = MUST(dup(1));
  EXPECT_OK(close(fd));
  EXPECT_ERRNO(close(fd), EBADF);
  EXPECT_ERRNO(close(-1), EBADF);
}

GUEST_TEST(Fds, DupSharesOffsetAndStatusFlags) {
  const int fd = TempFile("0123456789");
  const int other = MUST(dup(fd));
  MUST(lseek(fd, 4, SEEK_SET));
  EXPECT_EQ(lseek(other, 0, SEEK_CUR), 4);
  MUST(fcntl(fd, F_SETFL, O_APPEND));
  EXPECT(fcntl(other, F_GETFL) & O_APPEND);
  CheckpointHere();
  char byte = 0;
  EXPECT_EQ(read(other, &byte, 1), 1);
  EXPECT_EQ(byte, '4');
  EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 5);
}

GUEST_TEST(Fds, OffsetIsSharedOverFork) {
  const int fd = TempFile("0123456789");
  const pid_t pid = Fork([&] {
    char text[3];
    EXPECT_EQ(read(fd, text, 3), 3);
  });
  JOIN_OK(pid);
  EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 3);
}

GUEST_TEST(Fds, SeparateOpensHaveSeparateOffsets) {
  TempDir dir;
  const Str path = dir / "f";
  WriteFile(path, "0123456789");
  const int a = MUST(open(path, O_RDONLY));
  const int b = MUST(open(path, O_RDONLY));
  MUST(lseek(a, 7, SEEK_SET));
  EXPECT_EQ(lseek(b, 0, SEEK_CUR), 0);
  const int c = MUST(open(Str("/proc/self/fd/%d", a), O_RDONLY));
  EXPECT_EQ(lseek(c, 0, SEEK_CUR), 0);
}

GUEST_TEST(Fds, Dup2Replaces) {
  Pipe p;
  const int fd = MUST(dup(1));
  EXPECT_EQ(dup2(p.w, fd), fd);
  MUST(write(fd, "x", 1));
  char byte = 0;
  EXPECT_EQ(read(p.r, &byte, 1), 1);
}

GUEST_TEST(Fds, Dup2OfItself) {
  EXPECT_EQ(dup2(1, 1), 1);
  EXPECT_ERRNO(dup2(999, 999), EBADF);
  EXPECT_ERRNO(dup2(1, -1), EBADF);
  EXPECT_ERRNO(dup3(1, 1, 0), EINVAL);
}

GUEST_TEST(Fds, Dup2ClosesTheLastWriter) {
  Pipe p;
  const int null = MUST(open("/dev/null", O_RDWR));
  MUST(dup2(null, p.w));
  char byte = 0;
  EXPECT_EQ(read(p.r, &byte, 1), 0);
}

GUEST_TEST(Fds, Dup3SetsCloexec) {
  EXPECT_EQ(dup3(1, 50, O_CLOEXEC), 50);
  EXPECT_EQ(fcntl(50, F_GETFD), FD_CLOEXEC);
  EXPECT_EQ(dup3(1, 50, 0), 50);
  EXPECT_EQ(fcntl(50, F_GETFD), 0);
  EXPECT_ERRNO(dup3(1, 50, O_NONBLOCK), EINVAL);
}

GUEST_TEST(Fds, DupClearsCloexec) {
  MUST(dup3(1, 50, O_CLOEXEC));
  const int fd = MUST(dup(50));
  EXPECT_EQ(fcntl(fd, F_GETFD), 0);
}

GUEST_TEST(Fds, FcntlDupFromMinimum) {
  EXPECT_EQ(fcntl(1, F_DUPFD, 40), 40);
  EXPECT_EQ(fcntl(1, F_DUPFD, 40), 41);
  EXPECT_EQ(fcntl(1, F_DUPFD_CLOEXEC, 40), 42);
  EXPECT_EQ(fcntl(42, F_GETFD), FD_CLOEXEC);
  EXPECT_ERRNO(fcntl(1, F_DUPFD, 1 << 30), EINVAL);
  EXPECT_ERRNO(fcntl(1, F_DUPFD, -1), EINVAL);
}

GUEST_TEST(Fds, CloexecFlag) {
  const int fd = MUST(dup(1));
  EXPECT_EQ(fcntl(fd, F_GETFD), 0);
  EXPECT_OK(fcntl(fd, F_SETFD, FD_CLOEXEC));
  EXPECT_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
  CheckpointHere();
  EXPECT_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
  EXPECT_OK(ioctl(fd, FIONCLEX));
  EXPECT_EQ(fcntl(fd, F_GETFD), 0);
  EXPECT_OK(ioctl(fd, FIOCLEX));
  EXPECT_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
}

GUEST_TEST(Fds, StatusFlagsKeepTheAccessMode) {
  const int fd = MUST(open("/dev/null", O_WRONLY));
  EXPECT_EQ(fcntl(fd, F_GETFL) & O_ACCMODE, O_WRONLY);
  EXPECT_OK(fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK | O_CREAT | O_TRUNC));
  EXPECT_EQ(fcntl(fd, F_GETFL) & (O_ACCMODE | O_NONBLOCK), O_WRONLY | O_NONBLOCK);
}

GUEST_TEST(Fds, NonblockByIoctl) {
  Pipe p;
  int on = 1;
  MUST(ioctl(p.r, FIONBIO, &on));
  EXPECT(fcntl(p.r, F_GETFL) & O_NONBLOCK);
  char byte;
  EXPECT_ERRNO(read(p.r, &byte, 1), EAGAIN);
  on = 0;
  MUST(ioctl(p.r, FIONBIO, &on));
  EXPECT(!(fcntl(p.r, F_GETFL) & O_NONBLOCK));
}

GUEST_TEST(Fds, UnknownFcntl) {
  EXPECT_ERRNO(fcntl(1, 9999), EINVAL);
  EXPECT_ERRNO(fcntl(999, F_GETFD), EBADF);
}

GUEST_TEST(Fds, CloseRange) {
  for (int fd = 60; fd < 70; ++fd) MUST(dup2(1, fd));
  EXPECT_OK(CloseRange(62, 66, 0));
  EXPECT(IsOpen(61));
  for (int fd = 62; fd <= 66; ++fd) EXPECT(!IsOpen(fd));
  EXPECT(IsOpen(67));
  EXPECT_OK(CloseRange(60, ~0u, 0));
  EXPECT(!IsOpen(69));
  EXPECT_ERRNO(CloseRange(9, 8, 0), EINVAL);
  EXPECT_ERRNO(CloseRange(60, 70, 0x100), EINVAL);
}

GUEST_TEST(Fds, CloseRangeCloexec) {
  for (int fd = 60; fd < 64; ++fd) MUST(dup2(1, fd));
  EXPECT_OK(CloseRange(61, 62, 4 /*CLOSE_RANGE_CLOEXEC*/));
  EXPECT_EQ(fcntl(60, F_GETFD), 0);
  EXPECT_EQ(fcntl(61, F_GETFD), FD_CLOEXEC);
  EXPECT_EQ(fcntl(62, F_GETFD), FD_CLOEXEC);
  EXPECT_EQ(fcntl(63, F_GETFD), 0);
}

GUEST_TEST(Fds, CloseRangeUnshare) {
  MUST(dup2(1, 60));
  Thread other([] {
    EXPECT_OK(CloseRange(60, 60, 2 /*CLOSE_RANGE_UNSHARE*/));
    EXPECT(!IsOpen(60));
  });
  other.Join();
  EXPECT(IsOpen(60));
}

GUEST_TEST(Fds, ThreadsShareTheTable) {
  Thread other([] { MUST(dup2(1, 60)); });
  other.Join();
  EXPECT(IsOpen(60));
}

GUEST_TEST(Fds, ForkCopiesTheTable) {
  MUST(dup2(1, 60));
  const pid_t pid = Fork([] {
    EXPECT(IsOpen(60));
    close(60);
    MUST(dup2(1, 61));
  });
  JOIN_OK(pid);
  EXPECT(IsOpen(60));
  EXPECT(!IsOpen(61));
}

GUEST_TEST(Fds, LimitOfOpenFiles) {
  rlimit limit = {};
  MUST(getrlimit(RLIMIT_NOFILE, &limit));
  limit.rlim_cur = 32;
  MUST(setrlimit(RLIMIT_NOFILE, &limit));
  int last = -1;
  for (int fd = 0; (fd = dup(1)) >= 0;) last = fd;
  EXPECT_EQ(errno, EMFILE);
  EXPECT_EQ(last, 31);
  EXPECT_ERRNO(dup2(1, 32), EBADF);
  EXPECT_ERRNO(fcntl(1, F_DUPFD, 32), EINVAL);
  int ends[2];
  EXPECT_ERRNO(pipe(ends), EMFILE);
}

GUEST_TEST(Fds, PathDescriptorRefusesData) {
  const int fd = MUST(open("/dev/null", O_PATH));
  char byte = 0;
  EXPECT_ERRNO(read(fd, &byte, 1), EBADF);
  EXPECT_ERRNO(write(fd, &byte, 1), EBADF);
  EXPECT_ERRNO(ioctl(fd, FIONREAD, &byte), EBADF);
  EXPECT_EQ(fcntl(fd, F_GETFL) & O_PATH, O_PATH);
  struct stat status = {};
  EXPECT_OK(fstat(fd, &status));
  EXPECT(S_ISCHR(status.st_mode));
}

GUEST_TEST(Fds, LargeNumbersGrowTheTable) {
  rlimit limit = {};
  MUST(getrlimit(RLIMIT_NOFILE, &limit));
  const int high = static_cast<int>(limit.rlim_cur) - 1;
  EXPECT_EQ(dup2(1, high), high);
  CheckpointHere();
  EXPECT(IsOpen(high));
  EXPECT(!IsOpen(high - 1));
  EXPECT_OK(close(high));
}

GUEST_TEST(Fds, OwnerForSignals) {
  Pipe p;
  EXPECT_EQ(fcntl(p.r, F_GETOWN), 0);
  EXPECT_OK(fcntl(p.r, F_SETOWN, getpid()));
  EXPECT_EQ(fcntl(p.r, F_GETOWN), getpid());
  EXPECT_OK(fcntl(p.r, F_SETSIG, SIGUSR1));
  EXPECT_EQ(fcntl(p.r, F_GETSIG), SIGUSR1);
  EXPECT_ERRNO(fcntl(p.r, F_SETSIG, 65), EINVAL);
}

GUEST_TEST(Fds, SigioOnData) {
  CountSignals(SIGUSR1);
  Pipe p;
  MUST(fcntl(p.r, F_SETOWN, getpid()));
  MUST(fcntl(p.r, F_SETSIG, SIGUSR1));
  MUST(fcntl(p.r, F_SETFL, O_ASYNC | O_NONBLOCK));
  CheckpointHere();
  MUST(write(p.w, "x", 1));
  EXPECT_EQ(SignalCount(), 1);
  EXPECT_EQ(LastSignal().si_fd, p.r);
  EXPECT_EQ(LastSignal().si_code, POLL_IN);
}

GUEST_TEST(Fds, KcmpTellsSameFile) {
  const int fd = MUST(dup(1));
  const int other = MUST(open("/dev/null", O_RDWR));
  const long same = syscall(SYS_kcmp, getpid(), getpid(), 0 /*KCMP_FILE*/, 1, fd);
  if (same < 0 && errno == ENOSYS) Skip("no kcmp");
  EXPECT_EQ(same, 0);
  EXPECT_NE(syscall(SYS_kcmp, getpid(), getpid(), 0, 1, other), 0);
}
