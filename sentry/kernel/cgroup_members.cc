// Who is where in the trees of control groups.
#include <algorithm>
#include <utility>
#include <vector>

#include "sentry/kernel/cgroup.h"
#include "sentry/kernel/cgroup_tree.h"
#include "sentry/kernel/cgroup_walk.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/task_lifecycle.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/usage.h"

namespace amber {
namespace {

CgroupPlace* Find(std::vector<CgroupPlace>& places, int tree) {
  for (CgroupPlace& place : places) {
    if (place.group->tree() == tree) return &place;
  }
  return nullptr;
}

int64_t TimeOf(const Task& task) { return task.thread() != nullptr ? task.CpuTime() : task.extras().cpu_base; }

// What a thread used in its place.
int64_t UsedApart(const Task& task, const CgroupPlace& place) {
  return task.thread() == nullptr ? place.gone_ns : std::max<int64_t>(TimeOf(task) - place.cpu_base, 0);
}

// Calls visit(task, place) for each thread that is apart in `tree`.
template <typename F>
void ForEachApart(const ThreadGroup& group, int tree, F visit) {
  if (group.extras().threads_apart == 0) return;
  for (const RefPtr<Task>& task : group.tasks()) {
    if (CgroupPlace* place = Find(task->extras().cgroups, tree)) visit(*task, *place);
  }
}

size_t CountApart(const ThreadGroup& group, int tree) {
  size_t n = 0;
  ForEachApart(group, tree, [&n](const Task&, const CgroupPlace&) { ++n; });
  return n;
}

int64_t UsedIn(const ThreadGroup& group, const CgroupPlace& place) {
  int64_t used = group.CpuTime() - place.cpu_base - place.gone_ns;
  ForEachApart(group, place.group->tree(), [&used](const Task& task, const CgroupPlace& apart) { used -= UsedApart(task, apart); });
  return std::max<int64_t>(used, 0);
}

// The part of `used` that was the system's, if the process's was.
int64_t SystemShare(const ThreadGroup& group, int64_t used) {
  rusage usage = UsageOf(group);
  double user = static_cast<double>(ToNs(usage.ru_utime)), system = static_cast<double>(ToNs(usage.ru_stime));
  return user + system <= 0 ? 0 : static_cast<int64_t>(static_cast<double>(used) * (system / (user + system)));
}

}  // namespace

// --- where somebody is ---

Cgroup& Cgroup::Of(const Task& task) {
  ThreadGroup& group = task.group();
  if (CgroupPlace* place = Find(group.extras().cgroups, 0)) return *place->group;
  // From an image of before there were any: all processes of a container are in one.
  ThreadGroup* init = group.pids().init();
  ThreadGroup& owner = init != nullptr ? *init : group;
  CgroupPlace* first = Find(owner.extras().cgroups, 0);
  RefPtr<Cgroup> root = first != nullptr ? RefPtr<Cgroup>(&first->group->Top()) : NewRoot(task.kernel());
  for (ThreadGroup* g : {&owner, &group}) {
    if (Find(g->extras().cgroups, 0) != nullptr) continue;
    g->extras().cgroups.push_back({root, g->CpuTime(), 0});
    if (g->zombie()) continue;
    root->members_.insert(g);
    root->AddTasks(static_cast<int64_t>(g->live_tasks()), false);
  }
  return *Find(group.extras().cgroups, 0)->group;
}

Cgroup& Cgroup::At(const Task& task, int tree) {
  Cgroup& second = Of(task);
  if (tree == 0) return second;
  if (CgroupPlace* place = Find(task.extras().cgroups, tree)) return *place->group;
  if (CgroupPlace* place = Find(task.group().extras().cgroups, tree)) return *place->group;
  for (const RefPtr<Cgroup>& root : second.Unified().trees_) {
    if (root->tree_ == tree) return *root;
  }
  return second;
}

std::vector<RefPtr<Cgroup>> Cgroup::FirstVersionOf(const Task& task) {
  std::vector<RefPtr<Cgroup>> out;
  for (const RefPtr<Cgroup>& root : Of(task).Unified().trees_) out.emplace_back(&At(task, root->tree_));
  return out;
}

Cgroup& Cgroup::With(const Task& task, Controller controller) {
  Cgroup& second = Of(task);
  for (const RefPtr<Cgroup>& root : second.Unified().trees_) {
    if ((root->controllers_ & controller) != 0) return At(task, root->tree_);
  }
  return second;
}

Cgroup& Cgroup::RootFor(const Task& task, int tree) {
  const RefPtr<CgroupNamespace>& ns = task.extras().cgroup;
  if (tree == 0) return ns && ns->root() ? *ns->root() : Of(task).Top();
  if (ns) {
    for (const RefPtr<Cgroup>& root : ns->first_version()) {
      if (root->tree_ == tree) return *root;
    }
  }
  return At(task, tree).Top();
}

Cgroup& Cgroup::ForNewTask(const Task& parent, Cgroup* second) {
  Cgroup& limited = With(parent, kPids);
  return second != nullptr && limited.tree_ == 0 ? *second : limited;
}

// --- coming and going ---

// cgroup_update_populated()
void Cgroup::AddTasks(int64_t d, bool tell) {
  if (d == 0) return;
  RefPtr<Cgroup> self(this);
  for (Cgroup* c = this; c != nullptr; c = c->parent_) {
    bool before = c->tasks_ > 0;
    c->tasks_ += static_cast<size_t>(d);
    if (!tell || before == (c->tasks_ > 0)) continue;
    c->FileChanged(kEvents);
    if (before) c->ReleaseIfEmpty();
  }
  if (d > 0) Watch();
}

void Cgroup::Enter(ThreadGroup& group, const Task* maker, RefPtr<Cgroup> second) {
  std::vector<CgroupPlace>& places = group.extras().cgroups;
  Cgroup& unified = second->Unified();
  places.push_back({std::move(second), group.CpuTime(), 0});
  for (const RefPtr<Cgroup>& root : unified.trees_) {
    places.push_back({maker != nullptr ? RefPtr<Cgroup>(&At(*maker, root->tree_)) : root, group.CpuTime(), 0});
  }
  for (CgroupPlace& place : places) place.group->members_.insert(&group);
}

bool Cgroup::EnterLoaded(ThreadGroup& group) {
  std::vector<CgroupPlace>& places = group.extras().cgroups;
  if (places.empty()) return true;
  Cgroup& unified = places[0].group->Unified();
  if (places[0].group->tree_ != 0 || places.size() != 1 + unified.trees_.size()) return false;
  size_t apart = 0;
  for (size_t i = 0; i < places.size(); ++i) {
    Cgroup& here = *places[i].group;
    bool again = std::any_of(places.begin(), places.begin() + static_cast<std::ptrdiff_t>(i),
                             [&](const CgroupPlace& p) { return p.group->tree_ == here.tree_; });
    if (again || here.removed_ || &here.Unified() != &unified) return false;
    places[i].cpu_base = group.CpuTime();
    here.members_.insert(&group);
    here.AddTasks(static_cast<int64_t>(group.live_tasks()), false);
  }
  for (const RefPtr<Task>& task : group.tasks()) {
    std::vector<CgroupPlace>& own = task->extras().cgroups;
    for (CgroupPlace& place : own) {
      Cgroup& here = *place.group;
      CgroupPlace* base = Find(places, here.tree_);
      if (here.tree_ == 0 || base == nullptr || Find(own, here.tree_) != &place || task->exiting() || here.removed_ || &here.Unified() != &unified)
        return false;
      place.cpu_base = TimeOf(*task);
      here.threads_.insert(task.get());
      here.AddTasks(1, false);
      base->group->AddTasks(-1, false);
      ++apart;
    }
  }
  group.extras().threads_apart = apart;
  for (const CgroupPlace& place : std::vector<CgroupPlace>(places)) FollowThreads(group, place.group->tree_);
  return true;
}

void Cgroup::Charge(int64_t used, int64_t system) {
  counters_.dead_system_ns += system;
  counters_.dead_user_ns += used - system;
}

void Cgroup::Leave(ThreadGroup& group) {
  // The places stay, for who asks where a zombie is.
  for (CgroupPlace& place : group.extras().cgroups) {
    Cgroup& here = *place.group;
    if (here.members_.erase(&group) == 0) continue;
    int64_t used = UsedIn(group, place);
    // (What is not known to be the system's counts as the user's.)
    here.Charge(used, std::min(ToNs(group.usage().ru_stime), used));
    here.LookWhetherFrozen();
  }
}

void Cgroup::OnNewTask(Task& task, const Task* maker) {
  // A thread is where its maker is.
  if (maker != nullptr && &maker->group() == &task.group()) {
    for (const CgroupPlace& place : maker->extras().cgroups) {
      task.extras().cgroups.push_back({place.group, 0, 0});
      place.group->threads_.insert(&task);
      ++task.group().extras().threads_apart;
    }
  }
  for (const CgroupPlace& place : task.group().extras().cgroups) At(task, place.group->tree_).AddTasks(1, true);
  task.extras().cgroup_held = HoldsTask(task);
}

void Cgroup::BeforeExit(Task& task) {
  for (CgroupPlace& place : task.extras().cgroups) place.gone_ns = UsedApart(task, place);
}

void Cgroup::OnTaskGone(Task& task) {
  ThreadGroup& group = task.group();
  std::vector<CgroupPlace> own = std::exchange(task.extras().cgroups, {});
  group.extras().threads_apart -= own.size();
  for (CgroupPlace& place : group.extras().cgroups) {
    Cgroup* here = place.group.get();
    if (CgroupPlace* apart = Find(own, here->tree_)) {
      here = apart->group.get();
      here->threads_.erase(&task);
      here->Charge(apart->gone_ns, 0);
      place.gone_ns += apart->gone_ns;
    }
    here->AddTasks(-1, true);
    if (here->Freezes()) here->LookWhetherFrozen();
  }
  if (group.extras().threads_apart == 0 || group.live_tasks() == 0) return;
  for (size_t i = 0; i < group.extras().cgroups.size(); ++i) FollowThreads(group, group.extras().cgroups[i].group->tree_);
}

// --- going elsewhere ---

void Cgroup::Settle(ThreadGroup& group, int tree) {
  CgroupPlace* place = Find(group.extras().cgroups, tree);
  if (place == nullptr) return;
  int64_t used = UsedIn(group, *place);
  place->group->Charge(used, SystemShare(group, used));
  ForEachApart(group, tree, [&](Task& task, CgroupPlace& apart) {
    int64_t its = UsedApart(task, apart);
    apart.group->Charge(its, SystemShare(group, its));
    apart.cpu_base = TimeOf(task);
  });
  place->cpu_base = group.CpuTime();
  place->gone_ns = 0;
}

void Cgroup::FollowThreads(ThreadGroup& group, int tree) {
  size_t apart = CountApart(group, tree);
  if (apart == 0 || apart < group.live_tasks()) return;
  Settle(group, tree);
  RefPtr<Cgroup> to;
  ForEachApart(group, tree, [&to](const Task&, const CgroupPlace& place) {
    if (!to) to = place.group;
  });
  CgroupPlace* place = Find(group.extras().cgroups, tree);
  place->group->members_.erase(&group);
  place->group = to;
  to->members_.insert(&group);
  for (const RefPtr<Task>& task : group.tasks()) {
    CgroupPlace* own = Find(task->extras().cgroups, tree);
    if (own == nullptr || own->group.get() != to.get()) continue;
    to->threads_.erase(task.get());
    task->extras().cgroups.erase(task->extras().cgroups.begin() + (own - task->extras().cgroups.data()));
    --group.extras().threads_apart;
  }
}

ErrnoOr<void> Cgroup::MayMoveHere(const ThreadGroup&) const {
  if (removed_) return Errno(ENODEV);
  if (enabled_ != 0) return Errno(EBUSY);  // no internal processes
  // cpuset1_can_attach()
  if (first_ != nullptr && parent_ != nullptr && (controllers_ & kCpuset) != 0 && (!cpus_ || !has_mems_)) return Errno(ENOSPC);
  return Ok();
}

void Cgroup::Arrived(Task& task) {
  ApplyCpus(task, CpusFor(task));
  task.kernel().lifecycle().HoldForCgroup(task, HoldsTask(task));
}

ErrnoOr<void> Cgroup::Move(ThreadGroup& group) {
  TRY(MayMoveHere(group));
  RefPtr<Cgroup> self(this);
  RefPtr<ThreadGroup> keep(&group);
  CgroupPlace* place = Find(group.extras().cgroups, tree_);
  if (place == nullptr || (place->group.get() == this && CountApart(group, tree_) == 0)) return Ok();
  Settle(group, tree_);
  std::vector<std::pair<RefPtr<Cgroup>, int64_t>> left{{place->group, static_cast<int64_t>(group.live_tasks() - CountApart(group, tree_))}};
  for (const RefPtr<Task>& task : group.tasks()) {
    CgroupPlace* own = Find(task->extras().cgroups, tree_);
    if (own == nullptr) continue;
    own->group->threads_.erase(task.get());
    left.emplace_back(own->group, 1);
    task->extras().cgroups.erase(task->extras().cgroups.begin() + (own - task->extras().cgroups.data()));
    --group.extras().threads_apart;
  }
  place->group->members_.erase(&group);
  place->group = self;
  members_.insert(&group);
  // First here, so that those above both see no change.
  AddTasks(static_cast<int64_t>(group.live_tasks()), true);
  for (auto& [before, count] : left) before->AddTasks(-count, true);
  for (const RefPtr<Task>& task : std::vector<RefPtr<Task>>(group.tasks())) {
    if (!task->exiting()) Arrived(*task);
  }
  for (auto& [before, count] : left) before->LookWhetherFrozen();
  LookWhetherFrozen();
  return Ok();
}

ErrnoOr<void> Cgroup::MoveThread(Task& task) {
  ThreadGroup& group = task.group();
  if (task.exiting()) return Errno(ESRCH);
  if (group.live_tasks() == 1) return Move(group);
  TRY(MayMoveHere(group));
  RefPtr<Cgroup> self(this), before(&At(task, tree_));
  CgroupPlace* place = Find(group.extras().cgroups, tree_);
  if (place == nullptr || before.get() == this) return Ok();
  Settle(group, tree_);
  std::vector<CgroupPlace>& own = task.extras().cgroups;
  if (CgroupPlace* apart = Find(own, tree_)) {
    apart->group->threads_.erase(&task);
    own.erase(own.begin() + (apart - own.data()));
    --group.extras().threads_apart;
  }
  if (place->group.get() != this) {
    own.push_back({self, TimeOf(task), 0});
    threads_.insert(&task);
    ++group.extras().threads_apart;
  }
  AddTasks(1, true);
  before->AddTasks(-1, true);
  FollowThreads(group, tree_);
  Arrived(task);
  before->LookWhetherFrozen();
  LookWhetherFrozen();
  return Ok();
}

// --- all of them ---

ThreadGroup* Cgroup::AnyMember() const {
  ThreadGroup* found = nullptr;
  ForEachMember([&found](ThreadGroup& group) { found = &group; });
  return found;
}

template <typename F>
void Cgroup::ForEachTask(F visit) const {
  ForEach([&](const Cgroup& c) {
    for (ThreadGroup* group : c.members_) {
      for (const RefPtr<Task>& task : group->tasks()) {
        if (group->extras().threads_apart == 0 || Find(task->extras().cgroups, c.tree_) == nullptr) visit(*task);
      }
    }
    for (Task* task : c.threads_) visit(*task);
  });
}

void Cgroup::ApplyCpusToMembers() const {
  ForEachTask([](const Task& task) { ApplyCpus(task, CpusFor(task)); });
}

bool Cgroup::HoldsMembers() const {
  for (const Cgroup* c = this; c != nullptr; c = c->parent_) {
    if (c->freeze_ || c->throttled_ || c->oom_held_ || c->yields_) return true;
  }
  return false;
}

bool Cgroup::HoldsTask(const Task& task) {
  if (task.group().extras().stalled_until != 0) return true;
  for (const CgroupPlace& place : task.group().extras().cgroups) {
    CgroupPlace* own = Find(task.extras().cgroups, place.group->tree_);
    if ((own != nullptr ? own->group : place.group)->HoldsMembers()) return true;
  }
  return false;
}

void Cgroup::ApplyHold() {
  std::vector<RefPtr<Task>> tasks;
  ForEachTask([&tasks](Task& task) { tasks.emplace_back(&task); });
  for (const RefPtr<Task>& task : tasks) kernel_->lifecycle().HoldForCgroup(*task, HoldsTask(*task));
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

bool Cgroup::Freezes() const {
  for (const Cgroup* c = this; c != nullptr; c = c->parent_) {
    if (c->freeze_) return true;
  }
  return false;
}

bool Cgroup::IsFrozen() const {
  if (!Freezes()) return false;
  bool frozen = true;
  ForEachTask([&](const Task& task) { frozen = frozen && (task.exiting() || kernel_->lifecycle().IsHeld(task)); });
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

// --- what they use ---

Cgroup::Cpu Cgroup::CpuUsed() const {
  Cpu out;
  ForEach([&out](const Cgroup& c) {
    out.user += c.counters_.dead_user_ns;
    out.system += c.counters_.dead_system_ns;
    auto add = [&out](const ThreadGroup& group, int64_t used) {
      int64_t system = SystemShare(group, used);
      out.system += system;
      out.user += used - system;
    };
    for (ThreadGroup* group : c.members_) add(*group, UsedIn(*group, *Find(group->extras().cgroups, c.tree_)));
    for (Task* task : c.threads_) add(task->group(), UsedApart(*task, *Find(task->extras().cgroups, c.tree_)));
  });
  return out;
}

// Of this alone, without those below.
int64_t Cgroup::UsedHere() const {
  int64_t used = counters_.dead_user_ns + counters_.dead_system_ns;
  for (ThreadGroup* group : members_) used += UsedIn(*group, *Find(group->extras().cgroups, tree_));
  for (Task* task : threads_) used += UsedApart(*task, *Find(task->extras().cgroups, tree_));
  return used;
}

}  // namespace amber
