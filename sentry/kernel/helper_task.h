// A task that makes calls on another one's behalf while that one does something else (Linux: an io_uring worker).
//
// It runs the ordinary handlers with the ordinary Block(): a call that waits is run again when it may go on. It has no thread, is in no process's
// list, takes no signals (what a call sends to itself goes to the one that it helps), and holds the other one's memory, files and credentials
// only while a handler runs, so that it keeps nothing alive. Guarded by the kernel lock.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "sentry/base/ref_ptr.h"
#include "sentry/kernel/task.h"

namespace amber {

// For an owner whose calls have operations done by a guest's thread, which a helper has none of.
class OperationsOwner {
 public:
  // `done` is to be called with the results, with the kernel lock held, once some thread of the same memory has run `ops`; `helper` is kept until then.
  virtual void OnOperations(RefPtr<Task> helper, std::vector<platform::StubOp> ops, std::function<void(std::span<const int64_t>)> done) = 0;

 protected:
  ~OperationsOwner() = default;
};

class HelperTask {
 public:
  HelperTask(Kernel& kernel, CallOwner& owner);
  // No callback comes after this.
  ~HelperTask();
  HelperTask(const HelperTask&) = delete;
  HelperTask& operator=(const HelperTask&) = delete;

  using Handler = std::function<ErrnoOr<uint64_t>(Task&)>;
  // Runs `handler` for `other`, with `files` as its descriptors. What comes of it is told by the owner's OnDone(), inside or later; this object and
  // its owner may be gone then.
  // `creds`: other credentials than it has now.
  void Run(Task& other, RefPtr<FdTable> files, const Handler& handler, RefPtr<const Credentials> creds = {});
  // From an image: OnReady() follows once tasks run.
  void RunAfterThaw();
  // True if a call waits.
  bool waits() const { return task_->call_ == Task::Call::kBlocked; }

  // The call's arguments and progress.
  SyscallState& call() { return task_->syscall_; }

  // Task::StopForOps() of a helper. Owners that are no OperationsOwner make no such calls.
  static void PassOperations(Task& helper, std::vector<platform::StubOp> ops, std::function<void(std::span<const int64_t>)> done);

  // How many helpers have gone on since the kernel last had nothing left to do. Those that wake each other, by what they tell, must end when it is many:
  // until then nobody else gets the kernel lock.
  static uint32_t& runs_in_a_row();
  static constexpr uint32_t kManyRuns = 4096;

 private:
  RefPtr<Task> task_;
};

}  // namespace amber
