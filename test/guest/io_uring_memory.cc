// io_uring: MADVISE, which a thread of the program does.
#include <poll.h>
#include <sys/mman.h>

#include "test/harness/guest_util.h"
#include "test/harness/rings.h"

using namespace guest;

namespace {

char* Filled(unsigned count, int fill) {
  auto* pages = static_cast<char*>(MUST(mmap(nullptr, count * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)));
  memset(pages, fill, count * kPage);
  return pages;
}

io_uring_sqe& Advise(Ring& ring, uint64_t data, void* at, unsigned size, unsigned advice) {
  io_uring_sqe& sqe = ring.Buffer(IORING_OP_MADVISE, -1, data, at, size);
  sqe.fadvise_advice = advice;
  return sqe;
}

}  // namespace

GUEST_TEST(IoUringMadvise, DropsPages) {
  Ring ring;
  char* pages = Filled(4, 'x');
  Advise(ring, 1, pages + kPage, 2 * kPage, MADV_DONTNEED);
  EXPECT_EQ(ring.Submit(1), 1);
  ring.ExpectNext(1, 0);
  EXPECT_EQ(pages[0], 'x');
  EXPECT_EQ(pages[kPage], 0);
  EXPECT_EQ(pages[2 * kPage], 0);
  EXPECT_EQ(pages[3 * kPage], 'x');
  CheckpointHere();
  // Memory out of an image.
  Advise(ring, 2, pages, kPage, MADV_DONTNEED);
  EXPECT_EQ(ring.Submit(1), 1);
  ring.ExpectNext(2, 0);
  EXPECT_EQ(pages[0], 0);
  // A length of 64 bits lies elsewhere.
  memset(pages, 'y', 4 * kPage);
  Advise(ring, 3, pages, 1, MADV_DONTNEED).off = 3 * kPage;
  EXPECT_EQ(ring.Submit(1), 1);
  ring.ExpectNext(3, 0);
  EXPECT_EQ(pages[2 * kPage], 0);
  EXPECT_EQ(pages[3 * kPage], 'y');
}

GUEST_TEST(IoUringMadvise, Errors) {
  Ring ring;
  char* pages = Filled(2, 'x');
  munmap(pages + kPage, kPage);
  Advise(ring, 1, pages + 1, kPage, MADV_DONTNEED);
  Advise(ring, 2, pages, kPage, 9999);
  Advise(ring, 3, pages, 2 * kPage, MADV_DONTNEED);
  Advise(ring, 4, pages, kPage, MADV_DONTNEED).buf_index = 1;
  EXPECT_EQ(ring.Submit(), 4);
  ring.ExpectInAnyOrder({{1, -EINVAL}, {2, -EINVAL}, {3, -ENOMEM}, {4, -EINVAL}});
  EXPECT_EQ(pages[0], 0);
}

GUEST_TEST(IoUringMadvise, ManyAndInChains) {
  Ring ring(64);
  char* pages = Filled(32, 'x');
  for (uint64_t i = 0; i < 32; ++i) {
    io_uring_sqe& sqe = Advise(ring, i, pages + i * kPage, kPage, MADV_DONTNEED);
    if (i % 2 == 0) sqe.flags = IOSQE_IO_LINK;
  }
  EXPECT_EQ(ring.Submit(32), 32);
  for (int i = 0; i < 32; ++i) EXPECT_EQ(ring.Take().res, 0);
  for (int i = 0; i < 32; ++i) EXPECT_EQ(pages[i * kPage], 0);
  // Behind something that is waited for, while the thread waits in the kernel.
  memset(pages, 'z', kPage);
  Pipe pipe;
  io_uring_sqe& poll = ring.Next(IORING_OP_POLL_ADD, pipe.r, 40);
  poll.poll32_events = POLLIN;
  poll.flags = IOSQE_IO_LINK;
  Advise(ring, 41, pages, kPage, MADV_DONTNEED).flags = IOSQE_IO_LINK;
  ring.Next(IORING_OP_NOP, -1, 42);
  EXPECT_EQ(ring.Submit(), 3);
  CheckpointHere();
  const pid_t self = getpid();
  Thread writer([&] {
    AwaitAsleep(self);
    MUST(write(pipe.w, "x", 1));
  });
  MUST(syscall(kEnter, ring.fd, 0, 3, IORING_ENTER_GETEVENTS, nullptr, 0));
  ring.ExpectNext(40, POLLIN);
  ring.ExpectNext(41, 0);
  ring.ExpectNext(42, 0);
  writer.Join();
  EXPECT_EQ(pages[0], 0);
}

GUEST_TEST(IoUringMadvise, WhileOthersMap) {
  Ring ring;
  static int stop;
  __atomic_store_n(&stop, 0, __ATOMIC_RELAXED);
  Thread mapper([] {
    while (__atomic_load_n(&stop, __ATOMIC_ACQUIRE) == 0) {
      void* p = MUST(mmap(nullptr, 16 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
      memset(p, 1, kPage);
      MUST(munmap(p, 16 * kPage));
    }
  });
  char* pages = Filled(8, 'x');
  for (int round = 0; round < 50; ++round) {
    memset(pages, 'x', 8 * kPage);
    for (uint64_t i = 0; i < 8; ++i) Advise(ring, i, pages + i * kPage, kPage, MADV_DONTNEED);
    EXPECT_EQ(ring.Submit(8), 8);
    for (int i = 0; i < 8; ++i) EXPECT_EQ(ring.Take().res, 0);
    for (int i = 0; i < 8; ++i) EXPECT_EQ(pages[i * kPage], 0);
  }
  __atomic_store_n(&stop, 1, __ATOMIC_RELEASE);
  mapper.Join();
}
