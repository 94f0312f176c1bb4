// POSIX message queues: names, limits, permissions, waiting, notification.
#include <mqueue.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <atomic>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

// A queue of room for two messages of 16 bytes, without a name any more if `keep` is not set.
struct Queue {
  explicit Queue(int flags = O_RDWR | O_NONBLOCK, mode_t mode = 0600, bool keep = false) : name("/guest-q-%d", getpid()) {
    mq_attr attributes = {};
    attributes.mq_maxmsg = 2;
    attributes.mq_msgsize = 16;
    fd = mq_open(name, O_CREAT | O_EXCL | flags, mode, &attributes);
    if (fd < 0 && errno == ENOSYS) Skip("no message queues");
    MUST(fd);
    if (!keep) mq_unlink(name);
  }
  ~Queue() {
    mq_close(fd);
    mq_unlink(name);
  }
  int Count() const {
    mq_attr attributes = {};
    MUST(mq_getattr(fd, &attributes));
    return static_cast<int>(attributes.mq_curmsgs);
  }
  Str name;
  mqd_t fd;
};

}  // namespace

GUEST_TEST(MqNames, Rules) {
  Queue q(O_RDWR, 0600, true);
  // The call takes the name without its slash; the library removes it.
  EXPECT_ERRNO(Call(SYS_mq_open, "/slash", O_RDWR | O_CREAT, 0600, nullptr), EACCES);
  EXPECT_ERRNO(Call(SYS_mq_open, "a/b", O_RDWR | O_CREAT, 0600, nullptr), EACCES);
  EXPECT_ERRNO(Call(SYS_mq_open, "", O_RDWR | O_CREAT, 0600, nullptr), ENOENT);
  EXPECT_ERRNO(Call(SYS_mq_open, kBadAddress, O_RDWR | O_CREAT, 0600, nullptr), EFAULT);
  char name[300];
  memset(name, 'm', sizeof(name));
  name[256] = '\0';
  EXPECT_ERRNO(Call(SYS_mq_open, name, O_RDWR | O_CREAT, 0600, nullptr), ENAMETOOLONG);
  EXPECT_ERRNO(mq_open("/guest-none", O_RDWR), ENOENT);
  EXPECT_ERRNO(mq_unlink("/guest-none"), ENOENT);
  EXPECT_ERRNO(Call(SYS_mq_unlink, kBadAddress), EFAULT);
  EXPECT_ERRNO(mq_open(q.name, O_RDWR | O_CREAT | O_EXCL, 0600, nullptr), EEXIST);
  const mqd_t other = MUST(mq_open(q.name, O_WRONLY));
  EXPECT_OK(mq_send(other, "x", 1, 0));
  EXPECT_EQ(q.Count(), 1);
}

GUEST_TEST(MqOpen, AttributesHaveRules) {
  const Str name("/guest-a-%d", getpid());
  mq_attr attributes = {};
  attributes.mq_maxmsg = 0;
  attributes.mq_msgsize = 16;
  const mqd_t none = mq_open(name, O_CREAT | O_RDWR, 0600, &attributes);
  if (none < 0 && errno == ENOSYS) Skip("no message queues");
  EXPECT_ERRNO(mq_open(name, O_CREAT | O_RDWR, 0600, &attributes), EINVAL);
  attributes.mq_maxmsg = 2;
  attributes.mq_msgsize = 0;
  EXPECT_ERRNO(mq_open(name, O_CREAT | O_RDWR, 0600, &attributes), EINVAL);
  attributes.mq_msgsize = -1;
  EXPECT_ERRNO(mq_open(name, O_CREAT | O_RDWR, 0600, &attributes), EINVAL);
  attributes.mq_msgsize = 16;
  attributes.mq_maxmsg = 1 << 30;
  EXPECT_ERRNO(mq_open(name, O_CREAT | O_RDWR, 0600, &attributes), EINVAL);
  EXPECT_ERRNO(Call(SYS_mq_open, name.c_str() + 1, O_CREAT | O_RDWR, 0600, kBadAddress), EFAULT);
  const mqd_t fd = MUST(mq_open(name, O_CREAT | O_RDWR, 0600, nullptr));
  MUST(mq_unlink(name));
  MUST(mq_getattr(fd, &attributes));
  EXPECT_EQ(attributes.mq_maxmsg, 10);  // fs/mqueue/*_default.
  EXPECT_EQ(attributes.mq_msgsize, 8192);
}

