// Unix sockets at their edges: names, what can be connected to what, ancillary data's limits, queues, readiness of peers.
#include <grp.h>
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

int Listener(const char* path, int type = SOCK_STREAM, int backlog = 5) {
  const int fd = MUST(socket(AF_UNIX, type, 0));
  const Name name(path);
  MUST(bind(fd, name.get(), name.length));
  if (type != SOCK_DGRAM) MUST(listen(fd, backlog));
  return fd;
}

}  // namespace

GUEST_TEST(UnixName, LengthsOfAddresses) {
  TempDir dir;
  const int fd = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
  Name name(dir / "s");
  EXPECT_ERRNO(bind(fd, name.get(), 1), EINVAL);
  EXPECT_ERRNO(bind(fd, name.get(), sizeof(sockaddr_un) + 1), EINVAL);
  EXPECT_OK(bind(fd, name.get(), name.length - 1));  // The terminator isn't needed.
  sockaddr_un told = {};
  socklen_t length = sizeof(told);
  MUST(getsockname(fd, reinterpret_cast<sockaddr*>(&told), &length));
  EXPECT_EQ(length, name.length);  // But told.
  EXPECT_STREQ(told.sun_path, dir / "s");
  const Name other(dir / "t");
  EXPECT_ERRNO(bind(fd, other.get(), other.length), EINVAL);
}

GUEST_TEST(UnixName, PathErrors) {
  TempDir dir;
  WriteFile(dir / "file", "");
  const int fd = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
  const Name taken(dir / "file"), missing(dir / "none/s"), through(dir / "file/s");
  EXPECT_ERRNO(bind(fd, taken.get(), taken.length), EADDRINUSE);
  EXPECT_ERRNO(bind(fd, missing.get(), missing.length), ENOENT);
  EXPECT_ERRNO(bind(fd, through.get(), through.length), ENOTDIR);
  EXPECT_ERRNO(connect(fd, taken.get(), taken.length), ECONNREFUSED);  // It is no socket.
  EXPECT_ERRNO(connect(fd, missing.get(), missing.length), ENOENT);
}

GUEST_TEST(UnixName, ModeOfTheNode) {
  TempDir dir;
  umask(027);
  Listener(dir / "s");
  struct stat status = {};
  MUST(lstat(dir / "s", &status));
  EXPECT_EQ(status.st_mode, S_IFSOCK | 0750);
  const Name name(dir / "s");
  AS_USER([&] { EXPECT_ERRNO(connect(MUST(socket(AF_UNIX, SOCK_STREAM, 0)), name.get(), name.length), EACCES); });
  MUST(chmod(dir / "s", 0002));
  AS_USER([&] { EXPECT_OK(connect(MUST(socket(AF_UNIX, SOCK_STREAM, 0)), name.get(), name.length)); });
}

GUEST_TEST(UnixName, RenamedAndUnlinkedNodes) {
  TempDir dir;
  const int listener = Listener(dir / "s");
  MUST(rename(dir / "s", dir / "t"));
  CheckpointHere();
  const Name moved(dir / "t");
  EXPECT_OK(connect(MUST(socket(AF_UNIX, SOCK_STREAM, 0)), moved.get(), moved.length));
  EXPECT_OK(accept(listener, nullptr, nullptr));
  MUST(unlink(dir / "t"));
  EXPECT_ERRNO(connect(MUST(socket(AF_UNIX, SOCK_STREAM, 0)), moved.get(), moved.length), ENOENT);
}

GUEST_TEST(UnixName, AbstractOnesMayHoldZeros) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  memcpy(address.sun_path, "\0a\0b", 4);
  const int own = getpid();
  memcpy(address.sun_path + 4, &own, sizeof(int));
  const socklen_t length = offsetof(sockaddr_un, sun_path) + 8;
  const int fd = MUST(socket(AF_UNIX, SOCK_DGRAM, 0)), other = MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
  EXPECT_OK(bind(fd, reinterpret_cast<sockaddr*>(&address), length));
  EXPECT_ERRNO(bind(other, reinterpret_cast<sockaddr*>(&address), length), EADDRINUSE);
  EXPECT_OK(bind(other, reinterpret_cast<sockaddr*>(&address), length - 1));  // Another name.
  sockaddr_un told = {};
  socklen_t told_length = sizeof(told);
  CheckpointHere();
  MUST(getsockname(fd, reinterpret_cast<sockaddr*>(&told), &told_length));
  EXPECT_EQ(told_length, length);
  EXPECT_EQ(memcmp(told.sun_path, address.sun_path, 8), 0);
}

