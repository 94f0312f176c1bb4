// TCP and UDP over loopback, IPv4 and IPv6.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

struct Address {
  explicit Address(int family, uint16_t port = 0) {
    if (family == AF_INET) {
      v4 = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}, .sin_zero = {}};
      size = sizeof(v4);
    } else {
      v6 = {};
      v6.sin6_family = AF_INET6;
      v6.sin6_port = htons(port);
      v6.sin6_addr = in6addr_loopback;
      size = sizeof(v6);
    }
  }
  uint16_t port() const { return ntohs(v4.sin_port); }
  sockaddr* get() { return reinterpret_cast<sockaddr*>(&v4); }
  union {
    sockaddr_in v4;
    sockaddr_in6 v6;
  };
  socklen_t size;
};

Address LocalOf(int fd) {
  Address a(AF_INET6);
  a.size = sizeof(a.v6);
  MUST(getsockname(fd, a.get(), &a.size));
  return a;
}

int Listener(int family, int backlog = 8) {
  const int fd = MUST(socket(family, SOCK_STREAM, 0));
  Address a(family);
  MUST(bind(fd, a.get(), a.size));
  MUST(listen(fd, backlog));
  return fd;
}

// A connected pair: [0] called, [1] was accepted.
struct TcpPair {
  explicit TcpPair(int family = AF_INET) {
    listener = Listener(family);
    Address a = LocalOf(listener);
    fd[0] = MUST(socket(family, SOCK_STREAM, 0));
    MUST(connect(fd[0], a.get(), a.size));
    fd[1] = MUST(accept(listener, nullptr, nullptr));
  }
  ~TcpPair() {
    close(fd[0]);
    close(fd[1]);
    close(listener);
  }
  int listener;
  int fd[2];
};

int UdpSocket(int family) {
  const int fd = MUST(socket(family, SOCK_DGRAM, 0));
  Address a(family);
  MUST(bind(fd, a.get(), a.size));
  return fd;
}

template <typename T>
T Option(int fd, int level, int name) {
  T value{};
  socklen_t size = sizeof(value);
  MUST(getsockopt(fd, level, name, &value, &size));
  return value;
}

void SetOption(int fd, int level, int name, int value) { MUST(setsockopt(fd, level, name, &value, sizeof(value))); }

int PollNow(int fd, int events) {
  pollfd p = {fd, static_cast<short>(events), 0};
  MUST(poll(&p, 1, 0));
  return p.revents;
}

int PollWait(int fd, int events) {
  pollfd p = {fd, static_cast<short>(events), 0};
  MUST(poll(&p, 1, 10000));
  return p.revents;
}

}  // namespace

GUEST_TEST(Tcp, BytesBothWays) {
  TcpPair s;
  EXPECT_EQ(write(s.fd[0], "hello", 5), 5);
  EXPECT_EQ(write(s.fd[1], "back", 4), 4);
  CheckpointHere();
  char text[16] = {};
  EXPECT_EQ(read(s.fd[1], text, sizeof(text)), 5);
  EXPECT_STREQ(text, "hello");
  EXPECT_EQ(read(s.fd[0], text, sizeof(text)), 4);
  EXPECT_EQ(write(s.fd[0], "again", 5), 5);
  EXPECT_EQ(read(s.fd[1], text, sizeof(text)), 5);
}

GUEST_TEST(Tcp, SixBytesBothWays) {
  TcpPair s(AF_INET6);
  EXPECT_EQ(write(s.fd[0], "hello6", 6), 6);
  CheckpointHere();
  char text[16] = {};
  EXPECT_EQ(read(s.fd[1], text, sizeof(text)), 6);
  EXPECT_STREQ(text, "hello6");
}

