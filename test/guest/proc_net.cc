// Texts of /proc/net and of /proc/PID that tools take apart, and links of descriptors.
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "test/harness/guest_util.h"
#include "test/harness/sockets.h"

using namespace guest;

namespace {

char text[1 << 16];

const char* Read(const char* path) {
  ReadFile(path, text, sizeof(text));
  return text;
}

// The line of `text` that has the word `word`, or null.
const char* LineWith(const char* word) {
  const char* at = strstr(text, word);
  while (at != nullptr && at > text && at[-1] != '\n') --at;
  return at;
}

unsigned long long Inode(int fd) {
  struct stat status;
  MUST(fstat(fd, &status));
  return status.st_ino;
}

bool Begins(const char* line, const char* beginning) { return line != nullptr && strncmp(line, beginning, strlen(beginning)) == 0; }

}  // namespace

GUEST_TEST(ProcNetText, RawSockets) {
  int four = MUST(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP)), six = MUST(socket(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6));
  CheckpointHere();
  EXPECT(Begins(Read("/proc/net/raw"), "  sl  local_address rem_address   st tx_queue rx_queue"));
  const char* line = LineWith(Str(" %llu ", Inode(four)));
  ASSERT(line != nullptr);
  EXPECT(strstr(line, ": 00000000:0001 00000000:0000 07 00000000:00000000 ") - line < 12);
  EXPECT(Begins(Read("/proc/net/raw6"), "  sl  local_address                         remote_address "));
  line = LineWith(Str(" %llu ", Inode(six)));
  ASSERT(line != nullptr);
  EXPECT(strstr(line, ":003A 0000") != nullptr);
}

GUEST_TEST(ProcNetText, PingSockets) {
  int fd = socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP);
  if (fd < 0) Skip("ping sockets are not for this group");
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(0x4d2);
  MUST(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)));
  Read("/proc/net/icmp");
  EXPECT_EQ(strchr(text, '\n') - text, 127);
  const char* line = LineWith(Str(" %llu ", Inode(fd)));
  ASSERT(line != nullptr);
  EXPECT(strstr(line, ": 0100007F:04D2 00000000:0000 07 ") != nullptr);
  EXPECT_EQ(strchr(line, '\n') - line, 127);
  EXPECT(Begins(Read("/proc/net/icmp6"), "  sl  local_address                         remote_address "));
}

GUEST_TEST(ProcNetText, NetlinkSockets) {
  int fd = MUST(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  address.nl_pid = 54321;
  address.nl_groups = 1;
  MUST(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)));
  int diag = MUST(socket(AF_NETLINK, SOCK_RAW, NETLINK_SOCK_DIAG)), unbound = MUST(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
  address.nl_pid = 54322;
  address.nl_groups = 0;
  MUST(bind(diag, reinterpret_cast<sockaddr*>(&address), sizeof(address)));
  CheckpointHere();
  EXPECT(Begins(Read("/proc/net/netlink"), "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n"));
  const char* line = LineWith(Str(" %llu ", Inode(fd)));
  ASSERT(line != nullptr);
  EXPECT(strstr(line, " 0   54321      00000001 0 ") != nullptr);
  line = LineWith(Str(" %llu ", Inode(diag)));
  ASSERT(line != nullptr);
  EXPECT(strstr(line, " 4   54322      00000000 0 ") != nullptr);
  EXPECT(LineWith(Str(" %llu ", Inode(unbound))) == nullptr);
}

GUEST_TEST(ProcNetText, Protocols) {
  int sockets[3];
  sockaddr_in address{};
  address.sin_family = AF_INET;
  for (int& fd : sockets) {
    fd = MUST(socket(AF_INET, SOCK_DGRAM, IPPROTO_UDPLITE));
    MUST(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)));
  }
  EXPECT(Begins(Read("/proc/net/protocols"),
                "protocol  size sockets  memory press maxhdr  slab module     cl co di ac io in de sh ss gs se re bi br ha uh gp em\n"));
  for (const char* name : {"TCP ", "UDP ", "RAW ", "PING ", "UNIX ", "NETLINK ", "PACKET ", "TCPv6 ", "UDPv6 "}) {
    EXPECT(LineWith(Str("\n%s", name)) != nullptr);
  }
  int size = 0, count = 0;
  const char* line = strstr(text, "\nUDP-Lite");
  ASSERT(line != nullptr && sscanf(line, " UDP-Lite %d %d", &size, &count) == 2);
  EXPECT_GE(count, 3);
}

GUEST_TEST(ProcNetText, Others) {
  EXPECT(Begins(Read("/proc/net/snmp6"), "Ip6InReceives                   \t"));
  EXPECT(strstr(text, "\nUdp6InDatagrams                 \t") != nullptr);
  EXPECT(Begins(Read("/proc/net/snmp"), "Ip: Forwarding DefaultTTL "));
  for (const char* protocol : {"Icmp: InMsgs ", "Tcp: RtoAlgorithm ", "Udp: InDatagrams ", "UdpLite: InDatagrams "}) {
    const char* names = LineWith(protocol);
    ASSERT(names != nullptr);
    const char* values = strchr(names, '\n') + 1;
    // As many numbers as there are names.
    int count = 0;
    for (; *names != '\n'; ++names) count += *names == ' ';
    for (; *values != '\n'; ++values) count -= *values == ' ';
    EXPECT_EQ(count, 0);
  }
  EXPECT(Begins(Read("/proc/net/igmp"), "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n1\tlo        : "));
  EXPECT(strstr(text, "\t\t\t\t010000E0     1 0:00000000\t\t0\n") != nullptr);
  int packets = MUST(socket(AF_PACKET, SOCK_RAW, htons(3 /* ETH_P_ALL */)));
  CheckpointHere();
  EXPECT(Begins(Read("/proc/net/ptype"), "Type Device      Function\n"));
  EXPECT(strstr(text, "\nALL           packet_rcv\n") != nullptr);
  EXPECT(strstr(text, "\n0800          ip_rcv\n") != nullptr);
  close(packets);
  Read("/proc/net/softnet_stat");
  long processors = sysconf(_SC_NPROCESSORS_CONF);
  for (const char* at = text; *at != 0; at = strchr(at, '\n') + 1, --processors) EXPECT_EQ(strchr(at, '\n') - at, 15 * 9 - 1);
  EXPECT_EQ(processors, 0);
}

GUEST_TEST(ProcText, SharesOfMemory) {
  Read("/proc/self/smaps_rollup");
  for (const char* name : {"Pss_Anon", "Pss_File", "Pss_Shmem"}) EXPECT_GE(ProcField("/proc/self/smaps_rollup", name), 0);
  const char* dirty = strstr(text, "\nPss_Dirty:");
  const char* own = strstr(text, "\nPss_Anon:");
  const char* clean = strstr(text, "\nShared_Clean:");
  ASSERT(dirty != nullptr && own != nullptr && clean != nullptr);
  EXPECT(dirty < own && own < clean);
}

GUEST_TEST(ProcText, LimitsWithoutUnits) {
  Read("/proc/self/limits");
  const char* nice = LineWith("Max nice priority");
  ASSERT(nice != nullptr);
  EXPECT_EQ(strchr(nice, '\n') - nice, 68);
}

GUEST_TEST(ProcText, LinksOfDescriptorsHaveASize) {
  int fd = MUST(open("/dev/null", O_RDONLY));
  struct stat status;
  MUST(lstat(Str("/proc/self/fd/%d", fd), &status));
  EXPECT_EQ(status.st_size, 64);
}
