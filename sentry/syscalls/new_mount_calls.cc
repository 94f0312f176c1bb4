// The new mount calls: fsopen(2), fsconfig(2), fsmount(2), fspick(2), open_tree(2), move_mount(2), mount_setattr(2).
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <sys/resource.h>

#include <algorithm>

#include "sentry/fs/mountfd/mountfd.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/task.h"
#include "sentry/landlock/landlock.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/mount_checks.h"
#include "sentry/syscalls/table.h"
#include "sentry/vfs/at.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/fs_context.h"
#include "sentry/vfs/propagation.h"
#include "sentry/vfs/vfs_file.h"

namespace amber {
namespace {

constexpr uint64_t kOpenTree = 428, kMoveMount = 429, kFsOpen = 430, kFsConfig = 431, kFsMount = 432, kFsPick = 433;
constexpr uint64_t kMountSetattr = 442, kOpenTreeAttr = 467;
constexpr unsigned kAtRecursive = 0x8000;
constexpr unsigned kWalkFlags = AT_EMPTY_PATH | AT_NO_AUTOMOUNT | AT_SYMLINK_NOFOLLOW;

// may_mount().
bool MayMount(const Task& task) { return task.creds().HasIn(task.mounts().owner(), CAP_SYS_ADMIN); }

// What a mount may be told (struct mount_attr).
struct MountAttr {
  uint64_t set, clear, propagation, userns_fd;
};
constexpr uint64_t kSettable =
    MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC | MOUNT_ATTR__ATIME | MOUNT_ATTR_NODIRATIME | MOUNT_ATTR_NOSYMFOLLOW;

// MOUNT_ATTR_* as MS_*.
ErrnoOr<uint32_t> FlagsOf(uint64_t attr) {
  uint32_t flags = 0;
  if ((attr & MOUNT_ATTR_RDONLY) != 0) flags |= MS_RDONLY;
  if ((attr & MOUNT_ATTR_NOSUID) != 0) flags |= MS_NOSUID;
  if ((attr & MOUNT_ATTR_NODEV) != 0) flags |= MS_NODEV;
  if ((attr & MOUNT_ATTR_NOEXEC) != 0) flags |= MS_NOEXEC;
  if ((attr & MOUNT_ATTR_NODIRATIME) != 0) flags |= MS_NODIRATIME;
  if ((attr & MOUNT_ATTR_NOSYMFOLLOW) != 0) flags |= kNoSymFollow;
  switch (attr & MOUNT_ATTR__ATIME) {
    case MOUNT_ATTR_RELATIME: flags |= MS_RELATIME; break;
    case MOUNT_ATTR_NOATIME: flags |= MS_NOATIME; break;
    case MOUNT_ATTR_STRICTATIME: break;
    default: return Errno(EINVAL);
  }
  return flags;
}

ErrnoOr<uint64_t> Install(Task& task, RefPtr<File> file, bool close_on_exec) {
  return uint64_t(TRY(task.files().Allocate(std::move(file), close_on_exec, task.limit(RLIMIT_NOFILE))));
}

// A place from a descriptor and a path, either of which may be the whole answer.
ErrnoOr<Resolved> PlaceOf(Task& task, int dirfd, UserPtr<const char> path_p, bool follow, bool empty) {
  std::string path = TRY(task.CopyInString(path_p, 4096));
  Resolved r = TRY(ResolveAt(task, dirfd, path, follow ? kFollowLast : 0, empty));
  if (!r.path) return Errno(EINVAL);
  return r;
}

ErrnoOr<uint64_t> FsOpen(Task& task, UserPtr<const char> name, unsigned flags) {
  if (!MayMount(task)) return Errno(EPERM);
  if ((flags & ~unsigned{FSOPEN_CLOEXEC}) != 0) return Errno(EINVAL);
  std::string type = TRY(task.CopyInString(name, 4096));
  bool known = false;
  for (const std::string& t : FileSystemTypes()) known |= t == type;
  if (!known) return Errno(ENODEV);
  // What the root of a user namespace may mount (FS_USERNS_MOUNT).
  constexpr std::string_view kForAll[] = {"proc", "sysfs", "tmpfs", "ramfs", "devpts", "mqueue", "overlay", "cgroup", "cgroup2", "fuse"};
  bool for_all = std::ranges::find(kForAll, type) != std::end(kForAll) && task.creds().HasOwn(CAP_SYS_ADMIN);
  if (!for_all && !task.Has(CAP_SYS_ADMIN)) return Errno(EPERM);
  return Install(task, MakeRef<FsConfigFile>(std::move(type)), (flags & FSOPEN_CLOEXEC) != 0);
}

ErrnoOr<RefPtr<FsConfigFile>> GetContext(Task& task, int fd) {
  RefPtr<File> file = TRY(task.files().Get(fd));
  auto* context = dynamic_cast<FsConfigFile*>(file.get());
  if (context == nullptr) return Errno(EINVAL);
  return RefPtr<FsConfigFile>(context);
}

ErrnoOr<uint64_t> FsConfig(Task& task, int fd, unsigned command, UserPtr<const char> key_p, uint64_t value, int aux) {
  constexpr unsigned kCreateExclusive = 8;  // FSCONFIG_CMD_CREATE_EXCL
  if (fd < 0) return Errno(EINVAL);
  if (command > kCreateExclusive) return Errno(EOPNOTSUPP);
  bool parameter = command <= FSCONFIG_SET_FD;
  if (parameter && key_p.is_null()) return Errno(EINVAL);
  if (!parameter && (!key_p.is_null() || value != 0 || aux != 0)) return Errno(EINVAL);
  if (command == FSCONFIG_SET_FLAG && (value != 0 || aux != 0)) return Errno(EINVAL);
  if (command == FSCONFIG_SET_STRING && (value == 0 || aux != 0)) return Errno(EINVAL);
  RefPtr<FsConfigFile> context = TRY(GetContext(task, fd));
  std::string key;
  if (parameter) key = TRY(task.CopyInString(key_p, 256));
  switch (command) {
    case FSCONFIG_SET_FLAG: TRY(context->Set(task, key, nullptr)); return 0;
    case FSCONFIG_SET_STRING: {
      std::string text = TRY(task.CopyInString(UserPtr<const char>(value), 256));
      TRY(context->Set(task, key, &text));
      return 0;
    }
    case FSCONFIG_SET_FD: {
      TRY(task.files().GetAny(aux));
      // Only FUSE has such a parameter: its connection.
      if (key != "fd" || !context->type().starts_with("fuse")) return Errno(EINVAL);
      TRY(task.files().Get(aux));
      std::string number = std::to_string(aux);
      TRY(context->Set(task, key, &number));
      return 0;
    }
    case FSCONFIG_SET_BINARY:
    case FSCONFIG_SET_PATH:
    case FSCONFIG_SET_PATH_EMPTY: return Errno(EINVAL);  // no type here has such a parameter
    case FSCONFIG_CMD_CREATE:
    case kCreateExclusive:
      if (!MayMount(task)) return Errno(EPERM);
      TRY(context->Create(task));
      return 0;
    default:
      if (!MayMount(task)) return Errno(EPERM);
      TRY(context->Reconfigure(task));
      return 0;
  }
}

ErrnoOr<uint64_t> FsMount(Task& task, int fd, unsigned flags, unsigned attributes) {
  if (!MayMount(task)) return Errno(EPERM);
  if ((flags & ~unsigned{FSMOUNT_CLOEXEC}) != 0 || (attributes & ~kSettable) != 0) return Errno(EINVAL);
  uint32_t mount_flags = TRY(FlagsOf(attributes));
  RefPtr<FsConfigFile> context = TRY(GetContext(task, fd));
  RefPtr<FileSystem> fs = TRY(context->Take());
  uint32_t locked;
  TRY(CheckRevealing(task, *fs, mount_flags, &locked));
  RefPtr<MountNamespace> tree = NewTree(std::move(fs), mount_flags, context->source().empty() ? "none" : context->source());
  tree->root().mount->LockFlags(locked);
  auto file = MakeRef<MountFile>(std::move(tree));
  return Install(task, std::move(file), (flags & FSMOUNT_CLOEXEC) != 0);
}

ErrnoOr<uint64_t> FsPick(Task& task, int dirfd, UserPtr<const char> path, unsigned flags) {
  if (!MayMount(task)) return Errno(EPERM);
  if ((flags & ~unsigned{FSPICK_CLOEXEC | FSPICK_SYMLINK_NOFOLLOW | FSPICK_NO_AUTOMOUNT | FSPICK_EMPTY_PATH}) != 0) return Errno(EINVAL);
  Resolved r = TRY(PlaceOf(task, dirfd, path, (flags & FSPICK_SYMLINK_NOFOLLOW) == 0, (flags & FSPICK_EMPTY_PATH) != 0));
  if (!r.path.is_mount_root()) return Errno(EINVAL);
  return Install(task, MakeRef<FsConfigFile>(r.path.mount->fs_ref()), (flags & FSPICK_CLOEXEC) != 0);
}

// --- attributes ---

// Checks `attr`, then applies it to the mounts; none is changed if something is wrong.
ErrnoOr<void> SetAttributes(Task& task, const File* tree, const VfsPath& place, const MountAttr& attr, bool recursive) {
  if (!MayMount(task)) return Errno(EPERM);
  if (((attr.set | attr.clear) & ~(kSettable | MOUNT_ATTR_IDMAP)) != 0) return Errno(EINVAL);
  uint64_t propagation = attr.propagation;
  if ((propagation & ~uint64_t{MS_SHARED | MS_PRIVATE | MS_SLAVE | MS_UNBINDABLE}) != 0) return Errno(EINVAL);
  if ((propagation & (propagation - 1)) != 0) return Errno(EINVAL);
  // The modes of access times are values, not bits: whoever sets one clears all of them.
  if ((attr.clear & MOUNT_ATTR__ATIME) != 0 && (attr.clear & MOUNT_ATTR__ATIME) != MOUNT_ATTR__ATIME) return Errno(EINVAL);
  if ((attr.set & MOUNT_ATTR__ATIME) != 0 && (attr.clear & MOUNT_ATTR__ATIME) == 0) return Errno(EINVAL);
  if (((attr.set | attr.clear) & MOUNT_ATTR_IDMAP) != 0) return Errno(EINVAL);  // no file system here can be id-mapped
  if (!place.is_mount_root()) return Errno(EINVAL);
  bool access_times = (attr.clear & MOUNT_ATTR__ATIME) != 0;
  uint32_t set = TRY(FlagsOf(attr.set)), clear = TRY(FlagsOf(attr.clear & ~uint64_t{MOUNT_ATTR__ATIME}));
  constexpr uint32_t kTimes = MS_RELATIME | MS_NOATIME;
  if (!access_times) set &= ~kTimes;
  clear = access_times ? clear | kTimes : clear & ~kTimes;
  std::vector<Mount*> all = {place.mount.get()};
  for (size_t i = 0; recursive && i < all.size(); ++i) {
    if (place.mount->ns() == nullptr) break;
    for (Mount* m : place.mount->ns()->All()) {
      if (m->parent() == all[i]) all.push_back(m);
    }
  }
  // Only in the own namespace, or in a tree that is in none.
  bool detached = dynamic_cast<const MountFile*>(tree) != nullptr;
  for (Mount* m : all) {
    if (!detached && m->ns() != &task.mounts()) return Errno(EINVAL);
    if ((m->locked_flags() & clear & ~set) != 0) return Errno(EPERM);
    if ((set & ~m->flags() & MS_RDONLY) != 0 && m->writers() > 0) return Errno(EBUSY);  // mount_setattr_prepare()
  }
  for (Mount* m : all) {
    m->set_flags((m->flags() & ~clear) | set);
    if (propagation != 0) m->SetPropagation(propagation);
  }
  if (!all.empty()) NoteMountChange(all[0]->ns());
  return Ok();
}

ErrnoOr<MountAttr> CopyInAttr(Task& task, UserPtr<const MountAttr> p, uint64_t size) {
  if (size > 4096) return Errno(E2BIG);
  if (size < sizeof(MountAttr)) return Errno(EINVAL);
  std::vector<uint8_t> bytes(size);
  TRY(task.CopyInBytes(p.address(), bytes.data(), size));
  for (size_t i = sizeof(MountAttr); i < size; ++i) {
    if (bytes[i] != 0) return Errno(E2BIG);
  }
  MountAttr attr;
  memcpy(&attr, bytes.data(), sizeof(attr));
  return attr;
}

ErrnoOr<uint64_t> MountSetattr(Task& task, int dirfd, UserPtr<const char> path, unsigned flags, UserPtr<const MountAttr> attr_p, uint64_t size) {
  if ((flags & ~(kWalkFlags | kAtRecursive)) != 0) return Errno(EINVAL);
  MountAttr attr = TRY(CopyInAttr(task, attr_p, size));
  if (!MayMount(task)) return Errno(EPERM);
  if (attr.set == 0 && attr.clear == 0 && attr.propagation == 0) return 0;
  Resolved r = TRY(PlaceOf(task, dirfd, path, (flags & AT_SYMLINK_NOFOLLOW) == 0, (flags & AT_EMPTY_PATH) != 0));
  TRY(SetAttributes(task, r.file.get(), r.path, attr, (flags & kAtRecursive) != 0));
  return 0;
}

// --- trees ---

ErrnoOr<RefPtr<File>> MakeTree(Task& task, int dirfd, UserPtr<const char> path, unsigned flags) {
  constexpr unsigned kCloexec = O_CLOEXEC;
  if ((flags & ~(kWalkFlags | kAtRecursive | OPEN_TREE_CLONE | kCloexec)) != 0) return Errno(EINVAL);
  bool clone = (flags & OPEN_TREE_CLONE) != 0;
  if ((flags & kAtRecursive) != 0 && !clone) return Errno(EINVAL);
  if (clone && !MayMount(task)) return Errno(EPERM);
  Resolved r = TRY(PlaceOf(task, dirfd, path, (flags & AT_SYMLINK_NOFOLLOW) == 0, (flags & AT_EMPTY_PATH) != 0));
  if (!clone) return RefPtr<File>(MakeRef<PathFile>(r.path, O_PATH));
  if (r.path.mount->ns() != &task.mounts()) return Errno(EINVAL);
  return RefPtr<File>(MakeRef<MountFile>(TRY(CloneTree(r.path, (flags & kAtRecursive) != 0))));
}

ErrnoOr<uint64_t> OpenTree(Task& task, int dirfd, UserPtr<const char> path, unsigned flags) {
  return Install(task, TRY(MakeTree(task, dirfd, path, flags)), (flags & unsigned{O_CLOEXEC}) != 0);
}

ErrnoOr<uint64_t> OpenTreeAttr(Task& task, int dirfd, UserPtr<const char> path, unsigned flags, UserPtr<const MountAttr> attr_p, uint64_t size) {
  if (attr_p.is_null() && size != 0) return Errno(EINVAL);
  RefPtr<File> file = TRY(MakeTree(task, dirfd, path, flags));
  if (!attr_p.is_null()) {
    TRY(SetAttributes(task, file.get(), *file->path(), TRY(CopyInAttr(task, attr_p, size)), (flags & kAtRecursive) != 0));
  }
  return Install(task, std::move(file), (flags & unsigned{O_CLOEXEC}) != 0);
}

ErrnoOr<uint64_t> MoveMountCall(Task& task, int from_fd, UserPtr<const char> from_path, int to_fd, UserPtr<const char> to_path, unsigned flags) {
  constexpr unsigned kSetGroup = 0x100, kBeneath = 0x200;
  if (!MayMount(task) || LandlockRuleset::RestrictsFiles(task.extras().landlock.get())) return Errno(EPERM);
  if ((flags & ~unsigned{MOVE_MOUNT__MASK | kSetGroup | kBeneath}) != 0) return Errno(EINVAL);
  if ((flags & (kSetGroup | kBeneath)) != 0) return Errno(EINVAL);
  Resolved from = TRY(PlaceOf(task, from_fd, from_path, (flags & MOVE_MOUNT_F_SYMLINKS) != 0, (flags & MOVE_MOUNT_F_EMPTY_PATH) != 0));
  Resolved to = TRY(PlaceOf(task, to_fd, to_path, (flags & MOVE_MOUNT_T_SYMLINKS) != 0, (flags & MOVE_MOUNT_T_EMPTY_PATH) != 0));
  MountNamespace* ns = to.path.mount->ns();
  if (!from.path.is_mount_root() || ns != &task.mounts()) return Errno(EINVAL);
  if (auto* tree = dynamic_cast<MountFile*>(from.file.get()); tree != nullptr && tree->tree() != nullptr) {
    if (tree->tree() == ns) return Errno(ELOOP);
    TRY(CheckNamespaceLoops(*tree->tree()->root().mount, to.path));
    TRY(tree->MoveTo(*ns, to.path));
    return 0;
  }
  if (from.path.mount->ns() != ns || from.path.mount->locked()) return Errno(EINVAL);
  TRY(CheckNamespaceLoops(*from.path.mount, to.path));
  TRY(ns->Move(*from.path.mount, to.path));
  return 0;
}

}  // namespace

void RegisterNewMountCalls(SyscallTable& table) {
  constexpr const char* kNoIdMaps = "no id-mapped mounts";
  table.Set(kFsOpen, Full<&FsOpen>());
  table.Set(kFsConfig, Full<&FsConfig>());
  table.Set(kFsMount, Full<&FsMount>());
  table.Set(kFsPick, Full<&FsPick>());
  table.Set(kOpenTree, Full<&OpenTree>());
  table.Set(kOpenTreeAttr, Partial<&OpenTreeAttr>(kNoIdMaps));
  table.Set(kMountSetattr, Partial<&MountSetattr>(kNoIdMaps));
  table.Set(kMoveMount, Partial<&MoveMountCall>("no MOVE_MOUNT_SET_GROUP, no MOVE_MOUNT_BENEATH"));
}

}  // namespace amber
