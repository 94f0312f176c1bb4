#include "sentry/net/inet/raw_socket.h"

#include <linux/icmp.h>
#include <linux/sockios.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>

#include <algorithm>

#include "sentry/kernel/task.h"
#include "sentry/net/inet/option_util.h"
#include "sentry/net/inet/raw_layer.h"
#include "sentry/net/ip/frame.h"
#include "sentry/net/ip/wire.h"

namespace amber {

namespace net {

RawLayer::RawLayer(Stack& stack) : stack_(stack) {
  stack_.SetTap([this](const Packet& p) { return Tap(p); });
}

RawLayer::~RawLayer() { stack_.SetTap(nullptr); }

bool RawLayer::Tap(const Packet& packet) {
  bool taken = false;
  RawBytes bytes;
  for (RawSocket* s : all_) taken |= s->Take(packet, &bytes);
  return taken;
}

bool RawLayer::IdentifierTaken(uint16_t id) const {
  return std::any_of(all_.begin(), all_.end(), [id](const RawSocket* s) { return s->identifier() == id; });
}

uint16_t RawLayer::FreeIdentifier(uint16_t start) const {
  for (uint32_t i = 0; i < 65535; ++i) {
    auto id = static_cast<uint16_t>(1 + (start + i) % 65535);
    if (!IdentifierTaken(id)) return id;
  }
  return 0;
}

}  // namespace net

RawSocket::RawSocket() { Init(AF_INET, SOCK_RAW, IPPROTO_ICMP); }

RawSocket::RawSocket(Task& task, int family, int type, int protocol) : RawSocket() {
  Init(family, type, protocol);
  net_ = RefPtr<NetNamespace>(&NetNamespace::Of(task));
  net_->raw().all().insert(this);
  local_.address = remote_.address = net::IpAddress::Any(family == AF_INET);
  toggles_ |= uint64_t{1} << SO_REUSEADDR;  // INET_PROTOSW_REUSE
  if (type == SOCK_RAW && protocol == IPPROTO_RAW) ip_.header_included = true;
}

RawSocket::~RawSocket() {
  if (net_) net_->raw().all().erase(this);
}

ErrnoOr<void> RawSocket::TakeIdentifier(uint16_t wanted) {
  if (wanted != 0 && net_->raw().IdentifierTaken(wanted)) return Errno(EADDRINUSE);
  local_.port = wanted != 0 ? wanted : net_->raw().FreeIdentifier(static_cast<uint16_t>(net_->Random()));
  return local_.port != 0 ? ErrnoOr<void>() : Errno(EADDRINUSE);
}

ErrnoOr<void> RawSocket::Bind(Task& task, std::string_view address) {
  net::Endpoint e = TRY(BindAddress(task, address));
  if (ping()) {
    if (local_.port != 0) return Errno(EINVAL);
    TRY(TakeIdentifier(e.port));
  }
  local_.address = e.address;
  bound_ = !e.address.any();
  return Ok();
}

ErrnoOr<void> RawSocket::Connect(Task&, std::string_view address) {
  if (address.size() < sizeof(sa_family_t)) return Errno(EINVAL);
  if (net::SockaddrFamily(address) == AF_UNSPEC) {
    connected_ = false;
    if (!bound_) local_.address = net::IpAddress::Any(family_ == AF_INET);
    return Ok();
  }
  net::Endpoint to = TRY(TargetAddress(address, false));
  if (to.address.any()) to.address = net::IpAddress::Loopback(to.address.v4());
  net::Path path = TRY(net_->stack().FindPath(to.address, bound_ ? local_.address : net::IpAddress{}, DeviceFor(to)));
  if (ping() && local_.port == 0) TRY(TakeIdentifier(0));
  if (!bound_) local_.address = path.source;
  remote_ = to;
  connected_ = true;
  return Ok();
}

ErrnoOr<void> RawSocket::Shutdown(Task&, int how) {
  if (how < SHUT_RD || how > SHUT_RDWR) return Errno(EINVAL);
  if (!connected_) return Errno(ENOTCONN);
  shutdown_ |= how + 1;
  queue_.Notify(POLLIN | POLLRDNORM | POLLRDHUP);
  return Ok();
}

ErrnoOr<std::string> RawSocket::LocalAddress() { return SockaddrOf(local_); }

ErrnoOr<std::string> RawSocket::PeerAddress() {
  if (!connected_) return Errno(ENOTCONN);
  return SockaddrOf(remote_);
}

ErrnoOr<size_t> RawSocket::Send(Task&, SendRequest& request) {
  if ((request.flags & MSG_OOB) != 0) return Errno(EOPNOTSUPP);
  net::Endpoint to = remote_;
  if (!request.address.empty()) {
    to = TRY(TargetAddress(request.address, false));
  } else if (!connected_) {
    return Errno(EDESTADDRREQ);
  }
  if (error_ != 0) return Errno(TakeError());
  size_t size = request.source.remaining();
  if (size > 65535) return Errno(EMSGSIZE);
  std::string bytes(size, '\0');
  if (size > 0 && TRY(request.source.Take(bytes.data(), size)) < size) return Errno(EFAULT);
  if (to.address.any()) to.address = net::IpAddress::Loopback(to.address.v4());
  net::Path path = TRY(net_->stack().FindPath(to.address, bound_ ? local_.address : net::IpAddress{}, DeviceFor(to)));
  net::Packet packet;
  packet.source = path.source;
  packet.destination = to.address;
  packet.protocol = static_cast<uint8_t>(protocol_);
  packet.mark = static_cast<uint32_t>(ip_.mark);
  packet.ttl = Ttl(packet.v4(), false);
  packet.tos = Tos(packet.v4());
  if (ip_.header_included && packet.v4()) {
    // The program's header; what it left out is filled in, as raw(7) says.
    if (bytes.size() < 20) return Errno(EINVAL);
    uint32_t zero = 0;
    if (memcmp(bytes.data() + 12, &zero, 4) == 0) bytes.replace(12, 4, packet.source.Raw());
    bytes[2] = static_cast<char>(size >> 8);
    bytes[3] = static_cast<char>(size & 0xff);
    if (net::ParsePacket(bytes, &packet, false) != net::ParseError::kNone) return Errno(EINVAL);
  } else {
    if (ping()) {
      uint8_t echo = packet.v4() ? ICMP_ECHO : ICMP6_ECHO_REQUEST;
      if (bytes.size() < 8 || static_cast<uint8_t>(bytes[0]) != echo || bytes[1] != 0) return Errno(EINVAL);
      if (local_.port == 0) TRY(TakeIdentifier(0));
      bytes[4] = static_cast<char>(local_.port >> 8);
      bytes[5] = static_cast<char>(local_.port & 0xff);
    }
    // The checksum is the kernel's for ICMPv6 and ping sockets, and nobody looks at it on loopback.
    if (net::ParseTransport(bytes, &packet, false) != net::ParseError::kNone) return Errno(EINVAL);
  }
  constexpr size_t kHeader4 = 20, kHeader6 = 40;
  size_t header = ip_.header_included && packet.v4() ? 0 : packet.v4() ? kHeader4 : kHeader6;
  if (!path.link->loopback() && size + header > path.link->mtu()) return Errno(EMSGSIZE);  // it would be sent in fragments
  net::Stack::Batch batch(net_->stack());
  net_->stack().Send(std::move(packet), path);
  return size;
}

bool RawSocket::Take(const net::Packet& packet, net::RawBytes* shared) {
  bool v4 = packet.v4();
  if (v4 != (family_ == AF_INET)) return false;
  if (protocol_ != packet.protocol) return false;
  if (device_ != 0 && device_ != packet.link) return false;
  if (bound_ && local_.address != packet.destination) return false;
  if (connected_ && remote_.address != packet.source) return false;
  bool icmp = packet.protocol == (v4 ? net::kIcmp : net::kIcmp6);
  if (ping()) {
    if (packet.icmp.type != (v4 ? ICMP_ECHOREPLY : ICMP6_ECHO_REPLY) || packet.icmp.rest >> 16 != local_.port) return false;
  } else if (icmp && (v4 ? packet.icmp.type < 32 : true) && (icmp_filter_[packet.icmp.type / 8] >> packet.icmp.type % 8 & 1) != 0) {
    return false;
  }
  // IPv4 raw sockets see the IP header (raw(7)); others do not.
  bool whole = v4 && !ping();
  if (charge_ + packet.payload.size + kOverhead > static_cast<size_t>(receive_buffer_)) return true;
  net::Slice& bytes = whole ? shared->packet : shared->transport;
  if (bytes.empty()) bytes = net::Slice::Copy(whole ? net::SerializePacket(packet) : net::SerializeTransport(packet));
  if (charge_ + bytes.size + kOverhead > static_cast<size_t>(receive_buffer_)) return true;
  Datagram d;
  d.data = bytes;
  if (filter_) {
    auto start = whole ? net::FilterStart::kNetwork : net::FilterStart::kTransport;
    net::CutTo(&d.data, net::RunFilter(*filter_, packet, net_->stack().FindLink(packet.link), start));
    if (d.data.empty()) return true;
  }
  d.from = {packet.source, 0, static_cast<uint32_t>(packet.scoped_link())};
  d.to = packet.destination;
  d.link = packet.link;
  d.ttl = packet.ttl;
  d.tos = packet.tos;
  charge_ += d.data.size + kOverhead;
  packets_.push_back(std::move(d));
  queue_.Notify(POLLIN | POLLRDNORM);
  return true;
}

ErrnoOr<size_t> RawSocket::Receive(Task&, ReceiveRequest& request) {
  if ((request.flags & MSG_OOB) != 0) return Errno(EOPNOTSUPP);
  if ((request.flags & MSG_ERRQUEUE) != 0) return Errno(EAGAIN);
  if (error_ != 0) return Errno(TakeError());
  if (packets_.empty()) return (shutdown_ & 1) != 0 ? ErrnoOr<size_t>(size_t{0}) : Errno(EAGAIN);
  Datagram d = packets_.front();
  if ((request.flags & MSG_PEEK) == 0) {
    charge_ -= d.data.size + kOverhead;
    packets_.pop_front();
  }
  return HandOver(request, d);
}

uint32_t RawSocket::Poll(Task&) {
  uint32_t events = POLLOUT | POLLWRNORM | POLLWRBAND;
  if (error_ != 0) events |= POLLERR;
  if (!packets_.empty() || (shutdown_ & 1) != 0) events |= POLLIN | POLLRDNORM;
  return events;
}

ErrnoOr<void> RawSocket::SetOption(Task& task, int level, int name, std::span<const uint8_t> value) {
  if (level == SOL_RAW && family_ == AF_INET && name == ICMP_FILTER) {
    if (protocol_ != IPPROTO_ICMP) return Errno(EOPNOTSUPP);
    memcpy(icmp_filter_, value.data(), std::min<size_t>(value.size(), 4));
    return Ok();
  }
  if (level == SOL_ICMPV6 && name == ICMP6_FILTER && protocol_ == IPPROTO_ICMPV6) {
    memcpy(icmp_filter_, value.data(), std::min<size_t>(value.size(), 32));
    return Ok();
  }
  if ((level == SOL_RAW || level == SOL_IPV6) && name == IPV6_CHECKSUM && family_ == AF_INET6) {
    // Where it goes is known of ICMPv6 (RFC 3542, 3.1); it is always ours.
    int at = TRY(ParseOption<int>(value));
    if ((protocol_ == IPPROTO_ICMPV6 && level == SOL_IPV6) || (at > 0 && at % 2 != 0)) return Errno(EINVAL);
    Keep(SOL_RAW, name, std::max(at, -1));
    return Ok();
  }
  return InetSocket::SetOption(task, level, name, value);
}

ErrnoOr<std::string> RawSocket::GetOption(Task& task, int level, int name, size_t capacity) {
  if (level == SOL_RAW && family_ == AF_INET && name == ICMP_FILTER) {
    if (protocol_ != IPPROTO_ICMP) return Errno(EOPNOTSUPP);
    return std::string(reinterpret_cast<const char*>(icmp_filter_), 4);
  }
  if ((level == SOL_RAW || level == SOL_IPV6) && name == IPV6_CHECKSUM && family_ == AF_INET6) {
    return OptionBytes(Kept(SOL_RAW, name, protocol_ == IPPROTO_ICMPV6 ? 2 : -1));
  }
  if (level == SOL_RAW && family_ == AF_INET) return Errno(ENOPROTOOPT);
  if (level == SOL_ICMPV6 && name == ICMP6_FILTER && protocol_ == IPPROTO_ICMPV6) return std::string(reinterpret_cast<const char*>(icmp_filter_), 32);
  return InetSocket::GetOption(task, level, name, capacity);
}

ErrnoOr<uint64_t> RawSocket::Ioctl(Task& task, uint32_t command, uint64_t argument) {
  if (command != SIOCINQ && command != SIOCOUTQ) return InetSocket::Ioctl(task, command, argument);
  int value = command == SIOCINQ && !packets_.empty() ? static_cast<int>(packets_.front().data.size) : 0;
  TRY(task.CopyOut(UserPtr<int>(argument), value));
  return uint64_t{0};
}

}  // namespace amber
