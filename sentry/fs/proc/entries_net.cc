#include "sentry/fs/proc/entries_net.h"

#include <arpa/inet.h>
#include <string.h>
#include <sys/socket.h>

#include "sentry/fs/proc/entry.h"
#include "sentry/kernel/task.h"
#include "sentry/net/inet/net_namespace.h"
#include "sentry/net/inet/udp_layer.h"
#include "sentry/net/inet/udp_socket.h"
#include "sentry/net/packet/packet_layer.h"
#include "sentry/net/packet/packet_socket.h"
#include "sentry/net/tcp/tcp_layer.h"

namespace amber {

NetNamespace& NetOf(Task& reader, Task* target) { return NetNamespace::Of(target != nullptr && !target->exiting() ? *target : reader); }

std::string HexEndpoint(const net::Endpoint& e, bool v4) {
  std::string out;
  for (int i = v4 ? 12 : 0; i < 16; i += 4) {
    uint32_t word = 0;
    memcpy(&word, e.address.bytes.data() + i, 4);
    AppendFormat(&out, "%08X", word);
  }
  AppendFormat(&out, ":%04X", e.port);
  return out;
}

namespace {

constexpr char kHeader4[] = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
constexpr char kHeader6[] =
    "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   "
    "uid  timeout inode";

std::string TcpText(NetNamespace& net, int family) {
  bool v4 = family == AF_INET;
  std::string out;
  int line = 0;
  // IPv4 lines are padded to a fixed width, the header with them.
  AppendFormat(&out, v4 ? "%-149s\n" : "%s\n", v4 ? kHeader4 : kHeader6);
  auto add = [&](std::string text) {
    AppendFormat(&out, v4 ? "%-149s\n" : "%s\n", text.c_str());
    ++line;
  };
  for (net::TcpConnection* c : net.tcp().all()) {
    if (c->family != family || c->state() == net::TcpState::kClosed) continue;
    bool listening = c->state() == net::TcpState::kListen;
    net::TcpConnection::TimerInfo timer = c->timer_info();
    std::string text;
    AppendFormat(&text, "%4d: %s %s %02X %08zX:%08zX %02X:%08llX %08X %5u %8u %llu %d 0000000000000000 %d %d %d %u %d", line,
                 HexEndpoint(c->local(), v4).c_str(), HexEndpoint(c->remote(), v4).c_str(), static_cast<unsigned>(c->state()),
                 listening ? size_t{0} : c->unacknowledged(), listening ? size_t{c->accept_queue_length()} : c->unread(),
                 static_cast<unsigned>(timer.which), static_cast<unsigned long long>(timer.left / 10'000'000), timer.retries, c->uid, 0u,
                 static_cast<unsigned long long>(c->ino), static_cast<int>(c->ref_count()), listening ? 100 : 20, listening ? 0 : 4,
                 listening ? 0 : 30, c->congestion().cwnd / std::max(c->mss(), 1u), -1);
    add(std::move(text));
  }
  for (const auto& tw : net.tcp().time_waits()) {
    if (tw->family != family) continue;
    std::string text;
    int64_t left = std::max<int64_t>(tw->expires - net.stack().Now(), 0);
    AppendFormat(&text, "%4d: %s %s 06 00000000:00000000 03:%08llX 00000000     0        0 0 3 0000000000000000", line,
                 HexEndpoint(tw->key.local, v4).c_str(), HexEndpoint(tw->key.remote, v4).c_str(), static_cast<unsigned long long>(left / 10'000'000));
    add(std::move(text));
  }
  return out;
}

std::string UdpText(net::UdpLayer& layer, int family) {
  bool v4 = family == AF_INET;
  std::string out;
  AppendFormat(&out, v4 ? "%-127s\n" : "%s\n",
               v4 ? "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops"
                  : "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when "
                    "retrnsmt   uid  timeout inode ref pointer drops");
  for (UdpSocket* s : layer.all()) {
    if (s->family() != family || !s->binding().bound()) continue;
    std::string text;
    AppendFormat(&text, "%5u: %s %s %02X %08X:%08zX 00:00000000 00000000 %5u        0 %llu %d 0000000000000000 %llu",
                 static_cast<unsigned>(s->local().port), HexEndpoint(s->local(), v4).c_str(), HexEndpoint(s->remote(), v4).c_str(),
                 s->connected() ? 1u : 7u, 0u, s->queued_bytes(), s->uid(), static_cast<unsigned long long>(s->ino()),
                 static_cast<int>(s->ref_count()), static_cast<unsigned long long>(s->drops()));
    AppendFormat(&out, v4 ? "%-127s\n" : "%s\n", text.c_str());
  }
  return out;
}

unsigned long long Number(uint64_t n) { return n; }

}  // namespace

ErrnoOr<std::string> ProcNetDev(Task& reader, Task* target) {
  std::string out =
      "Inter-|   Receive                                                |  Transmit\n"
      " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n";
  for (const auto& link : NetOf(reader, target).stack().links()) {
    const net::LinkCounters& c = link->counters();
    AppendFormat(&out, "%6s: %7llu %7llu    0 %4llu    0     0          0         0 %8llu %7llu    0 %4llu    0     0       0          0\n",
                 link->name().c_str(), Number(c.rx_bytes), Number(c.rx_packets), Number(c.rx_dropped), Number(c.tx_bytes), Number(c.tx_packets),
                 Number(c.tx_dropped));
  }
  return out;
}

ErrnoOr<std::string> ProcNetIfInet6(Task& reader, Task* target) {
  std::string out;
  for (const auto& link : NetOf(reader, target).stack().links()) {
    for (const net::InterfaceAddress& a : link->addresses()) {
      if (a.address.v4()) continue;
      for (uint8_t b : a.address.bytes) AppendFormat(&out, "%02x", b);
      // IPV6_ADDR_LOOPBACK, _LINKLOCAL or global; IFA_F_PERMANENT.
      unsigned scope = a.address.loopback() ? 0x10 : a.address.link_local() ? 0x20 : 0;
      AppendFormat(&out, " %02x %02x %02x %02x %8s\n", static_cast<unsigned>(link->index()), static_cast<unsigned>(a.prefix), scope, 0x80u,
                   link->name().c_str());
    }
  }
  return out;
}

ErrnoOr<std::string> ProcNetRoute(Task& reader, Task* target) {
  std::string out;
  AppendFormat(&out, "%-127s\n", "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT");
  net::Stack& stack = NetOf(reader, target).stack();
  for (const net::Route& r : stack.routes()) {
    net::Link* link = stack.FindLink(r.link);
    if (!r.destination.v4() || link == nullptr) continue;
    bool gateway = !r.gateway.any();
    uint32_t mask = r.prefix == 0 ? 0 : htonl(0xffffffffu << (32 - r.prefix));
    std::string text;
    AppendFormat(&text, "%s\t%08X\t%08X\t%04X\t0\t0\t%u\t%08X\t0\t0\t0", link->name().c_str(), htonl(r.destination.v4_value()),
                 gateway ? htonl(r.gateway.v4_value()) : 0, gateway ? 3u : 1u, r.metric, mask);
    AppendFormat(&out, "%-127s\n", text.c_str());
  }
  return out;
}

// rt6_info_route(): destination, prefix, source, its prefix, next hop, metric, references, uses, flags, interface.
ErrnoOr<std::string> ProcNetRoute6(Task& reader, Task* target) {
  std::string out;
  net::Stack& stack = NetOf(reader, target).stack();
  auto hex = [&out](const net::IpAddress& a) {
    for (uint8_t b : a.bytes) AppendFormat(&out, "%02x", b);
  };
  for (const net::Route& r : stack.routes()) {
    net::Link* link = stack.FindLink(r.link);
    if (r.destination.v4() || link == nullptr) continue;
    bool gateway = !r.gateway.any();
    hex(r.destination);
    AppendFormat(&out, " %02x 00000000000000000000000000000000 00 ", static_cast<unsigned>(r.prefix));
    hex(gateway ? r.gateway : net::IpAddress::Any(false));
    AppendFormat(&out, " %08x 00000001 00000000 %08x %8s\n", r.metric, gateway ? 3u : 1u, link->name().c_str());
  }
  return out;
}

ErrnoOr<std::string> ProcNetNetstat(Task& reader, Task* target) {
  net::Stack& stack = NetOf(reader, target).stack();
  uint64_t received = 0, sent = 0;
  for (const auto& link : stack.links()) received += link->counters().rx_bytes, sent += link->counters().tx_bytes;
  // nstat(8) and netstat(8) take what there is. These are counted.
  std::string out = "TcpExt: TCPAbortOnData TCPRetransFail\nTcpExt: 0 0\nIpExt: InNoRoutes InOctets OutOctets\n";
  AppendFormat(&out, "IpExt: %llu %llu %llu\n", Number(stack.counters().ip_discarded), Number(received), Number(sent));
  return out;
}

ErrnoOr<std::string> ProcNetTcp(Task& reader, Task* target) { return TcpText(NetOf(reader, target), AF_INET); }
ErrnoOr<std::string> ProcNetTcp6(Task& reader, Task* target) { return TcpText(NetOf(reader, target), AF_INET6); }
ErrnoOr<std::string> ProcNetUdp(Task& reader, Task* target) { return UdpText(NetOf(reader, target).udp(), AF_INET); }
ErrnoOr<std::string> ProcNetUdp6(Task& reader, Task* target) { return UdpText(NetOf(reader, target).udp(), AF_INET6); }
ErrnoOr<std::string> ProcNetUdpLite(Task& reader, Task* target) { return UdpText(NetOf(reader, target).udplite(), AF_INET); }
ErrnoOr<std::string> ProcNetUdpLite6(Task& reader, Task* target) { return UdpText(NetOf(reader, target).udplite(), AF_INET6); }

ErrnoOr<std::string> ProcNetPacket(Task& reader, Task* target) {
  std::string out = "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n";
  for (net::FrameTaker* taker : NetOf(reader, target).packets().all()) {
    auto* s = static_cast<PacketSocket*>(taker);
    AppendFormat(&out, "0000000000000000 %-6d %-4d %04x   %-5d %1d %-6zu %-6u %-6llu\n", static_cast<int>(s->ref_count()) + 2, s->type(),
                 s->frame_protocol(), s->device(), s->running() ? 1 : 0, s->charge(), s->uid(), Number(s->ino()));
  }
  return out;
}

ErrnoOr<std::string> ProcNetSockstat(Task& reader, Task* target) {
  NetNamespace& net = NetOf(reader, target);
  size_t tcp = 0, udp = 0;
  for (net::TcpConnection* c : net.tcp().all()) tcp += c->family == AF_INET && c->state() != net::TcpState::kClosed ? 1 : 0;
  for (UdpSocket* s : net.udp().all()) udp += s->family() == AF_INET ? 1 : 0;
  std::string out;
  AppendFormat(&out, "sockets: used %zu\nTCP: inuse %zu orphan 0 tw %zu alloc %zu mem 0\nUDP: inuse %zu mem 0\n",
               net.tcp().all().size() + net.udp().all().size(), tcp, net.tcp().time_waits().size(), net.tcp().all().size(), udp);
  return out + "UDPLITE: inuse 0\nRAW: inuse 0\nFRAG: inuse 0 memory 0\n";
}

ErrnoOr<std::string> ProcNetSockstat6(Task& reader, Task* target) {
  NetNamespace& net = NetOf(reader, target);
  size_t tcp = 0, udp = 0;
  for (net::TcpConnection* c : net.tcp().all()) tcp += c->family == AF_INET6 && c->state() != net::TcpState::kClosed ? 1 : 0;
  for (UdpSocket* s : net.udp().all()) udp += s->family() == AF_INET6 ? 1 : 0;
  std::string out;
  AppendFormat(&out, "TCP6: inuse %zu\nUDP6: inuse %zu\nUDPLITE6: inuse 0\nRAW6: inuse 0\nFRAG6: inuse 0 memory 0\n", tcp, udp);
  return out;
}

ErrnoOr<std::string> ProcNetSnmp(Task& reader, Task* target) {
  NetNamespace& net = NetOf(reader, target);
  const net::StackCounters& c = net.stack().counters();
  std::string out =
      "Ip: Forwarding DefaultTTL InReceives InHdrErrors InAddrErrors ForwDatagrams InUnknownProtos InDiscards InDelivers OutRequests "
      "OutDiscards OutNoRoutes ReasmTimeout ReasmReqds ReasmOKs ReasmFails FragOKs FragFails FragCreates OutTransmits\n";
  AppendFormat(&out, "Ip: 2 64 %llu 0 0 0 0 %llu %llu %llu 0 %llu 0 0 0 0 0 0 0 %llu\n", Number(c.ip_in), Number(c.ip_discarded),
               Number(c.ip_delivered), Number(c.ip_out), Number(c.ip_no_route), Number(c.ip_out));
  out +=
      "Icmp: InMsgs InErrors InCsumErrors InDestUnreachs InTimeExcds InParmProbs InSrcQuenchs InRedirects InEchos InEchoReps InTimestamps "
      "InTimestampReps InAddrMasks InAddrMaskReps OutMsgs OutErrors OutRateLimitGlobal OutRateLimitHost OutDestUnreachs OutTimeExcds "
      "OutParmProbs OutSrcQuenchs OutRedirects OutEchos OutEchoReps OutTimestamps OutTimestampReps OutAddrMasks OutAddrMaskReps\n";
  // By type they are not counted.
  AppendFormat(&out, "Icmp: %llu 0 0 0 0 0 0 0 0 0 0 0 0 0 %llu 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n", Number(c.icmp_in), Number(c.icmp_out));
  out +=
      "Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab InSegs OutSegs RetransSegs "
      "InErrs OutRsts InCsumErrors\n";
  AppendFormat(&out, "Tcp: 1 200 120000 -1 %llu %llu %llu %llu %llu %llu %llu %llu %llu %llu 0\n", Number(c.tcp_active), Number(c.tcp_passive),
               Number(c.tcp_failed), Number(c.tcp_resets), Number(net.tcp().established_count()), Number(c.tcp_in), Number(c.tcp_out),
               Number(c.tcp_retransmitted), Number(c.tcp_in_errors), Number(c.tcp_resets_sent));
  out += "Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors\n";
  AppendFormat(&out, "Udp: %llu %llu %llu %llu %llu 0 0 0 0\n", Number(c.udp_in), Number(c.udp_no_port), Number(c.udp_in_errors), Number(c.udp_out),
               Number(c.udp_buffer_errors));
  out += "UdpLite: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors\n";
  return out + "UdpLite: 0 0 0 0 0 0 0 0 0\n";
}

}  // namespace amber
