#include "sentry/kernel/cgroup.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <ranges>
#include <utility>
#include <vector>

#include "sentry/base/unique_fd.h"
#include "sentry/kernel/clock.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/task_lifecycle.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/usage.h"
#include "sentry/mm/memory_manager.h"

namespace amber {
namespace {

constexpr int64_t kCpuTick = 10'000'000, kMemoryTick = 50'000'000;  // ns
constexpr uint32_t kDomainControllers = Cgroup::kMemory;

MemoryManager* MemoryOf(const ThreadGroup& group) {
  for (const RefPtr<Task>& task : group.tasks()) {
    if (!task->exiting() && task->has_mm()) return &task->mm();
  }
  return nullptr;
}

// Pss of /proc/PID/smaps_rollup, bytes; what is resident where that cannot be read.
uint64_t ProportionalOf(const ThreadGroup& group) {
  MemoryManager* mm = MemoryOf(group);
  if (mm == nullptr) return 0;
  for (const RefPtr<Task>& task : group.tasks()) {
    if (task->thread() == nullptr) continue;
    char text[4096];
    UniqueFd fd(open(("/proc/" + std::to_string(task->thread()->host_pid()) + "/smaps_rollup").c_str(), O_RDONLY | O_CLOEXEC));
    ssize_t n = fd.valid() ? read(fd.get(), text, sizeof(text) - 1) : -1;
    if (n <= 0) break;
    text[n] = '\0';
    const char* line = strstr(text, "\nPss:");
    if (line != nullptr) return strtoull(line + strlen("\nPss:"), nullptr, 10) * 1024;
    break;
  }
  return mm->GetUsage().resident;
}

// Processor time since it came into its group, ns.
int64_t UsedHere(const ThreadGroup& group) { return std::max<int64_t>(group.CpuTime() - group.extras().cgroup_cpu_base, 0); }

}  // namespace

Cgroup::~Cgroup() {
  for (auto& [name, child] : children_) child->parent_ = nullptr;
}

RefPtr<Cgroup> Cgroup::NewRoot(Kernel& kernel) {
  auto root = MakeRef<Cgroup>();
  root->kernel_ = &kernel;
  root->id_ = 1;
  return root;
}

Cgroup& Cgroup::Of(const Task& task) {
  ThreadGroup& group = task.group();
  RefPtr<Cgroup>& cgroup = group.extras().cgroup;
  if (cgroup) return *cgroup;
  // From an image of before there were any: all processes of a container are in one.
  ThreadGroup* init = group.pids().init();
  ThreadGroup& owner = init != nullptr ? *init : group;
  RefPtr<Cgroup>& first = owner.extras().cgroup;
  if (!first) {
    first = NewRoot(task.kernel());
    if (!owner.zombie()) first->Add(owner);
  }
  if (!cgroup) {
    cgroup = RefPtr<Cgroup>(&first->Top());
    if (!group.zombie()) cgroup->Add(group);
  }
  return *cgroup;
}

Cgroup& Cgroup::RootFor(const Task& task) {
  const RefPtr<CgroupNamespace>& ns = task.extras().cgroup;
  return ns && ns->root() ? *ns->root() : Of(task).Top();
}

// --- the tree ---

Cgroup& Cgroup::Top() {
  Cgroup* top = this;
  while (top->parent_ != nullptr) top = top->parent_;
  return *top;
}

bool Cgroup::IsWithin(const Cgroup& other) const {
  for (const Cgroup* c = this; c != nullptr; c = c->parent_) {
    if (c == &other) return true;
  }
  return false;
}

std::string Cgroup::PathFrom(const Cgroup& root) const {
  std::string up;
  const Cgroup* common = &root;
  while (common != nullptr && !IsWithin(*common)) {
    up += "/..";
    common = common->parent_;
  }
  std::string down;
  for (const Cgroup* c = this; c != common && c != nullptr; c = c->parent_) down = "/" + c->name_ + down;
  std::string path = up + down;
  return path.empty() ? "/" : path;
}

int Cgroup::Depth() const {
  int depth = 0;
  for (const Cgroup* c = parent_; c != nullptr; c = c->parent_) ++depth;
  return depth;
}

template <typename F>
void Cgroup::ForEach(F visit) const {
  visit(*this);
  for (const auto& [name, child] : children_) child->ForEach(visit);
}

template <typename F>
void Cgroup::ForEachMember(F visit) const {
  ForEach([&](const Cgroup& c) {
    for (ThreadGroup* group : c.members_) visit(*group);
  });
}

ErrnoOr<RefPtr<Cgroup>> Cgroup::MakeChild(std::string_view name, const Owner& owner) {
  if (removed_) return Errno(ENODEV);
  if (name.find('\n') != std::string_view::npos) return Errno(EINVAL);
  Cgroup& top = Top();
  if (top.groups_ >= kMostGroups || Depth() >= kMostDepth) return Errno(EAGAIN);
  // cgroup_check_hierarchy_limits()
  uint64_t level = 1;
  for (const Cgroup* c = this; c != nullptr; c = c->parent_, ++level) {
    if (c->CountDescendants() >= c->limits_.max_descendants || level > c->limits_.max_depth) return Errno(EAGAIN);
  }
  auto child = MakeRef<Cgroup>();
  child->kernel_ = kernel_;
  child->id_ = top.next_id_++;
  child->parent_ = this;
  child->name_ = name;
  child->owner_ = owner;
  children_[child->name_] = child;
  ++top.groups_;
  return child;
}

ErrnoOr<void> Cgroup::RemoveChild(Cgroup& child) {
  if (!child.children_.empty() || !child.members_.empty()) return Errno(EBUSY);
  auto it = children_.find(child.name_);
  if (it == children_.end() || it->second.get() != &child) return Errno(ENOENT);
  // Its use counts for those above it.
  counters_.dead_user_ns += child.counters_.dead_user_ns;
  counters_.dead_system_ns += child.counters_.dead_system_ns;
  child.removed_ = true;
  child.parent_ = nullptr;
  for (Cgroup* c = this; c != nullptr; c = c->parent_) c->reserved_ -= child.reserved_;
  --Top().groups_;
  RefPtr<Cgroup> gone = std::move(it->second);
  children_.erase(it);
  LimitsChanged();
  for (WaitQueue& queue : gone->change_queues_) queue.Notify(POLLPRI | POLLERR);
  return Ok();
}

size_t Cgroup::CountDescendants() const {
  size_t n = 0;
  ForEach([&n](const Cgroup&) { ++n; });
  return n - 1;
}

size_t Cgroup::CountTasks() const {
  size_t n = 0;
  ForEachMember([&n](const ThreadGroup& group) { n += group.live_tasks(); });
  return n;
}

bool Cgroup::IsPopulated() const {
  bool populated = false;
  ForEach([&populated](const Cgroup& c) { populated = populated || !c.members_.empty(); });
  return populated;
}

// --- members ---

void Cgroup::Add(ThreadGroup& group) {
  bool populated = !members_.empty() || IsPopulated();
  AddLoaded(group);
  if (!populated) TellPopulated();
}

void Cgroup::AddLoaded(ThreadGroup& group) {
  members_.insert(&group);
  group.extras().cgroup_cpu_base = group.CpuTime();
  Watch();
}

void Cgroup::Remove(ThreadGroup& group) {
  if (members_.erase(&group) == 0) return;
  int64_t used = UsedHere(group);
  // (What is not known to be the system's counts as the user's.)
  int64_t system = std::min(ToNs(group.usage().ru_stime), used);
  counters_.dead_system_ns += system;
  counters_.dead_user_ns += used - system;
  if (members_.empty() && !IsPopulated()) TellPopulated();
  LookWhetherFrozen();
}

bool Cgroup::IsPopulatedBeside(const Cgroup& child) const {
  return !members_.empty() || std::ranges::any_of(children_, [&](const auto& c) { return c.second.get() != &child && c.second->IsPopulated(); });
}

// cgroup_update_populated()
void Cgroup::TellPopulated() {
  for (Cgroup* c = this; c != nullptr; c = c->parent_) {
    c->FileChanged(kEvents);
    if (c->parent_ == nullptr || c->parent_->IsPopulatedBeside(*c)) break;
  }
}

void Cgroup::FileChanged(EventFile file) {
  RefPtr<Cgroup> self(this);
  ++changes_[file];
  change_queues_[file].Notify(POLLPRI | POLLERR);
  // Who hears of it may give up its inode.
  for (Watcher* watcher : std::vector<Watcher*>(watchers_.begin(), watchers_.end())) {
    if (watchers_.contains(watcher)) watcher->OnFileChanged(file);
  }
}

void Cgroup::Count(uint64_t Counters::* counter, EventFile file, uint64_t times) {
  for (Cgroup* c = this; c != nullptr; c = c->parent_) {
    c->counters_.*counter += times;
    c->FileChanged(file);
  }
}

ErrnoOr<void> Cgroup::Move(ThreadGroup& group) {
  if (removed_) return Errno(ENODEV);
  if (enabled_ != 0) return Errno(EBUSY);  // no internal processes
  RefPtr<Cgroup> before = group.extras().cgroup;
  if (before.get() == this) return Ok();
  if (before) before->Remove(group);
  group.extras().cgroup = RefPtr<Cgroup>(this);
  Add(group);
  for (const RefPtr<Task>& task : std::vector<RefPtr<Task>>(group.tasks())) {
    ApplyCpus(*task, CpusFor(*task));
    kernel_->lifecycle().HoldForCgroup(*task, HoldsMembers());
  }
  return Ok();
}

// pids_can_fork(), pids_cancel_fork(): counted before the task exists, so that those who make one at the same time do not all pass.
ErrnoOr<void> Cgroup::ReserveTask() {
  for (Cgroup* c = this; c != nullptr; c = c->parent_) {
    if (c->limits_.pids == kMax) continue;
    size_t tasks = c->CountTasks() + c->reserved_;
    c->counters_.pids_peak = std::max<uint64_t>(c->counters_.pids_peak, std::min<uint64_t>(tasks + 1, c->limits_.pids));
    if (tasks < c->limits_.pids) continue;
    c->Count(&Counters::pids_max, kPidsEvents);
    return Errno(EAGAIN);
  }
  for (Cgroup* c = this; c != nullptr; c = c->parent_) ++c->reserved_;
  return Ok();
}

void Cgroup::EndReservation() {
  for (Cgroup* c = this; c != nullptr; c = c->parent_) --c->reserved_;
}

// cgroup_vet_subtree_control_enable(), cgroup_subtree_control_write()
ErrnoOr<void> Cgroup::Enable(uint32_t on, uint32_t off) {
  if (removed_) return Errno(ENODEV);
  if ((on & ~available()) != 0) return Errno(ENOENT);
  off &= enabled_;
  on &= ~enabled_;
  for (const auto& [name, child] : children_) {
    if ((child->enabled_ & off) != 0) return Errno(EBUSY);
  }
  if (on != 0 && !members_.empty()) {
    bool populated_below = std::ranges::any_of(children_, [](const auto& c) { return c.second->IsPopulated(); });
    if (((on | enabled_) & kDomainControllers) != 0 || populated_below) return Errno(EBUSY);
  }
  enabled_ = (enabled_ | on) & ~off;
  // What children lose is as at first.
  for (const auto& [name, child] : children_) {
    Limits& l = child->limits_;
    const Limits none;
    if ((off & kPids) != 0) l.pids = none.pids;
    if ((off & kCpu) != 0) l.cpu_quota = none.cpu_quota, l.cpu_period = none.cpu_period, l.cpu_weight = none.cpu_weight;
    if ((off & kMemory) != 0) {
      l.memory_min = none.memory_min, l.memory_low = none.memory_low, l.memory_high = none.memory_high, l.memory_max = none.memory_max;
      l.swap_max = none.swap_max, l.oom_group = none.oom_group;
    }
  }
  if ((off & kCpuset) != 0) {
    for (const auto& [name, child] : children_) {
      child->has_mems_ = false;
      child->SetCpus(std::nullopt);
    }
  }
  LimitsChanged();
  return Ok();
}

// --- processors ---

const cpu_set_t& Cgroup::AllCpus() {
  static const cpu_set_t kAllCpus = [] {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof(set), &set) != 0) CPU_SET(0, &set);
    return set;
  }();
  return kAllCpus;
}

