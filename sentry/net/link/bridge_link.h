// bridge (net/bridge): a switch of this stack's interfaces, and an interface of its own to what they join. Without the spanning tree protocol, virtual
// networks and snooping of groups: what is sent to a group goes to every port.
#pragma once

#include <map>
#include <vector>

#include "sentry/net/link/frame_link.h"

namespace amber::net {

class BridgeLink final : public FrameMaster {
 public:
  explicit BridgeLink(std::string name);

  const char* kind() const override { return "bridge"; }
  bool carrier() const override;
  void OnUpDown() override;
  void OnLeave(bool for_good) override;
  void OnPortFrame(FrameLink& port, Slice frame) override;
  void OnPortLeave(FrameLink& port) override { RemovePort(port); }
  void OnPortChange(FrameLink& port) override;

  // What may be a port: an Ethernet interface of the same stack that is neither lo nor a bridge nor a port already. EINVAL, ELOOP, EBUSY.
  ErrnoOr<void> AddPort(FrameLink& port);
  void RemovePort(FrameLink& port);
  // Its address is the least of its ports' until a program gives it one.
  void SetOwnHardware(const HardwareAddress& hardware);

  struct Port {
    FrameLink* link;
    uint16_t number;
    bool hairpin = false, learning = true, flood = true, isolated = false;
  };
  const std::vector<Port>& ports() const { return ports_; }
  Port* FindPort(const Link& link);

  struct Entry {
    FrameLink* port;
    int64_t seen;
  };
  const std::map<HardwareAddress, Entry>& table() const { return table_; }
  static constexpr size_t kMaxPorts = 1023, kMaxEntries = 4096;
  // What an image says.
  void RestorePort(FrameLink& port, uint16_t number);

  int64_t ageing = 300 * kSecond;
  bool own_hardware = false;
  bool had_port = false;  // before the first one nobody looks whether there is a carrier (br_port_state_selection())

 protected:
  void Transmit(Slice frame) override;

 private:
  static constexpr size_t kHeader = 14;
  void Learn(const HardwareAddress& from, FrameLink& port);
  // The port behind which `to` is, or null.
  Port* PortFor(const HardwareAddress& to);
  void SendTo(Port& port, const FrameLink* from, const Slice& frame);
  void Flood(const FrameLink* from, const Slice& frame, bool unicast);
  void ChooseHardware();

  std::vector<Port> ports_;
  std::map<HardwareAddress, Entry> table_;
};

}  // namespace amber::net
