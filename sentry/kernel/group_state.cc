// Saving and loading processes, process groups, sessions, pid namespaces and the kernel itself.
#include <signal.h>

#include <algorithm>
#include <cstring>

#include "sentry/kernel/core_dump.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/kernel.pb.h"
#include "sentry/kernel/posix_timers.h"
#include "sentry/kernel/state_util.h"
#include "sentry/kernel/thread_group.h"

namespace amber {
namespace {

template <typename Message>
bool Parse(state::Loader& loader, std::string_view bytes, Message* in, const char* what) {
  if (in->ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return true;
  return loader.Fail(std::string(what) + " is malformed");
}

void SavePosixTimers(const PosixTimers& timers, proto::ThreadGroup* out) {
  for (const auto& [id, timer] : timers.all()) {
    proto::PosixTimer* m = out->add_posix_timer();
    m->set_id(id);
    m->set_clock(timer->clock);
    m->set_notify(timer->notify);
    m->set_signo(timer->signo);
    m->set_value(timer->value);
    m->set_thread_id(timer->thread_id);
    m->set_deadline(timer->deadline);
    m->set_interval(timer->interval);
    m->set_overrun(timer->overrun);
    m->set_cpu(timer->cpu);
    m->set_cpu_thread(timer->cpu_thread);
    m->set_cpu_tid(timer->cpu_tid);
    m->set_overrun_now(timer->overrun_now);
    m->set_queued(timer->queued);
    m->set_stale(timer->stale);
  }
}

// An image from before it was kept leaves it as it is. Times must be such that sums of them do not overflow.
bool LoadUsage(const std::string& bytes, rusage* out) {
  if (bytes.empty()) return true;
  if (bytes.size() != sizeof(*out)) return false;
  memcpy(out, bytes.data(), sizeof(*out));
  constexpr long kMost = kNever / kNsPerSecond / 4;
  auto good = [](const timeval& t) { return t.tv_sec >= 0 && t.tv_sec <= kMost && t.tv_usec >= 0 && t.tv_usec < 1'000'000; };
  return good(out->ru_utime) && good(out->ru_stime);
}

bool IsSignal(int signo, bool or_none) { return (signo == 0 && or_none) || (signo >= 1 && signo <= kNumSignals); }

// Its ancestors are a ring: then the one that goes twice as fast comes upon the other.
bool HasParentRing(const ThreadGroup& group) {
  const ThreadGroup* slow = &group;
  const ThreadGroup* fast = group.parent();
  while (fast != nullptr && fast->parent() != nullptr) {
    if (fast == slow || fast->parent() == slow) return true;
    slow = slow->parent();
    fast = fast->parent()->parent();
  }
  return fast == slow;
}

// Enters a task into the namespaces that it is in.
bool Register(state::Loader& loader, PidNamespace& pids, const PidIds& ids, Task* task) {
  if (ids.above.size() != static_cast<size_t>(pids.level())) return loader.Fail("a task has too many ids or too few");
  PidNamespace* ns = &pids;
  for (size_t i = 0; i <= ids.above.size(); ++i) {
    int id = i == 0 ? ids.own : ids.above[i - 1];
    if (id <= 0 || ns == nullptr || ns->FindTask(id) != nullptr) return loader.Fail("two tasks have one id");
    ns = ns->parent();
  }
  pids.Rebind(ids, task);
  return true;
}

}  // namespace

std::string ThreadGroup::Save(state::Saver& saver) const {
  proto::ThreadGroup out;
  out.set_pid(pid_);
  out.set_leader(saver.Ref(leader_));
  for (const RefPtr<Task>& t : tasks_) out.add_tasks(saver.Ref(t));
  out.set_parent(saver.Ref(parent_));
  out.set_pids(saver.Ref(pids_));
  out.set_process_group(saver.Ref(process_group_));
  out.set_handlers(saver.Ref(handlers_));
  SaveSignals(pending_, out.mutable_pending());
  for (const rlimit& r : rlimits_) {
    proto::Limit* m = out.add_limits();
    m->set_soft(r.rlim_cur);
    m->set_hard(r.rlim_max);
  }
  out.set_zombie(zombie_);
  out.set_group_exit(group_exit_);
  out.set_exit_status(exit_status_);
  out.set_stopped(stopped_);
  out.set_stop_signal(stop_signal_);
  out.set_stop_reported(stop_reported_);
  out.set_continued(continued_);
  out.set_child_subreaper(child_subreaper_);
  out.set_did_exec(did_exec_);
  out.set_dumpable(dumpable_);
  out.set_oom_score_adj(oom_score_adj_);
  out.set_nice(nice_);
  out.set_start_time(start_time_);
  out.set_exe_path(exe_path_);
  out.set_real_timer_deadline(real_deadline());
  out.set_real_interval(real_interval_);
  if (posix_timers_ != nullptr) SavePosixTimers(*posix_timers_, &out);
  if (posix_timers_ != nullptr) out.set_timer_ids_are_chosen(posix_timers_->ids_are_chosen);
  out.set_extras(extras_->Save(saver, *this));
  if (zombie_) out.set_usage(&usage_, sizeof(usage_));
  out.set_child_usage(&child_usage_, sizeof(child_usage_));
  return out.SerializeAsString();
}

bool ThreadGroup::Load(state::Loader& loader, std::string_view bytes) {
  proto::ThreadGroup in;
  if (!Parse(loader, bytes, &in, "a process")) return false;
  kernel_ = loader.Get<Kernel>(1);
  pid_ = in.pid();
  leader_ = loader.Get<Task>(in.leader());
  pids_ = loader.GetRef<PidNamespace>(in.pids());
  handlers_ = loader.GetRef<SignalHandlers>(in.handlers());
  if (kernel_ == nullptr || !pids_ || !handlers_ || in.limits_size() != RLIM_NLIMITS) {
    return loader.Fail("a process lacks its namespace, handlers or limits");
  }
  for (uint64_t id : in.tasks()) {
    tasks_.push_back(loader.GetRef<Task>(id));
    if (!tasks_.back()) return false;
  }
  parent_ = loader.Get<ThreadGroup>(in.parent());
  process_group_ = loader.GetRef<ProcessGroup>(in.process_group());
  // Reaped: there are descriptors of it still, and nothing else.
  bool reaped = in.zombie() && leader_ == nullptr && tasks_.empty() && parent_ == nullptr;
  if (!reaped && (leader_ == nullptr || !process_group_)) return loader.Fail("a process lacks its leader or its process group");
  if (!LoadSignals(in.pending(), &pending_)) return loader.Fail("a process's signals are malformed");
  for (int i = 0; i < RLIM_NLIMITS; ++i) rlimits_[i] = {in.limits(i).soft(), in.limits(i).hard()};
  zombie_ = in.zombie();
  group_exit_ = in.group_exit();
  exit_status_ = in.exit_status();
  stopped_ = in.stopped();
  stop_signal_ = in.stop_signal();
  stop_reported_ = in.stop_reported();
  continued_ = in.continued();
  child_subreaper_ = in.child_subreaper();
  did_exec_ = in.did_exec();
  dumpable_ = in.dumpable();
  oom_score_adj_ = in.oom_score_adj();
  nice_ = in.nice();
  start_time_ = in.start_time();
  exe_path_ = in.exe_path();
  if (!extras_->Load(loader, in.extras())) return false;
  if (!LoadUsage(in.usage(), &usage_) || !LoadUsage(in.child_usage(), &child_usage_)) return loader.Fail("a process's accounting is malformed");
  real_interval_ = in.real_interval();
  saved_real_deadline_ = in.real_timer_deadline();
  if (real_interval_ < 0 || saved_real_deadline_ < 0 || !IsSignal(stop_signal_, true)) return loader.Fail("a process's timer or stop is malformed");
  if (in.timer_ids_are_chosen()) posix_timers().ids_are_chosen = true;
  for (const proto::PosixTimer& m : in.posix_timer()) {
    // One that sends none has any number there.
    bool signals = m.notify() != SIGEV_NONE;
    if (m.deadline() < 0 || m.interval() < 0 || m.overrun() < 0 || m.overrun_now() < 0 || (signals && !IsSignal(m.signo(), false))) {
      return loader.Fail("a POSIX timer is malformed");
    }
    PosixTimer* timer = posix_timers().Restore(m.id());
    if (timer == nullptr) return loader.Fail("a POSIX timer appears twice");
    timer->clock = m.clock();
    timer->notify = m.notify();
    timer->signo = m.signo();
    timer->value = m.value();
    timer->thread_id = m.thread_id();
    timer->deadline = m.deadline();
    timer->interval = m.interval();
    timer->overrun = m.overrun();
    timer->cpu = m.cpu();
    timer->cpu_thread = m.cpu_thread();
    timer->cpu_tid = m.cpu_tid();
    timer->overrun_now = m.overrun_now();
    timer->queued = m.queued();
    timer->stale = m.queued() && m.stale();
  }
  return true;
}

bool ThreadGroup::AfterLoad(state::Loader& loader) {
  // Dead ones have given away their tracees, and their children.
  if (zombie_ && !extras_->tracees.empty()) return loader.Fail("a dead process traces others");
  if (leader_ == nullptr) return true;  // reaped
  if (parent_ != nullptr) parent_->children_.insert(this);
  process_group_->members_.insert(this);
  const MemoryManager* mm = nullptr;
  for (const RefPtr<Task>& t : tasks_) {
    if (&t->group() != this) return loader.Fail("a task is in two processes");
    if (!Register(loader, *pids_, IdsOf(*t), t.get())) return false;
    if (t->exiting()) continue;
    ++live_;
    if (mm == nullptr) mm = &t->mm();
    if (&t->mm() != mm) return loader.Fail("a process has two memories");
  }
  if ((live_ == 0) != zombie_) return loader.Fail("a process without threads is no zombie");
  // Plain pointers lead to these, which the lists keep.
  if (std::ranges::find(tasks_, leader_, &RefPtr<Task>::get) == tasks_.end() || leader_->tid() != pid_) {
    return loader.Fail("a process's leader is none of its threads");
  }
  if (parent_ != nullptr && (parent_->zombie_ || HasParentRing(*this))) return loader.Fail("a process's parent is dead, or its own child");
  bool taken = std::ranges::any_of(kernel_->groups_, [&](const auto& g) { return g->extras().serial == extras_->serial; });
  if (taken) return loader.Fail("two processes have one serial number");
  kernel_->groups_.insert(RefPtr<ThreadGroup>(this));
  if (saved_real_deadline_ != kNever) ArmRealTimer(saved_real_deadline_, real_interval_);
  if (posix_timers_ != nullptr) posix_timers_->ArmAll();
  if (!extras_->AfterLoad(loader, *this)) return false;
  return true;
}

std::string ProcessGroup::Save(state::Saver& saver) const {
  proto::ProcessGroup out;
  out.set_id(ids_.own);
  for (int id : ids_.above) out.add_ids_above(id);
  out.set_session(saver.Ref(session_));
  out.set_pids(saver.Ref(pids_));
  return out.SerializeAsString();
}

bool ProcessGroup::Load(state::Loader& loader, std::string_view bytes) {
  proto::ProcessGroup in;
  if (!Parse(loader, bytes, &in, "a process group")) return false;
  ids_.own = in.id();
  ids_.above.assign(in.ids_above().begin(), in.ids_above().end());
  session_ = loader.GetRef<amber::Session>(in.session());
  pids_ = loader.GetRef<PidNamespace>(in.pids());
  if (!session_ || !pids_) return loader.Fail("a process group lacks its session");
  return true;
}

bool ProcessGroup::AfterLoad(state::Loader& loader) {
  const PidNamespace* top = pids_.get();
  for (size_t i = 0; i < ids_.above.size() && top != nullptr; ++i) top = top->parent();
  if (top == nullptr || top->parent() != nullptr) return loader.Fail("a process group has too many ids or too few");
  if (pids_->FindProcessGroup(ids_.own) != nullptr) return loader.Fail("two process groups have one id");
  Register();
  return true;
}

std::string Session::Save(state::Saver& saver) const {
  // The terminal knows its session and binds itself again.
  proto::Session out;
  out.set_id(ids_.own);
  for (int id : ids_.above) out.add_ids_above(id);
  out.set_pids(saver.Ref(pids_));
  return out.SerializeAsString();
}

bool Session::Load(state::Loader& loader, std::string_view bytes) {
  proto::Session in;
  if (!Parse(loader, bytes, &in, "a session")) return false;
  ids_.own = in.id();
  ids_.above.assign(in.ids_above().begin(), in.ids_above().end());
  pids_ = loader.GetRef<PidNamespace>(in.pids());
  return true;
}

std::string PidNamespace::Save(state::Saver& saver) const {
  proto::PidNamespace out;
  out.set_last(last_);
  out.set_ino(ino());
  out.set_owner(SaveOwner(saver));
  out.set_parent(saver.Ref(parent_));
  out.set_level(level_);
  out.set_dead(dead_);
  return out.SerializeAsString();
}

bool PidNamespace::Load(state::Loader& loader, std::string_view bytes) {
  proto::PidNamespace in;
  if (!Parse(loader, bytes, &in, "a pid namespace")) return false;
  last_ = in.last();
  level_ = in.level();
  dead_ = in.dead();
  parent_ = loader.GetRef<PidNamespace>(in.parent());
  return last_ >= 0 && last_ <= kPidMax && level_ >= 0 && level_ <= kMaxLevel && LoadCommon(loader, in.ino(), in.owner());
}

// Levels that go down by one are no circle.
bool PidNamespace::AfterLoad(state::Loader& loader) {
  int expected = parent_ ? parent_->level_ + 1 : 0;
  return level_ == expected || loader.Fail("a pid namespace is at a wrong level");
}

std::string Kernel::Save(state::Saver& saver) const {
  proto::Kernel out;
  out.set_monotonic(clocks_.Monotonic());
  out.set_boottime(clocks_.Boottime());
  for (const RefPtr<ThreadGroup>& g : groups_) out.add_groups(saver.Ref(g));
  for (const RefPtr<PidNamespace>& p : pid_namespaces_) out.add_pids(saver.Ref(p));
  out.set_next_serial(GroupExtras::NextSerial());
  out.set_core_pattern(lifecycle_->core_dumps().pattern);
  out.set_core_uses_pid(lifecycle_->core_dumps().uses_pid);
  return out.SerializeAsString();
}

bool Kernel::Load(state::Loader& loader, std::string_view bytes) {
  proto::Kernel in;
  if (!Parse(loader, bytes, &in, "the kernel")) return false;
  // Sums with them must not overflow.
  constexpr int64_t kLatest = kNever / 2;
  if (in.monotonic() < 0 || in.monotonic() > kLatest || in.boottime() < 0 || in.boottime() > kLatest) return loader.Fail("the clocks are wrong");
  if (!GroupExtras::SkipSerials(in.next_serial())) return loader.Fail("the serial numbers of processes are wrong");
  clocks_.Continue(in.monotonic(), in.boottime());
  if (in.has_core_pattern()) lifecycle_->core_dumps().pattern = in.core_pattern();
  lifecycle_->core_dumps().uses_pid = in.core_uses_pid();
  for (uint64_t id : in.pids()) {
    pid_namespaces_.push_back(loader.GetRef<PidNamespace>(id));
    if (!pid_namespaces_.back()) return false;
  }
  return true;
}

}  // namespace amber
