// Options of SOL_SOCKET that matter to inet sockets, of SOL_IP and SOL_IPV6 (ip(7), ipv6(7)).
#include <linux/capability.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>

#include <algorithm>

#include "sentry/kernel/task.h"
#include "sentry/net/inet/inet_socket.h"
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

namespace amber {

ErrnoOr<void> InetSocket::SetOption(Task& task, int level, int name, std::span<const uint8_t> value) {
  if (level == SOL_SOCKET) {
    TRY(SetSocketOption(task, name, value));
  } else if (level == SOL_IP) {
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
      if (index < 0) return Errno(EINVAL);
      if (index != 0 && net_->stack().FindLink(index) == nullptr) return Errno(ENODEV);
      device_ = index;
      return Ok();
    }
    case SO_MARK:
      if (!task.creds().HasIn(net_->owner(), CAP_NET_ADMIN) && !task.creds().HasIn(net_->owner(), CAP_NET_RAW)) return Errno(EPERM);
      ip_.mark = TRY(ParseOption<int>(value));
      return Ok();
    case SO_INCOMING_CPU:
    case SO_BUSY_POLL:
    case SO_RXQ_OVFL:
    case SO_SELECT_ERR_QUEUE:
    case SO_TIMESTAMPING:
    case SO_ZEROCOPY:
    case SO_PREFER_BUSY_POLL: TRY(ParseOption<int>(value)); return Ok();
    case SO_MAX_PACING_RATE: return Ok();
    case SO_DETACH_FILTER: return Errno(ENOENT);  // none is attached: filters are not taken
    default: return Socket::SetOption(task, SOL_SOCKET, name, value);
  }
}

ErrnoOr<void> InetSocket::SetIpOption(Task& task, int name, std::span<const uint8_t> value) {
  if (name == IP_MULTICAST_IF) {
    if (value.size() >= sizeof(ip_mreqn)) {
      ip_.multicast_if = TRY(ParseOption<ip_mreqn>(value)).imr_ifindex;
      return Ok();
    }
    uint32_t address = value.size() >= sizeof(ip_mreq) ? TRY(ParseOption<ip_mreq>(value)).imr_interface.s_addr : TRY(ParseOption<uint32_t>(value));
    ip_.multicast_if = 0;
    for (const auto& link : net_->stack().links()) {
      for (const net::InterfaceAddress& a : link->addresses()) {
        if (a.address == net::IpAddress::V4(ntohl(address))) ip_.multicast_if = link->index();
      }
    }
    return address == 0 || ip_.multicast_if != 0 ? ErrnoOr<void>() : Errno(EADDRNOTAVAIL);
  }
  if (name == IP_ADD_MEMBERSHIP || name == IP_DROP_MEMBERSHIP) {
    auto m = TRY(ParseOption<ip_mreq>(value));
    net::IpAddress group = net::IpAddress::V4(ntohl(m.imr_multiaddr.s_addr));
    if (!group.multicast()) return Errno(EINVAL);
    // Every socket hears every group of an interface that it is bound for (IP_MULTICAST_ALL), so there is nothing to keep.
    int index = value.size() >= sizeof(ip_mreqn) ? TRY(ParseOption<ip_mreqn>(value)).imr_ifindex : 0;
    bool known = index != 0 ? net_->stack().FindLink(index) != nullptr
                            : m.imr_interface.s_addr != 0 && net_->stack().IsLocal(net::IpAddress::V4(ntohl(m.imr_interface.s_addr)));
    return known ? ErrnoOr<void>() : Errno(ENODEV);
  }
  int n = TRY(ParseShortOption(value));
  switch (name) {
    case IP_TOS: ip_.tos = n & (type_ == SOCK_STREAM ? 0xfc : 0xff); return Ok();
    case IP_TTL:
      if (n != -1 && (n < 1 || n > 255)) return Errno(EINVAL);
      ip_.ttl = n;
      return Ok();
    case IP_MULTICAST_TTL:
      if (type_ == SOCK_STREAM || n < -1 || n > 255) return Errno(EINVAL);
      ip_.multicast_ttl = n == -1 ? 1 : n;
      return Ok();
    case IP_MULTICAST_LOOP: ip_.multicast_loop = n != 0; return Ok();
    case IP_PKTINFO: ip_.packet_info = n != 0; return Ok();
    case IP_RECVTTL: ip_.receive_ttl = n != 0; return Ok();
    case IP_RECVTOS: ip_.receive_tos = n != 0; return Ok();
    case IP_RECVERR: ip_.receive_error = n != 0; return Ok();
    case IP_FREEBIND: ip_.freebind = n != 0; return Ok();
    case IP_TRANSPARENT:
      if (n != 0 && !task.creds().HasIn(net_->owner(), CAP_NET_ADMIN) && !task.creds().HasIn(net_->owner(), CAP_NET_RAW)) return Errno(EPERM);
      ip_.transparent = n != 0;
      return Ok();
    case IP_MTU_DISCOVER:
      if (n < 0 || n > 5) return Errno(EINVAL);
      ip_.mtu_discover = n;
      return Ok();
    case IP_HDRINCL:
      if (type_ != SOCK_RAW) return Errno(ENOPROTOOPT);
      ip_.header_included = n != 0;
      return Ok();
    case IP_RECVORIGDSTADDR:
    case IP_RECVOPTS:
    case IP_RETOPTS:
    case IP_MINTTL:
    case IP_MULTICAST_ALL:
    case IP_BIND_ADDRESS_NO_PORT:
    case IP_NODEFRAG:
    case IP_LOCAL_PORT_RANGE:
    case IP_RECVERR_RFC4884: return Ok();
    default: return Errno(ENOPROTOOPT);
  }
}

