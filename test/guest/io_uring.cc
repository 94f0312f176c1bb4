// io_uring by its raw calls.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>

#include "test/harness/guest_util.h"
#include "test/harness/rings.h"
#include "test/harness/sockets.h"
#include "test/harness/turns.h"

using namespace guest;

GUEST_TEST(IoUring, SetupErrors) {
  Ring probe;
  io_uring_params p = {};
  EXPECT_ERRNO(syscall(kSetup, 0, &p), EINVAL);
  EXPECT_ERRNO(syscall(kSetup, 1 << 16, &p), EINVAL);
  EXPECT_ERRNO(syscall(kSetup, 8, nullptr), EFAULT);
  p.flags = 1u << 31;
  EXPECT_ERRNO(syscall(kSetup, 8, &p), EINVAL);
  p = {};
  p.flags = IORING_SETUP_CQSIZE;
  p.cq_entries = 4;
  EXPECT_ERRNO(syscall(kSetup, 8, &p), EINVAL);
  EXPECT_ERRNO(syscall(kEnter, 0, 0, 0, 0, nullptr, 0), EOPNOTSUPP);
  EXPECT_ERRNO(syscall(kEnter, 99, 0, 0, 0, nullptr, 0), EBADF);
  EXPECT_ERRNO(syscall(kEnter, probe.fd, 0, 0, 1u << 30, nullptr, 0), EINVAL);
  EXPECT_EQ(fcntl(probe.fd, F_GETFD), FD_CLOEXEC);
}

GUEST_TEST(IoUring, NopsAndSizes) {
  Ring ring(5, 0, 32);
  EXPECT_EQ(ring.params.sq_entries, 8);
  EXPECT_EQ(ring.params.cq_entries, 32);
  EXPECT_EQ(ring.Word(ring.params.sq_off.ring_mask), 7);
  EXPECT_EQ(ring.Word(ring.params.cq_off.ring_entries), 32);
  for (uint64_t i = 0; i < 8; ++i) ring.Next(IORING_OP_NOP, -1, 100 + i);
  EXPECT_EQ(ring.Submit(8), 8);
  CheckpointHere();
  for (uint64_t i = 0; i < 8; ++i) ring.ExpectNext(100 + i, 0);
  EXPECT_EQ(ring.Ready(), 0);
  ring.Next(200, -1, 1);
  EXPECT_EQ(ring.Submit(), 1);
  ring.ExpectNext(1, -EINVAL);
}

GUEST_TEST(IoUring, ReadsAndWritesFiles) {
  Ring ring;
  const int fd = TempFile();
  char text[16] = "hello, ring";
  ring.Buffer(IORING_OP_WRITE, fd, 1, text, 11);
  EXPECT_EQ(ring.Submit(1), 1);
  ring.ExpectNext(1, 11);
  char back[16] = {};
  iovec parts[2] = {{back, 5}, {back + 5, 8}};
  ring.Buffer(IORING_OP_READV, fd, 2, parts, 2);
  ring.Buffer(IORING_OP_READ, fd, 3, back + 12, 3, 7);
  ring.Next(IORING_OP_FSYNC, fd, 4);
  EXPECT_EQ(ring.Submit(3), 3);
  ring.ExpectNext(2, 11);
  ring.ExpectNext(3, 3);
  ring.ExpectNext(4, 0);
  EXPECT_EQ(memcmp(back, "hello, ring", 11), 0);
  EXPECT_EQ(memcmp(back + 12, "rin", 3), 0);
  // The file's own position: the write at 0 left it.
  ring.Buffer(IORING_OP_READ, fd, 5, back, 5, ~uint64_t{0});
  ring.Buffer(IORING_OP_READ, 99, 6, back, 5);
  ring.Buffer(IORING_OP_READ, fd, 7, reinterpret_cast<void*>(4096), 5);
  EXPECT_EQ(ring.Submit(3), 3);
  ring.ExpectNext(5, 5);
  ring.ExpectNext(6, -EBADF);
  ring.ExpectNext(7, -EFAULT);
}

