// userfaultfd: who may have one, what its calls answer, faults that wait for pages, and what becomes of registered memory.
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <atomic>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

int NewUffd(int flags) { return static_cast<int>(syscall(SYS_userfaultfd, flags)); }

// A descriptor that is set up with `features`.
class Uffd {
 public:
  explicit Uffd(uint64_t features = 0, int flags = O_CLOEXEC) : fd_(MUST(NewUffd(flags | UFFD_USER_MODE_ONLY))) {
    uffdio_api api{UFFD_API, features, 0};
    MUST(ioctl(fd_, UFFDIO_API, &api));
  }
  ~Uffd() {
    if (fd_ >= 0) close(fd_);
  }
  int fd() const { return fd_; }
  void Close() {
    close(fd_);
    fd_ = -1;
  }
  // The ioctls that the range then knows; exits if it is refused.
  uint64_t Register(void* at, size_t pages, uint64_t mode = UFFDIO_REGISTER_MODE_MISSING) const {
    uffdio_register r{{reinterpret_cast<uint64_t>(at), pages * kPage}, mode, 0};
    MUST(ioctl(fd_, UFFDIO_REGISTER, &r));
    return r.ioctls;
  }
  int Unregister(void* at, size_t pages) const {
    uffdio_range r{reinterpret_cast<uint64_t>(at), pages * kPage};
    return ioctl(fd_, UFFDIO_UNREGISTER, &r);
  }
  int Copy(void* to, const void* from, size_t size = kPage, uint64_t mode = 0) {
    uffdio_copy c{reinterpret_cast<uint64_t>(to), reinterpret_cast<uint64_t>(from), size, mode, 0};
    int result = ioctl(fd_, UFFDIO_COPY, &c);
    copied_ = c.copy;
    return result;
  }
  int Zero(void* at, size_t pages = 1) {
    uffdio_zeropage z{{reinterpret_cast<uint64_t>(at), pages * kPage}, 0, 0};
    int result = ioctl(fd_, UFFDIO_ZEROPAGE, &z);
    copied_ = z.zeropage;
    return result;
  }
  int Wake(void* at) const {
    uffdio_range r{reinterpret_cast<uint64_t>(at), kPage};
    return ioctl(fd_, UFFDIO_WAKE, &r);
  }
  int Protect(void* at, size_t pages, bool on) const {
    uffdio_writeprotect w{{reinterpret_cast<uint64_t>(at), pages * kPage}, on ? UFFDIO_WRITEPROTECT_MODE_WP : uint64_t{0}};
    return ioctl(fd_, UFFDIO_WRITEPROTECT, &w);
  }
  int64_t copied() const { return copied_; }
  // Waits for a fault.
  uffd_msg Next() const {
    uffd_msg m{};
    if (read(fd_, &m, sizeof(m)) != sizeof(m)) m.event = 0;
    return m;
  }

 private:
  int fd_;
  int64_t copied_ = 0;
};

char* Map(size_t pages) {
  void* p = mmap(nullptr, pages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) MUST(-1);
  return static_cast<char*>(p);
}

alignas(kPage) char g_page[2 * kPage];

void FillPage(char value) { memset(g_page, value, sizeof(g_page)); }

sigjmp_buf g_jump;
std::atomic<uintptr_t> g_bus_address;
void OnBus(int, siginfo_t* info, void*) {
  g_bus_address = reinterpret_cast<uintptr_t>(info->si_addr);
  siglongjmp(g_jump, 1);
}

// Reads the byte; -1 if that gives SIGBUS.
int ReadOrBus(volatile char* at) {
  struct sigaction action{};
  action.sa_sigaction = OnBus;
  action.sa_flags = SA_SIGINFO;
  MUST(sigaction(SIGBUS, &action, nullptr));
  if (sigsetjmp(g_jump, 1) != 0) return -1;
  return static_cast<unsigned char>(*at);
}

}  // namespace

