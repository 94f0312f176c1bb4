// Saving and loading packet sockets, with what they have received.
#include <string.h>

#include <algorithm>

#include "sentry/net/packet/packet.pb.h"
#include "sentry/net/packet/packet_socket.h"

namespace amber {
namespace {

constexpr size_t kMaxFrame = 1 << 20;

void SaveRing(state::Saver& saver, const PacketRing& ring, proto::PacketRing* out) {
  out->set_memory(saver.File(ring.fd(), ring.size()));
  out->set_request(std::string(reinterpret_cast<const char*>(&ring.request()), sizeof(tpacket_req3)));
  PacketRing::Position at = ring.position();
  out->set_slot(at.slot);
  out->set_block(at.block);
  out->set_offset(at.offset);
  out->set_previous(at.previous);
  out->set_frames(at.frames);
  out->set_freezes(at.freezes);
  out->set_sequence(at.sequence);
  out->set_frozen(at.frozen);
  out->set_mapped(at.mapped);
}

std::unique_ptr<PacketRing> LoadRing(state::Loader& loader, const proto::PacketRing& in, int version, uint32_t reserve) {
  tpacket_req3 request;
  if (in.request().size() != sizeof(request)) return nullptr;
  memcpy(&request, in.request().data(), sizeof(request));
  UniqueFd fd(loader.OpenFile(in.memory()));
  if (!fd.valid()) return nullptr;
  PacketRing::Position at{in.slot(), in.block(), in.offset(), in.previous(), in.frames(), in.freezes(), in.sequence(), in.frozen(), in.mapped()};
  return PacketRing::Adopt(std::move(fd), version, request, reserve, at);
}

}  // namespace

std::string PacketSocket::Save(state::Saver& saver) const {
  proto::PacketSocket m;
  m.set_type(type_);
  m.set_flags(static_cast<uint32_t>(flags()));
  m.set_ino(ino());
  m.set_net(saver.Ref(net_));
  m.set_ether(ether_);
  m.set_device(device_);
  m.set_error(error_);
  m.set_uid(uid_);
  m.set_send_buffer(send_buffer_);
  m.set_receive_buffer(receive_buffer_);
  m.set_receive_timeout(receive_timeout_);
  m.set_send_timeout(send_timeout_);
  m.set_toggles(toggles_);
  m.set_priority(priority_);
  m.set_low_watermark(low_watermark_);
  SaveShared(&m);
  for (const Frame& f : frames_) {
    auto* out = m.add_frame();
    out->set_data(std::string(f.data.view()));
    out->set_from(std::string(reinterpret_cast<const char*>(&f.info.from), sizeof(f.info.from)));
    out->set_full_size(f.info.full_size);
    out->set_network(f.info.network);
    out->set_received_at(f.info.received_at);
  }
  for (const Membership& one : memberships_) {
    auto* out = m.add_membership();
    out->set_link(one.link);
    out->set_type(one.type);
    out->set_address(one.address);
    out->set_count(one.count);
  }
  m.set_received(received_);
  m.set_drops(drops_);
  m.set_aux_data(aux_data_);
  m.set_ignore_outgoing(ignore_outgoing_);
  m.set_version(version_);
  m.set_reserve(reserve_);
  if (ring_) SaveRing(saver, *ring_, m.mutable_ring());
  return m.SerializeAsString();
}

bool PacketSocket::Load(state::Loader& loader, std::string_view bytes) {
  proto::PacketSocket m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return false;
  if (m.type() != SOCK_RAW && m.type() != SOCK_DGRAM) return false;
  if (m.ether() > UINT16_MAX || m.send_buffer() < 0 || m.receive_buffer() < 0) return false;
  Init(AF_PACKET, m.type(), 0);
  set_flags(static_cast<int>(m.flags()));
  SetIno(m.ino());
  net_ = loader.GetRef<NetNamespace>(m.net());
  ether_ = static_cast<uint16_t>(m.ether());
  device_ = m.device();
  error_ = m.error();
  uid_ = m.uid();
  send_buffer_ = m.send_buffer();
  receive_buffer_ = m.receive_buffer();
  receive_timeout_ = m.receive_timeout();
  send_timeout_ = m.send_timeout();
  toggles_ = m.toggles();
  priority_ = m.priority();
  low_watermark_ = std::max(m.low_watermark(), 1);
  if (!LoadShared(m)) return loader.Fail("a socket's filter is no program");
  for (const auto& in : m.frame()) {
    Frame f;
    if (in.data().size() > kMaxFrame || in.from().size() != sizeof(f.info.from)) return false;
    f.data = net::Slice::Copy(in.data());
    memcpy(&f.info.from, in.from().data(), sizeof(f.info.from));
    f.info.full_size = in.full_size();
    f.info.network = static_cast<uint16_t>(in.network());
    f.info.received_at = in.received_at();
    charge_ += f.data.size + kOverhead;
    frames_.push_back(std::move(f));
  }
  for (const auto& in : m.membership()) {
    if (in.address().size() > 8 || in.count() == 0) return false;
    memberships_.push_back({in.link(), static_cast<uint16_t>(in.type()), in.address(), in.count()});
  }
  received_ = m.received();
  drops_ = m.drops();
  aux_data_ = m.aux_data();
  ignore_outgoing_ = m.ignore_outgoing();
  if (m.version() < TPACKET_V1 || m.version() > TPACKET_V3 || m.reserve() > INT32_MAX) return false;
  version_ = m.version();
  reserve_ = m.reserve();
  if (m.has_ring() && !(ring_ = LoadRing(loader, m.ring(), version_, reserve_))) return loader.Fail("the ring of a packet socket is malformed");
  return static_cast<bool>(net_);
}

bool PacketSocket::AfterLoad(state::Loader&) {
  net_->packets().Add(*this);
  UpdateRunning();
  ArmRingTimer();
  return true;
}

}  // namespace amber
