// Network interfaces. A Link takes packets that the stack has routed to it; loopback hands them straight back, others
// (sentry/net/link) write them in wire format. Guarded by the kernel lock.
//
// A stack owns its links; who keeps a way to one (Path) shares it. A link that was deleted belongs to no stack and drops what it is given.
#pragma once

#include <net/if.h>
#include <net/if_arp.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "sentry/base/ref_ptr.h"
#include "sentry/net/ip/packet.h"

namespace amber::net {

class Neighbours;
class Stack;

using HardwareAddress = std::array<uint8_t, 6>;

struct InterfaceAddress {
  IpAddress address;
  int prefix = 0;
  uint8_t scope = 0;       // RT_SCOPE_*
  bool secondary = false;  // IPv4: another one of the same network came first
  IpAddress peer;          // of a point-to-point link, whose network it is then; any: none
  IpAddress broadcast;     // any: none was given
  // The network that the address makes reachable.
  const IpAddress& network() const { return peer.any() ? address : peer; }
};

struct LinkCounters {
  uint64_t rx_packets = 0, rx_bytes = 0, tx_packets = 0, tx_bytes = 0, rx_dropped = 0, tx_dropped = 0, multicast = 0;
};

// What RTM_NEWLINK can set of any interface.
struct LinkSettings {
  uint32_t queue_length = 1000;
  uint32_t group = 0;
  std::string alias;
};

class Link : public RefCounted<Link> {
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
  // Shows its frames to packet sockets by itself, since it alone knows their headers.
  virtual bool shows_frames() const { return false; }
  // IFLA_INFO_KIND: how it was made and may be deleted; null for those that are always there.
  virtual const char* kind() const { return nullptr; }
  virtual bool carrier() const { return true; }
  // What no transport takes: frames of other protocols than IP (ARP), and messages about neighbours (RFC 4861).
  virtual void ReceiveOwn(const Packet& /*packet*/) {}
  virtual Neighbours* neighbours() { return nullptr; }
  // A port's frame that has come in is its bridge's: true if it took it.
  virtual bool PassToMaster(const Packet& /*packet*/) { return false; }
  // Something about this port is new to its bridge.
  virtual void TellMaster() {}
  // It went up or down.
  virtual void OnUpDown() {}
  // It is about to leave its stack: for another one, or for good.
  virtual void OnLeave(bool /*for_good*/) {}
  // The smallest and largest MTU that may be set; 0: any.
  virtual uint32_t min_mtu() const { return 0; }
  virtual uint32_t max_mtu() const { return 0; }
  // The interface behind it (IFLA_LINK): index and stack; its own index if there is none.
  virtual int lower_index() const { return index_; }
  virtual Stack* lower_stack() const { return stack_; }

  Stack* stack() const { return stack_; }
  int index() const { return index_; }
  const std::string& name() const { return name_; }
  uint16_t type() const { return type_; }  // ARPHRD_*
  // Of the link's own header: Ethernet's, which lo has, too, or none.
  size_t header_size() const { return type_ == ARPHRD_NONE ? 0 : 14; }
  uint32_t mtu() const { return mtu_; }
  void set_mtu(uint32_t mtu) { mtu_ = mtu; }
  bool up() const { return (flags_ & IFF_UP) != 0; }
  bool running() const { return up() && carrier(); }
  // IFF_* as SIOCGIFFLAGS shows them.
  uint32_t flags() const { return flags_ | (running() ? IFF_RUNNING : 0); }
  void set_flags(uint32_t flags) { flags_ = flags; }
  const HardwareAddress& hardware() const { return hardware_; }
  void set_hardware(const HardwareAddress& hardware) { hardware_ = hardware; }
  std::vector<InterfaceAddress>& addresses() { return addresses_; }
  const std::vector<InterfaceAddress>& addresses() const { return addresses_; }
  LinkCounters& counters() { return counters_; }
  const LinkCounters& counters() const { return counters_; }
  LinkSettings& settings() { return settings_; }
  const LinkSettings& settings() const { return settings_; }
  // The bridge whose port it is, or null.
  Link* master() const { return master_; }
  void set_master(Link* master) { master_ = master; }
  // How often the carrier came and went; an interface whose carrier has never changed does not know whether it works (IF_OPER_UNKNOWN).
  uint32_t carrier_ups() const { return carrier_ups_; }
  uint32_t carrier_downs() const { return carrier_downs_; }
  void set_carrier_changes(uint32_t ups, uint32_t downs) { carrier_ups_ = ups, carrier_downs_ = downs; }
  uint8_t operational_state() const;  // IF_OPER_*
  // IPv6 has made its address since the interface went up.
  bool ready() const { return ready_; }
  void set_ready(bool ready) { ready_ = ready; }

 protected:
  // The carrier may have changed: counts it, and the stack takes notice.
  void CheckCarrier();
  bool had_carrier_ = true;

 private:
  friend class Stack;
  Stack* stack_ = nullptr;
  int index_ = 0;
  std::string name_;
  uint16_t type_;
  uint32_t mtu_;
  uint32_t flags_ = 0;
  bool ready_ = false;
  HardwareAddress hardware_{};
  std::vector<InterfaceAddress> addresses_;
  LinkCounters counters_;
  LinkSettings settings_;
  Link* master_ = nullptr;
  uint32_t carrier_ups_ = 0, carrier_downs_ = 0;
};

// lo: what is sent is received, in order, when the stack's present batch ends.
class LoopbackLink final : public Link {
 public:
  LoopbackLink() : Link("lo", ARPHRD_LOOPBACK, 65536) { set_flags(IFF_LOOPBACK); }
  void Send(Packet packet, const IpAddress& next_hop) override;
  void SendFrame(Slice frame) override;
  bool loopback() const override { return true; }
};

}  // namespace amber::net
