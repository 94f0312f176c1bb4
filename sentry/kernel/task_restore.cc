#include "sentry/kernel/task_restore.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/time_namespace.h"
#include "sentry/loader/loader.h"
#include "sentry/loader/vdso/vdso.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/mm/userfault.h"
#include "sentry/vfs/exec_open.h"

namespace amber {
namespace {

std::string Describe(const Task& task, std::string_view what, Errno error) {
  return absl::StrCat("process ", task.pid(), " (", task.name(), "): ", what, ": ", strerrordesc_np(error.number()));
}

}  // namespace

std::vector<TaskRestore::Tasks> TaskRestore::BySpace() {
  std::map<MemoryManager*, std::vector<RefPtr<ThreadGroup>>> users;
  for (const RefPtr<ThreadGroup>& group : kernel_.groups()) {
    for (const RefPtr<Task>& t : group->tasks()) {
      if (t->exiting_) continue;
      users[t->mm_.get()].push_back(group);
      break;
    }
  }
  std::vector<Tasks> spaces;
  for (auto& [mm, groups] : users) {
    Tasks tasks;
    // A vfork child runs on its parent's memory: the parent makes it.
    for (bool vforked : {false, true}) {
      for (const RefPtr<ThreadGroup>& g : groups) {
        if (g->leader()->vfork_pending_ != vforked) continue;
        for (const RefPtr<Task>& t : g->tasks()) {
          if (!t->exiting_) tasks.push_back(t);
        }
      }
    }
    spaces.push_back(std::move(tasks));
  }
  return spaces;
}

std::string TaskRestore::Build() {
  loader::Vdso* vdso = loader::SharedVdso(kernel_.platform().host_vdso_base());
  if (vdso == nullptr) return "cannot make the sandbox's vDSO";
  vdso->SetOffsets(kernel_.clocks().monotonic_offset(), kernel_.clocks().boottime_offset());
  for (const RefPtr<Task>& t : kernel_.LiveTasks()) {
    if (t->saved_frame_ == nullptr || !t->mm_) return absl::StrCat("task ", t->tid(), " has no registers or memory");
    // From here on as Freeze() leaves a task: whatever wakes it makes it run after Thaw().
    t->held_ = true;
  }
  for (const Tasks& tasks : BySpace()) {
    std::string error = BuildSpace(tasks);
    if (error.empty()) continue;
    KillAll();
    return error;
  }
  return "";
}

std::string TaskRestore::ReadCopies(const std::vector<ImageRun>& copies, platform::ExecPlan* plan) {
  for (const ImageRun& run : copies) {
    // A read of the host's has a limit of 2 GiB.
    constexpr uint64_t kPart = 64 << 20;
    for (uint64_t at = run.start; at < run.end; at += kPart) {
      std::string bytes(std::min(kPart, run.end - at), 0);
      if (pread(options_.image_fd, bytes.data(), bytes.size(), static_cast<off_t>(run.image_offset + (at - run.start))) !=
          static_cast<ssize_t>(bytes.size())) {
        return "cannot read the image";
      }
      plan->writes.push_back({at, std::move(bytes)});
    }
  }
  return "";
}

std::string TaskRestore::MakePlan(Task& task, platform::ExecPlan* plan) {
  MemoryManager& mm = *task.mm_;
  loader::Vdso* vdso = loader::SharedVdso(0);
  RestoreSources sources;
  sources.image_fd = options_.image_fd;
  sources.vdso_fd = vdso->image_fd();
  sources.vdso_params_fd = VdsoParamsFd(task.extras().time.get(), kernel_.clocks());
  sources.vdso_size = loader::Vdso::ImageSize();
  sources.map_file = [&task](const Vma& vma) {
    return vma.file->Map(task, vma.offset, vma.size(), vma.shared ? vma.max_prot : vma.prot, vma.shared);
  };
  std::vector<ImageRun> copies;
  auto ops = RestoreOps(mm, options_.runs(mm), sources, &copies);
  if (!ops.ok()) return Describe(task, "its memory cannot be mapped", ops.error());
  plan->ops = *std::move(ops);
  plan->frame = task.saved_frame_->frame;
  plan->xstate = task.saved_frame_->xstate;
  plan->fast_areas = mm.FastAreas();
  return ReadCopies(copies, plan);
}

std::string TaskRestore::BuildSpace(const Tasks& tasks) {
  Task& first = *tasks.front();
  platform::ExecPlan plan;
  if (std::string error = MakePlan(first, &plan); !error.empty()) return error;
  ErrnoOr<platform::Thread*> thread = Errno(EAGAIN);
  {
    KernelUnlock unlock(kernel_);
    thread = kernel_.platform().Exec(plan);
  }
  if (!thread.ok()) return Describe(first, "its memory cannot be built", thread.error());
  Adopt(first, **thread, false);
  if (first.mm_->exe()) MarkRunning(*first.mm_->exe());
  first.mm_->Attach(RefPtr<platform::AddressSpace>(&(*thread)->space()));
  if (std::string error = FillMemory(first); !error.empty()) return error;
  if (std::string error = WatchMemory(first); !error.empty()) return error;
  if (first.clear_child_tid_ != 0) {
    if (std::string error = RunOp(first, {SYS_set_tid_address, {first.clear_child_tid_}}, nullptr); !error.empty()) return error;
    first.clear_child_tid_native_ = true;
  }
  // Threads inherit it when they are made, so that all have the same filters of the host.
  if (std::ranges::any_of(tasks, [](const RefPtr<Task>& t) { return t->extras().WantsNativeCalls(); })) {
    if (std::string error = TrapNativeCalls(first); !error.empty()) return error;
    for (const RefPtr<Task>& t : tasks) t->extras().traps_native = true;
  }
  Task* maker = &first;
  for (size_t i = 1; i < tasks.size(); ++i) {
    Task& task = *tasks[i];
    bool new_process = &task.group() != &maker->group();
    if (std::string error = AddThread(*maker, task, new_process); !error.empty()) return error;
    if (new_process) maker = &task;
  }
  return "";
}

std::string TaskRestore::RunOp(Task& task, platform::StubOp op, int64_t* result) {
  // Shared with the callback, which may come late if the process dies meanwhile.
  struct Made {
    absl::Notification done;
    int64_t result = -EAGAIN;
  };
  auto made = std::make_shared<Made>();
  {
    KernelUnlock unlock(kernel_);
    task.thread_->RunOps({op}, [made](std::span<const int64_t> results) {
      if (!results.empty()) made->result = results[0];
      made->done.Notify();
    });
    if (!made->done.WaitForNotificationWithTimeout(absl::Seconds(10))) return absl::StrCat("thread ", task.tid(), " did not start");
  }
  if (result != nullptr) *result = made->result;
  return "";
}

std::string TaskRestore::WatchMemory(Task& task) {
  auto run = [this, &task](const platform::StubOp& op) -> ErrnoOr<int64_t> {
    int64_t result = 0;
    if (!RunOp(task, op, &result).empty()) return Errno(EAGAIN);
    return result;
  };
  for (UserfaultContext* context : Userfaults::Of(*task.mm_)) {
    ErrnoOr<void> made = context->MakeAgain(task, run);
    if (!made.ok()) return Describe(task, "the host does not watch its memory (userfaultfd)", made.error());
  }
  return "";
}

std::string TaskRestore::FillMemory(Task& task) {
  // So much at a time that no operation takes long.
  constexpr uint64_t kPart = 256 << 20;
  if (!options_.fill) return "";
  for (auto [start, end] : options_.fill(*task.mm_)) {
    for (const Vma& vma : task.mm_->vmas().Slice(start, end)) {
      // What is missing in registered memory stays so.
      if (vma.shared || (vma.prot & PROT_WRITE) == 0 || (vma.flags & kUffdBits) != 0) continue;
      for (uint64_t at = vma.start; at < vma.end; at += kPart) {
        platform::StubOp op = MemoryManager::Op(SYS_madvise, at, std::min(kPart, vma.end - at), MADV_POPULATE_WRITE);
        int64_t result;
        if (std::string error = RunOp(task, op, &result); !error.empty()) return error;
        if (result != 0) return "";
      }
    }
  }
  return "";
}

std::string TaskRestore::TrapNativeCalls(Task& task) {
  int64_t result = 0;
  if (std::string error = RunOp(task, platform::TrapNativeCallsOp(false), &result); !error.empty()) return error;
  if (result != 0) return Describe(task, "its filter cannot be set up", Errno(static_cast<int>(-result)));
  return "";
}

std::string TaskRestore::AddThread(Task& maker, Task& task, bool new_process) {
  platform::Thread::CloneOptions options;
  options.new_process = new_process;
  options.frame = task.saved_frame_->frame;
  options.clear_child_tid = task.clear_child_tid_;
  // Shared with the callback, which may come late if the process dies meanwhile.
  struct Made {
    absl::Notification done;
    ErrnoOr<platform::Thread*> thread = Errno(EAGAIN);
  };
  auto made = std::make_shared<Made>();
  {
    KernelUnlock unlock(kernel_);
    maker.thread_->Clone(options, [made](ErrnoOr<platform::Thread*> thread) {
      made->thread = thread;
      made->done.Notify();
    });
    if (!made->done.WaitForNotificationWithTimeout(absl::Seconds(10))) return absl::StrCat("thread ", task.tid(), " did not start");
  }
  if (!made->thread.ok()) return Describe(task, "a thread cannot be made", made->thread.error());
  platform::Thread& thread = **made->thread;
  std::vector<uint8_t> xstate = task.saved_frame_->xstate;
  Adopt(task, thread, task.clear_child_tid_ != 0);
  if (!xstate.empty()) {
    ErrnoOr<void> set = thread.set_xstate(xstate);
    if (!set.ok()) return Describe(task, "its registers do not fit this machine", set.error());
  }
  return "";
}

void TaskRestore::Adopt(Task& task, platform::Thread& thread, bool clears_tid) {
  task.thread_ = &thread;
  thread.cookie = &task;
  task.where_ = Task::Where::kStopped;
  task.clear_child_tid_native_ = clears_tid;
  task.saved_frame_.reset();
  task.extras_->ApplyAffinity(task);
}

void TaskRestore::SetContainer(Task& task, Container* container) { task.container_ = container; }

Task* TaskRestore::NotHeld(const Kernel& kernel) {
  for (const RefPtr<Task>& t : kernel.LiveTasks()) {
    if (!t->held_ && t->thread_ != nullptr) return t.get();
  }
  return nullptr;
}

void TaskRestore::KillAll() {
  for (const RefPtr<Task>& t : kernel_.LiveTasks()) {
    if (t->thread_ == nullptr) continue;
    t->thread_->cookie = nullptr;
    t->thread_->space().KillProcess(*t->thread_);
    t->thread_->Release();
    t->thread_ = nullptr;
    t->where_ = Task::Where::kNone;
  }
}

}  // namespace amber
