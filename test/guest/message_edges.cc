// Lengths of addresses, control messages, errors that wait: what messages and names of sockets are checked for, and in which order.
#include <arpa/inet.h>
#include <linux/errqueue.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "test/harness/guest_util.h"
#include "test/harness/sockets.h"

using namespace guest;

namespace {

const sockaddr* At(const void* address) { return static_cast<const sockaddr*>(address); }

sockaddr_in Loopback(uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

sockaddr_in6 Six(const char* text, uint16_t port, uint32_t scope = 0) {
  sockaddr_in6 address{};
  address.sin6_family = AF_INET6;
  address.sin6_port = htons(port);
  address.sin6_scope_id = scope;
  EXPECT_EQ(inet_pton(AF_INET6, text, &address.sin6_addr), 1);
  return address;
}

// A UDP socket, and one that it can send to.
struct UdpPair {
  UdpPair() {
    receiver = MUST(socket(AF_INET, SOCK_DGRAM, 0));
    address = Loopback(0);
    MUST(bind(receiver, At(&address), sizeof(address)));
    socklen_t size = sizeof(address);
    MUST(getsockname(receiver, reinterpret_cast<sockaddr*>(&address), &size));
    sender = MUST(socket(AF_INET, SOCK_DGRAM, 0));
  }
  int sender, receiver;
  sockaddr_in address;
};

// sendmsg(2) of one byte with one control message.
ssize_t SendControl(int fd, const sockaddr_in* to, int level, int type, const void* data, size_t size) {
  alignas(cmsghdr) char control[CMSG_SPACE(64)] = {};
  iovec part{const_cast<char*>("x"), 1};
  msghdr message{};
  if (to != nullptr) {
    message.msg_name = const_cast<sockaddr_in*>(to);
    message.msg_namelen = sizeof(*to);
  }
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = CMSG_SPACE(size);
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = level;
  header->cmsg_type = type;
  header->cmsg_len = CMSG_LEN(size);
  memcpy(CMSG_DATA(header), data, size);
  return sendmsg(fd, &message, MSG_DONTWAIT);
}

ssize_t SendNumber(int fd, const sockaddr_in* to, int level, int type, int number) {
  return SendControl(fd, to, level, type, &number, sizeof(number));
}

}  // namespace

GUEST_TEST(SendtoEdge, LengthsOfAddresses) {
  UdpPair udp;
  char address[200] = {};
  EXPECT_ERRNO(sendto(udp.sender, "x", 1, 0, At(address), 0), EINVAL);
  EXPECT_ERRNO(sendto(udp.sender, "x", 1, 0, At(address), 129), EINVAL);
  TcpPair tcp;
  EXPECT_ERRNO(sendto(tcp.a, "x", 1, 0, At(address), 129), EINVAL);
  EXPECT_EQ(sendto(tcp.a, "x", 1, 0, At(address), 0), 1);
  UnixPair pair(SOCK_DGRAM);
  EXPECT_ERRNO(sendto(pair.a, "x", 1, 0, At(address), 129), EINVAL);
  EXPECT_EQ(sendto(pair.a, "x", 1, 0, At(address), 0), 1);
  // sendmsg(2) cuts, and takes no length for no address.
  MUST(connect(udp.sender, At(&udp.address), sizeof(udp.address)));
  CheckpointHere();
  iovec part{const_cast<char*>("x"), 1};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_name = address;
  EXPECT_EQ(sendmsg(udp.sender, &message, 0), 1);
}

GUEST_TEST(UnixName, OfNobody) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  for (int type : {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET}) {
    int fd = MUST(socket(AF_UNIX, type, 0));
    EXPECT_ERRNO(connect(fd, At(&address), sizeof(sa_family_t)), EINVAL);
  }
}

