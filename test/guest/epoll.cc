// epoll.
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

int Ctl(int epoll, int operation, int fd, uint32_t events, uint64_t data = 0) {
  epoll_event event = {.events = events, .data = {.u64 = data}};
  return epoll_ctl(epoll, operation, fd, &event);
}

// The number of ready entries now, and the first of them.
int Ready(int epoll, epoll_event* first = nullptr, int timeout = 0) {
  epoll_event events[16] = {};
  const int count = epoll_wait(epoll, events, 16, timeout);
  if (first != nullptr) *first = events[0];
  return count;
}

void Put(int fd) { MUST(write(fd, "x", 1)); }

void Take(int fd) {
  char byte;
  MUST(read(fd, &byte, 1));
}

}  // namespace

GUEST_TEST(Epoll, LevelTriggered) {
  const int epoll = MUST(epoll_create1(0));
  Pipe p;
  MUST(Ctl(epoll, EPOLL_CTL_ADD, p.r, EPOLLIN, 0x1234567890));
  EXPECT_EQ(Ready(epoll), 0);
  Put(p.w);
  CheckpointHere();
  for (int i = 0; i < 3; ++i) {
    epoll_event event;
    EXPECT_EQ(Ready(epoll, &event), 1);
    EXPECT_EQ(event.events, EPOLLIN);
    EXPECT_EQ(event.data.u64, 0x1234567890);
  }
  Take(p.r);
  EXPECT_EQ(Ready(epoll), 0);
}

GUEST_TEST(Epoll, EdgeTriggered) {
  const int epoll = MUST(epoll_create1(0));
  Pipe p;
  Put(p.w);
  MUST(Ctl(epoll, EPOLL_CTL_ADD, p.r, EPOLLIN | EPOLLET));
  EXPECT_EQ(Ready(epoll), 1);  // Ready when added counts as an edge.
  EXPECT_EQ(Ready(epoll), 0);
  CheckpointHere();
  EXPECT_EQ(Ready(epoll), 0);
  Put(p.w);
  EXPECT_EQ(Ready(epoll), 1);  // New data is a new edge although the old was not read.
  EXPECT_EQ(Ready(epoll), 0);
}

GUEST_TEST(Epoll, ModifyingRearmsAnEdge) {
  const int epoll = MUST(epoll_create1(0));
  Pipe p;
  Put(p.w);
  MUST(Ctl(epoll, EPOLL_CTL_ADD, p.r, EPOLLIN | EPOLLET));
  EXPECT_EQ(Ready(epoll), 1);
  MUST(Ctl(epoll, EPOLL_CTL_MOD, p.r, EPOLLIN | EPOLLET));
  EXPECT_EQ(Ready(epoll), 1);
  EXPECT_EQ(Ready(epoll), 0);
}

GUEST_TEST(Epoll, OneShotDisarms) {
  const int epoll = MUST(epoll_create1(0));
  Pipe p;
  MUST(Ctl(epoll, EPOLL_CTL_ADD, p.r, EPOLLIN | EPOLLONESHOT));
  Put(p.w);
  EXPECT_EQ(Ready(epoll), 1);
  CheckpointHere();
  EXPECT_EQ(Ready(epoll), 0);
  Put(p.w);
  EXPECT_EQ(Ready(epoll), 0);
  MUST(Ctl(epoll, EPOLL_CTL_MOD, p.r, EPOLLIN | EPOLLONESHOT));
  EXPECT_EQ(Ready(epoll), 1);
}

GUEST_TEST(Epoll, HangupAndErrorComeUnasked) {
  const int epoll = MUST(epoll_create1(0));
  Pipe p, q;
  MUST(Ctl(epoll, EPOLL_CTL_ADD, p.r, 0, 1));
  EXPECT_EQ(Ready(epoll), 0);
  p.CloseWrite();
  epoll_event event;
  EXPECT_EQ(Ready(epoll, &event), 1);
  EXPECT_EQ(event.events, EPOLLHUP);
  MUST(Ctl(epoll, EPOLL_CTL_DEL, p.r, 0));
  MUST(Ctl(epoll, EPOLL_CTL_ADD, q.w, 0, 2));
  q.CloseRead();
  EXPECT_EQ(Ready(epoll, &event), 1);
  EXPECT_EQ(event.events, EPOLLERR);
}

