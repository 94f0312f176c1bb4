// What the controllers for memory and processors limit: looked at regularly, by the root of a tree.
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <ranges>
#include <utility>

#include "sentry/base/unique_fd.h"
#include "sentry/kernel/cgroup.h"
#include "sentry/kernel/cgroup_tree.h"
#include "sentry/kernel/cgroup_walk.h"
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

}  // namespace

Cgroup::Memory Cgroup::MemoryUsed() const {
  Memory out;
  std::set<const MemoryManager*> seen;  // a vfork's child has its parent's
  ForEachMember([&](const ThreadGroup& group) {
    MemoryManager* mm = MemoryOf(group);
    if (mm == nullptr || !seen.insert(mm).second) return;
    MemoryManager::Usage usage = mm->GetUsage();
    out.resident += usage.resident;
    out.anonymous += usage.resident - std::min(usage.resident, usage.resident_file);
  });
  return out;
}

void Cgroup::LimitsChanged() {
  Cgroup& top = Top();
  top.limited_ = 0;
  top.ForEach([&top](const Cgroup& c) { top.limited_ += c.Watched() ? 1 : 0; });
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
  bool uses_cpu = false, weighs = false, limits_memory = false;
  ForEach([&](const Cgroup& c) {
    all.emplace_back(const_cast<Cgroup*>(&c));
    weighs = weighs || c.Weighs();
    uses_cpu = uses_cpu || c.Throttles() || c.throttled_ || c.Weighs();
    limits_memory = limits_memory || c.LimitsMemory();
  });
  TakeSamples(all, uses_cpu, weighs, limits_memory && look_at_memory);
  int64_t elapsed = now - std::exchange(looked_, now);
  bool populated = EndStalls(all, now);
  for (const RefPtr<Cgroup>& c : all) {
    if (c->removed_) continue;
    if (c->Throttles() || c->throttled_) c->LookAtCpu(now);
    if (weighs) c->LookAtWeights(now, elapsed);
    if (look_at_memory && c->LimitsMemory()) c->LookAtMemory(now);
    populated = populated || (c->Watched() && c->IsPopulated());
  }
  if (!populated) return;  // until somebody comes: AddTasks()
  int64_t cost = kernel_->clocks().Monotonic() - now;
  timer_->Arm(kernel_->timers(), now + cost + std::max(uses_cpu ? kCpuTick : kMemoryTick, 10 * cost));
}

// How long tasks that ran a little since the last look have waited for a processor since then; the others may well sleep.
int64_t Cgroup::WaitOf(ThreadGroup& group) {
  int64_t time = group.CpuTime(), ran = time - std::exchange(group.extras().cpu_seen, time), waited = 0;
  if (ran <= 0) return 0;
  constexpr size_t kMostThreads = 64;
  size_t looked = 0;
  for (const RefPtr<Task>& task : group.tasks()) {
    if (task->thread() == nullptr || ++looked > kMostThreads) continue;
    int64_t now = WaitedForProcessor(*task);
    waited += std::max<int64_t>(now - std::exchange(task->extras().waited_seen, now), 0);
  }
  return waited;
}

void Cgroup::TakeSamples(std::span<const RefPtr<Cgroup>> all, bool cpu, bool weighs, bool memory) {
  std::set<const MemoryManager*> seen;  // a vfork's child has its parent's
  for (const RefPtr<Cgroup>& c : all) {
    c->cpu_sample_ = cpu ? c->UsedHere() : 0;
    c->memory_sample_ = 0;
    c->wait_sample_ = 0;
    for (ThreadGroup* group : c->members_) {
      if (weighs) c->wait_sample_ += WaitOf(*group);
      MemoryManager* mm = memory ? MemoryOf(*group) : nullptr;
      if (mm != nullptr && seen.insert(mm).second) c->memory_sample_ += mm->GetUsage().resident;
    }
  }
  // Children come behind their parents.
  for (const RefPtr<Cgroup>& c : std::ranges::reverse_view(all)) {
    if (c->parent_ == nullptr) continue;
    c->parent_->cpu_sample_ += c->cpu_sample_;
    c->parent_->memory_sample_ += c->memory_sample_;
    c->parent_->wait_sample_ += c->wait_sample_;
  }
}

