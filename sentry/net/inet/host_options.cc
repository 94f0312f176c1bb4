#include "sentry/net/inet/host_options.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

#include <algorithm>

namespace amber {
namespace {

constexpr uint32_t kInt = sizeof(int);

// Options that act on the socket alone. Not here: filters (SO_ATTACH_*), marks, IP_TRANSPARENT, repair mode, busy polling, zero copy.
constexpr HostOption kOptions[] = {
    {SOL_SOCKET, SO_REUSEADDR, kInt, true},
    {SOL_SOCKET, SO_REUSEPORT, kInt, true},
    {SOL_SOCKET, SO_KEEPALIVE, kInt, true},
    {SOL_SOCKET, SO_BROADCAST, kInt, true},
    {SOL_SOCKET, SO_OOBINLINE, kInt, true},
    {SOL_SOCKET, SO_SNDBUF, kInt, true},
    {SOL_SOCKET, SO_RCVBUF, kInt, true},
    {SOL_SOCKET, SO_RCVLOWAT, kInt, true},
    {SOL_SOCKET, SO_TIMESTAMP, kInt, true},
    {SOL_SOCKET, SO_TIMESTAMPNS, kInt, true},
    {SOL_SOCKET, SO_DONTROUTE, kInt, true},
    {SOL_SOCKET, SO_BINDTODEVICE, 16, true},
    {SOL_SOCKET, SO_ACCEPTCONN, kInt, false},
    {SOL_SOCKET, SO_SNDLOWAT, kInt, false},
    {SOL_TCP, TCP_NODELAY, kInt, true},
    {SOL_TCP, TCP_MAXSEG, kInt, true},
    {SOL_TCP, TCP_CORK, kInt, true},
    {SOL_TCP, TCP_KEEPIDLE, kInt, true},
    {SOL_TCP, TCP_KEEPINTVL, kInt, true},
    {SOL_TCP, TCP_KEEPCNT, kInt, true},
    {SOL_TCP, TCP_SYNCNT, kInt, true},
    {SOL_TCP, TCP_LINGER2, kInt, true},
    {SOL_TCP, TCP_DEFER_ACCEPT, kInt, true},
    {SOL_TCP, TCP_WINDOW_CLAMP, kInt, true},
    {SOL_TCP, TCP_QUICKACK, kInt, true},
    {SOL_TCP, TCP_USER_TIMEOUT, kInt, true},
    {SOL_TCP, TCP_NOTSENT_LOWAT, kInt, true},
    {SOL_TCP, TCP_CONGESTION, 16, true},
    {SOL_TCP, TCP_INFO, 256, false},
    {SOL_IP, IP_TOS, kInt, true},
    {SOL_IP, IP_TTL, kInt, true},
    {SOL_IP, IP_PKTINFO, kInt, true},
    {SOL_IP, IP_RECVTTL, kInt, true},
    {SOL_IP, IP_RECVTOS, kInt, true},
    {SOL_IP, IP_RECVERR, kInt, true},
    {SOL_IP, IP_MTU_DISCOVER, kInt, true},
    {SOL_IP, IP_MTU, kInt, false},
    {SOL_IP, IP_BIND_ADDRESS_NO_PORT, kInt, true},
    {SOL_IP, IP_MULTICAST_TTL, kInt, true},
    {SOL_IP, IP_MULTICAST_LOOP, kInt, true},
    {SOL_IP, IP_MULTICAST_IF, sizeof(ip_mreqn), true},
    {SOL_IP, IP_ADD_MEMBERSHIP, sizeof(ip_mreqn), true},
    {SOL_IP, IP_DROP_MEMBERSHIP, sizeof(ip_mreqn), true},
    {SOL_IPV6, IPV6_V6ONLY, kInt, true},
    {SOL_IPV6, IPV6_UNICAST_HOPS, kInt, true},
    {SOL_IPV6, IPV6_RECVPKTINFO, kInt, true},
    {SOL_IPV6, IPV6_RECVHOPLIMIT, kInt, true},
    {SOL_IPV6, IPV6_RECVTCLASS, kInt, true},
    {SOL_IPV6, IPV6_RECVERR, kInt, true},
    {SOL_IPV6, IPV6_TCLASS, kInt, true},
    {SOL_IPV6, IPV6_MTU_DISCOVER, kInt, true},
    {SOL_IPV6, IPV6_MTU, kInt, false},
    {SOL_IPV6, IPV6_MULTICAST_HOPS, kInt, true},
    {SOL_IPV6, IPV6_MULTICAST_LOOP, kInt, true},
    {SOL_IPV6, IPV6_MULTICAST_IF, kInt, true},
    {SOL_IPV6, IPV6_ADD_MEMBERSHIP, sizeof(ipv6_mreq), true},
    {SOL_IPV6, IPV6_DROP_MEMBERSHIP, sizeof(ipv6_mreq), true},
};

bool Passes(int level, int type, bool sent) {
  switch (level) {
    case SOL_SOCKET: return !sent && (type == SO_TIMESTAMP || type == SO_TIMESTAMPNS);
    case SOL_IP: return type == IP_PKTINFO || type == IP_TTL || type == IP_TOS || (!sent && type == IP_RECVERR);
    case SOL_IPV6: return type == IPV6_PKTINFO || type == IPV6_HOPLIMIT || type == IPV6_TCLASS || (!sent && type == IPV6_RECVERR);
    default: return false;
  }
}

}  // namespace

const HostOption* FindHostOption(int level, int name) {
  const HostOption* found = std::ranges::find_if(kOptions, [&](const HostOption& o) { return o.level == level && o.name == name; });
  return found == std::end(kOptions) ? nullptr : found;
}

ErrnoOr<std::string> PackHostControl(const std::vector<ControlMessage>& messages) {
  std::string out;
  for (const ControlMessage& m : messages) {
    if (!Passes(m.level, m.type, true) || m.data.size() > 64) return Errno(EINVAL);
    cmsghdr header{};
    header.cmsg_level = m.level;
    header.cmsg_type = m.type;
    header.cmsg_len = CMSG_LEN(m.data.size());
    size_t at = out.size();
    out.resize(at + CMSG_SPACE(m.data.size()));
    memcpy(out.data() + at, &header, sizeof(header));
    memcpy(out.data() + at + CMSG_LEN(0), m.data.data(), m.data.size());
  }
  return out;
}

std::vector<ControlMessage> UnpackHostControl(std::span<const uint8_t> bytes) {
  std::vector<ControlMessage> out;
  while (bytes.size() >= sizeof(cmsghdr)) {
    cmsghdr header;
    memcpy(&header, bytes.data(), sizeof(header));
    if (header.cmsg_len < sizeof(header) || header.cmsg_len > bytes.size()) break;
    size_t size = header.cmsg_len - sizeof(header);
    if (Passes(header.cmsg_level, header.cmsg_type, false)) {
      out.push_back({header.cmsg_level, header.cmsg_type, std::string(reinterpret_cast<const char*>(bytes.data()) + sizeof(header), size)});
    }
    bytes = bytes.subspan(std::min(bytes.size(), CMSG_ALIGN(header.cmsg_len)));
  }
  return out;
}

}  // namespace amber
