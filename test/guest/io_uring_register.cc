// io_uring_register(2): tags, personalities, restrictions, rings of one's own, clones, and smaller things.
#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/uio.h>

#include "test/harness/guest_util.h"
#include "test/harness/rings.h"

using namespace guest;

namespace {

constexpr unsigned kRegPersonality = 9, kNoPersonality = 10, kRestrictions = 11, kFiles2 = 13, kFilesUpdate2 = 14, kBuffers2 = 15,
                   kBuffersUpdate = 16, kMaxWorkers = 19, kRingFds = 20, kNoRingFds = 21, kSyncCancel = 24, kAllocRange = 25, kClock = 29,
                   kCloneBuffers = 30;
constexpr unsigned kEnterRegistered = 1u << 4, kEnterAbsolute = 1u << 5, kOnOwnRing = 1u << 31;

struct Resources {
  uint32_t count, flags;
  uint64_t reserved, data, tags;
};
struct Update {
  uint32_t offset, reserved;
  uint64_t data, tags;
  uint32_t count, reserved2;
};

template <typename T>
uint64_t At(T* p) {
  return reinterpret_cast<uint64_t>(p);
}

long Register(Ring& ring, unsigned what, const void* argument, unsigned count) { return syscall(kRegister, ring.fd, what, argument, count); }

}  // namespace

GUEST_TEST(IoUringTags, FilesTellWhenTheyAreFree) {
  Ring ring;
  Pipe pipe, other;
  int fds[3] = {pipe.r, -1, pipe.w};
  uint64_t tags[3] = {101, 0, 103};
  Resources r = {3, 0, 0, At(fds), At(tags)};
  EXPECT_ERRNO(Register(ring, kFiles2, &r, sizeof(r) - 1), EINVAL);
  tags[1] = 5;
  EXPECT_ERRNO(Register(ring, kFiles2, &r, sizeof(r)), EINVAL);  // a tag of nothing
  tags[1] = 0;
  EXPECT_EQ(Register(ring, kFiles2, &r, sizeof(r)), 0);
  char text[8];
  ring.Buffer(IORING_OP_READ, 0, 1, text, sizeof(text)).flags = IOSQE_FIXED_FILE;
  EXPECT_EQ(ring.Submit(), 1);
  // One that is not used, one that is.
  int next[3] = {-1, -2, other.w};
  uint64_t next_tags[3] = {0, 0, 203};
  Update u = {0, 0, At(next), At(next_tags), 3, 0};
  EXPECT_EQ(Register(ring, kFilesUpdate2, &u, sizeof(u)), 3);
  ring.ExpectNext(103, 0);
  EXPECT_EQ(ring.Ready(), 0u);
  CheckpointHere();
  MUST(write(pipe.w, "x", 1));
  ring.ExpectNext(1, 1);
  ring.ExpectNext(101, 0);
  u = {0, 1, At(next), 0, 3, 0};
  EXPECT_ERRNO(Register(ring, kFilesUpdate2, &u, sizeof(u)), EINVAL);
  u = {2, 0, At(next), 0, 3, 0};
  EXPECT_ERRNO(Register(ring, kFilesUpdate2, &u, sizeof(u)), EINVAL);
  u = {0, 0, At(next), 0, 0, 0};
  EXPECT_ERRNO(Register(ring, kFilesUpdate2, &u, sizeof(u)), EINVAL);
  EXPECT_EQ(Register(ring, IORING_UNREGISTER_FILES, nullptr, 0), 0);
  ring.ExpectNext(203, 0);
}

