// Trees of mounts: copied while they are mounted nowhere, and mounted as a whole, so that no copy propagates to what it was copied from
// (Linux: copy_tree() and attach_recursive_mnt() in fs/namespace.c).
#include <map>
#include <utility>

#include "sentry/vfs/mount.h"

namespace amber {

MountTree MountNamespace::CopyTree(Mount& top, const RefPtr<Dentry>& root, bool propagated) {
  MountTree tree;
  tree.push_back({CloneMount(top, root)});
  if (top.ns_ == nullptr) return tree;
  std::map<const Mount*, size_t> copies = {{&top, 0}};
  for (Mount* m : top.ns_->Below(top)) {
    auto parent = m == &top ? copies.end() : copies.find(m->parent_);
    if (parent == copies.end() || m->unbindable_) continue;
    if (m->parent_ == &top && !m->mountpoint_->IsBelow(*root)) continue;
    if (propagated && m->fs_->is_mount_namespace()) continue;
    copies[m] = tree.size();
    tree.push_back({CloneMount(*m, m->root_), parent->second, m->mountpoint_});
  }
  return tree;
}

MountTree MountNamespace::TakeTree() {
  MountTree tree;
  std::map<const Mount*, size_t> places;
  for (Mount* m : All()) {
    places[m] = tree.size();
    tree.push_back({RefPtr<Mount>(m), m->parent_ != nullptr ? places.at(m->parent_) : 0, m->mountpoint_});
  }
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
  InsertTree(std::move(tree), std::move(where));
  Propagate(top);
  return Ok();
}

void MountNamespace::InsertTree(MountTree tree, VfsPath where) {
  if (where) Insert(tree[0].mount, std::move(where));
  for (size_t i = 1; i < tree.size(); ++i) Insert(tree[i].mount, {tree[tree[i].parent].mount, std::move(tree[i].place)});
}

}  // namespace amber
