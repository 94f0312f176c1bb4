// Options of sockets at every level: what they take, and what reads back.
#include <linux/netlink.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <sys/socket.h>

#include "test/harness/guest_util.h"
#include "test/harness/sockets.h"

using namespace guest;

namespace {

constexpr int kTimestampNew = 63, kTimestampNsNew = 64, kTimestampingNew = 65, kBufLock = 72, kRtoMax = 44;

int Get(int fd, int level, int name) {
  int value = -77;
  socklen_t size = sizeof(value);
  if (getsockopt(fd, level, name, &value, &size) < 0) return -errno;
  return size == sizeof(value) ? value : -1000 - static_cast<int>(size);
}
int Set(int fd, int level, int name, int value) { return setsockopt(fd, level, name, &value, sizeof(value)) < 0 ? -errno : 0; }
// The value that reads back, or the error of setting it.
int RoundTrip(int fd, int level, int name, int value) {
  const int error = Set(fd, level, name, value);
  return error < 0 ? error : Get(fd, level, name);
}

}  // namespace

GUEST_TEST(SocketOption, TimestampsExcludeEachOther) {
  const int fd = MUST(socket(AF_INET, SOCK_DGRAM, 0));
  const int kinds[] = {SO_TIMESTAMP, SO_TIMESTAMPNS, kTimestampNew, kTimestampNsNew};
  for (const int kind : kinds) {
    EXPECT_EQ(Set(fd, SOL_SOCKET, kind, 5), 0);
    CheckpointHere();
    for (const int other : kinds) {
      const bool on = kind == other || (kind == kTimestampNsNew && other == kTimestampNew);
      EXPECT_EQ(Get(fd, SOL_SOCKET, other), on ? 1 : 0);
    }
  }
  EXPECT_EQ(Set(fd, SOL_SOCKET, SO_TIMESTAMP, 0), 0);
  for (const int other : kinds) EXPECT_EQ(Get(fd, SOL_SOCKET, other), 0);
}

GUEST_TEST(SocketOption, TimestampingOfWhatIsReceived) {
  const int fd = MUST(socket(AF_INET, SOCK_DGRAM, 0));
  auto flags = [fd](int name) {
    int two[2] = {};
    socklen_t size = sizeof(two);
    return getsockopt(fd, SOL_SOCKET, name, two, &size) < 0 || size != sizeof(two) ? -1 : two[0];
  };
  EXPECT_EQ(Set(fd, SOL_SOCKET, SO_TIMESTAMPING, -1), -EINVAL);
  EXPECT_EQ(Set(fd, SOL_SOCKET, SO_TIMESTAMPING, 1 << 16), -EINVAL);
  EXPECT_EQ(Set(fd, SOL_SOCKET, SO_TIMESTAMPING, 1 << 3 | 1 << 4), 0);  // SOF_TIMESTAMPING_RX_SOFTWARE, _SOFTWARE
  EXPECT_EQ(flags(SO_TIMESTAMPING), 1 << 3 | 1 << 4);
  EXPECT_EQ(flags(kTimestampingNew), 0);  // Tells of what it has set alone.
  SleepMs(50);                            // Linux begins to look at its clock a little later.
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  MUST(bind(fd, reinterpret_cast<sockaddr*>(&address), size));
  MUST(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size));
  MUST(sendto(fd, "x", 1, 0, reinterpret_cast<sockaddr*>(&address), size));
  CheckpointHere();
  char byte;
  iovec range = {&byte, 1};
  alignas(cmsghdr) char control[128];
  msghdr message = {};
  message.msg_iov = &range;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  EXPECT_EQ(recvmsg(fd, &message, 0), 1);
  const cmsghdr* c = CMSG_FIRSTHDR(&message);
  EXPECT(c != nullptr && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SO_TIMESTAMPING && c->cmsg_len == CMSG_LEN(3 * sizeof(timespec)));
  if (c != nullptr) {
    timespec times[3];
    memcpy(times, CMSG_DATA(c), sizeof(times));
    EXPECT(times[0].tv_sec > 0);
    EXPECT_EQ(times[2].tv_sec, 0);
  }
}

