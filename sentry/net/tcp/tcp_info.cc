// What TCP_INFO and ss(8) tell (tcp_get_info()).
#include <netinet/tcp.h>

#include <algorithm>
#include <string>

#include "sentry/net/tcp/tcp_connection.h"
#include "sentry/net/tcp/tcp_layer.h"

namespace amber::net {
namespace {

// struct tcp_info of Linux 6.18, of which the C library knows the beginning. What is not told stays 0.
struct FullInfo {
  tcp_info first;
  uint64_t pacing_rate, max_pacing_rate, bytes_acked, bytes_received;
  uint32_t segments_out, segments_in, not_sent, least_rtt, data_segments_in, data_segments_out;
  uint64_t delivery_rate, busy_time, receive_limited, send_limited;
  uint32_t delivered, delivered_ce;
  uint64_t bytes_sent, bytes_retransmitted;
  uint32_t duplicates, reorderings, out_of_order, send_window, receive_window, rehashes;
  uint16_t timeouts, timeout_recoveries;
  uint32_t timeout_time;
  uint32_t accurate_ecn[8];
};
static_assert(sizeof(tcp_info) == 104 && sizeof(FullInfo) == 280);

}  // namespace

std::string TcpConnection::Info() const {
  FullInfo all{};
  tcp_info* info = &all.first;
  auto us = [](int64_t ns) { return static_cast<uint32_t>(ns / 1000); };
  uint32_t mss = std::max(mss_, 1u);
  info->tcpi_state = static_cast<uint8_t>(state_);
  info->tcpi_ca_state = in_recovery_ ? 3 : 0;
  info->tcpi_retransmits = static_cast<uint8_t>(std::min(retries_, 255u));
  info->tcpi_probes = static_cast<uint8_t>(std::min(keepalive_probes_, 255u));
  info->tcpi_options =
      static_cast<uint8_t>((timestamps_ ? TCPI_OPT_TIMESTAMPS : 0) | (sack_ok_ ? TCPI_OPT_SACK : 0) | (rcv_scale_ != 0 ? TCPI_OPT_WSCALE : 0));
  info->tcpi_snd_wscale = snd_scale_ & 15;
  info->tcpi_rcv_wscale = rcv_scale_ & 15;
  info->tcpi_rto = us(rtt_.rto);
  info->tcpi_ato = us(kMaxDelayedAck);
  info->tcpi_snd_mss = mss_;
  info->tcpi_rcv_mss = std::min(mss_, MaxMss());
  if (state_ == TcpState::kListen) {
    info->tcpi_unacked = accept_queue_length();
    info->tcpi_sacked = backlog_;
  } else {
    info->tcpi_unacked = (snd_nxt_ - snd_una_ + mss - 1) / mss;
    info->tcpi_sacked = (sacked_bytes_ + mss - 1) / mss;
  }
  info->tcpi_lost = (lost_bytes_ + mss - 1) / mss;
  int64_t now = layer_ != nullptr ? layer_->stack().Now() : 0;
  auto since = [&](int64_t at) { return at == 0 ? 0u : static_cast<uint32_t>(std::max<int64_t>(now - at, 0) / kMs); };
  info->tcpi_last_data_sent = since(last_sent_);
  info->tcpi_last_data_recv = info->tcpi_last_ack_recv = since(last_heard_);
  info->tcpi_pmtu = path_.link != nullptr ? path_.link->mtu() : 0;
  info->tcpi_rcv_ssthresh = receive_limit_ / 2;
  info->tcpi_rtt = us(rtt_.smoothed);
  info->tcpi_rttvar = us(rtt_.variation);
  info->tcpi_snd_ssthresh = congestion_.ssthresh == UINT32_MAX ? 0x7fffffff : congestion_.ssthresh / mss;
  info->tcpi_snd_cwnd = std::max(congestion_.cwnd / mss, 1u);
  info->tcpi_advmss = MaxMss();
  info->tcpi_reordering = 3;
  info->tcpi_rcv_space = receive_limit_ / 2;
  info->tcpi_total_retrans = total_retransmits_;
  // What paces nobody, and counters.
  all.pacing_rate = all.max_pacing_rate = UINT64_MAX;
  // Those of Linux count the SYN.
  bool started = state_ != TcpState::kClosed && state_ != TcpState::kListen && state_ != TcpState::kSynSent;
  all.bytes_acked = bytes_acked_ + (started ? 1 : 0);
  all.bytes_received = bytes_received_;
  all.segments_out = static_cast<uint32_t>(segments_out_);
  all.segments_in = static_cast<uint32_t>(segments_in_);
  uint32_t unsent = SeqLess(snd_nxt_, write_seq_) ? write_seq_ - snd_nxt_ : 0;
  all.not_sent = state_ == TcpState::kListen ? 0 : unsent;
  all.least_rtt = rtt_.smoothed != 0 ? us(rtt_.smoothed) : UINT32_MAX;
  all.bytes_sent = bytes_sent_;
  all.bytes_retransmitted = uint64_t{total_retransmits_} * mss;
  all.send_window = snd_wnd_;
  all.receive_window = rcv_adv_ - rcv_nxt_;
  return std::string(reinterpret_cast<const char*>(&all), sizeof(all));
}

}  // namespace amber::net
