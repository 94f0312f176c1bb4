// Control groups (cgroups(7), Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/): the trees, who is where, and what the controllers limit.
// The files are in sentry/fs/cgroup.
//
// Each container has a tree of the second version of its own, whose root is what it finds at /sys/fs/cgroup; the host's cgroup around the sandbox is not part
// of it. To that root belong the trees of the first version that its processes mount (cgroup_tree.h), each with controllers that the others then lack.
// A process has a place in each tree, and its threads are there with it, but for those that were moved apart (first version only; there is no
// threaded mode). Members are named by plain pointers, which they take back when they end; groups own their children, and users of a group (processes, files,
// namespaces) hold references. Kernel lock.
//
// Limits are enforced by the sentry, since it may not make cgroups of the host's:
// - pids: exactly, when a task is made;
// - memory: resident memory of the members is looked at every 50 ms while some group has a limit: what is above it loses its largest process, and who grows
//   beyond memory.high stands still for a while;
// - cpu.max: likewise every 10 ms; members of a group that has used its quota stand still until the period is over;
// - cpu.weight: likewise; of groups beside each other that differ, who is ahead of one that waits for a processor stands still until that has caught up;
// - cpuset: by the affinity of host threads;
// - freezing: tasks that come from the kernel stay there;
// - devices: when a device is opened or made.
#pragma once

#include <sched.h>

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/state.h"
#include "sentry/base/errno_or.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/kernel/cgroup_place.h"
#include "sentry/kernel/wait_queue.h"

namespace amber::cgroup_state {
class Cgroup;
}

namespace amber {

struct CgroupTree;       // sentry/kernel/cgroup_tree.h
struct DeviceException;  // likewise
struct FirstVersion;
class Kernel;
class Task;
class ThreadGroup;
class Timer;  // sentry/kernel/clock.h

inline constexpr state::Kind kCgroupKind = static_cast<state::Kind>(200);

class Cgroup final : public RefCounted<Cgroup>, public state::Saveable {
 public:
  enum Controller : uint32_t { kCpu = 1, kMemory = 2, kPids = 4, kCpuset = 8, kCpuacct = 16, kDevices = 32, kFreezer = 64 };
  static constexpr uint32_t kSecond = kCpu | kMemory | kPids | kCpuset;         // what the second version may have
  static constexpr uint32_t kFirst = kSecond | kCpuacct | kDevices | kFreezer;  // likewise, the first
  static constexpr uint64_t kMax = ~uint64_t{0};                                // "max"
  static constexpr int kMostDepth = 32;                                         // Linux has no bound but memory
  static constexpr size_t kMostGroups = 4096;                                   // of one tree
  static constexpr size_t kMostTrees = 64;                                      // of the first version, of a container
  static constexpr uint64_t kUsualShares = 1024;                                // cpu.shares; cpu.weight is a tenth of it, about

  struct Limits {
    uint64_t pids = kMax;
    uint64_t memory_min = 0, memory_low = 0, memory_high = kMax, memory_max = kMax, swap_max = kMax, swap_high = kMax;
    bool oom_group = false;
    uint64_t cpu_quota = kMax, cpu_period = 100'000;  // microseconds
    uint64_t cpu_burst = 0;                           // kept, without effect
    uint64_t cpu_shares = kUsualShares;
    bool cpu_idle = false;
    uint64_t max_depth = kMax, max_descendants = kMax;
  };
  struct Counters {
    uint64_t pids_max = 0, pids_peak = 0;
    uint64_t memory_high = 0, memory_max = 0, oom = 0, oom_kill = 0, oom_group_kill = 0, memory_peak = 0;
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

  Cgroup();  // for Loader
  ~Cgroup() override;
  static RefPtr<Cgroup> NewRoot(Kernel& kernel);

  uint64_t id() const { return id_; }
  // Of the first version: what those have; else null.
  FirstVersion* first() const { return first_.get(); }
  // Which tree it is of: 0 is that of the second version. /proc/cgroups calls it a hierarchy.
  int tree() const { return tree_; }
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
  const std::set<Task*>& threads() const { return threads_; }  // that are not with their processes
  // Moves a process here. EBUSY: this has controllers enabled for its children; ENODEV: it is removed; ENOSPC: a set of processors is empty.
  ErrnoOr<void> Move(ThreadGroup& group);
  // The same of one thread; the first version only.
  ErrnoOr<void> MoveThread(Task& task);

  // A process without tasks yet is in `second`, and in the other trees where its maker is; null: in their roots.
  static void Enter(ThreadGroup& group, const Task* maker, RefPtr<Cgroup> second);
  // What an image has of its places is filled in; false: it makes no sense.
  static bool EnterLoaded(ThreadGroup& group);
  // It has ended.
  static void Leave(ThreadGroup& group);
  // A task has come to be, made by `maker`; it is about to end, its host thread still there; it does not count any more.
  static void OnNewTask(Task& task, const Task* maker);
  static void BeforeExit(Task& task);
  static void OnTaskGone(Task& task);