GUEST_TEST(SocketOption, OfEveryFamily) {
  const int fds[] = {MUST(socket(AF_INET, SOCK_STREAM, 0)), MUST(socket(AF_INET6, SOCK_DGRAM, 0)), MUST(socket(AF_UNIX, SOCK_STREAM, 0)),
                     MUST(socket(AF_NETLINK, SOCK_RAW, 0))};
  for (const int fd : fds) {
    EXPECT_EQ(RoundTrip(fd, SOL_SOCKET, SO_RXQ_OVFL, 7), 1);
    EXPECT_EQ(RoundTrip(fd, SOL_SOCKET, SO_SELECT_ERR_QUEUE, 7), 1);
    EXPECT_EQ(RoundTrip(fd, SOL_SOCKET, SO_WIFI_STATUS, 7), 1);
    EXPECT_EQ(RoundTrip(fd, SOL_SOCKET, SO_BSDCOMPAT, 1), 0);
    EXPECT_EQ(Get(fd, SOL_SOCKET, SO_INCOMING_CPU), -1);
    EXPECT_EQ(RoundTrip(fd, SOL_SOCKET, SO_INCOMING_CPU, 3), 3);
    EXPECT_EQ(Get(fd, SOL_SOCKET, SO_BPF_EXTENSIONS), 64);
    EXPECT_EQ(Set(fd, SOL_SOCKET, SO_BUSY_POLL, -1), -EINVAL);
    EXPECT_EQ(RoundTrip(fd, SOL_SOCKET, kBufLock, 2), 2);
    EXPECT_EQ(Set(fd, SOL_SOCKET, kBufLock, 4), -EINVAL);
    EXPECT_EQ(Set(fd, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, 1), -EINVAL);
    EXPECT_EQ(Set(fd, SOL_SOCKET, 4711, 1), -ENOPROTOOPT);
    EXPECT_EQ(Get(fd, SOL_SOCKET, 4711), -ENOPROTOOPT);
    EXPECT_ERRNO(setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &fds, 3), EINVAL);
    uint64_t rate = 0;
    socklen_t size = sizeof(rate);
    EXPECT_EQ(Get(fd, SOL_SOCKET, SO_MAX_PACING_RATE), -1);
    EXPECT_OK(getsockopt(fd, SOL_SOCKET, SO_MAX_PACING_RATE, &rate, &size));
    EXPECT_EQ(rate, UINT64_MAX);
    rate = uint64_t{5} << 32 | 6;
    EXPECT_OK(setsockopt(fd, SOL_SOCKET, SO_MAX_PACING_RATE, &rate, sizeof(rate)));
  }
  CheckpointHere();
  for (const int fd : fds) {
    EXPECT_EQ(Get(fd, SOL_SOCKET, SO_RXQ_OVFL), 1);
    EXPECT_EQ(Get(fd, SOL_SOCKET, SO_INCOMING_CPU), 3);
    EXPECT_EQ(Get(fd, SOL_SOCKET, SO_MAX_PACING_RATE), -1);  // more than fits
    uint64_t rate = 0;
    socklen_t size = sizeof(rate);
    EXPECT_OK(getsockopt(fd, SOL_SOCKET, SO_MAX_PACING_RATE, &rate, &size));
    EXPECT_EQ(rate, uint64_t{5} << 32 | 6);
    unsigned memory[16] = {};
    size = sizeof(memory);
    EXPECT_OK(getsockopt(fd, SOL_SOCKET, SO_MEMINFO, memory, &size));
    EXPECT_EQ(size, 36u);
    EXPECT_EQ(static_cast<int>(memory[1]), Get(fd, SOL_SOCKET, SO_RCVBUF));
  }
}

GUEST_TEST(SocketOption, ShortRooms) {
  const int fd = MUST(socket(AF_INET, SOCK_DGRAM, 0));
  char bytes[8] = {9, 9, 9, 9};
  socklen_t size = 0;
  EXPECT_OK(getsockopt(fd, SOL_SOCKET, SO_TYPE, bytes, &size));
  EXPECT_EQ(size, 0u);
  size = 1;
  EXPECT_OK(getsockopt(fd, SOL_SOCKET, SO_TYPE, bytes, &size));
  EXPECT_EQ(size, 1u);
  EXPECT_EQ(bytes[0], SOCK_DGRAM);
  EXPECT_EQ(bytes[1], 9);
  size = 4;
  EXPECT_ERRNO(getsockopt(fd, SOL_SOCKET, SO_COOKIE, bytes, &size), EINVAL);
  size = 1;
  EXPECT_OK(getsockopt(fd, SOL_IP, IP_TTL, bytes, &size));
  EXPECT_EQ(bytes[0], 64);
}

