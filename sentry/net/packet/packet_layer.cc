#include "sentry/net/packet/packet_layer.h"

#include "sentry/net/ip/frame.h"

namespace amber::net {

std::string_view SharedFrame::Bytes() {
  if (bytes.empty()) bytes = FrameOf(packet, link);
  return bytes.view();
}

void PacketLayer::Add(FrameTaker& taker) {
  all_.insert(&taker);
  stack_.SetFrameTap(this);
}

void PacketLayer::Remove(FrameTaker& taker) {
  all_.erase(&taker);
  if (all_.empty()) stack_.SetFrameTap(nullptr);
}

uint32_t PacketLayer::promiscuity(int link) const {
  uint32_t sum = 0;
  for (const FrameTaker* taker : all_) sum += taker->promiscuity(link);
  return sum;
}

void PacketLayer::Send(FrameTaker& sender, Slice frame, Link& link) {
  Stack::Batch batch(stack_);
  const FrameTaker* before = std::exchange(sender_, &sender);
  stack_.SendFrame(std::move(frame), link);
  sender_ = before;
}

void PacketLayer::OnFrame(const Packet& packet, const Link& link, bool outgoing) {
  SharedFrame frame{packet, link, outgoing, {}};
  for (FrameTaker* taker : all_) {
    if (!outgoing || taker != sender_) taker->OnFrame(frame);
  }
}

void PacketLayer::OnLinkChange(const Link& link) {
  for (FrameTaker* taker : all_) taker->OnLinkChange(link);
}

}  // namespace amber::net
