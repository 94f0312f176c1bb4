// Builds the host processes and threads of loaded tasks: the last step of a restore, after state::Loader::Run().
//
// A value on the restoring thread's stack. Called with the kernel lock held (released while the host works) and the kernel frozen: the tasks
// end up stopped and held, as Freeze() leaves them, and Kernel::Thaw() lets them go on. Tasks that were in a call execute it again.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "sentry/base/ref_ptr.h"
#include "sentry/mm/pages.h"
#include "sentry/platform/platform.h"

namespace amber {

class Container;
class Kernel;
class MemoryManager;
class Task;
class ThreadGroup;

class TaskRestore {
 public:
  struct Options {
    int image_fd = -1;
    // Where the image keeps the memory of an address space.
    std::function<std::vector<ImageRun>(const MemoryManager& mm)> runs;
    // Ranges whose pages are brought in at once, start and end, since somebody will touch all of them soon. May be null.
    std::function<std::vector<std::pair<uint64_t, uint64_t>>(const MemoryManager& mm)> fill;
  };
  TaskRestore(Kernel& kernel, Options options) : kernel_(kernel), options_(std::move(options)) {}

  // What else the runtime does with tasks for checkpoints. Kernel lock held.
  static void SetContainer(Task& task, Container* container);
  // A task that Kernel::Freeze() still waits for, or null.
  static Task* NotHeld(const Kernel& kernel);

  // "" or why it failed; then the caller gives up the sandbox: what was built is killed.
  std::string Build();

 private:
  using Tasks = std::vector<RefPtr<Task>>;
  // The live tasks of the processes that share an address space; those of one process stand together, and the first process is not a vfork child.
  std::vector<Tasks> BySpace();
  std::string BuildSpace(const Tasks& tasks);
  // The plan of the first task's process.
  std::string MakePlan(Task& task, platform::ExecPlan* plan);
  std::string ReadCopies(const std::vector<ImageRun>& copies, platform::ExecPlan* plan);
  // A host call or operation in the task's thread; `result` may be null.
  std::string RunOp(Task& task, platform::StubOp op, int64_t* result);
  // Options::fill. What the host does not want to bring in comes when it is touched.
  std::string FillMemory(Task& task);
  // Contexts of userfaultfd of the task's memory, before anything runs in it.
  std::string WatchMemory(Task& task);
  // Before other threads are made.
  std::string TrapNativeCalls(Task& task);
  // A further thread beside `maker`, or with `new_process` a process that shares its memory.
  std::string AddThread(Task& maker, Task& task, bool new_process);
  static void Adopt(Task& task, platform::Thread& thread, bool clears_tid);
  void KillAll();

  Kernel& kernel_;
  Options options_;
};

}  // namespace amber
