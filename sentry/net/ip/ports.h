// Who has which port: bind(2) conflicts and ephemeral ports, one table per protocol (inet_csk_get_port, udp_lib_get_port).
//
// A PortBinding is part of its socket or connection and unlinks itself when destroyed. Guarded by the kernel lock.
#pragma once

#include <cstdint>
#include <functional>
#include <unordered_map>

#include "sentry/base/errno_or.h"
#include "sentry/net/ip/ip_address.h"

namespace amber::net {

class PortTable;

class PortBinding {
 public:
  PortBinding() = default;
  PortBinding(const PortBinding&) = delete;
  PortBinding& operator=(const PortBinding&) = delete;
  ~PortBinding() { Remove(); }

  bool bound() const { return table_ != nullptr; }
  void Remove();

  IpAddress address;
  uint16_t port = 0;
  bool v6only = false;      // of an IPv6 socket: :: does not cover IPv4
  bool reuse = false;       // SO_REUSEADDR
  bool reuse_port = false;  // SO_REUSEPORT
  bool listening = false;
  bool by_connect = false;  // the port was chosen by connect(): shared by connections to other places
  int device = 0;           // SO_BINDTODEVICE
  uint32_t uid = 0;

  // The next one with this port.
  PortBinding* next() const { return next_; }
  void* owner = nullptr;  // for the protocol's look-ups

 private:
  friend class PortTable;
  PortTable* table_ = nullptr;
  PortBinding* next_ = nullptr;
  PortBinding* prev_ = nullptr;
};

class PortTable {
 public:
  // `share_alike`: two sockets with SO_REUSEADDR may have the same address (UDP); for TCP only if none listens.
  explicit PortTable(bool datagram) : datagram_(datagram) {}
  PortTable(const PortTable&) = delete;
  PortTable& operator=(const PortTable&) = delete;
  ~PortTable();

  // Registers `b` with `port`, or an ephemeral port if that is 0; EADDRINUSE. b.address and the options are set.
  ErrnoOr<void> Bind(PortBinding& b, uint16_t port, uint32_t random);
  // For connect(): an ephemeral port p for which `free(p)`; other connections may have it, too. EADDRNOTAVAIL.
  ErrnoOr<void> BindForConnect(PortBinding& b, uint32_t random, const std::function<bool(uint16_t)>& free);
  // Registers `b`, whose port is that of an existing binding (an accepted connection) or comes from an image.
  void Share(PortBinding& b);
  // May `b`, which is bound, listen now? EADDRINUSE if another one does.
  ErrnoOr<void> CheckListen(const PortBinding& b) const;
  PortBinding* First(uint16_t port) const;

  // net.ipv4.ip_local_port_range.
  uint16_t low() const { return low_; }
  uint16_t high() const { return high_; }
  void SetRange(uint16_t low, uint16_t high) { low_ = low, high_ = high; }

 private:
  friend class PortBinding;
  bool Conflicts(const PortBinding& b, uint16_t port, bool strict) const;
  void Link(PortBinding& b);

  bool datagram_;
  uint16_t low_ = 32768, high_ = 60999;
  std::unordered_map<uint16_t, PortBinding*> heads_;
};

// Both may receive what is sent to some address.
bool AddressesOverlap(const PortBinding& a, const PortBinding& b);

}  // namespace amber::net
