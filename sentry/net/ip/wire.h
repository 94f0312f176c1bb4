// Packets as bytes: what links to the outside, raw sockets and ICMP errors need. The bytes may be hostile: every length is checked
// before use, and everything that is kept is copied.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "sentry/net/ip/packet.h"

namespace amber::net {

// From the IP header on, with checksums.
std::string SerializePacket(const Packet& packet);
// The transport header and payload alone, with checksums.
std::string SerializeTransport(const Packet& packet);

enum class ParseError : uint8_t {
  kNone,
  kTruncated,
  kBadHeader,
  kBadChecksum,
  kFragment,  // of a larger packet; reassembly is the link's
};

// Parses from the IP header on. `check`: verify checksums. On an error `packet` holds what was read so far.
ParseError ParsePacket(std::string_view bytes, Packet* packet, bool check = true);
// Parses TCP, UDP or ICMP in `bytes`, by packet->protocol, into `packet`; for other protocols all of it is payload.
ParseError ParseTransport(std::string_view bytes, Packet* packet, bool check = true);
// The start of a packet that an ICMP error quotes: addresses, protocol, ports and the TCP sequence number only.
bool ParseQuoted(std::string_view bytes, bool v4, Packet* packet);

// Internet checksum (RFC 1071) of `bytes`, going on from `sum`.
uint16_t Checksum(std::string_view bytes, uint32_t sum = 0);

}  // namespace amber::net
