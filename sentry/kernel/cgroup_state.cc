// Control groups in an image.
#include <string.h>

#include <algorithm>
#include <cstdlib>
#include <type_traits>

#include "sentry/kernel/cgroup.h"
#include "sentry/kernel/cgroup.pb.h"
#include "sentry/kernel/cgroup_tree.h"
#include "sentry/kernel/cgroup_walk.h"
#include "sentry/kernel/clock.h"
#include "sentry/kernel/kernel.h"

namespace amber {
namespace {

using OwnerMessage = cgroup_state::Owner;

// In the order of the image.
template <typename L, typename F>
void VisitLimits(L& l, F visit) {
  uint64_t weight = 100, oom_group = l.oom_group ? 1 : 0, idle = l.cpu_idle ? 1 : 0;
  for (auto* v : {&l.pids, &l.memory_min, &l.memory_low, &l.memory_high, &l.memory_max, &l.swap_max, &l.cpu_quota, &l.cpu_period}) visit(*v);
  visit(weight);  // (cpu.weight, where that was kept as such)
  for (auto* v : {&l.max_depth, &l.max_descendants}) visit(*v);
  visit(oom_group);
  for (auto* v : {&l.cpu_shares, &l.cpu_burst, &l.swap_high}) visit(*v);
  visit(idle);
  if constexpr (!std::is_const_v<L>) {
    l.oom_group = oom_group != 0;
    l.cpu_idle = idle != 0;
  }
}

template <typename C, typename F>
void VisitCounters(C& c, F visit) {
  for (auto* v :
       {&c.pids_max, &c.pids_peak, &c.memory_high, &c.memory_max, &c.oom, &c.oom_kill, &c.memory_peak, &c.periods, &c.throttled, &c.throttled_ns}) {
    visit(*v);
  }
}

// The numbers of what only the first version has.
template <typename S, typename F>
void VisitFirst(S& f, F visit) {
  for (auto* v : {&f.notify_on_release, &f.clone_children, &f.oom_kill_disable, &f.cpu_exclusive, &f.mem_exclusive, &f.mem_hardwall,
                  &f.memory_migrate, &f.spread_page, &f.spread_slab, &f.load_balance, &f.pressure, &f.devices_allowed}) {
    visit(*v);
  }
  for (auto* v : {&f.soft_limit, &f.memsw_limit, &f.swappiness}) visit(*v);
  visit(f.relax_domain_level);
  for (auto* v : {&f.usage_base_user, &f.usage_base_system}) visit(*v);
}

void StoreFirst(const FirstVersion& first, cgroup_state::FirstVersion* out) {
  VisitFirst(first, [out](auto v) { out->add_value(static_cast<int64_t>(v)); });
  for (const DeviceException& line : first.devices) {
    auto* device = out->add_device();
    device->set_block(line.block);
    device->set_major(line.major);
    device->set_minor(line.minor);
    device->set_access(line.access);
  }
}

bool LoadFirst(const cgroup_state::FirstVersion& in, FirstVersion* first) {
  constexpr int kValues = 18;
  if (in.value_size() != kValues || static_cast<size_t>(in.device_size()) > FirstVersion::kMostExceptions) return false;
  int i = 0;
  VisitFirst(*first, [&](auto& v) {
    using T = std::remove_reference_t<decltype(v)>;
    int64_t value = in.value(i++);
    v = std::is_same_v<T, bool> ? static_cast<T>(value != 0) : static_cast<T>(value);
  });
  for (const auto& device : in.device()) {
    first->devices.push_back({device.block(), device.major(), device.minor(), device.access() & kDeviceAll});
  }
  constexpr int64_t kMostTime = int64_t{1} << 60;  // ns
  return first->relax_domain_level >= -1 && first->relax_domain_level < 5 && first->swappiness <= 200 &&
         std::abs(first->usage_base_user) < kMostTime && std::abs(first->usage_base_system) < kMostTime;
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
  m.set_tree(tree_);
  m.set_controllers(controllers_);
  m.set_last_tree(last_tree_);
  for (const RefPtr<Cgroup>& root : trees_) m.add_root(saver.Ref(root));
  if (first_ != nullptr) StoreFirst(*first_, m.mutable_first());
  if (own_tree_ != nullptr) {
    m.mutable_own_tree()->set_name(own_tree_->name);
    m.mutable_own_tree()->set_release_agent(own_tree_->release_agent);
    m.mutable_own_tree()->set_options(own_tree_->options);
  }
  return m.SerializeAsString();
}

bool Cgroup::Load(state::Loader& loader, std::string_view bytes) {
  cgroup_state::Cgroup m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return loader.Fail("a cgroup is malformed");
  kernel_ = loader.Get<Kernel>(1);
  if (kernel_ == nullptr) return false;
  constexpr int kLimits = 16, kOldLimits = 12, kCounters = 12;
  if ((m.limit_size() != kLimits && m.limit_size() != kOldLimits) || m.counter_size() != kCounters) return loader.Fail("a cgroup is malformed");
  id_ = m.id();
  name_ = m.name();
  enabled_ = m.enabled() & kSecond;
  freeze_ = m.freeze();
  told_frozen_ = m.told_frozen();
  removed_ = m.removed();
  int i = 0;
  VisitLimits(limits_, [&](uint64_t& v) {
    if (i < m.limit_size()) v = m.limit(i);
    ++i;
  });
  constexpr uint64_t kMostShares = 262'144;
  if (limits_.cpu_shares < 2 || limits_.cpu_shares > kMostShares) return loader.Fail("a cgroup's weight is out of range");
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
  if (!LoadTree(loader, m)) return false;
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

// What makes it one of the first version, or has such trees.
bool Cgroup::LoadTree(state::Loader& loader, const cgroup_state::Cgroup& m) {
  tree_ = m.tree();
  last_tree_ = m.last_tree();
  controllers_ = m.controllers() & kFirst;
  if (m.has_first()) {
    first_ = std::make_unique<FirstVersion>();
    if (!LoadFirst(m.first(), first_.get())) return loader.Fail("a cgroup of the first version is malformed");
  } else {
    // (Images of before there was a first version have none.)
    controllers_ = m.tree() == 0 && m.last_tree() == 0 ? uint32_t{kSecond} : controllers_ & kSecond;
  }
  if (m.has_own_tree()) {
    own_tree_ = std::make_unique<CgroupTree>();
    own_tree_->name = m.own_tree().name();
    own_tree_->release_agent = m.own_tree().release_agent();
    own_tree_->options = m.own_tree().options();
  }
  for (uint64_t id : m.root()) {
    RefPtr<Cgroup> root = loader.GetRef<Cgroup>(id);
    if (!root || root.get() == this || root->unified_ != nullptr || trees_.size() >= kMostTrees)
      return loader.Fail("the trees of cgroups are malformed");
    root->unified_ = this;
    trees_.push_back(std::move(root));
  }
  return true;
}

// Numbers and controllers of trees are each one's own.
bool Cgroup::TreesMakeSense() const {
  if ((tree_ == 0) != (first_ == nullptr) || tree_ < 0) return false;
  const Cgroup* top = this;
  while (top->parent_ != nullptr) top = top->parent_;
  if (tree_ != top->tree_ || (first_ != nullptr && controllers_ != top->controllers_)) return false;
  if (parent_ != nullptr || removed_) return trees_.empty() && (removed_ || own_tree_ == nullptr);
  if (tree_ != 0) return own_tree_ != nullptr && unified_ != nullptr && unified_ != this && trees_.empty();
  uint32_t taken = controllers_;
  int last = 0;
  for (const RefPtr<Cgroup>& root : trees_) {
    if (root->removed_ || root->own_tree_ == nullptr || root->first_ == nullptr) return false;
    if (root->parent_ != nullptr || root->tree_ <= last || root->tree_ > last_tree_ || (root->controllers_ & taken) != 0) return false;
    last = root->tree_;
    taken |= root->controllers_;
  }
  return unified_ == nullptr && own_tree_ == nullptr;
}

bool Cgroup::AfterLoad(state::Loader& loader) {
  if (!TreesMakeSense()) return loader.Fail("the trees of cgroups are malformed");
  bool is_there = parent_ == nullptr || (parent_->children_.contains(name_) && parent_->children_[name_].get() == this);
  if (!is_there || (removed_ && (parent_ != nullptr || !children_.empty()))) return loader.Fail("the tree of cgroups is malformed");
  Cgroup& top = Top();
  if (parent_ != nullptr) {
    ++top.groups_;
    for (Cgroup* c = parent_; c != nullptr; c = c->parent_) ++c->descendants_;
  } else if (!removed_) {
    LimitsChanged();
  }
  return (Depth() <= kMostDepth && top.groups_ <= kMostGroups) || loader.Fail("the tree of cgroups is too large");
}

}  // namespace amber
