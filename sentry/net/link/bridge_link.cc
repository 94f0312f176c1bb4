#include "sentry/net/link/bridge_link.h"

#include <string.h>

#include <algorithm>

#include "sentry/net/ip/stack.h"

namespace amber::net {
namespace {

HardwareAddress HardwareAt(const Slice& frame, size_t at) {
  HardwareAddress out;
  memcpy(out.data(), frame.data() + at, out.size());
  return out;
}

// Of the protocols between bridges (IEEE 802.1D 7.12.6): they are never passed on.
bool LinkLocalGroup(const HardwareAddress& a) {
  constexpr HardwareAddress kFirst = {0x01, 0x80, 0xc2, 0, 0, 0};
  return std::equal(kFirst.begin(), kFirst.begin() + 5, a.begin()) && (a[5] & 0xf0) == 0;
}

}  // namespace

BridgeLink::BridgeLink(std::string name) : FrameMaster(std::move(name), ARPHRD_ETHER, 1500, IFF_BROADCAST | IFF_MULTICAST) {}

bool BridgeLink::carrier() const {
  return !had_port || (up() && std::ranges::any_of(ports_, [](const Port& p) { return p.link->running(); }));
}

BridgeLink::Port* BridgeLink::FindPort(const Link& link) {
  auto found = std::ranges::find_if(ports_, [&](const Port& p) { return p.link == &link; });
  return found != ports_.end() ? &*found : nullptr;
}

void BridgeLink::OnUpDown() {
  FrameMaster::OnUpDown();
  CheckCarrier();
}

void BridgeLink::OnPortChange(FrameLink& port) {
  if (!port.running()) std::erase_if(table_, [&](const auto& e) { return e.second.port == &port; });
  ChooseHardware();
  CheckCarrier();
}

void BridgeLink::OnLeave(bool for_good) {
  FrameMaster::OnLeave(for_good);
  while (!ports_.empty()) RemovePort(*ports_.back().link);
  table_.clear();
}

// br_add_if()
ErrnoOr<void> BridgeLink::AddPort(FrameLink& port) {
  if (port.stack() != stack() || port.type() != ARPHRD_ETHER) return Errno(EINVAL);
  if (dynamic_cast<BridgeLink*>(&port) != nullptr) return Errno(ELOOP);
  if (port.master() != nullptr) return Errno(EBUSY);
  uint16_t number = 1;
  while (std::ranges::any_of(ports_, [&](const Port& p) { return p.number == number; })) ++number;
  if (ports_.size() >= kMaxPorts) return Errno(EXFULL);
  RestorePort(port, number);
  // The smallest of all, unless a program has said another one (br_mtu_auto_adjust()).
  uint32_t least = port.mtu();
  for (const Port& p : ports_) least = std::min(least, p.link->mtu());
  set_mtu(least);
  ChooseHardware();
  CheckCarrier();
  return Ok();
}

void BridgeLink::RestorePort(FrameLink& port, uint16_t number) {
  had_port = true;
  ports_.push_back({&port, number});
  port.set_master(this);
}

void BridgeLink::RemovePort(FrameLink& port) {
  std::erase_if(ports_, [&](const Port& p) { return p.link == &port; });
  std::erase_if(table_, [&](const auto& e) { return e.second.port == &port; });
  port.set_master(nullptr);
  ChooseHardware();
  CheckCarrier();
}

void BridgeLink::SetOwnHardware(const HardwareAddress& hardware) {
  set_hardware(hardware);
  own_hardware = true;
}

// br_stp_recalculate_bridge_id()
void BridgeLink::ChooseHardware() {
  if (own_hardware || ports_.empty()) return;
  HardwareAddress least = ports_.front().link->hardware();
  for (const Port& p : ports_) least = std::min(least, p.link->hardware());
  set_hardware(least);
}

void BridgeLink::Learn(const HardwareAddress& from, FrameLink& port) {
  if ((from[0] & 1) != 0 || from == HardwareAddress{}) return;
  int64_t now = stack()->Now();
  auto known = table_.find(from);
  if (known == table_.end() && table_.size() >= kMaxEntries) {
    std::erase_if(table_, [&](const auto& e) { return now - e.second.seen > ageing; });
    if (table_.size() >= kMaxEntries) return;
  }
  table_[from] = {&port, now};
}

BridgeLink::Port* BridgeLink::PortFor(const HardwareAddress& to) {
  auto known = table_.find(to);
  if (known == table_.end() || stack()->Now() - known->second.seen > ageing) return nullptr;
  return FindPort(*known->second.port);
}

void BridgeLink::SendTo(Port& port, const FrameLink* from, const Slice& frame) {
  if (port.link == from && !port.hairpin) return;
  if (!port.link->running() || frame.size > port.link->mtu() + kHeader + 4) return;
  stack()->ShowOutgoing(frame, *port.link);
  port.link->SendFrame(frame);
}

void BridgeLink::Flood(const FrameLink* from, const Slice& frame, bool unicast) {
  for (size_t i = 0; i < ports_.size(); ++i) {
    if (!unicast || ports_[i].flood) SendTo(ports_[i], from, frame);
  }
}

// br_handle_frame_finish()
void BridgeLink::OnPortFrame(FrameLink& port, Slice frame) {
  Port* in = FindPort(port);
  if (in == nullptr || !up() || stack() == nullptr || frame.size < kHeader) return;
  HardwareAddress to = HardwareAt(frame, 0), from = HardwareAt(frame, to.size());
  if ((from[0] & 1) != 0) return;
  if (in->learning) Learn(from, port);
  if (LinkLocalGroup(to)) return;
  bool group = (to[0] & 1) != 0, own = to == hardware() || std::ranges::any_of(ports_, [&](const Port& p) { return p.link->hardware() == to; });
  if (!own || group) {
    Port* out = group ? nullptr : PortFor(to);
    if (out != nullptr) {
      SendTo(*out, &port, frame);
    } else {
      Flood(&port, frame, !group);
    }
  }
  // A frame to a port's address is the bridge's own (br_pass_frame_up()).
  if (own || group || (flags() & IFF_PROMISC) != 0) stack()->ReceiveFrame(std::move(frame), *this);
}

// br_dev_xmit()
void BridgeLink::Transmit(Slice frame) {
  if (frame.size < kHeader) return;
  HardwareAddress to = HardwareAt(frame, 0);
  bool group = (to[0] & 1) != 0;
  Port* out = group ? nullptr : PortFor(to);
  if (out != nullptr) return SendTo(*out, nullptr, frame);
  Flood(nullptr, frame, !group);
}

}  // namespace amber::net
