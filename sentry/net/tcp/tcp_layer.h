// TCP of one stack: which segment belongs to whom. Connections, listeners, ports, TIME_WAIT. Owned by the network namespace,
// guarded by the kernel lock.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <set>
#include <unordered_map>
#include <vector>

#include "sentry/net/ip/ports.h"
#include "sentry/net/ip/stack.h"
#include "sentry/net/tcp/tcp_connection.h"

namespace amber::net {

struct FlowKey {
  Endpoint local, remote;
  bool operator==(const FlowKey&) const = default;
};

// What is left of a connection that closed first (RFC 9293, 3.6.1): answers what is late, keeps the pair of end points from being used again.
struct TimeWait {
  FlowKey key;
  int family = 0;
  uint32_t snd_nxt = 0, rcv_nxt = 0, rcv_window = 0;
  bool timestamps = false;
  uint32_t ts_recent = 0, ts_offset = 0;
  int64_t since = 0, expires = 0;
  PortBinding binding;
};

class TcpLayer final : public Transport {
 public:
  explicit TcpLayer(Stack& stack);
  ~TcpLayer() override;

  Stack& stack() { return stack_; }
  PortTable& ports() { return ports_; }
  void Receive(Packet packet) override;
  void OnError(const Packet& sent, const IcmpHeader& icmp, int error, bool fatal) override;

  // Every connection and listener, and what is in TIME_WAIT.
  const std::set<TcpConnection*>& all() const { return all_; }
  const std::list<std::unique_ptr<TimeWait>>& time_waits() const { return time_waits_; }
  // Is in the table of those that packets reach.
  std::vector<TcpConnection*> Connected() const;
  uint64_t established_count() const;

  // --- for connections ---
  void Register(TcpConnection& c) { all_.insert(&c); }
  void Unregister(TcpConnection& c) { all_.erase(&c); }
  bool Insert(TcpConnection& c);
  void Remove(TcpConnection& c);
  // The pair is free, or its TIME_WAIT may be cut short (net.ipv4.tcp_tw_reuse).
  bool PairFree(const FlowKey& key);
  void AddListener(TcpConnection& c);
  void RemoveListener(TcpConnection& c);
  void AddTimeWait(std::unique_ptr<TimeWait> tw);
  // A reset that answers `packet`, which belongs to nobody.
  void SendReset(const Packet& packet);
  uint32_t NewSequence() { return static_cast<uint32_t>(stack_.Random()); }

 private:
  friend class TcpConnection;
  struct KeyHash {
    uint64_t seed;
    size_t operator()(const FlowKey& k) const { return HashEndpoint(k.remote, HashEndpoint(k.local, seed)); }
  };
  TcpConnection* FindListener(const Packet& packet) const;
  // True if the segment was for it and is done with; false if it is a new SYN that ends the wait.
  bool InputTimeWait(TimeWait& tw, const Packet& packet);
  void DropTimeWait(TimeWait& tw);
  void ExpireTimeWaits();

  Stack& stack_;
  PortTable ports_{false};
  std::set<TcpConnection*> all_;
  std::unordered_map<FlowKey, RefPtr<TcpConnection>, KeyHash> table_;
  std::unordered_map<uint16_t, std::vector<TcpConnection*>> listeners_;
  std::list<std::unique_ptr<TimeWait>> time_waits_;  // oldest first
  std::unordered_map<FlowKey, std::list<std::unique_ptr<TimeWait>>::iterator, KeyHash> time_wait_table_;
  NetTimer time_wait_timer_;
};

}  // namespace amber::net
