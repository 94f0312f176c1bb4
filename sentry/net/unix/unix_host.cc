// Unix sockets that have an end in the host (--host-uds). A connected one only hands messages on; one that is bound to a file of the host's is, beside
// that, a socket of the sandbox's as any other: who connects to it or sends to it from inside never meets the host, and may pass descriptors.
#include "sentry/net/unix/unix_host.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "sentry/base/guest_fd.h"
#include "sentry/kernel/task.h"
#include "sentry/net/host_message.h"
#include "sentry/net/unix/unix_names.h"
#include "sentry/net/unix/unix_socket.h"
#include "sentry/vfs/host_sockets.h"
#include "sentry/vfs/mount.h"

namespace amber {
namespace {

constexpr size_t kMaxPacket = 4 << 20;  // more than the host's net.core.wmem_max, as a rule
// Nobody tells when a listener of the host's has room.
constexpr int64_t kPause = 20'000'000;

ErrnoOr<UniqueFd> ConnectAt(Task& task, const std::string& path, int type) {
  VfsPath place = TRY(FindSocketPlace(task, path));
  auto* inode = dynamic_cast<HostSocketInode*>(place.inode());
  if (inode == nullptr) return Errno(ECONNREFUSED);
  auto fd = inode->ConnectHostSocket(task.creds(), type);
  if (fd.Is(EOPNOTSUPP)) return Errno(ECONNREFUSED);
  return fd;
}

}  // namespace

ErrnoOr<std::unique_ptr<UnixHostEnd>> UnixSocket::EndOf(Kernel& kernel, UniqueFd fd) {
  auto end = std::make_unique<UnixHostEnd>(kernel, std::move(fd), queue_);
  if (!end->watched()) return Errno(ENOBUFS);  // nobody would hear of it: the host's limit on watches (epoll(7)), or its memory
  return end;
}

ErrnoOr<void> UnixSocket::ConnectToHost(Task& task, const UnixName& name) {
  if (name.kind != UnixName::kPath) return Errno(ECONNREFUSED);
  if (connection_oriented() && state_ == State::kConnected) return Errno(EISCONN);
  if (connection_oriented() && state_ == State::kListening) return Errno(EINVAL);
  auto fd = ConnectAt(task, name.name, type_);
  if (fd.Is(EAGAIN)) {
    static auto* nobody = new WaitQueue();
    return AwaitBacklog(task, *nobody, kPause);
  }
  if (!fd.ok()) return fd.error();
  auto end = TRY(EndOf(task.kernel(), std::move(*fd)));
  LeavePeer();
  SetPeer(nullptr);
  host_peer_ = std::move(end);
  peer_address_ = name.Bytes();
  state_ = State::kConnected;
  hung_up_ = false;
  return Ok();
}

ErrnoOr<RefPtr<Socket>> UnixSocket::AcceptFromHost(Task& task) {
  UniqueFd fd = GuestFd(accept4(host_bound_->fd(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (!fd.valid()) return Errno(errno == EMFILE ? ENFILE : errno);
  auto made = MakeRef<UnixSocket>(type_);
  made->net_ = net_;
  made->address_ = address_;
  if (bound_path_) made->bound_path_ = std::make_unique<VfsPath>(*bound_path_);
  made->pass_credentials_ = pass_credentials_;
  made->pass_pidfd_ = pass_pidfd_;
  made->pass_rights_ = pass_rights_;
  made->state_ = State::kConnected;
  made->host_peer_ = TRY(made->EndOf(task.kernel(), std::move(fd)));
  return RefPtr<Socket>(std::move(made));
}

ErrnoOr<size_t> UnixSocket::SendTo(UnixHostEnd& end, SendRequest& request) {
  // A descriptor of the sandbox's means nothing outside.
  if (!request.rights.empty()) return Errno(EPERM);
  request.address.clear();
  size_t limit = static_cast<size_t>(send_buffer_);
  return SendToHost(end.fd(), request, is_stream(), limit - std::min<size_t>(limit, 32), request.flags & (MSG_OOB | MSG_EOR), {});
}

ErrnoOr<size_t> UnixSocket::SendToHostPeer(SendRequest& request) {
  if (is_stream() && !request.address.empty()) return Errno(EISCONN);
  if ((shutdown_ & 2) != 0) return Errno(EPIPE);  // said before there was this peer, perhaps
  auto sent = SendTo(*host_peer_, request);
  if (connection_oriented() || !sent.Is(ECONNREFUSED)) return sent;
  // Whom the datagrams were for is gone.
  host_peer_.reset();
  state_ = State::kUnconnected;
  return sent;
}

ErrnoOr<size_t> UnixSocket::SendToHostAt(Task& task, SendRequest& request) {
  UnixName name = TRY(UnixName::Parse(request.address));
  if (name.kind != UnixName::kPath) return Errno(ECONNREFUSED);
  if (!host_target_ || host_target_name_ != name.name) {
    host_target_ = TRY(EndOf(task.kernel(), TRY(ConnectAt(task, name.name, type_))));
    host_target_name_ = name.name;
  }
  auto sent = SendTo(*host_target_, request);
  // Kept only for as long as this message waits for room: the name may stand for another socket by the next one.
  if (!sent.Is(EAGAIN)) host_target_.reset();
  return sent;
}

ErrnoOr<size_t> UnixSocket::ReceiveFrom(UnixHostEnd& end, ReceiveRequest& request) {
  size_t control = 0;
  // Without room for control messages: descriptors of the host's end here, and the guest is told so by MSG_CTRUNC.
  auto got = ReceiveFromHost(end.fd(), request, is_stream(), kMaxPacket, request.flags & (MSG_OOB | MSG_PEEK), {}, &control);
  // The sender is not of this pid namespace, nor are its users known here.
  if (got.ok() && pass_credentials_) request.credentials = ucred{0, static_cast<uid_t>(-1), static_cast<gid_t>(-1)};
  return got;
}

ErrnoOr<void> UnixSocket::ShutDownHost(int how) {
  UnixHostEnd* end = host_peer_ ? host_peer_.get() : listening() ? host_bound_.get() : nullptr;
  if (end != nullptr && shutdown(end->fd(), how) != 0) return Errno(errno);
  return Ok();
}

uint32_t UnixSocket::HostEvents() const {
  constexpr uint32_t kIn = POLLIN | POLLRDNORM;
  if (host_peer_) {
    if (type_ == SOCK_DGRAM) return host_peer_->Ready(POLLOUT | POLLWRNORM | POLLWRBAND) & (POLLOUT | POLLWRNORM | POLLWRBAND);
    return host_peer_->Ready(kIn | POLLOUT | POLLPRI | POLLRDHUP | POLLWRNORM | POLLWRBAND);
  }
  // An unbound or unconnected stream of the host's has hung up, whatever the guest's is.
  if (host_bound_ && (type_ == SOCK_DGRAM || state_ == State::kListening)) return host_bound_->Ready(kIn) & kIn;
  return 0;
}

int UnixSocket::TakeHostError() {
  int error = 0;
  socklen_t size = sizeof(error);
  return getsockopt(host_peer_->fd(), SOL_SOCKET, SO_ERROR, &error, &size) == 0 ? error : 0;
}

int UnixSocket::HostQueued(uint32_t command) const {
  const UnixHostEnd* end = host_peer_ ? host_peer_.get() : host_bound_.get();
  int value = 0;
  if (end == nullptr || ioctl(end->fd(), command, &value) != 0) return 0;
  return value;
}

bool UnixSocket::BindHostAgain(state::Loader& loader) {
  auto* kernel = loader.Get<Kernel>(1);
  auto* inode = bound_path_ ? dynamic_cast<HostSocketInode*>(bound_path_->inode()) : nullptr;
  if (kernel == nullptr || inode == nullptr) return loader.Fail("a socket of the host's has no place");
  auto fd = inode->BindHostSocketAgain(type_);
  if (fd.Is(EOPNOTSUPP)) return loader.Fail("it has a socket that programs of the host reach: restore it with --host-uds=create or all");
  if (!fd.ok()) return loader.Fail("a socket of the host's cannot be bound again (errno " + std::to_string(fd.error().number()) + ")");
  auto end = EndOf(*kernel, std::move(*fd));
  if (!end.ok()) return loader.Fail("a socket of the host's cannot be watched");
  host_bound_ = std::move(*end);
  if (state_ == State::kListening && listen(host_bound_->fd(), static_cast<int>(backlog_)) != 0)
    return loader.Fail("a socket of the host's cannot listen");
  return true;
}

}  // namespace amber
