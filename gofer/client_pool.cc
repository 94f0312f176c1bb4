// The client's channels, and calls as such; what the calls say is in client.cc.
#include <sys/socket.h>

#include <algorithm>
#include <utility>

#include "gofer/client_impl.h"
#include "sentry/base/brief_wait.h"
#include "sentry/base/guest_fd.h"

namespace amber::gofer {
namespace {

// Gathered forgets beyond this many are sent without waiting for a call to ride on.
constexpr size_t kForgetBatch = 256;

// What came of a change that rode along.
ErrnoOr<Attributes> ChangedBy(wire::Response::Reader response) {
  try {
    if (!response.hasBefore()) return Errno(EIO);
    auto changed = response.getBefore();
    if (changed.getError() != 0) return Errno(changed.getError() > 0 && changed.getError() <= 4095 ? changed.getError() : EIO);
    return Decode(changed.getAttributes());
  } catch (const kj::Exception&) {
    return Errno(EIO);
  }
}

}  // namespace

std::unique_ptr<Client::Impl::Channel> Client::Impl::Acquire() {
  absl::MutexLock lock(&mutex);
  auto ready = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex) { return !free.empty() || alive == 0; };
  mutex.Await(absl::Condition(&ready));
  if (free.empty()) return nullptr;
  std::unique_ptr<Channel> channel = std::move(free.back());
  free.pop_back();
  return channel;
}

void Client::Impl::Release(std::unique_ptr<Channel> channel) {
  absl::MutexLock lock(&mutex);
  free.push_back(std::move(channel));
}

void Client::Impl::Discard(std::unique_ptr<Channel> channel) {
  channel->socket.reset();
  absl::MutexLock lock(&mutex);
  --alive;
}

void Client::Impl::TakeForgets(wire::Request::Builder request) {
  absl::MutexLock lock(&forget_mutex);
  if (forgets.empty()) return;
  size_t count = std::min(forgets.size(), kMaxForgets);
  auto list = request.initForget(static_cast<unsigned>(count));
  for (size_t i = 0; i < count; ++i) list.set(i, forgets[forgets.size() - count + i]);
  forgets.resize(forgets.size() - count);
}

std::optional<Client::Impl::Later> Client::Impl::TakeLater(wire::Request::Builder request) {
  absl::MutexLock lock(&forget_mutex);
  if (!later) return std::nullopt;
  Encode(later->node, later->change, request.initBefore());
  return std::exchange(later, std::nullopt);
}

Transaction::Transaction(Client::Impl& impl) : impl_(impl), channel_(impl.Acquire()) {
  if (channel_ != nullptr) NewRequest();
}

Transaction::~Transaction() {
  if (channel_ == nullptr) return;
  if (broken_) {
    impl_.Discard(std::move(channel_));
  } else {
    impl_.Release(std::move(channel_));
  }
}

wire::Request::Builder Transaction::NewRequest() {
  request_ = channel_->wire.NewMessage().initRoot<wire::Request>();
  return request_;
}

ErrnoOr<wire::Response::Reader> Transaction::RoundTrip() {
  impl_.TakeForgets(request_);
  // Who waits for what rides along hears of it, whatever becomes of the call.
  struct Rider {
    std::optional<Client::Impl::Later> later;
    ErrnoOr<Attributes> result = Errno(EIO);
    ~Rider() {
      if (later) later->done(result);
    }
  } rider{impl_.TakeLater(request_)};
  impl_.calls.fetch_add(1, std::memory_order_relaxed);
  BriefWait wait;
  auto sent = channel_->wire.Send(channel_->socket.get());
  if (!sent.ok()) {
    if (sent.Is(EMSGSIZE)) {  // nothing was sent, and the gathered forgets are to ride on another call
      absl::MutexLock lock(&impl_.forget_mutex);
      for (NodeId node : request_.getForget()) impl_.forgets.push_back(node);
      impl_.later = std::exchange(rider.later, std::nullopt);
      return Errno(E2BIG);
    }
    broken_ = true;
    return Errno(EIO);
  }
  auto received = channel_->wire.Receive(channel_->socket.get(), &files_, wait.may_spin());
  if (!received.ok()) {
    broken_ = true;
    return Errno(EIO);
  }
  auto response = received.value()->getRoot<wire::Response>();
  if (rider.later) rider.result = ChangedBy(response);
  int error = response.getError();
  if (error == 0) return response;
  if (error < 0 || error > 4095) {
    broken_ = true;
    return Errno(EIO);
  }
  return Errno(error);
}

ErrnoOr<UniqueFd> Transaction::TakeFile() {
  // The kernel drops descriptors that do not fit into this process's table.
  if (files_.empty()) return Errno(ENFILE);
  UniqueFd file = GuestFd(files_[0].release());
  return file.valid() ? ErrnoOr<UniqueFd>(std::move(file)) : Errno(ENFILE);
}

Client::Client(std::vector<UniqueFd> channels) : impl_(std::make_unique<Impl>()) {
  absl::MutexLock lock(&impl_->mutex);
  for (UniqueFd& socket : channels) {
    auto channel = std::make_unique<Impl::Channel>();
    channel->socket = std::move(socket);
    impl_->free.push_back(std::move(channel));
    ++impl_->alive;
  }
}

Client::~Client() = default;

uint64_t Client::calls() const { return impl_->calls.load(std::memory_order_relaxed); }

void Client::Forget(std::span<const NodeId> nodes) {
  bool flush = false;
  {
    absl::MutexLock lock(&impl_->forget_mutex);
    for (NodeId node : nodes) {
      if (node != kNoNode) impl_->forgets.push_back(node);
    }
    flush = impl_->forgets.size() >= kForgetBatch;
  }
  if (flush) FlushForgets();
}

void Client::SetAttrLater(NodeId node, const AttributeChange& change, std::function<void(ErrnoOr<Attributes>)> done) {
  absl::MutexLock lock(&impl_->forget_mutex);
  impl_->later = Impl::Later{node, change, std::move(done)};
}

void Client::FlushChange() {
  std::function<void(ErrnoOr<Attributes>)> unsent;
  {
    absl::MutexLock lock(&impl_->forget_mutex);
    if (!impl_->later) return;
  }
  (void)Call(*impl_, [](Transaction& t) -> ErrnoOr<void> {
    t.request().setNone();
    TRY(t.RoundTrip());
    return {};
  });
  {
    // All channels are dead.
    absl::MutexLock lock(&impl_->forget_mutex);
    if (!impl_->later) return;
    unsent = std::move(impl_->later->done);
    impl_->later.reset();
  }
  unsent(Errno(EIO));
}

void Client::FlushForgets() {
  for (;;) {
    {
      absl::MutexLock lock(&impl_->forget_mutex);
      if (impl_->forgets.empty()) return;
    }
    auto sent = Call(*impl_, [](Transaction& t) -> ErrnoOr<void> {
      t.request().setNone();
      TRY(t.RoundTrip());
      return {};
    });
    if (!sent.ok()) return;
  }
}

ErrnoOr<ChannelPair> MakeChannel() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) return Errno(errno);
  ChannelPair pair{UniqueFd(ends[0]), UniqueFd(ends[1])};
  // A packet must fit into the send buffer; the default does unless the host was set up strangely.
  for (int fd : ends) {
    int size = 0;
    socklen_t length = sizeof size;
    constexpr int kNeed = static_cast<int>(kMaxPacket) + 4096;
    if (getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, &length) == 0 && size < kNeed) {
      setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &kNeed, sizeof kNeed);
    }
  }
  return pair;
}

}  // namespace amber::gofer