GUEST_TEST(MqOpen, PermissionBits) {
  Queue q(O_RDWR, 0604, true);
  AS_USER([&] {
    EXPECT_OK(mq_open(q.name, O_RDONLY));
    EXPECT_ERRNO(mq_open(q.name, O_WRONLY), EACCES);
    EXPECT_ERRNO(mq_open(q.name, O_RDWR), EACCES);
    EXPECT_ERRNO(Call(SYS_mq_unlink, q.name.c_str() + 1), EPERM);  // The folder of queues is sticky.
  });
}

GUEST_TEST(MqTransfer, DirectionAndDescriptors) {
  Queue q(O_RDWR | O_NONBLOCK, 0600, true);
  const mqd_t reader = MUST(mq_open(q.name, O_RDONLY)), writer = MUST(mq_open(q.name, O_WRONLY));
  char text[16];
  EXPECT_ERRNO(mq_send(reader, "x", 1, 0), EBADF);
  EXPECT_ERRNO(mq_receive(writer, text, 16, nullptr), EBADF);
  EXPECT_ERRNO(mq_send(999, "x", 1, 0), EBADF);
  EXPECT_ERRNO(mq_send(1, "x", 1, 0), EBADF);
  const int file = TempFile();
  EXPECT_ERRNO(mq_receive(file, text, 16, nullptr), EBADF);
  mq_attr attributes;
  EXPECT_ERRNO(Call(SYS_mq_getsetattr, file, nullptr, &attributes), EBADF);
  EXPECT_ERRNO(mq_notify(file, nullptr), EBADF);
}

GUEST_TEST(MqTransfer, BadPointers) {
  Queue q;
  char text[16];
  EXPECT_ERRNO(Call(SYS_mq_timedsend, q.fd, kBadAddress, 4L, 0, nullptr), EFAULT);
  EXPECT_ERRNO(Call(SYS_mq_timedsend, q.fd, text, 4L, 0, kBadAddress), EFAULT);
  EXPECT_ERRNO(Call(SYS_mq_timedreceive, q.fd, text, 16L, nullptr, kBadAddress), EFAULT);
  MUST(mq_send(q.fd, "x", 1, 0));
  EXPECT_ERRNO(Call(SYS_mq_timedreceive, q.fd, kBadAddress, 16L, nullptr, nullptr), EFAULT);
  EXPECT_ERRNO(Call(SYS_mq_getsetattr, q.fd, kBadAddress, nullptr), EFAULT);
  EXPECT_ERRNO(Call(SYS_mq_getsetattr, q.fd, nullptr, kBadAddress), EFAULT);
}

GUEST_TEST(MqTransfer, PrioritiesHaveALimit) {
  Queue q;
  EXPECT_ERRNO(mq_send(q.fd, "x", 1, 32768), EINVAL);
  EXPECT_OK(mq_send(q.fd, "x", 1, 32767));
  EXPECT_OK(mq_send(q.fd, "", 0, 0));  // An empty message is one.
  char text[16];
  unsigned priority = 0;
  EXPECT_EQ(mq_receive(q.fd, text, 16, &priority), 1);
  EXPECT_EQ(priority, 32767);
  EXPECT_EQ(mq_receive(q.fd, text, 16, nullptr), 0);
}

GUEST_TEST(MqTransfer, EqualPrioritiesKeepTheirOrder) {
  Queue q;
  MUST(mq_send(q.fd, "a", 1, 5));
  MUST(mq_send(q.fd, "b", 1, 5));
  CheckpointHere();
  char text[16] = {};
  EXPECT_EQ(mq_receive(q.fd, text, 16, nullptr), 1);
  EXPECT_EQ(text[0], 'a');
  EXPECT_EQ(mq_receive(q.fd, text, 16, nullptr), 1);
  EXPECT_EQ(text[0], 'b');
}