GUEST_TEST(SocketPairEdge, WhatIsLookedAtFirst) {
  int ends[2];
  EXPECT_ERRNO(socketpair(AF_INET, SOCK_STREAM, 0, kBad), EFAULT);
  EXPECT_ERRNO(socketpair(AF_INET, SOCK_STREAM | 0x40, 0, kBad), EINVAL);
  EXPECT_ERRNO(socketpair(AF_INET, SOCK_STREAM, 0, ends), EOPNOTSUPP);
  EXPECT_ERRNO(socketpair(AF_INET, SOCK_RAW, 0, ends), EPROTONOSUPPORT);
  EXPECT_ERRNO(socketpair(AF_INET, SOCK_SEQPACKET, 0, ends), ESOCKTNOSUPPORT);
}

GUEST_TEST(UdpMessage, NoUrgentBytes) {
  UdpPair udp;
  MUST(sendto(udp.sender, "hello", 5, 0, At(&udp.address), sizeof(udp.address)));
  CheckpointHere();
  char buffer[8];
  EXPECT_EQ(recv(udp.receiver, buffer, sizeof(buffer), MSG_OOB), 5);
  EXPECT_ERRNO(recv(udp.receiver, buffer, sizeof(buffer), MSG_OOB | MSG_DONTWAIT), EAGAIN);
}

GUEST_TEST(UdpMessage, NoPortIsNobody) {
  int fd = MUST(socket(AF_INET, SOCK_DGRAM, 0));
  sockaddr_in address = Loopback(0);
  MUST(connect(fd, At(&address), sizeof(address)));
  CheckpointHere();
  socklen_t size = sizeof(address);
  EXPECT_ERRNO(getpeername(fd, reinterpret_cast<sockaddr*>(&address), &size), ENOTCONN);
  EXPECT_EQ(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size), 0);
  EXPECT_EQ(address.sin_addr.s_addr, htonl(INADDR_LOOPBACK));
}

