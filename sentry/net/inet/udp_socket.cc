#include "sentry/net/inet/udp_socket.h"

#include <linux/errqueue.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>

#include <algorithm>

#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/net/inet/option_util.h"
#include "sentry/net/inet/udp_layer.h"
#include "sentry/net/ip/frame.h"

namespace amber {
namespace {

constexpr size_t kMaxDatagram4 = 65507, kMaxDatagram6 = 65527;
constexpr size_t kMaxErrors = 64;
constexpr uint32_t kLoopbackMtu = 65535;
// linux/udp.h has them not.
constexpr int kSolUdpLite = 136, kSendCoverage = 10, kReceiveCoverage = 11;

}  // namespace

UdpSocket::UdpSocket() {
  Init(AF_INET, SOCK_DGRAM, IPPROTO_UDP);
  binding_.owner = this;
}

UdpSocket::UdpSocket(Task& task, int family, int protocol) : UdpSocket() {
  Init(family, SOCK_DGRAM, protocol);
  net_ = RefPtr<NetNamespace>(&NetNamespace::Of(task));
  layer().all().insert(this);
  uid_ = task.creds().fsuid;
  ip_.v6only = family == AF_INET6 && net_->sysctl(kSysctlBindV6Only) != 0;
  local_.address = remote_.address = net::IpAddress::Any(family == AF_INET);
}

UdpSocket::~UdpSocket() {
  if (net_) layer().all().erase(this);
}

void UdpSocket::OptionsChanged() {
  binding_.reuse = toggle(SO_REUSEADDR);
  binding_.reuse_port = toggle(SO_REUSEPORT);
  binding_.device = device_;
}

ErrnoOr<void> UdpSocket::BindTo(Task& task, const net::Endpoint& e) {
  binding_.address = e.address;
  binding_.v6only = ip_.v6only;
  binding_.uid = task.creds().fsuid;
  TRY(layer().ports().Bind(binding_, e.port, static_cast<uint32_t>(net_->Random())));
  local_ = {e.address, binding_.port, e.scope};
  return Ok();
}

ErrnoOr<void> UdpSocket::Bind(Task& task, std::string_view address) {
  net::Endpoint e = TRY(BindAddress(task, address));
  if (binding_.bound()) return Errno(EINVAL);
  TRY(BindTo(task, e));
  bound_address_ = !e.address.any();
  bound_port_ = e.port != 0;
  return Ok();
}

// Gives an unbound socket a port, as sending and connecting do.
ErrnoOr<void> UdpSocket::AutoBind(Task& task, bool) {
  if (binding_.bound()) return Ok();
  auto bound = BindTo(task, {net::IpAddress::Any(family_ == AF_INET), 0});
  return bound.ok() ? bound : Errno(EAGAIN);
}

ErrnoOr<void> UdpSocket::Connect(Task& task, std::string_view address) {
  if (address.size() < sizeof(sa_family_t)) return Errno(EINVAL);
  if (net::SockaddrFamily(address) == AF_UNSPEC) {
    connected_ = false;
    remote_ = {net::IpAddress::Any(family_ == AF_INET), 0};
    if (!bound_address_) local_.address = binding_.address = net::IpAddress::Any(family_ == AF_INET);
    if (!bound_port_) {
      binding_.Remove();
      local_.port = 0;
    }
    return Ok();
  }
  net::Endpoint to = TRY(TargetAddress(address, true));
  TRY(TakeScope(to));  // __ip6_datagram_connect()
  if (to.address.any()) to.address = net::IpAddress::Loopback(to.address.v4());
  if (!toggle(SO_BROADCAST) && net_->stack().IsBroadcast(to.address)) return Errno(EACCES);
  int device = DeviceFor(to);
  net::Path path = TRY(net_->stack().FindPath(to.address, bound_address_ ? local_.address : net::IpAddress{}, device));
  TRY(AutoBind(task, to.address.v4()));
  remote_ = to;
  connected_ = true;
  if (!bound_address_) local_.address = binding_.address = path.source;
  return Ok();
}

ErrnoOr<void> UdpSocket::Shutdown(Task&, int how) {
  if (how < SHUT_RD || how > SHUT_RDWR) return Errno(EINVAL);
  if (!connected_) return Errno(ENOTCONN);
  shutdown_ |= how + 1;
  queue_.Notify(POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM | POLLRDHUP | (shutdown_ == 3 ? POLLHUP : 0));
  return Ok();
}

ErrnoOr<std::string> UdpSocket::LocalAddress() { return SockaddrOf(local_); }

ErrnoOr<std::string> UdpSocket::PeerAddress() {
  // inet_getname(): port 0 is nobody.
  if (!connected_ || remote_.port == 0) return Errno(ENOTCONN);
  return SockaddrOf(remote_);
}

ErrnoOr<size_t> UdpSocket::Send(Task& task, SendRequest& request) {
  if ((request.flags & MSG_OOB) != 0) return Errno(EOPNOTSUPP);
  net::Endpoint to = remote_;
  if (!request.address.empty() && net::SockaddrFamily(request.address) != AF_UNSPEC) {
    to = TRY(TargetAddress(request.address, true));
    if (to.port == 0) return Errno(EINVAL);
  } else if (!connected_) {
    return Errno(EDESTADDRREQ);
  }
  if ((shutdown_ & 2) != 0) {
    RaisePipe(task, request.flags);
    return Errno(EPIPE);
  }
  if (to.address.any()) to.address = net::IpAddress::Loopback(to.address.v4());
  bool v4 = to.address.v4();
  size_t size = request.source.remaining();
  size_t before = corked_ ? corked_->used() : 0;
  // Before an error that waits, which sock_alloc_send_pskb() would tell of.
  if (size + before > (v4 ? kMaxDatagram4 : kMaxDatagram6)) {
    if (size <= UINT16_MAX) QueueLocalError(to, EMSGSIZE, kLoopbackMtu);
    return Errno(EMSGSIZE);
  }
  if (error_ != 0) return Errno(TakeError());
  if (!toggle(SO_BROADCAST) && net_->stack().IsBroadcast(to.address)) return Errno(EACCES);
  net::Packet packet;
  packet.tos = Tos(v4);
  packet.ttl = Ttl(v4, to.address.multicast());
  net::IpAddress source = local_.address.any() ? net::IpAddress{} : local_.address;
  int device = DeviceFor(to);
  auto segment = static_cast<size_t>(std::clamp(Kept(SOL_UDP, UDP_SEGMENT), 0, UINT16_MAX));
  for (const ControlMessage& c : request.control) TRY(TakeControl(c, v4, &packet, &source, &device, &segment));
  // ip_route_output_key_hash_rcu(); ip6_datagram_send_ctl().
  if (!source.any() && !ip_.freebind && !net_->stack().IsLocal(source)) return Errno(v4 ? ENETUNREACH : EINVAL);
  net::Path path = TRY(net_->stack().FindPath(to.address, source, device));
  if (path.source.v4() != v4) return Errno(EAFNOSUPPORT);
  TRY(AutoBind(task, v4));
  bool hold = cork_ || (request.flags & MSG_MORE) != 0;
  RefPtr<net::Buffer> buffer = hold || corked_ ? std::exchange(corked_, nullptr) : nullptr;
  if (!buffer) buffer = MakeRef<net::Buffer>(hold ? kMaxDatagram6 : size);
  if (size > 0) {
    size_t got = TRY(request.source.Take(buffer->data() + buffer->used(), size));
    if (got < size) return Errno(EFAULT);
    buffer->Fill(size);
  }
  if (hold) {
    corked_ = std::move(buffer);
    return size;
  }
  packet.source = path.source;
  packet.destination = to.address;
  packet.mark = static_cast<uint32_t>(ip_.mark);
  packet.protocol = static_cast<uint8_t>(protocol_);
  packet.udp = {local_.port, to.port, Coverage(buffer->used())};
  packet.payload.size = static_cast<uint32_t>(buffer->used());
  packet.payload.buffer = std::move(buffer);
  TRY(Transmit(std::move(packet), path, segment));
  return size;
}

// What sendmsg has beside a datagram (ip_cmsg_send(), ip6_datagram_send_ctl(), udp_cmsg_send()). Those of the other version of IP are not looked at.
ErrnoOr<void> UdpSocket::TakeControl(const ControlMessage& c, bool v4, net::Packet* packet, net::IpAddress* source, int* device,
                                     size_t* segment) const {
  std::span<const uint8_t> data(reinterpret_cast<const uint8_t*>(c.data.data()), c.data.size());
  auto number = [&](int low, int high) -> ErrnoOr<int> {
    if (data.size() != sizeof(int)) return Errno(EINVAL);
    int n = TRY(ParseOption<int>(data));
    return n >= low && n <= high ? ErrnoOr<int>(n) : Errno(EINVAL);
  };
  auto choose = [&](int index) -> ErrnoOr<void> {
    if (index != 0 && net_->stack().FindLink(index) == nullptr) return Errno(ENODEV);
    if (index != 0) *device = index;
    return Ok();
  };
  if (c.level == SOL_UDP) {
    if (c.type != UDP_SEGMENT || data.size() != sizeof(uint16_t)) return Errno(EINVAL);
    *segment = TRY(ParseOption<uint16_t>(data));
  } else if (c.level == SOL_IPV6 && c.type == IPV6_PKTINFO && (!v4 || family_ == AF_INET6)) {
    auto info = TRY(ParseOption<in6_pktinfo>(data));
    auto wanted = net::IpAddress::V6Bytes(info.ipi6_addr.s6_addr);
    if (v4 && !wanted.any() && !wanted.v4()) return Errno(EINVAL);
    if (!wanted.any()) *source = wanted;
    TRY(choose(static_cast<int>(info.ipi6_ifindex)));
  } else if (v4 && c.level == SOL_IP) {
    switch (c.type) {
      case IP_PKTINFO: {
        if (data.size() != sizeof(in_pktinfo)) return Errno(EINVAL);
        auto info = TRY(ParseOption<in_pktinfo>(data));
        if (info.ipi_spec_dst.s_addr != 0) *source = net::IpAddress::V4(ntohl(info.ipi_spec_dst.s_addr));
        return choose(info.ipi_ifindex);
      }
      case IP_TTL: packet->ttl = static_cast<uint8_t>(TRY(number(1, 255))); break;
      case IP_TOS: {
        if (data.size() != sizeof(int) && data.size() != 1) return Errno(EINVAL);
        int tos = TRY(ParseShortOption(data));
        if (tos < 0 || tos > 255) return Errno(EINVAL);
        packet->tos = static_cast<uint8_t>(tos);
        break;
      }
      case IP_RETOPTS: return data.empty() || data.size() <= 4 ? ErrnoOr<void>() : Errno(EINVAL);  // no options are sent
      default: return Errno(EINVAL);
    }
  } else if (!v4 && c.level == SOL_IPV6) {
    switch (c.type) {
      case IPV6_HOPLIMIT: {
        int hops = TRY(number(-1, 255));
        if (hops >= 0) packet->ttl = static_cast<uint8_t>(hops);
        break;
      }
      case IPV6_DONTFRAG: TRY(number(0, 1)); break;
      case IPV6_TCLASS: packet->tos = static_cast<uint8_t>(std::max(TRY(number(-1, 255)), 0)); break;
      default: return Errno(EINVAL);
    }
  }
  return Ok();
}

// udp_send_skb(). UDP_SEGMENT: one call sends datagrams of that size, and a last one that may be shorter.
ErrnoOr<void> UdpSocket::Transmit(net::Packet packet, const net::Path& path, size_t segment) {
  constexpr size_t kMostSegments = 128, kHeaders4 = 28, kHeaders6 = 48;
  net::Slice whole = packet.payload;
  if (segment > 0) {
    if (segment + (packet.v4() ? kHeaders4 : kHeaders6) > path.link->mtu()) return Errno(EMSGSIZE);
    if (whole.size > segment * kMostSegments || toggle(SO_NO_CHECK)) return Errno(EINVAL);
    if (lite()) return Errno(EIO);
  } else if (!path.link->loopback() && whole.size + (packet.v4() ? kHeaders4 : kHeaders6) > path.link->mtu()) {
    return Errno(EMSGSIZE);  // it would be sent in fragments
  }
  net::Stack::Batch batch(net_->stack());
  do {
    net::Packet one = packet;
    // Each is its receiver's alone: one that waits must not keep all of them.
    one.payload = segment > 0 ? net::Slice::Copy(whole.First(static_cast<uint32_t>(segment)).view()) : whole;
    whole.DropFront(one.payload.size);
    if (!lite()) ++net_->stack().counters().udp_out;
    net_->stack().Send(std::move(one), path);
  } while (!whole.empty());
  return Ok();
}

bool UdpSocket::Wants(const net::IpAddress& remote, uint16_t port) const { return remote_.port == port && remote_.address == remote; }

uint16_t UdpSocket::Coverage(size_t size) const {
  // Without the option, or with one beyond the end, all is covered.
  if (send_coverage_ <= 0 || static_cast<size_t>(send_coverage_) >= size + 8) return 0;
  return static_cast<uint16_t>(send_coverage_);
}

void UdpSocket::Deliver(const net::Packet& packet) {
  // udp_queue_rcv_one_skb(): who asked for a coverage is not given less; 0 asks for all.
  uint16_t covered = packet.udp.coverage;
  if (lite() && receive_coverage_ >= 0 && covered != 0 && (receive_coverage_ == 0 || covered < receive_coverage_)) {
    ++drops_;
    return;
  }
  if (!filter_) return Queue(packet);
  net::Packet cut = packet;
  if (net::FilterPayload(filter_.get(), net_->stack().FindLink(packet.link), &cut)) return Queue(cut);
  ++drops_;
  if (!lite()) ++net_->stack().counters().udp_in_errors;
}

void UdpSocket::Queue(const net::Packet& packet) {
  net::StackCounters& counters = net_->stack().counters();
  size_t cost = packet.payload.size + kOverhead;
  if (charge_ + cost > static_cast<size_t>(receive_buffer_)) {
    ++drops_;
    if (!lite()) ++counters.udp_in_errors, ++counters.udp_buffer_errors;
    return;
  }
  if (!lite()) ++counters.udp_in;
  Datagram d;
  d.data = packet.payload;
  d.from = {packet.source, packet.udp.source_port, static_cast<uint32_t>(packet.scoped_link())};
  d.to = packet.destination;
  d.to_port = packet.udp.destination_port;
  d.link = packet.link;
  d.ttl = packet.ttl;
  d.tos = packet.tos;
  charge_ += cost;
  queued_ += d.data.size;
  datagrams_.push_back(std::move(d));
  queue_.Notify(POLLIN | POLLRDNORM);
}

void UdpSocket::OnError(const net::Packet& sent, const net::IcmpHeader& icmp, int error, bool fatal) {
  bool v4 = sent.v4();
  bool wanted = v4 ? ip_.receive_error : ip_.receive_error6;
  if (wanted && errors_.size() < kMaxErrors) {
    DatagramError e;
    e.data = sent.payload;
    e.to = {sent.destination, sent.udp.destination_port};
    e.offender = sent.destination;
    e.error = error;
    e.origin = v4 ? SO_EE_ORIGIN_ICMP : SO_EE_ORIGIN_ICMP6;
    e.type = icmp.type;
    e.code = icmp.code;
    errors_.push_back(std::move(e));
  }
  // An unconnected socket hears of it only if it asked (udp(7)).
  if (!wanted && (!connected_ || !fatal)) return;
  error_ = error;
  queue_.Notify(POLLERR | POLLIN | POLLOUT);
}

// ip_local_error(): what went wrong before there was a packet.
void UdpSocket::QueueLocalError(const net::Endpoint& to, int error, uint32_t info) {
  bool v4 = to.address.v4();
  if (!(v4 ? ip_.receive_error : ip_.receive_error6) || errors_.size() >= kMaxErrors) return;
  DatagramError e;
  e.to = to;
  e.error = error;
  e.origin = SO_EE_ORIGIN_LOCAL;
  e.info = info;
  errors_.push_back(std::move(e));
}

ErrnoOr<size_t> UdpSocket::ReceiveError(ReceiveRequest& request) {
  if (errors_.empty()) return Errno(EAGAIN);
  DatagramError e = std::move(errors_.front());
  errors_.pop_front();
  size_t copied = std::min<size_t>(e.data.size, request.sink.remaining());
  if (copied > 0) TRY(request.sink.Put(e.data.data(), copied));
  if (copied < e.data.size) request.out_flags |= MSG_TRUNC;
  request.out_flags |= MSG_ERRQUEUE;
  request.full_size = e.data.size;
  request.address = SockaddrOf(e.to);
  sock_extended_err extended{};
  extended.ee_errno = static_cast<uint32_t>(e.error);
  extended.ee_origin = e.origin;
  extended.ee_type = e.type;
  extended.ee_code = e.code;
  extended.ee_info = e.info;
  bool v4 = e.to.address.v4();
  std::string data = OptionBytes(extended);
  std::string offender = net::MakeSockaddr({e.offender, 0}, v4 ? AF_INET : AF_INET6);
  // Of an error of one's own there is no offender.
  if (e.origin == SO_EE_ORIGIN_LOCAL) offender.assign(offender.size(), '\0');
  data += offender;
  request.control.push_back({v4 ? SOL_IP : SOL_IPV6, v4 ? IP_RECVERR : IPV6_RECVERR, std::move(data)});
  // SO_ERROR is what the next one in the queue says.
  error_ = errors_.empty() ? 0 : errors_.front().error;
  return copied;
}

ErrnoOr<size_t> UdpSocket::Receive(Task&, ReceiveRequest& request) {
  if ((request.flags & MSG_ERRQUEUE) != 0) return ReceiveError(request);
  if (error_ != 0) return Errno(TakeError());
  if (datagrams_.empty()) {
    if ((shutdown_ & 1) != 0) return size_t{0};
    return Errno(EAGAIN);
  }
  if ((request.flags & MSG_PEEK) != 0) return Peek(request);
  Datagram d = datagrams_.front();
  charge_ -= d.data.size + kOverhead;
  queued_ -= d.data.size;
  datagrams_.pop_front();
  MovePeekOffset(request.flags, (request.flags & MSG_TRUNC) != 0 ? d.data.size : std::min<size_t>(d.data.size, request.sink.remaining()));
  if (toggle(SO_RXQ_OVFL) && drops_ != 0) request.control.push_back({SOL_SOCKET, SO_RXQ_OVFL, OptionBytes(static_cast<uint32_t>(drops_))});
  return HandOver(request, d);
}

// Datagrams that lie before SO_PEEK_OFF are passed over (__skb_try_recv_from_queue).
ErrnoOr<size_t> UdpSocket::Peek(ReceiveRequest& request) {
  size_t index = 0, skip = PeekOffset(request.flags);
  while (index < datagrams_.size() && skip > 0 && skip >= datagrams_[index].data.size) skip -= datagrams_[index++].data.size;
  if (index == datagrams_.size()) return (shutdown_ & 1) != 0 ? ErrnoOr<size_t>(size_t{0}) : Errno(EAGAIN);
  Datagram d = datagrams_[index];
  size_t whole = d.data.size;
  d.data.DropFront(static_cast<uint32_t>(skip));
  size_t copied = TRY(HandOver(request, d));
  request.full_size = whole;
  MovePeekOffset(request.flags, (request.flags & MSG_TRUNC) != 0 ? whole : copied);
  return copied;
}

uint32_t UdpSocket::Poll(Task&) {
  uint32_t events = POLLOUT | POLLWRNORM | POLLWRBAND;
  if (error_ != 0 || !errors_.empty()) events |= POLLERR;
  if (!datagrams_.empty() || (shutdown_ & 1) != 0) events |= POLLIN | POLLRDNORM;
  if ((shutdown_ & 1) != 0) events |= POLLRDHUP;
  if (shutdown_ == 3) events |= POLLHUP;
  return events;
}

ErrnoOr<void> UdpSocket::SetOption(Task& task, int level, int name, std::span<const uint8_t> value) {
  // Both levels serve both protocols (udp_lib_setsockopt()).
  if (level != SOL_UDP && (level != kSolUdpLite || !lite())) return InetSocket::SetOption(task, level, name, value);
  int n = TRY(ParseOption<int>(value));
  if (lite() && (name == kSendCoverage || name == kReceiveCoverage)) {
    // Less than the header cannot be covered; more than fits into the field is cut.
    int coverage = n != 0 && static_cast<unsigned>(n) < 8 ? 8 : n < 0 || n > UINT16_MAX ? UINT16_MAX : n;
    (name == kSendCoverage ? send_coverage_ : receive_coverage_) = coverage;
    return Ok();
  }
  switch (name) {
    case UDP_CORK: break;
    case UDP_SEGMENT:
      if (n < 0 || n > UINT16_MAX) return Errno(EINVAL);
      Keep(SOL_UDP, name, n);
      return Ok();
    case UDP_GRO:  // whatever it says, datagrams come one by one
    case UDP_NO_CHECK6_TX:
    case UDP_NO_CHECK6_RX: Keep(SOL_UDP, name, n != 0); return Ok();
    case UDP_ENCAP: return n == 0 ? ErrnoOr<void>() : Errno(ENOPROTOOPT);  // no IPsec
    default: return Errno(ENOPROTOOPT);
  }
  cork_ = n != 0;
  if (cork_ || !corked_) return Ok();
  // What was gathered goes out now.
  BufferSource nothing(nullptr, 0);
  SendRequest request{nothing};
  request.flags = MSG_NOSIGNAL;
  (void)Send(task, request);
  return Ok();
}

ErrnoOr<std::string> UdpSocket::GetOption(Task& task, int level, int name, size_t capacity) {
  if (level != SOL_UDP && (level != kSolUdpLite || !lite())) return InetSocket::GetOption(task, level, name, capacity);
  if (name == UDP_CORK) return OptionBytes<int>(cork_);
  if (name >= UDP_ENCAP && name <= UDP_GRO) return OptionBytes(Kept(SOL_UDP, name));
  // The getters know no difference between the protocols.
  if (name == kSendCoverage) return OptionBytes<int>(std::max(send_coverage_, 0));
  if (name == kReceiveCoverage) return OptionBytes<int>(std::max(receive_coverage_, 0));
  return Errno(ENOPROTOOPT);
}

ErrnoOr<uint64_t> UdpSocket::Ioctl(Task& task, uint32_t command, uint64_t argument) {
  int value = 0;
  switch (command) {
    case SIOCINQ: value = datagrams_.empty() ? 0 : static_cast<int>(datagrams_.front().data.size); break;
    case SIOCOUTQ: break;
    default: return InetSocket::Ioctl(task, command, argument);
  }
  TRY(task.CopyOut(UserPtr<int>(argument), value));
  return uint64_t{0};
}

}  // namespace amber