GUEST_TEST(MqTransfer, TimesOut) {
  Queue q(O_RDWR);
  char text[16];
  timespec until = Ns(NowNs(CLOCK_REALTIME) + 30 * kMs);
  EXPECT_ERRNO(mq_timedreceive(q.fd, text, 16, nullptr, &until), ETIMEDOUT);
  MUST(mq_send(q.fd, "x", 1, 0));
  MUST(mq_send(q.fd, "y", 1, 0));
  EXPECT_ERRNO(mq_timedsend(q.fd, "z", 1, 0, &until), ETIMEDOUT);
  until = {0, 1'000'000'000};
  EXPECT_ERRNO(mq_timedsend(q.fd, "z", 1, 0, &until), EINVAL);
  until = {-1, 0};
  EXPECT_ERRNO(mq_timedsend(q.fd, "z", 1, 0, &until), EINVAL);
  until = {1, 0};  // Long ago; but there is no need to wait.
  EXPECT_EQ(mq_timedreceive(q.fd, text, 16, nullptr, &until), 1);
}

GUEST_TEST(MqTransfer, WaitersWake) {
  Queue q(O_RDWR);
  const pid_t reader = Fork([&] {
    char text[16] = {};
    EXPECT_EQ(mq_receive(q.fd, text, 16, nullptr), 3);
  });
  AwaitAsleep(reader);
  CheckpointHere();
  MUST(mq_send(q.fd, "abc", 3, 0));
  JOIN_OK(reader);
  MUST(mq_send(q.fd, "x", 1, 0));
  MUST(mq_send(q.fd, "y", 1, 0));
  const pid_t writer = Fork([&] { EXPECT_OK(mq_send(q.fd, "z", 1, 9)); });
  AwaitAsleep(writer);
  char text[16] = {};
  EXPECT_EQ(mq_receive(q.fd, text, 16, nullptr), 1);
  JOIN_OK(writer);
  EXPECT_EQ(mq_receive(q.fd, text, 16, nullptr), 1);
  EXPECT_EQ(text[0], 'z');
}

GUEST_TEST(MqTransfer, SignalsInterruptOrRestart) {
  Queue q(O_RDWR);
  const pid_t interrupted = Fork([&] {
    CountSignals(SIGUSR1);
    char text[16];
    EXPECT_ERRNO(mq_receive(q.fd, text, 16, nullptr), EINTR);
  });
  AwaitAsleep(interrupted);
  kill(interrupted, SIGUSR1);
  JOIN_OK(interrupted);
  const pid_t restarted = Fork([&] {
    CountSignals(SIGUSR1, SA_RESTART);
    char text[16];
    EXPECT_EQ(mq_receive(q.fd, text, 16, nullptr), 1);
    EXPECT_EQ(SignalCount(), 1);
  });
  AwaitAsleep(restarted);
  kill(restarted, SIGUSR1);
  SleepMs(20);
  MUST(mq_send(q.fd, "x", 1, 0));
  JOIN_OK(restarted);
}

GUEST_TEST(MqAttributes, OnlyNonblockCanBeSet) {
  Queue q(O_RDWR);
  mq_attr attributes = {}, old = {};
  attributes.mq_flags = O_NONBLOCK;
  attributes.mq_maxmsg = 77;
  EXPECT_OK(mq_setattr(q.fd, &attributes, &old));
  EXPECT_EQ(old.mq_flags, 0);
  EXPECT_EQ(old.mq_maxmsg, 2);
  EXPECT_OK(mq_getattr(q.fd, &old));
  EXPECT_EQ(old.mq_flags, O_NONBLOCK);
  EXPECT_EQ(old.mq_maxmsg, 2);
  attributes.mq_flags = O_APPEND;
  EXPECT_ERRNO(mq_setattr(q.fd, &attributes, nullptr), EINVAL);
  EXPECT(fcntl(q.fd, F_GETFL) & O_NONBLOCK);
}

GUEST_TEST(MqDescriptor, IsAFile) {
  Queue q;
  EXPECT_EQ(fcntl(q.fd, F_GETFD), FD_CLOEXEC);  // Always.
  pollfd poll_for = {q.fd, POLLIN | POLLOUT, 0};
  EXPECT_EQ(poll(&poll_for, 1, 0), 1);
  EXPECT_EQ(poll_for.revents, POLLOUT);
  MUST(mq_send(q.fd, "x", 1, 0));
  EXPECT_EQ(poll(&poll_for, 1, 0), 1);
  EXPECT_EQ(poll_for.revents, POLLIN | POLLOUT);
  MUST(mq_send(q.fd, "y", 1, 0));
  CheckpointHere();
  EXPECT_EQ(poll(&poll_for, 1, 0), 1);
  EXPECT_EQ(poll_for.revents, POLLIN);
  struct stat status = {};
  EXPECT_OK(fstat(q.fd, &status));
  EXPECT(S_ISREG(status.st_mode));
  EXPECT_EQ(status.st_mode & 0777, 0600);
  char text[160] = {};
  EXPECT_GT(read(q.fd, text, sizeof(text) - 1), 0);  // Reading it as a file tells its state.
  EXPECT(strstr(text, "QSIZE:2") != nullptr);
}

GUEST_TEST(MqNotify, Rules) {
  Queue q;
  CountSignals(SIGUSR1);
  sigevent event = {};
  event.sigev_notify = 99;
  EXPECT_ERRNO(mq_notify(q.fd, &event), EINVAL);
  event.sigev_notify = SIGEV_SIGNAL;
  event.sigev_signo = 65;
  EXPECT_ERRNO(mq_notify(q.fd, &event), EINVAL);
  EXPECT_ERRNO(Call(SYS_mq_notify, q.fd, kBadAddress), EFAULT);
  event.sigev_signo = SIGUSR1;
  event.sigev_value.sival_int = 4711;
  EXPECT_OK(mq_notify(q.fd, &event));
  EXPECT_OK(mq_notify(q.fd, nullptr));  // Taken back,
  EXPECT_OK(mq_notify(q.fd, nullptr));  // twice is no error.
  EXPECT_OK(mq_notify(q.fd, &event));
  CheckpointHere();
  JOIN_OK(Fork([&] { EXPECT_ERRNO(mq_notify(q.fd, &event), EBUSY); }));
  const pid_t pid = Fork([&] { MUST(mq_send(q.fd, "x", 1, 0)); });
  JOIN_OK(pid);
  EXPECT_EQ(SignalCount(), 1);
  EXPECT_EQ(LastSignal().si_value.sival_int, 4711);
  EXPECT_EQ(LastSignal().si_pid, pid);
}

GUEST_TEST(MqNotify, SilentOnesOccupyTheQueue) {
  Queue q;
  sigevent event = {};
  event.sigev_notify = SIGEV_NONE;
  EXPECT_OK(mq_notify(q.fd, &event));
  EXPECT_ERRNO(mq_notify(q.fd, &event), EBUSY);
  MUST(mq_send(q.fd, "x", 1, 0));  // Used up by the arrival.
  EXPECT_OK(mq_notify(q.fd, &event));
}

GUEST_TEST(MqNotify, NotWhenSomebodyWaits) {
  Queue q(O_RDWR);
  CountSignals(SIGUSR1);
  sigevent event = {};
  event.sigev_notify = SIGEV_SIGNAL;
  event.sigev_signo = SIGUSR1;
  MUST(mq_notify(q.fd, &event));
  const pid_t pid = Fork([&] {
    char text[16];
    EXPECT_EQ(mq_receive(q.fd, text, 16, nullptr), 1);
  });
  AwaitAsleep(pid);
  MUST(mq_send(q.fd, "x", 1, 0));
  JOIN_OK(pid);
  EXPECT_EQ(SignalCount(), 0);
  MUST(mq_send(q.fd, "y", 1, 0));
  EXPECT_EQ(SignalCount(), 1);
}

GUEST_TEST(MqNotify, NotWhenMessagesWereThere) {
  Queue q;
  CountSignals(SIGUSR1);
  sigevent event = {};
  event.sigev_notify = SIGEV_SIGNAL;
  event.sigev_signo = SIGUSR1;
  MUST(mq_send(q.fd, "x", 1, 0));
  MUST(mq_notify(q.fd, &event));
  MUST(mq_send(q.fd, "y", 1, 0));
  EXPECT_EQ(SignalCount(), 0);  // Only the step from empty to not.
}

GUEST_TEST(MqNotify, ClosingTakesItBack) {
  Queue q(O_RDWR | O_NONBLOCK, 0600, true);
  sigevent event = {};
  event.sigev_notify = SIGEV_NONE;
  const mqd_t other = MUST(mq_open(q.name, O_RDONLY));
  EXPECT_OK(mq_notify(other, &event));
  EXPECT_ERRNO(mq_notify(q.fd, &event), EBUSY);
  mq_close(other);
  EXPECT_OK(mq_notify(q.fd, &event));
}

namespace {

// Who listens for SIGEV_THREAD in the C library's place.
int NotifySocket(int queue, const char* cookie) {
  const int fd = MUST(socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK, 0));
  sigevent event = {};
  event.sigev_notify = SIGEV_THREAD;
  event.sigev_signo = fd;
  event.sigev_value.sival_ptr = const_cast<char*>(cookie);
  MUST(Call(SYS_mq_notify, queue, &event));
  return fd;
}

std::atomic<int> told{0};

void OnMessage(sigval value) { told = value.sival_int; }

}  // namespace

