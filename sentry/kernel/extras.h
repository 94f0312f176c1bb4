// State of features that few tasks and processes use, behind one pointer each, so that such a feature changes neither task.h nor
// thread_group.h.
//
// Owned by the Task and the ThreadGroup. Guarded by the kernel lock.
#pragma once

#include <sched.h>
#include <sys/resource.h>

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/state.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/base/unique_fd.h"
#include "sentry/kernel/cgroup_place.h"
#include "sentry/kernel/io_counts.h"
#include "sentry/kernel/late_usage.h"
#include "sentry/kernel/other_namespaces.h"
#include "sentry/kernel/task_lifecycle.h"
#include "sentry/mm/mempolicy.h"
#include "sentry/platform/platform.h"

namespace amber {

struct AioContext;
class CpuTimers;
class Key;              // sentry/keys/key.h
class LandlockRuleset;  // sentry/landlock/landlock.h
class IpcNamespace;
class Kernel;
class NetNamespace;
class PidNamespace;
class SeccompFilter;
struct SeccompNotification;  // sentry/kernel/seccomp_listener.h
class ServedCall;            // sentry/kernel/served_call.h
struct DeadTracee;           // sentry/kernel/tracing.h
struct PiWait;               // sentry/kernel/futex_pi.h
struct Tracee;
class SemUndo;
class Task;
class ThreadGroup;
class TimeNamespace;

// sched_setattr(2): kept and told, the host decides how its threads run.
struct SchedAttributes {
  int policy = 0;  // SCHED_*
  int priority = 0;
  bool reset_on_fork = false;
};

class TaskExtras {
 public:
  TaskExtras();
  ~TaskExtras();

  RefPtr<IpcNamespace> ipc;
  RefPtr<SemUndo> sem_undo;  // null until SEM_UNDO is used; shared under CLONE_SYSVSEM
  RefPtr<NetNamespace> net;
  RefPtr<CgroupNamespace> cgroup;                 // null: the initial one
  RefPtr<TimeNamespace> time, time_for_children;  // likewise
  RefPtr<PidNamespace> pids_for_children;         // null: the task's own
  std::vector<int> ids_above;                     // PidIds::above
  // seccomp(2): SECCOMP_MODE_*, and the innermost filter.
  int seccomp_mode = 0;
  RefPtr<SeccompFilter> seccomp;
  std::unique_ptr<SeccompNotification> notification;  // its call waits for a listener's answer
  std::unique_ptr<ServedCall> served;                 // its call asks a guest
  IoCounts io;
  bool actions_offered = false;  // its stub has its signal actions (offered_actions.h)
  bool traps_native = false;     // its host thread brings calls to us that it would else execute by itself (platform::TrapNativeCallsOp)
  // rseq(2), as the host does it for this thread; `area` 0: not registered.
  struct Rseq {
    uint64_t area = 0;
    uint32_t size = 0, signature = 0;
  } rseq;
  // Operations of its host thread that are due before it runs guest code again: what exec and a restore lose.
  std::vector<platform::StubOp> before_guest;
  SchedAttributes sched;
  uint64_t default_timer_slack = 50'000;  // ns; its creator's
  int ioprio = 0;
  // audit(8): who logged in, and which login it was (/proc/PID/loginuid, sessionid).
  uint32_t login_uid = UINT32_MAX, login_session = UINT32_MAX;
  int machine_checks = 2;  // PR_MCE_KILL_*: kept and told, there are none to be killed for
  MemoryPolicy memory_policy;
  std::optional<cpu_set_t> affinity;  // sched_setaffinity(2), if it was ever asked for: its host thread has it
  // ReturnToGuest() is finding out what it does next. Whoever wants that meanwhile (a tracer that dies of the news, who continues its process) has
  // only to change the reasons: they are looked at again.
  bool returning = false;
  // It touched memory that is away (GroupExtras::away) and stands still until that is back.
  bool waits_for_memory = false;
  bool cgroup_held = false;  // its cgroup stands still
  // The cgroups that it is in while its process is in others, and how long it had waited for a processor when that was looked at last, ns.
  std::vector<CgroupPlace> cgroups;
  int64_t waited_seen = 0;
  // Processor time of host threads that this one had before (exec and restore make new ones), ns; and the file that tells that of its host
  // thread, kept open because programs ask often.
  int64_t cpu_base = 0;
  UniqueFd schedstat;
  int schedstat_tid = 0;
  RefPtr<LandlockRuleset> landlock;  // the innermost layer of its domain; null: none
  // Key rings of its own (keyrings(7)), and where keys that are made for it go (KEY_REQKEY_DEFL_*).
  RefPtr<Key> thread_keys, session_keys;
  int request_keys_to = 0;
  std::unique_ptr<PiWait> pi_wait;  // null until it locks with priority inheritance
  std::unique_ptr<Tracee> tracee;   // null if nobody traces it

