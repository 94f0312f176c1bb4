// io_uring_setup(2): somebody who polls for submissions, rings without an array, large entries; messages between rings.
#include <fcntl.h>
#include <poll.h>

#include "test/harness/guest_util.h"
#include "test/harness/rings.h"

using namespace guest;

namespace {

constexpr unsigned kSendMessage = 31;

// Submits as programs do: a call is made only if whoever polls sleeps.
void Leave(Ring& ring, unsigned count) {
  unsigned& tail = ring.Word(ring.params.sq_off.tail);
  __atomic_store_n(&tail, tail + count, __ATOMIC_SEQ_CST);
  if ((__atomic_load_n(&ring.Word(ring.params.sq_off.flags), __ATOMIC_SEQ_CST) & IORING_SQ_NEED_WAKEUP) == 0) return;
  EXPECT_EQ(syscall(kEnter, ring.fd, count, 0, IORING_ENTER_SQ_WAKEUP, nullptr, 0), static_cast<long>(count));
}

// A submission that stays in the ring until Leave().
io_uring_sqe& Queue(Ring& ring, unsigned ahead, int opcode, int fd, uint64_t data) {
  const unsigned index = (ring.Word(ring.params.sq_off.tail) + ahead) & (ring.params.sq_entries - 1);
  reinterpret_cast<unsigned*>(&ring.Word(ring.params.sq_off.array))[index] = index;
  io_uring_sqe& sqe = ring.sqes[index];
  memset(static_cast<void*>(&sqe), 0, sizeof(sqe));
  sqe.opcode = static_cast<uint8_t>(opcode);
  sqe.fd = fd;
  sqe.user_data = data;
  return sqe;
}

void ExpectSetup(unsigned flags, int error) {
  io_uring_params p = {};
  p.flags = flags;
  const long fd = syscall(kSetup, 8, &p);
  EXPECT_EQ(fd < 0 ? errno : 0, error);
  if (fd >= 0) close(static_cast<int>(fd));
}

}  // namespace

GUEST_TEST(IoUringPolled, SubmissionsWithoutCalls) {
  Ring ring(8, IORING_SETUP_SQPOLL);
  Pipe pipe;
  for (unsigned i = 0; i < 4; ++i) Queue(ring, i, IORING_OP_NOP, -1, i);
  Leave(ring, 4);
  for (uint64_t i = 0; i < 4; ++i) ring.ExpectNext(i, 0);
  char text[8] = {};
  io_uring_sqe& sqe = Queue(ring, 0, IORING_OP_READ, pipe.r, 5);
  sqe.addr = reinterpret_cast<uint64_t>(text);
  sqe.len = sizeof(text);
  Leave(ring, 1);
  CheckpointHere();
  MUST(write(pipe.w, "abc", 3));
  ring.ExpectNext(5, 3);
  EXPECT_STREQ(text, "abc");
  // More than the ring has, over and over; room is waited for.
  for (uint64_t i = 0; i < 50; ++i) {
    Queue(ring, 0, IORING_OP_NOP, -1, i);
    Leave(ring, 1);
    EXPECT_EQ(syscall(kEnter, ring.fd, 0, 0, IORING_ENTER_SQ_WAIT, nullptr, 0), 0);
    ring.ExpectNext(i, 0);
  }
  // A malformed one does not keep those behind it.
  Queue(ring, 0, 200, -1, 1);
  Queue(ring, 1, IORING_OP_NOP, -1, 2);
  Leave(ring, 2);
  ring.ExpectNext(1, -EINVAL);
  ring.ExpectNext(2, 0);
}

GUEST_TEST(IoUringPolled, AsWhoMadeTheRing) {
  if (geteuid() != 0) Skip("needs root");
  TempDir dir;
  MUST(chmod(dir.path(), 0755));
  WriteFile(dir / "secret", "x");
  MUST(chmod(dir / "secret", 0600));
  const Str path = dir / "secret";
  JOIN_OK(Fork([&] {
    Ring ring(8, IORING_SETUP_SQPOLL);
    MUST(syscall(SYS_setresuid, 65534, 65534, 65534));
    CheckpointHere();
    Queue(ring, 0, IORING_OP_OPENAT, AT_FDCWD, 1).addr = reinterpret_cast<uint64_t>(static_cast<const char*>(path));
    Leave(ring, 1);
    EXPECT(ring.Take().res >= 0);
    EXPECT_ERRNO(open(path, O_RDONLY), EACCES);
  }));
}

