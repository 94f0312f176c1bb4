// Who is at the other end of a Unix socket: credentials, groups and pidfds of peers and of messages, and the switches of these.
#include <grp.h>
#include <netinet/in.h>
#include <poll.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "test/harness/guest_util.h"
#include "test/harness/sockets.h"

using namespace guest;

namespace {

using Name = UnixAddress;
using Pair = UnixPair;

constexpr int kPeerGroups = 59, kPassPidfd = 76, kPeerPidfd = 77, kPassRights = 83;  // SO_*
constexpr int kScmPidfd = 4;
constexpr unsigned long kUnixFile = 0x89e0;  // SIOCUNIXFILE

int Set(int fd, int option, int value) { return setsockopt(fd, SOL_SOCKET, option, &value, sizeof(value)); }

int Get(int fd, int option) {
  int value = -1;
  socklen_t size = sizeof(value);
  return getsockopt(fd, SOL_SOCKET, option, &value, &size) < 0 ? -errno : value;
}

struct Told {
  ssize_t size = -1;
  int flags = 0;
  bool has_credentials = false;
  ucred credentials = {};
  int pidfd = 0;  // 0: none was told
};

Told Receive(int fd, size_t room = 256) {
  alignas(cmsghdr) char control[256] = {};
  char bytes[16];
  iovec vector = {bytes, sizeof(bytes)};
  msghdr message = {};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = room;
  Told told;
  told.size = recvmsg(fd, &message, MSG_DONTWAIT);
  told.flags = message.msg_flags;
  for (cmsghdr* c = told.size < 0 ? nullptr : CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_SOCKET) continue;
    if (c->cmsg_type == SCM_CREDENTIALS) {
      told.has_credentials = true;
      memcpy(&told.credentials, CMSG_DATA(c), sizeof(ucred));
    }
    if (c->cmsg_type == kScmPidfd) memcpy(&told.pidfd, CMSG_DATA(c), sizeof(int));
  }
  return told;
}

bool Alive(int pidfd) { return syscall(SYS_pidfd_send_signal, pidfd, 0, nullptr, 0) == 0; }

ucred PeerOf(int fd) {
  ucred c = {};
  socklen_t size = sizeof(c);
  MUST(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &c, &size));
  return c;
}

}  // namespace

GUEST_TEST(UnixPeer, OfAListenerItself) {
  TempDir dir;
  const Name name(dir / "s");
  const int fd = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
  MUST(bind(fd, name.get(), name.length));
  EXPECT_EQ(PeerOf(fd).pid, 0);
  EXPECT_EQ(PeerOf(fd).uid, static_cast<uid_t>(-1));
  MUST(listen(fd, 1));
  CheckpointHere();
  EXPECT_EQ(PeerOf(fd).pid, getpid());
  EXPECT_EQ(PeerOf(fd).uid, 0u);
  EXPECT_EQ(PeerOf(MUST(socket(AF_INET, SOCK_STREAM, 0))).pid, 0);
}

GUEST_TEST(UnixPeer, GroupsAreThoseOfConnecting) {
  TempDir dir;
  const Name name(dir / "s");
  const int listener = MUST(socket(AF_UNIX, SOCK_STREAM, 0)), client = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
  gid_t told[4] = {};
  socklen_t size = sizeof(told);
  EXPECT_ERRNO(getsockopt(client, SOL_SOCKET, kPeerGroups, told, &size), ENODATA);
  const gid_t first[] = {5, 9}, second[] = {7, 8, 11}, third[] = {1};
  MUST(bind(listener, name.get(), name.length));
  MUST(setgroups(2, first));
  MUST(listen(listener, 1));
  MUST(setgroups(3, second));
  MUST(connect(client, name.get(), name.length));
  MUST(setgroups(1, third));
  const int server = MUST(accept(listener, nullptr, nullptr));
  CheckpointHere();
  EXPECT_OK(getsockopt(client, SOL_SOCKET, kPeerGroups, told, &size));
  EXPECT_EQ(size, 8u);
  EXPECT_EQ(told[1], 9u);
  size = 8;
  EXPECT_ERRNO(getsockopt(server, SOL_SOCKET, kPeerGroups, told, &size), ERANGE);
  EXPECT_EQ(size, 12u);  // What it takes.
  EXPECT_OK(getsockopt(server, SOL_SOCKET, kPeerGroups, told, &size));
  EXPECT_EQ(told[2], 11u);
}

