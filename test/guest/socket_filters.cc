// Classic BPF filters of sockets: SO_ATTACH_FILTER and its kin (socket(7), Documentation/networking/filter.rst).
#include <linux/filter.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <sys/socket.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

#define LENGTH(array) static_cast<unsigned short>(sizeof(array) / sizeof((array)[0]))

// setsockopt(SO_ATTACH_FILTER); the result, or -errno.
template <size_t N>
int Attach(int fd, sock_filter (&code)[N], int option = SO_ATTACH_FILTER) {
  sock_fprog program = {LENGTH(code), code};
  return setsockopt(fd, SOL_SOCKET, option, &program, sizeof(program)) < 0 ? -errno : 0;
}

int Keep(int fd, uint32_t bytes) {
  sock_filter code[] = {BPF_STMT(BPF_RET | BPF_K, bytes)};
  return Attach(fd, code);
}

int Set(int fd, int option, int value) { return setsockopt(fd, SOL_SOCKET, option, &value, sizeof(value)) < 0 ? -errno : 0; }

int Get(int fd, int option) {
  int value = -77;
  socklen_t size = sizeof(value);
  return getsockopt(fd, SOL_SOCKET, option, &value, &size) < 0 ? -errno : value;
}

// Two sockets connected to each other on the loopback interface.
struct Udp {
  explicit Udp(int family = AF_INET) : a(Open(family)), b(Open(family)) {
    Join(a, b);
    Join(b, a);
  }
  ~Udp() { close(a), close(b); }
  static int Open(int family) {
    const int fd = MUST(socket(family, SOCK_DGRAM, 0));
    sockaddr_storage address = {};
    address.ss_family = static_cast<sa_family_t>(family);
    if (family == AF_INET) reinterpret_cast<sockaddr_in&>(address).sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (family == AF_INET6) reinterpret_cast<sockaddr_in6&>(address).sin6_addr = in6addr_loopback;
    MUST(bind(fd, reinterpret_cast<sockaddr*>(&address), family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6)));
    return fd;
  }
  static void Join(int from, int to) {
    sockaddr_storage address = {};
    socklen_t size = sizeof(address);
    MUST(getsockname(to, reinterpret_cast<sockaddr*>(&address), &size));
    MUST(connect(from, reinterpret_cast<sockaddr*>(&address), size));
  }
  int a, b;
};

// What one datagram brings with a filter that returns what it computed: its length shows the number.
template <size_t N>
int64_t Computed(Udp& udp, sock_filter (&code)[N]) {
  char text[4096] = {};
  MUST(Attach(udp.b, code));
  MUST(send(udp.a, text, sizeof(text), 0));
  const ssize_t got = recv(udp.b, text, sizeof(text), MSG_DONTWAIT);
  return got < 0 ? -errno : got;
}

}  // namespace

GUEST_TEST(SocketFilter, AttachingIsChecked) {
  const int fd = MUST(socket(AF_INET, SOCK_DGRAM, 0));
  sock_filter keep[] = {BPF_STMT(BPF_RET | BPF_K, 10)};
  sock_fprog program = {1, keep};
  EXPECT_OK(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)));
  EXPECT_ERRNO(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program) - 1), EINVAL);
  EXPECT_ERRNO(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program) + 1), EINVAL);
  program = {0, keep};
  EXPECT_ERRNO(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)), EINVAL);
  program = {1, nullptr};
  EXPECT_ERRNO(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)), EINVAL);
  program = {1, reinterpret_cast<sock_filter*>(kBadAddress)};
  EXPECT_ERRNO(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)), EFAULT);
  sock_filter no_return[] = {BPF_STMT(BPF_LD | BPF_IMM, 10)};
  EXPECT_EQ(Attach(fd, no_return), -EINVAL);
  sock_filter jump_out[] = {BPF_STMT(BPF_JMP | BPF_JA, 1), keep[0]};
  EXPECT_EQ(Attach(fd, jump_out), -EINVAL);
  sock_filter unwritten[] = {BPF_STMT(BPF_LD | BPF_MEM, 3), keep[0]};
  EXPECT_EQ(Attach(fd, unwritten), -EINVAL);
  sock_filter unknown[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(SKF_AD_OFF + SKF_AD_MAX)), keep[0]};
  EXPECT_EQ(Attach(fd, unknown), -EINVAL);
  sock_filter remainder[] = {BPF_STMT(BPF_ALU | BPF_MOD | BPF_K, 0), keep[0]};
  EXPECT_EQ(Attach(fd, remainder), -EINVAL);
  CheckpointHere();
  EXPECT_OK(Set(fd, SO_DETACH_FILTER, 0));
  EXPECT_EQ(Set(fd, SO_DETACH_FILTER, 0), -ENOENT);
  EXPECT_ERRNO(setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, nullptr, 0), EINVAL);
  EXPECT_EQ(Set(fd, SO_ATTACH_BPF, -1), -EBADF);
  EXPECT_EQ(Set(fd, SO_ATTACH_BPF, fd), -EINVAL);
  EXPECT_EQ(Get(fd, SO_ATTACH_BPF), -ENOPROTOOPT);
}

