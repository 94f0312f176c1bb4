#include "sentry/net/link/tun_link.h"

#include "sentry/net/ip/stack.h"

namespace amber::net {
namespace {
constexpr uint32_t kTunQueue = 500, kTapQueue = 1000;
constexpr size_t kMostWaiting = 8192;  // whatever txqueuelen says
}  // namespace

TunLink::TunLink(std::string name, bool tap)
    : FrameLink(std::move(name), tap ? ARPHRD_ETHER : ARPHRD_NONE, 1500,
                tap ? IFF_BROADCAST | IFF_MULTICAST : IFF_POINTOPOINT | IFF_NOARP | IFF_MULTICAST),
      tap_(tap) {
  settings().queue_length = tap ? kTapQueue : kTunQueue;
}

void TunLink::Attach(TunReader* reader) {
  reader_ = reader;
  if (reader == nullptr) queue_.clear();
  CheckCarrier();
}

void TunLink::RestoreReader(TunReader* reader) {
  reader_ = reader;
  had_carrier_ = carrier();
}

void TunLink::OnLeave(bool for_good) {
  FrameLink::OnLeave(for_good);
  if (!for_good) return;
  queue_.clear();
  if (TunReader* reader = std::exchange(reader_, nullptr); reader != nullptr) reader->OnTunGone();
}

void TunLink::Transmit(Slice frame) {
  if (queue_.size() >= std::min<size_t>(settings().queue_length, kMostWaiting)) {
    ++counters().tx_dropped;
    return;
  }
  queue_.push_back(std::move(frame));
  if (reader_ != nullptr) reader_->OnTunPacket();
}

void TunLink::Inject(Slice frame) {
  if (stack() == nullptr) return;
  Stack::Batch batch(*stack());
  Received(std::move(frame));
}

}  // namespace amber::net
