// A name in a directory, as far as it is cached (Linux: struct dentry).
//
// Dentries of one file system form a tree: a child holds its parent, the parent's map holds the cached child. A dentry that nobody
// else refers to may be dropped by the file system's shrinker at any time (least recently used first); one without an inode is negative: the
// name is known to be missing. Guarded by the kernel lock; whoever holds a dentry holds a Mount of its file system too.
#pragma once

#include <cstdint>
#include <list>
#include <string>
#include <string_view>
#include <unordered_map>

#include "checkpoint/state.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/vfs/inode.h"

namespace amber {

class Dentry final : public RefCounted<Dentry>, public state::Saveable {
 public:
  Dentry() = default;  // for Loader
  // The root of `fs`, or a dentry without a name (memfd, O_TMPFILE): `parent` is null.
  Dentry(FileSystem* fs, RefPtr<Dentry> parent, std::string_view name, RefPtr<Inode> inode);
  ~Dentry() override;

  FileSystem& fs() const { return *fs_; }
  Dentry* parent() const { return parent_.get(); }
  const std::string& name() const { return name_; }
  Inode* inode() const { return inode_.get(); }
  bool negative() const { return !inode_; }
  bool is_root() const { return !parent_; }
  // The name was removed while the dentry was in use: /proc shows "NAME (deleted)".
  bool unlinked() const { return unlinked_; }
  // True if `ancestor` is this dentry or above it.
  bool IsBelow(const Dentry& ancestor) const;

  // The cached child, or null.
  Dentry* Child(std::string_view name);
  // Caches `name` as `inode` (null: as missing). Replaces nothing: the name must not be cached.
  RefPtr<Dentry> AddChild(std::string_view name, RefPtr<Inode> inode);
  // Forgets the name: it is unlinked, or known to be stale. The dentry lives on for those who hold it.
  void Drop(bool is_unlinked);
  // A negative dentry gets an inode (create), or a positive one that nobody else uses loses it.
  void set_inode(RefPtr<Inode> inode) { inode_ = std::move(inode); }
  // After a rename in the file system: moves to another name. The new name must not be cached.
  void MoveTo(RefPtr<Dentry> new_parent, std::string_view new_name);
  // Drops all cached descendants that nobody uses.
  void PruneChildren();
  size_t cached_children() const { return children_.size(); }

  // Number of mounts (in any namespace) that sit on this dentry.
  int mounts_here = 0;

  state::Kind kind() const override { return state::Kind::kDentry; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 private:
  friend class FileSystem;

  FileSystem* fs_ = nullptr;
  RefPtr<Dentry> parent_;
  std::string name_;
  RefPtr<Inode> inode_;
  bool cached_ = false;  // is in parent_->children_
  bool unlinked_ = false;
  bool restore_cached_ = false;  // between Load and AfterLoad
  bool used_ = false;            // since the shrinker last came by
  std::list<Dentry*>::iterator lru_;
  std::unordered_map<std::string_view, RefPtr<Dentry>> children_;  // keys point to the child's name_
};

}  // namespace amber