  // One more task will be made in a process of this (EAGAIN: beyond a limit), and it has been, or will not be.
  ErrnoOr<void> ReserveTask();
  void EndReservation();
  // Where that is for a child of `parent`, of which `second` is wanted if not null.
  static Cgroup& ForNewTask(const Task& parent, Cgroup* second);

  uint32_t available() const { return first_ != nullptr || parent_ == nullptr ? controllers_ : parent_->enabled_; }
  uint32_t enabled() const { return enabled_; }
  // cgroup.subtree_control. ENOENT: not available; EBUSY.
  ErrnoOr<void> Enable(uint32_t on, uint32_t off);

  // cpuset.cpus as it was written; none: nothing. The first version has rules: EACCES, EBUSY, EINVAL, ENOSPC.
  const std::optional<cpu_set_t>& cpus() const { return cpus_; }
  ErrnoOr<void> SetCpus(std::optional<cpu_set_t> cpus);
  bool has_mems() const { return has_mems_; }  // cpuset.mems names the one node that there is
  ErrnoOr<void> SetMems(bool has);
  ErrnoOr<void> SetExclusiveCpus(bool on);  // first version
  // What its members may use: its own of its parent's, or the parent's if none of those are there.
  cpu_set_t EffectiveCpus() const;
  // What a task may use by that and by what it asked for (sched_setaffinity(2)); what it asked for counts for nothing if none of it is left.
  static cpu_set_t CpusFor(const Task& task);
  static const cpu_set_t& AllCpus();
  // The number above the last of those.
  static uint32_t PossibleCpus();
  // Its host thread uses these, which are CpusFor(task), from now on.
  static void ApplyCpus(const Task& task, const cpu_set_t& cpus);

  bool under_oom() const { return oom_held_; }
  Limits& limits() { return limits_; }
  Counters& counters() { return counters_; }
  // After a change of the limits.
  void LimitsChanged();

  bool freeze() const { return freeze_; }
  void SetFreeze(bool on);
  // This or one above it shall.
  bool Freezes() const;
  // All members and those below stand still, by cgroup.freeze.
  bool IsFrozen() const;
  // A member has come to stand still, or come, or gone.
  void LookWhetherFrozen();
  bool HoldsMembers() const;
  // Some group holds it, or it stands still because its memory grew.
  static bool HoldsTask(const Task& task);
  // But for the init of `writer`'s pid namespace, which its own processes cannot kill; null: the kernel itself. How many.
  size_t KillAll(const ThreadGroup* writer);

  // With all below.
  size_t CountTasks() const { return tasks_; }
  size_t CountDescendants() const { return descendants_; }
  bool IsPopulated() const { return tasks_ > 0; }
  struct Memory {
    uint64_t resident = 0, anonymous = 0;
  };
  Memory MemoryUsed() const;
  struct Cpu {
    int64_t user = 0, system = 0;  // ns
  };
  Cpu CpuUsed() const;
  int64_t UsedHere() const;  // ns, without what is below

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

  // Where `task` is in the second version, and in a tree; the root that its cgroup namespace has there.
  static Cgroup& Of(const Task& task);
  static Cgroup& At(const Task& task, int tree);
  // In all of those of the first version.
  static std::vector<RefPtr<Cgroup>> FirstVersionOf(const Task& task);
  static Cgroup& RootFor(const Task& task, int tree = 0);
  // Where it is in the tree that has a controller.
  static Cgroup& With(const Task& task, Controller controller);

  // The root of the second version that this belongs to, and its trees of the first (cgroup_tree.cc).
  Cgroup& Unified();
  const std::vector<RefPtr<Cgroup>>& trees() const { return trees_; }
  // What makes a tree of the first version; null for all other groups.
  CgroupTree* own_tree() const { return own_tree_.get(); }
  // A new one in the container of this, a root. EBUSY: some controller is in use.
  ErrnoOr<RefPtr<Cgroup>> NewTree(uint32_t controllers, std::string name);
  // It is mounted once more, or less; without mounts and groups it is gone.
  void OnMount();
  void OnUnmount();
  size_t groups() const { return groups_; }  // of its tree; of a root
  ThreadGroup* AnyMember() const;            // here or below; null: there is none
  // rename(2) of a child. EEXIST.
  ErrnoOr<void> RenameChild(Cgroup& child, std::string_view name);
  // Who runs a tree's release agent: the container of this root (agent, path of the group).
  using AgentRunner = void (*)(Kernel& kernel, Cgroup& unified, std::string agent, std::string path);
  static void SetAgentRunner(AgentRunner runner) { agent_runner_ = runner; }
  // A task may open (kDeviceRead, kDeviceWrite) or make (kDeviceMake) a device. EPERM.
  static ErrnoOr<void> CheckDevice(const Task& task, bool block, uint32_t major, uint32_t minor, uint32_t access);
  // devices.allow and devices.deny. EPERM: those above may not.
  ErrnoOr<void> AllowDevice(const DeviceException& line);
  ErrnoOr<void> DenyDevice(const DeviceException& line);
  ErrnoOr<void> SetAllDevices(bool allow);

