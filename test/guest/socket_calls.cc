// What socket calls say about bad arguments, and the options of SOL_SOCKET, IP and TCP: their ranges, what reads back.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "test/harness/guest_util.h"
#include "test/harness/sockets.h"

using namespace guest;

namespace {

sockaddr_in Loopback(uint16_t port = 0) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = port;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}
const sockaddr* Any(const sockaddr_in& address) { return reinterpret_cast<const sockaddr*>(&address); }

int Option(int fd, int level, int name) {
  int value = -77;
  socklen_t length = sizeof(value);
  if (getsockopt(fd, level, name, &value, &length) < 0) return -errno;
  return value;
}
int SetOption(int fd, int level, int name, int value) { return setsockopt(fd, level, name, &value, sizeof(value)); }

struct Sockets {
  int tcp = MUST(socket(AF_INET, SOCK_STREAM, 0));
  int udp = MUST(socket(AF_INET, SOCK_DGRAM, 0));
  int local = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
};

}  // namespace

GUEST_TEST(SocketCall, NotASocket) {
  const int file = TempFile();
  sockaddr_in address = Loopback();
  socklen_t length = sizeof(address);
  char byte = 0;
  msghdr message = {};
  EXPECT_ERRNO(bind(file, Any(address), length), ENOTSOCK);
  EXPECT_ERRNO(listen(file, 1), ENOTSOCK);
  EXPECT_ERRNO(connect(file, Any(address), length), ENOTSOCK);
  EXPECT_ERRNO(accept(file, nullptr, nullptr), ENOTSOCK);
  EXPECT_ERRNO(send(file, &byte, 1, 0), ENOTSOCK);
  EXPECT_ERRNO(recv(file, &byte, 1, 0), ENOTSOCK);
  EXPECT_ERRNO(sendmsg(file, &message, 0), ENOTSOCK);
  EXPECT_ERRNO(recvmsg(file, &message, 0), ENOTSOCK);
  EXPECT_ERRNO(shutdown(file, SHUT_RD), ENOTSOCK);
  EXPECT_ERRNO(getsockname(file, reinterpret_cast<sockaddr*>(&address), &length), ENOTSOCK);
  EXPECT_ERRNO(getpeername(file, reinterpret_cast<sockaddr*>(&address), &length), ENOTSOCK);
  EXPECT_EQ(Option(file, SOL_SOCKET, SO_TYPE), -ENOTSOCK);
  EXPECT_ERRNO(SetOption(file, SOL_SOCKET, SO_KEEPALIVE, 1), ENOTSOCK);
}

GUEST_TEST(SocketCall, BadDescriptors) {
  sockaddr_in address = Loopback();
  const int path = MUST(open("/tmp", O_PATH));
  for (const int fd : {-1, 999, path}) {
    EXPECT_ERRNO(bind(fd, Any(address), sizeof(address)), EBADF);
    EXPECT_ERRNO(listen(fd, 1), EBADF);
    EXPECT_ERRNO(connect(fd, Any(address), sizeof(address)), EBADF);
    EXPECT_ERRNO(accept(fd, nullptr, nullptr), EBADF);
    EXPECT_ERRNO(shutdown(fd, SHUT_RD), EBADF);
    EXPECT_ERRNO(send(fd, "x", 1, 0), EBADF);
  }
}

GUEST_TEST(SocketCall, KindsThatDoNotExist) {
  EXPECT_ERRNO(socket(-1, SOCK_STREAM, 0), EAFNOSUPPORT);
  EXPECT_ERRNO(socket(99, SOCK_STREAM, 0), EAFNOSUPPORT);
  EXPECT_ERRNO(socket(AF_INET, 99, 0), EINVAL);
  EXPECT_ERRNO(socket(AF_INET, SOCK_STREAM | 0x100, 0), EINVAL);
  EXPECT_ERRNO(socket(AF_INET, SOCK_STREAM, IPPROTO_UDP), EPROTONOSUPPORT);
  EXPECT_ERRNO(socket(AF_INET, SOCK_DGRAM, IPPROTO_TCP), EPROTONOSUPPORT);
  EXPECT_ERRNO(socket(AF_INET, SOCK_SEQPACKET, 0), ESOCKTNOSUPPORT);
  EXPECT_ERRNO(socket(AF_UNIX, SOCK_STREAM, 17), EPROTONOSUPPORT);
  EXPECT_ERRNO(socket(AF_UNIX, SOCK_RDM, 0), ESOCKTNOSUPPORT);
  int ends[2];
  EXPECT_ERRNO(socketpair(AF_INET, SOCK_STREAM, 0, ends), EOPNOTSUPP);
  EXPECT_ERRNO(socketpair(99, SOCK_STREAM, 0, ends), EAFNOSUPPORT);
  EXPECT_ERRNO(Call(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, kBadAddress), EFAULT);
}