GUEST_TEST(SocketFilter, ReadsBack) {
  const int fd = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
  sock_filter code[] = {BPF_STMT(BPF_LD | BPF_W | BPF_LEN, 0), BPF_STMT(BPF_RET | BPF_A, 0)}, out[4] = {};
  socklen_t count = 4;
  EXPECT_OK(getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, out, &count));
  EXPECT_EQ(count, 0u);
  EXPECT_EQ(Attach(fd, code), 0);
  CheckpointHere();
  count = 0;  // Lengths are in instructions; none asks for how many there are.
  EXPECT_OK(getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, nullptr, &count));
  EXPECT_EQ(count, 2u);
  count = 1;
  EXPECT_ERRNO(getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, out, &count), EINVAL);
  count = 4;
  EXPECT_OK(getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, out, &count));
  EXPECT_EQ(count, 2u);
  EXPECT_EQ(memcmp(out, code, sizeof(code)), 0);
  EXPECT_ERRNO(getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, reinterpret_cast<void*>(kBadAddress), &count), EFAULT);
}

GUEST_TEST(SocketFilter, LockedForGood) {
  const int fd = MUST(socket(AF_INET, SOCK_STREAM, 0));
  EXPECT_EQ(Get(fd, SO_LOCK_FILTER), 0);
  EXPECT_EQ(Set(fd, SO_LOCK_FILTER, 0), 0);
  EXPECT_EQ(Keep(fd, 100), 0);
  EXPECT_EQ(Set(fd, SO_LOCK_FILTER, 5), 0);
  CheckpointHere();
  EXPECT_EQ(Get(fd, SO_LOCK_FILTER), 1);
  EXPECT_EQ(Set(fd, SO_LOCK_FILTER, 0), -EPERM);
  EXPECT_EQ(Set(fd, SO_LOCK_FILTER, 1), 0);
  EXPECT_EQ(Keep(fd, 100), -EPERM);
  EXPECT_EQ(Set(fd, SO_DETACH_FILTER, 0), -EPERM);
}

GUEST_TEST(SocketFilter, CutsAndDropsDatagrams) {
  for (const int family : {AF_INET, AF_INET6}) {
    Udp udp(family);
    char text[16] = {};
    MUST(Keep(udp.b, 11));  // Eight bytes are the header's.
    CheckpointHere();
    EXPECT_EQ(send(udp.a, "hello", 5, 0), 5);
    EXPECT_EQ(recv(udp.b, text, sizeof(text), MSG_DONTWAIT), 3);
    EXPECT_STREQ(text, "hel");
    MUST(Keep(udp.b, 2));  // The header stays.
    EXPECT_EQ(send(udp.a, "hello", 5, 0), 5);
    EXPECT_EQ(recv(udp.b, text, sizeof(text), MSG_DONTWAIT), 0);
    MUST(Keep(udp.b, 0));
    EXPECT_EQ(send(udp.a, "hello", 5, 0), 5);
    EXPECT_ERRNO(recv(udp.b, text, sizeof(text), MSG_DONTWAIT), EAGAIN);
    MUST(Set(udp.b, SO_DETACH_FILTER, 0));
    EXPECT_EQ(send(udp.a, "hello", 5, 0), 5);
    EXPECT_EQ(recv(udp.b, text, sizeof(text), MSG_DONTWAIT), 5);
  }
}

