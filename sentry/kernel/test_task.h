// For unit tests of kernel objects: a kernel without a platform, and tasks without programs.
//
// The test body holds the kernel lock for as long as the fixture lives; timers do not run meanwhile.
#pragma once

#if __has_feature(address_sanitizer)
#include <sanitizer/lsan_interface.h>
#endif

#include "sentry/kernel/cgroup.h"
#include "sentry/kernel/credentials.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/task_lifecycle.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/uts_namespace.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/fs_context.h"
#include "sentry/vfs/mount.h"

namespace amber {

class TestTask {
 public:
  TestTask() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    kernel_.Boot();
    kernel_.mu().Lock();
    pids_ = MakeRef<PidNamespace>();
    kernel_.AddPidNamespace(pids_);
    task_ = New();
  }
  ~TestTask() ABSL_NO_THREAD_SAFETY_ANALYSIS { kernel_.mu().Unlock(); }

  Kernel& kernel() { return kernel_; }
  Task& task() { return *task_; }
  // What the last handler that was called by hand waits for, if it does.
  void EndBlock() { task_->EndBlock(); }
  // Another process of the same pid namespace.
  RefPtr<Task> New() {
#if __has_feature(address_sanitizer)
    // It never exits, which would break the ring of it and its process.
    __lsan::ScopedDisabler not_a_leak;
#endif
    NewProcess what;
    what.pids = pids_;
    what.uts = MakeRef<UtsNamespace>();
    what.mounts = MakeRef<MountNamespace>();
    what.fs = MakeRef<FsContext>();
    what.files = MakeRef<FdTable>();
    auto creds = MakeRef<Credentials>();
    creds->permitted = creds->effective = kAllCapabilities;
    what.creds = std::move(creds);
    return std::move(kernel_.lifecycle().NewProcessTask(std::move(what))).value();
  }

 private:
  Kernel kernel_;
  RefPtr<PidNamespace> pids_;
  RefPtr<Task> task_;
};

}  // namespace amber
