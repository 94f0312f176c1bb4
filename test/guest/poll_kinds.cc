// Readiness of every kind of file, asked by poll and by epoll; and epoll's rules for each.
#include <mqueue.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

#include "test/harness/guest_util.h"
#include "test/harness/sockets.h"

using namespace guest;

namespace {

constexpr short kAll = POLLIN | POLLPRI | POLLOUT | POLLRDNORM | POLLWRNORM | POLLRDHUP;

short Poll(int fd, short events = kAll) {
  pollfd one = {fd, events, 0};
  MUST(poll(&one, 1, 0));
  return one.revents;
}

// What epoll says of the same file, level-triggered.
short Epoll(int fd, short events = kAll) {
  const int epoll = MUST(epoll_create1(0));
  epoll_event wanted = {.events = static_cast<uint32_t>(static_cast<unsigned short>(events)), .data = {}}, told = {};
  if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &wanted) < 0) {
    close(epoll);
    return -1;
  }
  const int count = MUST(epoll_wait(epoll, &told, 1, 0));
  close(epoll);
  return count == 0 ? 0 : static_cast<short>(told.events);
}

#define EXPECT_READY(fd, events)    \
  do {                              \
    EXPECT_EQ(Poll(fd), (events));  \
    EXPECT_EQ(Epoll(fd), (events)); \
  } while (0)

constexpr short kIn = POLLIN | POLLRDNORM, kOut = POLLOUT | POLLWRNORM;

void StreamPair(int (&ends)[2]) { MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, ends)); }

}  // namespace

GUEST_TEST(PollKind, RegularFileAndFolder) {
  const int file = TempFile();
  EXPECT_EQ(Poll(file), kIn | kOut);
  EXPECT_EQ(Epoll(file), -1);  // Always ready: not for epoll.
  const int folder = MUST(open("/tmp", O_RDONLY));
  EXPECT_EQ(Poll(folder), kIn | kOut);
  EXPECT_EQ(Epoll(folder), -1);
  EXPECT_EQ(errno, EPERM);
}

GUEST_TEST(PollKind, PipeEnds) {
  Pipe p;
  EXPECT_READY(p.r, 0);
  EXPECT_READY(p.w, kOut);
  MUST(write(p.w, "x", 1));
  CheckpointHere();
  EXPECT_READY(p.r, kIn);
  p.CloseWrite();
  EXPECT_READY(p.r, kIn | POLLHUP);
  char byte;
  MUST(read(p.r, &byte, 1));
  EXPECT_READY(p.r, POLLHUP);
}

GUEST_TEST(PollKind, PipeWithoutReaders) {
  Pipe p;
  p.CloseRead();
  EXPECT_READY(p.w, kOut | POLLERR);
}

GUEST_TEST(PollKind, FullPipe) {
  Pipe p(O_NONBLOCK);
  static char text[65536];
  MUST(write(p.w, text, sizeof(text)));
  EXPECT_READY(p.w, 0);
  MUST(read(p.r, text, 1));
  EXPECT_READY(p.w, 0);  // A page has to be free.
  MUST(read(p.r, text, kPage));
  EXPECT_READY(p.w, kOut);
}

GUEST_TEST(PollKind, StreamSocket) {
  int ends[2];
  StreamPair(ends);
  EXPECT_READY(ends[0], kOut);
  MUST(send(ends[1], "x", 1, 0));
  EXPECT_READY(ends[0], kIn | kOut);
  MUST(shutdown(ends[1], SHUT_WR));
  CheckpointHere();
  EXPECT_READY(ends[0], kIn | kOut | POLLRDHUP);
  EXPECT_READY(ends[1], kOut);
  close(ends[1]);
  EXPECT_READY(ends[0], kIn | kOut | POLLRDHUP | POLLHUP);
}

GUEST_TEST(PollKind, UnconnectedSockets) {
  const int stream = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
  EXPECT_READY(stream, kOut | POLLHUP);
  const int tcp = MUST(socket(AF_INET, SOCK_STREAM, 0));
  EXPECT_READY(tcp, kOut | POLLHUP);
  const int udp = MUST(socket(AF_INET, SOCK_DGRAM, 0));
  EXPECT_READY(udp, kOut);
}

