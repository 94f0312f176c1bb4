// The IP layer: interfaces, addresses, routes, and packets between links and transports.
//
// One stack per network namespace, owned by it. Guarded by the kernel lock. Nothing here blocks or allocates per packet on
// loopback but the queue.
//
// Delivery. A packet that is sent on loopback is put into a queue and received when the present batch ends: every entry point (a
// socket operation, a timer, a packet from a link) opens a Batch first, and the end of the outermost one drains the queue. So a connection's code never runs
// inside itself, and a whole exchange (data, acknowledgement, more data) is over before the system call returns.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "sentry/base/errno_or.h"
#include "sentry/net/ip/link.h"
#include "sentry/net/ip/packet.h"
#include "sentry/net/ip/timers.h"

namespace amber::net {

// What a stack needs from the world; the kernel's is in namespace.cc, tests have a clock of their own.
class StackHost {
 public:
  virtual ~StackHost() = default;
  virtual int64_t Now() = 0;  // ns, monotonic, guest time
  // Stack::RunTimers() is to be called at `deadline`.
  virtual void ArmAt(int64_t deadline) = 0;
  virtual uint64_t Random() = 0;
};

// TCP, UDP and ICMP as the IP layer sees them.
class Transport {
 public:
  virtual ~Transport() = default;
  virtual void Receive(Packet packet) = 0;
  // An ICMP error about `sent` (headers and the first bytes only) came back.
  virtual void OnError(const Packet& /*sent*/, const IcmpHeader& /*icmp*/, int /*error*/, bool /*fatal*/) {}
};

// Who looks at what goes over the links, whatever it is (packet sockets).
class FrameTap {
 public:
  virtual ~FrameTap() = default;
  // `link` sends `packet`, or has received it.
  virtual void OnFrame(const Packet& packet, const Link& link, bool outgoing) = 0;
  virtual void OnLinkChange(const Link& link) = 0;
};

struct Route {
  IpAddress destination;
  int prefix = 0;
  IpAddress gateway;  // any: on the link itself
  IpAddress source;   // preferred source; any: the link's first address
  int link = 0;
  uint32_t metric = 0;
  uint8_t protocol = 2, scope = 0, type = 1;  // RTPROT_KERNEL, RT_SCOPE_UNIVERSE, RTN_UNICAST
};

// Where a packet goes.
struct Path {
  Link* link = nullptr;
  IpAddress source;
  IpAddress next_hop;
  uint64_t generation = 0;
};

// SNMP counters that /proc/net/snmp shows.
struct StackCounters {
  uint64_t ip_in = 0, ip_out = 0, ip_delivered = 0, ip_no_route = 0, ip_discarded = 0;
  uint64_t tcp_active = 0, tcp_passive = 0, tcp_failed = 0, tcp_resets = 0, tcp_in = 0, tcp_out = 0, tcp_retransmitted = 0;
  uint64_t tcp_resets_sent = 0, tcp_in_errors = 0;
  uint64_t udp_in = 0, udp_out = 0, udp_no_port = 0, udp_in_errors = 0, udp_buffer_errors = 0;
  uint64_t icmp_in = 0, icmp_out = 0;
};

class Stack {
 public:
  explicit Stack(StackHost& host);
  ~Stack();
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;

  class Batch {
   public:
    explicit Batch(Stack& stack) : stack_(stack) { ++stack_.depth_; }
    ~Batch() {
      if (stack_.depth_ == 1) stack_.Drain();
      --stack_.depth_;
    }
    Batch(const Batch&) = delete;
    Batch& operator=(const Batch&) = delete;

   private:
    Stack& stack_;
  };

  int64_t Now() { return host_.Now(); }
  uint64_t Random() { return host_.Random(); }
  NetTimers& timers() { return timers_; }
  void RunTimers() {
    Batch batch(*this);
    timers_.RunDue(Now());
  }
  // A stack that no longer has a host must not call it.
  void SetTransport(uint8_t protocol, Transport* transport) { transports_[protocol] = transport; }
  // Gets a look at every packet that is delivered (raw sockets). True: somebody took it.
  void SetTap(std::function<bool(const Packet&)> tap) { tap_ = std::move(tap); }
  void SetFrameTap(FrameTap* tap) { frame_tap_ = tap; }

  // --- interfaces ---
  // `index`: 0 for the next free one.
  Link& AddLink(std::unique_ptr<Link> link, int index = 0);
  const std::vector<std::unique_ptr<Link>>& links() const { return links_; }
  Link* FindLink(int index) const;
  Link* FindLink(std::string_view name) const;
  Link& loopback() { return *links_.front(); }
  // Sets IFF_UP and gives lo its addresses.
  void SetUp(Link& link, bool up);
  ErrnoOr<void> AddAddress(Link& link, const InterfaceAddress& address);
  ErrnoOr<void> RemoveAddress(Link& link, const IpAddress& address, int prefix);
  std::vector<Route>& routes() { return routes_; }
  // Routes, links or addresses changed: cached paths are looked up again.
  void Changed() { ++generation_; }
  uint64_t generation() const { return generation_; }

  // --- paths ---
  // The way to `destination`. `source` may be any; `device` 0 is every interface. ENETUNREACH, EINVAL.
  ErrnoOr<Path> FindPath(const IpAddress& destination, const IpAddress& source, int device);
  // An address of an interface that is up (all of 127/8, too).
  bool IsLocal(const IpAddress& address) const;
  // An address that a socket may be bound to.
  bool MayBind(const IpAddress& address) const { return address.any() || address.multicast() || address.broadcast() || IsLocal(address); }

  // --- packets ---
  void Send(Packet packet, const Path& path);
  // A frame of a packet socket's.
  void SendFrame(Slice frame, Link& link);
  // From a link. Opens a batch itself.
  void Receive(Packet packet, Link& link);
  // For loopback.
  void Enqueue(Packet packet) { queue_.push_back(std::move(packet)); }
  // Tells the sender of `packet` that it cannot be delivered.
  void SendUnreachable(const Packet& packet, uint8_t type, uint8_t code);

  StackCounters& counters() { return counters_; }

 private:
  friend class Batch;
  void Drain();
  void Deliver(Packet packet);
  void ReceiveIcmp(Packet packet);

  StackHost& host_;
  NetTimers timers_;
  std::vector<std::unique_ptr<Link>> links_;
  std::vector<Route> routes_;
  Transport* transports_[256] = {};
  std::function<bool(const Packet&)> tap_;
  FrameTap* frame_tap_ = nullptr;
  std::deque<Packet> queue_;
  int depth_ = 0;
  int next_index_ = 1;
  uint64_t generation_ = 1;
  StackCounters counters_;
};

}  // namespace amber::net