GUEST_TEST(IoUringTags, BuffersTellWhenTheyAreFree) {
  Ring ring;
  Pipe pipe;
  static char memory[4][64];
  iovec buffers[2] = {{memory[0], 64}, {memory[1], 64}};
  uint64_t tags[2] = {11, 12};
  Resources r = {2, 0, 0, At(buffers), At(tags)};
  EXPECT_EQ(Register(ring, kBuffers2, &r, sizeof(r)), 0);
  EXPECT_ERRNO(Register(ring, kBuffers2, &r, sizeof(r)), EBUSY);
  ring.Buffer(IORING_OP_READ_FIXED, pipe.r, 1, memory[0], 8);
  EXPECT_EQ(ring.Submit(), 1);
  iovec next[2] = {{memory[2], 64}, {memory[3], 64}};
  Update u = {0, 0, At(next), 0, 2, 0};
  EXPECT_EQ(Register(ring, kBuffersUpdate, &u, sizeof(u)), 2);
  ring.ExpectNext(12, 0);
  EXPECT_EQ(ring.Ready(), 0u);
  CheckpointHere();
  // It goes on with the buffer that it began with.
  MUST(write(pipe.w, "abc", 3));
  ring.ExpectNext(1, 3);
  ring.ExpectNext(11, 0);
  EXPECT_STREQ(memory[0], "abc");
  ring.Buffer(IORING_OP_READ_FIXED, pipe.r, 2, memory[0], 8);
  EXPECT_EQ(OneResult(ring, 2), -EFAULT);
  EXPECT_EQ(Register(ring, IORING_UNREGISTER_BUFFERS, nullptr, 0), 0);
  Resources sparse = {4, IORING_RSRC_REGISTER_SPARSE, 0, 0, 0};
  EXPECT_EQ(Register(ring, kBuffers2, &sparse, sizeof(sparse)), 0);
  u = {3, 0, At(next), 0, 1, 0};
  EXPECT_EQ(Register(ring, kBuffersUpdate, &u, sizeof(u)), 1);
  ring.Buffer(IORING_OP_WRITE_FIXED, pipe.w, 3, memory[2], 8).buf_index = 3;
  EXPECT_EQ(OneResult(ring, 3), 8);
  u = {4, 0, At(next), 0, 1, 0};
  EXPECT_ERRNO(Register(ring, kBuffersUpdate, &u, sizeof(u)), EINVAL);
}

GUEST_TEST(IoUringClone, BuffersOfAnotherRing) {
  Ring from, to;
  static char memory[2][64] = {"first", "second"};
  iovec buffers[2] = {{memory[0], 64}, {memory[1], 64}};
  struct {
    uint32_t source, flags, source_offset, offset, count, pad[3];
  } clone = {static_cast<uint32_t>(from.fd), 0, 0, 0, 0, {}};
  const long empty = Register(to, kCloneBuffers, &clone, 1);
  if (empty < 0 && errno == EINVAL) Skip("no such request");
  EXPECT_ERRNO(Register(to, kCloneBuffers, &clone, 1), ENXIO);
  EXPECT_EQ(Register(from, IORING_REGISTER_BUFFERS, buffers, 2), 0);
  EXPECT_EQ(Register(to, kCloneBuffers, &clone, 1), 0);
  CheckpointHere();
  const int fd = TempFile();
  to.Buffer(IORING_OP_WRITE_FIXED, fd, 1, memory[1], 6).buf_index = 1;
  EXPECT_EQ(OneResult(to, 1), 6);
  EXPECT_ERRNO(Register(to, kCloneBuffers, &clone, 1), EBUSY);
  clone.flags = 2;
  clone.source_offset = 1;
  clone.offset = 3;
  clone.count = 1;
  EXPECT_EQ(Register(to, kCloneBuffers, &clone, 1), 0);
  to.Buffer(IORING_OP_WRITE_FIXED, fd, 2, memory[1], 6).buf_index = 3;
  EXPECT_EQ(OneResult(to, 2), 6);
  clone.count = 2;
  EXPECT_ERRNO(Register(to, kCloneBuffers, &clone, 1), EOVERFLOW);
  clone.count = 3;
  EXPECT_ERRNO(Register(to, kCloneBuffers, &clone, 1), EINVAL);
  clone = {static_cast<uint32_t>(fd), 2, 0, 0, 0, {}};
  EXPECT_ERRNO(Register(to, kCloneBuffers, &clone, 1), EOPNOTSUPP);
}