GUEST_TEST(PollKind, ListenerWithAConnection) {
  sockaddr_in address;
  const socklen_t length = sizeof(address);
  const int listener = TcpListener(&address);
  EXPECT_READY(listener, 0);
  const int client = MUST(socket(AF_INET, SOCK_STREAM, 0));
  MUST(connect(client, reinterpret_cast<sockaddr*>(&address), length));
  EXPECT_READY(listener, kIn);
  EXPECT_READY(client, kOut);
  const int server = MUST(accept(listener, nullptr, nullptr));
  close(server);
  pollfd one = {client, POLLIN | POLLRDHUP, 0};
  EXPECT_EQ(poll(&one, 1, 5000), 1);
  EXPECT_EQ(one.revents, POLLIN | POLLRDHUP);
  MUST(shutdown(client, SHUT_WR));
  one.events = 0;
  EXPECT_EQ(poll(&one, 1, 5000), 1);
  EXPECT_EQ(one.revents, POLLHUP);
}

GUEST_TEST(PollKind, UdpErrorsAndData) {
  const int fd = MUST(socket(AF_INET, SOCK_DGRAM, 0)), other = MUST(socket(AF_INET, SOCK_DGRAM, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  MUST(bind(other, reinterpret_cast<sockaddr*>(&address), length));
  MUST(getsockname(other, reinterpret_cast<sockaddr*>(&address), &length));
  MUST(connect(fd, reinterpret_cast<sockaddr*>(&address), length));
  MUST(send(fd, "x", 1, 0));
  pollfd one = {other, POLLIN, 0};
  EXPECT_EQ(poll(&one, 1, 5000), 1);
  close(other);
  MUST(send(fd, "x", 1, 0));  // Nobody there: an error comes back.
  one = {fd, 0, 0};
  EXPECT_EQ(poll(&one, 1, 5000), 1);
  EXPECT_EQ(one.revents, POLLERR);
  EXPECT_ERRNO(send(fd, "x", 1, 0), ECONNREFUSED);
}

GUEST_TEST(PollKind, Eventfd) {
  const int fd = MUST(eventfd(0, EFD_NONBLOCK));
  EXPECT_EQ(Poll(fd, POLLIN | POLLOUT), POLLOUT);
  const uint64_t most = UINT64_MAX - 1;
  MUST(write(fd, &most, 8));
  EXPECT_EQ(Poll(fd, POLLIN | POLLOUT), POLLIN);
  EXPECT_EQ(Epoll(fd, POLLIN | POLLOUT), POLLIN);
}

GUEST_TEST(PollKind, TimerfdAndSignalfd) {
  const int timer = MUST(timerfd_create(CLOCK_MONOTONIC, 0));
  EXPECT_EQ(Poll(timer, POLLIN | POLLOUT), 0);
  const itimerspec spec = {.it_interval = {}, .it_value = {0, 1}};
  MUST(timerfd_settime(timer, 0, &spec, nullptr));
  pollfd one = {timer, POLLIN | POLLOUT, 0};
  EXPECT_EQ(poll(&one, 1, 5000), 1);
  EXPECT_EQ(one.revents, POLLIN);
  Block({SIGUSR1});
  const sigset_t set = Signals({SIGUSR1});
  const int signals = MUST(signalfd(-1, &set, 0));
  EXPECT_EQ(Poll(signals, POLLIN | POLLOUT), 0);
  raise(SIGUSR1);
  CheckpointHere();
  EXPECT_EQ(Poll(signals, POLLIN | POLLOUT), POLLIN);
  EXPECT_EQ(Epoll(signals, POLLIN | POLLOUT), POLLIN);
}

GUEST_TEST(PollKind, SignalfdIsAskedByEachForItself) {
  Block({SIGUSR1});
  const sigset_t set = Signals({SIGUSR1});
  const int signals = MUST(signalfd(-1, &set, SFD_NONBLOCK));
  raise(SIGUSR1);
  JOIN_OK(Fork([&] {
    EXPECT_EQ(Poll(signals, POLLIN), 0);  // The child has no signal pending.
    signalfd_siginfo info;
    EXPECT_ERRNO(read(signals, &info, sizeof(info)), EAGAIN);
  }));
  EXPECT_EQ(Poll(signals, POLLIN), POLLIN);
}

GUEST_TEST(PollKind, Pidfd) {
  const pid_t pid = Fork([] { pause(); });
  const int fd = static_cast<int>(MUST(syscall(SYS_pidfd_open, pid, 0)));
  EXPECT_EQ(Poll(fd, POLLIN | POLLOUT), 0);
  CheckpointHere();
  kill(pid, SIGKILL);
  pollfd one = {fd, POLLIN, 0};
  EXPECT_EQ(poll(&one, 1, 5000), 1);
  EXPECT_EQ(Epoll(fd, POLLIN), POLLIN);
  WaitStatus(pid);
  EXPECT_EQ(Poll(fd, POLLIN) & POLLIN, POLLIN);
}

GUEST_TEST(PollKind, Terminal) {
  const int master = MUST(posix_openpt(O_RDWR | O_NOCTTY));
  MUST(grantpt(master));
  MUST(unlockpt(master));
  const int slave = MUST(open(ptsname(master), O_RDWR | O_NOCTTY));
  EXPECT_EQ(Poll(slave, POLLIN | POLLOUT), POLLOUT);
  MUST(write(master, "abc", 3));
  EXPECT_EQ(Poll(slave, POLLIN), 0);  // No line yet.
  MUST(write(master, "\n", 1));
  pollfd one = {slave, POLLIN, 0};
  EXPECT_EQ(poll(&one, 1, 10'000), 1);
  EXPECT_EQ(one.revents, POLLIN);
  EXPECT_EQ(Epoll(slave, POLLIN), POLLIN);
  close(slave);
  EXPECT_EQ(Poll(master, POLLIN | POLLOUT) & POLLHUP, POLLHUP);
}

GUEST_TEST(PollKind, Devices) {
  EXPECT_EQ(Poll(MUST(open("/dev/null", O_RDWR)), POLLIN | POLLOUT), POLLIN | POLLOUT);
  EXPECT_EQ(Epoll(MUST(open("/dev/null", O_RDWR)), POLLIN), -1);
  EXPECT_EQ(Poll(MUST(open("/dev/urandom", O_RDONLY)), POLLIN) & POLLIN, POLLIN);
}

GUEST_TEST(PollKind, MountsChangeIsAnUrgentEvent) {
  const int fd = MUST(open("/proc/self/mounts", O_RDONLY));
  EXPECT_EQ(Poll(fd, POLLIN | POLLPRI) & POLLIN, POLLIN);
}

GUEST_TEST(PollCall, Limits) {
  pollfd one = {-5, POLLIN, 77};
  EXPECT_EQ(poll(&one, 1, 0), 0);  // Negative ones are passed over,
  EXPECT_EQ(one.revents, 0);       // and their answer is cleared.
  EXPECT_ERRNO(poll(kBad, 1, 0), EFAULT);
  EXPECT_EQ(poll(nullptr, 0, 0), 0);
  EXPECT_ERRNO(syscall(SYS_poll, nullptr, -1L, 0), EINVAL);
  timespec time = {0, 1'000'000'000};
  EXPECT_ERRNO(syscall(SYS_ppoll, &one, 1, &time, nullptr, 8), EINVAL);
  EXPECT_ERRNO(syscall(SYS_ppoll, &one, 1, kBadAddress, nullptr, 8), EFAULT);
  uint64_t mask = 0;
  EXPECT_ERRNO(syscall(SYS_ppoll, &one, 1, nullptr, &mask, 4), EINVAL);
  EXPECT_ERRNO(syscall(SYS_ppoll, &one, 1, nullptr, kBadAddress, 8), EFAULT);
}

GUEST_TEST(PollCall, PpollTellsTheTimeLeft) {
  Pipe p;
  MUST(write(p.w, "x", 1));
  pollfd one = {p.r, POLLIN, 0};
  timespec time = {100, 0};
  EXPECT_EQ(syscall(SYS_ppoll, &one, 1, &time, nullptr, 8), 1);
  EXPECT_GE(time.tv_sec, 90);
  EXPECT_LE(time.tv_sec, 100);
}

GUEST_TEST(SelectCall, SetsAndLimits) {
  Pipe p;
  fd_set in, out, urgent;
  FD_ZERO(&in);
  FD_ZERO(&out);
  FD_ZERO(&urgent);
  FD_SET(p.r, &in);
  FD_SET(p.w, &out);
  FD_SET(p.r, &urgent);
  timeval none = {};
  EXPECT_EQ(select(p.w + 1, &in, &out, &urgent, &none), 1);
  EXPECT(!FD_ISSET(p.r, &in));
  EXPECT(FD_ISSET(p.w, &out));
  EXPECT(!FD_ISSET(p.r, &urgent));
  p.CloseRead();
  FD_ZERO(&out);
  FD_SET(p.w, &out);
  EXPECT_EQ(select(p.w + 1, nullptr, &out, nullptr, &none), 1);  // An error makes it writable.
  FD_ZERO(&in);
  FD_SET(p.w, &in);
  EXPECT_EQ(select(p.w + 1, &in, nullptr, nullptr, &none), 1);  // And readable (POLLERR).
}

GUEST_TEST(SelectCall, PselectArguments) {
  Pipe p;
  fd_set in;
  FD_ZERO(&in);
  timespec time = {0, 1'000'000'000};
  EXPECT_ERRNO(syscall(SYS_pselect6, 0, nullptr, nullptr, nullptr, &time, nullptr), EINVAL);
  EXPECT_ERRNO(syscall(SYS_pselect6, 0, nullptr, nullptr, nullptr, kBadAddress, nullptr), EFAULT);
  EXPECT_ERRNO(syscall(SYS_pselect6, 0, nullptr, nullptr, nullptr, nullptr, kBadAddress), EFAULT);
  time = {0, 1000};
  struct {
    const void* mask;
    size_t size;
  } with_mask = {&time, 3};
  EXPECT_ERRNO(syscall(SYS_pselect6, 0, nullptr, nullptr, nullptr, &time, &with_mask), EINVAL);
  with_mask.mask = nullptr;
  EXPECT_EQ(syscall(SYS_pselect6, 0, nullptr, nullptr, nullptr, &time, &with_mask), 0);
}

GUEST_TEST(EpollCall, Arguments) {
  const int epoll = MUST(epoll_create1(EPOLL_CLOEXEC));
  Pipe p;
  epoll_event event = {.events = EPOLLIN, .data = {}};
  EXPECT_ERRNO(epoll_create1(1), EINVAL);
  EXPECT_ERRNO(epoll_ctl(epoll, 99, p.r, &event), EINVAL);
  EXPECT_ERRNO(epoll_ctl(epoll, EPOLL_CTL_ADD, p.r, nullptr), EFAULT);
  EXPECT_ERRNO(epoll_ctl(epoll, EPOLL_CTL_ADD, epoll, &event), EINVAL);
  EXPECT_ERRNO(epoll_ctl(p.r, EPOLL_CTL_ADD, p.w, &event), EINVAL);
  EXPECT_ERRNO(epoll_ctl(epoll, EPOLL_CTL_MOD, p.r, &event), ENOENT);
  EXPECT_OK(epoll_ctl(epoll, EPOLL_CTL_ADD, p.r, &event));
  EXPECT_ERRNO(epoll_ctl(epoll, EPOLL_CTL_ADD, p.r, &event), EEXIST);
  EXPECT_OK(epoll_ctl(epoll, EPOLL_CTL_DEL, p.r, nullptr));  // No event needed.
  EXPECT_ERRNO(epoll_ctl(epoll, EPOLL_CTL_DEL, p.r, nullptr), ENOENT);
  EXPECT_ERRNO(epoll_wait(epoll, &event, 0, 0), EINVAL);
  EXPECT_ERRNO(epoll_wait(epoll, &event, INT32_MAX, 0), EINVAL);
  EXPECT_ERRNO(epoll_wait(epoll, reinterpret_cast<epoll_event*>(kKernelAddress), 1, 0), EFAULT);
  EXPECT_ERRNO(epoll_wait(p.r, &event, 1, 0), EINVAL);
  char byte;
  EXPECT_ERRNO(read(epoll, &byte, 1), EINVAL);
}

GUEST_TEST(EpollCall, ExclusiveOnesCannotBeModified) {
  const int epoll = MUST(epoll_create1(0));
  Pipe p;
  epoll_event event = {.events = EPOLLIN | EPOLLEXCLUSIVE, .data = {}};
  EXPECT_OK(epoll_ctl(epoll, EPOLL_CTL_ADD, p.r, &event));
  EXPECT_ERRNO(epoll_ctl(epoll, EPOLL_CTL_MOD, p.r, &event), EINVAL);
  event.events = EPOLLIN;
  EXPECT_ERRNO(epoll_ctl(epoll, EPOLL_CTL_MOD, p.r, &event), EINVAL);
  event.events = EPOLLIN | EPOLLEXCLUSIVE | EPOLLONESHOT;
  EXPECT_ERRNO(epoll_ctl(epoll, EPOLL_CTL_ADD, p.w, &event), EINVAL);
  const int inner = MUST(epoll_create1(0));
  event.events = EPOLLIN | EPOLLEXCLUSIVE;
  EXPECT_ERRNO(epoll_ctl(epoll, EPOLL_CTL_ADD, inner, &event), EINVAL);
}

GUEST_TEST(EpollCall, DataComesBackUnchanged) {
  const int epoll = MUST(epoll_create1(0));
  Pipe p, q;
  MUST(write(p.w, "x", 1));
  MUST(write(q.w, "x", 1));
  epoll_event event = {.events = EPOLLIN, .data = {.u64 = 0xdeadbeefcafef00d}};
  MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, p.r, &event));
  event.data.u64 = 5;
  MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, q.r, &event));
  CheckpointHere();
  epoll_event told[4] = {};
  EXPECT_EQ(epoll_wait(epoll, told, 4, 0), 2);
  EXPECT_EQ(told[0].data.u64 ^ told[1].data.u64, 0xdeadbeefcafef00d ^ 5);
}

GUEST_TEST(EpollCall, EdgeComesAgainWithEveryWrite) {
  const int epoll = MUST(epoll_create1(0));
  Pipe p;
  epoll_event event = {.events = EPOLLIN | EPOLLET, .data = {}}, told = {};
  MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, p.r, &event));
  for (int i = 0; i < 3; ++i) {
    MUST(write(p.w, "x", 1));
    EXPECT_EQ(epoll_wait(epoll, &told, 1, 0), 1);
    EXPECT_EQ(epoll_wait(epoll, &told, 1, 0), 0);
  }
  char text[2];
  MUST(read(p.r, text, 1));  // Reading is no edge of input.
  EXPECT_EQ(epoll_wait(epoll, &told, 1, 0), 0);
}