uint32_t Cgroup::PossibleCpus() {
  uint32_t possible = 1;
  for (uint32_t cpu = 0; cpu < CPU_SETSIZE; ++cpu) possible = CPU_ISSET(cpu, &AllCpus()) ? cpu + 1 : possible;
  return possible;
}

std::string CpuListText(const cpu_set_t& set) {
  std::string out;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &set)) continue;
    int last = cpu;
    while (last + 1 < CPU_SETSIZE && CPU_ISSET(last + 1, &set)) ++last;
    if (!out.empty()) out += ',';
    out += std::to_string(cpu);
    if (last > cpu) out += '-' + std::to_string(last);
    cpu = last;
  }
  return out;
}

// update_cpumasks_hier()
cpu_set_t Cgroup::EffectiveCpus() const {
  cpu_set_t base = parent_ != nullptr ? parent_->EffectiveCpus() : AllCpus();
  if (!cpus_ || (available() & kCpuset) == 0) return base;
  cpu_set_t own;
  CPU_AND(&own, &base, &*cpus_);
  return CPU_COUNT(&own) > 0 ? own : base;
}

cpu_set_t Cgroup::CpusFor(const Task& task) {
  const RefPtr<Cgroup>& group = task.group().extras().cgroup;
  cpu_set_t allowed = group ? group->EffectiveCpus() : AllCpus();
  const std::optional<cpu_set_t>& asked = task.extras().affinity;
  if (!asked) return allowed;
  cpu_set_t both;
  CPU_AND(&both, &allowed, &*asked);
  return CPU_COUNT(&both) > 0 ? both : allowed;
}