GUEST_TEST(Tcp, Names) {
  TcpPair s;
  Address client = LocalOf(s.fd[0]), server = LocalOf(s.fd[1]), peer(AF_INET6);
  MUST(getpeername(s.fd[1], peer.get(), &peer.size));
  EXPECT_EQ(peer.size, sizeof(sockaddr_in));
  EXPECT_EQ(peer.port(), client.port());
  peer.size = sizeof(peer.v6);
  MUST(getpeername(s.fd[0], peer.get(), &peer.size));
  EXPECT_EQ(peer.port(), server.port());
  EXPECT_EQ(peer.v4.sin_addr.s_addr, htonl(INADDR_LOOPBACK));
  EXPECT_EQ(server.port(), LocalOf(s.listener).port());
  EXPECT_ERRNO(getpeername(s.listener, peer.get(), &peer.size), ENOTCONN);
}

GUEST_TEST(Tcp, RefusedAndUnbound) {
  const int fd = MUST(socket(AF_INET, SOCK_STREAM, 0));
  const int taken = MUST(socket(AF_INET, SOCK_STREAM, 0));
  Address a(AF_INET);
  MUST(bind(taken, a.get(), a.size));
  a = LocalOf(taken);
  EXPECT_ERRNO(connect(fd, a.get(), a.size), ECONNREFUSED);
  EXPECT_ERRNO(connect(fd, a.get(), a.size), ECONNREFUSED);
  EXPECT_EQ(Option<int>(fd, SOL_SOCKET, SO_ERROR), 0);
  EXPECT_ERRNO(send(fd, "x", 1, MSG_NOSIGNAL), EPIPE);
  char byte;
  const int fresh = MUST(socket(AF_INET, SOCK_STREAM, 0));
  EXPECT_ERRNO(recv(fresh, &byte, 1, 0), ENOTCONN);
  EXPECT_ERRNO(shutdown(fresh, SHUT_RD), ENOTCONN);
  EXPECT_ERRNO(accept(fresh, nullptr, nullptr), EINVAL);
  // The refused shutdown counts (inet_shutdown).
  EXPECT_EQ(PollNow(fresh, POLLIN | POLLOUT), POLLIN | POLLOUT | POLLHUP);
  EXPECT_EQ(recv(fresh, &byte, 1, 0), 0);
  const int other = MUST(socket(AF_INET, SOCK_STREAM, 0));
  EXPECT_EQ(PollNow(other, POLLIN | POLLOUT), POLLOUT | POLLHUP);
}

GUEST_TEST(Tcp, AddressInUse) {
  const int a = Listener(AF_INET);
  Address where = LocalOf(a);
  const int b = MUST(socket(AF_INET, SOCK_STREAM, 0));
  EXPECT_ERRNO(bind(b, where.get(), where.size), EADDRINUSE);
  SetOption(b, SOL_SOCKET, SO_REUSEADDR, 1);
  EXPECT_ERRNO(bind(b, where.get(), where.size), EADDRINUSE);
  Address other = where;
  other.v4.sin_addr.s_addr = htonl(0x7f000002);
  MUST(bind(b, other.get(), other.size));
  EXPECT_ERRNO(bind(b, other.get(), other.size), EINVAL);
  const int c = MUST(socket(AF_INET, SOCK_STREAM, 0));
  Address foreign(AF_INET);
  foreign.v4.sin_addr.s_addr = htonl(0xc0000201);
  EXPECT_ERRNO(bind(c, foreign.get(), foreign.size), EADDRNOTAVAIL);
  EXPECT_ERRNO(bind(c, foreign.get(), 4), EINVAL);
}

GUEST_TEST(Tcp, ReusePortSharesAListener) {
  const int a = MUST(socket(AF_INET, SOCK_STREAM, 0));
  SetOption(a, SOL_SOCKET, SO_REUSEPORT, 1);
  Address where(AF_INET);
  MUST(bind(a, where.get(), where.size));
  MUST(listen(a, 5));
  where = LocalOf(a);
  const int b = MUST(socket(AF_INET, SOCK_STREAM, 0));
  EXPECT_ERRNO(bind(b, where.get(), where.size), EADDRINUSE);
  SetOption(b, SOL_SOCKET, SO_REUSEPORT, 1);
  MUST(bind(b, where.get(), where.size));
  MUST(listen(b, 5));
}

