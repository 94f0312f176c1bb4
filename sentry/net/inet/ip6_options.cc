// Options of SOL_IPV6 (ipv6(7), do_ipv6_setsockopt()).
#include <linux/capability.h>
#include <netinet/in.h>

#include <algorithm>
#include <iterator>

#include "sentry/kernel/task.h"
#include "sentry/net/inet/inet_socket.h"
#include "sentry/net/inet/ip_row.h"
#include "sentry/net/inet/net_namespace.h"
#include "sentry/net/inet/option_util.h"

namespace amber {
namespace {

// Of linux/in6.h, which clashes with the C library's header.
constexpr int kFlowInfoSend = 33, kRecvErrRfc4884 = 31, kRecvFragSize = 77, kFreeBind = 78, kMulticastAll = 29, kRouterAlertIsolate = 30;
constexpr int kPreferences = IPV6_ADDR_PREFERENCES;
constexpr int kPublicDefault = 0x500;  // what IPV6_ADDR_PREFERENCES tells if nothing was preferred

// ipv6_sock_set_addr_preferences() takes one of each kind: temporary or public addresses, home or care of, generated or not.
bool GoodPreferences(int n) {
  constexpr int kTemporary = 1, kPublic = 2, kCareOf = 4, kGenerated = 8, kPublicOrTemporary = 0x100, kHome = 0x400, kNotGenerated = 0x800;
  auto alone = [n](int all) {
    int set = n & all;
    return (set & (set - 1)) == 0;
  };
  return alone(kTemporary | kPublic | kPublicOrTemporary) && alone(kHome | kCareOf) && alone(kGenerated | kNotGenerated);
}

}  // namespace

const InetSocket::IpRow* InetSocket::FindIp6Row(int name) {
  static constexpr IpRow kRows[] = {
      {.name = IPV6_RECVPKTINFO, .flag = &IpOptions::packet_info6},
      {.name = IPV6_RECVHOPLIMIT, .flag = &IpOptions::receive_hop_limit},
      {.name = IPV6_RECVTCLASS, .flag = &IpOptions::receive_class},
      {.name = IPV6_RECVERR, .flag = &IpOptions::receive_error6},
      {.name = kFreeBind, .flag = &IpOptions::freebind},
      {.name = IPV6_TRANSPARENT, .flag = &IpOptions::transparent, .privileged = true},
      {.name = IPV6_MTU_DISCOVER, .low = 0, .high = 5, .number = &IpOptions::mtu_discover},
      {.name = IPV6_MULTICAST_LOOP, .low = 0, .high = 1, .flag = &IpOptions::multicast_loop},
      {.name = IPV6_RECVORIGDSTADDR},
      {.name = IPV6_RECVHOPOPTS},
      {.name = IPV6_RECVRTHDR},
      {.name = IPV6_RECVDSTOPTS},
      {.name = IPV6_RECVPATHMTU},
      {.name = kRecvFragSize},
      {.name = IPV6_DONTFRAG},
      {.name = IPV6_AUTOFLOWLABEL, .initial = 1},
      {.name = kFlowInfoSend},
      {.name = kMulticastAll, .initial = 1},
      {.name = kRouterAlertIsolate},
      {.name = IPV6_HDRINCL, .only_raw = ENOPROTOOPT},
      {.name = kRecvErrRfc4884, .low = 0, .high = 1},
      {.name = IPV6_MINHOPCOUNT, .low = 0, .high = 255},
  };
  const IpRow* found = std::ranges::find_if(kRows, [name](const IpRow& r) { return r.name == name; });
  return found == std::end(kRows) ? nullptr : found;
}

ErrnoOr<void> InetSocket::SetIp6Option(Task& task, int name, std::span<const uint8_t> value) {
  if (name == IPV6_JOIN_GROUP || name == IPV6_LEAVE_GROUP) {
    auto m = TRY(ParseOption<ipv6_mreq>(value));
    return CheckGroup(net::IpAddress::V6Bytes(m.ipv6mr_multiaddr.s6_addr), static_cast<int>(m.ipv6mr_interface), {});
  }
  if (name == MCAST_JOIN_GROUP || name == MCAST_LEAVE_GROUP) return ChangeGroup(value);
  if (name == IPV6_HOPOPTS || name == IPV6_RTHDR || name == IPV6_DSTOPTS || name == IPV6_RTHDRDSTOPTS) {
    return value.empty() ? ErrnoOr<void>() : Errno(EINVAL);  // no extension headers are sent
  }
  const IpRow* row = FindIp6Row(name);
  auto number = ParseOption<int>(value);
  if (row != nullptr) return SetIpRow(task, SOL_IPV6, *row, TRY(std::move(number)), value.size());
  int n = number.ok() ? *number : 0;
  switch (name) {
    case IPV6_V6ONLY:
      if (!number.ok() || bound() || type_ == SOCK_RAW) return Errno(EINVAL);
      ip_.v6only = n != 0;
      return Ok();
    case IPV6_UNICAST_HOPS:
      if (!number.ok() || n < -1 || n > 255) return Errno(EINVAL);
      ip_.hop_limit = n;
      return Ok();
    case IPV6_MULTICAST_HOPS:
      if (type_ == SOCK_STREAM) return Errno(ENOPROTOOPT);
      if (!number.ok() || n < -1 || n > 255) return Errno(EINVAL);
      ip_.multicast_hops = n;
      return Ok();
    case IPV6_MULTICAST_IF:
      if (type_ == SOCK_STREAM) return Errno(ENOPROTOOPT);
      if (!number.ok()) return Errno(EINVAL);
      if (n != 0 && net_->stack().FindLink(n) == nullptr) return Errno(ENODEV);
      ip_.multicast_if = n;
      return Ok();
    case IPV6_TCLASS:
      if (!number.ok() || n < -1 || n > 255) return Errno(EINVAL);
      ip_.traffic_class = std::max(n, 0) & (type_ == SOCK_STREAM ? 0xfc : 0xff);
      return Ok();
    case IPV6_MTU:
      if (!number.ok() || (n != 0 && n < 1280)) return Errno(EINVAL);
      return Ok();
    case IPV6_UNICAST_IF: {
      if (value.size() != sizeof(int)) return Errno(EINVAL);
      int index = static_cast<int>(ntohl(static_cast<uint32_t>(n)));
      if (index != 0 && net_->stack().FindLink(index) == nullptr) return Errno(EADDRNOTAVAIL);
      Keep(SOL_IPV6, name, n);
      return Ok();
    }
    case kPreferences:
      if (!number.ok() || !GoodPreferences(n)) return Errno(EINVAL);
      Keep(SOL_IPV6, name, n & 0xd0f);  // others are nobody's
      return Ok();
    default: return Errno(ENOPROTOOPT);
  }
}

std::optional<int> InetSocket::Ip6Option(int name) const {
  if (name == IPV6_HDRINCL && type_ != SOCK_RAW) return std::nullopt;
  if (const IpRow* row = FindIp6Row(name); row != nullptr) return IpRowValue(SOL_IPV6, *row);
  switch (name) {
    case IPV6_V6ONLY: return ip_.v6only ? 1 : 0;
    case IPV6_UNICAST_HOPS: return ip_.hop_limit < 0 ? 64 : ip_.hop_limit;
    case IPV6_MULTICAST_HOPS: return ip_.multicast_hops < 0 ? 1 : ip_.multicast_hops;
    case IPV6_MULTICAST_IF: return ip_.multicast_if;
    case IPV6_TCLASS: return ip_.traffic_class;
    case IPV6_MTU: return kMtu;
    case IPV6_UNICAST_IF: return Kept(SOL_IPV6, name);
    case kPreferences: {
      // What was not said is what there is without it.
      int n = Kept(SOL_IPV6, name);
      if ((n & 0x103) == 0) n |= kPublicDefault & 0x100;
      if ((n & 0x404) == 0) n |= kPublicDefault & 0x400;
      return n;
    }
    default: return std::nullopt;
  }
}

}  // namespace amber