void Cgroup::ApplyCpus(const Task& task, const cpu_set_t& cpus) {
  if (task.exiting() || task.thread() == nullptr) return;
  (void)sched_setaffinity(task.thread()->host_tid(), sizeof(cpus), &cpus);
}

void Cgroup::ApplyCpusToMembers() const {
  ForEachMember([](const ThreadGroup& group) {
    for (const RefPtr<Task>& task : group.tasks()) ApplyCpus(*task, CpusFor(*task));
  });
}

void Cgroup::SetCpus(std::optional<cpu_set_t> cpus) {
  cpus_ = cpus;
  ApplyCpusToMembers();
}

// --- holding, killing ---

bool Cgroup::HoldsMembers() const {
  for (const Cgroup* c = this; c != nullptr; c = c->parent_) {
    if (c->freeze_ || c->throttled_) return true;
  }
  return false;
}

void Cgroup::ApplyHold() {
  std::vector<std::pair<RefPtr<Task>, bool>> tasks;
  ForEach([&tasks](const Cgroup& c) {
    bool hold = c.HoldsMembers();
    for (ThreadGroup* group : c.members_) {
      for (const RefPtr<Task>& task : group->tasks()) tasks.emplace_back(task, hold);
    }
  });
  for (auto& [task, hold] : tasks) kernel_->lifecycle().HoldForCgroup(*task, hold);
}