GUEST_TEST(Tcp, EofAndPipe) {
  TcpPair s;
  MUST(write(s.fd[0], "last", 4));
  MUST(shutdown(s.fd[0], SHUT_WR));
  EXPECT_ERRNO(send(s.fd[0], "x", 1, MSG_NOSIGNAL), EPIPE);
  CheckpointHere();
  char text[8];
  EXPECT_EQ(read(s.fd[1], text, 8), 4);
  EXPECT_EQ(read(s.fd[1], text, 8), 0);
  EXPECT_EQ(PollNow(s.fd[1], POLLIN | POLLRDHUP | POLLOUT), POLLIN | POLLRDHUP | POLLOUT);
  EXPECT_EQ(write(s.fd[1], "more", 4), 4);
  EXPECT_EQ(read(s.fd[0], text, 8), 4);
  MUST(shutdown(s.fd[1], SHUT_WR));
  EXPECT_EQ(read(s.fd[0], text, 8), 0);
  EXPECT_EQ(PollNow(s.fd[0], POLLIN | POLLOUT) & (POLLIN | POLLHUP), POLLIN | POLLHUP);
}

GUEST_TEST(Tcp, UnreadDataResetsThePeer) {
  TcpPair s;
  MUST(write(s.fd[0], "unread", 6));
  close(s.fd[1]);
  EXPECT_EQ(PollWait(s.fd[0], POLLIN) & (POLLERR | POLLHUP), POLLERR | POLLHUP);
  char byte;
  EXPECT_ERRNO(read(s.fd[0], &byte, 1), ECONNRESET);
  EXPECT_EQ(read(s.fd[0], &byte, 1), 0);
  CountSignals(SIGPIPE);
  EXPECT_ERRNO(write(s.fd[0], "x", 1), EPIPE);
  EXPECT_EQ(SignalCount(), 1);
}

GUEST_TEST(Tcp, LingerZeroResets) {
  TcpPair s;
  const linger l = {1, 0};
  MUST(setsockopt(s.fd[0], SOL_SOCKET, SO_LINGER, &l, sizeof(l)));
  close(s.fd[0]);
  char byte;
  EXPECT_ERRNO(read(s.fd[1], &byte, 1), ECONNRESET);
}

GUEST_TEST(Tcp, WriteAfterPeerClosed) {
  TcpPair s;
  close(s.fd[1]);
  EXPECT_EQ(write(s.fd[0], "x", 1), 1);
  EXPECT_EQ(PollWait(s.fd[0], POLLERR) & POLLERR, POLLERR);
  EXPECT_ERRNO(send(s.fd[0], "y", 1, MSG_NOSIGNAL), EPIPE);
}

GUEST_TEST(Tcp, BlockingReadWakes) {
  TcpPair s;
  const pid_t child = Fork([&] {
    char text[8];
    EXPECT_EQ(read(s.fd[1], text, 8), 3);
    EXPECT_EQ(write(s.fd[1], "ok", 2), 2);
  });
  AwaitAsleep(child);
  CheckpointHere();
  MUST(write(s.fd[0], "abc", 3));
  char text[8];
  EXPECT_EQ(read(s.fd[0], text, 8), 2);
  JOIN_OK(child);
}

GUEST_TEST(Tcp, BlockingAcceptWakes) {
  const int listener = Listener(AF_INET);
  const pid_t child = Fork([&] {
    const int fd = MUST(accept(listener, nullptr, nullptr));
    EXPECT_EQ(write(fd, "hi", 2), 2);
  });
  AwaitAsleep(child);
  CheckpointHere();
  Address a = LocalOf(listener);
  const int fd = MUST(socket(AF_INET, SOCK_STREAM, 0));
  MUST(connect(fd, a.get(), a.size));
  char text[8];
  EXPECT_EQ(read(fd, text, 8), 2);
  JOIN_OK(child);
}

