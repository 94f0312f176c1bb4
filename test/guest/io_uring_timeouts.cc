// io_uring: time-outs that come again, those that limit others and are moved; accepting without waiting.
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include "test/harness/guest_util.h"
#include "test/harness/rings.h"
#include "test/harness/sockets.h"

using namespace guest;

namespace {

constexpr unsigned kMultishot = 64;

}  // namespace

GUEST_TEST(IoUringTimeouts, ComeAgain) {
  Ring ring;
  const timespec period = Ns(10 * kMs);
  const int64_t start = NowNs();
  ring.Buffer(IORING_OP_TIMEOUT, -1, 1, &period, 1, 3).timeout_flags = kMultishot;
  EXPECT_EQ(ring.Submit(), 1);
  const io_uring_cqe first = ring.Take();
  if (first.res == -EINVAL) Skip("time-outs come once");
  EXPECT_EQ(first.res, -ETIME);
  EXPECT_EQ(first.flags, kMore);
  CheckpointHere();
  ExpectNext(ring, 1, -ETIME, kMore);
  ExpectNext(ring, 1, -ETIME, 0);
  EXPECT_GE(NowNs() - start, 30 * kMs);
  // Until it is removed.
  ring.Buffer(IORING_OP_TIMEOUT, -1, 2, &period, 1).timeout_flags = kMultishot;
  EXPECT_EQ(ring.Submit(), 1);
  for (int i = 0; i < 3; ++i) ExpectNext(ring, 2, -ETIME, kMore);
  ring.Next(IORING_OP_TIMEOUT_REMOVE, -1, 3).addr = 2;
  EXPECT_EQ(ring.Submit(), 1);
  bool gone = false, removed = false;
  while (!gone || !removed) {
    const io_uring_cqe cqe = ring.Take();
    removed = removed || cqe.user_data == 3;
    if (cqe.user_data == 3) EXPECT_EQ(cqe.res, 0);
    if (cqe.user_data == 2 && (cqe.flags & kMore) == 0) {
      EXPECT_EQ(cqe.res, -ECANCELED);
      gone = true;
    }
  }
  ring.Buffer(IORING_OP_TIMEOUT, -1, 4, &period, 1).timeout_flags = kMultishot | IORING_TIMEOUT_ABS;
  EXPECT_EQ(OneResult(ring, 4), -EINVAL);
}

GUEST_TEST(IoUringTimeouts, ThatLimitAreMoved) {
  Ring ring;
  Pipe pipe;
  char text[8];
  const timespec long_time = Ns(100'000 * kMs), short_time = Ns(10 * kMs);
  ring.Buffer(IORING_OP_READ, pipe.r, 1, text, 3).flags = IOSQE_IO_LINK;
  ring.Buffer(IORING_OP_LINK_TIMEOUT, -1, 2, &long_time, 1);
  EXPECT_EQ(ring.Submit(), 2);
  CheckpointHere();
  io_uring_sqe& other = ring.Next(IORING_OP_TIMEOUT_REMOVE, -1, 3);
  other.addr = 77;
  other.addr2 = reinterpret_cast<uint64_t>(&short_time);
  other.timeout_flags = IORING_TIMEOUT_UPDATE | IORING_LINK_TIMEOUT_UPDATE;
  EXPECT_EQ(OneResult(ring, 3), -ENOENT);
  io_uring_sqe& move = ring.Next(IORING_OP_TIMEOUT_REMOVE, -1, 4);
  move.addr = 2;
  move.addr2 = reinterpret_cast<uint64_t>(&short_time);
  move.timeout_flags = IORING_TIMEOUT_UPDATE | IORING_LINK_TIMEOUT_UPDATE;
  EXPECT_EQ(OneResult(ring, 4), 0);
  ring.ExpectInAnyOrder({{1, -ECANCELED}, {2, -ETIME}});
}

GUEST_TEST(IoUringAccept, WithoutWaiting) {
  Ring ring;
  sockaddr_in address;
  const int listener = TcpListener(&address, 5);
  ring.Next(IORING_OP_ACCEPT, listener, 1).ioprio = 2;
  EXPECT_EQ(ring.Submit(1), 1);
  const int result = ring.Take().res;
  if (result == -EINVAL) Skip("accepting waits");
  EXPECT_EQ(result, -EAGAIN);
  const int client = MUST(socket(AF_INET, SOCK_STREAM, 0));
  MUST(connect(client, reinterpret_cast<sockaddr*>(&address), sizeof(address)));
  CheckpointHere();
  ring.Next(IORING_OP_ACCEPT, listener, 2).ioprio = 2;
  EXPECT(OneResult(ring, 2) >= 0);
  const int another = MUST(socket(AF_INET, SOCK_STREAM, 0));
  ring.Next(IORING_OP_ACCEPT, listener, 3).ioprio = 4;
  EXPECT_EQ(ring.Submit(), 1);
  MUST(connect(another, reinterpret_cast<sockaddr*>(&address), sizeof(address)));
  const io_uring_cqe cqe = ring.Take();
  EXPECT_EQ(cqe.user_data, 3u);
  EXPECT(cqe.res >= 0);
  ring.Next(IORING_OP_ACCEPT, listener, 4).ioprio = 8;
  EXPECT_EQ(OneResult(ring, 4), -EINVAL);
}
