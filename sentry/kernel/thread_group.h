// Processes, process groups, sessions and pid namespaces (Linux: signal_struct, struct pid, pid_namespace).
//
// A ThreadGroup is created by clone without CLONE_THREAD and lives until its parent reaped it. Guarded by the kernel lock.
#pragma once

#include <sys/resource.h>

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "checkpoint/state.h"
#include "sentry/kernel/namespace.h"
#include "sentry/kernel/signal.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/wait_queue.h"

namespace amber {

class GroupExtras;  // sentry/kernel/extras.h
class Kernel;
class PosixTimers;
class PidNamespace;
class ProcessGroup;
class Session;
class ThreadGroup;
class Tty;  // sentry/fs/devpts/tty.h

// The ids of a task, process group or session: one in the namespace where it was made, one in each above (Linux: struct pid).
struct PidIds {
  int own = 0;
  std::vector<int> above;  // in ns.parent(), in its parent, ...

  // In `ns`, for what was made in `made_in`; 0 if it cannot be seen there.
  int In(const PidNamespace& ns, const PidNamespace& made_in) const;
};

// Those of a task.
PidIds IdsOf(const Task& task);
// `signo` with si_code SI_USER or SI_TKILL from `sender`, in the terms of `to`.
SigInfo SignalFrom(const Task& sender, const ThreadGroup& to, int signo, int code);
// True if `to` is its namespace's init and `sender` is inside: SIGKILL and SIGSTOP do nothing.
bool ImmuneTo(const Task& sender, const ThreadGroup& to, int signo);

// The ids of one pid namespace (pid_namespaces(7)). A container's is at level 0; clone and unshare make nested ones, whose
// processes have an id at each level above, too. Ids are handed out upwards and wrap at pid_max, as Linux does; an id is free
// again when its task was reaped and no process group carries it.
class PidNamespace final : public Namespace {
 public:
  static constexpr int kPidMax = 4194304;
  static constexpr int kMaxLevel = 32;

  PidNamespace() = default;
  PidNamespace(RefPtr<PidNamespace> parent, RefPtr<UserNamespace> owner);
  ~PidNamespace() override;

  int type() const override { return 0x20000000; }  // CLONE_NEWPID
  Namespace* above() const override { return parent_.get(); }
  PidNamespace* parent() const { return parent_.get(); }
  int level() const { return level_; }
  // True if this is `outer` or lies below it.
  bool IsWithin(const PidNamespace& outer) const;
  // Its init has died: nobody can be born here any more.
  bool dead() const { return dead_; }

  // Free ids for `task` here and above. `wanted`: those that clone3 asks for, innermost first (EEXIST if one is taken).
  ErrnoOr<PidIds> Allocate(Task* task, const std::vector<int>& wanted = {});
  void Free(const PidIds& ids);
  // exec by a thread that is not the leader: `task` takes over the leader's ids.
  void Rebind(const PidIds& ids, Task* task);
  // The ids that a reader in this namespace sees; 0 for what is outside.
  int IdOf(const Task& task) const;
  int IdOf(const ThreadGroup& group) const;
  int IdOf(const ProcessGroup& group) const;
  int IdOf(const Session& session) const;
  Task* FindTask(int id) const;
  // The process whose id is `pid` (not: whose thread's).
  ThreadGroup* FindGroup(int pid) const;
  ProcessGroup* FindProcessGroup(int id) const;
  // All processes, by pid; zombies too.
  std::vector<RefPtr<ThreadGroup>> Groups() const;
  size_t task_count() const { return tasks_.size(); }
  // Its first process: orphans become its children, and its end ends the namespace.
  ThreadGroup* init() const { return FindGroup(1); }

  state::Kind kind() const override { return state::Kind::kPidNamespace; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 private:
  friend class ProcessGroup;
  friend class TaskLifecycle;
  friend class ThreadGroup;
  bool Taken(int id) const { return tasks_.contains(id) || process_groups_.contains(id); }
  ErrnoOr<int> AllocateHere(Task* task, int wanted);

  std::map<int, Task*> tasks_;
  std::map<int, ProcessGroup*> process_groups_;  // entered and left by the groups themselves
  int last_ = 0;
  bool dead_ = false;
  int level_ = 0;
  RefPtr<PidNamespace> parent_;
};

class Session final : public RefCounted<Session>, public state::Saveable {
 public:
  Session() = default;
  ~Session() override = default;
  // In the namespace of the process that made it; others see PidNamespace::IdOf().
  int id() const { return ids_.own; }
  // The controlling terminal, or null.
  Tty* tty() const { return tty_; }
  // `on_leader_exit` runs when the session's leader exits (it disassociates the terminal; null with a null tty).
  void set_tty(Tty* tty, std::function<void()> on_leader_exit) {
    tty_ = tty;
    on_leader_exit_ = std::move(on_leader_exit);
  }

