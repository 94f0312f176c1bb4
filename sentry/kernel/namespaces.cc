#include "sentry/kernel/namespaces.h"

#include <linux/capability.h>
#include <sched.h>

#include <algorithm>

#include "sentry/ipc/ipc_namespace.h"
#include "sentry/kernel/cgroup.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/time_namespace.h"
#include "sentry/kernel/uts_namespace.h"
#include "sentry/net/inet/net_namespace.h"
#include "sentry/vfs/fs_context.h"
#include "sentry/vfs/mount.h"

namespace amber {
namespace {

constexpr uint64_t kNewTime = 0x80;

// set_cred_user_ns(): all capabilities there, none elsewhere.
RefPtr<Credentials> CredentialsIn(const Credentials& old, RefPtr<UserNamespace> ns) {
  auto next = MakeRef<Credentials>(old);
  next->user_ns = std::move(ns);
  next->securebits = 0;
  next->inheritable = next->ambient = 0;
  next->permitted = next->effective = next->bounding = kAllCapabilities;
  return next;
}

// create_user_ns().
ErrnoOr<RefPtr<const Credentials>> MakeUserNamespace(Task& task) {
  const Credentials& old = task.creds();
  if (LevelOf(old.user_ns.get()) >= UserNamespace::kMaxLevel) return Errno(ENOSPC);
  // Not for a process in a chroot: it would have CAP_SYS_CHROOT (current_chrooted).
  VfsPath top = task.mounts().root();
  task.mounts().CrossDown(&top);
  if (!(task.fs().root() == top)) return Errno(EPERM);
  if (FromKernelUid(old.user_ns.get(), old.euid) == UserNamespace::kInvalidId ||
      FromKernelGid(old.user_ns.get(), old.egid) == UserNamespace::kInvalidId) {
    return Errno(EPERM);
  }
  return RefPtr<const Credentials>(CredentialsIn(old, MakeRef<UserNamespace>(old.user_ns, old)));
}

bool MayEnter(const Credentials& creds, const UserNamespace* owner) { return creds.HasIn(owner, CAP_SYS_ADMIN) && creds.HasOwn(CAP_SYS_ADMIN); }

ErrnoOr<void> JoinMounts(Task& task, const Credentials& creds, MountNamespace& ns, NamespaceSet* set) {
  if (!MayEnter(creds, ns.owner()) || !creds.HasOwn(CAP_SYS_CHROOT)) return Errno(EPERM);
  if (task.fs().ref_count() > 1) return Errno(EINVAL);
  set->mounts = RefPtr<MountNamespace>(&ns);
  return Ok();
}

ErrnoOr<void> JoinUser(Task& task, RefPtr<UserNamespace> ns, NamespaceSet* set) {
  if (ns == task.creds().user_ns) return Errno(EINVAL);
  if (task.group().live_tasks() > 1 || task.fs().ref_count() > 1) return Errno(EINVAL);
  if (!task.creds().HasIn(ns.get(), CAP_SYS_ADMIN)) return Errno(EPERM);
  set->creds = CredentialsIn(task.creds(), std::move(ns));
  return Ok();
}

// cred_cap_issubset() for credentials of another namespace: its maker has all capabilities in it. Others have gained some (commit_creds()).
bool IsWithin(const Credentials& old, const Credentials& next) {
  for (const UserNamespace* ns = next.user_ns.get(); ns != nullptr; ns = static_cast<const UserNamespace*>(ns->above())) {
    if (ns->above() == old.user_ns.get() && ns->creator_uid() == old.euid) return true;
  }
  return false;
}

// current_is_single_threaded(): no other task uses its memory, whatever process it belongs to.
bool HasMemoryAlone(Task& task) {
  if (task.group().live_tasks() > 1) return false;
  return std::ranges::none_of(task.kernel().groups(), [&](const RefPtr<ThreadGroup>& group) {
    if (group.get() == &task.group()) return false;
    return std::ranges::any_of(group->tasks(), [&](const RefPtr<Task>& t) { return t->has_mm() && &t->mm() == &task.mm(); });
  });
}

template <typename T>
RefPtr<T> As(const RefPtr<Namespace>& ns) {
  return RefPtr<T>(static_cast<T*>(ns.get()));
}

}  // namespace

NamespaceSet::NamespaceSet() = default;
NamespaceSet::~NamespaceSet() = default;
NamespaceSet::NamespaceSet(NamespaceSet&&) noexcept = default;

void NamespaceSet::Enter(Task& task) {
  TaskExtras& extras = task.extras();
  if (creds) {
    if (!IsWithin(task.creds(), *creds)) task.group().set_dumpable(false);
    task.set_creds(creds);
  }
  if (mounts) task.set_mounts(mounts);
  if (uts) task.set_uts(uts);
  if (ipc && ipc != extras.ipc) {
    extras.LeaveSemUndo(task);
    extras.ipc = ipc;
  }
  if (net) extras.net = net;
  if (cgroup || to_initial_cgroup) extras.cgroup = cgroup;
  if (pids_for_children) extras.pids_for_children = pids_for_children;
  if (time) time->Freeze();
  if (time || to_initial_time) extras.time = time;
  if (time_for_children || to_initial_time) extras.time_for_children = time_for_children;
}

ErrnoOr<NamespaceSet> MakeNamespaces(Task& task, uint64_t flags, FsContext* fs) {
  NamespaceSet set;
  if ((flags & CLONE_NEWUSER) != 0) set.creds = TRY(MakeUserNamespace(task));
  if ((flags & kNamespaceFlags & ~uint64_t{CLONE_NEWUSER}) == 0) return set;
  const Credentials& creds = set.creds ? *set.creds : task.creds();
  const RefPtr<UserNamespace>& owner = creds.user_ns;
  if (!creds.HasOwn(CAP_SYS_ADMIN)) return Errno(EPERM);
  TaskExtras& extras = task.extras();
  if ((flags & CLONE_NEWPID) != 0) {
    // A grandchild's namespace before the child exists makes no sense (create_pid_namespace).
    if (extras.pids_for_children && extras.pids_for_children.get() != &task.group().pids()) return Errno(EINVAL);
    if (task.group().pids().level() >= PidNamespace::kMaxLevel) return Errno(ENOSPC);
    set.pids_for_children = MakeRef<PidNamespace>(RefPtr<PidNamespace>(&task.group().pids()), owner);
  }
  if ((flags & CLONE_NEWUTS) != 0) set.uts = MakeRef<UtsNamespace>(task.uts(), owner);
  if ((flags & CLONE_NEWIPC) != 0) set.ipc = MakeRef<IpcNamespace>(owner);
  if ((flags & CLONE_NEWNET) != 0) set.net = MakeRef<NetNamespace>(task.kernel(), false, owner);
  if ((flags & CLONE_NEWCGROUP) != 0) set.cgroup = MakeRef<CgroupNamespace>(owner, RefPtr<Cgroup>(&Cgroup::Of(task)), Cgroup::FirstVersionOf(task));
  if ((flags & kNewTime) != 0) set.time_for_children = MakeRef<TimeNamespace>(owner, extras.time_for_children.get());
  if ((flags & CLONE_NEWNS) != 0) set.mounts = task.mounts().Clone(fs, owner);
  return set;
}

ErrnoOr<void> JoinNamespace(Task& task, int type, RefPtr<Namespace> ns, NamespaceSet* set) {
  const Credentials& creds = set->creds ? *set->creds : task.creds();
  const UserNamespace* owner = ns ? ns->owner() : nullptr;
  if (type == CLONE_NEWUSER) return JoinUser(task, As<UserNamespace>(ns), set);
  if (type == CLONE_NEWNS) return JoinMounts(task, creds, *As<MountNamespace>(ns), set);
  if (type == static_cast<int>(kNewTime) && !HasMemoryAlone(task)) return Errno(EUSERS);
  if (!MayEnter(creds, owner)) return Errno(EPERM);
  switch (type) {
    case CLONE_NEWUTS: set->uts = As<UtsNamespace>(ns); return Ok();
    case CLONE_NEWIPC: set->ipc = As<IpcNamespace>(ns); return Ok();
    case CLONE_NEWNET: set->net = As<NetNamespace>(ns); return Ok();
    case CLONE_NEWCGROUP:
      set->cgroup = As<CgroupNamespace>(ns);
      set->to_initial_cgroup = !ns;
      return Ok();
    case CLONE_NEWPID: {
      RefPtr<PidNamespace> pids = As<PidNamespace>(ns);
      // Only downwards: a process stays visible to its ancestors.
      if (!pids->IsWithin(task.group().pids())) return Errno(EINVAL);
      set->pids_for_children = std::move(pids);
      return Ok();
    }
    case static_cast<int>(kNewTime):
      set->time = set->time_for_children = As<TimeNamespace>(ns);
      set->to_initial_time = !ns;
      return Ok();
    default: return Errno(EINVAL);
  }
}

namespace {

PidNamespace& Outermost(const Task& task) {
  PidNamespace* top = &task.group().pids();
  while (top->parent() != nullptr) top = top->parent();
  return *top;
}

}  // namespace

ucred KernelCredentials(const Task& task, uid_t uid, gid_t gid) { return {Outermost(task).IdOf(task.group()), uid, gid}; }

ucred ShownCredentials(const Task& reader, ucred c) {
  PidNamespace& top = Outermost(reader);
  if (&top != &reader.group().pids()) {
    Task* found = top.FindTask(c.pid);
    c.pid = found != nullptr ? reader.group().pids().IdOf(*found) : 0;
  }
  const UserNamespace* ns = reader.creds().user_ns.get();
  if (ns != nullptr) c = {c.pid, ShownUid(ns, c.uid), ShownGid(ns, c.gid)};
  return c;
}

ErrnoOr<RefPtr<Namespace>> NamespaceOf(Task& task, int type, bool for_children) {
  TaskExtras& extras = task.extras();
  if (type == CLONE_NEWUSER) return RefPtr<Namespace>(task.creds().user_ns);
  if (task.exiting() && type != CLONE_NEWPID) return Errno(ENOENT);
  switch (type) {
    case CLONE_NEWNS: return RefPtr<Namespace>(&task.mounts());
    case CLONE_NEWUTS: return RefPtr<Namespace>(&task.uts());
    case CLONE_NEWIPC: return RefPtr<Namespace>(extras.ipc);
    case CLONE_NEWNET: return RefPtr<Namespace>(&NetNamespace::Of(task));
    case CLONE_NEWCGROUP: return RefPtr<Namespace>(extras.cgroup);
    case CLONE_NEWPID:
      if (for_children && extras.pids_for_children) {
        // Nobody has been born there: there is nothing to show yet (pidns_for_children_get).
        if (extras.pids_for_children->init() == nullptr) return Errno(ENOENT);
        return RefPtr<Namespace>(extras.pids_for_children);
      }
      return RefPtr<Namespace>(&task.group().pids());
    case static_cast<int>(kNewTime): return RefPtr<Namespace>(for_children ? extras.time_for_children : extras.time);
    default: return Errno(EINVAL);
  }
}

}  // namespace amber
