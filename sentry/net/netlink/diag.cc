// NETLINK_SOCK_DIAG (sock_diag(7)): what ss(8) asks.
#include <arpa/inet.h>
#include <linux/inet_diag.h>
#include <linux/packet_diag.h>
#include <linux/sock_diag.h>
#include <netinet/tcp.h>

#include "sentry/kernel/task.h"
#include "sentry/net/inet/tcp_socket.h"
#include "sentry/net/inet/udp_layer.h"
#include "sentry/net/inet/udp_socket.h"
#include "sentry/net/netlink/netlink_socket.h"
#include "sentry/net/packet/packet_socket.h"
#include "sentry/net/tcp/tcp_layer.h"

namespace amber {
namespace {

void PutEndpoint(const net::Endpoint& e, bool v4, uint32_t* address, uint16_t* port) {
  *port = htons(e.port);
  memcpy(address, e.address.bytes.data() + (v4 ? 12 : 0), v4 ? 4 : 16);
}

inet_diag_msg Header(int family, uint8_t state, const net::Endpoint& local, const net::Endpoint& remote) {
  inet_diag_msg m{};
  bool v4 = family == AF_INET;
  m.idiag_family = static_cast<uint8_t>(family);
  m.idiag_state = state;
  PutEndpoint(local, v4, reinterpret_cast<uint32_t*>(&m.id.idiag_src), &m.id.idiag_sport);
  PutEndpoint(remote, v4, reinterpret_cast<uint32_t*>(&m.id.idiag_dst), &m.id.idiag_dport);
  m.id.idiag_cookie[0] = m.id.idiag_cookie[1] = INET_DIAG_NOCOOKIE;
  return m;
}

void DumpTcp(NetNamespace& net, const inet_diag_req_v2& request, NetlinkWriter& out) {
  for (net::TcpConnection* c : net.tcp().all()) {
    auto state = static_cast<uint8_t>(c->state());
    if (c->family != request.sdiag_family || c->state() == net::TcpState::kClosed || (request.idiag_states >> state & 1) == 0) continue;
    if (!out.Next()) continue;
    inet_diag_msg m = Header(c->family, state, c->local(), c->remote());
    m.idiag_uid = c->uid;
    m.idiag_inode = static_cast<uint32_t>(c->ino);
    net::TcpConnection::TimerInfo timer = c->timer_info();
    m.idiag_timer = static_cast<uint8_t>(timer.which);
    m.idiag_retrans = static_cast<uint8_t>(timer.retries);
    m.idiag_expires = static_cast<uint32_t>(timer.left / net::kMs);
    bool listening = c->state() == net::TcpState::kListen;
    m.idiag_rqueue = listening ? c->accept_queue_length() : static_cast<uint32_t>(c->unread());
    m.idiag_wqueue = listening ? c->backlog() : static_cast<uint32_t>(c->unacknowledged());
    out.Begin(SOCK_DIAG_BY_FAMILY, NLM_F_MULTI, m);
    out.Attribute<uint8_t>(INET_DIAG_SHUTDOWN, static_cast<uint8_t>(c->shutdown()));
    if (c->family == AF_INET6) out.Attribute<uint8_t>(INET_DIAG_SKV6ONLY, c->v6only ? 1 : 0);
    if ((request.idiag_ext >> (INET_DIAG_INFO - 1) & 1) != 0) {
      std::string info = c->Info();
      out.Attribute(INET_DIAG_INFO, info.data(), info.size());
    }
    if ((request.idiag_ext >> (INET_DIAG_CONG - 1) & 1) != 0) out.Attribute(INET_DIAG_CONG, std::string(CongestionName(c->options().congestion)));
  }
  if ((request.idiag_states >> TCP_TIME_WAIT & 1) == 0) return;
  for (const auto& tw : net.tcp().time_waits()) {
    if (tw->family != request.sdiag_family || !out.Next()) continue;
    out.Begin(SOCK_DIAG_BY_FAMILY, NLM_F_MULTI, Header(tw->family, TCP_TIME_WAIT, tw->key.local, tw->key.remote));
  }
}

void DumpUdp(NetNamespace& net, const inet_diag_req_v2& request, NetlinkWriter& out) {
  for (UdpSocket* s : net.udp().all()) {
    uint8_t state = s->connected() ? 1 : 7;
    if (s->family() != request.sdiag_family || !s->binding().bound() || (request.idiag_states >> state & 1) == 0) continue;
    if (!out.Next()) continue;
    inet_diag_msg m = Header(s->family(), state, s->local(), s->remote());
    m.idiag_uid = s->uid();
    m.idiag_inode = static_cast<uint32_t>(s->ino());
    m.idiag_rqueue = static_cast<uint32_t>(s->queued_bytes());
    out.Begin(SOCK_DIAG_BY_FAMILY, NLM_F_MULTI, m);
    if (s->family() == AF_INET6) out.Attribute<uint8_t>(INET_DIAG_SKV6ONLY, s->v6only() ? 1 : 0);
  }
}

// What ss(8) shows of packet sockets (packet_diag(8)'s PACKET_DIAG_INFO, _UID, _MEMINFO).
int DumpPacket(NetNamespace& net, bool dump, std::string_view body, NetlinkWriter& out) {
  NetlinkReader in(body);
  auto request = in.Structure<packet_diag_req>();
  if (!request || request->sdiag_protocol != 0) return EINVAL;
  if (!dump) return EOPNOTSUPP;
  for (net::FrameTaker* taker : net.packets().all()) {
    if (!out.Next()) continue;
    auto* s = static_cast<PacketSocket*>(taker);
    packet_diag_msg m{};
    m.pdiag_family = AF_PACKET;
    m.pdiag_type = static_cast<uint8_t>(s->type());
    m.pdiag_num = s->frame_protocol();
    m.pdiag_ino = static_cast<uint32_t>(s->ino());
    m.pdiag_cookie[0] = static_cast<uint32_t>(s->ino());
    out.Begin(SOCK_DIAG_BY_FAMILY, NLM_F_MULTI, m);
    if ((request->pdiag_show & PACKET_SHOW_INFO) != 0) {
      packet_diag_info info{};
      info.pdi_index = static_cast<uint32_t>(s->device());
      info.pdi_flags = s->running() ? PDI_RUNNING : 0;
      out.Attribute(PACKET_DIAG_INFO, info);
      out.Attribute<uint32_t>(PACKET_DIAG_UID, s->uid());
    }
    uint32_t memory[9] = {};  // SK_MEMINFO_*
    memory[0] = static_cast<uint32_t>(s->charge());
    memory[1] = static_cast<uint32_t>(s->receive_buffer());
    memory[3] = static_cast<uint32_t>(s->send_buffer());
    if ((request->pdiag_show & PACKET_SHOW_MEMINFO) != 0) out.Attribute(PACKET_DIAG_MEMINFO, memory);
  }
  return 0;
}

}  // namespace

int HandleDiag(Task&, NetNamespace& net, uint16_t type, bool dump, std::string_view body, NetlinkWriter& out) {
  if (type != SOCK_DIAG_BY_FAMILY) return EINVAL;
  if (!body.empty() && body[0] == AF_PACKET) return DumpPacket(net, dump, body, out);
  // One socket by its address is not looked up; Unix sockets are told by /proc alone (ss goes there then).
  NetlinkReader in(body);
  auto request = in.Structure<inet_diag_req_v2>();
  if (!request) return EINVAL;
  if (request->sdiag_family != AF_INET && request->sdiag_family != AF_INET6) return ENOENT;
  if (!dump) return EOPNOTSUPP;
  if (request->sdiag_protocol == IPPROTO_TCP) {
    DumpTcp(net, *request, out);
  } else if (request->sdiag_protocol == IPPROTO_UDP) {
    DumpUdp(net, *request, out);
  }
  return 0;
}

}  // namespace amber
