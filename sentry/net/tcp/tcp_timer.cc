// Timers of a connection: retransmission and window probes, delayed acknowledgements, keep-alive, the end of what nobody owns.
#include <algorithm>
#include <cerrno>

#include "sentry/net/tcp/tcp_connection.h"
#include "sentry/net/tcp/tcp_layer.h"

namespace amber::net {

void TcpConnection::ArmTimer() {
  int64_t next = std::min({retransmit_at_, ack_at_, keepalive_at_, linger_at_});
  timer_.ArmBy(layer_->stack().timers(), next);
}

// Something is on its way, or waits for a window: look again after the time-out.
void TcpConnection::ArmRetransmit() {
  bool wanted = snd_nxt_ != snd_una_ || next_unsent_ < send_queue_.size();
  if (!wanted) {
    retransmit_at_ = kNoDeadline;
    retries_ = 0;
    return;
  }
  if (retransmit_at_ == kNoDeadline) {
    retransmit_at_ = layer_->stack().Now() + std::min(rtt_.rto << std::min(retries_, 16u), kMaxRto);
  }
  ArmTimer();
}

void TcpConnection::ArmKeepAlive() {
  bool wanted = options_.keepalive && state_ != TcpState::kClosed && state_ != TcpState::kListen && state_ != TcpState::kSynSent;
  keepalive_at_ = wanted ? std::max(last_heard_, last_sent_) + int64_t{options_.keep_idle} * kSecond : kNoDeadline;
  keepalive_probes_ = 0;
  if (wanted) ArmTimer();
}

void TcpConnection::OnTimer() {
  if (layer_ == nullptr || state_ == TcpState::kClosed) return;
  RefPtr<TcpConnection> keep(this);
  int64_t now = layer_->stack().Now();
  if (linger_at_ <= now) {
    linger_at_ = kNoDeadline;
    if (state_ == TcpState::kFinWait2) {
      // Waited long enough for the peer's FIN; what still comes is answered with a reset.
      return Done(0);
    }
    if (state_ == TcpState::kSynReceived) return Done(ETIMEDOUT);
    // A deferred connection is handed over without data (TCP_DEFER_ACCEPT).
    if (state_ == TcpState::kEstablished && listener_ != nullptr) PromoteToEstablished();
  }
  if (ack_at_ <= now) {
    ack_at_ = kNoDeadline;
    SendAck();
  }
  if (keepalive_at_ <= now) OnKeepAlive();
  if (state_ != TcpState::kClosed && retransmit_at_ <= now) {
    retransmit_at_ = kNoDeadline;
    if (snd_nxt_ != snd_una_) {
      OnRetransmitTimeout();
    } else {
      OnProbeTimeout();
    }
  }
  if (state_ != TcpState::kClosed) ArmTimer();
}

bool TcpConnection::TooManyRetries(uint32_t retries, int64_t since) const {
  if (options_.user_timeout_ms != 0 && state_ != TcpState::kSynSent) {
    return layer_->stack().Now() - since >= int64_t{options_.user_timeout_ms} * kMs;
  }
  uint32_t most = state_ == TcpState::kSynSent       ? options_.syn_retries
                  : state_ == TcpState::kSynReceived ? options_.synack_retries
                  : orphan_                          ? 8u
                                                     : options_.retries;
  return retries >= most;
}

void TcpConnection::OnRetransmitTimeout() {
  int64_t now = layer_->stack().Now();
  if (retries_ == 0) retry_since_ = send_queue_.empty() ? now : send_queue_.front().sent_at;
  if (TooManyRetries(retries_, retry_since_)) return Done(soft_error_ != 0 ? soft_error_ : ETIMEDOUT);
  if (retries_ == 0) congestion_.OnTimeout(mss_, InFlight());
  ++retries_;
  // What was selectively acknowledged may have been thrown away again (RFC 2018, 8): after many tries nothing is believed.
  if (retries_ > 2) ForgetScoreboard();
  for (size_t i = 0; i < next_unsent_; ++i) SetLost(send_queue_[i]);
  in_recovery_ = true;
  recovery_point_ = snd_nxt_;
  dup_acks_ = 0;
  congestion_.cwnd = std::max(mss_, 1u);
  RetransmitLost();
  ArmRetransmit();
}

// Nothing is in flight, but something waits: the window is closed, or a short segment was held back.
void TcpConnection::OnProbeTimeout() {
  if (next_unsent_ >= send_queue_.size()) return;
  int64_t now = layer_->stack().Now();
  if (retries_ == 0) retry_since_ = now;
  // A peer that answers keeps the connection for ever (RFC 9293, 3.8.6.1), but not one that nobody owns.
  bool silent = now - last_heard_ > (int64_t{kMaxRto} * 8);
  if ((orphan_ && retries_ >= 8) || (silent && retries_ >= options_.retries) ||
      (options_.user_timeout_ms != 0 && TooManyRetries(retries_, retry_since_))) {
    return Done(ETIMEDOUT);
  }
  uint32_t edge = snd_una_ + snd_wnd_;
  if (SeqLess(snd_nxt_, edge)) {
    // There is some window: send what fits of it now.
    Output(true);
    return;
  }
  ++retries_;
  SendProbe();
  ArmRetransmit();
}

void TcpConnection::OnKeepAlive() {
  int64_t now = layer_->stack().Now();
  keepalive_at_ = kNoDeadline;
  if (!options_.keepalive || state_ == TcpState::kListen || connecting()) return;
  int64_t idle_end = std::max(last_heard_, last_sent_) + int64_t{options_.keep_idle} * kSecond;
  if (keepalive_probes_ == 0 && (snd_nxt_ != snd_una_ || now < idle_end)) {
    keepalive_at_ = std::max(idle_end, now + kSecond);
    return ArmTimer();
  }
  bool over = options_.user_timeout_ms != 0 ? keepalive_probes_ > 0 && now - last_heard_ >= int64_t{options_.user_timeout_ms} * kMs
                                            : keepalive_probes_ >= options_.keep_count;
  if (over) {
    SendResetNow();
    return Done(ETIMEDOUT);
  }
  ++keepalive_probes_;
  SendProbe();
  keepalive_at_ = now + int64_t{options_.keep_interval} * kSecond;
  ArmTimer();
}

}  // namespace amber::net
