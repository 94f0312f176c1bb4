// Paths as system calls pass them: a directory descriptor and a string. Kernel lock held.
#pragma once

#include <string_view>

#include "sentry/base/errno_or.h"
#include "sentry/vfs/path.h"

namespace amber {

// Where `path` begins: AT_FDCWD, or the directory that `dirfd` is open on. EBADF; ENOTDIR. Absolute paths need no descriptor.
ErrnoOr<VfsPath> StartOf(Task& task, int dirfd, std::string_view path);
// Resolves `path` from `dirfd`. With `empty_path` (AT_EMPTY_PATH) an empty path means the descriptor itself: its file is
// returned in `file`, with its place, if it has one, in `path`.
ErrnoOr<Resolved> ResolveAt(Task& task, int dirfd, std::string_view path, uint32_t walk, bool empty_path = false);
// As above, where something without a place is EINVAL.
ErrnoOr<VfsPath> ResolvePlaceAt(Task& task, int dirfd, std::string_view path, uint32_t walk, bool empty_path = false);

}  // namespace amber
