// Mappings that grow downwards by themselves (MAP_GROWSDOWN, the stack below what exec mapped), when a thread touches what lies below them. Kernel lock.
#pragma once

#include <cstdint>
#include <optional>

#include "sentry/mm/vma.h"
#include "sentry/platform/platform.h"

namespace amber {

class Task;

// What a fault of `task` adds to a mapping (expand_downwards() of mm/mmap.c); none if it is a fault like others.
std::optional<Vma> StackGrowth(Task& task, const platform::Fault& fault);
// What of the stack that exec mapped whole lies beyond a limit of `limit` bytes and was never touched: a new RLIMIT_STACK takes it away. [start, end)
struct UnusedStack {
  uint64_t start = 0, end = 0;
};
UnusedStack StackBeyond(Task& task, uint64_t limit);

}  // namespace amber
