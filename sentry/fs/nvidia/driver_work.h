// Threads on which guests' calls wait in a GPU's driver, which may hold one for as long as it likes, so that no thread waits there that others need: one
// that receives calls, the timers', the control server's. A process can be killed meanwhile; its call ends when the driver lets go of it.
//
// One per kernel, for ever. Kernel lock, but for what is given to it: that runs on a thread of its own and without locks. A freeze waits until nothing
// is under way, so that a checkpoint may take the proxy's locks with the kernel's held. Lock order: the kernel's, then mu_.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace amber {

class Kernel;

class DriverWork {
 public:
  using Job = std::function<void()>;
  explicit DriverWork(Kernel& kernel) : kernel_(kernel) {}
  DriverWork(const DriverWork&) = delete;
  DriverWork& operator=(const DriverWork&) = delete;

  // A call of a process (nvproxy::Session::process), then `done` with the kernel lock held. It begins when all that the process closed before is closed: what
  // that gave back it must be able to have. For what others closed it waits a moment only, since a child's end is heard of before the driver's part of it.
  // False if the host has no thread for it.
  bool Call(uint64_t process, Job call, Job done);
  // Closes a file of the process's. One after the other.
  void Close(uint64_t process, Job close) { Add(process, std::move(close), false); }
  // The same when the process has ended, and makes no calls any more: after its last one.
  void End(uint64_t process, Job end) { Add(process, std::move(end), true); }
  bool HasCalls(uint64_t process);
  // Calls and files.
  int under_way() const { return under_way_; }

 private:
  struct Closing {
    Job job;
    bool last;
    uint64_t id;
  };
  struct Process {
    int calls = 0;
    bool closes = false;  // a thread closes its files
    std::deque<Closing> files;
  };
  // Of a file that is not closed yet.
  struct Unclosed {
    uint64_t process;
    absl::Time patience;  // of others
  };

  void Begin();
  void Finish(const Job& done);
  void Add(uint64_t process, Job job, bool last);
  // `before`: the first of those that were closed later.
  void RunCall(uint64_t process, uint64_t before, const Job& call, const Job& done);
  void RunCloses(uint64_t process);
  void AwaitClosed(uint64_t process, uint64_t before);
  // Has a thread close what may be closed, and forgets a process that nothing is left of.
  void Consider(uint64_t process) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Room for a further thread is always left for closing, which others wait for.
  bool HasWork() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Wake() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  static void* Main(void* work);
  void Loop();

  Kernel& kernel_;
  int under_way_ = 0;

  absl::Mutex mu_;
  absl::CondVar wake_, closed_;
  std::deque<Job> calls_ ABSL_GUARDED_BY(mu_), closes_ ABSL_GUARDED_BY(mu_);  // for the next idle thread
  int threads_ ABSL_GUARDED_BY(mu_) = 0, idle_ ABSL_GUARDED_BY(mu_) = 0, calling_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t next_ ABSL_GUARDED_BY(mu_) = 1;
  std::map<uint64_t, Process> processes_ ABSL_GUARDED_BY(mu_);
  std::map<uint64_t, Unclosed> unclosed_ ABSL_GUARDED_BY(mu_);  // by Closing::id
};

}  // namespace amber
