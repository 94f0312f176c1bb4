// io_uring: splices, pipes, waiting for children and for epoll, commands of sockets, vectors in registered buffers.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "test/harness/guest_util.h"
#include "test/harness/rings.h"
#include "test/harness/sockets.h"

using namespace guest;

namespace {

constexpr int kWaitid = 50, kEpollWait = 59, kReadvFixed = 60, kWritevFixed = 61, kPipe = 62;
constexpr unsigned kFdInFixed = 1u << 31;
constexpr uint64_t kNoOffset = ~uint64_t{0};

io_uring_sqe& Splice(Ring& ring, uint64_t data, int in, uint64_t in_offset, int out, uint64_t out_offset, unsigned size, int op = IORING_OP_SPLICE) {
  io_uring_sqe& sqe = ring.Next(op, out, data);
  sqe.off = out_offset;
  sqe.splice_off_in = in_offset;
  sqe.splice_fd_in = in;
  sqe.len = size;
  return sqe;
}

// True if this kernel has the operation; native ones may be older.
bool Has(Ring& ring, int op) {
  alignas(8) static char bytes[sizeof(io_uring_probe) + 64 * sizeof(io_uring_probe_op)];
  memset(bytes, 0, sizeof(bytes));
  auto* probe = reinterpret_cast<io_uring_probe*>(bytes);
  MUST(syscall(kRegister, ring.fd, IORING_REGISTER_PROBE, probe, 64));
  return op <= probe->last_op && (probe->ops[op].flags & IO_URING_OP_SUPPORTED) != 0;
}

}  // namespace

GUEST_TEST(IoUringSplice, BetweenFilesAndPipes) {
  Ring ring;
  Pipe pipe, other;
  TempDir dir;
  WriteFile(dir / "in", "0123456789");
  const int in = MUST(open(dir / "in", O_RDONLY)), out = MUST(open(dir / "out", O_RDWR | O_CREAT, 0600));
  Splice(ring, 1, in, 2, pipe.w, kNoOffset, 5);
  EXPECT_EQ(OneResult(ring, 1), 5);
  Splice(ring, 2, pipe.r, 0, other.w, 0, 3, IORING_OP_TEE);
  EXPECT_EQ(OneResult(ring, 2), 3);
  Splice(ring, 3, pipe.r, kNoOffset, out, 4, 100);
  EXPECT_EQ(OneResult(ring, 3), 5);
  char text[16] = {};
  EXPECT_EQ(pread(out, text, sizeof(text), 0), 9);
  EXPECT_EQ(memcmp(text + 4, "23456", 5), 0);
  EXPECT_EQ(read(other.r, text, sizeof(text)), 3);
  EXPECT_EQ(lseek(in, 0, SEEK_CUR), 0);
  // Without offsets positions move.
  Splice(ring, 4, in, kNoOffset, pipe.w, kNoOffset, 4);
  EXPECT_EQ(OneResult(ring, 4), 4);
  EXPECT_EQ(lseek(in, 0, SEEK_CUR), 4);
  Splice(ring, 5, pipe.r, kNoOffset, out, kNoOffset, 4);
  EXPECT_EQ(OneResult(ring, 5), 4);
  // What is wrong with them.
  Splice(ring, 6, in, 0, out, 0, 4);
  EXPECT_EQ(OneResult(ring, 6), -EINVAL);
  Splice(ring, 7, pipe.r, 0, out, 0, 4);
  EXPECT_EQ(OneResult(ring, 7), -ESPIPE);
  Splice(ring, 8, 99, 0, pipe.w, kNoOffset, 4);
  EXPECT_EQ(OneResult(ring, 8), -EBADF);
  Splice(ring, 9, in, 0, 99, kNoOffset, 4);
  EXPECT_EQ(OneResult(ring, 9), -EBADF);
  Splice(ring, 10, in, 0, pipe.w, kNoOffset, 4).splice_flags = 1u << 20;
  EXPECT_EQ(OneResult(ring, 10), -EINVAL);
  Splice(ring, 11, pipe.r, 1, other.w, 0, 3, IORING_OP_TEE);
  EXPECT_EQ(OneResult(ring, 11), -EINVAL);
  // One that moved less than it should ends its chain.
  Splice(ring, 12, in, 8, pipe.w, kNoOffset, 5).flags = IOSQE_IO_LINK;
  ring.Next(IORING_OP_NOP, -1, 13);
  EXPECT_EQ(ring.Submit(2), 2);
  ring.ExpectInAnyOrder({{12, 2}, {13, -ECANCELED}});
}