void Cgroup::SetFreeze(bool on) {
  freeze_ = on;
  ApplyHold();
  std::vector<RefPtr<Cgroup>> all;
  ForEach([&all](const Cgroup& c) { all.emplace_back(const_cast<Cgroup*>(&c)); });
  for (const RefPtr<Cgroup>& c : all) c->LookWhetherFrozen();
}

// cgroup_update_frozen()
void Cgroup::LookWhetherFrozen() {
  for (Cgroup* c = this; c != nullptr; c = c->parent_) {
    bool frozen = c->IsFrozen();
    if (frozen == std::exchange(c->told_frozen_, frozen)) continue;
    c->FileChanged(kEvents);
  }
}

bool Cgroup::IsFrozen() const {
  bool frozen = false;
  for (const Cgroup* c = this; c != nullptr; c = c->parent_) frozen = frozen || c->freeze_;
  if (!frozen) return false;
  ForEachMember([&](const ThreadGroup& group) {
    for (const RefPtr<Task>& task : group.tasks()) frozen = frozen && (task->exiting() || kernel_->lifecycle().IsHeld(*task));
  });
  return frozen;
}

size_t Cgroup::KillAll(const ThreadGroup* writer) {
  std::vector<RefPtr<ThreadGroup>> victims;
  ForEachMember([&](ThreadGroup& group) {
    if (writer == nullptr || !group.is_init() || &group.pids() != &writer->pids()) victims.emplace_back(&group);
  });
  for (const RefPtr<ThreadGroup>& group : victims) group->SendSignal(SigInfo::Kernel(SIGKILL));
  return victims.size();
}

