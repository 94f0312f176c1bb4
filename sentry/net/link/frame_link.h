// Interfaces that carry frames: what the IP layer sends gets the link's header here, once the neighbour's address is known.
// Guarded by the kernel lock.
#pragma once

#include <string>
#include <string_view>

#include "sentry/net/ip/link.h"
#include "sentry/net/link/neighbours.h"

namespace amber::net {

class FrameLink : public Link {
 public:
  FrameLink(std::string name, uint16_t type, uint32_t mtu, uint32_t flags);
  ~FrameLink() override = default;

  void Send(Packet packet, const IpAddress& next_hop) final;
  void SendFrame(Slice frame) final;
  bool shows_frames() const final { return true; }
  void ReceiveOwn(const Packet& packet) final { neighbours_.Receive(packet); }
  Neighbours* neighbours() final { return &neighbours_; }
  bool PassToMaster(const Packet& packet) final;
  void TellMaster() final;
  void OnLeave(bool for_good) override;
  void OnUpDown() override { neighbours_.Flush(); }
  uint32_t min_mtu() const override { return 68; }
  uint32_t max_mtu() const override { return 65535; }

  // An IP packet in bytes, or another protocol's, to a known neighbour.
  void Emit(const HardwareAddress& to, uint16_t protocol, std::string_view bytes);
  // A frame has come in; it waits in the stack's queue even if a bridge is to have it, since bridges may be wired to each other in any way.
  void Received(Slice frame);
  // All is as an image says: nothing has changed.
  void SettleCarrier() { had_carrier_ = carrier(); }
  bool resolves() const { return type() == ARPHRD_ETHER && (flags() & IFF_NOARP) == 0; }

 protected:
  // Takes a frame that is small enough, while the link is running.
  virtual void Transmit(Slice frame) = 0;

 private:
  Neighbours neighbours_{*this};
};

// Who gets the frames of a link instead of its stack (a bridge).
class FrameMaster : public FrameLink {
 public:
  using FrameLink::FrameLink;
  virtual void OnPortFrame(FrameLink& port, Slice frame) = 0;
  // A port has gone, or has changed.
  virtual void OnPortLeave(FrameLink& port) = 0;
  virtual void OnPortChange(FrameLink& port) = 0;
};

// The hardware address of a group (RFC 1112, RFC 2464), and of all.
HardwareAddress GroupAddress(const IpAddress& group);
inline constexpr HardwareAddress kEverybody = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
// A random one that says that it was made up (eth_random_addr()).
HardwareAddress RandomHardware(uint64_t random);

}  // namespace amber::net
