// Unix socket names in the file system.
#include <fcntl.h>
#include <sys/resource.h>

#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/net/unix/unix_socket.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/fs_context.h"
#include "sentry/vfs/host_sockets.h"
#include "sentry/vfs/ops.h"
#include "sentry/vfs/path.h"
#include "sentry/vfs/vfs_file.h"

namespace amber {
namespace {

// Attached to the inode while a socket is bound to it. The socket takes itself out when it goes; it saves and restores this.
class BoundSocket final : public SpecialState {
 public:
  explicit BoundSocket(UnixSocket* socket) : socket_(socket) {}
  UnixSocket* socket() const { return socket_; }

 private:
  UnixSocket* socket_;
};

}  // namespace

ErrnoOr<std::unique_ptr<VfsPath>> MakeSocketInode(Task& task, const std::string& path, int type, UniqueFd* host) {
  VfsContext ctx = ContextOf(task);
  NewNode node;
  node.mode = S_IFSOCK | 0777;
  node.umask = task.fs().umask();
  SocketBinding binding(type);
  auto made = MakeAt(ctx, task.fs().cwd(), path, node);
  if (made.Is(EEXIST)) return Errno(EADDRINUSE);
  if (!made.ok()) return made.error();
  *host = binding.Take();
  return std::make_unique<VfsPath>(TRY(ResolvePlace(ctx, task.fs().cwd(), path, 0)));
}

ErrnoOr<VfsPath> FindSocketPlace(Task& task, const std::string& path) {
  VfsContext ctx = ContextOf(task);
  VfsPath place = TRY(ResolvePlace(ctx, task.fs().cwd(), path, kFollowLast));
  // The inode's permission alone: a mount that is read-only does not matter here (unix_find_bsd()).
  TRY(CheckPermission(task.creds(), *place.inode(), kMayWrite));
  if (place.inode()->type() != S_IFSOCK) return Errno(ECONNREFUSED);
  return place;
}

ErrnoOr<UnixSocket*> FindSocketAt(Task& task, const std::string& path) {
  VfsPath place = TRY(FindSocketPlace(task, path));
  auto* bound = dynamic_cast<BoundSocket*>(place.inode()->special());
  if (bound == nullptr) return Errno(ECONNREFUSED);
  return bound->socket();
}

// SIOCUNIXFILE (unix_open_file): also of an accepted socket, whose name is its listener's.
ErrnoOr<uint64_t> UnixSocket::OpenBoundFile(Task& task) {
  constexpr int kCapNetAdmin = 12;
  if (!task.creds().HasIn((net_ ? *net_ : NetNamespace::Of(task)).owner(), kCapNetAdmin)) return Errno(EPERM);
  if (!bound_path_) return Errno(ENOENT);
  auto file = MakeRef<PathFile>(*bound_path_, O_PATH);
  return static_cast<uint64_t>(TRY(task.files().Allocate(std::move(file), true, task.limit(RLIMIT_NOFILE))));
}

void SetBoundSocket(const VfsPath& place, UnixSocket* socket) {
  if (place.dentry->negative()) return;
  place.inode()->set_special(socket != nullptr ? RefPtr<SpecialState>(MakeRef<BoundSocket>(socket)) : nullptr);
}

}  // namespace amber
