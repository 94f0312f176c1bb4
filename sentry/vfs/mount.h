// Mounts, places in the tree, and mount namespaces (Linux: struct mount, struct path, mnt_namespace).
//
// A Mount shows a file system, or a subtree of it, somewhere. It is owned by its namespace while it is mounted, and by whoever is in it (open
// files, working directories), so that a lazily unmounted one lives until its last user leaves. Guarded by the kernel lock.
// All mounts are private: nothing propagates to other namespaces.
#pragma once

#include <sys/mount.h>

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/state.h"
#include "sentry/base/errno_or.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/vfs/dentry.h"
#include "sentry/vfs/file_system.h"

namespace amber {

class FsContext;
class MountNamespace;

// The flags that belong to a mount rather than to its file system.
inline constexpr uint32_t kMountFlags =
    MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME | MS_NODIRATIME | MS_RELATIME;

class Mount final : public RefCounted<Mount>, public state::Saveable {
 public:
  Mount() = default;  // for Loader
  Mount(RefPtr<FileSystem> fs, RefPtr<Dentry> root, uint32_t flags, std::string source);
  ~Mount() override;

  int id() const { return id_; }
  FileSystem& fs() const { return *fs_; }
  const RefPtr<FileSystem>& fs_ref() const { return fs_; }
  const RefPtr<Dentry>& root() const { return root_; }
  uint32_t flags() const { return flags_; }  // of kMountFlags
  void set_flags(uint32_t flags) { flags_ = flags; }
  bool read_only() const { return (flags_ & MS_RDONLY) != 0 || fs_->read_only(); }
  const std::string& source() const { return source_; }
  // Null for the root of a namespace and for what is not mounted.
  Mount* parent() const { return parent_; }
  Dentry* mountpoint() const { return mountpoint_.get(); }
  MountNamespace* ns() const { return ns_; }

  state::Kind kind() const override { return state::Kind::kMount; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;

 private:
  friend class MountNamespace;
  static void NoteLoadedId(int id);

  int id_ = 0;
  RefPtr<FileSystem> fs_;
  RefPtr<Dentry> root_;
  uint32_t flags_ = 0;
  std::string source_;
  Mount* parent_ = nullptr;
  RefPtr<Dentry> mountpoint_;
  MountNamespace* ns_ = nullptr;
};

// A place in the tree. The members' order matters: the dentry must go before the mount that keeps its file system.
struct VfsPath {
  RefPtr<Mount> mount;
  RefPtr<Dentry> dentry;

  explicit operator bool() const { return static_cast<bool>(dentry); }
  Inode* inode() const { return dentry->inode(); }
  bool is_mount_root() const { return dentry == mount->root(); }
  friend bool operator==(const VfsPath&, const VfsPath&) = default;
};

class MountNamespace final : public RefCounted<MountNamespace>, public state::Saveable {
 public:
  MountNamespace() = default;
  ~MountNamespace() override;

  // Sets the root mount of a new namespace.
  void SetRoot(RefPtr<Mount> root);
  VfsPath root() const { return {root_, root_->root()}; }
  // The mount that sits on this very place, or null.
  Mount* MountedOn(const Mount& mount, const Dentry& dentry) const;
  // Follows mounts down: the topmost thing that is visible at `path`.
  void CrossDown(VfsPath* path) const;
  // Puts `mount`, which is new, on top of `where` (after CrossDown).
  ErrnoOr<void> Attach(RefPtr<Mount> mount, VfsPath where);
  // umount2(2): EBUSY if it has children or users, unless `lazy`. EINVAL for the root of the namespace. The caller holds
  // `held` references.
  ErrnoOr<void> Detach(Mount& mount, bool lazy, int held);
  // mount --move.
  ErrnoOr<void> Move(Mount& mount, VfsPath where);
  // Bind mount of `source` at `where`, with the mounts below if `recursive`.
  ErrnoOr<void> Bind(const VfsPath& source, VfsPath where, bool recursive, uint32_t flags);
  // pivot_root(2), after its checks: the mount of `new_root` becomes the root, the old root goes to `put_old`.
  ErrnoOr<void> Pivot(const VfsPath& new_root, const VfsPath& put_old);
  // For unshare and clone with CLONE_NEWNS; moves root and working directory of `fs` into the copy.
  RefPtr<MountNamespace> Clone(FsContext* fs) const;
  // Parents before children, in the order of mounting.
  std::vector<Mount*> All() const;
  size_t size() const { return mounts_.size(); }
  static constexpr size_t kMaxMounts = 100'000;  // fs.mount-max

  // /proc/PID/mounts and mountinfo as seen from `root`.
  std::string FormatMounts(const VfsPath& root) const;
  std::string FormatMountInfo(const VfsPath& root) const;

  state::Kind kind() const override { return state::Kind::kMountNamespace; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 private:
  friend class Mount;
  void Link(Mount& mount, VfsPath where);
  void Unlink(Mount& mount);
  void Remove(Mount& mount);
  static RefPtr<Mount> CloneMount(const Mount& mount);
  // `mount` and all mounts below it, parents first.
  std::vector<Mount*> Below(Mount& mount) const;

  RefPtr<Mount> root_;
  std::vector<RefPtr<Mount>> mounts_;  // in the order of mounting, the root first
  std::map<std::pair<const Mount*, const Dentry*>, Mount*> on_;
};

}  // namespace amber