GUEST_TEST(Tcp, LargeStreamThroughSmallWindows) {
  TcpPair s;
  constexpr size_t kTotal = 8 << 20;
  const pid_t child = Fork([&] {
    close(s.fd[0]);
    static char block[30000];
    size_t at = 0;
    for (;;) {
      const ssize_t n = MUST(read(s.fd[1], block, sizeof(block)));
      if (n == 0) break;
      for (ssize_t i = 0; i < n; ++i, ++at) {
        if (block[i] != static_cast<char>(at * 31 + (at >> 12))) {
          EXPECT_EQ(at, 0u);
          return;
        }
      }
    }
    EXPECT_EQ(at, kTotal);
  });
  static char data[kTotal];
  for (size_t i = 0; i < kTotal; ++i) data[i] = static_cast<char>(i * 31 + (i >> 12));
  EXPECT_EQ(write(s.fd[0], data, kTotal / 2), static_cast<ssize_t>(kTotal / 2));
  CheckpointHere();
  EXPECT_EQ(write(s.fd[0], data + kTotal / 2, kTotal / 2), static_cast<ssize_t>(kTotal / 2));
  MUST(shutdown(s.fd[0], SHUT_WR));
  JOIN_OK(child);
}

GUEST_TEST(Tcp, FullBufferBlocksTheWriter) {
  TcpPair s;
  MUST(fcntl(s.fd[0], F_SETFL, O_NONBLOCK));
  static char block[65536];
  size_t sent = 0;
  ssize_t n;
  while ((n = write(s.fd[0], block, sizeof(block))) > 0) sent += static_cast<size_t>(n);
  EXPECT_EQ(errno, EAGAIN);
  EXPECT_EQ(PollNow(s.fd[0], POLLOUT), 0);
  CheckpointHere();
  size_t got = 0;
  while (got < sent) got += static_cast<size_t>(MUST(read(s.fd[1], block, sizeof(block))));
  EXPECT_EQ(got, sent);
  EXPECT_EQ(PollWait(s.fd[0], POLLOUT), POLLOUT);
}

GUEST_TEST(Tcp, NonblockingConnect) {
  const int listener = Listener(AF_INET);
  Address a = LocalOf(listener);
  const int fd = MUST(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
  EXPECT_ERRNO(connect(fd, a.get(), a.size), EINPROGRESS);
  EXPECT_EQ(PollWait(fd, POLLOUT), POLLOUT);
  EXPECT_EQ(Option<int>(fd, SOL_SOCKET, SO_ERROR), 0);
  EXPECT_EQ(connect(fd, a.get(), a.size), 0);
  EXPECT_ERRNO(connect(fd, a.get(), a.size), EISCONN);
  close(listener);
  const int refused = MUST(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
  EXPECT_ERRNO(connect(refused, a.get(), a.size), EINPROGRESS);
  EXPECT_EQ(PollWait(refused, POLLOUT) & (POLLOUT | POLLERR | POLLHUP), POLLOUT | POLLERR | POLLHUP);
  EXPECT_EQ(Option<int>(refused, SOL_SOCKET, SO_ERROR), ECONNREFUSED);
}

GUEST_TEST(Tcp, ConnectToItself) {
  const int fd = MUST(socket(AF_INET, SOCK_STREAM, 0));
  Address a(AF_INET);
  MUST(bind(fd, a.get(), a.size));
  a = LocalOf(fd);
  MUST(connect(fd, a.get(), a.size));
  EXPECT_EQ(write(fd, "echo", 4), 4);
  CheckpointHere();
  char text[8];
  EXPECT_EQ(read(fd, text, 8), 4);
}

GUEST_TEST(Tcp, PeekTruncWaitall) {
  TcpPair s;
  MUST(write(s.fd[0], "abcdef", 6));
  char text[8] = {};
  EXPECT_EQ(recv(s.fd[1], text, 3, MSG_PEEK), 3);
  EXPECT_EQ(recv(s.fd[1], text, 2, MSG_TRUNC), 2);
  EXPECT_EQ(recv(s.fd[1], text, 8, 0), 4);
  EXPECT_EQ(memcmp(text, "cdef", 4), 0);
  EXPECT_ERRNO(recv(s.fd[1], text, 1, MSG_DONTWAIT), EAGAIN);
  const pid_t child = Fork([&] {
    char all[6];
    EXPECT_EQ(recv(s.fd[1], all, 6, MSG_WAITALL), 6);
  });
  MUST(write(s.fd[0], "123", 3));
  AwaitAsleep(child);
  MUST(write(s.fd[0], "456", 3));
  JOIN_OK(child);
}

GUEST_TEST(Tcp, UrgentByte) {
  TcpPair s;
  MUST(send(s.fd[0], "abc", 3, MSG_OOB));
  MUST(send(s.fd[0], "def", 3, 0));
  EXPECT_EQ(PollWait(s.fd[1], POLLPRI), POLLPRI);
  char text[8] = {};
  CheckpointHere();
  EXPECT_EQ(recv(s.fd[1], text, 8, MSG_OOB), 1);
  EXPECT_EQ(text[0], 'c');
  EXPECT_EQ(recv(s.fd[1], text, 8, 0), 2);
  int mark = 0;
  MUST(ioctl(s.fd[1], SIOCATMARK, &mark));
  EXPECT_EQ(mark, 1);
  EXPECT_EQ(recv(s.fd[1], text, 8, 0), 3);
  EXPECT_ERRNO(recv(s.fd[1], text, 8, MSG_OOB), EINVAL);
}

GUEST_TEST(Tcp, Queues) {
  TcpPair s;
  MUST(write(s.fd[0], "12345", 5));
  PollWait(s.fd[1], POLLIN);
  int n = 0;
  MUST(ioctl(s.fd[1], FIONREAD, &n));
  EXPECT_EQ(n, 5);
  EXPECT_ERRNO(ioctl(s.listener, FIONREAD, &n), EINVAL);
}

GUEST_TEST(Tcp, ReceiveTimeout) {
  TcpPair s;
  const timeval t = {0, 50000};
  MUST(setsockopt(s.fd[0], SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t)));
  char byte;
  EXPECT_ERRNO(recv(s.fd[0], &byte, 1, 0), EAGAIN);
  MUST(setsockopt(s.listener, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t)));
  EXPECT_ERRNO(accept(s.listener, nullptr, nullptr), EAGAIN);
}

