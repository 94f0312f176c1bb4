#include "sentry/kernel/helper_task.h"

#include "sentry/ipc/ipc_namespace.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/served_call.h"
#include "sentry/kernel/task_lifecycle.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/time_namespace.h"
#include "sentry/kernel/uts_namespace.h"
#include "sentry/landlock/landlock.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/net/inet/net_namespace.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/fs_context.h"
#include "sentry/vfs/mount.h"
#include "sentry/vfs/notify.h"

namespace amber {

HelperTask::HelperTask(Kernel& kernel, CallOwner& owner) : task_(MakeRef<Task>()) {
  task_->kernel_ = &kernel;
  task_->helper_ = true;
  task_->call_owner_ = &owner;
  task_->blocked_ = ~SignalSet{0};
}

uint32_t& HelperTask::runs_in_a_row() {
  static uint32_t runs = 0;
  return runs;
}

HelperTask::~HelperTask() {
  task_->call_owner_ = nullptr;
  // A thread may be at its operations still: what is to be done after them is done, for nobody.
  if (task_->call_ != Task::Call::kContinuation) task_->call_ = Task::Call::kNone;
  task_->EndBlock();
}

void HelperTask::PassOperations(Task& helper, std::vector<platform::StubOp> ops, std::function<void(std::span<const int64_t>)> done) {
  helper.call_ = Task::Call::kContinuation;
  auto* owner = dynamic_cast<OperationsOwner*>(helper.call_owner_);
  if (owner == nullptr) return done({});
  owner->OnOperations(RefPtr<Task>(&helper), std::move(ops), std::move(done));
}

void HelperTask::Run(Task& other, RefPtr<FdTable> files, const Handler& handler, RefPtr<const Credentials> creds) {
  RefPtr<Task> t(task_);
  RefPtr<Task> keep(&other);
  const bool shares_files = files.get() == &other.files();
  t->helps_ = &other;
  t->group_ = other.group_;
  t->tid_ = other.tid_;
  t->name_ = other.name_;
  t->mm_ = other.mm_;
  t->files_ = std::move(files);
  t->fs_ = other.fs_;
  t->creds_ = creds ? std::move(creds) : other.creds_;
  t->mounts_ = other.mounts_;
  t->uts_ = other.uts_;
  t->container_ = other.container_;
  t->extras_->ids_above = other.extras_->ids_above;
  t->extras_->ipc = other.extras_->ipc;
  t->extras_->net = other.extras_->net;
  t->extras_->time = other.extras_->time;
  t->extras_->cgroup = other.extras_->cgroup;
  t->extras_->landlock = other.extras_->landlock;
  // Made to run before what it waits for has come.
  t->EndBlock();
  t->call_ = Task::Call::kRunning;
  Kernel& kernel = t->kernel();
  ++kernel.lifecycle().running_helpers_;
  Task* actor = std::exchange(notify_actor, &other);
  ErrnoOr<uint64_t> result = [&] {
    ServedCall::Scope scope(*t);
    return handler(*t);
  }();
  notify_actor = actor;
  --kernel.lifecycle().running_helpers_;
  t->mm_.reset();
  // The call may have ended the process that it was made for, which left its table to this, the last that has it: exit_files().
  if (shares_files && t->files_->ref_count() == 1) t->files_->RemoveIf(*t, [](int, bool) { return true; });
  t->files_.reset();
  t->fs_.reset();
  t->mounts_.reset();
  t->uts_.reset();
  t->extras_->ipc.reset();
  t->extras_->net.reset();
  t->extras_->time.reset();
  t->extras_->cgroup.reset();
  t->extras_->landlock.reset();
  t->helps_ = nullptr;
  t->ActOn(result);
  kernel.CheckFrozen();
}

void HelperTask::RunAfterThaw() {
  task_->call_ = Task::Call::kBlocked;
  task_->kernel().MakeRunnableAfterThaw(*task_);
}

}  // namespace amber
