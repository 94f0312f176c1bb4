// Packets as a link carries them, with its header (Ethernet's, which lo has as well), and socket filters that look at them.
#pragma once

#include <cstdint>
#include <string>

#include "sentry/net/filter/socket_filter.h"
#include "sentry/net/ip/link.h"
#include "sentry/net/ip/packet.h"

namespace amber::net {

inline constexpr size_t kFrameHeader = 14;  // ETH_HLEN

// The frame of a packet: what is kept in it, or made of it, with checksums.
Slice FrameOf(const Packet& packet, const Link& link);
uint16_t FrameProtocol(const Packet& packet);
// What a frame on `link` means. Its bytes may be hostile: what IP would drop is only_a_frame.
Packet ParseFrame(Slice frame, const Link& link);
// The header that SOCK_DGRAM sockets have made for them. `to`: six bytes, or none.
std::string FrameHeader(const Link& link, std::string_view to, uint16_t protocol);

// `packet` on `link` for a socket's filter, whose offset 0 is the transport's header or IP's.
enum class FilterStart : uint8_t { kNetwork, kTransport };
// How many bytes from there on are kept, 0: none; never more than there are, which is `whole`.
uint32_t RunFilter(const SocketFilter& filter, const Packet& packet, const Link* link, FilterStart start, uint32_t* whole = nullptr);
// The same for a socket that gets the transport's payload without its header, of which nothing is cut off: false drops the packet.
bool FilterPayload(const SocketFilter* filter, const Link* link, Packet* packet);

// Leaves the first `size` bytes of what a socket will keep, and no memory that is much more: its queue counts what is left.
void CutTo(Slice* bytes, uint32_t size);

}  // namespace amber::net
