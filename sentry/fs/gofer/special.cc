// Fifos and Unix sockets of the host, where the sandbox's owner lets them through.
#include <fcntl.h>
#include <sys/stat.h>

#include <utility>

#include "sentry/base/guest_fd.h"
#include "sentry/fs/fifo/fifo.h"
#include "sentry/fs/gofer/gofer_fs.h"
#include "sentry/fs/host/host_file.h"
#include "sentry/kernel/credentials.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"

namespace amber {

ErrnoOr<RefPtr<File>> GoferInode::Open(const VfsContext& ctx, const VfsPath& path, int flags) {
  // Who uses it as a fifo of the sandbox's keeps doing so.
  if (type() != S_IFIFO || detached_ || special() != nullptr || ctx.task == nullptr) return Inode::Open(ctx, path, flags);
  TRY(NeedNode());
  auto fd = client().Open(node_, (flags & O_ACCMODE) | O_NONBLOCK);
  if (fd.Is(EACCES)) return Inode::Open(ctx, path, flags);
  if (fd.Is(ENXIO) && (flags & O_NONBLOCK) == 0) {
    // Nobody reads yet, and nobody tells when somebody does.
    constexpr int64_t kPause = 20'000'000;
    static auto* nobody = new WaitQueue();
    ctx.task->syscall().deadline = kNever;
    return ctx.task->Block(*nobody, 0, ctx.task->kernel().clocks().Monotonic() + kPause);
  }
  if (!fd.ok()) return fd.error();
  auto end = MakeRef<HostFile>(ctx.task->kernel().host_poll(), std::move(*fd), HostFile::kFifo);
  // Opening for reading does not wait for a writer; the first read does.
  if ((flags & O_ACCMODE) == O_RDONLY && (flags & O_NONBLOCK) == 0) end->AwaitWriter();
  return RefPtr<File>(MakeRef<FifoFile>(path, RefPtr<File>(std::move(end)), flags));
}

ErrnoOr<gofer::Node> GoferInode::MakeSocket(std::string_view name, const gofer::NewInode& inode) {
  if (SocketBinding* binding = SocketBinding::Current(); binding != nullptr) {
    auto bound = client().BindSocket(node_, name, binding->type(), inode);
    if (bound.ok()) {
      binding->Give(std::move(bound->file));
      return std::move(bound->node);
    }
    // A name that is too long for the host's socket (the gofer needs some of its address) is one of the sandbox's alone.
    if (!bound.Is(EOPNOTSUPP) && !bound.Is(ENAMETOOLONG)) return bound.error();
  }
  return client().MkNod(node_, name, S_IFSOCK, 0, inode);
}

ErrnoOr<UniqueFd> GoferInode::ConnectHostSocket(const Credentials& who, int socket_type) {
  if (type() != S_IFSOCK || detached_) return Errno(ECONNREFUSED);
  TRY(NeedNode());
  UniqueFd fd = GuestFd(TRY(client().Connect(node_, socket_type, {who.euid, who.egid, who.groups})).release());
  if (!fd.valid()) return Errno(ENFILE);
  return fd;
}

ErrnoOr<UniqueFd> GoferInode::BindHostSocketAgain(int socket_type) {
  if (type() != S_IFSOCK) return Errno(ENOTSOCK);
  // Also says that the name still is a socket's.
  auto there = NeedNode();
  if (!there.ok() && !there.Is(ENOENT)) return there.error();
  if (removed_ || detached_ || !parent_) return Errno(ENOENT);
  TRY(parent_->NeedNode());
  gofer::NewInode inode{attr_.mode & 07777, attr_.uid, attr_.gid, ~attr_.mode & 0777};
  if (there.ok()) TRY(client().Unlink(parent_->node_, name_));
  auto bound = TRY(client().BindSocket(parent_->node_, name_, socket_type, inode));
  if (node_ != gofer::kNoNode) {
    gofer().inodes_.erase(key_);
    client().Forget(std::exchange(node_, gofer::kNoNode));
  }
  key_ = {bound.node.attributes.dev, bound.node.attributes.ino};
  TRY(TakeNode(std::move(bound.node)));
  return std::move(bound.file);
}

}  // namespace amber
