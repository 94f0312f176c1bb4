#include "sentry/vfs/open.h"

#include <linux/capability.h>
#include <sys/inotify.h>

#include "sentry/kernel/credentials.h"
#include "sentry/vfs/acl.h"
#include "sentry/vfs/directory_file.h"
#include "sentry/vfs/fs_context.h"
#include "sentry/vfs/lease.h"
#include "sentry/vfs/new_name.h"
#include "sentry/vfs/notify.h"
#include "sentry/vfs/ops.h"
#include "sentry/vfs/pseudo.h"
#include "sentry/vfs/regular_file.h"
#include "sentry/vfs/restrict.h"
#include "sentry/vfs/served.h"
#include "sentry/vfs/special.h"
#include "sentry/vfs/vfs_file.h"
#include "sentry/vfs/want_write.h"

namespace amber {
namespace {

// What stays in the open file of open's flags. O_LARGEFILE is set for every file on a 64-bit system.
constexpr int kLargeFile = 0100000;
int KeptFlags(int flags) { return (flags & ~(O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_CLOEXEC)) | kLargeFile; }

ErrnoOr<RefPtr<File>> OpenWithRights(const VfsContext& ctx, const VfsPath& path, int flags) {
  RefPtr<File> file = TRY(path.inode()->Open(ctx, path, flags));
  // Of these rights the file keeps what its opener had (hook_file_open()).
  constexpr uint64_t kKept = file_right::kTruncate | file_right::kIoctlDev;
  if (uint64_t lost = kKept & ~RightsAt(ctx, path, kKept); lost != 0) {
    if (auto* placed = dynamic_cast<VfsFile*>(file.get())) placed->set_lost_rights(lost);
  }
  return file;
}

ErrnoOr<RefPtr<File>> OpenInode(const VfsContext& ctx, const VfsPath& path, int flags) {
  // Terminals want to know O_NOCTTY; no open file shows it.
  // do_dentry_open() says so once the file is open; nobody sees that.
  const Inode& inode = *path.inode();
  bool direct = S_ISFIFO(inode.type()) || S_ISBLK(inode.type()) || (inode.IsRegular() && !IsPseudo(path.mount->fs()));
  if ((flags & O_DIRECT) != 0 && !direct) return Errno(EINVAL);
  RefPtr<File> file = TRY(OpenWithRights(ctx, path, KeptFlags(flags) | (flags & O_NOCTTY)));
  file->set_flags(file->flags() & ~O_NOCTTY);
  NotifyFile(*file, IN_OPEN);
  return file;
}

// get_required_file_open_access()
ErrnoOr<void> CheckOpenRights(const VfsContext& ctx, const VfsPath& path, int flags) {
  uint64_t rights = 0;
  if ((flags & O_ACCMODE) != O_WRONLY) rights |= path.inode()->IsDir() ? file_right::kReadDir : file_right::kReadFile;
  if ((flags & O_ACCMODE) != O_RDONLY) rights |= file_right::kWriteFile;
  return CheckRights(ctx, path, rights);
}

ErrnoOr<RefPtr<File>> OpenResolved(const VfsContext& ctx, const Resolved& r, int flags) {
  if (!r.file) return OpenPlace(ctx, r.path, flags);
  if (ctx.task == nullptr) return Errno(ENXIO);
  return r.file->Reopen(*ctx.task, KeptFlags(flags));
}

ErrnoOr<RefPtr<File>> OpenUnnamed(const VfsContext& ctx, const VfsPath& start, std::string_view path, const OpenHow& how) {
  if ((how.flags & O_ACCMODE) == O_RDONLY) return Errno(EINVAL);
  VfsPath dir = TRY(ResolvePlace(ctx, start, path, how.walk | kFollowLast | kMustBeDir, ENOTDIR));
  TRY(CheckPermission(*ctx.creds, dir, kMayWrite | kMayExec));
  NewNode node{.mode = S_IFREG | (how.mode & 07777), .uid = ctx.creds->fsuid, .gid = ctx.creds->fsgid, .umask = how.umask};
  if ((dir.inode()->attr().mode & S_ISGID) != 0) node.gid = dir.inode()->attr().gid;
  InheritedAcl acl = InheritAcl(*dir.inode(), &node);
  CreateIntent intent(how.flags);
  RefPtr<Inode> inode = TRY(dir.inode()->MakeUnnamed(ctx, node));
  TRY(AdoptAcl(acl, *inode));
  std::string name = "#" + std::to_string(inode->ino());
  auto dentry = MakeRef<Dentry>(&inode->fs(), dir.dentry, name, inode);
  dentry->Drop(true);
  TRY(CheckOpenRights(ctx, {dir.mount, dentry}, how.flags));
  RefPtr<File> file = TRY(OpenInode(ctx, {dir.mount, std::move(dentry)}, how.flags & ~(O_TMPFILE & ~O_DIRECTORY) & ~O_DIRECTORY));
  // F_GETFL tells how it came to be.
  file->set_flags(file->flags() | O_TMPFILE);
  return file;
}

// One round of open with O_CREAT: `p` is where the name should be. Sets `link` if a symbolic link must be followed.
ErrnoOr<RefPtr<File>> OpenOrCreate(const VfsContext& ctx, const ResolvedParent& p, const OpenHow& how, RefPtr<Inode>* link) {
  bool exclusive = (how.flags & O_EXCL) != 0;
  if (p.name.empty() && exclusive) return Errno(EEXIST);
  if (p.name.empty() || p.trailing_slash) return Errno(EISDIR);
  auto make = [&](Dentry& name) { return MakeChild(ctx, p.dir, name, {.mode = S_IFREG | (how.mode & 07777), .umask = how.umask}); };
  RefPtr<Dentry> child = exclusive ? nullptr : TRY(LookupChild(ctx, p.dir, p.name));
  if (exclusive || child->negative()) {
    CreateIntent intent(how.flags);
    if (exclusive) {
      child = TRY(MakeNew(ctx, p.dir, p.name, make));
    } else {
      TRY(make(*child));
    }
    TRY(CheckOpenRights(ctx, {p.dir.mount, child}, how.flags));
    RefPtr<File> file = TRY(OpenInode(ctx, {p.dir.mount, std::move(child)}, how.flags));
    if (auto* placed = dynamic_cast<VfsFile*>(file.get())) placed->set_created();
    return file;
  }
  VfsPath place{p.dir.mount, std::move(child)};
  if (place.dentry->mounts_here > 0 && place.mount->ns() != nullptr) place.mount->ns()->CrossDown(&place);
  if (place.inode()->IsSymlink()) {
    if ((how.flags & O_NOFOLLOW) != 0) return Errno(ELOOP);
    *link = RefPtr<Inode>(place.inode());
    return Errno(ELOOP);
  }
  if (place.inode()->IsDir()) return Errno(EISDIR);
  return OpenPlace(ctx, place, how.flags);
}

}  // namespace

ErrnoOr<RefPtr<File>> OpenPath(const VfsContext& ctx, const VfsPath& start, std::string_view path, const OpenHow& how) {
  if ((how.flags & O_PATH) == 0 && (how.flags & O_TMPFILE) == O_TMPFILE) return OpenUnnamed(ctx, start, path, how);
  if ((how.flags & O_CREAT) == 0 || (how.flags & O_PATH) != 0) {
    uint32_t walk = how.walk;
    if ((how.flags & O_NOFOLLOW) == 0) walk |= kFollowLast;
    if ((how.flags & O_DIRECTORY) != 0) walk |= kMustBeDir;
    if ((how.flags & (O_ACCMODE | O_PATH)) == O_RDONLY) walk |= kOpenRead;
    return OpenResolved(ctx, TRY(ResolvePath(ctx, start, path, walk)), how.flags);
  }
  PathWalker walker(ctx, start, how.walk);
  ResolvedParent p = TRY(walker.WalkParent(path));
  while (true) {
    RefPtr<Inode> link;
    auto file = OpenOrCreate(ctx, p, how, &link);
    if (!link) return file;
    Resolved magic;
    VfsPath dir = p.dir;
    p = TRY(walker.FollowParent(dir, *link, &magic));
    if (magic.file || magic.path) return OpenResolved(ctx, magic, how.flags);
  }
}

ErrnoOr<RefPtr<File>> OpenUntold(const VfsContext& ctx, const VfsPath& path, int flags) {
  TRY(CheckOpenRights(ctx, path, flags));
  return OpenWithRights(ctx, path, flags);
}

ErrnoOr<RefPtr<File>> OpenPlace(const VfsContext& ctx, const VfsPath& path, int flags) {
  Inode& inode = *path.inode();
  if ((flags & O_DIRECTORY) != 0 && !inode.IsDir()) return Errno(ENOTDIR);
  if ((flags & O_PATH) != 0) {
    return RefPtr<File>(MakeRef<PathFile>(path, flags & (O_PATH | O_DIRECTORY | O_NOFOLLOW)));
  }
  if (inode.IsSymlink()) return Errno(ELOOP);
  int access = flags & O_ACCMODE;
  int may = (access != O_WRONLY ? kMayRead : 0) | (access != O_RDONLY || (flags & O_TRUNC) != 0 ? kMayWrite : 0);
  if (inode.IsDir() && (may & kMayWrite) != 0) return Errno(EISDIR);
  bool device = S_ISCHR(inode.type()) || S_ISBLK(inode.type());
  if (device && (path.mount->flags() & MS_NODEV) != 0) return Errno(EACCES);
  bool writes = inode.IsRegular() && (may & kMayWrite) != 0;
  if (writes && (flags & O_TRUNC) != 0) TRY(WantWrite(*path.mount));
  // A file system that cannot be written says so first (sb_permission()), a mount that may not be written last (do_dentry_open()).
  TRY(path.mount->fs().read_only() ? CheckPermission(*ctx.creds, path, may) : CheckPermission(*ctx.creds, inode, may));
  // may_open()
  bool overwrites = access != O_RDONLY && (flags & O_APPEND) == 0;
  if ((overwrites || (flags & O_TRUNC) != 0) && IsAppendOnly(inode)) return Errno(EPERM);
  if ((flags & O_NOATIME) != 0) TRY(CheckOwner(*ctx.creds, inode));
  if (writes && inode.deny_write > 0) return Errno(ETXTBSY);
  if (writes) TRY(WantWrite(*path.mount));
  TRY(CheckOpenRights(ctx, path, flags));
  if (inode.IsRegular()) TRY(BreakLeases(ctx, inode, flags));
  // A file that this call has made itself is not asked for: it holds nothing.
  TRY(AskPermission(path, kOpenPermission));
  bool truncate = (flags & O_TRUNC) != 0 && inode.IsRegular();
  if (truncate) {
    TRY(CheckRights(ctx, path, file_right::kTruncate));
    TRY(TruncateInode(ctx, inode, 0));
  }
  RefPtr<File> file = TRY(OpenInode(ctx, path, flags));
  // Told after the opening (fs/namei.c, do_open: handle_truncate comes last).
  if (truncate) NotifyEntry(*path.dentry, IN_MODIFY);
  return file;
}

ErrnoOr<RefPtr<File>> Inode::Open(const VfsContext& ctx, const VfsPath& path, int flags) {
  switch (type()) {
    case S_IFREG: {
      bool write = (flags & O_ACCMODE) != O_RDONLY;
      return RegularFile::Open(path, TRY(DataInode(ctx, write)), flags);
    }
    case S_IFDIR: return RefPtr<File>(MakeRef<DirectoryFile>(path, flags));
    case S_IFLNK: return Errno(ELOOP);
    default: return OpenSpecial(ctx, path, flags);
  }
}

}  // namespace amber
