// Unix domain sockets: passed descriptors and credentials, options.
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

struct Pair {
  explicit Pair(int type) { MUST(socketpair(AF_UNIX, type, 0, fd)); }
  ~Pair() {
    close(fd[0]);
    close(fd[1]);
  }
  int fd[2];
};

}  // namespace

GUEST_TEST(ScmRights, PassesDescriptors) {
  Pair s(SOCK_STREAM);
  const int file = TempFile("passed");
  Pipe p;
  EXPECT_EQ(SendFds(s.fd[0], {file, p.w}), 1);
  close(file);
  p.CloseWrite();
  CheckpointHere();
  int fds[4] = {};
  EXPECT_EQ(ReceiveFds(s.fd[1], fds, 4, MSG_CMSG_CLOEXEC), 2);
  EXPECT_EQ(fcntl(fds[0], F_GETFD), FD_CLOEXEC);
  char text[8] = {};
  EXPECT_EQ(read(fds[0], text, 8), 6);
  EXPECT_STREQ(text, "passed");
  EXPECT_EQ(write(fds[1], "w", 1), 1);
  EXPECT_EQ(read(p.r, text, 1), 1);
}

GUEST_TEST(ScmRights, KeepsAFileAliveInFlight) {
  Pipe p;
  {
    Pair s(SOCK_STREAM);
    MUST(SendFds(s.fd[0], {p.w}));
    p.CloseWrite();
    fcntl(p.r, F_SETFL, O_NONBLOCK);
    char byte;
    EXPECT_ERRNO(read(p.r, &byte, 1), EAGAIN);  // The writer lives in the socket's queue.
    CheckpointHere();
    EXPECT_ERRNO(read(p.r, &byte, 1), EAGAIN);
  }
  char byte;
  EXPECT_EQ(read(p.r, &byte, 1), 0);
}

GUEST_TEST(ScmRights, NoRoomDropsThem) {
  Pair s(SOCK_STREAM);
  Pipe p;
  MUST(SendFds(s.fd[0], {p.r, p.w}));
  p.CloseWrite();
  int fds[2] = {};
  int flags = 0;
  EXPECT_EQ(ReceiveFds(s.fd[1], fds, 1, 0, &flags), 1);
  EXPECT_EQ(flags & MSG_CTRUNC, MSG_CTRUNC);
  char byte;
  EXPECT_EQ(read(fds[0], &byte, 1), 0);  // The second one, the writer, was dropped.
}

GUEST_TEST(ScmRights, BoundaryBetweenMessages) {
  Pair s(SOCK_STREAM);
  MUST(write(s.fd[0], "a", 1));
  MUST(SendFds(s.fd[0], {1}));
  MUST(write(s.fd[0], "b", 1));
  int fds[4];
  char text[8] = {};
  EXPECT_EQ(recv(s.fd[1], text, 8, MSG_PEEK), 2);
  EXPECT_EQ(ReceiveFds(s.fd[1], fds, 4, 0),
            1);  // "a" and "f" come together; any reading stops after the descriptors.
  EXPECT_EQ(read(s.fd[1], text, 8), 1);
  EXPECT_EQ(text[0], 'b');
}

GUEST_TEST(ScmRights, BadDescriptor) {
  Pair s(SOCK_STREAM);
  EXPECT_ERRNO(SendFds(s.fd[0], {999}), EBADF);
}

GUEST_TEST(ScmRights, SocketInItself) {
  Pair s(SOCK_STREAM);
  MUST(SendFds(s.fd[0], {s.fd[1], s.fd[0]}));
  CheckpointHere();
  int fds[4] = {};
  EXPECT_EQ(ReceiveFds(s.fd[1], fds, 4, 0), 2);
  MUST(write(fds[1], "x", 1));
  char byte;
  EXPECT_EQ(read(fds[0], &byte, 1), 1);
}

GUEST_TEST(ScmCredentials, TellTheSender) {
  Pair s(SOCK_DGRAM);
  const int on = 1;
  MUST(setsockopt(s.fd[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)));
  const pid_t pid = Fork([&] { MUST(send(s.fd[0], "x", 1, 0)); });
  JOIN_OK(pid);
  CheckpointHere();
  char byte;
  iovec data = {&byte, 1};
  alignas(cmsghdr) char control[256] = {};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  MUST(recvmsg(s.fd[1], &message, 0));
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  ASSERT_NE(header, nullptr);
  EXPECT_EQ(header->cmsg_type, SCM_CREDENTIALS);
  ucred who = {};
  memcpy(&who, CMSG_DATA(header), sizeof(who));
  EXPECT_EQ(who.pid, pid);
  EXPECT_EQ(who.uid, getuid());
}