GUEST_TEST(SocketFilter, SeesHeadersOfDatagrams) {
  Udp udp;
  sockaddr_in from = {};
  socklen_t size = sizeof(from);
  MUST(getsockname(udp.a, reinterpret_cast<sockaddr*>(&from), &size));
  // The source port, by the transport header; one other port drops.
  sock_filter port[] = {BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 0), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ntohs(from.sin_port), 0, 1),
                        BPF_STMT(BPF_RET | BPF_K, 100), BPF_STMT(BPF_RET | BPF_K, 0)};
  EXPECT_EQ(Computed(udp, port), 92);
  port[1].k ^= 1;
  EXPECT_EQ(Computed(udp, port), -EAGAIN);
  // Below zero: IP's header (protocol and 100), the link's (type), and its length.
  sock_filter protocol[] = {BPF_STMT(BPF_LD | BPF_B | BPF_ABS, static_cast<uint32_t>(SKF_NET_OFF + 9)), BPF_STMT(BPF_ALU | BPF_ADD | BPF_K, 100),
                            BPF_STMT(BPF_RET | BPF_A, 0)};
  EXPECT_EQ(Computed(udp, protocol), 117 - 8);
  sock_filter type[] = {BPF_STMT(BPF_LD | BPF_H | BPF_ABS, static_cast<uint32_t>(SKF_LL_OFF + 12)), BPF_STMT(BPF_RET | BPF_A, 0)};
  EXPECT_EQ(Computed(udp, type), 0x800 - 8);
  sock_filter header[] = {BPF_STMT(BPF_LDX | BPF_B | BPF_MSH, static_cast<uint32_t>(SKF_NET_OFF)), BPF_STMT(BPF_MISC | BPF_TXA, 0),
                          BPF_STMT(BPF_RET | BPF_A, 0)};
  EXPECT_EQ(Computed(udp, header), 12);
  sock_filter length[] = {BPF_STMT(BPF_LD | BPF_W | BPF_LEN, 0), BPF_STMT(BPF_ALU | BPF_RSH | BPF_K, 2), BPF_STMT(BPF_RET | BPF_A, 0)};
  EXPECT_EQ(Computed(udp, length), (4096 + 8) / 4 - 8);
  sock_filter beyond[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 4096 + 6), BPF_STMT(BPF_RET | BPF_K, 100)};
  EXPECT_EQ(Computed(udp, beyond), -EAGAIN);
}

GUEST_TEST(SocketFilter, AncillaryData) {
  Udp udp;
  auto ask = [&udp](int what, uint32_t shift) {
    sock_filter code[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(SKF_AD_OFF + what)), BPF_STMT(BPF_ALU | BPF_ADD | BPF_K, shift),
                          BPF_STMT(BPF_RET | BPF_A, 0)};
    return Computed(udp, code);
  };
  EXPECT_EQ(ask(SKF_AD_PROTOCOL, 0), 0x800 - 8);
  EXPECT_EQ(ask(SKF_AD_PKTTYPE, 10), 2);  // PACKET_HOST
  EXPECT_EQ(ask(SKF_AD_IFINDEX, 10), 3);
  EXPECT_EQ(ask(SKF_AD_HATYPE, 0), 772 - 8);  // ARPHRD_LOOPBACK
  EXPECT_EQ(ask(SKF_AD_PAY_OFFSET, 10), 10);
  EXPECT_EQ(ask(SKF_AD_VLAN_TAG_PRESENT, 10), 2);
  sock_filter both[] = {BPF_STMT(BPF_LDX | BPF_IMM, 0x30), BPF_STMT(BPF_LD | BPF_IMM, 0x11),
                        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(SKF_AD_OFF + SKF_AD_ALU_XOR_X)), BPF_STMT(BPF_RET | BPF_A, 0)};
  EXPECT_EQ(Computed(udp, both), 0x21 - 8);
}

