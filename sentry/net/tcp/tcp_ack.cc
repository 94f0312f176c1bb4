// Acknowledgements: what they free, what they say is lost (RFC 5681, 6675; net/ipv4/tcp_input.c).
#include <poll.h>

#include <algorithm>

#include "sentry/net/tcp/tcp_connection.h"
#include "sentry/net/tcp/tcp_layer.h"

namespace amber::net {
namespace {
constexpr uint32_t kDupThreshold = 3;
}

void TcpConnection::SetLost(SendItem& item) {
  if (item.lost || item.sacked || !item.sent) return;
  item.lost = true;
  lost_bytes_ += item.length();
}

void TcpConnection::ForgetScoreboard() {
  for (size_t i = 0; i < next_unsent_; ++i) send_queue_[i].sacked = false;
  sacked_bytes_ = 0;
}

// Takes what `ack` covers off the queue. Returns the bytes; `rtt` is a sample or 0.
uint32_t TcpConnection::AcknowledgeItems(uint32_t ack, int64_t now, int64_t* rtt) {
  uint32_t freed = 0;
  while (next_unsent_ > 0 && !send_queue_.empty() && SeqLess(snd_una_, ack)) {
    SendItem& item = send_queue_.front();
    bool whole = SeqLessEq(item.end(), ack);
    uint32_t n = whole ? item.length() : ack - item.seq;
    if (item.sacked) sacked_bytes_ -= n;
    if (item.lost) lost_bytes_ -= n;
    // Karn: a segment that was sent twice says nothing about time.
    if (whole && !item.retransmitted) *rtt = std::max<int64_t>(now - item.sent_at, 1);
    uint32_t data = std::min(n - (item.syn ? 1 : 0), item.data.size);
    send_charge_ -= data;
    bytes_acked_ += data;
    snd_una_ += n;
    freed += n;
    if (!whole) {
      item.data.DropFront(data);
      item.seq += n;
      break;
    }
    if (!item.syn) send_charge_ -= kItemOverhead;
    send_queue_.pop_front();
    --next_unsent_;
  }
  return freed;
}

// True if something new was reported.
bool TcpConnection::MarkSacked(const TcpHeader& header) {
  bool news = false;
  for (size_t b = 0; b < header.sack_count; ++b) {
    const SackBlock& block = header.sacks[b];
    // Below the acknowledgement: a duplicate (RFC 2883). Beyond what was sent: nonsense.
    if (SeqLessEq(block.right, snd_una_) || SeqLess(snd_nxt_, block.right) || !SeqLess(block.left, block.right)) continue;
    for (size_t i = 0; i < next_unsent_; ++i) {
      SendItem& item = send_queue_[i];
      if (!SeqLess(item.seq, block.right)) break;
      if (item.sacked || SeqLess(item.seq, block.left) || SeqLess(block.right, item.end())) continue;
      if (item.lost) {
        item.lost = false;
        lost_bytes_ -= item.length();
      }
      item.sacked = true;
      sacked_bytes_ += item.length();
      news = true;
    }
  }
  return news;
}

// Marks what three later segments have overtaken. True if something was.
bool TcpConnection::MarkLost() {
  bool any = false;
  uint32_t above = 0, bytes_above = 0;
  for (size_t i = next_unsent_; i-- > 0;) {
    SendItem& item = send_queue_[i];
    if (item.sacked) {
      ++above;
      bytes_above += item.length();
      continue;
    }
    if (above < kDupThreshold && bytes_above <= (kDupThreshold - 1) * mss_) continue;
    // One that was sent again and is lost again is the timer's.
    if (item.lost || item.retransmitted) continue;
    SetLost(item);
    any = true;
  }
  return any;
}

void TcpConnection::UpdateWindow(const TcpHeader& header) {
  bool newer = SeqLess(snd_wl1_, header.seq) || (snd_wl1_ == header.seq && SeqLessEq(snd_wl2_, header.ack));
  if (!newer) return;
  uint32_t window = uint32_t{header.window} << ((header.flags & kSyn) != 0 ? 0 : snd_scale_);
  if (window != snd_wnd_ && snd_nxt_ == snd_una_) {
    // A probe was answered with room.
    retransmit_at_ = kNoDeadline;
    retries_ = 0;
  }
  snd_wnd_ = window;
  snd_wl1_ = header.seq;
  snd_wl2_ = header.ack;
  max_window_ = std::max(max_window_, window);
}

bool TcpConnection::InputAck(const Packet& packet) {
  const TcpHeader& h = packet.tcp;
  if (SeqLess(snd_nxt_, h.ack)) {
    SendAck();
    return false;
  }
  // Too old to be true (RFC 5961, 5.2).
  if (SeqLess(h.ack, snd_una_) && snd_una_ - h.ack > std::max(max_window_, 65535u)) {
    SendAck();
    return false;
  }
  int64_t now = layer_->stack().Now();
  uint32_t flight_before = InFlight();
  bool outstanding = snd_nxt_ != snd_una_;
  uint32_t old_window = snd_wnd_;
  bool was_writable = writable();
  int64_t rtt = 0;
  uint32_t acked = SeqLess(snd_una_, h.ack) ? AcknowledgeItems(h.ack, now, &rtt) : 0;
  UpdateWindow(h);
  bool news = sack_ok_ && h.sack_count > 0 && MarkSacked(h);
  if (acked > 0) {
    // With time stamps even what was sent again gives a sample (RFC 7323, 4).
    if (rtt == 0 && timestamps_ && h.has_timestamp && h.timestamp_echo != 0) {
      rtt = std::max<int64_t>(int64_t{static_cast<int32_t>(TimestampNow() - h.timestamp_echo)} * kMs, 1);
    }
    if (rtt > 0) rtt_.Sample(rtt);
    retries_ = 0;
    retransmit_at_ = kNoDeadline;
    dup_acks_ = 0;
    if (has_urgent_out_ && SeqLessEq(snd_urgent_, snd_una_)) has_urgent_out_ = false;
    if (in_recovery_ && SeqLessEq(recovery_point_, snd_una_)) {
      in_recovery_ = false;
      for (size_t i = 0; i < next_unsent_; ++i) send_queue_[i].retransmitted = false;
    } else if (in_recovery_ && next_unsent_ > 0 && !sack_ok_) {
      // A partial acknowledgement: the next hole is lost, too (RFC 6582).
      send_queue_.front().retransmitted = false;
      SetLost(send_queue_.front());
    }
    if (!in_recovery_ || congestion_.cwnd < congestion_.ssthresh) {
      bool limited = window_limited_ || flight_before + mss_ >= congestion_.cwnd;
      congestion_.OnAck(acked, mss_, now, rtt_.smoothed, limited);
      window_limited_ = false;
    }
  } else if (outstanding && packet.payload.empty() && snd_wnd_ == old_window && (h.flags & (kSyn | kFin)) == 0 && h.ack == snd_una_) {
    ++dup_acks_;
  }
  bool lost = news && MarkLost();
  if (!sack_ok_ && dup_acks_ >= kDupThreshold && !in_recovery_ && next_unsent_ > 0) {
    SetLost(send_queue_.front());
    lost = true;
  }
  if (lost && !in_recovery_) {
    in_recovery_ = true;
    recovery_point_ = snd_nxt_;
    congestion_.OnLoss(mss_);
  }
  if (acked > 0 && !was_writable && writable()) Notify(POLLOUT | POLLWRNORM);
  return true;
}

}  // namespace amber::net
