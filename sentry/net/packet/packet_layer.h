// Packet sockets of one stack: who looks at the frames of its links. Owned by the network namespace, guarded by the kernel lock.
#pragma once

#include <set>

#include "sentry/net/ip/stack.h"

namespace amber::net {

// A frame, made at most once however many sockets see it.
struct SharedFrame {
  const Packet& packet;
  const Link& link;
  bool outgoing;
  Slice bytes;  // empty until somebody wanted it

  std::string_view Bytes();
};

// A packet socket, as the layer sees it.
class FrameTaker {
 public:
  virtual void OnFrame(SharedFrame& frame) = 0;
  virtual void OnLinkChange(const Link& link) = 0;
  // How often it has asked for all frames of a link.
  virtual uint32_t promiscuity(int link) const = 0;

 protected:
  ~FrameTaker() = default;
};

class PacketLayer final : public FrameTap {
 public:
  explicit PacketLayer(Stack& stack) : stack_(stack) {}
  ~PacketLayer() override { stack_.SetFrameTap(nullptr); }

  // The stack is listened to only while there is somebody who wants it. Not while a frame is handed round.
  void Add(FrameTaker& taker);
  void Remove(FrameTaker& taker);
  const std::set<FrameTaker*>& all() const { return all_; }
  uint32_t promiscuity(int link) const;
  // `sender` does not get its own frame on the way out (skb_loop_sk()).
  void Send(FrameTaker& sender, Slice frame, Link& link);

  void OnFrame(const Packet& packet, const Link& link, bool outgoing) override;
  void OnLinkChange(const Link& link) override;

 private:
  Stack& stack_;
  std::set<FrameTaker*> all_;
  const FrameTaker* sender_ = nullptr;
};

}  // namespace amber::net
