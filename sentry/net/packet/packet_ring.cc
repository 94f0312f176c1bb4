#include "sentry/net/packet/packet_ring.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <ctime>
#include <utility>

#include "sentry/base/guest_fd.h"

namespace amber {
namespace {

constexpr uint64_t kMaxSize = uint64_t{256} << 20;
constexpr uint32_t kPage = 4096;
constexpr uint32_t kDefaultPatience = 8;  // DEFAULT_PRB_RETIRE_TOV, ms
constexpr int64_t kSecond = 1'000'000'000;

constexpr uint32_t Align(uint32_t n, uint32_t to) { return (n + to - 1) & ~(to - 1); }
constexpr uint32_t kBlockHeader = Align(sizeof(tpacket_block_desc), 8);  // BLK_HDR_LEN

void Store(uint32_t* word, uint32_t value) { __atomic_store_n(word, value, __ATOMIC_RELEASE); }
void Store32(char* at, uint32_t value) { memcpy(at, &value, sizeof(value)); }

int64_t RealtimeNs() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return now.tv_sec * kSecond + now.tv_nsec;
}

tpacket_bd_ts BlockTime(int64_t at) {
  tpacket_bd_ts ts{};
  ts.ts_sec = static_cast<uint32_t>(at / kSecond);
  ts.ts_nsec = static_cast<uint32_t>(at % kSecond);
  return ts;
}

}  // namespace

PacketRing::PacketRing(int version, const tpacket_req3& request, uint32_t reserve)
    : version_(version), request_(request), reserve_(reserve),
      patience_(request.tp_retire_blk_tov != 0 ? request.tp_retire_blk_tov : kDefaultPatience) {}

PacketRing::~PacketRing() {
  if (memory_ != nullptr) munmap(memory_, size());
}

// TPACKET_HDRLEN and its kin: the header, then the sender's address.
uint32_t PacketRing::HeaderSize() const {
  size_t header = version_ == TPACKET_V1 ? sizeof(tpacket_hdr) : version_ == TPACKET_V2 ? sizeof(tpacket2_hdr) : sizeof(tpacket3_hdr);
  return static_cast<uint32_t>(TPACKET_ALIGN(header) + sizeof(sockaddr_ll));
}

uint32_t PacketRing::BlockStart() const { return kBlockHeader + Align(request_.tp_sizeof_priv, 8); }

ErrnoOr<std::unique_ptr<PacketRing>> PacketRing::Make(int version, const tpacket_req3& r, uint32_t reserve) {
  std::unique_ptr<PacketRing> ring(new PacketRing(version, r, reserve));
  uint64_t smallest = uint64_t{ring->HeaderSize()} + reserve;
  if (static_cast<int>(r.tp_block_size) <= 0 || r.tp_block_size % kPage != 0 || r.tp_block_nr == 0) return Errno(EINVAL);
  if (version == TPACKET_V3 && r.tp_block_size < uint64_t{kBlockHeader} + (uint64_t{r.tp_sizeof_priv} + 7) / 8 * 8 + smallest) return Errno(EINVAL);
  if (r.tp_frame_size < smallest || r.tp_frame_size % TPACKET_ALIGNMENT != 0 || r.tp_frame_size > r.tp_block_size) return Errno(EINVAL);
  if (uint64_t{r.tp_block_size / r.tp_frame_size} * r.tp_block_nr != r.tp_frame_nr) return Errno(EINVAL);
  if (ring->size() > kMaxSize) return Errno(ENOMEM);
  UniqueFd fd = GuestFd(memfd_create("packet_ring", MFD_CLOEXEC));
  if (!fd.valid()) return Errno(ENOMEM);
  TRY(ring->Map(std::move(fd)));
  if (version == TPACKET_V3) ring->OpenBlock();
  return ring;
}

std::unique_ptr<PacketRing> PacketRing::Adopt(UniqueFd fd, int version, const tpacket_req3& request, uint32_t reserve, const Position& at) {
  // The same checks as for a new one, whose memory is then given up for the old.
  if (version < TPACKET_V1 || version > TPACKET_V3) return nullptr;
  auto made = Make(version, request, reserve);
  if (!made.ok()) return nullptr;
  std::unique_ptr<PacketRing> ring = std::move(*made);
  munmap(std::exchange(ring->memory_, nullptr), ring->size());
  if (!ring->Map(std::move(fd)).ok()) return nullptr;
  uint32_t size = request.tp_block_size;
  if (at.slot >= request.tp_frame_nr || at.block >= request.tp_block_nr || at.offset > size || at.offset % 8 != 0) return nullptr;
  if (version == TPACKET_V3 && (at.offset < ring->BlockStart() || at.previous > size - sizeof(tpacket3_hdr))) return nullptr;
  ring->slot_ = at.slot;
  ring->block_ = at.block;
  ring->offset_ = at.offset;
  ring->previous_ = at.previous;
  ring->frames_in_block_ = at.frames;
  ring->freezes_ = at.freezes;
  ring->sequence_ = at.sequence;
  ring->frozen_ = at.frozen;
  ring->mapped_ = at.mapped;
  return ring;
}