GUEST_TEST(SocketCall, RawNeedsPrivilege) {
  AS_USER([] {
    EXPECT_ERRNO(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP), EPERM);
    EXPECT_ERRNO(socket(AF_INET6, SOCK_RAW, 58), EPERM);
    const int fd = MUST(socket(AF_INET, SOCK_STREAM, 0));
    EXPECT_ERRNO(SetOption(fd, SOL_SOCKET, SO_MARK, 1), EPERM);
    EXPECT_ERRNO(SetOption(fd, SOL_SOCKET, SO_PRIORITY, 7), EPERM);
    EXPECT_OK(SetOption(fd, SOL_SOCKET, SO_PRIORITY, 6));
    EXPECT_ERRNO(SetOption(fd, SOL_SOCKET, SO_RCVBUFFORCE, 1 << 20), EPERM);
    EXPECT_ERRNO(SetOption(fd, SOL_SOCKET, SO_DEBUG, 1), EACCES);
  });
}

GUEST_TEST(SocketCall, AddressLengths) {
  Sockets s;
  const sockaddr_in address = Loopback();
  EXPECT_ERRNO(bind(s.tcp, Any(address), 8), EINVAL);
  EXPECT_ERRNO(Call(SYS_bind, s.tcp, &address, -1), EINVAL);
  EXPECT_ERRNO(Call(SYS_bind, s.tcp, &address, 129), EINVAL);  // More than any address has.
  EXPECT_ERRNO(Call(SYS_bind, s.tcp, kBadAddress, sizeof(address)), EFAULT);
  EXPECT_ERRNO(connect(s.tcp, Any(address), 8), EINVAL);
  EXPECT_ERRNO(Call(SYS_connect, s.tcp, kBadAddress, sizeof(address)), EFAULT);
  EXPECT_ERRNO(bind(s.local, Any(address), sizeof(address)), EINVAL);  // Of another family.
  sockaddr_in strange = Loopback();
  strange.sin_family = AF_UNIX;
  EXPECT_ERRNO(bind(s.tcp, Any(strange), sizeof(strange)), EAFNOSUPPORT);
  EXPECT_ERRNO(connect(s.tcp, Any(strange), sizeof(strange)), EAFNOSUPPORT);
}

GUEST_TEST(SocketCall, AddressesWithPortsOfOthers) {
  Sockets s;
  sockaddr_in foreign = Loopback();
  foreign.sin_addr.s_addr = htonl(0x08080808);
  EXPECT_ERRNO(bind(s.udp, Any(foreign), sizeof(foreign)), EADDRNOTAVAIL);
  EXPECT_OK(bind(s.udp, Any(Loopback()), sizeof(sockaddr_in)));
  EXPECT_ERRNO(bind(s.udp, Any(Loopback()), sizeof(sockaddr_in)), EINVAL);  // Only once.
  AS_USER([&] { EXPECT_ERRNO(bind(s.tcp, Any(Loopback(htons(80))), sizeof(sockaddr_in)), EACCES); });
}

GUEST_TEST(SocketCall, NamesAreCutToTheRoom) {
  Sockets s;
  MUST(bind(s.udp, Any(Loopback()), sizeof(sockaddr_in)));
  sockaddr_in name;
  memset(&name, 0xee, sizeof(name));
  socklen_t length = 4;
  EXPECT_OK(getsockname(s.udp, reinterpret_cast<sockaddr*>(&name), &length));
  EXPECT_EQ(length, sizeof(sockaddr_in));  // What it would have been.
  EXPECT_EQ(name.sin_family, AF_INET);
  EXPECT_EQ(name.sin_addr.s_addr, 0xeeeeeeee);
  length = -1;
  EXPECT_ERRNO(getsockname(s.udp, reinterpret_cast<sockaddr*>(&name), &length), EINVAL);
  length = sizeof(name);
  EXPECT_ERRNO(Call(SYS_getsockname, s.udp, kBadAddress, &length), EFAULT);
  EXPECT_ERRNO(Call(SYS_getsockname, s.udp, &name, kBadAddress), EFAULT);
  EXPECT_ERRNO(getpeername(s.udp, reinterpret_cast<sockaddr*>(&name), &length), ENOTCONN);
}

