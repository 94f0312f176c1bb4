#include "sentry/control/server.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "sentry/base/check.h"
#include "sentry/control/channel.h"
#include "sentry/control/control.pb.h"
#include "sentry/control/server_internal.h"

namespace amber::control {
namespace {

constexpr uint64_t kListenerToken = 1;
constexpr uint64_t kWakeupToken = 2;
constexpr uint64_t kFirstToken = 3;
constexpr size_t kMaxConnections = 256;

}  // namespace

Server::Server(Runtime* runtime, ServerOptions options, StepTimings* timings)
    : runtime_(runtime), timings_(timings), listener_(std::move(options.listener)), epoll_(epoll_create1(EPOLL_CLOEXEC)),
      wakeup_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)), next_token_(kFirstToken) {
  AMBER_CHECK(epoll_.valid() && wakeup_.valid());
  Watch(wakeup_.get(), kWakeupToken);
  if (listener_.valid()) Watch(listener_.get(), kListenerToken);
  if (options.primary.valid()) AddConnection(std::move(options.primary), /*primary=*/true);
}

Server::~Server() = default;

void Server::Run() {
  while (!ending_) {
    epoll_event events[16];
    int n = epoll_wait(epoll_.get(), events, std::size(events), -1);
    if (n < 0) {
      AMBER_CHECK(errno == EINTR);
      continue;
    }
    for (int i = 0; i < n && !ending_; ++i) {
      uint64_t token = events[i].data.u64;
      if (token == kWakeupToken) {
        RunPosted();
      } else if (token == kListenerToken) {
        Accept();
      } else if (connections_.contains(token)) {
        ReadConnection(token);
      } else if (waiters_.contains(token)) {
        ReadWaiter(token);
      }
    }
  }
}

void Server::Post(std::move_only_function<void()> work) {
  {
    absl::MutexLock lock(&mutex_);
    posted_.push_back(std::move(work));
  }
  uint64_t one = 1;
  // EAGAIN: the counter is full, so the thread is awake.
  (void)!write(wakeup_.get(), &one, sizeof(one));
}

void Server::RunPosted() {
  uint64_t count;
  (void)!read(wakeup_.get(), &count, sizeof(count));
  std::vector<std::move_only_function<void()>> work;
  {
    absl::MutexLock lock(&mutex_);
    work.swap(posted_);
  }
  for (auto& item : work) item();
}

bool Server::Watch(int fd, uint64_t token) {
  epoll_event event = {.events = EPOLLIN, .data = {.u64 = token}};
  return epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0;
}

void Server::Accept() {
  UniqueFd socket(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (socket.valid() && connections_.size() < kMaxConnections) AddConnection(std::move(socket), false);
}

void Server::AddConnection(UniqueFd socket, bool primary) {
  uint64_t token = next_token_++;
  if (!Watch(socket.get(), token)) return;
  auto connection = std::make_unique<Connection>();
  connection->socket = std::move(socket);
  connection->primary = primary;
  connections_[token] = std::move(connection);
}

void Server::ReadConnection(uint64_t token) {
  Connection& connection = *connections_[token];
  absl::StatusOr<Packet> packet = ReceivePacket(connection.socket.get());
  if (!packet.ok()) {
    if (!absl::IsResourceExhausted(packet.status())) DropConnection(token);
    return;
  }
  auto call = std::make_shared<Call>();
  call->connection = token;
  call->fds = std::move(packet->fds);
  if (!call->request.ParseFromString(packet->bytes)) {
    DropConnection(token);
    return;
  }
  Handle(std::move(call));
}

void Server::DropConnection(uint64_t token) {
  auto it = connections_.find(token);
  if (it == connections_.end()) return;
  bool primary = it->second->primary;
  connections_.erase(it);
  if (!primary) return;
  abandoned_ = true;
  EndAll(SIGKILL);
}

void Server::ReadWaiter(uint64_t token) {
  Key key = waiters_[token];
  Record& record = *records_[key];
  int32_t message;
  ssize_t n = recv(record.waiter.get(), &message, sizeof(message), MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n == sizeof(message)) {
    if (message == kWaiterResize) {
      winsize size;
      if (!record.console.valid() || ioctl(record.console.get(), TIOCGWINSZ, &size) != 0) return;
      runtime_->ResizeTerminal(key.first, {key.second}, {size.ws_row, size.ws_col}).IgnoreError();
    } else if (message >= 1 && message <= 64) {
      runtime_->Signal(key.first, {key.second}, message).IgnoreError();
    }
    return;
  }
  // The waiter is gone before the guest process: somebody killed it, and means the process.
  waiters_.erase(token);
  record.waiter.reset();
  if (!record.status) runtime_->Signal(key.first, {key.second}, SIGKILL).IgnoreError();
}

void Server::Track(const Call& call, const std::string& container, int32_t pid, bool init, UniqueFd waiter, UniqueFd console) {
  Key key(container, pid);
  if (auto it = connections_.find(call.connection); it != connections_.end()) it->second->made.push_back(key);
  auto record = std::make_unique<Record>();
  record->init = init;
  record->waiter = std::move(waiter);
  record->console = std::move(console);
  if (record->waiter.valid()) {
    record->token = next_token_++;
    if (Watch(record->waiter.get(), record->token)) waiters_[record->token] = key;
  }
  records_[key] = std::move(record);
  if (init) ++live_containers_;
  runtime_->Wait(container, {pid}, [this, key](absl::StatusOr<int> status) {
    Post([this, key, wait_status = status.value_or(SIGKILL)] { ProcessEnded(key, wait_status); });
  });
}

void Server::ProcessEnded(const Key& key, int wait_status) {
  auto it = records_.find(key);
  if (it == records_.end() || it->second->status) return;
  Record& record = *it->second;
  record.status = wait_status;
  if (record.waiter.valid()) {
    int32_t message = abandoned_ ? kWaiterAbandoned : wait_status;
    (void)send(record.waiter.get(), &message, sizeof(message), MSG_NOSIGNAL | MSG_DONTWAIT);
    waiters_.erase(record.token);
    record.waiter.reset();
  }
  record.console.reset();
  for (const std::shared_ptr<Call>& call : std::exchange(record.waiting, {})) {
    Reply reply;
    reply.set_wait_status(wait_status);
    SendReply(*call, reply);
  }
  // The status of an exec can be asked for until the container ends; that of an init too, by its waiter's zombie.
  if (record.init && --live_containers_ == 0) EndAll(SIGKILL);
}

void Server::EndAll(int wait_status) {
  if (ending_) return;
  ending_ = true;
  std::vector<Key> keys;
  for (const auto& [key, record] : records_) {
    if (!record->status) keys.push_back(key);
  }
  for (const Key& key : keys) ProcessEnded(key, wait_status);
}

}  // namespace amber::control