GUEST_TEST(Epoll, ControlErrors) {
  const int epoll = MUST(epoll_create1(EPOLL_CLOEXEC));
  EXPECT_EQ(fcntl(epoll, F_GETFD), FD_CLOEXEC);
  Pipe p;
  MUST(Ctl(epoll, EPOLL_CTL_ADD, p.r, EPOLLIN));
  EXPECT_ERRNO(Ctl(epoll, EPOLL_CTL_ADD, p.r, EPOLLIN), EEXIST);
  EXPECT_ERRNO(Ctl(epoll, EPOLL_CTL_MOD, p.w, EPOLLIN), ENOENT);
  EXPECT_ERRNO(Ctl(epoll, EPOLL_CTL_DEL, p.w, EPOLLIN), ENOENT);
  EXPECT_ERRNO(Ctl(epoll, 77, p.r, EPOLLIN), EINVAL);
  EXPECT_ERRNO(Ctl(epoll, EPOLL_CTL_ADD, epoll, EPOLLIN), EINVAL);
  EXPECT_ERRNO(Ctl(epoll, EPOLL_CTL_ADD, 999, EPOLLIN), EBADF);
  EXPECT_ERRNO(Ctl(999, EPOLL_CTL_ADD, p.r, EPOLLIN), EBADF);
  EXPECT_ERRNO(Ctl(p.r, EPOLL_CTL_ADD, p.w, EPOLLIN), EINVAL);
  EXPECT_ERRNO(Ctl(epoll, EPOLL_CTL_ADD, TempFile(), EPOLLIN), EPERM);
  EXPECT_ERRNO(epoll_create1(0x100), EINVAL);
  EXPECT_ERRNO(epoll_create(0), EINVAL);
}

