#include "sentry/net/inet/host_socket.h"

#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <memory>

#include "sentry/base/guest_fd.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/net/host_message.h"
#include "sentry/net/inet/host_options.h"

namespace amber {
namespace {

constexpr size_t kMaxDatagram = 65535;
constexpr int kSendFlags = MSG_OOB | MSG_EOR | MSG_MORE | MSG_DONTROUTE | MSG_CONFIRM;
constexpr int kReceiveFlags = MSG_OOB | MSG_PEEK | MSG_ERRQUEUE;

const sockaddr* AsSockaddr(std::string_view address) { return reinterpret_cast<const sockaddr*>(address.data()); }

// AF_UNSPEC ends a connection; other families are not the socket's.
ErrnoOr<void> CheckAddress(std::string_view address) {
  if (address.size() < sizeof(sa_family_t) || address.size() > sizeof(sockaddr_storage)) return Errno(EINVAL);
  sa_family_t family;
  memcpy(&family, address.data(), sizeof(family));
  if (family != AF_INET && family != AF_INET6 && family != AF_UNSPEC) return Errno(EAFNOSUPPORT);
  return Ok();
}

}  // namespace

HostSocket::~HostSocket() { source_.Unregister(); }

void HostSocket::Adopt(Kernel& kernel, UniqueFd fd) {
  fd_ = std::move(fd);
  source_.Register(kernel.host_poll(), fd_.get());
}

ErrnoOr<RefPtr<Socket>> HostSocket::Make(Task& task, int family, int type, int protocol) {
  UniqueFd fd = GuestFd(socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol));
  if (!fd.valid()) return Errno(errno == EMFILE ? ENFILE : errno);
  auto made = MakeRef<HostSocket>();
  made->Init(family, type, type == SOCK_STREAM ? int{IPPROTO_TCP} : protocol != 0 ? protocol : int{IPPROTO_UDP});
  made->net_ = RefPtr<NetNamespace>(&NetNamespace::Of(task));
  made->Adopt(task.kernel(), std::move(fd));
  return RefPtr<Socket>(std::move(made));
}

uint32_t HostSocket::Poll(Task&) {
  if (lost_) return POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM | POLLHUP | POLLRDHUP | (lost_error_ != 0 ? POLLERR : 0);
  return HostPoll::Ready(fd_.get(), POLLIN | POLLOUT | POLLPRI | POLLRDHUP | POLLRDNORM | POLLWRNORM | POLLRDBAND | POLLWRBAND);
}

ErrnoOr<void> HostSocket::CheckLost() {
  if (!lost_ || lost_error_ == 0) return Ok();
  return Errno(std::exchange(lost_error_, 0));
}

int HostSocket::TakeError() {
  if (lost_error_ != 0) return std::exchange(lost_error_, 0);
  int error = 0;
  socklen_t size = sizeof(error);
  return getsockopt(fd_.get(), SOL_SOCKET, SO_ERROR, &error, &size) == 0 ? error : errno;
}

ErrnoOr<void> HostSocket::Bind(Task&, std::string_view address) {
  TRY(CheckAddress(address));
  if (bind(fd_.get(), AsSockaddr(address), static_cast<socklen_t>(address.size())) != 0) return Errno(errno);
  bound_ = true;
  return Ok();
}

ErrnoOr<void> HostSocket::Listen(Task&, int backlog) {
  if (lost_) return Errno(EINVAL);
  if (listen(fd_.get(), backlog) != 0) return Errno(errno);
  listening_ = true;
  backlog_ = backlog;
  return Ok();
}

ErrnoOr<void> HostSocket::Connect(Task& task, std::string_view address) {
  TRY(CheckAddress(address));
  if (!connecting_) {
    if (connect(fd_.get(), AsSockaddr(address), static_cast<socklen_t>(address.size())) == 0) {
      sa_family_t family;
      memcpy(&family, address.data(), sizeof(family));
      connected_ = family != AF_UNSPEC;
      lost_ = false;
      return Ok();
    }
    if (errno != EINPROGRESS) return Errno(errno);
    connecting_ = true;
    lost_ = false;
    if (nonblocking()) return Errno(EINPROGRESS);
  }
  if ((HostPoll::Ready(fd_.get(), POLLOUT) & (POLLOUT | POLLERR | POLLHUP)) == 0) {
    if (nonblocking()) return Errno(EALREADY);
    if (task.syscall().timed_out) return Errno(EINPROGRESS);
    bool limited = send_timeout_ != kNever;
    int64_t deadline = limited ? task.kernel().clocks().Monotonic() + send_timeout_ : kNever;
    return task.Block(queue_, POLLOUT, deadline, limited ? Errno(EINTR) : kErestartsys);
  }
  connecting_ = false;
  int error = TakeError();
  if (error != 0) return Errno(error);
  connected_ = true;
  return Ok();
}

