// The kernel lock given back for host I/O in the middle of a call. A freeze waits for it to end, even if the task is killed meanwhile: what the host is
// doing for it belongs to the state that a checkpoint saves.
#pragma once

#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task_lifecycle.h"

namespace amber {

class Away {
 public:
  explicit Away(Kernel& kernel) ABSL_NO_THREAD_SAFETY_ANALYSIS : kernel_(kernel) {
    kernel_.lifecycle().BeginAway();
    kernel_.mu().Unlock();
  }
  ~Away() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    kernel_.mu().Lock();
    kernel_.lifecycle().EndAway();
  }
  Away(const Away&) = delete;
  Away& operator=(const Away&) = delete;

 private:
  Kernel& kernel_;
};

}  // namespace amber