// --- what is used ---

Cgroup::Memory Cgroup::MemoryUsed() const {
  Memory out;
  ForEachMember([&out](const ThreadGroup& group) {
    MemoryManager* mm = MemoryOf(group);
    if (mm == nullptr) return;
    MemoryManager::Usage usage = mm->GetUsage();
    out.resident += usage.resident;
    out.anonymous += usage.resident - std::min(usage.resident, usage.resident_file);
  });
  return out;
}

Cgroup::Cpu Cgroup::CpuUsed() const {
  Cpu out;
  ForEach([&out](const Cgroup& c) {
    out.user += c.counters_.dead_user_ns;
    out.system += c.counters_.dead_system_ns;
  });
  ForEachMember([&out](const ThreadGroup& group) {
    rusage usage = UsageOf(group);
    int64_t total = UsedHere(group), system = std::min(ToNs(usage.ru_stime), total);
    out.system += system;
    out.user += total - system;
  });
  return out;
}

// --- enforcement ---

void Cgroup::LimitsChanged() {
  Cgroup& top = Top();
  top.limited_ = 0;
  top.ForEach([&top](const Cgroup& c) { top.limited_ += c.Throttles() || c.throttled_ || c.LimitsMemory() ? 1 : 0; });
  Watch();
}

void Cgroup::Watch() {
  Cgroup& top = Top();
  if (top.limited_ == 0 || (top.timer_ != nullptr && top.timer_->armed())) return;
  if (top.timer_ == nullptr) top.timer_ = std::make_unique<Timer>([root = &top] { root->Tick(); });
  top.timer_->Arm(kernel_->timers(), kernel_->clocks().Monotonic() + kCpuTick);
}

// Members are looked at once for all the groups that they count for. It goes on while limited groups have some, and takes a tenth of the time at most.
void Cgroup::Tick() {
  RefPtr<Cgroup> self(this);
  int64_t now = kernel_->clocks().Monotonic();
  bool look_at_memory = now - memory_looked_ >= kMemoryTick;
  if (look_at_memory) memory_looked_ = now;
  std::vector<RefPtr<Cgroup>> all;
  bool throttles = false, limits_memory = false;
  ForEach([&](const Cgroup& c) {
    all.emplace_back(const_cast<Cgroup*>(&c));
    throttles = throttles || c.Throttles() || c.throttled_;
    limits_memory = limits_memory || c.LimitsMemory();
  });
  TakeSamples(all, throttles, limits_memory && look_at_memory);
  bool populated = false;
  for (const RefPtr<Cgroup>& c : all) {
    if (c->removed_) continue;
    if (c->Throttles() || c->throttled_) c->LookAtCpu(now);
    if (look_at_memory && c->LimitsMemory()) c->LookAtMemory();
    populated = populated || ((c->Throttles() || c->throttled_ || c->LimitsMemory()) && c->IsPopulated());
  }
  if (!populated) return;  // until somebody comes: Add()
  int64_t cost = kernel_->clocks().Monotonic() - now;
  timer_->Arm(kernel_->timers(), now + cost + std::max(throttles ? kCpuTick : kMemoryTick, 10 * cost));
}