GUEST_TEST(IoUringSplice, WaitsForThePipe) {
  Ring ring;
  Pipe pipe, other;
  const int files[1] = {pipe.r};
  MUST(syscall(kRegister, ring.fd, IORING_REGISTER_FILES, files, 1));
  Splice(ring, 1, 0, kNoOffset, other.w, kNoOffset, 5).splice_flags = kFdInFixed;
  EXPECT_EQ(ring.Submit(), 1);
  SleepMs(5);
  EXPECT_EQ(ring.Ready(), 0u);
  CheckpointHere();
  MUST(write(pipe.w, "abc", 3));
  ring.ExpectNext(1, 3);
  char text[8] = {};
  EXPECT_EQ(read(other.r, text, sizeof(text)), 3);
  EXPECT_STREQ(text, "abc");
  // The file is that of the beginning, whatever becomes of its number.
  Splice(ring, 2, pipe.r, kNoOffset, other.w, kNoOffset, 5);
  EXPECT_EQ(ring.Submit(), 1);
  SleepMs(20);
  MUST(dup2(TempFile(), pipe.r));
  CheckpointHere();
  MUST(write(pipe.w, "d", 1));
  ring.ExpectNext(2, 1);
}

GUEST_TEST(IoUringPipe, MakesOne) {
  Ring ring;
  if (!Has(ring, kPipe)) Skip("no such operation");
  int fds[2] = {-1, -1};
  ring.Buffer(kPipe, 0, 1, fds, 0).rw_flags = O_CLOEXEC | O_NONBLOCK;
  EXPECT_EQ(OneResult(ring, 1), 0);
  EXPECT_EQ(fcntl(fds[0], F_GETFD), FD_CLOEXEC);
  EXPECT_EQ(fcntl(fds[1], F_GETFL), O_WRONLY | O_NONBLOCK);
  char c;
  EXPECT_EQ(write(fds[1], "x", 1), 1);
  EXPECT_EQ(read(fds[0], &c, 1), 1);
  ring.Buffer(kPipe, 0, 2, fds, 0).rw_flags = O_APPEND;
  EXPECT_EQ(OneResult(ring, 2), -EINVAL);
  ring.Buffer(kPipe, 0, 3, nullptr, 0);
  EXPECT_EQ(OneResult(ring, 3), -EFAULT);
  ring.Buffer(kPipe, 0, 4, fds, 0, 1);
  EXPECT_EQ(OneResult(ring, 4), -EINVAL);
  // Into slots.
  ring.Buffer(kPipe, 0, 5, fds, 0).file_index = 1;
  EXPECT_EQ(OneResult(ring, 5), -ENXIO);
  const int none[4] = {-1, -1, -1, -1};
  MUST(syscall(kRegister, ring.fd, IORING_REGISTER_FILES, none, 4));
  ring.Buffer(kPipe, 0, 6, fds, 0).file_index = 2;
  EXPECT_EQ(OneResult(ring, 6), 0);
  EXPECT_EQ(fds[0], 1);
  EXPECT_EQ(fds[1], 2);
  CheckpointHere();
  ring.Buffer(IORING_OP_WRITE, 2, 7, "y", 1).flags = IOSQE_FIXED_FILE;
  EXPECT_EQ(OneResult(ring, 7), 1);
  ring.Buffer(IORING_OP_READ, 1, 8, &c, 1).flags = IOSQE_FIXED_FILE;
  EXPECT_EQ(OneResult(ring, 8), 1);
  EXPECT_EQ(c, 'y');
  ring.Buffer(kPipe, 0, 9, fds, 0).file_index = IORING_FILE_INDEX_ALLOC;
  EXPECT_EQ(OneResult(ring, 9), 0);
  EXPECT_EQ(fds[0], 3);
  EXPECT_EQ(fds[1], 0);
  ring.Buffer(kPipe, 0, 10, fds, 0).file_index = IORING_FILE_INDEX_ALLOC;
  EXPECT_EQ(OneResult(ring, 10), -ENFILE);
  io_uring_sqe& both = ring.Buffer(kPipe, 0, 11, fds, 0);
  both.file_index = 2;
  both.rw_flags = O_CLOEXEC;
  EXPECT_EQ(OneResult(ring, 11), -EINVAL);
}

