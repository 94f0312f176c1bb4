#include "sentry/kernel/cgroup.h"

#include <signal.h>

#include <algorithm>
#include <utility>
#include <vector>

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

int64_t ToNs(const timeval& t) { return t.tv_sec * kNsPerSecond + t.tv_usec * 1000; }

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
  RefPtr<Cgroup>& cgroup = task.group().extras().cgroup;
  if (!cgroup) {
    // From an image of before there were any.
    cgroup = NewRoot(task.kernel());
    cgroup->Add(task.group());
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
  --Top().groups_;
  children_.erase(it);
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
  members_.insert(&group);
  group.extras().cgroup_cpu_base = group.CpuTime();
  Watch();
}

void Cgroup::Remove(ThreadGroup& group) {
  if (members_.erase(&group) == 0) return;
  int64_t used = std::max<int64_t>(group.CpuTime() - group.extras().cgroup_cpu_base, 0);
  // (What is not known to be the system's counts as the user's.)
  int64_t system = std::min(ToNs(group.usage().ru_stime), used);
  counters_.dead_system_ns += system;
  counters_.dead_user_ns += used - system;
}

ErrnoOr<void> Cgroup::Move(ThreadGroup& group) {
  if (removed_) return Errno(ENODEV);
  if (enabled_ != 0) return Errno(EBUSY);  // no internal processes
  RefPtr<Cgroup> before = group.extras().cgroup;
  if (before.get() == this) return Ok();
  if (before) before->Remove(group);
  group.extras().cgroup = RefPtr<Cgroup>(this);
  Add(group);
  for (const RefPtr<Task>& task : std::vector<RefPtr<Task>>(group.tasks())) kernel_->lifecycle().HoldForCgroup(*task, HoldsMembers());
  return Ok();
}

ErrnoOr<void> Cgroup::CheckNewTask() {
  for (Cgroup* c = this; c != nullptr; c = c->parent_) {
    if (c->limits_.pids == kMax) continue;
    size_t tasks = c->CountTasks();
    c->counters_.pids_peak = std::max<uint64_t>(c->counters_.pids_peak, std::min<uint64_t>(tasks + 1, c->limits_.pids));
    if (tasks < c->limits_.pids) continue;
    ++c->counters_.pids_max;
    return Errno(EAGAIN);
  }
  return Ok();
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
  return Ok();
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

void Cgroup::KillAll() {
  std::vector<RefPtr<ThreadGroup>> victims;
  ForEachMember([&victims](ThreadGroup& group) { victims.emplace_back(&group); });
  for (const RefPtr<ThreadGroup>& group : victims) group->SendSignal(SigInfo::Kernel(SIGKILL));
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
    int64_t total = std::max<int64_t>(group.CpuTime() - group.extras().cgroup_cpu_base, 0), system = std::min(ToNs(usage.ru_stime), total);
    out.system += system;
    out.user += total - system;
  });
  return out;
}

int64_t Cgroup::CpuTotal() const {
  int64_t total = 0;
  ForEach([&total](const Cgroup& c) { total += c.counters_.dead_user_ns + c.counters_.dead_system_ns; });
  ForEachMember([&total](const ThreadGroup& group) { total += std::max<int64_t>(group.CpuTime() - group.extras().cgroup_cpu_base, 0); });
  return total;
}

// --- enforcement ---

void Cgroup::Watch() {
  Cgroup& top = Top();
  int64_t tick = kNever;
  top.ForEach([&tick](const Cgroup& c) {
    if (!c.IsPopulated()) return;
    if (c.Throttles() || c.throttled_) tick = std::min(tick, kCpuTick);
    if (c.limits_.memory_max != kMax || c.limits_.memory_high != kMax) tick = std::min(tick, kMemoryTick);
  });
  if (tick == kNever) return;
  if (top.timer_ == nullptr) top.timer_ = std::make_unique<Timer>([root = &top] { root->Tick(); });
  int64_t due = kernel_->clocks().Monotonic() + tick;
  if (!top.timer_->armed() || top.timer_->deadline() > due) top.timer_->Arm(kernel_->timers(), due);
}

void Cgroup::Tick() {
  RefPtr<Cgroup> self(this);
  std::vector<RefPtr<Cgroup>> all;
  ForEach([&all](const Cgroup& c) { all.emplace_back(const_cast<Cgroup*>(&c)); });
  int64_t now = kernel_->clocks().Monotonic();
  bool look_at_memory = now - memory_looked_ >= kMemoryTick;
  if (look_at_memory) memory_looked_ = now;
  for (const RefPtr<Cgroup>& c : all) {
    if (c->removed_) continue;
    c->LookAtCpu(now);
    if (look_at_memory && (c->limits_.memory_max != kMax || c->limits_.memory_high != kMax)) c->LookAtMemory();
  }
  Watch();
}

// The largest process of a group above its limit is killed, or all of them (memory.oom.group).
void Cgroup::LookAtMemory() {
  uint64_t used = MemoryUsed().resident;
  counters_.memory_peak = std::max(counters_.memory_peak, used);
  if (used > limits_.memory_high) ++counters_.memory_high;
  if (used <= limits_.memory_max) return;
  ThreadGroup* largest = nullptr;
  uint64_t most = 0;
  bool dying = false;
  ForEachMember([&](ThreadGroup& group) {
    MemoryManager* mm = MemoryOf(group);
    dying = dying || std::ranges::any_of(group.tasks(), [](const RefPtr<Task>& t) { return (t->pending() & SignalBit(SIGKILL)) != 0; });
    uint64_t resident = mm != nullptr ? mm->GetUsage().resident : 0;
    if (largest == nullptr || resident > most) largest = &group, most = resident;
  });
  ++counters_.memory_max;
  if (largest == nullptr || dying) return;
  ++counters_.oom;
  if (limits_.oom_group) {
    counters_.oom_kill += members_.size();
    return KillAll();
  }
  ++counters_.oom_kill;
  RefPtr<ThreadGroup>(largest)->SendSignal(SigInfo::Kernel(SIGKILL));
}

// What was used beyond the quota of a period is taken off the next ones.
void Cgroup::LookAtCpu(int64_t now) {
  if (!Throttles() && !throttled_) {
    period_start_ = 0;
    return;
  }
  int64_t total = CpuTotal();
  if (period_start_ == 0) period_start_ = now, cpu_before_ = total;
  int64_t period = static_cast<int64_t>(limits_.cpu_period) * 1000;
  int64_t quota = Throttles() ? static_cast<int64_t>(limits_.cpu_quota) * 1000 : INT64_MAX / 4;
  int64_t used = total - cpu_before_;
  if (now - period_start_ >= period) {
    int64_t periods = (now - period_start_) / period;
    counters_.periods += static_cast<uint64_t>(periods);
    int64_t paid = Throttles() ? std::min(used, quota * std::min<int64_t>(periods, 1000)) : used;
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
  ApplyHold();
}

}  // namespace amber