ErrnoOr<void> InetSocket::SetIp6Option(Task&, int name, std::span<const uint8_t> value) {
  if (name == IPV6_JOIN_GROUP || name == IPV6_LEAVE_GROUP) {
    auto m = TRY(ParseOption<ipv6_mreq>(value));
    if (!net::IpAddress::V6Bytes(m.ipv6mr_multiaddr.s6_addr).multicast()) return Errno(EINVAL);
    if (m.ipv6mr_interface != 0 && net_->stack().FindLink(static_cast<int>(m.ipv6mr_interface)) == nullptr) return Errno(ENODEV);
    return m.ipv6mr_interface != 0 ? ErrnoOr<void>() : Errno(ENODEV);
  }
  int n = TRY(ParseOption<int>(value));
  switch (name) {
    case IPV6_V6ONLY:
      if (bound()) return Errno(EINVAL);
      ip_.v6only = n != 0;
      return Ok();
    case IPV6_UNICAST_HOPS:
      if (n < -1 || n > 255) return Errno(EINVAL);
      ip_.hop_limit = n;
      return Ok();
    case IPV6_MULTICAST_HOPS:
      if (type_ == SOCK_STREAM) return Errno(ENOPROTOOPT);
      if (n < -1 || n > 255) return Errno(EINVAL);
      ip_.multicast_hops = n;
      return Ok();
    case IPV6_MULTICAST_LOOP:
      if (n != 0 && n != 1) return Errno(EINVAL);
      ip_.multicast_loop = n != 0;
      return Ok();
    case IPV6_MULTICAST_IF:
      if (n != 0 && net_->stack().FindLink(n) == nullptr) return Errno(ENODEV);
      ip_.multicast_if = n;
      return Ok();
    case IPV6_TCLASS:
      if (n < -1 || n > 255) return Errno(EINVAL);
      ip_.traffic_class = std::max(n, 0);
      return Ok();
    case IPV6_RECVPKTINFO: ip_.packet_info6 = n != 0; return Ok();
    case IPV6_RECVHOPLIMIT: ip_.receive_hop_limit = n != 0; return Ok();
    case IPV6_RECVTCLASS: ip_.receive_class = n != 0; return Ok();
    case IPV6_RECVERR: ip_.receive_error6 = n != 0; return Ok();
    case IPV6_FREEBIND: ip_.freebind = n != 0; return Ok();
    case IPV6_MTU_DISCOVER:
      if (n < 0 || n > 5) return Errno(EINVAL);
      ip_.mtu_discover = n;
      return Ok();
    case IPV6_AUTOFLOWLABEL:
    case IPV6_DONTFRAG:
    case IPV6_MTU:
    case IPV6_ADDR_PREFERENCES:
    case IPV6_RECVRTHDR:
    case IPV6_RECVHOPOPTS:
    case IPV6_RECVDSTOPTS:
    case IPV6_RECVPATHMTU:
    case IPV6_MINHOPCOUNT: return Ok();
    default: return Errno(ENOPROTOOPT);
  }
}