GUEST_TEST(UnixPeer, PidfdOfTheConnectingProcess) {
  TempDir dir;
  const Name name(dir / "s");
  const int listener = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
  MUST(bind(listener, name.get(), name.length));
  MUST(listen(listener, 1));
  EXPECT_EQ(Get(MUST(socket(AF_UNIX, SOCK_STREAM, 0)), kPeerPidfd), -ENODATA);
  Gate gate;
  const pid_t pid = Fork([&] {
    MUST(connect(MUST(socket(AF_UNIX, SOCK_STREAM, 0)), name.get(), name.length));
    gate.Await();
  });
  const int server = MUST(accept(listener, nullptr, nullptr));
  CheckpointHere();
  const int pidfd = Get(server, kPeerPidfd);
  EXPECT_GE(pidfd, 0);
  EXPECT_EQ(fcntl(pidfd, F_GETFD), FD_CLOEXEC);
  EXPECT(Alive(pidfd));
  pollfd p = {pidfd, POLLIN, 0};
  EXPECT_EQ(poll(&p, 1, 0), 0);
  gate.Open();
  JOIN_OK(pid);
  EXPECT_EQ(poll(&p, 1, 1000), 1);
  EXPECT(!Alive(pidfd));
}

GUEST_TEST(UnixMessage, PidfdOfTheSender) {
  for (const int type : {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET}) {
    Pair pair(type);
    EXPECT_EQ(Get(pair.b, kPassPidfd), 0);
    MUST(Set(pair.b, kPassPidfd, 1));
    const pid_t pid = Fork([&] { MUST(send(pair.a, "x", 1, 0)); });
    JOIN_OK(pid);
    MUST(send(pair.a, "y", 1, 0));
    CheckpointHere();
    EXPECT_EQ(Get(pair.b, kPassPidfd), 1);
    Told told = Receive(pair.b);
    EXPECT_EQ(told.size, 1);  // Two senders: two reads.
    EXPECT(!told.has_credentials);
    EXPECT(told.pidfd > 0 && !Alive(told.pidfd));  // Who sent it is gone.
    told = Receive(pair.b);
    EXPECT(told.pidfd > 0 && Alive(told.pidfd));
    MUST(send(pair.a, "z", 1, 0));
    told = Receive(pair.b, 0);
    EXPECT_EQ(told.flags & MSG_CTRUNC, MSG_CTRUNC);
  }
}

GUEST_TEST(UnixMessage, UnsignedIfNobodyAsked) {
  Pair pair;
  MUST(send(pair.a, "x", 1, 0));
  MUST(Set(pair.b, SO_PASSCRED, 1));
  MUST(send(pair.a, "y", 1, 0));
  CheckpointHere();
  Told told = Receive(pair.b);
  EXPECT_EQ(told.size, 1);
  EXPECT(told.has_credentials);
  EXPECT_EQ(told.credentials.pid, 0);
  EXPECT_EQ(told.credentials.uid, 65534u);
  told = Receive(pair.b);
  EXPECT_EQ(told.credentials.pid, getpid());
  EXPECT_EQ(told.credentials.uid, 0u);
}

GUEST_TEST(UnixMessage, DescriptorsCanBeRefused) {
  for (const int type : {SOCK_STREAM, SOCK_DGRAM}) {
    Pair pair(type);
    if (Get(pair.b, kPassRights) == -ENOPROTOOPT) Skip("no SO_PASSRIGHTS");  // Linux 6.16
    EXPECT_EQ(Get(pair.b, kPassRights), 1);
    const int one = 1;
    EXPECT_EQ(SendFds(pair.a, &one, 1), 1);
    MUST(Set(pair.b, kPassRights, 0));
    CheckpointHere();
    EXPECT_ERRNO(SendFds(pair.a, &one, 1), EPERM);
    EXPECT_EQ(send(pair.a, "x", 1, 0), 1);
    int fd = -1;
    EXPECT_EQ(ReceiveFds(pair.b, &fd, 1), 1);  // What is there already comes.
  }
}

