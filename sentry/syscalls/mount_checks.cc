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

ErrnoOr<void> CheckNamespaceLoop(const NsRef& ns, VfsPath where, bool top) {
  MountNamespace* here = where.mount->ns();
  if (ns.type != CLONE_NEWNS || here == nullptr) return Ok();
  here->CrossDown(&where);
  if (top && where.mount->peers() != nullptr) return Errno(EINVAL);
  // Whether `ns` holds us, over whatever its mounts hold.
  std::set<const Namespace*> met;
  std::vector<const Namespace*> todo = {ns.ns.get()};
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

ErrnoOr<void> CheckNamespaceLoops(Mount& top, const VfsPath& where) {
  if (top.ns() == nullptr) return Ok();
  for (const Mount* m : top.ns()->Below(top)) {
    if (const NsRef* held = NamespaceBehind(*m); held != nullptr) TRY(CheckNamespaceLoop(*held, where, m == &top));
  }
  return Ok();
}

}  // namespace amber
