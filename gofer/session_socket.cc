// Unix sockets of the host (--host-uds): made here, where their names can be reached, and handed over.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstddef>
#include <cstring>
#include <string>
#include <utility>

#include "gofer/act_as.h"
#include "gofer/protocol.h"
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

ErrnoOr<void> Session::Connect(wire::Connect::Reader request, wire::Response::Builder response) {
  RefPtr<HostNode> node = TRY(NodeOf(request.getNode()));
  if (!node->attach().allow_connect) return Errno(EOPNOTSUPP);
  if (node->type() != S_IFSOCK) return Errno(ECONNREFUSED);
  auto list = request.getGroups();
  if (list.size() > kMaxGroups) return Errno(EINVAL);
  std::vector<gid_t> groups;
  for (gid_t group : list) groups.push_back(group);
  UniqueFd fd = TRY(MakeSocket(request.getType()));
  sockaddr_un address;
  socklen_t size = TRY(Address(FdName(node->fd()).text, &address));
  // Whom a service of the host's sees (SO_PEERCRED, SO_PEERGROUPS) is the guest's user: many let the host's root do everything.
  ActAs guest(server_.self());
  TRY(guest.Begin({request.getUid(), request.getGid(), std::move(groups)}));
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
