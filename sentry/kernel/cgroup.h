// Control groups of the second version (cgroups(7), Documentation/admin-guide/cgroup-v2.rst): the tree, who is where, and what the controllers limit.
// The files are in sentry/fs/cgroup.
//
// Each container has a tree of its own, whose root is what it finds at /sys/fs/cgroup; the host's cgroup around the sandbox is not part of it. A process and
// all its threads are in one group (there is no threaded mode). Members are named by plain pointers, which they take back when they end; groups own
// their children, and users of a group (processes, files, namespaces) hold references. Kernel lock.
//
// Limits are enforced by the sentry, since it may not make cgroups of the host's:
// - pids: exactly, when a task is made;
// - memory: resident memory of the members is looked at every 50 ms while some group has a limit, and what is above it loses its largest process;
// - cpu.max: likewise every 10 ms; members of a group that has used its quota stand still until the period is over;
// - cpuset: by the affinity of host threads.
#pragma once

#include <sched.h>

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>

#include "checkpoint/state.h"
#include "sentry/base/errno_or.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/kernel/wait_queue.h"

namespace amber {

class Kernel;
class Task;
class ThreadGroup;
class Timer;  // sentry/kernel/clock.h

inline constexpr state::Kind kCgroupKind = static_cast<state::Kind>(200);

class Cgroup final : public RefCounted<Cgroup>, public state::Saveable {
 public:
  enum Controller : uint32_t { kCpu = 1, kMemory = 2, kPids = 4, kCpuset = 8, kAll = 15 };
  static constexpr uint64_t kMax = ~uint64_t{0};  // "max"
  static constexpr int kMostDepth = 32;           // Linux has no bound but memory
  static constexpr size_t kMostGroups = 4096;     // of one tree

  struct Limits {
    uint64_t pids = kMax;
    uint64_t memory_min = 0, memory_low = 0, memory_high = kMax, memory_max = kMax, swap_max = kMax;
    bool oom_group = false;
    uint64_t cpu_quota = kMax, cpu_period = 100'000;  // microseconds
    uint64_t cpu_weight = 100;                        // kept, without effect
    uint64_t max_depth = kMax, max_descendants = kMax;
  };
  struct Counters {
    uint64_t pids_max = 0, pids_peak = 0;
    uint64_t memory_high = 0, memory_max = 0, oom = 0, oom_kill = 0, memory_peak = 0;
    uint64_t periods = 0, throttled = 0, throttled_ns = 0;
    int64_t dead_user_ns = 0, dead_system_ns = 0;  // of members that are gone
  };
  // Owner and mode of a directory or file that were changed (delegation).
  struct Owner {
    uint32_t mode = 0, uid = 0, gid = 0;
  };

  // Files that tell when they change (cgroup_file_notify()).
  enum EventFile { kEvents, kMemoryEvents, kPidsEvents, kEventFiles, kNoEvents = -1 };
  // Who has inodes of such files and of the directory.
  class Watcher {
   public:
    virtual void OnFileChanged(EventFile file) = 0;

   protected:
    ~Watcher() = default;
  };

  Cgroup() = default;  // for Loader
  ~Cgroup() override;
  static RefPtr<Cgroup> NewRoot(Kernel& kernel);

  uint64_t id() const { return id_; }
  Cgroup* parent() const { return parent_; }
  Cgroup& Top();
  const std::string& name() const { return name_; }
  const std::map<std::string, RefPtr<Cgroup>, std::less<>>& children() const { return children_; }
  // It is `other` or below it.
  bool IsWithin(const Cgroup& other) const;
  // As seen from `root`: "/a/b", with ".." for what is not below it.
  std::string PathFrom(const Cgroup& root) const;
  bool removed() const { return removed_; }

  // EAGAIN: beyond the limits of depth and number.
  ErrnoOr<RefPtr<Cgroup>> MakeChild(std::string_view name, const Owner& owner);
  // EBUSY: it has children or members.
  ErrnoOr<void> RemoveChild(Cgroup& child);

  const std::set<ThreadGroup*>& members() const { return members_; }
  // Moves a process here. EBUSY: this has controllers enabled for its children; ENODEV: it is removed.
  ErrnoOr<void> Move(ThreadGroup& group);
  // For processes: a new one, and one that has ended or goes elsewhere. Use GroupExtras::cgroup for which one a process is in.
  void Add(ThreadGroup& group);
  // The same in an image's: nothing has changed.
  void AddLoaded(ThreadGroup& group);
  void Remove(ThreadGroup& group);

  // One more task will be made in a process of this (EAGAIN: beyond a limit), and it has been, or will not be.
  ErrnoOr<void> ReserveTask();
  void EndReservation();

  uint32_t available() const { return parent_ == nullptr ? uint32_t{kAll} : parent_->enabled_; }
  uint32_t enabled() const { return enabled_; }
  // cgroup.subtree_control. ENOENT: not available; EBUSY.
  ErrnoOr<void> Enable(uint32_t on, uint32_t off);

