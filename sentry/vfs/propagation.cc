#include "sentry/vfs/propagation.h"

#include <algorithm>
#include <map>
#include <set>

#include "sentry/vfs/mount.h"

namespace amber {
namespace {

// No number below is free. Guarded by the kernel lock.
int lowest_free_group = 1;

// All groups, by number. Guarded by the kernel lock.
std::map<int, PeerGroup*>& Groups() {
  static std::map<int, PeerGroup*> groups;
  return groups;
}

}  // namespace

PeerGroup::PeerGroup(int id) : id_(id) {
  // The lowest free number, as mnt_group_ida hands them out.
  if (id_ == 0) {
    while (Groups().contains(lowest_free_group)) ++lowest_free_group;
    id_ = lowest_free_group;
  }
  Groups()[id_] = this;
}

PeerGroup::~PeerGroup() {
  Groups().erase(id_);
  lowest_free_group = std::min(lowest_free_group, id_);
}

PeerGroup* PeerGroup::Find(int id) {
  auto it = Groups().find(id);
  return it == Groups().end() ? nullptr : it->second;
}

void Mount::JoinPeers(RefPtr<PeerGroup> peers) {
  peers->members.push_back(this);
  peers_ = std::move(peers);
}

void Mount::JoinMaster(RefPtr<PeerGroup> master) {
  master->slaves.push_back(this);
  master_ = std::move(master);
}

void Mount::LeaveMaster() {
  if (!master_) return;
  std::erase(master_->slaves, this);
  master_.reset();
}

void Mount::LeavePeers() {
  if (!peers_) return;
  RefPtr<PeerGroup> group = std::move(peers_);
  std::erase(group->members, this);
  if (!group->members.empty()) return;
  // The last one: its slaves become slaves of its master, or private.
  for (Mount* slave : std::exchange(group->slaves, {})) {
    slave->master_.reset();
    if (master_) slave->JoinMaster(master_);
  }
}

void Mount::SetPropagation(uint64_t type) {
  unbindable_ = type == MS_UNBINDABLE;
  if (type == MS_SHARED) {
    if (!peers_) JoinPeers(MakeRef<PeerGroup>());
    return;
  }
  if (type == MS_SLAVE) {
    // What has no peers keeps the master that it has; without one it becomes private.
    if (!peers_) return;
    RefPtr<PeerGroup> group = peers_;
    LeavePeers();
    if (group->members.empty()) return;
    LeaveMaster();
    JoinMaster(std::move(group));
    return;
  }
  LeavePeers();
  LeaveMaster();
}

void Mount::ShareWith(Mount& to) const {
  if (peers_) to.JoinPeers(peers_);
  if (master_) to.JoinMaster(master_);
}

// --- mounts come and go ---

namespace {

// All mounts to which what is mounted on a member of `group` propagates, the members included. Slaves of slaves may be as many deep as a guest likes: no
// recursion, here as below.
std::vector<RefPtr<Mount>> TargetsOf(const PeerGroup& group) {
  std::vector<RefPtr<Mount>> out;
  std::set<const PeerGroup*> seen = {&group};
  std::vector<const PeerGroup*> todo = {&group};
  while (!todo.empty()) {
    const PeerGroup& next = *todo.back();
    todo.pop_back();
    for (Mount* m : next.members) out.emplace_back(m);
    for (Mount* slave : next.slaves) {
      if (slave->peers() == nullptr) {
        out.emplace_back(slave);
      } else if (seen.insert(slave->peers()).second) {
        todo.push_back(slave->peers());
      }
    }
  }
  return out;
}

// The mounts at the same place as `mount` on what its parent propagates to.
std::vector<RefPtr<Mount>> Counterparts(const Mount& mount) {
  std::vector<RefPtr<Mount>> out;
  if (mount.parent() == nullptr || mount.parent()->peers() == nullptr) return out;
  for (const RefPtr<Mount>& t : TargetsOf(*mount.parent()->peers())) {
    if (t == mount.parent() || t->ns() == nullptr) continue;
    Mount* there = t->ns()->MountedOn(*t, *mount.mountpoint());
    if (there != nullptr) out.emplace_back(there);
  }
  return out;
}

}  // namespace

std::vector<Mount*> MountNamespace::ChildrenOf(const Mount& mount) const {
  std::vector<Mount*> out;
  for (const auto& m : mounts_) {
    if (m->parent_ == &mount) out.push_back(m.get());
  }
  return out;
}

// What is mounted at `where` shall appear at the same place of its peers and their slaves, as they are now: what is mounted itself is none of them, though it may
// be a peer. ENOSPC, before anything has changed, if a namespace would have too many mounts; `added`: so many come to this one anyway.
ErrnoOr<MountNamespace::Spread> MountNamespace::PlanSpread(const VfsPath& where, const MountTree& tree, size_t added) {
  Spread plan;
  if (!where.mount->peers_) return plan;
  plan.place = where.dentry;
  struct Step {
    const PeerGroup* group;
    const Mount* except;
    size_t source;
  };
  std::vector<Step> todo = {{where.mount->peers_.get(), where.mount.get(), 0}};
  std::set<const PeerGroup*> seen = {where.mount->peers_.get()};
  std::map<const MountNamespace*, size_t> sizes = {{this, added}};
  auto plan_for = [&](Mount& m, size_t source, bool slave) -> ErrnoOr<bool> {
    if (m.ns_ == nullptr || !plan.place->IsBelow(*m.root_)) return false;
    size_t& added_there = sizes[m.ns_];
    added_there += tree.size();
    if (m.ns_->mounts_.size() + added_there > kMaxMounts) return Errno(ENOSPC);
    plan.targets.push_back({RefPtr<Mount>(&m), source, slave});
    return true;
  };
  while (!todo.empty()) {
    Step step = todo.back();
    todo.pop_back();
    for (Mount* m : step.group->members) {
      if (m != step.except) TRY(plan_for(*m, step.source, false));
    }
    for (Mount* m : step.group->slaves) {
      // Slaves that are peers of each other get peers.
      const PeerGroup* peers = m->peers_.get();
      if (peers != nullptr && seen.contains(peers)) continue;
      bool taken = TRY(plan_for(*m, step.source, true));
      if (!taken || peers == nullptr) continue;
      seen.insert(peers);
      todo.push_back({peers, m, plan.targets.size()});
    }
  }
  return plan;
}

void MountNamespace::Propagate(const Spread& plan, MountTree tree) {
  if (!plan.place) return;
  for (const MountTreeNode& node : tree) {
    if (!node.mount->peers_) node.mount->JoinPeers(MakeRef<PeerGroup>());
  }
  // Files of mount namespaces stay (copy_tree() without CL_COPY_MNT_NS_FILE): a copy that nobody asked for could keep a namespace alive in itself.
  std::vector<MountTree> sources(plan.targets.size() + 1);
  std::vector<size_t> kept(tree.size());
  for (size_t i = 0; i < tree.size(); ++i) {
    bool file = tree[i].mount->fs_->is_mount_namespace() || (i > 0 && kept[tree[i].parent] == SIZE_MAX);
    kept[i] = file ? SIZE_MAX : sources[0].size();
    if (!file) sources[0].push_back({tree[i].mount, i > 0 ? kept[tree[i].parent] : 0, tree[i].place});
  }
  if (sources[0].empty()) return;
  for (size_t t = 0; t < plan.targets.size(); ++t) {
    const Spread::Target& target = plan.targets[t];
    MountNamespace* ns = target.at->ns_;
    bool shared = target.at->peers_ != nullptr;
    // lock_mnt_tree(): who is less privileged there shall not see what is under these mounts, nor change what they forbid.
    bool lesser = ns->owner() != owner();
    MountTree copies;
    for (const MountTreeNode& node : sources[target.source]) {
      RefPtr<Mount> copy = target.slave ? SlaveOf(*node.mount, shared) : CloneMount(*node.mount, node.mount->root_);
      if (lesser) copy->LockFlags(copy->flags_ & kLockableMountFlags);
      copy->locked_ = (lesser || node.mount->locked_) && !copies.empty();
      copies.push_back({std::move(copy), node.parent, node.place});
    }
    if (target.slave && shared) sources[t + 1] = copies;
    VfsPath where{target.at, plan.place};
    ns->CrossDown(&where);
    ns->InsertTree(std::move(copies), std::move(where));
  }
}

RefPtr<Mount> MountNamespace::SlaveOf(const Mount& mount, bool shared) {
  auto copy = MakeRef<Mount>(mount.fs_, mount.root_, mount.flags_, mount.source_);
  copy->locked_flags_ = mount.locked_flags_;
  copy->JoinMaster(mount.peers_);
  if (shared) copy->JoinPeers(MakeRef<PeerGroup>());
  return copy;
}

bool MountNamespace::IsLeaf(const Mount& mount) {
  auto first = mount.ns_->on_.lower_bound({&mount, nullptr});
  return first == mount.ns_->on_.end() || first->first.first != &mount;
}

bool MountNamespace::PropagatedBusy(const Mount& mount) {
  for (const RefPtr<Mount>& m : Counterparts(mount)) {
    // One reference is the namespace's, one ours.
    if (IsLeaf(*m) && m->ref_count() > 2) return true;
  }
  return false;
}

void MountNamespace::PropagateUnmount(Mount& mount) {
  for (const RefPtr<Mount>& m : Counterparts(mount)) {
    if (m->ns_ != nullptr && IsLeaf(*m) && m->ns_->root_ != m) m->ns_->Remove(*m);
  }
}

}  // namespace amber
