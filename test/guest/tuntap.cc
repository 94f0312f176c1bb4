// /dev/net/tun (Documentation/networking/tuntap.rst): interfaces whose other end is a program.
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if_arp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

#include "test/harness/guest_netlink.h"

using namespace guest;

namespace {

int OpenTun() {
  static char path[64];
  if (path[0] == '\0') {
    snprintf(path, sizeof(path), "/tmp/tun.%d", getpid());
    MUST(mknod(path, S_IFCHR | 0666, makedev(10, 200)));
  }
  const int fd = open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0 && (errno == EACCES || errno == EPERM || errno == ENXIO || errno == ENODEV)) {
    unlink(path);
    Skip("no /dev/net/tun");
  }
  MUST(fd);
  unlink(path);
  path[0] = '\0';
  return fd;
}

int Attach(int fd, const char* name, int flags) {
  ifreq r = {};
  if (name != nullptr) strcpy(r.ifr_name, name);
  r.ifr_flags = static_cast<short>(flags);
  return ioctl(fd, TUNSETIFF, &r) < 0 ? -errno : 0;
}

int Made(const char* name, int flags) {
  const int fd = OpenTun();
  EXPECT_EQ(Attach(fd, name, flags), 0);
  return fd;
}

uint16_t Sum(const uint8_t* p, size_t size, uint32_t sum = 0) {
  for (size_t i = 0; i + 1 < size; i += 2) sum += static_cast<uint32_t>(p[i] << 8 | p[i + 1]);
  if (size % 2 != 0) sum += static_cast<uint32_t>(p[size - 1] << 8);
  while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<uint16_t>(~sum);
}
void Put16(uint8_t* at, unsigned value) { at[0] = static_cast<uint8_t>(value >> 8), at[1] = static_cast<uint8_t>(value); }
void Put32(uint8_t* at, uint32_t value) { Put16(at, value >> 16), Put16(at + 2, value & 0xffff); }

constexpr uint32_t kOwn = 0x0a090001, kFar = 0x0a090002;

// An IPv4 packet with `payload` bytes behind its header, which the caller fills first.
size_t Ipv4(uint8_t* p, uint8_t protocol, size_t payload) {
  memset(p, 0, 20);
  p[0] = 0x45, p[8] = 64, p[9] = protocol;
  Put16(p + 2, static_cast<unsigned>(20 + payload));
  Put32(p + 12, kFar);
  Put32(p + 16, kOwn);
  Put16(p + 10, Sum(p, 20));
  return 20 + payload;
}

size_t Echo(uint8_t* p) {
  memset(p + 20, 0, 16);
  p[20] = 8, p[25] = 7;
  memcpy(p + 28, "echo me!", 8);
  Put16(p + 22, Sum(p + 20, 16));
  return Ipv4(p, IPPROTO_ICMP, 16);
}

size_t Udp(uint8_t* p, uint16_t port, const char* text) {
  const size_t size = strlen(text);
  Put16(p + 20, 5000);
  Put16(p + 22, port);
  Put16(p + 24, static_cast<unsigned>(8 + size));
  Put16(p + 26, 0);
  memcpy(p + 28, text, size);
  return Ipv4(p, IPPROTO_UDP, 8 + size);
}

// The next packet that `wanted` is true for; 0 if none comes.
template <typename F>
ssize_t Next(int fd, uint8_t* p, size_t room, F&& wanted) {
  for (int i = 0; i < 100; ++i) {
    pollfd poller = {fd, POLLIN, 0};
    if (poll(&poller, 1, 5000) != 1) return 0;
    const ssize_t size = MUST(read(fd, p, room));
    if (wanted(p, size)) return size;
  }
  return 0;
}

void Bring(const char* name, const char* address, int prefix) {
  EXPECT_EQ(SetUp("lo"), 0);
  EXPECT_EQ(AddAddress(name, address, prefix), 0);
  EXPECT_EQ(SetUp(name), 0);
}

