// Network interfaces. A Link takes packets that the stack has routed to it; loopback hands them straight back, a link to
// the outside (packet socket on a veth) writes them in wire format. Guarded by the kernel lock.
#pragma once

#include <net/if.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "sentry/net/ip/packet.h"

namespace amber::net {

class Stack;

struct InterfaceAddress {
  IpAddress address;
  int prefix = 0;
  uint8_t scope = 0;  // RT_SCOPE_*
};

struct LinkCounters {
  uint64_t rx_packets = 0, rx_bytes = 0, tx_packets = 0, tx_bytes = 0, rx_dropped = 0, tx_dropped = 0;
};

class Link {
 public:
  Link(std::string name, uint16_t type, uint32_t mtu) : name_(std::move(name)), type_(type), mtu_(mtu) {}
  virtual ~Link() = default;
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;

  // Takes a packet for `next_hop`, which is on this link.
  virtual void Send(Packet packet, const IpAddress& next_hop) = 0;
  // Takes a frame that a packet socket has made, with the link's header; what cannot be sent is dropped.
  virtual void SendFrame(Slice /*frame*/) {}
  // Packets never leave the machine: no size limit but the queue's, answers come at once.
  virtual bool loopback() const { return false; }

  int index() const { return index_; }
  const std::string& name() const { return name_; }
  uint16_t type() const { return type_; }  // ARPHRD_*
  uint32_t mtu() const { return mtu_; }
  void set_mtu(uint32_t mtu) { mtu_ = mtu; }
  bool up() const { return (flags_ & IFF_UP) != 0; }
  // IFF_* as SIOCGIFFLAGS shows them.
  uint32_t flags() const { return flags_ | (up() ? IFF_RUNNING : 0); }
  void set_flags(uint32_t flags) { flags_ = flags; }
  const std::array<uint8_t, 6>& hardware() const { return hardware_; }
  std::vector<InterfaceAddress>& addresses() { return addresses_; }
  const std::vector<InterfaceAddress>& addresses() const { return addresses_; }
  LinkCounters& counters() { return counters_; }
  const LinkCounters& counters() const { return counters_; }

 private:
  friend class Stack;
  int index_ = 0;
  std::string name_;
  uint16_t type_;
  uint32_t mtu_;
  uint32_t flags_ = 0;
  std::array<uint8_t, 6> hardware_{};
  std::vector<InterfaceAddress> addresses_;
  LinkCounters counters_;
};

// lo: what is sent is received, in order, when the stack's present batch ends.
class LoopbackLink final : public Link {
 public:
  explicit LoopbackLink(Stack& stack);
  void Send(Packet packet, const IpAddress& next_hop) override;
  void SendFrame(Slice frame) override;
  bool loopback() const override { return true; }

 private:
  Stack& stack_;
};

}  // namespace amber::net
