#include "sentry/net/inet/tcp_socket.h"

#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>

#include <algorithm>

#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/net/tcp/tcp_layer.h"

namespace amber {
namespace {

constexpr int kDefaultSend = 16384, kDefaultReceive = 131072;  // the middle values of tcp_wmem and tcp_rmem

}  // namespace

TcpSocket::TcpSocket() {
  Init(AF_INET, SOCK_STREAM, IPPROTO_TCP);
  send_buffer_ = kDefaultSend;
  receive_buffer_ = kDefaultReceive;
}

TcpSocket::TcpSocket(Task& task, int family) : TcpSocket() {
  Init(family, SOCK_STREAM, IPPROTO_TCP);
  net_ = RefPtr<NetNamespace>(&NetNamespace::Of(task));
  connection_ = MakeRef<net::TcpConnection>(net_->tcp());
  connection_->family = family;
  connection_->ino = ino();
  connection_->uid = task.creds().fsuid;
  ip_.v6only = family == AF_INET6 && net_->sysctl(kSysctlBindV6Only) != 0;
  net::TcpOptions& o = connection_->options();
  o.keep_idle = static_cast<uint32_t>(net_->sysctl(kSysctlKeepaliveTime));
  o.keep_interval = static_cast<uint32_t>(net_->sysctl(kSysctlKeepaliveInterval));
  o.keep_count = static_cast<uint32_t>(net_->sysctl(kSysctlKeepaliveProbes));
  connection_->set_observer(this);
}

TcpSocket::~TcpSocket() {
  if (connection_) connection_->Close(linger_.l_onoff != 0 && linger_.l_linger == 0);
}

void TcpSocket::OptionsChanged() {
  net::PortBinding& b = connection_->binding();
  b.reuse = toggle(SO_REUSEADDR);
  b.reuse_port = toggle(SO_REUSEPORT);
  b.device = device_;
  net::TcpOptions& o = connection_->options();
  o.keepalive = toggle(SO_KEEPALIVE);
  o.oob_inline = toggle(SO_OOBINLINE);
  o.filter = filter_;
  o.tos = static_cast<uint8_t>(connection_->remote().address.v4() || family_ == AF_INET ? ip_.tos : ip_.traffic_class);
  o.ttl = Ttl(true, false);
  o.hop_limit = Ttl(false, false);
  connection_->set_low_watermark(static_cast<uint32_t>(low_watermark_));
  connection_->OptionsChanged();
}

ErrnoOr<void> TcpSocket::Bind(Task& task, std::string_view address) {
  net::Endpoint e = TRY(BindAddress(task, address));
  // __inet6_bind(); with IPv4 it only never hears anything.
  if (e.address.multicast() && !e.address.v4()) return Errno(EINVAL);
  return connection_->Bind(e, ip_.v6only, task.creds().fsuid);
}

ErrnoOr<void> TcpSocket::Listen(Task& task, int backlog) {
  if (phase_ != Phase::kUnconnected) return Errno(EINVAL);
  if (!connection_->binding().bound() && family_ == AF_INET) {
    // A port of the system's choice.
    TRY(connection_->Bind({net::IpAddress::Any(true), 0}, false, task.creds().fsuid));
  }
  connection_->v6only = ip_.v6only;
  return connection_->Listen(static_cast<uint32_t>(std::min<uint64_t>(static_cast<uint32_t>(backlog), net_->sysctl(kSysctlSomaxconn))));
}

ErrnoOr<void> TcpSocket::Connect(Task& task, std::string_view address) {
  if (address.size() < sizeof(sa_family_t)) return Errno(EINVAL);
  if (net::SockaddrFamily(address) == AF_UNSPEC) {
    connection_->Disconnect();
    phase_ = Phase::kUnconnected;
    return Ok();
  }
  bool fresh = false;
  if (phase_ == Phase::kConnected) return Errno(EISCONN);
  if (phase_ == Phase::kUnconnected) {
    if (connection_->state() != net::TcpState::kClosed) return Errno(EISCONN);
    net::Endpoint to = TRY(TargetAddress(address, false));
    if (!to.address.multicast()) TRY(TakeScope(to));  // tcp_v6_connect()
    TRY(connection_->Connect(to, ip_.v6only, task.creds().fsuid));
    OptionsChanged();
    phase_ = Phase::kConnecting;
    fresh = true;
  }
  // On loopback it is all over by now; a program that asked not to wait hears of it by poll, as on Linux.
  if (nonblocking() && fresh) return Errno(EINPROGRESS);
  if (connection_->connecting()) {
    if (nonblocking()) return Errno(EALREADY);
    if (task.syscall().timed_out) return Errno(EINPROGRESS);
    bool limited = send_timeout_ != kNever;
    int64_t deadline = limited ? task.kernel().clocks().Monotonic() + send_timeout_ : kNever;
    return task.Block(queue_, POLLOUT, deadline, limited ? Errno(EINTR) : kErestartsys);
  }
  int error = TakeError();
  if (connection_->state() == net::TcpState::kClosed && !connection_->was_connected()) {
    // As if it had never been tried (__inet_stream_connect()).
    connection_->Disconnect();
    phase_ = Phase::kUnconnected;
    return Errno(error != 0 ? error : ECONNABORTED);
  }
  phase_ = Phase::kConnected;
  if (error != 0) return Errno(error);
  return Ok();
}

ErrnoOr<RefPtr<Socket>> TcpSocket::Accept(Task&) {
  if (!listening()) return Errno(EINVAL);
  RefPtr<net::TcpConnection> c = connection_->Accept();
  if (!c) return Errno(EAGAIN);
  auto socket = MakeRef<TcpSocket>();
  socket->Init(family_, SOCK_STREAM, IPPROTO_TCP);
  socket->net_ = net_;
  socket->connection_ = std::move(c);
  socket->connection_->ino = socket->ino();
  socket->connection_->set_observer(socket.get());
  socket->phase_ = Phase::kConnected;
  socket->toggles_ = toggles_;
  socket->filter_ = socket->connection_->options().filter;
  socket->filter_locked_ = filter_locked_;
  socket->linger_ = linger_;
  socket->ip_ = ip_;
  socket->device_ = device_;
  socket->receive_timeout_ = receive_timeout_;
  socket->send_timeout_ = send_timeout_;
  socket->low_watermark_ = low_watermark_;
  socket->priority_ = priority_;
  socket->peek_offset_ = peek_offset_;
  return RefPtr<Socket>(std::move(socket));
}

ErrnoOr<void> TcpSocket::Shutdown(Task&, int how) {
  if (how < SHUT_RD || how > SHUT_RDWR) return Errno(EINVAL);
  net::TcpState state = connection_->state();
  // The attempt counts although it is refused (inet_shutdown).
  connection_->Shutdown(how + 1);
  if (state == net::TcpState::kClosed) return Errno(ENOTCONN);
  if (state == net::TcpState::kListen || state == net::TcpState::kSynSent) phase_ = Phase::kUnconnected;
  return Ok();
}

ErrnoOr<std::string> TcpSocket::LocalAddress() { return SockaddrOf(connection_->local()); }

ErrnoOr<std::string> TcpSocket::PeerAddress() {
  net::TcpState s = connection_->state();
  if (s == net::TcpState::kClosed || s == net::TcpState::kListen || s == net::TcpState::kSynSent) return Errno(ENOTCONN);
  return SockaddrOf(connection_->remote());
}

ErrnoOr<size_t> TcpSocket::Send(Task& task, SendRequest& request) {
  if ((request.flags & MSG_FASTOPEN) != 0) return Errno(EOPNOTSUPP);
  if (phase_ == Phase::kConnecting && !connection_->connecting()) phase_ = Phase::kConnected;
  auto sent = connection_->Write(request.source, (request.flags & MSG_MORE) != 0, (request.flags & MSG_OOB) != 0);
  if (sent.Is(EPIPE)) RaisePipe(task, request.flags);
  return sent;
}

ErrnoOr<size_t> TcpSocket::Receive(Task&, ReceiveRequest& request) {
  if ((request.flags & MSG_ERRQUEUE) != 0) return Errno(EAGAIN);
  if ((request.flags & MSG_OOB) != 0) {
    uint8_t byte = TRY(connection_->ReadUrgent((request.flags & MSG_PEEK) != 0));
    request.out_flags |= MSG_OOB;
    if (request.sink.remaining() == 0) {
      request.out_flags |= MSG_TRUNC;
      return size_t{0};
    }
    return request.sink.Put(&byte, 1);
  }
  net::TcpConnection::ReadOptions how;
  how.peek = (request.flags & MSG_PEEK) != 0;
  how.discard = (request.flags & MSG_TRUNC) != 0;
  how.peek_offset = PeekOffset(request.flags);
  auto got = connection_->Read(request.sink, how);
  if (!got.ok()) return got;
  MovePeekOffset(request.flags, *got);
  if (Kept(SOL_TCP, TCP_INQ) != 0) {
    int left = static_cast<int>(connection_->unread());
    request.control.push_back({SOL_TCP, TCP_CM_INQ, std::string(reinterpret_cast<const char*>(&left), sizeof(left))});
  }
  return got;
}

uint32_t TcpSocket::Poll(Task&) { return connection_->Poll(); }

ErrnoOr<uint64_t> TcpSocket::Ioctl(Task& task, uint32_t command, uint64_t argument) {
  int value = 0;
  switch (command) {
    case SIOCINQ:
      if (listening()) return Errno(EINVAL);
      value = static_cast<int>(connection_->unread());
      break;
    case SIOCATMARK: value = connection_->at_mark() ? 1 : 0; break;
    case SIOCOUTQ:
    case SIOCOUTQNSD:
      if (listening()) return Errno(EINVAL);
      value = static_cast<int>(command == SIOCOUTQ ? connection_->unacknowledged() : connection_->unsent());
      break;
    default: return InetSocket::Ioctl(task, command, argument);
  }
  TRY(task.CopyOut(UserPtr<int>(argument), value));
  return uint64_t{0};
}

}  // namespace amber