GUEST_TEST(IoUring, PipeReadWaits) {
  Ring ring;
  Pipe pipe;
  char text[8] = {};
  ring.Buffer(IORING_OP_READ, pipe.r, 1, text, sizeof(text));
  EXPECT_EQ(ring.Submit(), 1);
  EXPECT_EQ(ring.Ready(), 0);
  CheckpointHere();
  MUST(write(pipe.w, "abc", 3));
  ring.ExpectNext(1, 3);
  EXPECT_STREQ(text, "abc");
  // The file is that of the submission, whatever becomes of its number.
  ring.Buffer(IORING_OP_READ, pipe.r, 2, text, sizeof(text));
  EXPECT_EQ(ring.Submit(), 1);
  MUST(dup2(TempFile(), pipe.r));
  CheckpointHere();
  MUST(write(pipe.w, "defg", 4));
  ring.ExpectNext(2, 4);
  EXPECT_STREQ(text, "defg");
}

GUEST_TEST(IoUring, EnterWaitsAndTimesOut) {
  Ring ring;
  Pipe pipe;
  char text[8] = {};
  ring.Buffer(IORING_OP_READ, pipe.r, 1, text, sizeof(text));
  const pid_t self = getpid();
  const pid_t writer = Fork([&] {
    AwaitAsleep(self);
    MUST(write(pipe.w, "x", 1));
  });
  EXPECT_EQ(ring.Submit(1), 1);
  ring.ExpectNext(1, 1);
  JOIN_OK(writer);
  const timespec wait = Ns(20 * kMs);
  io_uring_getevents_arg argument = {};
  argument.ts = reinterpret_cast<uint64_t>(&wait);
  const int64_t start = NowNs();
  EXPECT_ERRNO(syscall(kEnter, ring.fd, 0, 1, IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, &argument, sizeof(argument)), ETIME);
  EXPECT_GE(NowNs() - start, 20 * kMs);
  EXPECT_ERRNO(syscall(kEnter, ring.fd, 0, 1, IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, &argument, 7), EINVAL);
}

GUEST_TEST(IoUring, SignalEndsTheWait) {
  CountSignals(SIGUSR1);
  Ring ring;
  const pid_t self = getpid();
  const pid_t sender = Fork([=] {
    AwaitAsleep(self);
    kill(self, SIGUSR1);
  });
  EXPECT_ERRNO(syscall(kEnter, ring.fd, 0, 1, IORING_ENTER_GETEVENTS, nullptr, 0), EINTR);
  EXPECT_EQ(SignalCount(), 1);
  JOIN_OK(sender);
}

GUEST_TEST(IoUring, PollIsTriggeredAndRemoved) {
  Ring ring;
  Pipe pipe;
  ring.Next(IORING_OP_POLL_ADD, pipe.r, 1).poll32_events = POLLIN;
  ring.Next(IORING_OP_POLL_ADD, pipe.w, 2).poll32_events = POLLOUT;
  EXPECT_EQ(ring.Submit(), 2);
  ring.ExpectNext(2, POLLOUT);
  EXPECT_EQ(ring.Ready(), 0);
  CheckpointHere();
  MUST(write(pipe.w, "x", 1));
  ring.ExpectNext(1, POLLIN);
  char byte;
  MUST(read(pipe.r, &byte, 1));
  ring.Next(IORING_OP_POLL_ADD, pipe.r, 3).poll32_events = POLLIN;
  EXPECT_EQ(ring.Submit(), 1);
  ring.Next(IORING_OP_POLL_REMOVE, -1, 4).addr = 3;
  EXPECT_EQ(ring.Submit(2), 1);
  ring.ExpectInAnyOrder({{3, -ECANCELED}, {4, 0}});
  ring.Next(IORING_OP_POLL_REMOVE, -1, 5).addr = 3;
  EXPECT_EQ(ring.Submit(1), 1);
  ring.ExpectNext(5, -ENOENT);
}

