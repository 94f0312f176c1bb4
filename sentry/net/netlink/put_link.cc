// What an interface is, as RTM_NEWLINK tells it (rtnl_fill_ifinfo()).
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <net/if.h>

#include "sentry/net/link/bridge_link.h"
#include "sentry/net/link/tun_link.h"
#include "sentry/net/link/veth_link.h"
#include "sentry/net/netlink/route_messages.h"
#include "sentry/net/packet/packet_layer.h"

namespace amber {
namespace {

constexpr uint32_t kLowerUp = 0x10000;

void PutStats(const net::Link& link, NetlinkWriter& out) {
  const net::LinkCounters& c = link.counters();
  rtnl_link_stats64 wide{};
  wide.rx_packets = c.rx_packets, wide.tx_packets = c.tx_packets;
  wide.rx_bytes = c.rx_bytes, wide.tx_bytes = c.tx_bytes;
  wide.rx_dropped = c.rx_dropped, wide.tx_dropped = c.tx_dropped;
  wide.multicast = c.multicast;
  out.Attribute(IFLA_STATS64, wide);
  rtnl_link_stats narrow{};
  narrow.rx_packets = static_cast<uint32_t>(c.rx_packets), narrow.tx_packets = static_cast<uint32_t>(c.tx_packets);
  narrow.rx_bytes = static_cast<uint32_t>(c.rx_bytes), narrow.tx_bytes = static_cast<uint32_t>(c.tx_bytes);
  narrow.rx_dropped = static_cast<uint32_t>(c.rx_dropped), narrow.tx_dropped = static_cast<uint32_t>(c.tx_dropped);
  narrow.multicast = static_cast<uint32_t>(c.multicast);
  out.Attribute(IFLA_STATS, narrow);
}

// tun_fill_info(). Users are shown as the initial user namespace has them: who listens may be anybody.
void PutTun(const net::TunLink& tun, NetlinkWriter& out) {
  size_t data = out.BeginNested(IFLA_INFO_DATA);
  out.Attribute<uint8_t>(IFLA_TUN_TYPE, tun.tap() ? IFF_TAP : IFF_TUN);
  if (tun.owner != net::TunLink::kNobody) out.Attribute<uint32_t>(IFLA_TUN_OWNER, tun.owner);
  if (tun.group != net::TunLink::kNobody) out.Attribute<uint32_t>(IFLA_TUN_GROUP, tun.group);
  out.Attribute<uint8_t>(IFLA_TUN_PI, tun.packet_info ? 1 : 0);
  out.Attribute<uint8_t>(IFLA_TUN_VNET_HDR, tun.vnet_header ? 1 : 0);
  out.Attribute<uint8_t>(IFLA_TUN_PERSIST, tun.persistent ? 1 : 0);
  out.Attribute<uint8_t>(IFLA_TUN_MULTI_QUEUE, 0);
  out.EndNested(data);
}

// Of a bridge and of its ports: two bytes of priority (0x8000), then the address.
void PutBridgeId(uint16_t type, const net::Link& bridge, NetlinkWriter& out) {
  uint8_t id[8] = {0x80, 0};
  memcpy(id + 2, bridge.hardware().data(), 6);
  out.Attribute(type, id, sizeof(id));
}

// br_fill_info(), in hundredths of a second; what has no effect here is left out.
void PutBridge(const net::BridgeLink& bridge, NetlinkWriter& out) {
  size_t data = out.BeginNested(IFLA_INFO_DATA);
  out.Attribute<uint32_t>(IFLA_BR_FORWARD_DELAY, 1500);
  out.Attribute<uint32_t>(IFLA_BR_HELLO_TIME, 200);
  out.Attribute<uint32_t>(IFLA_BR_MAX_AGE, 2000);
  out.Attribute<uint32_t>(IFLA_BR_AGEING_TIME, static_cast<uint32_t>(bridge.ageing / (10 * net::kMs)));
  out.Attribute<uint32_t>(IFLA_BR_STP_STATE, 0);
  out.Attribute<uint16_t>(IFLA_BR_PRIORITY, 0x8000);
  out.Attribute<uint8_t>(IFLA_BR_VLAN_FILTERING, 0);
  PutBridgeId(IFLA_BR_BRIDGE_ID, bridge, out);
  PutBridgeId(IFLA_BR_ROOT_ID, bridge, out);
  out.Attribute<uint16_t>(IFLA_BR_ROOT_PORT, 0);
  out.Attribute<uint32_t>(IFLA_BR_ROOT_PATH_COST, 0);
  out.Attribute<uint8_t>(IFLA_BR_MCAST_SNOOPING, 0);
  out.EndNested(data);
}

// br_port_fill_attrs()
void PutPort(net::BridgeLink& bridge, const net::Link& link, NetlinkWriter& out) {
  const net::BridgeLink::Port* port = bridge.FindPort(link);
  if (port == nullptr) return;
  constexpr uint8_t kDisabled = 0, kForwarding = 3;
  out.Attribute(IFLA_INFO_SLAVE_KIND, std::string("bridge"));
  size_t data = out.BeginNested(IFLA_INFO_SLAVE_DATA);
  out.Attribute<uint8_t>(IFLA_BRPORT_STATE, link.running() && bridge.up() ? kForwarding : kDisabled);
  out.Attribute<uint16_t>(IFLA_BRPORT_PRIORITY, 32);
  out.Attribute<uint32_t>(IFLA_BRPORT_COST, 2);
  out.Attribute<uint8_t>(IFLA_BRPORT_MODE, port->hairpin ? 1 : 0);
  out.Attribute<uint8_t>(IFLA_BRPORT_LEARNING, port->learning ? 1 : 0);
  out.Attribute<uint8_t>(IFLA_BRPORT_UNICAST_FLOOD, port->flood ? 1 : 0);
  out.Attribute<uint16_t>(IFLA_BRPORT_ID, static_cast<uint16_t>(0x8000 | port->number));
  out.Attribute<uint16_t>(IFLA_BRPORT_NO, port->number);
  out.EndNested(data);
}

void PutKind(const net::Link& link, NetlinkWriter& out) {
  if (link.kind() == nullptr && link.master() == nullptr) return;
  size_t info = out.BeginNested(IFLA_LINKINFO);
  if (link.kind() != nullptr) out.Attribute(IFLA_INFO_KIND, std::string(link.kind()));
  if (const auto* tun = dynamic_cast<const net::TunLink*>(&link); tun != nullptr) PutTun(*tun, out);
  if (const auto* bridge = dynamic_cast<const net::BridgeLink*>(&link); bridge != nullptr) PutBridge(*bridge, out);
  if (link.master() != nullptr) PutPort(*static_cast<net::BridgeLink*>(link.master()), link, out);
  out.EndNested(info);
}

void PutCounts(NetNamespace& net, const net::Link& link, NetlinkWriter& out) {
  bool veth = dynamic_cast<const net::VethLink*>(&link) != nullptr;
  out.Attribute<uint32_t>(IFLA_PROMISCUITY,
                          net.packets().promiscuity(link.index()) + ((link.flags() & IFF_PROMISC) != 0 ? 1 : 0) + (link.master() != nullptr ? 1 : 0));
  out.Attribute<uint32_t>(IFLA_ALLMULTI, (link.flags() & IFF_ALLMULTI) != 0 ? 1 : 0);
  out.Attribute<uint32_t>(IFLA_NUM_TX_QUEUES, veth ? 2 : 1);
  out.Attribute<uint32_t>(IFLA_NUM_RX_QUEUES, veth ? 2 : 1);
  out.Attribute<uint32_t>(IFLA_GSO_MAX_SEGS, 65535);
  out.Attribute<uint32_t>(IFLA_GSO_MAX_SIZE, 65536);
  out.Attribute<uint8_t>(IFLA_CARRIER, link.carrier() ? 1 : 0);
  out.Attribute<uint32_t>(IFLA_CARRIER_CHANGES, link.carrier_ups() + link.carrier_downs());
  out.Attribute<uint32_t>(IFLA_CARRIER_UP_COUNT, link.carrier_ups());
  out.Attribute<uint32_t>(IFLA_CARRIER_DOWN_COUNT, link.carrier_downs());
}

}  // namespace

void PutLink(NetNamespace& net, const net::Link& link, uint16_t type, uint16_t flags, NetlinkWriter& out) {
  ifinfomsg info{};
  info.ifi_type = link.type();
  info.ifi_index = link.index();
  info.ifi_flags = link.flags() | (link.running() ? kLowerUp : 0);
  out.Begin(type, flags, info);
  out.Attribute(IFLA_IFNAME, link.name());
  out.Attribute<uint32_t>(IFLA_TXQLEN, link.settings().queue_length);
  out.Attribute<uint8_t>(IFLA_OPERSTATE, link.operational_state());
  out.Attribute<uint8_t>(IFLA_LINKMODE, 0);
  out.Attribute<uint32_t>(IFLA_MTU, link.mtu());
  out.Attribute<uint32_t>(IFLA_MIN_MTU, link.min_mtu());
  out.Attribute<uint32_t>(IFLA_MAX_MTU, link.max_mtu());
  out.Attribute<uint32_t>(IFLA_GROUP, link.settings().group);
  PutCounts(net, link, out);
  if (link.master() != nullptr) out.Attribute<int32_t>(IFLA_MASTER, link.master()->index());
  if (!link.settings().alias.empty()) out.Attribute(IFLA_IFALIAS, link.settings().alias);
  out.Attribute<uint8_t>(IFLA_PROTO_DOWN, 0);
  if (link.header_size() > 0) {
    net::HardwareAddress all = link.loopback() ? net::HardwareAddress{} : net::kEverybody;
    out.Attribute(IFLA_ADDRESS, link.hardware().data(), 6);
    out.Attribute(IFLA_BROADCAST, all.data(), 6);
  }
  PutStats(link, out);
  PutKind(link, out);
  if (link.lower_index() != link.index() || link.lower_stack() != link.stack()) {
    out.Attribute<int32_t>(IFLA_LINK, link.lower_index());
    if (net::Stack* lower = link.lower_stack(); lower != nullptr && lower != link.stack()) {
      out.Attribute<int32_t>(IFLA_LINK_NETNSID, net.IdOf(static_cast<NetNamespace&>(lower->host()), true));
    }
  }
  bool queued = dynamic_cast<const net::TunLink*>(&link) != nullptr;
  out.Attribute(IFLA_QDISC, std::string(!link.up() ? "noop" : queued ? "pfifo_fast" : "noqueue"));
  size_t families = out.BeginNested(IFLA_AF_SPEC);
  size_t inet6 = out.BeginNested(AF_INET6);
  out.Attribute<uint8_t>(IFLA_INET6_ADDR_GEN_MODE, 0);
  out.EndNested(inet6);
  out.EndNested(families);
}

}  // namespace amber
