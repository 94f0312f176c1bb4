// The part of seccomp(2) that prctl(2) has, too.
#pragma once

#include <cstdint>

#include "sentry/base/errno_or.h"

namespace amber {

class Task;

// prctl(PR_SET_SECCOMP).
ErrnoOr<uint64_t> PrctlSetSeccomp(Task& task, uint64_t mode, uint64_t program);

}  // namespace amber
