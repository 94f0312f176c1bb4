// What read-like and write-like calls share: blocking, partial progress, checks. Kernel lock held.
#pragma once

#include <cstdint>

#include "sentry/base/errno_or.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/vfs/file.h"
#include "sentry/vfs/io.h"

namespace amber {

class Task;

inline constexpr uint64_t kMaxRwCount = 0x7ffff000;

// The file at `fd`, open for reading or writing; EBADF.
ErrnoOr<RefPtr<File>> ReadableFile(Task& task, int fd);
ErrnoOr<RefPtr<File>> WritableFile(Task& task, int fd);
// read(2): blocks if the file is blocking and `nowait` is false.
ErrnoOr<uint64_t> ReadFile(Task& task, File& file, Sink& sink, bool nowait = false);
// write(2): a blocking stream takes everything, over as many rounds as it needs. `source` starts at the call's first byte in each round.
ErrnoOr<uint64_t> WriteFile(Task& task, File& file, Source& source, bool nowait = false);

// Task::BlockOn() for reading or writing calls. On a socket with SO_RCVTIMEO or SO_SNDTIMEO it ends when that time is over (the
// handler then sees syscall().timed_out), and a signal's handler ends it whether it has SA_RESTART or not (sock_intr_errno()).
Errno BlockForIo(Task& task, File& file, uint32_t events);

}  // namespace amber
