// Walking paths: path_resolution(7).
//
// Kernel lock held. Walking asks file systems (the gofer at a miss), checks search permission in every directory, follows at most 40
// symbolic links, crosses mounts, and never leaves the caller's root.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "sentry/base/errno_or.h"
#include "sentry/vfs/inode.h"
#include "sentry/vfs/mount.h"

namespace amber {

enum WalkFlag : uint32_t {
  kFollowLast = 1 << 0,  // follow a symbolic link in the last place
  kMustBeDir = 1 << 1,   // ENOTDIR otherwise
  kOpenRead = 1 << 2,    // a hint: a regular file in the last place will be opened for reading
  // openat2(2)
  kNoXdev = 1 << 3,
  kNoMagicLinks = 1 << 4,
  kNoSymlinks = 1 << 5,
  kBeneath = 1 << 6,
  kInRoot = 1 << 7,
};

// Where a walk ended: a place, or, behind a magic link of /proc, an open file that has no place.
struct Resolved {
  VfsPath path;
  RefPtr<File> file;
};

// The directory of the last component.
struct ResolvedParent {
  VfsPath dir;
  std::string name;  // empty if the path ends in "/", "." or ".." (see `dots`)
  std::string dots;  // ".", ".." or "/" in that case
  bool trailing_slash = false;
};

// One walk. `start` is where relative paths begin.
class PathWalker {
 public:
  PathWalker(const VfsContext& ctx, VfsPath start, uint32_t flags);

  // ENOENT if the path is empty or something is missing.
  ErrnoOr<Resolved> Walk(std::string_view path);
  // Walks all but the last component.
  ErrnoOr<ResolvedParent> WalkParent(std::string_view path);
  // Goes on from `dir` along the symbolic link `link` that was found there: as Walk or WalkParent of its target. A magic
  // link's destination is in `magic`, the rest is empty.
  ErrnoOr<ResolvedParent> FollowParent(const VfsPath& dir, Inode& link, Resolved* magic);

 private:
  ErrnoOr<void> Begin(std::string_view path);
  // Walks `path` from current_; with `parent`, all but the last component.
  ErrnoOr<void> Run(std::string_view path, bool follow_last, ResolvedParent* parent);
  ErrnoOr<void> Step(std::span<const std::string_view> names, size_t index, bool follow);
  ErrnoOr<void> DotDot();
  ErrnoOr<void> FollowLink(Inode& link);
  ErrnoOr<void> FollowMagicLink(Inode& link);
  ErrnoOr<void> CheckSearch() const;
  // The child names[index] of current_. Looks ahead on a miss.
  ErrnoOr<RefPtr<Dentry>> ChildOf(std::span<const std::string_view> names, size_t index);

  const VfsContext& ctx_;
  VfsPath start_;
  VfsPath root_;
  VfsPath current_;
  RefPtr<File> file_;
  uint32_t flags_;
  int links_ = 0;
  size_t valid_until_ = 0;  // names before this index were compared with the file system just now
};

// Shorthands.
ErrnoOr<Resolved> ResolvePath(const VfsContext& ctx, const VfsPath& start, std::string_view path, uint32_t flags);
// As above, where a file without a place is of no use (ENOTDIR, EINVAL as `otherwise`).
ErrnoOr<VfsPath> ResolvePlace(const VfsContext& ctx, const VfsPath& start, std::string_view path, uint32_t flags, int otherwise = ENOENT);

// The child `name` of the directory: cached, or looked up; a negative dentry if it is missing. Neither permissions nor mounts.
ErrnoOr<RefPtr<Dentry>> LookupChild(const VfsContext& ctx, const VfsPath& dir, std::string_view name);

// Permission bits: MAY_READ and so on.
inline constexpr int kMayExec = 1;
inline constexpr int kMayWrite = 2;
inline constexpr int kMayRead = 4;
// EACCES unless the credentials' file system ids may (mode bits, capabilities). path_resolution(7), fs/namei.c.
ErrnoOr<void> CheckPermission(const Credentials& creds, const Inode& inode, int may);
// As above, and EROFS for writing where the mount is read-only.
ErrnoOr<void> CheckPermission(const Credentials& creds, const VfsPath& path, int may);
// EPERM unless the caller owns the inode or has CAP_FOWNER.
ErrnoOr<void> CheckOwner(const Credentials& creds, const Inode& inode);

// The path of `path` as seen from `root`, with " (deleted)" behind an unlinked name, as d_path() gives it. A place
// that `root` does not reach gets "(unreachable)" in front if `mark_unreachable`.
std::string PathName(const VfsPath& path, const VfsPath& root, bool mark_unreachable = false);
// The path of `dentry` from the root of its file system; "/" for that.
std::string PathInside(const Dentry& dentry);

// Which mounts are below a place, by their mount points: is_path_reachable() in fs/namespace.c. What it found it keeps: for one look at many of them.
class MountReach {
 public:
  explicit MountReach(VfsPath top) : top_(std::move(top)) {}
  bool Reaches(const Mount& mount);

 private:
  bool IsBelow(const Dentry& dentry);

  VfsPath top_;
  std::unordered_map<const Mount*, bool> known_;
  // Very deep trees with very many mounts are taken for out of reach in the end.
  uint64_t steps_ = 0;
};

}  // namespace amber