GUEST_TEST(IoUringPersonality, IsThatOfItsRegistration) {
  if (geteuid() != 0) Skip("needs root");
  TempDir dir;
  WriteFile(dir / "secret", "x");
  MUST(chmod(dir.path(), 0755));
  MUST(chmod(dir / "secret", 0600));
  const Str path = dir / "secret";
  JOIN_OK(Fork([&] {
    Ring ring;
    Pipe pipe;
    EXPECT_ERRNO(Register(ring, kNoPersonality, nullptr, 1), EINVAL);
    const long root = MUST(Register(ring, kRegPersonality, nullptr, 0));
    EXPECT_ERRNO(Register(ring, kRegPersonality, &path, 0), EINVAL);
    // A chain runs as who its thread is when its turn comes, what is drained as who it was.
    io_uring_sqe& poll = ring.Next(IORING_OP_POLL_ADD, pipe.r, 1);
    poll.poll32_events = POLLIN;
    poll.flags = IOSQE_IO_LINK;
    ring.Buffer(IORING_OP_OPENAT, AT_FDCWD, 2, static_cast<const char*>(path), 0);
    ring.Buffer(IORING_OP_OPENAT, AT_FDCWD, 3, static_cast<const char*>(path), 0).flags = IOSQE_IO_DRAIN;
    EXPECT_EQ(ring.Submit(), 3);
    MUST(syscall(SYS_setresuid, 65534, 65534, 65534));
    CheckpointHere();
    MUST(write(pipe.w, "x", 1));
    ring.ExpectNext(1, POLLIN);
    ring.ExpectNext(2, -EACCES);
    const io_uring_cqe drained = ring.Take();
    EXPECT_EQ(drained.user_data, 3u);
    EXPECT(drained.res >= 0);
    ring.Buffer(IORING_OP_OPENAT, AT_FDCWD, 4, static_cast<const char*>(path), 0).personality = static_cast<uint16_t>(root);
    EXPECT(OneResult(ring, 4) >= 0);
    ring.Buffer(IORING_OP_OPENAT, AT_FDCWD, 5, static_cast<const char*>(path), 0);
    EXPECT_EQ(OneResult(ring, 5), -EACCES);
    ring.Buffer(IORING_OP_OPENAT, AT_FDCWD, 6, static_cast<const char*>(path), 0).personality = 77;
    EXPECT_EQ(OneResult(ring, 6), -EINVAL);
    EXPECT_EQ(Register(ring, kNoPersonality, nullptr, static_cast<unsigned>(root)), 0);
    ring.Buffer(IORING_OP_OPENAT, AT_FDCWD, 7, static_cast<const char*>(path), 0).personality = static_cast<uint16_t>(root);
    EXPECT_EQ(OneResult(ring, 7), -EINVAL);
  }));
}

GUEST_TEST(IoUringRestrictions, AreInForceOnceEnabled) {
  Ring ring(8, IORING_SETUP_R_DISABLED);
  io_uring_restriction r[4] = {};
  r[0].opcode = IORING_RESTRICTION_SQE_OP;
  r[0].sqe_op = IORING_OP_NOP;
  r[1].opcode = IORING_RESTRICTION_REGISTER_OP;
  r[1].register_op = IORING_REGISTER_PROBE;
  r[2].opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED;
  r[2].sqe_flags = IOSQE_IO_LINK;
  r[3].opcode = 99;
  EXPECT_ERRNO(Register(ring, kRestrictions, r, 4), EINVAL);
  EXPECT_EQ(Register(ring, kRestrictions, r, 3), 0);
  EXPECT_ERRNO(Register(ring, kRestrictions, r, 3), EBUSY);
  EXPECT_EQ(Register(ring, IORING_REGISTER_ENABLE_RINGS, nullptr, 0), 0);
  CheckpointHere();
  EXPECT_ERRNO(Register(ring, kRegPersonality, nullptr, 0), EACCES);
  ring.Next(IORING_OP_NOP, -1, 1);
  EXPECT_EQ(OneResult(ring, 1), 0);
  ring.Next(IORING_OP_SHUTDOWN, 0, 2);
  EXPECT_EQ(OneResult(ring, 2), -EACCES);
  ring.Next(IORING_OP_NOP, -1, 3).flags = IOSQE_IO_HARDLINK;
  EXPECT_EQ(OneResult(ring, 3), -EACCES);
  Ring open;
  EXPECT_ERRNO(Register(open, kRestrictions, r, 3), EBADFD);
}

