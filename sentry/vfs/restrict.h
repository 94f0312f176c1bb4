// What is forbidden whoever asks: by a sandbox of the program's own making (landlock(7)), and by files' own flags (ioctl_iflags(2)). Kernel lock held.
//
// `sentry/landlock` enters its functions; without it nothing is forbidden.
#pragma once

#include <linux/fs.h>

#include <cstdint>
#include <optional>

#include "sentry/base/errno_or.h"
#include "sentry/vfs/inode.h"
#include "sentry/vfs/mount.h"

namespace amber {

// LANDLOCK_ACCESS_FS_*, which Debian 12's headers do not have all of.
namespace file_right {
inline constexpr uint64_t kExecute = 1 << 0, kWriteFile = 1 << 1, kReadFile = 1 << 2, kReadDir = 1 << 3, kRemoveDir = 1 << 4, kRemoveFile = 1 << 5;
inline constexpr uint64_t kMakeChar = 1 << 6, kMakeDir = 1 << 7, kMakeReg = 1 << 8, kMakeSock = 1 << 9, kMakeFifo = 1 << 10, kMakeBlock = 1 << 11;
inline constexpr uint64_t kMakeSym = 1 << 12, kRefer = 1 << 13, kTruncate = 1 << 14, kIoctlDev = 1 << 15;
}  // namespace file_right

// What link(2) and rename(2) do.
struct Referral {
  const VfsPath& old_dir;
  const Dentry& moved;
  const VfsPath& new_dir;
  const Dentry* replaced = nullptr;  // null for link
  bool exchange = false;
};

namespace restriction {
inline uint64_t (*allowed)(const VfsContext& ctx, const VfsPath& path, uint64_t rights) = nullptr;
inline ErrnoOr<void> (*refer)(const VfsContext& ctx, const Referral& what) = nullptr;
}  // namespace restriction

// Those of `rights` that the caller has at `path`.
inline uint64_t RightsAt(const VfsContext& ctx, const VfsPath& path, uint64_t rights) {
  return restriction::allowed == nullptr || ctx.task == nullptr ? rights : restriction::allowed(ctx, path, rights);
}
// EACCES unless it has all.
inline ErrnoOr<void> CheckRights(const VfsContext& ctx, const VfsPath& path, uint64_t rights) {
  if (RightsAt(ctx, path, rights) != rights) return Errno(EACCES);
  return Ok();
}
// EACCES, or EXDEV if only the change of directories is what is forbidden.
inline ErrnoOr<void> CheckReferral(const VfsContext& ctx, const Referral& what) {
  return restriction::refer == nullptr || ctx.task == nullptr ? Ok() : restriction::refer(ctx, what);
}
// The right that making a file of `mode` needs (get_mode_access()).
inline uint64_t MakeRight(uint32_t mode) {
  switch (mode & S_IFMT) {
    case S_IFLNK: return file_right::kMakeSym;
    case S_IFDIR: return file_right::kMakeDir;
    case S_IFCHR: return file_right::kMakeChar;
    case S_IFBLK: return file_right::kMakeBlock;
    case S_IFIFO: return file_right::kMakeFifo;
    case S_IFSOCK: return file_right::kMakeSock;
    default: return file_right::kMakeReg;
  }
}

// Inodes that have FS_*_FL flags. EOPNOTSUPP for files of theirs that have none, or where flags cannot be set.
class FlaggedInode {
 public:
  virtual ErrnoOr<uint32_t> GetFlags() = 0;
  virtual ErrnoOr<void> SetFlags(uint32_t flags) = 0;
  // As far as they are known without asking anybody; of these FS_IMMUTABLE_FL and FS_APPEND_FL are enforced here.
  virtual std::optional<uint32_t> known_flags() const { return std::nullopt; }
  uint32_t binding_flags() const { return known_flags().value_or(0) & (FS_IMMUTABLE_FL | FS_APPEND_FL); }

 protected:
  ~FlaggedInode() = default;
};
namespace restriction {
// How many inodes have, or had, binding flags: nobody asks for them while it is 0.
inline size_t flagged = 0;
}  // namespace restriction
inline uint32_t BindingFlags(const Inode& inode) {
  if (restriction::flagged == 0) return 0;
  auto* flags = dynamic_cast<const FlaggedInode*>(&inode);
  return flags != nullptr ? flags->binding_flags() : 0;
}
inline bool IsImmutable(const Inode& inode) { return (BindingFlags(inode) & FS_IMMUTABLE_FL) != 0; }
inline bool IsAppendOnly(const Inode& inode) { return (BindingFlags(inode) & FS_APPEND_FL) != 0; }
// Neither contents nor attributes may change: EPERM.
inline ErrnoOr<void> CheckUnflagged(const Inode& inode) { return BindingFlags(inode) != 0 ? ErrnoOr<void>(Errno(EPERM)) : Ok(); }

}  // namespace amber