GUEST_TEST(MqNotifyThread, CookieSaysWhy) {
  Queue q;
  char cookie[32] = "thirty-one bytes, then the why.";
  cookie[31] = 9;
  int fd = NotifySocket(q.fd, cookie);
  char got[64];
  EXPECT_ERRNO(recv(fd, got, sizeof(got), 0), EAGAIN);
  CheckpointHere();
  MUST(mq_send(q.fd, "a", 1, 0));
  sockaddr_storage from = {};
  socklen_t size = sizeof(from);
  EXPECT_EQ(recvfrom(fd, got, sizeof(got), 0, reinterpret_cast<sockaddr*>(&from), &size), 32);
  EXPECT_EQ(memcmp(got, cookie, 31), 0);
  EXPECT_EQ(got[31], 1);  // NOTIFY_WOKENUP
  EXPECT_EQ(from.ss_family, AF_NETLINK);
  EXPECT_ERRNO(recv(fd, got, sizeof(got), 0), EAGAIN);  // Once.
  MUST(mq_receive(q.fd, got, sizeof(got), nullptr));
  MUST(mq_send(q.fd, "a", 1, 0));
  EXPECT_ERRNO(recv(fd, got, sizeof(got), 0), EAGAIN);
  fd = NotifySocket(q.fd, cookie);
  MUST(mq_notify(q.fd, nullptr));
  EXPECT_EQ(recv(fd, got, sizeof(got), 0), 32);
  EXPECT_EQ(got[31], 2);  // NOTIFY_REMOVED
  fd = NotifySocket(q.fd, cookie);
  sigevent event = {};
  event.sigev_notify = SIGEV_NONE;
  EXPECT_ERRNO(mq_notify(q.fd, &event), EBUSY);
  mq_close(q.fd);
  EXPECT_EQ(recv(fd, got, sizeof(got), 0), 32);
  EXPECT_EQ(got[31], 2);
}

