// Pipes, FIFOs and devices at their edges: sizes and atomicity, packets, opening without a peer, bad buffers.
#include <limits.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/uio.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {}  // namespace

GUEST_TEST(PipeEdge, CreationArguments) {
  int ends[2];
  EXPECT_ERRNO(pipe2(ends, 0x100), EINVAL);
  EXPECT_ERRNO(Call(SYS_pipe2, kBadAddress, 0), EFAULT);
  MUST(pipe2(ends, O_CLOEXEC | O_NONBLOCK | O_DIRECT));
  EXPECT_EQ(fcntl(ends[0], F_GETFD), FD_CLOEXEC);
  EXPECT_EQ(fcntl(ends[1], F_GETFL) & (O_NONBLOCK | O_DIRECT), O_NONBLOCK | O_DIRECT);
}

GUEST_TEST(PipeEdge, EmptyTransfers) {
  Pipe p;
  char byte = 0;
  EXPECT_EQ(read(p.r, &byte, 0), 0);  // Doesn't wait.
  EXPECT_EQ(write(p.w, &byte, 0), 0);
  EXPECT_EQ(Queued(p.r), 0);
  p.CloseRead();
  EXPECT_EQ(write(p.w, &byte, 0), 0);  // Nothing written, nobody missed.
}

GUEST_TEST(PipeEdge, BadBuffersKeepTheData) {
  Pipe p;
  MUST(write(p.w, "abc", 3));
  EXPECT_ERRNO(read(p.r, kBad, 3), EFAULT);
  EXPECT_EQ(Queued(p.r), 3);
  EXPECT_ERRNO(write(p.w, kBad, 3), EFAULT);
  CheckpointHere();
  EXPECT_EQ(Queued(p.r), 3);
}

GUEST_TEST(PipeEdge, FullTakesNothingOfASmallWrite) {
  Pipe p(O_NONBLOCK);
  MUST(fcntl(p.w, F_SETPIPE_SZ, 2 * kPage));
  char* memory = Pages(2);
  MUST(write(p.w, memory, kPage + 100));
  EXPECT_ERRNO(write(p.w, memory, PIPE_BUF), EAGAIN);  // All or nothing up to PIPE_BUF.
  EXPECT_EQ(Queued(p.r), kPage + 100);
  EXPECT_EQ(write(p.w, memory, kPage - 100), kPage - 100);
}

GUEST_TEST(PipeEdge, ReadAcrossWrites) {
  Pipe p;
  MUST(write(p.w, "one", 3));
  MUST(write(p.w, "two", 3));
  char text[8] = {};
  EXPECT_EQ(read(p.r, text, 2), 2);
  CheckpointHere();
  EXPECT_EQ(read(p.r, text, 8), 4);
  EXPECT_EQ(memcmp(text, "etwo", 4), 0);
}

GUEST_TEST(PipeEdge, PacketsAreCutAndKept) {
  Pipe p(O_DIRECT);
  MUST(write(p.w, "first", 5));
  MUST(write(p.w, "second", 6));
  char text[16] = {};
  EXPECT_EQ(read(p.r, text, 2), 2);  // The rest of the packet is lost.
  CheckpointHere();
  EXPECT_EQ(read(p.r, text, 16), 6);
  char* memory = Pages(2);
  MUST(write(p.w, memory, PIPE_BUF + 10));  // Larger ones are split.
  EXPECT_EQ(read(p.r, memory, 2 * kPage), PIPE_BUF);
  EXPECT_EQ(read(p.r, memory, 2 * kPage), 10);
}

GUEST_TEST(PipeEdge, DirectionsOfTheEnds) {
  Pipe p;
  char byte = 0;
  iovec vector = {&byte, 1};
  EXPECT_ERRNO(read(p.w, &byte, 1), EBADF);
  EXPECT_ERRNO(write(p.r, &byte, 1), EBADF);
  EXPECT_ERRNO(readv(p.w, &vector, 1), EBADF);
  EXPECT_ERRNO(writev(p.r, &vector, 1), EBADF);
  EXPECT_ERRNO(pread(p.r, &byte, 1, 0), ESPIPE);
  EXPECT_ERRNO(pwrite(p.w, &byte, 1, 0), ESPIPE);
  EXPECT_ERRNO(ftruncate(p.w, 0), EINVAL);
  EXPECT_ERRNO(fdatasync(p.w), EINVAL);
  EXPECT_ERRNO(fchdir(p.r), ENOTDIR);
}

