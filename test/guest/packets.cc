// Packet sockets (packet(7)): frames on the loopback interface.
#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

constexpr uint16_t kOurs = 0x88b5;  // for experiments (IEEE 802)
constexpr int kLo = 1;

int Open(int type, int protocol = 0) {
  const int fd = socket(AF_PACKET, type, htons(static_cast<uint16_t>(protocol)));
  if (fd < 0 && errno == EPERM) Skip("needs CAP_NET_RAW");
  return MUST(fd);
}

sockaddr_ll Lo(int protocol) {
  sockaddr_ll a = {};
  a.sll_family = AF_PACKET;
  a.sll_protocol = htons(static_cast<uint16_t>(protocol));
  a.sll_ifindex = kLo;
  return a;
}

int Bind(int fd, const sockaddr_ll& a, socklen_t size = sizeof(sockaddr_ll)) {
  return bind(fd, reinterpret_cast<const sockaddr*>(&a), size) < 0 ? -errno : 0;
}

// Bound to lo for one protocol.
int OnLo(int type, int protocol) {
  const int fd = Open(type);
  MUST(Bind(fd, Lo(protocol)));
  return fd;
}

struct Frame {
  char bytes[2048] = {};
  ssize_t size = 0;
  sockaddr_ll from = {};
  socklen_t from_size = sizeof(sockaddr_ll);
};

Frame Take(int fd, int flags = MSG_DONTWAIT, size_t room = sizeof(Frame::bytes)) {
  Frame f;
  f.size = recvfrom(fd, f.bytes, room, flags, reinterpret_cast<sockaddr*>(&f.from), &f.from_size);
  if (f.size < 0) f.size = -errno;
  return f;
}

// A frame of our own protocol, with an empty link's address.
ssize_t SendOurs(int fd, const char* text) {
  char frame[128] = {};
  frame[12] = static_cast<char>(kOurs >> 8);
  frame[13] = static_cast<char>(kOurs & 0xff);
  const size_t size = strlen(text);
  memcpy(frame + 14, text, size);
  return send(fd, frame, 14 + size, 0);
}

int Option(int fd, int name) {
  int value = -77;
  socklen_t size = sizeof(value);
  return getsockopt(fd, SOL_PACKET, name, &value, &size) < 0 ? -errno : value;
}
int SetOption(int fd, int name, int value) { return setsockopt(fd, SOL_PACKET, name, &value, sizeof(value)) < 0 ? -errno : 0; }

// A datagram of four bytes on lo, to nobody who would answer but one who reads it.
struct Datagram {
  Datagram() : to(MUST(socket(AF_INET, SOCK_DGRAM, 0))), from(MUST(socket(AF_INET, SOCK_DGRAM, 0))) {
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    MUST(bind(to, reinterpret_cast<sockaddr*>(&address), sizeof(address)));
    socklen_t size = sizeof(address);
    MUST(getsockname(to, reinterpret_cast<sockaddr*>(&address), &size));
  }
  void Send() { MUST(sendto(from, "data", 4, 0, reinterpret_cast<sockaddr*>(&address), sizeof(address))); }
  // Is it what lies at `ip`?
  bool Is(const char* ip) const {
    uint16_t port;
    memcpy(&port, ip + 22, sizeof(port));
    return (ip[0] & 0xf0) == 0x40 && ip[9] == IPPROTO_UDP && port == address.sin_port && memcmp(ip + 28, "data", 4) == 0;
  }
  int to, from;
  sockaddr_in address = {};
};

}  // namespace