GUEST_TEST(IoUringWait, ForChildren) {
  Ring ring;
  if (!Has(ring, kWaitid)) Skip("no such operation");
  Pipe pipe;
  auto wait = [&](uint64_t data, int type, int id, siginfo_t* info, unsigned options) {
    io_uring_sqe& sqe = ring.Next(kWaitid, id, data);
    sqe.len = static_cast<unsigned>(type);
    sqe.addr2 = reinterpret_cast<uint64_t>(info);
    sqe.file_index = options;
  };
  siginfo_t info = {};
  wait(1, P_ALL, 0, &info, WEXITED);
  EXPECT_EQ(OneResult(ring, 1), -ECHILD);
  wait(2, P_ALL, 0, &info, 0);
  EXPECT_EQ(OneResult(ring, 2), -EINVAL);
  const pid_t child = Fork([&] {
    char c;
    if (read(pipe.r, &c, 1) == 1) _exit(7);
  });
  wait(3, P_PID, child, &info, WEXITED | WNOHANG);
  EXPECT_EQ(OneResult(ring, 3), 0);
  EXPECT_EQ(info.si_pid, 0);
  wait(4, P_PID, child, &info, WEXITED);
  EXPECT_EQ(ring.Submit(), 1);
  EXPECT_EQ(ring.Ready(), 0u);
  CheckpointHere();
  MUST(write(pipe.w, "x", 1));
  ring.ExpectNext(4, 0);
  EXPECT_EQ(info.si_pid, child);
  EXPECT_EQ(info.si_code, CLD_EXITED);
  EXPECT_EQ(info.si_status, 7);
  EXPECT_ERRNO(waitpid(child, nullptr, WNOHANG), ECHILD);
}

GUEST_TEST(IoUringWait, ForEpoll) {
  Ring ring;
  if (!Has(ring, kEpollWait)) Skip("no such operation");
  Pipe pipe;
  const int epoll = MUST(epoll_create1(0));
  epoll_event want = {};
  want.events = EPOLLIN;
  want.data.u64 = 77;
  MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, pipe.r, &want));
  epoll_event got[2] = {};
  ring.Buffer(kEpollWait, epoll, 1, got, 2);
  EXPECT_EQ(ring.Submit(), 1);
  EXPECT_EQ(ring.Ready(), 0u);
  CheckpointHere();
  MUST(write(pipe.w, "x", 1));
  ring.ExpectNext(1, 1);
  EXPECT_EQ(got[0].data.u64, 77u);
  ring.Buffer(kEpollWait, epoll, 2, got, 0);
  EXPECT_EQ(OneResult(ring, 2), -EINVAL);
  ring.Buffer(kEpollWait, pipe.r, 3, got, 2);
  EXPECT_EQ(OneResult(ring, 3), -EINVAL);
  ring.Buffer(kEpollWait, epoll, 4, got, 2).rw_flags = 1;
  EXPECT_EQ(OneResult(ring, 4), -EINVAL);
}

