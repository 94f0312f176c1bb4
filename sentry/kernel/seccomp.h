// seccomp(2) in the life of a call: what a task's own filters say of it.
#pragma once

#include <cstdint>
#include <optional>

#include "sentry/base/errno_or.h"

namespace amber {

class Task;

// The filters' answer has ended the call (or the task): its handler must not run. Kernel lock; the task is in the call.
// `Task::EnterCall` asks once a call, on every path by which one comes: notified, trapped with its frame, posted on the fast path. What the host
// executes by itself (futex without a time-out, sched_yield) comes here for tasks whose filters want to see it (TaskExtras::WantsNativeCalls).
class SeccompGate {
 public:
  // False if the call was answered, or its tracer sees it first; `after_trace`: it has seen it (recheck_after_trace). A call that waits for
  // a listener is passed: its extras then have a notification, and Await() is to be asked before the handler runs.
  static bool Pass(Task& task, bool after_trace = false);
  // The answer of a listener: a result, or none if the call is to be made.
  static std::optional<ErrnoOr<uint64_t>> Await(Task& task);
};

}  // namespace amber
