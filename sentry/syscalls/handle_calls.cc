// File handles: name_to_handle_at(2), open_by_handle_at(2) (fs/fhandle.c).
#include <fcntl.h>
#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <algorithm>

#include "sentry/kernel/task.h"
#include "sentry/syscalls/mount_checks.h"
#include "sentry/syscalls/statmount.h"
#include "sentry/syscalls/table.h"
#include "sentry/vfs/at.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/fs_context.h"
#include "sentry/vfs/open.h"
#include "sentry/vfs/ops.h"
#include "sentry/vfs/reconfigure.h"

namespace amber {
namespace {

// struct file_handle without its bytes.
struct HandleHead {
  uint32_t bytes;
  int32_t type;
};
static_assert(sizeof(HandleHead) == sizeof(file_handle));

constexpr int kHandleFid = 0x200, kHandleUniqueMount = 0x001, kHandleConnectable = 0x002;  // AT_HANDLE_*
constexpr int kTypeConnectable = 0x10000, kTypeDirectory = 0x20000;                        // FILEID_IS_*
constexpr int kTypeFlags = static_cast<int>(0xffff0000);

// What has no place in the tree is told by its number.
ErrnoOr<FileHandle> HandleOfResolved(Task& task, const Resolved& r) {
  if (r.path) return HandleFor(*r.path.inode());
  struct stat st;
  TRY(r.file->Stat(task, &st));
  return HandleForNumber(st.st_ino, 0);
}

ErrnoOr<uint64_t> NameToHandleAt(Task& task, int dirfd, UserPtr<const char> path, UserPtr<HandleHead> out, UserPtr<void> mount_id, int flags) {
  constexpr int kKnown = AT_SYMLINK_FOLLOW | AT_EMPTY_PATH | kHandleFid | kHandleUniqueMount | kHandleConnectable;
  if ((flags & ~kKnown) != 0) return Errno(EINVAL);
  // A handle that is not meant to be opened, and one that leads to a name.
  bool fid = (flags & kHandleFid) != 0, connectable = (flags & kHandleConnectable) != 0;
  if (connectable && (fid || (flags & AT_EMPTY_PATH) != 0)) return Errno(EINVAL);
  uint32_t walk = (flags & AT_SYMLINK_FOLLOW) != 0 ? kFollowLast : 0;
  Resolved r = TRY(ResolveAt(task, dirfd, TRY(task.CopyInString(path, 4096)), walk, (flags & AT_EMPTY_PATH) != 0));
  // No handle here holds the directory, as with file systems that have no fh_to_parent().
  if (connectable || (!fid && (!r.path || HandlesOf(r.path.mount->fs()) == nullptr))) return Errno(EOPNOTSUPP);
  HandleHead head = TRY(task.CopyIn(out));
  if (head.bytes > kMaxHandleBytes) return Errno(EINVAL);
  FileHandle handle = TRY(HandleOfResolved(task, r));
  bool fits = handle.bytes.size() <= head.bytes;
  head = {static_cast<uint32_t>(handle.bytes.size()), fits ? handle.type : kHandleInvalid};
  if ((flags & kHandleUniqueMount) != 0) {
    TRY(task.CopyOut(mount_id.Cast<uint64_t>(), r.path ? UniqueMountId(*r.path.mount) : 0));
  } else {
    TRY(task.CopyOut(mount_id.Cast<int>(), r.path ? r.path.mount->id() : 0));
  }
  std::string bytes(reinterpret_cast<const char*>(&head), sizeof(head));
  if (fits) bytes += handle.bytes;
  TRY(task.CopyOutBytes(out.address(), bytes.data(), bytes.size()));
  return fits ? ErrnoOr<uint64_t>(0) : Errno(EOVERFLOW);
}

ErrnoOr<VfsPath> Anchor(Task& task, int fd) {
  if (fd == AT_FDCWD) return task.fs().cwd();
  RefPtr<File> file = TRY(task.files().GetAny(fd));
  return file->path() != nullptr ? *file->path() : VfsPath();
}

struct Check {
  bool owners = false;   // everybody's files on the way must be of ids that the caller has
  bool subtree = false;  // the file must be below the anchor
  bool only_dir = false;
};

bool HasLockedChildren(const VfsPath& place) {
  return std::ranges::any_of(place.mount->ns()->Below(*place.mount), [&](const Mount* m) {
    return m->parent() == place.mount.get() && m->locked() && m->mountpoint()->IsBelow(*place.dentry);
  });
}

// may_decode_fh(): who could mount the file system, or bind what is mounted here, gets at its directories anyway.
bool MayOpenHandles(Task& task, const VfsPath& anchor, int flags, Check* check) {
  const Credentials& creds = task.creds();
  if (creds.Has(CAP_DAC_READ_SEARCH)) return true;
  if ((flags & O_DIRECTORY) == 0 || !anchor) return false;
  const Mount& mount = *anchor.mount;
  if (!creds.HasIn(mount.fs().owner(), CAP_SYS_ADMIN)) {
    bool binds = mount.ns() != nullptr && creds.HasIn(mount.ns()->owner(), CAP_SYS_ADMIN) && !HasLockedChildren(anchor);
    if (!binds) return false;
    check->subtree = true;
  }
  check->owners = check->only_dir = true;
  return creds.HasOwn(CAP_DAC_READ_SEARCH);
}

// vfs_dentry_acceptable()
bool Acceptable(const Credentials& creds, const VfsPath& place, const VfsPath& anchor, const Check& check) {
  if (check.only_dir && !place.inode()->IsDir()) return false;
  if (!check.owners && !check.subtree) return true;
  const Dentry* at = place.dentry.get();
  while (at != anchor.dentry.get() && at->parent() != nullptr) {
    at = at->parent();
    const Attr& a = at->inode()->attr();
    if (check.owners && !creds.HasOver(a.uid, a.gid, CAP_DAC_READ_SEARCH)) return false;
  }
  return !check.subtree || at == anchor.dentry.get();
}

// file_open_root() with nothing below the place.
ErrnoOr<RefPtr<File>> OpenFound(const VfsContext& ctx, const VfsPath& place, int flags) {
  if ((flags & (O_SYNC & ~O_DSYNC)) != 0) flags |= O_DSYNC;
  if ((flags & O_PATH) != 0) flags &= O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
  bool unnamed = (flags & O_TMPFILE) == O_TMPFILE;
  if ((flags & O_CREAT) != 0 && (flags & O_DIRECTORY) != 0) return Errno(EINVAL);
  if ((flags & (O_TMPFILE & ~O_DIRECTORY)) != 0 && !unnamed) return Errno(EINVAL);
  if (unnamed && place.inode()->IsDir()) return OpenPath(ctx, place, ".", {.flags = flags});
  if ((flags & O_CREAT) != 0 && (flags & O_EXCL) != 0) return Errno(EEXIST);
  if ((flags & O_CREAT) != 0 && place.inode()->IsDir()) return Errno(EISDIR);
  return OpenPlace(ctx, place, flags & ~O_CREAT);
}

ErrnoOr<uint64_t> OpenByHandleAt(Task& task, int dirfd, UserPtr<const HandleHead> in, int flags) {
  HandleHead head = TRY(task.CopyIn(in));
  if (head.bytes > kMaxHandleBytes || head.bytes == 0) return Errno(EINVAL);
  if (head.type < 0 || (head.type & kTypeFlags & ~(kTypeConnectable | kTypeDirectory)) != 0) return Errno(EINVAL);
  VfsPath anchor = TRY(Anchor(task, dirfd));
  Check check;
  if (!MayOpenHandles(task, anchor, flags, &check)) return Errno(EPERM);
  check.subtree |= (head.type & kTypeConnectable) != 0;
  check.only_dir |= (head.type & kTypeDirectory) != 0;
  FileHandle handle{head.type & ~kTypeFlags, std::string(head.bytes, '\0')};
  TRY(task.CopyInBytes((in + 1).address(), handle.bytes.data(), handle.bytes.size()));
  // Whole words count.
  handle.bytes.resize(handle.bytes.size() & ~size_t{3});
  if (!anchor) return Errno(ESTALE);
  VfsContext ctx = ContextOf(task);
  auto place = OpenHandle(ctx, anchor.mount, handle);
  if (!place.ok() && place.Is(ENOMEM)) return place.error();
  if (!place.ok() || !Acceptable(task.creds(), *place, anchor, check)) return Errno(ESTALE);
  RefPtr<File> file = TRY(OpenFound(ctx, *place, flags));
  return uint64_t(TRY(task.files().Allocate(std::move(file), (flags & O_CLOEXEC) != 0, task.limit(RLIMIT_NOFILE))));
}

}  // namespace

void RegisterHandleCalls(SyscallTable& table) {
  table.Set(SYS_name_to_handle_at, Full<&NameToHandleAt>());
  table.Set(SYS_open_by_handle_at, Full<&OpenByHandleAt>());
}

}  // namespace amber
