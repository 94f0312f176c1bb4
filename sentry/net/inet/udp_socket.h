// A UDP or UDP-Lite socket (udp(7), udplite(7)). Guarded by the kernel lock.
#pragma once

#include <netinet/in.h>

#include <cstdint>
#include <deque>
#include <string>

#include "sentry/net/inet/inet_socket.h"
#include "sentry/net/ip/ports.h"

namespace amber {

// An error of IP_RECVERR.
struct DatagramError {
  net::Slice data;  // what was sent
  net::Endpoint to;
  net::IpAddress offender;
  int error = 0;
  uint8_t origin = 0, type = 0, code = 0;
  uint32_t info = 0;  // ee_info
};

class UdpSocket final : public InetSocket {
 public:
  UdpSocket();  // for Load()
  // `protocol`: IPPROTO_UDP or IPPROTO_UDPLITE.
  UdpSocket(Task& task, int family, int protocol);
  ~UdpSocket() override;

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

  // From the layer.
  bool Wants(const net::IpAddress& remote, uint16_t port) const;
  bool connected() const { return connected_; }
  bool v6only() const { return ip_.v6only; }
  void Deliver(const net::Packet& packet);
  void OnError(const net::Packet& sent, const net::IcmpHeader& icmp, int error, bool fatal);

  // For /proc/net/udp and ss.
  net::PortBinding& binding() { return binding_; }
  const net::Endpoint& local() const { return local_; }
  const net::Endpoint& remote() const { return remote_; }
  size_t queued_bytes() const { return queued_; }
  uint64_t drops() const { return drops_; }
  uint32_t uid() const { return uid_; }

  state::Kind kind() const override { return state::Kind::kUdpSocket; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 private:
  // What a datagram costs beyond its bytes, so that empty ones are not free.
  static constexpr size_t kOverhead = 512;

  bool lite() const { return protocol_ == IPPROTO_UDPLITE; }
  net::UdpLayer& layer() const { return lite() ? net_->udplite() : net_->udp(); }
  // Of a datagram with `size` bytes after the header (udplite_sender_cscov()).
  uint16_t Coverage(size_t size) const;
  ErrnoOr<void> BindTo(Task& task, const net::Endpoint& e);
  ErrnoOr<void> AutoBind(Task& task, bool v4);
  void Queue(const net::Packet& packet);
  // `v4`: of what is sent.
  ErrnoOr<void> TakeControl(const ControlMessage& c, bool v4, net::Packet* packet, net::IpAddress* source, int* device, size_t* segment) const;
  void QueueLocalError(const net::Endpoint& to, int error, uint32_t info);
  ErrnoOr<void> Transmit(net::Packet packet, const net::Path& path, size_t segment);
  ErrnoOr<size_t> ReceiveError(ReceiveRequest& request);
  ErrnoOr<size_t> Peek(ReceiveRequest& request);
  void OptionsChanged() override;
  bool bound() const override { return binding_.bound(); }
  int TakeError() override { return std::exchange(error_, 0); }
  bool has_peek_offset() const override { return true; }

  net::PortBinding binding_;
  net::Endpoint local_, remote_;
  bool connected_ = false;
  bool load_bound_ = false;     // from an image, until AfterLoad()
  bool bound_address_ = false;  // by bind(2), not by connect
  bool bound_port_ = false;
  uint32_t uid_ = 0;
  int shutdown_ = 0;
  int error_ = 0;
  std::deque<Datagram> datagrams_;
  std::deque<DatagramError> errors_;
  size_t queued_ = 0, charge_ = 0;
  uint64_t drops_ = 0;
  RefPtr<net::Buffer> corked_;  // UDP_CORK, MSG_MORE
  bool cork_ = false;
  // UDPLITE_SEND_CSCOV and UDPLITE_RECV_CSCOV; below 0: not set. What is received must be covered so far.
  int send_coverage_ = -1, receive_coverage_ = -1;
  WaitQueue queue_;
};

}  // namespace amber
