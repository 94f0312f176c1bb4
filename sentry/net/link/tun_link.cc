#include "sentry/net/link/tun_link.h"

#include "sentry/net/ip/stack.h"

namespace amber::net {
namespace {
constexpr uint32_t kTunQueue = 500, kTapQueue = 1000;
}  // namespace

TunLink::TunLink(std::string name, bool tap)
    : FrameLink(std::move(name), tap ? ARPHRD_ETHER : ARPHRD_NONE, 1500,
                tap ? IFF_BROADCAST | IFF_MULTICAST : IFF_POINTOPOINT | IFF_NOARP | IFF_MULTICAST),
      tap_(tap) {
  settings().queue_length = tap ? kTapQueue : kTunQueue;
}

void TunLink::Attach(TunReader* reader) {
  reader_ = reader;
  if (reader == nullptr) queue_.clear(), queued_ = 0;
  CheckCarrier();
}

void TunLink::RestoreReader(TunReader* reader) {
  reader_ = reader;
  had_carrier_ = carrier();
}

void TunLink::OnLeave(bool for_good) {
  FrameLink::OnLeave(for_good);
  if (!for_good) return;
  queue_.clear(), queued_ = 0;
  if (TunReader* reader = std::exchange(reader_, nullptr); reader != nullptr) reader->OnTunGone();
}

void TunLink::Transmit(Slice frame) {
  if (queue_.size() >= std::min<size_t>(settings().queue_length, kMostWaiting) || queued_ + frame.size > kMostBytes) {
    ++counters().tx_dropped;
    return;
  }
  Push(std::move(frame));
  if (reader_ != nullptr) reader_->OnTunPacket();
}

void TunLink::Push(Slice packet) {
  queued_ += packet.size;
  queue_.push_back(std::move(packet));
}

void TunLink::Pop() {
  queued_ -= queue_.front().size;
  queue_.pop_front();
}

void TunLink::Inject(Slice frame) {
  if (stack() == nullptr) return;
  Stack::Batch batch(*stack());
  Received(std::move(frame));
}

}  // namespace amber::net
