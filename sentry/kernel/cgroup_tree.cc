// Trees of control groups of the first version: how they come and go, devices, release agents, what /proc says of them.
#include "sentry/kernel/cgroup_tree.h"

#include <algorithm>
#include <utility>

#include "sentry/kernel/cgroup_walk.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"

namespace amber {
namespace {

bool Same(const DeviceException& a, const DeviceException& b) { return a.block == b.block && a.major == b.major && a.minor == b.minor; }

bool Covers(const DeviceException& line, const DeviceException& wanted) {
  return line.block == wanted.block && (line.major == kAnyDevice || line.major == wanted.major) &&
         (line.minor == kAnyDevice || line.minor == wanted.minor);
}

// match_exception_partial(): they have something in common.
bool Meets(const DeviceException& line, const DeviceException& wanted) {
  auto meets = [](uint32_t a, uint32_t b) { return a == kAnyDevice || b == kAnyDevice || a == b; };
  return line.block == wanted.block && meets(line.major, wanted.major) && meets(line.minor, wanted.minor) && (line.access & wanted.access) != 0;
}

}  // namespace

// --- trees ---

Cgroup& Cgroup::Unified() {
  Cgroup& top = Top();
  return top.unified_ != nullptr ? *top.unified_ : top;
}

// rebind_subsystems()
ErrnoOr<RefPtr<Cgroup>> Cgroup::NewTree(uint32_t controllers, std::string name) {
  for (const RefPtr<Cgroup>& root : trees_) {
    if ((root->controllers_ & controllers) != 0) return Errno(EBUSY);
  }
  if ((enabled_ & controllers) != 0 && !children_.empty()) return Errno(EBUSY);
  if (trees_.size() >= kMostTrees) return Errno(ENOSPC);
  auto root = MakeRef<Cgroup>();
  root->kernel_ = kernel_;
  root->id_ = 1;
  root->tree_ = ++last_tree_;
  root->controllers_ = controllers;
  root->first_ = std::make_unique<FirstVersion>();
  root->own_tree_ = std::make_unique<CgroupTree>();
  root->own_tree_->name = std::move(name);
  root->unified_ = this;
  // What the second version loses has no limits there any more.
  enabled_ &= ~controllers;
  controllers_ &= ~controllers;
  Forget(controllers);
  trees_.push_back(root);
  ForEachMember([&root](ThreadGroup& group) {
    group.extras().cgroups.push_back({root, group.CpuTime(), 0});
    root->members_.insert(&group);
    root->AddTasks(static_cast<int64_t>(group.live_tasks()), false);
  });
  LimitsChanged();
  return root;
}

void Cgroup::OnMount() { ++own_tree_->mounts; }

// cgroup_kill_sb()
void Cgroup::OnUnmount() {
  if (--own_tree_->mounts > 0 || !children_.empty() || unified_ == nullptr) return;
  RefPtr<Cgroup> self(this);
  Cgroup& second = *unified_;
  second.controllers_ |= controllers_ & kSecond;
  for (ThreadGroup* group : members_) {
    std::erase_if(group->extras().cgroups, [this](const CgroupPlace& place) { return place.group.get() == this; });
  }
  Forget(controllers_);
  members_.clear();
  timer_.reset();
  unified_ = nullptr;
  removed_ = true;
  std::erase(second.trees_, self);
}

ErrnoOr<void> Cgroup::RenameChild(Cgroup& child, std::string_view name) {
  if (name.find('\n') != std::string_view::npos) return Errno(EINVAL);
  if (children_.contains(name)) return Errno(EEXIST);
  auto it = children_.find(child.name_);
  if (it == children_.end() || it->second.get() != &child) return Errno(ENOENT);
  RefPtr<Cgroup> moved = std::move(it->second);
  children_.erase(it);
  moved->name_ = name;
  children_[std::string(name)] = std::move(moved);
  return Ok();
}

// cgroup1_check_for_release(), cgroup1_release_agent()
void Cgroup::ReleaseIfEmpty() {
  if (first_ == nullptr || !first_->notify_on_release || removed_ || tasks_ > 0 || !children_.empty() || agent_runner_ == nullptr) return;
  Cgroup& top = Top();
  if (top.unified_ == nullptr || top.own_tree_ == nullptr || top.own_tree_->release_agent.empty()) return;
  kernel_->AfterUnlock([kernel = kernel_, unified = RefPtr<Cgroup>(top.unified_), agent = top.own_tree_->release_agent, path = PathFrom(top)] {
    agent_runner_(*kernel, *unified, agent, path);
  });
}

// --- devices ---

// devcgroup_legacy_check_permission()
bool FirstVersion::Allows(const DeviceException& wanted) const {
  if (devices_allowed) return std::ranges::none_of(devices, [&](const DeviceException& line) { return Meets(line, wanted); });
  return std::ranges::any_of(devices, [&](const DeviceException& line) { return Covers(line, wanted) && (wanted.access & ~line.access) == 0; });
}

ErrnoOr<void> Cgroup::CheckDevice(const Task& task, bool block, uint32_t major, uint32_t minor, uint32_t access) {
  Cgroup& group = With(task, kDevices);
  return group.first_ == nullptr || group.first_->Allows({block, major, minor, access}) ? Ok() : ErrnoOr<void>(Errno(EPERM));
}

void FirstVersion::AddDevice(const DeviceException& line) {
  auto it = std::ranges::find_if(devices, [&](const DeviceException& d) { return Same(d, line); });
  if (it != devices.end()) {
    it->access |= line.access;
  } else {
    devices.push_back(line);
  }
}

void FirstVersion::TakeDevice(const DeviceException& line) {
  for (DeviceException& d : devices) {
    if (Same(d, line)) d.access &= ~line.access;
  }
  std::erase_if(devices, [](const DeviceException& d) { return d.access == 0; });
}

// devcgroup_update_access() for one line.
ErrnoOr<void> Cgroup::AllowDevice(const DeviceException& line) {
  const FirstVersion* above = parent_ != nullptr ? parent_->first_.get() : nullptr;
  if (first_->devices_allowed) {
    // parent_allows_removal()
    if (above != nullptr && std::ranges::any_of(above->devices, [&](const DeviceException& d) { return above->devices_allowed && Meets(d, line); })) {
      return Errno(EPERM);
    }
    first_->TakeDevice(line);
    return Ok();
  }
  if (above != nullptr && !above->Allows(line)) return Errno(EPERM);
  if (first_->devices.size() >= FirstVersion::kMostExceptions) return Errno(ENOMEM);
  first_->AddDevice(line);
  return Ok();
}

ErrnoOr<void> Cgroup::DenyDevice(const DeviceException& line) {
  if (first_->devices.size() >= FirstVersion::kMostExceptions) return Errno(ENOMEM);
  if (first_->devices_allowed) {
    first_->AddDevice(line);
  } else {
    first_->TakeDevice(line);
  }
  // propagate_exception(): those below may do no more.
  for (const auto& [name, child] : children_) {
    FirstVersion& below = *child->first_;
    if (first_->devices_allowed && below.devices_allowed) {
      TRY(child->DenyDevice(line));
      continue;
    }
    std::erase_if(below.devices, [this](const DeviceException& d) { return !first_->Allows(d); });
    TRY(child->DenyDevice(line));
  }
  return Ok();
}

ErrnoOr<void> Cgroup::SetAllDevices(bool allow) {
  if (!children_.empty()) return Errno(EINVAL);
  if (allow && parent_ != nullptr && !parent_->first_->devices_allowed) return Errno(EPERM);
  first_->devices.clear();
  if (allow && parent_ != nullptr) first_->devices = parent_->first_->devices;
  first_->devices_allowed = allow;
  return Ok();
}

// --- /proc ---

std::string ControllerNames(uint32_t set, char between) {
  std::string out;
  for (const ControllerName& c : kControllerNames) {
    if ((set & c.bit) == 0) continue;
    if (!out.empty()) out += between;
    out += c.name;
  }
  return out;
}

// proc_cgroupstats_show(): those of the second version have the number 0.
std::string CgroupsText(const Task& reader) {
  Cgroup& unified = Cgroup::Of(reader).Unified();
  std::string out = "#subsys_name\thierarchy\tnum_cgroups\tenabled\n";
  for (const ControllerName& c : kControllerNames) {
    const Cgroup* root = &unified;
    for (const RefPtr<Cgroup>& tree : unified.trees()) {
      if ((tree->available() & c.bit) != 0) root = tree.get();
    }
    out += std::string(c.name) + "\t" + std::to_string(root->tree()) + "\t" + std::to_string(root->groups()) + "\t1\n";
  }
  return out;
}

// proc_cgroup_show(): the latest first.
std::string CgroupPathsText(const Task& reader, const Task& target) {
  std::string out;
  const std::vector<RefPtr<Cgroup>>& trees = Cgroup::Of(target).Unified().trees();
  for (auto it = trees.rbegin(); it != trees.rend(); ++it) {
    int tree = (*it)->tree();
    std::string names = ControllerNames((*it)->available(), ',');
    const std::string& own = (*it)->own_tree()->name;
    if (!own.empty()) names += (names.empty() ? "name=" : ",name=") + own;
    // The dead are in the roots.
    Cgroup& root = Cgroup::RootFor(reader, tree);
    out += std::to_string(tree) + ":" + names + ":" + (target.exiting() ? "/" : Cgroup::At(target, tree).PathFrom(root)) + "\n";
  }
  const Cgroup& group = Cgroup::Of(target);
  return out + "0::" + group.PathFrom(Cgroup::RootFor(reader)) + (group.removed() ? " (deleted)\n" : "\n");
}

}  // namespace amber
