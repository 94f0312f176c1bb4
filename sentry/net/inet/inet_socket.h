// What TCP, UDP and raw sockets have in common: the network namespace, addresses, options of SOL_IP and SOL_IPV6, interface ioctls.
//
// Guarded by the kernel lock.
#pragma once

#include <cstdint>
#include <ctime>
#include <optional>
#include <string>

#include "sentry/net/inet/net_namespace.h"
#include "sentry/net/ip/ip_address.h"
#include "sentry/net/socket.h"

namespace amber {

namespace proto {
class InetSocket;
}

// A socket of AF_INET or AF_INET6: EAFNOSUPPORT, ESOCKTNOSUPPORT, EPROTONOSUPPORT, EPERM.
ErrnoOr<RefPtr<Socket>> NewInetSocket(Task& task, int family, int type, int protocol);
// SIOCGIF* and SIOCSIF*, which every socket takes; ENOTTY for others.
ErrnoOr<uint64_t> InterfaceIoctl(Task& task, NetNamespace& net, uint32_t command, uint64_t argument);
// The same on sockets of other families: no IPv4 addresses, no routes (dev_ioctl()).
ErrnoOr<uint64_t> DeviceIoctl(Task& task, NetNamespace& net, uint32_t command, uint64_t argument);

// A datagram or raw packet that waits for its reader.
struct Datagram {
  net::Slice data;
  net::Endpoint from;
  net::IpAddress to;
  uint16_t to_port = 0;  // of UDP
  int link = 0;
  uint8_t ttl = 64, tos = 0;
  int64_t received_at = RealtimeNs();  // for SO_TIMESTAMP

  static int64_t RealtimeNs() {
    timespec now{};
    clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec * 1'000'000'000 + now.tv_nsec;
  }
};

// Options of SOL_IP and SOL_IPV6. What has an effect is used by name; others are only kept.
struct IpOptions {
  int tos = 0, ttl = -1, hop_limit = -1, traffic_class = 0;
  int multicast_ttl = 1, multicast_hops = -1, multicast_if = 0;
  bool multicast_loop = true, v6only = false;
  bool packet_info = false, receive_ttl = false, receive_tos = false, receive_error = false;
  bool packet_info6 = false, receive_hop_limit = false, receive_class = false, receive_error6 = false;
  bool freebind = false, transparent = false, header_included = false, original_destination = false;
  int mtu_discover = 1;
  int mark = 0;
  bool reuse_port = false;
};

class InetSocket : public Socket {
 public:
  ErrnoOr<void> SetOption(Task& task, int level, int name, std::span<const uint8_t> value) override;
  ErrnoOr<std::string> GetOption(Task& task, int level, int name, size_t capacity) override;
  ErrnoOr<uint64_t> Ioctl(Task& task, uint32_t command, uint64_t argument) override;
  NetNamespace& net() const { return *net_; }
  const IpOptions& ip() const { return ip_; }

 protected:
  InetSocket() = default;
  ~InetSocket() override = default;

  // An option has changed that the transport should know.
  virtual void OptionsChanged() {}
  // Bound to an address or port already (IPV6_V6ONLY and SO_BINDTODEVICE look at it).
  virtual bool bound() const { return false; }
  // The address of bind(2), checked: family, privileged ports, that it is ours.
  // One that is good on one link binds the socket to that.
  ErrnoOr<net::Endpoint> BindAddress(Task& task, std::string_view address);
  // connect(2) to such an address does the same; EINVAL if nobody says which link is meant.
  ErrnoOr<void> TakeScope(const net::Endpoint& to);
  // The address of connect(2) or sendto(2). `any_family`: a sockaddr_in is good for an IPv6 socket.
  ErrnoOr<net::Endpoint> TargetAddress(std::string_view address, bool any_family) const;
  // The interface by which `to` is to be reached; 0: any. An address of IPv6 that is good on one link says which (sin6_scope_id).
  int DeviceFor(const net::Endpoint& to) const {
    if (device_ != 0) return device_;
    if (!to.address.v4() && to.scope != 0 && (to.address.link_local() || to.address.multicast())) return static_cast<int>(to.scope);
    return to.address.multicast() ? ip_.multicast_if : 0;
  }
  std::string SockaddrOf(const net::Endpoint& e) const { return net::MakeSockaddr(e, family_); }
  uint8_t Ttl(bool v4, bool multicast) const;
  uint8_t Tos(bool v4) const { return static_cast<uint8_t>(v4 ? ip_.tos : ip_.traffic_class); }
  // IP_PKTINFO and its kin for what `packet` brought.
  void AddControl(ReceiveRequest& request, const net::IpAddress& destination, int link, uint8_t ttl, uint8_t tos) const;
  // Copies a datagram out, with its sender and control messages; the number of bytes that fit.
  ErrnoOr<size_t> HandOver(ReceiveRequest& request, const Datagram& d);
  void RaisePipe(Task& task, int flags) const;
  void SaveInet(state::Saver& saver, proto::InetSocket* out) const;
  bool LoadInet(state::Loader& loader, const proto::InetSocket& in);

  RefPtr<NetNamespace> net_;
  IpOptions ip_;
  int device_ = 0;

 private:
  ErrnoOr<void> SetSocketOption(Task& task, int name, std::span<const uint8_t> value);
  static constexpr int kMtu = 65536;  // of lo

  // IPv4's options are for IPv6 sockets, too, but for raw ones (ipv6_setsockopt()).
  bool TakesIp() const { return family_ == AF_INET || type_ != SOCK_RAW; }
  struct IpRow;
  static const IpRow* FindIpRow(int name);
  static const IpRow* FindIp6Row(int name);
  ErrnoOr<void> SetIpRow(Task& task, int level, const IpRow& row, int n, size_t size);
  int IpRowValue(int level, const IpRow& row) const;
  ErrnoOr<void> CheckGroup(const net::IpAddress& group, int index, const net::IpAddress& interface) const;
  ErrnoOr<void> ChangeGroup(std::span<const uint8_t> value) const;
  ErrnoOr<void> SetMulticastInterface(std::span<const uint8_t> value);
  ErrnoOr<void> SetIpOption(Task& task, int name, std::span<const uint8_t> value);
  ErrnoOr<void> SetIp6Option(Task& task, int name, std::span<const uint8_t> value);
  std::optional<int> IpOption(int name);
  std::optional<int> Ip6Option(int name) const;
};

}  // namespace amber
