// Layers seen as one tree (Linux: fs/overlayfs): an upper directory that takes all changes over lower ones that stay as they are.
//
// Works on inodes of the layers directly; names are cached once, in the overlay's own dentries. The layers' formats are Linux's: a whiteout is
// a character device 0:0, an opaque directory has the attribute trusted.overlay.opaque = "y". A copied-up file keeps its inode number
// (trusted.overlay.origin holds it). Files that are open when they are copied up keep reading the lower layer, as on Linux.
// Kernel lock.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "sentry/vfs/file_system.h"
#include "sentry/vfs/host_sockets.h"
#include "sentry/vfs/inode.h"
#include "sentry/vfs/mount.h"
#include "sentry/vfs/restrict.h"

namespace amber {

class OverlayFileSystem;

class OverlayInode final : public Inode, public HostSocketInode, public FlaggedInode {
 public:
  OverlayInode() = default;  // for Loader
  OverlayInode(OverlayFileSystem* fs, RefPtr<OverlayInode> parent, std::string_view name, RefPtr<Inode> upper, std::vector<RefPtr<Inode>> lowers);
  ~OverlayInode() override;

  const Attr& attr() const override { return real().attr(); }
  uint64_t ino() const override { return ino_; }
  // A merged directory's subdirectories are not counted: 1 says so, as on Linux, to those who would conclude from the count.
  uint32_t links() const override { return upper_ && IsDir() && !lowers_.empty() ? 1 : attr().nlink; }
  ErrnoOr<void> Refresh() override { return real().Refresh(); }
  ErrnoOr<void> SetAttr(const VfsContext& ctx, const AttrChange& change) override;
  ErrnoOr<RefPtr<Inode>> Lookup(const VfsContext& ctx, std::string_view name) override;
  ErrnoOr<void> LookupAhead(const VfsContext& ctx, std::span<const std::string_view> names, std::span<Inode* const> known, bool open_read,
                            std::vector<RefPtr<Inode>>* found) override;
  ErrnoOr<RefPtr<Inode>> Make(const VfsContext& ctx, std::string_view name, const NewNode& node) override;
  ErrnoOr<RefPtr<Inode>> MakeUnnamed(const VfsContext& ctx, const NewNode& node) override;
  ErrnoOr<void> Link(const VfsContext& ctx, std::string_view name, Inode& target) override;
  ErrnoOr<void> Unlink(const VfsContext& ctx, std::string_view name, Inode& victim) override;
  ErrnoOr<void> Rmdir(const VfsContext& ctx, std::string_view name, Inode& victim) override;
  ErrnoOr<void> Rename(const VfsContext& ctx, std::string_view old_name, Inode& moved, Inode& new_dir, std::string_view new_name, Inode* replaced,
                       uint32_t flags) override;
  ErrnoOr<UniqueFd> ConnectHostSocket(const Credentials& who, int socket_type) override;
  ErrnoOr<UniqueFd> BindHostSocketAgain(int socket_type) override;
  ErrnoOr<std::vector<DirEnt>> List(const VfsContext& ctx) override;
  ErrnoOr<std::string> ReadLink(const VfsContext& ctx) override { return real().ReadLink(ctx); }
  ErrnoOr<RefPtr<Inode>> DataInode(const VfsContext& ctx, bool write) override;
  ErrnoOr<void> Sync(bool data_only) override { return real().Sync(data_only); }

  ErrnoOr<uint32_t> GetFlags() override;
  ErrnoOr<void> SetFlags(uint32_t flags) override;
  std::optional<uint32_t> known_flags() const override;

  bool takes_acls() const override { return !IsSymlink(); }
  const Acl* acl() const override { return real().acl(); }
  const Acl* default_acl() const override { return real().default_acl(); }
  ErrnoOr<std::string> GetXattr(std::string_view name) override;
  ErrnoOr<void> SetXattr(std::string_view name, std::string_view value, int flags) override;
  ErrnoOr<std::vector<std::string>> ListXattr() override;
  ErrnoOr<void> RemoveXattr(std::string_view name) override;

