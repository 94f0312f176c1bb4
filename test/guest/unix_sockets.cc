// Unix domain sockets.
#include <poll.h>
#include <sys/ioctl.h>
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

sockaddr_un Address(const char* path) {
  sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = {}};
  strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
  return address;
}

int Bind(int fd, const char* path) {
  const sockaddr_un address = Address(path);
  return bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address));
}

int Connect(int fd, const char* path) {
  const sockaddr_un address = Address(path);
  return connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address));
}

int Listener(const char* path, int type = SOCK_STREAM, int backlog = 5) {
  const int fd = MUST(socket(AF_UNIX, type, 0));
  MUST(Bind(fd, path));
  MUST(listen(fd, backlog));
  return fd;
}

}  // namespace

GUEST_TEST(UnixStream, PairIsABytePipeBothWays) {
  Pair s(SOCK_STREAM);
  EXPECT_EQ(write(s.fd[0], "abc", 3), 3);
  EXPECT_EQ(write(s.fd[0], "def", 3), 3);
  EXPECT_EQ(write(s.fd[1], "back", 4), 4);
  CheckpointHere();
  char text[16] = {};
  EXPECT_EQ(read(s.fd[1], text, sizeof(text)), 6);
  EXPECT_STREQ(text, "abcdef");
  EXPECT_EQ(read(s.fd[0], text, 2), 2);
  EXPECT_EQ(read(s.fd[0], text, 16), 2);
}

GUEST_TEST(UnixStream, EofAndPipe) {
  Pair s(SOCK_STREAM);
  MUST(write(s.fd[0], "last", 4));
  close(s.fd[0]);
  char text[8];
  EXPECT_EQ(read(s.fd[1], text, 8), 4);
  EXPECT_EQ(read(s.fd[1], text, 8), 0);
  EXPECT_ERRNO(send(s.fd[1], "x", 1, MSG_NOSIGNAL), EPIPE);
  CountSignals(SIGPIPE);
  EXPECT_ERRNO(write(s.fd[1], "x", 1), EPIPE);
  EXPECT_EQ(SignalCount(), 1);
}

GUEST_TEST(UnixStream, UnreadDataResetsThePeer) {
  Pair s(SOCK_STREAM);
  MUST(write(s.fd[0], "unread", 6));
  close(s.fd[1]);
  char byte;
  EXPECT_ERRNO(read(s.fd[0], &byte, 1), ECONNRESET);
  EXPECT_EQ(read(s.fd[0], &byte, 1), 0);
}

GUEST_TEST(UnixStream, ShutdownHalves) {
  Pair s(SOCK_STREAM);
  MUST(write(s.fd[0], "x", 1));
  MUST(shutdown(s.fd[0], SHUT_WR));
  EXPECT_ERRNO(send(s.fd[0], "y", 1, MSG_NOSIGNAL), EPIPE);
  CheckpointHere();
  char byte;
  EXPECT_EQ(read(s.fd[1], &byte, 1), 1);
  EXPECT_EQ(read(s.fd[1], &byte, 1), 0);
  EXPECT_EQ(write(s.fd[1], "z", 1), 1);
  EXPECT_EQ(read(s.fd[0], &byte, 1), 1);
  MUST(shutdown(s.fd[0], SHUT_RD));
  EXPECT_EQ(read(s.fd[0], &byte, 1), 0);
  EXPECT_ERRNO(shutdown(s.fd[0], 5), EINVAL);
}

GUEST_TEST(UnixStream, NonblockingLimits) {
  Pair s(SOCK_STREAM | SOCK_NONBLOCK);
  static char block[8192];
  char byte;
  EXPECT_ERRNO(read(s.fd[0], &byte, 1), EAGAIN);
  size_t sent = 0;
  ssize_t n = 0;
  while ((n = write(s.fd[0], block, sizeof(block))) > 0) sent += n;
  EXPECT_EQ(errno, EAGAIN);
  EXPECT_GT(sent, 65536);
  CheckpointHere();
  size_t received = 0;
  while ((n = read(s.fd[1], block, sizeof(block))) > 0) received += n;
  EXPECT_EQ(received, sent);
  EXPECT_EQ(write(s.fd[0], block, 100), 100);
}

GUEST_TEST(UnixStream, ListenConnectAccept) {
  TempDir dir;
  const Str path = dir / "sock";
  const int listener = Listener(path);
  const int client = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
  MUST(Connect(client, path));
  MUST(write(client, "early", 5));
  CheckpointHere();
  sockaddr_un peer = {};
  socklen_t length = sizeof(peer);
  const int server = MUST(accept4(listener, reinterpret_cast<sockaddr*>(&peer), &length, SOCK_CLOEXEC));
  EXPECT_EQ(length, 2);  // The client has no name.
  EXPECT_EQ(fcntl(server, F_GETFD), FD_CLOEXEC);
  char text[8] = {};
  EXPECT_EQ(read(server, text, 8), 5);
  EXPECT_STREQ(text, "early");
  length = sizeof(peer);
  MUST(getpeername(client, reinterpret_cast<sockaddr*>(&peer), &length));
  EXPECT_STREQ(peer.sun_path, path);
}