GUEST_TEST(IoUringSetup, FlagsThatGoTogether) {
  ExpectSetup(0, 0);
  Ring probe;
  ExpectSetup(IORING_SETUP_SQ_AFF, EINVAL);
  ExpectSetup(IORING_SETUP_SQPOLL | IORING_SETUP_COOP_TASKRUN, EINVAL);
  ExpectSetup(IORING_SETUP_DEFER_TASKRUN, EINVAL);
  ExpectSetup(IORING_SETUP_TASKRUN_FLAG, EINVAL);
  ExpectSetup(IORING_SETUP_SQPOLL, 0);
  io_uring_params p = {};
  p.flags = IORING_SETUP_ATTACH_WQ;
  p.wq_fd = 999;
  EXPECT_EQ(syscall(kSetup, 8, &p), -1);
  p.wq_fd = 0;
  EXPECT_ERRNO(syscall(kSetup, 8, &p), EINVAL);
  p.wq_fd = static_cast<unsigned>(probe.fd);
  const long fd = syscall(kSetup, 8, &p);
  EXPECT(fd >= 0);
  close(static_cast<int>(fd));
}

GUEST_TEST(IoUringSetup, LargeEntries) {
  for (const unsigned flags : {IORING_SETUP_SQE128 + 0u, IORING_SETUP_CQE32 + 0u, IORING_SETUP_SQE128 | IORING_SETUP_CQE32}) {
    Ring ring(8, flags);
    Pipe pipe;
    char text[8] = {};
    ring.Buffer(IORING_OP_READ, pipe.r, 1, text, sizeof(text));
    EXPECT_EQ(ring.Submit(), 1);
    CheckpointHere();
    MUST(write(pipe.w, "abc", 3));
    ring.ExpectNext(1, 3);
    for (uint64_t round = 0; round < 5; ++round) {
      for (uint64_t i = 0; i < 8; ++i) ring.Next(IORING_OP_NOP, -1, round * 8 + i);
      EXPECT_EQ(ring.Submit(), 8);
      for (uint64_t i = 0; i < 8; ++i) ring.ExpectNext(round * 8 + i, 0);
    }
    // More than it can hold.
    for (uint64_t round = 0; round < 3; ++round) {
      for (uint64_t i = 0; i < 8; ++i) ring.Next(IORING_OP_NOP, -1, round * 8 + i);
      EXPECT_EQ(ring.Submit(), 8);
    }
    for (uint64_t i = 0; i < 24; ++i) ring.ExpectNext(i, 0);
  }
}

GUEST_TEST(IoUringSetup, WithoutAnArray) {
  io_uring_params p = {};
  p.flags = Ring::kNoSqArray;
  const long fd = syscall(kSetup, 8, &p);
  if (fd < 0) Skip("rings have arrays");
  close(static_cast<int>(fd));
  EXPECT_EQ(p.sq_off.array, 0u);
  Ring ring(8, Ring::kNoSqArray);
  for (uint64_t round = 0; round < 5; ++round) {
    for (uint64_t i = 0; i < 5; ++i) ring.Next(IORING_OP_NOP, -1, round * 5 + i);
    EXPECT_EQ(ring.Submit(), 5);
    if (round == 2) CheckpointHere();
    for (uint64_t i = 0; i < 5; ++i) ring.ExpectNext(round * 5 + i, 0);
  }
}