GUEST_TEST(SocketCall, ListenAndAcceptStates) {
  Sockets s;
  EXPECT_ERRNO(accept(s.tcp, nullptr, nullptr), EINVAL);  // It doesn't listen.
  EXPECT_ERRNO(listen(s.udp, 1), EOPNOTSUPP);
  EXPECT_ERRNO(accept(s.udp, nullptr, nullptr), EOPNOTSUPP);
  EXPECT_OK(listen(s.tcp, -1));  // A backlog without sense is the greatest.
  EXPECT_OK(listen(s.tcp, 5));
  EXPECT_ERRNO(accept4(s.tcp, nullptr, nullptr, 1), EINVAL);
  EXPECT_ERRNO(connect(s.tcp, Any(Loopback(htons(9))), sizeof(sockaddr_in)), EISCONN);
  TcpPair pair;
  EXPECT_ERRNO(listen(pair.a, 1), EINVAL);
  EXPECT_ERRNO(connect(pair.a, Any(Loopback(htons(9))), sizeof(sockaddr_in)), EISCONN);
}

GUEST_TEST(SocketCall, AcceptTellsThePeer) {
  const int listener = MUST(socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in address = Loopback(), peer = {}, own = {};
  socklen_t length = sizeof(address);
  MUST(bind(listener, Any(address), length));
  MUST(listen(listener, 4));
  MUST(getsockname(listener, reinterpret_cast<sockaddr*>(&address), &length));
  const int client = MUST(socket(AF_INET, SOCK_STREAM, 0));
  MUST(connect(client, Any(address), length));
  CheckpointHere();
  const int fd = MUST(accept4(listener, reinterpret_cast<sockaddr*>(&peer), &length, SOCK_NONBLOCK | SOCK_CLOEXEC));
  MUST(getsockname(client, reinterpret_cast<sockaddr*>(&own), &length));
  EXPECT_EQ(peer.sin_port, own.sin_port);
  EXPECT_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
  EXPECT(fcntl(fd, F_GETFL) & O_NONBLOCK);
  MUST(connect(MUST(socket(AF_INET, SOCK_STREAM, 0)), Any(address), sizeof(address)));
  EXPECT_ERRNO(Call(SYS_accept, listener, &peer, kBadAddress), EFAULT);  // And that connection is gone.
  MUST(fcntl(listener, F_SETFL, O_NONBLOCK));
  EXPECT_ERRNO(accept(listener, nullptr, nullptr), EAGAIN);
}

GUEST_TEST(SocketCall, SendAndReceiveArguments) {
  TcpPair pair;
  Sockets s;
  char byte = 'x';
  msghdr message = {};
  iovec vector = {&byte, 1};
  EXPECT_ERRNO(send(s.tcp, &byte, 1, MSG_NOSIGNAL), EPIPE);  // Not connected; TCP says it so.
  EXPECT_ERRNO(recv(s.tcp, &byte, 1, 0), ENOTCONN);
  EXPECT_ERRNO(send(s.udp, &byte, 1, 0), EDESTADDRREQ);
  EXPECT_ERRNO(send(s.local, &byte, 1, 0), ENOTCONN);
  EXPECT_ERRNO(shutdown(s.tcp, SHUT_RD), ENOTCONN);
  EXPECT_ERRNO(shutdown(pair.a, 3), EINVAL);
  EXPECT_ERRNO(Call(SYS_sendto, pair.a, kBadAddress, 1L, 0, nullptr, 0), EFAULT);
  EXPECT_ERRNO(Call(SYS_sendmsg, pair.a, kBadAddress, 0), EFAULT);
  EXPECT_ERRNO(Call(SYS_recvmsg, pair.a, kBadAddress, 0), EFAULT);
  message.msg_iov = &vector;
  message.msg_iovlen = 1025;
  EXPECT_ERRNO(sendmsg(pair.a, &message, 0), EMSGSIZE);
  EXPECT_ERRNO(recvmsg(pair.a, &message, MSG_DONTWAIT), EMSGSIZE);
  message.msg_iov = kBad;
  message.msg_iovlen = 1;
  EXPECT_ERRNO(sendmsg(pair.a, &message, 0), EFAULT);
  EXPECT_ERRNO(recv(pair.a, &byte, 1, MSG_OOB), EINVAL);  // There is no urgent byte.
  EXPECT_ERRNO(recv(pair.a, &byte, 1, MSG_ERRQUEUE), EAGAIN);
}

GUEST_TEST(SocketCall, MsgFlagsOfTheAnswer) {
  int ends[2];
  MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends));
  MUST(send(ends[0], "12345", 5, 0));
  MUST(send(ends[0], "abc", 3, 0));
  char text[4];
  iovec vector = {text, 3};
  msghdr message = {};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_flags = -1;  // Only told, never asked.
  EXPECT_EQ(recvmsg(ends[1], &message, 0), 3);
  EXPECT_EQ(message.msg_flags & MSG_TRUNC, MSG_TRUNC);
  EXPECT_EQ(recvmsg(ends[1], &message, MSG_PEEK), 3);
  EXPECT_EQ(message.msg_flags & MSG_TRUNC, 0);
  EXPECT_EQ(recvmsg(ends[1], &message, MSG_CMSG_CLOEXEC), 3);
  EXPECT_EQ(message.msg_flags & MSG_CMSG_CLOEXEC, MSG_CMSG_CLOEXEC);
  EXPECT_ERRNO(recvmsg(ends[1], &message, MSG_DONTWAIT), EAGAIN);
}