GUEST_TEST(UnixStream, BlockedAcceptWakes) {
  TempDir dir;
  const Str path = dir / "sock";
  const int listener = Listener(path);
  const pid_t pid = Fork([&] {
    const int server = MUST(accept(listener, nullptr, nullptr));
    MUST(write(server, "ok", 2));
  });
  AwaitAsleep(pid);
  CheckpointHere();
  const int client = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
  MUST(Connect(client, path));
  char text[4] = {};
  EXPECT_EQ(read(client, text, 4), 2);
  JOIN_OK(pid);
}

GUEST_TEST(UnixStream, ConnectErrors) {
  TempDir dir;
  const int client = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
  EXPECT_ERRNO(Connect(client, dir / "none"), ENOENT);
  WriteFile(dir / "plain", "");
  EXPECT_ERRNO(Connect(client, dir / "plain"), ECONNREFUSED);
  const int bound = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
  MUST(Bind(bound, dir / "sock"));
  EXPECT_ERRNO(Connect(client, dir / "sock"), ECONNREFUSED);  // Nobody listens.
  EXPECT_ERRNO(accept(bound, nullptr, nullptr), EINVAL);
  const int datagram = MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
  MUST(listen(bound, 1));
  EXPECT_ERRNO(Connect(datagram, dir / "sock"), EPROTOTYPE);
  MUST(Connect(client, dir / "sock"));
  EXPECT_ERRNO(Connect(client, dir / "sock"), EISCONN);
}

GUEST_TEST(UnixStream, FullBacklogRefusesNonblocking) {
  TempDir dir;
  Listener(dir / "sock", SOCK_STREAM, 0);
  const int first = MUST(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0));
  EXPECT_OK(Connect(first, dir / "sock"));
  const int second = MUST(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0));
  EXPECT_ERRNO(Connect(second, dir / "sock"), EAGAIN);
}

GUEST_TEST(UnixStream, BindErrors) {
  TempDir dir;
  const int fd = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
  MUST(Bind(fd, dir / "sock"));
  EXPECT_ERRNO(Bind(fd, dir / "other"), EINVAL);
  const int second = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
  EXPECT_ERRNO(Bind(second, dir / "sock"), EADDRINUSE);
  EXPECT_ERRNO(Bind(second, dir / "no/such"), ENOENT);
  struct stat status = {};
  MUST(stat(dir / "sock", &status));
  EXPECT(S_ISSOCK(status.st_mode));
  EXPECT_ERRNO(open(dir / "sock", O_RDWR), ENXIO);
}

GUEST_TEST(UnixStream, AbstractNames) {
  const int listener = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
  sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = {}};
  snprintf(address.sun_path + 1, sizeof(address.sun_path) - 1, "guest-test-%d", getpid());
  const socklen_t length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + strlen(address.sun_path + 1));
  const auto* generic = reinterpret_cast<const sockaddr*>(&address);
  MUST(bind(listener, generic, length));
  MUST(listen(listener, 1));
  CheckpointHere();
  const int client = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
  EXPECT_ERRNO(connect(client, generic, length - 1),
               ECONNREFUSED);  // The length is part of the name.
  EXPECT_OK(connect(client, generic, length));
  close(listener);
  const int again = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
  EXPECT_OK(bind(again, generic, length));  // The name went with its socket.
}

GUEST_TEST(UnixStream, Autobind) {
  const int fd = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
  const sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = {}};
  MUST(bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(sa_family_t)));
  sockaddr_un name = {};
  socklen_t length = sizeof(name);
  MUST(getsockname(fd, reinterpret_cast<sockaddr*>(&name), &length));
  EXPECT_EQ(length, sizeof(sa_family_t) + 6);
  EXPECT_EQ(name.sun_path[0], '\0');
}

GUEST_TEST(UnixStream, PeekLeavesData) {
  Pair s(SOCK_STREAM);
  MUST(write(s.fd[0], "peek", 4));
  char text[8] = {};
  EXPECT_EQ(recv(s.fd[1], text, 2, MSG_PEEK), 2);
  EXPECT_EQ(recv(s.fd[1], text, 8, MSG_PEEK), 4);
  EXPECT_EQ(recv(s.fd[1], text, 8, MSG_DONTWAIT), 4);
  EXPECT_ERRNO(recv(s.fd[1], text, 8, MSG_DONTWAIT), EAGAIN);
}

GUEST_TEST(UnixStream, WaitallWaits) {
  Pair s(SOCK_STREAM);
  const pid_t pid = Fork([&] {
    char text[8] = {};
    EXPECT_EQ(recv(s.fd[1], text, 6, MSG_WAITALL), 6);
    EXPECT_STREQ(text, "abcdef");
  });
  MUST(write(s.fd[0], "abc", 3));
  AwaitAsleep(pid);
  CheckpointHere();
  MUST(write(s.fd[0], "def", 3));
  JOIN_OK(pid);
}