// A datagram that is too long is refused before an error that waits is told of; who asked hears of it in the queue of errors.
GUEST_TEST(UdpMessage, TooLong) {
  int on = 1;
  UdpPair udp;
  int fd = udp.sender;
  MUST(setsockopt(fd, SOL_IP, IP_RECVERR, &on, sizeof(on)));
  sockaddr_in nobody = udp.address;
  close(udp.receiver);
  MUST(connect(fd, At(&nobody), sizeof(nobody)));
  MUST(send(fd, "x", 1, 0));
  pollfd poll_error{fd, 0, 0};
  EXPECT_EQ(poll(&poll_error, 1, 10'000), 1);
  static char big[65508];
  EXPECT_ERRNO(send(fd, big, sizeof(big), 0), EMSGSIZE);
  CheckpointHere();
  int expected[] = {ECONNREFUSED, EMSGSIZE};
  for (int error : expected) {
    char data[8];
    alignas(cmsghdr) char control[256];
    sockaddr_in to{};
    iovec part{data, sizeof(data)};
    msghdr message{};
    message.msg_name = &to;
    message.msg_namelen = sizeof(to);
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    ASSERT_GE(recvmsg(fd, &message, MSG_ERRQUEUE), 0);
    EXPECT_EQ(to.sin_port, nobody.sin_port);
    const cmsghdr* header = CMSG_FIRSTHDR(&message);
    ASSERT(header != nullptr && header->cmsg_level == SOL_IP && header->cmsg_type == IP_RECVERR);
    sock_extended_err told;
    memcpy(&told, CMSG_DATA(header), sizeof(told));
    EXPECT_EQ(told.ee_errno, static_cast<uint32_t>(error));
    EXPECT_EQ(told.ee_origin, error == EMSGSIZE ? SO_EE_ORIGIN_LOCAL : SO_EE_ORIGIN_ICMP);
    if (error == EMSGSIZE) EXPECT_GT(told.ee_info, 0u);
  }
}

GUEST_TEST(ControlMessages, OfDatagrams) {
  UdpPair udp;
  const sockaddr_in* to = &udp.address;
  int fd = udp.sender;
  EXPECT_EQ(SendNumber(fd, to, SOL_IP, IP_TTL, 1), 1);
  EXPECT_ERRNO(SendNumber(fd, to, SOL_IP, IP_TTL, 0), EINVAL);
  EXPECT_ERRNO(SendNumber(fd, to, SOL_IP, IP_TTL, 256), EINVAL);
  EXPECT_EQ(SendNumber(fd, to, SOL_IP, IP_TOS, 255), 1);
  EXPECT_ERRNO(SendNumber(fd, to, SOL_IP, IP_TOS, 256), EINVAL);
  EXPECT_ERRNO(SendControl(fd, to, SOL_IP, IP_TOS, "", 0), EINVAL);
  EXPECT_EQ(SendControl(fd, to, SOL_IP, IP_TOS, "\4", 1), 1);
  EXPECT_ERRNO(SendNumber(fd, to, SOL_IP, IP_RECVERR, 1), EINVAL);
  // Of the other version of IP: not looked at.
  EXPECT_EQ(SendNumber(fd, to, SOL_IPV6, IPV6_HOPLIMIT, 1000), 1);
  in_pktinfo info{};
  info.ipi_ifindex = 7777;
  EXPECT_ERRNO(SendControl(fd, to, SOL_IP, IP_PKTINFO, &info, sizeof(info)), ENODEV);
  info.ipi_ifindex = 0;
  info.ipi_spec_dst.s_addr = htonl(0x7f000005);
  CheckpointHere();
  EXPECT_EQ(SendControl(fd, to, SOL_IP, IP_PKTINFO, &info, sizeof(info)), 1);
  EXPECT_ERRNO(SendControl(fd, to, SOL_IP, IP_PKTINFO, &info, 8), EINVAL);
}

GUEST_TEST(ControlMessages, OfTheSocketsLevel) {
  UdpPair udp;
  TcpPair tcp;
  auto both = [&](int type, const void* data, size_t size) {
    ssize_t a = SendControl(udp.sender, &udp.address, SOL_SOCKET, type, data, size);
    int error = errno;
    EXPECT_EQ(SendControl(tcp.a, nullptr, SOL_SOCKET, type, data, size), a);
    return a < 0 ? -error : static_cast<int>(a);
  };
  int zero = 0, high = 5;
  EXPECT_EQ(both(SCM_RIGHTS, &zero, sizeof(zero)), 1);  // passed by nobody, minded by nobody
  EXPECT_EQ(both(SCM_CREDENTIALS, &zero, sizeof(zero)), 1);
  EXPECT_EQ(both(SO_PRIORITY, &high, sizeof(high)), 1);
  EXPECT_EQ(both(SO_PRIORITY, &high, 2), -EINVAL);
  EXPECT_EQ(both(SO_TIMESTAMPING, &zero, sizeof(zero)), 1);
  int receive = 1 << 3;  // SOF_TIMESTAMPING_RX_SOFTWARE is nothing of one message
  EXPECT_EQ(both(SO_TIMESTAMPING, &receive, sizeof(receive)), -EINVAL);
  EXPECT_EQ(both(SO_KEEPALIVE, &zero, sizeof(zero)), -EINVAL);
}

GUEST_TEST(BindEdge, GroupsAndEverybody) {
  sockaddr_in address = Loopback(0);
  for (uint32_t to : {0xe0000001u, 0xffffffffu}) {
    address.sin_addr.s_addr = htonl(to);
    for (int type : {SOCK_STREAM, SOCK_DGRAM}) {
      int fd = MUST(socket(AF_INET, type, 0));
      EXPECT_EQ(bind(fd, At(&address), sizeof(address)), 0);
    }
  }
  sockaddr_in6 group = Six("ff02::1", 0, 1);
  int fd = MUST(socket(AF_INET6, SOCK_STREAM, 0));
  EXPECT_ERRNO(bind(fd, At(&group), sizeof(group)), EINVAL);
}

GUEST_TEST(BindEdge, LinksOfAddresses) {
  sockaddr_in6 local = Six("fe80::1", 0);
  int fd = MUST(socket(AF_INET6, SOCK_STREAM, 0));
  EXPECT_ERRNO(bind(fd, At(&local), sizeof(local)), EINVAL);
  local.sin6_scope_id = 1;
  EXPECT_ERRNO(bind(fd, At(&local), sizeof(local)), EADDRNOTAVAIL);
  local.sin6_scope_id = 7777;
  EXPECT_ERRNO(bind(fd, At(&local), sizeof(local)), ENODEV);
  // The link is the socket's from then on.
  sockaddr_in6 other = Six("2001:db8::1", 0);
  EXPECT_ERRNO(bind(fd, At(&other), sizeof(other)), ENODEV);
  int datagrams = MUST(socket(AF_INET6, SOCK_DGRAM, 0));
  sockaddr_in6 group = Six("ff02::1", 0);
  EXPECT_ERRNO(bind(datagrams, At(&group), sizeof(group)), EINVAL);
  CheckpointHere();
  group.sin6_scope_id = 1;
  EXPECT_EQ(bind(datagrams, At(&group), sizeof(group)), 0);
}

GUEST_TEST(ConnectEdge, LinksOfAddresses) {
  sockaddr_in6 local = Six("fe80::5", 9), group = Six("ff02::1", 9);
  int stream = MUST(socket(AF_INET6, SOCK_STREAM, 0));
  EXPECT_ERRNO(connect(stream, At(&local), sizeof(local)), EINVAL);
  EXPECT_ERRNO(connect(stream, At(&group), sizeof(group)), ENETUNREACH);
  int datagrams = MUST(socket(AF_INET6, SOCK_DGRAM, 0));
  EXPECT_ERRNO(connect(datagrams, At(&local), sizeof(local)), EINVAL);
  EXPECT_ERRNO(connect(datagrams, At(&group), sizeof(group)), EINVAL);
}

// struct tcp_info beyond what the C library knows of it.
GUEST_TEST(TcpInfo, Counters) {
  TcpPair tcp;
  MUST(send(tcp.a, "hello", 5, 0));
  char buffer[8];
  EXPECT_EQ(recv(tcp.b, buffer, sizeof(buffer), 0), 5);
  CheckpointHere();
  struct {
    tcp_info first;
    uint64_t pacing_rate, max_pacing_rate, bytes_acked, bytes_received;
    uint32_t segments_out, segments_in, not_sent, least_rtt, data_segments_in, data_segments_out;
    uint64_t rates[4];
    uint32_t delivered[2];
    uint64_t bytes_sent, bytes_retransmitted;
    uint32_t others[6];
  } info{};
  auto read = [&](int fd) {
    socklen_t size = sizeof(info);
    MUST(getsockopt(fd, SOL_TCP, TCP_INFO, &info, &size));
    EXPECT_EQ(size, sizeof(info));
  };
  static_assert(sizeof(info) == 240);
  // The acknowledgement may come later.
  do {
    read(tcp.a);
  } while (info.first.tcpi_unacked != 0);
  EXPECT_EQ(info.first.tcpi_state, TCP_ESTABLISHED);
  EXPECT_EQ(info.bytes_acked, 6u);  // and the SYN
  EXPECT_EQ(info.bytes_sent, 5u);
  EXPECT_EQ(info.bytes_received, 0u);
  EXPECT_GE(info.segments_out, 2u);
  EXPECT_EQ(info.not_sent, 0u);
  EXPECT_EQ(info.max_pacing_rate, UINT64_MAX);
  read(tcp.b);
  EXPECT_EQ(info.bytes_received, 5u);
  EXPECT_GE(info.segments_in, 2u);
  unsigned char whole[512];
  socklen_t size = sizeof(whole);
  MUST(getsockopt(tcp.a, SOL_TCP, TCP_INFO, whole, &size));
  EXPECT_EQ(size, 280u);
}

GUEST_TEST(UnixPacket, NoEndOfRecord) {
  UnixPair pair(SOCK_SEQPACKET);
  MUST(send(pair.a, "abc", 3, MSG_EOR));
  CheckpointHere();
  char data[8];
  iovec part{data, sizeof(data)};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  EXPECT_EQ(recvmsg(pair.b, &message, 0), 3);
  EXPECT_EQ(message.msg_flags, 0);
}

// connect(2) that was refused leaves a socket as it was.
GUEST_TEST(ConnectEdge, RefusedIsForgotten) {
  sockaddr_in address;
  close(TcpListener(&address));
  int fd = MUST(socket(AF_INET, SOCK_STREAM, 0));
  for (int i = 0; i < 2; ++i) {
    EXPECT_ERRNO(connect(fd, At(&address), sizeof(address)), ECONNREFUSED);
    CheckpointHere();
    char byte;
    EXPECT_ERRNO(recv(fd, &byte, 1, 0), ENOTCONN);
    pollfd state{fd, POLLIN | POLLOUT, 0};
    EXPECT_EQ(poll(&state, 1, 0), 1);
    EXPECT_EQ(state.revents, POLLOUT | POLLHUP);
  }
  int again = MUST(socket(AF_INET, SOCK_STREAM, 0));
  MUST(bind(again, At(&address), sizeof(address)));
  MUST(listen(again, 1));
  EXPECT_EQ(connect(fd, At(&address), sizeof(address)), 0);
}

namespace {

struct LinkRequest {
  nlmsghdr header;
  ifinfomsg info;
};

// Sends it, and takes the answer, which is an acknowledgement: its error. Its flags and length into `answer`.
int Acknowledged(int fd, LinkRequest request, uint16_t type, uint16_t flags, nlmsghdr* answer) {
  request.header = {sizeof(request), type, flags, 77, 0};
  EXPECT_EQ(send(fd, &request, sizeof(request), 0), static_cast<ssize_t>(sizeof(request)));
  char buffer[4096];
  if (recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT) < 0) return errno;
  memcpy(answer, buffer, sizeof(*answer));
  nlmsgerr error;
  memcpy(&error, buffer + sizeof(*answer), sizeof(error));
  EXPECT_EQ(answer->nlmsg_type, NLMSG_ERROR);
  EXPECT_EQ(error.msg.nlmsg_seq, 77u);
  return -error.error;
}

}  // namespace

GUEST_TEST(NetlinkEdge, Acknowledgements) {
  int fd = MUST(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
  LinkRequest request{};
  nlmsghdr answer{};
  // What fails comes back whole; what succeeds, without its body.
  EXPECT_EQ(Acknowledged(fd, request, RTM_GETLINK, NLM_F_REQUEST, &answer), EINVAL);
  EXPECT_EQ(answer.nlmsg_flags, 0);
  EXPECT_EQ(answer.nlmsg_len, NLMSG_LENGTH(sizeof(nlmsgerr) + sizeof(ifinfomsg)));
  request.info.ifi_index = 7777;
  EXPECT_EQ(Acknowledged(fd, request, RTM_GETLINK, NLM_F_REQUEST, &answer), ENODEV);
  CheckpointHere();
  for (uint16_t type : {NLMSG_NOOP, NLMSG_DONE}) {
    EXPECT_EQ(Acknowledged(fd, request, type, NLM_F_REQUEST | NLM_F_ACK, &answer), 0);
    EXPECT_EQ(answer.nlmsg_flags, NLM_F_CAPPED);
    EXPECT_EQ(answer.nlmsg_len, NLMSG_LENGTH(sizeof(nlmsgerr)));
    EXPECT_EQ(Acknowledged(fd, request, type, NLM_F_REQUEST, &answer), EAGAIN);
  }
  EXPECT_EQ(Acknowledged(fd, request, RTM_GETLINK, NLM_F_ACK, &answer), 0);
  int on = 1;
  MUST(setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof(on)));
  EXPECT_EQ(Acknowledged(fd, request, RTM_GETLINK, NLM_F_REQUEST, &answer), ENODEV);
  EXPECT_EQ(answer.nlmsg_flags, NLM_F_CAPPED);
  EXPECT_EQ(answer.nlmsg_len, NLMSG_LENGTH(sizeof(nlmsgerr)));
}

GUEST_TEST(NetlinkEdge, NamesAndNothing) {
  int fd = MUST(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
  EXPECT_ERRNO(send(fd, "", 0, 0), ENODATA);
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  address.nl_pid = 4321;
  EXPECT_EQ(bind(fd, At(&address), sizeof(address)), 0);
  EXPECT_EQ(bind(fd, At(&address), sizeof(address)), 0);
  CheckpointHere();
  for (uint32_t port : {0u, 4322u}) {
    address.nl_pid = port;
    EXPECT_ERRNO(bind(fd, At(&address), sizeof(address)), EINVAL);
  }
}

// shutdown(2) of both sides, one after the other: what comes then is answered by a reset.
GUEST_TEST(ShutdownEdge, DataNobodyWants) {
  TcpPair tcp;
  MUST(shutdown(tcp.a, SHUT_WR));
  MUST(shutdown(tcp.a, SHUT_RD));
  CheckpointHere();
  MUST(send(tcp.b, "x", 1, 0));
  pollfd reset{tcp.b, 0, 0};
  EXPECT_EQ(poll(&reset, 1, 10'000), 1);
  EXPECT_ERRNO(send(tcp.b, "x", 1, MSG_NOSIGNAL), EPIPE);
  char byte;
  EXPECT_ERRNO(recv(tcp.a, &byte, 1, MSG_DONTWAIT), ECONNRESET);
  // Of one half alone it is only not asked for.
  TcpPair half;
  MUST(shutdown(half.a, SHUT_RD));
  MUST(send(half.b, "x", 1, 0));
  pollfd there{half.a, POLLIN, 0};
  EXPECT_EQ(poll(&there, 1, 10'000), 1);
  EXPECT_EQ(send(half.b, "x", 1, MSG_NOSIGNAL), 1);
}

// IP_RECVORIGDSTADDR and its like: where a datagram went to, with the port.
GUEST_TEST(ControlMessages, WhereItWentTo) {
  for (int family : {AF_INET, AF_INET6}) {
    bool four = family == AF_INET;
    int fd = MUST(socket(family, SOCK_DGRAM, 0)), on = 1;
    MUST(setsockopt(fd, four ? SOL_IP : SOL_IPV6, four ? int{IP_RECVORIGDSTADDR} : int{IPV6_RECVORIGDSTADDR}, &on, sizeof(on)));
    sockaddr_storage address{};
    if (four) {
      sockaddr_in any = Loopback(0);
      any.sin_addr.s_addr = INADDR_ANY;
      memcpy(&address, &any, sizeof(any));
    } else {
      address.ss_family = AF_INET6;
    }
    socklen_t size = four ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
    MUST(bind(fd, At(&address), size));
    MUST(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size));
    uint16_t port = reinterpret_cast<sockaddr_in*>(&address)->sin_port;  // at the same place in both
    sockaddr_in to = Loopback(ntohs(port));
    to.sin_addr.s_addr = htonl(0x7f000007);
    sockaddr_in6 to6 = Six("::1", ntohs(port));
    int sender = MUST(socket(family, SOCK_DGRAM, 0));
    MUST(sendto(sender, "x", 1, 0, four ? At(&to) : At(&to6), size));
    pollfd there{fd, POLLIN, 0};
    EXPECT_EQ(poll(&there, 1, 10'000), 1);
    CheckpointHere();
    char byte;
    alignas(cmsghdr) char control[256];
    iovec part{&byte, 1};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    MUST(recvmsg(fd, &message, 0));
    const cmsghdr* header = CMSG_FIRSTHDR(&message);
    ASSERT(header != nullptr);
    EXPECT_EQ(header->cmsg_type, four ? int{IP_ORIGDSTADDR} : int{IPV6_ORIGDSTADDR});
    EXPECT_EQ(header->cmsg_len, CMSG_LEN(size));
    EXPECT_EQ(memcmp(CMSG_DATA(header), four ? static_cast<const void*>(&to) : &to6, size), 0);
  }
}