GUEST_TEST(EpollCall, EdgeOfOutput) {
  const int epoll = MUST(epoll_create1(0));
  Pipe p(O_NONBLOCK);
  static char text[65536];
  epoll_event event = {.events = EPOLLOUT | EPOLLET, .data = {}}, told = {};
  MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, p.w, &event));
  EXPECT_EQ(epoll_wait(epoll, &told, 1, 0), 1);
  MUST(write(p.w, text, sizeof(text)));
  EXPECT_EQ(epoll_wait(epoll, &told, 1, 0), 0);
  CheckpointHere();
  MUST(read(p.r, text, sizeof(text)));
  EXPECT_EQ(epoll_wait(epoll, &told, 1, 0), 1);
  EXPECT_EQ(told.events, EPOLLOUT);
}

GUEST_TEST(EpollCall, ClosedDuplicateKeepsTheWatch) {
  const int epoll = MUST(epoll_create1(0));
  Pipe p;
  const int copy = MUST(dup(p.r));
  epoll_event event = {.events = EPOLLIN, .data = {.fd = 123}}, told = {};
  MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, p.r, &event));
  MUST(write(p.w, "x", 1));
  const int number = p.r;
  p.CloseRead();
  EXPECT_EQ(epoll_wait(epoll, &told, 1, 0), 1);  // The open file lives on by the copy.
  EXPECT_EQ(told.data.fd, 123);
  EXPECT_ERRNO(epoll_ctl(epoll, EPOLL_CTL_DEL, number, nullptr), EBADF);
  close(copy);
  EXPECT_EQ(epoll_wait(epoll, &told, 1, 0), 0);
}

