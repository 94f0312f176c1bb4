// Moves bytes between an inode's host descriptor and guest memory.
#pragma once

#include <cstdint>

#include "sentry/base/errno_or.h"
#include "sentry/vfs/inode.h"
#include "sentry/vfs/io.h"

namespace amber {

// Reads from `offset` until the sink is full or the file ends. A short count if something fails half-way. `touch`: the file's time of
// access may advance.
ErrnoOr<size_t> ReadData(Inode& data, Sink& sink, uint64_t offset, bool touch = true);
// Writes at most `limit` bytes of the source at `offset`, after PrepareWrite().
ErrnoOr<size_t> WriteData(Inode& data, Source& source, uint64_t offset, uint64_t limit = UINT64_MAX);

// Buffers of the calling thread, for bounces: neither allocated nor cleared for each call.
struct BounceBuffer {
  static constexpr size_t kSize = 128 * 1024;
  // Between a host file and a sink or source. ReadData() and WriteData() use it.
  static uint8_t* Get();
  // For who reads one file and writes another, either of which may use the one above.
  static uint8_t* GetOuter();
};

// All of `size` bytes to a host file of the sentry's own.
ErrnoOr<void> WriteAll(int fd, const void* bytes, size_t size, uint64_t offset);

// Whole contents to a descriptor at the same offsets, holes kept. For copy-up.
ErrnoOr<void> CopyContents(Inode& from, int to, uint64_t size);

}  // namespace amber
