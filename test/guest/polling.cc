// poll, select and their relatives; eventfd.
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

int PollOne(int fd, short events, int timeout, short* got) {
  pollfd one = {fd, events, 0};
  const int count = poll(&one, 1, timeout);
  *got = one.revents;
  return count;
}

fd_set Set(std::initializer_list<int> fds) {
  fd_set set;
  FD_ZERO(&set);
  for (const int fd : fds) FD_SET(fd, &set);
  return set;
}

}  // namespace

GUEST_TEST(Poll, NothingAndTimeout) {
  const int64_t start = NowNs();
  EXPECT_EQ(poll(nullptr, 0, 30), 0);
  EXPECT_GE(NowNs() - start, 30 * kMs);
  EXPECT_EQ(poll(nullptr, 0, 0), 0);
}

GUEST_TEST(Poll, ClosedDescriptorIsNval) {
  short got = 0;
  EXPECT_EQ(PollOne(999, POLLIN, 1000, &got), 1);
  EXPECT_EQ(got, POLLNVAL);
  EXPECT_EQ(PollOne(-1, POLLIN, 0, &got), 0);  // Negative: ignored.
  EXPECT_EQ(got, 0);
}

GUEST_TEST(Poll, RegularFilesAreAlwaysReady) {
  short got = 0;
  EXPECT_EQ(PollOne(TempFile("x"), POLLIN | POLLOUT, -1, &got), 1);
  EXPECT_EQ(got, POLLIN | POLLOUT);
}

GUEST_TEST(Poll, WakesOnData) {
  Pipe p;
  const pid_t self = getpid();
  const pid_t pid = Fork([&] {
    AwaitAsleep(self);
    MUST(write(p.w, "x", 1));
  });
  short got = 0;
  EXPECT_EQ(PollOne(p.r, POLLIN, -1, &got), 1);
  EXPECT_EQ(got, POLLIN);
  JOIN_OK(pid);
}

GUEST_TEST(Poll, SleepingPollerSurvives) {
  Pipe p;
  const pid_t pid = Fork([&] {
    short got = 0;
    EXPECT_EQ(PollOne(p.r, POLLIN, -1, &got), 1);
  });
  AwaitAsleep(pid);
  CheckpointHere();
  EXPECT_EQ(ThreadState(pid, pid), 'S');
  MUST(write(p.w, "x", 1));
  JOIN_OK(pid);
}

GUEST_TEST(Poll, SameDescriptorTwice) {
  Pipe p;
  MUST(write(p.w, "x", 1));
  pollfd fds[2] = {{p.r, POLLIN, 0}, {p.r, POLLIN, 0}};
  EXPECT_EQ(poll(fds, 2, -1), 2);
}

GUEST_TEST(Poll, ManyDescriptors) {
  pollfd fds[300];
  Pipe p;
  for (pollfd& one : fds) one = {p.r, POLLIN, 0};
  EXPECT_EQ(poll(fds, 300, 0), 0);
  MUST(write(p.w, "x", 1));
  EXPECT_EQ(poll(fds, 300, 0), 300);
}

GUEST_TEST(Poll, Arguments) {
  EXPECT_ERRNO(poll(reinterpret_cast<pollfd*>(8), 1, 0), EFAULT);
  const rlimit limit = {10, 10};
  MUST(setrlimit(RLIMIT_NOFILE, &limit));
  pollfd fds[11] = {};
  for (pollfd& one : fds) one.fd = -1;
  EXPECT_ERRNO(poll(fds, 11, 0), EINVAL);
}

GUEST_TEST(Poll, SocketPeerGone) {
  int ends[2];
  MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
  short got = 0;
  EXPECT_EQ(PollOne(ends[0], POLLIN | POLLOUT | POLLRDHUP, 0, &got), 1);
  EXPECT_EQ(got, POLLOUT);
  MUST(shutdown(ends[1], SHUT_WR));
  EXPECT_EQ(PollOne(ends[0], POLLIN | POLLOUT | POLLRDHUP, 0, &got), 1);
  EXPECT_EQ(got, POLLIN | POLLOUT | POLLRDHUP);
  close(ends[1]);
  EXPECT_EQ(PollOne(ends[0], POLLIN | POLLRDHUP, 0, &got), 1);
  EXPECT_EQ(got, POLLIN | POLLRDHUP | POLLHUP);
}

GUEST_TEST(Poll, RestartsAfterIgnoredSignal) {
  signal(SIGUSR1, SIG_IGN);
  Pipe p;
  const pid_t self = getpid();
  const pid_t pid = Fork([&] {
    AwaitAsleep(self);
    kill(self, SIGUSR1);
    AwaitAsleep(self);
    MUST(write(p.w, "x", 1));
  });
  short got = 0;
  EXPECT_EQ(PollOne(p.r, POLLIN, -1, &got), 1);
  JOIN_OK(pid);
}