GUEST_TEST(Userfault, Flags) {
  const int fd = MUST(NewUffd(O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY));
  EXPECT_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
  EXPECT_EQ(fcntl(fd, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
  char link[64] = {};
  char path[64];
  snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
  MUST(readlink(path, link, sizeof(link) - 1));
  EXPECT_STREQ(link, "anon_inode:[userfaultfd]");
  close(fd);
  EXPECT_ERRNO(NewUffd(UFFD_USER_MODE_ONLY | 2), EINVAL);
  char text[8] = {};
  const int vm = MUST(open("/proc/sys/vm/unprivileged_userfaultfd", O_RDONLY));
  MUST(read(vm, text, sizeof(text) - 1));
  close(vm);
  EXPECT_STREQ(text, "0\n");
}

GUEST_TEST(Userfault, FullModeNeedsACapability) {
  if (geteuid() != 0) Skip("needs root");
  const int child = Fork([] {
    MUST(setresuid(1000, 1000, 1000));
    EXPECT_ERRNO(NewUffd(0), EPERM);
    EXPECT_ERRNO(NewUffd(2), EPERM);
    close(MUST(NewUffd(UFFD_USER_MODE_ONLY)));
  });
  JOIN_OK(child);
}

GUEST_TEST(Userfault, Handshake) {
  const int fd = MUST(NewUffd(O_NONBLOCK | UFFD_USER_MODE_ONLY));
  char* memory = Map(1);
  uffdio_register r{{reinterpret_cast<uint64_t>(memory), kPage}, UFFDIO_REGISTER_MODE_MISSING, 0};
  uffd_msg m;
  EXPECT_ERRNO(ioctl(fd, UFFDIO_REGISTER, &r), EINVAL);
  EXPECT_ERRNO(read(fd, &m, sizeof(m)), EINVAL);
  pollfd p{fd, POLLIN, 0};
  EXPECT_EQ(poll(&p, 1, 0), 1);
  EXPECT_EQ(p.revents, POLLERR);
  uffdio_api api{0xab, 0, 0};
  EXPECT_ERRNO(ioctl(fd, UFFDIO_API, &api), EINVAL);
  EXPECT_EQ(api.api, 0);
  CheckpointHere();
  api = {UFFD_API, 0, 0};
  MUST(ioctl(fd, UFFDIO_API, &api));
  EXPECT_EQ(api.api, UFFD_API);
  EXPECT_EQ(api.features & UFFD_FEATURE_SIGBUS, UFFD_FEATURE_SIGBUS);
  EXPECT_EQ(api.ioctls & 3, 3);
  api = {UFFD_API, 0, 0};
  EXPECT_ERRNO(ioctl(fd, UFFDIO_API, &api), EINVAL);
  EXPECT_ERRNO(ioctl(fd, UFFDIO_API, nullptr), EFAULT);
  EXPECT_ERRNO(ioctl(fd, 0x5401, &api), EINVAL);
  EXPECT_ERRNO(read(fd, &m, sizeof(m) - 1), EINVAL);
  EXPECT_ERRNO(read(fd, &m, sizeof(m)), EAGAIN);
  EXPECT_EQ(poll(&p, 1, 0), 0);
  close(fd);
  // Without O_NONBLOCK it cannot be polled.
  Uffd blocking;
  p = {blocking.fd(), POLLIN, 0};
  EXPECT_EQ(poll(&p, 1, 0), 1);
  EXPECT_EQ(p.revents, POLLERR);
}

GUEST_TEST(Userfault, RegisterRefuses) {
  Uffd uffd, other;
  char* memory = Map(4);
  auto reg = [&](uint64_t start, uint64_t size, uint64_t mode) {
    uffdio_register r{{start, size}, mode, 0};
    return ioctl(uffd.fd(), UFFDIO_REGISTER, &r);
  };
  const auto at = reinterpret_cast<uint64_t>(memory);
  EXPECT_ERRNO(reg(at, kPage, 0), EINVAL);
  EXPECT_ERRNO(reg(at, kPage, 64), EINVAL);
  EXPECT_ERRNO(reg(at + 1, kPage, 1), EINVAL);
  EXPECT_ERRNO(reg(at, kPage - 1, 1), EINVAL);
  EXPECT_ERRNO(reg(at, 0, 1), EINVAL);
  EXPECT_ERRNO(reg(0, kPage, 1), EINVAL);
  EXPECT_ERRNO(reg(0x7ffffffff000, kPage, 1), EINVAL);
  EXPECT_ERRNO(reg(uint64_t{1} << 63, kPage, 1), EINVAL);
  const uint64_t ioctls = uffd.Register(memory, 2);
  EXPECT_EQ(ioctls >> 2 & 7, 7);  // WAKE, COPY, ZEROPAGE
  // Of another context.
  uffdio_register r{{at, 2 * kPage}, UFFDIO_REGISTER_MODE_MISSING, 0};
  EXPECT_ERRNO(ioctl(other.fd(), UFFDIO_REGISTER, &r), EBUSY);
  EXPECT_ERRNO(uffd.Copy(memory + 2 * kPage, g_page), ENOENT);
  EXPECT_EQ(uffd.copied(), -ENOENT);
  EXPECT_ERRNO(uffd.Copy(memory, g_page, kPage, 64), EINVAL);
  EXPECT_ERRNO(uffd.Copy(memory + 1, g_page), EINVAL);
  EXPECT_ERRNO(uffd.Copy(memory, reinterpret_cast<void*>(8)), EFAULT);
  // A file of the disk.
  TempDir dir;
  const int file = MUST(open("/proc/self/exe", O_RDONLY));
  void* mapped = mmap(nullptr, kPage, PROT_READ, MAP_PRIVATE, file, 0);
  r = {{reinterpret_cast<uint64_t>(mapped), kPage}, UFFDIO_REGISTER_MODE_MISSING, 0};
  EXPECT_ERRNO(ioctl(uffd.fd(), UFFDIO_REGISTER, &r), EINVAL);
  close(file);
}

GUEST_TEST(Userfault, AThreadWaitsForItsPage) {
  Uffd uffd(UFFD_FEATURE_THREAD_ID);
  char* memory = Map(4);
  uffd.Register(memory, 4);
  std::atomic<int> seen = -1, tid = 0;
  Thread reader([&] {
    tid = static_cast<int>(syscall(SYS_gettid));
    seen = static_cast<volatile char*>(memory)[kPage + 5];
    static_cast<volatile char*>(memory)[2 * kPage] = 'w';
  });
  uffd_msg m = uffd.Next();
  EXPECT_EQ(m.event, UFFD_EVENT_PAGEFAULT);
  EXPECT_EQ(m.arg.pagefault.address, reinterpret_cast<uint64_t>(memory + kPage));
  EXPECT_EQ(m.arg.pagefault.flags, 0);
  EXPECT_EQ(m.arg.pagefault.feat.ptid, static_cast<uint32_t>(tid.load()));
  EXPECT_EQ(seen.load(), -1);
  FillPage('p');
  MUST(uffd.Copy(memory + kPage, g_page));
  EXPECT_EQ(uffd.copied(), static_cast<int64_t>(kPage));
  m = uffd.Next();
  EXPECT_EQ(seen.load(), 'p');
  EXPECT_EQ(m.arg.pagefault.address, reinterpret_cast<uint64_t>(memory + 2 * kPage));
  EXPECT_EQ(m.arg.pagefault.flags, UFFD_PAGEFAULT_FLAG_WRITE);
  MUST(uffd.Zero(memory + 2 * kPage));
  reader.Join();
  EXPECT_EQ(memory[2 * kPage], 'w');
  EXPECT_ERRNO(uffd.Copy(memory + kPage, g_page), EEXIST);
  EXPECT_EQ(uffd.copied(), -EEXIST);
}

GUEST_TEST(Userfault, AFaultWaitsThroughACheckpoint) {
  Uffd uffd(UFFD_FEATURE_THREAD_ID);
  char* memory = Map(3);
  memory[0] = 'b';  // before it was registered
  uffd.Register(memory, 3);
  FillPage('s');
  MUST(uffd.Copy(memory + kPage, g_page));
  std::atomic<int> seen = -1, tid = 0;
  Thread reader([&] {
    tid = static_cast<int>(syscall(SYS_gettid));
    seen = static_cast<volatile char*>(memory)[2 * kPage];
  });
  uffd_msg m = uffd.Next();
  EXPECT_EQ(m.arg.pagefault.address, reinterpret_cast<uint64_t>(memory + 2 * kPage));
  CheckpointHere();
  EXPECT_EQ(memory[0], 'b');
  EXPECT_EQ(memory[kPage], 's');
  EXPECT_EQ(seen.load(), -1);
  FillPage('z');
  MUST(uffd.Copy(memory + 2 * kPage, g_page));
  reader.Join();
  EXPECT_EQ(seen.load(), 'z');
}

GUEST_TEST(Userfault, ASignalIsHandledWhileAFaultWaits) {
  Uffd uffd;
  char* memory = Map(1);
  uffd.Register(memory, 1);
  static std::atomic<int> handled;
  handled = 0;
  struct sigaction action{};
  action.sa_handler = [](int) { handled = 1; };
  MUST(sigaction(SIGUSR1, &action, nullptr));
  std::atomic<int> seen = -1;
  Thread reader([&] { seen = static_cast<volatile char*>(memory)[0]; });
  EXPECT_EQ(uffd.Next().event, UFFD_EVENT_PAGEFAULT);
  pthread_kill(reader.handle(), SIGUSR1);
  // The access is made again after the handler, and tells once more.
  EXPECT_EQ(uffd.Next().event, UFFD_EVENT_PAGEFAULT);
  EXPECT_EQ(handled.load(), 1);
  MUST(uffd.Zero(memory));
  reader.Join();
  EXPECT_EQ(seen.load(), 0);
}

GUEST_TEST(Userfault, WakeWithoutAPageFaultsAgain) {
  Uffd uffd;
  char* memory = Map(1);
  uffd.Register(memory, 1);
  std::atomic<int> seen = -1;
  Thread reader([&] { seen = static_cast<volatile char*>(memory)[0]; });
  EXPECT_EQ(uffd.Next().event, UFFD_EVENT_PAGEFAULT);
  MUST(uffd.Wake(memory));
  EXPECT_EQ(uffd.Next().event, UFFD_EVENT_PAGEFAULT);
  FillPage('x');
  MUST(uffd.Copy(memory, g_page, kPage, UFFDIO_COPY_MODE_DONTWAKE));
  MUST(uffd.Wake(memory));
  reader.Join();
  EXPECT_EQ(seen.load(), 'x');
}

GUEST_TEST(Userfault, UnregisterAndCloseLetThreadsGo) {
  for (const bool closes : {false, true}) {
    Uffd uffd;
    char* memory = Map(1);
    uffd.Register(memory, 1);
    std::atomic<int> seen = -1;
    Thread reader([&] { seen = static_cast<volatile char*>(memory)[0]; });
    EXPECT_EQ(uffd.Next().event, UFFD_EVENT_PAGEFAULT);
    if (closes) {
      uffd.Close();
    } else {
      MUST(uffd.Unregister(memory, 1));
    }
    reader.Join();
    EXPECT_EQ(seen.load(), 0);
  }
}

GUEST_TEST(Userfault, PolledEvents) {
  Uffd uffd(0, O_NONBLOCK);
  char* memory = Map(2);
  uffd.Register(memory, 2);
  CheckpointHere();
  Thread reader([&] { (void)static_cast<volatile char*>(memory)[kPage]; });
  pollfd p{uffd.fd(), POLLIN, 0};
  EXPECT_EQ(poll(&p, 1, 10000), 1);
  EXPECT_EQ(p.revents, POLLIN);
  uffd_msg m;
  EXPECT_EQ(read(uffd.fd(), &m, sizeof(m)), static_cast<ssize_t>(sizeof(m)));
  EXPECT_EQ(m.arg.pagefault.address, reinterpret_cast<uint64_t>(memory + kPage));
  EXPECT_EQ(poll(&p, 1, 0), 0);
  EXPECT_ERRNO(read(uffd.fd(), &m, sizeof(m)), EAGAIN);
  MUST(uffd.Zero(memory, 2));
  reader.Join();
}

GUEST_TEST(Userfault, SigbusInsteadOfEvents) {
  Uffd uffd(UFFD_FEATURE_SIGBUS, O_NONBLOCK);
  char* memory = Map(2);
  uffd.Register(memory, 2);
  CheckpointHere();
  EXPECT_EQ(ReadOrBus(memory + 3), -1);
  EXPECT_EQ(g_bus_address.load(), reinterpret_cast<uintptr_t>(memory + 3));
  FillPage('c');
  MUST(uffd.Copy(memory, g_page));
  EXPECT_EQ(ReadOrBus(memory + 3), 'c');
  EXPECT_EQ(ReadOrBus(memory + kPage), -1);
  MUST(uffd.Unregister(memory, 2));
  EXPECT_EQ(ReadOrBus(memory + kPage), 0);
}

GUEST_TEST(Userfault, CallsWithMissingPagesFail) {
  // A user-mode-only context sees no fault of the kernel's (handle_userfault()).
  Uffd uffd(0, O_NONBLOCK);
  char* memory = Map(1);
  uffd.Register(memory, 1);
  int pipe_fds[2];
  MUST(pipe(pipe_fds));
  EXPECT_ERRNO(write(pipe_fds[1], memory, 1), EFAULT);
  CheckpointHere();
  EXPECT_ERRNO(write(pipe_fds[1], memory, 1), EFAULT);
  EXPECT_ERRNO(open(memory, O_RDONLY), EFAULT);
  uffd_msg m;
  EXPECT_ERRNO(read(uffd.fd(), &m, sizeof(m)), EAGAIN);
  MUST(uffd.Zero(memory));
  EXPECT_EQ(write(pipe_fds[1], memory, 1), 1);
}

GUEST_TEST(Userfault, SharedMemory) {
  for (const bool memfd : {false, true}) {
    Uffd uffd(0, O_NONBLOCK);
    const int fd = memfd ? MUST(memfd_create("m", 0)) : -1;
    if (memfd) MUST(ftruncate(fd, 3 * kPage));
    void* p = mmap(nullptr, 3 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED | (memfd ? 0 : MAP_ANONYMOUS), fd, 0);
    char* memory = static_cast<char*>(p);
    memory[kPage] = 'k';
    uffd.Register(memory, 3);
    CheckpointHere();
    EXPECT_EQ(memory[kPage], 'k');
    std::atomic<int> seen = -1;
    Thread reader([&] { seen = static_cast<volatile char*>(memory)[0]; });
    pollfd poller{uffd.fd(), POLLIN, 0};
    EXPECT_EQ(poll(&poller, 1, 10000), 1);
    FillPage('f');
    MUST(uffd.Copy(memory, g_page));
    reader.Join();
    EXPECT_EQ(seen.load(), 'f');
    MUST(uffd.Zero(memory + 2 * kPage));
    EXPECT_EQ(memory[2 * kPage], 0);
    MUST(munmap(p, 3 * kPage));
    if (memfd) close(fd);
  }
}

GUEST_TEST(Userfault, DroppedPagesAreMissingAgain) {
  Uffd uffd(UFFD_FEATURE_SIGBUS);
  char* memory = Map(2);
  uffd.Register(memory, 2);
  FillPage('d');
  MUST(uffd.Copy(memory, g_page, 2 * kPage));
  EXPECT_EQ(uffd.copied(), static_cast<int64_t>(2 * kPage));
  CheckpointHere();
  EXPECT_EQ(ReadOrBus(memory + kPage), 'd');
  MUST(madvise(memory, kPage, MADV_DONTNEED));
  EXPECT_EQ(ReadOrBus(memory), -1);
  EXPECT_EQ(ReadOrBus(memory + kPage), 'd');
  MUST(uffd.Zero(memory));
  EXPECT_EQ(ReadOrBus(memory), 0);
}

GUEST_TEST(Userfault, UnmappedAndMovedMemoryIsNotRegistered) {
  Uffd uffd(UFFD_FEATURE_SIGBUS);
  char* memory = Map(4);
  uffd.Register(memory, 4);
  MUST(munmap(memory, kPage));
  EXPECT_ERRNO(uffd.Zero(memory), ENOENT);
  // Not beside what stays: 6.18 merges that with what was moved.
  char* place = Map(8) + 2 * kPage;
  char* moved = static_cast<char*>(mremap(memory + 2 * kPage, 2 * kPage, 2 * kPage, MREMAP_MAYMOVE | MREMAP_FIXED, place));
  CheckpointHere();
  EXPECT_EQ(ReadOrBus(moved), 0);
  EXPECT_EQ(ReadOrBus(memory + kPage), -1);
  MUST(mprotect(memory + kPage, kPage, PROT_READ));
  EXPECT_EQ(ReadOrBus(memory + kPage), -1);
}

GUEST_TEST(Userfault, ChildrenHaveOrdinaryMemory) {
  Uffd uffd(UFFD_FEATURE_SIGBUS);
  char* memory = Map(2);
  uffd.Register(memory, 2);
  const int child = Fork([&] {
    EXPECT_EQ(ReadOrBus(memory), 0);
    CheckpointHere();
    EXPECT_EQ(ReadOrBus(memory + kPage), 0);
    // The descriptor is about the parent's memory.
    FillPage('c');
    MUST(uffd.Copy(memory, g_page));
    EXPECT_EQ(ReadOrBus(memory), 0);
  });
  JOIN_OK(child);
  EXPECT_EQ(ReadOrBus(memory), 'c');
  EXPECT_EQ(ReadOrBus(memory + kPage), -1);
}

GUEST_TEST(Userfault, OfADeadProcess) {
  int pair[2];
  MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
  char* memory = Map(1);
  const int child = Fork([&] {
    Uffd uffd;
    uffd.Register(memory, 1);
    SendFds(pair[1], {uffd.fd()});
  });
  int fd = -1;
  EXPECT_EQ(ReceiveFds(pair[0], &fd, 1), 1);
  JOIN_OK(child);
  CheckpointHere();
  uffdio_copy c{reinterpret_cast<uint64_t>(memory), reinterpret_cast<uint64_t>(g_page), kPage, 0, 0};
  EXPECT_ERRNO(ioctl(fd, UFFDIO_COPY, &c), ESRCH);
  uffdio_register r{{reinterpret_cast<uint64_t>(memory), kPage}, UFFDIO_REGISTER_MODE_MISSING, 0};
  EXPECT_ERRNO(ioctl(fd, UFFDIO_REGISTER, &r), ENOMEM);
  close(fd);
}

GUEST_TEST(Userfault, WriteProtection) {
  Uffd uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP);
  char* memory = Map(3);
  memset(memory, 'o', 3 * kPage);
  uffd.Register(memory, 3, UFFDIO_REGISTER_MODE_WP);
  MUST(uffd.Protect(memory, 2, true));
  std::atomic<int> done = 0;
  memory[2 * kPage] = 'n';
  CheckpointHere();
  Thread writer([&] {
    static_cast<volatile char*>(memory)[kPage] = 'n';
    done = 1;
  });
  uffd_msg m = uffd.Next();
  EXPECT_EQ(m.arg.pagefault.address, reinterpret_cast<uint64_t>(memory + kPage));
  EXPECT_EQ(m.arg.pagefault.flags, UFFD_PAGEFAULT_FLAG_WRITE | UFFD_PAGEFAULT_FLAG_WP);
  EXPECT_EQ(memory[kPage], 'o');
  MUST(uffd.Protect(memory + kPage, 1, false));
  writer.Join();
  EXPECT_EQ(memory[kPage], 'n');
  int fds[2];
  MUST(pipe(fds));
  MUST(write(fds[1], "z", 1));
  EXPECT_ERRNO(read(fds[0], memory, 1), EFAULT);
}
