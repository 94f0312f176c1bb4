#include "sentry/net/ip/wire.h"

#include <string.h>

#include <algorithm>

namespace amber::net {
namespace {

constexpr size_t kIpv4Header = 20, kIpv6Header = 40, kTcpBase = 20, kUdpBase = 8, kIcmpBase = 8;
constexpr uint8_t kOptionEnd = 0, kOptionNop = 1, kOptionMss = 2, kOptionScale = 3, kOptionSackOk = 4, kOptionSack = 5, kOptionTime = 8;

uint16_t Get16(const uint8_t* p) { return static_cast<uint16_t>(p[0] << 8 | p[1]); }
uint32_t Get32(const uint8_t* p) { return uint32_t{p[0]} << 24 | uint32_t{p[1]} << 16 | uint32_t{p[2]} << 8 | p[3]; }
void Put8(std::string* out, unsigned v) { out->push_back(static_cast<char>(v)); }
void Put16(std::string* out, unsigned v) {
  Put8(out, v >> 8 & 0xff);
  Put8(out, v & 0xff);
}
void Put32(std::string* out, uint32_t v) {
  Put16(out, v >> 16);
  Put16(out, v & 0xffff);
}
const uint8_t* Bytes(std::string_view s) { return reinterpret_cast<const uint8_t*>(s.data()); }

uint32_t PseudoSum(const Packet& p, size_t length) {
  uint32_t sum = 0;
  for (const IpAddress& a : {p.source, p.destination}) {
    std::string raw = a.Raw();
    for (size_t i = 0; i < raw.size(); i += 2) sum += Get16(Bytes(raw) + i);
  }
  return sum + p.protocol + static_cast<uint32_t>(length >> 16) + static_cast<uint32_t>(length & 0xffff);
}

void PutTcpOptions(const TcpHeader& h, std::string* out) {
  if (h.mss != 0) Put8(out, kOptionMss), Put8(out, 4), Put16(out, h.mss);
  if (h.sack_permitted) Put8(out, kOptionSackOk), Put8(out, 2);
  if (h.has_timestamp) Put8(out, kOptionTime), Put8(out, 10), Put32(out, h.timestamp), Put32(out, h.timestamp_echo);
  if (h.window_scale >= 0) Put8(out, kOptionScale), Put8(out, 3), Put8(out, static_cast<unsigned>(h.window_scale));
  // At most 40 bytes of options: three blocks beside a time stamp.
  size_t room = (40 - std::min<size_t>(out->size() - kTcpBase + 2, 40)) / 8;
  size_t blocks = std::min<size_t>(h.sack_count, room);
  if (blocks > 0) {
    Put8(out, kOptionSack), Put8(out, static_cast<unsigned>(2 + 8 * blocks));
    for (size_t i = 0; i < blocks; ++i) Put32(out, h.sacks[i].left), Put32(out, h.sacks[i].right);
  }
  while (out->size() % 4 != 0) Put8(out, kOptionNop);
}

bool ParseTcpOptions(const uint8_t* p, size_t size, TcpHeader* h) {
  for (size_t at = 0; at < size;) {
    uint8_t kind = p[at];
    if (kind == kOptionEnd) return true;
    if (kind == kOptionNop) {
      ++at;
      continue;
    }
    if (size - at < 2) return true;  // as tcp_parse_options() does: what is odd ends the list
    uint8_t length = p[at + 1];
    if (length < 2 || length > size - at) return true;
    const uint8_t* data = p + at + 2;
    if (kind == kOptionMss && length == 4) h->mss = Get16(data);
    if (kind == kOptionScale && length == 3) h->window_scale = static_cast<int8_t>(std::min<uint8_t>(data[0], 14));
    if (kind == kOptionSackOk && length == 2) h->sack_permitted = true;
    if (kind == kOptionTime && length == 10) {
      h->has_timestamp = true;
      h->timestamp = Get32(data);
      h->timestamp_echo = Get32(data + 4);
    }
    if (kind == kOptionSack && length >= 10 && (length - 2) % 8 == 0) {
      h->sack_count = static_cast<uint8_t>(std::min((length - 2) / 8, 4));
      for (size_t i = 0; i < h->sack_count; ++i) h->sacks[i] = {Get32(data + 8 * i), Get32(data + 8 * i + 4)};
    }
    at += length;
  }
  return true;
}

ParseError ParseTcp(std::string_view bytes, Packet* packet) {
  if (bytes.size() < kTcpBase) return ParseError::kTruncated;
  const uint8_t* p = Bytes(bytes);
  size_t header = size_t{p[12]} >> 4 << 2;
  if (header < kTcpBase) return ParseError::kBadHeader;
  if (header > bytes.size()) return ParseError::kTruncated;
  TcpHeader& h = packet->tcp;
  h = {};
  h.source_port = Get16(p);
  h.destination_port = Get16(p + 2);
  h.seq = Get32(p + 4);
  h.ack = Get32(p + 8);
  h.flags = p[13] & 0x3f;
  h.window = Get16(p + 14);
  h.urgent = Get16(p + 18);
  ParseTcpOptions(p + kTcpBase, header - kTcpBase, &h);
  packet->payload = Slice::Copy(bytes.substr(header));
  return ParseError::kNone;
}

}  // namespace

uint16_t Checksum(std::string_view bytes, uint32_t sum) {
  uint64_t total = sum;
  const uint8_t* p = Bytes(bytes);
  size_t i = 0;
  for (; i + 1 < bytes.size(); i += 2) total += Get16(p + i);
  if (i < bytes.size()) total += uint32_t{p[i]} << 8;
  while (total >> 16 != 0) total = (total & 0xffff) + (total >> 16);
  return static_cast<uint16_t>(~total);
}

std::string SerializeTransport(const Packet& packet) {
  std::string out;
  size_t checksum_at = 0;
  bool pseudo = true;
  if (packet.protocol == kTcp) {
    const TcpHeader& h = packet.tcp;
    Put16(&out, h.source_port), Put16(&out, h.destination_port);
    Put32(&out, h.seq), Put32(&out, h.ack);
    Put8(&out, 0), Put8(&out, h.flags), Put16(&out, h.window);
    Put16(&out, 0), Put16(&out, h.urgent);
    PutTcpOptions(h, &out);
    out[12] = static_cast<char>(out.size() / 4 << 4);
    checksum_at = 16;
  } else if (packet.protocol == kUdp) {
    Put16(&out, packet.udp.source_port), Put16(&out, packet.udp.destination_port);
    Put16(&out, static_cast<unsigned>(std::min<size_t>(packet.payload.size + kUdpBase, 65535))), Put16(&out, 0);
    checksum_at = 6;
  } else if (packet.protocol == kUdpLite) {
    Put16(&out, packet.udp.source_port), Put16(&out, packet.udp.destination_port), Put16(&out, packet.udp.coverage), Put16(&out, 0);
    checksum_at = 6;
  } else if (packet.is_icmp()) {
    Put8(&out, packet.icmp.type), Put8(&out, packet.icmp.code), Put16(&out, 0), Put32(&out, packet.icmp.rest);
    checksum_at = 2;
    pseudo = packet.protocol == kIcmp6;
  }
  out += packet.payload.view();
  if (checksum_at != 0) {
    size_t covered = packet.protocol == kUdpLite && packet.udp.coverage != 0 ? std::min<size_t>(packet.udp.coverage, out.size()) : out.size();
    uint16_t sum = Checksum(std::string_view(out).substr(0, covered), pseudo ? PseudoSum(packet, out.size()) : 0);
    if (sum == 0 && (packet.protocol == kUdp || packet.protocol == kUdpLite)) sum = 0xffff;
    out[checksum_at] = static_cast<char>(sum >> 8);
    out[checksum_at + 1] = static_cast<char>(sum & 0xff);
  }
  return out;
}

std::string SerializePacket(const Packet& packet) {
  std::string body = SerializeTransport(packet);
  std::string out;
  if (packet.v4()) {
    Put8(&out, 0x45), Put8(&out, packet.tos);
    Put16(&out, static_cast<unsigned>(std::min<size_t>(body.size() + kIpv4Header, 65535)));
    Put16(&out, 0), Put16(&out, 0x4000);  // do not fragment
    Put8(&out, packet.ttl), Put8(&out, packet.protocol), Put16(&out, 0);
    out += packet.source.Raw() + packet.destination.Raw();
    uint16_t sum = Checksum(out);
    out[10] = static_cast<char>(sum >> 8);
    out[11] = static_cast<char>(sum & 0xff);
  } else {
    Put32(&out, 0x60000000u | uint32_t{packet.tos} << 20);
    Put16(&out, static_cast<unsigned>(std::min<size_t>(body.size(), 65535)));
    Put8(&out, packet.protocol), Put8(&out, packet.ttl);
    out += packet.source.Raw() + packet.destination.Raw();
  }
  return out + body;
}

ParseError ParseTransport(std::string_view bytes, Packet* packet, bool check) {
  const uint8_t* p = Bytes(bytes);
  if (packet->protocol == kTcp) {
    if (check && Checksum(bytes, PseudoSum(*packet, bytes.size())) != 0) return ParseError::kBadChecksum;
    return ParseTcp(bytes, packet);
  }
  if (packet->protocol == kUdp) {
    if (bytes.size() < kUdpBase) return ParseError::kTruncated;
    size_t length = Get16(p + 4);
    if (length < kUdpBase || length > bytes.size()) return ParseError::kBadHeader;
    bytes = bytes.substr(0, length);
    // IPv4 allows no checksum, IPv6 does not (RFC 8200 8.1).
    bool none = Get16(p + 6) == 0;
    if (check && none && !packet->v4()) return ParseError::kBadChecksum;
    if (check && !none && Checksum(bytes, PseudoSum(*packet, length)) != 0) return ParseError::kBadChecksum;
    packet->udp = {Get16(p), Get16(p + 2), 0};
    packet->payload = Slice::Copy(bytes.substr(kUdpBase));
    return ParseError::kNone;
  }
  if (packet->protocol == kUdpLite) {
    if (bytes.size() < kUdpBase) return ParseError::kTruncated;
    size_t coverage = Get16(p + 4);
    size_t covered = coverage == 0 ? bytes.size() : coverage;
    if (covered < kUdpBase || covered > bytes.size()) return ParseError::kBadHeader;
    if (check && (Get16(p + 6) == 0 || Checksum(bytes.substr(0, covered), PseudoSum(*packet, bytes.size())) != 0)) return ParseError::kBadChecksum;
    packet->udp = {Get16(p), Get16(p + 2), static_cast<uint16_t>(coverage)};
    packet->payload = Slice::Copy(bytes.substr(kUdpBase));
    return ParseError::kNone;
  }
  if (packet->is_icmp()) {
    if (bytes.size() < kIcmpBase) return ParseError::kTruncated;
    if (check && Checksum(bytes, packet->v4() ? 0 : PseudoSum(*packet, bytes.size())) != 0) return ParseError::kBadChecksum;
    packet->icmp = {p[0], p[1], Get32(p + 4)};
    packet->payload = Slice::Copy(bytes.substr(kIcmpBase));
    return ParseError::kNone;
  }
  packet->payload = Slice::Copy(bytes);
  return ParseError::kNone;
}

ParseError ParsePacket(std::string_view bytes, Packet* packet, bool check) {
  if (bytes.empty()) return ParseError::kTruncated;
  const uint8_t* p = Bytes(bytes);
  if (p[0] >> 4 == 4) {
    if (bytes.size() < kIpv4Header) return ParseError::kTruncated;
    size_t header = size_t{p[0] & 15u} * 4;
    size_t total = Get16(p + 2);
    if (header < kIpv4Header || total < header) return ParseError::kBadHeader;
    if (total > bytes.size()) return ParseError::kTruncated;
    if (check && Checksum(bytes.substr(0, header)) != 0) return ParseError::kBadChecksum;
    packet->tos = p[1];
    packet->ttl = p[8];
    packet->protocol = p[9];
    packet->source = IpAddress::V4Bytes(p + 12);
    packet->destination = IpAddress::V4Bytes(p + 16);
    if ((Get16(p + 6) & 0x3fff) != 0) return ParseError::kFragment;
    return ParseTransport(bytes.substr(header, total - header), packet, check);
  }
  if (p[0] >> 4 != 6) return ParseError::kBadHeader;
  if (bytes.size() < kIpv6Header) return ParseError::kTruncated;
  size_t length = Get16(p + 4);
  if (length > bytes.size() - kIpv6Header) return ParseError::kTruncated;
  packet->tos = static_cast<uint8_t>(Get16(p) >> 4 & 0xff);
  packet->protocol = p[6];
  packet->ttl = p[7];
  packet->source = IpAddress::V6Bytes(p + 8);
  packet->destination = IpAddress::V6Bytes(p + 24);
  // On the wire a mapped address is nobody's (RFC 4291 2.5.5.2): it would pass for IPv4 inside.
  if (packet->source.v4() || packet->destination.v4()) return ParseError::kBadHeader;
  std::string_view rest = bytes.substr(kIpv6Header, length);
  // Hop-by-hop and destination options are skipped; a handful at most.
  for (int n = 0; n < 8; ++n) {
    if (packet->protocol == 44) return ParseError::kFragment;
    if (packet->protocol != 0 && packet->protocol != 60) return ParseTransport(rest, packet, check);
    if (rest.size() < 8) return ParseError::kTruncated;
    size_t skip = (size_t{Bytes(rest)[1]} + 1) * 8;
    if (skip > rest.size()) return ParseError::kTruncated;
    packet->protocol = Bytes(rest)[0];
    rest = rest.substr(skip);
  }
  return ParseError::kBadHeader;
}

bool ParseQuoted(std::string_view bytes, bool v4, Packet* packet) {
  const uint8_t* p = Bytes(bytes);
  size_t header = kIpv6Header;
  if (v4) {
    if (bytes.size() < kIpv4Header || p[0] >> 4 != 4) return false;
    header = size_t{p[0] & 15u} * 4;
    packet->protocol = p[9];
    packet->source = IpAddress::V4Bytes(p + 12);
    packet->destination = IpAddress::V4Bytes(p + 16);
  } else {
    if (bytes.size() < kIpv6Header || p[0] >> 4 != 6) return false;
    packet->protocol = p[6];
    packet->source = IpAddress::V6Bytes(p + 8);
    packet->destination = IpAddress::V6Bytes(p + 24);
  }
  if (header < kIpv4Header || bytes.size() < header + 8) return false;
  p += header;
  packet->tcp.source_port = packet->udp.source_port = Get16(p);
  packet->tcp.destination_port = packet->udp.destination_port = Get16(p + 2);
  packet->tcp.seq = Get32(p + 4);
  packet->icmp = {p[0], p[1], Get32(p + 4)};
  packet->payload = Slice::Copy(bytes.substr(header + 8));
  return true;
}

}  // namespace amber::net