GUEST_TEST(UnixMessage, AskingForSendersGivesAName) {
  TempDir dir;
  const Name name(dir / "s");
  const int listener = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
  MUST(bind(listener, name.get(), name.length));
  MUST(listen(listener, 4));
  for (const int on : {0, 1}) {
    const int client = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    MUST(Set(client, SO_PASSCRED, on));
    MUST(connect(client, name.get(), name.length));
    sockaddr_un told = {};
    socklen_t size = sizeof(told);
    MUST(getsockname(client, reinterpret_cast<sockaddr*>(&told), &size));
    EXPECT_EQ(size, on != 0 ? sizeof(sa_family_t) + 6 : sizeof(sa_family_t));
    EXPECT_EQ(told.sun_path[0], 0);
  }
  const int to = MUST(socket(AF_UNIX, SOCK_DGRAM, 0)), from = MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
  const Name other(dir / "d");
  MUST(bind(to, other.get(), other.length));
  MUST(Set(from, kPassPidfd, 1));
  MUST(sendto(from, "x", 1, 0, other.get(), other.length));
  sockaddr_un told = {};
  socklen_t size = sizeof(told);
  char byte;
  EXPECT_EQ(recvfrom(to, &byte, 1, 0, reinterpret_cast<sockaddr*>(&told), &size), 1);
  EXPECT_EQ(size, sizeof(sa_family_t) + 6);
}

GUEST_TEST(UnixConnect, TurningAwayResetsThePeer) {
  TempDir dir;
  const Name first(dir / "a"), second(dir / "b"), third(dir / "c");
  const int a = MUST(socket(AF_UNIX, SOCK_DGRAM, 0)), b = MUST(socket(AF_UNIX, SOCK_DGRAM, 0)), c = MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
  MUST(bind(a, first.get(), first.length));
  MUST(bind(b, second.get(), second.length));
  MUST(bind(c, third.get(), third.length));
  MUST(connect(a, second.get(), second.length));
  MUST(connect(b, first.get(), first.length));
  MUST(send(b, "lost", 4, 0));
  CheckpointHere();
  EXPECT_EQ(Queued(a), 4);
  MUST(connect(a, third.get(), third.length));
  EXPECT_EQ(Queued(a), 0);
  char bytes[4];
  EXPECT_ERRNO(recv(b, bytes, 4, MSG_DONTWAIT), ECONNRESET);
  EXPECT_ERRNO(recv(b, bytes, 4, MSG_DONTWAIT), EAGAIN);
}

GUEST_TEST(UnixName, FileOfTheName) {
  TempDir dir;
  const Name name(dir / "s");
  const int listener = MUST(socket(AF_UNIX, SOCK_STREAM, 0)), client = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
  EXPECT_ERRNO(ioctl(listener, kUnixFile), ENOENT);
  MUST(bind(listener, name.get(), name.length));
  MUST(listen(listener, 1));
  MUST(connect(client, name.get(), name.length));
  const int server = MUST(accept(listener, nullptr, nullptr));
  struct stat wanted = {}, got = {};
  MUST(stat(dir / "s", &wanted));
  CheckpointHere();
  for (const int fd : {listener, server}) {
    const int file = MUST(ioctl(fd, kUnixFile));
    MUST(fstat(file, &got));
    EXPECT_EQ(got.st_ino, wanted.st_ino);
    EXPECT_EQ(fcntl(file, F_GETFL) & O_PATH, O_PATH);
    EXPECT_EQ(fcntl(file, F_GETFD), FD_CLOEXEC);
  }
  EXPECT_ERRNO(ioctl(client, kUnixFile), ENOENT);
  AS_USER([&] { EXPECT_ERRNO(ioctl(listener, kUnixFile), EPERM); });
}

GUEST_TEST(UnixOptions, WhatOtherFamiliesLack) {
  const int tcp = MUST(socket(AF_INET, SOCK_STREAM, 0));
  Pair pair;
  EXPECT_EQ(Get(tcp, kPeerGroups), -ENODATA);
  EXPECT_EQ(Get(tcp, kPeerPidfd), -ENODATA);
  EXPECT_ERRNO(Set(tcp, kPassPidfd, 1), EOPNOTSUPP);
  EXPECT_ERRNO(Set(pair.a, SO_REUSEPORT, 1), EOPNOTSUPP);
  EXPECT_OK(Set(pair.a, SO_PASSSEC, 1));
  sockaddr_un told = {};
  socklen_t size = sizeof(sa_family_t);
  EXPECT_OK(getsockopt(pair.a, SOL_SOCKET, SO_PEERNAME, &told, &size));
  EXPECT_EQ(told.sun_family, AF_UNIX);
  size = sizeof(told);
  EXPECT_ERRNO(getsockopt(tcp, SOL_SOCKET, SO_PEERNAME, &told, &size), ENOTCONN);
}
