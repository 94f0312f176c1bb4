// The IP layer: interfaces, addresses, routes, and packets between links and transports.
//
// One stack per network namespace, owned by it. Guarded by the kernel lock. Nothing here blocks or allocates per packet on
// loopback but the queue.
//
// Delivery. A packet that is sent on loopback is put into a queue and received when the present batch ends: every entry point (a
// socket operation, a timer, a packet from a link) opens a Batch first, and the end of the outermost one drains the queue. So a connection's code never runs
// inside itself, and a whole exchange (data, acknowledgement, more data) is over before the system call returns.
//
// Frames cross from one stack to another (veth) in the same way: they wait in the other stack's queue, and the outermost batch of all stacks ends when
// those queues are empty, too. However stacks are wired up, no stack's code runs inside itself, and no recursion grows with their number; what comes
// without end (bridges in a circle) goes on by a timer after a bounded number of packets.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <functional>
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
  // What netlink tells who listens. `gone`: it was removed, or is about to be.
  virtual void OnLinkEvent(Link& /*link*/, bool /*gone*/) {}
  virtual void OnAddressEvent(Link& /*link*/, const InterfaceAddress& /*address*/, bool /*gone*/) {}
  virtual void OnRouteEvent(const struct Route& /*route*/, bool /*gone*/) {}
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
  uint8_t tos = 0;
  bool on_link = false;  // RTNH_F_ONLINK: the gateway need not be in a network of the link
  uint32_t table = kMainTable;

  static constexpr uint32_t kMainTable = 254, kDefaultTable = 253, kLocalTable = 255;
};