GUEST_TEST(Tcp, Options) {
  TcpPair s;
  SetOption(s.fd[0], SOL_TCP, TCP_NODELAY, 1);
  SetOption(s.fd[0], SOL_SOCKET, SO_KEEPALIVE, 1);
  SetOption(s.fd[0], SOL_TCP, TCP_KEEPIDLE, 100);
  SetOption(s.fd[0], SOL_TCP, TCP_USER_TIMEOUT, 5000);
  CheckpointHere();
  EXPECT_EQ(Option<int>(s.fd[0], SOL_TCP, TCP_NODELAY), 1);
  EXPECT_EQ(Option<int>(s.fd[0], SOL_SOCKET, SO_KEEPALIVE), 1);
  EXPECT_EQ(Option<int>(s.fd[0], SOL_TCP, TCP_KEEPIDLE), 100);
  EXPECT_EQ(Option<int>(s.fd[0], SOL_TCP, TCP_KEEPINTVL), 75);
  EXPECT_EQ(Option<int>(s.fd[0], SOL_TCP, TCP_USER_TIMEOUT), 5000);
  EXPECT_EQ(Option<int>(s.fd[0], SOL_SOCKET, SO_TYPE), SOCK_STREAM);
  EXPECT_EQ(Option<int>(s.fd[0], SOL_SOCKET, SO_DOMAIN), AF_INET);
  EXPECT_EQ(Option<int>(s.fd[0], SOL_SOCKET, SO_PROTOCOL), IPPROTO_TCP);
  EXPECT_EQ(Option<int>(s.listener, SOL_SOCKET, SO_ACCEPTCONN), 1);
  EXPECT_EQ(Option<int>(s.fd[0], SOL_SOCKET, SO_ACCEPTCONN), 0);
  const int bad = 0;
  EXPECT_ERRNO(setsockopt(s.fd[0], SOL_TCP, TCP_KEEPIDLE, &bad, sizeof(bad)), EINVAL);
  EXPECT_ERRNO(setsockopt(s.fd[0], SOL_TCP, 999, &bad, sizeof(bad)), ENOPROTOOPT);
  EXPECT_EQ(Option<tcp_info>(s.fd[0], SOL_TCP, TCP_INFO).tcpi_state, TCP_ESTABLISHED);
  EXPECT_EQ(Option<tcp_info>(s.listener, SOL_TCP, TCP_INFO).tcpi_state, TCP_LISTEN);
  EXPECT_EQ(Option<int>(s.fd[0], SOL_IP, IP_TTL), 64);
}

