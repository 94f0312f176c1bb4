// splice(2) and tee(2) between files and positions that the caller has in hand.
#pragma once

#include <cstdint>
#include <optional>

#include "sentry/base/errno_or.h"
#include "sentry/base/ref_ptr.h"

namespace amber {

class File;
class Task;

// Bytes moved; may Block(). `flags`: SPLICE_F_*, checked. An offset of a pipe: ESPIPE. Kernel lock held.
ErrnoOr<uint64_t> SpliceFiles(Task& task, RefPtr<File> in, std::optional<uint64_t> in_offset, RefPtr<File> out, std::optional<uint64_t> out_offset,
                              uint64_t size, uint32_t flags);
ErrnoOr<uint64_t> TeeFiles(Task& task, RefPtr<File> in, RefPtr<File> out, uint64_t size, uint32_t flags);

}  // namespace amber
