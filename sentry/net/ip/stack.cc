#include "sentry/net/ip/stack.h"

#include <linux/if_packet.h>
#include <net/if_arp.h>
#include <netinet/icmp6.h>
#include <netinet/ip_icmp.h>

#include <algorithm>

#include "sentry/base/check.h"
#include "sentry/net/ip/frame.h"
#include "sentry/net/ip/wire.h"

namespace amber::net {
namespace {
// A batch cannot go on for ever: two ends that answer each other endlessly would hold the kernel lock.
constexpr int kMaxPerBatch = 100'000;
constexpr size_t kMaxBacklog = 16384, kMaxBacklogBytes = 16 << 20;  // frames that wait in one stack
constexpr size_t kQuoted4 = 548;
}  // namespace

void LoopbackLink::Send(Packet packet, const IpAddress&) {
  uint64_t size = packet.payload.size + 40;
  ++counters().tx_packets, counters().tx_bytes += size;
  ++counters().rx_packets, counters().rx_bytes += size;
  packet.link = index();
  stack()->Enqueue(std::move(packet));
}

void LoopbackLink::SendFrame(Slice frame) {
  ++counters().tx_packets, counters().tx_bytes += frame.size;
  ++counters().rx_packets, counters().rx_bytes += frame.size;
  stack()->Enqueue(ParseFrame(std::move(frame), *this));
}

Stack::Stack(StackHost& host) : host_(host), timers_([this](int64_t deadline) { host_.ArmAt(deadline); }), backlog_timer_([] {}) {
  AddLink(MakeRef<LoopbackLink>());
}

Stack::~Stack() {
  frame_tap_ = nullptr;
  std::erase(due_stacks_, this);
  while (!links_.empty()) Detach(*links_.back(), true);
  std::erase(due_stacks_, this);  // a frame may have come meanwhile
}

void Stack::Send(Packet packet, const Path& path) {
  AMBER_CHECK(depth_ > 0);
  ++counters_.ip_out;
  if (path.link->stack() != this) return;  // it has gone meanwhile
  if (frame_tap_ != nullptr && !path.link->shows_frames()) frame_tap_->OnFrame(packet, *path.link, true);
  path.link->Send(std::move(packet), path.next_hop);
}

void Stack::SendFrame(Slice frame, Link& link) {
  Batch batch(*this);
  if (frame_tap_ != nullptr) frame_tap_->OnFrame(ParseFrame(frame, link), link, true);
  link.SendFrame(std::move(frame));
}

void Stack::ShowOutgoing(const Slice& frame, Link& link) {
  if (frame_tap_ != nullptr) frame_tap_->OnFrame(ParseFrame(frame, link), link, true);
}

void Stack::Receive(Packet packet, Link& link) {
  Batch batch(*this);
  packet.link = link.index();
  Enqueue(std::move(packet));
}

void Stack::ReceiveFrame(Slice frame, Link& link) {
  --budget_;
  if (queue_.size() >= kMaxBacklog || backlog_ + frame.size > kMaxBacklogBytes) {
    ++link.counters().rx_dropped;
    return;
  }
  ++link.counters().rx_packets, link.counters().rx_bytes += frame.size;
  Packet packet = ParseFrame(std::move(frame), link);
  if (packet.frame_type == PACKET_MULTICAST) ++link.counters().multicast;
  Enqueue(std::move(packet));
  if (depth_ > 0 || due_) return;
  due_ = true;
  due_stacks_.push_back(this);
  if (open_batches_ == 0) DrainOthers();
}

// Not inside itself: a stack that has got something meanwhile is in the list again.
void Stack::DrainOthers() {
  if (draining_) return;
  draining_ = true;
  while (!due_stacks_.empty()) {
    Stack* stack = due_stacks_.front();
    due_stacks_.erase(due_stacks_.begin());
    stack->due_ = false;
    Batch batch(*stack);
  }
  draining_ = false;
}

bool Stack::Spent(bool look) {
  if (look) {
    int64_t now = Now();
    if (began_ == 0) began_ = now;
    if (now - began_ >= kBatchTime) budget_ = 0;
  }
  return --budget_ < 0;
}

void Stack::Drain() {
  constexpr int kLook = 16;  // each so many packets
  for (int n = 0; !queue_.empty() && n < kMaxPerBatch; ++n) {
    bool frame = !queue_.front().frame.empty();
    if (frame && Spent(n % kLook == 0)) {
      // Others have the kernel as long as this batch had it.
      int64_t now = Now();
      backlog_timer_.ArmBy(timers_, now + std::clamp(now - began_, kMs, kBatchTime));
      return;
    }
    Packet packet = std::move(queue_.front());
    queue_.pop_front();
    backlog_ -= packet.frame.size;
    Deliver(std::move(packet));
  }
  counters_.ip_discarded += queue_.size();
  queue_.clear();
  backlog_ = 0;
}

void Stack::Deliver(Packet packet) {
  Link* link = FindLink(packet.link);
  // Whoever looks at a frame relies on its header being there.
  if (link != nullptr && !packet.frame.empty() && packet.frame.size < link->header_size()) return;
  if (frame_tap_ != nullptr && link != nullptr) frame_tap_->OnFrame(packet, *link, false);
  if (link != nullptr && link->master() != nullptr && link->PassToMaster(packet)) return;
  if (packet.only_a_frame) {
    if (link != nullptr && packet.frame_type != PACKET_OTHERHOST) link->ReceiveOwn(packet);
    return;
  }
  ++counters_.ip_in;
  if (!IsLocal(packet.destination) && !packet.destination.multicast() && !IsBroadcast(packet.destination)) {
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
  if (packet.destination.multicast() || IsBroadcast(packet.destination)) return;
  auto path = FindPath(packet.source, packet.destination, packet.scoped_link());
  if (!path.ok()) return;
  Packet out;
  out.source = packet.destination;
  out.destination = packet.source;
  out.protocol = packet.v4() ? kIcmp : kIcmp6;
  out.icmp.type = type;
  out.icmp.code = code;
  std::string quoted = SerializePacket(packet);
  // As much of the packet as fits the smallest MTU (RFC 1812 4.3.2.3, RFC 4443 2.4).
  quoted.resize(std::min<size_t>(quoted.size(), packet.v4() ? kQuoted4 : 1232));
  out.payload = Slice::Copy(quoted);
  ++counters_.icmp_out;
  Send(std::move(out), *path);
}

void Stack::SendHostUnreachable(const Packet& packet) {
  if (!IsLocal(packet.source))
    return SendUnreachable(packet, packet.v4() ? ICMP_DEST_UNREACH : ICMP6_DST_UNREACH, packet.v4() ? ICMP_HOST_UNREACH : ICMP6_DST_UNREACH_ADDR);
  Packet out;
  out.source = out.destination = packet.source;
  out.protocol = packet.v4() ? kIcmp : kIcmp6;
  out.icmp.type = packet.v4() ? ICMP_DEST_UNREACH : ICMP6_DST_UNREACH;
  out.icmp.code = packet.v4() ? ICMP_HOST_UNREACH : ICMP6_DST_UNREACH_ADDR;
  std::string quoted = SerializePacket(packet);
  quoted.resize(std::min<size_t>(quoted.size(), kQuoted4));
  out.payload = Slice::Copy(quoted);
  out.link = loopback().index();
  Batch batch(*this);
  Enqueue(std::move(out));
}

void Stack::ReceiveIcmp(Packet packet) {
  ++counters_.icmp_in;
  bool v4 = packet.v4();
  uint8_t type = packet.icmp.type, code = packet.icmp.code;
  if (!v4 && type >= ND_ROUTER_SOLICIT && type <= ND_REDIRECT) {
    if (Link* link = FindLink(packet.link); link != nullptr) link->ReceiveOwn(packet);
    return;
  }
  if (type == (v4 ? ICMP_ECHO : ICMP6_ECHO_REQUEST) && !packet.destination.multicast() && !IsBroadcast(packet.destination)) {
    auto path = FindPath(packet.source, packet.destination, packet.scoped_link());
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
