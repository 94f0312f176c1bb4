// NETLINK_ROUTE (rtnetlink(7)).
#include <linux/capability.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <net/if.h>

#include "sentry/kernel/task.h"
#include "sentry/net/inet/net_namespace.h"
#include "sentry/net/netlink/netlink_socket.h"
#include "sentry/net/packet/packet_layer.h"

namespace amber {
namespace {

void PutLink(NetNamespace& net, const net::Link& link, uint16_t flags, NetlinkWriter& out) {
  ifinfomsg info{};
  info.ifi_type = link.type();
  info.ifi_index = link.index();
  info.ifi_flags = link.flags() | (link.up() ? 0x10000 /* IFF_LOWER_UP */ : 0);
  out.Begin(RTM_NEWLINK, flags, info);
  out.Attribute(IFLA_IFNAME, link.name());
  out.Attribute<uint32_t>(IFLA_TXQLEN, 1000);
  out.Attribute<uint8_t>(IFLA_OPERSTATE, link.loopback() ? 0 : 6);
  out.Attribute<uint8_t>(IFLA_LINKMODE, 0);
  out.Attribute<uint32_t>(IFLA_MTU, link.mtu());
  out.Attribute<uint32_t>(IFLA_GROUP, 0);
  out.Attribute<uint32_t>(IFLA_PROMISCUITY, net.packets().promiscuity(link.index()));
  out.Attribute<uint32_t>(IFLA_NUM_TX_QUEUES, 1);
  out.Attribute<uint32_t>(IFLA_NUM_RX_QUEUES, 1);
  out.Attribute<uint8_t>(IFLA_CARRIER, 1);
  out.Attribute(IFLA_QDISC, std::string("noqueue"));
  out.Attribute(IFLA_ADDRESS, link.hardware().data(), 6);
  uint8_t none[6] = {};
  out.Attribute(IFLA_BROADCAST, none, 6);
  const net::LinkCounters& c = link.counters();
  rtnl_link_stats64 stats{};
  stats.rx_packets = c.rx_packets, stats.tx_packets = c.tx_packets;
  stats.rx_bytes = c.rx_bytes, stats.tx_bytes = c.tx_bytes;
  stats.rx_dropped = c.rx_dropped, stats.tx_dropped = c.tx_dropped;
  out.Attribute(IFLA_STATS64, stats);
}

int GetLink(NetNamespace& net, bool dump, std::string_view body, NetlinkWriter& out) {
  NetlinkReader in(body);
  if (dump) {
    for (const auto& link : net.stack().links()) PutLink(net, *link, NLM_F_MULTI, out);
    return 0;
  }
  auto info = in.Structure<ifinfomsg>();
  if (!info) return EINVAL;
  net::Link* link = info->ifi_index > 0 ? net.stack().FindLink(info->ifi_index) : nullptr;
  if (auto name = in.Find(IFLA_IFNAME); link == nullptr && name) link = net.stack().FindLink(name->substr(0, name->find('\0')));
  if (link == nullptr) return ENODEV;
  PutLink(net, *link, 0, out);
  return 0;
}

int SetLink(NetNamespace& net, std::string_view body) {
  NetlinkReader in(body);
  auto info = in.Structure<ifinfomsg>();
  if (!info) return EINVAL;
  net::Link* link = net.stack().FindLink(info->ifi_index);
  if (auto name = in.Find(IFLA_IFNAME); link == nullptr && name) link = net.stack().FindLink(name->substr(0, name->find('\0')));
  // Interfaces are not made here.
  if (link == nullptr) return info->ifi_index != 0 ? ENODEV : EOPNOTSUPP;
  if (auto mtu = in.Value<uint32_t>(IFLA_MTU)) {
    if (*mtu < 68 || *mtu > 0x3fffffff) return EINVAL;
    link->set_mtu(*mtu);
  }
  if ((info->ifi_change & IFF_UP) != 0 || info->ifi_change == 0) net.stack().SetUp(*link, (info->ifi_flags & IFF_UP) != 0);
  net.stack().Changed();
  return 0;
}

void DumpAddresses(NetNamespace& net, uint8_t family, NetlinkWriter& out) {
  for (const auto& link : net.stack().links()) {
    for (const net::InterfaceAddress& a : link->addresses()) {
      bool v4 = a.address.v4();
      if (family != AF_UNSPEC && family != (v4 ? AF_INET : AF_INET6)) continue;
      ifaddrmsg m{};
      m.ifa_family = v4 ? AF_INET : AF_INET6;
      m.ifa_prefixlen = static_cast<uint8_t>(a.prefix);
      m.ifa_flags = IFA_F_PERMANENT;
      m.ifa_scope = a.scope;
      m.ifa_index = static_cast<uint32_t>(link->index());
      out.Begin(RTM_NEWADDR, NLM_F_MULTI, m);
      std::string raw = a.address.Raw();
      out.Attribute(IFA_ADDRESS, raw.data(), raw.size());
      if (v4) {
        out.Attribute(IFA_LOCAL, raw.data(), raw.size());
        out.Attribute(IFA_LABEL, link->name());
      }
      out.Attribute<uint32_t>(IFA_FLAGS, IFA_F_PERMANENT);
      ifa_cacheinfo cache{0xffffffff, 0xffffffff, 0, 0};
      out.Attribute(IFA_CACHEINFO, cache);
    }
  }
}

bool ReadAddress(std::string_view raw, uint8_t family, net::IpAddress* out) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(raw.data());
  if (family == AF_INET && raw.size() == 4) return *out = net::IpAddress::V4Bytes(bytes), true;
  if (family == AF_INET6 && raw.size() == 16) return *out = net::IpAddress::V6Bytes(bytes), true;
  return false;
}

int ChangeAddress(NetNamespace& net, bool add, std::string_view body) {
  NetlinkReader in(body);
  auto m = in.Structure<ifaddrmsg>();
  if (!m) return EINVAL;
  net::Link* link = net.stack().FindLink(static_cast<int>(m->ifa_index));
  if (link == nullptr) return ENODEV;
  auto raw = in.Find(IFA_LOCAL);
  if (!raw) raw = in.Find(IFA_ADDRESS);
  net::IpAddress address;
  if (!raw || !ReadAddress(*raw, m->ifa_family, &address) || m->ifa_prefixlen > (address.v4() ? 32 : 128)) return EINVAL;
  auto done =
      add ? net.stack().AddAddress(*link, {address, m->ifa_prefixlen, m->ifa_scope}) : net.stack().RemoveAddress(*link, address, m->ifa_prefixlen);
  return done.ok() ? 0 : done.error().number();
}

void PutRoute(const net::IpAddress& destination, int prefix, const net::IpAddress& gateway, const net::IpAddress& source, int link, rtmsg m,
              uint16_t flags, NetlinkWriter& out) {
  bool v4 = destination.v4();
  m.rtm_family = v4 ? AF_INET : AF_INET6;
  m.rtm_dst_len = static_cast<uint8_t>(prefix);
  out.Begin(RTM_NEWROUTE, flags, m);
  out.Attribute<uint32_t>(RTA_TABLE, m.rtm_table);
  std::string raw = destination.Raw();
  if (prefix > 0) out.Attribute(RTA_DST, raw.data(), raw.size());
  if (!source.any()) {
    raw = source.Raw();
    out.Attribute(RTA_PREFSRC, raw.data(), raw.size());
  }
  if (!gateway.any()) {
    raw = gateway.Raw();
    out.Attribute(RTA_GATEWAY, raw.data(), raw.size());
  }
  out.Attribute<int32_t>(RTA_OIF, link);
}

rtmsg RouteHeader(uint8_t table, uint8_t protocol, uint8_t scope, uint8_t type) {
  rtmsg m{};
  m.rtm_table = table;
  m.rtm_protocol = protocol;
  m.rtm_scope = scope;
  m.rtm_type = type;
  return m;
}

int GetRoute(NetNamespace& net, bool dump, std::string_view body, NetlinkWriter& out) {
  NetlinkReader in(body);
  auto m = in.Structure<rtmsg>();
  uint8_t family = m ? m->rtm_family : body.empty() ? AF_UNSPEC : static_cast<uint8_t>(body[0]);
  if (dump) {
    for (const net::Route& r : net.stack().routes()) {
      if (family != AF_UNSPEC && family != (r.destination.v4() ? AF_INET : AF_INET6)) continue;
      PutRoute(r.destination, r.prefix, r.gateway, r.source, r.link, RouteHeader(RT_TABLE_MAIN, r.protocol, r.scope, r.type), NLM_F_MULTI, out);
    }
    for (const auto& link : net.stack().links()) {
      for (const net::InterfaceAddress& a : link->addresses()) {
        bool v4 = a.address.v4();
        if (!link->up() || (family != AF_UNSPEC && family != (v4 ? AF_INET : AF_INET6))) continue;
        auto local = RouteHeader(RT_TABLE_LOCAL, RTPROT_KERNEL, v4 ? RT_SCOPE_HOST : RT_SCOPE_UNIVERSE, RTN_LOCAL);
        net::IpAddress source = v4 ? a.address : net::IpAddress{};
        if (v4 && link->loopback() && a.prefix < 32) {
          auto network = net::IpAddress::V4(a.address.v4_value() & (a.prefix == 0 ? 0 : 0xffffffffu << (32 - a.prefix)));
          PutRoute(network, a.prefix, {}, source, link->index(), local, NLM_F_MULTI, out);
        }
        PutRoute(a.address, v4 ? 32 : 128, {}, source, link->index(), local, NLM_F_MULTI, out);
      }
    }
    return 0;
  }
  if (!m) return EINVAL;
  auto raw = in.Find(RTA_DST);
  net::IpAddress destination = net::IpAddress::Any(m->rtm_family == AF_INET);
  if (raw && !ReadAddress(*raw, m->rtm_family, &destination)) return EINVAL;
  auto path = net.stack().FindPath(destination, {}, in.Value<int>(RTA_OIF).value_or(0));
  if (!path.ok()) return path.error().number();
  bool local = net.stack().IsLocal(destination);
  PutRoute(destination, destination.v4() ? 32 : 128, path->next_hop == destination ? net::IpAddress{} : path->next_hop, path->source,
           path->link->index(),
           RouteHeader(local ? RT_TABLE_LOCAL : RT_TABLE_MAIN, RTPROT_UNSPEC, RT_SCOPE_UNIVERSE, local ? RTN_LOCAL : RTN_UNICAST), 0, out);
  return 0;
}

}  // namespace

