// Trees of mounts: copied while they are mounted nowhere, and mounted as a whole, so that no copy propagates to what it was copied from
// (Linux: copy_tree() and attach_recursive_mnt() in fs/namespace.c).
#include <map>
#include <utility>

#include "sentry/vfs/mount.h"

namespace amber {

ErrnoOr<MountTree> MountNamespace::CopyTree(Mount& top, const RefPtr<Dentry>& root) {
  MountTree tree;
  tree.push_back({CloneMount(top, root)});
  if (top.ns_ == nullptr) return tree;
  std::map<const Mount*, size_t> copies = {{&top, 0}};
  for (Mount* m : top.ns_->Below(top)) {
    auto parent = m == &top ? copies.end() : copies.find(m->parent_);
    if (parent == copies.end() || (m->parent_ == &top && !m->mountpoint_->IsBelow(*root))) continue;
    // What a locked one hides would be seen in the copy.
    if (m->unbindable_ && m->locked_) return Errno(EPERM);
    if (m->unbindable_) continue;
    copies[m] = tree.size();
    tree.push_back({CloneMount(*m, m->root_), parent->second, m->mountpoint_});
  }
  return tree;
}

ErrnoOr<MountTree> MountNamespace::CopyPlace(const VfsPath& source, bool recursive) {
  Mount& top = *source.mount;
  if (top.unbindable_) return Errno(EINVAL);
  if (recursive) return CopyTree(top, source.dentry);
  if (top.ns_ != nullptr) {
    for (Mount* m : top.ns_->ChildrenOf(top)) {
      if (m->locked_ && m->mountpoint_->IsBelow(*source.dentry)) return Errno(EINVAL);
    }
  }
  MountTree tree;
  tree.push_back({CloneMount(top, source.dentry)});
  return tree;
}

MountTree MountNamespace::TreeOf(Mount& top) {
  MountTree tree;
  std::map<const Mount*, size_t> places;
  for (Mount* m : Below(top)) {
    places[m] = tree.size();
    tree.push_back({RefPtr<Mount>(m), m != &top ? places.at(m->parent_) : 0, m != &top ? m->mountpoint_ : RefPtr<Dentry>()});
  }
  return tree;
}

MountTree MountNamespace::TakeTree() {
  MountTree tree = TreeOf(*root_);
  while (!mounts_.empty()) Remove(*mounts_.back());
  return tree;
}

RefPtr<MountNamespace> MountNamespace::OfTree(MountTree tree) {
  auto ns = MakeRef<MountNamespace>();
  ns->SetRoot(tree[0].mount);
  ns->InsertTree(std::move(tree), {});
  return ns;
}

ErrnoOr<void> MountNamespace::AttachTree(MountTree tree, VfsPath where) {
  if (where.mount->ns_ != this) return Errno(EINVAL);
  if (mounts_.size() + tree.size() > kMaxMounts) return Errno(ENOSPC);
  CrossDown(&where);
  Mount& top = *tree[0].mount;
  if (where.inode()->IsDir() != top.root_->inode()->IsDir()) return Errno(ENOTDIR);
  if (where.dentry->unlinked()) return Errno(ENOENT);
  Spread copies = TRY(PlanSpread(where, tree, tree.size()));
  InsertTree(tree, std::move(where));
  Propagate(copies, std::move(tree));
  return Ok();
}

void MountNamespace::InsertTree(MountTree tree, VfsPath where) {
  if (where) Insert(tree[0].mount, std::move(where));
  for (size_t i = 1; i < tree.size(); ++i) Insert(tree[i].mount, {tree[tree[i].parent].mount, std::move(tree[i].place)});
}

}  // namespace amber
