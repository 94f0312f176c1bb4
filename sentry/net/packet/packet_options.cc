// Options of SOL_PACKET (packet(7), packet_setsockopt()).
#include <net/if_arp.h>
#include <string.h>

#include <algorithm>
#include <climits>

#include "sentry/kernel/task.h"
#include "sentry/net/packet/packet_socket.h"

namespace amber {
namespace {

constexpr int kIgnoreOutgoing = 23, kVnetHeaderSize = 24;

template <typename T>
ErrnoOr<T> Parse(std::span<const uint8_t> value) {
  T out;
  if (value.size() < sizeof(out)) return Errno(EINVAL);
  memcpy(&out, value.data(), sizeof(out));
  return out;
}

template <typename T>
std::string Bytes(const T& value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}

}  // namespace

// packet_mc_add(), packet_mc_drop(). Nothing is filtered by address here, so that asking for more changes nothing but what `ip -d link` tells.
ErrnoOr<void> PacketSocket::ChangeMembership(bool add, std::span<const uint8_t> value) {
  auto m = TRY(Parse<packet_mreq>(value));
  std::string_view address(reinterpret_cast<const char*>(value.data()) + offsetof(packet_mreq, mr_address), sizeof(m.mr_address));
  if (value.size() < offsetof(packet_mreq, mr_address) + m.mr_alen) return Errno(EINVAL);
  const net::Link* link = net_->stack().FindLink(m.mr_ifindex);
  auto it = std::ranges::find_if(memberships_, [&](const Membership& one) {
    return one.link == m.mr_ifindex && one.type == m.mr_type && one.address == address.substr(0, std::min<size_t>(m.mr_alen, address.size()));
  });
  if (!add) {
    if (it == memberships_.end()) return Ok();
    if (--it->count == 0) memberships_.erase(it);
    return Ok();
  }
  if (link == nullptr) return Errno(ENODEV);
  size_t length = link->hardware().size();
  if (m.mr_alen > length) return Errno(EINVAL);
  if (it != memberships_.end()) {
    ++it->count;
    return Ok();
  }
  if ((m.mr_type == PACKET_MR_MULTICAST || m.mr_type == PACKET_MR_UNICAST) && m.mr_alen != length) return Errno(EINVAL);
  if (memberships_.size() >= kMaxMemberships) return Errno(ENOBUFS);
  memberships_.push_back({m.mr_ifindex, m.mr_type, std::string(address.substr(0, m.mr_alen)), 1});
  return Ok();
}

uint32_t PacketSocket::promiscuity(int link) const {
  return static_cast<uint32_t>(
      std::ranges::count_if(memberships_, [&](const Membership& m) { return m.link == link && m.type == PACKET_MR_PROMISC; }));
}

// packet_set_ring(). A ring that was mapped stays: who unmaps it is not heard of here.
ErrnoOr<void> PacketSocket::SetRing(std::span<const uint8_t> value) {
  tpacket_req3 request{};
  size_t size = version_ == TPACKET_V3 ? sizeof(tpacket_req3) : sizeof(tpacket_req);
  if (value.size() < size) return Errno(EINVAL);
  memcpy(&request, value.data(), size);
  if (ring_ && ring_->mapped()) return Errno(EBUSY);
  if (request.tp_block_nr == 0) {
    if (request.tp_frame_nr != 0) return Errno(EINVAL);
    ring_timer_.Cancel();
    ring_ = nullptr;
    return Ok();
  }
  if (ring_) return Errno(EBUSY);
  ring_ = TRY(PacketRing::Make(version_, request, reserve_));
  frames_.clear();
  charge_ = 0;
  return Ok();
}

ErrnoOr<void> PacketSocket::SetFlag(int name, std::span<const uint8_t> value) {
  int n = TRY(Parse<int>(value));
  bool exact = name != PACKET_AUXDATA && name != PACKET_ORIGDEV;
  if (exact && value.size() != sizeof(n)) return Errno(EINVAL);
  switch (name) {
    case PACKET_AUXDATA: aux_data_ = n != 0; return Ok();
    case kIgnoreOutgoing:
      if (n != 0 && n != 1) return Errno(EINVAL);
      ignore_outgoing_ = n != 0;
      return Ok();
    case PACKET_VERSION:
      if (n < TPACKET_V1 || n > TPACKET_V3) return Errno(EINVAL);
      if (ring_) return Errno(EBUSY);
      version_ = n;
      return Ok();
    case PACKET_RESERVE:
      if (n < 0) return Errno(EINVAL);
      if (ring_) return Errno(EBUSY);
      reserve_ = static_cast<uint32_t>(n);
      return Ok();
    case PACKET_LOSS:
      if (ring_) return Errno(EBUSY);
      break;
    default: break;
  }
  bool number = name == PACKET_TIMESTAMP || name == PACKET_COPY_THRESH;
  Keep(SOL_PACKET, name, number ? n : n != 0);
  return Ok();
}

ErrnoOr<void> PacketSocket::SetOption(Task& task, int level, int name, std::span<const uint8_t> value) {
  if (level == SOL_SOCKET) return Socket::SetOption(task, level, name, value);
  if (level != SOL_PACKET) return Errno(ENOPROTOOPT);
  switch (name) {
    case PACKET_ADD_MEMBERSHIP:
    case PACKET_DROP_MEMBERSHIP: return ChangeMembership(name == PACKET_ADD_MEMBERSHIP, value);
    case PACKET_RX_RING: return SetRing(value);
    case PACKET_AUXDATA:
    case PACKET_ORIGDEV:
    case PACKET_VERSION:
    case PACKET_RESERVE:
    case PACKET_LOSS:
    case PACKET_COPY_THRESH:
    case PACKET_TIMESTAMP:
    case PACKET_TX_HAS_OFF:
    case PACKET_QDISC_BYPASS:
    case kIgnoreOutgoing: return SetFlag(name, value);
    default: return Errno(ENOPROTOOPT);  // rings for sending, fan-out, virtio's headers
  }
}

std::string PacketSocket::TakeStatistics() {
  tpacket_stats_v3 stats{};
  stats.tp_drops = std::exchange(drops_, 0);
  stats.tp_packets = std::exchange(received_, 0) + stats.tp_drops;
  stats.tp_freeze_q_cnt = ring_ ? ring_->TakeFreezes() : 0;
  return Bytes(stats).substr(0, version_ == TPACKET_V3 ? sizeof(tpacket_stats_v3) : sizeof(tpacket_stats));
}

ErrnoOr<std::string> PacketSocket::GetOption(Task& task, int level, int name, size_t capacity) {
  if (level == SOL_SOCKET) return Socket::GetOption(task, level, name, capacity);
  if (level != SOL_PACKET) return Errno(ENOPROTOOPT);
  switch (name) {
    case PACKET_STATISTICS: return TakeStatistics();
    case PACKET_AUXDATA: return Bytes<int>(aux_data_);
    case PACKET_VERSION: return Bytes(version_);
    case PACKET_RESERVE: return Bytes(reserve_);
    case kIgnoreOutgoing: return Bytes<int>(ignore_outgoing_);
    case PACKET_ORIGDEV:
    case PACKET_LOSS:
    case PACKET_COPY_THRESH:
    case PACKET_TIMESTAMP:
    case PACKET_TX_HAS_OFF:
    case PACKET_QDISC_BYPASS: return Bytes(Kept(SOL_PACKET, name));
    case PACKET_VNET_HDR:
    case kVnetHeaderSize:
    case PACKET_FANOUT: return Bytes<int>(0);
    case PACKET_ROLLOVER_STATS: return Errno(EINVAL);
    default: return Errno(ENOPROTOOPT);
  }
}

ErrnoOr<std::string> PacketSocket::AnswerOption(Task& task, int level, int name, int question, size_t capacity) {
  if (level != SOL_PACKET || name != PACKET_HDRLEN) return GetOption(task, level, name, capacity);
  if (capacity < sizeof(int)) return Errno(EINVAL);
  switch (question) {
    case TPACKET_V1: return Bytes<int>(sizeof(tpacket_hdr));
    case TPACKET_V2: return Bytes<int>(sizeof(tpacket2_hdr));
    case TPACKET_V3: return Bytes<int>(sizeof(tpacket3_hdr));
    default: return Errno(EINVAL);
  }
}

}  // namespace amber
