// Changing the tree: mkdir(2), mknod(2), link(2), symlink(2), unlink(2), rename(2).
#include <linux/capability.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "sentry/kernel/cgroup_tree.h"
#include "sentry/kernel/task.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/table.h"
#include "sentry/vfs/at.h"
#include "sentry/vfs/fs_context.h"
#include "sentry/vfs/ops.h"

namespace amber {
namespace {

ErrnoOr<uint64_t> MkDirAt(Task& task, int dirfd, UserPtr<const char> path, uint32_t mode) {
  std::string name = TRY(task.CopyInString(path, 4096));
  VfsContext ctx = ContextOf(task);
  // mkdir(2): only permission bits and the sticky bit count.
  NewNode node{.mode = S_IFDIR | (mode & 01777), .umask = task.fs().umask()};
  TRY(MakeAt(ctx, TRY(StartOf(task, dirfd, name)), name, std::move(node)));
  return uint64_t{0};
}

ErrnoOr<uint64_t> MkDir(Task& task, UserPtr<const char> path, uint32_t mode) { return MkDirAt(task, AT_FDCWD, path, mode); }

ErrnoOr<uint64_t> MkNodAt(Task& task, int dirfd, UserPtr<const char> path, uint32_t mode, uint32_t dev) {
  uint32_t type = mode & S_IFMT;
  if (type == 0) type = S_IFREG;
  // may_mknod(), before the path is looked at.
  if (type == S_IFDIR) return Errno(EPERM);
  std::string name;
  switch (type) {
    case S_IFREG:
    case S_IFIFO:
    case S_IFSOCK:
      dev = 0;
      name = TRY(task.CopyInString(path, 4096));
      break;
    case S_IFCHR:
    case S_IFBLK:
      name = TRY(task.CopyInString(path, 4096));
      // Whiteouts are for everybody (vfs_mknod).
      if (type == S_IFCHR && dev == 0) break;
      if (!task.Has(CAP_MKNOD)) return Errno(EPERM);
      TRY(Cgroup::CheckDevice(task, type == S_IFBLK, major(dev), minor(dev), kDeviceMake));
      break;
    default: return Errno(EINVAL);
  }
  VfsContext ctx = ContextOf(task);
  // The call takes the kernel's 32-bit encoding, which is the low half of the C library's for what fits in it.
  NewNode node{.mode = type | (mode & 07777), .rdev = dev, .umask = task.fs().umask()};
  TRY(MakeAt(ctx, TRY(StartOf(task, dirfd, name)), name, std::move(node)));
  return uint64_t{0};
}

ErrnoOr<uint64_t> MkNod(Task& task, UserPtr<const char> path, uint32_t mode, uint32_t dev) { return MkNodAt(task, AT_FDCWD, path, mode, dev); }

ErrnoOr<uint64_t> SymlinkAt(Task& task, UserPtr<const char> target, int dirfd, UserPtr<const char> path) {
  std::string to = TRY(task.CopyInString(target, 4096));
  if (to.empty()) return Errno(ENOENT);
  std::string name = TRY(task.CopyInString(path, 4096));
  VfsContext ctx = ContextOf(task);
  NewNode node{.mode = S_IFLNK | 0777, .target = std::move(to)};
  TRY(MakeAt(ctx, TRY(StartOf(task, dirfd, name)), name, std::move(node)));
  return uint64_t{0};
}

ErrnoOr<uint64_t> Symlink(Task& task, UserPtr<const char> target, UserPtr<const char> path) { return SymlinkAt(task, target, AT_FDCWD, path); }

ErrnoOr<uint64_t> LinkAtCall(Task& task, int old_fd, UserPtr<const char> old_path, int new_fd, UserPtr<const char> new_path, int flags) {
  if ((flags & ~(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH)) != 0) return Errno(EINVAL);
  std::string from = TRY(task.CopyInString(old_path, 4096));
  std::string to = TRY(task.CopyInString(new_path, 4096));
  bool empty = (flags & AT_EMPTY_PATH) != 0;
  if (empty && from.empty() && !task.Has(CAP_DAC_READ_SEARCH)) return Errno(ENOENT);
  VfsPath target = TRY(ResolvePlaceAt(task, old_fd, from, (flags & AT_SYMLINK_FOLLOW) != 0 ? kFollowLast : 0, empty));
  VfsContext ctx = ContextOf(task);
  TRY(LinkAt(ctx, target, TRY(StartOf(task, new_fd, to)), to));
  return uint64_t{0};
}

ErrnoOr<uint64_t> Link(Task& task, UserPtr<const char> old_path, UserPtr<const char> new_path) {
  return LinkAtCall(task, AT_FDCWD, old_path, AT_FDCWD, new_path, 0);
}

ErrnoOr<uint64_t> UnlinkAtCall(Task& task, int dirfd, UserPtr<const char> path, int flags) {
  if ((flags & ~AT_REMOVEDIR) != 0) return Errno(EINVAL);
  std::string name = TRY(task.CopyInString(path, 4096));
  VfsContext ctx = ContextOf(task);
  VfsPath start = TRY(StartOf(task, dirfd, name));
  TRY((flags & AT_REMOVEDIR) != 0 ? RmdirAt(ctx, start, name) : UnlinkAt(ctx, start, name));
  return uint64_t{0};
}

ErrnoOr<uint64_t> Unlink(Task& task, UserPtr<const char> path) { return UnlinkAtCall(task, AT_FDCWD, path, 0); }
ErrnoOr<uint64_t> Rmdir(Task& task, UserPtr<const char> path) { return UnlinkAtCall(task, AT_FDCWD, path, AT_REMOVEDIR); }

ErrnoOr<uint64_t> RenameAt2(Task& task, int old_fd, UserPtr<const char> old_path, int new_fd, UserPtr<const char> new_path, uint32_t flags) {
  if ((flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT)) != 0) return Errno(EINVAL);
  if ((flags & RENAME_EXCHANGE) != 0 && (flags & (RENAME_NOREPLACE | RENAME_WHITEOUT)) != 0) return Errno(EINVAL);
  std::string from = TRY(task.CopyInString(old_path, 4096));
  std::string to = TRY(task.CopyInString(new_path, 4096));
  VfsContext ctx = ContextOf(task);
  TRY(RenameAt(ctx, TRY(StartOf(task, old_fd, from)), from, TRY(StartOf(task, new_fd, to)), to, flags));
  return uint64_t{0};
}

ErrnoOr<uint64_t> RenameAtCall(Task& task, int old_fd, UserPtr<const char> old_path, int new_fd, UserPtr<const char> new_path) {
  return RenameAt2(task, old_fd, old_path, new_fd, new_path, 0);
}

ErrnoOr<uint64_t> Rename(Task& task, UserPtr<const char> old_path, UserPtr<const char> new_path) {
  return RenameAt2(task, AT_FDCWD, old_path, AT_FDCWD, new_path, 0);
}

}  // namespace

void RegisterNameCalls(SyscallTable& table) {
  table.Set(SYS_mkdir, Full<&MkDir>());
  table.Set(SYS_mkdirat, Full<&MkDirAt>());
  table.Set(SYS_mknod, Full<&MkNod>());
  table.Set(SYS_mknodat, Full<&MkNodAt>());
  table.Set(SYS_symlink, Full<&Symlink>());
  table.Set(SYS_symlinkat, Full<&SymlinkAt>());
  table.Set(SYS_link, Full<&Link>());
  table.Set(SYS_linkat, Full<&LinkAtCall>());
  table.Set(SYS_unlink, Full<&Unlink>());
  table.Set(SYS_unlinkat, Full<&UnlinkAtCall>());
  table.Set(SYS_rmdir, Full<&Rmdir>());
  table.Set(SYS_rename, Full<&Rename>());
  table.Set(SYS_renameat, Full<&RenameAtCall>());
  table.Set(SYS_renameat2, Full<&RenameAt2>());
}

}  // namespace amber
