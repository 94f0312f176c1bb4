// Addresses and neighbours: RTM_*ADDR (devinet.c, addrconf.c), RTM_*NEIGH (neighbour.c).
#include <linux/if_addr.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <net/if.h>

#include "sentry/net/link/frame_link.h"
#include "sentry/net/netlink/route_messages.h"

namespace amber {
namespace {

// With an address that packets may be sent to.
constexpr uint16_t kValid = NUD_PERMANENT | NUD_NOARP | NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE;
constexpr uint16_t kStates = kValid | NUD_INCOMPLETE | NUD_FAILED;

int Number(const ErrnoOr<void>& done) { return done.ok() ? 0 : done.error().number(); }

bool Read(const NetlinkReader& in, uint16_t type, uint8_t family, net::IpAddress* out) {
  auto raw = in.Find(type);
  return raw && ReadAddress(*raw, family, out);
}

void PutNeighbour(const net::Link& link, const net::IpAddress& address, const net::Neighbour& n, int64_t now, uint16_t type, uint16_t flags,
                  NetlinkWriter& out) {
  ndmsg m{};
  m.ndm_family = address.v4() ? AF_INET : AF_INET6;
  m.ndm_ifindex = link.index();
  m.ndm_state = n.state;
  m.ndm_flags = n.router ? NTF_ROUTER : 0;
  m.ndm_type = RTN_UNICAST;
  out.Begin(type, flags, m);
  std::string raw = address.Raw();
  out.Attribute(NDA_DST, raw.data(), raw.size());
  if ((n.state & (NUD_INCOMPLETE | NUD_FAILED)) == 0) out.Attribute(NDA_LLADDR, n.hardware.data(), n.hardware.size());
  out.Attribute<uint32_t>(NDA_PROBES, static_cast<uint32_t>(n.probes));
  auto ticks = [now](int64_t then) { return static_cast<uint32_t>((now - then) / 10'000'000); };
  nda_cacheinfo cache{ticks(n.confirmed), ticks(n.used), ticks(n.updated), 0};
  out.Attribute(NDA_CACHEINFO, cache);
}

}  // namespace

bool ReadAddress(std::string_view raw, uint8_t family, net::IpAddress* out) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(raw.data());
  if (family == AF_INET && raw.size() == 4) return *out = net::IpAddress::V4Bytes(bytes), true;
  if (family == AF_INET6 && raw.size() == 16) return *out = net::IpAddress::V6Bytes(bytes), !out->v4();
  return false;
}

void PutAddress(const net::Link& link, const net::InterfaceAddress& a, uint16_t type, uint16_t flags, NetlinkWriter& out) {
  bool v4 = a.address.v4();
  ifaddrmsg m{};
  m.ifa_family = v4 ? AF_INET : AF_INET6;
  m.ifa_prefixlen = static_cast<uint8_t>(a.prefix);
  uint32_t marks = IFA_F_PERMANENT | (a.secondary ? IFA_F_SECONDARY : 0);
  m.ifa_flags = static_cast<uint8_t>(marks);
  m.ifa_scope = a.scope;
  m.ifa_index = static_cast<uint32_t>(link.index());
  out.Begin(type, flags, m);
  std::string raw = a.address.Raw(), far = a.network().Raw();
  out.Attribute(IFA_ADDRESS, far.data(), far.size());
  if (v4 || !a.peer.any()) out.Attribute(IFA_LOCAL, raw.data(), raw.size());
  if (!a.broadcast.any()) {
    raw = a.broadcast.Raw();
    out.Attribute(IFA_BROADCAST, raw.data(), raw.size());
  }
  if (v4) out.Attribute(IFA_LABEL, link.name());
  out.Attribute<uint32_t>(IFA_FLAGS, marks);
  ifa_cacheinfo cache{0xffffffff, 0xffffffff, 0, 0};
  out.Attribute(IFA_CACHEINFO, cache);
}

int GetAddresses(RouteRequest& r) {
  if (!r.dump) return EOPNOTSUPP;
  uint8_t family = r.body.empty() ? AF_UNSPEC : static_cast<uint8_t>(r.body[0]);
  auto m = NetlinkReader(r.body).Structure<ifaddrmsg>();
  int index = m ? static_cast<int>(m->ifa_index) : 0;
  if (index != 0 && r.net.stack().FindLink(index) == nullptr) return ENODEV;
  for (bool v4 : {true, false}) {
    if (family != AF_UNSPEC && family != (v4 ? AF_INET : AF_INET6)) continue;
    for (const auto& link : r.net.stack().links()) {
      if (index != 0 && link->index() != index) continue;
      for (const net::InterfaceAddress& a : link->addresses()) {
        if (a.address.v4() == v4 && r.out.Next()) PutAddress(*link, a, RTM_NEWADDR, NLM_F_MULTI, r.out);
      }
    }
  }
  return 0;
}