  state::Kind kind() const override { return state::Kind::kSession; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;

 private:
  friend class PidNamespace;
  friend class TaskLifecycle;
  friend class ThreadGroup;
  PidIds ids_;
  RefPtr<PidNamespace> pids_;
  Tty* tty_ = nullptr;
  std::function<void()> on_leader_exit_;
};

class ProcessGroup final : public RefCounted<ProcessGroup>, public state::Saveable {
 public:
  ProcessGroup() = default;
  ~ProcessGroup() override;
  // In the namespace of the process that made it; others see PidNamespace::IdOf().
  int id() const { return ids_.own; }
  amber::Session& session() const { return *session_; }
  const std::set<ThreadGroup*>& members() const { return members_; }
  // No member has a parent in another group of the same session (POSIX "orphaned").
  bool IsOrphaned() const;
  // Sends to every member.
  void SendSignal(const SigInfo& info);

  state::Kind kind() const override { return state::Kind::kProcessGroup; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 private:
  friend class PidNamespace;
  friend class TaskLifecycle;
  friend class ThreadGroup;
  void Register();

  PidIds ids_;
  RefPtr<PidNamespace> pids_;
  RefPtr<Session> session_;
  std::set<ThreadGroup*> members_;
};

class ThreadGroup final : public RefCounted<ThreadGroup>, public state::Saveable {
 public:
  ThreadGroup();
  ~ThreadGroup() override;

  Kernel& kernel() const { return *kernel_; }
  // The id in its own pid namespace; others see PidNamespace::IdOf().
  int pid() const { return pid_; }
  // The task whose tid is pid(); it may be a zombie while others run.
  Task* leader() const { return leader_; }
  const std::vector<RefPtr<Task>>& tasks() const { return tasks_; }
  // Tasks that have not exited.
  size_t live_tasks() const { return live_; }
  ThreadGroup* parent() const { return parent_; }
  // The parent's id as this process sees it: 0 if it is outside of the pid namespace.
  int parent_pid() const { return parent_ != nullptr ? pids_->IdOf(*parent_) : 0; }
  const std::set<ThreadGroup*>& children() const { return children_; }
  ProcessGroup& process_group() const { return *process_group_; }
  amber::Session& session() const { return process_group_->session(); }
  SignalHandlers& handlers() const { return *handlers_; }
  rlimit& rlim(int resource) { return rlimits_[resource]; }
  const rlimit& rlim(int resource) const { return rlimits_[resource]; }
  bool zombie() const { return zombie_; }
  bool exiting() const { return group_exit_; }
  int exit_status() const { return exit_status_; }
  bool stopped() const { return stopped_; }
  bool dumpable() const { return dumpable_; }
  void set_dumpable(bool on) { dumpable_ = on; }
  bool child_subreaper() const { return child_subreaper_; }
  void set_child_subreaper(bool on) { child_subreaper_ = on; }
  bool did_exec() const { return did_exec_; }
  int64_t start_time() const { return start_time_; }
  int nice() const { return nice_; }
  void set_nice(int nice) { nice_ = nice; }
  int oom_score_adj() const { return oom_score_adj_; }
  void set_oom_score_adj(int value) { oom_score_adj_ = value; }
  // The executable's path, arguments as exec got them: for /proc and ps.
  const std::string& exe_path() const { return exe_path_; }

