#include "sentry/vfs/path.h"

#include <limits.h>

#include <utility>

#include "sentry/vfs/fs_context.h"
#include "sentry/vfs/served.h"

namespace amber {
namespace {

constexpr int kMaxLinks = 40;
constexpr size_t kMaxAhead = 32;

struct Split {
  std::vector<std::string_view> names;
  bool trailing_slash = false;
};

Split SplitPath(std::string_view path) {
  Split s;
  s.names.reserve(8);
  size_t at = 0;
  while (at < path.size()) {
    size_t slash = path.find('/', at);
    if (slash == std::string_view::npos) slash = path.size();
    if (slash > at) s.names.push_back(path.substr(at, slash - at));
    at = slash + 1;
  }
  s.trailing_slash = !s.names.empty() && path.back() == '/';
  return s;
}

bool IsDots(std::string_view name) { return name == "." || name == ".."; }

// The file system's answer about a name that is cached as `d` is still the same file.
bool SameFile(const Dentry& d, const Inode& found) {
  if (d.negative() || d.inode() == &found) return !d.negative();
  // A server's numbers are what it likes.
  if (ServedInode::From(found) != nullptr) return false;
  return d.inode()->ino() == found.ino() && d.inode()->type() == found.type();
}

// Asks the file system for `names` below `dir` and caches the answers. Returns how many names were settled.
ErrnoOr<size_t> LookAhead(const VfsContext& ctx, Dentry& dir, std::span<const std::string_view> names, bool open_read) {
  std::vector<Inode*> known;
  Dentry* d = &dir;
  for (std::string_view name : names) {
    d = d != nullptr ? d->Child(name) : nullptr;
    known.push_back(d != nullptr ? d->inode() : nullptr);
  }
  std::vector<RefPtr<Inode>> found;
  auto r = dir.inode()->LookupAhead(ctx, names, known, open_read, &found);
  AMBER_CHECK(found.size() <= names.size());
  d = &dir;
  RefPtr<Dentry> hold;
  for (size_t i = 0; i < found.size(); ++i) {
    Dentry* child = d->Child(names[i]);
    if (child != nullptr && child->negative()) {
      child->set_inode(found[i]);
    } else if (child == nullptr || !SameFile(*child, *found[i])) {
      if (child != nullptr) child->Drop(true);
      hold = d->AddChild(names[i], found[i]);
      child = hold.get();
    }
    hold = RefPtr<Dentry>(child);
    d = child;
  }
  if (r.ok()) return found.size();
  if (!r.Is(ENOENT)) {
    if (found.empty()) return r.error();
    return found.size();
  }
  std::string_view missing = names[found.size()];
  Dentry* child = d->Child(missing);
  if (child != nullptr && !child->negative()) {
    child->Drop(true);
    child = nullptr;
  }
  if (child == nullptr) d->AddChild(missing, nullptr);
  return found.size() + 1;
}

}  // namespace

PathWalker::PathWalker(const VfsContext& ctx, VfsPath start, uint32_t flags) : ctx_(ctx), start_(std::move(start)), flags_(flags) {
  root_ = (flags_ & (kBeneath | kInRoot)) != 0 ? start_ : ctx.fs->root();
}

ErrnoOr<void> PathWalker::Begin(std::string_view path) {
  if (path.empty()) return Errno(ENOENT);
  if (path.size() >= PATH_MAX) return Errno(ENAMETOOLONG);
  if (path.front() == '/' && (flags_ & kBeneath) != 0) return Errno(EXDEV);
  current_ = path.front() == '/' ? root_ : start_;
  return Ok();
}

ErrnoOr<Resolved> PathWalker::Walk(std::string_view path) {
  TRY(Begin(path));
  TRY(Run(path, (flags_ & kFollowLast) != 0, nullptr));
  if ((flags_ & kMustBeDir) != 0 && (file_ || !current_.inode()->IsDir())) return Errno(ENOTDIR);
  return Resolved{std::move(current_), std::move(file_)};
}

ErrnoOr<ResolvedParent> PathWalker::WalkParent(std::string_view path) {
  TRY(Begin(path));
  ResolvedParent parent;
  TRY(Run(path, false, &parent));
  return parent;
}

ErrnoOr<ResolvedParent> PathWalker::FollowParent(const VfsPath& dir, Inode& link, Resolved* magic) {
  // pick_link() of fs/namei.c
  if (++links_ > kMaxLinks || (flags_ & kNoSymlinks) != 0 || (dir.mount->flags() & kNoSymFollow) != 0) return Errno(ELOOP);
  current_ = dir;
  if (link.IsMagicLink()) {
    TRY(FollowMagicLink(link));
    *magic = {std::move(current_), std::move(file_)};
    return ResolvedParent();
  }
  std::string target = TRY(link.ReadLink(ctx_));
  if (target.empty()) return Errno(ENOENT);
  if (target.front() == '/') {
    if ((flags_ & kBeneath) != 0) return Errno(EXDEV);
    current_ = root_;
  }
  ResolvedParent parent;
  TRY(Run(target, false, &parent));
  return parent;
}

ErrnoOr<void> PathWalker::CheckSearch() const {
  if (!current_ || !current_.inode()->IsDir()) return Errno(ENOTDIR);
  return CheckPermission(*ctx_.creds, *current_.inode(), kMayExec);
}

ErrnoOr<void> PathWalker::Run(std::string_view path, bool follow_last, ResolvedParent* parent) {
  Split split = SplitPath(path);
  valid_until_ = 0;
  if (parent != nullptr) parent->trailing_slash = split.trailing_slash;
  for (size_t i = 0; i < split.names.size(); ++i) {
    bool last = i + 1 == split.names.size();
    if (last && parent != nullptr) {
      TRY(CheckSearch());
      (IsDots(split.names[i]) ? parent->dots : parent->name) = split.names[i];
      if (split.names[i].size() > NAME_MAX) return Errno(ENAMETOOLONG);
      parent->dir = current_;
      return Ok();
    }
    // The last name is looked up by whoever wants the parent, once more if the file system is asked each time.
    bool all = parent == nullptr || !current_ || !current_.dentry->fs().revalidates();
    std::span<const std::string_view> ahead(split.names.data(), split.names.size() - (all ? 0 : 1));
    TRY(Step(ahead, i, !last || follow_last || split.trailing_slash));
  }
  if (split.trailing_slash && (!current_ || !current_.inode()->IsDir())) return Errno(ENOTDIR);
  if (parent != nullptr) {
    parent->dots = "/";
    parent->dir = current_;
  }
  return Ok();
}

ErrnoOr<void> PathWalker::Step(std::span<const std::string_view> names, size_t index, bool follow) {
  TRY(CheckSearch());
  std::string_view name = names[index];
  if (name == ".") return Ok();
  if (name == "..") return DotDot();
  if (name.size() > NAME_MAX) return Errno(ENAMETOOLONG);
  RefPtr<Dentry> child = TRY(ChildOf(names, index));
  if (child->negative()) return Errno(ENOENT);
  VfsPath next{current_.mount, std::move(child)};
  if (next.dentry->mounts_here > 0 && next.mount->ns() != nullptr) {
    next.mount->ns()->CrossDown(&next);
    if (next.mount != current_.mount && (flags_ & kNoXdev) != 0) return Errno(EXDEV);
  }
  if (next.inode()->IsSymlink() && follow) {
    RefPtr<Inode> link(next.inode());
    TRY(FollowLink(*link));
    valid_until_ = 0;
    return Ok();
  }
  current_ = std::move(next);
  return Ok();
}

ErrnoOr<void> PathWalker::DotDot() {
  valid_until_ = 0;
  while (true) {
    if (current_ == root_) {
      if ((flags_ & kBeneath) != 0) return Errno(EXDEV);
      break;
    }
    if (!current_.is_mount_root()) break;
    Mount* up = current_.mount->parent();
    if (up == nullptr) return Ok();
    if ((flags_ & kNoXdev) != 0) return Errno(EXDEV);
    VfsPath above{RefPtr<Mount>(up), RefPtr<Dentry>(current_.mount->mountpoint())};
    current_ = std::move(above);
  }
  if (current_ == root_) {
    // The root itself may be covered, by pivot_root(".", ".") for one (step_into() behind follow_dotdot()).
    if (current_.dentry->mounts_here == 0 || current_.mount->ns() == nullptr) return Ok();
    current_.mount->ns()->CrossDown(&current_);
    return (flags_ & kNoXdev) == 0 || current_ == root_ ? Ok() : Errno(EXDEV);
  }
  // A directory that was moved out of a bind mount has no way up inside it (fs/namei.c, path_connected). Of a whole file system nothing is
  // moved out; looking all the way up would take long in a deep tree.
  Dentry* parent = current_.dentry->parent();
  if (parent == nullptr || (!current_.mount->root()->is_root() && !parent->IsBelow(*current_.mount->root()))) return Errno(ENOENT);
  current_.dentry = RefPtr<Dentry>(parent);
  if (parent->mounts_here > 0 && current_.mount->ns() != nullptr) current_.mount->ns()->CrossDown(&current_);
  return Ok();
}

ErrnoOr<void> PathWalker::FollowMagicLink(Inode& link) {
  if ((flags_ & kNoMagicLinks) != 0) return Errno(ELOOP);
  if ((flags_ & (kBeneath | kInRoot)) != 0) return Errno(EXDEV);
  LinkTarget target = TRY(link.MagicLink(ctx_));
  if (target.path) {
    if ((flags_ & kNoXdev) != 0 && target.path->mount != current_.mount) return Errno(EXDEV);
    current_ = std::move(*target.path);
  } else {
    current_ = {};
    file_ = std::move(target.file);
  }
  return Ok();
}

ErrnoOr<void> PathWalker::FollowLink(Inode& link) {
  if (++links_ > kMaxLinks || (flags_ & kNoSymlinks) != 0 || (current_.mount->flags() & kNoSymFollow) != 0) return Errno(ELOOP);
  if (link.IsMagicLink()) return FollowMagicLink(link);
  std::string target = TRY(link.ReadLink(ctx_));
  if (target.empty()) return Errno(ENOENT);
  if (target.front() == '/') {
    if ((flags_ & kBeneath) != 0) return Errno(EXDEV);
    current_ = root_;
  }
  return Run(target, true, nullptr);
}

ErrnoOr<RefPtr<Dentry>> PathWalker::ChildOf(std::span<const std::string_view> names, size_t index) {
  Dentry& dir = *current_.dentry;
  Dentry* child = dir.Child(names[index]);
  if (child != nullptr && (!dir.fs().revalidates() || index < valid_until_)) return RefPtr<Dentry>(child);
  // The names that may be asked for in one go: down to the next ".." or mount point.
  size_t end = index;
  Dentry* d = &dir;
  while (end < names.size() && end - index < kMaxAhead && !IsDots(names[end]) && names[end].size() <= NAME_MAX) {
    d = d != nullptr ? d->Child(names[end]) : nullptr;
    ++end;
    if (d != nullptr && d->mounts_here > 0) break;
  }
  bool open_read = (flags_ & kOpenRead) != 0 && end == names.size();
  size_t settled = TRY(LookAhead(ctx_, dir, names.subspan(index, end - index), open_read));
  valid_until_ = index + settled;
  child = dir.Child(names[index]);
  if (child == nullptr) return Errno(EIO);
  return RefPtr<Dentry>(child);
}

ErrnoOr<Resolved> ResolvePath(const VfsContext& ctx, const VfsPath& start, std::string_view path, uint32_t flags) {
  return PathWalker(ctx, start, flags).Walk(path);
}

ErrnoOr<VfsPath> ResolvePlace(const VfsContext& ctx, const VfsPath& start, std::string_view path, uint32_t flags, int otherwise) {
  Resolved r = TRY(ResolvePath(ctx, start, path, flags));
  if (r.file) return Errno(otherwise);
  return std::move(r.path);
}

ErrnoOr<RefPtr<Dentry>> LookupChild(const VfsContext& ctx, const VfsPath& dir, std::string_view name) {
  Dentry* child = dir.dentry->Child(name);
  if (child == nullptr || dir.dentry->fs().revalidates()) {
    size_t settled = TRY(LookAhead(ctx, *dir.dentry, std::span(&name, 1), false));
    (void)settled;
    child = dir.dentry->Child(name);
    if (child == nullptr) return Errno(EIO);
  }
  return RefPtr<Dentry>(child);
}

std::string PathName(const VfsPath& path, const VfsPath& root, bool mark_unreachable) {
  std::vector<std::string_view> names;
  VfsPath at = path;
  bool reached = true;
  while (!(at == root)) {
    if (at.is_mount_root() || at.dentry->is_root()) {
      Mount* up = at.is_mount_root() ? at.mount->parent() : nullptr;
      if (up == nullptr) {
        reached = at.mount->ns() != nullptr && root.mount->ns() == at.mount->ns() && root == at.mount->ns()->root();
        break;
      }
      at = VfsPath{RefPtr<Mount>(up), RefPtr<Dentry>(at.mount->mountpoint())};
      continue;
    }
    names.push_back(at.dentry->name());
    at.dentry = RefPtr<Dentry>(at.dentry->parent());
  }
  std::string result = !reached && mark_unreachable ? "(unreachable)" : "";
  if (names.empty()) {
    // A file that never had a name in a directory (memfd, O_TMPFILE) shows what it was made with.
    const std::string& own = path.dentry->name();
    result += path.dentry->is_root() && !own.empty() ? own : "/";
  }
  for (auto it = names.rbegin(); it != names.rend(); ++it) {
    result += '/';
    result += *it;
  }
  if (path.dentry->unlinked()) result += " (deleted)";
  return result;
}

std::string PathInside(const Dentry& dentry) {
  std::vector<const std::string*> names;
  for (const Dentry* d = &dentry; !d->is_root(); d = d->parent()) names.push_back(&d->name());
  std::string result;
  for (auto it = names.rbegin(); it != names.rend(); ++it) {
    result += '/';
    result += **it;
  }
  return result.empty() ? "/" : result;
}

bool MountReach::IsBelow(const Dentry& dentry) {
  constexpr uint64_t kMostSteps = 10'000'000;
  for (const Dentry* d = &dentry;; d = d->parent()) {
    if (d == top_.dentry.get()) return true;
    if (d->is_root() || ++steps_ > kMostSteps) return false;
  }
}

bool MountReach::Reaches(const Mount& mount) {
  if (&mount == top_.mount.get()) return IsBelow(*mount.root());
  std::vector<const Mount*> way;
  bool reaches = false;
  for (const Mount* at = &mount; at != nullptr; at = at->parent()) {
    if (auto it = known_.find(at); it != known_.end()) {
      reaches = it->second;
      break;
    }
    way.push_back(at);
    if (at->parent() != top_.mount.get()) continue;
    reaches = at->parent() != nullptr && IsBelow(*at->mountpoint());
    break;
  }
  for (const Mount* m : way) known_[m] = reaches;
  return reaches;
}

}  // namespace amber
