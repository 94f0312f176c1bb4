// UDP or UDP-Lite of one stack: which datagram belongs to which socket. Owned by the network namespace, guarded by the kernel lock.
#pragma once

#include <set>

#include "sentry/net/ip/ports.h"
#include "sentry/net/ip/stack.h"

namespace amber {
class UdpSocket;
}

namespace amber::net {

class UdpLayer final : public Transport {
 public:
  // `protocol`: kUdp or kUdpLite, which have ports of their own.
  UdpLayer(Stack& stack, uint8_t protocol) : stack_(stack), protocol_(protocol) { stack_.SetTransport(protocol, this); }
  ~UdpLayer() override { stack_.SetTransport(protocol_, nullptr); }

  Stack& stack() { return stack_; }
  PortTable& ports() { return ports_; }
  void Receive(Packet packet) override;
  void OnError(const Packet& sent, const IcmpHeader& icmp, int error, bool fatal) override;
  // Every UDP socket.
  std::set<UdpSocket*>& all() { return all_; }

 private:
  UdpSocket* Find(const IpAddress& local, uint16_t local_port, const IpAddress& remote, uint16_t remote_port, int link) const;

  Stack& stack_;
  uint8_t protocol_;
  PortTable ports_{true};
  std::set<UdpSocket*> all_;
};

}  // namespace amber::net