GUEST_TEST(TunTap, TunsCarryPackets) {
  NewNet();
  const int fd = Made("t0", IFF_TUN | IFF_NO_PI);
  uint8_t p[2048];
  size_t size = Echo(p);
  EXPECT_ERRNO(write(fd, p, size), EIO);
  Bring("t0", "10.9.0.1", 24);
  EXPECT_EQ(LinkFlags("t0"), static_cast<unsigned>(IFF_UP | IFF_POINTOPOINT | IFF_RUNNING | IFF_NOARP | IFF_MULTICAST | 0x10000));
  CheckpointHere();
  EXPECT_EQ(write(fd, p, size), static_cast<ssize_t>(size));
  EXPECT_EQ(Next(fd, p, sizeof(p), [](const uint8_t* q, ssize_t n) { return n >= 28 && q[0] == 0x45 && q[9] == IPPROTO_ICMP; }), 36);
  EXPECT_EQ(p[20], 0);
  EXPECT_EQ(memcmp(p + 28, "echo me!", 8), 0);
  // What a socket sends comes out, what a program writes comes in.
  const SocketAddress own("10.9.0.1", 4100), far("10.9.0.2", 5000);
  const int udp = BoundSocket(SOCK_DGRAM, own);
  EXPECT_EQ(sendto(udp, "out", 3, 0, far.get(), far.size), 3);
  CheckpointHere();
  EXPECT_EQ(Next(fd, p, sizeof(p), [](const uint8_t* q, ssize_t n) { return n >= 28 && q[0] == 0x45 && q[9] == IPPROTO_UDP; }), 31);
  EXPECT_EQ(memcmp(p + 28, "out", 3), 0);
  size = Udp(p, 4100, "in");
  EXPECT_EQ(write(fd, p, size), static_cast<ssize_t>(size));
  char got[16] = {};
  EXPECT_EQ(recv(udp, got, sizeof(got), 0), 2);
  EXPECT_EQ(strcmp(got, "in"), 0);
  // A bad checksum goes nowhere; what is no packet is refused.
  size = Udp(p, 4100, "bad");
  p[10] = static_cast<uint8_t>(~p[10]);
  EXPECT_EQ(write(fd, p, size), static_cast<ssize_t>(size));
  EXPECT_ERRNO(recv(udp, got, sizeof(got), MSG_DONTWAIT), EAGAIN);
  p[0] = 0x15;
  EXPECT_ERRNO(write(fd, p, size), EINVAL);
  EXPECT_ERRNO(write(fd, p, 0), EINVAL);
}

// A packet of one byte, of an interface with a number that is nearly the last: packet sockets and their filters see that much.
GUEST_TEST(TunTap, ShortPacketsAreSeen) {
  NewNet();
  ifinfomsg head = LinkHead();
  head.ifi_index = 0x7ffffffe;
  NlRequest bridge(RTM_NEWLINK, kMake, head);
  bridge.Text(IFLA_IFNAME, "br");
  const size_t info = bridge.Open(IFLA_LINKINFO);
  bridge.Text(IFLA_INFO_KIND, "bridge");
  bridge.Close(info);
  EXPECT_EQ(bridge.Ask(), 0);
  const int tun = Made("t0", IFF_TUN | IFF_NO_PI), second = Made("t1", IFF_TUN | IFF_NO_PI);
  EXPECT_EQ(SetUp("br") | SetUp("t0") | SetUp("t1"), 0);
  const int seen = MUST(socket(AF_PACKET, SOCK_DGRAM, htons(ETH_P_ALL)));
  sock_filter program[] = {BPF_STMT(BPF_LD | BPF_IMM, 0), BPF_STMT(BPF_LDX | BPF_IMM, 1),
                           BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<unsigned>(SKF_AD_OFF + SKF_AD_NLATTR)), BPF_STMT(BPF_RET | BPF_K, 100)};
  const sock_fprog filter = {4, program};
  MUST(setsockopt(seen, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof(filter)));
  for (const int fd : {tun, second}) {
    CheckpointHere();
    EXPECT_EQ(write(fd, "@", 1), 1);
    bool found = false;
    for (int i = 0; i < 100 && !found; ++i) {
      pollfd p = {seen, POLLIN, 0};
      if (poll(&p, 1, 5000) != 1) break;
      char got[2048];
      sockaddr_ll from = {};
      socklen_t size = sizeof(from);
      const ssize_t n = recvfrom(seen, got, sizeof(got), 0, reinterpret_cast<sockaddr*>(&from), &size);
      found = n == 1 && got[0] == '@' && from.sll_ifindex == static_cast<int>(if_nametoindex(fd == tun ? "t0" : "t1"));
    }
    EXPECT(found);
  }
}