GUEST_TEST(IoUringMessages, Data) {
  Ring from, to;
  auto message = [&](uint64_t data, int fd, uint64_t told, unsigned result) -> io_uring_sqe& {
    io_uring_sqe& sqe = from.Next(IORING_OP_MSG_RING, fd, data);
    sqe.off = told;
    sqe.len = result;
    return sqe;
  };
  message(1, to.fd, 77, 5);
  EXPECT_EQ(OneResult(from, 1), 0);
  CheckpointHere();
  to.ExpectNext(77, 5);
  io_uring_sqe& flags = message(2, to.fd, 78, 6);
  flags.rw_flags = 2;
  flags.file_index = 0x1234;
  EXPECT_EQ(OneResult(from, 2), 0);
  const io_uring_cqe told = to.Take();
  EXPECT_EQ(told.user_data, 78u);
  EXPECT_EQ(told.res, 6);
  EXPECT_EQ(told.flags, 0x1234u);
  Pipe pipe;
  message(3, pipe.r, 1, 1);
  EXPECT_EQ(OneResult(from, 3), -EBADFD);
  message(4, 99, 1, 1);
  EXPECT_EQ(OneResult(from, 4), -EBADF);
  message(5, to.fd, 1, 1).addr = 9;
  EXPECT_EQ(OneResult(from, 5), -EINVAL);
  message(6, to.fd, 1, 1).rw_flags = 1 << 10;
  EXPECT_EQ(OneResult(from, 6), -EINVAL);
  message(7, to.fd, 1, 1).file_index = 1;
  EXPECT_EQ(OneResult(from, 7), -EINVAL);
  EXPECT_EQ(to.Ready(), 0u);
  Ring off(8, IORING_SETUP_R_DISABLED);
  message(8, off.fd, 1, 1);
  EXPECT_EQ(OneResult(from, 8), -EBADFD);
  // It wakes who waits for the other ring.
  pollfd of = {.fd = to.fd, .events = POLLIN, .revents = 0};
  const pid_t self = getpid();
  Thread waker([&] {
    AwaitAsleep(self);
    message(9, to.fd, 80, 8);
    EXPECT_EQ(OneResult(from, 9), 0);
  });
  EXPECT_EQ(poll(&of, 1, 10'000), 1);
  waker.Join();
  to.ExpectNext(80, 8);
  // Without a ring of one's own.
  io_uring_sqe sqe = {};
  sqe.opcode = IORING_OP_MSG_RING;
  sqe.fd = to.fd;
  sqe.off = 81;
  sqe.len = 9;
  if (syscall(kRegister, -1, kSendMessage, &sqe, 1) < 0) {
    EXPECT_EQ(errno, EINVAL);  // before Linux 6.13
  } else {
    to.ExpectNext(81, 9);
    sqe.opcode = IORING_OP_NOP;
    EXPECT_ERRNO(syscall(kRegister, -1, kSendMessage, &sqe, 1), EINVAL);
  }
}

GUEST_TEST(IoUringMessages, Files) {
  Ring from, to;
  Pipe pipe;
  const int files[2] = {pipe.r, -1}, none[3] = {-1, -1, -1};
  MUST(syscall(kRegister, from.fd, IORING_REGISTER_FILES, files, 2));
  auto message = [&](uint64_t data, int fd, uint64_t slot, unsigned index) -> io_uring_sqe& {
    io_uring_sqe& sqe = from.Next(IORING_OP_MSG_RING, fd, data);
    sqe.addr = 1;
    sqe.addr3 = slot;
    sqe.off = 100 + data;
    sqe.file_index = index;
    return sqe;
  };
  message(1, to.fd, 0, 2);
  EXPECT_EQ(OneResult(from, 1), -ENXIO);
  MUST(syscall(kRegister, to.fd, IORING_REGISTER_FILES, none, 3));
  message(2, to.fd, 0, 2);
  EXPECT_EQ(OneResult(from, 2), 0);
  to.ExpectNext(102, 0);
  message(3, to.fd, 0, IORING_FILE_INDEX_ALLOC).rw_flags = 1;
  EXPECT_EQ(OneResult(from, 3), 2);
  EXPECT_EQ(to.Ready(), 0u);
  CheckpointHere();
  MUST(write(pipe.w, "ab", 2));
  char c = 0;
  for (const int slot : {1, 2}) {
    to.Buffer(IORING_OP_READ, slot, 9, &c, 1).flags = IOSQE_FIXED_FILE;
    EXPECT_EQ(OneResult(to, 9), 1);
    EXPECT_EQ(c, slot == 1 ? 'a' : 'b');
  }
  message(4, to.fd, 1, 1);
  EXPECT_EQ(OneResult(from, 4), -EBADF);
  message(5, to.fd, 7, 1);
  EXPECT_EQ(OneResult(from, 5), -EBADF);
  message(6, from.fd, 0, 1);
  EXPECT_EQ(OneResult(from, 6), -EINVAL);
  message(7, to.fd, 0, 9);
  EXPECT_EQ(OneResult(from, 7), -EINVAL);
  message(8, to.fd, 0, 1).len = 1;
  EXPECT_EQ(OneResult(from, 8), -EINVAL);
}
