// What poll, select and epoll_wait share: time-outs and the signal mask for the time of the wait.
#pragma once

#include <time.h>

#include "sentry/base/errno_or.h"
#include "sentry/base/user_ptr.h"
#include "sentry/kernel/clock.h"
#include "sentry/kernel/signal.h"
#include "sentry/syscalls/time_util.h"

namespace amber {

class Task;

// A relative time-out in ns; kNever for a null pointer. EINVAL for a malformed one.
ErrnoOr<int64_t> CopyInTimeout(Task& task, UserPtr<const timespec> p);
// What is left until the call's deadline, at least 0.
int64_t RemainingTime(Task& task);
// Installs the mask at `p`, if any, until the call ends. EINVAL for a size that is not the kernel's.
ErrnoOr<void> SwapMask(Task& task, UserPtr<const SignalSet> p, uint64_t size);

}  // namespace amber