 private:
  template <typename F>
  void ForEach(F visit) const;  // this and all below
  template <typename F>
  void ForEachMember(F visit) const;
  template <typename F>
  void ForEachTask(F visit) const;
  int Depth() const;
  void ApplyCpusToMembers() const;
  ErrnoOr<void> MayMoveHere(const ThreadGroup& group) const;
  ErrnoOr<void> CheckFirstCpus(const cpu_set_t* cpus) const;
  // `d` tasks more; who has inodes hears of it if `tell`.
  void AddTasks(int64_t d, bool tell);
  void ReleaseIfEmpty();
  void InheritFirst();
  // What a member used counts here.
  void Charge(int64_t used, int64_t system);
  // Counts what a process and its threads have used so far where they are, so that they can go elsewhere.
  static void Settle(ThreadGroup& group, int tree);
  // A process is where its threads are: if all are apart, it goes to one of them.
  static void FollowThreads(ThreadGroup& group, int tree);
  static void Arrived(Task& task);
  bool LoadTree(state::Loader& loader, const cgroup_state::Cgroup& m);
  bool TreesMakeSense() const;
  // Limits of these are as at first.
  void Forget(uint32_t controllers);
  void FileChanged(EventFile file);
  // Counts an event here and above.
  void Count(uint64_t Counters::* counter, EventFile file, uint64_t times = 1);
  void ApplyHold();
  // What is looked at regularly, by the root.
  void Watch();
  void Tick();
  static void TakeSamples(std::span<const RefPtr<Cgroup>> all, bool cpu, bool weighs, bool memory);
  static int64_t WaitOf(ThreadGroup& group);
  double CountUse(bool again, int64_t elapsed, double floor);
  bool IdleBesideHeld(double used, int64_t elapsed) const;
  bool Competes() const { return quiet_ < kQuietTicks || yields_; }
  void LookAtMemory(int64_t now);
  void Stall(int64_t now);
  static bool EndStalls(std::span<const RefPtr<Cgroup>> all, int64_t now);
  void KillLargest();
  void LookAtCpu(int64_t now);
  // Of its children: who waits for others.
  void LookAtWeights(int64_t now, int64_t elapsed);
  bool LimitsMemory() const { return limits_.memory_max != kMax || limits_.memory_high != kMax || oom_held_; }
  bool Throttles() const { return limits_.cpu_quota != kMax; }
  bool Weighs() const { return Shares() != kUsualShares || yields_; }
  bool Watched() const { return Throttles() || throttled_ || LimitsMemory() || Weighs(); }
  uint64_t Shares() const { return limits_.cpu_idle ? 3 : limits_.cpu_shares; }  // WEIGHT_IDLEPRIO
  bool OomKills() const;

  Kernel* kernel_ = nullptr;
  uint64_t id_ = 0;
  Cgroup* parent_ = nullptr;
  int tree_ = 0;
  uint32_t controllers_ = kSecond;  // of a root, and of all of the first version
  std::unique_ptr<FirstVersion> first_;
  std::unique_ptr<CgroupTree> own_tree_;
  std::string name_;
  bool removed_ = false;
  std::map<std::string, RefPtr<Cgroup>, std::less<>> children_;
  std::set<ThreadGroup*> members_;
  std::set<Task*> threads_;
  size_t tasks_ = 0;  // that have not exited, here and below
  uint32_t enabled_ = 0;
  std::optional<cpu_set_t> cpus_;
  bool has_mems_ = false;
  bool freeze_ = false, throttled_ = false, told_frozen_ = false;
  bool oom_held_ = false;  // above its limit, and nobody may be killed for it
  bool yields_ = false;    // stands still for a group beside it
  size_t reserved_ = 0;    // tasks that are being made, here and below
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
  // What this and all below have used, while a tick looks at it; what it was before, and how long somebody has waited for a processor.
  int64_t cpu_sample_ = 0, cpu_seen_ = 0, wait_sample_ = 0;
  uint64_t memory_sample_ = 0;
  // Of a group beside others that weigh more or less: its use, divided by its weight, ns; looks since it used any, and since it waited; whether it wants more.
  static constexpr int kQuietTicks = 4;
  double virtual_time_ = 0;
  int quiet_ = kQuietTicks, calm_ = kQuietTicks;
  bool wants_ = false;
  double floor_ = 0;     // where children begin
  int64_t weighed_ = 0;  // when they were looked at last
  int height_ = 0;       // of what is below it, while an image is loaded
  // Of the root.
  std::unique_ptr<Timer> timer_;
  uint64_t next_id_ = 2;
  size_t groups_ = 1;
  size_t descendants_ = 0;
  size_t limited_ = 0;  // groups with limits that are looked after
  int64_t memory_looked_ = 0, looked_ = 0;
  // Of the root of the second version: the others, oldest first. Of one of the first: that root, null once it is gone.
  std::vector<RefPtr<Cgroup>> trees_;
  int last_tree_ = 0;
  Cgroup* unified_ = nullptr;
  static inline AgentRunner agent_runner_ = nullptr;
};

// "0-2,4": bitmap_list_string() of lib/vsprintf.c.
std::string CpuListText(const cpu_set_t& set);

}  // namespace amber
