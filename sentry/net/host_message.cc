#include "sentry/net/host_message.h"

#include <algorithm>
#include <memory>

namespace amber {
namespace {

constexpr size_t kStreamChunk = 256 << 10;

// As much of `size` bytes as the guest's memory gives; of a datagram all.
ErrnoOr<size_t> TakeUpTo(Source& source, char* buffer, size_t size, bool stream) {
  size_t taken = 0;
  while (taken < size) {
    auto n = source.Take(buffer + taken, size - taken);
    if (!n.ok() && (taken == 0 || !stream)) return n.error();
    if (!n.ok() || *n == 0) break;
    taken += *n;
  }
  if (taken < size && !stream) return Errno(EFAULT);
  return taken;
}

}  // namespace

ErrnoOr<size_t> SendToHost(int fd, SendRequest& request, bool stream, size_t max_datagram, int flags, std::string control) {
  size_t size = request.source.remaining();
  if (!stream && size > max_datagram) return Errno(EMSGSIZE);
  if (stream) size = std::min(size, kStreamChunk);
  auto buffer = std::make_unique_for_overwrite<char[]>(size);
  size_t taken = TRY(TakeUpTo(request.source, buffer.get(), size, stream));
  iovec data{buffer.get(), taken};
  msghdr m{};
  m.msg_iov = &data;
  m.msg_iovlen = 1;
  if (!request.address.empty()) {
    m.msg_name = request.address.data();
    m.msg_namelen = static_cast<socklen_t>(request.address.size());
  }
  if (!control.empty()) {
    m.msg_control = control.data();
    m.msg_controllen = control.size();
  }
  ssize_t sent = sendmsg(fd, &m, flags | MSG_DONTWAIT | MSG_NOSIGNAL);
  int error = sent < 0 ? errno : 0;
  size_t used = sent < 0 ? 0 : static_cast<size_t>(sent);
  // The rest was copied but not sent; another round of the call begins with it.
  if (used < taken) request.source.PutBack(buffer.get() + used, taken - used);
  if (error != 0) return Errno(error);
  return used;
}

ErrnoOr<size_t> ReceiveFromHost(int fd, ReceiveRequest& request, bool stream, size_t max_datagram, int flags, std::span<uint8_t> control,
                                size_t* control_size) {
  size_t size = std::min(request.sink.remaining(), stream ? kStreamChunk : max_datagram);
  auto buffer = std::make_unique_for_overwrite<char[]>(size);
  sockaddr_storage name;
  iovec data{buffer.get(), size};
  msghdr m{};
  m.msg_iov = &data;
  m.msg_iovlen = 1;
  m.msg_name = &name;
  m.msg_namelen = sizeof(name);
  if (!control.empty()) {
    m.msg_control = control.data();
    m.msg_controllen = control.size();
  }
  // A datagram's whole length is always wanted; a stream's MSG_TRUNC throws bytes away.
  ssize_t n = recvmsg(fd, &m, flags | (stream ? 0 : MSG_TRUNC) | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (n < 0) return Errno(errno);
  *control_size = std::min<size_t>(m.msg_controllen, control.size());
  request.out_flags |= m.msg_flags & (MSG_TRUNC | MSG_CTRUNC | MSG_OOB | MSG_EOR | MSG_ERRQUEUE);
  request.full_size = static_cast<size_t>(n);
  if (m.msg_namelen > 0) request.address.assign(reinterpret_cast<char*>(&name), std::min<size_t>(m.msg_namelen, sizeof(name)));
  size_t got = std::min(static_cast<size_t>(n), size);
  if (stream && (flags & (MSG_TRUNC | MSG_PEEK)) == MSG_TRUNC) return static_cast<size_t>(n);
  return got == 0 ? ErrnoOr<size_t>(got) : request.sink.Put(buffer.get(), got);
}

}  // namespace amber
