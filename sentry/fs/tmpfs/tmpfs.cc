#include "sentry/fs/tmpfs/tmpfs.h"

#include <dirent.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>

#include "sentry/kernel/task.h"
#include "sentry/vfs/served.h"

namespace amber {
namespace {

constexpr uint64_t kDirentSize = 20;  // what mm/shmem.c charges a directory's size per entry
constexpr uint64_t kPage = 4096;
constexpr uint32_t kInheritedFlags = FS_NODUMP_FL | FS_NOATIME_FL;  // SHMEM_FL_INHERITED
constexpr size_t kShortTarget = 128;                                // SHORT_SYMLINK_LEN: longer ones take a page

bool IsTime(const std::optional<AttrChange::Time>& t) { return t.has_value(); }
timespec TimeOf(const AttrChange::Time& t) { return t.now ? FileTimeNow() : t.time; }

}  // namespace

TmpfsInode::TmpfsInode(TmpfsFileSystem* fs, const NewNode& node) : Inode(fs), target_(node.target) {
  attr_.ino = fs->next_ino_++;
  attr_.mode = node.mode;
  attr_.uid = node.uid;
  attr_.gid = node.gid;
  attr_.rdev = node.rdev;
  attr_.nlink = S_ISDIR(node.mode) ? 2 : 1;
  attr_.size = target_.size();
  attr_.atime = attr_.mtime = attr_.ctime = attr_.btime = FileTimeNow();
  ++fs->inodes_;
  fs->by_number_[attr_.ino] = this;
  charge_ = ChargeOf(0);
  Reaccount(0);
}

TmpfsInode::~TmpfsInode() {
  if (attr_.mode == 0) return;  // never loaded
  charge_ = 0;
  Reaccount(0);
  if (idle_) tmpfs().idle_.erase(idle_position_);
  --tmpfs().inodes_;
  if (auto it = tmpfs().by_number_.find(attr_.ino); it != tmpfs().by_number_.end() && it->second == this) tmpfs().by_number_.erase(it);
  // A guest may nest directories as deep as it likes: no recursion.
  std::vector<RefPtr<TmpfsInode>> doomed;
  auto take_all = [&doomed](TmpfsInode& dir) {
    for (auto& entry : dir.children_) {
      dir.LeaveHome(entry);
      doomed.push_back(std::move(entry.second));
    }
    dir.children_.clear();
  };
  take_all(*this);
  while (!doomed.empty()) {
    RefPtr<TmpfsInode> child = std::move(doomed.back());
    doomed.pop_back();
    if (child->ref_count() > 1) continue;
    take_all(*child);
  }
}

TmpfsFileSystem& TmpfsInode::tmpfs() const { return static_cast<TmpfsFileSystem&>(fs()); }

void TmpfsInode::Changed() {
  attr_.mtime = attr_.ctime = FileTimeNow();
  if (IsDir()) attr_.size = children_.size() * kDirentSize;
}

void TmpfsInode::Add(std::string_view name, RefPtr<TmpfsInode> child) {
  if (child->IsDir()) ++attr_.nlink;
  auto [it, is_new] = children_.try_emplace(std::string(name), std::move(child));
  AMBER_CHECK(is_new);
  SetHome(*it);
  Changed();
}

void TmpfsInode::Remove(std::string_view name) {
  auto it = children_.find(name);
  AMBER_CHECK(it != children_.end());
  if (it->second->IsDir()) --attr_.nlink;
  LeaveHome(*it);
  children_.erase(it);
  Changed();
}

void TmpfsInode::SetHome(const Entry& entry) {
  entry.second->home_ = this;
  entry.second->home_name_ = &entry.first;
}

void TmpfsInode::LeaveHome(const Entry& entry) {
  TmpfsInode& child = *entry.second;
  if (child.home_ != this || child.home_name_ != &entry.first) return;
  child.home_ = nullptr;
  child.home_name_ = nullptr;
}

bool TmpfsInode::Holds(std::string_view name, const Inode* child) const {
  auto it = children_.find(name);
  return it == children_.end() ? child == nullptr : it->second.get() == child;
}

void TmpfsInode::DropLink() {
  if (!IsDir() && attr_.nlink > 1) --tmpfs().inodes_;  // shmem_unlink
  attr_.nlink = IsDir() ? 0 : attr_.nlink - 1;
  attr_.ctime = FileTimeNow();
}

ErrnoOr<void> TmpfsInode::SetAttr(const VfsContext&, const AttrChange& change) {
  if (change.size) TRY(SetSize(*change.size));
  if ((change.size || change.uid || change.gid) && !IsDir()) DropCapabilities();
  if (change.mode) attr_.mode = (attr_.mode & S_IFMT) | (*change.mode & 07777);
  if (change.uid) attr_.uid = *change.uid;
  if (change.gid) attr_.gid = *change.gid;
  if (IsTime(change.atime)) attr_.atime = TimeOf(*change.atime);
  if (IsTime(change.mtime)) attr_.mtime = TimeOf(*change.mtime);
  attr_.ctime = FileTimeNow();
  return Ok();
}

ErrnoOr<RefPtr<Inode>> TmpfsInode::Lookup(const VfsContext&, std::string_view name) {
  if (!IsDir()) return Errno(ENOTDIR);
  auto it = children_.find(name);
  if (it == children_.end()) return Errno(ENOENT);
  if (it->second->home_ == nullptr) SetHome(*it);  // another name of it is gone
  return RefPtr<Inode>(it->second);
}

ErrnoOr<RefPtr<Inode>> TmpfsInode::Make(const VfsContext&, std::string_view name, const NewNode& node) {
  if (attr_.nlink == 0) return Errno(ENOENT);
  if (children_.contains(name)) return Errno(EEXIST);
  if (!tmpfs().MayAddInode()) return Errno(ENOSPC);
  if (node.target.size() >= kShortTarget && tmpfs().free_bytes() < kPage) return Errno(ENOSPC);
  auto child = MakeRef<TmpfsInode>(&tmpfs(), node);
  child->flags_ = flags_ & kInheritedFlags;
  Add(name, child);
  return RefPtr<Inode>(std::move(child));
}

ErrnoOr<RefPtr<Inode>> TmpfsInode::MakeUnnamed(const VfsContext&, const NewNode& node) {
  if (!tmpfs().MayAddInode()) return Errno(ENOSPC);
  auto child = MakeRef<TmpfsInode>(&tmpfs(), node);
  child->attr_.nlink = 0;
  child->flags_ = flags_ & kInheritedFlags;
  child->unnamed_ = !CreateIntent::hidden();
  return RefPtr<Inode>(std::move(child));
}

ErrnoOr<void> TmpfsInode::Link(const VfsContext&, std::string_view name, Inode& target) {
  auto& inode = static_cast<TmpfsInode&>(target);
  if (inode.attr_.nlink == 0 && !inode.unnamed_) return Errno(ENOENT);
  if (attr_.nlink == 0) return Errno(ENOENT);
  if (children_.contains(name)) return Errno(EEXIST);
  if (inode.attr_.nlink > 0) {
    // Each name more takes memory, so it counts (shmem_link).
    if (!tmpfs().MayAddInode()) return Errno(ENOSPC);
    ++tmpfs().inodes_;
  }
  inode.unnamed_ = false;
  ++inode.attr_.nlink;
  inode.attr_.ctime = FileTimeNow();
  Add(name, RefPtr<TmpfsInode>(&inode));
  return Ok();
}

ErrnoOr<void> TmpfsInode::Unlink(const VfsContext&, std::string_view name, Inode& victim) {
  if (!Holds(name, &victim)) return Errno(ESTALE);
  static_cast<TmpfsInode&>(victim).DropLink();
  Remove(name);
  return Ok();
}

ErrnoOr<void> TmpfsInode::Rmdir(const VfsContext&, std::string_view name, Inode& victim) {
  auto& dir = static_cast<TmpfsInode&>(victim);
  if (!Holds(name, &dir)) return Errno(ESTALE);
  if (!dir.children_.empty()) return Errno(ENOTEMPTY);
  RefPtr<TmpfsInode> hold(&dir);
  Remove(name);
  dir.DropLink();
  return Ok();
}

ErrnoOr<void> TmpfsInode::Rename(const VfsContext&, std::string_view old_name, Inode& moved, Inode& new_dir, std::string_view new_name,
                                 Inode* replaced, uint32_t flags) {
  RefPtr<TmpfsInode> source(static_cast<TmpfsInode*>(&moved));
  RefPtr<TmpfsInode> target(static_cast<TmpfsInode*>(replaced));
  auto& to = static_cast<TmpfsInode&>(new_dir);
  if (!Holds(old_name, source.get()) || !to.Holds(new_name, target.get()) || source == &to) return Errno(ESTALE);
  if ((flags & RENAME_EXCHANGE) != 0) {
    Remove(old_name);
    to.Remove(new_name);
    to.Add(new_name, source);
    Add(old_name, target);
    target->attr_.ctime = source->attr_.ctime = FileTimeNow();
    return Ok();
  }
  if (target) {
    if (target->IsDir() && !target->children_.empty()) return Errno(ENOTEMPTY);
    to.Remove(new_name);
    target->DropLink();
  }
  Remove(old_name);
  to.Add(new_name, source);
  source->attr_.ctime = FileTimeNow();
  if ((flags & RENAME_WHITEOUT) != 0) Add(old_name, MakeRef<TmpfsInode>(&tmpfs(), NewNode{.mode = S_IFCHR}));
  return Ok();
}

ErrnoOr<std::vector<DirEnt>> TmpfsInode::List(const VfsContext&) {
  if (!IsDir()) return Errno(ENOTDIR);
  std::vector<DirEnt> list;
  list.reserve(children_.size());
  for (const auto& [name, child] : children_) {
    list.push_back({name, child->attr_.ino, static_cast<uint8_t>(IFTODT(child->attr_.mode))});
  }
  DidRead();
  return list;
}

ErrnoOr<std::string> TmpfsInode::ReadLink(const VfsContext&) {
  if (!IsSymlink()) return Errno(EINVAL);
  return target_;
}

void TmpfsInode::DidRead() {
  if ((flags_ & FS_NOATIME_FL) != 0) return;
  // As with relatime: once after each change, and once a day.
  timespec now = FileTimeNow();
  auto after = [](const timespec& a, const timespec& b) { return a.tv_sec > b.tv_sec || (a.tv_sec == b.tv_sec && a.tv_nsec > b.tv_nsec); };
  if (!after(attr_.atime, attr_.mtime) || !after(attr_.atime, attr_.ctime) || now.tv_sec - attr_.atime.tv_sec > 86400) {
    attr_.atime = now;
  }
}

ErrnoOr<std::string> TmpfsInode::GetXattr(std::string_view name) {
  auto it = xattrs_.find(name);
  if (it == xattrs_.end()) return Errno(ENODATA);
  return it->second;
}

ErrnoOr<void> TmpfsInode::SetXattr(std::string_view name, std::string_view value, int flags) {
  auto it = xattrs_.find(name);
  if (it != xattrs_.end() && (flags & 1 /* XATTR_CREATE */) != 0) return Errno(EEXIST);
  if (it == xattrs_.end() && (flags & 2 /* XATTR_REPLACE */) != 0) return Errno(ENODATA);
  uint64_t total = name.size() + value.size() + XattrBytes();
  if (total > 256 * 1024) return Errno(ENOSPC);
  if (it != xattrs_.end()) total -= name.size() + it->second.size();
  if (uint64_t charge = ChargeOf(total); charge > charge_ && charge - charge_ > tmpfs().free_bytes()) return Errno(ENOSPC);
  xattrs_[std::string(name)] = value;
  attr_.ctime = FileTimeNow();
  auto r = ReadAcl(name);
  charge_ = ChargeOf(XattrBytes());
  Account();
  return r;
}

uint64_t TmpfsInode::XattrBytes() const {
  uint64_t total = 0;
  for (const auto& [name, value] : xattrs_) total += name.size() + value.size();
  return total;
}

uint64_t TmpfsInode::ChargeOf(uint64_t xattr_bytes) const {
  constexpr uint64_t kFew = 1024;
  return (target_.size() >= kShortTarget ? kPage : 0) + (xattr_bytes > kFew ? (xattr_bytes + kPage - 1) / kPage * kPage : 0);
}

ErrnoOr<void> TmpfsInode::ReadAcl(std::string_view name) {
  if (!IsAclName(name)) return Ok();
  auto& list = name == kAccessAcl ? acl_ : default_acl_;
  list.reset();
  auto it = xattrs_.find(name);
  if (it == xattrs_.end()) return Ok();
  auto parsed = Acl::Parse(it->second, nullptr);
  if (!parsed.ok() || !*parsed) {
    xattrs_.erase(it);
    return parsed.ok() ? Ok() : ErrnoOr<void>(parsed.error());
  }
  list = std::make_unique<Acl>(**std::move(parsed));
  return Ok();
}

ErrnoOr<std::vector<std::string>> TmpfsInode::ListXattr() {
  std::vector<std::string> names;
  for (const auto& [name, value] : xattrs_) names.push_back(name);
  return names;
}

ErrnoOr<void> TmpfsInode::RemoveXattr(std::string_view name) {
  auto it = xattrs_.find(name);
  if (it == xattrs_.end()) return Errno(ENODATA);
  xattrs_.erase(it);
  attr_.ctime = FileTimeNow();
  auto r = ReadAcl(name);
  charge_ = ChargeOf(XattrBytes());
  Account();
  return r;
}

uint64_t TmpfsFileSystem::limit() const {
  if (options_.unlimited) return UINT64_MAX;
  return options_.size != 0 ? options_.size : static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * 2048;
}

ErrnoOr<void> TmpfsFileSystem::StatFs(struct statfs* out) {
  *out = {};
  out->f_type = TMPFS_MAGIC;
  out->f_bsize = out->f_frsize = 4096;
  out->f_namelen = 255;
  // Without a limit nothing is told (shmem_statfs).
  if (!options_.unlimited) {
    out->f_blocks = limit() / 4096;
    out->f_bfree = out->f_bavail = free_bytes() / 4096;
  }
  out->f_files = options_.inodes != 0 ? options_.inodes : static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) / 2;
  out->f_ffree = out->f_files > inodes_ ? out->f_files - inodes_ : 0;
  return Ok();
}

std::string TmpfsFileSystem::ShowOptions() const {
  std::string s;
  if (options_.unlimited) s += ",size=0k";
  if (options_.size != 0) s += ",size=" + std::to_string(options_.size / 1024) + "k";
  if (options_.inodes != 0) s += ",nr_inodes=" + std::to_string(options_.inodes);
  if (options_.mode != 01777) {
    char octal[8];
    snprintf(octal, sizeof(octal), "%03o", options_.mode & 07777);
    s += std::string(",mode=") + octal;
  }
  if (options_.uid != 0) s += ",uid=" + std::to_string(options_.uid);
  if (options_.gid != 0) s += ",gid=" + std::to_string(options_.gid);
  return s;
}

}  // namespace amber