GUEST_TEST(UnixName, UnboundPeersHaveNone) {
  Pair pair;
  sockaddr_un told = {};
  socklen_t length = sizeof(told);
  MUST(getsockname(pair.a, reinterpret_cast<sockaddr*>(&told), &length));
  EXPECT_EQ(length, sizeof(sa_family_t));
  length = sizeof(told);
  MUST(getpeername(pair.a, reinterpret_cast<sockaddr*>(&told), &length));
  EXPECT_EQ(length, sizeof(sa_family_t));
  EXPECT_ERRNO(getpeername(MUST(socket(AF_UNIX, SOCK_STREAM, 0)), reinterpret_cast<sockaddr*>(&told), &length), ENOTCONN);
}

GUEST_TEST(UnixConnect, KindsHaveToMatch) {
  TempDir dir;
  Listener(dir / "stream");
  Listener(dir / "datagram", SOCK_DGRAM);
  const Name stream(dir / "stream"), datagram(dir / "datagram");
  EXPECT_ERRNO(connect(MUST(socket(AF_UNIX, SOCK_DGRAM, 0)), stream.get(), stream.length), EPROTOTYPE);
  EXPECT_ERRNO(connect(MUST(socket(AF_UNIX, SOCK_STREAM, 0)), datagram.get(), datagram.length), EPROTOTYPE);
  EXPECT_ERRNO(connect(MUST(socket(AF_UNIX, SOCK_SEQPACKET, 0)), stream.get(), stream.length), EPROTOTYPE);
}

GUEST_TEST(UnixConnect, StreamsOnceDatagramsAgain) {
  TempDir dir;
  Listener(dir / "s");
  const Name name(dir / "s");
  const int fd = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
  MUST(connect(fd, name.get(), name.length));
  EXPECT_ERRNO(connect(fd, name.get(), name.length), EISCONN);
  const int first = Listener(dir / "a", SOCK_DGRAM), second = Listener(dir / "b", SOCK_DGRAM);
  const Name a(dir / "a"), b(dir / "b");
  const int sender = MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
  MUST(connect(sender, a.get(), a.length));
  MUST(connect(sender, b.get(), b.length));
  MUST(send(sender, "x", 1, 0));
  char byte;
  EXPECT_ERRNO(recv(first, &byte, 1, MSG_DONTWAIT), EAGAIN);
  EXPECT_EQ(recv(second, &byte, 1, MSG_DONTWAIT), 1);
  const sockaddr none = {.sa_family = AF_UNSPEC, .sa_data = {}};
  EXPECT_OK(connect(sender, &none, sizeof(none)));
  EXPECT_ERRNO(send(sender, "x", 1, 0), ENOTCONN);
}

GUEST_TEST(UnixConnect, ClosedListenerAndPending) {
  TempDir dir;
  const int listener = Listener(dir / "s");
  const Name name(dir / "s");
  const int client = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
  MUST(connect(client, name.get(), name.length));
  MUST(send(client, "x", 1, 0));
  close(listener);
  char byte;
  EXPECT_ERRNO(recv(client, &byte, 1, 0), ECONNRESET);
  EXPECT_ERRNO(send(client, "x", 1, MSG_NOSIGNAL), EPIPE);
  EXPECT_ERRNO(connect(MUST(socket(AF_UNIX, SOCK_STREAM, 0)), name.get(), name.length), ECONNREFUSED);
}

GUEST_TEST(UnixTransfer, SizesOfDatagrams) {
  Pair pair(SOCK_DGRAM);
  const int buffer = 4096;
  MUST(setsockopt(pair.a, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof(buffer)));
  char* memory = Pages(64);
  EXPECT_ERRNO(send(pair.a, memory, 64 * kPage, 0), EMSGSIZE);
  EXPECT_EQ(send(pair.a, memory, 0, 0), 0);  // An empty one arrives, too.
  char byte;
  EXPECT_EQ(recv(pair.b, &byte, 1, MSG_DONTWAIT), 0);
  EXPECT_ERRNO(recv(pair.b, &byte, 1, MSG_DONTWAIT), EAGAIN);
}

GUEST_TEST(UnixTransfer, StreamAddressesAreRefused) {
  TempDir dir;
  Listener(dir / "s");
  const Name name(dir / "s");
  Pair pair;
  EXPECT_ERRNO(sendto(pair.a, "x", 1, 0, name.get(), name.length), EISCONN);
  EXPECT_ERRNO(sendto(MUST(socket(AF_UNIX, SOCK_STREAM, 0)), "x", 1, 0, name.get(), name.length), EOPNOTSUPP);
}