// --- memory ---

bool Cgroup::OomKills() const { return first_ == nullptr || !first_->oom_kill_disable; }

// Memory that processes share was counted for each: before anything happens to anybody it is counted by its parts (Pss).
void Cgroup::LookAtMemory(int64_t now) {
  uint64_t used = memory_sample_;
  counters_.memory_peak = std::max(counters_.memory_peak, used);
  if (used > limits_.memory_high) Stall(now);
  bool above = used > limits_.memory_max;
  if (oom_held_ && (!above || OomKills())) {
    oom_held_ = false;
    ApplyHold();
    LimitsChanged();
  }
  if (above && !oom_held_) KillLargest();
}

// The largest process of a group above its limit is killed, or all of them (memory.oom.group), or they stand still (memory.oom_control).
void Cgroup::KillLargest() {
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
  if (!OomKills()) {
    oom_held_ = true;
    return ApplyHold();
  }
  if (largest == nullptr) return;
  Count(&Counters::oom, kMemoryEvents);
  if (limits_.oom_group) {
    Count(&Counters::oom_group_kill, kMemoryEvents);
    Count(&Counters::oom_kill, kMemoryEvents, KillAll(nullptr));
    return;
  }
  Count(&Counters::oom_kill, kMemoryEvents);
  RefPtr<ThreadGroup>(largest)->SendSignal(SigInfo::Kernel(SIGKILL));
}

// calculate_high_delay(): for each 64 pages more, 64 s times the square of the part by which the group is above, 2 s at most. There is nothing to reclaim.
void Cgroup::Stall(int64_t now) {
  constexpr double kNsPerS = 1e9, kBatch = 64 * 4096, kMostDelay = 2e9;
  double over = static_cast<double>(memory_sample_ - limits_.memory_high) / static_cast<double>(std::max<uint64_t>(limits_.memory_high, 4096));
  bool grew = false;
  std::vector<RefPtr<ThreadGroup>> stalled;
  ForEachMember([&](ThreadGroup& group) {
    MemoryManager* mm = MemoryOf(group);
    if (mm == nullptr || group.extras().stalled_until != 0) return;
    uint64_t resident = mm->GetUsage().resident, before = std::exchange(group.extras().resident_seen, resident);
    if (resident <= before) return;
    grew = true;
    double delay = std::min(64 * kNsPerS * over * over * (static_cast<double>(resident - before) / kBatch), kMostDelay);
    constexpr double kLeast = 1e7;  // ns; shorter ones are forgiven
    if (delay < kLeast) return;
    group.extras().stalled_until = now + static_cast<int64_t>(delay);
    stalled.emplace_back(&group);
  });
  if (grew) Count(&Counters::memory_high, kMemoryEvents);
  for (const RefPtr<ThreadGroup>& group : stalled) {
    for (const RefPtr<Task>& task : std::vector<RefPtr<Task>>(group->tasks())) kernel_->lifecycle().HoldForCgroup(*task, true);
  }
}

// True if somebody stands still on.
bool Cgroup::EndStalls(std::span<const RefPtr<Cgroup>> all, int64_t now) {
  bool more = false;
  std::vector<RefPtr<ThreadGroup>> ended;
  for (const RefPtr<Cgroup>& c : all) {
    for (ThreadGroup* group : c->members_) {
      int64_t until = group->extras().stalled_until;
      if (until == 0) continue;
      more = more || until > now;
      if (until <= now) ended.emplace_back(group);
    }
  }
  for (const RefPtr<ThreadGroup>& group : ended) {
    group->extras().stalled_until = 0;
    for (const RefPtr<Task>& task : std::vector<RefPtr<Task>>(group->tasks())) task->kernel().lifecycle().HoldForCgroup(*task, HoldsTask(*task));
  }
  return more;
}

