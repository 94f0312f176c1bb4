// io_uring: messages into chosen buffers, several of them at once, buffers that are used bit by bit, rings of buffers in the kernel's memory.
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "test/harness/guest_util.h"
#include "test/harness/rings.h"
#include "test/harness/sockets.h"

using namespace guest;

namespace {

constexpr unsigned kPbufRing = 22, kNoPbufRing = 23;
constexpr uint16_t kGroup = 7, kMapped = 1, kIncremental = 2, kBundle = 16, kVectorized = 32;
constexpr unsigned kBufferMore = 16;
constexpr uint64_t kOffsetBuffers = 0x80000000;

struct HeaderOut {
  uint32_t name_size, control_size, payload_size, flags;
};

// A ring of buffers, in the program's memory or the kernel's.
class Buffers {
 public:
  explicit Buffers(Ring& ring, unsigned entries, uint16_t flags = 0) : mask_(static_cast<uint16_t>(entries - 1)) {
    if ((flags & kMapped) == 0)
      entries_ = static_cast<BufferEntry*>(MUST(mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)));
    BufferRegistration r = {reinterpret_cast<uint64_t>(entries_), entries, kGroup, flags, {}};
    registered = syscall(kRegister, ring.fd, kPbufRing, &r, 1) == 0;
    if (!registered || (flags & kMapped) == 0) return;
    const auto offset = static_cast<off_t>(kOffsetBuffers | uint64_t{kGroup} << 16);
    entries_ = static_cast<BufferEntry*>(MUST(mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, ring.fd, offset)));
  }
  void Add(void* memory, unsigned size, uint16_t id) {
    BufferEntry& e = entries_[tail_ & mask_];
    e.address = reinterpret_cast<uint64_t>(memory);
    e.size = size;
    e.id = id;
    __atomic_store_n(&entries_[0].tail, ++tail_, __ATOMIC_RELEASE);
  }
  bool registered = false;

 private:
  BufferEntry* entries_ = nullptr;
  uint16_t mask_, tail_ = 0;
};

io_uring_sqe& Select(Ring& ring, int opcode, int fd, uint64_t data, unsigned size = 0) {
  io_uring_sqe& sqe = ring.Next(opcode, fd, data);
  sqe.len = size;
  sqe.flags = IOSQE_BUFFER_SELECT;
  sqe.buf_group = kGroup;
  return sqe;
}

}  // namespace

GUEST_TEST(IoUringMessage, IntoOneChosenBuffer) {
  Ring ring;
  UnixPair pair;
  Buffers buffers(ring, 8);
  static char memory[8][32];
  for (uint16_t i = 0; i < 8; ++i) buffers.Add(memory[i], 32, i);
  msghdr header = {};
  iovec limit = {nullptr, 4};
  Select(ring, IORING_OP_RECVMSG, pair.a, 1, 1).addr = reinterpret_cast<uint64_t>(&header);
  MUST(ring.Submit());
  CheckpointHere();
  MUST(write(pair.b, "hello", 5));
  ExpectNext(ring, 1, 5, Chose(0));
  EXPECT_EQ(memcmp(memory[0], "hello", 5), 0);
  header.msg_iov = &limit;
  header.msg_iovlen = 1;
  MUST(write(pair.b, "abcdef", 6));
  Select(ring, IORING_OP_RECVMSG, pair.a, 2, 1).addr = reinterpret_cast<uint64_t>(&header);
  MUST(ring.Submit(1));
  ExpectNext(ring, 2, 4, Chose(1));
  header.msg_iovlen = 2;
  Select(ring, IORING_OP_RECVMSG, pair.a, 3, 1).addr = reinterpret_cast<uint64_t>(&header);
  MUST(ring.Submit(1));
  ring.ExpectNext(3, -EINVAL);
  // READV takes the length of its only part.
  limit.iov_len = 1;
  Select(ring, IORING_OP_READV, pair.a, 4, 1).addr = reinterpret_cast<uint64_t>(&limit);
  MUST(ring.Submit(1));
  ExpectNext(ring, 4, 1, Chose(2));
  EXPECT_EQ(memory[2][0], 'e');
  Select(ring, IORING_OP_READV, pair.a, 5, 2).addr = reinterpret_cast<uint64_t>(&limit);
  MUST(ring.Submit(1));
  ring.ExpectNext(5, -EINVAL);
}

