// Fills a container's /dev.
#pragma once

#include <cstdint>
#include <string_view>

#include "sentry/base/errno_or.h"
#include "sentry/vfs/mount.h"

namespace amber {

// In the directory `dev`: the nodes and links that every container gets (OCI runtime specification, "Default Devices"), and
// the directories pts, shm and mqueue. What is there already stays. Kernel lock held.
ErrnoOr<void> PopulateDev(const VfsContext& ctx, const VfsPath& dev);

}  // namespace amber