GUEST_TEST(MqNotifyThread, WhatItTakes) {
  Queue q;
  char cookie[32] = {};
  sigevent event = {};
  event.sigev_notify = SIGEV_THREAD;
  event.sigev_value.sival_ptr = cookie;
  event.sigev_signo = -1;
  EXPECT_ERRNO(Call(SYS_mq_notify, q.fd, &event), EBADF);
  event.sigev_signo = q.fd;
  EXPECT_ERRNO(Call(SYS_mq_notify, q.fd, &event), ENOTSOCK);
  event.sigev_signo = MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
  EXPECT_ERRNO(Call(SYS_mq_notify, q.fd, &event), EINVAL);
  event.sigev_signo = MUST(socket(AF_NETLINK, SOCK_RAW, 0));
  EXPECT_ERRNO(Call(SYS_mq_notify, event.sigev_signo, &event), EBADF);
  event.sigev_value.sival_ptr = reinterpret_cast<void*>(kBadAddress);
  EXPECT_ERRNO(Call(SYS_mq_notify, q.fd, &event), EFAULT);
}

GUEST_TEST(MqNotifyThread, RunsTheFunction) {
  Queue q;
  sigevent event = {};
  event.sigev_notify = SIGEV_THREAD;
  event.sigev_notify_function = OnMessage;
  event.sigev_value.sival_int = 42;
  EXPECT_OK(mq_notify(q.fd, &event));
  CheckpointHere();
  MUST(mq_send(q.fd, "a", 1, 0));
  for (int i = 0; i < 500 && told != 42; ++i) SleepMs(10);
  EXPECT_EQ(told.load(), 42);
}