GUEST_TEST(PipeEdge, OwnerAndMode) {
  MUST(setegid(77));
  Pipe p;
  struct stat status = {};
  MUST(fstat(p.r, &status));
  EXPECT_EQ(status.st_mode, S_IFIFO | 0600);
  EXPECT_EQ(status.st_gid, 77);
  EXPECT_EQ(status.st_nlink, 1);
  EXPECT_EQ(status.st_size, 0);
  EXPECT_OK(fchmod(p.r, 0640));
  MUST(fstat(p.w, &status));
  EXPECT_EQ(status.st_mode & 0777, 0640);
}

GUEST_TEST(PipeEdge, OwnerIsKept) {
  Pipe p;
  MUST(fchmod(p.r, 06755));
  MUST(fchown(p.w, 12, 34));
  CheckpointHere();
  struct stat status = {};
  MUST(fstat(p.r, &status));
  EXPECT_EQ(status.st_uid, 12u);
  EXPECT_EQ(status.st_gid, 34u);
  EXPECT_EQ(status.st_mode, S_IFIFO | 0755u);
  MUST(seteuid(77));
  EXPECT_ERRNO(fchmod(p.r, 0600), EPERM);
  EXPECT_ERRNO(fchown(p.r, 77, static_cast<gid_t>(-1)), EPERM);
}

GUEST_TEST(PipeEdge, ReadersOfManyProcesses) {
  Pipe p;
  pid_t pids[3];
  for (pid_t& pid : pids) {
    pid = Fork([&] {
      p.CloseWrite();
      char byte;
      EXPECT_EQ(read(p.r, &byte, 1), 1);
    });
    AwaitAsleep(pid);
  }
  CheckpointHere();
  MUST(write(p.w, "abc", 3));
  for (const pid_t pid : pids) JOIN_OK(pid);
  EXPECT_EQ(Queued(p.r), 0);
}

GUEST_TEST(FifoEdge, OpeningWithoutWaiting) {
  TempDir dir;
  MUST(mkfifo(dir / "p", 0600));
  EXPECT_ERRNO(open(dir / "p", O_WRONLY | O_NONBLOCK), ENXIO);
  const int reader = MUST(open(dir / "p", O_RDONLY | O_NONBLOCK));
  char byte;
  EXPECT_EQ(read(reader, &byte, 1), 0);  // No writer was there yet: an end, not a wait.
  const int writer = MUST(open(dir / "p", O_WRONLY | O_NONBLOCK));
  EXPECT_ERRNO(read(reader, &byte, 1), EAGAIN);
  MUST(write(writer, "x", 1));
  CheckpointHere();
  EXPECT_EQ(read(reader, &byte, 1), 1);
  close(reader);
  signal(SIGPIPE, SIG_IGN);
  EXPECT_ERRNO(write(writer, "x", 1), EPIPE);
}

GUEST_TEST(FifoEdge, ContentGoesWithTheLastDescriptor) {
  TempDir dir;
  MUST(mkfifo(dir / "p", 0600));
  const int both = MUST(open(dir / "p", O_RDWR));
  MUST(write(both, "lost", 4));
  close(both);
  const int again = MUST(open(dir / "p", O_RDWR | O_NONBLOCK));
  char byte;
  EXPECT_ERRNO(read(again, &byte, 1), EAGAIN);
}

GUEST_TEST(FifoEdge, NamesOfOneFifoShareIt) {
  TempDir dir;
  MUST(mkfifo(dir / "p", 0600));
  MUST(link(dir / "p", dir / "q"));
  const int a = MUST(open(dir / "p", O_RDWR)), b = MUST(open(dir / "q", O_RDWR));
  MUST(write(a, "x", 1));
  char byte;
  EXPECT_EQ(read(b, &byte, 1), 1);
  MUST(unlink(dir / "p"));
  MUST(write(b, "y", 1));
  CheckpointHere();
  EXPECT_EQ(read(a, &byte, 1), 1);
}

