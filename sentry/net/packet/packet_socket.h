// Packet sockets (packet(7), net/packet/af_packet.c): frames as links carry them, of SOCK_RAW with the link's header, of SOCK_DGRAM without. What is
// received waits in a queue, or lies in a ring that the program has mapped (packet_ring.h). Guarded by the kernel lock.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "sentry/net/inet/net_namespace.h"
#include "sentry/net/ip/timers.h"
#include "sentry/net/packet/packet_layer.h"
#include "sentry/net/packet/packet_ring.h"
#include "sentry/net/socket.h"

namespace amber {

inline constexpr state::Kind kPacketSocketKind{126};

class PacketSocket final : public Socket, public net::FrameTaker {
 public:
  PacketSocket();  // for Load()
  // EPERM, ESOCKTNOSUPPORT. `protocol` is in network order, as socket(2) has it.
  static ErrnoOr<RefPtr<Socket>> Make(Task& task, int type, int protocol);
  ~PacketSocket() override;

  ErrnoOr<void> Bind(Task& task, std::string_view address) override;
  ErrnoOr<std::string> LocalAddress() override;
  ErrnoOr<size_t> Send(Task& task, SendRequest& request) override;
  ErrnoOr<size_t> Receive(Task& task, ReceiveRequest& request) override;
  ErrnoOr<void> SetOption(Task& task, int level, int name, std::span<const uint8_t> value) override;
  ErrnoOr<std::string> GetOption(Task& task, int level, int name, size_t capacity) override;
  ErrnoOr<std::string> AnswerOption(Task& task, int level, int name, int question, size_t capacity) override;
  ErrnoOr<uint64_t> Ioctl(Task& task, uint32_t command, uint64_t argument) override;
  ErrnoOr<MapSource> Map(Task& task, uint64_t offset, uint64_t size, int prot, bool shared) override;

  uint32_t Poll(Task& task) override;
  WaitQueue* wait_queue() override { return &queue_; }

  void OnFrame(net::SharedFrame& frame) override;
  void OnLinkChange(const net::Link& link) override;

  // For /proc/net/packet and ss.
  uint16_t frame_protocol() const { return ether_; }
  int device() const { return device_; }
  bool running() const { return running_; }
  size_t charge() const { return charge_; }
  uint32_t uid() const { return uid_; }
  uint32_t promiscuity(int link) const override;

  state::Kind kind() const override { return kPacketSocketKind; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 private:
  // What a frame costs beyond its bytes, so that short ones are not free.
  static constexpr size_t kOverhead = 768;
  static constexpr size_t kMaxMemberships = 256;

  struct Frame {
    net::Slice data;
    FrameInfo info;
  };
  // PACKET_ADD_MEMBERSHIP.
  struct Membership {
    int link = 0;
    uint16_t type = 0;
    std::string address;
    uint32_t count = 0;
  };

  ErrnoOr<void> ChangeMembership(bool add, std::span<const uint8_t> value);
  ErrnoOr<void> SetRing(std::span<const uint8_t> value);
  ErrnoOr<void> SetFlag(int name, std::span<const uint8_t> value);
  std::string TakeStatistics();
  // Bound to something, and that is up.
  void UpdateRunning();
  uint32_t Filter(net::SharedFrame& frame) const;
  void Wake() { queue_.Notify(0x41 /* POLLIN | POLLRDNORM */); }
  void ArmRingTimer();
  int TakeError() override { return std::exchange(error_, 0); }

  RefPtr<NetNamespace> net_;
  uint16_t ether_ = 0;  // ETH_P_*; 0 receives nothing
  int device_ = 0;
  bool running_ = false;
  int error_ = 0;
  uint32_t uid_ = 0;
  std::deque<Frame> frames_;
  size_t charge_ = 0;
  uint32_t received_ = 0, drops_ = 0;  // PACKET_STATISTICS, which begins anew when it is read
  std::vector<Membership> memberships_;
  bool aux_data_ = false, ignore_outgoing_ = false;
  int version_ = 0;  // TPACKET_V1 ...
  uint32_t reserve_ = 0;
  std::unique_ptr<PacketRing> ring_;
  net::NetTimer ring_timer_;
  WaitQueue queue_;
};

}  // namespace amber
