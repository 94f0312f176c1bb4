// Addresses and control messages of inet sockets; making them.
#include "sentry/net/inet/inet_socket.h"

#include <linux/capability.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <string.h>

#include <algorithm>

#include "sentry/kernel/task.h"
#include "sentry/net/inet/host_socket.h"
#include "sentry/net/inet/net_namespace.h"
#include "sentry/net/inet/raw_socket.h"
#include "sentry/net/inet/tcp_socket.h"
#include "sentry/net/inet/udp_socket.h"

namespace amber {
namespace {

template <typename T>
std::string Bytes(const T& value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}

}  // namespace

namespace {

// ping_init_sock(): a group of the task's is in net.ipv4.ping_group_range. (Root, whom Linux refuses as well, was always let in here.)
bool MayPing(Task& task) {
  const NetNamespace& net = NetNamespace::Of(task);
  auto in_range = [&net](uint32_t gid) { return gid >= net.sysctl(kSysctlPingLow) && gid <= net.sysctl(kSysctlPingHigh); };
  const Credentials& creds = task.creds();
  if (in_range(creds.egid) || std::any_of(creds.groups.begin(), creds.groups.end(), in_range)) return true;
  return creds.HasIn(net.owner(), CAP_NET_RAW);
}

}  // namespace

ErrnoOr<RefPtr<Socket>> NewInetSocket(Task& task, int family, int type, int protocol) {
  bool v4 = family == AF_INET;
  if (protocol < 0 || protocol >= IPPROTO_MAX) return Errno(protocol == 262 /* MPTCP */ ? EPROTONOSUPPORT : EINVAL);
  if (NetNamespace::Of(task).host()) {
    if (type == SOCK_STREAM || type == SOCK_DGRAM) return HostSocket::Make(task, family, type, protocol);
    if (type == SOCK_RAW) return Errno(EPERM);  // the sentry has no privilege over the host's network
  }
  int echo = v4 ? int{IPPROTO_ICMP} : int{IPPROTO_ICMPV6};
  switch (type) {
    case SOCK_STREAM:
      if (protocol != 0 && protocol != IPPROTO_TCP) return Errno(EPROTONOSUPPORT);
      return RefPtr<Socket>(MakeRef<TcpSocket>(task, family));
    case SOCK_DGRAM:
      if (protocol == echo) {
        if (!MayPing(task)) return Errno(EACCES);
        return RefPtr<Socket>(MakeRef<RawSocket>(task, family, SOCK_DGRAM, protocol));
      }
      if (protocol == 0) protocol = IPPROTO_UDP;
      if (protocol != IPPROTO_UDP && protocol != IPPROTO_UDPLITE) return Errno(EPROTONOSUPPORT);
      return RefPtr<Socket>(MakeRef<UdpSocket>(task, family, protocol));
    case SOCK_RAW:
      if (protocol == 0) return Errno(EPROTONOSUPPORT);
      if (!task.creds().HasIn(NetNamespace::Of(task).owner(), CAP_NET_RAW)) return Errno(EPERM);
      return RefPtr<Socket>(MakeRef<RawSocket>(task, family, SOCK_RAW, protocol));
    default: return Errno(ESOCKTNOSUPPORT);
  }
}

namespace {

// __ipv6_addr_needs_scope_id().
bool NeedsScope(const net::IpAddress& address) {
  constexpr uint8_t kInterfaceLocal = 1, kLinkLocal = 2;
  if (address.v4() || !address.multicast()) return !address.v4() && address.link_local();
  uint8_t scope = address.bytes[1] & 0xf;
  return scope == kInterfaceLocal || scope == kLinkLocal;
}

}  // namespace

ErrnoOr<void> InetSocket::TakeScope(const net::Endpoint& to) {
  if (family_ != AF_INET6 || !NeedsScope(to.address)) return Ok();
  if (to.scope != 0) {
    if (device_ != 0 && device_ != static_cast<int>(to.scope)) return Errno(EINVAL);
    device_ = static_cast<int>(to.scope);
  }
  if (device_ == 0 && to.address.multicast()) device_ = ip_.multicast_if;
  return device_ != 0 ? ErrnoOr<void>() : Errno(EINVAL);
}

ErrnoOr<net::Endpoint> InetSocket::BindAddress(Task& task, std::string_view address) {
  std::string copy(address);
  // AF_UNSPEC with no address passes for AF_INET (inet_bind).
  if (family_ == AF_INET && copy.size() >= sizeof(sockaddr_in) && net::SockaddrFamily(copy) == AF_UNSPEC) {
    sockaddr_in in;
    memcpy(&in, copy.data(), sizeof(in));
    if (in.sin_addr.s_addr == 0) {
      in.sin_family = AF_INET;
      memcpy(copy.data(), &in, sizeof(in));
    }
  }
  net::Endpoint e = TRY(net::ParseSockaddr(copy, family_));
  if (family_ == AF_INET6 && e.address.v4() && ip_.v6only) return Errno(EINVAL);
  // __inet6_bind(): the link stays the socket's even if it cannot be bound.
  if (family_ == AF_INET6 && NeedsScope(e.address)) {
    if (e.scope != 0) device_ = static_cast<int>(e.scope);
    if (device_ == 0) return Errno(EINVAL);
  }
  if (family_ == AF_INET6 && !e.address.v4() && !e.address.any() && device_ != 0 && net_->stack().FindLink(device_) == nullptr) return Errno(ENODEV);
  bool foreign_ok = ip_.freebind || ip_.transparent;
  if (!foreign_ok && !net_->stack().MayBind(e.address)) return Errno(EADDRNOTAVAIL);
  if (e.port != 0 && e.port < net_->sysctl(kSysctlUnprivilegedPort) && type_ != SOCK_RAW && !task.creds().HasIn(net_->owner(), CAP_NET_BIND_SERVICE))
    return Errno(EACCES);
  return e;
}

ErrnoOr<net::Endpoint> InetSocket::TargetAddress(std::string_view address, bool any_family) const {
  int family = family_;
  if (any_family && family_ == AF_INET6 && net::SockaddrFamily(address) == AF_INET) family = AF_INET;
  net::Endpoint e = TRY(net::ParseSockaddr(address, family));
  if (family_ == AF_INET6 && e.address.v4() && ip_.v6only) return Errno(ENETUNREACH);
  return e;
}

uint8_t InetSocket::Ttl(bool v4, bool multicast) const {
  int ttl = v4 ? (multicast ? ip_.multicast_ttl : ip_.ttl) : (multicast ? ip_.multicast_hops : ip_.hop_limit);
  if (ttl < 0) ttl = multicast ? 1 : 64;
  return static_cast<uint8_t>(ttl);
}

void InetSocket::AddControl(ReceiveRequest& request, const net::IpAddress& destination, int link, uint8_t ttl, uint8_t tos) const {
  auto add = [&](int level, int type, std::string data) { request.control.push_back({level, type, std::move(data)}); };
  bool v4 = destination.v4();
  if (v4 && ip_.packet_info) {
    in_pktinfo info{};
    info.ipi_ifindex = link;
    info.ipi_addr.s_addr = htonl(destination.v4_value());
    info.ipi_spec_dst = info.ipi_addr;
    add(SOL_IP, IP_PKTINFO, Bytes(info));
  }
  if (v4 && ip_.receive_ttl) add(SOL_IP, IP_TTL, Bytes<int>(ttl));
  if (v4 && ip_.receive_tos) add(SOL_IP, IP_TOS, std::string(1, static_cast<char>(tos)));
  if (family_ != AF_INET6) return;
  if (ip_.packet_info6) {
    in6_pktinfo info{};
    memcpy(info.ipi6_addr.s6_addr, destination.bytes.data(), 16);
    info.ipi6_ifindex = static_cast<unsigned>(link);
    add(SOL_IPV6, IPV6_PKTINFO, Bytes(info));
  }
  if (!v4 && ip_.receive_hop_limit) add(SOL_IPV6, IPV6_HOPLIMIT, Bytes<int>(ttl));
  if (!v4 && ip_.receive_class) add(SOL_IPV6, IPV6_TCLASS, Bytes<int>(tos));
}

ErrnoOr<size_t> InetSocket::HandOver(ReceiveRequest& request, const Datagram& d) {
  size_t copied = std::min<size_t>(d.data.size, request.sink.remaining());
  if (copied > 0) {
    auto put = request.sink.Put(d.data.data(), copied);
    if (!put.ok() || *put < copied) return Errno(EFAULT);
  }
  request.full_size = d.data.size;
  if (copied < d.data.size) request.out_flags |= MSG_TRUNC;
  request.address = SockaddrOf(d.from);
  AddTimestamp(request, d.received_at);
  AddControl(request, d.to, d.link, d.ttl, d.tos);
  // ip_cmsg_recv_dstaddr(), ip6_datagram_recv_specific_ctl().
  bool v4 = d.to.v4();
  if (d.to_port != 0 && (v4 ? Kept(SOL_IP, IP_RECVORIGDSTADDR) : Kept(SOL_IPV6, IPV6_RECVORIGDSTADDR)) != 0) {
    std::string address = net::MakeSockaddr({d.to, d.to_port}, v4 ? AF_INET : AF_INET6);
    request.control.push_back({v4 ? SOL_IP : SOL_IPV6, v4 ? IP_ORIGDSTADDR : IPV6_ORIGDSTADDR, std::move(address)});
  }
  return copied;
}

void InetSocket::RaisePipe(Task& task, int flags) const {
  if ((flags & MSG_NOSIGNAL) != 0) return;
  task.SendSignal(SigInfo::User(SIGPIPE, SI_USER, task.pid(), task.creds().uid));
}

}  // namespace amber