GUEST_TEST(SocketOption, OfIp) {
  const int udp = MUST(socket(AF_INET, SOCK_DGRAM, 0)), tcp = MUST(socket(AF_INET, SOCK_STREAM, 0));
  const int toggles[] = {
      IP_RECVOPTS, IP_RETOPTS, IP_PKTINFO, IP_RECVERR, IP_RECVTTL, IP_RECVTOS, IP_PASSSEC, IP_RECVORIGDSTADDR, IP_BIND_ADDRESS_NO_PORT};
  for (const int name : toggles) EXPECT_EQ(RoundTrip(udp, SOL_IP, name, 256), 1);
  CheckpointHere();
  for (const int name : toggles) EXPECT_EQ(Get(udp, SOL_IP, name), 1);
  EXPECT_EQ(RoundTrip(udp, SOL_IP, IP_TOS, 70000), 112);
  EXPECT_EQ(RoundTrip(tcp, SOL_IP, IP_TOS, 255), 252);
  EXPECT_EQ(RoundTrip(udp, SOL_IP, IP_TTL, -1), 64);
  EXPECT_EQ(Set(udp, SOL_IP, IP_TTL, 0), -EINVAL);
  EXPECT_ERRNO(setsockopt(udp, SOL_IP, IP_TTL, "", 0), EINVAL);
  EXPECT_OK(setsockopt(udp, SOL_IP, IP_RECVTTL, "", 0));
  EXPECT_EQ(Get(udp, SOL_IP, IP_RECVTTL), 0);
  EXPECT_EQ(Get(udp, SOL_IP, IP_MTU), -ENOTCONN);
  EXPECT_EQ(Set(udp, SOL_IP, IP_MTU_DISCOVER, 6), -EINVAL);
  EXPECT_EQ(RoundTrip(udp, SOL_IP, IP_MTU_DISCOVER, 3), 3);
  EXPECT_EQ(Set(udp, SOL_IP, IP_MINTTL, 256), -EINVAL);
  EXPECT_EQ(RoundTrip(udp, SOL_IP, IP_MINTTL, 255), 255);
  EXPECT_EQ(Set(udp, SOL_IP, IP_MULTICAST_ALL, 2), -EINVAL);
  EXPECT_EQ(RoundTrip(udp, SOL_IP, IP_MULTICAST_ALL, 0), 0);
  EXPECT_EQ(Set(tcp, SOL_IP, IP_MULTICAST_TTL, 1), -EINVAL);
  EXPECT_EQ(Set(udp, SOL_IP, IP_HDRINCL, 1), -ENOPROTOOPT);
  EXPECT_EQ(Get(udp, SOL_IP, IP_HDRINCL), 0);
  EXPECT_EQ(Set(udp, SOL_IP, IP_NODEFRAG, 1), -ENOPROTOOPT);
  EXPECT_EQ(Set(udp, SOL_IP, IP_ROUTER_ALERT, 1), -EINVAL);
  EXPECT_EQ(RoundTrip(udp, SOL_IP, 51 /* IP_LOCAL_PORT_RANGE */, 2000 << 16 | 1000), 2000 << 16 | 1000);
  EXPECT_EQ(Set(udp, SOL_IP, 51, 1000 << 16 | 2000), -EINVAL);
  ip_mreqn group = {};
  group.imr_multiaddr.s_addr = htonl(0xe0000101);
  group.imr_ifindex = 1;
  EXPECT_OK(setsockopt(udp, SOL_IP, IP_ADD_MEMBERSHIP, &group, sizeof(group)));
  EXPECT_ERRNO(setsockopt(tcp, SOL_IP, IP_ADD_MEMBERSHIP, &group, sizeof(group)), EPROTO);
  EXPECT_ERRNO(setsockopt(udp, SOL_IP, IP_ADD_MEMBERSHIP, &group, 4), EINVAL);
  group.imr_address.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_OK(setsockopt(udp, SOL_IP, IP_MULTICAST_IF, &group.imr_address, 4));
  EXPECT_EQ(Get(udp, SOL_IP, IP_MULTICAST_IF), static_cast<int>(htonl(INADDR_LOOPBACK)));
}

