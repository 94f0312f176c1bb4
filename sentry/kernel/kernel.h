// The kernel of one sandbox: what exists once, and the entry points of the platform.
//
// Lock. One lock, Kernel::mu(), guards every kernel object (docs/decisions says why, with figures); work that may take
// long without touching kernel objects (bulk copies to files, gofer calls) may release it by KernelUnlock while it holds references. It is
// taken through KernelLock, whose destructor runs the tasks that became runnable meanwhile. Lock order: kernel, platform.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "checkpoint/state.h"
#include "sentry/base/unique_fd.h"
#include "sentry/kernel/clock.h"
#include "sentry/kernel/task.h"
#include "sentry/platform/platform.h"

namespace amber {

class HostPoll;
class PidNamespace;
class Strace;
class TaskLifecycle;

// What `sandbox debug --stats` shows of the kernel; the platform keeps its own.
struct KernelStats {
  std::atomic<uint64_t> syscalls{0}, blocks{0}, restarts{0}, signals{0}, forks{0}, execs{0};
  std::array<std::atomic<uint64_t>, 512> unknown{};  // ENOSYS by number; the last counts larger ones
};

class Kernel final : public platform::Client, public state::Saveable {
 public:
  Kernel();
  ~Kernel() override;

  absl::Mutex& mu() { return mu_; }
  Clocks& clocks() { return clocks_; }
  TimerQueue& timers() { return *timers_; }
  platform::Platform& platform() { return *platform_; }
  KernelStats& stats() { return stats_; }
  HostPoll& host_poll() { return *host_poll_; }
  // At restore: the descriptors that were passed, by index. HostFdForRestore() gives a duplicate, invalid if there is none.
  void SetHostFdsForRestore(std::map<int, UniqueFd> fds) { restore_fds_ = std::move(fds); }
  UniqueFd HostFdForRestore(int index) const;
  TaskLifecycle& lifecycle() { return *lifecycle_; }
  // The --strace log, or null. Set it with the lock held.
  Strace* strace() { return strace_.get(); }
  void set_strace(std::unique_ptr<Strace> strace);
  void CountUnknown(uint64_t number);

  // Starts the platform (the seed of the stubs): single-threaded. "" or what went wrong.
  std::string CreatePlatform(const platform::Options& options);
  // Starts timers; threads may exist from here on.
  void Boot();

  // The pid namespaces that have tasks (one per container).
  const std::vector<RefPtr<PidNamespace>>& pid_namespaces() const { return pid_namespaces_; }
  void AddPidNamespace(RefPtr<PidNamespace> pids);
  // Every task that has not exited.
  std::vector<RefPtr<Task>> LiveTasks() const;
  // Limit on tasks of the whole sandbox (the pids cgroup's, less a reserve); clone gives EAGAIN beyond it.
  void set_max_tasks(size_t max) { max_tasks_ = max; }
  size_t max_tasks() const { return max_tasks_; }

  // Stops every task with its frame in our hands (pause, checkpoint). `done` runs once with the lock held, when all stand still.
  void Freeze(std::function<void()> done);
  // Lets them go on. Those that were taken out of a futex wait that the host does are first, and the others follow when those wait again:
  // else a wake that changes no word could come before its waiter.
  void Thaw();
  bool frozen() const { return frozen_; }
  // A task came to stand still, or went: looks whether that completes a Freeze().
  void OnHeld(Task& task);
  void CheckFrozen();

  // Every process that has not been reaped.
  const std::set<RefPtr<ThreadGroup>>& groups() const { return groups_; }
  size_t task_count() const { return task_count_; }
  size_t TasksOf(uid_t uid) const;

  // Makes `task`'s call be executed again soon (by whoever holds the lock, when it lets go).
  void MakeRunnable(Task& task);
  // The same once Thaw() has been called, for a helper that comes from an image.
  void MakeRunnableAfterThaw(Task& helper);
  // Runs what MakeRunnable() collected. Called by KernelLock.
  void Drain();
  // Calls `action` once the lock has been released: for callbacks to those who call the kernel. Lock held.
  void AfterUnlock(std::function<void()> action) { after_unlock_.push_back(std::move(action)); }
  std::vector<std::function<void()>> TakeAfterUnlock() { return std::exchange(after_unlock_, {}); }

  // Random bytes for the guest (getrandom, AT_RANDOM, /dev/urandom): the host's.
  void Random(void* out, size_t size);

  // platform::Client
  void OnSyscall(platform::Thread& thread, const platform::Syscall& call) override;
  void OnFrame(platform::Thread& thread, platform::Stop stop, const platform::Fault* fault) override;
  void OnProcessDeath(platform::AddressSpace& space, std::span<platform::Thread* const> threads, int wait_status) override;

  state::Kind kind() const override { return state::Kind::kKernel; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;

 private:
  friend class Task;
  friend class ThreadGroup;
  friend class TaskLifecycle;

  absl::Mutex mu_;
  Clocks clocks_;
  KernelStats stats_;
  std::unique_ptr<TimerQueue> timers_;
  std::unique_ptr<platform::Platform> platform_;
  std::unique_ptr<HostPoll> host_poll_;
  std::map<int, UniqueFd> restore_fds_;
  std::unique_ptr<TaskLifecycle> lifecycle_;
  std::unique_ptr<Strace> strace_;
  std::vector<RefPtr<PidNamespace>> pid_namespaces_;
  std::set<RefPtr<ThreadGroup>> groups_;
  size_t task_count_ = 0;
  size_t max_tasks_ = 32768;
  // Threads on their way back to a futex wait, after Thaw(), until ReleaseHeld().
  void AwaitSettled();
  void ReleaseHeld();

  bool frozen_ = false;
  std::function<void()> when_frozen_;
  std::vector<RefPtr<Task>> settling_;
  std::vector<RefPtr<Task>> waiting_helpers_;  // runnable, until Thaw()
  int64_t settle_deadline_ = 0;
  std::unique_ptr<Timer> settle_timer_;
  std::deque<RefPtr<Task>> runnable_;
  bool draining_ = false;
  std::vector<std::function<void()>> after_unlock_;
};

// Holds the kernel lock; on release runs the tasks that became runnable.
class ABSL_SCOPED_LOCKABLE KernelLock {
 public:
  explicit KernelLock(Kernel& kernel) ABSL_EXCLUSIVE_LOCK_FUNCTION(kernel.mu()) : kernel_(kernel) { kernel_.mu().Lock(); }
  ~KernelLock() ABSL_UNLOCK_FUNCTION() {
    kernel_.Drain();
    std::vector<std::function<void()>> actions = kernel_.TakeAfterUnlock();
    kernel_.mu().Unlock();
    for (const std::function<void()>& action : actions) action();
  }
  KernelLock(const KernelLock&) = delete;
  KernelLock& operator=(const KernelLock&) = delete;

 private:
  Kernel& kernel_;
};

// Releases the kernel lock for a while. Kernel objects used afterwards must be held by references, and anything may have changed.
class KernelUnlock {
 public:
  explicit KernelUnlock(Kernel& kernel) ABSL_NO_THREAD_SAFETY_ANALYSIS : kernel_(kernel) { kernel_.mu().Unlock(); }
  ~KernelUnlock() ABSL_NO_THREAD_SAFETY_ANALYSIS { kernel_.mu().Lock(); }
  KernelUnlock(const KernelUnlock&) = delete;
  KernelUnlock& operator=(const KernelUnlock&) = delete;

 private:
  Kernel& kernel_;
};

}  // namespace amber
