// io_uring: buffers that are chosen when there is something to put there, requests that complete more than once.
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "test/harness/guest_util.h"
#include "test/harness/rings.h"
#include "test/harness/sockets.h"

using namespace guest;

namespace {

constexpr int kReadMultishot = 49;
constexpr unsigned kPbufRing = 22, kNoPbufRing = 23, kPbufStatus = 26;
constexpr uint16_t kGroup = 7;

io_uring_sqe& Provide(Ring& ring, void* memory, unsigned size, int count, unsigned first_id, uint64_t data = 1) {
  io_uring_sqe& sqe = ring.Buffer(IORING_OP_PROVIDE_BUFFERS, count, data, memory, size, first_id);
  sqe.buf_group = kGroup;
  return sqe;
}

io_uring_sqe& Select(Ring& ring, int opcode, int fd, uint64_t data, unsigned size = 0) {
  io_uring_sqe& sqe = ring.Next(opcode, fd, data);
  sqe.len = size;
  sqe.flags = IOSQE_BUFFER_SELECT;
  sqe.buf_group = kGroup;
  return sqe;
}

struct BufferRing {
  explicit BufferRing(unsigned entries) : mask(static_cast<uint16_t>(entries - 1)) {
    ring = static_cast<BufferEntry*>(MUST(mmap(nullptr, 2 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)));
    registration = {reinterpret_cast<uint64_t>(ring), entries, kGroup, 0, {}};
  }
  void Add(void* memory, unsigned size, uint16_t id) {
    BufferEntry& e = ring[tail & mask];
    e.address = reinterpret_cast<uint64_t>(memory);
    e.size = size;
    e.id = id;
    __atomic_store_n(&ring[0].tail, ++tail, __ATOMIC_RELEASE);
  }
  BufferEntry* ring;
  uint16_t mask, tail = 0;
  BufferRegistration registration;
};

}  // namespace

GUEST_TEST(IoUringBuffers, AreGivenAndTakenBack) {
  Ring ring;
  static char memory[8][64];
  Provide(ring, memory, 64, 8, 0);
  MUST(ring.Submit(1));
  ring.ExpectNext(1, 0);
  // Errors of both.
  Provide(ring, memory, 64, 0, 0, 2);
  MUST(ring.Submit(1));
  ring.ExpectNext(2, -E2BIG);
  Provide(ring, memory, 64, (1 << 16) + 1, 0, 3);
  MUST(ring.Submit(1));
  ring.ExpectNext(3, -E2BIG);
  Provide(ring, memory, 64, 8, 65530, 4);
  MUST(ring.Submit(1));
  ring.ExpectNext(4, -EINVAL);
  Provide(ring, memory, 64, 8, 70000, 5);
  MUST(ring.Submit(1));
  ring.ExpectNext(5, -E2BIG);
  Provide(ring, reinterpret_cast<void*>(~uint64_t{0} - 100), 64, 8, 0, 6);
  MUST(ring.Submit(1));
  ring.ExpectNext(6, -EOVERFLOW);
  Provide(ring, reinterpret_cast<void*>(kKernelAddress), 64, 8, 0, 7);
  MUST(ring.Submit(1));
  ring.ExpectNext(7, -EFAULT);
  io_uring_sqe& some = ring.Next(IORING_OP_REMOVE_BUFFERS, 3, 10);
  some.buf_group = kGroup;
  MUST(ring.Submit(1));
  ring.ExpectNext(10, 3);
  CheckpointHere();
  io_uring_sqe& rest = ring.Next(IORING_OP_REMOVE_BUFFERS, 100, 11);
  rest.buf_group = kGroup;
  MUST(ring.Submit(1));
  ring.ExpectNext(11, 5);
  io_uring_sqe& other = ring.Next(IORING_OP_REMOVE_BUFFERS, 1, 12);
  other.buf_group = 99;
  MUST(ring.Submit(1));
  ring.ExpectNext(12, -ENOENT);
}