GUEST_TEST(TunTap, TapsCarryFrames) {
  NewNet();
  const int fd = Made("p0", IFF_TAP | IFF_NO_PI);
  Bring("p0", "10.9.0.1", 24);
  const uint8_t far_hardware[6] = {2, 0, 0, 0, 0, 0x22};
  uint8_t own_hardware[8];
  const int64_t number = LinkNumber("p0", IFLA_ADDRESS);
  memcpy(own_hardware, &number, 8);
  const SocketAddress far("10.9.0.2", 5000);
  const int udp = BoundSocket(SOCK_DGRAM, SocketAddress("10.9.0.1", 4101));
  EXPECT_EQ(sendto(udp, "who", 3, 0, far.get(), far.size), 3);
  uint8_t p[2048];
  auto is = [](int protocol) { return [protocol](const uint8_t* q, ssize_t n) { return n >= 14 && (q[12] << 8 | q[13]) == protocol; }; };
  EXPECT_EQ(Next(fd, p, sizeof(p), is(ETH_P_ARP)), 42);
  EXPECT_EQ(p[21], 1);
  EXPECT_EQ(memcmp(p + 6, own_hardware, 6), 0);
  EXPECT_EQ(memcmp(p + 38, "\x0a\x09\x00\x02", 4), 0);
  CheckpointHere();
  // The answer sets the datagram free (or another question, if the checkpoint lost that).
  uint8_t answer[42];
  memcpy(answer, own_hardware, 6);
  memcpy(answer + 6, far_hardware, 6);
  memcpy(answer + 12, p + 12, 9);
  answer[21] = 2;
  memcpy(answer + 22, far_hardware, 6);
  memcpy(answer + 28, p + 38, 4);
  memcpy(answer + 32, own_hardware, 6);
  memcpy(answer + 38, p + 28, 4);
  EXPECT_EQ(write(fd, answer, 42), 42);
  EXPECT_EQ(sendto(udp, "who", 3, 0, far.get(), far.size), 3);
  ssize_t size = Next(fd, p, sizeof(p), [&](const uint8_t* q, ssize_t n) {
    if (n >= 42 && (q[12] << 8 | q[13]) == ETH_P_ARP && q[21] == 1) MUST(write(fd, answer, 42));
    return n >= 14 && (q[12] << 8 | q[13]) == ETH_P_IP;
  });
  EXPECT_EQ(size, 14 + 20 + 8 + 3);
  EXPECT_EQ(memcmp(p, far_hardware, 6), 0);
  EXPECT_EQ(memcmp(p + 42, "who", 3), 0);
  // Somebody asks for us.
  memset(p, 0xff, 6);
  memcpy(p + 6, far_hardware, 6);
  memcpy(p + 12, answer + 12, 9);
  p[21] = 1;
  memcpy(p + 22, far_hardware, 6);
  memcpy(p + 28, "\x0a\x09\x00\x02", 4);
  memset(p + 32, 0, 6);
  memcpy(p + 38, "\x0a\x09\x00\x01", 4);
  EXPECT_EQ(write(fd, p, 42), 42);
  EXPECT_EQ(Next(fd, p, sizeof(p), [](const uint8_t* q, ssize_t n) { return n >= 42 && (q[12] << 8 | q[13]) == ETH_P_ARP && q[21] == 2; }), 42);
  EXPECT_EQ(memcmp(p, far_hardware, 6), 0);
  EXPECT_EQ(memcmp(p + 22, own_hardware, 6), 0);
  EXPECT_ERRNO(write(fd, p, 13), EINVAL);
}