GUEST_TEST(SocketOption, OfIpv6) {
  const int udp = MUST(socket(AF_INET6, SOCK_DGRAM, 0)), tcp = MUST(socket(AF_INET6, SOCK_STREAM, 0));
  const int toggles[] = {IPV6_RECVPKTINFO, IPV6_RECVHOPLIMIT, IPV6_RECVHOPOPTS, IPV6_RECVRTHDR, IPV6_RECVDSTOPTS,
                         IPV6_RECVPATHMTU, IPV6_RECVTCLASS,   IPV6_RECVERR,     IPV6_DONTFRAG,  IPV6_RECVORIGDSTADDR};
  for (const int name : toggles) EXPECT_EQ(RoundTrip(udp, SOL_IPV6, name, 256), 1);
  CheckpointHere();
  for (const int name : toggles) EXPECT_EQ(Get(udp, SOL_IPV6, name), 1);
  EXPECT_ERRNO(setsockopt(udp, SOL_IPV6, IPV6_RECVTCLASS, "x", 1), EINVAL);
  EXPECT_EQ(RoundTrip(udp, SOL_IPV6, IPV6_UNICAST_HOPS, -1), 64);
  EXPECT_EQ(Set(udp, SOL_IPV6, IPV6_UNICAST_HOPS, 256), -EINVAL);
  EXPECT_EQ(RoundTrip(udp, SOL_IPV6, IPV6_TCLASS, 255), 255);
  EXPECT_EQ(RoundTrip(tcp, SOL_IPV6, IPV6_TCLASS, 255), 252);
  EXPECT_EQ(Set(tcp, SOL_IPV6, IPV6_MULTICAST_HOPS, 1), -ENOPROTOOPT);
  EXPECT_EQ(Set(tcp, SOL_IPV6, IPV6_MULTICAST_IF, 1), -ENOPROTOOPT);
  EXPECT_EQ(Set(udp, SOL_IPV6, IPV6_MULTICAST_IF, 4711), -ENODEV);
  EXPECT_EQ(Set(udp, SOL_IPV6, IPV6_MULTICAST_LOOP, 2), -EINVAL);
  EXPECT_EQ(Get(udp, SOL_IPV6, IPV6_MTU), -ENOTCONN);
  EXPECT_EQ(Set(udp, SOL_IPV6, IPV6_MTU, 1000), -EINVAL);
  EXPECT_EQ(RoundTrip(udp, SOL_IPV6, IPV6_MINHOPCOUNT, 7), 7);
  EXPECT_EQ(RoundTrip(udp, SOL_IPV6, IPV6_AUTOFLOWLABEL, 0), 0);
  EXPECT_EQ(Get(udp, SOL_IPV6, IPV6_ADDR_PREFERENCES), 0x500);
  EXPECT_EQ(RoundTrip(udp, SOL_IPV6, IPV6_ADDR_PREFERENCES, 1), 0x401);
  EXPECT_EQ(Set(udp, SOL_IPV6, IPV6_ADDR_PREFERENCES, 3), -EINVAL);
  EXPECT_EQ(RoundTrip(udp, SOL_IP, IP_TTL, 9), 9);
  EXPECT_EQ(Get(udp, 4711, 1), -ENOPROTOOPT);
  const int raw = socket(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6);
  if (raw < 0) return;
  EXPECT_EQ(Get(raw, SOL_IP, IP_TTL), -ENOPROTOOPT);
  EXPECT_EQ(Get(raw, SOL_IPV6, IPV6_CHECKSUM), 2);
  EXPECT_EQ(Set(raw, SOL_IPV6, IPV6_CHECKSUM, 2), -EINVAL);
  EXPECT_EQ(RoundTrip(raw, SOL_IPV6, IPV6_HDRINCL, 2), 1);
  EXPECT_EQ(Get(udp, SOL_IPV6, IPV6_HDRINCL), -ENOPROTOOPT);
  EXPECT_EQ(Set(raw, SOL_IPV6, IPV6_V6ONLY, 1), -EINVAL);
  EXPECT_EQ(Get(raw, SOL_SOCKET, SO_REUSEADDR), 1);
}

