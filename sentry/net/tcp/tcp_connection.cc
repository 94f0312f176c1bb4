// Life of connections; reading and writing.
#include "sentry/net/tcp/tcp_connection.h"

#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>

#include "sentry/base/check.h"
#include "sentry/net/tcp/tcp_layer.h"

namespace amber::net {
namespace {

constexpr uint32_t kReadable = POLLIN | POLLRDNORM;
constexpr uint32_t kWritable = POLLOUT | POLLWRNORM;
constexpr uint32_t kEverything = kReadable | kWritable | POLLRDHUP | POLLHUP | POLLERR | POLLPRI;
// What a connection's buffers grow to by themselves (tcp_rmem, tcp_wmem); less on loopback, where a large window only spoils caches.
constexpr uint32_t kMaxReceive = 6 * 1024 * 1024, kMaxReceiveLoopback = 1024 * 1024, kMaxSend = 2626560;

}  // namespace

TcpConnection::TcpConnection() : timer_([this] { OnTimer(); }) { binding_.owner = this; }

TcpConnection::TcpConnection(TcpLayer& layer) : TcpConnection() {
  layer_ = &layer;
  layer_->Register(*this);
  ts_offset_ = static_cast<uint32_t>(layer_->stack().Random());
}

TcpConnection::~TcpConnection() {
  if (layer_ == nullptr) return;
  if (state_ == TcpState::kListen) layer_->RemoveListener(*this);
  layer_->Unregister(*this);
}

void TcpConnection::Notify(uint32_t events) {
  if (observer_ != nullptr) observer_->OnTcpEvent(events);
}

ErrnoOr<void> TcpConnection::Bind(const Endpoint& local, bool only_v6, uint32_t owner_uid) {
  if (state_ != TcpState::kClosed || binding_.bound()) return Errno(EINVAL);
  if (!layer_->stack().MayBind(local.address)) return Errno(EADDRNOTAVAIL);
  binding_.address = local.address;
  binding_.v6only = v6only = only_v6;
  binding_.uid = uid = owner_uid;
  TRY(layer_->ports().Bind(binding_, local.port, static_cast<uint32_t>(layer_->stack().Random())));
  local_ = {local.address, binding_.port, local.scope};
  bound_explicitly_ = true;
  return Ok();
}

uint32_t TcpConnection::MaxMss() const {
  uint32_t mtu = path_.link != nullptr ? path_.link->mtu() : 1500;
  uint32_t headers = remote_.address.v4() ? 40 : 60;
  uint32_t mss = std::min<uint32_t>(mtu > headers + 48 ? mtu - headers : 48, 65535);
  if (options_.max_segment != 0) mss = std::min(mss, options_.max_segment);
  return mss;
}

ErrnoOr<void> TcpConnection::UpdatePath() {
  Stack& stack = layer_->stack();
  if (path_.link != nullptr && path_.generation == stack.generation()) return Ok();
  path_ = TRY(stack.FindPath(remote_.address, local_.address, RouteDevice(remote_)));
  return Ok();
}

// What both sides' handshakes begin with.
void TcpConnection::Start(uint32_t iss) {
  snd_una_ = snd_nxt_ = write_seq_ = snd_small_ = iss;
  snd_urgent_ = recovery_point_ = iss;
  mss_ = std::min(kDefaultMss, MaxMss());
  rtt_ = {};
  rcv_scale_ = 7;  // enough for the largest buffer
  timestamps_ = sack_ok_ = true;
  last_heard_ = layer_->stack().Now();
  congestion_.Use(options_.congestion);
  congestion_.Init(mss_);
}

ErrnoOr<void> TcpConnection::Connect(const Endpoint& to, bool only_v6, uint32_t owner_uid) {
  Stack& stack = layer_->stack();
  Stack::Batch batch(stack);
  AMBER_CHECK(state_ == TcpState::kClosed);
  // Nobody's address means this machine (ip_route_connect).
  Endpoint target = to;
  if (target.address.any()) target.address = IpAddress::Loopback(target.address.v4() || (binding_.bound() && local_.address.v4()));
  if (target.address.multicast() || stack.IsBroadcast(target.address)) return Errno(ENETUNREACH);
  Path path = TRY(stack.FindPath(target.address, binding_.bound() ? local_.address : IpAddress{}, RouteDevice(target)));
  IpAddress source = path.source;
  if (source.v4() != target.address.v4()) return Errno(EAFNOSUPPORT);
  FlowKey key{{source, local_.port}, target};
  if (binding_.bound()) {
    if (!layer_->PairFree(key)) return Errno(EADDRNOTAVAIL);
  } else {
    binding_.address = source;
    binding_.v6only = v6only = only_v6;
    binding_.uid = uid = owner_uid;
    auto bound = layer_->ports().BindForConnect(binding_, static_cast<uint32_t>(stack.Random()), [&](uint16_t port) {
      key.local.port = port;
      return layer_->PairFree(key);
    });
    if (!bound.ok()) return bound;
  }
  local_ = {source, binding_.port, local_.scope};
  remote_ = target;
  binding_.address = source;
  path_ = path;
  error_ = soft_error_ = 0;
  shutdown_ = 0;
  SetState(TcpState::kSynSent);
  Start(layer_->NewSequence());
  if (!layer_->Insert(*this)) {
    SetState(TcpState::kClosed);
    return Errno(EADDRNOTAVAIL);
  }
  ++stack.counters().tcp_active;
  if (!send_limit_locked_) send_limit_ = kMaxSend;
  SendItem syn;
  syn.seq = write_seq_++;
  syn.syn = true;
  send_queue_.push_back(std::move(syn));
  Output();
  return Ok();
}

ErrnoOr<void> TcpConnection::Listen(uint32_t backlog) {
  if (state_ != TcpState::kClosed && state_ != TcpState::kListen) return Errno(EINVAL);
  backlog_ = backlog;
  if (state_ == TcpState::kListen) return Ok();
  if (!binding_.bound()) {
    binding_.address = local_.address;
    binding_.v6only = v6only;
    binding_.uid = uid;
    TRY(layer_->ports().Bind(binding_, 0, static_cast<uint32_t>(layer_->stack().Random())));
    local_.port = binding_.port;
  } else {
    TRY(layer_->ports().CheckListen(binding_));
  }
  binding_.listening = true;
  shutdown_ = 0;
  SetState(TcpState::kListen);
  layer_->AddListener(*this);
  return Ok();
}

RefPtr<TcpConnection> TcpConnection::Accept() {
  if (accept_queue_.empty()) return nullptr;
  RefPtr<TcpConnection> c = std::move(accept_queue_.front());
  accept_queue_.pop_front();
  c->listener_ = nullptr;
  c->orphan_ = false;
  return c;
}

void TcpConnection::DropListener() {
  layer_->RemoveListener(*this);
  binding_.listening = false;
  SetState(TcpState::kClosed);
  auto waiting = std::move(accept_queue_);
  accept_queue_.clear();
  for (RefPtr<TcpConnection>& c : waiting) {
    c->listener_ = nullptr;
    c->Abort();
  }
  for (TcpConnection* c : std::set<TcpConnection*>(std::move(embryos_))) {
    RefPtr<TcpConnection> keep(c);
    c->listener_ = nullptr;
    c->Abort();
  }
  embryos_.clear();
}

// Both ends are in step: tells whoever waits.
void TcpConnection::PromoteToEstablished() {
  SetState(TcpState::kEstablished);
  was_connected_ = true;
  linger_at_ = kNoDeadline;
  if (!send_limit_locked_) send_limit_ = std::max(send_limit_, kMaxSend);
  ArmKeepAlive();
  if (listener_ == nullptr) return Notify(kWritable);
  TcpConnection* listener = listener_;
  listener->embryos_.erase(this);
  listener->accept_queue_.push_back(RefPtr<TcpConnection>(this));
  ++layer_->stack().counters().tcp_passive;
  listener->Notify(kReadable);
}

void TcpConnection::Done(int error) {
  RefPtr<TcpConnection> keep(this);
  if (listener_ != nullptr) {
    listener_->embryos_.erase(this);
    std::erase_if(listener_->accept_queue_, [this](const RefPtr<TcpConnection>& c) { return c.get() == this; });
    listener_ = nullptr;
  }
  layer_->Remove(*this);
  SetState(TcpState::kClosed);
  shutdown_ = 3;
  if (error != 0) error_ = error;
  send_queue_.clear();
  next_unsent_ = 0;
  send_charge_ = 0;
  sacked_bytes_ = lost_bytes_ = 0;
  snd_una_ = snd_nxt_ = write_seq_;
  tail_.reset();
  out_of_order_.clear();
  out_of_order_charge_ = 0;
  timer_.Cancel();
  retransmit_at_ = ack_at_ = keepalive_at_ = linger_at_ = kNoDeadline;
  // A port that connect() chose is free again; one from bind(2) stays the socket's.
  if (orphan_ || !bound_explicitly_) binding_.Remove();
  Notify(kEverything);
}

void TcpConnection::Abort() {
  Stack::Batch batch(layer_->stack());
  RefPtr<TcpConnection> keep(this);
  if (in_table_ && state_ != TcpState::kSynSent) SendResetNow();
  orphan_ = true;
  Done(0);
}

void TcpConnection::EnterTimeWait() {
  RefPtr<TcpConnection> keep(this);
  auto tw = std::make_unique<TimeWait>();
  tw->key = {local_, remote_};
  tw->family = family;
  tw->snd_nxt = snd_nxt_;
  tw->rcv_nxt = rcv_nxt_;
  tw->rcv_window = rcv_adv_ - rcv_nxt_;
  tw->timestamps = timestamps_;
  tw->ts_recent = ts_recent_;
  tw->ts_offset = ts_offset_;
  tw->binding.address = binding_.address;
  tw->binding.port = local_.port;
  tw->binding.reuse = binding_.reuse;
  tw->binding.reuse_port = binding_.reuse_port;
  tw->binding.by_connect = binding_.by_connect;
  tw->binding.uid = binding_.uid;
  if (binding_.bound()) layer_->ports().Share(tw->binding);
  layer_->Remove(*this);
  layer_->AddTimeWait(std::move(tw));
  bool orphan = orphan_;
  // What the peer sent is still there to be read.
  Done(0);
  if (orphan) observer_ = nullptr;
}

void TcpConnection::CloseSending() {
  switch (state_) {
    case TcpState::kSynReceived:
    case TcpState::kEstablished: SetState(TcpState::kFinWait1); break;
    case TcpState::kCloseWait: SetState(TcpState::kLastAck); break;
    default: return;
  }
  AppendFin();
  Output();
}

void TcpConnection::Shutdown(int bits) {
  Stack::Batch batch(layer_->stack());
  RefPtr<TcpConnection> keep(this);
  if (state_ == TcpState::kListen) {
    if ((bits & 1) != 0) {
      DropListener();
      Notify(kEverything);
    }
    return;
  }
  if (state_ == TcpState::kSynSent) {
    if ((bits & 2) != 0) Done(ECONNRESET);
    return;
  }
  bool had_sending = (shutdown_ & 2) == 0;
  shutdown_ |= bits;
  if ((bits & 2) != 0 && had_sending) CloseSending();
  Notify(kEverything);
}

void TcpConnection::Close(bool reset) {
  observer_ = nullptr;
  if (layer_ == nullptr) return;
  Stack::Batch batch(layer_->stack());
  RefPtr<TcpConnection> keep(this);
  orphan_ = true;
  if (state_ == TcpState::kListen) {
    DropListener();
    binding_.Remove();
    return;
  }
  if (state_ == TcpState::kClosed) {
    binding_.Remove();
    receive_queue_.clear();
    return;
  }
  bool unread = received_bytes_ > 0;
  shutdown_ = 3;
  receive_queue_.clear();
  received_bytes_ = receive_charge_ = 0;
  // What the peer sent and nobody read is lost, and it is told so (RFC 2525, 2.17).
  if (state_ == TcpState::kSynSent || reset || unread) return Abort();
  CloseSending();
  if (state_ == TcpState::kFinWait2) {
    linger_at_ = layer_->stack().Now() + std::max<int64_t>(options_.linger2 < 0 ? 0 : options_.linger2, 0) * kSecond;
    ArmTimer();
  }
}

void TcpConnection::Disconnect() {
  Stack::Batch batch(layer_->stack());
  RefPtr<TcpConnection> keep(this);
  if (state_ == TcpState::kListen) DropListener();
  if (in_table_ && state_ != TcpState::kSynSent) SendResetNow();
  Done(0);
  error_ = 0;
  shutdown_ = 0;
  was_connected_ = false;
  receive_queue_.clear();
  received_bytes_ = receive_charge_ = 0;
  fin_received_ = false;
  urgent_state_ = Urgent::kNone;
  remote_ = {};
  path_ = {};
  if (!bound_explicitly_) local_ = {IpAddress::Any(local_.address.v4()), 0};
}

size_t TcpConnection::SendRoom() const { return send_charge_ >= send_limit_ ? 0 : send_limit_ - send_charge_; }

// A third of the buffer is free (sk_stream_is_writeable), so that a writer does not wake for every segment.
bool TcpConnection::writable() const { return uint64_t{send_charge_} * 3 <= uint64_t{send_limit_} * 2 && unsent() < options_.not_sent_low; }

ErrnoOr<size_t> TcpConnection::Write(Source& source, bool more, bool urgent) {
  if (error_ != 0) return Errno(TakeError());
  if ((shutdown_ & 2) != 0) return Errno(EPIPE);
  if (connecting()) return Errno(EAGAIN);
  if (state_ != TcpState::kEstablished && state_ != TcpState::kCloseWait) return Errno(EPIPE);
  Stack::Batch batch(layer_->stack());
  size_t done = 0;
  while (source.remaining() > 0 && SendRoom() > 0) {
    size_t wanted = std::min({source.remaining(), SendRoom(), size_t{kMaxSegment}});
    if (!tail_ || tail_->room() == 0 || (tail_->room() < wanted && wanted > Buffer::kSmall)) tail_ = MakeRef<Buffer>(wanted);
    wanted = std::min(wanted, tail_->room());
    Slice slice;
    slice.offset = static_cast<uint32_t>(tail_->used());
    auto got = source.Take(tail_->data() + tail_->used(), wanted);
    if (!got.ok()) {
      if (done == 0) return got.error();
      break;
    }
    tail_->Fill(*got);
    slice.buffer = tail_;
    slice.size = static_cast<uint32_t>(*got);
    SendItem* last = send_queue_.empty() || send_queue_.back().sent ? nullptr : &send_queue_.back();
    if (last != nullptr && !last->urgent && last->data.Continues(slice) && last->data.size + slice.size <= kMaxSegment) {
      last->data.size += slice.size;
      send_charge_ += slice.size;
    } else {
      SendItem item;
      item.seq = write_seq_;
      item.data = slice;
      send_charge_ += slice.size + kItemOverhead;
      send_queue_.push_back(std::move(item));
    }
    write_seq_ += slice.size;
    done += slice.size;
    if (*got < wanted) break;
  }
  if (tail_ && tail_->room() == 0) tail_.reset();
  if (done == 0 && source.remaining() > 0) return Errno(EAGAIN);
  more_ = more;
  if (urgent && done > 0) {
    snd_urgent_ = write_seq_;
    has_urgent_out_ = true;
    send_queue_.back().urgent = true;
  }
  Output();
  return done;
}

void TcpConnection::ConsumeReceived(size_t bytes) {
  bool was_tight = rcv_adv_ - rcv_nxt_ < receive_limit_ / 4;
  received_bytes_ -= bytes;
  read_seq_ += static_cast<uint32_t>(bytes);
  while (bytes > 0) {
    Slice& front = receive_queue_.front();
    auto n = static_cast<uint32_t>(std::min<size_t>(bytes, front.size));
    front.DropFront(n);
    receive_charge_ -= n;
    bytes -= n;
    if (!front.empty()) break;
    receive_charge_ -= kItemOverhead;
    receive_queue_.pop_front();
  }
  // The reader keeps up with a window that the sender fills: let it grow.
  if (was_tight && !receive_limit_locked_ && received_bytes_ < receive_limit_ / 4) {
    uint32_t most = path_.link != nullptr && path_.link->loopback() ? kMaxReceiveLoopback : kMaxReceive;
    if (receive_limit_ < most) receive_limit_ = std::min(receive_limit_ * 2, most);
  }
  if (!in_table_) return;
  // Tell the sender if the window opened much.
  uint32_t known = rcv_adv_ - rcv_nxt_;
  uint32_t now = SelectWindow();
  if (now >= known + std::min(receive_limit_ / 4, 2 * MaxMss()) && now >= 2 * known) SendAck();
}

ErrnoOr<size_t> TcpConnection::Read(Sink& sink, const ReadOptions& how) {
  Stack::Batch batch(layer_->stack());
  size_t done = 0, index = 0, skip = how.peek_offset;
  size_t limit = received_bytes_;
  // A read stops at the urgent mark, so that the program can find it (tcp_recvmsg_locked).
  if (urgent_state_ != Urgent::kNone) {
    uint32_t before = urgent_seq_ - read_seq_;
    if (before == 0 && !options_.oob_inline && received_bytes_ > 0 && sink.remaining() > 0) {
      // The byte itself is not in the stream.
      if (how.peek) {
        ++skip;
        --limit;
      } else {
        urgent_state_ = Urgent::kNone;
        ConsumeReceived(1);
        limit = received_bytes_;
      }
    } else if (before != 0 && before < limit) {
      limit = before;
    }
  }
  limit -= std::min(limit, how.peek_offset);
  while (index < receive_queue_.size() && sink.remaining() > 0 && done < limit) {
    const Slice& s = receive_queue_[index++];
    if (skip >= s.size) {
      skip -= s.size;
      continue;
    }
    size_t wanted = std::min({s.size - skip, sink.remaining(), limit - done});
    if (how.discard) {
      done += wanted;
      skip = 0;
      if (done >= sink.remaining()) break;
      continue;
    }
    auto put = sink.Put(s.data() + skip, wanted);
    if (!put.ok()) {
      if (done == 0) return put.error();
      break;
    }
    done += *put;
    skip = 0;
    if (*put < wanted) break;
  }
  if (how.discard) done = std::min(done, sink.remaining());
  if (done > 0) {
    if (!how.peek) {
      ConsumeReceived(done);
      if (urgent_state_ != Urgent::kNone && SeqLess(urgent_seq_, read_seq_)) urgent_state_ = Urgent::kNone;
    }
    return done;
  }
  if (sink.remaining() == 0 && received_bytes_ > 0) return size_t{0};
  // tcp_recvmsg_locked(): the end that the peer told (SOCK_DONE) goes before an error, which stays for others to take.
  if (fin_received_) return size_t{0};
  if (error_ != 0) return Errno(TakeError());
  if ((shutdown_ & 1) != 0) return size_t{0};
  if (state_ == TcpState::kClosed && !was_connected_) return Errno(ENOTCONN);
  if (state_ == TcpState::kListen) return Errno(ENOTCONN);
  if (state_ == TcpState::kClosed) return size_t{0};
  return Errno(EAGAIN);
}

ErrnoOr<uint8_t> TcpConnection::ReadUrgent(bool peek) {
  if (options_.oob_inline || urgent_state_ == Urgent::kNone || urgent_state_ == Urgent::kRead) return Errno(EINVAL);
  if (state_ == TcpState::kClosed && !was_connected_) return Errno(ENOTCONN);
  if (urgent_state_ == Urgent::kAnnounced) return Errno(EAGAIN);
  if (!peek) urgent_state_ = Urgent::kRead;
  return urgent_byte_;
}

uint32_t TcpConnection::Poll() const {
  if (state_ == TcpState::kListen) return accept_queue_.empty() ? 0 : kReadable;
  uint32_t events = 0;
  if (error_ != 0) events |= POLLERR;
  if (shutdown_ == 3 || state_ == TcpState::kClosed) events |= POLLHUP;
  if ((shutdown_ & 1) != 0 || fin_received_) events |= kReadable | POLLRDHUP;
  if (fin_received_ && (shutdown_ & 2) != 0) events |= POLLHUP;
  if (connecting()) return events;
  if (received_bytes_ >= low_watermark_) events |= kReadable;
  if ((shutdown_ & 2) != 0 || writable()) events |= kWritable;
  if (urgent_state_ == Urgent::kAnnounced || urgent_state_ == Urgent::kHere) events |= POLLPRI;
  return events;
}

int TcpConnection::TakeError() { return std::exchange(error_, 0); }

void TcpConnection::OptionsChanged() {
  congestion_.Use(options_.congestion);
  if (!in_table_) return;
  Stack::Batch batch(layer_->stack());
  RefPtr<TcpConnection> keep(this);
  if (!options_.cork) more_ = false;
  ArmKeepAlive();
  Output();
}

void TcpConnection::SetSendLimit(uint32_t bytes) {
  send_limit_ = bytes;
  send_limit_locked_ = true;
  Notify(kWritable);
}

void TcpConnection::SetReceiveLimit(uint32_t bytes) {
  receive_limit_ = bytes;
  receive_limit_locked_ = true;
}

TcpConnection::TimerInfo TcpConnection::timer_info() const {
  int64_t now = layer_ != nullptr ? layer_->stack().Now() : 0;
  if (retransmit_at_ != kNoDeadline) {
    return {snd_nxt_ != snd_una_ ? 1 : 4, std::max<int64_t>(retransmit_at_ - now, 0), retries_};
  }
  if (keepalive_at_ != kNoDeadline && options_.keepalive) {
    return {2, std::max<int64_t>(keepalive_at_ - now, 0), keepalive_probes_};
  }
  return {};
}

}  // namespace amber::net