ErrnoOr<RefPtr<Socket>> HostSocket::Accept(Task& task) {
  UniqueFd fd = GuestFd(accept4(fd_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (!fd.valid()) return Errno(errno);
  auto made = MakeRef<HostSocket>();
  made->Init(family_, type_, protocol_);
  made->net_ = net_;
  made->connected_ = true;
  made->options_ = options_;
  made->receive_timeout_ = receive_timeout_;
  made->send_timeout_ = send_timeout_;
  made->linger_ = linger_;
  made->Adopt(task.kernel(), std::move(fd));
  return RefPtr<Socket>(std::move(made));
}

ErrnoOr<void> HostSocket::Shutdown(Task&, int how) {
  if (how < SHUT_RD || how > SHUT_RDWR) return Errno(EINVAL);
  if (shutdown(fd_.get(), how) != 0) return Errno(errno);
  listening_ = false;
  return Ok();
}

ErrnoOr<std::string> HostSocket::NameBy(int (*call)(int, sockaddr*, socklen_t*)) const {
  sockaddr_storage name;
  socklen_t size = sizeof(name);
  if (call(fd_.get(), reinterpret_cast<sockaddr*>(&name), &size) != 0) return Errno(errno);
  return std::string(reinterpret_cast<char*>(&name), std::min<size_t>(size, sizeof(name)));
}

ErrnoOr<std::string> HostSocket::LocalAddress() { return NameBy(getsockname); }

ErrnoOr<std::string> HostSocket::PeerAddress() { return NameBy(getpeername); }

ErrnoOr<size_t> HostSocket::Send(Task& task, SendRequest& request) {
  if ((request.flags & MSG_FASTOPEN) != 0) return Errno(EOPNOTSUPP);
  TRY(CheckLost());
  if (!request.address.empty()) TRY(CheckAddress(request.address));
  auto sent = SendToHost(fd_.get(), request, is_stream(), kMaxDatagram, request.flags & kSendFlags, TRY(PackHostControl(request.control)));
  if (sent.Is(EPIPE)) RaisePipe(task, request.flags);
  return sent;
}

ErrnoOr<size_t> HostSocket::Receive(Task&, ReceiveRequest& request) {
  if (lost_) {
    TRY(CheckLost());
    return size_t{0};
  }
  alignas(cmsghdr) uint8_t control[512];
  size_t control_size = 0;
  int flags = request.flags & (is_stream() ? kReceiveFlags | MSG_TRUNC : kReceiveFlags);
  auto got = ReceiveFromHost(fd_.get(), request, is_stream(), kMaxDatagram, flags, control, &control_size);
  request.control = UnpackHostControl({control, control_size});
  return got;
}

ErrnoOr<void> HostSocket::SetOption(Task& task, int level, int name, std::span<const uint8_t> value) {
  if (level == SOL_SOCKET && name == SO_LINGER) {
    TRY(Socket::SetOption(task, level, name, value));
    // close(2) must not wait with the kernel lock held: of the host is asked only for the reset that no time means.
    linger reset{linger_.l_onoff != 0 && linger_.l_linger == 0, 0};
    return setsockopt(fd_.get(), level, name, &reset, sizeof(reset)) == 0 ? ErrnoOr<void>() : Errno(errno);
  }
  const HostOption* option = FindHostOption(level, name);
  if (option == nullptr) return level == SOL_SOCKET ? Socket::SetOption(task, level, name, value) : Errno(ENOPROTOOPT);
  if (!option->set) return Errno(ENOPROTOOPT);
  value = value.first(std::min<size_t>(value.size(), option->size));
  if (setsockopt(fd_.get(), level, name, value.data(), static_cast<socklen_t>(value.size())) != 0) return Errno(errno);
  options_[{level, name}] = std::string(reinterpret_cast<const char*>(value.data()), value.size());
  return Ok();
}

ErrnoOr<std::string> HostSocket::GetOption(Task& task, int level, int name, size_t capacity) {
  const HostOption* option = FindHostOption(level, name);
  if (option == nullptr) return level == SOL_SOCKET ? Socket::GetOption(task, level, name, capacity) : Errno(ENOPROTOOPT);
  char value[256];
  socklen_t size = static_cast<socklen_t>(std::min<size_t>({capacity, option->size, sizeof(value)}));
  if (getsockopt(fd_.get(), level, name, value, &size) != 0) return Errno(errno);
  return std::string(value, std::min<size_t>(size, sizeof(value)));
}

ErrnoOr<uint64_t> HostSocket::Ioctl(Task& task, uint32_t command, uint64_t argument) {
  if (command != FIONREAD) return InetSocket::Ioctl(task, command, argument);
  int available = 0;
  if (ioctl(fd_.get(), FIONREAD, &available) != 0) return Errno(errno);
  TRY(task.CopyOut(UserPtr<int>(argument), available));
  return uint64_t{0};
}

}  // namespace amber
