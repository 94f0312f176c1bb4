// Long reads of files on the host: the guest's own thread makes them.
//
// The sentry can only copy twice: from the file to a buffer, and from there to another process, page by page. From some hundred KiB on it is cheaper
// to give the thread the descriptor for the time of one pread(2) (docs/decisions/053-long-reads.md).
#pragma once

#include <cstdint>
#include <optional>

#include "sentry/base/errno_or.h"
#include "sentry/vfs/file.h"

namespace amber {

class Task;

inline constexpr uint64_t kLongRead = 384 << 10;

// Reads up to `size` bytes into guest memory at `address`, from `offset` or, without one, from the file's position, which it moves. Nothing if this file,
// this place in it, or this task is none for which that is done: then the caller reads as ever. The file may be read (permission, fanotify), the range
// is one of guest addresses. The handler returns what this returns.
std::optional<ErrnoOr<uint64_t>> ReadDirectly(Task& task, RefPtr<File> file, uint64_t address, uint64_t size, std::optional<uint64_t> offset);

}  // namespace amber