GUEST_TEST(SocketFilter, UnixPackets) {
  for (const int type : {SOCK_DGRAM, SOCK_SEQPACKET}) {
    int pair[2];
    MUST(socketpair(AF_UNIX, type, 0, pair));
    sock_filter starts[] = {BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 0), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 'y', 0, 1), BPF_STMT(BPF_RET | BPF_K, 3),
                            BPF_STMT(BPF_RET | BPF_K, 0)};
    MUST(Attach(pair[1], starts));
    CheckpointHere();
    char text[16] = {};
    EXPECT_EQ(send(pair[0], "no", 2, 0), 2);
    EXPECT_EQ(send(pair[0], "", 0, 0), 0);
    EXPECT_EQ(send(pair[0], "yes indeed", 10, 0), 10);
    EXPECT_EQ(recv(pair[1], text, sizeof(text), MSG_DONTWAIT), 3);
    EXPECT_STREQ(text, "yes");
    EXPECT_ERRNO(recv(pair[1], text, sizeof(text), MSG_DONTWAIT), EAGAIN);
    close(pair[0]), close(pair[1]);
  }
  // Streams are not filtered.
  int stream[2];
  MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, stream));
  MUST(Keep(stream[1], 0));
  char byte;
  EXPECT_EQ(send(stream[0], "x", 1, 0), 1);
  EXPECT_EQ(recv(stream[1], &byte, 1, MSG_DONTWAIT), 1);
}

GUEST_TEST(SocketFilter, NetlinkAnswers) {
  const int fd = MUST(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
  struct {
    nlmsghdr header;
    ifinfomsg info;
  } request = {};
  request.header.nlmsg_len = sizeof(request);
  request.header.nlmsg_type = RTM_GETLINK;
  request.header.nlmsg_flags = NLM_F_REQUEST;
  request.info.ifi_index = 1;
  char answer[8192];
  MUST(Keep(fd, 0));
  CheckpointHere();
  EXPECT_EQ(send(fd, &request, sizeof(request), 0), static_cast<ssize_t>(sizeof(request)));
  EXPECT_ERRNO(recv(fd, answer, sizeof(answer), MSG_DONTWAIT), EAGAIN);
  MUST(Keep(fd, 16));
  EXPECT_EQ(send(fd, &request, sizeof(request), 0), static_cast<ssize_t>(sizeof(request)));
  EXPECT_EQ(recv(fd, answer, sizeof(answer), MSG_DONTWAIT), 16);
  // The interface's name lies in the attribute of type IFLA_IFNAME, which the program finds: 'l' and 10.
  sock_filter name[] = {BPF_STMT(BPF_LDX | BPF_IMM, IFLA_IFNAME),
                        BPF_STMT(BPF_LD | BPF_IMM, sizeof(nlmsghdr) + sizeof(ifinfomsg)),
                        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(SKF_AD_OFF + SKF_AD_NLATTR)),
                        BPF_STMT(BPF_MISC | BPF_TAX, 0),
                        BPF_STMT(BPF_LD | BPF_B | BPF_IND, 4),
                        BPF_STMT(BPF_ALU | BPF_ADD | BPF_K, 10),
                        BPF_STMT(BPF_RET | BPF_A, 0)};
  MUST(Attach(fd, name));
  EXPECT_EQ(send(fd, &request, sizeof(request), 0), static_cast<ssize_t>(sizeof(request)));
  EXPECT_EQ(recv(fd, answer, sizeof(answer), MSG_DONTWAIT), 'l' + 10);
}

