#include "sentry/net/packet/packet_socket.h"

#include <arpa/inet.h>
#include <linux/capability.h>
#include <linux/if_ether.h>
#include <linux/sockios.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cstddef>

#include "sentry/kernel/task.h"
#include "sentry/net/inet/inet_socket.h"
#include "sentry/net/ip/frame.h"

namespace amber {
namespace {

constexpr size_t kAddressAt = offsetof(sockaddr_ll, sll_addr);
constexpr size_t kVlan = 4;

// The longest frame that is sent without its headers, whatever the MTU says, which lo and dummies let a program choose: lo's own. What Linux cannot
// allocate in one piece (sock_alloc_send_pskb()) is some megabytes.
constexpr size_t kLongest = 65536;

std::string Bytes(const sockaddr_ll& a, size_t size) { return std::string(reinterpret_cast<const char*>(&a), size); }

sockaddr_ll AddressOf(const net::Link& link, uint16_t ether) {
  sockaddr_ll a{};
  a.sll_family = AF_PACKET;
  a.sll_protocol = htons(ether);
  a.sll_ifindex = link.index();
  a.sll_hatype = link.type();
  if (link.header_size() == 0) return a;
  a.sll_halen = static_cast<uint8_t>(link.hardware().size());
  memcpy(a.sll_addr, link.hardware().data(), link.hardware().size());
  return a;
}

}  // namespace

PacketSocket::PacketSocket()
    : ring_timer_([this] {
        if (ring_ && ring_->GiveBlock(drops_ > 0)) Wake();
      }) {
  Init(AF_PACKET, SOCK_RAW, 0);
}

ErrnoOr<RefPtr<Socket>> PacketSocket::Make(Task& task, int type, int protocol) {
  NetNamespace& net = NetNamespace::Of(task);
  if (!task.creds().HasIn(net.owner(), CAP_NET_RAW)) return Errno(EPERM);
  if (net.host()) return Errno(EPERM);  // the sentry has no privilege over the host's network
  // SOCK_PACKET of Linux 2.0 is not here.
  if (type != SOCK_RAW && type != SOCK_DGRAM) return Errno(ESOCKTNOSUPPORT);
  auto socket = MakeRef<PacketSocket>();
  socket->Init(AF_PACKET, type, 0);
  socket->net_ = RefPtr<NetNamespace>(&net);
  socket->ether_ = ntohs(static_cast<uint16_t>(protocol));
  socket->uid_ = task.creds().fsuid;
  net.packets().Add(*socket);
  socket->UpdateRunning();
  return RefPtr<Socket>(std::move(socket));
}

PacketSocket::~PacketSocket() {
  if (net_) net_->packets().Remove(*this);
}

void PacketSocket::UpdateRunning() {
  const net::Link* link = device_ != 0 ? net_->stack().FindLink(device_) : nullptr;
  running_ = ether_ != 0 && (device_ == 0 || (link != nullptr && link->up()));
}

// packet_do_bind()
ErrnoOr<void> PacketSocket::Bind(Task&, std::string_view address) {
  sockaddr_ll a;
  if (address.size() < sizeof(a)) return Errno(EINVAL);
  memcpy(&a, address.data(), sizeof(a));
  if (a.sll_family != AF_PACKET) return Errno(EINVAL);
  const net::Link* link = a.sll_ifindex != 0 ? net_->stack().FindLink(a.sll_ifindex) : nullptr;
  if (a.sll_ifindex != 0 && link == nullptr) return Errno(ENODEV);
  if (a.sll_protocol != 0) ether_ = ntohs(a.sll_protocol);
  device_ = a.sll_ifindex;
  UpdateRunning();
  // Of an interface that is down the socket hears by its error.
  if (ether_ != 0 && link != nullptr && !link->up()) {
    error_ = ENETDOWN;
    queue_.Notify(POLLERR);
  }
  return Ok();
}

ErrnoOr<std::string> PacketSocket::LocalAddress() {
  const net::Link* link = device_ != 0 ? net_->stack().FindLink(device_) : nullptr;
  if (link != nullptr) {
    sockaddr_ll a = AddressOf(*link, ether_);
    return Bytes(a, kAddressAt + a.sll_halen);
  }
  sockaddr_ll a{};
  a.sll_family = AF_PACKET;
  a.sll_protocol = htons(ether_);
  a.sll_ifindex = device_;
  return Bytes(a, kAddressAt);
}

void PacketSocket::OnLinkChange(const net::Link& link) {
  if (device_ == 0 || link.index() != device_) return;
  bool before = running_;
  UpdateRunning();
  if (!before || running_) return;
  error_ = ENETDOWN;
  queue_.Notify(POLLERR);
}

// packet_snd()
ErrnoOr<size_t> PacketSocket::Send(Task&, SendRequest& request) {
  int device = device_;
  uint16_t ether = ether_;
  std::string to;
  bool addressed = !request.address.empty();
  if (addressed) {
    sockaddr_ll a{};
    if (request.address.size() < sizeof(a)) return Errno(EINVAL);
    memcpy(&a, request.address.data(), sizeof(a));
    if (request.address.size() < kAddressAt + a.sll_halen) return Errno(EINVAL);
    device = a.sll_ifindex;
    ether = ntohs(a.sll_protocol);
    if (a.sll_halen > 0) to = request.address.substr(kAddressAt, sizeof(a.sll_addr));
  }
  net::Link* link = device != 0 ? net_->stack().FindLink(device) : nullptr;
  if (link == nullptr) return Errno(ENXIO);
  if (!link->up()) return Errno(ENETDOWN);
  if (error_ != 0) return Errno(TakeError());
  bool raw = type_ == SOCK_RAW;
  size_t size = request.source.remaining(), header = raw ? link->header_size() : 0;
  if (size > std::min<size_t>(link->mtu(), kLongest) + header + kVlan) return Errno(EMSGSIZE);
  std::string bytes = raw ? std::string() : net::FrameHeader(*link, to, ether);
  size_t at = bytes.size();
  bytes.resize(at + size);
  if (size > 0 && TRY(request.source.Take(bytes.data() + at, size)) < size) return Errno(EFAULT);
  if (bytes.size() < std::max<size_t>(link->header_size(), 1)) return Errno(EINVAL);  // dev_validate_header()
  // A tag of a virtual network may be longer (packet_extra_vlan_len_allowed()).
  bool tagged =
      link->header_size() > 0 && static_cast<uint8_t>(bytes[12]) == ETH_P_8021Q >> 8 && static_cast<uint8_t>(bytes[13]) == (ETH_P_8021Q & 0xff);
  if (size > link->mtu() + header + (tagged ? kVlan : 0)) return Errno(EMSGSIZE);
  net_->packets().Send(*this, net::Slice::Copy(bytes), *link);
  return size;
}

// run_filter() of packet_rcv(): how many bytes are kept.
uint32_t PacketSocket::Filter(net::SharedFrame& frame) const {
  if (!filter_) return UINT32_MAX;
  FilterPacket view;
  view.bytes = frame.Bytes();
  view.network = frame.link.header_size();
  view.data = type_ == SOCK_RAW ? 0 : view.network;
  view.has_link = true;
  view.protocol = net::FrameProtocol(frame.packet);
  view.type = frame.outgoing ? PACKET_OUTGOING : frame.packet.frame_type;
  view.interface = frame.link.index();
  view.hardware = frame.link.type();
  view.mark = frame.packet.mark;
  view.inet = view.protocol == ETH_P_IP || view.protocol == ETH_P_IPV6;
  return filter_->Run(view);
}

void PacketSocket::OnFrame(net::SharedFrame& frame) {
  if (!running_ || (device_ != 0 && device_ != frame.link.index())) return;
  if (frame.outgoing && (ether_ != ETH_P_ALL || ignore_outgoing_)) return;
  uint16_t ether = net::FrameProtocol(frame.packet);
  if (ether_ != ETH_P_ALL && ether_ != ether) return;
  uint32_t kept = Filter(frame);
  if (kept == 0) return;
  (void)frame.Bytes();
  net::Slice bytes = frame.bytes;
  FrameInfo info;
  size_t header = frame.link.header_size();
  info.network = static_cast<uint32_t>(header);
  if (type_ == SOCK_DGRAM) {
    bytes.DropFront(static_cast<uint32_t>(header));
    info.network = 0;
  }
  info.full_size = bytes.size;
  info.received_at = Datagram::RealtimeNs();
  info.from = AddressOf(frame.link, ether);
  if (header > 0) memcpy(info.from.sll_addr, frame.bytes.data() + ETH_ALEN, ETH_ALEN);
  info.from.sll_pkttype = frame.outgoing ? PACKET_OUTGOING : frame.packet.frame_type;
  if (ring_) {
    bool wake = false;
    bool fits = ring_->Put(bytes.First(kept).view(), info, drops_ > 0, type_ == SOCK_DGRAM, &wake);
    (fits ? received_ : drops_) += 1;
    ArmRingTimer();
    if (wake) Wake();
    return;
  }
  if (charge_ >= static_cast<size_t>(receive_buffer_)) {
    ++drops_;
    return;
  }
  ++received_;
  net::CutTo(&bytes, kept);
  charge_ += bytes.size + kOverhead;
  frames_.push_back({std::move(bytes), info});
  Wake();
}

void PacketSocket::ArmRingTimer() {
  if (ring_ && ring_->filling() && !ring_timer_.armed()) {
    ring_timer_.ArmBy(net_->stack().timers(), net_->stack().Now() + int64_t{ring_->patience()} * net::kMs);
  }
}

// packet_recvmsg()
ErrnoOr<size_t> PacketSocket::Receive(Task&, ReceiveRequest& request) {
  if ((request.flags & ~(MSG_PEEK | MSG_DONTWAIT | MSG_TRUNC | MSG_CMSG_CLOEXEC | MSG_ERRQUEUE)) != 0) return Errno(EINVAL);
  if ((request.flags & MSG_ERRQUEUE) != 0) return Errno(EAGAIN);
  if (error_ != 0) return Errno(TakeError());
  if (frames_.empty()) return Errno(EAGAIN);
  Frame frame = frames_.front();
  if ((request.flags & MSG_PEEK) == 0) {
    charge_ -= frame.data.size + kOverhead;
    frames_.pop_front();
  }
  size_t copied = std::min<size_t>(frame.data.size, request.sink.remaining());
  if (copied > 0) {
    auto put = request.sink.Put(frame.data.data(), copied);
    if (!put.ok() || *put < copied) return Errno(EFAULT);
  }
  request.full_size = frame.data.size;
  if (copied < frame.data.size) request.out_flags |= MSG_TRUNC;
  request.address = Bytes(frame.info.from, sizeof(sockaddr_ll));
  AddTimestamp(request, frame.info.received_at);
  if (aux_data_) {
    tpacket_auxdata aux{};
    aux.tp_status = TP_STATUS_USER;
    aux.tp_len = frame.info.full_size;
    aux.tp_snaplen = frame.data.size;
    aux.tp_net = frame.info.network;
    request.control.push_back({SOL_PACKET, PACKET_AUXDATA, std::string(reinterpret_cast<const char*>(&aux), sizeof(aux))});
  }
  return copied;
}

uint32_t PacketSocket::Poll(Task&) {
  uint32_t events = POLLOUT | POLLWRNORM | POLLWRBAND;
  if (error_ != 0) events |= POLLERR;
  if (!frames_.empty() || (ring_ && ring_->Readable())) events |= POLLIN | POLLRDNORM;
  return events;
}

ErrnoOr<uint64_t> PacketSocket::Ioctl(Task& task, uint32_t command, uint64_t argument) {
  if (command == SIOCINQ || command == SIOCOUTQ) {
    int value = command == SIOCINQ && !frames_.empty() ? static_cast<int>(frames_.front().data.size) : 0;
    TRY(task.CopyOut(UserPtr<int>(argument), value));
    return uint64_t{0};
  }
  if (auto stamp = StampIoctl(task, command, argument); !stamp.Is(ENOTTY)) return stamp;
  return InterfaceIoctl(task, *net_, command, argument);
}

// packet_mmap(): the whole ring, or nothing.
ErrnoOr<MapSource> PacketSocket::Map(Task&, uint64_t offset, uint64_t size, int, bool) {
  if (!ring_ || offset != 0 || size != ring_->size()) return Errno(EINVAL);
  ring_->SetMapped();
  return MapSource{ring_->fd(), 0, true};
}

}  // namespace amber
