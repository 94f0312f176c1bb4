// The memory of PACKET_RX_RING (packet(7), Documentation/networking/packet_mmap.rst): frames that a packet socket has received, in a memfd of the
// sentry's own, which the program maps. Versions 1 and 2 have slots of one size, version 3 has blocks that are filled from the front.
//
// The program writes all of it at any time. So where the next frame goes, how full a block is and all sizes are kept here and never read back; the one
// word that is read is a slot's or a block's status, atomically, and it says only whose it is. Guarded by the kernel lock.
#pragma once

#include <linux/if_packet.h>

#include <cstdint>
#include <memory>
#include <string_view>

#include "sentry/base/errno_or.h"
#include "sentry/base/unique_fd.h"

namespace amber {

// What is told of a frame beside its bytes.
struct FrameInfo {
  sockaddr_ll from{};
  uint32_t full_size = 0;  // before the filter, or a short slot, cut it
  uint16_t network = 0;    // where IP's header begins in the bytes
  int64_t received_at = 0;
};

class PacketRing {
 public:
  // EINVAL for what packet_set_ring() refuses; ENOMEM. `reserve`: PACKET_RESERVE.
  static ErrnoOr<std::unique_ptr<PacketRing>> Make(int version, const tpacket_req3& request, uint32_t reserve);
  ~PacketRing();
  PacketRing(const PacketRing&) = delete;
  PacketRing& operator=(const PacketRing&) = delete;

  // `losing`: frames were dropped that the program has not heard of. `datagram`: of SOCK_DGRAM, whose bytes begin with IP's header.
  // False: there is no room.
  bool Put(std::string_view bytes, const FrameInfo& info, bool losing, bool datagram, bool* wake);
  // There is something for the program (packet_poll()).
  bool Readable() const;
  // When the block that is being filled goes to the program although it is not full, ms after its first frame; 0: never.
  uint32_t patience() const { return version_ == TPACKET_V3 ? patience_ : 0; }
  bool filling() const { return version_ == TPACKET_V3 && frames_in_block_ > 0; }
  // True if there was one.
  bool GiveBlock(bool losing);
  uint32_t TakeFreezes() { return std::exchange(freezes_, 0); }

  int fd() const { return fd_.get(); }
  uint64_t size() const { return uint64_t{request_.tp_block_size} * request_.tp_block_nr; }
  bool mapped() const { return mapped_; }
  void SetMapped() { mapped_ = true; }
  const tpacket_req3& request() const { return request_; }

  // Where it is, for an image. Adopt() checks what it is given.
  struct Position {
    uint32_t slot, block, offset, previous, frames, freezes;
    uint64_t sequence;
    bool frozen, mapped;
  };
  Position position() const;
  static std::unique_ptr<PacketRing> Adopt(UniqueFd fd, int version, const tpacket_req3& request, uint32_t reserve, const Position& at);

 private:
  PacketRing(int version, const tpacket_req3& request, uint32_t reserve);
  ErrnoOr<void> Map(UniqueFd fd);
  uint32_t HeaderSize() const;
  uint32_t BlockStart() const;
  uint32_t* StatusOf(uint32_t index) const;
  bool Free(uint32_t index) const;
  char* Block(uint32_t index) const { return memory_ + uint64_t{index} * request_.tp_block_size; }
  char* Slot(uint32_t index) const;
  bool PutInSlot(std::string_view bytes, const FrameInfo& info, uint32_t network, uint32_t link, bool losing);
  bool PutInBlock(std::string_view bytes, const FrameInfo& info, uint32_t network, uint32_t link, bool losing, bool* wake);
  void OpenBlock();
  void CloseBlock(uint32_t status);
  char* RoomInBlock(uint32_t size, bool losing, bool* wake);
  void PutAddress(char* frame, size_t header, const FrameInfo& info) const;

  const int version_;
  const tpacket_req3 request_;
  const uint32_t reserve_;
  uint32_t patience_ = 0;
  UniqueFd fd_;
  char* memory_ = nullptr;
  bool mapped_ = false;
  uint32_t slot_ = 0;  // the next one, of versions 1 and 2
  // Of version 3: the block that is being filled, where its next frame goes and its last one is, and how many it has.
  uint32_t block_ = 0, offset_ = 0, previous_ = 0, frames_in_block_ = 0, freezes_ = 0;
  uint64_t sequence_ = 1;
  bool frozen_ = false;  // no block is free
  int64_t last_time_ = 0;
};

}  // namespace amber
