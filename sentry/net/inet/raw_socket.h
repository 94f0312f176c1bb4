// Raw sockets (raw(7)), and SOCK_DGRAM ones for ICMP echo ("ping sockets", icmp(7)). Guarded by the kernel lock.
#pragma once

#include <cstdint>
#include <deque>
#include <string>

#include "sentry/net/inet/inet_socket.h"
#include "sentry/net/inet/raw_layer.h"

namespace amber {

class RawSocket final : public InetSocket {
 public:
  RawSocket();  // for Load()
  RawSocket(Task& task, int family, int type, int protocol);
  ~RawSocket() override;

  ErrnoOr<void> Bind(Task& task, std::string_view address) override;
  ErrnoOr<void> Connect(Task& task, std::string_view address) override;
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

  // From the layer. True if the packet was for this socket.
  bool Take(const net::Packet& packet, net::RawBytes* shared);
  // For /proc/net.
  const net::Endpoint& local() const { return local_; }
  const net::Endpoint& remote() const { return remote_; }
  bool connected() const { return connected_; }
  size_t charge() const { return charge_; }
  uint16_t identifier() const { return ping() ? local_.port : 0; }

  state::Kind kind() const override { return state::Kind::kRawSocket; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 private:
  static constexpr size_t kOverhead = 512;

  bool ping() const { return type_ == SOCK_DGRAM; }
  ErrnoOr<void> TakeIdentifier(uint16_t wanted);
  int TakeError() override { return std::exchange(error_, 0); }
  bool bound() const override { return bound_; }

  net::Endpoint local_, remote_;  // the port of a ping socket is its identifier
  bool bound_ = false, connected_ = false;
  int shutdown_ = 0;
  int error_ = 0;
  uint8_t icmp_filter_[32] = {};  // ICMP_FILTER, ICMP6_FILTER: a bit blocks a type
  std::deque<Datagram> packets_;
  size_t charge_ = 0;
  WaitQueue queue_;
};

}  // namespace amber
