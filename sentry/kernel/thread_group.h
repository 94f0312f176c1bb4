// Processes, process groups, sessions and pid namespaces (Linux: signal_struct, struct pid, pid_namespace).
//
// A ThreadGroup is created by clone without CLONE_THREAD and lives until its parent reaped it. Guarded by the kernel lock.
#pragma once

#include <sys/resource.h>

#include <array>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "checkpoint/state.h"
#include "sentry/kernel/signal.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/wait_queue.h"

namespace amber {

class Kernel;
class Tty;  // sentry/fs/devpts/tty.h
class PosixTimers;

// Ids of one namespace. Ids are handed out upwards, wrapping at pid_max, as Linux does.
class PidNamespace final : public RefCounted<PidNamespace>, public state::Saveable {
 public:
  static constexpr int kPidMax = 4194304;

  PidNamespace() = default;
  ~PidNamespace() override = default;
  // A free id, or EAGAIN if `limit` ids are in use.
  ErrnoOr<int> Allocate();
  void Free(int id);
  bool InUse(int id) const { return used_.contains(id); }
  size_t count() const { return used_.size(); }

  state::Kind kind() const override { return state::Kind::kPidNamespace; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;

 private:
  std::set<int> used_;
  int last_ = 0;
};

class Session final : public RefCounted<Session>, public state::Saveable {
 public:
  Session() = default;
  ~Session() override = default;
  int id() const { return id_; }
  // The controlling terminal, or null.
  Tty* tty() const { return tty_; }
  void set_tty(Tty* tty) { tty_ = tty; }

  state::Kind kind() const override { return state::Kind::kSession; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;

 private:
  friend class TaskLifecycle;
  friend class ThreadGroup;
  int id_ = 0;
  Tty* tty_ = nullptr;
};

class ProcessGroup final : public RefCounted<ProcessGroup>, public state::Saveable {
 public:
  ProcessGroup() = default;
  ~ProcessGroup() override = default;
  int id() const { return id_; }
  Session& session() const { return *session_; }
  const std::set<ThreadGroup*>& members() const { return members_; }
  // No member has a parent in another group of the same session (POSIX "orphaned").
  bool IsOrphaned() const;
  // Sends to every member.
  void SendSignal(const SigInfo& info);

  state::Kind kind() const override { return state::Kind::kProcessGroup; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;

 private:
  friend class TaskLifecycle;
  friend class ThreadGroup;
  int id_ = 0;
  RefPtr<Session> session_;
  std::set<ThreadGroup*> members_;
};

class ThreadGroup final : public RefCounted<ThreadGroup>, public state::Saveable {
 public:
  ThreadGroup();
  ~ThreadGroup() override;

  Kernel& kernel() const { return *kernel_; }
  int pid() const { return pid_; }
  // The task whose tid is pid(); it may be a zombie while others run.
  Task* leader() const { return leader_; }
  const std::vector<RefPtr<Task>>& tasks() const { return tasks_; }
  // Tasks that have not exited.
  size_t live_tasks() const { return live_; }
  ThreadGroup* parent() const { return parent_; }
  int parent_pid() const { return parent_ != nullptr ? parent_->pid() : 0; }
  const std::set<ThreadGroup*>& children() const { return children_; }
  ProcessGroup& process_group() const { return *process_group_; }
  Session& session() const { return process_group_->session(); }
  SignalHandlers& handlers() const { return *handlers_; }
  rlimit& rlim(int resource) { return rlimits_[resource]; }
  const rlimit& rlim(int resource) const { return rlimits_[resource]; }
  bool zombie() const { return zombie_; }
  bool exiting() const { return group_exit_; }
  int exit_status() const { return exit_status_; }
  bool stopped() const { return stopped_; }
  bool dumpable() const { return dumpable_; }
  void set_dumpable(bool on) { dumpable_ = on; }
  bool did_exec() const { return did_exec_; }
  int64_t start_time() const { return start_time_; }
  int oom_score_adj() const { return oom_score_adj_; }
  void set_oom_score_adj(int value) { oom_score_adj_ = value; }
  // The executable's path, arguments as exec got them: for /proc and ps.
  const std::string& exe_path() const { return exe_path_; }

  // Sends to the process: any of its threads may take it.
  void SendSignal(const SigInfo& info);
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
  friend class SignalDelivery;
  friend class ProcessGroup;

  Kernel* kernel_ = nullptr;
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
  bool stopped_ = false;         // job control stop is in force
  int stop_signal_ = 0;
  bool stop_reported_ = true;    // wait4(WUNTRACED) has seen the stop
  bool continued_ = false;       // wait4(WCONTINUED) may report a continue
  bool child_subreaper_ = false;
  bool did_exec_ = false;
  bool dumpable_ = true;
  int oom_score_adj_ = 0;
  int64_t start_time_ = 0;       // guest monotonic
  std::string exe_path_;
  WaitQueue child_queue_;
  WaitQueue exit_queue_;
  WaitQueue signal_queue_;
  std::unique_ptr<Timer> real_timer_;  // ITIMER_REAL
  int64_t real_interval_ = 0;
  std::unique_ptr<PosixTimers> posix_timers_;
  rusage child_usage_{};
};

}  // namespace amber
