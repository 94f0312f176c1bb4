// Control groups in an image.
#include <string.h>

#include <algorithm>

#include "sentry/kernel/cgroup.h"
#include "sentry/kernel/cgroup.pb.h"
#include "sentry/kernel/clock.h"
#include "sentry/kernel/kernel.h"

namespace amber {
namespace {

using OwnerMessage = cgroup_state::Owner;

// In the order of the image.
template <typename L, typename F>
void VisitLimits(L& l, F visit) {
  for (auto* v : {&l.pids, &l.memory_min, &l.memory_low, &l.memory_high, &l.memory_max, &l.swap_max, &l.cpu_quota, &l.cpu_period, &l.cpu_weight,
                  &l.max_depth, &l.max_descendants}) {
    visit(*v);
  }
}

template <typename C, typename F>
void VisitCounters(C& c, F visit) {
  for (auto* v :
       {&c.pids_max, &c.pids_peak, &c.memory_high, &c.memory_max, &c.oom, &c.oom_kill, &c.memory_peak, &c.periods, &c.throttled, &c.throttled_ns}) {
    visit(*v);
  }
}

void StoreOwner(std::string_view file, const Cgroup::Owner& owner, OwnerMessage* out) {
  out->set_file(std::string(file));
  out->set_mode(owner.mode);
  out->set_uid(owner.uid);
  out->set_gid(owner.gid);
}

Cgroup::Owner LoadOwner(const OwnerMessage& in) { return {in.mode() & 07777, in.uid(), in.gid()}; }

}  // namespace

std::string Cgroup::Save(state::Saver& saver) const {
  cgroup_state::Cgroup m;
  m.set_id(id_);
  m.set_name(name_);
  for (const auto& [name, child] : children_) {
    auto* out = m.add_child();
    out->set_name(name);
    out->set_cgroup(saver.Ref(child));
  }
  m.set_enabled(enabled_);
  m.set_freeze(freeze_);
  m.set_told_frozen(told_frozen_);
  m.set_removed(removed_);
  VisitLimits(limits_, [&m](uint64_t v) { m.add_limit(v); });
  m.add_limit(limits_.oom_group ? 1 : 0);
  VisitCounters(counters_, [&m](uint64_t v) { m.add_counter(v); });
  // Members begin anew.
  Cpu used = CpuUsed();
  for (const auto& [name, child] : children_) {
    Cpu below = child->CpuUsed();
    used.user -= below.user;
    used.system -= below.system;
  }
  m.add_counter(static_cast<uint64_t>(std::max<int64_t>(used.user, 0)));
  m.add_counter(static_cast<uint64_t>(std::max<int64_t>(used.system, 0)));
  StoreOwner("", owner_, m.mutable_owner());
  for (const auto& [file, owner] : file_owners_) StoreOwner(file, owner, m.add_file_owner());
  m.set_next_id(next_id_);
  if (cpus_) m.set_cpus(&*cpus_, sizeof(*cpus_));
  m.set_has_mems(has_mems_);
  return m.SerializeAsString();
}

bool Cgroup::Load(state::Loader& loader, std::string_view bytes) {
  cgroup_state::Cgroup m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return loader.Fail("a cgroup is malformed");
  kernel_ = loader.Get<Kernel>(1);
  if (kernel_ == nullptr) return false;
  constexpr int kLimits = 12, kCounters = 12;
  if (m.limit_size() != kLimits || m.counter_size() != kCounters) return loader.Fail("a cgroup is malformed");
  id_ = m.id();
  name_ = m.name();
  enabled_ = m.enabled() & kAll;
  freeze_ = m.freeze();
  told_frozen_ = m.told_frozen();
  removed_ = m.removed();
  int i = 0;
  VisitLimits(limits_, [&](uint64_t& v) { v = m.limit(i++); });
  limits_.oom_group = m.limit(i) != 0;
  constexpr uint64_t kMostPeriod = 1'000'000, kMostQuota = uint64_t{1} << 44;  // microseconds
  if (limits_.cpu_period < 1000 || limits_.cpu_period > kMostPeriod) return loader.Fail("a cgroup's period is out of range");
  if (limits_.cpu_quota != kMax && (limits_.cpu_quota < 1000 || limits_.cpu_quota > kMostQuota))
    return loader.Fail("a cgroup's quota is out of range");
  i = 0;
  VisitCounters(counters_, [&](uint64_t& v) { v = m.counter(i++); });
  constexpr uint64_t kMostTime = uint64_t{1} << 60;  // ns
  counters_.dead_user_ns = static_cast<int64_t>(std::min(m.counter(i), kMostTime));
  counters_.dead_system_ns = static_cast<int64_t>(std::min(m.counter(i + 1), kMostTime));
  owner_ = LoadOwner(m.owner());
  for (const OwnerMessage& in : m.file_owner()) file_owners_[in.file()] = LoadOwner(in);
  next_id_ = m.next_id();
  has_mems_ = m.has_mems();
  if (!m.cpus().empty()) {
    if (m.cpus().size() != sizeof(cpu_set_t)) return loader.Fail("a cgroup's set of processors is malformed");
    memcpy(&cpus_.emplace(), m.cpus().data(), sizeof(cpu_set_t));
  }
  for (const auto& in : m.child()) {
    RefPtr<Cgroup> child = loader.GetRef<Cgroup>(in.cgroup());
    // A tree: nobody is below two, or below himself, which would be endlessly deep.
    if (!child || child->parent_ != nullptr || children_.size() > kMostGroups) return loader.Fail("the tree of cgroups is malformed");
    child->parent_ = this;
    int height = child->height_ + 1, steps = 0;
    for (Cgroup* c = this; c != nullptr; c = c->parent_, ++steps) {
      if (height > kMostDepth || steps > kMostDepth) return loader.Fail("the tree of cgroups is too deep");
      c->height_ = std::max(c->height_, height);
      height = c->height_ + 1;
    }
    children_[in.name()] = std::move(child);
  }
  return true;
}

bool Cgroup::AfterLoad(state::Loader& loader) {
  bool is_there = parent_ == nullptr || (parent_->children_.contains(name_) && parent_->children_[name_].get() == this);
  if (!is_there || (removed_ && (parent_ != nullptr || !children_.empty()))) return loader.Fail("the tree of cgroups is malformed");
  Cgroup& top = Top();
  if (parent_ != nullptr) {
    ++top.groups_;
  } else if (!removed_) {
    LimitsChanged();
  }
  return (Depth() <= kMostDepth && top.groups_ <= kMostGroups) || loader.Fail("the tree of cgroups is too large");
}

}  // namespace amber