GUEST_TEST(SocketOption, OfTcp) {
  const int tcp = MUST(socket(AF_INET, SOCK_STREAM, 0));
  EXPECT_EQ(RoundTrip(tcp, SOL_TCP, TCP_DEFER_ACCEPT, 2), 3);
  EXPECT_EQ(RoundTrip(tcp, SOL_TCP, TCP_DEFER_ACCEPT, 255), 367);
  EXPECT_EQ(RoundTrip(tcp, SOL_TCP, TCP_DEFER_ACCEPT, -1), 0);
  EXPECT_EQ(RoundTrip(tcp, SOL_TCP, TCP_LINGER2, 255), 120);
  EXPECT_EQ(RoundTrip(tcp, SOL_TCP, TCP_LINGER2, 0), 60);
  EXPECT_EQ(RoundTrip(tcp, SOL_TCP, TCP_LINGER2, -5), -1);
  EXPECT_EQ(RoundTrip(tcp, SOL_TCP, TCP_WINDOW_CLAMP, 7), 1152);
  EXPECT_EQ(RoundTrip(tcp, SOL_TCP, TCP_WINDOW_CLAMP, -1), 1152);
  EXPECT_EQ(RoundTrip(tcp, SOL_SOCKET, 74 /* SO_TXREHASH */, -1), 1);
  EXPECT_EQ(Set(tcp, SOL_SOCKET, 74, 2), -EINVAL);
  EXPECT_EQ(RoundTrip(tcp, SOL_TCP, TCP_WINDOW_CLAMP, 0), 0);
  EXPECT_EQ(RoundTrip(tcp, SOL_TCP, TCP_SAVE_SYN, 2), 2);
  EXPECT_EQ(Set(tcp, SOL_TCP, TCP_SAVE_SYN, 3), -EINVAL);
  EXPECT_EQ(RoundTrip(tcp, SOL_TCP, TCP_THIN_DUPACK, 1), 0);
  EXPECT_EQ(Set(tcp, SOL_TCP, TCP_THIN_LINEAR_TIMEOUTS, 2), -EINVAL);
  EXPECT_EQ(RoundTrip(tcp, SOL_TCP, TCP_FASTOPEN, 100'000'000) > 0, true);
  EXPECT_EQ(Set(tcp, SOL_TCP, TCP_FASTOPEN, -1), -EINVAL);
  EXPECT_EQ(Set(tcp, SOL_TCP, TCP_REPAIR_QUEUE, 1), -EPERM);
  EXPECT_EQ(Set(tcp, SOL_TCP, TCP_QUEUE_SEQ, 1), -EINVAL);
  EXPECT_EQ(Set(tcp, SOL_TCP, TCP_ULP, 1), -ENOENT);
  EXPECT_EQ(Get(tcp, SOL_TCP, TCP_ULP), -1000);
  EXPECT_EQ(Get(tcp, SOL_TCP, TCP_SAVED_SYN), -1000);
  EXPECT_EQ(Set(tcp, SOL_TCP, 4711, 1), -ENOPROTOOPT);
  EXPECT_EQ(Get(tcp, SOL_TCP, 4711), -ENOPROTOOPT);
  if (Get(tcp, SOL_TCP, kRtoMax) > 0) EXPECT_EQ(Set(tcp, SOL_TCP, kRtoMax, 7), -EINVAL);
  CheckpointHere();
  EXPECT_EQ(Get(tcp, SOL_TCP, TCP_SAVE_SYN), 2);
  const TcpPair pair;
  EXPECT_EQ(Set(pair.a, SOL_TCP, TCP_FASTOPEN_CONNECT, 1), -EINVAL);
  EXPECT_EQ(Set(pair.a, SOL_TCP, TCP_WINDOW_CLAMP, 0), -EINVAL);
  // How much is left, beside what was read.
  EXPECT_EQ(RoundTrip(pair.b, SOL_TCP, TCP_INQ, 1), 1);
  EXPECT_EQ(send(pair.a, "hello", 5, 0), 5);
  char two[2];
  iovec range = {two, 2};
  alignas(cmsghdr) char control[64];
  msghdr message = {};
  message.msg_iov = &range;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  EXPECT_EQ(recvmsg(pair.b, &message, 0), 2);
  const cmsghdr* c = CMSG_FIRSTHDR(&message);
  EXPECT(c != nullptr && c->cmsg_level == SOL_TCP && c->cmsg_type == TCP_CM_INQ);
  int left = 0;
  if (c != nullptr) memcpy(&left, CMSG_DATA(c), sizeof(left));
  EXPECT_EQ(left, 3);
}