std::optional<int> InetSocket::IpOption(int name) const {
  switch (name) {
    case IP_TOS: return ip_.tos;
    case IP_TTL: return ip_.ttl < 0 ? 64 : ip_.ttl;
    case IP_MULTICAST_TTL: return ip_.multicast_ttl;
    case IP_MULTICAST_LOOP: return ip_.multicast_loop ? 1 : 0;
    case IP_PKTINFO: return ip_.packet_info ? 1 : 0;
    case IP_RECVTTL: return ip_.receive_ttl ? 1 : 0;
    case IP_RECVTOS: return ip_.receive_tos ? 1 : 0;
    case IP_RECVERR: return ip_.receive_error ? 1 : 0;
    case IP_FREEBIND: return ip_.freebind ? 1 : 0;
    case IP_TRANSPARENT: return ip_.transparent ? 1 : 0;
    case IP_MTU_DISCOVER: return ip_.mtu_discover;
    case IP_HDRINCL: return ip_.header_included ? 1 : 0;
    case IP_MULTICAST_ALL: return 1;
    case IP_MTU: return 65536;
    case IP_RECVORIGDSTADDR:
    case IP_RECVOPTS:
    case IP_RETOPTS:
    case IP_MINTTL:
    case IP_BIND_ADDRESS_NO_PORT:
    case IP_NODEFRAG:
    case IP_LOCAL_PORT_RANGE:
    case IP_MULTICAST_IF: return 0;
    default: return std::nullopt;
  }
}

std::optional<int> InetSocket::Ip6Option(int name) const {
  switch (name) {
    case IPV6_V6ONLY: return ip_.v6only ? 1 : 0;
    case IPV6_UNICAST_HOPS: return ip_.hop_limit < 0 ? 64 : ip_.hop_limit;
    case IPV6_MULTICAST_HOPS: return ip_.multicast_hops < 0 ? 1 : ip_.multicast_hops;
    case IPV6_MULTICAST_LOOP: return ip_.multicast_loop ? 1 : 0;
    case IPV6_MULTICAST_IF: return ip_.multicast_if;
    case IPV6_TCLASS: return ip_.traffic_class;
    case IPV6_RECVPKTINFO: return ip_.packet_info6 ? 1 : 0;
    case IPV6_RECVHOPLIMIT: return ip_.receive_hop_limit ? 1 : 0;
    case IPV6_RECVTCLASS: return ip_.receive_class ? 1 : 0;
    case IPV6_RECVERR: return ip_.receive_error6 ? 1 : 0;
    case IPV6_FREEBIND: return ip_.freebind ? 1 : 0;
    case IPV6_MTU_DISCOVER: return ip_.mtu_discover;
    case IPV6_MTU: return 65536;
    case IPV6_AUTOFLOWLABEL: return 1;
    case IPV6_DONTFRAG:
    case IPV6_ADDR_PREFERENCES:
    case IPV6_RECVRTHDR:
    case IPV6_RECVHOPOPTS:
    case IPV6_RECVDSTOPTS:
    case IPV6_RECVPATHMTU:
    case IPV6_MINHOPCOUNT: return 0;
    default: return std::nullopt;
  }
}

ErrnoOr<std::string> InetSocket::GetOption(Task& task, int level, int name, size_t capacity) {
  if (level == SOL_IP || (level == SOL_IPV6 && family_ == AF_INET6)) {
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
    case SO_INCOMING_CPU: return OptionBytes<int>(0);
    case SO_NETNS_COOKIE: return OptionBytes(net_->cookie());
    case SO_MAX_PACING_RATE: return OptionBytes<int>(-1);
    case SO_BUSY_POLL:
    case SO_RXQ_OVFL:
    case SO_SELECT_ERR_QUEUE:
    case SO_TIMESTAMPING:
    case SO_ZEROCOPY:
    case SO_PREFER_BUSY_POLL: return OptionBytes<int>(0);
    default: return Socket::GetOption(task, level, name, capacity);
  }
}

}  // namespace amber
