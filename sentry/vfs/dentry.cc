#include "sentry/vfs/dentry.h"

#include "sentry/vfs/file_system.h"
#include "sentry/vfs/vfs.pb.h"

namespace amber {

Dentry::Dentry(FileSystem* fs, RefPtr<Dentry> parent, std::string_view name, RefPtr<Inode> inode)
    : fs_(fs), parent_(std::move(parent)), name_(name), inode_(std::move(inode)) {}

Dentry::~Dentry() {
  AMBER_CHECK(!cached_);
  // A chain of removed directories may be as long as a guest likes: no recursion.
  RefPtr<Dentry> up = std::move(parent_);
  while (up && up->ref_count() == 1) {
    RefPtr<Dentry> next = std::move(up->parent_);
    up = std::move(next);
  }
}

bool Dentry::IsBelow(const Dentry& ancestor) const {
  for (const Dentry* d = this; d != nullptr; d = d->parent_.get()) {
    if (d == &ancestor) return true;
  }
  return false;
}

Dentry* Dentry::Child(std::string_view name) {
  auto it = children_.find(name);
  if (it == children_.end()) return nullptr;
  it->second->used_ = true;
  return it->second.get();
}

RefPtr<Dentry> Dentry::AddChild(std::string_view name, RefPtr<Inode> inode) {
  auto child = MakeRef<Dentry>(fs_, RefPtr<Dentry>(this), name, std::move(inode));
  bool is_new = children_.emplace(child->name_, child).second;
  AMBER_CHECK(is_new);
  child->cached_ = true;
  child->lru_ = fs_->lru_.insert(fs_->lru_.end(), child.get());
  fs_->ShrinkIfFull();
  return child;
}

void Dentry::Drop(bool is_unlinked) {
  if (is_unlinked) unlinked_ = true;
  if (!cached_) return;
  cached_ = false;
  fs_->lru_.erase(lru_);
  auto node = parent_->children_.extract(name_);
  // `node` may hold the last reference: nothing of this object may be used after it goes.
}

void Dentry::MoveTo(RefPtr<Dentry> new_parent, std::string_view new_name) {
  RefPtr<Dentry> self(this);
  bool was_cached = cached_;
  if (was_cached) {
    parent_->children_.erase(name_);
  } else {
    cached_ = true;
    lru_ = fs_->lru_.insert(fs_->lru_.end(), this);
  }
  parent_ = std::move(new_parent);
  name_ = new_name;
  // A file system that was asked twice may have answered differently: what it said last is not believed.
  if (auto it = parent_->children_.find(name_); it != parent_->children_.end()) it->second->Drop(false);
  parent_->children_.emplace(name_, self);
}

// From the leaves up, and without recursion: what a guest serves may be as deep as it likes.
void Dentry::PruneChildren() {
  std::vector<RefPtr<Dentry>> all;
  for (const auto& [name, child] : children_) all.push_back(child);
  for (size_t i = 0; i < all.size(); ++i) {
    Dentry* d = all[i].get();
    for (const auto& [name, child] : d->children_) all.push_back(child);
  }
  for (; !all.empty(); all.pop_back()) {
    Dentry& d = *all.back();
    if (d.ref_count() == 2 && d.mounts_here == 0) d.Drop(false);
  }
}

std::string Dentry::Save(state::Saver& saver) const {
  vfs_state::Dentry m;
  m.set_fs(saver.Ref(fs_));
  m.set_parent(saver.Ref(parent_));
  m.set_name(name_);
  m.set_inode(saver.Ref(inode_));
  m.set_unlinked(unlinked_);
  m.set_cached(cached_);
  return m.SerializeAsString();
}

bool Dentry::Load(state::Loader& loader, std::string_view bytes) {
  vfs_state::Dentry m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return false;
  fs_ = loader.Get<FileSystem>(m.fs());
  if (fs_ == nullptr) return false;
  parent_ = loader.GetRef<Dentry>(m.parent());
  name_ = m.name();
  inode_ = loader.GetRef<Inode>(m.inode());
  unlinked_ = m.unlinked();
  restore_cached_ = m.cached();
  return !restore_cached_ || parent_;
}

bool Dentry::AfterLoad(state::Loader& loader) {
  // A ring of ancestors, with this one in it or above it, would make every walk to the root endless: one pointer goes twice as fast.
  Dentry* fast = this;
  for (Dentry* slow = this; fast != nullptr && fast->parent_; slow = slow->parent_.get()) {
    fast = fast->parent_->parent_.get();
    if (fast != slow->parent_.get() || fast == nullptr) continue;
    RefPtr<Dentry> cut = std::move(fast->parent_);  // so that it can go
    return loader.Fail("a directory is its own ancestor");
  }
  // Plain pointers lead to file systems: what hangs together is of one, and lives no longer than that.
  if ((inode_ && &inode_->fs() != fs_) || (parent_ && parent_->fs_ != fs_)) return loader.Fail("a name is in the wrong file system");
  if (const RefPtr<Dentry>& root = fs_->root(); root && root->fs_ != fs_) return loader.Fail("a file system's root is another's");
  if (!restore_cached_) return true;
  if (parent_->negative()) return loader.Fail("a name is in a directory without an inode");
  if (!parent_->children_.emplace(name_, RefPtr<Dentry>(this)).second) return loader.Fail("a name is there twice");
  cached_ = true;
  lru_ = fs_->lru_.insert(fs_->lru_.end(), this);
  return true;
}

}  // namespace amber
