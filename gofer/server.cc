#include "gofer/server.h"

#include <fcntl.h>
#include <kj/exception.h>
#include <linux/mount.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "gofer/session.h"

namespace amber::gofer {

Server::Server(std::vector<AttachPoint> attach_points, UniqueFd proc_self_fd, uint32_t max_nodes)
    : attach_points_(std::move(attach_points)), proc_self_fd_(std::move(proc_self_fd)), nodes_(max_nodes) {}

ErrnoOr<void> Server::PrepareThread() {
  if (unshare(CLONE_FS) != 0) return Errno(errno);
  if (fchdir(proc_self_fd_.get()) != 0) return Errno(errno);
  umask(0);
  return {};
}

void Server::Serve(int socket) { Session(*this, socket).Run(); }

ErrnoOr<UniqueFd> OpenProcSelfFd() {
  int mount = static_cast<int>(syscall(SYS_open_tree, AT_FDCWD, "/proc/self/fd", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
  if (mount >= 0) return UniqueFd(mount);
  int fd = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return Errno(errno);
  return UniqueFd(fd);
}

void Session::Run() {
  while (HandleOne()) {
  }
}

bool Session::HandleOne() {
  auto received = wire_.Receive(socket_);
  if (!received.ok() && !received.Is(EBADMSG)) return false;
  bool keep = false;
  int error = EPROTO;
  before_.reset();
  auto response = wire_.NewMessage().initRoot<wire::Response>();
  if (received.ok()) {
    // Malformed content shows as an exception where it is read.
    try {
      error = Dispatch(received.value()->getRoot<wire::Request>(), response);
      keep = true;
    } catch (const kj::Exception&) {
      error = EPROTO;
    }
  }
  if (error != 0) {
    reply_files_.clear();
    response = wire_.NewMessage().initRoot<wire::Response>();
    response.setError(error);
  }
  EncodeBefore(response);
  auto sent = wire_.Send(socket_, reply_files_);
  reply_files_.clear();
  if (sent.Is(EMSGSIZE)) {
    response = wire_.NewMessage().initRoot<wire::Response>();
    response.setError(EOVERFLOW);
    EncodeBefore(response);
    sent = wire_.Send(socket_);
  }
  return keep && sent.ok();
}

void Session::EncodeBefore(wire::Response::Builder response) const {
  if (!before_) return;
  auto changed = response.initBefore();
  if (before_->ok()) {
    EncodeAttributes(**before_, changed.initAttributes());
  } else {
    changed.setError(before_->error().number());
  }
}

int Session::Dispatch(wire::Request::Reader request, wire::Response::Builder response) {
  auto forgets = request.getForget();
  if (forgets.size() > kMaxForgets) return EINVAL;
  for (uint64_t id : forgets) server_.nodes().Remove(id);
  if (!request.isReadDir()) directory_.reset();
  if (request.hasBefore()) before_ = Change(request.getBefore());
  ErrnoOr<void> done = [&]() -> ErrnoOr<void> {
    switch (request.which()) {
      case wire::Request::NONE: return {};
      case wire::Request::ATTACH: return Attach(AsString(request.getAttach().getName()), response);
      case wire::Request::WALK: return Walk(request.getWalk(), response);
      case wire::Request::OPEN: return Open(request.getOpen().getNode(), request.getOpen().getFlags(), response);
      case wire::Request::OPEN_SEVERAL: return OpenSeveral(request.getOpenSeveral(), response);
      case wire::Request::READ_DIR: return ReadDir(request.getReadDir(), response);
      case wire::Request::GET_ATTR: return GetAttr(request.getGetAttr(), response);
      case wire::Request::SET_ATTR: return SetAttr(request.getSetAttr(), response);
      case wire::Request::READ_LINK: return ReadLink(request.getReadLink(), response);
      case wire::Request::STAT_FS: return StatFs(request.getStatFs(), response);
      case wire::Request::FSYNC: return Fsync(request.getFsync().getNode(), request.getFsync().getDataOnly());
      case wire::Request::CREATE: return Create(request.getCreate(), response);
      case wire::Request::TMP_FILE: return TmpFile(request.getTmpFile(), response);
      case wire::Request::MK_DIR: return MkDir(request.getMkDir(), response);
      case wire::Request::SYMLINK: return Symlink(request.getSymlink(), response);
      case wire::Request::MK_NOD: return MkNod(request.getMkNod(), response);
      case wire::Request::CONNECT: return Connect(request.getConnect(), response);
      case wire::Request::BIND_SOCKET: return BindSocket(request.getBindSocket(), response);
      case wire::Request::LINK: return Link(request.getLink(), response);
      case wire::Request::RENAME: return Rename(request.getRename());
      case wire::Request::UNLINK: return Unlink(request.getUnlink());
      case wire::Request::GET_XATTR: return GetXattr(request.getGetXattr(), response);
      case wire::Request::SET_XATTR: return SetXattr(request.getSetXattr());
      case wire::Request::LIST_XATTR: return ListXattr(request.getListXattr(), response);
      case wire::Request::REMOVE_XATTR: return RemoveXattr(request.getRemoveXattr());
    }
    return Errno(EOPNOTSUPP);
  }();
  return done.ok() ? 0 : done.error().number();
}

ErrnoOr<RefPtr<HostNode>> Session::Directory(uint64_t id) const {
  RefPtr<HostNode> node = TRY(NodeOf(id));
  if (node->type() != S_IFDIR) return Errno(ENOTDIR);
  return node;
}

ErrnoOr<RefPtr<HostNode>> Session::DirectoryForChange(uint64_t id) const {
  RefPtr<HostNode> node = TRY(Directory(id));
  if (node->attach().read_only) return Errno(EROFS);
  return node;
}

ErrnoOr<void> Session::AddNode(Inode inode, const AttachPoint& attach, wire::Node::Builder b) {
  uint32_t type = inode.type();
  uint64_t dev = inode.dev();
  b.setId(TRY(server_.nodes().Add(MakeRef<HostNode>(std::move(inode.fd), attach, type, dev))));
  EncodeAttributes(inode.attributes, b.initAttributes());
  return {};
}

}  // namespace amber::gofer
