#include "sentry/net/ip/stack.h"

#include <net/if_arp.h>
#include <netinet/icmp6.h>
#include <netinet/ip_icmp.h>

#include <algorithm>

#include "sentry/base/check.h"
#include "sentry/net/ip/frame.h"
#include "sentry/net/ip/wire.h"

namespace amber::net {
namespace {
constexpr uint8_t kScopeHost = 254;
// A batch cannot go on for ever: two ends that answer each other endlessly would hold the kernel lock.
constexpr int kMaxPerBatch = 100'000;
}  // namespace

LoopbackLink::LoopbackLink(Stack& stack) : Link("lo", ARPHRD_LOOPBACK, 65536), stack_(stack) { set_flags(IFF_LOOPBACK); }

void LoopbackLink::Send(Packet packet, const IpAddress&) {
  uint64_t size = packet.payload.size + 40;
  ++counters().tx_packets, counters().tx_bytes += size;
  ++counters().rx_packets, counters().rx_bytes += size;
  packet.link = index();
  stack_.Enqueue(std::move(packet));
}

void LoopbackLink::SendFrame(Slice frame) {
  ++counters().tx_packets, counters().tx_bytes += frame.size;
  ++counters().rx_packets, counters().rx_bytes += frame.size;
  stack_.Enqueue(ParseFrame(std::move(frame), *this));
}

Stack::Stack(StackHost& host) : host_(host), timers_([this](int64_t deadline) { host_.ArmAt(deadline); }) {
  AddLink(std::make_unique<LoopbackLink>(*this));
}

Stack::~Stack() = default;

Link& Stack::AddLink(std::unique_ptr<Link> link, int index) {
  link->index_ = index != 0 && FindLink(index) == nullptr ? index : next_index_;
  next_index_ = std::max(next_index_, link->index_ + 1);
  links_.push_back(std::move(link));
  Changed();
  return *links_.back();
}

Link* Stack::FindLink(int index) const {
  for (const auto& l : links_) {
    if (l->index() == index) return l.get();
  }
  return nullptr;
}

Link* Stack::FindLink(std::string_view name) const {
  for (const auto& l : links_) {
    if (l->name() == name) return l.get();
  }
  return nullptr;
}

void Stack::SetUp(Link& link, bool up) {
  if (link.up() == up) return;
  link.set_flags((link.flags() & ~static_cast<uint32_t>(IFF_UP | IFF_RUNNING)) | (up ? IFF_UP : 0));
  if (link.loopback() && up && link.addresses().empty()) {
    link.addresses() = {{IpAddress::Loopback(true), 8, kScopeHost}, {IpAddress::Loopback(false), 128, kScopeHost}};
  }
  Changed();
  if (frame_tap_ != nullptr) frame_tap_->OnLinkChange(link);
}

ErrnoOr<void> Stack::AddAddress(Link& link, const InterfaceAddress& address) {
  for (const InterfaceAddress& a : link.addresses()) {
    if (a.address == address.address && a.prefix == address.prefix) return Errno(EEXIST);
  }
  link.addresses().push_back(address);
  Changed();
  return Ok();
}

ErrnoOr<void> Stack::RemoveAddress(Link& link, const IpAddress& address, int prefix) {
  auto gone = std::erase_if(link.addresses(), [&](const InterfaceAddress& a) { return a.address == address && (prefix < 0 || a.prefix == prefix); });
  if (gone == 0) return Errno(EADDRNOTAVAIL);
  Changed();
  return Ok();
}

bool Stack::IsLocal(const IpAddress& address) const {
  for (const auto& link : links_) {
    if (!link->up()) continue;
    for (const InterfaceAddress& a : link->addresses()) {
      if (a.address == address) return true;
      // Every address of a loopback network is this machine (RFC 1122, 3.2.1.3; fib_add_ifaddr).
      if (link->loopback() && a.address.v4() && address.In(a.address, a.prefix)) return true;
    }
  }
  return false;
}

ErrnoOr<Path> Stack::FindPath(const IpAddress& destination, const IpAddress& source, int device) {
  bool v4 = destination.v4();
  Path path;
  path.generation = generation_;
  path.next_hop = destination;
  if (IsLocal(destination)) {
    if (!loopback().up()) return Errno(ENETUNREACH);
    path.link = &loopback();
    // The local table prefers the interface's own address as source.
    path.source = !source.any() ? source : destination.loopback() ? IpAddress::Loopback(v4) : destination;
    return path;
  }
  if (destination.multicast() || destination.broadcast()) {
    Link* link = device != 0 ? FindLink(device) : nullptr;
    if (link == nullptr && !source.any() && source.loopback()) link = &loopback();
    if (link != nullptr && link->up()) {
      path.link = link;
      path.source = source;
      for (const InterfaceAddress& a : link->addresses()) {
        if (path.source.any() && a.address.v4() == v4) path.source = a.address;
      }
      return path;
    }
  }
  const Route* best = nullptr;
  for (const Route& r : routes_) {
    Link* link = FindLink(r.link);
    if (link == nullptr || !link->up() || (device != 0 && device != r.link)) continue;
    if (!destination.In(r.destination, r.prefix)) continue;
    if (best == nullptr || r.prefix > best->prefix || (r.prefix == best->prefix && r.metric < best->metric)) best = &r;
  }
  if (best == nullptr) {
    ++counters_.ip_no_route;
    return Errno(ENETUNREACH);
  }
  path.link = FindLink(best->link);
  if (!best->gateway.any()) path.next_hop = best->gateway;
  path.source = !source.any() ? source : best->source;
  if (path.source.any()) {
    for (const InterfaceAddress& a : path.link->addresses()) {
      if (a.address.v4() == v4) {
        path.source = a.address;
        break;
      }
    }
  }
  if (path.source.any()) return Errno(EADDRNOTAVAIL);
  return path;
}

void Stack::Send(Packet packet, const Path& path) {
  AMBER_CHECK(depth_ > 0);
  ++counters_.ip_out;
  if (frame_tap_ != nullptr) frame_tap_->OnFrame(packet, *path.link, true);
  path.link->Send(std::move(packet), path.next_hop);
}

void Stack::SendFrame(Slice frame, Link& link) {
  Batch batch(*this);
  if (frame_tap_ != nullptr) frame_tap_->OnFrame(ParseFrame(frame, link), link, true);
  link.SendFrame(std::move(frame));
}

void Stack::Receive(Packet packet, Link& link) {
  Batch batch(*this);
  packet.link = link.index();
  queue_.push_back(std::move(packet));
}

void Stack::Drain() {
  for (int n = 0; !queue_.empty() && n < kMaxPerBatch; ++n) {
    Packet packet = std::move(queue_.front());
    queue_.pop_front();
    Deliver(std::move(packet));
  }
  counters_.ip_discarded += queue_.size();
  queue_.clear();
}

void Stack::Deliver(Packet packet) {
  if (frame_tap_ != nullptr) {
    if (const Link* link = FindLink(packet.link); link != nullptr) frame_tap_->OnFrame(packet, *link, false);
  }
  if (packet.only_a_frame) return;
  ++counters_.ip_in;
  if (!IsLocal(packet.destination) && !packet.destination.multicast() && !packet.destination.broadcast()) {
    ++counters_.ip_discarded;
    return;
  }
  ++counters_.ip_delivered;
  bool taken = tap_ && tap_(packet);
  if (packet.is_icmp()) return ReceiveIcmp(std::move(packet));
  if (Transport* t = transports_[packet.protocol]; t != nullptr) return t->Receive(std::move(packet));
  if (!taken) {
    SendUnreachable(packet, packet.v4() ? ICMP_DEST_UNREACH : ICMP6_PARAM_PROB, packet.v4() ? ICMP_PROT_UNREACH : ICMP6_PARAMPROB_NEXTHEADER);
  }
}

void Stack::SendUnreachable(const Packet& packet, uint8_t type, uint8_t code) {
  if (packet.destination.multicast() || packet.destination.broadcast()) return;
  auto path = FindPath(packet.source, packet.destination, 0);
  if (!path.ok()) return;
  Packet out;
  out.source = packet.destination;
  out.destination = packet.source;
  out.protocol = packet.v4() ? kIcmp : kIcmp6;
  out.icmp.type = type;
  out.icmp.code = code;
  std::string quoted = SerializePacket(packet);
  // As much of the packet as fits the smallest MTU (RFC 1812 4.3.2.3, RFC 4443 2.4).
  quoted.resize(std::min<size_t>(quoted.size(), packet.v4() ? 548 : 1232));
  out.payload = Slice::Copy(quoted);
  ++counters_.icmp_out;
  Send(std::move(out), *path);
}

void Stack::ReceiveIcmp(Packet packet) {
  ++counters_.icmp_in;
  bool v4 = packet.v4();
  uint8_t type = packet.icmp.type, code = packet.icmp.code;
  if (type == (v4 ? ICMP_ECHO : ICMP6_ECHO_REQUEST) && !packet.destination.multicast() && !packet.destination.broadcast()) {
    auto path = FindPath(packet.source, packet.destination, 0);
    if (!path.ok()) return;
    Packet out;
    out.source = packet.destination;
    out.destination = packet.source;
    out.protocol = packet.protocol;
    out.tos = packet.tos;
    out.icmp = packet.icmp;
    out.icmp.type = v4 ? ICMP_ECHOREPLY : ICMP6_ECHO_REPLY;
    out.payload = packet.payload;
    ++counters_.icmp_out;
    return Send(std::move(out), *path);
  }
  bool unreachable = type == (v4 ? ICMP_DEST_UNREACH : ICMP6_DST_UNREACH);
  if (unreachable || type == (v4 ? ICMP_TIME_EXCEEDED : ICMP6_TIME_EXCEEDED)) {
    Packet sent;
    if (!ParseQuoted(packet.payload.view(), v4, &sent)) return;
    // icmp_err_convert of Linux, the part that stacks send.
    int error = EHOSTUNREACH;
    bool fatal = false;
    if (unreachable && v4) {
      if (code == ICMP_NET_UNREACH) error = ENETUNREACH;
      if (code == ICMP_PROT_UNREACH) error = ENOPROTOOPT, fatal = true;
      if (code == ICMP_PORT_UNREACH) error = ECONNREFUSED, fatal = true;
      if (code == ICMP_FRAG_NEEDED) error = EMSGSIZE;
    } else if (unreachable) {
      if (code == ICMP6_DST_UNREACH_NOROUTE) error = ENETUNREACH;
      if (code == ICMP6_DST_UNREACH_ADMIN) error = EACCES, fatal = true;
      if (code == ICMP6_DST_UNREACH_NOPORT) error = ECONNREFUSED, fatal = true;
    }
    if (Transport* t = transports_[sent.protocol]; t != nullptr) t->OnError(sent, packet.icmp, error, fatal);
    return;
  }
  if (Transport* t = transports_[packet.protocol]; t != nullptr) t->Receive(std::move(packet));
}

}  // namespace amber::net
