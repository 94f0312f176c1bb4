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

void Mount::BecomeSlave(bool shared) {
  RefPtr<PeerGroup> group = peers_;
  LeavePeers();
  LeaveMaster();
  if (group) JoinMaster(std::move(group));
  if (shared) JoinPeers(MakeRef<PeerGroup>());
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

bool MountNamespace::Receive(Mount& target, MountTree copies, const RefPtr<Dentry>& place) {
  MountNamespace* ns = target.ns_;
  if (ns == nullptr || ns->mounts_.size() + copies.size() > kMaxMounts || !place->IsBelow(*target.root_)) return false;
  VfsPath where{RefPtr<Mount>(&target), place};
  ns->CrossDown(&where);
  ns->InsertTree(std::move(copies), std::move(where));
  return true;
}

void MountNamespace::Propagate(Mount& mount) {
  RefPtr<PeerGroup> group = mount.parent_->peers_;
  if (!group) return;
  for (Mount* m : mount.ns_->Below(mount)) {
    if (!m->peers_) m->JoinPeers(MakeRef<PeerGroup>());
  }
  const RefPtr<Dentry> place = mount.mountpoint_;
  struct Step {
    RefPtr<PeerGroup> group;
    RefPtr<Mount> except, source;
  };
  std::vector<Step> todo;
  std::set<const PeerGroup*> seen = {group.get()};
  todo.push_back({group, RefPtr<Mount>(mount.parent_), RefPtr<Mount>(&mount)});
  while (!todo.empty()) {
    Step step = std::move(todo.back());
    todo.pop_back();
    std::vector<RefPtr<Mount>> members, slaves;
    for (Mount* m : step.group->members) members.emplace_back(m);
    for (Mount* m : step.group->slaves) slaves.emplace_back(m);
    for (const RefPtr<Mount>& m : members) {
      if (m != step.except) Receive(*m, CopyTree(*step.source, step.source->root_, true), place);
    }
    for (const RefPtr<Mount>& m : slaves) {
      // Slaves that are peers of each other get peers.
      RefPtr<PeerGroup> peers = m->peers_;
      if (peers && seen.contains(peers.get())) continue;
      MountTree copies = CopyTree(*step.source, step.source->root_, true);
      RefPtr<Mount> top = copies[0].mount;
      for (const MountTreeNode& node : copies) node.mount->BecomeSlave(peers != nullptr);
      if (!Receive(*m, std::move(copies), place) || !peers) continue;
      seen.insert(peers.get());
      todo.push_back({peers, m, std::move(top)});
    }
  }
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