GUEST_TEST(SocketFilter, ConnectionsHaveTheListenersOne) {
  const int listener = MUST(socket(AF_INET, SOCK_STREAM, 0)), client = MUST(socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  MUST(bind(listener, reinterpret_cast<sockaddr*>(&address), size));
  MUST(getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size));
  MUST(listen(listener, 5));
  // Segments whose first byte of data is 'n' are dropped; without data they have no such byte, so the length comes first.
  sock_filter code[] = {BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 12),    BPF_STMT(BPF_ALU | BPF_RSH | BPF_K, 2),
                        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0x3c), BPF_STMT(BPF_MISC | BPF_TAX, 0),
                        BPF_STMT(BPF_LD | BPF_W | BPF_LEN, 0),     BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_X, 0, 2, 0),
                        BPF_STMT(BPF_LD | BPF_B | BPF_IND, 0),     BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 'n', 1, 0),
                        BPF_STMT(BPF_RET | BPF_K, 0xffff),         BPF_STMT(BPF_RET | BPF_K, 0)};
  MUST(Attach(listener, code));
  MUST(Set(listener, SO_LOCK_FILTER, 1));
  MUST(connect(client, reinterpret_cast<sockaddr*>(&address), size));
  const int server = MUST(accept(listener, nullptr, nullptr));
  socklen_t count = 0;
  EXPECT_OK(getsockopt(server, SOL_SOCKET, SO_GET_FILTER, nullptr, &count));
  EXPECT_EQ(count, static_cast<socklen_t>(LENGTH(code)));
  EXPECT_EQ(Get(server, SO_LOCK_FILTER), 1);
  CheckpointHere();
  char byte = 0;
  EXPECT_EQ(send(client, "y", 1, 0), 1);
  EXPECT_EQ(recv(server, &byte, 1, 0), 1);
  EXPECT_EQ(byte, 'y');
  EXPECT_EQ(send(client, "n", 1, 0), 1);
  SleepMs(50);
  EXPECT_ERRNO(recv(server, &byte, 1, MSG_DONTWAIT), EAGAIN);
}

GUEST_TEST(SocketFilter, DroppedSegmentsComeAgain) {
  const int listener = MUST(socket(AF_INET, SOCK_STREAM, 0)), client = MUST(socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  MUST(bind(listener, reinterpret_cast<sockaddr*>(&address), size));
  MUST(getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size));
  MUST(listen(listener, 5));
  MUST(connect(client, reinterpret_cast<sockaddr*>(&address), size));
  const int server = MUST(accept(listener, nullptr, nullptr));
  MUST(Keep(server, 0));
  EXPECT_EQ(send(client, "x", 1, 0), 1);
  char byte = 0;
  EXPECT_ERRNO(recv(server, &byte, 1, MSG_DONTWAIT), EAGAIN);
  CheckpointHere();
  MUST(Set(server, SO_DETACH_FILTER, 0));
  EXPECT_EQ(recv(server, &byte, 1, 0), 1);
  EXPECT_EQ(byte, 'x');
}

GUEST_TEST(SocketFilter, RawSocketsShowTheirPackets) {
  const int raw = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
  if (raw < 0 && errno == EPERM) Skip("needs CAP_NET_RAW");
  MUST(raw);
  // Echo replies only, and of them IP's header and eight bytes.
  sock_filter code[] = {BPF_STMT(BPF_LDX | BPF_B | BPF_MSH, 0), BPF_STMT(BPF_LD | BPF_B | BPF_IND, 0),
                        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ICMP_ECHOREPLY, 0, 1), BPF_STMT(BPF_RET | BPF_K, 28), BPF_STMT(BPF_RET | BPF_K, 0)};
  MUST(Attach(raw, code));
  CheckpointHere();
  sockaddr_in to = {};
  to.sin_family = AF_INET;
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  char echo[64] = {ICMP_ECHO, 0, static_cast<char>(0xf7), static_cast<char>(0xff)};
  MUST(sendto(raw, echo, sizeof(echo), 0, reinterpret_cast<sockaddr*>(&to), sizeof(to)));
  char got[128];
  EXPECT_EQ(recv(raw, got, sizeof(got), 0), 28);
  EXPECT_EQ(got[20], ICMP_ECHOREPLY);
  EXPECT_ERRNO(recv(raw, got, sizeof(got), MSG_DONTWAIT), EAGAIN);
}
