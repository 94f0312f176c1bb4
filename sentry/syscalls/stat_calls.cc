// Asking about files: stat(2), statx(2), statfs(2), access(2), readlink(2).
#include <linux/magic.h>
#include <linux/securebits.h>
#include <linux/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>

#include "sentry/kernel/task.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/mount_checks.h"
#include "sentry/syscalls/statmount.h"
#include "sentry/syscalls/table.h"
#include "sentry/vfs/at.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/fs_context.h"
#include "sentry/vfs/ops.h"
#include "sentry/vfs/served.h"
#include "sentry/vfs/vfs_file.h"

namespace amber {
namespace {

// Owners as the caller's user namespace knows them.
void ShowOwner(const Task& task, struct stat* st) {
  const UserNamespace* ns = task.creds().user_ns.get();
  st->st_uid = ShownUid(ns, st->st_uid);
  st->st_gid = ShownGid(ns, st->st_gid);
}

ErrnoOr<void> StatResolved(Task& task, const Resolved& r, struct stat* st) {
  TRY(r.file ? r.file->Stat(task, st) : StatInode(*r.path.inode(), st));
  ShowOwner(task, st);
  return Ok();
}

ErrnoOr<std::string> CopyInPath(Task& task, UserPtr<const char> path) { return task.CopyInString(path, 4096); }

// With AT_EMPTY_PATH a null pointer means an empty path (Linux 6.11).
ErrnoOr<std::string> CopyInPathOrNull(Task& task, UserPtr<const char> path, int flags) {
  if (path.is_null() && (flags & AT_EMPTY_PATH) != 0) return std::string();
  return CopyInPath(task, path);
}

ErrnoOr<Resolved> ResolveFlags(Task& task, int dirfd, UserPtr<const char> path, int flags) {
  std::string name = TRY(CopyInPathOrNull(task, path, flags));
  return ResolveAt(task, dirfd, name, (flags & AT_SYMLINK_NOFOLLOW) != 0 ? 0 : kFollowLast, (flags & AT_EMPTY_PATH) != 0);
}

ErrnoOr<uint64_t> NewFStatAt(Task& task, int dirfd, UserPtr<const char> path, UserPtr<struct stat> out, int flags) {
  if ((flags & ~(AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH)) != 0) return Errno(EINVAL);
  struct stat st;
  TRY(StatResolved(task, TRY(ResolveFlags(task, dirfd, path, flags)), &st));
  TRY(task.CopyOut(out, st));
  return uint64_t{0};
}

ErrnoOr<uint64_t> Stat(Task& task, UserPtr<const char> path, UserPtr<struct stat> out) { return NewFStatAt(task, AT_FDCWD, path, out, 0); }

ErrnoOr<uint64_t> LStat(Task& task, UserPtr<const char> path, UserPtr<struct stat> out) {
  return NewFStatAt(task, AT_FDCWD, path, out, AT_SYMLINK_NOFOLLOW);
}

ErrnoOr<uint64_t> FStat(Task& task, int fd, UserPtr<struct stat> out) {
  RefPtr<File> file = TRY(task.files().GetAny(fd));
  struct stat st;
  TRY(file->Stat(task, &st));
  ShowOwner(task, &st);
  TRY(task.CopyOut(out, st));
  return uint64_t{0};
}

struct statx_timestamp ToStatxTime(const timespec& t) {
  struct statx_timestamp s{};
  s.tv_sec = t.tv_sec;
  s.tv_nsec = static_cast<uint32_t>(t.tv_nsec);
  return s;
}

constexpr uint32_t kStatxMountIdUnique = 0x4000;  // Debian 12's headers are older

ErrnoOr<uint64_t> StatX(Task& task, int dirfd, UserPtr<const char> path, int flags, uint32_t mask, UserPtr<struct statx> out) {
  constexpr int kSync = AT_STATX_FORCE_SYNC | AT_STATX_DONT_SYNC;
  if ((flags & ~(AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | kSync)) != 0) return Errno(EINVAL);
  if ((flags & kSync) == kSync || (mask & STATX__RESERVED) != 0) return Errno(EINVAL);
  Resolved r = TRY(ResolveFlags(task, dirfd, path, flags));
  struct stat st;
  TRY(StatResolved(task, r, &st));
  struct statx x{};
  x.stx_mask = STATX_BASIC_STATS;
  x.stx_blksize = static_cast<uint32_t>(st.st_blksize);
  x.stx_nlink = static_cast<uint32_t>(st.st_nlink);
  x.stx_uid = st.st_uid;
  x.stx_gid = st.st_gid;
  x.stx_mode = static_cast<uint16_t>(st.st_mode);
  x.stx_ino = st.st_ino;
  x.stx_size = static_cast<uint64_t>(st.st_size);
  x.stx_blocks = static_cast<uint64_t>(st.st_blocks);
  x.stx_atime = ToStatxTime(st.st_atim);
  x.stx_ctime = ToStatxTime(st.st_ctim);
  x.stx_mtime = ToStatxTime(st.st_mtim);
  x.stx_rdev_major = major(st.st_rdev);
  x.stx_rdev_minor = minor(st.st_rdev);
  x.stx_dev_major = major(st.st_dev);
  x.stx_dev_minor = minor(st.st_dev);
  if (r.path) {
    const Attr& a = r.path.inode()->attr();
    if (a.btime.tv_sec != 0) {
      x.stx_mask |= STATX_BTIME;
      x.stx_btime = ToStatxTime(a.btime);
    }
    x.stx_mask |= STATX_MNT_ID;
    x.stx_mnt_id = static_cast<uint64_t>(r.path.mount->id());
    if ((mask & kStatxMountIdUnique) != 0) {
      x.stx_mask = (x.stx_mask & ~uint32_t{STATX_MNT_ID}) | kStatxMountIdUnique;
      x.stx_mnt_id = UniqueMountId(*r.path.mount);
    }
    x.stx_attributes_mask = STATX_ATTR_MOUNT_ROOT | STATX_ATTR_AUTOMOUNT | STATX_ATTR_DAX;
    TellFlags(*r.path.inode(), &x.stx_attributes, &x.stx_attributes_mask);
    if (r.path.is_mount_root()) x.stx_attributes |= STATX_ATTR_MOUNT_ROOT;
  }
  TRY(task.CopyOut(out, x));
  return uint64_t{0};
}

ErrnoOr<void> StatFsPlace(const VfsPath& path, struct statfs* out) {
  TRY(path.mount->fs().StatFs(out));
  uint64_t dev = path.mount->fs().dev();
  memcpy(&out->f_fsid, &dev, sizeof(out->f_fsid));
  uint32_t flags = path.mount->flags();
  out->f_flags = 0x20;  // ST_VALID
  if (path.mount->read_only()) out->f_flags |= ST_RDONLY;
  if ((flags & MS_NOSUID) != 0) out->f_flags |= ST_NOSUID;
  if ((flags & MS_NODEV) != 0) out->f_flags |= 4;         // ST_NODEV
  if ((flags & MS_NOEXEC) != 0) out->f_flags |= 8;        // ST_NOEXEC
  if ((flags & kNoSymFollow) != 0) out->f_flags |= 8192;  // ST_NOSYMFOLLOW
  if ((flags & MS_NOATIME) != 0)
    out->f_flags |= 1024;  // ST_NOATIME
  else
    out->f_flags |= 4096;  // ST_RELATIME
  return Ok();
}

ErrnoOr<void> StatFsFile(const File& file, struct statfs* out) {
  if (file.path() != nullptr) return StatFsPlace(*file.path(), out);
  constexpr uint32_t kNsfsMagic = 0x6e736673;
  std::string link = file.LinkName();
  out->f_type = link.starts_with("pipe:")         ? PIPEFS_MAGIC
                : link.starts_with("socket:")     ? SOCKFS_MAGIC
                : link.starts_with("anon_inode:") ? ANON_INODE_FS_MAGIC
                : link.find(":[") != link.npos    ? kNsfsMagic
                                                  : ANON_INODE_FS_MAGIC;
  out->f_bsize = out->f_frsize = 4096;
  out->f_namelen = 255;
  return Ok();
}

ErrnoOr<uint64_t> StatFs(Task& task, UserPtr<const char> path, UserPtr<struct statfs> out) {
  struct statfs s{};
  // A link of /proc may lead to what has no place (/proc/self/ns/net).
  Resolved r = TRY(ResolveAt(task, AT_FDCWD, TRY(CopyInPath(task, path)), kFollowLast, false));
  TRY(r.file ? StatFsFile(*r.file, &s) : StatFsPlace(r.path, &s));
  TRY(task.CopyOut(out, s));
  return uint64_t{0};
}

ErrnoOr<uint64_t> FStatFs(Task& task, int fd, UserPtr<struct statfs> out) {
  RefPtr<File> file = TRY(task.files().GetAny(fd));
  struct statfs s{};
  TRY(StatFsFile(*file, &s));
  TRY(task.CopyOut(out, s));
  return uint64_t{0};
}

// access(2) asks with the real ids and the capabilities that they would have.
RefPtr<const Credentials> RealCredentials(const Credentials& creds) {
  auto real = MakeRef<Credentials>(creds);
  real->fsuid = creds.uid;
  real->fsgid = creds.gid;
  if ((creds.securebits & SECBIT_NO_SETUID_FIXUP) == 0) real->effective = creds.uid == creds.root_uid() ? creds.permitted : 0;
  return real;
}

ErrnoOr<uint64_t> FAccessAt2(Task& task, int dirfd, UserPtr<const char> path, int mode, int flags) {
  if ((mode & ~7) != 0) return Errno(EINVAL);
  if ((flags & ~(AT_EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)) != 0) return Errno(EINVAL);
  std::string name = TRY(CopyInPath(task, path));
  RefPtr<const Credentials> creds = (flags & AT_EACCESS) != 0 ? task.creds_ref() : RealCredentials(task.creds());
  uint32_t walk = (flags & AT_SYMLINK_NOFOLLOW) != 0 ? 0 : kFollowLast;
  Resolved r;
  if (name.empty() && (flags & AT_EMPTY_PATH) != 0) {
    r = TRY(ResolveAt(task, dirfd, name, walk, true));
  } else {
    VfsContext ctx{.task = &task, .creds = creds.get(), .fs = &task.fs()};
    r = TRY(ResolvePath(ctx, TRY(StartOf(task, dirfd, name)), name, walk));
  }
  if (!r.path || mode == F_OK) return uint64_t{0};
  if ((mode & X_OK) != 0 && r.path.inode()->IsRegular() && (r.path.mount->flags() & MS_NOEXEC) != 0) return Errno(EACCES);
  TRY(CheckPermission(*creds, r.path, mode));
  if (ServedInode* served = ServedInode::From(*r.path.inode())) TRY(served->MayAccess(*creds, mode));
  return uint64_t{0};
}

ErrnoOr<uint64_t> FAccessAt(Task& task, int dirfd, UserPtr<const char> path, int mode) { return FAccessAt2(task, dirfd, path, mode, 0); }

ErrnoOr<uint64_t> Access(Task& task, UserPtr<const char> path, int mode) { return FAccessAt2(task, AT_FDCWD, path, mode, 0); }

ErrnoOr<uint64_t> ReadLinkAt(Task& task, int dirfd, UserPtr<const char> path, UserPtr<char> out, int size) {
  if (size <= 0) return Errno(EINVAL);
  std::string name = TRY(CopyInPath(task, path));
  // An empty path means the symbolic link that an O_PATH descriptor refers to.
  bool empty = name.empty();
  VfsPath place = TRY(ResolvePlaceAt(task, dirfd, name, 0, dirfd != AT_FDCWD));
  if (!place.inode()->IsSymlink()) return Errno(empty ? ENOENT : EINVAL);
  VfsContext ctx = ContextOf(task);
  std::string target = TRY(place.inode()->ReadLink(ctx));
  size_t n = std::min(target.size(), static_cast<size_t>(size));
  TRY(task.CopyOutBytes(out.address(), target.data(), n));
  return uint64_t{n};
}

ErrnoOr<uint64_t> ReadLink(Task& task, UserPtr<const char> path, UserPtr<char> out, int size) { return ReadLinkAt(task, AT_FDCWD, path, out, size); }

}  // namespace

void RegisterStatCalls(SyscallTable& table) {
  table.Set(SYS_stat, Full<&Stat>());
  table.Set(SYS_lstat, Full<&LStat>());
  table.Set(SYS_fstat, Full<&FStat>());
  table.Set(SYS_newfstatat, Full<&NewFStatAt>());
  table.Set(SYS_statx, Full<&StatX>());
  table.Set(SYS_statfs, Full<&StatFs>());
  table.Set(SYS_fstatfs, Full<&FStatFs>());
  table.Set(SYS_access, Full<&Access>());
  table.Set(SYS_faccessat, Full<&FAccessAt>());
  table.Set(SYS_faccessat2, Full<&FAccessAt2>());
  table.Set(SYS_readlink, Full<&ReadLink>());
  table.Set(SYS_readlinkat, Full<&ReadLinkAt>());
}

}  // namespace amber