GUEST_TEST(UnixTransfer, DatagramToAClosedPeer) {
  TempDir dir;
  const int receiver = Listener(dir / "s", SOCK_DGRAM);
  const Name name(dir / "s");
  const int sender = MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
  MUST(connect(sender, name.get(), name.length));
  close(receiver);
  EXPECT_ERRNO(send(sender, "x", 1, 0), ECONNREFUSED);
  EXPECT_ERRNO(send(sender, "x", 1, 0), ENOTCONN);  // The connection went with the first error.
  EXPECT_ERRNO(sendto(sender, "x", 1, 0, name.get(), name.length), ECONNREFUSED);
}

GUEST_TEST(UnixTransfer, FullDatagramQueue) {
  Pair pair(SOCK_DGRAM);
  int sent = 0;
  while (send(pair.a, "x", 1, MSG_DONTWAIT) == 1) ++sent;
  EXPECT_EQ(errno, EAGAIN);
  EXPECT_GT(sent, 5);
  pollfd one = {pair.a, POLLOUT, 0};
  EXPECT_EQ(poll(&one, 1, 0), 0);
  const pid_t pid = Fork([&] { EXPECT_EQ(send(pair.a, "y", 1, 0), 1); });
  AwaitAsleep(pid);
  CheckpointHere();
  char byte;
  while (recv(pair.b, &byte, 1, MSG_DONTWAIT) == 1) {  // Senders are woken when there is room for more than one.
  }
  JOIN_OK(pid);
}

GUEST_TEST(UnixTransfer, SeqpacketEndsAreToldOnce) {
  Pair pair(SOCK_SEQPACKET);
  MUST(send(pair.a, "one", 3, 0));
  MUST(send(pair.a, "two", 3, MSG_EOR));
  char text[16];
  EXPECT_EQ(recv(pair.b, text, 2, 0), 2);  // The rest of the record is lost.
  EXPECT_EQ(recv(pair.b, text, 16, 0), 3);
  EXPECT_EQ(memcmp(text, "two", 3), 0);
  close(pair.a);
  EXPECT_EQ(recv(pair.b, text, 16, 0), 0);
  EXPECT_ERRNO(send(pair.b, "x", 1, MSG_NOSIGNAL), EPIPE);
}

GUEST_TEST(UnixTransfer, PeekOffset) {
  Pair pair;
  MUST(send(pair.a, "abcdef", 6, 0));
  int offset = 2;
  if (setsockopt(pair.b, SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof(offset)) < 0 && errno == EOPNOTSUPP) Skip("no SO_PEEK_OFF");
  char text[4] = {};
  EXPECT_EQ(recv(pair.b, text, 2, MSG_PEEK), 2);
  EXPECT_STREQ(text, "cd");
  EXPECT_EQ(recv(pair.b, text, 2, MSG_PEEK), 2);  // And moves on.
  EXPECT_STREQ(text, "ef");
  EXPECT_EQ(recv(pair.b, text, 3, 0), 3);
  EXPECT_EQ(text[0], 'a');
}

GUEST_TEST(UnixTransfer, UrgentData) {
  Pair pair;
  const ssize_t sent = send(pair.a, "ab!", 3, MSG_OOB);
  if (sent < 0 && errno == EOPNOTSUPP) Skip("no urgent data on Unix sockets");
  char text[4] = {};
  EXPECT_EQ(recv(pair.b, text, 1, MSG_OOB), 1);
  EXPECT_EQ(text[0], '!');
  EXPECT_EQ(recv(pair.b, text, 4, 0), 2);
}

GUEST_TEST(UnixRights, HowManyAtOnce) {
  Pair pair;
  static int fds[300];
  for (int& fd : fds) fd = 1;
  EXPECT_EQ(SendFds(pair.a, fds, 253), 1);
  EXPECT_ERRNO(SendFds(pair.a, fds, 254), EINVAL);
  CheckpointHere();
  EXPECT_EQ(ReceiveFds(pair.b, nullptr, 253), 253);
}

GUEST_TEST(UnixRights, TruncatedListsAreClosed) {
  Pair pair;
  Pipe p;
  const int fds[2] = {p.w, p.w};
  MUST(SendFds(pair.a, fds, 2));
  int first = -1, flags = 0;
  EXPECT_EQ(ReceiveFds(pair.b, &first, 1, 0, &flags), 1);
  EXPECT_EQ(flags & MSG_CTRUNC, MSG_CTRUNC);
  close(first);
  p.CloseWrite();
  char byte;
  EXPECT_EQ(read(p.r, &byte, 1), 0);  // Nobody holds the other one.
}