GUEST_TEST(UnixStream, ReceiveTimeout) {
  Pair s(SOCK_STREAM);
  const timeval timeout = {0, 30000};
  MUST(setsockopt(s.fd[0], SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)));
  const int64_t start = NowNs();
  char byte;
  EXPECT_ERRNO(recv(s.fd[0], &byte, 1, 0), EAGAIN);
  EXPECT_GE(NowNs() - start, 30 * kMs);
}

GUEST_TEST(UnixStream, CountsQueuedBytes) {
  Pair s(SOCK_STREAM);
  MUST(write(s.fd[0], "12345", 5));
  int bytes = 0;
  MUST(ioctl(s.fd[1], FIONREAD, &bytes));
  EXPECT_EQ(bytes, 5);
}

GUEST_TEST(UnixDatagram, KeepsBoundariesAndTruncates) {
  Pair s(SOCK_DGRAM);
  MUST(send(s.fd[0], "first", 5, 0));
  MUST(send(s.fd[0], "", 0, 0));
  MUST(send(s.fd[0], "third message", 13, 0));
  CheckpointHere();
  char text[16] = {};
  EXPECT_EQ(recv(s.fd[1], text, 16, 0), 5);
  EXPECT_EQ(recv(s.fd[1], text, 16, 0), 0);
  iovec data = {text, 5};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  EXPECT_EQ(recvmsg(s.fd[1], &message, 0), 5);
  EXPECT_EQ(message.msg_flags & MSG_TRUNC, MSG_TRUNC);
  EXPECT_ERRNO(recv(s.fd[1], text, 16, MSG_DONTWAIT), EAGAIN);
}

GUEST_TEST(UnixDatagram, TruncFlagTellsTheRealLength) {
  Pair s(SOCK_DGRAM);
  MUST(send(s.fd[0], "long message", 12, 0));
  char text[4];
  EXPECT_EQ(recv(s.fd[1], text, 4, MSG_TRUNC), 12);
}

GUEST_TEST(UnixDatagram, SendToANameAndReply) {
  TempDir dir;
  const int server = MUST(socket(AF_UNIX, SOCK_DGRAM, 0)), client = MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
  MUST(Bind(server, dir / "server"));
  MUST(Bind(client, dir / "client"));
  const sockaddr_un to = Address(dir / "server");
  EXPECT_EQ(sendto(client, "hi", 2, 0, reinterpret_cast<const sockaddr*>(&to), sizeof(to)), 2);
  CheckpointHere();
  char text[8] = {};
  sockaddr_un from = {};
  socklen_t length = sizeof(from);
  EXPECT_EQ(recvfrom(server, text, 8, 0, reinterpret_cast<sockaddr*>(&from), &length), 2);
  EXPECT_STREQ(from.sun_path, dir / "client");
  EXPECT_EQ(sendto(server, "yo", 2, 0, reinterpret_cast<sockaddr*>(&from), length), 2);
  EXPECT_EQ(recv(client, text, 8, 0), 2);
  EXPECT_ERRNO(send(client, "x", 1, 0), ENOTCONN);
  close(server);
  EXPECT_ERRNO(sendto(client, "x", 1, 0, reinterpret_cast<const sockaddr*>(&to), sizeof(to)), ECONNREFUSED);
}

GUEST_TEST(UnixDatagram, ConnectedOnlyHearsItsPeer) {
  TempDir dir;
  const int a = MUST(socket(AF_UNIX, SOCK_DGRAM, 0)), b = MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
  const int c = MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
  MUST(Bind(a, dir / "a"));
  MUST(Bind(b, dir / "b"));
  MUST(Connect(a, dir / "b"));
  EXPECT_ERRNO(Connect(c, dir / "a"), EPERM);
  MUST(Connect(b, dir / "a"));
  EXPECT_EQ(send(b, "x", 1, 0), 1);
}

GUEST_TEST(UnixSeqpacket, KeepsBoundariesWithConnection) {
  TempDir dir;
  const int listener = Listener(dir / "sock", SOCK_SEQPACKET);
  const int client = MUST(socket(AF_UNIX, SOCK_SEQPACKET, 0));
  MUST(Connect(client, dir / "sock"));
  const int server = MUST(accept(listener, nullptr, nullptr));
  MUST(send(client, "one", 3, 0));
  MUST(send(client, "two", 3, 0));
  CheckpointHere();
  char text[8] = {};
  EXPECT_EQ(recv(server, text, 8, 0), 3);
  EXPECT_STREQ(text, "one");
  EXPECT_EQ(recv(server, text, 1, 0), 1);
  close(client);
  EXPECT_EQ(recv(server, text, 8, 0), 0);
}
