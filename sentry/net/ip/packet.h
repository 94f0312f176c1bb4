// A packet inside the stack: headers as structures, the payload as a slice. Wire format exists at real links alone (wire.h).
#pragma once

#include <cstdint>

#include "sentry/net/ip/buffer.h"
#include "sentry/net/ip/ip_address.h"

namespace amber::net {

inline constexpr uint8_t kIcmp = 1, kTcp = 6, kUdp = 17, kIcmp6 = 58, kUdpLite = 136;

enum TcpFlag : uint8_t {
  kFin = 1,
  kSyn = 2,
  kRst = 4,
  kPsh = 8,
  kAck = 16,
  kUrg = 32,
};

struct SackBlock {
  uint32_t left = 0, right = 0;
};

struct TcpHeader {
  uint16_t source_port = 0, destination_port = 0;
  uint32_t seq = 0, ack = 0;
  uint16_t window = 0;  // as on the wire, not scaled
  uint16_t urgent = 0;
  uint8_t flags = 0;
  // Options.
  int8_t window_scale = -1;  // -1: absent
  uint16_t mss = 0;          // 0: absent
  bool sack_permitted = false;
  bool has_timestamp = false;
  uint8_t sack_count = 0;
  uint32_t timestamp = 0, timestamp_echo = 0;
  SackBlock sacks[4];
};

struct UdpHeader {
  uint16_t source_port = 0, destination_port = 0;
  uint16_t coverage = 0;  // of UDP-Lite (RFC 3828): bytes under the checksum, with the header; 0 is all
};

struct IcmpHeader {
  uint8_t type = 0, code = 0;
  uint32_t rest = 0;  // id and sequence, or MTU; host order
};

struct Packet {
  IpAddress source, destination;
  uint8_t protocol = 0;
  uint8_t ttl = 64;
  uint8_t tos = 0;
  int link = 0;       // index of the interface it came in by
  uint32_t mark = 0;  // SO_MARK
  TcpHeader tcp;
  UdpHeader udp;
  IcmpHeader icmp;
  // What follows the headers above; for other protocols all that follows the IP header.
  Slice payload;
  // As it was on the link, from the link's header on, if somebody else than this stack made it (frame.h); empty otherwise.
  Slice frame;
  uint16_t frame_protocol = 0;  // ETH_P_* of `frame`
  uint8_t frame_type = 0;       // PACKET_HOST and its kin, of `frame`
  bool only_a_frame = false;    // no packet that IP takes: there is no more to it than `frame`

  // The link that the source's address is good for alone, or 0.
  int scoped_link() const { return !v4() && source.link_local() ? link : 0; }
  bool v4() const { return destination.v4(); }
  // Has an IcmpHeader: the other family's ICMP is a protocol that nobody knows.
  bool is_icmp() const { return protocol == (v4() ? kIcmp : kIcmp6); }
};

}  // namespace amber::net
