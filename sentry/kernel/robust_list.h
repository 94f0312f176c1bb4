// Robust futexes: what a dying task held (kernel/futex/core.c, exit_robust_list()).
#pragma once

#include <vector>

#include "sentry/platform/platform.h"

namespace amber {

class Task;

// Walks the robust list of `task`, which exits or executes a program, and forgets it. Words in shared memory are told at once. For those in
// private memory operations are added to `ops`, for the task's own thread to run before it goes; without `ops` its whole process goes:
// the words are written, and native waiters of another process that shares the memory (CLONE_VM) are not woken. Kernel lock.
void WalkRobustList(Task& task, std::vector<platform::StubOp>* ops);

}  // namespace amber
