// Interfaces: RTM_GETLINK, RTM_NEWLINK, RTM_SETLINK, RTM_DELLINK (net/core/rtnetlink.c).
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>

#include <optional>

#include "sentry/kernel/task.h"
#include "sentry/net/link/bridge_link.h"
#include "sentry/net/link/dummy_link.h"
#include "sentry/net/link/veth_link.h"
#include "sentry/net/netlink/route_messages.h"

namespace amber {
namespace {

constexpr uint32_t kChangeable = IFF_UP | IFF_NOARP | IFF_MULTICAST | IFF_ALLMULTI | IFF_PROMISC | IFF_DYNAMIC | IFF_DEBUG;
constexpr size_t kMaxAlias = 255;

std::string_view Text(std::string_view data) { return data.substr(0, data.find('\0')); }

// The kind and what else a filtered dump asks for (link_dump_filtered()).
struct LinkFilter {
  uint32_t master = 0;
  std::string kind;
  bool Wants(const net::Link& link) const {
    if (master != 0 && (link.master() == nullptr || link.master()->index() != static_cast<int>(master))) return false;
    return kind.empty() || (link.kind() != nullptr && kind == link.kind());
  }
};

net::Link* FindNamed(net::Stack& stack, const NetlinkReader& in, int index) {
  if (index > 0) return stack.FindLink(index);
  auto name = in.Find(IFLA_IFNAME);
  if (!name) name = in.Find(IFLA_ALT_IFNAME);
  return name ? stack.FindLink(Text(*name)) : nullptr;
}

// dev_valid_name(); a pattern may have one %d.
bool ValidName(std::string_view name) {
  if (name.empty() || name.size() >= IFNAMSIZ || name == "." || name == "..") return false;
  for (char c : name) {
    if (c == '/' || c == ':' || isspace(static_cast<unsigned char>(c))) return false;
  }
  size_t at = name.find('%');
  return at == std::string_view::npos || (name.substr(at, 2) == "%d" && name.find('%', at + 1) == std::string_view::npos);
}

// What one description of an interface says, for a new one or an old one.
struct Wanted {
  std::string name;
  std::optional<net::HardwareAddress> hardware;
  std::optional<uint32_t> mtu;
};

int ReadWanted(const NetlinkReader& in, Wanted* out) {
  if (auto name = in.Find(IFLA_IFNAME)) {
    if (Text(*name).size() >= IFNAMSIZ) return ERANGE;
    out->name = std::string(Text(*name));
    if (!out->name.empty() && !ValidName(out->name)) return EINVAL;
  }
  if (auto address = in.Find(IFLA_ADDRESS)) {
    if (address->size() < 6) return EINVAL;
    net::HardwareAddress hardware;
    memcpy(hardware.data(), address->data(), hardware.size());
    if ((hardware[0] & 1) != 0 || hardware == net::HardwareAddress{}) return EADDRNOTAVAIL;
    out->hardware = hardware;
  }
  out->mtu = in.Value<uint32_t>(IFLA_MTU);
  return 0;
}

int CheckMtu(const net::Link& link, uint32_t mtu) {
  uint32_t low = link.loopback() ? 68 : link.min_mtu(), high = link.max_mtu() != 0 ? link.max_mtu() : 0x3fffffff;
  return mtu < low || mtu > high ? EINVAL : 0;
}

// --- what changes an interface (do_setlink()) ---

RefPtr<NetNamespace> TargetNamespace(const RouteRequest& r, const NetlinkReader& in, int* error) {
  *error = 0;
  RefPtr<NetNamespace> to;
  if (auto fd = in.Value<int32_t>(IFLA_NET_NS_FD)) {
    to = NamespaceOfFd(r.task, *fd, error);
  } else if (auto pid = in.Value<int32_t>(IFLA_NET_NS_PID)) {
    to = NamespaceOfPid(r.task, *pid, error);
  } else if (in.Find(IFLA_TARGET_NETNSID)) {
    *error = EOPNOTSUPP;
  }
  if (to && !r.MayChange(to->owner())) *error = EPERM;
  return *error == 0 ? to : nullptr;
}

int Move(NetNamespace& net, NetNamespace& to, net::Link& link, const Wanted& wanted, int index) {
  if (&to == &net) return 0;
  // netns_immutable
  if (link.loopback() || link.kind() == nullptr || dynamic_cast<net::BridgeLink*>(&link) != nullptr) return EINVAL;
  if (to.stack().links().size() >= net::Stack::kMaxLinks) return ENOBUFS;
  std::string name = to.stack().FreeName(wanted.name.empty() ? link.name() : wanted.name);
  if (name.empty() || to.stack().FindLink(name) != nullptr) return EEXIST;
  net.stack().MoveLink(link, to.stack(), std::move(name), index);
  return 0;
}

int Rename(net::Stack& stack, net::Link& link, const std::string& pattern) {
  std::string name = stack.FreeName(pattern);
  if (name == link.name()) return 0;
  if (name.empty()) return ENFILE;
  if (stack.FindLink(name) != nullptr) return EEXIST;
  stack.RenameLink(link, std::move(name));
  return 0;
}

void ApplySettings(const NetlinkReader& in, net::Link& link) {
  if (auto length = in.Value<uint32_t>(IFLA_TXQLEN)) link.settings().queue_length = *length;
  if (auto group = in.Value<uint32_t>(IFLA_GROUP)) link.settings().group = *group;
  if (auto alias = in.Find(IFLA_IFALIAS)) link.settings().alias = std::string(Text(*alias).substr(0, kMaxAlias));
}

int ApplyFlags(net::Stack& stack, net::Link& link, const ifinfomsg& info) {
  if (info.ifi_flags == 0 && info.ifi_change == 0) return 0;
  uint32_t change = (info.ifi_change == 0 ? ~0u : info.ifi_change) & kChangeable;
  uint32_t after = ((link.flags() & ~change) | (info.ifi_flags & change)) & ~static_cast<uint32_t>(IFF_RUNNING);
  link.set_flags((after & ~static_cast<uint32_t>(IFF_UP)) | (link.flags() & IFF_UP));
  stack.SetUp(link, (after & IFF_UP) != 0);
  return 0;
}

void SetHardware(net::Link& link, const net::HardwareAddress& hardware) {
  if (auto* bridge = dynamic_cast<net::BridgeLink*>(&link); bridge != nullptr) return bridge->SetOwnHardware(hardware);
  link.set_hardware(hardware);
}

// do_set_master()
int SetMaster(net::Stack& stack, net::Link& link, const NetlinkReader& in) {
  auto index = in.Value<int32_t>(IFLA_MASTER);
  auto* port = dynamic_cast<net::FrameLink*>(&link);
  if (!index) return 0;
  if (link.master() != nullptr) {
    if (link.master()->index() == *index) return 0;
    static_cast<net::FrameMaster*>(link.master())->OnPortLeave(*port);
  }
  if (*index == 0) return 0;
  net::Link* master = stack.FindLink(*index);
  if (master == nullptr) return EINVAL;
  auto* bridge = dynamic_cast<net::BridgeLink*>(master);
  if (bridge == nullptr) return EOPNOTSUPP;
  if (port == nullptr) return EINVAL;
  auto added = bridge->AddPort(*port);
  return added.ok() ? 0 : added.error().number();
}

int Change(RouteRequest& r, net::Link& link, const ifinfomsg& info, const NetlinkReader& in) {
  Wanted wanted;
  if (int error = ReadWanted(in, &wanted); error != 0) return error;
  if (wanted.mtu) {
    if (int error = CheckMtu(link, *wanted.mtu); error != 0) return error;
  }
  if (wanted.hardware && link.type() != ARPHRD_ETHER) return EOPNOTSUPP;
  RefPtr<net::Link> keep(&link);
  int error = 0;
  RefPtr<NetNamespace> to = TargetNamespace(r, in, &error);
  if (error != 0) return error;
  bool moved = to && to.get() != &r.net;
  if (moved) {
    if (error = Move(r.net, *to, link, wanted, in.Value<int32_t>(IFLA_NEW_IFINDEX).value_or(0)); error != 0) return error;
  }
  net::Stack& stack = *link.stack();
  net::Stack::Batch batch(stack);
  if (wanted.hardware) SetHardware(link, *wanted.hardware);
  if (wanted.mtu) link.set_mtu(*wanted.mtu);
  ApplySettings(in, link);
  if (!moved && !wanted.name.empty() && info.ifi_index > 0) {
    if (error = Rename(stack, link, wanted.name); error != 0) return error;
  }
  if (error = SetMaster(stack, link, in); error != 0) return error;
  if (error = ApplyFlags(stack, link, info); error != 0) return error;
  stack.LinkChanged(link);
  return 0;
}

// --- what makes one ---

// Puts a new interface into `to`: with what its description says.
int Insert(RouteRequest& r, NetNamespace& to, const RefPtr<net::Link>& link, const Wanted& wanted, const NetlinkReader& in, int index) {
  net::Stack& stack = to.stack();
  link->set_hardware(wanted.hardware ? *wanted.hardware : net::RandomHardware(r.net.Random()));
  if (wanted.mtu) {
    if (int error = CheckMtu(*link, *wanted.mtu); error != 0) return error;
    link->set_mtu(*wanted.mtu);
  }
  ApplySettings(in, *link);
  stack.AddLink(link, index);
  return 0;
}

// Its name in `to`; EEXIST, ENFILE.
int ChooseName(NetNamespace& to, const Wanted& wanted, std::string_view kind, std::string* name) {
  if (to.stack().links().size() >= net::Stack::kMaxLinks) return ENOBUFS;
  *name = to.stack().FreeName(wanted.name.empty() ? std::string(kind) + "%d" : wanted.name);
  if (name->empty()) return ENFILE;
  return to.stack().FindLink(*name) != nullptr ? EEXIST : 0;
}

// The rest of what a description of the new interface `link` says, its flags and then its bridge; if that fails it goes again (rtnl_newlink_create()).
int Finish(net::Stack& stack, net::Link& link, const NetlinkReader& in, const ifinfomsg& info) {
  int error = ApplyFlags(stack, link, info);
  if (error == 0) error = SetMaster(stack, link, in);
  if (error != 0) stack.RemoveLink(link);
  return error;
}

// Whether a new interface may have the number that was chosen for it, 0 for any.
int CheckIndex(const net::Stack& stack, int index) {
  if (index < 0) return EINVAL;
  return index > 0 && stack.FindLink(index) != nullptr ? EBUSY : 0;
}

// veth_newlink(): the other end is described in the kind's data, and is made first.
int MakeVeth(RouteRequest& r, NetNamespace& to, const Wanted& wanted, const NetlinkReader& in, const ifinfomsg& info, std::string_view data) {
  Wanted peer_wanted;
  std::string_view peer_body;
  ifinfomsg peer_info{};
  if (auto peer = NetlinkReader(data).Find(VETH_INFO_PEER)) {
    NetlinkReader head(*peer);
    auto read = head.Structure<ifinfomsg>();
    if (!read) return EINVAL;
    peer_info = *read;
    peer_body = peer->substr((sizeof(ifinfomsg) + 3) & ~size_t{3});
    if (int error = ReadWanted(NetlinkReader(peer_body), &peer_wanted); error != 0) return error;
  }
  NetlinkReader peer_in(peer_body);
  int error = 0;
  RefPtr<NetNamespace> peer_net = TargetNamespace(r, peer_in, &error);
  if (error != 0) return error;
  NetNamespace& peer_to = peer_net ? *peer_net : to;
  // As there, the other end's number counts only if this one's was chosen, too.
  int peer_index = info.ifi_index != 0 ? peer_info.ifi_index : 0;
  if (peer_info.ifi_index < 0) return EINVAL;
  if (error = CheckIndex(peer_to.stack(), peer_index); error != 0) return error;
  if (peer_index != 0 && peer_index == info.ifi_index && &peer_to == &to) return EBUSY;
  std::string name, peer_name;
  if (error = ChooseName(peer_to, peer_wanted, "veth", &peer_name); error != 0) return error;
  auto peer = MakeRef<net::VethLink>(peer_name);
  auto own = MakeRef<net::VethLink>("");
  if (error = Insert(r, peer_to, peer, peer_wanted, peer_in, peer_index); error != 0) return error;
  if (error = ChooseName(to, wanted, "veth", &name); error == 0) error = Insert(r, to, own, wanted, in, info.ifi_index);
  if (error != 0) {
    peer_to.stack().RemoveLink(*peer);
    return error;
  }
  net::VethLink::Join(*own, *peer);
  to.stack().RenameLink(*own, name);
  peer_to.stack().LinkChanged(*peer);
  (void)ApplyFlags(peer_to.stack(), *peer, peer_info);
  return Finish(to.stack(), *own, in, info);
}

// br_changelink(). What this bridge cannot do is refused; settings that change nothing without that are not looked at.
int SetBridge(net::BridgeLink& bridge, std::string_view data) {
  NetlinkReader in(data);
  if (in.Value<uint32_t>(IFLA_BR_STP_STATE).value_or(0) != 0 || in.Value<uint8_t>(IFLA_BR_VLAN_FILTERING).value_or(0) != 0) return EOPNOTSUPP;
  if (auto ageing = in.Value<uint32_t>(IFLA_BR_AGEING_TIME)) bridge.ageing = int64_t{*ageing} * 10 * net::kMs;
  return 0;
}

int Make(RouteRequest& r, const ifinfomsg& info, const NetlinkReader& in) {
  auto description = in.Find(IFLA_LINKINFO);
  auto kind_text = description ? NetlinkReader(*description).Find(IFLA_INFO_KIND) : std::nullopt;
  if (!kind_text || in.Find(IFLA_MAP) || in.Find(IFLA_PROTINFO)) return EOPNOTSUPP;
  std::string kind(Text(*kind_text));
  auto data = NetlinkReader(*description).Find(IFLA_INFO_DATA);
  Wanted wanted;
  if (int error = ReadWanted(in, &wanted); error != 0) return error;
  int error = 0;
  RefPtr<NetNamespace> other = TargetNamespace(r, in, &error);
  if (error != 0) return error;
  NetNamespace& to = other ? *other : r.net;
  if (error = CheckIndex(to.stack(), info.ifi_index); error != 0) return error;
  net::Stack::Batch batch(to.stack());
  if (kind == "veth") return MakeVeth(r, to, wanted, in, info, data.value_or(std::string_view()));
  RefPtr<net::Link> link;
  std::string name;
  if (kind != "dummy" && kind != "bridge") return EOPNOTSUPP;
  if (error = ChooseName(to, wanted, kind, &name); error != 0) return error;
  if (kind == "dummy") link = MakeRef<net::DummyLink>(name);
  if (kind == "bridge") {
    auto bridge = MakeRef<net::BridgeLink>(name);
    bridge->own_hardware = wanted.hardware.has_value();
    if (error = SetBridge(*bridge, data.value_or(std::string_view())); error != 0) return error;
    link = std::move(bridge);
  }
  if (error = Insert(r, to, link, wanted, in, info.ifi_index); error != 0) return error;
  to.stack().LinkChanged(*link);
  return Finish(to.stack(), *link, in, info);
}

// What its kind alone knows: the same kind must be named.
int ChangeKind(net::Link& link, const NetlinkReader& in) {
  auto description = in.Find(IFLA_LINKINFO);
  auto kind = description ? NetlinkReader(*description).Find(IFLA_INFO_KIND) : std::nullopt;
  auto data = description ? NetlinkReader(*description).Find(IFLA_INFO_DATA) : std::nullopt;
  if (!kind || !data) return 0;
  auto* bridge = dynamic_cast<net::BridgeLink*>(&link);
  if (link.kind() == nullptr || Text(*kind) != link.kind() || bridge == nullptr) return EOPNOTSUPP;
  return SetBridge(*bridge, *data);
}

}  // namespace

int GetLink(RouteRequest& r) {
  NetlinkReader in(r.body);
  auto info = in.Structure<ifinfomsg>();
  if (r.dump) {
    LinkFilter filter;
    if (info) {
      filter.master = in.Value<uint32_t>(IFLA_MASTER).value_or(0);
      if (auto description = in.Find(IFLA_LINKINFO)) {
        if (auto kind = NetlinkReader(*description).Find(IFLA_INFO_KIND)) filter.kind = std::string(Text(*kind));
      }
    }
    for (const auto& link : r.net.stack().links()) {
      if (filter.Wants(*link) && r.out.Next()) PutLink(r.net, *link, RTM_NEWLINK, NLM_F_MULTI, r.out);
    }
    return 0;
  }
  if (!info) return EINVAL;
  net::Link* link = FindNamed(r.net.stack(), in, info->ifi_index);
  // Neither a number nor a name (rtnl_getlink()).
  if (link == nullptr && info->ifi_index <= 0 && !in.Find(IFLA_IFNAME) && !in.Find(IFLA_ALT_IFNAME)) return EINVAL;
  if (link == nullptr) return ENODEV;
  PutLink(r.net, *link, RTM_NEWLINK, 0, r.out);
  return 0;
}

int NewLink(RouteRequest& r) {
  NetlinkReader in(r.body);
  auto info = in.Structure<ifinfomsg>();
  if (!info) return EINVAL;
  if (auto name = in.Find(IFLA_IFNAME); name && Text(*name).size() >= IFNAMSIZ) return ERANGE;
  net::Link* link = FindNamed(r.net.stack(), in, info->ifi_index);
  if (r.type == RTM_SETLINK) {
    if (link == nullptr) return info->ifi_index <= 0 && !in.Find(IFLA_IFNAME) && !in.Find(IFLA_ALT_IFNAME) ? EINVAL : ENODEV;
    return Change(r, *link, *info, in);
  }
  if (link != nullptr) {
    if ((r.flags & NLM_F_EXCL) != 0) return EEXIST;
    if ((r.flags & NLM_F_REPLACE) != 0) return EOPNOTSUPP;
    if (int error = ChangeKind(*link, in); error != 0) return error;
    return Change(r, *link, *info, in);
  }
  if ((r.flags & NLM_F_CREATE) == 0) return ENODEV;
  return Make(r, *info, in);
}

int DeleteLink(RouteRequest& r) {
  NetlinkReader in(r.body);
  auto info = in.Structure<ifinfomsg>();
  if (!info) return EINVAL;
  net::Link* link = FindNamed(r.net.stack(), in, info->ifi_index);
  if (link == nullptr) return info->ifi_index <= 0 && !in.Find(IFLA_IFNAME) && !in.Find(IFLA_ALT_IFNAME) ? EINVAL : ENODEV;
  if (link->kind() == nullptr) return EOPNOTSUPP;
  net::Stack::Batch batch(r.net.stack());
  r.net.stack().RemoveLink(*link);
  return 0;
}

}  // namespace amber
