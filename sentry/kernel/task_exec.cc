#include <fcntl.h>
#include <linux/sched.h>
#include <sys/personality.h>

#include <algorithm>

#include "sentry/ipc/ipc_namespace.h"
#include "sentry/kernel/aio_context.h"
#include "sentry/kernel/cgroup.h"
#include "sentry/kernel/exec_credentials.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/late_usage.h"
#include "sentry/kernel/offered_actions.h"
#include "sentry/kernel/posix_timers.h"
#include "sentry/kernel/robust_list.h"
#include "sentry/kernel/strace.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/task_lifecycle.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/time_namespace.h"
#include "sentry/kernel/tracing.h"
#include "sentry/kernel/usage.h"
#include "sentry/kernel/uts_namespace.h"
#include "sentry/keys/key.h"
#include "sentry/loader/loader.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/mm/memory_owner.h"
#include "sentry/net/inet/net_namespace.h"
#include "sentry/vfs/exec_open.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/fs_context.h"
#include "sentry/vfs/mount.h"
#include "sentry/vfs/path.h"

namespace amber {

ErrnoOr<TaskLifecycle::Loaded> TaskLifecycle::LoadForExec(Task& task, const ExecArgs& args) {
  Loaded out;
  loader::ExecRequest request;
  request.file = args.file;
  request.path = args.path;
  request.path_vanishes = args.path_vanishes;
  request.argv = args.argv;
  request.envp = args.envp;
  request.stack_limit = task.limit(RLIMIT_STACK);
  request.randomize = (task.personality_ & ADDR_NO_RANDOMIZE) == 0;
  request.open = [&task](const std::string& path) { return OpenForExec(task, AT_FDCWD, path, 0); };
  request.identity = [&](File& exe) -> ErrnoOr<loader::ExecIdentity> {
    out.creds = TRY(CredentialsForExec(task, ExecIdsOf(exe), &out.secure));
    return loader::ExecIdentity{out.creds->uid, out.creds->euid, out.creds->gid, out.creds->egid, out.secure};
  };
  loader::LoadResult loaded = TRY(loader::LoadProgram(task, request));
  out.mm = loaded.mm;
  out.comm = loaded.comm;
  out.exe = loaded.exe;
  MarkRunning(*out.exe);
  // Credentials that were found while nobody was there who could use them.
  bool safe_gain = out.creds && IsGain(task, *out.creds) && !GainsAreUnsafe(task);
  ErrnoOr<platform::Thread*> thread = Errno(EAGAIN);
  {
    KernelUnlock unlock(kernel_);
    thread = kernel_.platform().Exec(loaded.plan);
  }
  out.thread = TRY(std::move(thread));
  // A tracer, or who shares its working directory, may have come meanwhile: then what it gains is found out again. (Linux keeps them away by
  // cred_guard_mutex.)
  if (!task.exiting_ && safe_gain && GainsAreUnsafe(task)) {
    out.thread->space().Kill();
    out.thread->Release();
    return kErestartnointr;
  }
  out.mm->Attach(RefPtr<platform::AddressSpace>(&out.thread->space()));
  return out;
}

ErrnoOr<uint64_t> TaskLifecycle::Exec(Task& task, const ExecArgs& args) {
  RefPtr<Task> self(&task);
  Loaded loaded = TRY(LoadForExec(task, args));
  if (task.exiting_) {
    loaded.thread->space().Kill();
    loaded.thread->Release();
    return kNoAnswer;
  }
  ++kernel_.stats().execs;
  int old_tid = task.tid();
  KillOtherThreads(task);
  CommitExec(task, args, loaded, old_tid);
  return kNoAnswer;
}

ErrnoOr<void> TaskLifecycle::FirstExec(Task& task, const ExecArgs& args) {
  Loaded loaded = TRY(LoadForExec(task, args));
  if (task.exiting_) {
    loaded.thread->space().Kill();
    loaded.thread->Release();
    return Errno(ESRCH);
  }
  InstallProgram(task, args, loaded);
  return Ok();
}

void TaskLifecycle::Start(Task& task) {
  if (!task.exiting_ && task.where_ == Task::Where::kStopped) task.ReturnToGuest();
}

// de_thread(): the other threads are gone, and the caller becomes the leader. They share the old host process, which CommitExec kills.
void TaskLifecycle::KillOtherThreads(Task& task) {
  ThreadGroup& group = task.group();
  std::vector<RefPtr<Task>> others;
  for (const RefPtr<Task>& t : group.tasks_) {
    if (t.get() != &task) others.push_back(t);
  }
  for (const RefPtr<Task>& t : others) {
    if (t->exiting_) continue;
    WalkRobustList(*t, nullptr);
    Exit(*t, 0);
  }
  if (group.leader_ != &task) {
    // The leader's number goes to the caller; the leader, released below, gets the caller's to give back.
    Task* leader = group.leader_;
    if (leader->extras_->tracee != nullptr) Tracing::Forget(*leader);
    std::swap(leader->tid_, task.tid_);
    std::swap(leader->extras_->ids_above, task.extras_->ids_above);
    group.leader_ = &task;
    group.pids_->Rebind(IdsOf(task), &task);
    group.pids_->Rebind(IdsOf(*leader), leader);
    task.exit_signal_ = SIGCHLD;
  }
  for (const RefPtr<Task>& t : others) {
    if (t->released_) {
      group.pids_->Free(IdsOf(*t));  // the old leader had exited before
      std::erase(group.tasks_, t);
    } else {
      Release(*t);
    }
  }
}

void TaskLifecycle::CommitExec(Task& task, const ExecArgs& args, const Loaded& loaded, int old_tid) {
  GroupExtras& extras = *task.group().extras_;
  int64_t total = task.group().CpuTime();
  if (!TakeUsageLater(task.group())) extras.base = UsageOf(task.group());
  extras.cpu_base = total;
  task.extras_->cpu_base = task.CpuTime();
  task.extras_->schedstat.reset();
  WalkRobustList(task, nullptr);
  platform::Thread* old = std::exchange(task.thread_, nullptr);
  old->cookie = nullptr;
  // A vfork child's host process shares its parent's memory, which stays.
  old->space().KillProcess(*old);
  old->Release();
  task.mm_->TaskGone(task);
  task.where_ = Task::Where::kNone;
  task.call_ = Task::Call::kNone;
  if (kernel_.strace() != nullptr) kernel_.strace()->Exit(task, 0);
  InstallProgram(task, args, loaded);
  if (task.vfork_pending_) {
    task.vfork_pending_ = false;
    task.vfork_queue_.Notify(POLLIN);
  }
  if (task.extras_->tracee != nullptr) Tracing::OnExec(task, old_tid);
  task.ReturnToGuest();
}

namespace {

// The namespace from `ns` upwards that rules over a file which its user may not read: what it runs is not the user's own (would_dump()).
RefPtr<UserNamespace> NamespaceOver(const Inode& file, RefPtr<UserNamespace> ns) {
  const auto& attr = file.attr();
  while (ns && (FromKernelUid(ns.get(), attr.uid) == UserNamespace::kInvalidId || FromKernelGid(ns.get(), attr.gid) == UserNamespace::kInvalidId)) {
    ns = RefPtr<UserNamespace>(ns->parent());
  }
  return ns;
}

}  // namespace

void TaskLifecycle::InstallProgram(Task& task, const ExecArgs& args, const Loaded& loaded) {
  ThreadGroup& group = task.group();
  task.thread_ = loaded.thread;
  task.thread_->cookie = &task;
  task.where_ = Task::Where::kStopped;
  task.mm_ = loaded.mm;
  task.name_ = loaded.comm;
  if (task.files_->ref_count() > 1) task.files_ = task.files_->Clone();
  task.files_->RemoveIf(task, [](int, bool close_on_exec) { return close_on_exec; });
  if (group.handlers_->ref_count() > 1) group.handlers_ = group.handlers_->Clone();
  group.handlers_->ResetForExec();
  group.posix_timers_.reset();
  group.extras_->aio.clear();
  group.extras_->process_keys.reset();
  group.did_exec_ = true;
  group.exe_path_ = args.path;
  // execve(2): what is not kept.
  task.altstack_ = AltStack{};
  task.robust_list_ = 0;
  task.clear_child_tid_ = 0;
  task.clear_child_tid_native_ = false;
  task.last_fault_ = {};
  task.keep_caps_ = false;
  task.extras_->OnExec();
  if (task.group().extras().no_huge_pages) task.extras_->before_guest.push_back(NoHugePagesOp(true));
  task.extras_->ApplyAffinity(task);
  // Signals of choice are for who chose them: this program did not, and may have rights that the other had not (do_notify_parent()).
  task.exit_signal_ = SIGCHLD;
  for (ThreadGroup* child : group.children_) child->leader_->exit_signal_ = SIGCHLD;
  bool raised = loaded.secure;
  if (raised) task.parent_death_signal_ = 0;
  // Who may not read the program shall not read it in memory or in a core file (would_dump()); its old credentials count.
  const VfsPath* program = loaded.exe->path();
  bool readable = program == nullptr || CheckPermission(task.creds(), *program->inode(), kMayRead).ok();
  group.dumpable_ = !raised && readable && (!loaded.creds || (loaded.creds->euid == loaded.creds->uid && loaded.creds->egid == loaded.creds->gid));
  if (loaded.creds) task.creds_ = loaded.creds;
  MemoryOwner::Set(*task.mm_, readable ? task.creds_->user_ns : NamespaceOver(*program->inode(), task.creds_->user_ns));
  OfferActions(task);
}

namespace {

// The first thread of a process may have ended before the others, and has no namespaces then. Null if all have.
Task* LiveThread(const ThreadGroup* group) {
  if (group == nullptr) return nullptr;
  auto live = std::ranges::find_if(group->tasks(), [](const RefPtr<Task>& t) { return !t->exiting(); });
  return live != group->tasks().end() ? live->get() : nullptr;
}

}  // namespace

ErrnoOr<RefPtr<Task>> TaskLifecycle::NewProcessTask(NewProcess what) {
  if (kernel_.task_count_ >= kernel_.max_tasks_) return Errno(EAGAIN);
  PidIds ids = TRY(what.pids->Allocate(nullptr));
  int pid = ids.own;
  auto group = MakeRef<ThreadGroup>();
  group->kernel_ = &kernel_;
  group->pids_ = what.pids;
  group->pid_ = pid;
  group->start_time_ = kernel_.clocks().Boottime();
  group->handlers_ = MakeRef<SignalHandlers>();
  group->SetDefaultLimits();
  auto task = MakeRef<Task>();
  task->kernel_ = &kernel_;
  task->group_ = group;
  task->tid_ = pid;
  task->extras_->ids_above = ids.above;
  task->creds_ = what.creds;
  task->mounts_ = what.mounts;
  task->uts_ = what.uts;
  task->fs_ = what.fs;
  task->files_ = what.files;
  task->container_ = what.container;
  // What joins a container shares the objects of its first process.
  Task* first = LiveThread(what.pids->init());
  if (first != nullptr && first->extras().ipc) {
    task->extras_->ipc = first->extras().ipc;
  } else {
    task->extras_->ipc = MakeRef<IpcNamespace>();
    // /dev/mqueue of the container shows the queues of its namespace.
    for (Mount* mount : what.mounts->All()) {
      if (std::string_view(mount->fs().type_name()) != "mqueue" || task->extras_->ipc->mqueue()) continue;
      task->extras_->ipc->set_mqueue(MakeRef<Mount>(mount->fs_ref(), mount->fs().root(), 0, "mqueue"));
    }
  }
  task->extras_->net = NetNamespace::ForNewProcess(kernel_, first);
  RefPtr<Cgroup> cgroup = what.cgroup;
  if (!cgroup) cgroup = first != nullptr ? RefPtr<Cgroup>(&Cgroup::Of(*first).Top()) : Cgroup::NewRoot(kernel_);
  if (first != nullptr) task->extras_->time = task->extras_->time_for_children = first->extras().time;
  task->no_new_privs_ = what.no_new_privs;
  group->tasks_.push_back(task);
  group->leader_ = task.get();
  group->live_ = 1;
  Cgroup::Enter(*group, nullptr, std::move(cgroup));
  Cgroup::OnNewTask(*task, nullptr);
  ++kernel_.task_count_;
  what.pids->Rebind(ids, task.get());
  kernel_.groups_.insert(group);
  // A session and process group of its own, as runc's init has.
  group->NewSession();
  return task;
}

}  // namespace amber