GUEST_TEST(IoUring, Timeouts) {
  Ring ring;
  timespec short_time = Ns(20 * kMs), long_time = Ns(100'000 * kMs);
  const int64_t start = NowNs();
  ring.Buffer(IORING_OP_TIMEOUT, -1, 1, &short_time, 1);
  ring.Buffer(IORING_OP_TIMEOUT, -1, 2, &long_time, 1);
  ring.Buffer(IORING_OP_TIMEOUT, -1, 3, &long_time, 1, 1);  // or one completion
  EXPECT_EQ(ring.Submit(), 3);
  short_time = long_time = {};  // Not looked at again.
  CheckpointHere();
  ring.ExpectNext(1, -ETIME);
  EXPECT_GE(NowNs() - start, 20 * kMs);
  EXPECT_EQ(ring.Ready(), 0);  // A time-out is none of those that are counted.
  ring.Next(IORING_OP_NOP, -1, 9);
  EXPECT_EQ(ring.Submit(), 1);
  ring.ExpectNext(9, 0);
  ring.ExpectNext(3, 0);
  ring.Next(IORING_OP_TIMEOUT_REMOVE, -1, 4).addr = 2;
  EXPECT_EQ(ring.Submit(2), 1);
  ring.ExpectInAnyOrder({{2, -ECANCELED}, {4, 0}});
  ring.Next(IORING_OP_TIMEOUT_REMOVE, -1, 5).addr = 2;
  const timespec bad = {.tv_sec = 0, .tv_nsec = -1};
  ring.Buffer(IORING_OP_TIMEOUT, -1, 6, &bad, 1);
  EXPECT_EQ(ring.Submit(2), 2);
  ring.ExpectNext(5, -ENOENT);
  ring.ExpectNext(6, -EINVAL);
}

GUEST_TEST(IoUring, Cancel) {
  Ring ring;
  Pipe pipe;
  char text[8];
  for (uint64_t i = 1; i <= 3; ++i) ring.Buffer(IORING_OP_READ, pipe.r, i, text, sizeof(text));
  EXPECT_EQ(ring.Submit(), 3);
  CheckpointHere();
  ring.Next(IORING_OP_ASYNC_CANCEL, -1, 10).addr = 2;
  EXPECT_EQ(ring.Submit(2), 1);
  ring.ExpectInAnyOrder({{2, -ECANCELED}, {10, 0}});
  ring.Next(IORING_OP_ASYNC_CANCEL, -1, 11).addr = 2;
  EXPECT_EQ(ring.Submit(1), 1);
  ring.ExpectNext(11, -ENOENT);
  io_uring_sqe& all = ring.Next(IORING_OP_ASYNC_CANCEL, pipe.r, 12);
  all.cancel_flags = IORING_ASYNC_CANCEL_ALL | IORING_ASYNC_CANCEL_FD;
  EXPECT_EQ(ring.Submit(3), 1);
  ring.ExpectInAnyOrder({{1, -ECANCELED}, {3, -ECANCELED}, {12, 2}});
}

GUEST_TEST(IoUring, LinksRunInOrderAndFailTogether) {
  Ring ring;
  Pipe pipe;
  char text[8] = {};
  ring.Buffer(IORING_OP_READ, pipe.r, 1, text, 3).flags = IOSQE_IO_LINK;
  ring.Buffer(IORING_OP_WRITE, pipe.w, 2, text, 3).flags = IOSQE_IO_LINK;
  ring.Next(IORING_OP_NOP, -1, 3);
  EXPECT_EQ(ring.Submit(), 3);
  EXPECT_EQ(ring.Ready(), 0);
  CheckpointHere();
  MUST(write(pipe.w, "abc", 3));
  ring.ExpectNext(1, 3);
  ring.ExpectNext(2, 3);
  ring.ExpectNext(3, 0);
  ring.Buffer(IORING_OP_READ, 99, 4, text, 3).flags = IOSQE_IO_LINK;
  ring.Next(IORING_OP_NOP, -1, 5).flags = IOSQE_IO_LINK;
  ring.Next(IORING_OP_NOP, -1, 6);
  ring.Next(IORING_OP_NOP, -1, 7);
  EXPECT_EQ(ring.Submit(4), 4);
  int failed = 0;
  for (int i = 0; i < 4; ++i) {
    const io_uring_cqe cqe = ring.Take();
    EXPECT_EQ(cqe.res, cqe.user_data == 4 ? -EBADF : cqe.user_data == 7 ? 0 : -ECANCELED);
    failed += cqe.res < 0 ? 1 : 0;
  }
  EXPECT_EQ(failed, 3);
  ring.Buffer(IORING_OP_READ, 99, 8, text, 3).flags = IOSQE_IO_HARDLINK;
  ring.Next(IORING_OP_NOP, -1, 9);
  EXPECT_EQ(ring.Submit(2), 2);
  ring.ExpectNext(8, -EBADF);
  ring.ExpectNext(9, 0);
}

GUEST_TEST(IoUring, LinkedTimeoutLimits) {
  Ring ring;
  Pipe pipe;
  char text[8] = {};
  const timespec short_time = Ns(20 * kMs), long_time = Ns(100'000 * kMs);
  ring.Buffer(IORING_OP_READ, pipe.r, 1, text, 3).flags = IOSQE_IO_LINK;
  ring.Buffer(IORING_OP_LINK_TIMEOUT, -1, 2, &short_time, 1);
  EXPECT_EQ(ring.Submit(2), 2);
  ring.ExpectInAnyOrder({{1, -ECANCELED}, {2, -ETIME}});
  ring.Buffer(IORING_OP_READ, pipe.r, 3, text, 3).flags = IOSQE_IO_LINK;
  ring.Buffer(IORING_OP_LINK_TIMEOUT, -1, 4, &long_time, 1);
  EXPECT_EQ(ring.Submit(), 2);
  CheckpointHere();
  MUST(write(pipe.w, "abc", 3));
  ring.ExpectInAnyOrder({{3, 3}, {4, -ECANCELED}});
}

GUEST_TEST(IoUring, DrainWaitsForAllBefore) {
  Ring ring;
  Pipe pipe;
  char text[8] = {};
  ring.Buffer(IORING_OP_READ, pipe.r, 1, text, 3);
  ring.Next(IORING_OP_NOP, -1, 2).flags = IOSQE_IO_DRAIN;
  ring.Next(IORING_OP_NOP, -1, 3);
  EXPECT_EQ(ring.Submit(), 3);
  EXPECT_EQ(ring.Ready(), 0);
  CheckpointHere();
  MUST(write(pipe.w, "abc", 3));
  ring.ExpectNext(1, 3);
  ring.ExpectNext(2, 0);
  ring.ExpectNext(3, 0);
}

GUEST_TEST(IoUring, SkippedCompletions) {
  Ring ring;
  ring.Next(IORING_OP_NOP, -1, 1).flags = IOSQE_CQE_SKIP_SUCCESS;
  ring.Buffer(IORING_OP_READ, 99, 2, nullptr, 0).flags = IOSQE_CQE_SKIP_SUCCESS;
  EXPECT_EQ(ring.Submit(1), 2);
  ring.ExpectNext(2, -EBADF);
  EXPECT_EQ(ring.Ready(), 0);
}

GUEST_TEST(IoUring, Sockets) {
  Ring ring;
  sockaddr_in address, peer = {};
  socklen_t peer_size = sizeof(peer);
  const int listener = TcpListener(&address, 4);
  const int client = static_cast<int>(MUST(socket(AF_INET, SOCK_STREAM, 0)));
  io_uring_sqe& accept_sqe = ring.Next(IORING_OP_ACCEPT, listener, 1);
  accept_sqe.addr = reinterpret_cast<uint64_t>(&peer);
  accept_sqe.addr2 = reinterpret_cast<uint64_t>(&peer_size);
  accept_sqe.accept_flags = SOCK_CLOEXEC;
  EXPECT_EQ(ring.Submit(), 1);
  CheckpointHere();
  ring.Buffer(IORING_OP_CONNECT, client, 2, &address, 0, sizeof(address));
  EXPECT_EQ(ring.Submit(2), 1);
  int server = -1;
  for (int i = 0; i < 2; ++i) {
    const io_uring_cqe cqe = ring.Take();
    if (cqe.user_data == 1) server = cqe.res;
    if (cqe.user_data == 2) EXPECT_EQ(cqe.res, 0);
  }
  ASSERT(server >= 0);
  EXPECT_EQ(peer.sin_family, AF_INET);
  EXPECT_EQ(fcntl(server, F_GETFD), FD_CLOEXEC);
  char text[16] = {}, more[16] = {};
  ring.Buffer(IORING_OP_RECV, server, 3, text, 10).msg_flags = MSG_WAITALL;
  EXPECT_EQ(ring.Submit(), 1);
  ring.Buffer(IORING_OP_SEND, client, 4, "12345", 5);
  EXPECT_EQ(ring.Submit(1), 1);
  ring.ExpectNext(4, 5);
  CheckpointHere();
  iovec part = {const_cast<char*>("67890"), 5};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  ring.Buffer(IORING_OP_SENDMSG, client, 5, &message, 1);
  EXPECT_EQ(ring.Submit(2), 1);
  ring.ExpectInAnyOrder({{3, 10}, {5, 5}});
  EXPECT_STREQ(text, "1234567890");
  iovec into = {more, sizeof(more)};
  msghdr received = {};
  received.msg_iov = &into;
  received.msg_iovlen = 1;
  ring.Buffer(IORING_OP_RECVMSG, server, 6, &received, 1);
  EXPECT_EQ(ring.Submit(), 1);
  ring.Buffer(IORING_OP_SHUTDOWN, client, 7, nullptr, SHUT_WR);
  EXPECT_EQ(ring.Submit(2), 1);
  ring.ExpectInAnyOrder({{6, 0}, {7, 0}});
  // Nobody is there: an error, and no signal.
  close(server);
  SleepMs(10);
  shutdown(client, SHUT_RDWR);
  ring.Buffer(IORING_OP_SEND, client, 8, "x", 1);
  EXPECT_EQ(ring.Submit(1), 1);
  ring.ExpectNext(8, -EPIPE);
}

GUEST_TEST(IoUring, PathsAndDescriptors) {
  Ring ring;
  TempDir dir;
  const Str path("%s/file", dir.path());
  ring.Buffer(IORING_OP_OPENAT, AT_FDCWD, 1, path.c_str(), 0600).open_flags = O_CREAT | O_RDWR;
  EXPECT_EQ(ring.Submit(1), 1);
  const io_uring_cqe opened = ring.Take();
  ASSERT(opened.res >= 0);
  EXPECT_EQ(write(opened.res, "1234", 4), 4);
  struct statx info = {};
  io_uring_sqe& statx_sqe = ring.Buffer(IORING_OP_STATX, AT_FDCWD, 2, path.c_str(), STATX_SIZE, reinterpret_cast<uint64_t>(&info));
  statx_sqe.statx_flags = 0;
  ring.Buffer(IORING_OP_CLOSE, opened.res, 3, nullptr, 0);
  ring.Buffer(IORING_OP_UNLINKAT, AT_FDCWD, 4, path.c_str(), 0);
  EXPECT_EQ(ring.Submit(3), 3);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(ring.Take().res, 0);
  EXPECT_EQ(info.stx_size, 4);
  EXPECT_ERRNO(fcntl(opened.res, F_GETFD), EBADF);
  EXPECT_ERRNO(access(path, F_OK), ENOENT);
  ring.Buffer(IORING_OP_CLOSE, ring.fd, 5, nullptr, 0);
  EXPECT_EQ(ring.Submit(1), 1);
  ring.ExpectNext(5, -EBADF);
}

GUEST_TEST(IoUring, RegisteredFilesAndBuffers) {
  Ring ring;
  Pipe pipe;
  static char memory[64];
  const int files[3] = {pipe.r, -1, pipe.w};
  const iovec buffer = {memory, 32};
  EXPECT_OK(syscall(kRegister, ring.fd, IORING_REGISTER_FILES, files, 3));
  EXPECT_ERRNO(syscall(kRegister, ring.fd, IORING_REGISTER_FILES, files, 3), EBUSY);
  EXPECT_OK(syscall(kRegister, ring.fd, IORING_REGISTER_BUFFERS, &buffer, 1));
  ring.Buffer(IORING_OP_READ_FIXED, 0, 1, memory + 4, 8).flags = IOSQE_FIXED_FILE;
  EXPECT_EQ(ring.Submit(), 1);
  CheckpointHere();
  ring.Buffer(IORING_OP_WRITE, 2, 2, "abcd", 4).flags = IOSQE_FIXED_FILE;
  EXPECT_EQ(ring.Submit(2), 1);
  ring.ExpectInAnyOrder({{1, 4}, {2, 4}});
  EXPECT_STREQ(memory + 4, "abcd");
  ring.Buffer(IORING_OP_READ_FIXED, 0, 3, memory + 28, 8).flags = IOSQE_FIXED_FILE;
  ring.Buffer(IORING_OP_READ, 1, 4, memory, 8).flags = IOSQE_FIXED_FILE;
  EXPECT_EQ(ring.Submit(2), 2);
  ring.ExpectNext(3, -EFAULT);
  ring.ExpectNext(4, -EBADF);
  EXPECT_OK(syscall(kRegister, ring.fd, IORING_UNREGISTER_FILES, nullptr, 0));
  EXPECT_ERRNO(syscall(kRegister, ring.fd, IORING_UNREGISTER_FILES, nullptr, 0), ENXIO);
}

GUEST_TEST(IoUring, EventfdCounts) {
  Ring ring;
  const int event = static_cast<int>(MUST(eventfd(0, EFD_NONBLOCK)));
  EXPECT_OK(syscall(kRegister, ring.fd, IORING_REGISTER_EVENTFD, &event, 1));
  ring.Next(IORING_OP_NOP, -1, 1);
  ring.Next(IORING_OP_NOP, -1, 2);
  EXPECT_EQ(ring.Submit(2), 2);
  CheckpointHere();
  uint64_t count = 0;
  EXPECT_EQ(read(event, &count, 8), 8);
  EXPECT_GE(count, 1);
  EXPECT_OK(syscall(kRegister, ring.fd, IORING_UNREGISTER_EVENTFD, nullptr, 0));
}

GUEST_TEST(IoUring, FullRingKeepsWhatItCannotHold) {
  Ring ring(4, 0, 4);
  for (uint64_t round = 0; round < 3; ++round) {
    for (uint64_t i = 0; i < 4; ++i) ring.Next(IORING_OP_NOP, -1, round * 4 + i);
    EXPECT_EQ(ring.Submit(), 4);
  }
  EXPECT_EQ(ring.Ready(), 4);
  EXPECT_NE(__atomic_load_n(&ring.Word(ring.params.sq_off.flags), __ATOMIC_RELAXED) & IORING_SQ_CQ_OVERFLOW, 0);
  CheckpointHere();
  for (uint64_t i = 0; i < 12; ++i) ring.ExpectNext(i, 0);
}

GUEST_TEST(IoUring, PollOfTheRing) {
  Ring ring;
  Pipe pipe;
  pollfd of = {.fd = ring.fd, .events = POLLIN | POLLOUT, .revents = 0};
  EXPECT_EQ(poll(&of, 1, 0), 1);
  EXPECT_EQ(of.revents, POLLOUT);
  ring.Next(IORING_OP_POLL_ADD, pipe.r, 1).poll32_events = POLLIN;
  EXPECT_EQ(ring.Submit(), 1);
  of.events = POLLIN;
  const pid_t pid = Fork([&] {
    SleepMs(10);
    MUST(write(pipe.w, "x", 1));
  });
  EXPECT_EQ(poll(&of, 1, 10000), 1);
  EXPECT_EQ(of.revents, POLLIN);
  ring.ExpectNext(1, POLLIN);
  JOIN_OK(pid);
}

GUEST_TEST(IoUring, DisabledUntilEnabled) {
  Ring ring(8, IORING_SETUP_R_DISABLED);
  EXPECT_ERRNO(syscall(kEnter, ring.fd, 0, 0, 0, nullptr, 0), EBADFD);
  EXPECT_OK(syscall(kRegister, ring.fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0));
  EXPECT_ERRNO(syscall(kRegister, ring.fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0), EBADFD);
  ring.Next(IORING_OP_NOP, -1, 1);
  EXPECT_EQ(ring.Submit(1), 1);
  ring.ExpectNext(1, 0);
}

GUEST_TEST(IoUring, ProbeTells) {
  Ring ring;
  alignas(8) static char bytes[sizeof(io_uring_probe) + 64 * sizeof(io_uring_probe_op)];
  auto* probe = reinterpret_cast<io_uring_probe*>(bytes);
  EXPECT_OK(syscall(kRegister, ring.fd, IORING_REGISTER_PROBE, probe, 64));
  EXPECT_GE(probe->ops_len, IORING_OP_LINKAT);
  for (int op : {IORING_OP_NOP, IORING_OP_READV, IORING_OP_POLL_ADD, IORING_OP_ACCEPT, IORING_OP_TIMEOUT, IORING_OP_OPENAT}) {
    EXPECT_EQ(probe->ops[op].op, op);
    EXPECT_EQ(probe->ops[op].flags, IO_URING_OP_SUPPORTED);
  }
  EXPECT_ERRNO(syscall(kRegister, ring.fd, IORING_REGISTER_PROBE, probe, 64), EINVAL);  // Not zero any more.
  EXPECT_ERRNO(syscall(kRegister, ring.fd, 999, nullptr, 0), EINVAL);
}

GUEST_TEST(IoUring, WildIndicesAreDropped) {
  Ring ring;
  ring.Next(IORING_OP_NOP, -1, 1);
  reinterpret_cast<unsigned*>(&ring.Word(ring.params.sq_off.array))[ring.Word(ring.params.sq_off.tail) & 7] = 4711;
  EXPECT_EQ(ring.Submit(), 0);
  EXPECT_EQ(ring.Word(ring.params.sq_off.dropped), 1);
  EXPECT_EQ(ring.Ready(), 0);
  // Ends and sizes that make no sense hurt nobody else.
  ring.Word(ring.params.sq_off.ring_mask) = ~0u;
  ring.Word(ring.params.cq_off.ring_entries) = ~0u;
  ring.Word(ring.params.cq_off.head) = 0x12345678;
  ring.Word(ring.params.sq_off.tail) += 5000;
  syscall(kEnter, ring.fd, 5000, 0, 0, nullptr, 0);
  ring.Word(ring.params.sq_off.tail) -= 77777;
  syscall(kEnter, ring.fd, ~0u, 0, 0, nullptr, 0);
}

GUEST_TEST(IoUring, NoDescriptorsOfRingsInMessages) {
  Ring ring;
  int pair[2];
  MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
  EXPECT_ERRNO(SendFds(pair[0], {ring.fd}), EINVAL);
}

GUEST_TEST(IoUring, GoesWithItsProcess) {
  // Requests that wait keep nothing alive.
  JOIN_OK(Fork([] {
    static Ring ring;
    static Pipe pipe;
    static char text[8];
    for (uint64_t i = 0; i < 4; ++i) ring.Buffer(IORING_OP_READ, pipe.r, i, text, sizeof(text));
    EXPECT_EQ(ring.Submit(), 4);
  }));
}

// A linked request ends its own process: what that held of record locks goes like at any other end.
GUEST_TEST(IoUring, RequestThatEndsItsProcessFreesItsLocks) {
  TempDir dir;
  MUST(mkdir(dir / "groups", 0755));
  if (mount("cgroup2", dir / "groups", "cgroup2", 0, nullptr) != 0) Skip("no cgroup2 file system");
  char group[256], kill_file[300], members[300];
  snprintf(group, sizeof(group), "%s/test-%d", static_cast<const char*>(dir / "groups"), getpid());
  snprintf(kill_file, sizeof(kill_file), "%s/cgroup.kill", group);
  snprintf(members, sizeof(members), "%s/cgroup.procs", group);
  if (mkdir(group, 0755) != 0) {
    umount2(dir / "groups", MNT_DETACH);
    Skip("groups cannot be made here");
  }
  WriteFile(dir / "f", "0123456789");
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  Pipe pipe;
  Gate ready;
  const pid_t child = Fork([&] {
    Ring ring;
    const int file = MUST(open(dir / "f", O_RDWR));
    MUST(fcntl(file, F_SETLK, &lock));
    const int fd = MUST(open(members, O_WRONLY));
    MUST(write(fd, "0", 1));
    const int killer = MUST(open(kill_file, O_WRONLY));
    io_uring_sqe& poll = ring.Next(IORING_OP_POLL_ADD, pipe.r, 1);
    poll.poll32_events = POLLIN;
    poll.flags = IOSQE_IO_LINK;
    ring.Buffer(IORING_OP_WRITE, killer, 2, "1", 1);
    EXPECT_EQ(ring.Submit(), 2);
    ready.Open();
    for (;;) pause();
  });
  ready.Await();
  AwaitAsleep(child);
  const int file = MUST(open(dir / "f", O_RDWR));
  struct flock held = lock;
  MUST(fcntl(file, F_GETLK, &held));
  EXPECT_EQ(held.l_type, F_WRLCK);
  EXPECT_EQ(held.l_pid, child);
  MUST(write(pipe.w, "x", 1));
  EXPECT_KILLED(WaitStatus(child), SIGKILL);
  CheckpointHere();
  held = lock;
  MUST(fcntl(file, F_GETLK, &held));
  EXPECT_EQ(held.l_type, F_UNLCK);
  EXPECT_OK(fcntl(file, F_SETLK, &lock));
  rmdir(group);
  umount2(dir / "groups", MNT_DETACH);
}

// A chain as long as the ring, of reads that take their time.
GUEST_TEST(IoUring, LongChainsAreWholeAndOthersGetTheirTurn) {
  constexpr unsigned kLinks = 1024;
  constexpr unsigned kSize = 1 << 20;
  Ring ring(kLinks);
  char* memory = static_cast<char*>(MUST(mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)));
  const int file = static_cast<int>(MUST(syscall(SYS_memfd_create, "chain", 0)));
  MUST(ftruncate(file, kSize));
  Turns turns;
  for (unsigned i = 0; i < kLinks; ++i) {
    io_uring_sqe& sqe = ring.Buffer(IORING_OP_READ, file, i, memory, kSize);
    if (i + 1 < kLinks) sqe.flags = IOSQE_IO_LINK;
  }
  turns.Begin();
  EXPECT_EQ(ring.Submit(), kLinks);
  CheckpointHere();
  for (unsigned i = 0; i < kLinks; ++i) ring.ExpectNext(i, kSize);
  const int count = turns.End();
  EXPECT(count > 2);
}

GUEST_TEST(IoUring, CancelsManyAtOnce) {
  constexpr unsigned kPolls = 4096;
  Ring ring(kPolls, 0, 2 * kPolls);
  Pipe pipe;
  for (unsigned i = 0; i < kPolls; ++i) ring.Next(IORING_OP_POLL_ADD, pipe.r, 5).poll32_events = POLLIN;
  EXPECT_EQ(ring.Submit(), kPolls);
  ring.Next(IORING_OP_ASYNC_CANCEL, -1, 6).cancel_flags = IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL;
  EXPECT_EQ(ring.Submit(), 1);
  unsigned polls = 0;
  for (unsigned i = 0; i < kPolls + 1; ++i) {
    const io_uring_cqe cqe = ring.Take();
    EXPECT_EQ(cqe.res, cqe.user_data == 6 ? static_cast<int>(kPolls) : -ECANCELED);
    polls += cqe.user_data == 5;
  }
  EXPECT_EQ(polls, kPolls);
}

namespace {

// A page at a place that every program has free.
char* PageOfAll() {
  void* const place = reinterpret_cast<void*>(0x4'1000'0000);
  return static_cast<char*>(MUST(mmap(place, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0)));
}

void ExecNext(int left, const Pipe& pipe) {
  const Str number("%d", left), r("%d", pipe.r), w("%d", pipe.w);
  const char* arguments[] = {SelfPath(), "@AnotherProgram", number, r, w, nullptr};
  execve(SelfPath(), const_cast<char**>(arguments), environ);
}

}  // namespace

GUEST_HELPER(AnotherProgram) {
  Pipe pipe;
  pipe.CloseRead();
  pipe.CloseWrite();
  pipe.r = atoi(argv[3]);
  pipe.w = atoi(argv[4]);
  if (const int left = atoi(argv[2]); left > 0) ExecNext(left - 1, pipe);
  const char* page = PageOfAll();
  MUST(write(pipe.w, "mine", 4));
  SleepMs(20);
  EXPECT_EQ(page[0], 0);
  pollfd ready = {pipe.r, POLLIN, 0};
  EXPECT_EQ(poll(&ready, 1, 0), 1);
  ExitWithVerdict();
}

// A request means the memory of the program that made it, not that of one that comes to be at the same place.
GUEST_TEST(IoUring, RequestsDoNotOutliveTheirProgram) {
  for (int programs = 0; programs < 6; ++programs) {
    const pid_t pid = Fork([programs] {
      Ring ring;
      Pipe pipe;
      MUST(fcntl(ring.fd, F_SETFD, 0));
      ring.Buffer(IORING_OP_READ, pipe.r, 1, PageOfAll(), 4);
      EXPECT_EQ(ring.Submit(), 1);
      ExecNext(programs, pipe);
    });
    EXPECT_EXITED(WaitStatus(pid), 0);
  }
}