GUEST_TEST(Tcp, CorkGathers) {
  TcpPair s;
  SetOption(s.fd[0], SOL_TCP, TCP_CORK, 1);
  MUST(write(s.fd[0], "ab", 2));
  EXPECT_EQ(PollNow(s.fd[1], POLLIN), 0);
  CheckpointHere();
  MUST(write(s.fd[0], "cd", 2));
  SetOption(s.fd[0], SOL_TCP, TCP_CORK, 0);
  EXPECT_EQ(PollWait(s.fd[1], POLLIN), POLLIN);
  char text[8];
  EXPECT_EQ(read(s.fd[1], text, 8), 4);
}

GUEST_TEST(Tcp, DisconnectAndReuse) {
  TcpPair s;
  sockaddr none = {};
  none.sa_family = AF_UNSPEC;
  MUST(connect(s.fd[0], &none, sizeof(none)));
  char byte;
  EXPECT_ERRNO(read(s.fd[1], &byte, 1), ECONNRESET);
  Address a = LocalOf(s.listener);
  MUST(connect(s.fd[0], a.get(), a.size));
  const int again = MUST(accept(s.listener, nullptr, nullptr));
  MUST(write(s.fd[0], "x", 1));
  EXPECT_EQ(read(again, &byte, 1), 1);
}

GUEST_TEST(Tcp, CloseListenerResetsTheWaiting) {
  const int listener = Listener(AF_INET);
  Address a = LocalOf(listener);
  const int fd = MUST(socket(AF_INET, SOCK_STREAM, 0));
  MUST(connect(fd, a.get(), a.size));
  close(listener);
  char byte;
  EXPECT_ERRNO(read(fd, &byte, 1), ECONNRESET);
}

GUEST_TEST(Tcp, PendingConnectionSurvives) {
  const int listener = Listener(AF_INET6);
  Address a = LocalOf(listener);
  const int fd = MUST(socket(AF_INET6, SOCK_STREAM, 0));
  MUST(connect(fd, a.get(), a.size));
  MUST(write(fd, "early", 5));
  CheckpointHere();
  const int server = MUST(accept(listener, nullptr, nullptr));
  char text[8];
  EXPECT_EQ(read(server, text, 8), 5);
}

GUEST_TEST(Tcp, DualStackListener) {
  const int listener = MUST(socket(AF_INET6, SOCK_STREAM, 0));
  SetOption(listener, SOL_IPV6, IPV6_V6ONLY, 0);
  Address any(AF_INET6);
  any.v6.sin6_addr = in6addr_any;
  MUST(bind(listener, any.get(), any.size));
  MUST(listen(listener, 5));
  const uint16_t port = LocalOf(listener).port();
  const int fd = MUST(socket(AF_INET, SOCK_STREAM, 0));
  Address v4(AF_INET, port);
  MUST(connect(fd, v4.get(), v4.size));
  Address peer(AF_INET6);
  const int server = MUST(accept(listener, peer.get(), &peer.size));
  EXPECT(IN6_IS_ADDR_V4MAPPED(&peer.v6.sin6_addr));
  MUST(write(fd, "x", 1));
  char byte;
  EXPECT_EQ(read(server, &byte, 1), 1);
  const int taken = MUST(socket(AF_INET, SOCK_STREAM, 0));
  EXPECT_ERRNO(bind(taken, v4.get(), v4.size), EADDRINUSE);
}

