// Unix sockets of the host (--host-uds): made here, where their names can be reached, and handed over.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstddef>
#include <cstring>
#include <string>
#include <utility>

#include "gofer/session.h"

namespace amber::gofer {
namespace {

// A name below the thread's working directory, /proc/self/fd. One that does not fit is ENAMETOOLONG: sun_path has 108 bytes.
ErrnoOr<socklen_t> Address(std::string_view path, sockaddr_un* out) {
  *out = {};
  out->sun_family = AF_UNIX;
  if (path.size() >= sizeof(out->sun_path)) return Errno(ENAMETOOLONG);
  memcpy(out->sun_path, path.data(), path.size());
  return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + 1);
}

ErrnoOr<UniqueFd> MakeSocket(uint32_t type) {
  if (type != SOCK_STREAM && type != SOCK_DGRAM && type != SOCK_SEQPACKET) return Errno(EINVAL);
  UniqueFd fd(socket(AF_UNIX, static_cast<int>(type) | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return Errno(errno == EMFILE ? ENFILE : errno);
  return fd;
}

}  // namespace

ErrnoOr<void> Session::Connect(uint64_t id, uint32_t type, wire::Response::Builder response) {
  RefPtr<HostNode> node = TRY(NodeOf(id));
  if (!node->attach().allow_connect) return Errno(EOPNOTSUPP);
  if (node->type() != S_IFSOCK) return Errno(ECONNREFUSED);
  UniqueFd fd = TRY(MakeSocket(type));
  sockaddr_un address;
  socklen_t size = TRY(Address(FdName(node->fd()).text, &address));
  // Never waits for a listener whose queue is full (EAGAIN).
  if (connect(fd.get(), reinterpret_cast<sockaddr*>(&address), size) != 0) return Errno(errno);
  reply_files_.push_back(std::move(fd));
  response.setOpened();
  return {};
}

ErrnoOr<void> Session::BindSocket(wire::BindSocket::Reader request, wire::Response::Builder response) {
  RefPtr<HostNode> parent = TRY(DirectoryForChange(request.getParent()));
  if (!parent->attach().allow_bind) return Errno(EOPNOTSUPP);
  TRY(CheckName(AsString(request.getName())));
  TRY(CheckNew(request.getInode()));
  std::string name(AsString(request.getName()));
  UniqueFd fd = TRY(MakeSocket(request.getType()));
  sockaddr_un address;
  socklen_t size = TRY(Address(std::string(FdName(parent->fd()).text) + "/" + name, &address));
  {
    // The file's mode is that of all sockets, 0777, less the umask.
    UmaskOf scope(request.getInode());
    if (bind(fd.get(), reinterpret_cast<sockaddr*>(&address), size) != 0) return Errno(errno == EADDRINUSE ? EEXIST : errno);
  }
  TRY(FinishNew(*parent, name, S_IFSOCK, request.getInode(), response));
  reply_files_.push_back(std::move(fd));
  return {};
}

}  // namespace amber::gofer
