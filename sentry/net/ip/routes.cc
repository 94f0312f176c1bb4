// Routes, and the way that a packet takes.
#include <linux/rtnetlink.h>

#include <algorithm>

#include "sentry/net/ip/stack.h"

namespace amber::net {
namespace {

int TypeError(uint8_t type) {
  switch (type) {
    case RTN_UNREACHABLE: return EHOSTUNREACH;
    case RTN_PROHIBIT: return EACCES;
    case RTN_BLACKHOLE: return EINVAL;
    case RTN_THROW: return ENETUNREACH;
    default: return 0;
  }
}

// The order in which Linux lists them: by address, the longer prefix first; the default route of IPv6 comes last.
bool Before(const Route& a, const Route& b) {
  bool a4 = a.destination.v4(), b4 = b.destination.v4();
  if (a4 != b4) return a4;
  if (!a4 && (a.prefix == 0) != (b.prefix == 0)) return b.prefix == 0;
  if (a.destination != b.destination) return a.destination < b.destination;
  if (a.prefix != b.prefix) return a.prefix > b.prefix;
  return a.metric < b.metric;
}

bool SamePlace(const Route& a, const Route& b) {
  return a.table == b.table && a.destination == b.destination && a.prefix == b.prefix && a.metric == b.metric && a.tos == b.tos;
}

bool SameWay(const Route& a, const Route& b) { return a.type == b.type && a.link == b.link && a.gateway == b.gateway && a.source == b.source; }

}  // namespace

// fib_check_nh(), fib_create_info(), ip6_route_info_create().
ErrnoOr<void> Stack::AddRoute(Route route, uint16_t flags) {
  bool v4 = route.destination.v4();
  if (routes_.size() >= kMaxRoutes) return Errno(ENOBUFS);
  if (TypeError(route.type) != 0) {
    route.link = v4 ? 0 : loopback().index();
    route.gateway = {};
  } else {
    Link* link = route.link != 0 ? FindLink(route.link) : nullptr;
    if (route.link != 0 && link == nullptr) return Errno(ENODEV);
    if (!route.gateway.any()) {
      if (IsLocal(route.gateway)) return Errno(EINVAL);
      bool direct = route.on_link || (!v4 && route.gateway.link_local());
      if (direct && link == nullptr) return Errno(v4 ? ENODEV : EINVAL);
      const Route* way = direct ? nullptr : BestRoute(route.gateway, route.link);
      if (!direct && (way == nullptr || !way->gateway.any() || way->type != RTN_UNICAST)) return Errno(v4 ? ENETUNREACH : EHOSTUNREACH);
      if (way != nullptr) link = FindLink(way->link);
    }
    if (link == nullptr) return Errno(ENODEV);
    if (!link->up()) return Errno(ENETDOWN);
    route.link = link->index();
    if (!route.source.any() && !IsLocal(route.source)) return Errno(EINVAL);
  }
  auto first = std::ranges::find_if(routes_, [&](const Route& r) { return SamePlace(r, route); });
  if (first != routes_.end()) {
    if ((flags & NLM_F_EXCL) != 0) return Errno(EEXIST);
    if ((flags & NLM_F_REPLACE) != 0) {
      *first = route;
      Changed();
      host_.OnRouteEvent(route, false);
      return Ok();
    }
    if (std::ranges::any_of(routes_, [&](const Route& r) { return SamePlace(r, route) && SameWay(r, route); })) return Errno(EEXIST);
  }
  if ((flags & NLM_F_CREATE) == 0) return Errno(ENOENT);
  bool last = (flags & NLM_F_APPEND) != 0 || !v4;
  auto at = last ? std::ranges::upper_bound(routes_, route, Before) : std::ranges::lower_bound(routes_, route, Before);
  routes_.insert(at, route);
  Changed();
  host_.OnRouteEvent(route, false);
  return Ok();
}

ErrnoOr<void> Stack::RemoveRoute(const Route& wanted) {
  auto agrees = [&](const Route& r) {
    return r.table == wanted.table && r.destination == wanted.destination && r.destination.v4() == wanted.destination.v4() &&
           r.prefix == wanted.prefix && (wanted.tos == 0 || r.tos == wanted.tos) && (wanted.type == 0 || r.type == wanted.type) &&
           (wanted.scope == RT_SCOPE_NOWHERE || r.scope == wanted.scope || !r.destination.v4()) &&
           (wanted.metric == 0 || r.metric == wanted.metric) && (wanted.protocol == 0 || r.protocol == wanted.protocol) &&
           (wanted.link == 0 || r.link == wanted.link) && (wanted.gateway.any() || r.gateway == wanted.gateway) &&
           (wanted.source.any() || r.source == wanted.source);
  };
  auto found = std::ranges::find_if(routes_, agrees);
  if (found == routes_.end()) return Errno(ESRCH);
  Route gone = *found;
  routes_.erase(found);
  Changed();
  host_.OnRouteEvent(gone, true);
  return Ok();
}

void Stack::DropRoutes(const std::function<bool(const Route&)>& gone) {
  if (std::erase_if(routes_, gone) > 0) Changed();
}

const Route* Stack::BestRoute(const IpAddress& destination, int device) const {
  const Route* best = nullptr;
  for (const Route& r : routes_) {
    if ((r.table != Route::kMainTable && r.table != Route::kDefaultTable) || r.destination.v4() != destination.v4()) continue;
    if (!destination.In(r.destination, r.prefix)) continue;
    bool better = best == nullptr || r.table > best->table;
    if (best != nullptr && r.table == best->table) better = r.prefix > best->prefix || (r.prefix == best->prefix && r.metric < best->metric);
    if (!better) continue;
    // Last, since there are thousands of routes and interfaces.
    if (TypeError(r.type) == 0) {
      if (device != 0 && device != r.link) continue;
      const Link* link = FindLink(r.link);
      if (link == nullptr || !link->up()) continue;
    }
    best = &r;
  }
  return best;
}

// inet_select_addr(); RFC 6724 as far as scopes go.
IpAddress Stack::SourceFor(const IpAddress& destination, const Link& link) const {
  bool v4 = destination.v4();
  const InterfaceAddress* best = nullptr;
  auto score = [&](const InterfaceAddress& a) {
    if (v4) return destination.In(a.network(), a.prefix) ? 2 : 1;
    bool narrow = destination.link_local() || (destination.multicast() && (destination.bytes[1] & 15) <= 2);
    return a.address.link_local() == narrow ? 2 : 1;
  };
  auto look = [&](const Link& l) {
    for (const InterfaceAddress& a : l.addresses()) {
      if (a.address.v4() == v4 && (best == nullptr || score(a) > score(*best))) best = &a;
    }
  };
  look(link);
  if (best != nullptr && (v4 || score(*best) == 2)) return best->address;
  for (const auto& other : links_) {
    if (other.get() == &link || !other->up()) continue;
    for (const InterfaceAddress& a : other->addresses()) {
      if (a.address.v4() != v4 || a.scope == RT_SCOPE_HOST || a.scope == RT_SCOPE_LINK) continue;
      if (best == nullptr || (!v4 && best->scope == RT_SCOPE_LINK)) best = &a;
    }
  }
  return best != nullptr ? best->address : IpAddress{};
}

ErrnoOr<Path> Stack::FindPath(const IpAddress& destination, const IpAddress& source, int device) {
  bool v4 = destination.v4();
  Path path;
  path.generation = generation_;
  path.next_hop = destination;
  if (IsLocal(destination)) {
    if (!loopback().up()) return Errno(ENETUNREACH);
    path.link = RefPtr<Link>(&loopback());
    // The local table prefers the interface's own address as source.
    path.source = !source.any() ? source : destination.loopback() ? IpAddress::Loopback(v4) : destination;
    return path;
  }
  Link* link = device != 0 ? FindLink(device) : nullptr;
  if (destination.multicast() || IsBroadcast(destination)) {
    if (link == nullptr && !source.any() && source.loopback()) link = &loopback();
    if (link == nullptr) link = BroadcastLink(destination);
    if (link == nullptr && !v4) {
      auto usable = [](const RefPtr<Link>& l) { return l->running() && !l->loopback() && (l->flags() & IFF_MULTICAST) != 0; };
      if (auto first = std::ranges::find_if(links_, usable); first != links_.end()) link = first->get();
    }
    if (link != nullptr && link->up()) {
      path.link = RefPtr<Link>(link);
      path.source = !source.any() ? source : SourceFor(destination, *link);
      if (path.source.any()) path.source = IpAddress::Any(v4);
      return path;
    }
  }
  const Route* best = BestRoute(destination, device);
  // Who names the interface is believed that the address is there (ip_route_output_key_hash_rcu()): DHCP's clients have no route yet.
  bool assumed = best == nullptr && v4 && link != nullptr && link->up() && !link->loopback();
  if (best == nullptr && !assumed) {
    ++counters_.ip_no_route;
    return Errno(ENETUNREACH);
  }
  if (best != nullptr && TypeError(best->type) != 0) return Errno(TypeError(best->type));
  path.link = RefPtr<Link>(assumed ? link : FindLink(best->link));
  if (!assumed && !best->gateway.any()) path.next_hop = best->gateway;
  path.source = !source.any() || assumed ? source : best->source;
  if (path.source.any()) path.source = SourceFor(path.next_hop, *path.link);
  if (path.source.any() && !assumed) return Errno(EADDRNOTAVAIL);
  if (path.source.any()) path.source = IpAddress::Any(v4);
  return path;
}

}  // namespace amber::net
