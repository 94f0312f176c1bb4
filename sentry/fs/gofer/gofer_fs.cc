#include "sentry/fs/gofer/gofer_fs.h"

#include <sys/stat.h>

#include "sentry/fs/gofer/later.h"
#include "sentry/kernel/task.h"
#include "sentry/vfs/new_name.h"
#include "sentry/vfs/served.h"

namespace amber {
namespace {

// Of a directory, in bytes: it has some thousands of names at most.
constexpr uint64_t kSmallDirectory = 256 << 10;

gofer::AttributeChange::TimeChange ToChange(const AttrChange::Time& t) { return {t.now, {t.time.tv_sec, static_cast<uint32_t>(t.time.tv_nsec)}}; }

}  // namespace

GoferInode::GoferInode(GoferFileSystem* fs, RefPtr<GoferInode> parent, std::string_view name, gofer::Node node)
    : Inode(fs), node_(node.id), key_(node.attributes.dev, node.attributes.ino), parent_(std::move(parent)), name_(name),
      target_(std::move(node.target)) {
  Take(node.attributes);
  fs->inodes_[key_] = this;
}

GoferInode::~GoferInode() {
  if (attr_.mode == 0) return;  // never loaded
  GoferFileSystem& g = gofer();
  if (idle_) g.idle_.erase(idle_position_);
  if (dir_fd_.valid()) g.with_dir_fd_.erase(dir_position_);
  DropListing();
  auto it = g.inodes_.find(key_);
  if (it != g.inodes_.end() && it->second == this) g.inodes_.erase(it);
  if (removed_ && attr_.nlink == 0) g.ForgetHandle(*this);
  if (node_ != gofer::kNoNode) client().Forget(node_);
  // No recursion along a chain of parents that nobody else needs.
  RefPtr<GoferInode> up = std::move(parent_);
  while (up && up->ref_count() == 1) {
    RefPtr<GoferInode> next = std::move(up->parent_);
    up = std::move(next);
  }
}

GoferFileSystem& GoferInode::gofer() const { return static_cast<GoferFileSystem&>(fs()); }
gofer::Client& GoferInode::client() const { return *gofer().client_; }

void GoferInode::Take(const gofer::Attributes& a) {
  // A directory that the sentry might not search may be open to it now (tar makes its directories with 0700 at first).
  if (a.mode != attr_.mode || a.uid != attr_.uid || a.gid != attr_.gid) no_dir_fd_ = false;
  attr_.ino = gofer().GuestIno(a);
  attr_.mode = a.mode;
  attr_.nlink = a.nlink;
  attr_.uid = a.uid;
  attr_.gid = a.gid;
  attr_.rdev = a.rdev;
  attr_.size = a.size;
  attr_.blocks = a.blocks;
  attr_.blksize = a.blksize != 0 ? a.blksize : 4096;
  attr_.atime = ToTimespec(a.atime);
  attr_.mtime = ToTimespec(a.mtime);
  attr_.ctime = ToTimespec(a.ctime);
  attr_.btime = a.has_btime ? ToTimespec(a.btime) : timespec{};
  stale_ = false;
  fresh_at_ = HostNow();
  settled_ = gofer().IsSettled(attr_.ctime, a.dev, FileClock());
  owner_ctime_ = attr_.ctime;
  owner_at_ = fresh_at_;
}

void GoferInode::TakeStat(const struct stat& st) {
  // Not the owner: the sentry's user namespace does not show it as the host does.
  attr_.nlink = static_cast<uint32_t>(st.st_nlink);
  attr_.size = static_cast<uint64_t>(st.st_size);
  attr_.blocks = static_cast<uint64_t>(st.st_blocks);
  attr_.atime = st.st_atim;
  attr_.mtime = st.st_mtim;
  attr_.ctime = st.st_ctim;
}

ErrnoOr<void> GoferInode::Refresh() {
  if (detached_ && !IsRegular()) return Ok();
  Settle();
  bool exclusive = gofer().options_.exclusive;
  if (has_fd() && (exclusive || detached_) && !stale_) {
    struct stat st;
    if (fstat(rw_fd_.valid() ? rw_fd_.get() : read_fd_.get(), &st) == 0) TakeStat(st);
    if (detached_) attr_.nlink = 0;
    return Ok();
  }
  if (exclusive && !stale_) return Ok();
  if (!exclusive && !stale_ && HostNow() - fresh_at_ < kFreshNs) return Ok();
  struct stat st;
  if (has_fd() && fstat(rw_fd_.valid() ? rw_fd_.get() : read_fd_.get(), &st) == 0 && Confirm(st)) return Ok();
  if (dir_fd_.valid() && fstatat(dir_fd_.get(), "", &st, AT_EMPTY_PATH) == 0 && Confirm(st)) return Ok();
  TRY(NeedNode());
  Take(TRY(client().GetAttr(node_)));
  return Ok();
}

ErrnoOr<void> GoferInode::SetAttr(const VfsContext& ctx, const AttrChange& change) {
  if (detached_) return Errno(ENOENT);
  TRY(NeedNode());
  Outdate();
  // The host changes a list with the mode; where there is none none comes.
  if (change.mode && acls_ != nullptr && acls_[0].list) ForgetAcl(kAccessAcl);
  gofer::AttributeChange c;
  c.size = change.size;
  c.uid = change.uid;
  c.gid = change.gid;
  c.mode = change.mode;
  if (change.atime) c.atime = ToChange(*change.atime);
  if (change.mtime) c.mtime = ToChange(*change.mtime);
  if (ctx.task != nullptr && gofer().later_->Take(ctx.task->kernel(), *this, c)) return Ok();
  auto r = client().SetAttr(node_, c);
  if (!r.ok()) {
    stale_ = true;
    return r.error();
  }
  Take(*r);
  changed_at_ = owner_at_;
  if (IsRegular()) gofer().later_->Worked(*this, c);
  return Ok();
}

ErrnoOr<RefPtr<Inode>> GoferInode::Lookup(const VfsContext& ctx, std::string_view name) {
  std::vector<RefPtr<Inode>> found;
  Inode* known = nullptr;
  TRY(LookupAhead(ctx, std::span(&name, 1), std::span(&known, 1), false, &found));
  if (found.empty()) return Errno(EIO);
  return std::move(found[0]);
}

ErrnoOr<void> GoferInode::LookupAhead(const VfsContext&, std::span<const std::string_view> names, std::span<Inode* const> known, bool open_read,
                                      std::vector<RefPtr<Inode>>* found) {
  if (!IsDir()) return Errno(ENOTDIR);
  if (removed_ || detached_) return Errno(ENOENT);
  if (gofer().options_.exclusive) return WalkExclusive(names, open_read, found);
  GoferInode* dir = this;
  for (size_t i = 0; i < names.size(); ++i) {
    // Not worth a call, nor a descriptor that the call would bring, if whoever makes it says whether it is there.
    bool last = i + 1 == names.size();
    if (last && known[i] == nullptr && !dir->dir_fd_.valid() && NewNameLookup::Guess(*dir)) return Errno(ENOENT);
    RefPtr<GoferInode> child(static_cast<GoferInode*>(known[i]));
    switch (dir->LookAt(names[i], known[i], last, open_read && last, &child)) {
      case Look::kMissing: return Errno(ENOENT);
      case Look::kAsk: return dir->AskAhead(names.subspan(i), open_read, found);
      case Look::kSame: break;
    }
    found->push_back(child);
    if (!child->IsDir()) break;  // a symbolic link, or the end in any case
    dir = child.get();
  }
  return Ok();
}

ErrnoOr<void> GoferInode::AskAhead(std::span<const std::string_view> names, bool open_read, std::vector<RefPtr<Inode>>* found) {
  TRY(NeedNode());
  gofer::WalkOptions options;
  if (open_read) options.open_flags = O_RDONLY | O_NONBLOCK;
  auto walked = client().Walk(node_, names, options);
  if (walked.Is(ENFILE) || (walked.ok() && walked->stop == gofer::WalkResult::Stop::kError && walked->error == Errno(ENFILE))) {
    // The gofer is out of descriptors: give back what nobody uses, and try once more.
    if (walked.ok()) {
      for (const gofer::Node& n : walked->found) client().Forget(n.id);
    }
    fs().Shrink(fs().cached_dentries() / 2);
    gofer().listed_ahead_.clear();
    client().FlushForgets();
    walked = client().Walk(node_, names, options);
  }
  if (!walked.ok()) return walked.error();
  RefPtr<GoferInode> at(this);
  bool complete = walked->found.size() == names.size();
  for (size_t i = 0; i < walked->found.size(); ++i) {
    RefPtr<GoferInode> inode = gofer().InodeFor(at, names[i], std::move(walked->found[i]));
    found->push_back(inode);
    at = std::move(inode);
  }
  if (walked->file.valid() && complete && !at->has_fd()) at->TakeOpened(gofer::kNoNode, std::move(walked->file));
  switch (walked->stop) {
    case gofer::WalkResult::Stop::kDone:
    case gofer::WalkResult::Stop::kSymlink: return Ok();
    case gofer::WalkResult::Stop::kMissing: return Errno(ENOENT);
    case gofer::WalkResult::Stop::kError: return walked->error;
  }
  return Errno(EIO);
}

void GoferInode::NameGone(const GoferInode& dir, std::string_view name) {
  stale_ = true;
  Outdate();
  if (attr_.nlink > 0) --attr_.nlink;
  if (IsDir()) attr_.nlink = 0;
  if (attr_.nlink == 0) {
    gofer().DropAhead(key_);
    removed_ = true;
    stale_ = false;
    attr_.ctime = FileTimeNow();
  }
  if (parent_ == &dir && name_ == name) removed_ = true;
}

ErrnoOr<RefPtr<Inode>> GoferInode::Make(const VfsContext&, std::string_view name, const NewNode& node) {
  if (removed_ || detached_) return Errno(ENOENT);
  TRY(NeedNode());
  gofer::NewInode inode{node.mode & 07777, node.uid, node.gid, node.umask};
  gofer::Node made;
  UniqueFd file;
  switch (node.mode & S_IFMT) {
    case S_IFREG: {
      auto created = TRY(client().Create(node_, name, O_RDWR, inode));
      made = std::move(created.node);
      file = std::move(created.file);
      break;
    }
    case S_IFDIR:
      made = TRY(client().MkDir(node_, name, inode));
      ++attr_.nlink;
      break;
    case S_IFLNK: made = TRY(client().Symlink(node_, name, node.target, node.uid, node.gid)); break;
    case S_IFSOCK: made = TRY(MakeSocket(name, inode)); break;
    default: made = TRY(client().MkNod(node_, name, node.mode & S_IFMT, node.rdev, inode));
  }
  NameAdded(name);
  RefPtr<GoferInode> child = gofer().InodeFor(RefPtr<GoferInode>(this), name, std::move(made));
  child->changed_at_ = child->made_at_ = child->owner_at_;
  if (file.valid()) {
    child->rw_fd_ = std::move(file);
    child->open_ = 1;
    child->EndIo(true);
  }
  return RefPtr<Inode>(std::move(child));
}

ErrnoOr<RefPtr<Inode>> GoferInode::MakeUnnamed(const VfsContext&, const NewNode& node) {
  if (removed_ || detached_) return Errno(ENOENT);
  TRY(NeedNode());
  auto created = TRY(client().TmpFile(node_, O_RDWR, {node.mode & 07777, node.uid, node.gid, node.umask}, CreateIntent::hidden()));
  RefPtr<GoferInode> child = gofer().InodeFor(nullptr, "", std::move(created.node));
  child->removed_ = true;
  child->rw_fd_ = std::move(created.file);
  child->open_ = 1;
  child->EndIo(true);
  return RefPtr<Inode>(std::move(child));
}

ErrnoOr<void> GoferInode::Link(const VfsContext&, std::string_view name, Inode& target) {
  if (removed_ || detached_) return Errno(ENOENT);
  auto& inode = static_cast<GoferInode&>(target);
  if (inode.detached_) return Errno(ENOENT);
  TRY(NeedNode());
  TRY(inode.NeedNode());
  inode.Outdate();
  inode.Take(TRY(client().Link(inode.node_, node_, name)));
  if (inode.removed_) {
    inode.removed_ = false;
    inode.parent_ = RefPtr<GoferInode>(this);
    inode.name_ = name;
  }
  NameAdded(name);
  return Ok();
}

ErrnoOr<void> GoferInode::Unlink(const VfsContext&, std::string_view name, Inode& victim) {
  auto& inode = static_cast<GoferInode&>(victim);
  TRY(NeedNode());
  TRY(NeedNodeBeyond(inode));
  TRY(client().Unlink(node_, name, 0));
  inode.NameGone(*this, name);
  NameRemoved(name);
  return Ok();
}

ErrnoOr<void> GoferInode::Rmdir(const VfsContext&, std::string_view name, Inode& victim) {
  auto& inode = static_cast<GoferInode&>(victim);
  TRY(NeedNode());
  TRY(NeedNodeBeyond(inode));
  TRY(client().Unlink(node_, name, AT_REMOVEDIR));
  inode.NameGone(*this, name);
  NameRemoved(name);
  return Ok();
}

ErrnoOr<void> GoferInode::Rename(const VfsContext&, std::string_view old_name, Inode& moved, Inode& new_dir, std::string_view new_name,
                                 Inode* replaced, uint32_t flags) {
  // The gofer makes no whiteouts: overlays in the sandbox keep their upper layer in a tmpfs.
  if ((flags & ~3u) != 0) return Errno(EINVAL);
  auto& to = static_cast<GoferInode&>(new_dir);
  auto& source = static_cast<GoferInode&>(moved);
  auto* target = static_cast<GoferInode*>(replaced);
  TRY(NeedNode());
  TRY(to.NeedNode());
  TRY(NeedNodeBeyond(source));
  if (target != nullptr) TRY(NeedNodeBeyond(*target));
  bool exchange = (flags & 2 /* RENAME_EXCHANGE */) != 0;
  TRY(client().Rename(node_, old_name, to.node_, new_name, flags));
  if (target != nullptr && !exchange) target->NameGone(to, new_name);
  if (target != nullptr && exchange && target->parent_ == &to && target->name_ == new_name) {
    target->parent_ = RefPtr<GoferInode>(this);
    target->name_ = old_name;
    gofer().UpdateHandle(*target);
  }
  source.Outdate();
  if (source.parent_ == this && source.name_ == old_name) {
    source.parent_ = RefPtr<GoferInode>(&to);
    source.name_ = new_name;
    gofer().UpdateHandle(source);
  }
  source.stale_ = true;
  NameRemoved(old_name);
  if (exchange) NameAdded(old_name);
  to.NameAdded(new_name);
  return Ok();
}

ErrnoOr<std::vector<DirEnt>> GoferInode::List(const VfsContext&) {
  if (!IsDir()) return Errno(ENOTDIR);
  if (removed_ || detached_) return std::vector<DirEnt>();
  if (list_ != nullptr && ListIsCurrent()) {
    UseListedAhead();
    return *list_;
  }
  std::vector<DirEnt> entries;
  GoferFileSystem& g = gofer();
  bool with_attributes = g.stats_follow_ > 0 && attr_.size <= kSmallDirectory;
  if (with_attributes) --g.stats_follow_;
  timespec asked = FileClock();
  bool keep = false;
  std::vector<gofer::DirEntry> read = TRY(ReadNames(with_attributes, &keep));
  listed_count_ = read.size();
  was_listed_ = true;
  if (with_attributes) KeepListing(read, asked);
  for (gofer::DirEntry& e : read) entries.push_back({std::move(e.name), e.ino, e.type});
  if (keep) list_ = std::make_unique<std::vector<DirEnt>>(entries);
  return entries;
}

ErrnoOr<std::string> GoferInode::ReadLink(const VfsContext&) {
  if (!IsSymlink()) return Errno(EINVAL);
  if (target_.empty()) TRY(NeedNode());  // of a listing
  return target_;
}

}  // namespace amber