GUEST_TEST(IoUringBuffers, AreChosenWhenThereIsSomething) {
  Ring ring;
  UnixPair pair;
  static char memory[4][16];
  Select(ring, IORING_OP_RECV, pair.a, 1);
  MUST(ring.Submit());
  // There is none when it begins, and nothing to receive either: which of both is told is Linux's.
  if (ring.Ready() > 0) {
    ring.ExpectNext(1, -ENOBUFS);
  } else {
    MUST(write(pair.b, "x", 1));
    ring.ExpectNext(1, -ENOBUFS);
    char c;
    MUST(read(pair.a, &c, 1));
  }
  Provide(ring, memory, 16, 4, 20, 2);
  MUST(ring.Submit(1));
  ring.ExpectNext(2, 0);
  Select(ring, IORING_OP_RECV, pair.a, 3);
  MUST(ring.Submit());
  CheckpointHere();
  MUST(write(pair.b, "hello", 5));
  ExpectNext(ring, 3, 5, Chose(20));
  EXPECT_EQ(memcmp(memory[0], "hello", 5), 0);
  // Less than the buffer, and more than it.
  MUST(write(pair.b, "0123456789abcdefGHIJ", 20));
  Select(ring, IORING_OP_RECV, pair.a, 4, 3);
  MUST(ring.Submit(1));
  ExpectNext(ring, 4, 3, Chose(21));
  Select(ring, IORING_OP_READ, pair.a, 5, 100);
  MUST(ring.Submit(1));
  ExpectNext(ring, 5, 16, Chose(22));
  EXPECT_EQ(memcmp(memory[2], "3456789abcdefGHI", 16), 0);
  Select(ring, IORING_OP_RECV, pair.a, 6);
  MUST(ring.Submit(1));
  ExpectNext(ring, 6, 1, Chose(23));
  MUST(write(pair.b, "more", 4));
  Select(ring, IORING_OP_RECV, pair.a, 7);
  MUST(ring.Submit(1));
  ExpectNext(ring, 7, -ENOBUFS, 0);
  // One that was not used is used by the next.
  Provide(ring, memory, 16, 1, 30, 8);
  MUST(ring.Submit(1));
  ring.ExpectNext(8, 0);
  char some[8];
  EXPECT_EQ(read(pair.a, some, sizeof(some)), 4);
  shutdown(pair.b, SHUT_WR);
  Select(ring, IORING_OP_RECV, pair.a, 9);
  MUST(ring.Submit(1));
  ExpectNext(ring, 9, 0, 0);
  MUST(write(pair.a, "back", 4));
  Select(ring, IORING_OP_RECV, pair.b, 10);
  MUST(ring.Submit(1));
  ExpectNext(ring, 10, 4, Chose(30));
  // Operations that choose none.
  Select(ring, IORING_OP_FSYNC, pair.a, 11);
  MUST(ring.Submit(1));
  ExpectNext(ring, 11, -EOPNOTSUPP, 0);
}

