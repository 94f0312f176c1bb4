#include "sentry/kernel/cgroup.h"

#include <poll.h>

#include <algorithm>
#include <ranges>
#include <utility>
#include <vector>

#include "sentry/kernel/cgroup_tree.h"
#include "sentry/kernel/cgroup_walk.h"
#include "sentry/kernel/clock.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"

namespace amber {
namespace {

constexpr uint32_t kDomainControllers = Cgroup::kMemory;

}  // namespace

Cgroup::Cgroup() = default;

Cgroup::~Cgroup() {
  for (const RefPtr<Cgroup>& root : trees_) {
    root->unified_ = nullptr;
    root->removed_ = true;
  }
  for (auto& [name, child] : children_) child->parent_ = nullptr;
}

RefPtr<Cgroup> Cgroup::NewRoot(Kernel& kernel) {
  auto root = MakeRef<Cgroup>();
  root->kernel_ = &kernel;
  root->id_ = 1;
  return root;
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
  child->tree_ = tree_;
  if (first_ != nullptr) child->InheritFirst();
  children_[child->name_] = child;
  ++top.groups_;
  for (Cgroup* c = this; c != nullptr; c = c->parent_) ++c->descendants_;
  return child;
}

// What a new group of the first version has of its parent's: devcgroup_css_alloc(), cpuset_css_online(), mem_cgroup_css_alloc().
void Cgroup::InheritFirst() {
  const FirstVersion& above = *parent_->first_;
  controllers_ = parent_->controllers_;
  first_ = std::make_unique<FirstVersion>();
  first_->notify_on_release = above.notify_on_release;
  first_->clone_children = above.clone_children;
  first_->swappiness = above.swappiness;
  first_->oom_kill_disable = above.oom_kill_disable;
  first_->devices_allowed = above.devices_allowed;
  first_->devices = above.devices;
  first_->spread_page = above.spread_page;
  first_->spread_slab = above.spread_slab;
  if (!above.clone_children || (controllers_ & kCpuset) == 0) return;
  cpus_ = parent_->parent_ == nullptr ? AllCpus() : parent_->cpus_;
  has_mems_ = parent_->parent_ == nullptr || parent_->has_mems_;
}

ErrnoOr<void> Cgroup::RemoveChild(Cgroup& child) {
  if (!child.children_.empty() || !child.members_.empty() || !child.threads_.empty() || child.tasks_ > 0) return Errno(EBUSY);
  auto it = children_.find(child.name_);
  if (it == children_.end() || it->second.get() != &child) return Errno(ENOENT);
  // Its use counts for those above it.
  counters_.dead_user_ns += child.counters_.dead_user_ns;
  counters_.dead_system_ns += child.counters_.dead_system_ns;
  child.removed_ = true;
  child.parent_ = nullptr;
  for (Cgroup* c = this; c != nullptr; c = c->parent_) c->reserved_ -= child.reserved_, --c->descendants_;
  --Top().groups_;
  RefPtr<Cgroup> gone = std::move(it->second);
  children_.erase(it);
  LimitsChanged();
  for (WaitQueue& queue : gone->change_queues_) queue.Notify(POLLPRI | POLLERR);
  ReleaseIfEmpty();
  return Ok();
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
    if (first_ != nullptr) break;  // of the first version, each counts for itself
  }
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
  for (const auto& [name, child] : children_) child->Forget(off);
  LimitsChanged();
  return Ok();
}

void Cgroup::Forget(uint32_t controllers) {
  Limits& l = limits_;
  const Limits none;
  if ((controllers & kPids) != 0) l.pids = none.pids;
  if ((controllers & kCpu) != 0) {
    l.cpu_quota = none.cpu_quota, l.cpu_period = none.cpu_period, l.cpu_burst = none.cpu_burst;
    l.cpu_shares = none.cpu_shares, l.cpu_idle = none.cpu_idle;
  }
  if ((controllers & kMemory) != 0) {
    l.memory_min = none.memory_min, l.memory_low = none.memory_low, l.memory_high = none.memory_high, l.memory_max = none.memory_max;
    l.swap_max = none.swap_max, l.swap_high = none.swap_high, l.oom_group = none.oom_group;
  }
  if ((controllers & kCpuset) != 0) {
    has_mems_ = false;
    cpus_.reset();
    ApplyCpusToMembers();
  }
}

}  // namespace amber
