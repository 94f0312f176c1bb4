// Accounting that comes when the host has reaped a process (platform/reaped.h), some 100 us after its end: asking for it before costs two files of
// /proc at each exec and exit, 40 us.
//
// Only for host processes that used less than a tick of processor time, of which SIGCHLD tells nothing (si_utime, si_stime). Until it is there it is
// counted nowhere but in CPU clocks, and calls that ask for it wait (AwaitUsage). A checkpoint in between loses it: faults, context switches, less than a
// tick. Kernel lock.
#pragma once

#include <vector>

#include "sentry/base/errno_or.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/kernel/wait_queue.h"

namespace amber {

class Task;
class ThreadGroup;
struct LateUsage;

// What a process still expects, of host processes of its own and of children that it has waited for. Part of its GroupExtras.
class ExpectedUsage {
 public:
  ExpectedUsage();
  ~ExpectedUsage();
  bool empty() const { return late_.empty(); }
  // Notified with POLLIN when nothing more is expected.
  WaitQueue& queue() { return queue_; }

 private:
  friend struct LateUsage;
  friend bool TakeUsageLater(ThreadGroup& group);
  friend void HandOnUsage(ThreadGroup& child, ThreadGroup& parent);

  std::vector<RefPtr<LateUsage>> late_;
  WaitQueue queue_;
};

// The host process of `group` is about to end. True if its accounting will be added to that of `group` when it is there (its base, and of a zombie what its
// parent sees); false if the caller should take it now.
bool TakeUsageLater(ThreadGroup& group);
// `parent` has waited for `child`: what that expects is added to the children's usage.
void HandOnUsage(ThreadGroup& child, ThreadGroup& parent);
// Before a call of `task` tells the usage of `whose`: an error means that the call waits for it, and is to end with that.
ErrnoOr<void> AwaitUsage(Task& task, ThreadGroup& whose);

}  // namespace amber
