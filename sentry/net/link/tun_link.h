// tun and tap: an interface whose other end is a program (Documentation/networking/tuntap.rst). What is sent waits here until the file that is
// attached reads it.
#pragma once

#include <deque>

#include "sentry/net/link/frame_link.h"

namespace amber::net {

// The file at the other end (sentry/fs/tun).
class TunReader {
 public:
  virtual void OnTunPacket() = 0;
  // The interface has gone.
  virtual void OnTunGone() = 0;

 protected:
  ~TunReader() = default;
};

class TunLink final : public FrameLink {
 public:
  // `tap`: with Ethernet's header.
  TunLink(std::string name, bool tap);

  const char* kind() const override { return "tun"; }
  bool tap() const { return tap_; }
  bool carrier() const override { return reader_ != nullptr && !no_carrier; }
  uint32_t max_mtu() const override { return tap_ ? 65521 : 65535; }
  void OnLeave(bool for_good) override;

  TunReader* reader() const { return reader_; }
  // Null: the file was closed. What waits is lost then.
  void Attach(TunReader* reader);
  bool has_packet() const { return !queue_.empty(); }
  const Slice& front() const { return queue_.front(); }
  void Pop();
  // The program's frame.
  void Inject(Slice frame);
  const std::deque<Slice>& queue() const { return queue_; }
  void CarrierMayHaveChanged() { CheckCarrier(); }
  // From an image.
  void Restore(Slice packet) { Push(std::move(packet)); }
  // What may wait for the program, whatever txqueuelen says.
  static constexpr size_t kMostWaiting = 8192, kMostBytes = 4 << 20;
  void RestoreReader(TunReader* reader);

  static constexpr uint32_t kNobody = ~0u;
  // What the file's ioctls say; kernel user ids.
  bool persistent = false, no_carrier = false;
  bool packet_info = true, vnet_header = false;
  uint32_t owner = kNobody, group = kNobody;

 protected:
  void Transmit(Slice frame) override;

 private:
  void Push(Slice packet);

  bool tap_;
  TunReader* reader_ = nullptr;
  std::deque<Slice> queue_;
  size_t queued_ = 0;  // bytes
};

}  // namespace amber::net
