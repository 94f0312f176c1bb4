// The cpuset controller of control groups.
#include <sched.h>

#include <algorithm>
#include <utility>

#include "sentry/kernel/cgroup.h"
#include "sentry/kernel/cgroup_tree.h"
#include "sentry/kernel/cgroup_walk.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"

namespace amber {

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

// update_cpumasks_hier(); of the first version, what was written is what there is.
cpu_set_t Cgroup::EffectiveCpus() const {
  if (first_ != nullptr && cpus_ && parent_ != nullptr) return *cpus_;
  cpu_set_t base = parent_ != nullptr ? parent_->EffectiveCpus() : AllCpus();
  if (!cpus_ || (available() & kCpuset) == 0) return base;
  cpu_set_t own;
  CPU_AND(&own, &base, &*cpus_);
  return CPU_COUNT(&own) > 0 ? own : base;
}

cpu_set_t Cgroup::CpusFor(const Task& task) {
  cpu_set_t allowed = task.group().extras().cgroups.empty() ? AllCpus() : With(task, kCpuset).EffectiveCpus();
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

// validate_change(), cpuset1_validate_change(). Null: none.
ErrnoOr<void> Cgroup::CheckFirstCpus(const cpu_set_t* cpus) const {
  cpu_set_t none, both;
  CPU_ZERO(&none);
  const cpu_set_t& wanted = cpus != nullptr ? *cpus : none;
  for (const auto& [name, child] : children_) {
    if (!child->cpus_) continue;
    CPU_AND(&both, &*child->cpus_, &wanted);
    if (!CPU_EQUAL(&both, &*child->cpus_)) return Errno(EBUSY);
  }
  if (parent_->parent_ != nullptr) {
    cpu_set_t above = parent_->cpus_.value_or(none);
    CPU_AND(&both, &above, &wanted);
    if (!CPU_EQUAL(&both, &wanted)) return Errno(EACCES);
  }
  for (const auto& [name, other] : parent_->children_) {
    if (other.get() == this || !other->cpus_ || (!first_->cpu_exclusive && !other->first_->cpu_exclusive)) continue;
    CPU_AND(&both, &*other->cpus_, &wanted);
    if (CPU_COUNT(&both) > 0) return Errno(EINVAL);
  }
  if (cpus == nullptr && (!members_.empty() || !threads_.empty())) return Errno(ENOSPC);
  return Ok();
}

ErrnoOr<void> Cgroup::SetCpus(std::optional<cpu_set_t> cpus) {
  if (first_ != nullptr) {
    if (parent_ == nullptr) return Errno(EACCES);
    TRY(CheckFirstCpus(cpus ? &*cpus : nullptr));
  }
  cpus_ = cpus;
  ApplyCpusToMembers();
  return Ok();
}

ErrnoOr<void> Cgroup::SetExclusiveCpus(bool on) {
  if (on && parent_ != nullptr) {
    if (parent_->parent_ != nullptr && !parent_->first_->cpu_exclusive) return Errno(EACCES);
    std::swap(first_->cpu_exclusive, on);
    auto checked = CheckFirstCpus(cpus_ ? &*cpus_ : nullptr);
    if (checked.Is(EINVAL)) {
      first_->cpu_exclusive = on;
      return checked;
    }
    return Ok();
  }
  bool below = std::ranges::any_of(children_, [](const auto& c) { return c.second->first_->cpu_exclusive; });
  if (!on && below) return Errno(EBUSY);
  first_->cpu_exclusive = on;
  return Ok();
}

ErrnoOr<void> Cgroup::SetMems(bool has) {
  if (first_ != nullptr) {
    if (parent_ == nullptr) return Errno(EACCES);
    bool below = std::ranges::any_of(children_, [](const auto& c) { return c.second->has_mems_; });
    if (!has && below) return Errno(EBUSY);
    if (has && parent_->parent_ != nullptr && !parent_->has_mems_) return Errno(EACCES);
    if (!has && (!members_.empty() || !threads_.empty())) return Errno(ENOSPC);
  }
  has_mems_ = has;
  return Ok();
}

}  // namespace amber
