// Whether anything may be written below a mount: what would change something asks before it looks for what it would change.
#pragma once

#include <cerrno>

#include "sentry/base/errno_or.h"
#include "sentry/vfs/mount.h"

namespace amber {

// mnt_want_write() of fs/namespace.c: EROFS where the mount is read-only, or its file system.
inline ErrnoOr<void> WantWrite(const Mount& mount) {
  if (mount.read_only()) return Errno(EROFS);
  return Ok();
}

}  // namespace amber
