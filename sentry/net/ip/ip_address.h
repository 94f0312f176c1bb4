// IP addresses and end points.
//
// One form for both families: IPv4 is kept as IPv4-mapped IPv6 (RFC 4291 section 2.5.5.2), so that a socket of AF_INET6 which
// talks IPv4 needs nothing special. The family of a packet is the form of its addresses; the family of a socket says only what a
// sockaddr looks like.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

#include "sentry/base/errno_or.h"

namespace amber::net {

struct IpAddress {
  std::array<uint8_t, 16> bytes{};

  static IpAddress V4(uint32_t host_order);
  static IpAddress V4Bytes(const uint8_t* four);
  static IpAddress V6Bytes(const uint8_t* sixteen);
  static IpAddress Any(bool v4) { return v4 ? V4(0) : IpAddress{}; }
  static IpAddress Loopback(bool v4);

  bool v4() const;
  uint32_t v4_value() const;  // host order
  // 0.0.0.0 or ::.
  bool any() const;
  bool loopback() const;   // 127.0.0.0/8 or ::1
  bool multicast() const;  // 224.0.0.0/4 or ff00::/8
  bool link_local() const;
  bool broadcast() const { return v4() && v4_value() == 0xffffffff; }
  // The first `prefix` bits (of the family's own width) are those of `network`, which is of the same family.
  bool In(const IpAddress& network, int prefix) const;
  // The part that goes into packets: 4 or 16 bytes.
  std::string Raw() const;
  std::string Text() const;

  friend auto operator<=>(const IpAddress&, const IpAddress&) = default;
};

struct Endpoint {
  IpAddress address;
  uint16_t port = 0;   // host order
  uint32_t scope = 0;  // sin6_scope_id

  friend bool operator==(const Endpoint& a, const Endpoint& b) { return a.port == b.port && a.address == b.address; }
};

// The sa_family of a sockaddr's bytes; AF_UNSPEC if they are too few.
int SockaddrFamily(std::string_view bytes);
// A sockaddr_in or sockaddr_in6 for a socket of `family`: EINVAL if it is too short, EAFNOSUPPORT for another family.
ErrnoOr<Endpoint> ParseSockaddr(std::string_view bytes, int family);
std::string MakeSockaddr(const Endpoint& endpoint, int family);

// Mixes an end point into a hash.
uint64_t HashEndpoint(const Endpoint& e, uint64_t seed);

}  // namespace amber::net