void Cgroup::TakeSamples(std::span<const RefPtr<Cgroup>> all, bool cpu, bool memory) {
  std::set<const MemoryManager*> seen;  // a vfork's child has its parent's
  for (const RefPtr<Cgroup>& c : all) {
    c->cpu_sample_ = c->counters_.dead_user_ns + c->counters_.dead_system_ns;
    c->memory_sample_ = 0;
    for (const ThreadGroup* group : c->members_) {
      if (cpu) c->cpu_sample_ += UsedHere(*group);
      MemoryManager* mm = memory ? MemoryOf(*group) : nullptr;
      if (mm != nullptr && seen.insert(mm).second) c->memory_sample_ += mm->GetUsage().resident;
    }
  }
  // Children come behind their parents.
  for (const RefPtr<Cgroup>& c : std::ranges::reverse_view(all)) {
    if (c->parent_ == nullptr) continue;
    c->parent_->cpu_sample_ += c->cpu_sample_;
    c->parent_->memory_sample_ += c->memory_sample_;
  }
}

// The largest process of a group above its limit is killed, or all of them (memory.oom.group). Memory that processes share was counted for each:
// before anybody is killed it is counted by its parts (Pss).
void Cgroup::LookAtMemory() {
  uint64_t used = memory_sample_;
  counters_.memory_peak = std::max(counters_.memory_peak, used);
  if (used > limits_.memory_high) Count(&Counters::memory_high, kMemoryEvents);
  if (used <= limits_.memory_max) return;
  constexpr int kNeverKilled = -1000;  // OOM_SCORE_ADJ_MIN
  ThreadGroup* largest = nullptr;
  uint64_t most = 0, parts = 0;
  std::set<const MemoryManager*> seen;
  ForEachMember([&](ThreadGroup& group) {
    MemoryManager* mm = MemoryOf(group);
    if (mm == nullptr || !seen.insert(mm).second) return;
    uint64_t part = ProportionalOf(group);
    parts += part;
    if (group.oom_score_adj() != kNeverKilled && (largest == nullptr || part > most)) largest = &group, most = part;
  });
  if (parts <= limits_.memory_max) return;
  Count(&Counters::memory_max, kMemoryEvents);
  if (largest == nullptr) return;
  Count(&Counters::oom, kMemoryEvents);
  if (limits_.oom_group) {
    Count(&Counters::oom_kill, kMemoryEvents, KillAll(nullptr));
    return;
  }
  Count(&Counters::oom_kill, kMemoryEvents);
  RefPtr<ThreadGroup>(largest)->SendSignal(SigInfo::Kernel(SIGKILL));
}

// What was used beyond the quota of a period is taken off the next ones.
void Cgroup::LookAtCpu(int64_t now) {
  int64_t total = cpu_sample_;
  if (period_start_ == 0) period_start_ = now, cpu_before_ = total;
  int64_t period = static_cast<int64_t>(limits_.cpu_period) * 1000;
  int64_t quota = Throttles() ? static_cast<int64_t>(limits_.cpu_quota) * 1000 : INT64_MAX / 4;
  int64_t used = total - cpu_before_;
  if (now - period_start_ >= period) {
    int64_t periods = (now - period_start_) / period;
    counters_.periods += static_cast<uint64_t>(periods);
    int64_t most = 0;
    bool enough = !Throttles() || __builtin_mul_overflow(quota, periods, &most) || most >= used;
    int64_t paid = enough ? used : most;
    cpu_before_ += paid;
    used -= paid;
    period_start_ += periods * period;
  }
  bool throttle = used >= quota;
  if (throttle == throttled_) return;
  throttled_ = throttle;
  if (throttle) {
    ++counters_.throttled;
    throttled_since_ = now;
  } else {
    counters_.throttled_ns += static_cast<uint64_t>(now - throttled_since_);
  }
  if (!throttle && !Throttles()) {
    period_start_ = 0;
    LimitsChanged();
  }
  ApplyHold();
}

}  // namespace amber
