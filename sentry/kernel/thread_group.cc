#include "sentry/kernel/thread_group.h"

#include <sys/wait.h>

#include <algorithm>

#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/late_usage.h"
#include "sentry/kernel/offered_actions.h"
#include "sentry/kernel/posix_timers.h"
#include "sentry/kernel/tracing.h"
#include "sentry/kernel/usage.h"

namespace amber {

ThreadGroup::ThreadGroup() : extras_(std::make_unique<GroupExtras>()) {}
ThreadGroup::~ThreadGroup() = default;

void ThreadGroup::SetDefaultLimits() {
  // INIT_RLIMITS of include/asm-generic/resource.h, with systemd's usual descriptor limits.
  for (rlimit& r : rlimits_) r = {RLIM_INFINITY, RLIM_INFINITY};
  rlimits_[RLIMIT_STACK] = {8 << 20, RLIM_INFINITY};
  rlimits_[RLIMIT_CORE] = {0, RLIM_INFINITY};
  rlimits_[RLIMIT_NOFILE] = {1024, 1 << 20};
  rlimits_[RLIMIT_MEMLOCK] = {8 << 20, 8 << 20};
  rlimits_[RLIMIT_SIGPENDING] = {31429, 31429};
  rlimits_[RLIMIT_MSGQUEUE] = {819200, 819200};
  rlimits_[RLIMIT_NICE] = {0, 0};
  rlimits_[RLIMIT_RTPRIO] = {0, 0};
}

void ThreadGroup::NotifyParent(int code, int status) {
  ThreadGroup* parent = parent_;
  if (parent == nullptr) return;
  bool exited = code == CLD_EXITED || code == CLD_KILLED || code == CLD_DUMPED;
  int signo = exited ? leader_->exit_signal_ : SIGCHLD;
  TakeActionsOf(*parent);
  const SigAction& action = (*parent->handlers_)[SIGCHLD];
  bool wanted = exited || ((action.flags & SA_NOCLDSTOP) == 0 && action.handler != reinterpret_cast<uint64_t>(SIG_IGN));
  // clone(2) takes numbers that are no signal's.
  if (signo != 0 && signo <= kNumSignals && wanted) {
    SigInfo info;
    info.raw.si_signo = signo;
    info.raw.si_code = code;
    info.raw.si_pid = parent->pids().IdOf(*this);
    info.raw.si_uid = ShownUid(parent->leader_->creds().user_ns.get(), leader_->creds().uid);
    info.raw.si_status = status;
    info.raw.si_utime = usage_.ru_utime.tv_sec * 100 + usage_.ru_utime.tv_usec / 10000;
    info.raw.si_stime = usage_.ru_stime.tv_sec * 100 + usage_.ru_stime.tv_usec / 10000;
    // The wait's own wake-up comes first: a wait4() that the signal meets finds this child, and does not end with EINTR.
    parent->child_queue_.Notify(POLLIN);
    parent->SendSignal(info);
    return;
  }
  parent->child_queue_.Notify(POLLIN);
}

void ThreadGroup::Stop(int signo) {
  if (stopped_ || group_exit_) return;
  stopped_ = true;
  stop_signal_ = signo;
  stop_reported_ = false;
  continued_ = false;
  // Those in the kernel stay there: they stop on their way out (Task::MustHold). But for calls that a stop ends
  // with EINTR (signal(7), "Interruption of system calls and library functions by stop signals").
  // A tracer may die of the news, and others with it: the list may change.
  for (const RefPtr<Task>& t : std::vector<RefPtr<Task>>(tasks_)) {
    bool ends = t->where_ == Task::Where::kNotified && t->call_ == Task::Call::kBlocked && t->syscall_.on_signal < 512;
    bool traced = t->extras_->tracee != nullptr;  // comes to a stop of its tracer's
    if (t->where_ == Task::Where::kGuest || ends || traced) t->Interrupt();
  }
  if (stopped_) NotifyParent(CLD_STOPPED, signo);
}

bool ThreadGroup::EndStop() {
  if (!stopped_) return false;
  stopped_ = false;
  stop_reported_ = true;
  continued_ = true;
  Tracing::OnContinue(*this);
  return true;
}

void ThreadGroup::GoOn() {
  std::vector<RefPtr<Task>> tasks(tasks_);
  for (const RefPtr<Task>& t : tasks) {
    if (!t->held_ || t->exiting_) continue;
    if (t->extras_->tracee == nullptr && t->call_ == Task::Call::kBlocked && t->syscall_.on_signal < 512) {
      if (t->undone_) t->AdoptCallIntoFrame();
      t->CompleteCall(t->syscall_.done != 0 ? static_cast<int64_t>(t->syscall_.done) : -t->syscall_.on_signal);
    } else {
      t->ReturnToGuest();
    }
  }
  NotifyParent(CLD_CONTINUED, SIGCONT);
}

bool ThreadGroup::TakeStopReport(bool peek) {
  if (!stopped_ || stop_reported_) return false;
  if (!peek) stop_reported_ = true;
  return true;
}

bool ThreadGroup::TakeContinueReport(bool peek) {
  if (!continued_) return false;
  if (!peek) continued_ = false;
  return true;
}

// --- sessions and process groups ---

ProcessGroup::~ProcessGroup() {
  PidNamespace* ns = pids_.get();
  if (ns != nullptr) ns->process_groups_.erase(ids_.own);
  for (int id : ids_.above) {
    ns = ns != nullptr ? ns->parent() : nullptr;
    if (ns != nullptr) ns->process_groups_.erase(id);
  }
}

void ProcessGroup::Register() {
  PidNamespace* ns = pids_.get();
  ns->process_groups_[ids_.own] = this;
  for (int id : ids_.above) {
    ns = ns->parent();
    ns->process_groups_[id] = this;
  }
}

bool ThreadGroup::IsSessionLeader() const { return process_group_ && session().pids_ == pids_ && session().id() == pid_; }

void ThreadGroup::JoinProcessGroup(RefPtr<ProcessGroup> group) {
  if (process_group_) process_group_->members_.erase(this);
  group->members_.insert(this);
  process_group_ = std::move(group);
}

RefPtr<ProcessGroup> ThreadGroup::NewProcessGroup(RefPtr<amber::Session> session) {
  auto group = MakeRef<ProcessGroup>();
  group->ids_ = IdsOf(*leader_);
  group->pids_ = pids_;
  group->session_ = std::move(session);
  group->Register();
  return group;
}

RefPtr<ProcessGroup> ThreadGroup::NewSession() {
  auto session = MakeRef<amber::Session>();
  session->ids_ = IdsOf(*leader_);
  session->pids_ = pids_;
  RefPtr<ProcessGroup> group = NewProcessGroup(std::move(session));
  JoinProcessGroup(group);
  return group;
}

ErrnoOr<void> ThreadGroup::SetProcessGroup(const PidNamespace& ns, int pgid) {
  if (ns.IdOf(*process_group_) == pgid) return Ok();
  ProcessGroup* target = ns.FindProcessGroup(pgid);
  // Its own may live on although it has left it.
  if (target == nullptr && pgid == ns.IdOf(*this)) {
    JoinProcessGroup(NewProcessGroup(process_group_->session_));
    return Ok();
  }
  if (target == nullptr || target->session_.get() != process_group_->session_.get()) return Errno(EPERM);
  JoinProcessGroup(RefPtr<ProcessGroup>(target));
  return Ok();
}

void ThreadGroup::LeaveSessionIfLeader() {
  if (!IsSessionLeader() || !session().on_leader_exit_) return;
  std::exchange(session().on_leader_exit_, nullptr)();
}

// --- timers ---

void ThreadGroup::ArmRealTimer(int64_t deadline, int64_t interval) {
  real_interval_ = interval;
  if (real_timer_ == nullptr) {
    real_timer_ = std::make_unique<Timer>([this] {
      SigInfo info = SigInfo::Kernel(SIGALRM);
      if (real_interval_ > 0) real_timer_->Arm(kernel_->timers(), SaturatedSum(kernel_->clocks().Monotonic(), real_interval_));
      SendSignal(info);
    });
  }
  real_timer_->Arm(kernel_->timers(), deadline);
}

PosixTimers& ThreadGroup::posix_timers() {
  if (posix_timers_ == nullptr) posix_timers_ = std::make_unique<PosixTimers>(*this);
  return *posix_timers_;
}

// --- accounting ---

int64_t ThreadGroup::CpuTime() const {
  for (const RefPtr<Task>& t : tasks_) {
    if (t->thread_ == nullptr) continue;
    // The process clock of another process: clock_getcpuclockid(3), (~pid << 3) | CPUCLOCK_SCHED.
    clockid_t clock = static_cast<clockid_t>((~static_cast<unsigned>(t->thread_->host_pid()) << 3) | 2);
    timespec ts;
    if (clock_gettime(clock, &ts) == 0) return extras_->cpu_base + ts.tv_sec * kNsPerSecond + ts.tv_nsec;
    break;
  }
  // It is dead: what it had. (Of that, not all may be in its usage yet, nor in an image.)
  int64_t usage = ToNs(usage_.ru_utime) + ToNs(usage_.ru_stime);
  return std::max(usage, extras_->cpu_base);
}

void ThreadGroup::CollectUsage() {
  int64_t total = CpuTime();
  usage_ = TakeUsageLater(*this) ? extras_->base : UsageOf(*this);
  extras_->cpu_base = total;
}

void ThreadGroup::AddChildUsage(ThreadGroup& child) {
  AddUsage(&child_usage_, child.usage_);
  AddUsage(&child_usage_, child.child_usage_);
  HandOnUsage(child, *this);
}

void ThreadGroup::AddLateUsage(const rusage& usage, bool child) {
  if (child) return AddUsage(&child_usage_, usage);
  AddUsage(&extras_->base, usage);
  if (zombie_ || group_exit_) AddUsage(&usage_, usage);
}

}  // namespace amber