  // A child of `parent` made with CLONE_* `flags`.
  void Inherit(Task& parent, uint64_t flags);
  // Its seccomp mode is one that wants to see what the host would else execute by itself.
  bool WantsNativeCalls() const;
  // It has a new host thread, of a new program.
  void OnExec();
  // Gives its host thread the set of processors that it asked for: at a change, and what exec and a restore lose. Host threads that others
  // clone inherit it.
  void ApplyAffinity(const Task& task) const;
  // The task exits and will not come back.
  void OnExit(Task& task);
  // unshare(CLONE_SYSVSEM), and before another ipc namespace is entered.
  void LeaveSemUndo(Task& task);

  std::string Save(state::Saver& saver, const Task& task) const;
  bool Load(state::Loader& loader, const std::string& bytes, Task& task);
};

// PR_SET_THP_DISABLE, for the host process of a process.
platform::StubOp NoHugePagesOp(bool on);

// What PR_SET_MDWE takes (linux/prctl.h, 6.3 and 6.6).
inline constexpr uint32_t kMdweRefuseExecGain = 1, kMdweNoInherit = 2;

class GroupExtras {
 public:
  GroupExtras();
  ~GroupExtras();

  // Tells the process from every other that the sandbox has, had or will have, in whatever pid namespace and also after a restore.
  uint64_t serial;
  // The one that the next process will have, for images. Serials of an image are never given out again; false if it is none that an image can have.
  static uint64_t NextSerial() { return next_serial_.load(std::memory_order_relaxed); }
  static bool SkipSerials(uint64_t next);

  // Processor time of host processes that this process had before (exec and restore make new ones), ns.
  int64_t cpu_base = 0;
  // Ranges that were a device's and will be again when its state is back (sentry/runtime/gpu_checkpoint.h): threads that touch them wait.
  std::vector<std::pair<uint64_t, uint64_t>> away;
  // It has had several threads: then its time is not that of its only one.
  bool had_threads = false;
  // The thread of the parent that made it (__WNOTHREAD), 0 if it is gone.
  int creator_tid = 0;
  // All of its accounting (usage.h), and what was told last of its parts.
  rusage base{};
  int64_t told_user = 0, told_system = 0;
  ExpectedUsage expected_usage;
  // Where it is in each tree of cgroups, that of the second version first (use Cgroup::Of()). How many of its threads are elsewhere, over all trees.
  std::vector<CgroupPlace> cgroups;
  size_t threads_apart = 0;
  // Its memory grew beyond its cgroup's memory.high: it stands still until then (CLOCK_MONOTONIC, ns; 0: it does not). And what it had at the last look.
  int64_t stalled_until = 0;
  uint64_t resident_seen = 0;
  int64_t cpu_seen = 0;
  IoCounts io;                 // of threads that are gone
  bool no_huge_pages = false;  // PR_SET_THP_DISABLE: its host process has it
  // PR_SET_MDWE: memory that is or was written is not executed. It outlives exec, and is a child's too unless it says otherwise.
  uint32_t mdwe = 0;
  bool merges_memory = false;  // PR_SET_MEMORY_MERGE: kept and told, nothing merges pages here
  // Whether a mapping may come to have `prot` that had `old_prot` (map_deny_write_exec()); a new one has had `prot` all along.
  bool DeniesProtection(int old_prot, int prot) const;
  // Asynchronous I/O contexts, by id.
  std::map<uint64_t, std::unique_ptr<AioContext>> aio;
  // ptrace: whom it traces, and whose end it has not waited for.
  std::set<Task*> tracees;
  std::vector<DeadTracee> dead_tracees;
  RefPtr<Key> process_keys;
  // Core files (core_dump.h): what is being done, and /proc/PID/coredump_filter.
  std::unique_ptr<TaskLifecycle::CoreDump> core;
  uint32_t core_filter = 0x33;  // MMF_DUMP_FILTER_DEFAULT
  // Made at first use.
  CpuTimers& cpu_timers(ThreadGroup& group);
  CpuTimers* cpu_timers_if_any() const { return cpu_timers_.get(); }

  // A child of `parent`.
  void Inherit(ThreadGroup& group);
  void InheritMemoryRules(const GroupExtras& parent);
  // The last thread is gone.
  void OnExit(ThreadGroup& group);
  // Called for every process that ends, of whatever kernel; set once, before the first runs. For what processes own without a descriptor of theirs.
  static void SetExitWatcher(void (*watcher)(ThreadGroup&)) { exit_watcher_ = watcher; }
  bool AfterLoad(state::Loader& loader, ThreadGroup& group);

  std::string Save(state::Saver& saver, const ThreadGroup& group) const;
  bool Load(state::Loader& loader, const std::string& bytes);

 private:
  static inline void (*exit_watcher_)(ThreadGroup&) = nullptr;
  static inline std::atomic<uint64_t> next_serial_{1};
  std::unique_ptr<CpuTimers> cpu_timers_;
  std::vector<std::pair<uint64_t, std::string>> owned_;  // files and their owners, between Load() and AfterLoad()
  int64_t loaded_[4] = {};                               // virtual and prof: target and interval, between Load() and AfterLoad()
};

}  // namespace amber