GUEST_TEST(SocketOption, KindsOfSockets) {
  Sockets s;
  EXPECT_EQ(Option(s.tcp, SOL_SOCKET, SO_TYPE), SOCK_STREAM);
  EXPECT_EQ(Option(s.udp, SOL_SOCKET, SO_TYPE), SOCK_DGRAM);
  EXPECT_EQ(Option(s.tcp, SOL_SOCKET, SO_DOMAIN), AF_INET);
  EXPECT_EQ(Option(s.tcp, SOL_SOCKET, SO_PROTOCOL), IPPROTO_TCP);
  EXPECT_EQ(Option(s.udp, SOL_SOCKET, SO_PROTOCOL), IPPROTO_UDP);
  EXPECT_EQ(Option(s.local, SOL_SOCKET, SO_PROTOCOL), 0);
  EXPECT_EQ(Option(s.tcp, SOL_SOCKET, SO_ACCEPTCONN), 0);
  MUST(listen(s.tcp, 1));
  EXPECT_EQ(Option(s.tcp, SOL_SOCKET, SO_ACCEPTCONN), 1);
  EXPECT_EQ(Option(s.tcp, SOL_SOCKET, SO_ERROR), 0);
  EXPECT_ERRNO(SetOption(s.tcp, SOL_SOCKET, SO_TYPE, 1), ENOPROTOOPT);
  EXPECT_ERRNO(SetOption(s.tcp, SOL_SOCKET, SO_DOMAIN, 1), ENOPROTOOPT);
  EXPECT_ERRNO(SetOption(s.tcp, SOL_SOCKET, SO_ERROR, 1), ENOPROTOOPT);
  EXPECT_ERRNO(SetOption(s.tcp, SOL_SOCKET, SO_ACCEPTCONN, 1), ENOPROTOOPT);
}