int ChangeAddress(RouteRequest& r) {
  NetlinkReader in(r.body);
  auto m = in.Structure<ifaddrmsg>();
  if (!m) return EINVAL;
  net::Stack& stack = r.net.stack();
  net::Link* link = stack.FindLink(static_cast<int>(m->ifa_index));
  net::InterfaceAddress a;
  bool local = Read(in, IFA_LOCAL, m->ifa_family, &a.address), far = Read(in, IFA_ADDRESS, m->ifa_family, &a.peer);
  // A new one is read before its interface is looked for (rtm_to_ifaddr(), inet6_rtm_newaddr()).
  if (!local && !far && r.type == RTM_NEWADDR) return EINVAL;
  if (link == nullptr) return ENODEV;
  if (!local && !far) return EINVAL;
  if (!local) a.address = a.peer;
  if (!far || a.peer == a.address) a.peer = {};
  if (m->ifa_prefixlen > (a.address.v4() ? 32 : 128)) return EINVAL;
  net::Stack::Batch batch(stack);
  if (r.type == RTM_DELADDR) return Number(stack.RemoveAddress(*link, a.address, m->ifa_prefixlen));
  if (a.address.multicast() || (a.address.any() && !a.address.v4())) return a.address.v4() ? EINVAL : EADDRNOTAVAIL;
  a.prefix = m->ifa_prefixlen;
  a.scope = a.address.v4() ? m->ifa_scope : a.address.loopback() ? RT_SCOPE_HOST : a.address.link_local() ? RT_SCOPE_LINK : RT_SCOPE_UNIVERSE;
  (void)Read(in, IFA_BROADCAST, m->ifa_family, &a.broadcast);
  auto added = stack.AddAddress(*link, a);
  // ip address replace
  if (added.Is(EEXIST) && (r.flags & NLM_F_REPLACE) != 0) return 0;
  return Number(added);
}

int GetNeighbours(RouteRequest& r) {
  NetlinkReader in(r.body);
  auto m = in.Structure<ndmsg>();
  uint8_t family = r.body.empty() ? AF_UNSPEC : static_cast<uint8_t>(r.body[0]);
  int64_t now = r.net.Now();
  if (!r.dump) {
    net::IpAddress address;
    net::Link* link = m ? r.net.stack().FindLink(m->ndm_ifindex) : nullptr;
    if (!m || !Read(in, NDA_DST, m->ndm_family, &address)) return EINVAL;
    if (link == nullptr) return ENODEV;
    if (link->neighbours() == nullptr) return ENOENT;
    auto found = link->neighbours()->all().find(address);
    if (found == link->neighbours()->all().end()) return ENOENT;
    PutNeighbour(*link, address, found->second, now, RTM_NEWNEIGH, 0, r.out);
    return 0;
  }
  int index = m ? in.Value<int>(NDA_IFINDEX).value_or(m->ndm_ifindex) : 0;
  if (family != AF_UNSPEC && family != AF_INET && family != AF_INET6) return 0;
  for (const auto& link : r.net.stack().links()) {
    if (link->neighbours() == nullptr || (index != 0 && index != link->index())) continue;
    for (const auto& [address, n] : link->neighbours()->all()) {
      if (family != AF_UNSPEC && family != (address.v4() ? AF_INET : AF_INET6)) continue;
      if (r.out.Next()) PutNeighbour(*link, address, n, now, RTM_NEWNEIGH, NLM_F_MULTI, r.out);
    }
    if (r.out.full()) break;
  }
  return 0;
}

// neigh_add(), neigh_delete()
int ChangeNeighbour(RouteRequest& r) {
  NetlinkReader in(r.body);
  auto m = in.Structure<ndmsg>();
  net::IpAddress address;
  if (!m || !in.Find(NDA_DST)) return EINVAL;
  if (m->ndm_family != AF_INET && m->ndm_family != AF_INET6) return EOPNOTSUPP;
  if (!Read(in, NDA_DST, m->ndm_family, &address)) return EINVAL;
  net::Link* link = r.net.stack().FindLink(m->ndm_ifindex);
  if (link == nullptr) return m->ndm_ifindex > 0 ? ENODEV : EINVAL;
  net::Neighbours* all = link->neighbours();
  if (all == nullptr || (m->ndm_flags & NTF_PROXY) != 0) return EOPNOTSUPP;
  net::Stack::Batch batch(r.net.stack());
  auto known = all->all().find(address);
  bool there = known != all->all().end();
  if (r.type == RTM_DELNEIGH) {
    if (there) all->Remove(address);
    return there ? 0 : ENOENT;
  }
  if (there && (r.flags & NLM_F_EXCL) != 0) return EEXIST;
  if (!there && (r.flags & NLM_F_CREATE) == 0) return ENOENT;
  net::HardwareAddress hardware = there ? known->second.hardware : net::HardwareAddress{};
  if (auto raw = in.Find(NDA_LLADDR)) {
    if (raw->size() < hardware.size()) return EINVAL;
    memcpy(hardware.data(), raw->data(), hardware.size());
  } else if ((m->ndm_state & kValid) != 0 && (!there || (known->second.state & kValid) == 0)) {
    return EINVAL;
  }
  uint16_t state = m->ndm_state & kStates;
  if ((state & (state - 1)) != 0) return EINVAL;
  return Number(all->Set(address, hardware, state));
}

}  // namespace amber
