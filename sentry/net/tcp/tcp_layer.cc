#include "sentry/net/tcp/tcp_layer.h"

#include <algorithm>

namespace amber::net {
namespace {
constexpr size_t kMaxTimeWaits = 65536;  // net.ipv4.tcp_max_tw_buckets

FlowKey KeyOf(const Packet& p) { return {{p.destination, p.tcp.destination_port}, {p.source, p.tcp.source_port}}; }
}  // namespace

TcpLayer::TcpLayer(Stack& stack)
    : stack_(stack), table_(16, KeyHash{stack.Random()}), time_wait_table_(16, KeyHash{stack.Random()}),
      time_wait_timer_([this] { ExpireTimeWaits(); }) {
  stack_.SetTransport(kTcp, this);
}

TcpLayer::~TcpLayer() {
  stack_.SetTransport(kTcp, nullptr);
  time_wait_table_.clear();
  time_waits_.clear();
  // Connections that outlive the stack are dead ends; their sockets keep the namespace, so these are orphans.
  for (auto& [key, c] : table_) c->in_table_ = false;
  table_.clear();
  for (TcpConnection* c : all_) {
    c->timer_.Cancel();
    c->layer_ = nullptr;
  }
}

bool TcpLayer::Insert(TcpConnection& c) {
  FlowKey key{c.local(), c.remote()};
  if (auto it = time_wait_table_.find(key); it != time_wait_table_.end()) DropTimeWait(**it->second);
  bool inserted = table_.try_emplace(key, RefPtr<TcpConnection>(&c)).second;
  if (inserted) c.in_table_ = true;
  return inserted;
}

void TcpLayer::Remove(TcpConnection& c) {
  if (!c.in_table_) return;
  c.in_table_ = false;
  table_.erase(FlowKey{c.local(), c.remote()});
}

std::vector<TcpConnection*> TcpLayer::Connected() const {
  std::vector<TcpConnection*> out;
  for (const auto& [key, c] : table_) out.push_back(c.get());
  return out;
}

uint64_t TcpLayer::established_count() const {
  return static_cast<uint64_t>(std::count_if(table_.begin(), table_.end(), [](const auto& e) {
    return e.second->state() == TcpState::kEstablished || e.second->state() == TcpState::kCloseWait;
  }));
}

bool TcpLayer::PairFree(const FlowKey& key) {
  if (table_.contains(key)) return false;
  auto it = time_wait_table_.find(key);
  if (it == time_wait_table_.end()) return true;
  // With time stamps an old segment cannot pass for a new one once a second has gone by.
  const TimeWait& tw = **it->second;
  return tw.timestamps && stack_.Now() - tw.since > kSecond;
}

void TcpLayer::AddListener(TcpConnection& c) { listeners_[c.local().port].push_back(&c); }

void TcpLayer::RemoveListener(TcpConnection& c) {
  auto it = listeners_.find(c.local().port);
  if (it == listeners_.end()) return;
  std::erase(it->second, &c);
  if (it->second.empty()) listeners_.erase(it);
}

TcpConnection* TcpLayer::FindListener(const Packet& packet) const {
  auto it = listeners_.find(packet.tcp.destination_port);
  if (it == listeners_.end()) return nullptr;
  TcpConnection* best = nullptr;
  int best_score = -1, alike = 0;
  uint64_t hash = HashEndpoint({packet.source, packet.tcp.source_port}, packet.tcp.destination_port);
  for (TcpConnection* c : it->second) {
    const PortBinding& b = c->binding_;
    if (b.device != 0 && b.device != packet.link) continue;
    int score = b.device != 0 ? 4 : 0;
    if (b.address == packet.destination) {
      score += 2;
    } else if (!b.address.any()) {
      continue;
    } else if (b.address.v4() == packet.v4()) {
      score += 1;
    } else if (b.address.v4() || b.v6only) {
      continue;
    }
    if (score > best_score) {
      best = c, best_score = score, alike = 1;
    } else if (score == best_score && b.reuse_port) {
      // SO_REUSEPORT: spread by a hash of the peer.
      ++alike;
      if (hash % static_cast<uint64_t>(alike) == 0) best = c;
      hash = hash * 0x9e3779b97f4a7c15 + 1;
    }
  }
  return best;
}

void TcpLayer::Receive(Packet packet) {
  ++stack_.counters().tcp_in;
  FlowKey key = KeyOf(packet);
  if (auto it = table_.find(key); it != table_.end()) {
    RefPtr<TcpConnection> c = it->second;
    if (c->PassesFilter(packet)) c->Input(packet);
    return;
  }
  if (auto it = time_wait_table_.find(key); it != time_wait_table_.end()) {
    if (InputTimeWait(**it->second, packet)) return;
  }
  if (packet.destination.multicast() || packet.destination.broadcast()) return;
  if ((packet.tcp.flags & (kSyn | kAck | kRst)) == kSyn) {
    if (TcpConnection* listener = FindListener(packet); listener != nullptr) {
      RefPtr<TcpConnection> keep(listener);
      if (listener->PassesFilter(packet)) listener->InputSyn(packet);
      return;
    }
  }
  SendReset(packet);
}

void TcpLayer::OnError(const Packet& sent, const IcmpHeader&, int error, bool fatal) {
  // `sent` went out from us.
  auto it = table_.find(FlowKey{{sent.source, sent.tcp.source_port}, {sent.destination, sent.tcp.destination_port}});
  if (it == table_.end()) return;
  RefPtr<TcpConnection> c = it->second;
  c->OnIcmp(error, fatal, sent.tcp.seq);
}

void TcpLayer::SendReset(const Packet& packet) {
  const TcpHeader& in = packet.tcp;
  if ((in.flags & kRst) != 0) return;
  auto path = stack_.FindPath(packet.source, packet.destination, packet.scoped_link());
  if (!path.ok()) return;
  Packet out;
  out.source = packet.destination;
  out.destination = packet.source;
  out.protocol = kTcp;
  out.tcp.source_port = in.destination_port;
  out.tcp.destination_port = in.source_port;
  out.tcp.flags = kRst;
  if ((in.flags & kAck) != 0) {
    out.tcp.seq = in.ack;
  } else {
    out.tcp.flags |= kAck;
    out.tcp.ack = in.seq + packet.payload.size + ((in.flags & kSyn) != 0 ? 1 : 0) + ((in.flags & kFin) != 0 ? 1 : 0);
  }
  ++stack_.counters().tcp_out;
  ++stack_.counters().tcp_resets_sent;
  stack_.Send(std::move(out), *path);
}

void TcpLayer::AddTimeWait(std::unique_ptr<TimeWait> tw) {
  if (time_waits_.size() >= kMaxTimeWaits) DropTimeWait(*time_waits_.front());
  tw->since = stack_.Now();
  tw->expires = tw->since + kTimeWaitTime;
  int64_t expires = tw->expires;
  FlowKey key = tw->key;
  if (auto old = time_wait_table_.find(key); old != time_wait_table_.end()) DropTimeWait(**old->second);
  time_waits_.push_back(std::move(tw));
  time_wait_table_[key] = std::prev(time_waits_.end());
  time_wait_timer_.ArmBy(stack_.timers(), expires);
}

void TcpLayer::DropTimeWait(TimeWait& tw) {
  auto it = time_wait_table_.find(tw.key);
  if (it == time_wait_table_.end()) return;
  auto position = it->second;
  time_wait_table_.erase(it);
  time_waits_.erase(position);
}

void TcpLayer::ExpireTimeWaits() {
  int64_t now = stack_.Now();
  while (!time_waits_.empty() && time_waits_.front()->expires <= now) DropTimeWait(*time_waits_.front());
  if (!time_waits_.empty()) time_wait_timer_.ArmBy(stack_.timers(), time_waits_.front()->expires);
}

bool TcpLayer::InputTimeWait(TimeWait& tw, const Packet& packet) {
  const TcpHeader& h = packet.tcp;
  if ((h.flags & kRst) != 0) {
    // RFC 1337: a reset does not end the wait early, unless it is exact.
    if (h.seq == tw.rcv_nxt) DropTimeWait(tw);
    return true;
  }
  bool newer = SeqLess(tw.rcv_nxt, h.seq) || (tw.timestamps && h.has_timestamp && SeqLess(tw.ts_recent, h.timestamp));
  if ((h.flags & (kSyn | kAck)) == kSyn && newer) {
    DropTimeWait(tw);
    return false;
  }
  // Anything else is answered with the last acknowledgement.
  auto path = stack_.FindPath(packet.source, packet.destination, packet.scoped_link());
  if (!path.ok()) return true;
  Packet out;
  out.source = packet.destination;
  out.destination = packet.source;
  out.protocol = kTcp;
  out.tcp.source_port = h.destination_port;
  out.tcp.destination_port = h.source_port;
  out.tcp.flags = kAck;
  out.tcp.seq = tw.snd_nxt;
  out.tcp.ack = tw.rcv_nxt;
  out.tcp.window = static_cast<uint16_t>(std::min<uint32_t>(tw.rcv_window, 65535));
  if (tw.timestamps) {
    out.tcp.has_timestamp = true;
    out.tcp.timestamp = static_cast<uint32_t>(stack_.Now() / kMs) + tw.ts_offset;
    out.tcp.timestamp_echo = tw.ts_recent;
  }
  if (h.seq + packet.payload.size + ((h.flags & kFin) != 0 ? 1 : 0) == tw.rcv_nxt && packet.payload.empty() && (h.flags & (kFin | kSyn)) == 0) {
    return true;  // a plain acknowledgement
  }
  ++stack_.counters().tcp_out;
  stack_.Send(std::move(out), *path);
  return true;
}

}  // namespace amber::net
