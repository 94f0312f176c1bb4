#include <linux/futex.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <algorithm>
#include <deque>

#include "sentry/kernel/cgroup.h"
#include "sentry/kernel/core_dump.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/futex_pi.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/offered_actions.h"
#include "sentry/kernel/posix_timers.h"
#include "sentry/kernel/robust_list.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/task_lifecycle.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/tracing.h"
#include "sentry/kernel/uts_namespace.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/fs_context.h"
#include "sentry/vfs/mount.h"

namespace amber {
namespace {

// `member`, whose parent is `parent`, keeps its process group from being orphaned.
bool Anchors(const ThreadGroup& member, const ThreadGroup* parent) {
  return parent != nullptr && &parent->process_group() != &member.process_group() && &parent->session() == &member.session();
}

// kill_orphaned_pgrp(): nobody is left who could continue its stopped jobs.
void ReleaseIfOrphaned(ProcessGroup& group) {
  const auto& members = group.members();
  bool stopped = std::any_of(members.begin(), members.end(), [](const ThreadGroup* g) { return g->stopped(); });
  if (!stopped || !group.IsOrphaned()) return;
  std::vector<RefPtr<ThreadGroup>> told;
  for (ThreadGroup* member : members) {
    // A container's first process does not end of it (sig_task_ignored()), though it does of what the runtime and the terminal send.
    TakeActionsOf(*member);
    if (!member->is_init() || member->handlers()[SIGHUP].handler != 0) told.emplace_back(member);
  }
  for (int signal : {SIGHUP, SIGCONT}) {
    for (const RefPtr<ThreadGroup>& member : told) member->SendSignal(SigInfo::Kernel(signal));
  }
}

// Signals that are sent while a process goes may end others, whose ends send signals, too. They wait here, so that however long a chain of processes
// is, it does not lie on the stack, and nobody meets what another is in the middle of. Kernel lock.
struct Departure {
  RefPtr<ThreadGroup> group;
  RefPtr<Task> leader;
  std::vector<RefPtr<ProcessGroup>> orphaned;
  bool told = false;  // all is done but to tell the parent: the members of its namespace, which go first, were before it in the queue
};
std::deque<Departure> departing;
bool in_departure = false;
std::vector<const ThreadGroup*> leaving;  // those in the queue, and the one that is being worked on

}  // namespace

bool TaskLifecycle::IsLeaving(const ThreadGroup& group) { return std::ranges::find(leaving, &group) != leaving.end(); }

TaskLifecycle::TaskLifecycle(Kernel& kernel)
    : kernel_(kernel), pi_futexes_(std::make_unique<PiFutexes>()), core_dumps_(std::make_unique<CoreDumps>(kernel)) {}
TaskLifecycle::~TaskLifecycle() = default;

void TaskLifecycle::ExitThread(Task& task, int status) {
  if (task.group().live_tasks() == 1) return ExitGroup(task.group(), (status & 0xff) << 8);
  Cgroup::BeforeExit(task);
  std::vector<platform::StubOp> ops;
  WalkRobustList(task, &ops);
  // A word that the host does not clear by itself (it does for CLONE_CHILD_CLEARTID and set_tid_address).
  uint64_t word = task.clear_child_tid_native_ ? 0 : task.clear_child_tid_;
  if (word != 0) {
    uint32_t zero = 0;
    if (task.CopyOutBytes(word, &zero, sizeof(zero)).ok()) {
      ops.push_back({SYS_futex, {word, FUTEX_WAKE, 1, 0, 0, 0}});
    }
  }
  // The usual end: the host thread may make its own call, and need not be stopped for another.
  if (ops.empty() && task.where_ == Task::Where::kNotified && !task.framed() && task.syscall_.number == SYS_exit) {
    task.thread_->Exit();
    Exit(task, (status & 0xff) << 8);
    return Release(task);
  }
  task.StopForOps(std::move(ops), [this, &task, status](std::span<const int64_t>) {
    task.thread_->Exit();
    Exit(task, (status & 0xff) << 8);
    Release(task);
  });
}

void TaskLifecycle::ExitGroup(ThreadGroup& group, int wait_status) {
  if (group.group_exit_ || group.zombie_) return;
  RefPtr<ThreadGroup> self(&group);
  CoreDump::OnExit(group);
  group.group_exit_ = true;
  group.exit_status_ = wait_status;
  group.stopped_ = false;
  std::vector<RefPtr<Task>> tasks(group.tasks_);
  for (const RefPtr<Task>& t : tasks) {
    if (t->exiting_ || t->thread_ == nullptr) continue;
    Cgroup::BeforeExit(*t);
    WalkRobustList(*t, nullptr);
  }
  group.CollectUsage();
  for (const RefPtr<Task>& t : tasks) {
    if (t->thread_ != nullptr) {
      t->thread_->space().KillProcess(*t->thread_);
      break;
    }
  }
  for (const RefPtr<Task>& t : tasks) {
    if (!t->exiting_) Exit(*t, wait_status);
  }
  for (const RefPtr<Task>& t : tasks) Release(*t);
}

void TaskLifecycle::HoldForCgroup(Task& task, bool hold) {
  if (task.exiting_ || task.extras_->cgroup_held == hold) return;
  task.extras_->cgroup_held = hold;
  if (hold) {
    task.Interrupt();
  } else if (task.held_) {
    task.ReturnToGuest();
  }
}

bool TaskLifecycle::IsHeld(const Task& task) const { return task.held_; }

void TaskLifecycle::EndAway() {
  --running_helpers_;
  kernel_.CheckFrozen();
}

void TaskLifecycle::Exit(Task& task, int status) {
  AMBER_CHECK(!task.exiting_);
  task.exiting_ = true;
  task.exit_status_ = status;
  task.call_ = Task::Call::kNone;
  task.where_ = Task::Where::kNone;
  task.EndBlock();
  task.when_stopped_ = nullptr;
  pi_futexes_->OnExit(task);
  if (task.thread_ != nullptr) {
    task.thread_->cookie = nullptr;
    task.thread_->Release();
    task.thread_ = nullptr;
  }
  kernel_.CheckFrozen();
}

void TaskLifecycle::Release(Task& task) {
  if (!task.exiting_ || task.released_ || task.on_stack_) return;
  task.released_ = true;
  RefPtr<Task> self(&task);
  RefPtr<ThreadGroup> group(&task.group());
  if (task.mm_) task.mm_->TaskGone(task);
  task.extras_->OnExit(task);
  // The last that has the table closes what is in it; a helper that runs for this task does it at its call's end.
  if (task.files_ && task.files_->ref_count() == 1) {
    task.files_->RemoveIf(task, [](int, bool) { return true; });
  }
  task.files_.reset();
  task.fs_.reset();
  task.mounts_.reset();
  task.mm_.reset();
  if (task.vfork_pending_) {
    task.vfork_pending_ = false;
    task.vfork_queue_.Notify(POLLIN);
  }
  // What follows may end the rest of the process, on this stack.
  const bool last = --group->live_ == 0;
  --kernel_.task_count_;
  Cgroup::OnTaskGone(task);
  // A thread that is not the leader leaves no zombie, not even as the last of its process.
  if (&task != group->leader_) {
    if (task.extras_->tracee != nullptr) Tracing::OnExit(task, task.exit_status_);
    group->pids_->Free(IdsOf(task));
    std::erase(group->tasks_, self);
  }
  if (last) return LastTaskGone(*group);
  if (group->zombie_) return;
  CoreDump::Check(*group);
  // exec waits until it is alone.
  group->exit_queue_.Notify(POLLIN);
}

void TaskLifecycle::LastTaskGone(ThreadGroup& group) {
  RefPtr<ThreadGroup> self(&group);
  RefPtr<Task> leader(group.leader_);
  if (!group.group_exit_) {
    group.group_exit_ = true;
    group.exit_status_ = leader->exit_status_;
  }
  group.zombie_ = true;
  // Not destroyed yet: this may run inside one's callback.
  if (group.real_timer_ != nullptr) group.real_timer_->Cancel();
  if (group.posix_timers_ != nullptr) group.posix_timers_->CancelAll();
  group.extras_->OnExit(group);
  group.pending_.Discard(~SignalSet{0});
  std::vector<RefPtr<ProcessGroup>> orphaned;
  if (Anchors(group, group.parent_)) orphaned.emplace_back(&group.process_group());
  for (ThreadGroup* child : group.children_) {
    if (Anchors(*child, &group)) orphaned.emplace_back(&child->process_group());
  }
  leaving.push_back(&group);
  departing.push_back({std::move(self), std::move(leader), std::move(orphaned)});
  if (!in_departure) WorkOffDepartures();
}

void TaskLifecycle::WorkOffDepartures() {
  in_departure = true;
  while (!departing.empty()) {
    Departure next = std::move(departing.front());
    departing.pop_front();
    ThreadGroup& group = *next.group;
    if (!next.told) {
      ReparentChildren(group);
      for (const RefPtr<ProcessGroup>& g : next.orphaned) ReleaseIfOrphaned(*g);
      group.LeaveSessionIfLeader();
      Tracing::OnTracerExit(group);
      if (next.leader->extras_->tracee != nullptr) Tracing::OnExit(*next.leader, group.exit_status_);
      group.exit_queue_.Notify(POLLIN | POLLHUP);
      if (group.exit_watcher_) std::exchange(group.exit_watcher_, nullptr)(group.exit_status_);
      if (group.is_init()) {
        KillNamespace(*RefPtr<PidNamespace>(group.pids_));
        next.told = true;
        departing.push_back(std::move(next));
        continue;
      }
    }
    std::erase(leaving, &group);
    TellParent(group);
  }
  in_departure = false;
}

void TaskLifecycle::TellParent(ThreadGroup& group) {
  ThreadGroup* parent = group.parent_;
  if (parent == nullptr) return Reap(group);  // its starter learned of it by exit_watcher_
  int code = WIFSIGNALED(group.exit_status_) ? (WCOREDUMP(group.exit_status_) ? CLD_DUMPED : CLD_KILLED) : CLD_EXITED;
  int status = WIFSIGNALED(group.exit_status_) ? WTERMSIG(group.exit_status_) : WEXITSTATUS(group.exit_status_);
  bool autoreap = false;
  if (group.leader_->exit_signal_ == SIGCHLD) {
    // wait(2), NOTES: ignoring SIGCHLD explicitly, or SA_NOCLDWAIT, means no zombies.
    TakeActionsOf(*parent);
    const SigAction& action = (*parent->handlers_)[SIGCHLD];
    autoreap = action.handler == reinterpret_cast<uint64_t>(SIG_IGN) || (action.flags & SA_NOCLDWAIT) != 0;
  }
  group.NotifyParent(code, status);
  if (autoreap) Reap(group);
}

uint64_t TaskLifecycle::ClearChildTid(const Task& task) { return task.clear_child_tid_; }

void TaskLifecycle::Reap(ThreadGroup& group) {
  RefPtr<ThreadGroup> self(&group);
  if (group.parent_ != nullptr) {
    group.parent_->AddChildUsage(group);
    group.parent_->extras_->io.Add(group.extras_->io);
    group.parent_->children_.erase(&group);
    group.parent_ = nullptr;
  }
  for (const RefPtr<Task>& t : group.tasks_) group.pids_->Free(IdsOf(*t));
  if (group.process_group_) {
    group.process_group_->members_.erase(&group);
    group.process_group_.reset();
  }
  // Descriptors may keep the process, but not its tasks.
  group.leader_ = nullptr;
  group.tasks_.clear();
  kernel_.groups_.erase(self);
}

void TaskLifecycle::ReparentChildren(ThreadGroup& group) {
  if (group.children_.empty()) return;
  // To the nearest living ancestor that asked for it (PR_SET_CHILD_SUBREAPER), else to the namespace's init.
  // A subreaper of another pid namespace is not asked (find_new_reaper).
  ThreadGroup* reaper = group.parent_;
  while (reaper != nullptr && reaper->pids_ == group.pids_ && (!reaper->child_subreaper_ || reaper->group_exit_)) {
    reaper = reaper->parent_;
  }
  if (reaper == nullptr || reaper->pids_ != group.pids_) reaper = group.pids_->init();
  if (reaper == &group || (reaper != nullptr && reaper->group_exit_)) reaper = nullptr;
  std::vector<RefPtr<ThreadGroup>> children;
  std::vector<RefPtr<ThreadGroup>> dead;
  for (ThreadGroup* child : std::exchange(group.children_, {})) {
    children.emplace_back(child);
    if (child->zombie_ && !IsLeaving(*child)) dead.emplace_back(child);
    child->parent_ = reaper;
    child->leader_->exit_signal_ = SIGCHLD;  // nobody is to slay init (reparent_leader())
    if (reaper != nullptr) reaper->children_.insert(child);
  }
  // From here on others may go, of what they hear.
  for (const RefPtr<ThreadGroup>& child : children) {
    if (child->zombie_) continue;
    int signal = child->leader_->parent_death_signal_;
    if (signal != 0) child->SendSignal(SigInfo::User(signal, SI_USER, child->pids().IdOf(group), 0));
  }
  for (const RefPtr<ThreadGroup>& child : dead) {
    // Unless it was its new parent that went, whose it was then, or it has been waited for.
    const bool reaped = child->tasks_.empty();
    if (!reaped && child->parent_ == reaper) TellParent(*child);
  }
}

void TaskLifecycle::KillNamespace(PidNamespace& pids) {
  pids.dead_ = true;
  for (const RefPtr<ThreadGroup>& g : pids.Groups()) {
    if (!g->zombie_) KillGroup(*g, SIGKILL);
  }
}

}  // namespace amber