GUEST_TEST(SocketOption, OfNetlink) {
  const int fd = MUST(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
  for (const int name : {NETLINK_PKTINFO, NETLINK_BROADCAST_ERROR, NETLINK_NO_ENOBUFS, NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK}) {
    EXPECT_EQ(Get(fd, SOL_NETLINK, name), 0);
    EXPECT_EQ(RoundTrip(fd, SOL_NETLINK, name, 7), 1);
    CheckpointHere();
    EXPECT_EQ(Get(fd, SOL_NETLINK, name), 1);
    EXPECT_OK(setsockopt(fd, SOL_NETLINK, name, "x", 1));  // too short is 0
    EXPECT_EQ(Get(fd, SOL_NETLINK, name), 0);
  }
  EXPECT_EQ(Set(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, 0), -EINVAL);
  EXPECT_EQ(Set(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, 255), -EINVAL);
  EXPECT_EQ(Set(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, 1), 0);
  EXPECT_EQ(Get(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP), -ENOPROTOOPT);
  EXPECT_EQ(Get(fd, SOL_IP, IP_TTL), -ENOPROTOOPT);
}

GUEST_TEST(SocketOption, OneCallManyDatagrams) {
  const int to = MUST(socket(AF_INET, SOCK_DGRAM, 0)), from = MUST(socket(AF_INET, SOCK_DGRAM, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  MUST(bind(to, reinterpret_cast<sockaddr*>(&address), size));
  MUST(getsockname(to, reinterpret_cast<sockaddr*>(&address), &size));
  MUST(connect(from, reinterpret_cast<sockaddr*>(&address), size));
  EXPECT_EQ(Set(from, SOL_UDP, UDP_SEGMENT, -1), -EINVAL);
  EXPECT_EQ(Set(from, SOL_UDP, UDP_SEGMENT, 70000), -EINVAL);
  EXPECT_EQ(RoundTrip(from, SOL_UDP, UDP_SEGMENT, 4), 4);
  EXPECT_EQ(RoundTrip(from, SOL_UDP, UDP_GRO, 4), 1);
  CheckpointHere();
  EXPECT_EQ(send(from, "123456789", 9, 0), 9);
  char text[16] = {};
  EXPECT_EQ(recv(to, text, sizeof(text), MSG_DONTWAIT), 4);
  EXPECT_EQ(recv(to, text, sizeof(text), MSG_DONTWAIT), 4);
  EXPECT_EQ(recv(to, text, sizeof(text), MSG_DONTWAIT), 1);
  EXPECT_EQ(text[0], '9');
  EXPECT_ERRNO(recv(to, text, sizeof(text), MSG_DONTWAIT), EAGAIN);
  char large[4 * 128 + 1] = {};
  EXPECT_ERRNO(send(from, large, sizeof(large), 0), EINVAL);  // more than 128
  // Of one message alone.
  EXPECT_EQ(Set(from, SOL_UDP, UDP_SEGMENT, 0), 0);
  iovec range = {large, 10};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(uint16_t))] = {};
  msghdr message = {};
  message.msg_iov = &range;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  cmsghdr* c = CMSG_FIRSTHDR(&message);
  c->cmsg_level = SOL_UDP;
  c->cmsg_type = UDP_SEGMENT;
  c->cmsg_len = CMSG_LEN(sizeof(uint16_t));
  const uint16_t five = 5;
  memcpy(CMSG_DATA(c), &five, sizeof(five));
  EXPECT_EQ(sendmsg(from, &message, 0), 10);
  EXPECT_EQ(recv(to, text, sizeof(text), MSG_DONTWAIT), 5);
  EXPECT_EQ(recv(to, text, sizeof(text), MSG_DONTWAIT), 5);
}