GUEST_TEST(IoUringBuffers, LieInRingsOfTheProgram) {
  Ring ring;
  UnixPair pair;
  BufferRing buffers(4);
  static char memory[8][16];
  auto bad = buffers.registration;
  bad.entries = 3;
  EXPECT_ERRNO(syscall(kRegister, ring.fd, kPbufRing, &bad, 1), EINVAL);
  bad.entries = 1 << 16;
  EXPECT_ERRNO(syscall(kRegister, ring.fd, kPbufRing, &bad, 1), EINVAL);
  bad = buffers.registration;
  bad.address = 0;
  EXPECT_ERRNO(syscall(kRegister, ring.fd, kPbufRing, &bad, 1), EFAULT);
  bad.address = reinterpret_cast<uint64_t>(buffers.ring) + 16;
  EXPECT_ERRNO(syscall(kRegister, ring.fd, kPbufRing, &bad, 1), EINVAL);
  bad = buffers.registration;
  bad.reserved[1] = 1;
  EXPECT_ERRNO(syscall(kRegister, ring.fd, kPbufRing, &bad, 1), EINVAL);
  EXPECT_ERRNO(syscall(kRegister, ring.fd, kPbufRing, &buffers.registration, 2), EINVAL);
  EXPECT_ERRNO(syscall(kRegister, ring.fd, kNoPbufRing, &buffers.registration, 1), ENOENT);
  MUST(syscall(kRegister, ring.fd, kPbufRing, &buffers.registration, 1));
  EXPECT_ERRNO(syscall(kRegister, ring.fd, kPbufRing, &buffers.registration, 1), EEXIST);

  for (uint16_t i = 0; i < 4; i++) buffers.Add(memory[i], 16, static_cast<uint16_t>(100 + i));
  MUST(write(pair.b, "0123456789abcdefXY", 18));
  Select(ring, IORING_OP_RECV, pair.a, 1);
  MUST(ring.Submit(1));
  ExpectNext(ring, 1, 16, Chose(100));
  CheckpointHere();
  Select(ring, IORING_OP_RECV, pair.a, 2);
  MUST(ring.Submit(1));
  ExpectNext(ring, 2, 2, Chose(101));
  EXPECT_EQ(memcmp(memory[1], "XY", 2), 0);
  struct {
    uint32_t group, head, reserved[8];
  } status = {kGroup, 0, {}};
  MUST(syscall(kRegister, ring.fd, kPbufStatus, &status, 1));
  EXPECT_EQ(status.head, 2u);
  // The program moves the tail on, the ring goes round.
  for (uint16_t i = 4; i < 6; i++) buffers.Add(memory[i], 16, static_cast<uint16_t>(100 + i));
  for (unsigned i = 2; i < 6; i++) {
    MUST(write(pair.b, "z", 1));
    Select(ring, IORING_OP_RECV, pair.a, i);
    MUST(ring.Submit(1));
    ExpectNext(ring, i, 1, Chose(100 + i));
  }
  MUST(write(pair.b, "z", 1));
  Select(ring, IORING_OP_RECV, pair.a, 9);
  MUST(ring.Submit(1));
  ExpectNext(ring, 9, -ENOBUFS, 0);
  Provide(ring, memory, 16, 1, 0, 10);
  MUST(ring.Submit(1));
  ring.ExpectNext(10, -EINVAL);
  MUST(syscall(kRegister, ring.fd, kNoPbufRing, &buffers.registration, 1));
  EXPECT_ERRNO(syscall(kRegister, ring.fd, kPbufStatus, &status, 1), ENOENT);
}