GUEST_TEST(Tcp, EpollSeesConnectionsAndData) {
  TcpPair s;
  const int ep = MUST(epoll_create1(0));
  epoll_event e = {.events = EPOLLIN | EPOLLET, .data = {.fd = s.fd[1]}};
  MUST(epoll_ctl(ep, EPOLL_CTL_ADD, s.fd[1], &e));
  EXPECT_EQ(epoll_wait(ep, &e, 1, 0), 0);
  MUST(write(s.fd[0], "x", 1));
  EXPECT_EQ(epoll_wait(ep, &e, 1, 10000), 1);
  EXPECT_EQ(e.events, static_cast<uint32_t>(EPOLLIN));
  EXPECT_EQ(epoll_wait(ep, &e, 1, 0), 0);
  CheckpointHere();
  MUST(write(s.fd[0], "y", 1));
  EXPECT_EQ(epoll_wait(ep, &e, 1, 10000), 1);
}

GUEST_TEST(Tcp, RebindAfterCloseWithReuse) {
  uint16_t port;
  {
    TcpPair s;
    port = LocalOf(s.listener).port();
    close(s.fd[1]);  // closes first: TIME_WAIT is on the listener's port
    s.fd[1] = -1;
    char byte;
    EXPECT_EQ(read(s.fd[0], &byte, 1), 0);
  }
  CheckpointHere();
  const int fd = MUST(socket(AF_INET, SOCK_STREAM, 0));
  Address a(AF_INET, port);
  EXPECT_ERRNO(bind(fd, a.get(), a.size), EADDRINUSE);
}

GUEST_TEST(Udp, Datagrams) {
  for (const int family : {AF_INET, AF_INET6}) {
    const int a = UdpSocket(family), b = UdpSocket(family);
    Address to = LocalOf(b), from(AF_INET6);
    EXPECT_EQ(sendto(a, "one", 3, 0, to.get(), to.size), 3);
    EXPECT_EQ(sendto(a, "", 0, 0, to.get(), to.size), 0);
    EXPECT_EQ(sendto(a, "three", 5, 0, to.get(), to.size), 5);
    CheckpointHere();
    char text[8];
    EXPECT_EQ(recvfrom(b, text, 2, MSG_TRUNC, from.get(), &from.size), 3);
    EXPECT_EQ(from.port(), LocalOf(a).port());
    EXPECT_EQ(recv(b, text, 8, 0), 0);
    EXPECT_EQ(recv(b, text, 8, MSG_PEEK), 5);
    EXPECT_EQ(recv(b, text, 8, 0), 5);
    EXPECT_ERRNO(recv(b, text, 8, MSG_DONTWAIT), EAGAIN);
  }
}

GUEST_TEST(Udp, ConnectedHearsRefusal) {
  const int a = UdpSocket(AF_INET), gone = UdpSocket(AF_INET);
  Address to = LocalOf(gone);
  close(gone);
  EXPECT_ERRNO(send(a, "x", 1, 0), EDESTADDRREQ);
  MUST(connect(a, to.get(), to.size));
  EXPECT_EQ(send(a, "x", 1, 0), 1);
  char byte;
  EXPECT_ERRNO(recv(a, &byte, 1, 0), ECONNREFUSED);
  EXPECT_EQ(send(a, "x", 1, 0), 1);
  EXPECT_EQ(Option<int>(a, SOL_SOCKET, SO_ERROR), ECONNREFUSED);
}

GUEST_TEST(Udp, ConnectedFilters) {
  const int a = UdpSocket(AF_INET), b = UdpSocket(AF_INET), c = UdpSocket(AF_INET);
  Address at_a = LocalOf(a), at_b = LocalOf(b);
  MUST(connect(a, at_b.get(), at_b.size));
  CheckpointHere();
  MUST(sendto(c, "no", 2, 0, at_a.get(), at_a.size));
  MUST(sendto(b, "yes", 3, 0, at_a.get(), at_a.size));
  char text[8];
  EXPECT_EQ(recv(a, text, 8, 0), 3);
  EXPECT_EQ(write(a, "back", 4), 4);
  EXPECT_EQ(recv(b, text, 8, 0), 4);
}