GUEST_TEST(IoUringSocket, Commands) {
  Ring ring;
  sockaddr_in address;
  const int listener = TcpListener(&address, 5);
  const int client = MUST(socket(AF_INET, SOCK_STREAM, 0));
  MUST(connect(client, reinterpret_cast<sockaddr*>(&address), sizeof(address)));
  const int server = MUST(accept(listener, nullptr, nullptr));
  auto command = [&](uint64_t data, int fd, unsigned op) -> io_uring_sqe& {
    io_uring_sqe& sqe = ring.Next(IORING_OP_URING_CMD, fd, data);
    sqe.off = op;
    return sqe;
  };
  command(1, server, 0);
  int first = OneResult(ring, 1);
  if (first == -EOPNOTSUPP) Skip("no commands of sockets");
  EXPECT_EQ(first, 0);
  MUST(write(client, "12345", 5));
  CheckpointHere();
  command(2, server, 0);
  EXPECT_EQ(OneResult(ring, 2), 5);
  command(3, listener, 0);
  EXPECT_EQ(OneResult(ring, 3), -EINVAL);
  command(4, server, 1);
  EXPECT_EQ(OneResult(ring, 4), 0);
  auto option = [&](uint64_t data, unsigned op, int level, int name, void* value, unsigned size) {
    io_uring_sqe& sqe = command(data, server, op);
    sqe.addr = static_cast<unsigned>(level) | static_cast<uint64_t>(name) << 32;
    sqe.addr3 = reinterpret_cast<uint64_t>(value);
    sqe.file_index = size;
  };
  int value = 1;
  option(5, 3, SOL_SOCKET, SO_KEEPALIVE, &value, sizeof(value));
  EXPECT_EQ(OneResult(ring, 5), 0);
  value = 0;
  option(6, 2, SOL_SOCKET, SO_KEEPALIVE, &value, sizeof(value));
  EXPECT_EQ(OneResult(ring, 6), 4);
  EXPECT_EQ(value, 1);
  option(7, 2, IPPROTO_TCP, 1, &value, sizeof(value));
  EXPECT_EQ(OneResult(ring, 7), -EOPNOTSUPP);
  option(8, 3, SOL_SOCKET, SO_KEEPALIVE, nullptr, sizeof(value));
  EXPECT_EQ(OneResult(ring, 8), -EFAULT);
  command(9, server, 99);
  EXPECT_EQ(OneResult(ring, 9), -EOPNOTSUPP);
  const int udp = MUST(socket(AF_INET, SOCK_DGRAM, 0));
  sockaddr_in own = {};
  own.sin_family = AF_INET;
  own.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(own);
  MUST(bind(udp, reinterpret_cast<sockaddr*>(&own), sizeof(own)));
  MUST(getsockname(udp, reinterpret_cast<sockaddr*>(&own), &size));
  MUST(sendto(udp, "123", 3, 0, reinterpret_cast<sockaddr*>(&own), sizeof(own)));
  MUST(sendto(udp, "4567", 4, 0, reinterpret_cast<sockaddr*>(&own), sizeof(own)));
  command(12, udp, 0);
  EXPECT_EQ(OneResult(ring, 12), 3);
  UnixPair pair;
  command(10, pair.a, 0);
  EXPECT_EQ(OneResult(ring, 10), -EOPNOTSUPP);
  Pipe pipe;
  command(11, pipe.r, 0);
  EXPECT_EQ(OneResult(ring, 11), -EOPNOTSUPP);
}

GUEST_TEST(IoUringFixed, Vectors) {
  Ring ring;
  if (!Has(ring, kReadvFixed)) Skip("no such operation");
  static char memory[64];
  strcpy(memory, "hello, fixed");
  const int fd = TempFile();
  iovec parts[2] = {{memory, 5}, {memory + 5, 7}};
  ring.Buffer(kWritevFixed, fd, 1, parts, 2);
  EXPECT_EQ(OneResult(ring, 1), -EFAULT);
  const iovec buffer = {memory, 32};
  MUST(syscall(kRegister, ring.fd, IORING_REGISTER_BUFFERS, &buffer, 1));
  ring.Buffer(kWritevFixed, fd, 2, parts, 2);
  EXPECT_EQ(OneResult(ring, 2), 12);
  CheckpointHere();
  iovec back[2] = {{memory + 16, 4}, {memory + 20, 8}};
  ring.Buffer(kReadvFixed, fd, 3, back, 2);
  EXPECT_EQ(OneResult(ring, 3), 12);
  EXPECT_EQ(memcmp(memory + 16, "hello, fixed", 12), 0);
  back[1].iov_len = 20;
  ring.Buffer(kReadvFixed, fd, 4, back, 2);
  EXPECT_EQ(OneResult(ring, 4), -EFAULT);
}

GUEST_TEST(IoUringNop, SaysWhatItIsTold) {
  Ring ring;
  io_uring_sqe& sqe = ring.Next(IORING_OP_NOP, -1, 1);
  sqe.rw_flags = 1;
  sqe.len = 42;
  const int result = OneResult(ring, 1);
  if (result == 0) Skip("no results of one's own");
  EXPECT_EQ(result, 42);
  io_uring_sqe& bad = ring.Next(IORING_OP_NOP, -1, 2);
  bad.rw_flags = 1;
  bad.len = static_cast<unsigned>(-EIO);
  EXPECT_EQ(OneResult(ring, 2), -EIO);
  ring.Next(IORING_OP_NOP, -1, 3).rw_flags = 1 << 20;
  EXPECT_EQ(OneResult(ring, 3), -EINVAL);
}
