#include "sentry/syscalls/mount_checks.h"

#include <sched.h>
#include <sys/mount.h>

#include <set>
#include <string_view>
#include <vector>

#include "sentry/kernel/task.h"

namespace amber {
namespace {

// A mount on one of sysfs's directories that exist to be mounted on hides nothing (sysfs_create_mount_point).
bool HidesNothing(const Mount& child) {
  const Dentry& place = *child.mountpoint();
  return std::string_view(place.fs().type_name()) == "sysfs" && place.name() == "cgroup" && place.parent() != nullptr &&
         place.parent()->name() == "fs";
}

bool ShowsAll(const Mount& mount, const std::vector<Mount*>& all) {
  for (const Mount* m : all) {
    if (m->parent() == &mount && m->locked() && !HidesNothing(*m)) return false;
  }
  return true;
}

}  // namespace

ErrnoOr<void> CheckRevealing(const Task& task, const FileSystem& fs, uint32_t flags, uint32_t* locked) {
  std::string_view type = fs.type_name();
  *locked = 0;
  if (task.mounts().owner() == nullptr || (type != "proc" && type != "sysfs")) return Ok();
  std::vector<Mount*> all = task.mounts().All();
  for (const Mount* m : all) {
    if (m->fs().type_name() != type || !m->root()->is_root()) continue;
    uint32_t keep = (m->locked_flags() | (m->fs().read_only() ? uint32_t{MS_RDONLY} : 0u)) & MS_RDONLY;
    if ((keep & ~flags) != 0 || !ShowsAll(*m, all)) continue;
    *locked = keep;
    return Ok();
  }
  return Errno(EPERM);
}

const NsRef* NamespaceBehind(const Mount& mount) {
  const auto* inode = dynamic_cast<const NsInode*>(mount.root()->inode());
  return inode != nullptr ? &inode->ref() : nullptr;
}

namespace {

// EINVAL if one of `todo` holds `here`, over whatever its mounts hold.
ErrnoOr<void> CheckHeld(const MountNamespace* here, std::vector<const Namespace*> todo) {
  std::set<const Namespace*> met;
  while (!todo.empty()) {
    const Namespace* next = todo.back();
    todo.pop_back();
    if (next == here) return Errno(EINVAL);
    if (!met.insert(next).second) continue;
    for (const Mount* m : static_cast<const MountNamespace*>(next)->All()) {
      const NsRef* held = NamespaceBehind(*m);
      if (held != nullptr && held->type == CLONE_NEWNS) todo.push_back(held->ns.get());
    }
  }
  return Ok();
}

}  // namespace

ErrnoOr<void> CheckNamespaceLoop(const NsRef& ns, VfsPath where) {
  MountNamespace* here = where.mount->ns();
  if (ns.type != CLONE_NEWNS || here == nullptr) return Ok();
  here->CrossDown(&where);
  if (where.mount->peers() != nullptr) return Errno(EINVAL);
  return CheckHeld(here, {ns.ns.get()});
}

ErrnoOr<void> CheckNamespaceLoops(Mount& top, const VfsPath& where) {
  if (top.ns() == nullptr || where.mount->ns() == nullptr) return Ok();
  if (const NsRef* held = NamespaceBehind(top); held != nullptr) TRY(CheckNamespaceLoop(*held, where));
  std::vector<const Namespace*> all;
  for (const Mount* m : top.ns()->Below(top)) {
    const NsRef* held = m->fs().is_mount_namespace() ? NamespaceBehind(*m) : nullptr;
    if (held != nullptr) all.push_back(held->ns.get());
  }
  return CheckHeld(where.mount->ns(), std::move(all));
}

}  // namespace amber