GUEST_TEST(IoUringShots, ReceiveAgainAndAgain) {
  Ring ring;
  UnixPair pair;
  BufferRing buffers(8);
  static char memory[8][16];
  MUST(syscall(kRegister, ring.fd, kPbufRing, &buffers.registration, 1));
  for (uint16_t i = 0; i < 8; i++) buffers.Add(memory[i], 16, i);
  io_uring_sqe& sqe = Select(ring, IORING_OP_RECV, pair.a, 1);
  sqe.ioprio = IORING_RECV_MULTISHOT;
  MUST(ring.Submit());
  EXPECT_EQ(ring.Ready(), 0u);
  MUST(write(pair.b, "one", 3));
  ExpectNext(ring, 1, 3, Chose(0, kMore));
  CheckpointHere();
  MUST(write(pair.b, "two", 3));
  ExpectNext(ring, 1, 3, Chose(1, kMore));
  MUST(write(pair.b, "0123456789abcdefghij", 20));
  ExpectNext(ring, 1, 16, Chose(2, kMore));
  ExpectNext(ring, 1, 4, Chose(3, kMore));
  EXPECT_EQ(memcmp(memory[3], "ghij", 4), 0);
  close(pair.b);
  ExpectNext(ring, 1, 0, 0);

  // Without a buffer it ends; so it does when it is cancelled.
  UnixPair other;
  io_uring_sqe& again = Select(ring, IORING_OP_RECV, other.a, 2);
  again.ioprio = IORING_RECV_MULTISHOT;
  MUST(ring.Submit());
  for (unsigned i = 4; i < 8; i++) {
    MUST(write(other.b, "x", 1));
    ExpectNext(ring, 2, 1, Chose(i, kMore));
  }
  MUST(write(other.b, "x", 1));
  ExpectNext(ring, 2, -ENOBUFS, 0);
  buffers.Add(memory[0], 16, 40);
  io_uring_sqe& third = Select(ring, IORING_OP_RECV, other.a, 3);
  third.ioprio = IORING_RECV_MULTISHOT;
  MUST(ring.Submit(1));
  ExpectNext(ring, 3, 1, Chose(40, kMore));
  buffers.Add(memory[1], 16, 41);
  ring.Next(IORING_OP_ASYNC_CANCEL, -1, 4).addr = 3;
  MUST(ring.Submit(2));
  ring.ExpectInAnyOrder({{3, -ECANCELED}, {4, 0}});

  // Several shots need a group, and do not wait for all.
  io_uring_sqe& bare = ring.Next(IORING_OP_RECV, other.a, 5);
  bare.ioprio = IORING_RECV_MULTISHOT;
  MUST(ring.Submit(1));
  ring.ExpectNext(5, -EINVAL);
  io_uring_sqe& all = Select(ring, IORING_OP_RECV, other.a, 6);
  all.ioprio = IORING_RECV_MULTISHOT;
  all.msg_flags = MSG_WAITALL;
  MUST(ring.Submit(1));
  ring.ExpectNext(6, -EINVAL);
}

GUEST_TEST(IoUringShots, AFullRingEndsThem) {
  Ring ring(2, 0, 4);
  UnixPair pair;
  BufferRing buffers(16);
  static char memory[16][16];
  MUST(syscall(kRegister, ring.fd, kPbufRing, &buffers.registration, 1));
  for (uint16_t i = 0; i < 16; i++) buffers.Add(memory[i], 1, i);
  MUST(write(pair.b, "abcdefgh", 8));
  io_uring_sqe& sqe = Select(ring, IORING_OP_RECV, pair.a, 1);
  sqe.ioprio = IORING_RECV_MULTISHOT;
  MUST(ring.Submit());
  unsigned count = 0;
  bool more = true;
  while (more) {
    const io_uring_cqe cqe = ring.Take();
    EXPECT_EQ(cqe.res, 1);
    EXPECT_EQ(cqe.flags >> IORING_CQE_BUFFER_SHIFT, count);
    more = (cqe.flags & kMore) != 0;
    ++count;
    if (count > 8) break;
  }
  EXPECT_EQ(count, 5u);
}

GUEST_TEST(IoUringShots, ReadPipes) {
  Ring ring;
  Pipe pipe;
  static char memory[4][8];
  Provide(ring, memory, 8, 4, 0);
  MUST(ring.Submit(1));
  ring.ExpectNext(1, 0);
  Select(ring, kReadMultishot, pipe.r, 2).off = ~uint64_t{0};
  MUST(ring.Submit());
  MUST(write(pipe.w, "first", 5));
  ExpectNext(ring, 2, 5, Chose(0, kMore));
  MUST(write(pipe.w, "second", 6));
  ExpectNext(ring, 2, 6, Chose(1, kMore));
  EXPECT_EQ(memcmp(memory[1], "second", 6), 0);
  TempDir dir;
  WriteFile(dir / "f", "x");
  const int file = MUST(open(dir / "f", O_RDONLY));
  Select(ring, kReadMultishot, file, 3);
  MUST(ring.Submit(1));
  ring.ExpectNext(3, -EBADFD);
  ring.Next(kReadMultishot, pipe.r, 4);
  MUST(ring.Submit(1));
  ring.ExpectNext(4, -EINVAL);
  Select(ring, kReadMultishot, pipe.r, 5, 4);
  MUST(ring.Submit(1));
  ring.ExpectNext(5, -EINVAL);
}

