// Opening files, below the system calls: open(2), openat2(2). Kernel lock held.
#pragma once

#include <cstdint>
#include <string_view>

#include "sentry/base/errno_or.h"
#include "sentry/vfs/file.h"
#include "sentry/vfs/inode.h"
#include "sentry/vfs/mount.h"

namespace amber {

struct OpenHow {
  int flags = 0;      // O_*
  uint32_t mode = 0;  // for O_CREAT and O_TMPFILE
  uint32_t walk = 0;  // restrictions of openat2: WalkFlag
  uint32_t umask = 0;
};

// May return kBlocked (a fifo waits for its other end).
ErrnoOr<RefPtr<File>> OpenPath(const VfsContext& ctx, const VfsPath& start, std::string_view path, const OpenHow& how);
// Opens a place that is known already (magic links, open by handle). Checks permissions.
ErrnoOr<RefPtr<File>> OpenPlace(const VfsContext& ctx, const VfsPath& path, int flags);
// Opens what is no symbolic link as dentry_open() does: only what Landlock allows, whatever the permissions, and nobody is told.
ErrnoOr<RefPtr<File>> OpenUntold(const VfsContext& ctx, const VfsPath& path, int flags);

}  // namespace amber
