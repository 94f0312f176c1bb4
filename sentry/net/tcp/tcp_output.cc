// Segments that leave (RFC 9293 3.8; net/ipv4/tcp_output.c).
#include <algorithm>

#include "sentry/net/tcp/tcp_connection.h"
#include "sentry/net/tcp/tcp_layer.h"

namespace amber::net {

uint32_t TcpConnection::TimestampNow() const { return static_cast<uint32_t>(layer_->stack().Now() / kMs) + ts_offset_; }

// The window to offer, in bytes. Never takes back what was offered; grows in steps worth a segment only (RFC 9293, 3.8.6.2.2).
uint32_t TcpConnection::SelectWindow() {
  uint32_t offered = SeqLess(rcv_nxt_, rcv_adv_) ? rcv_adv_ - rcv_nxt_ : 0;
  // Half of the buffer is for what segments cost beyond their bytes (tcp_adv_win_scale).
  uint32_t charge = receive_charge_ + out_of_order_charge_;
  uint32_t free = charge >= receive_limit_ ? 0 : (receive_limit_ - charge) / 2;
  if (options_.window_clamp != 0) free = std::min(free, options_.window_clamp);
  free = std::min(free, uint32_t{65535} << rcv_scale_);
  uint32_t step = uint32_t{1} << rcv_scale_;
  free = free / step * step;
  if (free < std::min(receive_limit_ / 8, MaxMss())) free = 0;
  return std::max(free, offered);
}

void TcpConnection::AddSacks(TcpHeader* header) const {
  if (!sack_ok_ || out_of_order_.empty()) return;
  // The block with the newest segment first (RFC 2018, 4).
  size_t most = timestamps_ ? 3 : 4;
  SackBlock blocks[4];
  size_t count = 0;
  SackBlock newest{};
  bool has_newest = false;
  SackBlock run{};
  auto emit = [&] {
    if (run.left == run.right) return;
    if (SeqLessEq(run.left, last_sacked_) && SeqLess(last_sacked_, run.right)) {
      newest = run, has_newest = true;
    } else if (count < 4) {
      blocks[count++] = run;
    }
  };
  for (const auto& [position, piece] : out_of_order_) {
    uint32_t seq = rcv_nxt_ + static_cast<uint32_t>(position - bytes_received_);
    uint32_t end = seq + piece.data.size;
    if (seq != run.right || run.left == run.right) {
      emit();
      run = {seq, end};
    } else {
      run.right = end;
    }
  }
  emit();
  if (has_newest) header->sacks[header->sack_count++] = newest;
  for (size_t i = 0; i < count && header->sack_count < most; ++i) header->sacks[header->sack_count++] = blocks[i];
}

void TcpConnection::FillHeader(Packet* packet, uint32_t seq, uint8_t flags) {
  packet->source = local_.address;
  packet->destination = remote_.address;
  packet->protocol = kTcp;
  packet->tos = options_.tos;
  packet->ttl = packet->v4() ? options_.ttl : options_.hop_limit;
  TcpHeader& h = packet->tcp;
  h.source_port = local_.port;
  h.destination_port = remote_.port;
  h.seq = seq;
  h.flags = flags;
  if ((flags & kSyn) != 0) {
    h.mss = static_cast<uint16_t>(MaxMss());
    bool answer = (flags & kAck) != 0;
    h.sack_permitted = sack_ok_ || !answer;
    h.has_timestamp = timestamps_ || !answer;
    if (rcv_scale_ != 0 || !answer) h.window_scale = static_cast<int8_t>(rcv_scale_);
  } else {
    h.has_timestamp = timestamps_;
  }
  if (h.has_timestamp) {
    h.timestamp = TimestampNow();
    h.timestamp_echo = (flags & kAck) != 0 ? ts_recent_ : 0;
  }
  if ((flags & kAck) != 0) h.ack = rcv_nxt_;
  uint32_t window = 0;
  if ((flags & kSyn) != 0) {
    // Not scaled yet.
    window = std::min<uint32_t>(receive_limit_ / 2, 65535);
    rcv_adv_ = rcv_nxt_ + window;
  } else if ((flags & kRst) == 0) {
    window = SelectWindow();
    rcv_adv_ = rcv_nxt_ + window;
    window = std::min<uint32_t>(window >> rcv_scale_, 65535);
  }
  h.window = static_cast<uint16_t>(window);
  if ((flags & (kSyn | kRst)) == 0) AddSacks(&h);
  // 4.2 BSD's reading of the urgent pointer, as Linux sends it: behind the byte.
  if (has_urgent_out_ && SeqLess(seq, snd_urgent_) && snd_urgent_ - seq <= 0xffff && (flags & kSyn) == 0) {
    h.flags |= kUrg;
    h.urgent = static_cast<uint16_t>(snd_urgent_ - seq);
  }
}

void TcpConnection::SendPacket(Packet packet) {
  if (!UpdatePath().ok()) return;  // the timer tries again
  if ((packet.tcp.flags & kAck) != 0) {
    ack_pending_ = false;
    unacked_segments_ = 0;
    ack_at_ = kNoDeadline;
  }
  ++segments_out_;
  ++layer_->stack().counters().tcp_out;
  layer_->stack().Send(std::move(packet), path_);
}

void TcpConnection::SendAck() {
  Packet packet;
  FillHeader(&packet, snd_nxt_, kAck);
  SendPacket(std::move(packet));
}

// Has the peer answer although there is nothing for it: a sequence number that it has acknowledged already.
void TcpConnection::SendProbe() {
  Packet packet;
  FillHeader(&packet, snd_una_ - 1, kAck);
  SendPacket(std::move(packet));
}

void TcpConnection::SendResetNow() {
  Packet packet;
  FillHeader(&packet, snd_nxt_, kRst | kAck);
  ++layer_->stack().counters().tcp_resets_sent;
  SendPacket(std::move(packet));
}

void TcpConnection::AppendFin() {
  if (!send_queue_.empty() && !send_queue_.back().sent && !send_queue_.back().syn) {
    send_queue_.back().fin = true;
  } else {
    SendItem item;
    item.seq = write_seq_;
    item.fin = true;
    send_charge_ += kItemOverhead;
    send_queue_.push_back(std::move(item));
  }
  ++write_seq_;
}

// Makes two items of one, the first with `size` bytes.
void TcpConnection::SplitItem(size_t index, uint32_t size) {
  SendItem rest = send_queue_[index];
  SendItem& first = send_queue_[index];
  rest.data.DropFront(size);
  rest.seq += size;
  first.data = first.data.First(size);
  first.fin = first.urgent = false;
  send_charge_ += kItemOverhead;
  send_queue_.insert(send_queue_.begin() + static_cast<ptrdiff_t>(index) + 1, std::move(rest));
}

void TcpConnection::Transmit(SendItem& item) {
  uint8_t flags = kAck;
  if (item.syn) flags = state_ == TcpState::kSynSent ? kSyn : kSyn | kAck;
  if (item.fin) flags |= kFin;
  if (item.data.size > 0 && (&item == &send_queue_.back() || item.urgent)) flags |= kPsh;
  item.sent_at = last_sent_ = layer_->stack().Now();
  if (item.sent) {
    item.retransmitted = true;
    ++total_retransmits_;
    ++layer_->stack().counters().tcp_retransmitted;
    if (item.lost) {
      item.lost = false;
      lost_bytes_ -= item.length();
    }
  } else {
    item.sent = true;
    bytes_sent_ += item.data.size;
    if (item.data.size > 0 && item.data.size < mss_) snd_small_ = item.end();
  }
  Packet packet;
  packet.payload = item.data;
  FillHeader(&packet, item.seq, flags);
  snd_nxt_ = SeqMax(snd_nxt_, item.end());
  SendPacket(std::move(packet));
}

// Nagle in Minshall's variant: a short segment waits while another short one is on its way. Corked ones wait for more.
bool TcpConnection::MayHoldBack(const SendItem& item, uint32_t size) const {
  if (size >= mss_ || item.fin || item.syn || item.urgent) return false;
  if (options_.cork || more_) return true;
  if (options_.nodelay) return false;
  return snd_nxt_ != snd_una_ && SeqLess(snd_una_, snd_small_);
}

void TcpConnection::RetransmitLost() {
  for (size_t i = 0; i < next_unsent_ && lost_bytes_ > 0; ++i) {
    SendItem& item = send_queue_[i];
    if (!item.lost) continue;
    if (InFlight() > 0 && InFlight() + std::min(item.length(), mss_) > congestion_.cwnd) break;
    // Sent as one before the path's limit fell.
    if (item.data.size > SegmentLimit()) {
      SplitItem(i, SegmentLimit());
      ++next_unsent_;
    }
    Transmit(send_queue_[i]);
  }
}

void TcpConnection::Output(bool force) {
  if (state_ == TcpState::kClosed || state_ == TcpState::kListen || !in_table_) return;
  int64_t now = layer_->stack().Now();
  if (snd_nxt_ == snd_una_ && last_sent_ != 0 && now - last_sent_ > rtt_.rto && next_unsent_ < send_queue_.size()) {
    congestion_.OnIdle(mss_);
  }
  if (lost_bytes_ > 0) RetransmitLost();
  while (next_unsent_ < send_queue_.size()) {
    SendItem& item = send_queue_[next_unsent_];
    uint32_t size = item.data.size;
    if (size > 0) {
      uint32_t edge = snd_una_ + snd_wnd_;
      uint32_t window = SeqLess(snd_nxt_, edge) ? edge - snd_nxt_ : 0;
      uint32_t flight = InFlight();
      if (flight > 0 && flight >= congestion_.cwnd) {
        window_limited_ = true;
        break;
      }
      uint32_t most = SegmentLimit();
      if (congestion_.cwnd > flight) most = std::min(most, std::max(congestion_.cwnd - flight, mss_));
      if (force && window == 0) window = 1;  // a window probe carries a byte
      most = std::min(most, window);
      if (most == 0) break;
      if (most < size) {
        // A part, for want of window: only if it is worth it (RFC 9293, 3.8.6.2.1).
        if (!force && most < mss_ && most < max_window_ / 2) break;
        size = most;
      }
      if (!force && size == item.data.size && next_unsent_ + 1 == send_queue_.size() && MayHoldBack(item, size)) break;
      if (size < item.data.size) SplitItem(next_unsent_, size);
    }
    Transmit(send_queue_[next_unsent_]);
    ++next_unsent_;
    force = false;
  }
  ArmRetransmit();
}

}  // namespace amber::net