GUEST_TEST(IoUringOwnRings, GoByTheirNumbers) {
  Ring ring;
  struct Own {
    uint32_t offset, reserved;
    uint64_t data;
  };
  Own own[2] = {{UINT32_MAX, 0, static_cast<uint64_t>(ring.fd)}, {3, 0, static_cast<uint64_t>(ring.fd)}};
  EXPECT_ERRNO(syscall(kEnter, 0, 0, 0, kEnterRegistered, nullptr, 0), EBADF);
  EXPECT_EQ(Register(ring, kRingFds, own, 2), 2);
  EXPECT_EQ(own[0].offset, 0u);
  EXPECT_EQ(Register(ring, kRingFds, own, 1), -1);
  EXPECT_EQ(errno, EBUSY);
  Own wrong = {16, 0, static_cast<uint64_t>(ring.fd)};
  EXPECT_ERRNO(Register(ring, kRingFds, &wrong, 1), EINVAL);
  wrong = {4, 0, 0};
  EXPECT_ERRNO(Register(ring, kRingFds, &wrong, 1), EOPNOTSUPP);
  CheckpointHere();
  EXPECT_EQ(syscall(kEnter, 3, 0, 0, kEnterRegistered, nullptr, 0), 0);
  EXPECT_ERRNO(syscall(kEnter, 4, 0, 0, kEnterRegistered, nullptr, 0), EBADF);
  EXPECT_ERRNO(syscall(kEnter, 16, 0, 0, kEnterRegistered, nullptr, 0), EINVAL);
  EXPECT_ERRNO(syscall(kRegister, 3, kOnOwnRing | 999, nullptr, 0), EINVAL);
  EXPECT_EQ(syscall(kRegister, 3, kOnOwnRing | IORING_REGISTER_IOWQ_MAX_WORKERS, nullptr, 2), -1);
  // They are the thread's alone.
  Thread another([] { EXPECT_EQ(syscall(kEnter, 3, 0, 0, kEnterRegistered, nullptr, 0), -1); });
  another.Join();
  // The descriptor may go.
  close(ring.fd);
  CheckpointHere();
  ring.fd = 3;
  ring.Next(IORING_OP_NOP, -1, 1);
  __atomic_store_n(&ring.Word(ring.params.sq_off.tail), ring.Word(ring.params.sq_off.tail) + 1, __ATOMIC_RELEASE);
  EXPECT_EQ(syscall(kEnter, 3, 1, 1, kEnterRegistered | IORING_ENTER_GETEVENTS, nullptr, 0), 1);
  ring.ExpectNext(1, 0);
  Own gone = {3, 0, 0};
  EXPECT_EQ(syscall(kRegister, 0, kOnOwnRing | kNoRingFds, &gone, 1), 1);
  EXPECT_ERRNO(syscall(kEnter, 3, 0, 0, kEnterRegistered, nullptr, 0), EBADF);
}