GUEST_TEST(IoUringShots, AcceptAgainAndAgain) {
  Ring ring;
  sockaddr_in address;
  const int listener = TcpListener(&address, 5);
  io_uring_sqe& sqe = ring.Next(IORING_OP_ACCEPT, listener, 1);
  sqe.ioprio = IORING_ACCEPT_MULTISHOT;
  MUST(ring.Submit());
  for (int i = 0; i < 3; i++) {
    const int client = MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(connect(client, reinterpret_cast<sockaddr*>(&address), sizeof(address)));
    const io_uring_cqe cqe = ring.Take();
    EXPECT_EQ(FlagsOf(cqe), kMore);
    EXPECT(cqe.res > listener);
    EXPECT_EQ(write(client, "x", 1), 1);
    char c;
    EXPECT_EQ(read(cqe.res, &c, 1), 1);
    if (i == 0) CheckpointHere();
  }
  ring.Next(IORING_OP_ASYNC_CANCEL, -1, 2).addr = 1;
  MUST(ring.Submit(2));
  ring.ExpectInAnyOrder({{1, -ECANCELED}, {2, 0}});
}

GUEST_TEST(IoUringShots, PollsTellEachTime) {
  Ring ring;
  const int event = MUST(eventfd(0, EFD_NONBLOCK));
  io_uring_sqe& sqe = ring.Next(IORING_OP_POLL_ADD, event, 1);
  sqe.poll32_events = POLLIN;
  sqe.len = IORING_POLL_ADD_MULTI;
  MUST(ring.Submit());
  uint64_t one = 1;
  for (int i = 0; i < 3; i++) {
    MUST(write(event, &one, sizeof(one)));
    const io_uring_cqe cqe = ring.Take();
    EXPECT_EQ(cqe.user_data, 1u);
    EXPECT_EQ(cqe.res & POLLIN, POLLIN);
    EXPECT_EQ(FlagsOf(cqe), kMore);
    uint64_t value;
    MUST(read(event, &value, sizeof(value)));
    if (i == 1) CheckpointHere();
  }
  // Its name, and what it waits for, can be changed.
  io_uring_sqe& rename = ring.Next(IORING_OP_POLL_REMOVE, -1, 2);
  rename.addr = 1;
  rename.len = IORING_POLL_UPDATE_USER_DATA;
  rename.off = 5;
  MUST(ring.Submit(1));
  ring.ExpectNext(2, 0);
  MUST(write(event, &one, sizeof(one)));
  EXPECT_EQ(ring.Take().user_data, 5u);
  io_uring_sqe& change = ring.Next(IORING_OP_POLL_REMOVE, -1, 3);
  change.addr = 5;
  change.len = IORING_POLL_UPDATE_EVENTS | IORING_POLL_ADD_MULTI;
  change.poll32_events = POLLOUT;
  MUST(ring.Submit(2));
  bool told = false, polled = false;
  while (!told || !polled) {
    const io_uring_cqe cqe = ring.Take();
    if (cqe.user_data == 3) EXPECT_EQ(cqe.res, 0);
    if (cqe.user_data == 5) EXPECT_EQ(cqe.res & POLLOUT, POLLOUT);
    told = told || cqe.user_data == 3;
    polled = polled || cqe.user_data == 5;
  }
  io_uring_sqe& wrong = ring.Next(IORING_OP_POLL_REMOVE, -1, 6);
  wrong.addr = 77;
  wrong.len = IORING_POLL_UPDATE_EVENTS;
  MUST(ring.Submit(1));
  ring.ExpectNext(6, -ENOENT);
  io_uring_sqe& meaningless = ring.Next(IORING_OP_POLL_REMOVE, -1, 7);
  meaningless.addr = 5;
  meaningless.len = IORING_POLL_ADD_MULTI;
  MUST(ring.Submit(1));
  ring.ExpectNext(7, -EINVAL);
}