GUEST_TEST(Packet, NamesAndTypes) {
  const int fd = Open(SOCK_RAW, ETH_P_ALL);
  EXPECT_ERRNO(socket(AF_PACKET, SOCK_STREAM, 0), ESOCKTNOSUPPORT);
  EXPECT_ERRNO(socket(AF_PACKET, SOCK_SEQPACKET, 0), ESOCKTNOSUPPORT);
  int pair[2];
  EXPECT_ERRNO(socketpair(AF_PACKET, SOCK_RAW, 0, pair), EOPNOTSUPP);
  sockaddr_ll name = {};
  socklen_t size = sizeof(name);
  EXPECT_OK(getsockname(fd, reinterpret_cast<sockaddr*>(&name), &size));
  EXPECT_EQ(size, 12u);
  EXPECT_EQ(ntohs(name.sll_protocol), ETH_P_ALL);
  EXPECT_EQ(name.sll_ifindex, 0);
  EXPECT_ERRNO(getpeername(fd, reinterpret_cast<sockaddr*>(&name), &size), EOPNOTSUPP);
  EXPECT_ERRNO(connect(fd, reinterpret_cast<sockaddr*>(&name), sizeof(name)), EOPNOTSUPP);
  EXPECT_ERRNO(listen(fd, 1), EOPNOTSUPP);
  EXPECT_ERRNO(shutdown(fd, SHUT_RDWR), EOPNOTSUPP);
  EXPECT_EQ(Bind(fd, Lo(0), sizeof(name) - 1), -EINVAL);
  name = Lo(0);
  name.sll_ifindex = 4711;
  EXPECT_EQ(Bind(fd, name), -ENODEV);
  name.sll_family = AF_INET;
  EXPECT_EQ(Bind(fd, name), -EINVAL);
  EXPECT_EQ(Bind(fd, Lo(0)), 0);
  CheckpointHere();
  size = sizeof(name);
  EXPECT_OK(getsockname(fd, reinterpret_cast<sockaddr*>(&name), &size));
  EXPECT_EQ(size, 18u);
  EXPECT_EQ(ntohs(name.sll_protocol), ETH_P_ALL);  // kept
  EXPECT_EQ(name.sll_ifindex, kLo);
  EXPECT_EQ(name.sll_hatype, ARPHRD_LOOPBACK);
  EXPECT_EQ(name.sll_halen, 6);
  int protocol = -1;
  size = sizeof(protocol);
  EXPECT_OK(getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &size));
  EXPECT_EQ(protocol, 0);
}

GUEST_TEST(Packet, FramesOfOurOwn) {
  const int raw = OnLo(SOCK_RAW, kOurs), datagram = OnLo(SOCK_DGRAM, kOurs), other = OnLo(SOCK_RAW, kOurs + 1);
  EXPECT_EQ(SendOurs(raw, "hello"), 19);
  CheckpointHere();
  Frame f = Take(raw);
  EXPECT_EQ(f.size, 19);
  EXPECT_STREQ(f.bytes + 14, "hello");
  EXPECT_EQ(f.from_size, sizeof(sockaddr_ll));
  EXPECT_EQ(f.from.sll_family, AF_PACKET);
  EXPECT_EQ(ntohs(f.from.sll_protocol), kOurs);
  EXPECT_EQ(f.from.sll_ifindex, kLo);
  EXPECT_EQ(f.from.sll_hatype, ARPHRD_LOOPBACK);
  EXPECT_EQ(f.from.sll_pkttype, PACKET_HOST);
  EXPECT_EQ(f.from.sll_halen, 6);
  f = Take(datagram);
  EXPECT_EQ(f.size, 5);
  EXPECT_STREQ(f.bytes, "hello");
  EXPECT_EQ(Take(other).size, -EAGAIN);
  EXPECT_EQ(Take(raw).size, -EAGAIN);
  // SOCK_DGRAM: the header is made.
  sockaddr_ll to = Lo(kOurs + 1);
  EXPECT_EQ(sendto(datagram, "there", 5, 0, reinterpret_cast<sockaddr*>(&to), sizeof(to)), 5);
  EXPECT_EQ(Take(other).from.sll_pkttype, PACKET_HOST);
  to.sll_halen = 6;
  memset(to.sll_addr, 0x22, 6);
  EXPECT_EQ(sendto(datagram, "there", 5, 0, reinterpret_cast<sockaddr*>(&to), sizeof(to)), 5);
  f = Take(other);
  EXPECT_EQ(f.size, 19);
  EXPECT_EQ(f.bytes[0], 0x22);
  EXPECT_STREQ(f.bytes + 14, "there");
  EXPECT_EQ(f.from.sll_pkttype, PACKET_OTHERHOST);
}

