// Interface ioctls (netdevice(7)), which any socket takes.
#include <linux/capability.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <net/route.h>
#include <netinet/in.h>
#include <string.h>

#include <algorithm>

#include "sentry/kernel/task.h"
#include "sentry/net/inet/inet_socket.h"
#include "sentry/net/inet/net_namespace.h"

namespace amber {
namespace {

uint32_t Mask(int prefix) { return prefix == 0 ? 0 : 0xffffffffu << (32 - prefix); }

void PutAddress(uint32_t host_order, sockaddr* out) {
  sockaddr_in in{};
  in.sin_family = AF_INET;
  in.sin_addr.s_addr = htonl(host_order);
  memcpy(out, &in, sizeof(in));
}

net::InterfaceAddress* FirstV4(net::Link& link) {
  for (net::InterfaceAddress& a : link.addresses()) {
    if (a.address.v4()) return &a;
  }
  return nullptr;
}

void SetName(const net::Link& link, ifreq* r) {
  memset(r->ifr_name, 0, sizeof(r->ifr_name));
  memcpy(r->ifr_name, link.name().data(), std::min<size_t>(link.name().size(), IFNAMSIZ - 1));
}

// SIOCGIFCONF: one entry per IPv4 address.
ErrnoOr<uint64_t> List(Task& task, net::Stack& stack, uint64_t argument) {
  ifconf conf = TRY(task.CopyIn(UserPtr<ifconf>(argument)));
  std::vector<ifreq> entries;
  for (const auto& link : stack.links()) {
    for (const net::InterfaceAddress& a : link->addresses()) {
      if (!a.address.v4() || !link->up()) continue;
      ifreq r{};
      SetName(*link, &r);
      PutAddress(a.address.v4_value(), &r.ifr_addr);
      entries.push_back(r);
    }
  }
  auto address = reinterpret_cast<uint64_t>(conf.ifc_buf);
  size_t count = entries.size();
  if (address != 0) {
    count = std::min(count, static_cast<size_t>(std::max(conf.ifc_len, 0)) / sizeof(ifreq));
    if (count > 0) TRY(task.CopyOutBytes(address, entries.data(), count * sizeof(ifreq)));
  }
  TRY(task.CopyOut(UserPtr<int>(argument), static_cast<int>(count * sizeof(ifreq))));
  return uint64_t{0};
}

uint32_t BroadcastOf(const net::Link& link, const net::InterfaceAddress& a) {
  if (!a.broadcast.any()) return a.broadcast.v4_value();
  return (link.flags() & IFF_BROADCAST) != 0 ? a.address.v4_value() | ~Mask(a.prefix) : 0;
}

ErrnoOr<void> Get(net::Link& link, uint32_t command, ifreq* r) {
  const net::InterfaceAddress* address = FirstV4(link);
  switch (command) {
    case SIOCGIFFLAGS: r->ifr_flags = static_cast<int16_t>(link.flags()); return Ok();
    case SIOCGIFMTU: r->ifr_mtu = static_cast<int>(link.mtu()); return Ok();
    case SIOCGIFINDEX: r->ifr_ifindex = link.index(); return Ok();
    case SIOCGIFMETRIC: r->ifr_metric = 0; return Ok();
    case SIOCGIFTXQLEN: r->ifr_qlen = static_cast<int>(link.settings().queue_length); return Ok();
    case SIOCGIFMAP: memset(&r->ifr_map, 0, sizeof(r->ifr_map)); return Ok();
    case SIOCGIFHWADDR:
      memset(&r->ifr_hwaddr, 0, sizeof(r->ifr_hwaddr));
      r->ifr_hwaddr.sa_family = link.type();
      memcpy(r->ifr_hwaddr.sa_data, link.hardware().data(), 6);
      return Ok();
    case SIOCGIFADDR:
    case SIOCGIFNETMASK:
    case SIOCGIFBRDADDR:
    case SIOCGIFDSTADDR: {
      if (address == nullptr) return Errno(EADDRNOTAVAIL);
      uint32_t value = address->address.v4_value();
      if (command == SIOCGIFNETMASK) value = Mask(address->prefix);
      if (command == SIOCGIFBRDADDR) value = BroadcastOf(link, *address);
      if (command == SIOCGIFDSTADDR) value = address->network().v4_value();
      PutAddress(value, &r->ifr_addr);
      return Ok();
    }
    default: return Errno(ENOTTY);
  }
}

ErrnoOr<uint32_t> ReadV4(const sockaddr& address) {
  sockaddr_in in;
  memcpy(&in, &address, sizeof(in));
  if (in.sin_family != AF_INET) return Errno(EINVAL);
  return ntohl(in.sin_addr.s_addr);
}

// inet_abc_len(): what networks were before they had masks.
int ClassPrefix(uint32_t address) {
  if (address >> 31 == 0) return 8;
  if (address >> 30 == 2) return 16;
  return address >> 29 == 6 ? 24 : 32;
}

// Takes all of IPv4 away from `link`, and gives it `address`.
ErrnoOr<void> ReplaceAddress(net::Stack& stack, net::Link& link, const net::InterfaceAddress& address) {
  stack.DropAddresses(link, [](const net::InterfaceAddress& a) { return a.address.v4(); });
  if (address.address.any()) return Ok();
  return stack.AddAddress(link, address);
}

ErrnoOr<void> SetAddress(net::Stack& stack, net::Link& link, const ifreq& r) {
  uint32_t value = TRY(ReadV4(r.ifr_addr));
  net::InterfaceAddress a;
  a.address = net::IpAddress::V4(value);
  a.prefix = (link.flags() & IFF_POINTOPOINT) != 0 ? 32 : ClassPrefix(value);
  a.scope = a.address.loopback() ? 254 : 0;
  if ((link.flags() & IFF_BROADCAST) != 0 && a.prefix < 31) a.broadcast = net::IpAddress::V4(value | ~Mask(a.prefix));
  return ReplaceAddress(stack, link, a);
}

ErrnoOr<void> SetMask(net::Stack& stack, net::Link& link, const ifreq& r) {
  const net::InterfaceAddress* first = FirstV4(link);
  uint32_t mask = TRY(ReadV4(r.ifr_addr));
  if (first == nullptr) return Errno(EADDRNOTAVAIL);
  // bad_mask()
  if ((~mask & (~mask + 1)) != 0) return Errno(EINVAL);
  net::InterfaceAddress a = *first;
  a.prefix = __builtin_popcount(mask);
  if (!a.broadcast.any()) a.broadcast = net::IpAddress::V4(a.address.v4_value() | ~mask);
  return ReplaceAddress(stack, link, a);
}

// ip_rt_ioctl(): rtentry is what route(8) had before netlink.
ErrnoOr<uint64_t> ChangeRoute(Task& task, NetNamespace& net, bool add, uint64_t argument) {
  if (!task.creds().HasIn(net.owner(), CAP_NET_ADMIN)) return Errno(EPERM);
  rtentry r = TRY(task.CopyIn(UserPtr<rtentry>(argument)));
  net::Stack& stack = net.stack();
  net::Route route;
  uint32_t to = TRY(ReadV4(r.rt_dst));
  uint32_t mask = (r.rt_flags & RTF_HOST) != 0 ? ~0u : TRY(ReadV4(r.rt_genmask));
  if ((~mask & (~mask + 1)) != 0 || (to & ~mask) != 0) return Errno(EINVAL);
  route.destination = net::IpAddress::V4(to);
  route.prefix = __builtin_popcount(mask);
  if (r.rt_metric > 0) route.metric = static_cast<uint32_t>(r.rt_metric - 1);
  if (r.rt_dev != nullptr) {
    char name[IFNAMSIZ] = {};
    for (size_t i = 0; i + 1 < sizeof(name); ++i) {
      name[i] = TRY(task.CopyIn(UserPtr<char>(reinterpret_cast<uint64_t>(r.rt_dev) + i)));
      if (name[i] == '\0') break;
    }
    net::Link* link = stack.FindLink(std::string_view(name));
    if (link == nullptr) return Errno(ENODEV);
    route.link = link->index();
  }
  if ((r.rt_flags & RTF_GATEWAY) != 0) route.gateway = net::IpAddress::V4(TRY(ReadV4(r.rt_gateway)));
  if ((r.rt_flags & RTF_GATEWAY) != 0 && route.gateway.any()) return Errno(EINVAL);
  route.protocol = RTPROT_BOOT;
  route.scope = route.gateway.any() ? RT_SCOPE_LINK : RT_SCOPE_UNIVERSE;
  net::Stack::Batch batch(stack);
  if (add) {
    TRY(stack.AddRoute(route, NLM_F_CREATE | NLM_F_EXCL));
  } else {
    route.scope = RT_SCOPE_NOWHERE, route.protocol = 0;
    TRY(stack.RemoveRoute(route));
  }
  return uint64_t{0};
}

ErrnoOr<void> Set(net::Stack& stack, net::Link& link, uint32_t command, const ifreq& r) {
  switch (command) {
    case SIOCSIFFLAGS: stack.SetUp(link, (static_cast<uint16_t>(r.ifr_flags) & IFF_UP) != 0); return Ok();
    case SIOCSIFMTU:
      if (r.ifr_mtu < std::max(68, static_cast<int>(link.min_mtu())) || r.ifr_mtu > 0x7fffffff / 2) return Errno(EINVAL);
      if (link.max_mtu() != 0 && static_cast<uint32_t>(r.ifr_mtu) > link.max_mtu()) return Errno(EINVAL);
      link.set_mtu(static_cast<uint32_t>(r.ifr_mtu));
      stack.LinkChanged(link);
      return Ok();
    case SIOCSIFADDR: return SetAddress(stack, link, r);
    case SIOCSIFNETMASK: return SetMask(stack, link, r);
    case SIOCSIFBRDADDR:
    case SIOCSIFDSTADDR: {
      net::InterfaceAddress* first = FirstV4(link);
      net::IpAddress value = net::IpAddress::V4(TRY(ReadV4(r.ifr_addr)));
      if (first == nullptr) return Errno(EADDRNOTAVAIL);
      (command == SIOCSIFBRDADDR ? first->broadcast : first->peer) = value;
      stack.LinkChanged(link);
      return Ok();
    }
    case SIOCSIFHWADDR: {
      if (link.type() != ARPHRD_ETHER) return Errno(EOPNOTSUPP);
      if (r.ifr_hwaddr.sa_family != link.type()) return Errno(EINVAL);
      net::HardwareAddress hardware;
      memcpy(hardware.data(), r.ifr_hwaddr.sa_data, hardware.size());
      if ((hardware[0] & 1) != 0 || hardware == net::HardwareAddress{}) return Errno(EADDRNOTAVAIL);
      link.set_hardware(hardware);
      stack.LinkChanged(link);
      return Ok();
    }
    case SIOCSIFTXQLEN:
      if (r.ifr_qlen < 0) return Errno(EINVAL);
      link.settings().queue_length = static_cast<uint32_t>(r.ifr_qlen);
      return Ok();
    case SIOCSIFNAME: {
      std::string_view wanted(r.ifr_newname, strnlen(r.ifr_newname, IFNAMSIZ));
      if (wanted.empty() || wanted.size() >= IFNAMSIZ || wanted == "." || wanted == ".." || wanted.find_first_of("/: \t\n") != wanted.npos)
        return Errno(EINVAL);
      std::string name = stack.FreeName(wanted);
      if (name == link.name()) return Ok();
      if (name.empty() || stack.FindLink(name) != nullptr) return Errno(EEXIST);
      stack.RenameLink(link, std::move(name));
      return Ok();
    }
    default: return Errno(EOPNOTSUPP);
  }
}

}  // namespace

ErrnoOr<uint64_t> InterfaceIoctl(Task& task, NetNamespace& net, uint32_t command, uint64_t argument) {
  // The range of socket ioctls.
  if (command < 0x8900 || command > 0x89ff) return Errno(ENOTTY);
  net::Stack& stack = net.stack();
  if (command == SIOCGIFCONF) return List(task, stack, argument);
  if (command == SIOCADDRT || command == SIOCDELRT) return ChangeRoute(task, net, command == SIOCADDRT, argument);
  constexpr uint32_t kSet[] = {SIOCSIFFLAGS,   SIOCSIFMTU,    SIOCSIFADDR,   SIOCSIFNETMASK, SIOCSIFBRDADDR,
                               SIOCSIFDSTADDR, SIOCSIFHWADDR, SIOCSIFTXQLEN, SIOCSIFNAME};
  bool set = std::ranges::find(kSet, command) != std::end(kSet);
  // Asked of cards and of what bundles them; programs that capture packets ask every interface.
  constexpr uint32_t kBondInfo = 0x8994;  // SIOCBONDINFOQUERY
  bool of_cards = command == SIOCETHTOOL || command == SIOCGMIIPHY || command == kBondInfo;
  bool known = set || of_cards || (command >= SIOCGIFNAME && command <= SIOCGIFTXQLEN) || command == SIOCGIFMAP;
  if (!known) return Errno(ENOTTY);
  ifreq r = TRY(task.CopyIn(UserPtr<ifreq>(argument)));
  r.ifr_name[IFNAMSIZ - 1] = '\0';
  if (command == SIOCGIFNAME) {
    net::Link* link = stack.FindLink(r.ifr_ifindex);
    if (link == nullptr) return Errno(ENODEV);
    SetName(*link, &r);
  } else {
    std::string name(r.ifr_name);
    // An alias is its interface.
    net::Link* link = stack.FindLink(std::string_view(name.substr(0, name.find(':'))));
    if (link == nullptr) return Errno(ENODEV);
    if (of_cards) return Errno(EOPNOTSUPP);
    if (set) {
      if (!task.creds().HasIn(net.owner(), CAP_NET_ADMIN)) return Errno(EPERM);
      net::Stack::Batch batch(stack);
      TRY(Set(stack, *link, command, r));
      return uint64_t{0};
    }
    TRY(Get(*link, command, &r));
  }
  TRY(task.CopyOut(UserPtr<ifreq>(argument), r));
  return uint64_t{0};
}

ErrnoOr<uint64_t> DeviceIoctl(Task& task, NetNamespace& net, uint32_t command, uint64_t argument) {
  switch (command) {
    case SIOCADDRT:
    case SIOCDELRT:
    case SIOCGIFADDR:
    case SIOCSIFADDR:
    case SIOCGIFDSTADDR:
    case SIOCSIFDSTADDR:
    case SIOCGIFBRDADDR:
    case SIOCSIFBRDADDR:
    case SIOCGIFNETMASK:
    case SIOCSIFNETMASK: return Errno(ENOTTY);
    default: return InterfaceIoctl(task, net, command, argument);
  }
}

ErrnoOr<uint64_t> InetSocket::Ioctl(Task& task, uint32_t command, uint64_t argument) {
  if (auto stamp = StampIoctl(task, command, argument); !stamp.Is(ENOTTY)) return stamp;
  // inet6_ioctl() has no answers in IPv4.
  const bool asks_v4 = command == SIOCGIFADDR || command == SIOCGIFDSTADDR || command == SIOCGIFBRDADDR || command == SIOCGIFNETMASK;
  if (asks_v4 && family() == AF_INET6) return Errno(ENOTTY);
  auto done = InterfaceIoctl(task, *net_, command, argument);
  if (!done.Is(ENOTTY)) return done;
  return Socket::Ioctl(task, command, argument);
}

}  // namespace amber
