// Mounts: mount(2), umount2(2), pivot_root(2).
#include <fcntl.h>
#include <linux/capability.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <optional>

#include "sentry/fs/nsfs/nsfs.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/landlock/landlock.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/mount_checks.h"
#include "sentry/syscalls/table.h"
#include "sentry/vfs/at.h"
#include "sentry/vfs/fs_context.h"
#include "sentry/vfs/propagation.h"
#include "sentry/vfs/reconfigure.h"
#include "sentry/vfs/served.h"

namespace amber {
namespace {

constexpr uint64_t kPropagation = MS_SHARED | MS_PRIVATE | MS_SLAVE | MS_UNBINDABLE;

ErrnoOr<VfsPath> PlaceOf(Task& task, UserPtr<const char> path, uint32_t walk = kFollowLast) {
  return ResolvePlaceAt(task, AT_FDCWD, TRY(task.CopyInString(path, 4096)), walk);
}

// Mounts of other namespaces, which a descriptor may lead to, are not the caller's to change (check_mnt).
ErrnoOr<MountNamespace*> OwnNamespace(const Task& task, const VfsPath& where) {
  if (where.mount->ns() != &task.mounts()) return Errno(EINVAL);
  return where.mount->ns();
}

// may_mount().
bool MayMount(const Task& task) { return task.creds().HasIn(task.mounts().owner(), CAP_SYS_ADMIN); }
// A landlock domain that says something about files freezes the tree (hook_sb_mount() and its kin).
bool RestrictedHere(const Task& task) { return LandlockRuleset::RestrictsFiles(task.extras().landlock.get()); }

// mount_capable(): what the root of a user namespace may mount (FS_USERNS_MOUNT).
bool MayMountType(const Task& task, std::string_view type) {
  if (task.Has(CAP_SYS_ADMIN)) return true;
  constexpr std::string_view kTypes[] = {"proc", "sysfs", "tmpfs", "ramfs", "devpts", "mqueue", "overlay", "cgroup", "cgroup2", "fuse"};
  return std::ranges::find(kTypes, type) != std::end(kTypes) && task.creds().HasOwn(CAP_SYS_ADMIN);
}

// The option string of mount(2): a page at most, up to its NUL.
ErrnoOr<std::vector<std::string>> CopyInOptions(Task& task, UserPtr<const char> data) {
  std::vector<std::string> options;
  if (data.is_null()) return options;
  std::string all = TRY(task.CopyInString(data, 4096));
  for (size_t at = 0; at < all.size();) {
    size_t comma = std::min(all.find(',', at), all.size());
    if (comma > at) options.push_back(all.substr(at, comma - at));
    at = comma + 1;
  }
  return options;
}

// Those that are the file system's own. The last of "ro" and "rw" is told.
std::vector<std::string> OwnOptions(std::vector<std::string> options, std::optional<bool>* read_only) {
  std::erase_if(options, [&](const std::string& option) {
    if (option == "ro" || option == "rw") *read_only = option == "ro";
    return IsCommonMountFlag(option);
  });
  return options;
}

ErrnoOr<uint64_t> Remount(Task& task, const VfsPath& where, uint64_t flags, UserPtr<const char> data) {
  if (!where.is_mount_root()) return Errno(EINVAL);
  TRY(OwnNamespace(task, where));
  uint32_t next = static_cast<uint32_t>(flags) & kMountFlags;
  std::vector<std::string> options;
  std::optional<bool> read_only;
  if ((flags & MS_BIND) == 0) options = OwnOptions(TRY(CopyInOptions(task, data)), &read_only);
  if (read_only == true) flags |= MS_RDONLY, next |= MS_RDONLY;
  if ((where.mount->locked_flags() & ~next & where.mount->flags()) != 0) return Errno(EPERM);
  // The file system itself is its owner's alone.
  if ((flags & MS_BIND) == 0 && task.creds().user_ns && !where.mount->fs().owned_within(task.creds().user_ns.get())) return Errno(EPERM);
  // mnt_make_readonly(), sb_prepare_remount_readonly()
  if ((next & MS_RDONLY) != 0) {
    bool bind = (flags & MS_BIND) != 0;
    int writers = bind ? where.mount->writers() : Mount::WritersOf(where.mount->fs());
    bool already = bind ? (where.mount->flags() & MS_RDONLY) != 0 : where.mount->fs().read_only();
    if (writers > 0 && !already) return Errno(EBUSY);
  }
  auto* changeable = (flags & MS_BIND) == 0 ? dynamic_cast<Reconfigurable*>(&where.mount->fs()) : nullptr;
  if (changeable != nullptr) TRY(changeable->Reconfigure(task, options));
  where.mount->set_flags(next);
  NoteMountChange(where.mount->ns());
  // Without MS_BIND the file system itself becomes read-only or writable.
  if ((flags & MS_BIND) == 0) where.mount->fs().set_read_only((flags & MS_RDONLY) != 0);
  return uint64_t{0};
}

// do_change_type().
ErrnoOr<uint64_t> ChangePropagation(Task& task, const VfsPath& where, uint64_t flags) {
  uint64_t type = flags & kPropagation;
  if ((flags & ~(kPropagation | MS_REC | MS_SILENT)) != 0 || (type & (type - 1)) != 0) return Errno(EINVAL);
  if (!where.is_mount_root()) return Errno(EINVAL);
  MountNamespace* ns = TRY(OwnNamespace(task, where));
  std::vector<Mount*> all = (flags & MS_REC) != 0 ? ns->Below(*where.mount) : std::vector<Mount*>{where.mount.get()};
  for (Mount* m : all) m->SetPropagation(type);
  return uint64_t{0};
}

ErrnoOr<uint64_t> BindMount(Task& task, UserPtr<const char> source, const VfsPath& where, uint64_t flags) {
  // do_loopback() asks for a name first.
  if (source.is_null()) return Errno(EINVAL);
  std::string from_name = TRY(task.CopyInString(source, 4096));
  if (from_name.empty()) return Errno(EINVAL);
  MountNamespace* ns = TRY(OwnNamespace(task, where));
  Resolved what = TRY(ResolveAt(task, AT_FDCWD, from_name, kFollowLast, false));
  if (what.file) {
    // Of what has no place only a namespace can be given one.
    NsFile* file = NsFile::From(*what.file);
    if (file == nullptr) return Errno(EINVAL);
    TRY(CheckNamespaceLoop(file->ref(), where));
    auto fs = MakeRef<NsFileSystem>(file->ref());
    RefPtr<Dentry> root = fs->root();
    TRY(ns->Attach(MakeRef<Mount>(std::move(fs), std::move(root), 0, "nsfs"), where));
    return uint64_t{0};
  }
  const VfsPath& from = what.path;
  if (from.mount->ns() != ns && std::string_view(from.mount->fs().type_name()) != "nsfs") return Errno(EINVAL);
  if (const NsRef* held = NamespaceBehind(*from.mount); held != nullptr) TRY(CheckNamespaceLoop(*held, where));
  TRY(ns->Bind(from, where, (flags & MS_REC) != 0, from.mount->flags()));
  return uint64_t{0};
}

ErrnoOr<uint64_t> MoveMount(Task& task, UserPtr<const char> source, const VfsPath& where) {
  if (source.is_null()) return Errno(EINVAL);
  std::string name = TRY(task.CopyInString(source, 4096));
  if (name.empty()) return Errno(EINVAL);
  VfsPath from = TRY(ResolvePlaceAt(task, AT_FDCWD, name, kFollowLast));
  if (!from.is_mount_root() || from.mount->locked()) return Errno(EINVAL);
  TRY(CheckNamespaceLoops(*from.mount, where));
  TRY(TRY(OwnNamespace(task, where))->Move(*from.mount, where));
  return uint64_t{0};
}

ErrnoOr<uint64_t> NewMount(Task& task, UserPtr<const char> source, UserPtr<const char> type, const VfsPath& where, uint64_t flags,
                           UserPtr<const char> data) {
  if (type.is_null()) return Errno(EINVAL);
  std::string type_name = TRY(task.CopyInString(type, 4096));
  // get_fs_type(), FS_HAS_SUBTYPE: of "fuse.sshfs" the kernel knows the first part; the rest is shown.
  std::string subtype;
  if (size_t dot = type_name.find('.'); dot != std::string::npos) {
    subtype = type_name.substr(dot + 1);
    type_name.resize(dot);
    if (type_name != "fuse" && type_name != "fuseblk") return Errno(ENODEV);
    if (subtype.empty()) return Errno(EINVAL);
  }
  std::vector<std::string> known = FileSystemTypes();
  if (std::ranges::find(known, type_name) == known.end()) return Errno(ENODEV);
  if (!MayMountType(task, type_name)) return Errno(EPERM);
  MountArguments arguments{.kernel = &task.kernel(), .task = &task, .source = "none"};
  if (!source.is_null()) arguments.source = TRY(task.CopyInString(source, 4096));
  std::optional<bool> read_only;
  arguments.options = OwnOptions(TRY(CopyInOptions(task, data)), &read_only);
  if (!subtype.empty()) arguments.options.push_back("subtype=" + subtype);
  MountNamespace* ns = TRY(OwnNamespace(task, where));
  RefPtr<FileSystem> fs = TRY(MakeFileSystem(type_name, arguments));
  if (task.creds().user_ns && !fs->owner()) fs->set_owner(task.creds().user_ns);
  if (read_only == true) fs->set_read_only(true);
  uint32_t locked;
  TRY(CheckRevealing(task, *fs, static_cast<uint32_t>(flags), &locked));
  RefPtr<Dentry> root = fs->root();
  auto mount = MakeRef<Mount>(std::move(fs), std::move(root), static_cast<uint32_t>(flags), arguments.source);
  mount->LockFlags(locked);
  TRY(ns->Attach(std::move(mount), where));
  return uint64_t{0};
}

ErrnoOr<uint64_t> MountCall(Task& task, UserPtr<const char> source, UserPtr<const char> target, UserPtr<const char> type, uint64_t flags,
                            UserPtr<const char> data) {
  if ((flags & MS_MGC_MSK) == MS_MGC_VAL) flags &= ~static_cast<uint64_t>(MS_MGC_MSK);
  if ((flags & MS_NOUSER) != 0) return Errno(EINVAL);
  VfsPath where = TRY(PlaceOf(task, target));
  if (!MayMount(task) || RestrictedHere(task)) return Errno(EPERM);
  if ((flags & MS_REMOUNT) != 0) return Remount(task, where, flags, data);
  if ((flags & MS_BIND) != 0) return BindMount(task, source, where, flags);
  if ((flags & kPropagation) != 0) {
    return ChangePropagation(task, where, flags);
  }
  if ((flags & MS_MOVE) != 0) return MoveMount(task, source, where);
  return NewMount(task, source, type, where, flags, data);
}

ErrnoOr<uint64_t> Umount2(Task& task, UserPtr<const char> target, int flags) {
  constexpr int kNoFollow = 8;
  if ((flags & ~(MNT_FORCE | MNT_DETACH | MNT_EXPIRE | kNoFollow)) != 0) return Errno(EINVAL);
  VfsPath place = TRY(PlaceOf(task, target, (flags & kNoFollow) != 0 ? 0 : kFollowLast));
  if (!MayMount(task)) return Errno(EPERM);  // Before anything is said of the place (can_umount).
  // What was mounted over the working directory is meant by ".", too (handle_lookup_down).
  if (place.mount->ns() != nullptr) place.mount->ns()->CrossDown(&place);
  if (!place.is_mount_root()) return Errno(EINVAL);
  if (RestrictedHere(task)) return Errno(EPERM);
  MountNamespace* ns = TRY(OwnNamespace(task, place));
  if (place.mount->locked()) return Errno(EINVAL);
  if ((flags & MNT_EXPIRE) != 0 && (flags & (MNT_FORCE | MNT_DETACH)) != 0) return Errno(EINVAL);  // do_umount()
  if (place.mount->parent() == nullptr) return Errno(EBUSY);
  if (auto* served = dynamic_cast<ServedFileSystem*>(&place.mount->fs())) {
    bool busy = served->Busy();
    if ((flags & MNT_FORCE) != 0) served->Abort();
    if (busy && (flags & MNT_DETACH) == 0) return Errno(EBUSY);
  }
  if ((flags & MNT_EXPIRE) != 0) {
    // do_umount(): one that is not used is marked first and goes the next time, unless it was used in between. (Here: a file was opened. Linux
    // counts every path that was walked there.)
    if (place.mount == task.fs().root().mount) return Errno(EINVAL);
    if (place.mount->ref_count() > 2 || ns->Below(*place.mount).size() > 1) return Errno(EBUSY);
    if (!place.mount->expires()) {
      place.mount->set_expires(true);
      return Errno(EAGAIN);
    }
  }
  TRY(ns->Detach(*place.mount, (flags & MNT_DETACH) != 0, 1));
  return uint64_t{0};
}

// Everybody in the namespace who is at the old root moves to the new one (chroot_fs_refs()).
void MoveRoots(Kernel& kernel, const VfsPath& from, const VfsPath& to) {
  for (const RefPtr<ThreadGroup>& group : kernel.groups()) {
    for (const RefPtr<Task>& t : group->tasks()) {
      if (t->exiting()) continue;
      if (t->fs().root() == from) t->fs().set_root(to);
      if (t->fs().cwd() == from) t->fs().set_cwd(to);
    }
  }
}

ErrnoOr<uint64_t> PivotRoot(Task& task, UserPtr<const char> new_root, UserPtr<const char> put_old) {
  if (!MayMount(task) || RestrictedHere(task)) return Errno(EPERM);
  VfsPath fresh = TRY(PlaceOf(task, new_root, kFollowLast | kMustBeDir));
  VfsPath old_place = TRY(PlaceOf(task, put_old, kFollowLast | kMustBeDir));
  // "." and descriptors lead to a place that may be covered: the old root comes on top of all (lock_mount()).
  if (MountNamespace* there = old_place.mount->ns(); there != nullptr) there->CrossDown(&old_place);
  if (old_place.dentry->unlinked()) return Errno(ENOENT);
  VfsPath root = task.fs().root();
  MountNamespace* ns = TRY(OwnNamespace(task, fresh));
  if (fresh.mount == root.mount || old_place.mount == root.mount) return Errno(EBUSY);
  auto shared = [](const Mount* m) { return m != nullptr && m->peers() != nullptr; };
  if (shared(old_place.mount.get()) || shared(fresh.mount->parent()) || shared(root.mount->parent())) return Errno(EINVAL);
  if (fresh.mount->locked() || root.mount->ns() != ns) return Errno(EINVAL);
  if (!root.is_mount_root() || !fresh.is_mount_root() || !(root == ns->root())) return Errno(EINVAL);
  // put_old must be reachable from new_root.
  if (old_place.mount == fresh.mount && !old_place.dentry->IsBelow(*fresh.dentry)) return Errno(EINVAL);
  bool below = false;
  for (const Mount* m = old_place.mount.get(); m != nullptr; m = m->parent()) below |= m == fresh.mount.get();
  if (!below) return Errno(EINVAL);
  TRY(ns->Pivot(fresh, old_place));
  MoveRoots(task.kernel(), root, fresh);
  return uint64_t{0};
}

}  // namespace

void RegisterMountCalls(SyscallTable& table) {
  table.Set(SYS_mount, Full<&MountCall>());
  table.Set(SYS_umount2, Full<&Umount2>());
  table.Set(SYS_pivot_root, Full<&PivotRoot>());
  RegisterHandleCalls(table);
  RegisterFileFlagCalls(table);
  RegisterCacheCalls(table);
}

}  // namespace amber
