// TCP, UDP and ICMP sockets at their edges: states, halves, errors that come back, ports, message flags and ancillary data.
#include <arpa/inet.h>
#include <linux/errqueue.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "test/harness/guest_util.h"
#include "test/harness/sockets.h"

using namespace guest;

namespace {

sockaddr_in Address(uint32_t host = INADDR_LOOPBACK, uint16_t port = 0) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(host);
  return address;
}
const sockaddr* Any(const sockaddr_in& address) { return reinterpret_cast<const sockaddr*>(&address); }
sockaddr_in NameOf(int fd) {
  sockaddr_in address = {};
  socklen_t length = sizeof(address);
  MUST(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length));
  return address;
}
int Bound(int type, uint32_t host = INADDR_LOOPBACK) {
  const int fd = MUST(socket(AF_INET, type, 0));
  const sockaddr_in address = Address(host);
  MUST(bind(fd, Any(address), sizeof(address)));
  return fd;
}
int Listener(int backlog = 8) {
  const int fd = Bound(SOCK_STREAM);
  MUST(listen(fd, backlog));
  return fd;
}
int ConnectTo(int listener) {
  const int fd = MUST(socket(AF_INET, SOCK_STREAM, 0));
  const sockaddr_in address = NameOf(listener);
  MUST(connect(fd, Any(address), sizeof(address)));
  return fd;
}
int Set(int fd, int level, int name, int value) { return setsockopt(fd, level, name, &value, sizeof(value)); }
int Get(int fd, int level, int name) {
  int value = -1;
  socklen_t length = sizeof(value);
  MUST(getsockopt(fd, level, name, &value, &length));
  return value;
}
int State(int fd) {
  tcp_info info = {};
  socklen_t length = sizeof(info);
  MUST(getsockopt(fd, SOL_TCP, TCP_INFO, &info, &length));
  return info.tcpi_state;
}
void AwaitTcpState(int fd, int state) {
  for (int i = 0; i < 5000 && State(fd) != state; ++i) SleepMs(1);
  EXPECT_EQ(State(fd), state);
}
void AwaitInput(int fd) {
  pollfd one = {fd, POLLIN, 0};
  ASSERT_EQ(poll(&one, 1, 10'000), 1);
}

}  // namespace

GUEST_TEST(TcpEdge, StatesWhileClosing) {
  TcpPair c;
  EXPECT_EQ(State(c.a), TCP_ESTABLISHED);
  MUST(shutdown(c.a, SHUT_WR));
  AwaitTcpState(c.a, TCP_FIN_WAIT2);
  AwaitTcpState(c.b, TCP_CLOSE_WAIT);
  CheckpointHere();
  EXPECT_EQ(send(c.b, "late", 4, 0), 4);  // The other half still works.
  char text[8];
  EXPECT_EQ(recv(c.a, text, 8, 0), 4);
  EXPECT_ERRNO(send(c.a, "x", 1, MSG_NOSIGNAL), EPIPE);
  MUST(shutdown(c.b, SHUT_WR));
  AwaitTcpState(c.b, TCP_CLOSE);
}

// The peer's end comes before the reset that our data brings: reading goes on to say that, and the error waits for who asks for it.
GUEST_TEST(TcpEdge, EndThenReset) {
  TcpPair c;
  MUST(close(c.b));
  AwaitTcpState(c.a, TCP_CLOSE_WAIT);
  MUST(send(c.a, "x", 1, 0));
  AwaitTcpState(c.a, TCP_CLOSE);
  CheckpointHere();
  char byte;
  EXPECT_EQ(recv(c.a, &byte, 1, 0), 0);
  EXPECT_EQ(recv(c.a, &byte, 1, 0), 0);
  pollfd one = {c.a, POLLIN | POLLOUT | POLLRDHUP, 0};
  EXPECT_EQ(poll(&one, 1, 0), 1);
  EXPECT_EQ(one.revents, POLLIN | POLLOUT | POLLRDHUP | POLLERR | POLLHUP);
  EXPECT_EQ(Get(c.a, SOL_SOCKET, SO_ERROR), EPIPE);
  EXPECT_EQ(recv(c.a, &byte, 1, 0), 0);
  EXPECT_ERRNO(send(c.a, "x", 1, MSG_NOSIGNAL), EPIPE);
}

GUEST_TEST(TcpEdge, ShutdownOfReading) {
  TcpPair c;
  MUST(shutdown(c.a, SHUT_RD));
  char byte;
  EXPECT_EQ(recv(c.a, &byte, 1, 0), 0);
  EXPECT_EQ(send(c.b, "x", 1, 0), 1);  // The peer hears nothing of it.
  EXPECT_EQ(send(c.a, "y", 1, 0), 1);
  EXPECT_EQ(recv(c.b, &byte, 1, 0), 1);
}

GUEST_TEST(TcpEdge, ShutdownOfAListenerEndsAccept) {
  const int listener = Listener();
  const pid_t pid = Fork([&] { EXPECT_ERRNO(accept(listener, nullptr, nullptr), EINVAL); });
  AwaitAsleep(pid);
  EXPECT_OK(shutdown(listener, SHUT_RDWR));
  JOIN_OK(pid);
  EXPECT_OK(listen(listener, 4));  // It may listen again.
}

GUEST_TEST(TcpEdge, ErrorIsTakenOnce) {
  const int closed = Bound(SOCK_STREAM);
  const sockaddr_in address = NameOf(closed);
  close(closed);
  const int fd = MUST(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
  EXPECT_EQ(connect(fd, Any(address), sizeof(address)), -1);
  pollfd one = {fd, POLLOUT, 0};
  MUST(poll(&one, 1, 10'000));
  if (errno == EINPROGRESS) {
    EXPECT_EQ(Get(fd, SOL_SOCKET, SO_ERROR), ECONNREFUSED);
    EXPECT_EQ(Get(fd, SOL_SOCKET, SO_ERROR), 0);
  }
  const int listener = Bound(SOCK_STREAM);
  MUST(listen(listener, 1));
  const sockaddr_in good = NameOf(listener);
  MUST(fcntl(fd, F_SETFL, 0));
  // The call that the error was taken from has yet to be told (inet_stream_connect, SS_CONNECTING); then it can be used again.
  EXPECT_ERRNO(connect(fd, Any(good), sizeof(good)), ECONNABORTED);
  EXPECT_OK(connect(fd, Any(good), sizeof(good)));
}

GUEST_TEST(TcpEdge, ResetIsToldToBothCalls) {
  TcpPair c;
  MUST(send(c.a, "unread", 6, 0));
  AwaitInput(c.b);
  close(c.b);  // With data unread: a reset.
  char byte;
  for (int i = 0; i < 5000 && State(c.a) != TCP_CLOSE; ++i) SleepMs(1);
  EXPECT_ERRNO(recv(c.a, &byte, 1, 0), ECONNRESET);
  EXPECT_EQ(recv(c.a, &byte, 1, 0), 0);  // The error was taken.
  EXPECT_ERRNO(send(c.a, "x", 1, MSG_NOSIGNAL), EPIPE);
}

GUEST_TEST(TcpEdge, ReceivingMoreThanIsThere) {
  TcpPair c;
  MUST(send(c.a, "abc", 3, 0));
  AwaitInput(c.b);
  char text[16] = {};
  EXPECT_EQ(recv(c.b, text, 16, MSG_PEEK), 3);
  EXPECT_EQ(recv(c.b, text, 2, MSG_PEEK), 2);
  EXPECT_EQ(recv(c.b, text, 16, MSG_TRUNC | MSG_PEEK), 3);
  CheckpointHere();
  EXPECT_EQ(recv(c.b, nullptr, 2, MSG_TRUNC), 2);  // Thrown away, without a buffer.
  EXPECT_EQ(recv(c.b, text, 16, MSG_DONTWAIT), 1);
  EXPECT_EQ(text[0], 'c');
  EXPECT_ERRNO(recv(c.b, text, 16, MSG_DONTWAIT), EAGAIN);
}

GUEST_TEST(TcpEdge, AmountsByIoctl) {
  TcpPair c;
  MUST(send(c.a, "12345", 5, 0));
  AwaitInput(c.b);
  int bytes = -1;
  EXPECT_OK(ioctl(c.b, FIONREAD, &bytes));
  EXPECT_EQ(bytes, 5);
  EXPECT_OK(ioctl(c.b, TIOCOUTQ, &bytes));
  EXPECT_EQ(bytes, 0);
  EXPECT_ERRNO(ioctl(Listener(), FIONREAD, &bytes), EINVAL);
  EXPECT_ERRNO(ioctl(c.b, FIONREAD, kBadAddress), EFAULT);
  int at_mark = -1;
  EXPECT_OK(ioctl(c.b, SIOCATMARK, &at_mark));
  EXPECT_EQ(at_mark, 0);
}

GUEST_TEST(TcpEdge, UrgentMark) {
  TcpPair c;
  MUST(send(c.a, "ab", 2, 0));
  MUST(send(c.a, "!", 1, MSG_OOB));
  MUST(send(c.a, "cd", 2, 0));
  pollfd one = {c.b, POLLPRI, 0};
  EXPECT_EQ(poll(&one, 1, 10'000), 1);
  char text[8] = {};
  EXPECT_EQ(recv(c.b, text, 8, 0), 2);  // Reading stops at the mark.
  int at_mark = 0;
  MUST(ioctl(c.b, SIOCATMARK, &at_mark));
  EXPECT_EQ(at_mark, 1);
  CheckpointHere();
  EXPECT_EQ(recv(c.b, text, 8, MSG_OOB), 1);
  EXPECT_EQ(text[0], '!');
  EXPECT_ERRNO(recv(c.b, text, 8, MSG_OOB), EINVAL);
  AwaitInput(c.b);
  EXPECT_EQ(recv(c.b, text, 8, 0), 2);
}

GUEST_TEST(TcpEdge, UrgentInline) {
  TcpPair c;
  MUST(Set(c.b, SOL_SOCKET, SO_OOBINLINE, 1));
  MUST(send(c.a, "a!", 2, MSG_OOB));
  char text[8] = {};
  AwaitInput(c.b);
  EXPECT_EQ(recv(c.b, text, 8, 0), 1);
  EXPECT_EQ(recv(c.b, text, 8, 0), 1);
  EXPECT_EQ(text[0], '!');
  EXPECT_ERRNO(recv(c.b, text, 8, MSG_OOB), EINVAL);
}

GUEST_TEST(TcpEdge, VectorsOfMessages) {
  TcpPair c;
  char one[] = "one", two[] = "two";
  iovec vectors[2] = {{one, 3}, {two, 3}};
  mmsghdr messages[2] = {};
  for (int i = 0; i < 2; ++i) {
    messages[i].msg_hdr.msg_iov = &vectors[i];
    messages[i].msg_hdr.msg_iovlen = 1;
  }
  EXPECT_EQ(sendmmsg(c.a, messages, 2, 0), 2);
  EXPECT_EQ(messages[1].msg_len, 3);
  EXPECT_EQ(sendmmsg(c.a, messages, 0, 0), 0);
  EXPECT_ERRNO(sendmmsg(c.a, kBad, 1, 0), EFAULT);
  char text[8];
  EXPECT_EQ(recv(c.b, text, 6, MSG_WAITALL), 6);
  timespec time = {0, 1'000'000'000};
  EXPECT_ERRNO(recvmmsg(c.b, messages, 1, 0, &time), EINVAL);
}

GUEST_TEST(TcpEdge, DeferredAcceptWaitsForData) {
  const int listener = Listener();
  EXPECT_OK(Set(listener, SOL_TCP, TCP_DEFER_ACCEPT, 5));
  EXPECT_GT(Get(listener, SOL_TCP, TCP_DEFER_ACCEPT), 0);
  const int client = ConnectTo(listener);
  MUST(send(client, "x", 1, 0));
  AwaitInput(listener);
  EXPECT_OK(accept(listener, nullptr, nullptr));
}

GUEST_TEST(TcpEdge, AcceptedSocketsInherit) {
  const int listener = Listener();
  MUST(Set(listener, SOL_SOCKET, SO_KEEPALIVE, 1));
  MUST(Set(listener, SOL_TCP, TCP_NODELAY, 1));
  MUST(Set(listener, SOL_TCP, TCP_KEEPIDLE, 77));
  MUST(fcntl(listener, F_SETFL, O_NONBLOCK));
  ConnectTo(listener);
  AwaitInput(listener);
  const int fd = MUST(accept(listener, nullptr, nullptr));
  CheckpointHere();
  EXPECT_EQ(Get(fd, SOL_SOCKET, SO_KEEPALIVE), 1);
  EXPECT_EQ(Get(fd, SOL_TCP, TCP_NODELAY), 1);
  EXPECT_EQ(Get(fd, SOL_TCP, TCP_KEEPIDLE), 77);
  EXPECT_EQ(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);  // Not the flags of the file.
}

GUEST_TEST(PortEdge, SpecificAndWildcard) {
  const int any = Bound(SOCK_STREAM, INADDR_ANY);
  const uint16_t port = ntohs(NameOf(any).sin_port);
  const sockaddr_in specific = Address(INADDR_LOOPBACK, port), elsewhere = Address(0x7f000002, port);
  EXPECT_ERRNO(bind(MUST(socket(AF_INET, SOCK_STREAM, 0)), Any(specific), sizeof(specific)), EADDRINUSE);
  EXPECT_ERRNO(bind(MUST(socket(AF_INET, SOCK_STREAM, 0)), Any(elsewhere), sizeof(elsewhere)), EADDRINUSE);
  EXPECT_OK(bind(MUST(socket(AF_INET, SOCK_DGRAM, 0)), Any(specific), sizeof(specific)));  // UDP has ports of its own.
}

GUEST_TEST(PortEdge, TwoLocalAddresses) {
  const int first = Bound(SOCK_STREAM);
  const sockaddr_in other = Address(0x7f000002, ntohs(NameOf(first).sin_port));
  EXPECT_OK(bind(MUST(socket(AF_INET, SOCK_STREAM, 0)), Any(other), sizeof(other)));
}

GUEST_TEST(PortEdge, ReuseaddrButNotOverAListener) {
  const int first = MUST(socket(AF_INET, SOCK_STREAM, 0)), second = MUST(socket(AF_INET, SOCK_STREAM, 0));
  MUST(Set(first, SOL_SOCKET, SO_REUSEADDR, 1));
  MUST(Set(second, SOL_SOCKET, SO_REUSEADDR, 1));
  const sockaddr_in zero = Address();
  MUST(bind(first, Any(zero), sizeof(zero)));
  const sockaddr_in same = NameOf(first);
  EXPECT_OK(bind(second, Any(same), sizeof(same)));
  EXPECT_OK(listen(first, 1));
  EXPECT_ERRNO(listen(second, 1), EADDRINUSE);
  const int third = MUST(socket(AF_INET, SOCK_STREAM, 0));
  MUST(Set(third, SOL_SOCKET, SO_REUSEADDR, 1));
  EXPECT_ERRNO(bind(third, Any(same), sizeof(same)), EADDRINUSE);
}

GUEST_TEST(PortEdge, EphemeralOnesDiffer) {
  uint16_t ports[8];
  for (uint16_t& port : ports) port = NameOf(Bound(SOCK_DGRAM)).sin_port;
  for (int i = 0; i < 8; ++i) {
    EXPECT_GE(ntohs(ports[i]), 1024);
    for (int j = 0; j < i; ++j) EXPECT_NE(ports[i], ports[j]);
  }
}

GUEST_TEST(UdpEdge, SizesAndTruncation) {
  const int receiver = Bound(SOCK_DGRAM), sender = Bound(SOCK_DGRAM);
  const sockaddr_in to = NameOf(receiver);
  static char big[70000];
  EXPECT_ERRNO(sendto(sender, big, 65508, 0, Any(to), sizeof(to)), EMSGSIZE);
  EXPECT_EQ(sendto(sender, big, 65507, 0, Any(to), sizeof(to)), 65507);
  EXPECT_EQ(sendto(sender, big, 0, 0, Any(to), sizeof(to)), 0);
  AwaitInput(receiver);
  char byte;
  EXPECT_EQ(recv(receiver, &byte, 1, MSG_TRUNC | MSG_PEEK), 65507);
  int size = 0;
  EXPECT_OK(ioctl(receiver, FIONREAD, &size));
  EXPECT_EQ(size, 65507);  // Of the first only.
  EXPECT_EQ(recv(receiver, &byte, 1, 0), 1);
  CheckpointHere();
  EXPECT_EQ(recv(receiver, &byte, 1, 0), 0);
}

GUEST_TEST(UdpEdge, Destinations) {
  const int fd = MUST(socket(AF_INET, SOCK_DGRAM, 0));
  const sockaddr_in no_port = Address(INADDR_LOOPBACK, 0), broadcast = Address(INADDR_BROADCAST, 9);
  EXPECT_ERRNO(sendto(fd, "x", 1, 0, Any(no_port), sizeof(no_port)), EINVAL);
  EXPECT_ERRNO(sendto(fd, "x", 1, 0, Any(broadcast), sizeof(broadcast)), EACCES);
  EXPECT_ERRNO(sendto(fd, "x", 1, 0, Any(no_port), 4), EINVAL);
  EXPECT_ERRNO(sendto(fd, "x", 1, MSG_OOB, Any(no_port), sizeof(no_port)), EOPNOTSUPP);
  EXPECT_ERRNO(send(fd, "x", 1, 0), EDESTADDRREQ);
}

GUEST_TEST(UdpEdge, ConnectingAgainAndAway) {
  const int fd = MUST(socket(AF_INET, SOCK_DGRAM, 0)), first = Bound(SOCK_DGRAM), second = Bound(SOCK_DGRAM);
  const sockaddr_in a = NameOf(first), b = NameOf(second);
  MUST(connect(fd, Any(a), sizeof(a)));
  EXPECT_EQ(NameOf(fd).sin_addr.s_addr, htonl(INADDR_LOOPBACK));
  MUST(connect(fd, Any(b), sizeof(b)));
  sockaddr_in peer = {};
  socklen_t length = sizeof(peer);
  MUST(getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &length));
  EXPECT_EQ(peer.sin_port, b.sin_port);
  EXPECT_EQ(sendto(fd, "x", 1, 0, Any(a), sizeof(a)), 1);  // An address goes before the connection.
  AwaitInput(first);
  const sockaddr none = {.sa_family = AF_UNSPEC, .sa_data = {}};
  MUST(connect(fd, &none, sizeof(none)));
  EXPECT_ERRNO(getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &length), ENOTCONN);
}

GUEST_TEST(UdpEdge, ErrorQueueTellsTheRefusal) {
  const int closed = Bound(SOCK_DGRAM), fd = Bound(SOCK_DGRAM);
  const sockaddr_in to = NameOf(closed);
  close(closed);
  MUST(Set(fd, SOL_IP, IP_RECVERR, 1));
  MUST(sendto(fd, "lost", 4, 0, Any(to), sizeof(to)));
  pollfd one = {fd, 0, 0};
  EXPECT_EQ(poll(&one, 1, 10'000), 1);
  EXPECT_EQ(one.revents, POLLERR);
  alignas(cmsghdr) char control[512];
  char text[8] = {};
  sockaddr_in name = {};
  iovec vector = {text, sizeof(text)};
  msghdr message = {};
  message.msg_name = &name;
  message.msg_namelen = sizeof(name);
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  EXPECT_EQ(recvmsg(fd, &message, MSG_ERRQUEUE), 4);  // What was sent comes back.
  EXPECT_EQ(message.msg_flags & MSG_ERRQUEUE, MSG_ERRQUEUE);
  EXPECT_EQ(name.sin_port, to.sin_port);
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  ASSERT(header != nullptr);
  EXPECT_EQ(header->cmsg_type, IP_RECVERR);
  const auto* error = reinterpret_cast<const sock_extended_err*>(CMSG_DATA(header));
  EXPECT_EQ(error->ee_errno, ECONNREFUSED);
  EXPECT_EQ(error->ee_origin, SO_EE_ORIGIN_ICMP);
  EXPECT_EQ(error->ee_type, 3);
  EXPECT_EQ(error->ee_code, 3);
  EXPECT_ERRNO(recvmsg(fd, &message, MSG_ERRQUEUE), EAGAIN);
}

GUEST_TEST(UdpEdge, TimestampsOfPackets) {
  const int receiver = Bound(SOCK_DGRAM), sender = Bound(SOCK_DGRAM);
  const sockaddr_in to = NameOf(receiver);
  MUST(Set(receiver, SOL_SOCKET, SO_TIMESTAMP, 1));
  MUST(Set(receiver, SOL_IP, IP_RECVTTL, 1));
  MUST(sendto(sender, "x", 1, 0, Any(to), sizeof(to)));
  AwaitInput(receiver);
  alignas(cmsghdr) char control[256];
  char byte;
  iovec vector = {&byte, 1};
  msghdr message = {};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  MUST(recvmsg(receiver, &message, 0));
  bool time = false, hops = false;
  for (cmsghdr* h = CMSG_FIRSTHDR(&message); h != nullptr; h = CMSG_NXTHDR(&message, h)) {
    if (h->cmsg_level == SOL_SOCKET && h->cmsg_type == SO_TIMESTAMP) {
      const auto* value = reinterpret_cast<const timeval*>(CMSG_DATA(h));
      time = NowNs(CLOCK_REALTIME) / 1'000'000'000 - value->tv_sec < 100;
    }
    if (h->cmsg_level == SOL_IP && h->cmsg_type == IP_TTL) hops = *reinterpret_cast<const int*>(CMSG_DATA(h)) == 64;
  }
  EXPECT(time);
  EXPECT(hops);
}

GUEST_TEST(UdpEdge, ReceiveTimeout) {
  const int fd = Bound(SOCK_DGRAM);
  const timeval time = {0, 30'000};
  MUST(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof(time)));
  char byte;
  const int64_t start = NowNs();
  EXPECT_ERRNO(recv(fd, &byte, 1, 0), EAGAIN);
  EXPECT_GE(NowNs() - start, 25 * kMs);
}

GUEST_TEST(UdpEdge, ShutdownNeedsAPeer) {
  const int fd = Bound(SOCK_DGRAM), other = Bound(SOCK_DGRAM);
  EXPECT_ERRNO(shutdown(fd, SHUT_RD), ENOTCONN);
  const sockaddr_in to = NameOf(other);
  MUST(connect(fd, Any(to), sizeof(to)));
  EXPECT_OK(shutdown(fd, SHUT_RD));
  char byte;
  EXPECT_EQ(recv(fd, &byte, 1, 0), 0);
  EXPECT_OK(shutdown(fd, SHUT_WR));
  EXPECT_ERRNO(send(fd, "x", 1, MSG_NOSIGNAL), EPIPE);
}

GUEST_TEST(UdpEdge, ManyAtOnceStopsWhenEmpty) {
  const int receiver = Bound(SOCK_DGRAM), sender = Bound(SOCK_DGRAM);
  const sockaddr_in to = NameOf(receiver);
  MUST(sendto(sender, "aa", 2, 0, Any(to), sizeof(to)));
  MUST(sendto(sender, "b", 1, 0, Any(to), sizeof(to)));
  AwaitInput(receiver);
  char text[3][4];
  iovec vectors[3];
  mmsghdr messages[3] = {};
  for (int i = 0; i < 3; ++i) {
    vectors[i] = {text[i], 4};
    messages[i].msg_hdr.msg_iov = &vectors[i];
    messages[i].msg_hdr.msg_iovlen = 1;
  }
  CheckpointHere();
  EXPECT_EQ(recvmmsg(receiver, messages, 3, MSG_WAITFORONE, nullptr), 2);
  EXPECT_EQ(messages[0].msg_len, 2);
  EXPECT_EQ(messages[1].msg_len, 1);
  EXPECT_ERRNO(recvmmsg(receiver, messages, 3, MSG_DONTWAIT, nullptr), EAGAIN);
  // How much of the time is left is told with what came, and not with an error.
  timespec left = {.tv_sec = 1000, .tv_nsec = 0};
  EXPECT_ERRNO(recvmmsg(receiver, messages, 3, MSG_DONTWAIT, &left), EAGAIN);
  EXPECT_EQ(left.tv_sec, 1000);
  MUST(sendto(sender, "c", 1, 0, Any(to), sizeof(to)));
  SleepMs(20);
  EXPECT_EQ(recvmmsg(receiver, messages, 1, 0, &left), 1);
  EXPECT(left.tv_sec < 1000 && left.tv_sec > 400);
}

GUEST_TEST(InterfaceCalls, LoopbackIsThere) {
  const int fd = MUST(socket(AF_INET, SOCK_DGRAM, 0));
  ifreq request = {};
  strcpy(request.ifr_name, "lo");
  EXPECT_OK(ioctl(fd, SIOCGIFINDEX, &request));
  const int index = request.ifr_ifindex;
  EXPECT_GT(index, 0);
  request = {};
  request.ifr_ifindex = index;
  EXPECT_OK(ioctl(fd, SIOCGIFNAME, &request));
  EXPECT_STREQ(request.ifr_name, "lo");
  EXPECT_OK(ioctl(fd, SIOCGIFFLAGS, &request));
  EXPECT_EQ(request.ifr_flags & IFF_LOOPBACK, IFF_LOOPBACK);
  EXPECT_OK(ioctl(fd, SIOCGIFMTU, &request));
  EXPECT_GE(request.ifr_mtu, 1500);
  strcpy(request.ifr_name, "none7");
  EXPECT_ERRNO(ioctl(fd, SIOCGIFINDEX, &request), ENODEV);
  EXPECT_ERRNO(ioctl(fd, SIOCGIFFLAGS, kBadAddress), EFAULT);
  AS_USER([&] {
    ifreq change = {};
    strcpy(change.ifr_name, "lo");
    EXPECT_ERRNO(ioctl(fd, SIOCSIFFLAGS, &change), EPERM);
  });
}
