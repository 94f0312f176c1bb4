#include "sentry/net/ip/frame.h"

#include <linux/if_ether.h>
#include <linux/if_packet.h>

#include <algorithm>
#include <cstring>

#include "sentry/net/ip/wire.h"

namespace amber::net {
namespace {

constexpr size_t kAddress = ETH_ALEN;

std::string_view HardwareOf(const Link& link) { return {reinterpret_cast<const char*>(link.hardware().data()), kAddress}; }

// eth_type_trans(): for whom it is.
uint8_t TypeOf(std::string_view to, const Link& link) {
  if (to == HardwareOf(link)) return PACKET_HOST;
  if ((static_cast<uint8_t>(to[0]) & 1) == 0) return PACKET_OTHERHOST;
  // lo has no address for all.
  return !link.loopback() && to == std::string_view("\xff\xff\xff\xff\xff\xff", kAddress) ? PACKET_BROADCAST : PACKET_MULTICAST;
}

// Below that the field is a length (IEEE 802.3), and what follows is LLC or the oldest kind of IPX.
uint16_t ProtocolOf(std::string_view frame) {
  auto byte = [&](size_t at) { return static_cast<uint8_t>(frame[at]); };
  auto field = static_cast<uint16_t>(byte(12) << 8 | byte(13));
  if (field >= ETH_P_802_3_MIN) return field;
  bool ipx = frame.size() >= kFrameHeader + 2 && byte(14) == 0xff && byte(15) == 0xff;
  return ipx ? ETH_P_802_3 : ETH_P_802_2;
}

}  // namespace

uint16_t FrameProtocol(const Packet& packet) {
  if (!packet.frame.empty()) return packet.frame_protocol;
  return packet.v4() ? ETH_P_IP : ETH_P_IPV6;
}

std::string FrameHeader(const Link& link, std::string_view to, uint16_t protocol) {
  if (link.header_size() == 0) return "";
  std::string out = to.size() < kAddress ? std::string(kAddress, '\0') : std::string(to.substr(0, kAddress));
  out += HardwareOf(link);
  out.push_back(static_cast<char>(protocol >> 8));
  out.push_back(static_cast<char>(protocol & 0xff));
  return out;
}

Slice FrameOf(const Packet& packet, const Link& link) {
  if (!packet.frame.empty()) return packet.frame;
  return Slice::Copy(FrameHeader(link, {}, FrameProtocol(packet)) + SerializePacket(packet));
}

Packet ParseFrame(Slice frame, const Link& link) {
  Packet packet;
  std::string_view bytes = frame.view();
  packet.link = link.index();
  packet.only_a_frame = true;
  size_t header = link.header_size();
  if (bytes.size() < std::max<size_t>(header, 1)) return packet;
  uint8_t type = header > 0 ? TypeOf(bytes.substr(0, kAddress), link) : uint8_t{PACKET_HOST};
  uint16_t protocol = header > 0 ? ProtocolOf(bytes) : (static_cast<uint8_t>(bytes[0]) >> 4 == 6 ? ETH_P_IPV6 : ETH_P_IP);
  if (type != PACKET_OTHERHOST && (protocol == ETH_P_IP || protocol == ETH_P_IPV6)) {
    Packet parsed;
    bool good = ParsePacket(bytes.substr(header), &parsed) == ParseError::kNone && parsed.v4() == (protocol == ETH_P_IP);
    // Nobody believes 127/8 of a link, be it lo (ip_route_input_slow()).
    if (parsed.v4() && (parsed.source.loopback() || parsed.destination.loopback())) good = false;
    if (good) {
      packet = std::move(parsed);
      packet.link = link.index();
    }
  }
  packet.frame = std::move(frame);
  packet.frame_protocol = protocol;
  packet.frame_type = type;
  return packet;
}

uint32_t RunFilter(const SocketFilter& filter, const Packet& packet, const Link* link, FilterStart start, uint32_t* whole) {
  size_t header = link != nullptr ? link->header_size() : kFrameHeader;
  std::string frame = link != nullptr ? FrameHeader(*link, {}, FrameProtocol(packet)) : std::string(kFrameHeader, '\0');
  frame += SerializePacket(packet);
  FilterPacket view;
  view.bytes = frame;
  view.network = header;
  view.data = start == FilterStart::kNetwork ? header : header + (packet.v4() ? 20 : 40);
  view.has_link = view.inet = true;
  view.protocol = FrameProtocol(packet);
  view.type = packet.frame_type;
  view.interface = packet.link;
  view.hardware = link != nullptr ? link->type() : 0;
  view.mark = packet.mark;
  auto size = static_cast<uint32_t>(frame.size() - view.data);
  if (whole != nullptr) *whole = size;
  return std::min(filter.Run(view), size);
}

bool FilterPayload(const SocketFilter* filter, const Link* link, Packet* packet) {
  if (filter == nullptr) return true;
  uint32_t whole = 0, kept = RunFilter(*filter, *packet, link, FilterStart::kTransport, &whole);
  if (kept == 0) return false;
  uint32_t header = whole - packet->payload.size;
  CutTo(&packet->payload, kept > header ? kept - header : 0);
  return true;
}

void CutTo(Slice* bytes, uint32_t size) {
  if (size >= bytes->size) return;
  bool much = size < bytes->size / 2;
  bytes->size = size;
  if (much) *bytes = Slice::Copy(bytes->view());
}

}  // namespace amber::net
