// Control groups of the first version, inside this folder.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "sentry/fs/cgroup/cgroup_fs.h"

namespace amber {

std::span<const CgroupEntry> FirstVersionEntries();
std::span<const CgroupEntry> FirstVersionMemoryEntries();

// The root of the tree that mount options name for a task, made if there is none. EINVAL: they make no sense; EBUSY: a controller is in another tree;
// EPERM: only those in the container's own cgroup namespace make trees.
ErrnoOr<RefPtr<Cgroup>> TreeForMount(Task& task, const std::vector<std::string>& options);
// The same at a container's set-up, where `unified` is the root of the second version.
ErrnoOr<RefPtr<Cgroup>> TreeOf(Cgroup& unified, const std::vector<std::string>& options);
// What /proc/mounts shows of it: ",cpu,cpuacct,name=x".
std::string TreeOptions(const Cgroup& root);

}  // namespace amber