PacketRing::Position PacketRing::position() const {
  return {slot_, block_, offset_, previous_, frames_in_block_, freezes_, sequence_, frozen_, mapped_};
}

ErrnoOr<void> PacketRing::Map(UniqueFd fd) {
  fd_ = std::move(fd);
  // An image may have kept less: what lies behind its end was never written.
  if (ftruncate(fd_.get(), static_cast<off_t>(size())) != 0) return Errno(ENOMEM);
  void* memory = mmap(nullptr, size(), PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
  if (memory == MAP_FAILED) return Errno(ENOMEM);
  memory_ = static_cast<char*>(memory);
  return Ok();
}

char* PacketRing::Slot(uint32_t index) const {
  uint32_t per_block = request_.tp_block_size / request_.tp_frame_size;
  return Block(index / per_block) + uint64_t{index % per_block} * request_.tp_frame_size;
}

// Of a slot (the low half of version 1's long, which is all that it has ever had), or of a block.
uint32_t* PacketRing::StatusOf(uint32_t index) const {
  if (version_ != TPACKET_V3) return reinterpret_cast<uint32_t*>(Slot(index));
  return reinterpret_cast<uint32_t*>(Block(index) + offsetof(tpacket_block_desc, hdr.bh1.block_status));
}

bool PacketRing::Free(uint32_t index) const {
  uint32_t status = __atomic_load_n(StatusOf(index), __ATOMIC_ACQUIRE);
  return version_ == TPACKET_V3 ? (status & TP_STATUS_USER) == 0 : status == TP_STATUS_KERNEL;
}

bool PacketRing::Readable() const {
  uint32_t count = version_ == TPACKET_V3 ? request_.tp_block_nr : request_.tp_frame_nr;
  uint32_t next = version_ == TPACKET_V3 ? block_ : slot_;
  return __atomic_load_n(StatusOf(next == 0 ? count - 1 : next - 1), __ATOMIC_ACQUIRE) != TP_STATUS_KERNEL;
}

bool PacketRing::Put(std::string_view bytes, const FrameInfo& info, bool losing, bool datagram, bool* wake) {
  // tpacket_rcv(): IP's header is aligned, the link's lies before it.
  uint32_t link = datagram ? 0 : info.network;
  uint32_t network = TPACKET_ALIGN(HeaderSize() + std::max<uint32_t>(link, 16)) + reserve_;
  if (datagram) network = static_cast<uint32_t>(TPACKET_ALIGN(HeaderSize())) + 16 + reserve_;
  if (network > UINT16_MAX) return false;
  if (version_ == TPACKET_V3) return PutInBlock(bytes, info, network, link, losing, wake);
  *wake = true;
  return PutInSlot(bytes, info, network, link, losing);
}

void PacketRing::PutAddress(char* frame, size_t header, const FrameInfo& info) const {
  memcpy(frame + TPACKET_ALIGN(header), &info.from, sizeof(info.from));
}

bool PacketRing::PutInSlot(std::string_view bytes, const FrameInfo& info, uint32_t network, uint32_t link, bool losing) {
  if (!Free(slot_)) return false;
  char* frame = Slot(slot_);
  uint32_t start = network - link;
  uint32_t room = request_.tp_frame_size > start ? request_.tp_frame_size - start : 0;
  auto kept = static_cast<uint32_t>(std::min<size_t>(bytes.size(), room));
  memcpy(frame + start, bytes.data(), kept);
  uint32_t status = TP_STATUS_USER | TP_STATUS_TS_SOFTWARE | (losing ? TP_STATUS_LOSING : 0);
  if (version_ == TPACKET_V1) {
    tpacket_hdr h{};
    h.tp_len = info.full_size;
    h.tp_snaplen = kept;
    h.tp_mac = static_cast<uint16_t>(start);
    h.tp_net = static_cast<uint16_t>(network);
    h.tp_sec = static_cast<uint32_t>(info.received_at / kSecond);
    h.tp_usec = static_cast<uint32_t>(info.received_at % kSecond / 1000);
    // The status goes last.
    memcpy(frame + sizeof(uint32_t), reinterpret_cast<const char*>(&h) + sizeof(uint32_t), sizeof(h) - sizeof(uint32_t));
    PutAddress(frame, sizeof(h), info);
  } else {
    tpacket2_hdr h{};
    h.tp_len = info.full_size;
    h.tp_snaplen = kept;
    h.tp_mac = static_cast<uint16_t>(start);
    h.tp_net = static_cast<uint16_t>(network);
    h.tp_sec = static_cast<uint32_t>(info.received_at / kSecond);
    h.tp_nsec = static_cast<uint32_t>(info.received_at % kSecond);
    memcpy(frame + sizeof(uint32_t), reinterpret_cast<const char*>(&h) + sizeof(uint32_t), sizeof(h) - sizeof(uint32_t));
    PutAddress(frame, sizeof(h), info);
  }
  Store(StatusOf(slot_), status);
  slot_ = slot_ + 1 == request_.tp_frame_nr ? 0 : slot_ + 1;
  return true;
}

// prb_open_block()
void PacketRing::OpenBlock() {
  tpacket_block_desc d{};
  d.version = static_cast<uint32_t>(version_);
  d.offset_to_priv = kBlockHeader;
  d.hdr.bh1.block_status = TP_STATUS_KERNEL;
  d.hdr.bh1.offset_to_first_pkt = BlockStart();
  d.hdr.bh1.blk_len = BlockStart();
  d.hdr.bh1.seq_num = sequence_++;
  d.hdr.bh1.ts_first_pkt = BlockTime(RealtimeNs());
  memcpy(Block(block_), &d, sizeof(d));
  offset_ = previous_ = BlockStart();
  frames_in_block_ = 0;
  frozen_ = false;
}

// prb_close_block(): the program's, now.
void PacketRing::CloseBlock(uint32_t status) {
  char* at = Block(block_);
  Store32(at + previous_ + offsetof(tpacket3_hdr, tp_next_offset), 0);
  tpacket_bd_ts last = BlockTime(last_time_ != 0 ? last_time_ : RealtimeNs());
  memcpy(at + offsetof(tpacket_block_desc, hdr.bh1.ts_last_pkt), &last, sizeof(last));
  Store(StatusOf(block_), TP_STATUS_USER | status);
  frames_in_block_ = 0;
  block_ = block_ + 1 == request_.tp_block_nr ? 0 : block_ + 1;
}

char* PacketRing::RoomInBlock(uint32_t size, bool losing, bool* wake) {
  if (frozen_) {
    if (!Free(block_)) return nullptr;
    OpenBlock();
  }
  uint32_t losing_status = losing ? TP_STATUS_LOSING : 0;
  if (offset_ + Align(size, 8) >= request_.tp_block_size && frames_in_block_ > 0) {
    CloseBlock(losing_status);
    *wake = true;
    if (!Free(block_)) {
      frozen_ = true;
      ++freezes_;
      return nullptr;
    }
    OpenBlock();
  }
  return offset_ + Align(size, 8) <= request_.tp_block_size ? Block(block_) + offset_ : nullptr;
}

bool PacketRing::PutInBlock(std::string_view bytes, const FrameInfo& info, uint32_t network, uint32_t link, bool losing, bool* wake) {
  uint32_t start = network - link, most = request_.tp_block_size - BlockStart();
  if (start >= most) return false;
  // One byte less than there is: a block is never filled to its end.
  auto kept = static_cast<uint32_t>(std::min<size_t>(bytes.size(), Align(most - start, 8) - 8));
  char* frame = RoomInBlock(start + kept, losing, wake);
  if (frame == nullptr) return false;
  uint32_t step = Align(start + kept, 8);
  memcpy(frame + start, bytes.data(), kept);
  tpacket3_hdr h{};
  h.tp_next_offset = step;
  h.tp_sec = static_cast<uint32_t>(info.received_at / kSecond);
  h.tp_nsec = static_cast<uint32_t>(info.received_at % kSecond);
  h.tp_snaplen = kept;
  h.tp_len = info.full_size;
  h.tp_status = TP_STATUS_USER | TP_STATUS_TS_SOFTWARE;
  h.tp_mac = static_cast<uint16_t>(start);
  h.tp_net = static_cast<uint16_t>(network);
  memcpy(frame, &h, sizeof(h));
  PutAddress(frame, sizeof(h), info);
  previous_ = offset_;
  offset_ += step;
  ++frames_in_block_;
  last_time_ = info.received_at;
  char* block = Block(block_);
  Store32(block + offsetof(tpacket_block_desc, hdr.bh1.num_pkts), frames_in_block_);
  Store32(block + offsetof(tpacket_block_desc, hdr.bh1.blk_len), offset_);
  return true;
}

bool PacketRing::GiveBlock(bool losing) {
  if (!filling() || frozen_) return false;
  CloseBlock(TP_STATUS_BLK_TMO | (losing ? TP_STATUS_LOSING : 0));
  if (Free(block_)) {
    OpenBlock();
  } else {
    frozen_ = true;
    ++freezes_;
  }
  return true;
}

}  // namespace amber
