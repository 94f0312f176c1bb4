// Linux's own asynchronous I/O: io_setup, io_submit, io_getevents.
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <sys/eventfd.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

struct Context {
  explicit Context(unsigned events) {
    if (syscall(SYS_io_setup, events, &id) < 0) {
      if (errno == ENOSYS) Skip("no asynchronous I/O");
      MUST(-1);
    }
  }
  ~Context() { syscall(SYS_io_destroy, id); }
  long Submit(iocb* one) const { return syscall(SYS_io_submit, id, 1, &one); }
  long Events(long min, long max, io_event* out, const timespec* timeout = nullptr) const {
    return syscall(SYS_io_getevents, id, min, max, out, timeout);
  }
  aio_context_t id = 0;
};

iocb Request(int opcode, int fd, const void* buffer, size_t size, int64_t offset, uint64_t data) {
  iocb cb = {};
  cb.aio_lio_opcode = static_cast<uint16_t>(opcode);
  cb.aio_fildes = static_cast<uint32_t>(fd);
  cb.aio_buf = reinterpret_cast<uint64_t>(buffer);
  cb.aio_nbytes = size;
  cb.aio_offset = offset;
  cb.aio_data = data;
  return cb;
}

}  // namespace

GUEST_TEST(Aio, WritesAndReads) {
  TempDir dir;
  const int fd = MUST(open(dir / "file", O_RDWR | O_CREAT, 0600));
  Context context(8);
  iocb write = Request(IOCB_CMD_PWRITE, fd, "hello", 5, 3, 11);
  EXPECT_EQ(context.Submit(&write), 1);
  io_event event = {};
  CheckpointHere();
  EXPECT_EQ(context.Events(1, 1, &event), 1);
  EXPECT_EQ(event.data, 11);
  EXPECT_EQ(event.obj, reinterpret_cast<uint64_t>(&write));
  EXPECT_EQ(event.res, 5);
  char text[9] = {};
  iocb read = Request(IOCB_CMD_PREAD, fd, text, 8, 0, 12);
  EXPECT_EQ(context.Submit(&read), 1);
  EXPECT_EQ(context.Events(1, 4, &event), 1);
  EXPECT_EQ(event.res, 8);
  EXPECT_STREQ(text + 3, "hello");
  iocb sync = Request(IOCB_CMD_FSYNC, fd, nullptr, 0, 0, 13);
  EXPECT_EQ(context.Submit(&sync), 1);
  EXPECT_EQ(context.Events(1, 1, &event), 1);
  EXPECT_EQ(event.res, 0);
}

GUEST_TEST(Aio, TellsAnEventfd) {
  TempDir dir;
  const int fd = MUST(open(dir / "file", O_RDWR | O_CREAT, 0600));
  const int counter = MUST(eventfd(0, EFD_NONBLOCK));
  Context context(4);
  iocb write = Request(IOCB_CMD_PWRITE, fd, "x", 1, 0, 1);
  write.aio_flags = IOCB_FLAG_RESFD;
  write.aio_resfd = static_cast<uint32_t>(counter);
  EXPECT_EQ(context.Submit(&write), 1);
  io_event event = {};
  EXPECT_EQ(context.Events(1, 1, &event), 1);
  uint64_t value = 0;
  EXPECT_EQ(read(counter, &value, 8), 8);
  EXPECT_EQ(value, 1);
}

GUEST_TEST(Aio, WaitsAndTimesOut) {
  Context context(4);
  io_event event = {};
  const timespec none = {0, 0}, some = Ns(30 * kMs);
  EXPECT_EQ(context.Events(1, 1, &event, &none), 0);
  const int64_t start = NowNs();
  EXPECT_EQ(context.Events(1, 1, &event, &some), 0);
  EXPECT_GE(NowNs() - start, 30 * kMs);
}