GUEST_TEST(Epoll, WaitErrors) {
  const int epoll = MUST(epoll_create1(0));
  epoll_event event;
  EXPECT_ERRNO(epoll_wait(epoll, &event, 0, 0), EINVAL);
  EXPECT_ERRNO(epoll_wait(epoll, &event, -1, 0), EINVAL);
  EXPECT_ERRNO(epoll_wait(1, &event, 1, 0), EINVAL);
  EXPECT_ERRNO(epoll_wait(999, &event, 1, 0), EBADF);
  Pipe p;
  Put(p.w);
  MUST(Ctl(epoll, EPOLL_CTL_ADD, p.r, EPOLLIN));
  EXPECT_ERRNO(epoll_wait(epoll, reinterpret_cast<epoll_event*>(0xffff'8000'0000'0000), 1, 0), EFAULT);
}

GUEST_TEST(Epoll, WaitTimesOut) {
  const int epoll = MUST(epoll_create1(0));
  const int64_t start = NowNs();
  EXPECT_EQ(Ready(epoll, nullptr, 30), 0);
  EXPECT_GE(NowNs() - start, 30 * kMs);
}

GUEST_TEST(Epoll, WakesASleeper) {
  const int epoll = MUST(epoll_create1(0));
  Pipe p;
  MUST(Ctl(epoll, EPOLL_CTL_ADD, p.r, EPOLLIN, 9));
  Thread waiter([&] {
    epoll_event event;
    EXPECT_EQ(Ready(epoll, &event, -1), 1);
    EXPECT_EQ(event.data.u64, 9);
  });
  waiter.AwaitAsleep();
  CheckpointHere();
  Put(p.w);
}

GUEST_TEST(Epoll, AddedWhileWaiting) {
  const int epoll = MUST(epoll_create1(0));
  Pipe p;
  Put(p.w);
  Thread waiter([&] { EXPECT_EQ(Ready(epoll, nullptr, -1), 1); });
  waiter.AwaitAsleep();
  MUST(Ctl(epoll, EPOLL_CTL_ADD, p.r, EPOLLIN));
}

GUEST_TEST(Epoll, CloseOfTheLastDescriptorRemoves) {
  const int epoll = MUST(epoll_create1(0));
  Pipe p;
  MUST(Ctl(epoll, EPOLL_CTL_ADD, p.r, EPOLLIN, 1));
  const int copy = MUST(dup(p.r));
  Put(p.w);
  p.CloseRead();
  EXPECT_EQ(Ready(epoll), 1);  // The file is still open by its copy.
  CheckpointHere();
  close(copy);
  EXPECT_EQ(Ready(epoll), 0);
}

GUEST_TEST(Epoll, SameFileUnderTwoNumbers) {
  const int epoll = MUST(epoll_create1(0));
  Pipe p;
  const int copy = MUST(dup(p.r));
  MUST(Ctl(epoll, EPOLL_CTL_ADD, p.r, EPOLLIN, 1));
  EXPECT_OK(Ctl(epoll, EPOLL_CTL_ADD, copy, EPOLLIN, 2));
  Put(p.w);
  EXPECT_EQ(Ready(epoll), 2);
}

GUEST_TEST(Epoll, ReadyListRotates) {
  const int epoll = MUST(epoll_create1(0));
  Pipe p[3];
  for (int i = 0; i < 3; ++i) {
    MUST(Ctl(epoll, EPOLL_CTL_ADD, p[i].r, EPOLLIN, static_cast<uint64_t>(i)));
    Put(p[i].w);
  }
  int seen[3] = {};
  for (int i = 0; i < 3; ++i) {
    epoll_event event = {};
    EXPECT_EQ(epoll_wait(epoll, &event, 1, 0), 1);
    ++seen[event.data.u64];
  }
  for (const int count : seen) EXPECT_EQ(count, 1);  // Nobody starves.
}

GUEST_TEST(Epoll, Nested) {
  const int inner = MUST(epoll_create1(0)), outer = MUST(epoll_create1(0));
  Pipe p;
  MUST(Ctl(inner, EPOLL_CTL_ADD, p.r, EPOLLIN));
  MUST(Ctl(outer, EPOLL_CTL_ADD, inner, EPOLLIN, 5));
  EXPECT_EQ(Ready(outer), 0);
  Put(p.w);
  CheckpointHere();
  epoll_event event;
  EXPECT_EQ(Ready(outer, &event), 1);
  EXPECT_EQ(event.data.u64, 5);
  Take(p.r);
  EXPECT_EQ(Ready(outer), 0);
  EXPECT_ERRNO(Ctl(inner, EPOLL_CTL_ADD, outer, EPOLLIN), ELOOP);
}

GUEST_TEST(Epoll, NestingHasALimit) {
  int last = MUST(epoll_create1(0));
  int depth = 0;
  for (; depth < 20; ++depth) {
    const int next = MUST(epoll_create1(0));
    if (Ctl(next, EPOLL_CTL_ADD, last, EPOLLIN) < 0) break;
    last = next;
  }
  EXPECT_GE(depth, 4);
  EXPECT_LE(depth, 5);
}

GUEST_TEST(Epoll, IsPollable) {
  const int epoll = MUST(epoll_create1(0));
  Pipe p;
  MUST(Ctl(epoll, EPOLL_CTL_ADD, p.r, EPOLLIN));
  pollfd fd = {epoll, POLLIN, 0};
  EXPECT_EQ(poll(&fd, 1, 0), 0);
  Put(p.w);
  EXPECT_EQ(poll(&fd, 1, -1), 1);
}

GUEST_TEST(Epoll, ExclusiveRules) {
  const int epoll = MUST(epoll_create1(0));
  Pipe p, q;
  EXPECT_OK(Ctl(epoll, EPOLL_CTL_ADD, p.r, EPOLLIN | EPOLLEXCLUSIVE));
  EXPECT_ERRNO(Ctl(epoll, EPOLL_CTL_MOD, p.r, EPOLLIN), EINVAL);
  EXPECT_ERRNO(Ctl(epoll, EPOLL_CTL_ADD, q.r, EPOLLIN | EPOLLONESHOT | EPOLLEXCLUSIVE), EINVAL);
  MUST(Ctl(epoll, EPOLL_CTL_ADD, q.r, EPOLLIN));
  EXPECT_ERRNO(Ctl(epoll, EPOLL_CTL_MOD, q.r, EPOLLIN | EPOLLEXCLUSIVE), EINVAL);
  Put(p.w);
  EXPECT_EQ(Ready(epoll), 1);
}

GUEST_TEST(Epoll, SharedOverFork) {
  const int epoll = MUST(epoll_create1(0));
  Pipe p;
  const pid_t pid = Fork([&] { MUST(Ctl(epoll, EPOLL_CTL_ADD, p.r, EPOLLIN, 3)); });
  JOIN_OK(pid);
  Put(p.w);
  epoll_event event;
  EXPECT_EQ(Ready(epoll, &event), 1);
  EXPECT_EQ(event.data.u64, 3);
}

GUEST_TEST(Epoll, PwaitMask) {
  CountSignals(SIGUSR1);
  Block({SIGUSR1});
  raise(SIGUSR1);
  const int epoll = MUST(epoll_create1(0));
  epoll_event event;
  const sigset_t none = Signals({});
  EXPECT_ERRNO(epoll_pwait(epoll, &event, 1, 20000, &none), EINTR);
  EXPECT_EQ(SignalCount(), 1);
}

GUEST_TEST(Epoll, Pwait2HasNanoseconds) {
  const int epoll = MUST(epoll_create1(0));
  epoll_event event;
  const timespec wait = Ns(3 * kMs);
  const int64_t start = NowNs();
  EXPECT_EQ(syscall(SYS_epoll_pwait2, epoll, &event, 1, &wait, nullptr, 8), 0);
  EXPECT_GE(NowNs() - start, 3 * kMs);
  const timespec bad = {.tv_sec = 0, .tv_nsec = -1};
  EXPECT_ERRNO(syscall(SYS_epoll_pwait2, epoll, &event, 1, &bad, nullptr, 8), EINVAL);
}

GUEST_TEST(Epoll, EdgeOfASocketWithRoom) {
  const int epoll = MUST(epoll_create1(0));
  int ends[2];
  MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends));
  MUST(Ctl(epoll, EPOLL_CTL_ADD, ends[0], EPOLLIN | EPOLLOUT | EPOLLET));
  epoll_event event;
  EXPECT_EQ(Ready(epoll, &event), 1);
  EXPECT_EQ(event.events, EPOLLOUT);
  Put(ends[1]);
  EXPECT_EQ(Ready(epoll, &event), 1);
  EXPECT_EQ(event.events, EPOLLIN | EPOLLOUT);
  EXPECT_EQ(Ready(epoll, &event), 0);
}

GUEST_TEST(Epoll, ManyDescriptors) {
  const int epoll = MUST(epoll_create1(0));
  int fds[500];
  for (int i = 0; i < 500; ++i) {
    fds[i] = MUST(eventfd(0, 0));
    MUST(Ctl(epoll, EPOLL_CTL_ADD, fds[i], EPOLLIN, static_cast<uint64_t>(i)));
  }
  const uint64_t one = 1;
  for (int i = 0; i < 500; i += 50) MUST(write(fds[i], &one, 8));
  CheckpointHere();
  EXPECT_EQ(Ready(epoll), 10);
  for (const int fd : fds) close(fd);
  EXPECT_EQ(Ready(epoll), 0);
}

GUEST_TEST(Epoll, FdinfoListsTargets) {
  const int epoll = MUST(epoll_create1(0));
  Pipe p;
  MUST(Ctl(epoll, EPOLL_CTL_ADD, p.r, EPOLLIN, 0xabc));
  char text[1024];
  ReadFile(Str("/proc/self/fdinfo/%d", epoll), text, sizeof(text));
  EXPECT_NE(strstr(text, Str("tfd: %8d events: %8x data: %16llx", p.r, EPOLLIN | EPOLLERR | EPOLLHUP, 0xabcULL)), nullptr);
}