GUEST_TEST(TunTap, HeadersBeforePackets) {
  NewNet();
  const int fd = Made("t0", IFF_TUN);
  Bring("t0", "10.9.0.1", 24);
  uint8_t p[2048] = {};
  tun_pi info = {0, htons(ETH_P_IP)};
  memcpy(p, &info, sizeof(info));
  size_t size = 4 + Echo(p + 4);
  EXPECT_ERRNO(write(fd, p, 3), EINVAL);
  EXPECT_EQ(write(fd, p, size), static_cast<ssize_t>(size));
  EXPECT_EQ(Next(fd, p, sizeof(p), [](const uint8_t* q, ssize_t) { return q[4] == 0x45 && q[13] == IPPROTO_ICMP; }), 40);
  memcpy(&info, p, sizeof(info));
  EXPECT_EQ(info.flags, 0);
  EXPECT_EQ(ntohs(info.proto), ETH_P_IP);
  // Cut off, and said to be.
  memcpy(p, &info, sizeof(info));
  size = 4 + Echo(p + 4);
  EXPECT_EQ(write(fd, p, size), static_cast<ssize_t>(size));
  EXPECT_EQ(Next(fd, p, 30, [](const uint8_t* q, ssize_t) { return q[4] == 0x45; }), 30);
  memcpy(&info, p, sizeof(info));
  EXPECT_EQ(info.flags, TUN_PKT_STRIP);
  close(fd);
  // struct virtio_net_hdr, and a checksum that is left open.
  const int vnet = Made("t1", IFF_TUN | IFF_NO_PI | IFF_VNET_HDR);
  int length = 0;
  EXPECT_EQ(ioctl(vnet, TUNGETVNETHDRSZ, &length), 0);
  EXPECT_EQ(length, 10);
  length = 9;
  EXPECT_ERRNO(ioctl(vnet, TUNSETVNETHDRSZ, &length), EINVAL);
  length = 12;
  EXPECT_EQ(ioctl(vnet, TUNSETVNETHDRSZ, &length), 0);
  Bring("t1", "10.9.0.1", 24);
  const int udp = BoundSocket(SOCK_DGRAM, SocketAddress("10.9.0.1", 4102));
  CheckpointHere();
  memset(p, 0, 12);
  size = Udp(p + 12, 4102, "open");
  uint8_t pseudo[12];
  Put32(pseudo, kFar);
  Put32(pseudo + 4, kOwn);
  Put16(pseudo + 8, IPPROTO_UDP);
  Put16(pseudo + 10, 12);
  Put16(p + 12 + 26, static_cast<uint16_t>(~Sum(pseudo, 12)));
  p[0] = 1;  // VIRTIO_NET_HDR_F_NEEDS_CSUM; the rest is in the machine's order
  const uint16_t start = 20, offset = 6;
  memcpy(p + 6, &start, 2);
  memcpy(p + 8, &offset, 2);
  EXPECT_EQ(write(vnet, p, 12 + size), static_cast<ssize_t>(12 + size));
  char got[16] = {};
  EXPECT_EQ(recv(udp, got, sizeof(got), 0), 4);
  EXPECT_EQ(strcmp(got, "open"), 0);
  const uint16_t beyond = 2000;
  memcpy(p + 6, &beyond, 2);
  EXPECT_ERRNO(write(vnet, p, 12 + size), EINVAL);
  EXPECT_ERRNO(write(vnet, p, 11), EINVAL);
}

