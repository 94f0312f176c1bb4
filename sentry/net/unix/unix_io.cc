// Sending and receiving on Unix sockets.
#include <poll.h>
#include <sys/ioctl.h>

#include <algorithm>

#include "sentry/kernel/namespaces.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/net/inet/inet_socket.h"
#include "sentry/net/unix/unix_host.h"
#include "sentry/net/unix/unix_names.h"
#include "sentry/net/unix/unix_socket.h"
#include "sentry/vfs/mount.h"

#ifndef SIOCINQ
#define SIOCINQ FIONREAD
#endif
#ifndef SIOCOUTQ
#define SIOCOUTQ TIOCOUTQ
#endif

namespace amber {
namespace {

constexpr uint32_t kSiocUnixFile = 0x89e0;  // SIOCUNIXFILE of linux/un.h, which clashes with sys/un.h
constexpr int kCapSysAdmin = 21, kCapSysResource = 24;
// A stream message is a buffer of this size at most; smaller writes are put together up to it.
constexpr size_t kStreamChunk = 32768;

// Gives up descriptions that messages held. One may be a socket whose own messages hold the next one, as deep as a guest likes: no recursion.
void GiveUp(std::vector<RefPtr<File>> files) {
  static auto* doomed = new std::vector<RefPtr<File>>();  // kernel lock
  static bool busy = false;
  for (RefPtr<File>& f : files) doomed->push_back(std::move(f));
  if (busy) return;
  busy = true;
  while (!doomed->empty()) {
    RefPtr<File> next = std::move(doomed->back());
    doomed->pop_back();
    next.reset();
  }
  busy = false;
}

void RaisePipe(Task& task, int flags) {
  if ((flags & MSG_NOSIGNAL) == 0) task.SendSignal(SigInfo::User(SIGPIPE, SI_USER, task.pid(), task.creds().uid));
}

bool SameSender(const ucred& a, const ucred& b) { return a.pid == b.pid && a.uid == b.uid && a.gid == b.gid; }

// Fetches `size` bytes; fewer if the guest's memory ends. EFAULT if none could be.
ErrnoOr<size_t> TakeInto(Source& source, std::string* out, size_t size) {
  size_t before = out->size();
  out->resize(before + size);
  auto taken = source.Take(out->data() + before, size);
  out->resize(before + (taken.ok() ? *taken : 0));
  return taken;
}

}  // namespace

void UnixSocket::SignFor(const UnixSocket& to, Task& task, bool forced, UnixMessage* message) const {
  bool wanted = may_pass_credentials() || to.may_pass_credentials() || to.pending_accept_;
  if (!forced) {
    message->credentials =
        wanted ? KernelCredentials(task, task.creds().uid, task.creds().gid) : ucred{0, static_cast<uid_t>(-1), static_cast<gid_t>(-1)};
  }
  if (wanted && (pass_pidfd_ || to.pass_pidfd_ || to.pending_accept_)) message->process = RefPtr<ThreadGroup>(&task.group());
}

ErrnoOr<size_t> UnixSocket::Send(Task& task, SendRequest& request) {
  if ((request.flags & MSG_OOB) != 0 && (type_ != SOCK_STREAM || request.source.remaining() == 0)) return Errno(EOPNOTSUPP);
  if (!request.rights.empty() && UnixGarbage::InFlight(task.creds().uid) > task.limit(RLIMIT_NOFILE) && !task.Has(kCapSysResource) &&
      !task.Has(kCapSysAdmin)) {
    return Errno(ETOOMANYREFS);
  }
  if (host_peer_ && (connection_oriented() || request.address.empty())) {
    auto sent = SendToHostPeer(request);
    if (sent.Is(EPIPE) && is_stream()) RaisePipe(task, request.flags);
    return sent;
  }
  UnixMessage message;
  message.rights = std::move(request.rights);
  message.rights_owner = task.creds().uid;
  message.credentials_wanted = request.credentials.has_value();
  message.credentials = request.credentials.value_or(ucred{});
  auto result = type_ == SOCK_STREAM ? SendStream(task, request, std::move(message)) : SendPacket(task, request, std::move(message));
  if (result.Is(EPIPE) && is_stream()) RaisePipe(task, request.flags);
  return result;
}

ErrnoOr<size_t> UnixSocket::SendStream(Task& task, SendRequest& request, UnixMessage message) {
  if (!request.address.empty()) return Errno(state_ == State::kConnected ? EISCONN : EOPNOTSUPP);
  if (hung_up_ || (shutdown_ & 2) != 0) return Errno(EPIPE);
  if (peer_ == nullptr) return Errno(ENOTCONN);
  if ((peer_->shutdown_ & 1) != 0) return Errno(EPIPE);
  if (!message.rights.empty() && !peer_->pass_rights_) return Errno(EPERM);
  SignFor(*peer_, task, message.credentials_wanted, &message);
  size_t urgent = (request.flags & MSG_OOB) != 0 ? 1 : 0;
  size_t total = request.source.remaining() - urgent;
  size_t done = 0;
  UnixSocket& to = *peer_;
  while (done < total) {
    size_t limit = static_cast<size_t>(send_buffer_);
    if (budget_->used >= limit) break;
    size_t wanted = std::min({total - done, kStreamChunk, limit - budget_->used});
    // Bytes of one sender go into one buffer, unless descriptors mark a border.
    if (done == 0 && message.rights.empty() && !to.messages_.empty()) {
      UnixMessage& last = to.messages_.back();
      if (last.rights.empty() && !last.one_byte && last.budget == budget_ && SameSender(last.credentials, message.credentials) &&
          last.process == message.process && last.credentials_wanted == message.credentials_wanted && last.data.size() < kStreamChunk / 2) {
        wanted = std::min(wanted, kStreamChunk - last.data.size());
        size_t got = TRY(TakeInto(request.source, &last.data, wanted));
        last.charged += got;
        budget_->used += got;
        to.queued_bytes_ += got;
        done += got;
        if (got < wanted) break;
        continue;
      }
    }
    UnixMessage part;
    part.credentials = message.credentials;
    part.credentials_wanted = message.credentials_wanted;
    part.process = message.process;
    part.address = address_;
    auto got = TakeInto(request.source, &part.data, wanted);
    if (!got.ok()) {
      if (done == 0) return got.error();
      break;
    }
    part.rights = std::exchange(message.rights, {});
    part.rights_owner = message.rights_owner;
    done += *got;
    part.budget = budget_;
    to.Deliver(std::move(part));
    if (*got < wanted) break;
  }
  if (done > 0) to.queue_.Notify(POLLIN | POLLRDNORM);
  if (urgent != 0 && done == total) {
    auto sent = SendUrgent(request, std::move(message));
    if (sent.ok()) return done + 1;
    return done > 0 ? ErrnoOr<size_t>(done) : sent.error();
  }
  if (done == 0) return total == 0 ? ErrnoOr<size_t>(size_t{0}) : Errno(EAGAIN);
  return done;
}

// queue_oob() of af_unix.c. An urgent byte that nobody has taken becomes one of the stream.
ErrnoOr<void> UnixSocket::SendUrgent(SendRequest& request, UnixMessage message) {
  UnixSocket& to = *peer_;
  if (budget_->used >= static_cast<size_t>(send_buffer_)) return Errno(EAGAIN);
  if (TRY(TakeInto(request.source, &message.data, 1)) != 1) return Errno(EFAULT);
  message.address = address_;
  message.budget = budget_;
  message.urgent = message.one_byte = true;
  if (to.has_urgent_) to.messages_[to.UrgentIndex()].urgent = false;
  to.has_urgent_ = true;
  to.Deliver(std::move(message));
  to.SendUrgentSignal();
  to.queue_.Notify(POLLIN | POLLRDNORM | POLLPRI);
  return Ok();
}

void UnixSocket::Deliver(UnixMessage message) {
  message.charged = message.data.size() + kOverhead;
  message.budget->used += message.charged;
  queued_bytes_ += message.data.size();
  UnixGarbage::Add(message.rights, message.rights_owner);
  messages_.push_back(std::move(message));
}

ErrnoOr<size_t> UnixSocket::SendPacket(Task& task, SendRequest& request, UnixMessage message) {
  RefPtr<UnixSocket> to;
  if (type_ == SOCK_DGRAM && !request.address.empty()) {
    auto found = FindTarget(task, request.address);
    if (found.Is(ECONNREFUSED)) {
      if ((shutdown_ & 2) != 0) return Errno(EPIPE);
      request.rights = std::move(message.rights);
      return SendToHostAt(task, request);
    }
    to = TRY(std::move(found));
    if (to->peer_ != nullptr && to->peer_ != this) return Errno(EPERM);
  } else {
    if (type_ == SOCK_SEQPACKET && hung_up_) return Errno(EPIPE);
    if (type_ == SOCK_DGRAM && hung_up_) {
      hung_up_ = false;
      state_ = State::kUnconnected;
      return Errno(ECONNREFUSED);
    }
    if (peer_ == nullptr) return Errno(ENOTCONN);
    to = RefPtr<UnixSocket>(peer_);
  }
  if ((shutdown_ & 2) != 0 || (to->shutdown_ & 1) != 0) return Errno(EPIPE);
  if (type_ == SOCK_DGRAM && to != peer_) TRY(CheckScope(task, *to));
  if (!message.rights.empty() && !to->pass_rights_) return Errno(EPERM);
  if (type_ == SOCK_DGRAM && may_pass_credentials()) AutoBind();
  SignFor(*to, task, message.credentials_wanted, &message);
  size_t size = request.source.remaining();
  size_t limit = static_cast<size_t>(send_buffer_);
  if (size > limit - std::min<size_t>(limit, 32)) return Errno(EMSGSIZE);
  if (to->filter_) {
    // Before there is any question of room, and without a word to the sender if it is dropped (unix_dgram_sendmsg).
    if (size > 0 && TRY(TakeInto(request.source, &message.data, size)) != size) return Errno(EFAULT);
    uint32_t kept = to->filter_->Run(message.data);
    if (kept == 0) return size;
    if (kept < message.data.size()) {
      message.data.resize(kept);
      message.data.shrink_to_fit();  // what the queue counts is all that it keeps
    }
  }
  if (budget_->used >= limit) return Errno(EAGAIN);
  // Whoever is not this one's partner may not fill its queue (unix_dgram_recvq_full).
  if (type_ == SOCK_DGRAM && to->peer_ != this && to->messages_.size() > kDatagramBacklog) {
    AwaitRoom(to.get());
    return Errno(EAGAIN);
  }
  if (!to->filter_ && size > 0 && TRY(TakeInto(request.source, &message.data, size)) != size) return Errno(EFAULT);
  message.address = address_;
  message.budget = budget_;
  to->Deliver(std::move(message));
  to->queue_.Notify(POLLIN | POLLRDNORM);
  return size;
}

ErrnoOr<size_t> UnixSocket::Receive(Task&, ReceiveRequest& request) {
  if ((request.flags & MSG_OOB) != 0 && type_ != SOCK_STREAM) return Errno(EOPNOTSUPP);
  if (connection_oriented() && state_ != State::kConnected) return Errno(type_ == SOCK_STREAM ? EINVAL : ENOTCONN);
  if (host_peer_ && connection_oriented()) return ReceiveFrom(*host_peer_, request);
  if ((request.flags & MSG_OOB) != 0) return ReceiveUrgent(request);
  if (!messages_.empty()) {
    auto got = type_ == SOCK_STREAM ? ReceiveStream(request) : ReceivePacket(request);
    if (!got.Is(EAGAIN)) return got;
  }
  if (int e = TakeError(); e != 0) return Errno(e);
  if (host_bound_ && type_ == SOCK_DGRAM && (shutdown_ & 1) == 0) return ReceiveFrom(*host_bound_, request);
  if ((shutdown_ & 1) != 0) return size_t{0};
  return Errno(EAGAIN);
}

void UnixSocket::TakeAncillary(ReceiveRequest& request, UnixMessage& message, bool peek) {
  if (pass_credentials_) request.credentials = message.credentials;
  if (pass_pidfd_) {
    request.wants_pidfd = true;
    request.process = message.process;
  }
  if (message.rights.empty()) return;
  if (peek) {
    request.rights = message.rights;
    return;
  }
  UnixGarbage::Remove(message.rights, message.rights_owner);
  request.rights = std::exchange(message.rights, {});
}

// EAGAIN: there is nothing to read.
ErrnoOr<size_t> UnixSocket::ReceiveStream(ReceiveRequest& request) {
  bool peek = (request.flags & MSG_PEEK) != 0;
  size_t done = 0, index = 0, skip = PeekOffset(request.flags);
  ucred sender{};
  if (request.sink.remaining() == 0) return size_t{0};
  while (index < messages_.size() && request.sink.remaining() > 0 && StepOverUrgent(&index, peek, done > 0)) {
    while (index < messages_.size() && skip >= messages_[index].left()) skip -= messages_[index++].left();
    if (index == messages_.size()) break;
    UnixMessage& m = messages_[index];
    // Bytes of different senders are not mixed if somebody wants to know them.
    if (done > 0 && may_pass_credentials() && !SameSender(m.credentials, sender)) break;
    sender = m.credentials;
    if (done == 0) request.address = m.address;
    size_t wanted = std::min(m.left() - skip, request.sink.remaining());
    auto put = request.sink.Put(m.data.data() + m.offset + skip, wanted);
    if (!put.ok()) {
      if (done == 0) return put.error();
      break;
    }
    done += *put;
    MovePeekOffset(request.flags, *put);
    bool had_rights = !m.rights.empty();
    TakeAncillary(request, m, peek);
    bool whole = *put == m.left() - skip;
    skip = 0;
    if (peek) {
      ++index;
    } else {
      m.offset += *put;
      Release(m, *put, whole);
      if (whole) Drop(index);
    }
    // A read ends behind descriptors, not before them (unix_stream_read_generic).
    if (had_rights || !whole || *put < wanted) break;
  }
  return done > 0 ? ErrnoOr<size_t>(done) : Errno(EAGAIN);
}

ErrnoOr<size_t> UnixSocket::ReceivePacket(ReceiveRequest& request) {
  bool peek = (request.flags & MSG_PEEK) != 0;
  size_t index = 0, skip = PeekOffset(request.flags);
  // Packets that lie before the offset are passed over (__skb_try_recv_from_queue).
  while (index < messages_.size() && skip > 0 && skip >= messages_[index].data.size()) skip -= messages_[index++].data.size();
  if (index == messages_.size()) return Errno(EAGAIN);
  UnixMessage& m = messages_[index];
  size_t rest = m.data.size() - skip;
  size_t wanted = std::min(rest, request.sink.remaining());
  if (wanted > 0) {
    // The packet is gone even if its bytes cannot be delivered.
    auto put = request.sink.Put(m.data.data() + skip, wanted);
    if (!put.ok() || *put < wanted) {
      if (!peek) PopFront();
      return Errno(EFAULT);
    }
  }
  request.address = m.address;
  request.full_size = rest;
  if (wanted < rest) request.out_flags |= MSG_TRUNC;
  TakeAncillary(request, m, peek);
  MovePeekOffset(request.flags, peek ? wanted : m.data.size());
  if (!peek) PopFront();
  return wanted;
}

void UnixSocket::Release(UnixMessage& message, size_t bytes, bool whole) {
  size_t before = message.budget->used;
  size_t freed = whole ? message.charged : std::min(bytes, message.charged);
  message.charged -= freed;
  message.budget->used -= std::min(freed, before);
  queued_bytes_ -= std::min(bytes, queued_bytes_);
  UnixSocket* sender = message.budget->owner;
  if (sender == nullptr) return;
  // Told when a quarter is left in use, so that a writer does not run for every few bytes.
  size_t limit = static_cast<size_t>(sender->send_buffer_);
  if (before * 4 > limit && sender->writable()) sender->queue_.Notify(POLLOUT | POLLWRNORM | POLLWRBAND);
}

void UnixSocket::PopFront() {
  UnixMessage m = std::move(messages_.front());
  messages_.pop_front();
  UnixGarbage::Remove(m.rights, m.rights_owner);
  Release(m, m.data.size(), true);
  if (type_ != SOCK_DGRAM || messages_.size() != kDatagramBacklog) return;
  // There is room again for those who have no say in how full this queue is.
  for (UnixSocket* s : watched_by_) s->queue_.Notify(POLLOUT | POLLWRNORM | POLLWRBAND);
  WakeSenders();
}

void UnixSocket::AwaitRoom(UnixSocket* target) {
  if (waiting_for_ == target) return;
  if (waiting_for_ != nullptr) waiting_for_->waiting_senders_.erase(this);
  waiting_for_ = target;
  if (target != nullptr) target->waiting_senders_.insert(this);
}

void UnixSocket::WakeSenders() {
  for (UnixSocket* s : std::exchange(waiting_senders_, {})) {
    s->waiting_for_ = nullptr;
    s->queue_.Notify(POLLOUT | POLLWRNORM | POLLWRBAND);
  }
}

void UnixSocket::DropMessages() {
  std::deque<UnixMessage> dropped = std::move(messages_);
  messages_.clear();
  for (UnixMessage& m : dropped) {
    UnixGarbage::Remove(m.rights, m.rights_owner);
    Release(m, m.data.size() - m.offset, true);
    GiveUp(std::move(m.rights));
  }
}

ErrnoOr<uint64_t> UnixSocket::Ioctl(Task& task, uint32_t command, uint64_t argument) {
  int value = 0;
  switch (command) {
    case SIOCINQ:
      if (listening()) return Errno(EINVAL);
      value = static_cast<int>(connection_oriented() ? queued_bytes_ : messages_.empty() ? 0 : messages_.front().data.size());
      if (value == 0) value = HostQueued(command);
      break;
    case SIOCATMARK:
      if (type_ != SOCK_STREAM) return Errno(EOPNOTSUPP);
      value = at_mark() ? 1 : 0;
      break;
    case kSiocUnixFile: return OpenBoundFile(task);
    case SIOCOUTQ: value = static_cast<int>(budget_->used) + (host_peer_ ? HostQueued(command) : 0); break;
    default:
      // Any socket tells of interfaces; the C library asks one of these.
      return DeviceIoctl(task, net_ ? *net_ : NetNamespace::Of(task), command, argument);
  }
  TRY(task.CopyOut(UserPtr<int>(argument), value));
  return uint64_t{0};
}

}  // namespace amber
