#include "sentry/kernel/kernel.h"

#include <fcntl.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sentry/fs/host/host_poll.h"
#include "sentry/kernel/core_dump.h"
#include "sentry/kernel/helper_task.h"
#include "sentry/kernel/offered_actions.h"
#include "sentry/kernel/sigio.h"
#include "sentry/kernel/strace.h"
#include "sentry/kernel/task_lifecycle.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/under_lock.h"

namespace amber {
namespace {

// How long threads may take to be back in their futex waits, and how often one looks, ns.
constexpr int64_t kSettleLimit = 100'000'000, kSettleStep = 200'000;

}  // namespace

Kernel::Kernel() : lifecycle_(std::make_unique<TaskLifecycle>(*this)) {}
Kernel::~Kernel() = default;

std::string Kernel::CreatePlatform(const platform::Options& options) {
  std::string error;
  platform_ = platform::Platform::Create(*this, options, &error);
  return platform_ != nullptr ? "" : error;
}

void Kernel::Boot() {
  host_poll_ = std::make_unique<HostPoll>(*this);
  timers_ = std::make_unique<TimerQueue>(clocks_, [this] {
    KernelLock lock(*this);
    timers_->RunDue();
  });
}

UniqueFd Kernel::HostFdForRestore(int index) const {
  auto it = restore_fds_.find(index);
  if (it == restore_fds_.end()) return {};
  return UniqueFd(fcntl(it->second.get(), F_DUPFD_CLOEXEC, 3));
}

void Kernel::set_strace(std::unique_ptr<Strace> strace) { strace_ = std::move(strace); }

void Kernel::AddPidNamespace(RefPtr<PidNamespace> pids) { pid_namespaces_.push_back(std::move(pids)); }

void Kernel::CountUnknown(uint64_t number) { ++stats_.unknown[std::min<uint64_t>(number, stats_.unknown.size() - 1)]; }

void Kernel::Random(void* out, size_t size) {
  auto* p = static_cast<char*>(out);
  while (size > 0) {
    ssize_t n = getrandom(p, size, 0);
    if (n < 0) continue;  // EINTR: the pool is initialised long before a sandbox starts
    p += n;
    size -= static_cast<size_t>(n);
  }
}

size_t Kernel::TasksOf(uid_t uid) const {
  size_t count = 0;
  for (const RefPtr<ThreadGroup>& g : groups_) {
    for (const RefPtr<Task>& t : g->tasks()) count += t->creds().uid == uid ? 1 : 0;
  }
  return count;
}

std::vector<RefPtr<Task>> Kernel::LiveTasks() const {
  std::vector<RefPtr<Task>> tasks;
  for (const RefPtr<ThreadGroup>& g : groups_) {
    for (const RefPtr<Task>& t : g->tasks()) {
      if (!t->exiting()) tasks.push_back(t);
    }
  }
  return tasks;
}

// --- scheduling ---

void Kernel::MakeRunnable(Task& task) {
  if (task.runnable_ || task.call_ != Task::Call::kBlocked) return;
  task.runnable_ = true;
  runnable_.emplace_back(&task);
}

void Kernel::MakeRunnableAfterThaw(Task& helper) { waiting_helpers_.emplace_back(&helper); }

void Kernel::Drain() {
  // Re-entered through KernelLock of a callback on the same stack: the outer one goes on.
  if (draining_) return;
  draining_ = true;
  HelperTask::runs_in_a_row() = 0;
  while (true) {
    ClearDiscarded();
    SigioOwner::DeliverDue();
    if (runnable_.empty()) break;
    RefPtr<Task> task = std::move(runnable_.front());
    runnable_.pop_front();
    task->runnable_ = false;
    // It may have been interrupted, killed or held since. While it stops, its call waits for the frame: ReturnToGuest() goes on with it.
    if (task->exiting_ || task->call_ != Task::Call::kBlocked || task->held_ || task->native_wait_) continue;
    if (task->where_ == Task::Where::kStopping) continue;
    if (frozen_ && task->helper_) {
      waiting_helpers_.push_back(std::move(task));
      continue;
    }
    task->EndBlock();
    task->syscall_.restarted = true;
    if (!task->helper_) {
      task->RunHandler();
    } else if (task->call_owner_ != nullptr) {
      ++HelperTask::runs_in_a_row();
      task->call_owner_->OnReady();
    }
  }
  draining_ = false;
}

// --- freezing ---

void Kernel::Freeze(std::function<void()> done) {
  frozen_ = true;
  settling_.clear();
  when_frozen_ = std::move(done);
  for (const RefPtr<Task>& t : LiveTasks()) t->Interrupt();
  CheckFrozen();
}

void Kernel::OnHeld(Task& task) {
  RefPtr<ThreadGroup> group(&task.group());
  CoreDump::Check(*group);
  CheckFrozen();
}

void Kernel::CheckFrozen() {
  if (!frozen_ || !when_frozen_ || lifecycle_->running_helpers() > 0 || lifecycle_->core_dumps_running() > 0) return;
  for (const RefPtr<Task>& t : LiveTasks()) {
    if (!t->held_ && t->thread_ != nullptr) return;
  }
  std::exchange(when_frozen_, nullptr)();
}

void Kernel::Thaw() {
  frozen_ = false;
  when_frozen_ = nullptr;
  settling_.clear();
  for (const RefPtr<Task>& t : LiveTasks()) {
    if (t->held_ && t->StandsBeforeFutexWait()) settling_.push_back(t);
  }
  for (const RefPtr<Task>& t : settling_) {
    if (t->held_ && !t->exiting_) t->ReturnToGuest();
  }
  for (const RefPtr<Task>& t : std::exchange(waiting_helpers_, {})) MakeRunnable(*t);
  settle_deadline_ = clocks_.Monotonic() + kSettleLimit;
  AwaitSettled();
}

void Kernel::AwaitSettled() {
  if (frozen_) return;  // again; the next Thaw() begins anew
  std::erase_if(settling_, [](const RefPtr<Task>& t) { return t->HasSettled(); });
  if (settling_.empty() || clocks_.Monotonic() >= settle_deadline_) return ReleaseHeld();
  if (settle_timer_ == nullptr) settle_timer_ = std::make_unique<Timer>([this] { AwaitSettled(); });
  settle_timer_->Arm(*timers_, clocks_.Monotonic() + kSettleStep);
}

void Kernel::ReleaseHeld() {
  settling_.clear();
  for (const RefPtr<Task>& t : LiveTasks()) {
    if (t->held_ && !t->exiting_) t->ReturnToGuest();
  }
}

// --- platform ---

void Kernel::OnSyscall(platform::Thread& thread, const platform::Syscall& call) {
  KernelLock lock(*this);
  auto* task = static_cast<Task*>(thread.cookie);
  if (task == nullptr || task->exiting_) return;  // its process is being killed
  RefPtr<Task> self(task);
  TakeActions(*task);
  task->where_ = Task::Where::kNotified;
  task->EnterCall(call, /*framed=*/false);
}

void Kernel::OnFrame(platform::Thread& thread, platform::Stop stop, const platform::Fault* fault) {
  KernelLock lock(*this);
  auto* task = static_cast<Task*>(thread.cookie);
  if (task == nullptr || task->exiting_) return;
  RefPtr<Task> self(task);
  TakeActions(*task);
  task->OnStopped(stop, fault);
}

void Kernel::OnProcessDeath(platform::AddressSpace&, std::span<platform::Thread* const> threads, int wait_status) {
  KernelLock lock(*this);
  for (platform::Thread* thread : threads) {
    auto* task = static_cast<Task*>(thread->cookie);
    if (task == nullptr) continue;
    // Nobody ordered it: out of memory, killed by the host, or the guest broke its stub.
    int signo = WIFSIGNALED(wait_status) ? WTERMSIG(wait_status) : SIGKILL;
    lifecycle_->KillGroup(task->group(), signo);
  }
}

}  // namespace amber
