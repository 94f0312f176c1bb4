#include <linux/capability.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>

#include <cerrno>
#include <memory>

#include "sentry/fs/pidfd/pidfd.h"
#include "sentry/ipc/ipc_namespace.h"
#include "sentry/kernel/cgroup.h"
#include "sentry/kernel/core_dump.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/namespaces.h"
#include "sentry/kernel/offered_actions.h"
#include "sentry/kernel/signal_frame.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/task_lifecycle.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/time_namespace.h"
#include "sentry/kernel/tracing.h"
#include "sentry/kernel/under_lock.h"
#include "sentry/kernel/uts_namespace.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/mm/moved.h"
#include "sentry/net/inet/net_namespace.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/fs_context.h"
#include "sentry/vfs/mount.h"

namespace amber {
namespace {

constexpr uint64_t kKnownFlags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_PIDFD | CLONE_PTRACE | CLONE_VFORK | CLONE_PARENT |
                                 CLONE_THREAD | CLONE_SYSVSEM | CLONE_SETTLS | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID | CLONE_DETACHED |
                                 CLONE_UNTRACED | CLONE_CHILD_SETTID | CLONE_IO | CLONE_CLEAR_SIGHAND | CLONE_INTO_CGROUP | kNamespaceFlags;

// user_disable_single_step() of copy_thread(): whoever steps the parent does not step its child, who would die of it.
void StopStepping(const Task& parent, platform::Frame* frame) {
  const Tracee* tracee = parent.extras().tracee.get();
  if (tracee != nullptr && tracee->stepping) frame->regs.rflags &= ~kFlagTf;
}

}  // namespace

ErrnoOr<void> TaskLifecycle::CheckCloneFlags(Task& parent, const CloneArgs& args) const {
  uint64_t f = args.flags;
  if ((f & CLONE_SIGHAND) != 0 && (f & CLONE_VM) == 0) return Errno(EINVAL);
  if ((f & CLONE_THREAD) != 0 && (f & CLONE_SIGHAND) == 0) return Errno(EINVAL);
  if ((f & CLONE_THREAD) != 0 && (f & CLONE_VFORK) != 0 && args.stack == 0) return Errno(EINVAL);
  if ((f & CLONE_CLEAR_SIGHAND) != 0 && (f & CLONE_SIGHAND) != 0) return Errno(EINVAL);
  if ((f & CLONE_PIDFD) != 0 && (f & (CLONE_THREAD | CLONE_DETACHED)) != 0) return Errno(EINVAL);
  if ((f & CLONE_FS) != 0 && (f & (CLONE_NEWNS | CLONE_NEWUSER)) != 0) return Errno(EINVAL);
  if ((f & CLONE_SYSVSEM) != 0 && (f & CLONE_NEWIPC) != 0) return Errno(EINVAL);
  // Siblings of init would be children of a process outside of its namespace.
  if ((f & CLONE_PARENT) != 0 && parent.group().is_init()) return Errno(EINVAL);
  const RefPtr<PidNamespace>& next = parent.extras().pids_for_children;
  bool leaves = next && next.get() != &parent.group().pids();
  if ((f & CLONE_THREAD) != 0 && ((f & (CLONE_NEWUSER | CLONE_NEWPID)) != 0 || leaves)) return Errno(EINVAL);
  if ((f & ~kKnownFlags) != 0) return Errno(EINVAL);
  return Ok();
}

RefPtr<Task> TaskLifecycle::NewTask(ThreadGroup& group, const PidIds& ids, const Task& like) {
  auto task = MakeRef<Task>();
  task->kernel_ = &kernel_;
  task->group_ = RefPtr<ThreadGroup>(&group);
  task->tid_ = ids.own;
  task->extras_->ids_above = ids.above;
  task->name_ = like.name_;
  task->creds_ = like.creds_;
  task->mounts_ = like.mounts_;
  task->uts_ = like.uts_;
  task->container_ = like.container_;
  task->blocked_ = like.has_saved_mask_ ? like.saved_mask_ : like.blocked_;
  task->no_new_privs_ = like.no_new_privs_;
  task->keep_caps_ = like.keep_caps_;
  task->timer_slack_ = like.timer_slack_;
  task->personality_ = like.personality_;
  group.tasks_.push_back(task);
  ++group.live_;
  Cgroup::OnNewTask(*task, &like);
  ++kernel_.task_count_;
  return task;
}

ErrnoOr<uint64_t> TaskLifecycle::Clone(Task& parent, const CloneArgs& args) {
  TRY(CheckCloneFlags(parent, args));
  constexpr uint64_t kPrivileged = kNamespaceFlags & ~uint64_t{CLONE_NEWUSER};
  bool may = (args.flags & CLONE_NEWUSER) != 0 || parent.creds().HasOwn(CAP_SYS_ADMIN);
  if ((args.flags & kPrivileged) != 0 && !may) return Errno(EPERM);
  if (parent.syscall().scratch[0] != 0) {
    // Executed again: a vfork parent waits for its child to exec or exit. Only a fatal signal ends that (wait_for_vfork_done()): a handler
    // would find the stack in use by the child, and behind it the call would begin anew.
    Task* child = parent.FindTask(static_cast<int>(parent.syscall().scratch[0]));
    if (child == nullptr || !child->vfork_pending_) {
      if (parent.extras_->tracee != nullptr && (args.flags & CLONE_VFORK) != 0) {
        Tracing::OnVforkDone(parent, static_cast<int>(parent.syscall().scratch[0]));
      }
      return parent.syscall().scratch[0];
    }
    return parent.Block(child->vfork_queue_, POLLIN, kNever, kKillable);
  }
  bool thread = (args.flags & CLONE_THREAD) != 0;
  bool share_vm = (args.flags & CLONE_VM) != 0;
  if (kernel_.task_count_ >= kernel_.max_tasks_) return Errno(EAGAIN);
  const rlimit& nproc = parent.group().rlim(RLIMIT_NPROC);
  if (kernel_.task_count_ >= nproc.rlim_cur && parent.creds().uid != 0 && !parent.Has(CAP_SYS_RESOURCE) && !parent.Has(CAP_SYS_ADMIN) &&
      kernel_.TasksOf(parent.creds().uid) >= nproc.rlim_cur) {
    return Errno(EAGAIN);
  }
  if (!share_vm && !parent.mm().TryLock(parent)) {
    return parent.Block(parent.mm().lock_queue(), POLLIN, kNever, kErestartnointr);
  }
  RefPtr<Cgroup> charged(&Cgroup::ForNewTask(parent, args.cgroup.get()));
  if (auto reserved = charged->ReserveTask(); !reserved.ok()) {
    if (!share_vm) parent.mm().Unlock(parent);
    return reserved.error();
  }
  if (kernel_.max_tasks_ != 0) ++kernel_.stats().forks;
  if ((args.flags & (CLONE_THREAD | CLONE_SIGHAND)) != 0) WithdrawActions(parent);
  parent.call_ = Task::Call::kContinuation;
  RefPtr<Task> self(&parent);
  // Ends when the child counts as a task, or never will: also if the parent dies meanwhile and nothing is called back.
  std::shared_ptr<Cgroup> reservation(charged.get(), [charged](Cgroup* group) { group->EndReservation(); });
  UnderLock done(kernel_, [this, self, args, reservation = std::move(reservation)](ErrnoOr<platform::Thread*> made) mutable {
    reservation.reset();  // nobody else comes in between
    OnCloned(*self, args, made);
  });
  if (!share_vm) {
    parent.thread_->Fork(std::move(done));
    return kNoAnswer;
  }
  platform::Thread::CloneOptions options;
  options.new_process = !thread;
  options.frame = parent.frame();
  options.frame.regs.rax = 0;
  StopStepping(parent, &options.frame);
  if (args.stack != 0) options.frame.regs.rsp = args.stack;
  if ((args.flags & CLONE_SETTLS) != 0) options.frame.fs_base = args.tls;
  if ((args.flags & CLONE_CHILD_CLEARTID) != 0) options.clear_child_tid = args.child_tid;
  parent.thread_->Clone(options, std::move(done));
  return kNoAnswer;
}

void TaskLifecycle::OnCloned(Task& parent, const CloneArgs& args, ErrnoOr<platform::Thread*> made) {
  bool share_vm = (args.flags & CLONE_VM) != 0;
  if (!share_vm && parent.mm_) parent.mm_->Unlock(parent);
  if (!made.ok()) return parent.FinishSyscall(-made.error().number());
  platform::Thread& thread = **made;
  if (parent.exiting_) {
    // Killed meanwhile: the child never existed.
    thread.space().KillProcess(thread);
    thread.Release();
    return;
  }
  auto child = MakeChild(parent, args, thread);
  if (!child.ok()) {
    if ((args.flags & CLONE_THREAD) != 0) {
      thread.Exit();
    } else {
      thread.space().KillProcess(thread);
    }
    thread.Release();
    return parent.FinishSyscall(-child.error().number());
  }
  if (share_vm) return FinishClone(parent, *child, args);
  CopyMovedMemory(parent, *child, args);
}

// Gives the child of a fork memory of its own where its parent's is a device's (sentry/mm/moved.h).
void TaskLifecycle::CopyMovedMemory(Task& parent, const RefPtr<Task>& child, const CloneArgs& args) {
  ErrnoOr<MovedCopies> copies = CopyMovedOps(parent, parent.mm());
  if (copies.ok() && copies->ops.empty()) return FinishClone(parent, child, args);
  if (!copies.ok()) {
    KillGroup(child->group(), SIGKILL);
    return parent.FinishSyscall(-ENOMEM);
  }
  auto done = [this, self = RefPtr<Task>(&parent), child, args, copies = *copies](std::span<const int64_t> results) {
    if (!CopiedMoved(copies.ops, results)) KillGroup(child->group(), SIGKILL);
    if (self->exiting_) return;
    if (child->exiting_) return self->FinishSyscall(-ENOMEM);
    FinishClone(*self, child, args);
  };
  child->thread_->RunOps(copies->ops, UnderLock(kernel_, std::move(done)));
}

ErrnoOr<RefPtr<Task>> TaskLifecycle::MakeChild(Task& parent, const CloneArgs& args, platform::Thread& thread) {
  ThreadGroup& old = parent.group();
  if (args.cgroup && args.cgroup->removed()) return Errno(ENODEV);
  RefPtr<FsContext> fs = (args.flags & CLONE_FS) != 0 ? parent.fs_ : parent.fs_->Clone();
  NamespaceSet set = TRY(MakeNamespaces(parent, args.flags, fs.get()));
  RefPtr<PidNamespace> pids(&old.pids());
  if (set.pids_for_children) {
    pids = std::exchange(set.pids_for_children, nullptr);
  } else if (parent.extras_->pids_for_children) {
    pids = parent.extras_->pids_for_children;
  }
  RefPtr<ThreadGroup> group(&old);
  bool new_group = (args.flags & CLONE_THREAD) == 0;
  // A namespace's first process is its init.
  PidIds ids = TRY(pids->Allocate(nullptr, args.set_tid));
  if (new_group) {
    group = NewGroup(old, pids, ids.own, args);
    Cgroup::Enter(*group, &parent, args.cgroup ? args.cgroup : RefPtr<Cgroup>(&Cgroup::Of(parent)));
  }
  RefPtr<Task> child = NewTask(*group, ids, parent);
  pids->Rebind(ids, child.get());
  if (new_group) {
    // CLONE_PARENT: a sibling, made by whoever made the caller.
    group->extras_->creator_tid = (args.flags & CLONE_PARENT) != 0 ? old.extras_->creator_tid : parent.tid();
  } else if (!old.extras_->had_threads) {
    parent.extras_->cpu_base = old.extras_->cpu_base;
    old.extras_->had_threads = true;
  }
  if (new_group) group->leader_ = child.get();
  child->exit_signal_ = args.exit_signal;
  child->extras_->Inherit(parent, args.flags);
  child->altstack_ = (args.flags & CLONE_VM) != 0 && (args.flags & CLONE_VFORK) == 0 ? AltStack{} : parent.altstack_;
  child->fs_ = std::move(fs);
  set.Enter(*child);
  child->files_ = (args.flags & CLONE_FILES) != 0 ? parent.files_ : parent.files_->Clone();
  if ((args.flags & CLONE_VM) != 0) {
    child->mm_ = parent.mm_;
  } else {
    child->mm_ = parent.mm_->Fork();
    child->mm_->Attach(RefPtr<platform::AddressSpace>(&thread.space()));
    TaskExtras& extras = *child->extras_;
    if (extras.time != parent.extras_->time) extras.before_guest = VdsoParamsOps(*child->mm_, extras.time.get(), kernel_.clocks());
  }
  if ((args.flags & CLONE_CHILD_CLEARTID) != 0) {
    child->clear_child_tid_ = args.child_tid;
    child->clear_child_tid_native_ = (args.flags & CLONE_VM) != 0;
  }
  child->vfork_pending_ = (args.flags & CLONE_VFORK) != 0;
  child->thread_ = &thread;
  if (args.cgroup) Cgroup::ApplyCpus(*child, Cgroup::CpusFor(*child));
  child->where_ = Task::Where::kStopped;
  thread.cookie = child.get();
  platform::Frame& frame = thread.frame();
  frame.regs.rax = 0;
  StopStepping(parent, &frame);
  if (args.stack != 0) frame.regs.rsp = args.stack;
  if ((args.flags & CLONE_SETTLS) != 0) frame.fs_base = args.tls;
  return child;
}

RefPtr<ThreadGroup> TaskLifecycle::NewGroup(ThreadGroup& old, RefPtr<PidNamespace> pids, int pid, const CloneArgs& args) {
  auto group = MakeRef<ThreadGroup>();
  group->kernel_ = &kernel_;
  group->pids_ = std::move(pids);
  group->pid_ = pid;
  group->start_time_ = kernel_.clocks().Boottime();
  group->rlimits_ = old.rlimits_;
  group->handlers_ = (args.flags & CLONE_SIGHAND) != 0 ? old.handlers_ : old.handlers_->Clone();
  if ((args.flags & CLONE_CLEAR_SIGHAND) != 0) group->handlers_->ResetForExec();
  group->dumpable_ = old.dumpable_;
  group->oom_score_adj_ = old.oom_score_adj_;
  group->nice_ = old.nice_;
  group->extras_->core_filter = old.extras_->core_filter;
  group->extras_->no_huge_pages = old.extras_->no_huge_pages;
  group->extras_->InheritMemoryRules(*old.extras_);
  group->extras_->Inherit(*group);
  group->exe_path_ = old.exe_path_;
  group->process_group_ = old.process_group_;
  if (group->process_group_) group->process_group_->members_.insert(group.get());
  ThreadGroup* parent = (args.flags & CLONE_PARENT) != 0 ? old.parent_ : &old;
  group->parent_ = parent;
  if (parent != nullptr) parent->children_.insert(group.get());
  kernel_.groups_.insert(group);
  return group;
}

void TaskLifecycle::FinishClone(Task& parent, const RefPtr<Task>& child, const CloneArgs& args) {
  // Each side in its own terms.
  uint32_t tid = static_cast<uint32_t>(parent.group().pids().IdOf(*child)), own_tid = static_cast<uint32_t>(child->tid_);
  // Faults here are the caller's own loss, as in Linux (put_user's result is ignored).
  if ((args.flags & CLONE_PARENT_SETTID) != 0) (void)parent.CopyOutBytes(args.parent_tid, &tid, sizeof(tid));
  if ((args.flags & CLONE_CHILD_SETTID) != 0) (void)child->CopyOutBytes(args.child_tid, &own_tid, sizeof(own_tid));
  if ((args.flags & CLONE_PIDFD) != 0) {
    auto fd = parent.files().Allocate(MakeRef<PidFd>(child->group_, nullptr, 0), true, parent.limit(RLIMIT_NOFILE));
    int number = fd.ok() ? *fd : -1;
    (void)parent.CopyOutBytes(args.pidfd, &number, sizeof(number));
  }
  // Whoever borrows its parent's memory is about to exec: posix_spawn(3) goes through all signals before. A shell's child resets half a dozen.
  OfferActions(*child);
  bool traced = parent.extras_->tracee != nullptr && Tracing::OnClone(parent, *child, args.flags, args.exit_signal);
  child->ReturnToGuest();
  if (!child->vfork_pending_ && !traced) return parent.FinishSyscall(tid);
  parent.syscall_.scratch[0] = tid;
  parent.call_ = Task::Call::kBlocked;
  if (traced) {
    // The call goes on after the tracer's stop; if the tracer goes before, its result is known.
    parent.syscall_.done = child->vfork_pending_ ? 0 : tid;
    if (child->vfork_pending_) parent.syscall_.on_signal = kKillable.number();
    return parent.ReturnToGuest();
  }
  parent.RunHandler();
}

}  // namespace amber