GUEST_TEST(TunTap, FilesAndInterfaces) {
  NewNet();
  const int fd = OpenTun();
  uint8_t p[64];
  ifreq r = {};
  EXPECT_ERRNO(read(fd, p, sizeof(p)), EBADFD);
  EXPECT_ERRNO(write(fd, p, sizeof(p)), EBADFD);
  EXPECT_ERRNO(ioctl(fd, TUNGETIFF, &r), EBADFD);
  pollfd poller = {fd, POLLIN | POLLOUT, 0};
  EXPECT_EQ(poll(&poller, 1, 0), 1);
  EXPECT_EQ(poller.revents, POLLERR);
  EXPECT_EQ(Attach(fd, "t0", 0), -EINVAL);
  EXPECT_EQ(Attach(fd, "lo", IFF_TUN), -EINVAL);
  EXPECT_EQ(Attach(fd, nullptr, IFF_TUN | IFF_NO_PI), 0);
  EXPECT_EQ(Attach(fd, "t1", IFF_TUN), -EEXIST);
  EXPECT_EQ(ioctl(fd, TUNGETIFF, &r), 0);
  EXPECT_EQ(strcmp(r.ifr_name, "tun0"), 0);
  EXPECT_EQ(r.ifr_flags & ~0x0100, IFF_TUN | IFF_NO_PI);
  EXPECT(if_nametoindex("tun0") != 0);
  poller.revents = 0;
  EXPECT_EQ(poll(&poller, 1, 0), 0 + ((poller.revents & POLLOUT) != 0 ? 1 : 0));
  const int second = OpenTun();
  EXPECT_EQ(Attach(second, "tun0", IFF_TUN), -EBUSY);
  EXPECT_EQ(Attach(second, "tun0", IFF_TAP), -EINVAL);
  EXPECT_EQ(Attach(second, nullptr, IFF_TAP), 0);
  EXPECT(if_nametoindex("tap0") != 0);
  CheckpointHere();
  // One that persists is there without a file, and has no carrier then.
  EXPECT_EQ(ioctl(fd, TUNSETPERSIST, 1), 0);
  EXPECT_EQ(ioctl(fd, TUNSETOWNER, 1234), 0);
  close(fd);
  close(second);
  EXPECT_EQ(if_nametoindex("tap0"), 0u);
  EXPECT(if_nametoindex("tun0") != 0);
  EXPECT_EQ(LinkNumber("tun0", IFLA_CARRIER), 0);
  CheckpointHere();
  const int again = OpenTun();
  EXPECT_EQ(Attach(again, "tun0", IFF_TUN | IFF_NO_PI | IFF_TUN_EXCL), -EBUSY);
  EXPECT_EQ(Attach(again, "tun0", IFF_TUN | IFF_NO_PI), 0);
  EXPECT_EQ(ioctl(again, TUNSETPERSIST, 0), 0);
  // The interface may go first.
  EXPECT_EQ(DeleteLink("tun0"), 0);
  EXPECT_ERRNO(read(again, p, sizeof(p)), EBADFD);
  EXPECT_EQ(if_nametoindex("tun0"), 0u);
}

GUEST_TEST(TunTap, WaitingReaders) {
  const int second = NewNet();
  NewNet();
  const int fd = Made("t0", IFF_TUN | IFF_NO_PI);
  EXPECT_EQ(MoveLink("t0", second), 0);
  const int first = MUST(open("/proc/self/ns/net", O_RDONLY));
  EnterNet(second);
  Bring("t0", "10.9.0.1", 24);
  const SocketAddress far("10.9.0.2", 5000);
  const int udp = MUST(socket(AF_INET, SOCK_DGRAM, 0));
  EnterNet(first);
  uint8_t p[2048];
  fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK);
  while (read(fd, p, sizeof(p)) > 0) {
  }
  fcntl(fd, F_SETFL, O_RDWR);
  const pid_t child = Fork(
      [&] { EXPECT_EQ(Next(fd, p, sizeof(p), [](const uint8_t* q, ssize_t n) { return n >= 28 && q[0] == 0x45 && q[9] == IPPROTO_UDP; }), 32); });
  AwaitAsleep(child);
  CheckpointHere();
  EXPECT_EQ(sendto(udp, "wake", 4, 0, far.get(), far.size), 4);
  JOIN_OK(child);
}

GUEST_TEST(TunTap, Privileges) {
  NewNet();
  const int fd = OpenTun();
  unsigned features = 0;
  EXPECT_EQ(ioctl(fd, TUNGETFEATURES, &features), 0);
  EXPECT_EQ(features & (IFF_TUN | IFF_TAP | IFF_NO_PI | IFF_VNET_HDR), static_cast<unsigned>(IFF_TUN | IFF_TAP | IFF_NO_PI | IFF_VNET_HDR));
  AS_USER([&] {
    EXPECT_EQ(Attach(fd, "t0", IFF_TUN), -EPERM);
    if (unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0) return;
    // A namespace of one's own is not the file's.
    EXPECT_EQ(Attach(fd, "t0", IFF_TUN), -EPERM);
  });
}

}  // namespace