GUEST_TEST(UnixOptions, PeerCredentials) {
  Pair s(SOCK_STREAM);
  ucred who = {};
  socklen_t length = sizeof(who);
  MUST(getsockopt(s.fd[0], SOL_SOCKET, SO_PEERCRED, &who, &length));
  EXPECT_EQ(who.pid, getpid());
  EXPECT_EQ(who.uid, geteuid());
}

GUEST_TEST(UnixOptions, TypeDomainAndState) {
  Pair s(SOCK_SEQPACKET);
  int value = 0;
  socklen_t length = sizeof(value);
  MUST(getsockopt(s.fd[0], SOL_SOCKET, SO_TYPE, &value, &length));
  EXPECT_EQ(value, SOCK_SEQPACKET);
  MUST(getsockopt(s.fd[0], SOL_SOCKET, SO_DOMAIN, &value, &length));
  EXPECT_EQ(value, AF_UNIX);
  MUST(getsockopt(s.fd[0], SOL_SOCKET, SO_ACCEPTCONN, &value, &length));
  EXPECT_EQ(value, 0);
  EXPECT_ERRNO(getsockopt(s.fd[0], SOL_SOCKET, 9999, &value, &length), ENOPROTOOPT);
  EXPECT_ERRNO(getsockopt(1, SOL_SOCKET, SO_TYPE, &value, &length), ENOTSOCK);
}

GUEST_TEST(UnixOptions, Creation) {
  EXPECT_ERRNO(socket(AF_UNIX, 77, 0), EINVAL);
  EXPECT_ERRNO(socket(AF_UNIX, SOCK_STREAM, 99), EPROTONOSUPPORT);
  EXPECT_ERRNO(socket(77, SOCK_STREAM, 0), EAFNOSUPPORT);
  int ends[2];
  EXPECT_ERRNO(socketpair(AF_INET, SOCK_STREAM, 0, ends), EOPNOTSUPP);
  MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends));
  EXPECT_EQ(fcntl(ends[0], F_GETFD), FD_CLOEXEC);
  EXPECT(fcntl(ends[0], F_GETFL) & O_NONBLOCK);
}

GUEST_TEST(UnixOptions, ManyMessagesInOneCall) {
  Pair s(SOCK_DGRAM);
  char out[3][4] = {"aa", "bbb", "c"};
  iovec data[3] = {{out[0], 2}, {out[1], 3}, {out[2], 1}};
  mmsghdr messages[3] = {};
  for (int i = 0; i < 3; ++i) {
    messages[i].msg_hdr.msg_iov = &data[i];
    messages[i].msg_hdr.msg_iovlen = 1;
  }
  EXPECT_EQ(sendmmsg(s.fd[0], messages, 3, 0), 3);
  for (iovec& one : data) one.iov_len = 4;
  EXPECT_EQ(recvmmsg(s.fd[1], messages, 3, MSG_DONTWAIT, nullptr), 3);
  EXPECT_EQ(messages[1].msg_len, 3);
}

// What lies unread in a socket may hold the last reference to the peer that it leaves.
GUEST_TEST(UnixRights, LeavingAPeerThatLiesInTheQueue) {
  Pair s(SOCK_DGRAM);
  EXPECT_EQ(SendFds(s.fd[1], {s.fd[1]}), 1);
  MUST(close(s.fd[1]));
  sockaddr nobody = {};
  nobody.sa_family = AF_UNSPEC;
  MUST(connect(s.fd[0], &nobody, sizeof(nobody)));
  char byte;
  EXPECT_ERRNO(recv(s.fd[0], &byte, 1, MSG_DONTWAIT), EAGAIN);
  s.fd[1] = MUST(dup(s.fd[0]));  // for the destructor
}

GUEST_TEST(UnixRights, LeavingAPeerWithoutUnreadMessages) {
  Pair s(SOCK_DGRAM);
  sockaddr nobody = {};
  nobody.sa_family = AF_UNSPEC;
  MUST(connect(s.fd[0], &nobody, sizeof(nobody)));
  char byte;
  EXPECT_ERRNO(recv(s.fd[1], &byte, 1, MSG_DONTWAIT), EAGAIN);
}
