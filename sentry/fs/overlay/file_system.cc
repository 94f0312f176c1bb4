// The overlay's file system object: making one, and its way through a checkpoint.
#include <linux/magic.h>

#include <algorithm>

#include "sentry/fs/overlay/overlay.h"
#include "sentry/fs/overlay/overlay.pb.h"
#include "sentry/fs/tmpfs/tmpfs.h"
#include "sentry/kernel/task.h"
#include "sentry/vfs/fs_context.h"
#include "sentry/vfs/ops.h"
#include "sentry/vfs/served.h"
#include "sentry/vfs/state_util.h"

namespace amber {
namespace {

VfsPath Unmounted(RefPtr<FileSystem> fs) {
  RefPtr<Dentry> root = fs->root();
  return {MakeRef<Mount>(std::move(fs), root, 0, ""), root};
}

// clone_private_mount(): a layer does not uncover what locked mounts hide.
ErrnoOr<void> CheckLayer(const VfsPath& layer) {
  if (layer.mount->unbindable()) return Errno(EINVAL);
  if (layer.mount->ns() == nullptr) return Ok();
  for (const Mount* m : layer.mount->ns()->Below(*layer.mount)) {
    if (m->parent() == layer.mount.get() && m->locked() && m->mountpoint()->IsBelow(*layer.dentry)) return Errno(EINVAL);
  }
  return Ok();
}

}  // namespace

OverlayFileSystem::OverlayFileSystem(VfsPath upper, std::vector<VfsPath> lowers) : upper_(std::move(upper)), lowers_(std::move(lowers)) {
  std::vector<RefPtr<Inode>> inodes;
  for (const VfsPath& l : lowers_) inodes.push_back(RefPtr<Inode>(l.inode()));
  RefPtr<Inode> upper_inode = upper_ ? RefPtr<Inode>(upper_.inode()) : nullptr;
  if (!upper_) set_read_only(true);
  SetRoot(MakeRef<OverlayInode>(this, nullptr, "", std::move(upper_inode), std::move(inodes)));
}

ErrnoOr<void> OverlayFileSystem::StatFs(struct statfs* out) {
  const VfsPath& layer = upper_ ? upper_ : lowers_[0];
  TRY(layer.mount->fs().StatFs(out));
  out->f_type = OVERLAYFS_SUPER_MAGIC;
  return Ok();
}

ErrnoOr<void> OverlayFileSystem::Sync() { return upper_ ? upper_.mount->fs().Sync() : Ok(); }

RefPtr<FileSystem> MakeOverlayOnTmpfs(RefPtr<FileSystem> lower, const OverlayLimits& limits) {
  const Attr& a = lower->root()->inode()->attr();
  auto upper = MakeRef<TmpfsFileSystem>(
      TmpfsFileSystem::Options{.size = limits.bytes, .inodes = limits.inodes, .mode = a.mode & 07777, .uid = a.uid, .gid = a.gid});
  return MakeRef<OverlayFileSystem>(Unmounted(std::move(upper)), std::vector{Unmounted(std::move(lower))});
}

ErrnoOr<RefPtr<FileSystem>> MakeOverlay(const MountArguments& arguments) {
  if (arguments.task == nullptr) return Errno(EINVAL);
  VfsContext ctx = ContextOf(*arguments.task);
  auto place = [&](std::string_view path) { return ResolvePlace(ctx, arguments.task->fs().cwd(), path, kFollowLast | kMustBeDir); };
  VfsPath upper;
  bool has_work = false;
  std::vector<VfsPath> lowers;
  for (std::string_view option : arguments.options) {
    if (option.starts_with("upperdir=")) {
      upper = TRY(place(option.substr(9)));
    } else if (option.starts_with("workdir=")) {
      TRY(place(option.substr(8)));  // not needed, but it must be there
      has_work = true;
    } else if (option.starts_with("lowerdir=")) {
      option.remove_prefix(9);
      while (!option.empty()) {
        size_t colon = std::min(option.find(':'), option.size());
        lowers.push_back(TRY(place(option.substr(0, colon))));
        option.remove_prefix(std::min(colon + 1, option.size()));
      }
    } else if (option != "userxattr" && option != "volatile" && !option.starts_with("index=") && !option.starts_with("xino=") &&
               !option.starts_with("metacopy=off") && !option.starts_with("redirect_dir=")) {
      return Errno(EINVAL);
    }
  }
  if (lowers.empty() || lowers.size() > 128 || (upper && !has_work)) return Errno(EINVAL);
  // Copy-up needs unnamed files and trusted attributes, which a tmpfs (or an overlay's own upper layer) has.
  if (upper && std::string_view(upper.mount->fs().type_name()) != "tmpfs") return Errno(EINVAL);
  if (upper) TRY(CheckLayer(upper));
  for (const VfsPath& l : lowers) {
    TRY(CheckLayer(l));
    // Copying up could not wait for a server in its middle.
    if (ServedInode::From(*l.inode()) != nullptr) return Errno(EINVAL);
    if (!OverlayFileSystem::StacksWithin(l.mount->fs(), OverlayFileSystem::kMaxStack - 1)) return Errno(EINVAL);
  }
  return RefPtr<FileSystem>(MakeRef<OverlayFileSystem>(std::move(upper), std::move(lowers)));
}

bool OverlayFileSystem::StacksWithin(const FileSystem& fs, int levels) {
  auto* overlay = dynamic_cast<const OverlayFileSystem*>(&fs);
  if (overlay == nullptr) return true;
  if (levels == 0) return false;
  if (overlay->upper_ && !StacksWithin(overlay->upper_.mount->fs(), levels - 1)) return false;
  return std::ranges::all_of(overlay->lowers_, [&](const VfsPath& l) { return StacksWithin(l.mount->fs(), levels - 1); });
}

std::string OverlayFileSystem::Save(state::Saver& saver) const {
  overlay_state::FileSystem m;
  m.set_upper_mount(saver.Ref(upper_.mount));
  m.set_upper(saver.Ref(upper_.dentry));
  for (const VfsPath& l : lowers_) {
    m.add_lower_mounts(saver.Ref(l.mount));
    m.add_lowers(saver.Ref(l.dentry));
  }
  return SaveBase(saver, m.SerializeAsString());
}

bool OverlayFileSystem::Load(state::Loader& loader, std::string_view bytes) {
  std::string specific;
  overlay_state::FileSystem m;
  if (!LoadBase(loader, bytes, &specific) || !m.ParseFromString(specific)) return false;
  upper_ = {loader.GetRef<Mount>(m.upper_mount()), loader.GetRef<Dentry>(m.upper())};
  if (static_cast<bool>(upper_.mount) != static_cast<bool>(upper_.dentry)) return false;
  if (m.lowers_size() != m.lower_mounts_size() || m.lowers_size() == 0) return false;
  for (int i = 0; i < m.lowers_size(); ++i) {
    VfsPath l{loader.GetRef<Mount>(m.lower_mounts(i)), loader.GetRef<Dentry>(m.lowers(i))};
    if (!l.mount || !l.dentry) return false;
    lowers_.push_back(std::move(l));
  }
  return true;
}

bool OverlayFileSystem::AfterLoad(state::Loader& loader) {
  return StacksWithin(*this, kMaxStack) || loader.Fail("overlays lie on each other too deep");
}

std::string OverlayInode::Save(state::Saver& saver) const {
  overlay_state::Inode m;
  m.set_base(SaveBase(saver));
  m.set_upper(saver.Ref(upper_));
  for (const RefPtr<Inode>& l : lowers_) m.add_lowers(saver.Ref(l));
  m.set_ino(ino_);
  m.set_parent(saver.Ref(parent_));
  m.set_name(name_);
  m.set_named(named_);
  return m.SerializeAsString();
}

bool OverlayInode::Load(state::Loader& loader, std::string_view bytes) {
  overlay_state::Inode m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())) || !LoadBase(loader, m.base())) return false;
  if (dynamic_cast<OverlayFileSystem*>(&fs()) == nullptr) return loader.Fail("an inode is in the wrong file system");
  upper_ = loader.GetRef<Inode>(m.upper());
  for (uint64_t id : m.lowers()) {
    RefPtr<Inode> l = loader.GetRef<Inode>(id);
    if (!l) return false;
    lowers_.push_back(std::move(l));
  }
  if (!upper_ && lowers_.empty()) return loader.Fail("an overlay inode has no layer");
  ino_ = m.ino();
  parent_ = loader.GetRef<OverlayInode>(m.parent());
  name_ = m.name();
  named_ = m.named();
  Register();
  return true;
}

bool OverlayInode::AfterLoad(state::Loader& loader) {
  size_t depth = 0;
  for (const OverlayInode* i = this; i != nullptr; i = i->parent_.get()) {
    if (++depth > 1'000'000) return loader.Fail("a directory tree has no root");
  }
  // With the limit of the stack: no inode shows itself.
  auto belongs = [](const RefPtr<Inode>& inode, const VfsPath& layer) { return layer.mount && &inode->fs() == &layer.mount->fs(); };
  bool right = !upper_ || belongs(upper_, overlay().upper_);
  for (const RefPtr<Inode>& l : lowers_) {
    right &= std::ranges::any_of(overlay().lowers_, [&](const VfsPath& layer) { return belongs(l, layer); });
  }
  if (!right) return loader.Fail("an overlay inode is of another layer");
  if (!upper_ && named_ && !parent_) return this == fs().root()->inode() || loader.Fail("an overlay inode has no directory");
  return true;
}

}  // namespace amber
