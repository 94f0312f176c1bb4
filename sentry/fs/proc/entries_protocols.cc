// Texts of /proc/PID/net about raw, ping and netlink sockets, protocols, groups and counters.
#include <arpa/inet.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#include "sentry/fs/proc/entries_net.h"
#include "sentry/fs/proc/entry.h"
#include "sentry/fs/proc/machine.h"
#include "sentry/kernel/task.h"
#include "sentry/net/inet/net_namespace.h"
#include "sentry/net/inet/raw_layer.h"
#include "sentry/net/inet/raw_socket.h"
#include "sentry/net/inet/udp_layer.h"
#include "sentry/net/inet/udp_socket.h"
#include "sentry/net/netlink/netlink_socket.h"
#include "sentry/net/packet/packet_layer.h"
#include "sentry/net/packet/packet_socket.h"
#include "sentry/net/tcp/tcp_layer.h"
#include "sentry/net/unix/unix_names.h"

namespace amber {
namespace {

using Ull = unsigned long long;

constexpr char kHeader4[] = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops";
constexpr char kHeader6[] =
    "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   "
    "uid  timeout inode ref pointer drops\n";

// raw_seq_show(), raw6_seq_show(), ping_v4_seq_show(): a raw socket's port is its protocol. Of ping sockets of IPv4 lines have a fixed width.
std::string RawText(NetNamespace& net, int family, bool ping) {
  bool v4 = family == AF_INET;
  bool padded = v4 && ping;
  std::string out;
  if (v4) AppendFormat(&out, padded ? "%-127s\n" : "%s\n", kHeader4);
  if (!v4) out = kHeader6;
  for (const RawSocket* s : net.raw().all()) {
    if (s->family() != family || (s->type() == SOCK_DGRAM) != ping || (ping && s->identifier() == 0)) continue;
    net::Endpoint local = s->local(), remote = s->remote();
    if (!ping) local.port = static_cast<uint16_t>(s->protocol());
    remote.port = 0;
    std::string text;
    AppendFormat(&text, v4 && !ping ? "%4d: " : "%5d: ", local.port & 255);
    AppendFormat(&text, "%s %s %02X 00000000:%08zX 00:00000000 00000000 %5u        0 %llu %d 0000000000000000 0", HexEndpoint(local, v4).c_str(),
                 HexEndpoint(remote, v4).c_str(), s->connected() ? 1u : 7u, s->charge(), 0u, static_cast<Ull>(s->ino()),
                 static_cast<int>(s->ref_count()) + 1);
    AppendFormat(&out, padded ? "%-127s\n" : "%s\n", text.c_str());
  }
  return out;
}

struct Protocol {
  const char* name;
  int size;
  size_t sockets;
  bool pressure;  // has memory of its own that is watched
  bool memory;    // counts it
  int header;
  bool cache;
  const char* calls;  // proto_method_implemented()
};

size_t CountRaw(NetNamespace& net, int family, bool ping) {
  size_t n = 0;
  for (const RawSocket* s : net.raw().all()) n += s->family() == family && (s->type() == SOCK_DGRAM) == ping ? 1 : 0;
  return n;
}

size_t CountUdp(net::UdpLayer& layer, int family) {
  size_t n = 0;
  for (UdpSocket* s : layer.all()) n += s->family() == family && s->binding().bound() ? 1 : 0;
  return n;
}

size_t CountTcp(NetNamespace& net, int family) {
  size_t n = 0;
  for (const net::TcpConnection* c : net.tcp().all()) n += c->family == family && c->state() != net::TcpState::kClosed ? 1 : 0;
  return n;
}

}  // namespace

ErrnoOr<std::string> ProcNetRaw(Task& reader, Task* target) { return RawText(NetOf(reader, target), AF_INET, false); }
ErrnoOr<std::string> ProcNetRaw6(Task& reader, Task* target) { return RawText(NetOf(reader, target), AF_INET6, false); }
ErrnoOr<std::string> ProcNetIcmp(Task& reader, Task* target) { return RawText(NetOf(reader, target), AF_INET, true); }
ErrnoOr<std::string> ProcNetIcmp6(Task& reader, Task* target) { return RawText(NetOf(reader, target), AF_INET6, true); }

// netlink_native_seq_show(). The kernel has a socket of its own in each protocol.
ErrnoOr<std::string> ProcNetNetlink(Task& reader, Task* target) {
  std::string out = "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n";
  auto add = [&out](int protocol, uint32_t port, uint32_t groups, size_t queued, uint64_t ino) {
    AppendFormat(&out, "0000000000000000 %-3d %-10u %08x %-8zu %-8d %-5d %-8d %-8u %-8llu\n", protocol, port, groups, queued, 0, 0, 2, 0u,
                 static_cast<Ull>(ino));
  };
  for (NetWatcher* watcher : NetOf(reader, target).watchers()) {
    auto* s = dynamic_cast<NetlinkSocket*>(watcher);
    if (s != nullptr && s->port() != 0) add(s->protocol(), s->port(), s->groups(), s->queued(), s->ino());
  }
  for (int protocol : {NETLINK_ROUTE, NETLINK_SOCK_DIAG}) add(protocol, 0, 0, 0, 0);
  return out;
}

// proto_seq_show(). Sizes are those of Linux 6.18; "mem" of what is not counted is -1.
ErrnoOr<std::string> ProcNetProtocols(Task& reader, Task* target) {
  NetNamespace& net = NetOf(reader, target);
  const char* datagrams = "y  y  y  n  y  y  y  n  y  y  y  y  n  n  y  y  y  n";
  const char* streams = "y  y  y  y  y  y  y  y  y  y  y  y  n  y  y  y  y  y";
  const char* raws = "y  y  y  n  y  y  y  n  y  y  y  y  y  y  y  y  n  n";
  const char* pings = "y  y  y  n  n  y  n  n  y  y  y  y  y  y  n  y  y  n";
  const char* none = "n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n";
  const char* closes = "y  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n";
  const Protocol rows[] = {
      {"PACKET", 1600, net.packets().all().size(), false, false, 0, false, none},
      {"PINGv6", 1344, CountRaw(net, AF_INET6, true), false, false, 0, true, pings},
      {"RAWv6", 1344, CountRaw(net, AF_INET6, false), false, false, 0, true, raws},
      {"UDPLITEv6", 1472, CountUdp(net.udplite(), AF_INET6), false, true, 0, true, datagrams},
      {"UDPv6", 1472, CountUdp(net.udp(), AF_INET6), false, true, 0, true, datagrams},
      {"TCPv6", 2432, CountTcp(net, AF_INET6), true, true, 192, true, streams},
      {"UNIX", 1152, UnixNames::All().size(), false, false, 0, true, closes},
      {"UDP-Lite", 1344, CountUdp(net.udplite(), AF_INET), false, true, 0, true, datagrams},
      {"PING", 1016, CountRaw(net, AF_INET, true), false, false, 0, true, pings},
      {"RAW", 1152, CountRaw(net, AF_INET, false), false, false, 0, true, raws},
      {"UDP", 1344, CountUdp(net.udp(), AF_INET), false, true, 0, true, datagrams},
      {"TCP", 2304, CountTcp(net, AF_INET), true, true, 192, true, streams},
      {"NETLINK", 1096, net.watchers().size(), false, false, 0, false, none},
  };
  std::string out = "protocol  size sockets  memory press maxhdr  slab module     cl co di ac io in de sh ss gs se re bi br ha uh gp em\n";
  for (const Protocol& p : rows) {
    AppendFormat(&out, "%-9s %4d %6zu  %6d   %-3s %6d   %-3s  %-10s  %s\n", p.name, p.size, p.sockets, p.memory ? 0 : -1, p.pressure ? "no" : "NI",
                 p.header, p.cache ? "yes" : "no", "kernel", p.calls);
  }
  return out;
}

// snmp6_seq_show(). Those that are counted are counted with IPv4's, and told there.
ErrnoOr<std::string> ProcNetSnmp6(Task& /*reader*/, Task* /*target*/) {
  static constexpr const char* kNames[] = {
      "Ip6InReceives",        "Ip6InHdrErrors",    "Ip6InTooBigErrors",     "Ip6InNoRoutes",        "Ip6InAddrErrors",      "Ip6InUnknownProtos",
      "Ip6InTruncatedPkts",   "Ip6InDiscards",     "Ip6InDelivers",         "Ip6OutForwDatagrams",  "Ip6OutRequests",       "Ip6OutDiscards",
      "Ip6OutNoRoutes",       "Ip6ReasmTimeout",   "Ip6ReasmReqds",         "Ip6ReasmOKs",          "Ip6ReasmFails",        "Ip6FragOKs",
      "Ip6FragFails",         "Ip6FragCreates",    "Ip6InMcastPkts",        "Ip6OutMcastPkts",      "Ip6InOctets",          "Ip6OutOctets",
      "Ip6InMcastOctets",     "Ip6OutMcastOctets", "Ip6InBcastOctets",      "Ip6OutBcastOctets",    "Ip6InNoECTPkts",       "Ip6InECT1Pkts",
      "Ip6InECT0Pkts",        "Ip6InCEPkts",       "Ip6OutTransmits",       "Icmp6InMsgs",          "Icmp6InErrors",        "Icmp6OutMsgs",
      "Icmp6OutErrors",       "Icmp6InCsumErrors", "Icmp6OutRateLimitHost", "Udp6InDatagrams",      "Udp6NoPorts",          "Udp6InErrors",
      "Udp6OutDatagrams",     "Udp6RcvbufErrors",  "Udp6SndbufErrors",      "Udp6InCsumErrors",     "Udp6IgnoredMulti",     "Udp6MemErrors",
      "UdpLite6InDatagrams",  "UdpLite6NoPorts",   "UdpLite6InErrors",      "UdpLite6OutDatagrams", "UdpLite6RcvbufErrors", "UdpLite6SndbufErrors",
      "UdpLite6InCsumErrors", "UdpLite6MemErrors",
  };
  std::string out;
  for (const char* name : kNames) AppendFormat(&out, "%-32s\t%d\n", name, 0);
  return out;
}

// igmp_mc_seq_show(). Every interface hears what is for all hosts; other groups have no members here.
ErrnoOr<std::string> ProcNetIgmp(Task& reader, Task* target) {
  std::string out = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n";
  for (const auto& link : NetOf(reader, target).stack().links()) {
    if (!link->up()) continue;
    AppendFormat(&out, "%d\t%-10s: %5d %7s\n\t\t\t\t%08X %5d %d:%08X\t\t%d\n", link->index(), link->name().c_str(), 1, "V3",
                 htonl(INADDR_ALLHOSTS_GROUP), 1, 0, 0u, 0);
  }
  return out;
}

ErrnoOr<std::string> ProcNetPtype(Task& reader, Task* target) {
  constexpr int kEverything = 3;  // ETH_P_ALL
  std::string out = "Type Device      Function\n";
  NetNamespace& net = NetOf(reader, target);
  for (net::FrameTaker* taker : net.packets().all()) {
    auto* s = static_cast<PacketSocket*>(taker);
    if (!s->running()) continue;
    net::Link* link = s->device() != 0 ? net.stack().FindLink(s->device()) : nullptr;
    if (s->frame_protocol() == kEverything) out += "ALL ";
    if (s->frame_protocol() != kEverything) AppendFormat(&out, "%04x", s->frame_protocol());
    AppendFormat(&out, " %-8s packet_rcv\n", link != nullptr ? link->name().c_str() : "");
  }
  for (const char* handler : {"0800          ip_rcv", "0806          arp_rcv", "86dd          ipv6_rcv"}) {
    out += handler;
    out += '\n';
  }
  return out;
}

// softnet_seq_show(): one line a processor. Nothing waits for a later interrupt here.
ErrnoOr<std::string> ProcNetSoftnetStat(Task& /*reader*/, Task* /*target*/) {
  std::string out;
  for (uint32_t cpu = 0; cpu < Machine::Get().cpus; ++cpu) {
    for (int column = 0; column < 12; ++column) out += "00000000 ";
    AppendFormat(&out, "%08x 00000000 00000000\n", cpu);
  }
  return out;
}

}  // namespace amber