// Two that wait for what is signalled by their own completions: it must come to an end, however fast the program takes what comes.
GUEST_TEST(IoUringShots, DoNotWakeEachOtherForEver) {
  Ring ring(8, 0, 64);
  const int event = MUST(eventfd(0, EFD_NONBLOCK));
  MUST(syscall(kRegister, ring.fd, IORING_REGISTER_EVENTFD, &event, 1));
  static int ended;
  __atomic_store_n(&ended, 0, __ATOMIC_RELAXED);
  Thread taker([&] {
    while (__atomic_load_n(&ended, __ATOMIC_ACQUIRE) < 2) {
      // The last ones may have found the ring full.
      if (ring.Ready() == 0) syscall(kEnter, ring.fd, 0, 0, IORING_ENTER_GETEVENTS, nullptr, 0);
      if (ring.Ready() == 0) continue;
      if ((ring.Take().flags & kMore) == 0) __atomic_add_fetch(&ended, 1, __ATOMIC_RELEASE);
    }
  });
  for (uint64_t i = 1; i <= 2; i++) {
    io_uring_sqe& sqe = ring.Next(IORING_OP_POLL_ADD, event, i);
    sqe.poll32_events = POLLIN;
    sqe.len = IORING_POLL_ADD_MULTI;
  }
  MUST(ring.Submit());
  const uint64_t one = 1;
  for (int i = 0; i < 2000 && __atomic_load_n(&ended, __ATOMIC_ACQUIRE) < 2; i++) {
    MUST(write(event, &one, sizeof(one)));
    uint64_t value;
    if (read(event, &value, sizeof(value)) < 0) EXPECT_EQ(errno, EAGAIN);
    SleepMs(1);
  }
  EXPECT_EQ(__atomic_load_n(&ended, __ATOMIC_ACQUIRE), 2);
  __atomic_store_n(&ended, 2, __ATOMIC_RELEASE);
  taker.Join();
}

// A stream of events that never ends, a ring that is always empty and buffers that never run out, by what another thread writes to memory alone.
GUEST_TEST(IoUringShots, OthersHaveTheirTurn) {
  Ring ring(8, 0, 4096);
  BufferRing buffers(256);
  if (syscall(kRegister, ring.fd, kPbufRing, &buffers.registration, 1) < 0) Skip("no rings of buffers");
  static char memory[8];
  const int events = MUST(eventfd(0, EFD_NONBLOCK | EFD_SEMAPHORE));
  const uint64_t many = ~uint64_t{0} - 1;
  MUST(write(events, &many, sizeof(many)));
  for (uint16_t i = 0; i < 256; ++i) buffers.Add(memory, sizeof(memory), i);
  static int shots, stop, running;
  shots = stop = running = 0;
  Thread taker([&] {
    unsigned& head = ring.Word(ring.params.cq_off.head);
    __atomic_store_n(&running, 1, __ATOMIC_RELEASE);
    while (__atomic_load_n(&stop, __ATOMIC_ACQUIRE) == 0) {
      const unsigned ready = ring.Ready();
      __atomic_store_n(&head, head + ready, __ATOMIC_RELEASE);
      for (unsigned i = 0; i < ready; ++i) buffers.Add(memory, sizeof(memory), 0);
      __atomic_add_fetch(&shots, static_cast<int>(ready), __ATOMIC_RELEASE);
    }
  });
  while (__atomic_load_n(&running, __ATOMIC_ACQUIRE) == 0) SleepMs(1);
  Select(ring, kReadMultishot, events, 1);
  MUST(ring.Submit());
  // Calls of others go on meanwhile.
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(getppid() > 0, true);
    SleepMs(1);
  }
  __atomic_store_n(&stop, 1, __ATOMIC_RELEASE);
  taker.Join();
  EXPECT_GT(__atomic_load_n(&shots, __ATOMIC_ACQUIRE), 0);
  close(ring.fd);
}
