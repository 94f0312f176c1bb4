// io_uring: files with O_NONBLOCK are waited for all the same, but for requests that say otherwise; what is told of chains that fail; smaller rules.
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "test/harness/guest_util.h"
#include "test/harness/rings.h"
#include "test/harness/sockets.h"

using namespace guest;

namespace {

void SetNonblocking(int fd) { MUST(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK)); }

}  // namespace

GUEST_TEST(IoUringNonblock, PipesAreWaitedFor) {
  Ring ring;
  Pipe pipe;
  SetNonblocking(pipe.r);
  char text[8] = {};
  ring.Buffer(IORING_OP_READ, pipe.r, 1, text, sizeof(text));
  EXPECT_EQ(ring.Submit(), 1);
  EXPECT_EQ(ring.Ready(), 0u);
  EXPECT_ERRNO(read(pipe.r, text, 1), EAGAIN);
  CheckpointHere();
  EXPECT_EQ(fcntl(pipe.r, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
  MUST(write(pipe.w, "abc", 3));
  ring.ExpectNext(1, 3);
  EXPECT_STREQ(text, "abc");
}

GUEST_TEST(IoUringNonblock, SocketsAreWaitedFor) {
  Ring ring;
  sockaddr_in address;
  const int listener = TcpListener(&address, 5);
  SetNonblocking(listener);
  ring.Next(IORING_OP_ACCEPT, listener, 1);
  EXPECT_EQ(ring.Submit(), 1);
  EXPECT_EQ(ring.Ready(), 0u);
  EXPECT_ERRNO(accept(listener, nullptr, nullptr), EAGAIN);
  CheckpointHere();
  const int client = MUST(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
  io_uring_sqe& connecting = ring.Buffer(IORING_OP_CONNECT, client, 2, &address, 0);
  connecting.off = sizeof(address);
  EXPECT_EQ(ring.Submit(), 1);
  int server = -1;
  for (int i = 0; i < 2; ++i) {
    const io_uring_cqe cqe = ring.Take();
    if (cqe.user_data == 1) server = cqe.res;
    if (cqe.user_data == 2) EXPECT_EQ(cqe.res, 0);
  }
  ASSERT(server >= 0);
  char text[8] = {};
  ring.Buffer(IORING_OP_RECV, client, 3, text, sizeof(text));
  EXPECT_EQ(ring.Submit(), 1);
  EXPECT_EQ(ring.Ready(), 0u);
  CheckpointHere();
  MUST(write(server, "abc", 3));
  ring.ExpectNext(3, 3);
  ring.Buffer(IORING_OP_RECV, client, 4, text, sizeof(text)).msg_flags = MSG_DONTWAIT;
  EXPECT_EQ(OneResult(ring, 4), -EAGAIN);
  // A refusal is told when it comes.
  close(listener);
  const int other = MUST(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
  ring.Buffer(IORING_OP_CONNECT, other, 5, &address, 0).off = sizeof(address);
  EXPECT_EQ(OneResult(ring, 5), -ECONNREFUSED);
}

GUEST_TEST(IoUringSkip, ChainsThatFailTellOnce) {
  Ring ring;
  ring.Next(IORING_OP_NOP, -1, 1).flags = IOSQE_IO_LINK | IOSQE_CQE_SKIP_SUCCESS;
  ring.Buffer(IORING_OP_READ, 99, 2, nullptr, 0).flags = IOSQE_IO_LINK | IOSQE_CQE_SKIP_SUCCESS;
  ring.Next(IORING_OP_NOP, -1, 3).flags = IOSQE_IO_LINK | IOSQE_CQE_SKIP_SUCCESS;
  ring.Next(IORING_OP_NOP, -1, 4);
  EXPECT_EQ(ring.Submit(1), 4);
  ring.ExpectNext(2, -EBADF);
  EXPECT_EQ(ring.Ready(), 0u);
}

GUEST_TEST(IoUringRules, OfSlotsAndCredentials) {
  Ring ring;
  char c;
  ring.Buffer(IORING_OP_READ, 0, 9, &c, 1).ioprio = 0xffff;
  EXPECT_EQ(OneResult(ring, 9), -EINVAL);
  io_uring_sqe& any = ring.Next(IORING_OP_SOCKET, AF_UNIX, 1);
  any.off = SOCK_STREAM;
  any.file_index = IORING_FILE_INDEX_ALLOC;
  EXPECT_EQ(OneResult(ring, 1), -ENFILE);
  const int files[1] = {TempFile()};
  MUST(syscall(kRegister, ring.fd, IORING_REGISTER_FILES, files, 1));
  const long id = MUST(syscall(kRegister, ring.fd, 9, nullptr, 0));
  io_uring_sqe& install = ring.Next(54, 0, 2);
  install.flags = IOSQE_FIXED_FILE;
  install.personality = static_cast<uint16_t>(id);
  EXPECT_EQ(OneResult(ring, 2), -EPERM);
}

GUEST_TEST(IoUringSkip, ChainsAreNotBrokenInTheMiddle) {
  Ring ring;
  ring.Next(IORING_OP_NOP, -1, 1).flags = IOSQE_IO_LINK;
  ring.Next(200, -1, 2).flags = IOSQE_IO_LINK;
  ring.Next(IORING_OP_NOP, -1, 3);
  ring.Next(IORING_OP_NOP, -1, 4);
  EXPECT_EQ(ring.Submit(4), 4);
  ring.ExpectInAnyOrder({{1, -ECANCELED}, {2, -EINVAL}, {3, -ECANCELED}, {4, 0}});
}

GUEST_TEST(IoUringSkip, LimitsThatWereNotReached) {
  Ring ring;
  const timespec second = Ns(1000 * kMs);
  ring.Next(IORING_OP_NOP, -1, 1).flags = IOSQE_IO_LINK | IOSQE_CQE_SKIP_SUCCESS;
  ring.Buffer(IORING_OP_LINK_TIMEOUT, -1, 2, &second, 1).flags = IOSQE_IO_LINK | IOSQE_CQE_SKIP_SUCCESS;
  ring.Next(IORING_OP_NOP, -1, 3);
  EXPECT_EQ(ring.Submit(1), 3);
  ring.ExpectNext(3, 0);
  EXPECT_EQ(ring.Ready(), 0u);
  // One that is reached is told of by what it has ended.
  Pipe pipe;
  char c;
  const timespec moment = Ns(5 * kMs);
  ring.Buffer(IORING_OP_READ, pipe.r, 7, &c, 1).flags = IOSQE_IO_LINK;
  ring.Buffer(IORING_OP_LINK_TIMEOUT, -1, 8, &moment, 1).flags = IOSQE_CQE_SKIP_SUCCESS;
  EXPECT_EQ(ring.Submit(1), 2);
  ring.ExpectNext(7, -ECANCELED);
  SleepMs(5);
  EXPECT_EQ(ring.Ready(), 0u);
  // Flags that an operation does not have.
  ring.Buffer(IORING_OP_TIMEOUT, -1, 9, &moment, 1).ioprio = 1;
  EXPECT_EQ(OneResult(ring, 9), -EINVAL);
  // A time-out does not limit another: the whole chain is refused.
  ring.Next(IORING_OP_NOP, -1, 4).flags = IOSQE_IO_LINK;
  ring.Buffer(IORING_OP_LINK_TIMEOUT, -1, 5, &second, 1).flags = IOSQE_IO_LINK;
  ring.Buffer(IORING_OP_LINK_TIMEOUT, -1, 6, &second, 1);
  EXPECT_EQ(ring.Submit(3), 3);
  ring.ExpectInAnyOrder({{4, -ECANCELED}, {5, -ECANCELED}, {6, -EINVAL}});
}