GUEST_TEST(EpollCall, PwaitArguments) {
  const int epoll = MUST(epoll_create1(0));
  epoll_event event;
  uint64_t mask = 0;
  EXPECT_ERRNO(syscall(SYS_epoll_pwait, epoll, &event, 1, 0, &mask, 4L), EINVAL);
  EXPECT_ERRNO(syscall(SYS_epoll_pwait, epoll, &event, 1, 0, kBadAddress, 8L), EFAULT);
  timespec time = {0, 1'000'000'000};
  EXPECT_ERRNO(syscall(441 /*epoll_pwait2*/, epoll, &event, 1, &time, nullptr, 8L), EINVAL);
  EXPECT_ERRNO(syscall(441, epoll, &event, 1, kBadAddress, nullptr, 8L), EFAULT);
  time = {0, 1'000'000};
  EXPECT_EQ(syscall(441, epoll, &event, 1, &time, nullptr, 8L), 0);
}

GUEST_TEST(EventfdEdge, SizesAndFlags) {
  EXPECT_ERRNO(eventfd(0, 2), EINVAL);
  const int fd = MUST(eventfd(5, EFD_SEMAPHORE | EFD_NONBLOCK | EFD_CLOEXEC));
  uint64_t value = 0;
  EXPECT_ERRNO(read(fd, &value, 4), EINVAL);
  EXPECT_ERRNO(write(fd, &value, 4), EINVAL);
  EXPECT_ERRNO(read(fd, kBad, 8), EFAULT);
  value = UINT64_MAX;
  EXPECT_ERRNO(write(fd, &value, 8), EINVAL);
  value = UINT64_MAX - 1;
  EXPECT_ERRNO(write(fd, &value, 8), EAGAIN);  // Too much on top of five.
  value = 0;
  EXPECT_EQ(write(fd, &value, 8), 8);
  int taken = 0;
  while (read(fd, &value, 8) == 8) ++taken;
  EXPECT_GE(taken, 4);
  EXPECT_EQ(value, 1);
}

GUEST_TEST(SignalfdEdge, SizesAndFlags) {
  const sigset_t set = Signals({SIGUSR1, SIGRTMIN});
  EXPECT_ERRNO(signalfd(-1, &set, 1), EINVAL);
  EXPECT_ERRNO(signalfd(999, &set, 0), EBADF);
  const int fd = MUST(signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC));
  Block({SIGUSR1, SIGRTMIN});
  signalfd_siginfo info[3] = {};
  EXPECT_ERRNO(read(fd, info, sizeof(info[0]) - 1), EINVAL);
  EXPECT_ERRNO(read(fd, info, sizeof(info)), EAGAIN);
  sigval value = {.sival_int = 1};
  MUST(sigqueue(getpid(), SIGRTMIN, value));
  value.sival_int = 2;
  MUST(sigqueue(getpid(), SIGRTMIN, value));
  raise(SIGUSR1);
  CheckpointHere();
  EXPECT_EQ(read(fd, info, sizeof(info)), sizeof(info));
  EXPECT_EQ(info[0].ssi_signo, SIGUSR1);
  EXPECT_EQ(info[1].ssi_int, 1);
  EXPECT_EQ(info[2].ssi_int, 2);
  EXPECT_EQ(info[1].ssi_code, SI_QUEUE);
  EXPECT_EQ(info[1].ssi_pid, getpid());
}
