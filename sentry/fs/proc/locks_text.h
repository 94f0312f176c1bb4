// Locks on files as /proc/locks and /proc/PID/fdinfo tell them (fs/locks.c, lock_get_status()).
#pragma once

#include <string>

#include "sentry/base/errno_or.h"

namespace amber {

class File;
class Task;

// Of /proc/PID/fdinfo: what `file`, or the process that `target` is of, holds on what the file is open on.
std::string FdLocksText(Task& target, File& file);
// /proc/locks: what is held by processes that the reader's pid namespace shows.
ErrnoOr<std::string> LocksText(Task& reader, Task* target);

}  // namespace amber
