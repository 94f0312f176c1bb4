// Life of Unix sockets: names, connections, shutdown.
#include "sentry/net/unix/unix_socket.h"

#include <poll.h>
#include <sys/un.h>

#include <algorithm>
#include <cstdio>
#include <map>

#include "sentry/fs/anon/anon.h"
#include "sentry/kernel/cpu_timers.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/namespaces.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/landlock/landlock.h"
#include "sentry/net/unix/unix_host.h"
#include "sentry/net/unix/unix_names.h"
#include "sentry/vfs/mount.h"

namespace amber {

UnixSocket::UnixSocket() : budget_(MakeRef<UnixSendBudget>()) {
  budget_->owner = this;
  Init(AF_UNIX, SOCK_STREAM, 0);
  UnixNames::All().insert(this);
}

UnixSocket::UnixSocket(int type) : UnixSocket() { Init(AF_UNIX, type, 0); }

UnixSocket::~UnixSocket() {
  UnixNames::All().erase(this);
  Unbind();
  bool unread = std::ranges::any_of(messages_, [this](const UnixMessage& m) { return m.left() > 0 || type_ != SOCK_STREAM; });
  // A connection that nobody accepted is reset.
  for (RefPtr<UnixSocket>& p : pending_) {
    if (p->peer_ != nullptr) p->peer_->OnPeerGone(true);
  }
  pending_.clear();
  for (UnixSocket* s : std::set<UnixSocket*>(watched_by_)) s->OnPeerGone(unread);
  SetPeer(nullptr);
  AwaitRoom(nullptr);
  WakeSenders();
  DropMessages();
  budget_->owner = nullptr;
  backlog_queue_.Notify(POLLHUP);
}

void UnixSocket::Unbind() {
  if (!owns_name_) return;
  if (bound_path_) {
    SetBoundSocket(*bound_path_, nullptr);
    bound_path_.reset();
  } else {
    UnixNames::Abstract().erase({net_.get(), address_});
  }
}

void UnixSocket::SetPeer(UnixSocket* peer) {
  if (peer_ != nullptr) peer_->watched_by_.erase(this);
  peer_ = peer;
  if (peer_ != nullptr) peer_->watched_by_.insert(this);
}

void UnixSocket::OnPeerGone(bool with_unread_data) {
  SetPeer(nullptr);
  if (!connection_oriented()) {
    // A datagram socket learns of it when it sends (ECONNREFUSED).
    hung_up_ = true;
    return;
  }
  hung_up_ = true;
  shutdown_ = 3;
  if (with_unread_data) error_ = ECONNRESET;
  queue_.Notify(POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM | POLLHUP | POLLRDHUP);
}

std::pair<RefPtr<UnixSocket>, RefPtr<UnixSocket>> UnixSocket::Pair(Task& task, int type) {
  auto a = MakeRef<UnixSocket>(type);
  auto b = MakeRef<UnixSocket>(type);
  a->SetMaker(task);
  b->SetMaker(task);
  a->ConnectTo(*b);
  b->ConnectTo(*a);
  a->identity_ = b->identity_ = UnixIdentity::Of(task);
  return {std::move(a), std::move(b)};
}

void UnixSocket::SetMaker(Task& task) {
  net_ = RefPtr<NetNamespace>(&NetNamespace::Of(task));
  domain_ = task.extras().landlock;
}

ErrnoOr<void> UnixSocket::CheckScope(Task& task, const UnixSocket& target) {
  const LandlockRuleset* domain = task.extras().landlock.get();
  if (domain == nullptr || target.address_.size() <= offsetof(sockaddr_un, sun_path) || target.address_[offsetof(sockaddr_un, sun_path)] != '\0')
    return Ok();
  return LandlockRuleset::KeepsFrom(domain, target.domain_.get(), LandlockRuleset::kScopeAbstractUnix) ? Errno(EPERM) : ErrnoOr<void>();
}

void UnixSocket::ConnectTo(UnixSocket& peer) {
  SetPeer(&peer);
  state_ = State::kConnected;
  peer_address_ = peer.address_;
}

ErrnoOr<void> UnixSocket::Bind(Task& task, std::string_view address) {
  UnixName name = TRY(UnixName::Parse(address));
  if (name.kind == UnixName::kUnnamed) {
    if (!address_.empty()) return Ok();
    name = UnixNames::FreeAbstract(net_.get());
  } else if (!address_.empty()) {
    return Errno(EINVAL);
  }
  std::string bytes = name.Bytes();
  if (name.kind == UnixName::kAbstract) {
    if (!UnixNames::Abstract().try_emplace({net_.get(), bytes}, this).second) return Errno(EADDRINUSE);
  } else {
    UniqueFd host;
    auto place = TRY(MakeSocketInode(task, name.name, type_, &host));
    if (host.valid()) host_bound_ = TRY(EndOf(task.kernel(), std::move(host)));
    bound_path_ = std::move(place);
    SetBoundSocket(*bound_path_, this);
  }
  address_ = std::move(bytes);
  owns_name_ = true;
  return Ok();
}

ErrnoOr<RefPtr<UnixSocket>> UnixSocket::FindTarget(Task& task, std::string_view address) const {
  UnixName name = TRY(UnixName::Parse(address));
  UnixSocket* target = nullptr;
  if (name.kind == UnixName::kUnnamed) return Errno(EINVAL);  // unix_validate_addr()
  if (name.kind == UnixName::kAbstract) {
    auto it = UnixNames::Abstract().find({net_.get(), name.Bytes()});
    if (it == UnixNames::Abstract().end()) return Errno(ECONNREFUSED);
    target = it->second;
  } else {
    target = TRY(FindSocketAt(task, name.name));
  }
  if (target->type_ != type_) return Errno(EPROTOTYPE);
  return RefPtr<UnixSocket>(target);
}

ErrnoOr<void> UnixSocket::Listen(Task& task, int backlog) {
  if (!connection_oriented()) return Errno(EOPNOTSUPP);
  if (address_.empty() || state_ == State::kConnected) return Errno(EINVAL);
  if (host_bound_ && listen(host_bound_->fd(), backlog) != 0) return Errno(errno);
  state_ = State::kListening;
  bool grew = static_cast<uint32_t>(backlog) > backlog_;
  backlog_ = static_cast<uint32_t>(std::min<uint64_t>(static_cast<uint32_t>(backlog), net_ ? net_->sysctl(kSysctlSomaxconn) : 4096));
  identity_ = UnixIdentity::Of(task);
  if (grew) backlog_queue_.Notify(POLLOUT);
  return Ok();
}

// The listener behind a name may be another one, inside or outside, each time that the call is executed again: what counts is when all of it ends.
Errno UnixSocket::AwaitBacklog(Task& task, WaitQueue& queue, int64_t pause) {
  if (nonblocking()) return Errno(EAGAIN);
  SyscallState& call = task.syscall();
  int64_t now = task.kernel().clocks().Monotonic();
  if (call.scratch[0] == 0) call.scratch[0] = static_cast<uint64_t>(SaturatedSum(now, send_timeout_));
  int64_t end = static_cast<int64_t>(call.scratch[0]);
  if (now >= end) return Errno(EAGAIN);
  call.timed_out = false;
  call.deadline = kNever;
  // sock_intr_errno()
  return task.Block(queue, POLLOUT, std::min(end, SaturatedSum(now, pause)), end == kNever ? kErestartsys : Errno(EINTR));
}

ErrnoOr<void> UnixSocket::Connect(Task& task, std::string_view address) {
  if (!connection_oriented()) {
    if (address.size() >= sizeof(sa_family_t) && UnixName::Family(address) == AF_UNSPEC) {
      LeavePeer();
      SetPeer(nullptr);
      host_peer_.reset();
      state_ = State::kUnconnected;
      return Ok();
    }
    auto found = FindTarget(task, address);
    if (found.Is(ECONNREFUSED)) return ConnectToHost(task, TRY(UnixName::Parse(address)));
    RefPtr<UnixSocket> target = TRY(std::move(found));
    // A socket that has a peer hears from that one alone.
    if (target->peer_ != nullptr && target->peer_ != this) return Errno(EPERM);
    if (target != peer_) TRY(CheckScope(task, *target));
    if (may_pass_credentials()) AutoBind();
    if (target != peer_) LeavePeer();
    host_peer_.reset();
    ConnectTo(*target);
    hung_up_ = false;
    return Ok();
  }
  auto found = FindTarget(task, address);
  if (found.Is(ECONNREFUSED)) return ConnectToHost(task, TRY(UnixName::Parse(address)));
  RefPtr<UnixSocket> target = TRY(std::move(found));
  if (state_ == State::kConnected) return Errno(EISCONN);
  if (state_ == State::kListening) return Errno(EINVAL);
  if (target->state_ != State::kListening || (target->shutdown_ & 1) != 0) return Errno(ECONNREFUSED);
  if (target->pending_.size() > target->backlog_) return AwaitBacklog(task, target->backlog_queue_, kNever);
  TRY(CheckScope(task, *target));
  if (may_pass_credentials()) AutoBind();
  auto server = MakeRef<UnixSocket>(type_);
  server->net_ = target->net_;
  server->address_ = target->address_;
  if (target->bound_path_) server->bound_path_ = std::make_unique<VfsPath>(*target->bound_path_);
  server->pass_credentials_ = target->pass_credentials_;
  server->pass_pidfd_ = target->pass_pidfd_;
  server->pass_rights_ = target->pass_rights_;
  server->identity_ = UnixIdentity::Of(task);
  identity_ = target->identity_;
  ConnectTo(*server);
  server->ConnectTo(*this);
  server->pending_accept_ = true;
  target->pending_.push_back(std::move(server));
  target->queue_.Notify(POLLIN | POLLRDNORM);
  return Ok();
}

ErrnoOr<RefPtr<Socket>> UnixSocket::Accept(Task& task) {
  if (!connection_oriented()) return Errno(EOPNOTSUPP);
  if (state_ != State::kListening) return Errno(EINVAL);
  if (pending_.empty()) {
    if ((shutdown_ & 1) != 0) return Errno(EINVAL);
    if (host_bound_) return AcceptFromHost(task);
    return Errno(EAGAIN);
  }
  RefPtr<UnixSocket> s = std::move(pending_.front());
  pending_.pop_front();
  s->pending_accept_ = false;
  backlog_queue_.Notify(POLLOUT);
  return RefPtr<Socket>(std::move(s));
}

ErrnoOr<void> UnixSocket::Shutdown(Task&, int how) {
  if (how < SHUT_RD || how > SHUT_RDWR) return Errno(EINVAL);
  TRY(ShutDownHost(how));
  int bits = how == SHUT_RD ? 1 : how == SHUT_WR ? 2 : 3;
  shutdown_ |= bits;
  if (connection_oriented() && peer_ != nullptr) {
    // What I no longer send the peer no longer receives, and the other way round.
    peer_->shutdown_ |= (bits & 2) >> 1 | (bits & 1) << 1;
    peer_->queue_.Notify(POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM | POLLRDHUP | (peer_->shutdown_ == 3 ? POLLHUP : 0));
  }
  queue_.Notify(POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM | POLLRDHUP | (shutdown_ == 3 ? POLLHUP : 0));
  if (listening()) backlog_queue_.Notify(POLLHUP);
  return Ok();
}

ErrnoOr<std::string> UnixSocket::LocalAddress() {
  if (address_.empty()) return UnixName{}.Bytes();
  return address_;
}

ErrnoOr<std::string> UnixSocket::PeerAddress() {
  if (host_peer_) return peer_address_.empty() ? UnixName{}.Bytes() : peer_address_;
  if (peer_ == nullptr && !(hung_up_ && connection_oriented())) return Errno(ENOTCONN);
  // A datagram peer, or the connecting side, may have been bound later.
  const std::string& address = peer_ != nullptr ? peer_->address_ : peer_address_;
  if (address.empty()) return UnixName{}.Bytes();
  return address;
}

int UnixSocket::TakeError() { return error_ == 0 && host_peer_ ? TakeHostError() : std::exchange(error_, 0); }

uint32_t UnixSocket::Poll(Task&) {
  if (host_peer_ && connection_oriented()) return HostEvents();
  uint32_t events = HostEvents();
  if (error_ != 0) events |= POLLERR;
  if (has_urgent_) events |= POLLPRI;
  if (state_ == State::kListening) return events | (pending_.empty() ? 0 : POLLIN | POLLRDNORM);
  if (shutdown_ == 3) events |= POLLHUP;
  if ((shutdown_ & 1) != 0) events |= POLLRDHUP | POLLIN | POLLRDNORM;
  if (!messages_.empty()) events |= POLLIN | POLLRDNORM;
  // A stream socket that was never connected has hung up (unix_poll).
  if (connection_oriented() && state_ == State::kUnconnected) events |= POLLHUP;
  bool room = !host_peer_ && writable();
  if (type_ == SOCK_DGRAM && peer_ != nullptr && peer_->peer_ != this) {
    room = room && peer_->messages_.size() <= kDatagramBacklog;
  }
  if (room) events |= POLLOUT | POLLWRNORM | POLLWRBAND;
  return events;
}

void UnixSocket::OnClose(Task& task) {
  // The description may live on in messages alone now.
  if (UnixGarbage::sockets() > 0) UnixNames::CollectSoon(task.kernel());
}

std::string UnixSocket::Describe() const {
  int shown = state_ == State::kConnected ? 3 : 1;
  char line[128];
  snprintf(line, sizeof(line), "0000000000000000: %08X %08X %08X %04X %02X %5llu", static_cast<unsigned>(ref_count() + 1), 0,
           listening() ? 0x10000 : 0, type_, shown, static_cast<unsigned long long>(ino_));
  std::string out = line;
  if (address_.size() > offsetof(sockaddr_un, sun_path)) {
    std::string name = address_.substr(offsetof(sockaddr_un, sun_path));
    bool abstract = name[0] == '\0';
    if (!abstract && name.back() == '\0') name.pop_back();
    std::replace(name.begin(), name.end(), '\0', '@');
    out += " " + name;
  }
  return out + "\n";
}

void UnixSocket::ForEach(const std::function<void(const UnixSocket&)>& visit) {
  for (UnixSocket* s : UnixNames::All()) visit(*s);
}

}  // namespace amber