// --- processors ---

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

// Groups beside each other that do not all weigh the same: each has its use divided by its weight. Who is ahead of one that has to wait for a processor
// stands still until that has caught up, or wants no more, or processors are idle meanwhile. Processes beside groups compete, but are not held back.
void Cgroup::LookAtWeights(int64_t now, int64_t elapsed) {
  constexpr double kLead = 2e6, kMostLead = 2e8;  // ns
  bool differ = std::ranges::any_of(children_, [](const auto& c) { return c.second->Weighs(); });
  if (!differ || elapsed <= 0) return;
  // What they used while nobody looked counts for nothing.
  bool again = now - std::exchange(weighed_, now) > 10 * kCpuTick;
  double used = 0, slowest = -1, waiting = -1;
  for (const auto& [name, child] : children_) used += child->CountUse(again, elapsed, floor_);
  bool idle = IdleBesideHeld(used, elapsed);
  bool held = std::ranges::any_of(children_, [](const auto& c) { return c.second->yields_; });
  for (const auto& [name, child] : children_) {
    // One that waits, or runs because others stand still for it.
    child->wants_ = !idle && !child->yields_ && child->Competes() && (child->calm_ < kQuietTicks || (child->wants_ && held));
    if (idle) child->calm_ = kQuietTicks;
    if (!child->Competes()) continue;
    if (slowest < 0 || child->virtual_time_ < slowest) slowest = child->virtual_time_;
    if (child->wants_ && (waiting < 0 || child->virtual_time_ < waiting)) waiting = child->virtual_time_;
  }
  floor_ = std::max(floor_, slowest);
  bool changed = false;
  for (const auto& [name, child] : children_) {
    double unit = static_cast<double>(kUsualShares) / static_cast<double>(child->Shares());
    if (slowest >= 0) child->virtual_time_ = std::min(child->virtual_time_, slowest + kMostLead * unit);
    double lead = waiting >= 0 ? child->virtual_time_ - waiting : 0;
    bool yield = child->Competes() && waiting >= 0 && lead > (child->yields_ ? 0 : kLead * unit);
    changed = changed || std::exchange(child->yields_, yield) != yield;
  }
  if (changed) ApplyHold();
}

// What it used since the last look is counted, and whether it had to wait for more. (The host tells of a wait when it is over: both are remembered for a while.)
double Cgroup::CountUse(bool again, int64_t elapsed, double floor) {
  constexpr int64_t kLeastUse = 200'000;  // ns
  int64_t used = cpu_sample_ - std::exchange(cpu_seen_, cpu_sample_);
  if (again || used < 0) used = 0;
  bool began = !Competes();
  quiet_ = used > kLeastUse || yields_ ? 0 : std::min(quiet_ + 1, kQuietTicks);
  calm_ = wait_sample_ > elapsed / 10 ? 0 : std::min(calm_ + 1, kQuietTicks);
  virtual_time_ += static_cast<double>(used) * static_cast<double>(kUsualShares) / static_cast<double>(Shares());
  if (began) virtual_time_ = std::max(virtual_time_, floor);
  return static_cast<double>(used);
}

// Somebody stands still, and those who do not neither wait nor use all the processors that all of them may use.
bool Cgroup::IdleBesideHeld(double used, int64_t elapsed) const {
  constexpr double kBusy = 0.85;
  bool held = false, waits = false;
  cpu_set_t all;
  CPU_ZERO(&all);
  for (const auto& [name, child] : children_) {
    held = held || child->yields_;
    waits = waits || (!child->yields_ && child->calm_ == 0);
    if (!child->Competes()) continue;
    child->ForEachMember([&all](const ThreadGroup& group) {
      if (group.tasks().empty()) return;
      cpu_set_t its = CpusFor(*group.tasks().front());
      CPU_OR(&all, &all, &its);
    });
  }
  return held && !waits && used < kBusy * CPU_COUNT(&all) * static_cast<double>(elapsed);
}

}  // namespace amber