GUEST_TEST(IoUringMessage, AgainAndAgain) {
  Ring ring;
  const int server = MUST(socket(AF_INET, SOCK_DGRAM, 0)), client = MUST(socket(AF_INET, SOCK_DGRAM, 0));
  sockaddr_in address = {}, from = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = __builtin_bswap32(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  MUST(bind(server, reinterpret_cast<sockaddr*>(&address), sizeof(address)));
  MUST(getsockname(server, reinterpret_cast<sockaddr*>(&address), &size));
  MUST(connect(client, reinterpret_cast<sockaddr*>(&address), sizeof(address)));
  MUST(getsockname(client, reinterpret_cast<sockaddr*>(&from), &size));
  Buffers buffers(ring, 8);
  constexpr unsigned kHead = sizeof(HeaderOut) + sizeof(sockaddr_in);
  alignas(8) static char memory[8][kHead + 8];
  for (uint16_t i = 0; i < 6; ++i) buffers.Add(memory[i], sizeof(memory[i]), i);
  msghdr header = {};
  header.msg_namelen = sizeof(sockaddr_in);
  io_uring_sqe& sqe = Select(ring, IORING_OP_RECVMSG, server, 1);
  sqe.addr = reinterpret_cast<uint64_t>(&header);
  sqe.ioprio = IORING_RECV_MULTISHOT;
  MUST(ring.Submit());
  MUST(send(client, "one", 3, 0));
  ExpectNext(ring, 1, kHead + 3, Chose(0, kMore));
  HeaderOut out;
  memcpy(&out, memory[0], sizeof(out));
  EXPECT_EQ(out.name_size, sizeof(sockaddr_in));
  EXPECT_EQ(out.control_size, 0u);
  EXPECT_EQ(out.payload_size, 3u);
  EXPECT_EQ(out.flags, 0u);
  EXPECT_EQ(memcmp(memory[0] + sizeof(out), &from, sizeof(from)), 0);
  EXPECT_EQ(memcmp(memory[0] + kHead, "one", 3), 0);
  CheckpointHere();
  // One that is cut off.
  MUST(send(client, "0123456789", 10, 0));
  ExpectNext(ring, 1, kHead + 8, Chose(1, kMore));
  memcpy(&out, memory[1], sizeof(out));
  EXPECT_EQ(out.payload_size, 8u);
  EXPECT_EQ(out.flags, static_cast<unsigned>(MSG_TRUNC));
  // An empty one is the end.
  MUST(send(client, "", 0, 0));
  ExpectNext(ring, 1, kHead, Chose(2));
  // It needs a group, and buffers with room for what comes first.
  io_uring_sqe& bare = ring.Next(IORING_OP_RECVMSG, server, 2);
  bare.addr = reinterpret_cast<uint64_t>(&header);
  bare.ioprio = IORING_RECV_MULTISHOT;
  MUST(ring.Submit(1));
  ring.ExpectNext(2, -EINVAL);
  MUST(send(client, "x", 1, 0));
  header.msg_namelen = 64;
  io_uring_sqe& large = Select(ring, IORING_OP_RECVMSG, server, 3);
  large.addr = reinterpret_cast<uint64_t>(&header);
  large.ioprio = IORING_RECV_MULTISHOT;
  MUST(ring.Submit(1));
  EXPECT_EQ(ring.Take().res, -EFAULT);
}

GUEST_TEST(IoUringMessage, DescriptorsGoToTheProcess) {
  Ring ring;
  UnixPair pair;
  const int files[1] = {pair.a};
  MUST(syscall(kRegister, ring.fd, IORING_REGISTER_FILES, files, 1));
  Pipe pipe;
  MUST(write(pipe.w, "y", 1));
  EXPECT_OK(SendFds(pair.b, {pipe.r}));
  char text[8], control[64] = {};
  iovec part = {text, sizeof(text)};
  msghdr header = {};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof(control);
  ring.Buffer(IORING_OP_RECVMSG, 0, 1, &header, 1).flags = IOSQE_FIXED_FILE;
  MUST(ring.Submit(1));
  EXPECT(ring.Take().res > 0);
  const cmsghdr* message = CMSG_FIRSTHDR(&header);
  ASSERT(message != nullptr);
  EXPECT_EQ(message->cmsg_type, SCM_RIGHTS);
  int fd = -1;
  memcpy(&fd, CMSG_DATA(message), sizeof(fd));
  char c = 0;
  EXPECT_EQ(read(fd, &c, 1), 1);
  EXPECT_EQ(c, 'y');
}

// How many buffers one completion has is the kernel's choice; that they follow each other is not.
GUEST_TEST(IoUringBundle, ReceivesIntoMany) {
  Ring ring;
  UnixPair pair;
  Buffers buffers(ring, 16);
  static char memory[16][4];
  for (uint16_t i = 0; i < 16; ++i) buffers.Add(memory[i], 4, i);
  unsigned next = 0;
  auto take = [&](unsigned wanted, const char* text, bool again, uint16_t flags) {
    unsigned got = 0, most = 0;
    while (got < wanted) {
      if (again) Select(ring, IORING_OP_RECV, pair.a, 2, wanted - got).ioprio = flags;
      if (again) MUST(ring.Submit(1));
      const io_uring_cqe cqe = ring.Take();
      ASSERT(cqe.res > 0);
      EXPECT_EQ(FlagsOf(cqe) & ~kMore, Chose(next));
      for (int i = 0; i < cqe.res; ++i) EXPECT_EQ(memory[next + i / 4][i % 4], text[got + i]);
      const auto n = static_cast<unsigned>(cqe.res);
      next += (n + 3) / 4;
      got += n;
      if (n > most) most = n;
    }
    EXPECT_EQ(got, wanted);
    return most;
  };
  Select(ring, IORING_OP_RECV, pair.a, 1, 8).ioprio = kBundle;
  MUST(ring.Submit());
  if (ring.Ready() != 0) Skip("no bundles");
  CheckpointHere();
  MUST(write(pair.b, "01234567", 8));
  EXPECT_EQ(take(8, "01234567", false, 0), 8u);
  MUST(write(pair.b, "abcdefgh", 8));
  take(8, "abcdefgh", true, kBundle);
  io_uring_sqe& sqe = Select(ring, IORING_OP_RECV, pair.a, 3);
  sqe.ioprio = kBundle | IORING_RECV_MULTISHOT;
  MUST(ring.Submit());
  CheckpointHere();
  MUST(write(pair.b, "0123456789", 10));
  take(10, "0123456789", false, 0);
  MUST(write(pair.b, "mnopq", 5));
  take(5, "mnopq", false, 0);
  close(pair.b);
  ring.ExpectNext(3, 0);
}

GUEST_TEST(IoUringBundle, SendsMany) {
  Ring ring;
  UnixPair pair;
  Buffers buffers(ring, 16);
  static char text[] = "0123456789abcdef";
  for (uint16_t i = 0; i < 4; ++i) buffers.Add(text + 4 * i, 4, i);
  Select(ring, IORING_OP_SEND, pair.a, 1);
  MUST(ring.Submit(1));
  io_uring_cqe cqe = ring.Take();
  if (cqe.res == -EOPNOTSUPP || cqe.res == -EINVAL) Skip("sending chooses no buffers");
  EXPECT_EQ(cqe.res, 4);
  EXPECT_EQ(cqe.flags, Chose(0));
  CheckpointHere();
  Select(ring, IORING_OP_SEND, pair.a, 2).ioprio = kBundle;
  MUST(ring.Submit(1));
  ExpectNext(ring, 2, 12, Chose(1));
  char back[32] = {};
  EXPECT_EQ(recv(pair.b, back, 16, MSG_WAITALL), 16);
  EXPECT_STREQ(back, text);
  Select(ring, IORING_OP_SEND, pair.a, 3).ioprio = kBundle;
  MUST(ring.Submit(1));
  ring.ExpectNext(3, -ENOBUFS);
  io_uring_sqe& wrong = ring.Next(IORING_OP_SENDMSG, pair.a, 4);
  wrong.ioprio = kBundle;
  MUST(ring.Submit(1));
  ring.ExpectNext(4, -EINVAL);
  // More than there is room for: it goes on when there is.
  static char large[4][200'000];
  for (int i = 0; i < 4; ++i) memset(large[i], 'a' + i, sizeof(large[i]));
  for (uint16_t i = 0; i < 4; ++i) buffers.Add(large[i], sizeof(large[i]), i);
  Select(ring, IORING_OP_SEND, pair.a, 5).ioprio = kBundle;
  MUST(ring.Submit());
  CheckpointHere();
  static char all[sizeof(large)];
  size_t got = 0;
  while (got < sizeof(all)) {
    // What was sent is told at times; what wants to be told is taken on.
    const ssize_t n = recv(pair.b, all + got, sizeof(all) - got, MSG_DONTWAIT);
    if (n > 0) got += static_cast<size_t>(n);
    if (n < 0) SleepMs(1);
    syscall(kEnter, ring.fd, 0, 0, IORING_ENTER_GETEVENTS, nullptr, 0);
  }
  EXPECT_EQ(memcmp(all, large, sizeof(all)), 0);
}

GUEST_TEST(IoUringSend, Vectors) {
  Ring ring;
  UnixPair pair;
  iovec parts[2] = {{const_cast<char*>("abc"), 3}, {const_cast<char*>("defg"), 4}};
  ring.Buffer(IORING_OP_SEND, pair.a, 1, parts, 2).ioprio = kVectorized;
  MUST(ring.Submit(1));
  const int sent = ring.Take().res;
  if (sent == -EINVAL) Skip("no vectors");
  EXPECT_EQ(sent, 7);
  char back[16] = {};
  EXPECT_EQ(read(pair.b, back, sizeof(back)), 7);
  EXPECT_STREQ(back, "abcdefg");
}

GUEST_TEST(IoUringBuffers, AreUsedBitByBit) {
  Ring ring;
  UnixPair pair;
  Buffers buffers(ring, 8, kIncremental);
  if (!buffers.registered) Skip("no such rings");
  static char memory[2][16];
  for (uint16_t i = 0; i < 2; ++i) buffers.Add(memory[i], 16, i);
  io_uring_sqe& sqe = Select(ring, IORING_OP_RECV, pair.a, 1);
  sqe.ioprio = IORING_RECV_MULTISHOT;
  MUST(ring.Submit());
  MUST(write(pair.b, "0123", 4));
  ExpectNext(ring, 1, 4, Chose(0, kMore | kBufferMore));
  CheckpointHere();
  MUST(write(pair.b, "456789", 6));
  ExpectNext(ring, 1, 6, Chose(0, kMore | kBufferMore));
  EXPECT_EQ(memcmp(memory[0], "0123456789", 10), 0);
  MUST(write(pair.b, "abcdefgh", 8));
  ExpectNext(ring, 1, 6, Chose(0, kMore));
  ExpectNext(ring, 1, 2, Chose(1, kMore | kBufferMore));
  EXPECT_EQ(memcmp(memory[0] + 10, "abcdef", 6), 0);
  EXPECT_EQ(memcmp(memory[1], "gh", 2), 0);
  MUST(write(pair.b, "0123456789ABCDEF", 16));
  ExpectNext(ring, 1, 14, Chose(1, kMore));
  ring.ExpectNext(1, -ENOBUFS);
}

GUEST_TEST(IoUringBuffers, LieInTheKernelsMemory) {
  Ring ring;
  UnixPair pair;
  Buffers buffers(ring, 8, kMapped);
  if (!buffers.registered) Skip("no such rings");
  static char memory[8][16];
  for (uint16_t i = 0; i < 3; ++i) buffers.Add(memory[i], 16, static_cast<uint16_t>(i + 10));
  Select(ring, IORING_OP_RECV, pair.a, 1);
  MUST(ring.Submit());
  CheckpointHere();
  MUST(write(pair.b, "one", 3));
  ExpectNext(ring, 1, 3, Chose(10));
  buffers.Add(memory[3], 16, 13);
  for (unsigned i = 11; i < 14; ++i) {
    MUST(write(pair.b, "x", 1));
    Select(ring, IORING_OP_RECV, pair.a, 2);
    MUST(ring.Submit(1));
    ExpectNext(ring, 2, 1, Chose(i));
  }
  // Other groups have none.
  void* const other = mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, ring.fd, static_cast<off_t>(kOffsetBuffers | 9 << 16));
  EXPECT_EQ(other, MAP_FAILED);
  struct {
    uint64_t address;
    uint32_t entries;
    uint16_t group, flags;
    uint64_t reserved[3];
  } gone = {0, 0, kGroup, 0, {}};
  EXPECT_OK(syscall(kRegister, ring.fd, kNoPbufRing, &gone, 1));
  CheckpointHere();
  // The mapping stays.
  buffers.Add(memory[0], 16, 1);
  Select(ring, IORING_OP_RECV, pair.a, 3);
  MUST(write(pair.b, "x", 1));
  MUST(ring.Submit(1));
  ring.ExpectNext(3, -ENOBUFS);
}
