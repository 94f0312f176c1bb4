// A TCP socket (tcp(7)): the descriptor's side of a connection or listener. Guarded by the kernel lock.
#pragma once

#include <cstdint>
#include <string>

#include "sentry/net/inet/inet_socket.h"
#include "sentry/net/tcp/tcp_connection.h"

namespace amber {

// As TCP_CONGESTION names it.
std::string_view CongestionName(net::CongestionControl control);

class TcpSocket final : public InetSocket, public net::TcpObserver {
 public:
  TcpSocket();  // for Load()
  TcpSocket(Task& task, int family);
  ~TcpSocket() override;

  ErrnoOr<void> Bind(Task& task, std::string_view address) override;
  ErrnoOr<void> Listen(Task& task, int backlog) override;
  ErrnoOr<void> Connect(Task& task, std::string_view address) override;
  ErrnoOr<RefPtr<Socket>> Accept(Task& task) override;
  ErrnoOr<void> Shutdown(Task& task, int how) override;
  ErrnoOr<std::string> LocalAddress() override;
  ErrnoOr<std::string> PeerAddress() override;
  ErrnoOr<size_t> Send(Task& task, SendRequest& request) override;
  ErrnoOr<size_t> Receive(Task& task, ReceiveRequest& request) override;
  ErrnoOr<void> SetOption(Task& task, int level, int name, std::span<const uint8_t> value) override;
  ErrnoOr<std::string> GetOption(Task& task, int level, int name, size_t capacity) override;
  ErrnoOr<uint64_t> Ioctl(Task& task, uint32_t command, uint64_t argument) override;

  uint32_t Poll(Task& task) override;
  WaitQueue* wait_queue() override { return &queue_; }
  net::TcpConnection& connection() const { return *connection_; }
  const linger& linger_time() const { return linger_; }

  void OnTcpEvent(uint32_t events) override { queue_.Notify(events); }
  void OnTcpUrgent() override { SendUrgentSignal(); }

  state::Kind kind() const override { return state::Kind::kTcpSocket; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 protected:
  bool has_peek_offset() const override { return true; }

 private:
  enum class Phase : uint8_t { kUnconnected, kConnecting, kConnected };

  void OptionsChanged() override;
  bool bound() const override { return connection_->binding().bound(); }
  int TakeError() override { return connection_->TakeError(); }
  bool listening() const override { return connection_->state() == net::TcpState::kListen; }
  ErrnoOr<void> SetTcpOption(Task& task, int name, std::span<const uint8_t> value);
  ErrnoOr<void> SetKeptTcpOption(int name, int n);
  ErrnoOr<std::string> GetTcpOption(int name);

  RefPtr<net::TcpConnection> connection_;
  Phase phase_ = Phase::kUnconnected;
  WaitQueue queue_;
};

}  // namespace amber