// Where a packet goes.
struct Path {
  RefPtr<Link> link;
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
    explicit Batch(Stack& stack) : stack_(stack) {
      ++stack_.depth_;
      if (open_batches_++ == 0 && !draining_) budget_ = kFramesPerBatch, began_ = 0;
    }
    ~Batch() {
      if (stack_.depth_ == 1) stack_.Drain();
      --stack_.depth_;
      if (--open_batches_ == 0) DrainOthers();
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
  StackHost& host() { return host_; }

  // --- interfaces (stack_links.cc) ---
  // Bounds, so that neither memory nor the time of a look-up is the guest's to choose.
  static constexpr size_t kMaxLinks = 1024, kMaxAddresses = 4096, kMaxRoutes = 8192;
  // `index`: 0, or one that is taken, for the next free one.
  Link& AddLink(RefPtr<Link> link, int index = 0);
  // Deletes it: addresses, routes and neighbours go with it.
  void RemoveLink(Link& link);
  // To another stack, down and without addresses. Its name must be free there.
  void MoveLink(Link& link, Stack& to, std::string name, int index = 0);
  void RenameLink(Link& link, std::string name);
  // A free name for a pattern like veth%d; what has no %d, as it is. Empty: there is none.
  std::string FreeName(std::string_view pattern) const;
  const std::vector<RefPtr<Link>>& links() const { return links_; }
  // The number of the next one; a number is not used again before all others have been.
  static constexpr int kMaxIndex = INT32_MAX - 1;
  int next_index() const { return next_index_; }
  void set_next_index(int index) { next_index_ = std::clamp(index, 1, kMaxIndex); }
  Link* FindLink(int index) const;
  Link* FindLink(std::string_view name) const;
  Link& loopback() { return *links_.front(); }
  // Sets IFF_UP and gives lo its addresses; routes come and go with it.
  void SetUp(Link& link, bool up);
  // Carrier, name or settings of `link` are others.
  void LinkChanged(Link& link);
  ErrnoOr<void> AddAddress(Link& link, InterfaceAddress address);
  // `prefix` < 0: whatever it is.
  ErrnoOr<void> RemoveAddress(Link& link, const IpAddress& address, int prefix);
  // Takes away those that `gone` is true for, and the routes that they made.
  void DropAddresses(Link& link, const std::function<bool(const InterfaceAddress&)>& gone);
  // Routes, links or addresses changed: cached paths are looked up again.
  void Changed() { ++generation_; }
  uint64_t generation() const { return generation_; }

  // --- routes (routes.cc) ---
  std::vector<Route>& routes() { return routes_; }
  // ip route add, replace, append: `flags` are NLM_F_CREATE and its kin. What can be found out is filled in.
  ErrnoOr<void> AddRoute(Route route, uint16_t flags);
  // The first one that agrees in all that `route` says: 0 and "any" agree with everything. ESRCH.
  ErrnoOr<void> RemoveRoute(const Route& route);
  // Takes away those that `gone` is true for.
  void DropRoutes(const std::function<bool(const Route&)>& gone);

  // --- paths ---
  // The way to `destination`. `source` may be any; `device` 0 is every interface. ENETUNREACH, EINVAL.
  ErrnoOr<Path> FindPath(const IpAddress& destination, const IpAddress& source, int device);
  // An address of an interface that is up (all of 127/8, too).
  bool IsLocal(const IpAddress& address) const;
  // The broadcast address of a network that an interface is in, or of all.
  bool IsBroadcast(const IpAddress& address) const { return address.broadcast() || BroadcastLink(address) != nullptr; }
  // An address that a socket may be bound to.
  bool MayBind(const IpAddress& address) const { return address.any() || address.multicast() || IsBroadcast(address) || IsLocal(address); }

  // --- packets ---
  void Send(Packet packet, const Path& path);
  // A frame of a packet socket's.
  void SendFrame(Slice frame, Link& link);
  // From a link. Opens a batch itself.
  void Receive(Packet packet, Link& link);
  // For loopback.
  void Enqueue(Packet packet) {
    backlog_ += packet.frame.size;
    queue_.push_back(std::move(packet));
  }
  // A frame that came in by `link`, from wherever; it is received when the present batch ends.
  void ReceiveFrame(Slice frame, Link& link);
  // A frame that `link` sends, for packet sockets.
  void ShowOutgoing(const Slice& frame, Link& link);
  // No way to the host that `packet`, one of ours, is for (ipv4_link_failure()).
  void SendHostUnreachable(const Packet& packet);
  // Tells the sender of `packet` that it cannot be delivered.
  void SendUnreachable(const Packet& packet, uint8_t type, uint8_t code);

  StackCounters& counters() { return counters_; }

 private:
  friend class Batch;
  static void DrainOthers();
  void Drain();
  // The batch has received its frames, or has taken its time; `look`: at the clock, too.
  bool Spent(bool look);
  void Deliver(Packet packet);
  int FreeIndex();
  void LinkUp(Link& link);
  void LinkDown(Link& link);
  void AddConnectedRoute(const Link& link, const InterfaceAddress& a);
  void AddLinkLocal(Link& link);
  void Detach(Link& link, bool for_good);
  Link* BroadcastLink(const IpAddress& address) const;
  const Route* BestRoute(const IpAddress& destination, int device) const;
  IpAddress SourceFor(const IpAddress& destination, const Link& link) const;
  void ReceiveIcmp(Packet packet);

  StackHost& host_;
  NetTimers timers_;
  std::vector<RefPtr<Link>> links_;
  std::vector<Route> routes_;
  Transport* transports_[256] = {};
  std::function<bool(const Packet&)> tap_;
  FrameTap* frame_tap_ = nullptr;
  std::deque<Packet> queue_;
  size_t backlog_ = 0;  // bytes of frames in it
  int depth_ = 0;
  bool due_ = false;        // in due_stacks_
  NetTimer backlog_timer_;  // goes on where a batch stopped
  int next_index_ = 1;
  uint64_t generation_ = 1;
  StackCounters counters_;

  // More than that cross in no batch, be it that they are put into a queue or taken out; what is left goes on by a timer.
  static constexpr int kFramesPerBatch = 8192;
  // So long a batch receives frames, however few they are, and so long a pause there is at most.
  static constexpr int64_t kBatchTime = 5 * kMs;
  // Of all stacks of the process. Kernel lock.
  static inline int open_batches_ = 0;
  static inline bool draining_ = false;
  static inline int budget_ = 0;     // frames that the outermost batch may still move
  static inline int64_t began_ = 0;  // when it received the first one
  static inline std::vector<Stack*> due_stacks_;
};

}  // namespace amber::net