GUEST_TEST(Aio, Errors) {
  aio_context_t id = 1;
  if (syscall(SYS_io_setup, 1, &id) < 0 && errno == ENOSYS) Skip("no asynchronous I/O");
  EXPECT_ERRNO(syscall(SYS_io_setup, 1, &id), EINVAL);
  id = 0;
  EXPECT_ERRNO(syscall(SYS_io_setup, 0, &id), EINVAL);
  Context context(4);
  iocb bad = Request(IOCB_CMD_PREAD, 999, nullptr, 0, 0, 0);
  EXPECT_ERRNO(context.Submit(&bad), EBADF);
  bad = Request(77, 1, nullptr, 0, 0, 0);
  EXPECT_ERRNO(context.Submit(&bad), EINVAL);
  io_event event = {};
  EXPECT_ERRNO(context.Events(2, 1, &event), EINVAL);
  iocb cb = Request(IOCB_CMD_PREAD, 0, nullptr, 0, 0, 0);
  EXPECT_ERRNO(syscall(SYS_io_cancel, context.id, &cb, &event), EINVAL);
  MUST(syscall(SYS_io_destroy, context.id));
  EXPECT_ERRNO(syscall(SYS_io_destroy, context.id), EINVAL);
  EXPECT_ERRNO(context.Submit(&cb), EINVAL);
}

GUEST_TEST(Aio, ArgumentsOfTheContext) {
  aio_context_t id = 0;
  if (syscall(SYS_io_setup, 1, &id) < 0 && errno == ENOSYS) Skip("no asynchronous I/O");
  EXPECT_ERRNO(syscall(SYS_io_setup, 1, &id), EINVAL);  // The word has to be zero.
  MUST(syscall(SYS_io_destroy, id));
  EXPECT_ERRNO(syscall(SYS_io_destroy, id), EINVAL);
  id = 0;
  EXPECT_ERRNO(syscall(SYS_io_setup, 0, &id), EINVAL);
  EXPECT_ERRNO(syscall(SYS_io_setup, 1, kBadAddress), EFAULT);
  EXPECT_ERRNO(syscall(SYS_io_getevents, 77L, 0L, 1L, nullptr, nullptr), EINVAL);
}

GUEST_TEST(Aio, ArgumentsOfRequests) {
  Context context(4);
  char text[8] = {};
  const int fd = TempFile("content");
  iocb good = Request(IOCB_CMD_PREAD, fd, text, 7, 0, 1), bad = Request(99, fd, text, 7, 0, 2);
  EXPECT_ERRNO(context.Submit(&bad), EINVAL);
  bad = Request(IOCB_CMD_PREAD, 999, text, 7, 0, 2);
  EXPECT_ERRNO(context.Submit(&bad), EBADF);
  iocb* both[2] = {&good, &bad};
  EXPECT_EQ(syscall(SYS_io_submit, context.id, 2L, both), 1);  // Up to the bad one.
  EXPECT_ERRNO(syscall(SYS_io_submit, context.id, -1L, both), EINVAL);
  EXPECT_EQ(syscall(SYS_io_submit, context.id, 0L, both), 0);
  EXPECT_ERRNO(syscall(SYS_io_submit, context.id, 1L, kBadAddress), EFAULT);
  bad = Request(IOCB_CMD_PREAD, fd, text, 7, 0, 2);
  bad.aio_reserved2 = 1;
  EXPECT_ERRNO(context.Submit(&bad), EINVAL);
  io_event event = {};
  EXPECT_EQ(context.Events(1, 1, &event), 1);
  EXPECT_EQ(event.res, 7);
  EXPECT_ERRNO(context.Events(2, 1, &event), EINVAL);
  EXPECT_ERRNO(context.Events(-1, 1, &event), EINVAL);
}

GUEST_TEST(Aio, PgeteventsSwapsTheMask) {
  Context context(4);
  CountSignals(SIGUSR1);
  Block({SIGUSR1});
  raise(SIGUSR1);
  uint64_t mask = 0;
  struct {
    const uint64_t* set;
    size_t size;
  } with_mask = {&mask, 8};
  io_event event = {};
  const timespec time = {10, 0};
  EXPECT_ERRNO(syscall(SYS_io_pgetevents, context.id, 1L, 1L, &event, &time, &with_mask), EINTR);
  EXPECT_EQ(SignalCount(), 1);
  with_mask.size = 4;
  EXPECT_ERRNO(syscall(SYS_io_pgetevents, context.id, 0L, 1L, &event, &time, &with_mask), EINVAL);
  EXPECT_ERRNO(syscall(SYS_io_pgetevents, context.id, 0L, 1L, &event, &time, kBadAddress), EFAULT);
  const timespec none = {};
  EXPECT_EQ(syscall(SYS_io_pgetevents, context.id, 1L, 1L, &event, &none, nullptr), 0);
}
