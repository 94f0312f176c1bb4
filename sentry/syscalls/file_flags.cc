// fs/file_attr.c. Flags have two spellings, FS_*_FL and FS_XFLAG_*; inodes keep the first.
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "sentry/kernel/task.h"
#include "sentry/syscalls/mount_checks.h"
#include "sentry/syscalls/table.h"
#include "sentry/vfs/at.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/notify.h"
#include "sentry/vfs/ops.h"
#include "sentry/vfs/restrict.h"
#include "sentry/vfs/want_write.h"

namespace amber {
namespace {

// struct file_attr, and what it looks like in an ioctl.
struct FileAttr {
  uint64_t xflags;
  uint32_t extent_size, extents, project, cow_extent_size;
};
static_assert(sizeof(FileAttr) == 24 && sizeof(fsxattr) == 28);

constexpr uint32_t kCommon = FS_SYNC_FL | FS_IMMUTABLE_FL | FS_APPEND_FL | FS_NODUMP_FL | FS_NOATIME_FL;  // of those that have both spellings
constexpr struct {
  uint32_t flag, xflag;
} kSpellings[] = {{FS_SYNC_FL, FS_XFLAG_SYNC},
                  {FS_IMMUTABLE_FL, FS_XFLAG_IMMUTABLE},
                  {FS_APPEND_FL, FS_XFLAG_APPEND},
                  {FS_NODUMP_FL, FS_XFLAG_NODUMP},
                  {FS_NOATIME_FL, FS_XFLAG_NOATIME},
                  {0x02000000 /* FS_DAX_FL */, FS_XFLAG_DAX},
                  {FS_PROJINHERIT_FL, FS_XFLAG_PROJINHERIT}};
constexpr uint32_t kToldOnly = FS_XFLAG_PREALLOC | FS_XFLAG_HASATTR;  // FS_XFLAG_RDONLY_MASK
constexpr uint64_t kXFlags = 0x8001'ffff;                             // FS_XFLAGS_MASK

FlaggedInode* Flagged(Inode& inode) { return dynamic_cast<FlaggedInode*>(&inode); }

uint32_t ToXFlags(uint32_t flags) {
  uint32_t x = 0;
  for (auto [flag, xflag] : kSpellings) x |= (flags & flag) != 0 ? xflag : 0;
  return x;
}

ErrnoOr<uint32_t> GetFlags(Inode& inode) {
  FlaggedInode* flagged = Flagged(inode);
  return flagged != nullptr ? flagged->GetFlags() : Errno(EOPNOTSUPP);
}

// vfs_fileattr_set(): who may, what is forbidden to all but the system's owner, then the file system.
ErrnoOr<void> SetFlags(Task& task, const VfsPath& place, uint32_t flags) {
  Inode& inode = *place.inode();
  uint32_t before = TRY(GetFlags(inode));
  if (((flags ^ before) & (FS_IMMUTABLE_FL | FS_APPEND_FL)) != 0 && !task.Has(CAP_LINUX_IMMUTABLE)) return Errno(EPERM);
  TRY(Flagged(inode)->SetFlags(flags));
  NotifyEntry(*place.dentry, 4 /* IN_ATTRIB */);
  return Ok();
}

// fileattr_set_prepare(): sizes of extents and projects are nothing that files here have.
ErrnoOr<void> SetXFlags(Task& task, const VfsPath& place, const FileAttr& attr) {
  Inode& inode = *place.inode();
  auto x = static_cast<uint32_t>(attr.xflags) & ~kToldOnly;
  (void)TRY(GetFlags(inode));
  TRY(CheckOwner(task.creds(), inode));
  if ((x & FS_XFLAG_EXTSIZE) != 0 && !inode.IsRegular()) return Errno(EINVAL);
  if ((x & FS_XFLAG_EXTSZINHERIT) != 0 && !inode.IsDir()) return Errno(EINVAL);
  if (attr.extent_size == 0) x &= ~(FS_XFLAG_EXTSIZE | FS_XFLAG_EXTSZINHERIT);
  if (attr.cow_extent_size == 0) x &= ~FS_XFLAG_COWEXTSIZE;
  uint32_t flags = 0;
  for (auto [flag, xflag] : kSpellings) flags |= (x & xflag) != 0 ? flag : 0;
  bool more = ToXFlags(flags) != x || attr.extent_size != 0 || attr.project != 0 || attr.cow_extent_size != 0;
  if (more) return Errno(EOPNOTSUPP);
  return SetFlags(task, place, flags | (TRY(GetFlags(inode)) & ~kCommon));
}

ErrnoOr<uint64_t> GetByIoctl(Task& task, Inode& inode, uint32_t command, uint64_t argument) {
  auto flags = GetFlags(inode);
  if (!flags.ok()) return flags.error();
  if (command == FS_IOC_GETFLAGS) {
    TRY(task.CopyOut(UserPtr<uint32_t>(argument), *flags));
  } else {
    fsxattr x{};
    x.fsx_xflags = ToXFlags(*flags);
    TRY(task.CopyOut(UserPtr<fsxattr>(argument), x));
  }
  return 0;
}

ErrnoOr<uint64_t> SetByIoctl(Task& task, const VfsPath& place, uint32_t command, uint64_t argument) {
  if (command == FS_IOC_SETFLAGS) {
    uint32_t flags = TRY(task.CopyIn(UserPtr<const uint32_t>(argument)));
    TRY(WantWrite(*place.mount));
    (void)TRY(GetFlags(*place.inode()));
    TRY(CheckOwner(task.creds(), *place.inode()));
    TRY(SetFlags(task, place, flags));
  } else {
    fsxattr x = TRY(task.CopyIn(UserPtr<const fsxattr>(argument)));
    TRY(WantWrite(*place.mount));
    TRY(SetXFlags(task, place, {x.fsx_xflags, x.fsx_extsize, x.fsx_nextents, x.fsx_projid, x.fsx_cowextsize}));
  }
  return 0;
}

ErrnoOr<VfsPath> PlaceFor(Task& task, int dirfd, UserPtr<const char> path, int flags) {
  std::string name;
  bool empty = (flags & AT_EMPTY_PATH) != 0;
  if (!path.is_null() || !empty) name = TRY(task.CopyInString(path, 4096));
  // A descriptor alone must be one of an open file.
  if (name.empty() && empty && dirfd >= 0) TRY(task.files().Get(dirfd));
  Resolved r = TRY(ResolveAt(task, dirfd, name, (flags & AT_SYMLINK_NOFOLLOW) != 0 ? 0 : kFollowLast, empty));
  if (!r.path) return Errno(EOPNOTSUPP);
  return std::move(r.path);
}

ErrnoOr<void> CheckCall(uint64_t size, int flags) {
  if ((flags & ~(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)) != 0) return Errno(EINVAL);
  if (size > 4096) return Errno(E2BIG);
  return size < sizeof(FileAttr) ? Errno(EINVAL) : ErrnoOr<void>(Ok());
}

ErrnoOr<uint64_t> FileGetAttr(Task& task, int dirfd, UserPtr<const char> path, UserPtr<void> out, uint64_t size, int flags) {
  TRY(CheckCall(size, flags));
  VfsPath place = TRY(PlaceFor(task, dirfd, path, flags));
  FileAttr attr{.xflags = ToXFlags(TRY(GetFlags(*place.inode())))};
  std::vector<uint8_t> bytes(size);
  memcpy(bytes.data(), &attr, sizeof(attr));
  TRY(task.CopyOutBytes(out.address(), bytes.data(), size));
  return 0;
}

ErrnoOr<uint64_t> FileSetAttr(Task& task, int dirfd, UserPtr<const char> path, UserPtr<const void> in, uint64_t size, int flags) {
  TRY(CheckCall(size, flags));
  std::vector<uint8_t> bytes(size);
  TRY(task.CopyInBytes(in.address(), bytes.data(), size));
  if (std::any_of(bytes.begin() + sizeof(FileAttr), bytes.end(), [](uint8_t b) { return b != 0; })) return Errno(E2BIG);
  FileAttr attr;
  memcpy(&attr, bytes.data(), sizeof(attr));
  if ((attr.xflags & ~kXFlags) != 0) return Errno(EINVAL);
  VfsPath place = TRY(PlaceFor(task, dirfd, path, flags));
  TRY(WantWrite(*place.mount));
  TRY(SetXFlags(task, place, attr));
  return 0;
}

}  // namespace

ErrnoOr<uint64_t> FileFlagsIoctl(Task& task, File& file, uint32_t command, uint64_t argument) {
  if (file.path() == nullptr || (!file.path()->inode()->IsRegular() && !file.path()->inode()->IsDir())) return Errno(ENOTTY);
  Inode& inode = *file.path()->inode();
  if (GetFlags(inode).Is(EOPNOTSUPP)) return Errno(ENOTTY);
  bool gets = command == FS_IOC_GETFLAGS || command == FS_IOC_FSGETXATTR;
  return gets ? GetByIoctl(task, inode, command, argument) : SetByIoctl(task, *file.path(), command, argument);
}

void TellFlags(Inode& inode, __u64* attributes, __u64* mask) {
  FlaggedInode* flagged = Flagged(inode);
  auto flags = flagged != nullptr ? flagged->known_flags() : std::nullopt;
  if (!flags) return;
  *mask |= STATX_ATTR_IMMUTABLE | STATX_ATTR_APPEND | STATX_ATTR_NODUMP;
  if ((*flags & FS_IMMUTABLE_FL) != 0) *attributes |= STATX_ATTR_IMMUTABLE;
  if ((*flags & FS_APPEND_FL) != 0) *attributes |= STATX_ATTR_APPEND;
  if ((*flags & FS_NODUMP_FL) != 0) *attributes |= STATX_ATTR_NODUMP;
}

void RegisterFileFlagCalls(SyscallTable& table) {
  constexpr uint64_t kGet = 468, kSet = 469;
  table.Set(kGet, Full<&FileGetAttr>());
  table.Set(kSet, Full<&FileSetAttr>());
}

}  // namespace amber
