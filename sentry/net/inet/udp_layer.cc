#include "sentry/net/inet/udp_layer.h"

#include <netinet/icmp6.h>
#include <netinet/ip_icmp.h>

#include <vector>

#include "sentry/net/inet/udp_socket.h"

namespace amber::net {

// compute_score() of Linux: the socket that says most about the datagram.
UdpSocket* UdpLayer::Find(const IpAddress& local, uint16_t local_port, const IpAddress& remote, uint16_t remote_port, int link) const {
  UdpSocket* best = nullptr;
  int best_score = -1, alike = 0;
  uint64_t hash = HashEndpoint({remote, remote_port}, local_port);
  for (PortBinding* b = ports_.First(local_port); b != nullptr; b = b->next()) {
    auto* socket = static_cast<UdpSocket*>(b->owner);
    int score = 0;
    if (b->address == local) {
      score += 2;
    } else if (!b->address.any()) {
      continue;
    } else if (b->address.v4() != local.v4() && (b->address.v4() || b->v6only)) {
      continue;
    } else if (b->address.v4() == local.v4()) {
      score += 1;
    }
    if (b->device != 0 && b->device != link) continue;
    if (b->device != 0) score += 4;
    if (socket->connected()) {
      if (!socket->Wants(remote, remote_port)) continue;
      score += 8;
    }
    if (score > best_score) {
      best = socket, best_score = score, alike = 1;
    } else if (score == best_score && b->reuse_port) {
      ++alike;
      if (hash % static_cast<uint64_t>(alike) == 0) best = socket;
      hash = hash * 0x9e3779b97f4a7c15 + 1;
    }
  }
  return best;
}

void UdpLayer::Receive(Packet packet) {
  if (packet.destination.multicast() || packet.destination.broadcast()) {
    // Every socket that could receive it gets one.
    std::vector<RefPtr<UdpSocket>> takers;
    for (PortBinding* b = ports_.First(packet.udp.destination_port); b != nullptr; b = b->next()) {
      auto* socket = static_cast<UdpSocket*>(b->owner);
      if (!b->address.any() && b->address != packet.destination) continue;
      if (b->address.any() && b->address.v4() != packet.v4() && (b->address.v4() || b->v6only)) continue;
      if (b->device != 0 && b->device != packet.link) continue;
      if (socket->connected() && !socket->Wants(packet.source, packet.udp.source_port)) continue;
      takers.emplace_back(socket);
    }
    for (const RefPtr<UdpSocket>& s : takers) s->Deliver(packet);
    return;
  }
  UdpSocket* socket = Find(packet.destination, packet.udp.destination_port, packet.source, packet.udp.source_port, packet.link);
  if (socket != nullptr) return socket->Deliver(packet);
  ++stack_.counters().udp_no_port;
  stack_.SendUnreachable(packet, packet.v4() ? ICMP_DEST_UNREACH : ICMP6_DST_UNREACH, packet.v4() ? ICMP_PORT_UNREACH : ICMP6_DST_UNREACH_NOPORT);
}

void UdpLayer::OnError(const Packet& sent, const IcmpHeader& icmp, int error, bool fatal) {
  UdpSocket* socket = Find(sent.source, sent.udp.source_port, sent.destination, sent.udp.destination_port, 0);
  if (socket != nullptr) socket->OnError(sent, icmp, error, fatal);
}

}  // namespace amber::net