  // cpuset.cpus as it was written; none: nothing.
  const std::optional<cpu_set_t>& cpus() const { return cpus_; }
  void SetCpus(std::optional<cpu_set_t> cpus);
  bool has_mems() const { return has_mems_; }  // cpuset.mems names the one node that there is
  void set_has_mems(bool has) { has_mems_ = has; }
  // What its members may use: its own of its parent's, or the parent's if none of those are there.
  cpu_set_t EffectiveCpus() const;
  // What a task may use by that and by what it asked for (sched_setaffinity(2)); what it asked for counts for nothing if none of it is left.
  static cpu_set_t CpusFor(const Task& task);
  static const cpu_set_t& AllCpus();
  // The number above the last of those.
  static uint32_t PossibleCpus();
  // Its host thread uses these, which are CpusFor(task), from now on.
  static void ApplyCpus(const Task& task, const cpu_set_t& cpus);

  Limits& limits() { return limits_; }
  Counters& counters() { return counters_; }
  // After a change of the limits.
  void LimitsChanged();

  bool freeze() const { return freeze_; }
  void SetFreeze(bool on);
  // All members and those below stand still, by cgroup.freeze.
  bool IsFrozen() const;
  // A member has come to stand still, or come, or gone.
  void LookWhetherFrozen();
  // New and loaded tasks.
  bool HoldsMembers() const;
  // But for the init of `writer`'s pid namespace, which its own processes cannot kill; null: the kernel itself. How many.
  size_t KillAll(const ThreadGroup* writer);

  // With all below.
  size_t CountTasks() const;
  size_t CountDescendants() const;
  bool IsPopulated() const;
  struct Memory {
    uint64_t resident = 0, anonymous = 0;
  };
  Memory MemoryUsed() const;
  struct Cpu {
    int64_t user = 0, system = 0;  // ns
  };
  Cpu CpuUsed() const;

  void AddWatcher(Watcher* watcher) { watchers_.insert(watcher); }
  void RemoveWatcher(Watcher* watcher) { watchers_.erase(watcher); }
  // How often a file has changed, from 1 on; POLLPRI at each change.
  uint64_t changes(EventFile file) const { return changes_[file]; }
  WaitQueue& change_queue(EventFile file) { return change_queues_[file]; }

  Owner& owner() { return owner_; }
  std::map<std::string, Owner, std::less<>>& file_owners() { return file_owners_; }

  state::Kind kind() const override { return kCgroupKind; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

  // Where `task` is, and the root of its cgroup namespace.
  static Cgroup& Of(const Task& task);
  static Cgroup& RootFor(const Task& task);

 private:
  template <typename F>
  void ForEach(F visit) const;  // this and all below
  template <typename F>
  void ForEachMember(F visit) const;
  int Depth() const;
  void ApplyCpusToMembers() const;
  void FileChanged(EventFile file);
  // Counts an event here and above.
  void Count(uint64_t Counters::* counter, EventFile file, uint64_t times = 1);
  // Whether somebody is here or below has changed.
  void TellPopulated();
  bool IsPopulatedBeside(const Cgroup& child) const;
  void ApplyHold();
  // What is looked at regularly, by the root.
  void Watch();
  void Tick();
  static void TakeSamples(std::span<const RefPtr<Cgroup>> all, bool cpu, bool memory);
  void LookAtMemory();
  void LookAtCpu(int64_t now);
  bool LimitsMemory() const { return limits_.memory_max != kMax || limits_.memory_high != kMax; }
  bool Throttles() const { return limits_.cpu_quota != kMax; }

  Kernel* kernel_ = nullptr;
  uint64_t id_ = 0;
  Cgroup* parent_ = nullptr;
  std::string name_;
  bool removed_ = false;
  std::map<std::string, RefPtr<Cgroup>, std::less<>> children_;
  std::set<ThreadGroup*> members_;
  uint32_t enabled_ = 0;
  std::optional<cpu_set_t> cpus_;
  bool has_mems_ = false;
  bool freeze_ = false, throttled_ = false, told_frozen_ = false;
  size_t reserved_ = 0;  // tasks that are being made, here and below
  std::set<Watcher*> watchers_;
  uint64_t changes_[kEventFiles] = {1, 1, 1};
  WaitQueue change_queues_[kEventFiles];
  Limits limits_;
  Counters counters_;
  Owner owner_{0755, 0, 0};
  std::map<std::string, Owner, std::less<>> file_owners_;
  // Of the period that goes on: when it began, and the group's processor time that it may use up to; 0: none.
  int64_t period_start_ = 0, cpu_before_ = 0;
  int64_t throttled_since_ = 0;
  // What this and all below have used, while a tick looks at it.
  int64_t cpu_sample_ = 0;
  uint64_t memory_sample_ = 0;
  int height_ = 0;  // of what is below it, while an image is loaded
  // Of the root.
  std::unique_ptr<Timer> timer_;
  uint64_t next_id_ = 2;
  size_t groups_ = 1;
  size_t limited_ = 0;  // groups with limits that are looked after
  int64_t memory_looked_ = 0;
};

// "0-2,4": bitmap_list_string() of lib/vsprintf.c.
std::string CpuListText(const cpu_set_t& set);

}  // namespace amber
