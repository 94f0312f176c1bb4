#include "sentry/vfs/mount.h"

#include <poll.h>

#include <algorithm>
#include <functional>
#include <iterator>
#include <unordered_map>
#include <utility>

#include "sentry/vfs/fs_context.h"
#include "sentry/vfs/notify.h"
#include "sentry/vfs/propagation.h"

namespace amber {
namespace {

// Guarded by the kernel lock.
std::unordered_map<const MountNamespace*, MountChanges>& AllChanges() {
  static auto* all = new std::unordered_map<const MountNamespace*, MountChanges>();
  return *all;
}

// Ids are never used again, as unique ones are easier on people who read /proc/PID/mountinfo. Guarded by the kernel lock.
int next_mount_id = 1;

// What the mounts of a file system that the guest has had anywhere add up to, as long as they are used; the kernel's own do not count.
struct FsUse {
  int mounts = 0, writers = 0;
};
std::map<const FileSystem*, FsUse>& Uses() {
  static auto* uses = new std::map<const FileSystem*, FsUse>();
  return *uses;
}

}  // namespace

Mount::Mount() = default;
Mount::Mount(RefPtr<FileSystem> fs, RefPtr<Dentry> root, uint32_t flags, std::string source)
    : id_(next_mount_id++), fs_(std::move(fs)), root_(std::move(root)), flags_(flags & kMountFlags), source_(std::move(source)) {}

Mount::~Mount() {
  LeavePeers();
  LeaveMaster();
  NotifyMountGone(*this);
  if (auto it = Uses().find(fs_.get()); noted_ && it != Uses().end() && --it->second.mounts == 0) {
    if (it->second.writers == 0) Uses().erase(it);
    NotifyUnmounted(*fs_);  // generic_shutdown_super()
  }
  // The file system goes last.
  root_.reset();
}

void Mount::NoteMounted() {
  if (!std::exchange(noted_, true)) ++Uses()[fs_.get()].mounts;
}

void Mount::CountWriter(int by) {
  writers_ += by;
  Uses()[fs_.get()].writers += by;
}

int Mount::WritersOf(const FileSystem& fs) {
  auto it = Uses().find(&fs);
  return it == Uses().end() ? 0 : it->second.writers;
}

void Mount::NoteLoadedId(int id) { next_mount_id = std::max(next_mount_id, id + 1); }

// All come off before one goes: a mount point's dentry belongs to the parent's file system, and a move or pivot_root(2) may have put a parent behind its
// children. A mounted file of a namespace may hold the next namespace, and so on, for as long as a guest likes: no recursion.
MountNamespace::~MountNamespace() {
  static thread_local std::vector<RefPtr<Mount>>* outermost = nullptr;
  std::vector<RefPtr<Mount>> doomed = mounts_;
  while (!mounts_.empty()) Remove(*mounts_.back());
  AllChanges().erase(this);
  if (outermost != nullptr) {
    std::move(doomed.begin(), doomed.end(), std::back_inserter(*outermost));
    return;
  }
  outermost = &doomed;
  while (!doomed.empty()) {
    RefPtr<Mount> last = std::move(doomed.back());
    doomed.pop_back();
  }
  outermost = nullptr;
}

void MountNamespace::SetRoot(RefPtr<Mount> root) {
  AMBER_CHECK(!root_);
  root->ns_ = this;
  root->locked_ = false;
  root->NoteMounted();
  root_ = root;
  mounts_.push_back(std::move(root));
}

Mount* MountNamespace::MountedOn(const Mount& mount, const Dentry& dentry) const {
  if (dentry.mounts_here == 0) return nullptr;
  auto it = on_.find({&mount, &dentry});
  return it == on_.end() ? nullptr : it->second;
}

void MountNamespace::CrossDown(VfsPath* path) const {
  while (Mount* m = MountedOn(*path->mount, *path->dentry)) *path = VfsPath{RefPtr<Mount>(m), m->root_};
}

ErrnoOr<void> MountNamespace::Attach(RefPtr<Mount> mount, VfsPath where) {
  MountTree tree;
  tree.push_back({std::move(mount)});
  return AttachTree(std::move(tree), std::move(where));
}

MountChanges& ChangesOf(const MountNamespace& ns) { return AllChanges()[&ns]; }

void NoteMountChange(const MountNamespace* ns) {
  auto it = AllChanges().find(ns);
  if (it == AllChanges().end()) return;
  ++it->second.count;
  it->second.queue.Notify(POLLERR | POLLPRI);
}

void MountNamespace::Insert(RefPtr<Mount> mount, VfsPath where) {
  Link(*mount, std::move(where));
  mount->ns_ = this;
  mounts_.push_back(std::move(mount));
}

void MountNamespace::Link(Mount& mount, VfsPath where) {
  bool alone = on_.try_emplace({where.mount.get(), where.dentry.get()}, &mount).second;
  AMBER_CHECK(alone);
  ++where.dentry->mounts_here;
  mount.NoteMounted();
  mount.parent_ = where.mount.get();
  mount.mountpoint_ = std::move(where.dentry);
  NoteMountChange(this);
}

void MountNamespace::Unlink(Mount& mount) {
  if (mount.parent_ == nullptr) return;
  on_.erase({mount.parent_, mount.mountpoint_.get()});
  --mount.mountpoint_->mounts_here;
  mount.parent_ = nullptr;
  mount.mountpoint_.reset();
  NoteMountChange(this);
}

void MountNamespace::Remove(Mount& mount) {
  Unlink(mount);
  mount.ns_ = nullptr;
  if (root_ == &mount) root_.reset();
  // From the end: whoever takes off many begins with the last.
  auto it = std::find_if(mounts_.rbegin(), mounts_.rend(), [&](const auto& m) { return m == &mount; });
  RefPtr<Mount> hold = std::move(*it);
  mounts_.erase(std::next(it).base());
}

ErrnoOr<void> MountNamespace::Detach(Mount& mount, bool lazy, int held) {
  if (mount.ns_ != this || root_ == &mount) return Errno(EINVAL);
  std::vector<Mount*> doomed = Below(mount);
  if (!lazy) {
    // One reference is ours.
    if (doomed.size() > 1 || mount.ref_count() > 1 + held || PropagatedBusy(mount)) return Errno(EBUSY);
  }
  // Leaves first, here and where they propagated to.
  std::vector<RefPtr<Mount>> hold;
  for (Mount* m : doomed) hold.emplace_back(m);
  for (auto it = hold.rbegin(); it != hold.rend(); ++it) {
    PropagateUnmount(**it);
    if ((*it)->ns_ == this) Remove(**it);
  }
  return Ok();
}

std::vector<Mount*> MountNamespace::Below(Mount& mount) const {
  // mounts_ is in mounting order, but a move can put a parent behind its child. Sorted by parent, since there may be a hundred thousand.
  std::vector<Mount*> all = {&mount};
  if (mount.ns_ == this && IsLeaf(mount)) return all;
  struct Entry {
    const Mount* parent;
    size_t order;
    Mount* child;
  };
  std::vector<Entry> by_parent;
  for (size_t i = 0; i < mounts_.size(); ++i) {
    if (mounts_[i]->parent_ != nullptr) by_parent.push_back({mounts_[i]->parent_, i, mounts_[i].get()});
  }
  std::ranges::sort(by_parent, std::less<>(), [](const Entry& e) { return std::pair(e.parent, e.order); });
  for (size_t i = 0; i < all.size(); ++i) {
    for (const Entry& e : std::ranges::equal_range(by_parent, all[i], std::less<>(), &Entry::parent)) all.push_back(e.child);
  }
  return all;
}

ErrnoOr<void> MountNamespace::Move(Mount& mount, VfsPath where) {
  if (mount.ns_ != this || where.mount->ns_ != this || mount.parent_ == nullptr) return Errno(EINVAL);
  // What a shared mount holds is on others, too: it cannot move away (do_move_mount).
  if (mount.parent_->peers_) return Errno(EINVAL);
  CrossDown(&where);
  for (Mount* m = where.mount.get(); m != nullptr; m = m->parent_) {
    if (m == &mount) return Errno(ELOOP);
  }
  if (where.inode()->IsDir() != mount.root_->inode()->IsDir()) return Errno(EINVAL);
  if (where.dentry->unlinked()) return Errno(ENOENT);
  // tree_contains_unbindable(): no copy could be made of it.
  MountTree tree = where.mount->peers_ ? TreeOf(mount) : MountTree();
  if (std::ranges::any_of(tree, [](const MountTreeNode& node) { return node.mount->unbindable_; })) return Errno(EINVAL);
  Spread copies = TRY(PlanSpread(where, tree, 0));
  Unlink(mount);
  Link(mount, std::move(where));
  Propagate(copies, std::move(tree));
  return Ok();
}

RefPtr<Mount> MountNamespace::CloneMount(const Mount& mount, RefPtr<Dentry> root) {
  auto copy = MakeRef<Mount>(mount.fs_, std::move(root), mount.flags_, mount.source_);
  copy->locked_flags_ = mount.locked_flags_;
  copy->locked_ = mount.locked_;
  mount.ShareWith(*copy);
  return copy;
}

ErrnoOr<void> MountNamespace::Bind(const VfsPath& source, VfsPath where, bool recursive, uint32_t flags) {
  MountTree tree = TRY(CopyPlace(source, recursive));
  tree[0].mount->flags_ = flags & kMountFlags;
  tree[0].mount->locked_ = false;
  return AttachTree(std::move(tree), std::move(where));
}

ErrnoOr<void> MountNamespace::Pivot(const VfsPath& new_root, const VfsPath& put_old) {
  Mount& fresh = *new_root.mount;
  RefPtr<Mount> old = root_;
  if (fresh.ns_ != this || put_old.mount->ns_ != this || &fresh == root_.get()) return Errno(EBUSY);
  if (!new_root.is_mount_root()) return Errno(EINVAL);
  VfsPath old_place = put_old;
  if (MountedOn(*old_place.mount, *old_place.dentry) != nullptr) return Errno(EBUSY);
  Unlink(fresh);
  root_ = new_root.mount;
  Link(*old, std::move(old_place));
  return Ok();
}

RefPtr<MountNamespace> MountNamespace::Clone(FsContext* fs, RefPtr<UserNamespace> owner) const {
  bool lesser = owner.get() != this->owner();
  auto copy = MakeRef<MountNamespace>(std::move(owner));
  std::map<const Mount*, Mount*> copies;
  auto copy_of = [lesser](const Mount& m) {
    RefPtr<Mount> c = CloneMount(m, m.root_);
    c->unbindable_ = m.unbindable_;
    if (!lesser) return c;
    // Changes come in but do not go out (CL_SHARED_TO_SLAVE).
    c->SetPropagation(MS_SLAVE);
    c->LockFlags(c->flags_ & kLockableMountFlags);
    return c;
  };
  copy->root_ = copy_of(*root_);
  copy->root_->ns_ = copy.get();
  copy->root_->NoteMounted();
  copies[root_.get()] = copy->root_.get();
  copy->mounts_.push_back(copy->root_);
  std::vector<Mount*> all = Below(*root_);
  for (size_t i = 1; i < all.size(); ++i) {
    // Files of mount namespaces are left out, and what is on them (copy_mnt_ns() without CL_COPY_MNT_NS_FILE).
    auto parent = copies.find(all[i]->parent_);
    if (parent == copies.end() || all[i]->fs_->is_mount_namespace()) continue;
    RefPtr<Mount> m = copy_of(*all[i]);
    if (lesser) m->locked_ = true;
    copies[all[i]] = m.get();
    copy->Insert(std::move(m), {RefPtr<Mount>(parent->second), all[i]->mountpoint_});
  }
  if (fs != nullptr) {
    auto moved = [&](const VfsPath& p) {
      auto it = copies.find(p.mount.get());
      return it == copies.end() ? p : VfsPath{RefPtr<Mount>(it->second), p.dentry};
    };
    fs->set_root(moved(fs->root()));
    fs->set_cwd(moved(fs->cwd()));
  }
  return copy;
}

std::vector<Mount*> MountNamespace::All() const { return root_ ? Below(*root_) : std::vector<Mount*>(); }

}  // namespace amber