GUEST_TEST(Ppoll, SwapsTheMask) {
  CountSignals(SIGUSR1);
  Block({SIGUSR1});
  raise(SIGUSR1);
  const sigset_t none = Signals({});
  const timespec wait = {.tv_sec = 20};
  EXPECT_ERRNO(ppoll(nullptr, 0, &wait, &none), EINTR);
  EXPECT_EQ(SignalCount(), 1);
  raise(SIGUSR1);
  EXPECT_EQ(SignalCount(), 1);  // Blocked again.
}

GUEST_TEST(Ppoll, ReadyDescriptorsWinOverSignals) {
  CountSignals(SIGUSR1);
  Block({SIGUSR1});
  raise(SIGUSR1);
  Pipe p;
  MUST(write(p.w, "x", 1));
  pollfd fd = {p.r, POLLIN, 0};
  const sigset_t none = Signals({});
  // The descriptor is found ready before anything looks at signals; the old mask is back when it
  // returns.
  EXPECT_EQ(ppoll(&fd, 1, nullptr, &none), 1);
  EXPECT_EQ(SignalCount(), 0);
}

GUEST_TEST(Ppoll, BadTime) {
  timespec bad = {.tv_sec = 0, .tv_nsec = 1'000'000'000};
  EXPECT_ERRNO(ppoll(nullptr, 0, &bad, nullptr), EINVAL);
  bad = {.tv_sec = -1};
  EXPECT_ERRNO(ppoll(nullptr, 0, &bad, nullptr), EINVAL);
}

// More seconds than a clock can tell are no time-out, in a call that goes on after a stop or a checkpoint, too.
GUEST_TEST(Ppoll, GoesOnWithATimeThatNeverComes) {
  for (const bool select : {false, true}) {
    Pipe p;
    const pid_t pid = Fork([&] {
      const timespec wait = {.tv_sec = int64_t{1} << 61};
      pollfd fd = {p.r, POLLIN, 0};
      fd_set set = Set({p.r});
      EXPECT_EQ(select ? pselect(p.r + 1, &set, nullptr, nullptr, &wait, nullptr) : ppoll(&fd, 1, &wait, nullptr), 1);
    });
    AwaitAsleep(pid);
    kill(pid, SIGSTOP);
    EXPECT_EQ(waitpid(pid, nullptr, WUNTRACED), pid);
    kill(pid, SIGCONT);
    AwaitAsleep(pid);
    CheckpointHere();
    EXPECT_EQ(waitpid(pid, nullptr, WNOHANG), 0);
    MUST(write(p.w, "x", 1));
    JOIN_OK(pid);
  }
}

GUEST_TEST(Select, ThreeSets) {
  Pipe p;
  fd_set in = Set({p.r}), out = Set({p.w}), except = Set({p.r});
  timeval none = {};
  EXPECT_EQ(select(p.w + 1, &in, &out, &except, &none), 1);
  EXPECT(!FD_ISSET(p.r, &in));
  EXPECT(FD_ISSET(p.w, &out));
  EXPECT(!FD_ISSET(p.r, &except));
  MUST(write(p.w, "x", 1));
  in = Set({p.r});
  out = Set({p.w});
  CheckpointHere();
  EXPECT_EQ(select(p.w + 1, &in, &out, nullptr, nullptr), 2);
}

GUEST_TEST(Select, TellsTheTimeLeft) {
  Pipe p;
  MUST(write(p.w, "x", 1));
  fd_set in = Set({p.r});
  timeval timeout = {100, 0};
  EXPECT_EQ(select(p.r + 1, &in, nullptr, nullptr, &timeout), 1);
  EXPECT_LE(timeout.tv_sec, 100);
  EXPECT_GE(timeout.tv_sec, 90);
  Pipe q;
  in = Set({q.r});
  timeout = {0, 20000};
  EXPECT_EQ(select(q.r + 1, &in, nullptr, nullptr, &timeout), 0);
  EXPECT_EQ(timeout.tv_sec, 0);
  EXPECT_EQ(timeout.tv_usec, 0);
  EXPECT(!FD_ISSET(q.r, &in));
}

GUEST_TEST(Select, ClosedDescriptor) {
  fd_set in = Set({999});
  timeval none = {};
  EXPECT_EQ(ProcField("/proc/self/status", "FDSize"), 64);
  // Numbers beyond the table's size are silently cut off.
  EXPECT_EQ(select(1000, &in, nullptr, nullptr, &none), 0);
  const int last = MUST(dup(1));
  close(last);
  in = Set({last});
  EXPECT_ERRNO(select(last + 1, &in, nullptr, nullptr, &none), EBADF);
  // It has grown then, and does not shrink.
  MUST(dup2(1, 1000));
  close(1000);
  CheckpointHere();
  EXPECT_EQ(ProcField("/proc/self/status", "FDSize"), 1024);
  in = Set({999});
  EXPECT_ERRNO(select(1000, &in, nullptr, nullptr, &none), EBADF);
  // A child's has room for what is open.
  JOIN_OK(Fork([] { EXPECT_EQ(ProcField("/proc/self/status", "FDSize"), 64); }));
  EXPECT_ERRNO(select(-1, nullptr, nullptr, nullptr, &none), EINVAL);
}

GUEST_TEST(Select, EndOfFileIsReadable) {
  Pipe p;
  p.CloseWrite();
  fd_set in = Set({p.r});
  EXPECT_EQ(select(p.r + 1, &in, nullptr, nullptr, nullptr), 1);
}

GUEST_TEST(Pselect, MaskAndTime) {
  CountSignals(SIGUSR1);
  Block({SIGUSR1});
  raise(SIGUSR1);
  const sigset_t none = Signals({});
  const timespec wait = {.tv_sec = 20};
  EXPECT_ERRNO(pselect(0, nullptr, nullptr, nullptr, &wait, &none), EINTR);
  EXPECT_EQ(SignalCount(), 1);
  const timespec bad = {.tv_sec = 0, .tv_nsec = -5};
  EXPECT_ERRNO(pselect(0, nullptr, nullptr, nullptr, &bad, nullptr), EINVAL);
}

GUEST_TEST(Eventfd, AddsAndResets) {
  const int fd = MUST(eventfd(3, EFD_NONBLOCK));
  const uint64_t four = 4;
  EXPECT_EQ(write(fd, &four, 8), 8);
  CheckpointHere();
  uint64_t value = 0;
  EXPECT_EQ(read(fd, &value, 8), 8);
  EXPECT_EQ(value, 7);
  EXPECT_ERRNO(read(fd, &value, 8), EAGAIN);
}

GUEST_TEST(Eventfd, SemaphoreGivesOnes) {
  const int fd = MUST(eventfd(2, EFD_NONBLOCK | EFD_SEMAPHORE));
  CheckpointHere();
  uint64_t value = 0;
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(read(fd, &value, 8), 8);
    EXPECT_EQ(value, 1);
  }
  EXPECT_ERRNO(read(fd, &value, 8), EAGAIN);
}