  state::Kind kind() const override { return state::Kind::kOverlayInode; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 private:
  friend class OverlayFileSystem;
  OverlayFileSystem& overlay() const;
  Inode& real() const { return upper_ ? *upper_ : *lowers_[0]; }
  // Makes upper_: with the ancestors, attributes and contents of the lower one. EROFS without an upper layer.
  // At most `max_size` bytes of contents are copied (a truncation follows).
  ErrnoOr<void> CopyUp(const VfsContext& ctx, uint64_t max_size = UINT64_MAX);
  // The same once the directory that it goes into has been copied up.
  ErrnoOr<void> CopyUpHere(const VfsContext& ctx, uint64_t max_size);
  ErrnoOr<RefPtr<Inode>> MakeCopy(const VfsContext& ctx, Inode& upper_dir, uint64_t max_size);
  // True if a lower layer has `name`, so that its removal needs a whiteout.
  ErrnoOr<bool> LowerHas(const VfsContext& ctx, std::string_view name);
  // Hides `name`, which is not in the upper directory (any more), if a lower layer has it.
  ErrnoOr<void> CoverName(const VfsContext& ctx, std::string_view name);
  // Removes a whiteout of `name` in the upper directory, if there is one; true if there was.
  ErrnoOr<bool> UncoverName(const VfsContext& ctx, std::string_view name);
  // Removes the empty directory `victim` from the upper directory, with the whiteouts in it.
  ErrnoOr<void> RemoveUpperDir(const VfsContext& ctx, std::string_view name, OverlayInode& victim);
  ErrnoOr<void> PrepareRename(const VfsContext& ctx, OverlayInode& source, OverlayInode& to, OverlayInode* target, bool exchange);
  void SetName(OverlayInode& dir, std::string_view name);
  void Register();
  // The overlay's inode for what the layers have under `name`; `first_lower` is what the first lower layer has, if it was `asked`.
  ErrnoOr<RefPtr<OverlayInode>> Merge(const VfsContext& ctx, std::string_view name, RefPtr<Inode> first_lower, bool asked);

  RefPtr<Inode> upper_;
  std::vector<RefPtr<Inode>> lowers_;  // directories may merge several; others have one at most
  uint64_t ino_ = 0;
  RefPtr<OverlayInode> parent_;  // with name_: where a copy-up puts it
  std::string name_;
  bool named_ = true;                                                // still has that name
  std::unique_ptr<std::set<std::string, std::less<>>> lower_names_;  // what the lower layers have here; they do not change
};

class OverlayFileSystem final : public FileSystem {
 public:
  OverlayFileSystem() = default;  // for Loader
  // `upper` may be empty: then nothing can be changed. Layers are kept by their mounts.
  OverlayFileSystem(VfsPath upper, std::vector<VfsPath> lowers);
  ~OverlayFileSystem() override { DropDentries(); }

  const char* type_name() const override { return "overlay"; }
  ErrnoOr<void> StatFs(struct statfs* out) override;
  ErrnoOr<void> Sync() override;
  // No more than `levels` overlays lie on each other in `fs`. Each costs stack in every operation.
  static bool StacksWithin(const FileSystem& fs, int levels);
  static constexpr int kMaxStack = 2;  // FILESYSTEM_MAX_STACK_DEPTH

  state::Kind kind() const override { return state::Kind::kOverlayFileSystem; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 private:
  friend class OverlayInode;
  VfsPath upper_;
  std::vector<VfsPath> lowers_;
  // Overlay inodes by what they show, so that hard links in the upper layer are one file.
  std::unordered_map<const Inode*, OverlayInode*> by_real_;
};

// Whole host trees with a memory layer on top: what `sandbox do` and --overlay=memory use. `lower` is not mounted anywhere.
// What its layer in memory may take is in `limits`: 0 as for a tmpfs.
struct OverlayLimits {
  uint64_t bytes = 0;
  uint64_t inodes = 0;
};
RefPtr<FileSystem> MakeOverlayOnTmpfs(RefPtr<FileSystem> lower, const OverlayLimits& limits = {});
// For RegisterFileSystemType: lowerdir=A:B,upperdir=C,workdir=D.
ErrnoOr<RefPtr<FileSystem>> MakeOverlay(const MountArguments& arguments);

}  // namespace amber