GUEST_TEST(SocketOption, Unknown) {
  Sockets s;
  EXPECT_EQ(Option(s.tcp, SOL_SOCKET, 9999), -ENOPROTOOPT);
  EXPECT_ERRNO(SetOption(s.tcp, SOL_SOCKET, 9999, 1), ENOPROTOOPT);
  EXPECT_EQ(Option(s.tcp, SOL_TCP, 9999), -ENOPROTOOPT);
  EXPECT_ERRNO(SetOption(s.tcp, SOL_TCP, 9999, 1), ENOPROTOOPT);
  EXPECT_EQ(Option(s.tcp, SOL_IP, 9999), -ENOPROTOOPT);
  EXPECT_EQ(Option(s.tcp, 9999, 1), -EOPNOTSUPP);
  EXPECT_ERRNO(SetOption(s.tcp, 9999, 1, 1), ENOPROTOOPT);
  EXPECT_EQ(Option(s.udp, SOL_TCP, TCP_NODELAY), -EOPNOTSUPP);
  EXPECT_EQ(Option(s.local, SOL_TCP, TCP_NODELAY), -EOPNOTSUPP);
  EXPECT_ERRNO(SetOption(s.local, SOL_IP, IP_TTL, 1), EOPNOTSUPP);
}

GUEST_TEST(SocketOption, LengthsAndPointers) {
  Sockets s;
  int value = 1;
  socklen_t length = sizeof(value);
  EXPECT_ERRNO(setsockopt(s.tcp, SOL_SOCKET, SO_KEEPALIVE, &value, 3), EINVAL);
  EXPECT_ERRNO(Call(SYS_setsockopt, s.tcp, SOL_SOCKET, SO_KEEPALIVE, &value, -1), EINVAL);
  EXPECT_ERRNO(Call(SYS_setsockopt, s.tcp, SOL_SOCKET, SO_KEEPALIVE, kBadAddress, 4), EFAULT);
  EXPECT_ERRNO(Call(SYS_getsockopt, s.tcp, SOL_SOCKET, SO_KEEPALIVE, kBadAddress, &length), EFAULT);
  EXPECT_ERRNO(Call(SYS_getsockopt, s.tcp, SOL_SOCKET, SO_KEEPALIVE, &value, kBadAddress), EFAULT);
  length = -1;
  EXPECT_ERRNO(getsockopt(s.tcp, SOL_SOCKET, SO_KEEPALIVE, &value, &length), EINVAL);
  length = 2;  // Less room: the first bytes.
  value = -1;
  EXPECT_OK(getsockopt(s.tcp, SOL_SOCKET, SO_TYPE, &value, &length));
  EXPECT_EQ(length, 2);
  EXPECT_EQ(value, static_cast<int>(0xffff0001));
  length = 100;
  EXPECT_OK(getsockopt(s.tcp, SOL_SOCKET, SO_TYPE, &value, &length));
  EXPECT_EQ(length, 4);
}

GUEST_TEST(SocketOption, SwitchesReadBack) {
  Sockets s;
  for (const int name : {SO_KEEPALIVE, SO_REUSEADDR, SO_REUSEPORT, SO_BROADCAST, SO_OOBINLINE, SO_DONTROUTE, SO_TIMESTAMP}) {
    EXPECT_EQ(Option(s.tcp, SOL_SOCKET, name), 0);
    EXPECT_OK(SetOption(s.tcp, SOL_SOCKET, name, 5));
    EXPECT_EQ(Option(s.tcp, SOL_SOCKET, name), 1);
  }
  CheckpointHere();
  for (const int name : {SO_KEEPALIVE, SO_REUSEADDR, SO_BROADCAST, SO_OOBINLINE}) {
    EXPECT_EQ(Option(s.tcp, SOL_SOCKET, name), 1);
    EXPECT_OK(SetOption(s.tcp, SOL_SOCKET, name, 0));
    EXPECT_EQ(Option(s.tcp, SOL_SOCKET, name), 0);
  }
}

GUEST_TEST(SocketOption, BuffersAreDoubledAndBounded) {
  Sockets s;
  EXPECT_OK(SetOption(s.udp, SOL_SOCKET, SO_RCVBUF, 20000));
  EXPECT_EQ(Option(s.udp, SOL_SOCKET, SO_RCVBUF), 40000);
  EXPECT_OK(SetOption(s.udp, SOL_SOCKET, SO_SNDBUF, 20000));
  EXPECT_EQ(Option(s.udp, SOL_SOCKET, SO_SNDBUF), 40000);
  EXPECT_OK(SetOption(s.udp, SOL_SOCKET, SO_RCVBUF, 1));
  EXPECT_GE(Option(s.udp, SOL_SOCKET, SO_RCVBUF), 2048);
  EXPECT_OK(SetOption(s.udp, SOL_SOCKET, SO_SNDBUF, 1));
  EXPECT_GE(Option(s.udp, SOL_SOCKET, SO_SNDBUF), 2048);
  EXPECT_OK(SetOption(s.udp, SOL_SOCKET, SO_RCVBUF, 1 << 30));
  const int most = Option(s.udp, SOL_SOCKET, SO_RCVBUF);
  EXPECT_LT(most, 1 << 30);
  EXPECT_OK(SetOption(s.udp, SOL_SOCKET, SO_RCVBUFFORCE, most));
  EXPECT_EQ(Option(s.udp, SOL_SOCKET, SO_RCVBUF), 2 * most);
}