GUEST_TEST(Eventfd, Limits) {
  const int fd = MUST(eventfd(0, EFD_NONBLOCK));
  uint64_t value = UINT64_MAX;
  EXPECT_ERRNO(write(fd, &value, 8), EINVAL);
  value = UINT64_MAX - 1;
  EXPECT_EQ(write(fd, &value, 8), 8);
  value = 1;
  EXPECT_ERRNO(write(fd, &value, 8), EAGAIN);
  short got = 0;
  EXPECT_EQ(PollOne(fd, POLLIN | POLLOUT, 0, &got), 1);
  EXPECT_EQ(got, POLLIN);
  EXPECT_ERRNO(write(fd, &value, 4), EINVAL);
  EXPECT_ERRNO(read(fd, &value, 4), EINVAL);
  EXPECT_ERRNO(eventfd(0, 0x100), EINVAL);
}

GUEST_TEST(Eventfd, BlockedReader) {
  const int fd = MUST(eventfd(0, 0));
  const pid_t pid = Fork([=] {
    uint64_t value = 0;
    EXPECT_EQ(read(fd, &value, 8), 8);
    EXPECT_EQ(value, 5);
  });
  AwaitAsleep(pid);
  CheckpointHere();
  const uint64_t five = 5;
  MUST(write(fd, &five, 8));
  JOIN_OK(pid);
}

GUEST_TEST(Eventfd, BlockedWriter) {
  const int fd = MUST(eventfd(0, 0));
  const uint64_t most = UINT64_MAX - 1;
  MUST(write(fd, &most, 8));
  const pid_t pid = Fork([=] {
    const uint64_t two = 2;
    EXPECT_EQ(write(fd, &two, 8), 8);
  });
  AwaitAsleep(pid);
  CheckpointHere();
  uint64_t value = 0;
  EXPECT_EQ(read(fd, &value, 8), 8);
  EXPECT_EQ(value, most);
  JOIN_OK(pid);
  EXPECT_EQ(read(fd, &value, 8), 8);
  EXPECT_EQ(value, 2);
}

GUEST_TEST(Eventfd, ProcFdinfo) {
  const int fd = MUST(eventfd(26, 0));
  EXPECT_EQ(ProcField(Str("/proc/self/fdinfo/%d", fd), "eventfd-count", 16), 26);
  char link[64] = {};
  MUST(readlink(Str("/proc/self/fd/%d", fd), link, sizeof(link) - 1));
  EXPECT_STREQ(link, "anon_inode:[eventfd]");
}
