// Owners of System V IPC objects, as the caller calls them: inside the kernel ids are those of the initial user namespace.
#pragma once

#include <sys/ipc.h>

#include "sentry/ipc/ipc_table.h"
#include "sentry/kernel/task.h"

namespace amber {

// ipc_update_perm(): who the owner is to be. EINVAL for what the caller's user namespace does not know.
inline ErrnoOr<void> SetIpcOwner(const Task& task, const struct ipc_perm& in, IpcPerm* perm) {
  const UserNamespace* ns = task.creds().user_ns.get();
  uint32_t uid = ToKernelUid(ns, in.uid), gid = ToKernelGid(ns, in.gid);
  if (uid == UserNamespace::kInvalidId || gid == UserNamespace::kInvalidId) return Errno(EINVAL);
  perm->uid = uid;
  perm->gid = gid;
  perm->mode = in.mode & 0777;
  return Ok();
}

// kernel_to_ipc64_perm().
inline void ShowIpcOwner(const Task& task, struct ipc_perm* out) {
  const UserNamespace* ns = task.creds().user_ns.get();
  out->uid = ShownUid(ns, out->uid);
  out->gid = ShownGid(ns, out->gid);
  out->cuid = ShownUid(ns, out->cuid);
  out->cgid = ShownGid(ns, out->cgid);
}

}  // namespace amber
