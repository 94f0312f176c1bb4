// Times as system calls carry them. All results are nanoseconds, checked and saturating.
#pragma once

#include <sys/time.h>
#include <time.h>

#include <cstdint>

#include "sentry/base/errno_or.h"
#include "sentry/base/user_ptr.h"

namespace amber {

class Kernel;
class Task;

// A relative or absolute time; EINVAL unless 0 <= tv_nsec < 10^9 and tv_sec >= 0. Beyond 292 years it is kNever.
ErrnoOr<int64_t> ToNanoseconds(const timespec& ts);
ErrnoOr<int64_t> ToNanoseconds(const timeval& tv);
timespec ToTimespec(int64_t ns);

ErrnoOr<int64_t> CopyInDuration(Task& task, UserPtr<const timespec> p);
// Guest monotonic time `duration` from now; kNever stays kNever.
int64_t DeadlineAfter(Task& task, int64_t duration);
// Guest monotonic time for an absolute time of `clock` (CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME and their kin).
int64_t DeadlineAt(Task& task, clockid_t clock, int64_t absolute);
// An absolute time of `clock` in the terms of the kernel, whose clocks are those of the initial time namespace (timens_ktime_to_host); kNever
// stays kNever, and what lies before those began is 0.
int64_t ToKernelTime(const Task& task, clockid_t clock, int64_t absolute);
// The guest's reading of `clock`; EINVAL for unknown ones, ESRCH for a dead task's.
ErrnoOr<int64_t> ReadClock(Task& task, clockid_t clock);

}  // namespace amber
