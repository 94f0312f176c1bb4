// NETLINK_ROUTE (rtnetlink(7)): which message goes where; routes and rules.
#include <linux/capability.h>
#include <linux/fib_rules.h>
#include <linux/rtnetlink.h>
#include <net/if.h>

#include "sentry/kernel/task.h"
#include "sentry/net/netlink/route_messages.h"

namespace amber {
namespace {

void PutRaw(uint16_t type, const net::IpAddress& a, NetlinkWriter& out) {
  std::string raw = a.Raw();
  out.Attribute(type, raw.data(), raw.size());
}

net::Route Row(uint32_t table, uint8_t type, uint8_t scope, const net::IpAddress& destination, int prefix, const net::IpAddress& source, int link) {
  net::Route r;
  r.table = table, r.type = type, r.scope = scope;
  r.destination = destination, r.prefix = prefix, r.source = source, r.link = link;
  return r;
}

net::IpAddress GroupsOfAll() {
  uint8_t raw[16] = {0xff};
  return net::IpAddress::V6Bytes(raw);
}

// What addresses mean in the local table (fib_add_ifaddr(), addrconf_add_mroute()).
void PutLocal(const net::Link& link, uint8_t family, NetlinkWriter& out) {
  constexpr uint32_t kLocal = net::Route::kLocalTable;
  bool groups = false;
  for (const net::InterfaceAddress& a : link.addresses()) {
    bool v4 = a.address.v4();
    if (family != AF_UNSPEC && family != (v4 ? AF_INET : AF_INET6)) continue;
    net::IpAddress source = v4 ? a.address : net::IpAddress{};
    auto put = [&](uint8_t type, uint8_t scope, const net::IpAddress& destination, int prefix) {
      if (out.Next()) PutRoute(Row(kLocal, type, scope, destination, prefix, source, link.index()), RTM_NEWROUTE, NLM_F_MULTI, out);
    };
    uint8_t scope = v4 ? RT_SCOPE_HOST : RT_SCOPE_UNIVERSE;
    if (v4 && link.loopback() && a.prefix < 32)
      put(RTN_LOCAL, scope, net::IpAddress::V4(a.address.v4_value() & (a.prefix == 0 ? 0 : ~0u << (32 - a.prefix))), a.prefix);
    put(RTN_LOCAL, scope, a.address, v4 ? 32 : 128);
    if (v4 && a.prefix < 31 && !a.secondary && (link.loopback() || (link.flags() & IFF_BROADCAST) != 0)) {
      put(RTN_BROADCAST, RT_SCOPE_LINK, net::IpAddress::V4(a.address.v4_value() | 0xffffffffu >> a.prefix), 32);
    }
    groups = groups || !v4;
  }
  if (!groups || link.loopback()) return;
  net::Route all = Row(kLocal, RTN_MULTICAST, RT_SCOPE_UNIVERSE, GroupsOfAll(), 8, {}, link.index());
  all.metric = 256;
  if (out.Next()) PutRoute(all, RTM_NEWROUTE, NLM_F_MULTI, out);
}

int DumpRoutes(RouteRequest& r) {
  NetlinkReader in(r.body);
  auto m = in.Structure<rtmsg>();
  uint8_t family = r.body.empty() ? AF_UNSPEC : static_cast<uint8_t>(r.body[0]);
  uint32_t table = m ? in.Value<uint32_t>(RTA_TABLE).value_or(m->rtm_table) : 0;
  int index = m ? in.Value<int>(RTA_OIF).value_or(0) : 0;
  for (const net::Route& route : r.net.stack().routes()) {
    if (family != AF_UNSPEC && family != (route.destination.v4() ? AF_INET : AF_INET6)) continue;
    if ((table != 0 && table != route.table) || (index != 0 && index != route.link)) continue;
    if (r.out.Next()) PutRoute(route, RTM_NEWROUTE, NLM_F_MULTI, r.out);
    if (r.out.full()) return 0;
  }
  if (table != 0 && table != net::Route::kLocalTable) return 0;
  for (const auto& link : r.net.stack().links()) {
    if (link->up() && (index == 0 || index == link->index())) PutLocal(*link, family, r.out);
  }
  return 0;
}

int GetRoute(RouteRequest& r) {
  if (r.dump) return DumpRoutes(r);
  NetlinkReader in(r.body);
  auto m = in.Structure<rtmsg>();
  if (!m) return EINVAL;
  auto raw = in.Find(RTA_DST);
  net::IpAddress destination = net::IpAddress::Any(m->rtm_family == AF_INET), source;
  if (raw && !ReadAddress(*raw, m->rtm_family, &destination)) return EINVAL;
  if (auto from = in.Find(RTA_SRC); from && !ReadAddress(*from, m->rtm_family, &source)) return EINVAL;
  auto path = r.net.stack().FindPath(destination, source, in.Value<int>(RTA_OIF).value_or(0));
  if (!path.ok()) return path.error().number();
  bool local = r.net.stack().IsLocal(destination);
  uint8_t type = local ? RTN_LOCAL : destination.multicast() ? RTN_MULTICAST : r.net.stack().IsBroadcast(destination) ? RTN_BROADCAST : RTN_UNICAST;
  uint32_t table = local ? net::Route::kLocalTable : net::Route::kMainTable;
  net::Route answer = Row(table, type, RT_SCOPE_UNIVERSE, destination, destination.v4() ? 32 : 128, path->source, path->link->index());
  answer.protocol = RTPROT_UNSPEC;
  if (path->next_hop != destination) answer.gateway = path->next_hop;
  PutRoute(answer, RTM_NEWROUTE, 0, r.out);
  return 0;
}

// rtm_to_fib_config(), rtm_to_fib6_config()
int ReadRoute(const rtmsg& m, const NetlinkReader& in, net::Route* out) {
  bool v4 = m.rtm_family == AF_INET;
  if (!v4 && m.rtm_family != AF_INET6) return EOPNOTSUPP;
  if (m.rtm_dst_len > (v4 ? 32 : 128)) return EINVAL;
  out->destination = net::IpAddress::Any(v4);
  if (auto raw = in.Find(RTA_DST); raw && !ReadAddress(*raw, m.rtm_family, &out->destination)) return EINVAL;
  if (auto raw = in.Find(RTA_GATEWAY); raw && !ReadAddress(*raw, m.rtm_family, &out->gateway)) return EINVAL;
  if (auto raw = in.Find(RTA_PREFSRC); raw && !ReadAddress(*raw, m.rtm_family, &out->source)) return EINVAL;
  // Not there: several ways at once, next hop objects, tunnels, the other family's gateway.
  if (in.Find(RTA_MULTIPATH) || in.Find(RTA_NH_ID) || in.Find(RTA_ENCAP) || in.Find(RTA_VIA)) return EOPNOTSUPP;
  out->prefix = m.rtm_dst_len;
  for (int bit = out->prefix + (v4 ? 96 : 0); bit < 128; ++bit) {
    uint8_t& byte = out->destination.bytes[static_cast<size_t>(bit / 8)];
    auto mask = static_cast<uint8_t>(0x80 >> bit % 8);
    if (v4 && (byte & mask) != 0) return EINVAL;
    byte &= static_cast<uint8_t>(~mask);
  }
  out->link = in.Value<int>(RTA_OIF).value_or(0);
  out->metric = in.Value<uint32_t>(RTA_PRIORITY).value_or(0);
  out->table = in.Value<uint32_t>(RTA_TABLE).value_or(m.rtm_table);
  if (out->table == RT_TABLE_UNSPEC) out->table = net::Route::kMainTable;
  out->protocol = m.rtm_protocol;
  out->scope = m.rtm_scope;
  out->type = m.rtm_type;
  out->tos = v4 ? m.rtm_tos : 0;
  out->on_link = (m.rtm_flags & RTNH_F_ONLINK) != 0;
  return 0;
}

int ChangeRoute(RouteRequest& r) {
  NetlinkReader in(r.body);
  auto m = in.Structure<rtmsg>();
  if (!m) return EINVAL;
  net::Route route;
  if (int error = ReadRoute(*m, in, &route); error != 0) return error;
  bool v4 = route.destination.v4();
  net::Stack::Batch batch(r.net.stack());
  ErrnoOr<void> done;
  if (r.type == RTM_DELROUTE) {
    if (!v4) route.scope = RT_SCOPE_NOWHERE;
    done = r.net.stack().RemoveRoute(route);
  } else {
    // The local table is made of addresses.
    if (route.table == net::Route::kLocalTable || route.type == RTN_LOCAL || route.type == RTN_BROADCAST) return EOPNOTSUPP;
    if (route.type == RTN_UNSPEC) route.type = RTN_UNICAST;
    if (route.type > RTN_THROW) return v4 ? EINVAL : EOPNOTSUPP;
    if (!v4 && route.metric == 0) route.metric = 1024;
    if (!v4) route.scope = RT_SCOPE_UNIVERSE;
    done = r.net.stack().AddRoute(route, r.flags);
  }
  return done.ok() ? 0 : done.error().number();
}

// fib_default_rules_init(): the three that are always there; no others can be made.
int GetRules(RouteRequest& r) {
  if (!r.dump) return EOPNOTSUPP;
  uint8_t family = r.body.empty() ? AF_UNSPEC : static_cast<uint8_t>(r.body[0]);
  struct Rule {
    uint32_t priority, table;
  };
  constexpr Rule kRules[] = {{0, RT_TABLE_LOCAL}, {32766, RT_TABLE_MAIN}, {32767, RT_TABLE_DEFAULT}};
  for (uint8_t f : {uint8_t{AF_INET}, uint8_t{AF_INET6}}) {
    if (family != AF_UNSPEC && family != f) continue;
    for (const Rule& rule : kRules) {
      if ((f == AF_INET6 && rule.table == RT_TABLE_DEFAULT) || !r.out.Next()) continue;
      fib_rule_hdr head{};
      head.family = f;
      head.table = static_cast<uint8_t>(rule.table);
      head.action = FR_ACT_TO_TBL;
      r.out.Begin(RTM_NEWRULE, NLM_F_MULTI, head);
      r.out.Attribute<uint32_t>(FRA_TABLE, rule.table);
      r.out.Attribute<uint32_t>(FRA_SUPPRESS_PREFIXLEN, 0xffffffff);
      r.out.Attribute<uint8_t>(FRA_PROTOCOL, RTPROT_KERNEL);
      if (rule.priority != 0) r.out.Attribute<uint32_t>(FRA_PRIORITY, rule.priority);
    }
  }
  return 0;
}

}  // namespace

void PutRoute(const net::Route& route, uint16_t type, uint16_t flags, NetlinkWriter& out) {
  bool v4 = route.destination.v4();
  rtmsg m{};
  m.rtm_family = v4 ? AF_INET : AF_INET6;
  m.rtm_dst_len = static_cast<uint8_t>(route.prefix);
  m.rtm_tos = route.tos;
  m.rtm_table = static_cast<uint8_t>(route.table < 256 ? route.table : RT_TABLE_COMPAT);
  m.rtm_protocol = route.protocol;
  m.rtm_scope = route.scope;
  m.rtm_type = route.type;
  if (route.on_link) m.rtm_flags |= RTNH_F_ONLINK;
  out.Begin(type, flags, m);
  out.Attribute<uint32_t>(RTA_TABLE, route.table);
  if (route.prefix > 0) PutRaw(RTA_DST, route.destination, out);
  if (route.metric != 0) out.Attribute<uint32_t>(RTA_PRIORITY, route.metric);
  if (!route.source.any()) PutRaw(RTA_PREFSRC, route.source, out);
  if (!route.gateway.any()) PutRaw(RTA_GATEWAY, route.gateway, out);
  if (route.link != 0) out.Attribute<int32_t>(RTA_OIF, route.link);
  if (!v4) {
    rta_cacheinfo cache{};
    out.Attribute(RTA_CACHEINFO, cache);
    out.Attribute<uint8_t>(RTA_PREF, 0);
  }
}

bool RouteRequest::MayChange(const UserNamespace* ns) const {
  return task.creds().HasIn(ns, CAP_NET_ADMIN) && (opener == nullptr || opener->HasIn(ns, CAP_NET_ADMIN));
}

int HandleRoute(RouteRequest& r) {
  if (r.type > RTM_MAX) return EOPNOTSUPP;
  if (!IsRouteQuestion(r.type) && !r.MayChange(r.net.owner())) return EPERM;
  switch (r.type) {
    case RTM_GETLINK: return GetLink(r);
    case RTM_NEWLINK:
    case RTM_SETLINK: return NewLink(r);
    case RTM_DELLINK: return DeleteLink(r);
    case RTM_GETADDR: return GetAddresses(r);
    case RTM_NEWADDR:
    case RTM_DELADDR: return ChangeAddress(r);
    case RTM_GETROUTE: return GetRoute(r);
    case RTM_NEWROUTE:
    case RTM_DELROUTE: return ChangeRoute(r);
    case RTM_GETNEIGH: return GetNeighbours(r);
    case RTM_NEWNEIGH:
    case RTM_DELNEIGH: return ChangeNeighbour(r);
    case RTM_GETRULE: return GetRules(r);
    case RTM_NEWNSID: return ChangeNamespaceId(r);
    case RTM_GETNSID: return GetNamespaceId(r);
    case RTM_GETQDISC:
    case RTM_GETTCLASS:
    case RTM_GETADDRLABEL:
    case RTM_GETNETCONF:
      // None of these exist; an empty list is the whole answer.
      return r.dump ? 0 : EOPNOTSUPP;
    default: return EOPNOTSUPP;
  }
}

}  // namespace amber