GUEST_TEST(Packet, ForWhomAFrameIs) {
  const int raw = OnLo(SOCK_RAW, kOurs);
  const struct {
    uint8_t to[6];
    int type;
  } cases[] = {{{2, 2, 2, 2, 2, 2}, PACKET_OTHERHOST}, {{255, 255, 255, 255, 255, 255}, PACKET_MULTICAST}, {{1, 0, 0x5e, 0, 0, 1}, PACKET_MULTICAST}};
  for (const auto& c : cases) {
    char frame[20] = {};
    memcpy(frame, c.to, 6);
    memset(frame + 6, 7, 6);
    frame[12] = static_cast<char>(kOurs >> 8);
    frame[13] = static_cast<char>(kOurs & 0xff);
    EXPECT_EQ(send(raw, frame, sizeof(frame), 0), 20);
    const Frame f = Take(raw);
    EXPECT_EQ(f.size, 20);
    EXPECT_EQ(f.from.sll_pkttype, c.type);
    EXPECT_EQ(f.from.sll_addr[0], 7);
    EXPECT_EQ(memcmp(f.bytes, frame, 20), 0);
  }
}

// An MTU that a program has chosen does not make frames that nobody could hold.
GUEST_TEST(Packet, LongFrames) {
  if (unshare(CLONE_NEWNET) < 0 && errno == EPERM) Skip("needs CAP_SYS_ADMIN");
  const int control = MUST(socket(AF_INET, SOCK_DGRAM, 0));
  ifreq r = {};
  strcpy(r.ifr_name, "lo");
  r.ifr_flags = IFF_UP;
  MUST(ioctl(control, SIOCSIFFLAGS, &r));
  r.ifr_mtu = 0x3fffffff;
  MUST(ioctl(control, SIOCSIFMTU, &r));
  const int raw = OnLo(SOCK_RAW, kOurs);
  constexpr size_t kHuge = 0x30000000, kLong = 65536 + 14;
  char* memory = static_cast<char*>(mmap(nullptr, kHuge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  EXPECT(memory != MAP_FAILED);
  memory[12] = static_cast<char>(kOurs >> 8);
  memory[13] = static_cast<char>(kOurs & 0xff);
  EXPECT(send(raw, memory, kHuge, 0) < 0 && (errno == ENOBUFS || errno == EMSGSIZE));
  // lo's own MTU is there in any case.
  for (int i = 0; i < 10; ++i) EXPECT_EQ(send(raw, memory, kLong, 0), static_cast<ssize_t>(kLong));
  CheckpointHere();
  // No more than SO_RCVBUF lets in.
  int got = 0;
  while (recv(raw, memory, kHuge, MSG_DONTWAIT) == static_cast<ssize_t>(kLong)) ++got;
  EXPECT(got >= 1 && got < 10);
  munmap(memory, kHuge);
}

GUEST_TEST(Packet, SendingIsChecked) {
  const int raw = Open(SOCK_RAW), datagram = Open(SOCK_DGRAM);
  char frame[16] = {};
  sockaddr_ll to = Lo(kOurs);
  auto send_to = [&](int fd, size_t size, socklen_t address) {
    return sendto(fd, frame, size, 0, reinterpret_cast<sockaddr*>(&to), address) < 0 ? -errno : 0;
  };
  EXPECT_ERRNO(send(raw, frame, sizeof(frame), 0), ENXIO);
  EXPECT_EQ(send_to(raw, 13, sizeof(to)), -EINVAL);
  EXPECT_EQ(send_to(raw, 14, sizeof(to)), 0);
  EXPECT_EQ(send_to(raw, 14, sizeof(to) - 1), -EINVAL);
  EXPECT_EQ(send_to(datagram, 0, sizeof(to)), 0);
  to.sll_halen = 9;
  EXPECT_EQ(send_to(raw, 14, sizeof(to)), -EINVAL);
  to.sll_halen = 0;
  to.sll_ifindex = 0;
  EXPECT_EQ(send_to(raw, 14, sizeof(to)), -ENXIO);
  to.sll_ifindex = 4711;
  EXPECT_EQ(send_to(raw, 14, sizeof(to)), -ENXIO);
  to.sll_ifindex = kLo;
  void* large = MUST(mmap(nullptr, 1 << 17, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  EXPECT_ERRNO(sendto(raw, large, 65536 + 14 + 5, 0, reinterpret_cast<sockaddr*>(&to), sizeof(to)), EMSGSIZE);
  EXPECT_ERRNO(sendto(datagram, large, 65536 + 1, 0, reinterpret_cast<sockaddr*>(&to), sizeof(to)), EMSGSIZE);
}

GUEST_TEST(Packet, SeesDatagramsTwiceIfItListensToAll) {
  const int all = OnLo(SOCK_DGRAM, ETH_P_ALL), one = OnLo(SOCK_RAW, ETH_P_IP);
  Datagram d;
  d.Send();
  CheckpointHere();
  int outgoing = 0, received = 0, seen = 0;
  for (Frame f = Take(all); f.size > 0; f = Take(all)) {
    if (!d.Is(f.bytes)) continue;
    outgoing += f.from.sll_pkttype == PACKET_OUTGOING ? 1 : 0;
    received += f.from.sll_pkttype == PACKET_HOST ? 1 : 0;
  }
  EXPECT_EQ(outgoing, 1);
  EXPECT_EQ(received, 1);
  for (Frame f = Take(one); f.size > 0; f = Take(one)) {
    seen += d.Is(f.bytes + 14) ? 1 : 0;
    EXPECT_EQ(f.from.sll_pkttype, PACKET_HOST);
  }
  EXPECT_EQ(seen, 1);
  EXPECT_EQ(SetOption(all, 23, 1), 0);  // PACKET_IGNORE_OUTGOING
  d.Send();
  for (Frame f = Take(all); f.size > 0; f = Take(all)) EXPECT(f.from.sll_pkttype != PACKET_OUTGOING);
}

GUEST_TEST(Packet, DatagramsMadeByHand) {
  const int udp = MUST(socket(AF_INET6, SOCK_DGRAM, 0)), raw = OnLo(SOCK_RAW, 0);
  sockaddr_in6 address = {};
  address.sin6_family = AF_INET6;
  address.sin6_addr = in6addr_loopback;
  MUST(bind(udp, reinterpret_cast<sockaddr*>(&address), sizeof(address)));
  socklen_t size = sizeof(address);
  MUST(getsockname(udp, reinterpret_cast<sockaddr*>(&address), &size));
  // Words of IP's header, the addresses, UDP's header and four bytes, after the link's header.
  uint16_t words[7 + 4 + 16 + 4 + 2] = {};
  uint16_t* ip = words + 7;
  words[6] = htons(ETH_P_IPV6);
  ip[0] = htons(0x6000);
  ip[2] = htons(12);
  ip[3] = htons(IPPROTO_UDP << 8 | 64);
  ip[11] = ip[19] = htons(1);
  ip[20] = htons(7);
  ip[21] = address.sin6_port;
  ip[22] = htons(12);
  memcpy(ip + 24, "hand", 4);
  uint32_t sum = htons(12) + htons(IPPROTO_UDP);
  for (int i = 4; i < 26; ++i) sum += ip[i];
  while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
  ip[23] = static_cast<uint16_t>(~sum);
  EXPECT_EQ(send(raw, words, sizeof(words), 0), static_cast<ssize_t>(sizeof(words)));
  char text[8] = {};
  sockaddr_in6 from = {};
  size = sizeof(from);
  CheckpointHere();
  EXPECT_EQ(recvfrom(udp, text, sizeof(text), 0, reinterpret_cast<sockaddr*>(&from), &size), 4);
  EXPECT_STREQ(text, "hand");
  EXPECT_EQ(ntohs(from.sin6_port), 7);
  // A wrong checksum is dropped, and so is what is for somebody else.
  ip[23] ^= 1;
  EXPECT_EQ(send(raw, words, sizeof(words), 0), static_cast<ssize_t>(sizeof(words)));
  ip[23] ^= 1;
  words[0] = 2;
  EXPECT_EQ(send(raw, words, sizeof(words), 0), static_cast<ssize_t>(sizeof(words)));
  SleepMs(20);
  EXPECT_ERRNO(recv(udp, text, sizeof(text), MSG_DONTWAIT), EAGAIN);
}

// Nobody believes addresses of 127/8 that came over a link, be it lo (ip_route_input_slow).
GUEST_TEST(Packet, LoopbackAddressesByHandAreDropped) {
  Datagram d;
  const int raw = OnLo(SOCK_RAW, 0);
  uint16_t words[7 + 10 + 4 + 2] = {};
  uint16_t* ip = words + 7;
  words[6] = htons(ETH_P_IP);
  ip[0] = htons(0x4500);
  ip[1] = htons(32);
  ip[4] = htons(64 << 8 | IPPROTO_UDP);
  ip[6] = ip[8] = htons(0x7f00);
  ip[7] = ip[9] = htons(1);
  uint32_t sum = 0;
  for (int i = 0; i < 10; ++i) sum += ip[i];
  while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
  ip[5] = static_cast<uint16_t>(~sum);
  ip[10] = htons(7);
  ip[11] = d.address.sin_port;
  ip[12] = htons(12);
  EXPECT_EQ(send(raw, words, sizeof(words), 0), static_cast<ssize_t>(sizeof(words)));
  SleepMs(20);
  char text[8];
  EXPECT_ERRNO(recv(d.to, text, sizeof(text), MSG_DONTWAIT), EAGAIN);
}

GUEST_TEST(Packet, FilterAndTruncation) {
  const int raw = OnLo(SOCK_RAW, kOurs), sender = OnLo(SOCK_RAW, 0);
  // 20 bytes of frames whose 15th is 'y'.
  sock_filter code[] = {BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 14), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 'y', 0, 1), BPF_STMT(BPF_RET | BPF_K, 20),
                        BPF_STMT(BPF_RET | BPF_K, 0)};
  sock_fprog program = {4, code};
  MUST(setsockopt(raw, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)));
  MUST(SetOption(raw, PACKET_AUXDATA, 1));
  CheckpointHere();
  SendOurs(sender, "no");
  SendOurs(sender, "yes, all of this");
  char bytes[128];
  iovec range = {bytes, 10};
  alignas(cmsghdr) char control[256];
  msghdr message = {};
  message.msg_iov = &range;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  EXPECT_EQ(recvmsg(raw, &message, MSG_DONTWAIT | MSG_TRUNC | MSG_PEEK), 20);
  EXPECT(message.msg_flags & MSG_TRUNC);
  const cmsghdr* c = CMSG_FIRSTHDR(&message);
  EXPECT(c != nullptr && c->cmsg_level == SOL_PACKET && c->cmsg_type == PACKET_AUXDATA);
  if (c != nullptr) {
    tpacket_auxdata aux;
    memcpy(&aux, CMSG_DATA(c), sizeof(aux));
    EXPECT_EQ(aux.tp_len, 30u);
    EXPECT_EQ(aux.tp_snaplen, 20u);
    EXPECT_EQ(aux.tp_net, 14);
    EXPECT(aux.tp_status & TP_STATUS_USER);
  }
  int waiting = 0;
  EXPECT_OK(ioctl(raw, SIOCINQ, &waiting));
  EXPECT_EQ(waiting, 20);
  EXPECT_EQ(recv(raw, bytes, sizeof(bytes), MSG_DONTWAIT), 20);
  EXPECT_EQ(Take(raw).size, -EAGAIN);
  EXPECT_ERRNO(recv(raw, bytes, sizeof(bytes), MSG_DONTWAIT | MSG_OOB), EINVAL);
}

GUEST_TEST(Packet, Statistics) {
  const int raw = OnLo(SOCK_RAW, kOurs), sender = OnLo(SOCK_RAW, 0);
  int small = 1;
  MUST(setsockopt(raw, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)));
  for (int i = 0; i < 50; ++i) SendOurs(sender, "frame");
  CheckpointHere();
  tpacket_stats stats = {};
  socklen_t size = sizeof(stats);
  EXPECT_OK(getsockopt(raw, SOL_PACKET, PACKET_STATISTICS, &stats, &size));
  EXPECT_EQ(size, sizeof(stats));
  EXPECT_EQ(stats.tp_packets, 50u);
  EXPECT(stats.tp_drops > 10 && stats.tp_drops < 50);
  unsigned got = 0;
  while (Take(raw).size > 0) ++got;
  EXPECT_EQ(got, 50 - stats.tp_drops);
  EXPECT_OK(getsockopt(raw, SOL_PACKET, PACKET_STATISTICS, &stats, &size));
  EXPECT_EQ(stats.tp_packets, 0u);
}

