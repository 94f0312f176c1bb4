// Saving and loading connections, with what is on its way in either direction.
#include <algorithm>

#include "sentry/net/tcp/tcp.pb.h"
#include "sentry/net/tcp/tcp_connection.h"
#include "sentry/net/tcp/tcp_layer.h"
#include "sentry/net/tcp/tcp_state_util.h"

namespace amber::net {
namespace {

// Bits of TcpSendItem.flags.
constexpr uint32_t kSynItem = 1, kFinItem = 2, kUrgentItem = 4, kSent = 8, kSacked = 16, kLost = 32, kRetransmitted = 64;

void SaveOptions(const TcpOptions& o, proto::TcpOptionValues* out) {
  out->set_nodelay(o.nodelay);
  out->set_cork(o.cork);
  out->set_keepalive(o.keepalive);
  out->set_quick_ack(o.quick_ack);
  out->set_oob_inline(o.oob_inline);
  out->set_keep_idle(o.keep_idle);
  out->set_keep_interval(o.keep_interval);
  out->set_keep_count(o.keep_count);
  out->set_syn_retries(o.syn_retries);
  out->set_synack_retries(o.synack_retries);
  out->set_retries(o.retries);
  out->set_user_timeout_ms(o.user_timeout_ms);
  out->set_defer_accept(o.defer_accept);
  out->set_linger2(o.linger2);
  out->set_max_segment(o.max_segment);
  out->set_window_clamp(o.window_clamp);
  out->set_not_sent_low(o.not_sent_low);
  out->set_tos(o.tos);
  out->set_ttl(o.ttl);
  out->set_hop_limit(o.hop_limit);
  out->set_reno(o.congestion == CongestionControl::kReno);
  if (o.filter) out->set_filter(o.filter->Bytes());
}

TcpOptions LoadOptions(const proto::TcpOptionValues& in) {
  TcpOptions o;
  o.nodelay = in.nodelay();
  o.cork = in.cork();
  o.keepalive = in.keepalive();
  o.quick_ack = in.quick_ack();
  o.oob_inline = in.oob_inline();
  o.keep_idle = in.keep_idle();
  o.keep_interval = in.keep_interval();
  o.keep_count = in.keep_count();
  o.syn_retries = in.syn_retries();
  o.synack_retries = in.synack_retries();
  o.retries = in.retries();
  o.user_timeout_ms = in.user_timeout_ms();
  o.defer_accept = in.defer_accept();
  o.linger2 = in.linger2();
  o.max_segment = in.max_segment();
  o.window_clamp = in.window_clamp();
  o.not_sent_low = in.not_sent_low();
  o.tos = static_cast<uint8_t>(in.tos());
  o.ttl = static_cast<uint8_t>(in.ttl());
  o.hop_limit = static_cast<uint8_t>(in.hop_limit());
  if (in.reno()) o.congestion = CongestionControl::kReno;
  if (!in.filter().empty()) o.filter = SocketFilter::FromBytes(in.filter());
  return o;
}

}  // namespace

std::string TcpConnection::Save(state::Saver& saver) const {
  proto::TcpConnection m;
  m.set_state(static_cast<uint32_t>(state_));
  SaveEndpoint(local_, m.mutable_local());
  SaveEndpoint(remote_, m.mutable_remote());
  SaveBinding(binding_, m.mutable_binding());
  m.set_in_table(in_table_);
  SaveOptions(options_, m.mutable_options());
  m.set_shutdown(static_cast<uint32_t>(shutdown_));
  m.set_snd_scale(snd_scale_);
  m.set_rcv_scale(rcv_scale_);
  m.set_urgent_state(static_cast<uint32_t>(urgent_state_));
  m.set_urgent_byte(urgent_byte_);
  m.set_bound_explicitly(bound_explicitly_);
  m.set_orphan(orphan_);
  m.set_was_connected(was_connected_);
  m.set_error(error_);
  m.set_soft_error(soft_error_);
  m.set_family(family);
  m.set_v6only(v6only);
  m.set_uid(uid);
  m.set_ino(ino);
  m.set_snd_una(snd_una_);
  m.set_snd_nxt(snd_nxt_);
  m.set_write_seq(write_seq_);
  m.set_snd_wnd(snd_wnd_);
  m.set_snd_wl1(snd_wl1_);
  m.set_snd_wl2(snd_wl2_);
  m.set_max_window(max_window_);
  m.set_snd_small(snd_small_);
  m.set_snd_urgent(snd_urgent_);
  m.set_urgent_out(has_urgent_out_);
  m.set_more(more_);
  m.set_send_limit(send_limit_);
  m.set_send_limit_locked(send_limit_locked_);
  m.set_mss(mss_);
  m.set_sack_ok(sack_ok_);
  m.set_timestamps(timestamps_);
  m.set_cwnd(congestion_.cwnd);
  m.set_ssthresh(congestion_.ssthresh);
  m.set_w_max(congestion_.w_max);
  m.set_k(congestion_.k);
  m.set_w_est(congestion_.w_est);
  m.set_epoch(congestion_.epoch);
  m.set_credit(congestion_.credit);
  m.set_srtt(rtt_.smoothed);
  m.set_rttvar(rtt_.variation);
  m.set_rto(rtt_.rto);
  m.set_min_rtt(rtt_.minimum);
  m.set_dup_acks(dup_acks_);
  m.set_in_recovery(in_recovery_);
  m.set_recovery_point(recovery_point_);
  m.set_total_retransmits(total_retransmits_);
  m.set_bytes_sent(bytes_sent_);
  m.set_bytes_acked(bytes_acked_);
  m.set_bytes_received(bytes_received_);
  m.set_segments_in(segments_in_);
  m.set_segments_out(segments_out_);
  m.set_read_seq(read_seq_);
  m.set_rcv_nxt(rcv_nxt_);
  m.set_rcv_adv(rcv_adv_);
  m.set_irs(irs_);
  m.set_fin_received(fin_received_);
  m.set_receive_limit(receive_limit_);
  m.set_receive_limit_locked(receive_limit_locked_);
  m.set_low_watermark(low_watermark_);
  m.set_ts_recent(ts_recent_);
  m.set_ts_recent_at(ts_recent_at_);
  m.set_ts_offset(ts_offset_);
  m.set_ack_pending(ack_pending_);
  m.set_urgent_seq(urgent_seq_);
  m.set_retransmit_at(retransmit_at_);
  m.set_ack_at(ack_at_);
  m.set_keepalive_at(keepalive_at_);
  m.set_linger_at(linger_at_);
  m.set_retries(retries_);
  m.set_retry_since(retry_since_);
  m.set_keepalive_probes(keepalive_probes_);
  m.set_last_heard(last_heard_);
  m.set_last_sent(last_sent_);
  m.set_backlog(backlog_);
  for (const SendItem& item : send_queue_) {
    auto* s = m.add_send();
    s->set_seq(item.seq);
    s->set_data(std::string(item.data.view()));
    s->set_flags((item.syn ? kSynItem : 0) | (item.fin ? kFinItem : 0) | (item.urgent ? kUrgentItem : 0) | (item.sent ? kSent : 0) |
                 (item.sacked ? kSacked : 0) | (item.lost ? kLost : 0) | (item.retransmitted ? kRetransmitted : 0));
    s->set_sent_at(item.sent_at);
  }
  std::string* received = m.mutable_received();
  for (const Slice& s : receive_queue_) *received += s.view();
  for (const auto& [position, piece] : out_of_order_) {
    auto* o = m.add_out_of_order();
    o->set_position(position);
    o->set_data(std::string(piece.data.view()));
    o->set_fin(piece.fin);
  }
  for (const RefPtr<TcpConnection>& c : accept_queue_) m.add_accept_queue(saver.Ref(c));
  for (const TcpConnection* c : embryos_) m.add_embryos(saver.Ref(c));
  return m.SerializeAsString();
}

// The scoreboard is worked out again from the items; numbers of a damaged image are brought into line or refused.
bool TcpConnection::LoadSendQueue(const proto::TcpConnection& m) {
  uint32_t seq = snd_una_;
  for (const auto& in : m.send()) {
    SendItem item;
    item.seq = in.seq();
    item.data = Slice::Copy(in.data());
    item.syn = (in.flags() & kSynItem) != 0;
    item.fin = (in.flags() & kFinItem) != 0;
    item.urgent = (in.flags() & kUrgentItem) != 0;
    item.sent = (in.flags() & kSent) != 0;
    item.sacked = item.sent && (in.flags() & kSacked) != 0;
    item.lost = item.sent && !item.sacked && (in.flags() & kLost) != 0;
    item.retransmitted = (in.flags() & kRetransmitted) != 0;
    item.sent_at = in.sent_at();
    if (item.seq != seq || item.data.size > kMaxSegment || item.length() == 0) return false;
    seq = item.end();
    if (item.sent) {
      if (next_unsent_ != send_queue_.size()) return false;
      ++next_unsent_;
      if (seq - snd_una_ > snd_nxt_ - snd_una_) return false;
    }
    if (item.sacked) sacked_bytes_ += item.length();
    if (item.lost) lost_bytes_ += item.length();
    if (!item.syn) send_charge_ += item.data.size + kItemOverhead;
    send_queue_.push_back(std::move(item));
  }
  return seq == write_seq_;
}

bool TcpConnection::Load(state::Loader& loader, std::string_view bytes) {
  proto::TcpConnection m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return false;
  if (m.state() < 1 || m.state() > 11 || m.state() == 6 || m.urgent_state() > 3 || m.snd_scale() > 14 || m.rcv_scale() > 14) return false;
  if (!LoadEndpoint(m.local(), &local_) || !LoadEndpoint(m.remote(), &remote_)) return false;
  if (!LoadBinding(m.binding(), &binding_, &load_bound_)) return false;
  state_ = static_cast<TcpState>(m.state());
  load_in_table_ = m.in_table();
  options_ = LoadOptions(m.options());
  shutdown_ = static_cast<int>(m.shutdown() & 3);
  snd_scale_ = static_cast<uint8_t>(m.snd_scale());
  rcv_scale_ = static_cast<uint8_t>(m.rcv_scale());
  urgent_state_ = static_cast<Urgent>(m.urgent_state());
  urgent_byte_ = static_cast<uint8_t>(m.urgent_byte());
  bound_explicitly_ = m.bound_explicitly();
  orphan_ = m.orphan();
  was_connected_ = m.was_connected();
  error_ = m.error();
  soft_error_ = m.soft_error();
  family = m.family();
  v6only = m.v6only();
  uid = m.uid();
  ino = m.ino();
  snd_una_ = m.snd_una();
  snd_nxt_ = m.snd_nxt();
  write_seq_ = m.write_seq();
  snd_wnd_ = m.snd_wnd();
  snd_wl1_ = m.snd_wl1();
  snd_wl2_ = m.snd_wl2();
  max_window_ = m.max_window();
  snd_small_ = m.snd_small();
  snd_urgent_ = m.snd_urgent();
  has_urgent_out_ = m.urgent_out();
  more_ = m.more();
  send_limit_ = m.send_limit();
  send_limit_locked_ = m.send_limit_locked();
  mss_ = m.mss();
  sack_ok_ = m.sack_ok();
  timestamps_ = m.timestamps();
  congestion_.cwnd = m.cwnd();
  congestion_.ssthresh = m.ssthresh();
  congestion_.w_max = m.w_max();
  congestion_.k = m.k();
  congestion_.w_est = m.w_est();
  congestion_.epoch = m.epoch();
  congestion_.credit = m.credit();
  congestion_.algorithm = options_.congestion;
  rtt_.smoothed = m.srtt();
  rtt_.variation = m.rttvar();
  rtt_.rto = m.rto();
  rtt_.minimum = m.min_rtt();
  dup_acks_ = m.dup_acks();
  in_recovery_ = m.in_recovery();
  recovery_point_ = m.recovery_point();
  total_retransmits_ = m.total_retransmits();
  bytes_sent_ = m.bytes_sent();
  bytes_acked_ = m.bytes_acked();
  bytes_received_ = m.bytes_received();
  segments_in_ = m.segments_in();
  segments_out_ = m.segments_out();
  read_seq_ = m.read_seq();
  rcv_nxt_ = m.rcv_nxt();
  rcv_adv_ = m.rcv_adv();
  irs_ = m.irs();
  fin_received_ = m.fin_received();
  receive_limit_ = m.receive_limit();
  receive_limit_locked_ = m.receive_limit_locked();
  low_watermark_ = m.low_watermark();
  ts_recent_ = m.ts_recent();
  ts_recent_at_ = m.ts_recent_at();
  ts_offset_ = m.ts_offset();
  ack_pending_ = m.ack_pending();
  urgent_seq_ = m.urgent_seq();
  retransmit_at_ = m.retransmit_at();
  ack_at_ = m.ack_at();
  keepalive_at_ = m.keepalive_at();
  linger_at_ = m.linger_at();
  retries_ = m.retries();
  retry_since_ = m.retry_since();
  keepalive_probes_ = m.keepalive_probes();
  last_heard_ = m.last_heard();
  last_sent_ = m.last_sent();
  backlog_ = m.backlog();
  if (mss_ == 0 || !LoadSendQueue(m)) return loader.Fail("a TCP connection is malformed");
  for (size_t at = 0; at < m.received().size(); at += kMaxSegment) {
    Slice s = Slice::Copy(std::string_view(m.received()).substr(at, kMaxSegment));
    receive_charge_ += s.size + kItemOverhead;
    received_bytes_ += s.size;
    receive_queue_.push_back(std::move(s));
  }
  for (const auto& in : m.out_of_order()) {
    if (in.position() < bytes_received_ || in.data().size() > kMaxSegment) return false;
    Slice s = Slice::Copy(in.data());
    out_of_order_charge_ += s.size + kItemOverhead;
    out_of_order_.emplace(in.position(), OutOfOrder{std::move(s), in.fin()});
  }
  for (uint64_t id : m.accept_queue()) {
    RefPtr<TcpConnection> c = loader.GetRef<TcpConnection>(id);
    if (!c || c.get() == this) return false;
    c->listener_ = this;
    accept_queue_.push_back(std::move(c));
  }
  for (uint64_t id : m.embryos()) {
    auto* c = loader.Get<TcpConnection>(id);
    if (c == nullptr || c == this) return false;
    c->listener_ = this;
    embryos_.insert(c);
  }
  return true;
}

bool TcpConnection::Attach(TcpLayer& layer) {
  if (layer_ != nullptr) return layer_ == &layer;
  layer_ = &layer;
  layer_->Register(*this);
  if (load_bound_) layer_->ports().Share(binding_);
  if (state_ == TcpState::kListen) layer_->AddListener(*this);
  if (load_in_table_ && !layer_->Insert(*this)) return false;
  if (!load_in_table_ && state_ != TcpState::kListen) state_ = TcpState::kClosed;
  if (in_table_) ArmTimer();
  for (TcpConnection* c : embryos_) {
    if (!c->Attach(layer)) return false;
  }
  for (const RefPtr<TcpConnection>& c : accept_queue_) {
    if (!c->Attach(layer)) return false;
  }
  return true;
}

}  // namespace amber::net