  PidNamespace& pids() const { return *pids_; }
  // Its namespace's init: signals from inside that it does not handle do nothing.
  bool is_init() const { return pid_ == 1; }
  // The process was told to stop (job control).
  void Stop(int signo);
  // Sends to the process: any of its threads may take it, `first` if it can.
  void SendSignal(const SigInfo& info, Task* first = nullptr);
  int stop_signal() const { return stop_signal_; }
  // True if a stop (a continue) has not been waited for yet; takes the report unless `peek`.
  bool TakeStopReport(bool peek);
  bool TakeContinueReport(bool peek);
  // RLIMIT_SIGPENDING: there is room for one more real-time signal.
  bool MayQueueSignal() const;
  void DiscardPending(SignalSet signals) { DiscardEverywhere(signals); }
  // ITIMER_REAL.
  int64_t real_deadline() const { return real_timer_ != nullptr && real_timer_->armed() ? real_timer_->deadline() : kNever; }
  int64_t real_interval() const { return real_interval_; }
  void ArmRealTimer(int64_t deadline, int64_t interval);
  PosixTimers& posix_timers();
  // State of features that few processes use (extras.h).
  GroupExtras& extras() const { return *extras_; }
  // Calls `watcher` with the wait status when this becomes a zombie (the runtime's wait). At most one.
  void set_exit_watcher(std::function<void(int)> watcher) { exit_watcher_ = std::move(watcher); }
  // User and system time of the living host process and of what was collected before, in ns.
  int64_t CpuTime() const;
  const rusage& usage() const { return usage_; }
  const rusage& child_usage() const { return child_usage_; }
  // Of a host process that this one had (late_usage.h); with `child`, of one of a child that it has waited for.
  void AddLateUsage(const rusage& usage, bool child);
  // setpgid and setsid.
  void JoinProcessGroup(RefPtr<ProcessGroup> group);
  RefPtr<ProcessGroup> NewSession();
  bool IsSessionLeader() const;
  // `pgid` is an id of `ns`.
  ErrnoOr<void> SetProcessGroup(const PidNamespace& ns, int pgid);
  // Notified with POLLIN when a child changes state (wait4), and with POLLHUP when this group becomes a zombie (pidfd).
  WaitQueue& child_queue() { return child_queue_; }
  WaitQueue& exit_queue() { return exit_queue_; }
  // Notified with POLLIN when a signal becomes pending for the group or one of its tasks (signalfd, sigtimedwait).
  WaitQueue& signal_queue() { return signal_queue_; }

  state::Kind kind() const override { return state::Kind::kThreadGroup; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 private:
  friend class Kernel;
  friend class Task;
  friend class TaskLifecycle;
  friend class TestTask;
  friend class ProcessGroup;

  // What a signal does at the moment it is sent: SIGCONT and stop signals cancel each other. True if that ended a stop: then GoOn() is due
  // once the signal is in its queue.
  bool PrepareSignal(int signo);
  bool EndStop();
  // Lets threads go on that a stop held.
  void GoOn();
  void DiscardEverywhere(SignalSet signals);
  // Interrupts threads that can take what is pending for the group.
  void WakeForPending(Task* first = nullptr);
  RefPtr<ProcessGroup> NewProcessGroup(RefPtr<amber::Session> session);
  void SetDefaultLimits();
  // Takes the host's accounting of the process that is about to die.
  void CollectUsage();
  void AddChildUsage(ThreadGroup& child);
  void LeaveSessionIfLeader();
  // Tells the parent: SIGCHLD with `code` (CLD_*), and wakes its waits.
  void NotifyParent(int code, int status);

  Kernel* kernel_ = nullptr;
  RefPtr<PidNamespace> pids_;
  int pid_ = 0;
  Task* leader_ = nullptr;
  std::vector<RefPtr<Task>> tasks_;
  size_t live_ = 0;
  ThreadGroup* parent_ = nullptr;
  std::set<ThreadGroup*> children_;
  RefPtr<ProcessGroup> process_group_;
  RefPtr<SignalHandlers> handlers_;
  SignalQueue pending_;
  std::array<rlimit, RLIM_NLIMITS> rlimits_{};
  bool zombie_ = false;
  bool group_exit_ = false;
  int exit_status_ = 0;
  bool stopped_ = false;  // job control stop is in force
  int stop_signal_ = 0;
  bool stop_reported_ = true;  // wait4(WUNTRACED) has seen the stop
  bool continued_ = false;     // wait4(WCONTINUED) may report a continue
  bool child_subreaper_ = false;
  bool did_exec_ = false;
  bool dumpable_ = true;
  int oom_score_adj_ = 0;
  int nice_ = 0;
  int64_t start_time_ = 0;  // guest monotonic
  std::string exe_path_;
  WaitQueue child_queue_;
  WaitQueue exit_queue_;
  WaitQueue signal_queue_;
  std::unique_ptr<Timer> real_timer_;  // ITIMER_REAL
  int64_t real_interval_ = 0;
  int64_t saved_real_deadline_ = kNever;  // from an image, until AfterLoad
  std::unique_ptr<PosixTimers> posix_timers_;
  std::unique_ptr<GroupExtras> extras_;
  std::function<void(int)> exit_watcher_;
  rusage usage_{};        // complete once a zombie
  rusage child_usage_{};  // of reaped children and theirs
};

}  // namespace amber