GUEST_TEST(Udp, Limits) {
  const int a = UdpSocket(AF_INET);
  Address to = LocalOf(a);
  static char big[65508];
  EXPECT_EQ(sendto(a, big, 65507, 0, to.get(), to.size), 65507);
  EXPECT_ERRNO(sendto(a, big, 65508, 0, to.get(), to.size), EMSGSIZE);
  Address zero(AF_INET, 0);
  EXPECT_ERRNO(sendto(a, "x", 1, 0, zero.get(), zero.size), EINVAL);
  Address everyone(AF_INET, 9);
  everyone.v4.sin_addr.s_addr = 0xffffffff;
  EXPECT_ERRNO(sendto(a, "x", 1, 0, everyone.get(), everyone.size), EACCES);
}

GUEST_TEST(Udp, PacketInfoAndManyMessages) {
  const int a = UdpSocket(AF_INET), b = UdpSocket(AF_INET);
  SetOption(b, SOL_IP, IP_PKTINFO, 1);
  Address to = LocalOf(b);
  char one[] = "1", two[] = "22";
  iovec parts[2] = {{one, 1}, {two, 2}};
  mmsghdr out[2] = {};
  for (int i = 0; i < 2; ++i) {
    out[i].msg_hdr.msg_name = to.get();
    out[i].msg_hdr.msg_namelen = to.size;
    out[i].msg_hdr.msg_iov = &parts[i];
    out[i].msg_hdr.msg_iovlen = 1;
  }
  EXPECT_EQ(sendmmsg(a, out, 2, 0), 2);
  char text[2][8];
  char control[2][128];
  mmsghdr in[2] = {};
  iovec room[2] = {{text[0], 8}, {text[1], 8}};
  for (int i = 0; i < 2; ++i) {
    in[i].msg_hdr.msg_iov = &room[i];
    in[i].msg_hdr.msg_iovlen = 1;
    in[i].msg_hdr.msg_control = control[i];
    in[i].msg_hdr.msg_controllen = sizeof(control[i]);
  }
  EXPECT_EQ(recvmmsg(b, in, 2, 0, nullptr), 2);
  EXPECT_EQ(in[0].msg_len, 1u);
  EXPECT_EQ(in[1].msg_len, 2u);
  cmsghdr* c = CMSG_FIRSTHDR(&in[0].msg_hdr);
  MUST(c != nullptr ? 0 : -1);
  EXPECT_EQ(c->cmsg_level, SOL_IP);
  EXPECT_EQ(c->cmsg_type, IP_PKTINFO);
  in_pktinfo info;
  memcpy(&info, CMSG_DATA(c), sizeof(info));
  EXPECT_EQ(info.ipi_addr.s_addr, htonl(INADDR_LOOPBACK));
}

GUEST_TEST(Udp, BlockingReceiveWakes) {
  const int a = UdpSocket(AF_INET), b = UdpSocket(AF_INET);
  Address to = LocalOf(b);
  const pid_t child = Fork([&] {
    char text[8];
    EXPECT_EQ(recv(b, text, 8, 0), 3);
  });
  AwaitAsleep(child);
  CheckpointHere();
  MUST(sendto(a, "abc", 3, 0, to.get(), to.size));
  JOIN_OK(child);
}

GUEST_TEST(Inet, SocketArguments) {
  EXPECT_ERRNO(socket(AF_INET, SOCK_STREAM, IPPROTO_UDP), EPROTONOSUPPORT);
  EXPECT_ERRNO(socket(AF_INET, SOCK_DGRAM, IPPROTO_TCP), EPROTONOSUPPORT);
  EXPECT_ERRNO(socket(AF_INET, SOCK_SEQPACKET, 0), ESOCKTNOSUPPORT);
  EXPECT_ERRNO(socket(AF_INET, SOCK_STREAM, 999), EINVAL);
  int pair[2];
  EXPECT_ERRNO(socketpair(AF_INET, SOCK_STREAM, 0, pair), EOPNOTSUPP);
  const int fd = MUST(socket(AF_INET, SOCK_STREAM, 0));
  Address six(AF_INET6, 80);
  EXPECT_ERRNO(connect(fd, six.get(), six.size), EAFNOSUPPORT);
  EXPECT_ERRNO(listen(-1, 1), EBADF);
}