GUEST_TEST(SocketOption, LingerAndTimes) {
  Sockets s;
  linger wish = {1, 12}, told = {};
  socklen_t length = sizeof(told);
  EXPECT_OK(setsockopt(s.tcp, SOL_SOCKET, SO_LINGER, &wish, sizeof(wish)));
  EXPECT_OK(getsockopt(s.tcp, SOL_SOCKET, SO_LINGER, &told, &length));
  EXPECT_EQ(told.l_onoff, 1);
  EXPECT_EQ(told.l_linger, 12);
  EXPECT_ERRNO(setsockopt(s.tcp, SOL_SOCKET, SO_LINGER, &wish, 4), EINVAL);
  timeval time = {3, 250'000}, told_time = {};
  EXPECT_OK(setsockopt(s.tcp, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof(time)));
  length = sizeof(told_time);
  EXPECT_OK(getsockopt(s.tcp, SOL_SOCKET, SO_RCVTIMEO, &told_time, &length));
  EXPECT_EQ(told_time.tv_sec, 3);
  EXPECT_GE(told_time.tv_usec, 240'000);
  time.tv_usec = 1'000'000;
  EXPECT_ERRNO(setsockopt(s.tcp, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof(time)), EDOM);
  time.tv_usec = -1;
  EXPECT_ERRNO(setsockopt(s.tcp, SOL_SOCKET, SO_SNDTIMEO, &time, sizeof(time)), EDOM);
  EXPECT_ERRNO(setsockopt(s.tcp, SOL_SOCKET, SO_SNDTIMEO, &time, 8), EINVAL);
}

GUEST_TEST(SocketOption, LowWaterMarks) {
  TcpPair pair;
  EXPECT_EQ(Option(pair.b, SOL_SOCKET, SO_RCVLOWAT), 1);
  EXPECT_ERRNO(SetOption(pair.b, SOL_SOCKET, SO_SNDLOWAT, 2), ENOPROTOOPT);
  EXPECT_OK(SetOption(pair.b, SOL_SOCKET, SO_RCVLOWAT, 4));
  EXPECT_EQ(Option(pair.b, SOL_SOCKET, SO_RCVLOWAT), 4);
  MUST(send(pair.a, "abc", 3, 0));
  pollfd poll_for = {pair.b, POLLIN, 0};
  EXPECT_EQ(poll(&poll_for, 1, 50), 0);
  CheckpointHere();
  MUST(send(pair.a, "d", 1, 0));
  EXPECT_EQ(poll(&poll_for, 1, 5000), 1);
  EXPECT_OK(SetOption(pair.b, SOL_SOCKET, SO_RCVLOWAT, 0));
  EXPECT_EQ(Option(pair.b, SOL_SOCKET, SO_RCVLOWAT), 1);
}

GUEST_TEST(TcpOption, Ranges) {
  Sockets s;
  EXPECT_OK(SetOption(s.tcp, SOL_TCP, TCP_NODELAY, 7));
  EXPECT_EQ(Option(s.tcp, SOL_TCP, TCP_NODELAY), 1);
  EXPECT_OK(SetOption(s.tcp, SOL_TCP, TCP_KEEPIDLE, 100));
  EXPECT_EQ(Option(s.tcp, SOL_TCP, TCP_KEEPIDLE), 100);
  EXPECT_ERRNO(SetOption(s.tcp, SOL_TCP, TCP_KEEPIDLE, 0), EINVAL);
  EXPECT_ERRNO(SetOption(s.tcp, SOL_TCP, TCP_KEEPIDLE, 32768), EINVAL);
  EXPECT_OK(SetOption(s.tcp, SOL_TCP, TCP_KEEPINTVL, 20));
  EXPECT_EQ(Option(s.tcp, SOL_TCP, TCP_KEEPINTVL), 20);
  EXPECT_ERRNO(SetOption(s.tcp, SOL_TCP, TCP_KEEPINTVL, 0), EINVAL);
  EXPECT_OK(SetOption(s.tcp, SOL_TCP, TCP_KEEPCNT, 4));
  EXPECT_EQ(Option(s.tcp, SOL_TCP, TCP_KEEPCNT), 4);
  EXPECT_ERRNO(SetOption(s.tcp, SOL_TCP, TCP_KEEPCNT, 128), EINVAL);
  EXPECT_ERRNO(SetOption(s.tcp, SOL_TCP, TCP_SYNCNT, 0), EINVAL);
  EXPECT_OK(SetOption(s.tcp, SOL_TCP, TCP_USER_TIMEOUT, 1234));
  EXPECT_EQ(Option(s.tcp, SOL_TCP, TCP_USER_TIMEOUT), 1234);
  EXPECT_ERRNO(SetOption(s.tcp, SOL_TCP, TCP_USER_TIMEOUT, -1), EINVAL);
  EXPECT_OK(SetOption(s.tcp, SOL_TCP, TCP_DEFER_ACCEPT, 0));
  EXPECT_GT(Option(s.tcp, SOL_TCP, TCP_MAXSEG), 87);
  EXPECT_ERRNO(SetOption(s.tcp, SOL_TCP, TCP_MAXSEG, 1), EINVAL);
}

GUEST_TEST(TcpOption, InfoTellsTheState) {
  TcpPair pair;
  tcp_info info = {};
  socklen_t length = sizeof(info);
  EXPECT_OK(getsockopt(pair.a, SOL_TCP, TCP_INFO, &info, &length));
  EXPECT_EQ(info.tcpi_state, TCP_ESTABLISHED);
  EXPECT_GT(info.tcpi_snd_mss, 0);
  Sockets s;
  length = sizeof(info);
  EXPECT_OK(getsockopt(s.tcp, SOL_TCP, TCP_INFO, &info, &length));
  EXPECT_EQ(info.tcpi_state, TCP_CLOSE);
  MUST(shutdown(pair.b, SHUT_WR));
  for (int i = 0; i < 500 && info.tcpi_state != TCP_CLOSE_WAIT; ++i) {
    length = sizeof(info);
    MUST(getsockopt(pair.a, SOL_TCP, TCP_INFO, &info, &length));
    SleepMs(2);
  }
  EXPECT_EQ(info.tcpi_state, TCP_CLOSE_WAIT);
}

GUEST_TEST(TcpOption, CongestionControlByName) {
  Sockets s;
  char name[16] = {};
  socklen_t length = sizeof(name);
  EXPECT_OK(getsockopt(s.tcp, SOL_TCP, TCP_CONGESTION, name, &length));
  EXPECT_NE(name[0], 0);
  EXPECT_OK(setsockopt(s.tcp, SOL_TCP, TCP_CONGESTION, name, strlen(name)));
  EXPECT_ERRNO(setsockopt(s.tcp, SOL_TCP, TCP_CONGESTION, "nonesuch", 8), ENOENT);
}

GUEST_TEST(TcpOption, RenoIsAlwaysThere) {
  Sockets s;
  EXPECT_OK(setsockopt(s.tcp, SOL_TCP, TCP_CONGESTION, "reno", 4));
  char name[16] = {};
  socklen_t length = sizeof(name);
  EXPECT_OK(getsockopt(s.tcp, SOL_TCP, TCP_CONGESTION, name, &length));
  EXPECT_STREQ(name, "reno");
}

GUEST_TEST(TcpOption, AcceptedSocketsHaveTheirListenersCongestionControl) {
  Sockets s;
  MUST(setsockopt(s.tcp, SOL_TCP, TCP_CONGESTION, "reno", 4));
  struct sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  MUST(bind(s.tcp, reinterpret_cast<struct sockaddr*>(&address), length));
  MUST(listen(s.tcp, 1));
  MUST(getsockname(s.tcp, reinterpret_cast<struct sockaddr*>(&address), &length));
  const int client = MUST(socket(AF_INET, SOCK_STREAM, 0));
  MUST(connect(client, reinterpret_cast<struct sockaddr*>(&address), length));
  const int server = MUST(accept(s.tcp, nullptr, nullptr));
  CheckpointHere();
  char name[16] = {};
  length = sizeof(name);
  EXPECT_OK(getsockopt(server, SOL_TCP, TCP_CONGESTION, name, &length));
  EXPECT_STREQ(name, "reno");
  // It may change while data is on its way.
  static char data[1 << 20];
  const pid_t writer = Fork([&] {
    for (size_t done = 0; done < sizeof(data);) done += static_cast<size_t>(MUST(write(server, data + done, sizeof(data) - done)));
  });
  close(server);
  size_t got = 0;
  char buffer[65536];
  for (ssize_t n; (n = read(client, buffer, sizeof(buffer))) > 0; got += static_cast<size_t>(n)) {
    MUST(setsockopt(client, SOL_TCP, TCP_CONGESTION, got % 2 == 0 ? "reno" : "cubic", 5));
  }
  EXPECT_EQ(got, sizeof(data));
  JOIN_OK(writer);
}

GUEST_TEST(IpOption, Ranges) {
  Sockets s;
  EXPECT_EQ(Option(s.udp, SOL_IP, IP_TTL), 64);
  EXPECT_OK(SetOption(s.udp, SOL_IP, IP_TTL, 33));
  EXPECT_EQ(Option(s.udp, SOL_IP, IP_TTL), 33);
  EXPECT_ERRNO(SetOption(s.udp, SOL_IP, IP_TTL, 0), EINVAL);
  EXPECT_ERRNO(SetOption(s.udp, SOL_IP, IP_TTL, 256), EINVAL);
  EXPECT_OK(SetOption(s.udp, SOL_IP, IP_TTL, -1));  // The default again.
  EXPECT_EQ(Option(s.udp, SOL_IP, IP_TTL), 64);
  EXPECT_OK(SetOption(s.udp, SOL_IP, IP_TOS, 0x10));
  EXPECT_EQ(Option(s.udp, SOL_IP, IP_TOS), 0x10);
  EXPECT_EQ(Option(s.udp, SOL_IP, IP_MULTICAST_TTL), 1);
  EXPECT_EQ(Option(s.udp, SOL_IP, IP_MULTICAST_LOOP), 1);
  EXPECT_OK(SetOption(s.udp, SOL_IP, IP_RECVERR, 1));
  EXPECT_EQ(Option(s.udp, SOL_IP, IP_RECVERR), 1);
  EXPECT_OK(SetOption(s.udp, SOL_IP, IP_PKTINFO, 1));
  EXPECT_EQ(Option(s.udp, SOL_IP, IP_PKTINFO), 1);
  const unsigned char byte = 9;  // IP options may be given as one byte.
  EXPECT_OK(setsockopt(s.udp, SOL_IP, IP_TTL, &byte, 1));
  EXPECT_EQ(Option(s.udp, SOL_IP, IP_TTL), 9);
}

GUEST_TEST(IpOption, SixOnly) {
  const int fd = socket(AF_INET6, SOCK_STREAM, 0);
  if (fd < 0) Skip("no IPv6");
  EXPECT_OK(SetOption(fd, SOL_IPV6, IPV6_V6ONLY, 1));
  EXPECT_EQ(Option(fd, SOL_IPV6, IPV6_V6ONLY), 1);
  sockaddr_in6 address = {};
  address.sin6_family = AF_INET6;
  MUST(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)));
  EXPECT_ERRNO(SetOption(fd, SOL_IPV6, IPV6_V6ONLY, 0), EINVAL);  // Too late.
  EXPECT_EQ(Option(fd, SOL_IPV6, IPV6_UNICAST_HOPS), 64);
  EXPECT_ERRNO(SetOption(fd, SOL_IPV6, IPV6_UNICAST_HOPS, 256), EINVAL);
  EXPECT_ERRNO(bind(socket(AF_INET6, SOCK_STREAM, 0), reinterpret_cast<sockaddr*>(&address), 16), EINVAL);
}