GUEST_TEST(IoUringCancel, AtOnceAndByOperation) {
  Ring ring;
  Pipe pipe;
  char text[8];
  struct {
    uint64_t data;
    int32_t fd;
    uint32_t flags;
    int64_t timeout[2];
    uint8_t opcode, pad[7];
    uint64_t pad2[3];
  } c = {1, -1, 0, {-1, -1}, 0, {}, {}};
  EXPECT_ERRNO(Register(ring, kSyncCancel, &c, 1), ENOENT);
  for (uint64_t i = 1; i <= 3; ++i) ring.Buffer(IORING_OP_READ, pipe.r, i, text, sizeof(text));
  ring.Next(IORING_OP_POLL_ADD, pipe.r, 4).poll32_events = POLLIN;
  EXPECT_EQ(ring.Submit(), 4);
  CheckpointHere();
  EXPECT_EQ(Register(ring, kSyncCancel, &c, 1), 0);
  ring.ExpectNext(1, -ECANCELED);
  c.flags = IORING_ASYNC_CANCEL_FD;
  EXPECT_ERRNO(Register(ring, kSyncCancel, &c, 1), EBADF);
  c.flags = 1u << 20;
  EXPECT_ERRNO(Register(ring, kSyncCancel, &c, 1), EINVAL);
  // By what they do.
  io_uring_sqe& by_op = ring.Next(IORING_OP_ASYNC_CANCEL, -1, 10);
  by_op.cancel_flags = 32;
  by_op.len = IORING_OP_POLL_ADD;
  EXPECT_EQ(ring.Submit(2), 1);
  ring.ExpectInAnyOrder({{4, -ECANCELED}, {10, 0}});
  io_uring_sqe& both = ring.Next(IORING_OP_ASYNC_CANCEL, pipe.r, 11);
  both.cancel_flags = 32 | IORING_ASYNC_CANCEL_ANY;
  EXPECT_EQ(OneResult(ring, 11), -EINVAL);
  c.flags = IORING_ASYNC_CANCEL_ALL | IORING_ASYNC_CANCEL_FD;
  c.fd = pipe.r;
  EXPECT_EQ(Register(ring, kSyncCancel, &c, 1), 2);
  ring.ExpectInAnyOrder({{2, -ECANCELED}, {3, -ECANCELED}});
}

GUEST_TEST(IoUringRange, OfSlotsThatAreChosen) {
  Ring ring;
  Resources sparse = {8, IORING_RSRC_REGISTER_SPARSE, 0, 0, 0};
  EXPECT_EQ(Register(ring, kFiles2, &sparse, sizeof(sparse)), 0);
  struct {
    uint32_t offset, count;
    uint64_t reserved;
  } range = {4, 5, 0};
  EXPECT_ERRNO(Register(ring, kAllocRange, &range, 0), EINVAL);
  range = {~0u, 5, 0};
  EXPECT_ERRNO(Register(ring, kAllocRange, &range, 0), EOVERFLOW);
  range = {4, 2, 0};
  EXPECT_EQ(Register(ring, kAllocRange, &range, 0), 0);
  CheckpointHere();
  const int results[3] = {4, 5, -ENFILE};
  for (uint64_t i = 0; i < 3; ++i) {
    io_uring_sqe& sqe = ring.Next(IORING_OP_SOCKET, 1 /* AF_UNIX */, i);
    sqe.off = 1;
    sqe.file_index = IORING_FILE_INDEX_ALLOC;
    EXPECT_EQ(OneResult(ring, i), results[i]);
  }
}

GUEST_TEST(IoUringRegister, SmallThings) {
  Ring ring;
  uint32_t workers[2] = {3, 5};
  EXPECT_ERRNO(Register(ring, kMaxWorkers, workers, 1), EINVAL);
  EXPECT_EQ(Register(ring, kMaxWorkers, workers, 2), 0);
  workers[0] = workers[1] = 0;
  CheckpointHere();
  EXPECT_EQ(Register(ring, kMaxWorkers, workers, 2), 0);
  EXPECT_EQ(workers[0], 3u);
  EXPECT_EQ(workers[1], 5u);
  // A wait until a time of a clock.
  uint32_t clock[4] = {CLOCK_BOOTTIME, 0, 0, 0};
  if (Register(ring, kClock, clock, 0) < 0) Skip("no clocks of rings");
  clock[0] = CLOCK_REALTIME;
  EXPECT_ERRNO(Register(ring, kClock, clock, 0), EINVAL);
  timespec until;
  MUST(clock_gettime(CLOCK_BOOTTIME, &until));
  const int64_t start = NowNs();
  until.tv_nsec += 30'000'000;
  if (until.tv_nsec >= 1'000'000'000) {
    until.tv_nsec -= 1'000'000'000;
    ++until.tv_sec;
  }
  io_uring_getevents_arg argument = {};
  argument.ts = At(&until);
  constexpr unsigned kFlags = IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG | kEnterAbsolute;
  EXPECT_ERRNO(syscall(kEnter, ring.fd, 0, 1, kFlags, &argument, sizeof(argument)), ETIME);
  EXPECT_GE(NowNs() - start, 25 * kMs);
}