GUEST_TEST(UnixRights, CloexecOnReceipt) {
  Pair pair;
  const int one = 1;
  int fd = -1, flags = 0;
  MUST(SendFds(pair.a, &one, 1));
  EXPECT_EQ(ReceiveFds(pair.b, &fd, 1, MSG_CMSG_CLOEXEC, &flags), 1);
  EXPECT_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
  MUST(SendFds(pair.a, &one, 1));
  EXPECT_EQ(ReceiveFds(pair.b, &fd, 1, 0, &flags), 1);
  EXPECT_EQ(fcntl(fd, F_GETFD), 0);
}

GUEST_TEST(UnixRights, PeekingGivesCopies) {
  Pair pair;
  Pipe p;
  MUST(SendFds(pair.a, &p.w, 1));
  int peeked = -1, taken = -1;
  EXPECT_EQ(ReceiveFds(pair.b, &peeked, 1, MSG_PEEK), 1);
  EXPECT_EQ(ReceiveFds(pair.b, &taken, 1), 1);
  EXPECT_NE(peeked, taken);
  EXPECT_EQ(write(peeked, "p", 1), 1);
  EXPECT_EQ(write(taken, "t", 1), 1);
}

GUEST_TEST(UnixRights, PlainReadDropsThem) {
  Pair pair;
  Pipe p;
  MUST(SendFds(pair.a, &p.w, 1));
  p.CloseWrite();
  char byte;
  CheckpointHere();
  EXPECT_EQ(read(pair.b, &byte, 1), 1);
  EXPECT_EQ(read(p.r, &byte, 1), 0);
}

GUEST_TEST(UnixCredentials, ForgedOnesAreRefusedToUsers) {
  Pair pair;
  const int on = 1;
  MUST(setsockopt(pair.b, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)));
  const auto send_as = [&](ucred credentials) {
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(ucred))] = {};
    char byte = 'c';
    iovec vector = {&byte, 1};
    msghdr message = {};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_CREDENTIALS;
    header->cmsg_len = CMSG_LEN(sizeof(ucred));
    memcpy(CMSG_DATA(header), &credentials, sizeof(credentials));
    return sendmsg(pair.a, &message, 0);
  };
  EXPECT_EQ(send_as({getpid(), 0, 0}), 1);
  EXPECT_EQ(send_as({getpid(), 55, 66}), 1);  // Root may say anything.
  EXPECT_ERRNO(send_as({4'000'000, 0, 0}), ESRCH);
  AS_USER([&] {
    EXPECT_EQ(send_as({getpid(), 1000, 1000}), 1);
    EXPECT_ERRNO(send_as({getpid(), 0, 1000}), EPERM);
    EXPECT_ERRNO(send_as({1, 1000, 1000}), EPERM);
  });
}

GUEST_TEST(UnixOptionsMore, PeerGroupsAndPidfd) {
  const gid_t groups[2] = {5, 9};
  MUST(setgroups(2, groups));
  Pair pair;
  gid_t told[4] = {};
  socklen_t length = sizeof(told);
  EXPECT_OK(getsockopt(pair.a, SOL_SOCKET, 59 /*SO_PEERGROUPS*/, told, &length));
  EXPECT_EQ(length, 8);
  EXPECT_EQ(told[1], 9);
  length = 4;
  EXPECT_ERRNO(getsockopt(pair.a, SOL_SOCKET, 59, told, &length), ERANGE);
  int fd = -1;
  length = sizeof(fd);
  EXPECT_OK(getsockopt(pair.a, SOL_SOCKET, 77 /*SO_PEERPIDFD*/, &fd, &length));
  EXPECT_OK(syscall(SYS_pidfd_send_signal, fd, 0, nullptr, 0));
}

GUEST_TEST(UnixShutdown, EachHalf) {
  Pair pair;
  MUST(send(pair.a, "before", 6, 0));
  MUST(shutdown(pair.b, SHUT_RD));
  EXPECT_ERRNO(send(pair.a, "x", 1, MSG_NOSIGNAL), EPIPE);
  char text[8];
  EXPECT_EQ(recv(pair.b, text, 8, 0), 6);  // What came before is still there.
  EXPECT_EQ(recv(pair.b, text, 8, 0), 0);
  EXPECT_EQ(send(pair.b, "back", 4, 0), 4);
  CheckpointHere();
  EXPECT_EQ(recv(pair.a, text, 8, 0), 4);
  MUST(shutdown(pair.b, SHUT_RDWR));
  EXPECT_EQ(recv(pair.a, text, 8, 0), 0);
}

GUEST_TEST(UnixShutdown, WakesABlockedReader) {
  Pair pair;
  const pid_t pid = Fork([&] {
    char byte;
    EXPECT_EQ(recv(pair.b, &byte, 1, 0), 0);
  });
  AwaitAsleep(pid);
  MUST(shutdown(pair.b, SHUT_RD));
  JOIN_OK(pid);
}
