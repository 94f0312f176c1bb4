#include "sentry/net/inet/linger.h"

#include <poll.h>

#include <map>
#include <memory>
#include <vector>

#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/net/inet/net_namespace.h"
#include "sentry/net/inet/tcp_socket.h"
#include "sentry/net/tcp/tcp_layer.h"

namespace amber {
namespace {

// In scratch[0] of a call that waits; [1] is the inode number, [2] the answer.
constexpr uint64_t kMarker = 0x6c696e676572;

// Watches a connection whose socket is closed. Gone as soon as the connection waits for nothing more.
class ClosingConnection final : public net::TcpObserver {
 public:
  explicit ClosingConnection(net::TcpConnection& connection) : connection_(&connection) { connection.set_observer(this); }
  ~ClosingConnection() {
    if (connection_->observer() == this) connection_->set_observer(nullptr);
  }
  static ClosingConnection& Of(net::TcpConnection& connection) {
    std::unique_ptr<ClosingConnection>& entry = All()[connection.ino];
    if (!entry) entry = std::make_unique<ClosingConnection>(connection);
    return *entry;
  }
  static net::TcpConnection* Find(uint64_t ino) {
    auto it = All().find(ino);
    return it != All().end() ? it->second->connection_.get() : nullptr;
  }
  static void Forget(const std::vector<RefPtr<net::TcpConnection>>& connections) {
    for (const RefPtr<net::TcpConnection>& c : connections) {
      auto it = All().find(c->ino);
      if (it == All().end() || it->second->connection_ != c) continue;
      it->second->queue_.Notify(POLLOUT);
      All().erase(it);
    }
  }
  WaitQueue& queue() { return queue_; }

  void OnTcpEvent(uint32_t) override {
    queue_.Notify(POLLOUT);
    if (!connection_->closing()) All().erase(connection_->ino);
  }

 private:
  static std::map<uint64_t, std::unique_ptr<ClosingConnection>>& All() {
    static auto* all = new std::map<uint64_t, std::unique_ptr<ClosingConnection>>();
    return *all;
  }

  RefPtr<net::TcpConnection> connection_;
  WaitQueue queue_;
};

// After a restore nobody watches yet.
net::TcpConnection* FindOrphan(Task& task, uint64_t ino) {
  if (net::TcpConnection* found = ClosingConnection::Find(ino); found != nullptr) return found;
  for (net::TcpConnection* c : NetNamespace::Of(task).tcp().Connected()) {
    if (c->ino == ino && c->orphan()) return c;
  }
  return nullptr;
}

ErrnoOr<uint64_t> Wait(Task& task, net::TcpConnection& connection, int64_t deadline) {
  // A signal ends the waiting, not the call: the answer stays what it is.
  task.syscall().done = task.syscall().scratch[2];
  return task.Block(ClosingConnection::Of(connection).queue(), POLLOUT, deadline, Errno(0));
}

}  // namespace

void ForgetLingering(net::TcpLayer& layer) {
  std::vector<RefPtr<net::TcpConnection>> connections;
  for (net::TcpConnection* c : layer.all()) connections.emplace_back(c);
  ClosingConnection::Forget(connections);
}

ErrnoOr<uint64_t> DropLingering(Task& task, RefPtr<File> file, uint64_t answer) {
  if (file->kind() != state::Kind::kTcpSocket || file->ref_count() != 1) return answer;
  auto& socket = static_cast<TcpSocket&>(*file);
  if (socket.linger_time().l_onoff == 0 || socket.linger_time().l_linger == 0) return answer;
  auto seconds = static_cast<uint32_t>(socket.linger_time().l_linger);
  RefPtr<net::TcpConnection> connection(&socket.connection());
  file.reset();
  if (!connection->closing()) return answer;
  SyscallState& call = task.syscall();
  call.scratch[0] = kMarker;
  call.scratch[1] = connection->ino;
  call.scratch[2] = answer;
  return Wait(task, *connection, task.kernel().clocks().Monotonic() + int64_t{seconds} * kNsPerSecond);
}

bool Lingers(Task& task) { return task.syscall().restarted && task.syscall().scratch[0] == kMarker; }

ErrnoOr<uint64_t> GoOnLingering(Task& task) {
  const SyscallState& call = task.syscall();
  net::TcpConnection* connection = call.timed_out ? nullptr : FindOrphan(task, call.scratch[1]);
  if (connection == nullptr || !connection->closing()) return call.scratch[2];
  return Wait(task, *connection, call.deadline);
}

}  // namespace amber
