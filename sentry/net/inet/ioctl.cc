// Interface ioctls (netdevice(7)), which any socket takes.
#include <linux/capability.h>
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

const net::InterfaceAddress* FirstV4(const net::Link& link) {
  for (const net::InterfaceAddress& a : link.addresses()) {
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

ErrnoOr<void> Get(net::Link& link, uint32_t command, ifreq* r) {
  const net::InterfaceAddress* address = FirstV4(link);
  switch (command) {
    case SIOCGIFFLAGS: r->ifr_flags = static_cast<int16_t>(link.flags()); return Ok();
    case SIOCGIFMTU: r->ifr_mtu = static_cast<int>(link.mtu()); return Ok();
    case SIOCGIFINDEX: r->ifr_ifindex = link.index(); return Ok();
    case SIOCGIFMETRIC: r->ifr_metric = 0; return Ok();
    case SIOCGIFTXQLEN: r->ifr_qlen = 1000; return Ok();
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
      if (command == SIOCGIFBRDADDR) value = (link.flags() & IFF_BROADCAST) != 0 ? value | ~Mask(address->prefix) : 0;
      PutAddress(value, &r->ifr_addr);
      return Ok();
    }
    default: return Errno(ENOTTY);
  }
}

ErrnoOr<void> Set(net::Stack& stack, net::Link& link, uint32_t command, const ifreq& r) {
  switch (command) {
    case SIOCSIFFLAGS: stack.SetUp(link, (static_cast<uint16_t>(r.ifr_flags) & IFF_UP) != 0); return Ok();
    case SIOCSIFMTU:
      if (r.ifr_mtu < 68 || r.ifr_mtu > 0x7fffffff / 2) return Errno(EINVAL);
      link.set_mtu(static_cast<uint32_t>(r.ifr_mtu));
      stack.Changed();
      return Ok();
    case SIOCSIFADDR: {
      sockaddr_in in;
      memcpy(&in, &r.ifr_addr, sizeof(in));
      if (in.sin_family != AF_INET) return Errno(EINVAL);
      std::erase_if(link.addresses(), [](const net::InterfaceAddress& a) { return a.address.v4(); });
      stack.Changed();
      uint32_t value = ntohl(in.sin_addr.s_addr);
      if (value == 0) return Ok();
      uint8_t scope = value >> 24 == 127 ? 254 : 0;
      return stack.AddAddress(link, {net::IpAddress::V4(value), 8, scope});
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
  bool set = command == SIOCSIFFLAGS || command == SIOCSIFMTU || command == SIOCSIFADDR;
  // Asked of cards and of what bundles them; programs that capture packets ask every interface.
  constexpr uint32_t kBondInfo = 0x8994;  // SIOCBONDINFOQUERY
  bool of_cards = command == SIOCETHTOOL || command == SIOCGMIIPHY || command == kBondInfo;
  bool known = set || of_cards || (command >= SIOCGIFNAME && command <= SIOCGIFTXQLEN) || command == SIOCGIFMAP;
  if (!known) return Errno(command == SIOCADDRT || command == SIOCDELRT ? EOPNOTSUPP : ENOTTY);
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
      TRY(Set(stack, *link, command, r));
      return uint64_t{0};
    }
    TRY(Get(*link, command, &r));
  }
  TRY(task.CopyOut(UserPtr<ifreq>(argument), r));
  return uint64_t{0};
}

ErrnoOr<uint64_t> InetSocket::Ioctl(Task& task, uint32_t command, uint64_t argument) {
  if (auto stamp = StampIoctl(task, command, argument); !stamp.Is(ENOTTY)) return stamp;
  auto done = InterfaceIoctl(task, *net_, command, argument);
  if (!done.Is(ENOTTY)) return done;
  return Socket::Ioctl(task, command, argument);
}

}  // namespace amber