GUEST_TEST(Packet, WaitsAndTimestamps) {
  const int raw = OnLo(SOCK_RAW, kOurs);
  timeval at = {};
  EXPECT_ERRNO(ioctl(raw, SIOCGSTAMP, &at), ENOENT);
  pollfd p = {raw, POLLIN, 0};
  EXPECT_EQ(poll(&p, 1, 0), 0);
  const int on = 1;
  MUST(setsockopt(raw, SOL_SOCKET, SO_TIMESTAMP, &on, sizeof(on)));
  const pid_t child = Fork([] {
    SleepMs(30);
    SendOurs(OnLo(SOCK_RAW, 0), "late");
  });
  EXPECT_EQ(poll(&p, 1, 10'000), 1);
  EXPECT_EQ(p.revents, POLLIN);
  CheckpointHere();
  char bytes[64];
  iovec range = {bytes, sizeof(bytes)};
  alignas(cmsghdr) char control[64];
  msghdr message = {};
  message.msg_iov = &range;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  EXPECT_EQ(recvmsg(raw, &message, 0), 18);
  const cmsghdr* c = CMSG_FIRSTHDR(&message);
  EXPECT(c != nullptr && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SO_TIMESTAMP);
  EXPECT_ERRNO(ioctl(raw, SIOCGSTAMP, &at), ENOENT);  // The message has told it.
  const int off = 0;
  MUST(setsockopt(raw, SOL_SOCKET, SO_TIMESTAMP, &off, sizeof(off)));
  SendOurs(raw, "x");
  EXPECT_EQ(recv(raw, bytes, sizeof(bytes), 0), 15);
  EXPECT_OK(ioctl(raw, SIOCGSTAMP, &at));
  EXPECT(at.tv_sec > 0);
  JOIN_OK(child);
}

GUEST_TEST(Packet, Memberships) {
  const int raw = Open(SOCK_RAW);
  packet_mreq m = {};
  m.mr_ifindex = kLo;
  m.mr_type = PACKET_MR_PROMISC;
  auto change = [&](int name, socklen_t size = sizeof(packet_mreq)) { return setsockopt(raw, SOL_PACKET, name, &m, size) < 0 ? -errno : 0; };
  EXPECT_EQ(change(PACKET_DROP_MEMBERSHIP), 0);
  EXPECT_EQ(change(PACKET_ADD_MEMBERSHIP, sizeof(m) - 1), -EINVAL);
  EXPECT_EQ(change(PACKET_ADD_MEMBERSHIP), 0);
  EXPECT_EQ(change(PACKET_ADD_MEMBERSHIP), 0);
  CheckpointHere();
  EXPECT_EQ(change(PACKET_DROP_MEMBERSHIP), 0);
  EXPECT_EQ(change(PACKET_DROP_MEMBERSHIP), 0);
  m.mr_type = PACKET_MR_MULTICAST;
  m.mr_alen = 4;
  EXPECT_EQ(change(PACKET_ADD_MEMBERSHIP), -EINVAL);
  m.mr_alen = 7;
  EXPECT_EQ(change(PACKET_ADD_MEMBERSHIP), -EINVAL);
  m.mr_alen = 6;
  EXPECT_EQ(change(PACKET_ADD_MEMBERSHIP), 0);
  m.mr_ifindex = 4711;
  EXPECT_EQ(change(PACKET_ADD_MEMBERSHIP), -ENODEV);
}

GUEST_TEST(Packet, Options) {
  const int raw = Open(SOCK_RAW);
  EXPECT_EQ(Option(raw, PACKET_VERSION), TPACKET_V1);
  EXPECT_EQ(SetOption(raw, PACKET_VERSION, 3), -EINVAL);
  EXPECT_EQ(SetOption(raw, PACKET_VERSION, TPACKET_V3), 0);
  EXPECT_EQ(SetOption(raw, PACKET_RESERVE, 8), 0);
  EXPECT_EQ(SetOption(raw, PACKET_AUXDATA, 7), 0);
  EXPECT_EQ(SetOption(raw, PACKET_ORIGDEV, 1), 0);
  EXPECT_EQ(SetOption(raw, PACKET_TIMESTAMP, 3), 0);
  EXPECT_EQ(SetOption(raw, 23, 2), -EINVAL);
  CheckpointHere();
  EXPECT_EQ(Option(raw, PACKET_VERSION), TPACKET_V3);
  EXPECT_EQ(Option(raw, PACKET_RESERVE), 8);
  EXPECT_EQ(Option(raw, PACKET_AUXDATA), 1);
  EXPECT_EQ(Option(raw, PACKET_ORIGDEV), 1);
  EXPECT_EQ(Option(raw, PACKET_TIMESTAMP), 3);
  EXPECT_EQ(Option(raw, PACKET_LOSS), 0);
  EXPECT_EQ(Option(raw, PACKET_FANOUT), 0);
  EXPECT_EQ(Option(raw, 99), -ENOPROTOOPT);
  const int sizes[] = {sizeof(tpacket_hdr), sizeof(tpacket2_hdr), sizeof(tpacket3_hdr)};
  for (int version = 0; version < 4; ++version) {
    int value = version;
    socklen_t size = sizeof(value);
    const int got = getsockopt(raw, SOL_PACKET, PACKET_HDRLEN, &value, &size) < 0 ? -errno : value;
    EXPECT_EQ(got, version < 3 ? sizes[version] : -EINVAL);
  }
}

GUEST_TEST(Packet, InterfaceGoesDown) {
  if (unshare(CLONE_NEWNET) < 0 && errno == EPERM) Skip("needs CAP_SYS_ADMIN");
  const int raw = Open(SOCK_RAW), all = Open(SOCK_RAW, ETH_P_ALL);
  EXPECT_EQ(Bind(raw, Lo(kOurs)), 0);  // It is down, which the socket hears of.
  int error = 0;
  socklen_t size = sizeof(error);
  EXPECT_OK(getsockopt(raw, SOL_SOCKET, SO_ERROR, &error, &size));
  EXPECT_EQ(error, ENETDOWN);
  EXPECT_ERRNO(SendOurs(raw, "x"), ENETDOWN);
  ifreq r = {};
  strcpy(r.ifr_name, "lo");
  r.ifr_flags = IFF_UP;
  MUST(ioctl(raw, SIOCSIFFLAGS, &r));
  EXPECT_EQ(SendOurs(raw, "x"), 15);
  CheckpointHere();
  EXPECT_EQ(Take(raw).size, 15);
  r.ifr_flags = 0;
  MUST(ioctl(raw, SIOCSIFFLAGS, &r));
  pollfd p = {raw, POLLIN, 0};
  EXPECT_EQ(poll(&p, 1, 0), 1);
  EXPECT_EQ(p.revents & POLLERR, POLLERR);
  EXPECT_EQ(Take(raw).size, -ENETDOWN);
  EXPECT_EQ(Take(raw).size, -EAGAIN);
  p.fd = all;
  EXPECT_EQ(poll(&p, 1, 0) >= 0 && (p.revents & POLLERR) == 0, true);
}

GUEST_TEST(Packet, NeedsTheCapability) {
  JOIN_OK(Fork([] {
    if (setuid(1000) < 0) Skip("not root");
    EXPECT_ERRNO(socket(AF_PACKET, SOCK_RAW, 0), EPERM);
    EXPECT_ERRNO(socket(AF_PACKET, SOCK_STREAM, 0), EPERM);
  }));
}

GUEST_TEST(Packet, ListedInProc) {
  const int raw = OnLo(SOCK_RAW, kOurs);
  static char text[8192];
  ReadFile("/proc/net/packet", text, sizeof(text));
  CheckpointHere();
  EXPECT_EQ(strncmp(text, "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n", 64), 0);
  struct stat st;
  MUST(fstat(raw, &st));
  const Str line(" 3    88b5   1     1 0      %-6d %-6lu\n", static_cast<int>(getuid()), st.st_ino);
  EXPECT(strstr(text, line) != nullptr);
}