int HandleRoute(Task& task, NetNamespace& net, uint16_t type, uint16_t, bool dump, std::string_view body, NetlinkWriter& out) {
  // Of each four types the third asks; the others change something (RTM_GET*).
  if ((type - RTM_BASE) % 4 != 2 && !task.creds().HasIn(net.owner(), CAP_NET_ADMIN)) return EPERM;
  switch (type) {
    case RTM_GETLINK: return GetLink(net, dump, body, out);
    case RTM_NEWLINK:
    case RTM_SETLINK: return SetLink(net, body);
    case RTM_GETADDR:
      if (!dump) return EOPNOTSUPP;
      DumpAddresses(net, body.empty() ? AF_UNSPEC : static_cast<uint8_t>(body[0]), out);
      return 0;
    case RTM_NEWADDR:
    case RTM_DELADDR: return ChangeAddress(net, type == RTM_NEWADDR, body);
    case RTM_GETROUTE: return GetRoute(net, dump, body, out);
    case RTM_GETNEIGH:
    case RTM_GETRULE:
    case RTM_GETQDISC:
    case RTM_GETTCLASS:
    case RTM_GETADDRLABEL:
    case RTM_GETNETCONF:
      // None of these exist; an empty list is the whole answer.
      return dump ? 0 : EOPNOTSUPP;
    default: return EOPNOTSUPP;
  }
}

}  // namespace amber
