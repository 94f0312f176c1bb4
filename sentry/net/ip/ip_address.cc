#include "sentry/net/ip/ip_address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#include <algorithm>

namespace amber::net {
namespace {
constexpr uint8_t kMapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
// A sockaddr_in6 without its scope is taken as well (SIN6_LEN_RFC2133).
constexpr size_t kShortSockaddr6 = 24;
}  // namespace

IpAddress IpAddress::V4(uint32_t host_order) {
  uint32_t value = htonl(host_order);
  return V4Bytes(reinterpret_cast<const uint8_t*>(&value));
}

IpAddress IpAddress::V4Bytes(const uint8_t* four) {
  IpAddress a;
  memcpy(a.bytes.data(), kMapped, 12);
  memcpy(a.bytes.data() + 12, four, 4);
  return a;
}

IpAddress IpAddress::V6Bytes(const uint8_t* sixteen) {
  IpAddress a;
  memcpy(a.bytes.data(), sixteen, 16);
  return a;
}

IpAddress IpAddress::Loopback(bool v4) {
  if (v4) return V4(INADDR_LOOPBACK);
  IpAddress a;
  a.bytes[15] = 1;
  return a;
}

bool IpAddress::v4() const { return memcmp(bytes.data(), kMapped, 12) == 0; }

uint32_t IpAddress::v4_value() const {
  uint32_t value = 0;
  memcpy(&value, bytes.data() + 12, 4);
  return ntohl(value);
}

bool IpAddress::any() const { return *this == IpAddress{} || (v4() && v4_value() == 0); }

bool IpAddress::loopback() const {
  if (v4()) return v4_value() >> 24 == 127;
  return *this == Loopback(false);
}

bool IpAddress::multicast() const { return v4() ? v4_value() >> 28 == 14 : bytes[0] == 0xff; }

bool IpAddress::link_local() const {
  if (v4()) return v4_value() >> 16 == 0xa9fe;
  return bytes[0] == 0xfe && (bytes[1] & 0xc0) == 0x80;
}

bool IpAddress::In(const IpAddress& network, int prefix) const {
  if (v4() != network.v4()) return false;
  int bits = v4() ? prefix + 96 : prefix;
  for (int i = 0; i < 16 && bits > 0; ++i, bits -= 8) {
    uint8_t mask = bits >= 8 ? 0xff : static_cast<uint8_t>(0xff << (8 - bits));
    if ((bytes[static_cast<size_t>(i)] & mask) != (network.bytes[static_cast<size_t>(i)] & mask)) return false;
  }
  return true;
}

std::string IpAddress::Raw() const {
  const char* p = reinterpret_cast<const char*>(bytes.data());
  return v4() ? std::string(p + 12, 4) : std::string(p, 16);
}

std::string IpAddress::Text() const {
  char text[INET6_ADDRSTRLEN] = {};
  inet_ntop(v4() ? AF_INET : AF_INET6, v4() ? bytes.data() + 12 : bytes.data(), text, sizeof(text));
  return text;
}

int SockaddrFamily(std::string_view bytes) {
  sa_family_t family = AF_UNSPEC;
  if (bytes.size() >= sizeof(family)) memcpy(&family, bytes.data(), sizeof(family));
  return family;
}

ErrnoOr<Endpoint> ParseSockaddr(std::string_view bytes, int family) {
  Endpoint e;
  if (family == AF_INET) {
    sockaddr_in in;
    if (bytes.size() < sizeof(in)) return Errno(EINVAL);
    memcpy(&in, bytes.data(), sizeof(in));
    if (in.sin_family != AF_INET) return Errno(EAFNOSUPPORT);
    e.address = IpAddress::V4(ntohl(in.sin_addr.s_addr));
    e.port = ntohs(in.sin_port);
    return e;
  }
  sockaddr_in6 in6{};
  if (bytes.size() < kShortSockaddr6) return Errno(EINVAL);
  memcpy(&in6, bytes.data(), std::min(bytes.size(), sizeof(in6)));
  if (in6.sin6_family != AF_INET6) return Errno(EAFNOSUPPORT);
  e.address = IpAddress::V6Bytes(in6.sin6_addr.s6_addr);
  e.port = ntohs(in6.sin6_port);
  if (e.address.link_local() || e.address.multicast()) e.scope = in6.sin6_scope_id;
  return e;
}

std::string MakeSockaddr(const Endpoint& endpoint, int family) {
  if (family == AF_INET) {
    sockaddr_in in{};
    in.sin_family = AF_INET;
    in.sin_port = htons(endpoint.port);
    in.sin_addr.s_addr = endpoint.address.v4() ? htonl(endpoint.address.v4_value()) : 0;
    return std::string(reinterpret_cast<const char*>(&in), sizeof(in));
  }
  sockaddr_in6 in6{};
  in6.sin6_family = AF_INET6;
  in6.sin6_port = htons(endpoint.port);
  memcpy(in6.sin6_addr.s6_addr, endpoint.address.bytes.data(), 16);
  in6.sin6_scope_id = endpoint.scope;
  return std::string(reinterpret_cast<const char*>(&in6), sizeof(in6));
}

uint64_t HashEndpoint(const Endpoint& e, uint64_t seed) {
  uint64_t a = 0, b = 0;
  memcpy(&a, e.address.bytes.data(), 8);
  memcpy(&b, e.address.bytes.data() + 8, 8);
  uint64_t h = (seed ^ a) * 0x9e3779b97f4a7c15;
  h = (h ^ (h >> 29) ^ b) * 0xbf58476d1ce4e5b9;
  h = (h ^ (h >> 32) ^ e.port) * 0x94d049bb133111eb;
  return h ^ (h >> 31);
}

}  // namespace amber::net
