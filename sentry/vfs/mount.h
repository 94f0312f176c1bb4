// Mounts, places in the tree, and mount namespaces (Linux: struct mount, struct path, mnt_namespace).
//
// A Mount shows a file system, or a subtree of it, somewhere. It is owned by its namespace while it is mounted, and by whoever is in it (open
// files, working directories), so that a lazily unmounted one lives until its last user leaves. Guarded by the kernel lock.
// How mounts propagate to others (mount_namespaces(7), SHARED SUBTREES) is in propagation.h.
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
#include "sentry/kernel/namespace.h"
#include "sentry/vfs/dentry.h"
#include "sentry/vfs/file_system.h"

namespace amber {

class FsContext;
class MountNamespace;
class PeerGroup;

// The flags that belong to a mount rather than to its file system.
inline constexpr uint32_t kNoSymFollow = 256;  // MS_NOSYMFOLLOW of Linux 5.10: symbolic links in it are not followed
inline constexpr uint32_t kMountFlags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME | MS_NODIRATIME | MS_RELATIME | kNoSymFollow;

// Of those, the ones that whoever is less privileged may not clear (lock_mnt_tree()).
inline constexpr uint32_t kLockableMountFlags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC;

class Mount final : public RefCounted<Mount>, public state::Saveable {
 public:
  Mount();  // for Loader
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

  // MS_SHARED: the peers to which mounts below this one propagate; null if it is not shared.
  PeerGroup* peers() const { return peers_.get(); }
  // MS_SLAVE: the group from which mounts come; null if it is no slave.
  PeerGroup* master() const { return master_.get(); }
  bool unbindable() const { return unbindable_; }
  // MS_SHARED, MS_PRIVATE, MS_SLAVE or MS_UNBINDABLE.
  void SetPropagation(uint64_t type);
  // Came from a more privileged mount namespace together with others (MNT_LOCKED): it cannot be taken off alone.
  bool locked() const { return locked_; }
  // Of kMountFlags: what a less privileged namespace may not clear; MS_RELATIME stands for all of the access time modes.
  uint32_t locked_flags() const { return locked_flags_; }
  void LockFlags(uint32_t flags) { locked_flags_ |= flags & kMountFlags; }

  // Regular files that are open for writing by way of this mount (mnt_get_writers()), and by way of any mount of `fs`: it cannot become read-only.
  int writers() const { return writers_; }
  static int WritersOf(const FileSystem& fs);
  void CountWriter(int by);
  // umount2(2) with MNT_EXPIRE has marked it, and no file was opened since.
  bool expires() const { return expires_; }
  void set_expires(bool on) { expires_ = on; }

  state::Kind kind() const override { return state::Kind::kMount; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 private:
  friend class MountNamespace;
  friend class PeerGroup;
  static void NoteLoadedId(int id);
  // The copy `to` becomes a peer of this (if shared) and a slave of the same master.
  void ShareWith(Mount& to) const;
  void LeavePeers();
  void LeaveMaster();
  void JoinMaster(RefPtr<PeerGroup> master);
  void JoinPeers(RefPtr<PeerGroup> peers);

  int id_ = 0;
  RefPtr<FileSystem> fs_;
  RefPtr<Dentry> root_;
  uint32_t flags_ = 0;
  std::string source_;
  Mount* parent_ = nullptr;
  RefPtr<Dentry> mountpoint_;
  MountNamespace* ns_ = nullptr;
  const MountNamespace* listed_in_ = nullptr;  // from an image, until AfterLoad()
  RefPtr<PeerGroup> peers_, master_;
  bool unbindable_ = false;
  bool locked_ = false;
  uint32_t locked_flags_ = 0;
  int writers_ = 0;
  bool expires_ = false;
  bool noted_ = false;  // was mounted somewhere: one more of its file system's
  void NoteMounted();
};

// A place in the tree. The members' order matters: the dentry must go before the mount that keeps its file system.
struct VfsPath {
  RefPtr<Mount> mount;
  RefPtr<Dentry> dentry;

  VfsPath() = default;
  VfsPath(RefPtr<Mount> m, RefPtr<Dentry> d) : mount(std::move(m)), dentry(std::move(d)) {}
  VfsPath(const VfsPath&) = default;
  VfsPath(VfsPath&&) noexcept = default;
  ~VfsPath() = default;
  // The old place goes as a whole, by the destructor: assigned member by member it would lose the mount first, with the last of a mount that was
  // taken off lazily its file system, and then use that for the dentry.
  VfsPath& operator=(VfsPath other) noexcept {
    std::swap(mount, other.mount);
    std::swap(dentry, other.dentry);
    return *this;
  }

