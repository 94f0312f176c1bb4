#include "sentry/net/link/neighbours.h"

#include <linux/if_ether.h>
#include <linux/neighbour.h>
#include <netinet/icmp6.h>
#include <string.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "sentry/net/ip/stack.h"
#include "sentry/net/ip/wire.h"
#include "sentry/net/link/frame_link.h"

namespace amber::net {
namespace {

constexpr int kProbes = 3;  // mcast_solicit, ucast_solicit
constexpr int64_t kRetry = kSecond, kReachable = 30 * kSecond, kDelay = 5 * kSecond;
constexpr int64_t kCollect = 15 * kSecond, kUnused = 60 * kSecond;  // half of base_reachable_time, gc_stale_time
constexpr size_t kMaxWaiting = 101;                                 // unres_qlen
constexpr size_t kWaitingCost = 768;                                // of a packet beyond its bytes
constexpr uint16_t kAlways = NUD_PERMANENT | NUD_NOARP;
constexpr uint16_t kUsable = kAlways | NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE;
constexpr size_t kArpSize = 28, kArpRequest = 1, kArpReply = 2;
constexpr size_t kTarget = 4, kOptions = 20;  // in a message of neighbour discovery, behind type, code and checksum: flags, target
constexpr uint8_t kSourceOption = 1, kTargetOption = 2;

HardwareAddress HardwareAt(std::string_view bytes, size_t at) {
  HardwareAddress out;
  memcpy(out.data(), bytes.data() + at, out.size());
  return out;
}

size_t CostOf(const Packet& p) { return p.payload.size + kWaitingCost; }

bool Usual(const HardwareAddress& h) { return (h[0] & 1) == 0 && h != HardwareAddress{}; }

std::string View(const HardwareAddress& h) { return std::string(reinterpret_cast<const char*>(h.data()), h.size()); }

// RFC 4291 2.7.1.
IpAddress SolicitedNode(const IpAddress& a) {
  uint8_t raw[16] = {0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a.bytes[13], a.bytes[14], a.bytes[15]};
  return IpAddress::V6Bytes(raw);
}

std::string ArpMessage(uint8_t operation, const HardwareAddress& own, const IpAddress& source, const HardwareAddress& to, const IpAddress& target) {
  std::string out("\0\1\10\0\6\4\0", 7);
  out.push_back(static_cast<char>(operation));
  return out + View(own) + source.Raw() + View(to) + target.Raw();
}

// The hardware address in option `kind` of the options from `at` on; RFC 4861 4.6: a length of 0 makes the whole message void.
bool FindOption(std::string_view bytes, size_t at, uint8_t kind, HardwareAddress* out, bool* found) {
  *found = false;
  while (at + 2 <= bytes.size()) {
    size_t size = size_t{static_cast<uint8_t>(bytes[at + 1])} * 8;
    if (size == 0 || size > bytes.size() - at) return false;
    if (static_cast<uint8_t>(bytes[at]) == kind && size == 8) *out = HardwareAt(bytes, at + 2), *found = true;
    at += size;
  }
  return true;
}

}  // namespace

Neighbours::Neighbours(FrameLink& link) : link_(link), timer_([this] { OnTimer(); }) {}

const HardwareAddress* Neighbours::Find(const IpAddress& address) {
  auto at = all_.find(address);
  if (at == all_.end() || (at->second.state & kUsable) == 0) return nullptr;
  Neighbour& n = at->second;
  n.used = link_.stack()->Now();
  if (n.state == NUD_STALE || (n.state == NUD_REACHABLE && n.used - n.confirmed > kReachable)) {
    n.state = NUD_DELAY;
    n.probes = 0;
    Schedule(n, n.used + kDelay);
  }
  return &n.hardware;
}

void Neighbours::Schedule(Neighbour& n, int64_t due) {
  n.due = due;
  if (link_.stack() != nullptr) timer_.ArmBy(link_.stack()->timers(), due);
}

// neigh_periodic_work(): where there are more than a few, those go that have not answered, or were not used for long.
void Neighbours::Collect() {
  if (all_.size() < kFew || link_.stack() == nullptr) return;
  int64_t now = link_.stack()->Now();
  if (now - collected_ < kCollect) return;
  collected_ = now;
  std::erase_if(all_, [&](const auto& entry) {
    const Neighbour& n = entry.second;
    return n.waiting.empty() && (n.state == NUD_FAILED || (n.state == NUD_STALE && now - n.used > kUnused));
  });
}

// The least recently used one that no program wrote makes room.
bool Neighbours::MakeRoom() {
  Collect();
  if (all_.size() < kMax) return true;
  auto oldest = all_.end();
  for (auto at = all_.begin(); at != all_.end(); ++at) {
    if ((at->second.state & kAlways) != 0) continue;
    if (oldest == all_.end() || at->second.used < oldest->second.used) oldest = at;
  }
  if (oldest == all_.end()) return false;
  waiting_bytes_ -= oldest->second.waiting_bytes;
  all_.erase(oldest);
  return true;
}

void Neighbours::DropOldest(Neighbour& n) {
  size_t cost = CostOf(n.waiting.front());
  n.waiting.pop_front();
  n.waiting_bytes -= cost;
  waiting_bytes_ -= cost;
  ++link_.counters().tx_dropped;
}

// __neigh_event_send(): the packets that have waited longest make room.
void Neighbours::Keep(Neighbour& n, Packet packet) {
  size_t cost = CostOf(packet);
  auto full = [&] { return n.waiting.size() >= kMaxWaiting || n.waiting_bytes + cost > kMaxBytes || waiting_bytes_ + cost > kMaxBytesOfLink; };
  while (full() && !n.waiting.empty()) DropOldest(n);
  if (full()) {
    ++link_.counters().tx_dropped;
    return;
  }
  n.waiting_bytes += cost;
  waiting_bytes_ += cost;
  n.waiting.push_back(std::move(packet));
}

std::deque<Packet> Neighbours::TakeWaiting(Neighbour& n) {
  waiting_bytes_ -= std::exchange(n.waiting_bytes, 0);
  return std::exchange(n.waiting, {});
}

void Neighbours::SendWaiting(Neighbour& n) {
  HardwareAddress to = n.hardware;
  for (Packet& p : TakeWaiting(n)) link_.Emit(to, static_cast<uint16_t>(p.v4() ? ETH_P_IP : ETH_P_IPV6), SerializePacket(p));
}

void Neighbours::Wait(const IpAddress& address, Packet packet) {
  auto at = all_.find(address);
  if (at == all_.end()) {
    if (!MakeRoom()) return;
    at = all_.emplace(address, Neighbour{}).first;
  }
  Neighbour& n = at->second;
  n.used = link_.stack()->Now();
  packet.frame = {};
  Keep(n, std::move(packet));
  if (n.state == NUD_INCOMPLETE) return;
  n.state = NUD_INCOMPLETE;
  n.updated = n.used;
  n.probes = 1;
  Schedule(n, n.used + kRetry);
  Ask(address, n);
}

void Neighbours::Ask(const IpAddress& address, const Neighbour& n) {
  Stack& stack = *link_.stack();
  bool direct = n.state == NUD_PROBE;
  IpAddress source;
  for (const InterfaceAddress& a : link_.addresses()) {
    if (a.address.v4() != address.v4()) continue;
    if (source.any() || (address.v4() ? address.In(a.network(), a.prefix) : a.address.link_local() == address.link_local())) source = a.address;
  }
  if (address.v4()) {
    if (source.any()) source = IpAddress::V4(0);
    link_.Emit(direct ? n.hardware : kEverybody, ETH_P_ARP, ArpMessage(kArpRequest, link_.hardware(), source, {}, address));
    return;
  }
  if (source.any()) return;
  Packet out;
  out.source = source;
  out.destination = direct ? address : SolicitedNode(address);
  out.protocol = kIcmp6;
  out.ttl = 255;
  out.icmp.type = ND_NEIGHBOR_SOLICIT;
  out.payload = Slice::Copy(address.Raw() + std::string{kSourceOption, 1} + View(link_.hardware()));
  ++stack.counters().icmp_out;
  link_.Emit(direct ? n.hardware : GroupAddress(out.destination), ETH_P_IPV6, SerializePacket(out));
}

// neigh_timer_handler()
void Neighbours::OnTimer() {
  if (link_.stack() == nullptr) return;
  Stack::Batch batch(*link_.stack());
  int64_t now = link_.stack()->Now(), next = kNoDeadline;
  std::vector<IpAddress> lost;
  for (auto& [address, n] : all_) {
    if (n.due <= now) {
      n.due = kNoDeadline;
      bool asking = n.state == NUD_INCOMPLETE || n.state == NUD_PROBE;
      if (n.state == NUD_DELAY) n.state = NUD_PROBE, n.probes = 0, asking = true;
      if (asking && n.probes >= kProbes) {
        lost.push_back(address);
        continue;
      }
      if (asking) {
        ++n.probes;
        n.due = now + kRetry;
        Ask(address, n);
      }
    }
    next = std::min(next, n.due);
  }
  timer_.ArmBy(link_.stack()->timers(), next);
  Collect();
  // Who is told of it may be a neighbour that nobody knows either, and others make room for him.
  for (const IpAddress& address : lost) {
    auto at = all_.find(address);
    if (at != all_.end() && (at->second.state & (NUD_INCOMPLETE | NUD_PROBE)) != 0 && at->second.probes >= kProbes) Fail(at->second);
  }
}

void Neighbours::Fail(Neighbour& n) {
  n.state = NUD_FAILED;
  n.updated = link_.stack()->Now();
  for (const Packet& p : TakeWaiting(n)) link_.stack()->SendHostUnreachable(p);  // `n` may be gone after the first
}

// neigh_update(), the part that answers bring.
void Neighbours::Learn(const IpAddress& address, const HardwareAddress& hardware, bool solicited, bool override, bool make) {
  if (!Usual(hardware) || address.any() || address.multicast()) return;
  auto at = all_.find(address);
  if (at == all_.end()) {
    if (!make || !MakeRoom()) return;
    at = all_.emplace(address, Neighbour{}).first;
  }
  Neighbour& n = at->second;
  if ((n.state & kAlways) != 0) return;
  int64_t now = link_.stack()->Now();
  bool known = (n.state & kUsable) != 0, other = known && n.hardware != hardware;
  if (other && !override) {
    if (n.state == NUD_REACHABLE) n.state = NUD_STALE;
    return;
  }
  if (known && !other && !solicited) return;
  n.hardware = hardware;
  n.state = solicited ? NUD_REACHABLE : NUD_STALE;
  n.updated = now;
  if (solicited) n.confirmed = now;
  n.due = kNoDeadline;
  n.probes = 0;
  SendWaiting(n);
}

void Neighbours::Receive(const Packet& packet) {
  if (!link_.resolves() || !link_.up()) return;
  if (!packet.only_a_frame) return ReceiveDiscovery(packet);
  if (packet.frame_protocol == ETH_P_ARP) ReceiveArp(packet.frame.view().substr(link_.header_size()));
}

// arp_process()
void Neighbours::ReceiveArp(std::string_view arp) {
  if (arp.size() < kArpSize || arp.substr(0, 6) != std::string_view("\0\1\10\0\6\4", 6) || arp[6] != 0) return;
  auto operation = static_cast<uint8_t>(arp[7]);
  if (operation != kArpRequest && operation != kArpReply) return;
  const auto* p = reinterpret_cast<const uint8_t*>(arp.data());
  HardwareAddress from = HardwareAt(arp, 8);
  IpAddress source = IpAddress::V4Bytes(p + 14), target = IpAddress::V4Bytes(p + 24);
  if (target.multicast() || target.loopback() || source.loopback() || source.broadcast()) return;
  bool own = link_.stack()->IsLocal(target);
  if (operation == kArpRequest && own) {
    link_.Emit(from, ETH_P_ARP, ArpMessage(kArpReply, link_.hardware(), target, from, source));
  }
  // Who asks for us will be answered soon; whom nobody asked is believed if he is known.
  bool to_us = HardwareAt(arp, 18) == link_.hardware();
  Learn(source, from, operation == kArpReply && to_us, operation == kArpReply || own, operation == kArpRequest && own);
}

void Neighbours::ReceiveDiscovery(const Packet& packet) {
  // RFC 4861 7.1: nothing that a router may have forwarded.
  if (packet.ttl != 255 || packet.icmp.code != 0) return;
  std::string_view body = packet.payload.view();
  if (body.size() < kOptions - kTarget) return;
  IpAddress target = IpAddress::V6Bytes(reinterpret_cast<const uint8_t*>(body.data()));
  if (target.multicast() || target.v4()) return;
  HardwareAddress hardware;
  bool found = false;
  constexpr size_t kAt = kOptions - kTarget;
  if (packet.icmp.type == ND_NEIGHBOR_SOLICIT) {
    if (!FindOption(body, kAt, kSourceOption, &hardware, &found)) return;
    if (std::ranges::none_of(link_.addresses(), [&](const InterfaceAddress& a) { return a.address == target; })) return;
    if (found && !packet.source.any()) Learn(packet.source, hardware, false, true, true);
    AnswerDiscovery(packet, target);
  } else if (packet.icmp.type == ND_NEIGHBOR_ADVERT) {
    if (!FindOption(body, kAt, kTargetOption, &hardware, &found) || !found) return;
    bool solicited = (packet.icmp.rest & 0x40000000) != 0 && !packet.destination.multicast();
    Learn(target, hardware, solicited, (packet.icmp.rest & 0x20000000) != 0, false);
    if (auto at = all_.find(target); at != all_.end()) at->second.router = (packet.icmp.rest & 0x80000000) != 0;
  }
}

// ndisc_send_na()
void Neighbours::AnswerDiscovery(const Packet& packet, const IpAddress& target) {
  bool known = !packet.source.any();
  Packet out;
  out.source = target;
  uint8_t everybody[16] = {0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
  out.destination = known ? packet.source : IpAddress::V6Bytes(everybody);
  out.protocol = kIcmp6;
  out.ttl = 255;
  out.icmp.type = ND_NEIGHBOR_ADVERT;
  out.icmp.rest = 0x20000000u | (known ? 0x40000000u : 0);  // override, solicited
  out.payload = Slice::Copy(target.Raw() + std::string{kTargetOption, 1} + View(link_.hardware()));
  ++link_.stack()->counters().icmp_out;
  if (!known) return link_.Emit(GroupAddress(out.destination), ETH_P_IPV6, SerializePacket(out));
  link_.Send(std::move(out), packet.source);
}

void Neighbours::Flush(bool everything) {
  timer_.Cancel();
  std::erase_if(all_, [&](auto& entry) {
    bool gone = everything || (entry.second.state & kAlways) == 0;
    if (gone) waiting_bytes_ -= entry.second.waiting_bytes;
    return gone;
  });
}

bool Neighbours::Remove(const IpAddress& address) {
  auto at = all_.find(address);
  if (at == all_.end()) return false;
  waiting_bytes_ -= at->second.waiting_bytes;
  all_.erase(at);
  return true;
}

ErrnoOr<void> Neighbours::Set(const IpAddress& address, const HardwareAddress& hardware, uint16_t state) {
  auto at = all_.find(address);
  if (at == all_.end()) {
    if (!MakeRoom()) return Errno(ENOBUFS);
    at = all_.emplace(address, Neighbour{}).first;
  }
  Neighbour& n = at->second;
  n.hardware = hardware;
  n.state = state;
  n.used = n.updated = link_.stack() != nullptr ? link_.stack()->Now() : 0;
  if (state == NUD_REACHABLE) n.confirmed = n.used;
  n.due = kNoDeadline;
  n.probes = 0;
  // neigh_add_timer(): what is being found out is gone on with at once.
  if ((state & (NUD_INCOMPLETE | NUD_DELAY | NUD_PROBE)) != 0 && link_.stack() != nullptr) Schedule(n, n.used);
  if ((state & kUsable) != 0) SendWaiting(n);
  if (state == NUD_FAILED && link_.stack() != nullptr) Fail(n);
  return Ok();
}

}  // namespace amber::net
