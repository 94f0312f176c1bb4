// Options of SOL_SOCKET that matter to inet sockets, of SOL_IP and SOL_IPV6 (ip(7), ipv6(7)).
#include <linux/capability.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>

#include <algorithm>
#include <iterator>

#include "sentry/kernel/task.h"
#include "sentry/net/inet/inet_socket.h"
#include "sentry/net/inet/ip_row.h"
#include "sentry/net/inet/net_namespace.h"
#include "sentry/net/inet/option_util.h"

#ifndef IPV6_FREEBIND
#define IPV6_FREEBIND 78
#endif
#ifndef IP_RECVERR_RFC4884
#define IP_RECVERR_RFC4884 26
#endif
#ifndef IP_LOCAL_PORT_RANGE
#define IP_LOCAL_PORT_RANGE 51
#endif

#ifndef IP_PROTOCOL
#define IP_PROTOCOL 52
#endif

namespace amber {

ErrnoOr<void> InetSocket::SetOption(Task& task, int level, int name, std::span<const uint8_t> value) {
  if (level == SOL_SOCKET) {
    TRY(SetSocketOption(task, name, value));
  } else if (level == SOL_IP && TakesIp()) {
    TRY(SetIpOption(task, name, value));
  } else if (level == SOL_IPV6 && family_ == AF_INET6) {
    TRY(SetIp6Option(task, name, value));
  } else {
    return Errno(ENOPROTOOPT);
  }
  OptionsChanged();
  return Ok();
}

ErrnoOr<void> InetSocket::SetSocketOption(Task& task, int name, std::span<const uint8_t> value) {
  switch (name) {
    case SO_BINDTODEVICE: {
      std::string device(reinterpret_cast<const char*>(value.data()), std::min<size_t>(value.size(), IFNAMSIZ - 1));
      device = device.substr(0, device.find('\0'));
      if (device.empty()) {
        device_ = 0;
        return Ok();
      }
      net::Link* link = net_->stack().FindLink(std::string_view(device));
      if (link == nullptr) return Errno(ENODEV);
      device_ = link->index();
      return Ok();
    }
    case SO_BINDTOIFINDEX: {
      int index = TRY(ParseOption<int>(value));
      if (index < 0) return Errno(EINVAL);  // of none that is there it hears nothing
      device_ = index;
      return Ok();
    }
    case SO_MARK:
      if (!task.creds().HasIn(net_->owner(), CAP_NET_ADMIN) && !task.creds().HasIn(net_->owner(), CAP_NET_RAW)) return Errno(EPERM);
      ip_.mark = TRY(ParseOption<int>(value));
      return Ok();
    default: return Socket::SetOption(task, SOL_SOCKET, name, value);
  }
}

const InetSocket::IpRow* InetSocket::FindIpRow(int name) {
  static constexpr IpRow kRows[] = {
      {.name = IP_PKTINFO, .flag = &IpOptions::packet_info},
      {.name = IP_RECVTTL, .flag = &IpOptions::receive_ttl},
      {.name = IP_RECVTOS, .flag = &IpOptions::receive_tos},
      {.name = IP_RECVERR, .flag = &IpOptions::receive_error},
      {.name = IP_FREEBIND, .flag = &IpOptions::freebind, .not_empty = true},
      {.name = IP_TRANSPARENT, .flag = &IpOptions::transparent, .not_empty = true, .privileged = true},
      {.name = IP_HDRINCL, .flag = &IpOptions::header_included, .only_raw = ENOPROTOOPT},
      {.name = IP_MULTICAST_LOOP, .flag = &IpOptions::multicast_loop, .not_empty = true},
      {.name = IP_MTU_DISCOVER, .low = 0, .high = 5, .number = &IpOptions::mtu_discover},
      {.name = IP_RECVOPTS},
      {.name = IP_RETOPTS},
      {.name = IP_PASSSEC},
      {.name = IP_RECVORIGDSTADDR},
      {.name = IP_CHECKSUM},
      {.name = IP_BIND_ADDRESS_NO_PORT},
      {.name = IP_RECVFRAGSIZE, .not_stream = true},
      {.name = IP_NODEFRAG, .only_raw = ENOPROTOOPT},
      {.name = IP_ROUTER_ALERT, .only_raw = EINVAL},
      {.name = IP_MINTTL, .low = 0, .high = 255, .not_empty = true},
      {.name = IP_MULTICAST_ALL, .low = 0, .high = 1, .initial = 1, .not_empty = true},
      {.name = IP_RECVERR_RFC4884, .low = 0, .high = 1},
  };
  const IpRow* found = std::ranges::find_if(kRows, [name](const IpRow& r) { return r.name == name; });
  return found == std::end(kRows) ? nullptr : found;
}

// ip_mc_join_group(): what a group is. Every socket hears every group of an interface that it is bound for (IP_MULTICAST_ALL), so there is nothing to keep.
ErrnoOr<void> InetSocket::CheckGroup(const net::IpAddress& group, int index, const net::IpAddress& interface) const {
  if (!group.multicast()) return Errno(EINVAL);
  bool known = index != 0 ? net_->stack().FindLink(index) != nullptr : !interface.any() && net_->stack().IsLocal(interface);
  return known ? ErrnoOr<void>() : Errno(ENODEV);
}

// MCAST_JOIN_GROUP and MCAST_LEAVE_GROUP, of both families.
ErrnoOr<void> InetSocket::ChangeGroup(std::span<const uint8_t> value) const {
  auto request = TRY(ParseOption<group_req>(value));
  std::string address(reinterpret_cast<const char*>(&request.gr_group), sizeof(request.gr_group));
  net::Endpoint group = TRY(net::ParseSockaddr(address, net::SockaddrFamily(address) == AF_INET ? AF_INET : AF_INET6));
  return CheckGroup(group.address, static_cast<int>(request.gr_interface), {});
}

ErrnoOr<void> InetSocket::SetMulticastInterface(std::span<const uint8_t> value) {
  if (type_ == SOCK_STREAM) return Errno(EINVAL);
  if (value.size() >= sizeof(ip_mreqn)) {
    ip_.multicast_if = TRY(ParseOption<ip_mreqn>(value)).imr_ifindex;
    return Ok();
  }
  uint32_t address = value.size() >= sizeof(ip_mreq) ? TRY(ParseOption<ip_mreq>(value)).imr_interface.s_addr : TRY(ParseOption<uint32_t>(value));
  int found = 0;
  for (const auto& link : net_->stack().links()) {
    for (const net::InterfaceAddress& a : link->addresses()) {
      if (a.address == net::IpAddress::V4(ntohl(address))) found = link->index();
    }
  }
  if (address != 0 && found == 0) return Errno(EADDRNOTAVAIL);
  ip_.multicast_if = found;
  return Ok();
}

ErrnoOr<void> InetSocket::SetIpOption(Task& task, int name, std::span<const uint8_t> value) {
  int n = TRY(ParseShortOption(value));
  if (const IpRow* row = FindIpRow(name); row != nullptr) return SetIpRow(task, SOL_IP, *row, n, value.size());
  switch (name) {
    case IP_MULTICAST_IF: return SetMulticastInterface(value);
    case IP_ADD_MEMBERSHIP:
    case IP_DROP_MEMBERSHIP: {
      if (type_ == SOCK_STREAM) return Errno(EPROTO);
      auto m = TRY(ParseOption<ip_mreq>(value));
      int index = value.size() >= sizeof(ip_mreqn) ? TRY(ParseOption<ip_mreqn>(value)).imr_ifindex : 0;
      net::IpAddress interface = m.imr_interface.s_addr != 0 ? net::IpAddress::V4(ntohl(m.imr_interface.s_addr)) : net::IpAddress{};
      return CheckGroup(net::IpAddress::V4(ntohl(m.imr_multiaddr.s_addr)), index, interface);
    }
    case MCAST_JOIN_GROUP:
    case MCAST_LEAVE_GROUP: return ChangeGroup(value);
    case IP_OPTIONS:
      // Padding alone is as good as none; others are not sent.
      return std::ranges::all_of(value, [](uint8_t byte) { return byte <= 1; }) ? ErrnoOr<void>() : Errno(EINVAL);
    case IP_TOS: ip_.tos = n & (type_ == SOCK_STREAM ? 0xfc : 0xff); return Ok();
    case IP_TTL:
      if (value.empty() || (n != -1 && (n < 1 || n > 255))) return Errno(EINVAL);
      ip_.ttl = n;
      return Ok();
    case IP_MULTICAST_TTL:
      if (value.empty() || type_ == SOCK_STREAM || n < -1 || n > 255) return Errno(EINVAL);
      ip_.multicast_ttl = n == -1 ? 1 : n;
      return Ok();
    case IP_UNICAST_IF: {
      if (value.size() != sizeof(int)) return Errno(EINVAL);
      int index = static_cast<int>(ntohl(static_cast<uint32_t>(n)));
      if (index != 0 && net_->stack().FindLink(index) == nullptr) return Errno(EADDRNOTAVAIL);
      Keep(SOL_IP, name, n);
      return Ok();
    }
    case IP_LOCAL_PORT_RANGE: {
      if (value.size() != sizeof(int)) return Errno(EINVAL);
      int low = n & 0xffff, high = n >> 16 & 0xffff;
      if (low != 0 && high != 0 && low > high) return Errno(EINVAL);
      Keep(SOL_IP, name, n);
      return Ok();
    }
    default: return Errno(ENOPROTOOPT);
  }
}

ErrnoOr<void> InetSocket::SetIpRow(Task& task, int level, const IpRow& row, int n, size_t size) {
  if (row.not_empty && size == 0) return Errno(EINVAL);
  if (row.not_stream && type_ == SOCK_STREAM) return Errno(EINVAL);
  if (row.only_raw != 0 && type_ != SOCK_RAW) return Errno(row.only_raw);
  bool limited = row.low != row.high;
  if (limited && (n < row.low || n > row.high)) return Errno(EINVAL);
  if (row.privileged && n != 0 && !task.creds().HasIn(net_->owner(), CAP_NET_ADMIN) && !task.creds().HasIn(net_->owner(), CAP_NET_RAW))
    return Errno(EPERM);
  if (!limited) n = n != 0 ? 1 : 0;
  if (row.flag != nullptr) {
    ip_.*row.flag = n != 0;
  } else if (row.number != nullptr) {
    ip_.*row.number = n;
  } else {
    Keep(level, row.name, n);
  }
  return Ok();
}

int InetSocket::IpRowValue(int level, const IpRow& row) const {
  if (row.flag != nullptr) return ip_.*row.flag ? 1 : 0;
  return row.number != nullptr ? ip_.*row.number : Kept(level, row.name, row.initial);
}

std::optional<int> InetSocket::IpOption(int name) {
  if (const IpRow* row = FindIpRow(name); row != nullptr) return IpRowValue(SOL_IP, *row);
  switch (name) {
    case IP_TOS: return ip_.tos;
    case IP_TTL: return ip_.ttl < 0 ? 64 : ip_.ttl;
    case IP_MULTICAST_TTL: return ip_.multicast_ttl;
    case IP_UNICAST_IF:
    case IP_LOCAL_PORT_RANGE: return Kept(SOL_IP, name);
    case IP_MTU: return std::min(kMtu, 0xffff);  // IP_MAX_MTU
    case IP_PROTOCOL: return type_ == SOCK_RAW ? protocol_ : 0;
    case IP_MULTICAST_IF: {
      net::Link* link = ip_.multicast_if != 0 ? net_->stack().FindLink(ip_.multicast_if) : nullptr;
      if (link == nullptr) return 0;
      for (const net::InterfaceAddress& a : link->addresses()) {
        if (a.address.v4()) return static_cast<int>(htonl(a.address.v4_value()));
      }
      return 0;
    }
    default: return std::nullopt;
  }
}

ErrnoOr<std::string> InetSocket::GetOption(Task& task, int level, int name, size_t capacity) {
  if ((level == SOL_IP && TakesIp()) || (level == SOL_IPV6 && family_ == AF_INET6)) {
    bool headers = name == IPV6_HOPOPTS || name == IPV6_RTHDR || name == IPV6_DSTOPTS || name == IPV6_RTHDRDSTOPTS;
    if (level == SOL_IP ? name == IP_OPTIONS : headers) return std::string();
    // A path's, which only a connected socket has.
    bool mtu = name == (level == SOL_IP ? int{IP_MTU} : int{IPV6_MTU});
    if (mtu && !PeerAddress().ok()) return Errno(ENOTCONN);
    std::optional<int> n = level == SOL_IP ? IpOption(name) : Ip6Option(name);
    if (!n) return Errno(ENOPROTOOPT);
    // A small value fits a byte where no more is asked for (do_ip_getsockopt).
    if (level == SOL_IP && capacity > 0 && capacity < sizeof(int) && *n >= 0 && *n <= 255) {
      return std::string(1, static_cast<char>(*n));
    }
    return OptionBytes(*n);
  }
  if (level != SOL_SOCKET) return Errno(family_ == AF_INET6 ? ENOPROTOOPT : EOPNOTSUPP);  // ipv6_getsockopt(), do_ip_getsockopt()
  switch (name) {
    case SO_BINDTODEVICE: {
      net::Link* link = device_ != 0 ? net_->stack().FindLink(device_) : nullptr;
      if (link == nullptr) return std::string();
      if (capacity < IFNAMSIZ) return Errno(EINVAL);
      return link->name() + std::string(1, '\0');
    }
    case SO_BINDTOIFINDEX: return OptionBytes(device_);
    case SO_MARK: return OptionBytes(ip_.mark);
    case SO_NETNS_COOKIE: return capacity == sizeof(uint64_t) ? ErrnoOr<std::string>(OptionBytes(net_->cookie())) : Errno(EINVAL);
    default: return Socket::GetOption(task, level, name, capacity);
  }
}

}  // namespace amber
