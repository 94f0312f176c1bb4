#include "sentry/net/link/frame_link.h"

#include <linux/if_ether.h>
#include <string.h>

#include "sentry/net/ip/frame.h"
#include "sentry/net/ip/stack.h"
#include "sentry/net/ip/wire.h"

namespace amber::net {
namespace {

constexpr size_t kVlanTag = 4;

std::string_view Bytes(const HardwareAddress& a) { return {reinterpret_cast<const char*>(a.data()), a.size()}; }

}  // namespace

FrameLink::FrameLink(std::string name, uint16_t type, uint32_t mtu, uint32_t flags) : Link(std::move(name), type, mtu) { set_flags(flags); }

HardwareAddress GroupAddress(const IpAddress& group) {
  if (!group.v4()) return {0x33, 0x33, group.bytes[12], group.bytes[13], group.bytes[14], group.bytes[15]};
  return {0x01, 0x00, 0x5e, static_cast<uint8_t>(group.bytes[13] & 0x7f), group.bytes[14], group.bytes[15]};
}

HardwareAddress RandomHardware(uint64_t random) {
  HardwareAddress out;
  memcpy(out.data(), &random, out.size());
  out[0] = static_cast<uint8_t>((out[0] & 0xfe) | 0x02);
  return out;
}

void FrameLink::Send(Packet packet, const IpAddress& next_hop) {
  if (!running() || stack() == nullptr) {
    ++counters().tx_dropped;
    return;
  }
  auto protocol = static_cast<uint16_t>(packet.v4() ? ETH_P_IP : ETH_P_IPV6);
  HardwareAddress to{};
  if (type() == ARPHRD_ETHER) {
    if (next_hop.multicast()) {
      to = GroupAddress(next_hop);
    } else if (stack()->IsBroadcast(next_hop)) {
      to = kEverybody;
    } else if (resolves()) {
      const HardwareAddress* known = neighbours_.Find(next_hop);
      if (known == nullptr) return neighbours_.Wait(next_hop, std::move(packet));
      to = *known;
    }
  }
  Emit(to, protocol, SerializePacket(packet));
}

void FrameLink::Emit(const HardwareAddress& to, uint16_t protocol, std::string_view bytes) {
  if (stack() == nullptr) return;
  Slice frame = Slice::Copy(FrameHeader(*this, Bytes(to), protocol).append(bytes));
  stack()->ShowOutgoing(frame, *this);
  SendFrame(std::move(frame));
}

void FrameLink::SendFrame(Slice frame) {
  if (!running() || frame.size > mtu() + header_size() + kVlanTag || frame.size < header_size()) {
    ++counters().tx_dropped;
    return;
  }
  ++counters().tx_packets, counters().tx_bytes += frame.size;
  Transmit(std::move(frame));
}

void FrameLink::Received(Slice frame) {
  if (!up() || stack() == nullptr || frame.size < std::max<size_t>(header_size(), 1)) {
    ++counters().rx_dropped;
    return;
  }
  stack()->ReceiveFrame(std::move(frame), *this);
}

bool FrameLink::PassToMaster(const Packet& packet) {
  if (packet.frame.empty()) return false;
  static_cast<FrameMaster*>(master())->OnPortFrame(*this, packet.frame);
  return true;
}

void FrameLink::TellMaster() { static_cast<FrameMaster*>(master())->OnPortChange(*this); }

void FrameLink::OnLeave(bool) {
  if (master() != nullptr) static_cast<FrameMaster*>(master())->OnPortLeave(*this);
  neighbours_.Flush(true);
}

}  // namespace amber::net
