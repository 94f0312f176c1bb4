// Reads of some hundred KiB and more of files on disk (here the test's own program), which may go another way than short ones: what they return, where
// they leave the position, and what they do with memory that is not there.
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

constexpr size_t kLong = 512 << 10;
constexpr size_t kRoom = 4 << 20;

struct Program {
  Program() : fd(MUST(open("/proc/self/exe", O_RDONLY))) {
    struct stat st;
    MUST(fstat(fd, &st));
    size = static_cast<size_t>(st.st_size);
    if (size < kLong + 3 * kPage || size > kRoom) Skip("this program has another size than expected");
    bytes = static_cast<char*>(mmap(nullptr, kRoom, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    EXPECT(bytes != MAP_FAILED);
    for (size_t at = 0; at < size;) at += static_cast<size_t>(MUST(pread(fd, bytes + at, Least(size - at, 8192), static_cast<off_t>(at))));
    room = static_cast<char*>(mmap(nullptr, kRoom, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    EXPECT(room != MAP_FAILED);
  }
  static size_t Least(size_t a, size_t b) { return a < b ? a : b; }
  bool Same(size_t at, size_t count) const { return memcmp(room, bytes + at, count) == 0; }
  off_t Position() const { return lseek(fd, 0, SEEK_CUR); }

  int fd;
  size_t size;
  char *bytes, *room;
};

}  // namespace

GUEST_TEST(LongReads, MoveThePosition) {
  Program p;
  EXPECT_EQ(read(p.fd, p.room, kLong), static_cast<ssize_t>(kLong));
  EXPECT(p.Same(0, kLong));
  EXPECT_EQ(p.Position(), static_cast<off_t>(kLong));
  CheckpointHere();
  const size_t rest = p.size - kLong;
  EXPECT_EQ(read(p.fd, p.room, kRoom), static_cast<ssize_t>(rest));
  EXPECT(p.Same(kLong, rest));
  EXPECT_EQ(p.Position(), static_cast<off_t>(p.size));
  EXPECT_EQ(read(p.fd, p.room, kRoom), 0);
  MUST(lseek(p.fd, 1000, SEEK_SET));
  EXPECT_EQ(read(p.fd, p.room, kRoom), static_cast<ssize_t>(p.size - 1000));
  EXPECT(p.Same(1000, p.size - 1000));
  EXPECT_EQ(p.room[p.size - 1000], 0);
}

GUEST_TEST(LongReads, AtAPlace) {
  Program p;
  EXPECT_EQ(pread(p.fd, p.room, kLong, 4097), static_cast<ssize_t>(kLong));
  EXPECT(p.Same(4097, kLong));
  EXPECT_EQ(p.Position(), 0);
  EXPECT_EQ(pread(p.fd, p.room, kRoom, 17), static_cast<ssize_t>(p.size - 17));
  EXPECT(p.Same(17, p.size - 17));
  EXPECT_EQ(pread(p.fd, p.room, kRoom, static_cast<off_t>(p.size)), 0);
  EXPECT_EQ(pread(p.fd, p.room, kRoom, static_cast<off_t>(p.size) + (1 << 20)), 0);
  EXPECT_ERRNO(pread(p.fd, p.room, kRoom, -1), EINVAL);
  EXPECT_EQ(pread(p.fd, p.room, SIZE_MAX / 2 - kPage, 5) < 0 ? -errno : 0, -EFAULT);  // beyond all addresses
  const int write_only = MUST(open("/proc/self/exe", O_PATH));
  EXPECT_ERRNO(pread(write_only, p.room, kLong, 0), EBADF);
}

GUEST_TEST(LongReads, StopAtMemoryThatIsNotThere) {
  Program p;
  MUST(munmap(p.room + 40 * kPage, kPage));
  EXPECT_EQ(read(p.fd, p.room, kLong), static_cast<ssize_t>(40 * kPage));
  EXPECT(p.Same(0, 40 * kPage));
  EXPECT_EQ(p.Position(), static_cast<off_t>(40 * kPage));
  MUST(lseek(p.fd, 0, SEEK_SET));
  EXPECT_ERRNO(read(p.fd, p.room + 40 * kPage, kLong), EFAULT);
  EXPECT_EQ(p.Position(), 0);
  MUST(mprotect(p.room, kPage, PROT_READ));
  EXPECT_ERRNO(pread(p.fd, p.room, kLong, 0), EFAULT);
  EXPECT_ERRNO(pread(p.fd, reinterpret_cast<void*>(kBadAddress), kLong, 0), EFAULT);
  EXPECT_ERRNO(pread(p.fd, reinterpret_cast<void*>(kKernelAddress), kLong, 0), EFAULT);
}

GUEST_TEST(LongReads, IntoSharedAndFileMemory) {
  Program p;
  char* shared = static_cast<char*>(mmap(nullptr, kRoom, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  EXPECT(shared != MAP_FAILED);
  JOIN_OK(Fork([&] {
    const int fd = MUST(open("/proc/self/exe", O_RDONLY));
    EXPECT_EQ(read(fd, shared, kRoom), static_cast<ssize_t>(p.size));
  }));
  EXPECT_EQ(memcmp(shared, p.bytes, p.size), 0);
  // The file's own pages, privately mapped, are replaced by others of it.
  char* own = static_cast<char*>(mmap(nullptr, kLong, PROT_READ | PROT_WRITE, MAP_PRIVATE, p.fd, 0));
  EXPECT(own != MAP_FAILED);
  EXPECT_EQ(pread(p.fd, own, kLong, 3 * kPage), static_cast<ssize_t>(kLong));
  EXPECT_EQ(memcmp(own, p.bytes + 3 * kPage, kLong), 0);
}

GUEST_TEST(LongReads, OneOpenFileIsReadByMany) {
  Program p;
  struct Part {
    off_t end;
    ssize_t count;
  };
  Part* parts = static_cast<Part*>(mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  EXPECT(parts != MAP_FAILED);
  pid_t children[4];
  for (int round = 0; round < 8; round++) {
    MUST(lseek(p.fd, 0, SEEK_SET));
    for (int i = 0; i < 4; i++) {
      children[i] = Fork([&] { parts[i].count = read(p.fd, p.room, kLong); });
    }
    size_t total = 0;
    for (int i = 0; i < 4; i++) JOIN_OK(children[i]);
    for (int i = 0; i < 4; i++) {
      EXPECT(parts[i].count >= 0);
      total += static_cast<size_t>(parts[i].count);
    }
    // Nobody reads what another one has read (fdget_pos()).
    EXPECT_EQ(total, Program::Least(p.size, 4 * kLong));
    EXPECT_EQ(p.Position(), static_cast<off_t>(total));
  }
}

GUEST_TEST(LongReads, SignalsComeBetween) {
  Program p;
  static volatile int ticks;
  ticks = 0;
  struct sigaction action = {};
  action.sa_handler = [](int) { ticks = ticks + 1; };
  MUST(sigaction(SIGALRM, &action, nullptr));
  itimerval often = {{0, 2000}, {0, 2000}};
  MUST(setitimer(ITIMER_REAL, &often, nullptr));
  for (int i = 0; i < 100 || (ticks < 3 && i < 100000); i++) {
    EXPECT_EQ(pread(p.fd, p.room, kLong, i % 4096), static_cast<ssize_t>(kLong));
    EXPECT(p.Same(static_cast<size_t>(i % 4096), kLong));
    if (i == 50) CheckpointHere();
  }
  often = {};
  MUST(setitimer(ITIMER_REAL, &often, nullptr));
  EXPECT(ticks >= 3);
}

GUEST_TEST(LongReads, LeaveNoDescriptor) {
  Program p;
  for (int i = 0; i < 200; i++) EXPECT_EQ(pread(p.fd, p.room, kLong, 0), static_cast<ssize_t>(kLong));
  const int next = MUST(open("/dev/null", O_RDONLY));
  EXPECT_EQ(next, p.fd + 1);
  JOIN_OK(Fork([&] {
    EXPECT_EQ(pread(p.fd, p.room, kLong, 0), static_cast<ssize_t>(kLong));
    EXPECT(p.Same(0, kLong));
  }));
}