  explicit operator bool() const { return static_cast<bool>(dentry); }
  Inode* inode() const { return dentry->inode(); }
  bool is_mount_root() const { return dentry == mount->root(); }
  friend bool operator==(const VfsPath&, const VfsPath&) = default;
};

// A tree of mounts that is mounted nowhere (yet): parents before children, the top first. `parent` is a place in the vector and `place` a dentry of what that
// mount shows; the top has neither.
struct MountTreeNode {
  RefPtr<Mount> mount;
  size_t parent = 0;
  RefPtr<Dentry> place;
};
using MountTree = std::vector<MountTreeNode>;

class MountNamespace final : public Namespace {
 public:
  MountNamespace() = default;
  explicit MountNamespace(RefPtr<UserNamespace> owner) : Namespace(std::move(owner)) {}
  ~MountNamespace() override;

  int type() const override { return 0x00020000; }  // CLONE_NEWNS
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
  // The same for a tree. ENOSPC if the namespace would have too many mounts.
  ErrnoOr<void> AttachTree(MountTree tree, VfsPath where);
  // A copy of what is mounted at `source`, which it shows, with the mounts below if `recursive`. EINVAL if it is unbindable, or if what a locked mount hides would be
  // seen without that (has_locked_children()).
  static ErrnoOr<MountTree> CopyPlace(const VfsPath& source, bool recursive);
  // All mounts of this namespace, which loses them.
  MountTree TakeTree();
  // A namespace of nobody's with these mounts.
  static RefPtr<MountNamespace> OfTree(MountTree tree);
  // mount --move.
  ErrnoOr<void> Move(Mount& mount, VfsPath where);
  // Bind mount of `source` at `where`, with the mounts below if `recursive`.
  ErrnoOr<void> Bind(const VfsPath& source, VfsPath where, bool recursive, uint32_t flags);
  // pivot_root(2), after its checks: the mount of `new_root` becomes the root, the old root goes to `put_old`.
  ErrnoOr<void> Pivot(const VfsPath& new_root, const VfsPath& put_old);
  // For unshare and clone with CLONE_NEWNS; moves root and working directory of `fs` into the copy. In a copy for another user
  // namespace mounts become slaves and locked.
  RefPtr<MountNamespace> Clone(FsContext* fs, RefPtr<UserNamespace> owner) const;
  // `mount` and all mounts below it, parents first.
  std::vector<Mount*> Below(Mount& mount) const;
  // A copy that is mounted nowhere and shows `root`: a peer of `mount` and a slave of its master.
  static RefPtr<Mount> CloneMount(const Mount& mount, RefPtr<Dentry> root);
  // Parents before children, in the order of mounting.
  std::vector<Mount*> All() const;
  size_t size() const { return mounts_.size(); }
  // fs.mount-max. Linux begins with 100,000; what mounts cost each other grows with their square where they propagate, and all of the sandbox waits meanwhile.
  static constexpr size_t kMaxMounts = 16'384;

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
  // Links `mount` and keeps it.
  void Insert(RefPtr<Mount> mount, VfsPath where);
  // The top at `where`, if that is not null, and the others at their places.
  void InsertTree(MountTree tree, VfsPath where);
  // Copies of `top`, which shows `root` there, and of what is mounted below `root`, as CloneMount() makes them. What is unbindable is left out with all below it;
  // EPERM if it is locked, too (copy_tree()).
  static ErrnoOr<MountTree> CopyTree(Mount& top, const RefPtr<Dentry>& root);
  // `top`, which is mounted here, and all below it.
  MountTree TreeOf(Mount& top);
  // --- propagation.cc ---
  // What appears where when something is mounted at `place`.
  struct Spread {
    struct Target {
      RefPtr<Mount> at;
      size_t source;  // what is copied: 0 what was mounted, n + 1 what came to the target n
      bool slave;
    };
    RefPtr<Dentry> place;  // null: nothing
    std::vector<Target> targets;
  };
  ErrnoOr<Spread> PlanSpread(const VfsPath& where, const MountTree& tree, size_t added);
  // `tree` has been mounted: copies of it appear as planned.
  void Propagate(const Spread& plan, MountTree tree);
  static RefPtr<Mount> SlaveOf(const Mount& mount, bool shared);
  // `mount` goes: what it propagated to goes as well, but for what has mounts on it.
  static void PropagateUnmount(Mount& mount);
  // True if PropagateUnmount() would take a mount that is in use.
  static bool PropagatedBusy(const Mount& mount);
  std::vector<Mount*> ChildrenOf(const Mount& mount) const;
  // Nothing is mounted on `mount`, which is in a namespace.
  static bool IsLeaf(const Mount& mount);

  RefPtr<Mount> root_;
  std::vector<RefPtr<Mount>> mounts_;  // in the order of mounting, the root first
  std::map<std::pair<const Mount*, const Dentry*>, Mount*> on_;
};

}  // namespace amber