GUEST_TEST(DeviceEdge, NullZeroFull) {
  const int null = MUST(open("/dev/null", O_RDWR)), zero = MUST(open("/dev/zero", O_RDWR)), full = MUST(open("/dev/full", O_RDWR));
  char text[8] = {1, 1, 1, 1, 1, 1, 1, 1};
  EXPECT_EQ(read(null, text, 8), 0);
  EXPECT_EQ(write(null, kBad, 8), 8);  // Nobody looks at it.
  EXPECT_ERRNO(read(zero, kBad, 8), EFAULT);
  EXPECT_EQ(pread(zero, text, 8, 12345), 8);
  EXPECT_EQ(text[7], 0);
  EXPECT_ERRNO(write(full, text, 8), ENOSPC);
  EXPECT_EQ(read(full, text, 8), 8);
  EXPECT_EQ(lseek(null, 100, SEEK_SET), 0);
  EXPECT_ERRNO(ftruncate(null, 0), EINVAL);
}

GUEST_TEST(SeccompEdge, Arguments) {
  sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  sock_fprog program = {1, &allow};
  EXPECT_ERRNO(Call(SYS_seccomp, 99, 0, nullptr), EINVAL);
  EXPECT_ERRNO(Call(SYS_seccomp, SECCOMP_SET_MODE_STRICT, 1, nullptr), EINVAL);
  EXPECT_ERRNO(Call(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0x1000, &program), EINVAL);
  EXPECT_ERRNO(Call(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, kBadAddress), EFAULT);
  unsigned action = 0x12345678;
  EXPECT_ERRNO(Call(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action), EOPNOTSUPP);
  action = SECCOMP_RET_ERRNO;
  EXPECT_OK(Call(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action));
  EXPECT_ERRNO(Call(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 1, &action), EINVAL);
  program.len = 0;
  EXPECT_ERRNO(Call(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), EINVAL);
  EXPECT_EQ(prctl(PR_GET_SECCOMP), 0);
  EXPECT_ERRNO(prctl(PR_SET_SECCOMP, 9, 0), EINVAL);
}

// fs.pipe-user-pages-soft: who has very many pipes gets little ones, and cannot enlarge any.
GUEST_TEST(PipeEdge, PagesOfAUser) {
  if (geteuid() != 0) Skip("needs root");
  char text[32];
  ReadFile("/proc/sys/fs/pipe-user-pages-soft", text, sizeof(text));
  if (atol(text) != 16384) Skip("another limit here");
  const rlimit files = {8192, 8192};
  MUST(setrlimit(RLIMIT_NOFILE, &files));
  auto make = [] {
    int ends[2];
    MUST(pipe(ends));
    close(ends[1]);
    return ends[0];
  };
  const int before = make();
  const pid_t pid = Fork([&] {
    BecomeUser(4321);
    int last = -1;
    for (int i = 0; i < 1024; ++i) {
      last = make();
      EXPECT_EQ(fcntl(last, F_GETPIPE_SZ), 65536);
    }
    auto full = [&] {
      const int small = make();
      EXPECT_EQ(fcntl(small, F_GETPIPE_SZ), 8192);
      EXPECT_ERRNO(fcntl(small, F_SETPIPE_SZ, 16384), EPERM);
      EXPECT_ERRNO(fcntl(last, F_SETPIPE_SZ, 131072), EPERM);
      EXPECT_EQ(fcntl(last, F_SETPIPE_SZ, 65536), 65536);
      close(small);
    };
    full();
    CheckpointHere();
    full();
    EXPECT_EQ(fcntl(last, F_SETPIPE_SZ, 4096), 4096);
    JOIN_OK(Fork([=] { EXPECT_EQ(fcntl(last, F_SETPIPE_SZ, 65536), 65536); }));
  });
  JOIN_OK(pid);
  // Neither another user nor one who may do so anyway.
  EXPECT_EQ(fcntl(before, F_GETPIPE_SZ), 65536);
  EXPECT_EQ(fcntl(make(), F_SETPIPE_SZ, 131072), 131072);
  JOIN_OK(Fork([&] {
    BecomeUser(4321);
    EXPECT_EQ(fcntl(make(), F_GETPIPE_SZ), 65536);  // Given back.
  }));
}
