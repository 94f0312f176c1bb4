// Segments that arrive (RFC 9293 3.10.7; net/ipv4/tcp_input.c). Headers are checked by the parser; their values are hostile.
#include <poll.h>

#include <algorithm>
#include <cerrno>

#include "sentry/net/ip/frame.h"
#include "sentry/net/tcp/tcp_connection.h"
#include "sentry/net/tcp/tcp_layer.h"

namespace amber::net {
namespace {

constexpr uint32_t kReadable = POLLIN | POLLRDNORM;
// After that long a time stamp says nothing any more (RFC 7323, 5.5).
constexpr int64_t kTimestampLife = 24 * 24 * 3600 * kSecond;

uint32_t LengthOf(const Packet& p) { return p.payload.size + ((p.tcp.flags & kSyn) != 0 ? 1 : 0) + ((p.tcp.flags & kFin) != 0 ? 1 : 0); }

}  // namespace

void TcpConnection::TakeSynOptions(const TcpHeader& h) {
  uint32_t mss = h.mss != 0 ? std::max<uint32_t>(h.mss, 48) : kDefaultMss;
  timestamps_ = timestamps_ && h.has_timestamp;
  sack_ok_ = sack_ok_ && h.sack_permitted;
  if (h.window_scale >= 0) {
    snd_scale_ = static_cast<uint8_t>(std::min<int>(h.window_scale, 14));
  } else {
    snd_scale_ = rcv_scale_ = 0;
  }
  mss = std::min(mss, MaxMss());
  // Every segment carries the time stamp (RFC 6691).
  mss_ = mss - (timestamps_ ? 12 : 0);
  if (h.has_timestamp) {
    ts_recent_ = h.timestamp;
    ts_recent_at_ = layer_->stack().Now();
  }
  irs_ = h.seq;
  rcv_nxt_ = read_seq_ = rcv_adv_ = h.seq + 1;
  snd_wl1_ = h.seq;
  snd_wl2_ = h.ack;
  snd_wnd_ = max_window_ = h.window;
  congestion_.Use(options_.congestion);
  congestion_.Init(mss_);
}

void TcpConnection::InputSyn(const Packet& packet) {
  Stack::Batch batch(layer_->stack());
  // A full queue drops the SYN: the client tries again. One more than the backlog is let in (sk_acceptq_is_full).
  if (accept_queue_.size() + embryos_.size() > backlog_) return;
  auto c = MakeRef<TcpConnection>(*layer_);
  c->family = family;
  c->v6only = v6only;
  c->uid = uid;
  c->options_ = options_;
  c->local_ = {packet.destination, packet.tcp.destination_port};
  c->remote_ = {packet.source, packet.tcp.source_port, static_cast<uint32_t>(packet.scoped_link())};
  c->send_limit_ = send_limit_;
  c->send_limit_locked_ = send_limit_locked_;
  c->receive_limit_ = receive_limit_;
  c->receive_limit_locked_ = receive_limit_locked_;
  c->low_watermark_ = low_watermark_;
  c->binding_.device = binding_.device;
  if (!c->UpdatePath().ok()) return;
  c->Start(layer_->NewSequence());
  c->TakeSynOptions(packet.tcp);
  c->state_ = TcpState::kSynReceived;
  if (!layer_->Insert(*c)) return;
  c->binding_.address = binding_.address.any() ? packet.destination : binding_.address;
  c->binding_.port = c->local_.port;
  c->binding_.v6only = binding_.v6only;
  c->binding_.reuse = binding_.reuse;
  c->binding_.reuse_port = binding_.reuse_port;
  c->binding_.uid = binding_.uid;
  layer_->ports().Share(c->binding_);
  c->listener_ = this;
  embryos_.insert(c.get());
  SendItem syn;
  syn.seq = c->write_seq_++;
  syn.syn = true;
  c->send_queue_.push_back(std::move(syn));
  c->Output();
}

void TcpConnection::InputSynSent(Packet& packet) {
  const TcpHeader& h = packet.tcp;
  bool ack = (h.flags & kAck) != 0;
  if (ack && h.ack != snd_nxt_) {
    if ((h.flags & kRst) == 0) layer_->SendReset(packet);
    return;
  }
  if ((h.flags & kRst) != 0) {
    if (ack) {
      ++layer_->stack().counters().tcp_failed;
      Done(ECONNREFUSED);
    }
    return;
  }
  if ((h.flags & kSyn) == 0) return;
  TakeSynOptions(h);
  if (ack) {
    InputAck(packet);
    PromoteToEstablished();
    SendAck();
    Output();
    return;
  }
  // Both sides called each other (or this one itself): RFC 9293, 3.5.
  SetState(TcpState::kSynReceived);
  send_queue_.front().sent = false;
  next_unsent_ = 0;
  snd_nxt_ = snd_una_;
  sacked_bytes_ = lost_bytes_ = 0;
  send_queue_.front().lost = send_queue_.front().sacked = false;
  Output();
}

// RFC 9293, 3.10.7.4: is any of it inside the window?
bool TcpConnection::Acceptable(const Packet& packet, uint32_t length) const {
  uint32_t seq = packet.tcp.seq;
  uint32_t window = SeqLess(rcv_nxt_, rcv_adv_) ? rcv_adv_ - rcv_nxt_ : 0;
  uint32_t end = seq + length;
  if (length == 0) return SeqLessEq(rcv_nxt_, seq) && SeqLessEq(seq, rcv_nxt_ + window);
  return SeqLess(rcv_nxt_, end) && (SeqLess(seq, rcv_nxt_ + window) || seq == rcv_nxt_);
}

// PAWS (RFC 7323, 5): false for what an old time stamp gives away.
bool TcpConnection::CheckTimestamp(const Packet& packet) {
  if (!timestamps_ || !packet.tcp.has_timestamp) return true;
  int64_t now = layer_->stack().Now();
  uint32_t ts = packet.tcp.timestamp;
  if (SeqLess(ts, ts_recent_) && now - ts_recent_at_ < kTimestampLife) return false;
  if (SeqLessEq(packet.tcp.seq, rcv_nxt_)) {
    ts_recent_ = ts;
    ts_recent_at_ = now;
  }
  return true;
}

void TcpConnection::OnReset() {
  ++layer_->stack().counters().tcp_resets;
  int error = state_ == TcpState::kSynSent ? ECONNREFUSED : state_ == TcpState::kCloseWait ? EPIPE : ECONNRESET;
  // A listener's embryo just goes; one that called gets its answer.
  if (state_ == TcpState::kSynReceived) error = ECONNREFUSED;
  Done(error);
}

void TcpConnection::OnIcmp(int error, bool fatal, uint32_t seq) {
  Stack::Batch batch(layer_->stack());
  // Only about what is on its way now (RFC 5927, 4).
  if (SeqLess(seq, snd_una_) || SeqLess(snd_nxt_, seq)) return;
  soft_error_ = error;
  // A connection that is not there yet ends by whatever is said of its first packet, but by that it was too long (tcp_v4_err()).
  if (state_ == TcpState::kSynSent && (fatal || error != EMSGSIZE)) Done(error);
}

void TcpConnection::AfterOurFinIsAcked() {
  bool all = snd_una_ == write_seq_;
  if (!all) return;
  switch (state_) {
    case TcpState::kFinWait1:
      SetState(TcpState::kFinWait2);
      if (orphan_) {
        linger_at_ = layer_->stack().Now() + std::max<int64_t>(options_.linger2, 0) * kSecond;
        ArmTimer();
      }
      Notify(POLLOUT | POLLWRNORM);
      break;
    case TcpState::kClosing: EnterTimeWait(); break;
    case TcpState::kLastAck: Done(0); break;
    default: break;
  }
}

// Until a connection is there it is the listener's filter that says what comes through (tcp_v4_rcv).
bool TcpConnection::PassesFilter(Packet& packet) const {
  const TcpConnection& of = state_ == TcpState::kSynReceived && listener_ != nullptr ? *listener_ : *this;
  const SocketFilter* filter = of.options_.filter.get();
  return filter == nullptr || FilterPayload(filter, layer_->stack().FindLink(packet.link), &packet);
}

void TcpConnection::Input(Packet& packet) {
  Stack::Batch batch(layer_->stack());
  const TcpHeader& h = packet.tcp;
  ++segments_in_;
  if (state_ == TcpState::kSynSent) return InputSynSent(packet);
  uint32_t length = LengthOf(packet);
  bool fresh = CheckTimestamp(packet);
  if ((!fresh && (h.flags & kRst) == 0) || !Acceptable(packet, length)) {
    // A repeated SYN of a peer that has not seen our answer gets it again by the timer; everything else the present state.
    if ((h.flags & kRst) == 0) {
      // A keep-alive or window probe is heard, too.
      last_heard_ = layer_->stack().Now();
      if ((h.flags & kAck) != 0 && fresh && SeqLessEq(h.ack, snd_nxt_) && SeqLess(snd_una_, h.ack)) InputAck(packet);
      if (state_ != TcpState::kClosed) SendAck();
    }
    return;
  }
  if ((h.flags & kRst) != 0) {
    if (h.seq == rcv_nxt_) return OnReset();
    return SendAck();  // RFC 5961, 3.2
  }
  if ((h.flags & kSyn) != 0) {
    if (state_ == TcpState::kSynReceived && h.seq == irs_) {
      // The answer of a simultaneous open to our SYN: acknowledged below.
    } else {
      return SendAck();  // RFC 5961, 4.2
    }
  }
  if ((h.flags & kAck) == 0) return;
  last_heard_ = layer_->stack().Now();
  keepalive_probes_ = 0;
  if (options_.keepalive && keepalive_at_ == kNoDeadline) ArmKeepAlive();
  if (state_ == TcpState::kSynReceived) {
    if (h.ack != snd_nxt_) {
      layer_->SendReset(packet);
      return;
    }
    // TCP_DEFER_ACCEPT: not before there is something to read.
    InputAck(packet);
    UpdateWindow(h);
    if (listener_ != nullptr && options_.defer_accept != 0 && packet.payload.empty() && (h.flags & kFin) == 0) {
      SetState(TcpState::kEstablished);
      linger_at_ = layer_->stack().Now() + int64_t{options_.defer_accept} * kSecond;
      ArmTimer();
    } else {
      PromoteToEstablished();
    }
  } else if (!InputAck(packet)) {
    return;
  }
  RefPtr<TcpConnection> keep(this);
  AfterOurFinIsAcked();
  if (state_ == TcpState::kClosed) return;
  if ((h.flags & kUrg) != 0) InputUrgent(h);
  if (length > 0 && (h.flags & kSyn) == 0) InputData(packet);
  if (state_ == TcpState::kClosed) return;
  Output();
  if (state_ != TcpState::kClosed && ack_pending_) {
    bool soon = path_.link != nullptr && (path_.link->loopback() || unacked_segments_ >= 2 || !out_of_order_.empty());
    if (soon) {
      SendAck();
    } else if (ack_at_ == kNoDeadline) {
      ack_at_ = layer_->stack().Now() + kMaxDelayedAck;
      ArmTimer();
    }
  }
}

void TcpConnection::InputUrgent(const TcpHeader& h) {
  uint32_t at = h.seq + (h.urgent != 0 ? h.urgent - 1u : 0);
  if (SeqLess(at, read_seq_) || (urgent_state_ != Urgent::kNone && SeqLessEq(at, urgent_seq_))) return;
  if (SeqLess(at, rcv_nxt_)) return;
  urgent_seq_ = at;
  urgent_state_ = Urgent::kAnnounced;
  if (observer_ != nullptr) observer_->OnTcpUrgent();
  Notify(POLLPRI);
}

void TcpConnection::QueueInOrder(Slice data) {
  rcv_nxt_ += data.size;
  bytes_received_ += data.size;
  received_bytes_ += data.size;
  receive_charge_ += data.size;
  if (urgent_state_ == Urgent::kAnnounced) {
    uint32_t start = rcv_nxt_ - data.size;
    if (SeqLessEq(start, urgent_seq_) && SeqLess(urgent_seq_, rcv_nxt_)) {
      urgent_byte_ = data.data()[urgent_seq_ - start];
      urgent_state_ = Urgent::kHere;
    }
  }
  if (!receive_queue_.empty() && receive_queue_.back().Continues(data)) {
    receive_queue_.back().size += data.size;
    return;
  }
  receive_charge_ += kItemOverhead;
  receive_queue_.push_back(std::move(data));
}

void TcpConnection::QueueOutOfOrder(uint32_t seq, Slice data, bool fin) {
  // Bounded like the rest of the buffer; what does not fit is sent again.
  if (out_of_order_charge_ + receive_charge_ + data.size + kItemOverhead > uint64_t{receive_limit_} * 2) return;
  last_sacked_ = seq;
  uint64_t position = bytes_received_ + (seq - rcv_nxt_);
  auto it = out_of_order_.find(position);
  if (it != out_of_order_.end()) {
    if (it->second.data.size >= data.size) return;
    out_of_order_charge_ += data.size - it->second.data.size;
    it->second = {std::move(data), fin || it->second.fin};
    return;
  }
  out_of_order_charge_ += data.size + kItemOverhead;
  out_of_order_.emplace(position, OutOfOrder{std::move(data), fin});
}

// Moves what is no longer ahead into the queue.
void TcpConnection::MergeOutOfOrder() {
  while (!out_of_order_.empty() && out_of_order_.begin()->first <= bytes_received_) {
    auto it = out_of_order_.begin();
    uint64_t position = it->first;
    OutOfOrder piece = std::move(it->second);
    out_of_order_.erase(it);
    out_of_order_charge_ -= piece.data.size + kItemOverhead;
    uint64_t end = position + piece.data.size;
    if (bytes_received_ < end) {
      piece.data.DropFront(static_cast<uint32_t>(bytes_received_ - position));
      QueueInOrder(std::move(piece.data));
    }
    if (piece.fin && end == bytes_received_) OnFin();
  }
}

void TcpConnection::InputData(Packet& packet) {
  uint32_t seq = packet.tcp.seq;
  Slice data = std::move(packet.payload);
  bool fin = (packet.tcp.flags & kFin) != 0;
  ack_pending_ = true;
  if (fin_received_) return;
  // Nobody can read it any more, or wants to: reset (RFC 2525, 2.17; tcp_rcv_state_process()).
  bool finishing = state_ == TcpState::kFinWait1 || state_ == TcpState::kFinWait2;
  bool unwanted = orphan_ || (finishing && (shutdown_ & 1) != 0);
  if (unwanted && data.size > 0 && SeqLess(rcv_nxt_, seq + data.size)) {
    SendResetNow();
    return Done(orphan_ ? 0 : ECONNRESET);
  }
  // Cut to the window.
  if (SeqLess(seq, rcv_nxt_)) {
    data.DropFront(std::min(rcv_nxt_ - seq, data.size));
    seq = rcv_nxt_;
    unacked_segments_ = 2;  // a duplicate is answered at once
  }
  uint32_t edge = SeqLess(rcv_nxt_, rcv_adv_) ? rcv_adv_ : rcv_nxt_;
  if (SeqLess(edge, seq + data.size)) {
    data.size = SeqLess(seq, edge) ? edge - seq : 0;
    fin = false;
    unacked_segments_ = 2;
  }
  if (seq != rcv_nxt_) {
    if (data.size > 0 || fin) QueueOutOfOrder(seq, std::move(data), fin);
    unacked_segments_ = 2;
    return;
  }
  bool had = data.size > 0;
  if (had) {
    if (data.size >= mss_ || !options_.quick_ack) ++unacked_segments_;
    QueueInOrder(std::move(data));
  }
  // A deferred connection has something to read now.
  if (listener_ != nullptr && listener_->embryos_.contains(this) && (had || fin)) PromoteToEstablished();
  if (fin) OnFin();
  if (state_ == TcpState::kClosed) return;
  if (!out_of_order_.empty()) MergeOutOfOrder();
  if (!had || state_ == TcpState::kClosed) return;
  if (received_bytes_ >= low_watermark_ || urgent_state_ != Urgent::kNone) Notify(kReadable);
}

void TcpConnection::OnFin() {
  if (fin_received_) return;
  fin_received_ = true;
  ++rcv_nxt_;
  if (SeqLess(rcv_adv_, rcv_nxt_)) rcv_adv_ = rcv_nxt_;
  ack_pending_ = true;
  unacked_segments_ = 2;
  switch (state_) {
    case TcpState::kSynReceived:
    case TcpState::kEstablished: SetState(TcpState::kCloseWait); break;
    case TcpState::kFinWait1:
      // Not acknowledged yet, or the state would be FIN_WAIT_2.
      SetState(TcpState::kClosing);
      break;
    case TcpState::kFinWait2:
      SendAck();
      EnterTimeWait();
      return;
    default: break;
  }
  Notify(kReadable | POLLRDHUP | (shutdown_ != 0 ? POLLHUP : 0));
}

}  // namespace amber::net
