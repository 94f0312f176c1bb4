// seccomp(2) in the life of a call: what a task's own filters say of it.
#pragma once

namespace amber {

class Task;

// The filters' answer has ended the call (or the task): its handler must not run. Kernel lock; the task is in the call.
// `Task::EnterCall` asks once a call, on every path by which one comes: notified, trapped with its frame, posted on the fast path. What the host
// executes by itself (futex without a time-out, sched_yield, rt_sigreturn) is not seen by filters.
class SeccompGate {
 public:
  // False if the call was answered.
  static bool Pass(Task& task);
};

}  // namespace amber
