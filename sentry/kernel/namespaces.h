// Making and entering namespaces: what clone(2), unshare(2) and setns(2) have in common (Linux: kernel/nsproxy.c).
#pragma once

#include <sys/socket.h>

#include <cstdint>

#include "sentry/base/errno_or.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/kernel/credentials.h"

namespace amber {

class CgroupNamespace;
class FsContext;
class IpcNamespace;
class MountNamespace;
class Namespace;
class NetNamespace;
class PidNamespace;
class Task;
class TimeNamespace;
class UtsNamespace;

// CLONE_NEW*, CLONE_NEWTIME included.
inline constexpr uint64_t kNamespaceFlags = 0x7e020080;

// What a task changes to; null: stays. Made first, so that nothing has changed if something fails.
struct NamespaceSet {
  NamespaceSet();
  ~NamespaceSet();
  NamespaceSet(NamespaceSet&&) noexcept;

  RefPtr<const Credentials> creds;
  RefPtr<MountNamespace> mounts;
  RefPtr<UtsNamespace> uts;
  RefPtr<IpcNamespace> ipc;
  RefPtr<NetNamespace> net;
  RefPtr<CgroupNamespace> cgroup;
  RefPtr<PidNamespace> pids_for_children;
  RefPtr<TimeNamespace> time, time_for_children;
  // setns(2) to the initial one, which is null.
  bool to_initial_cgroup = false, to_initial_time = false;

  // unshare(2) and setns(2): the task is in them from here on.
  void Enter(Task& task);
};

// New namespaces for those of kNamespaceFlags that are in `flags`. `fs` (of the task or its child; its own) moves into the copy of
// the mounts.
ErrnoOr<NamespaceSet> MakeNamespaces(Task& task, uint64_t flags, FsContext* fs);

// Adds `ns`, of type `type`, to what `task` will enter; null stands for an initial one. Checks what setns(2) checks, with the
// credentials of `set` if they change.
ErrnoOr<void> JoinNamespace(Task& task, int type, RefPtr<Namespace> ns, NamespaceSet* set);

// The namespace of `type` that `task` is in (`for_children`: that its children will be in), as /proc/PID/ns shows it; null stands for an
// initial one. ENOENT if the task has exited.
ErrnoOr<RefPtr<Namespace>> NamespaceOf(Task& task, int type, bool for_children);

// Who `task` is, in terms that hold everywhere: the id of the outermost pid namespace, and the initial user namespace's ids.
ucred KernelCredentials(const Task& task, uid_t uid, gid_t gid);
// Such a ucred in the terms of `reader`.
ucred ShownCredentials(const Task& reader, ucred c);

}  // namespace amber
