#include "sentry/kernel/exec_credentials.h"

#include <linux/capability.h>
#include <linux/securebits.h>

#include <cstring>

#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/tracing.h"

namespace amber {
namespace {

struct FileCapabilities {
  uint64_t permitted = 0, inheritable = 0;
  bool effective = false;
};

// struct vfs_cap_data, versions 2 and 3. The file's root user must be that of `ns` or of one above it (rootid_owns_currentns).
ErrnoOr<FileCapabilities> Parse(const std::string& xattr, const UserNamespace* ns) {
  FileCapabilities out;
  if (xattr.empty()) return out;
  uint32_t words[6] = {};
  if (xattr.size() != sizeof(uint32_t) * 5 && xattr.size() != sizeof(uint32_t) * 6) return Errno(EINVAL);
  memcpy(words, xattr.data(), xattr.size());
  uint32_t revision = words[0] & VFS_CAP_REVISION_MASK;
  if (revision != VFS_CAP_REVISION_2 && revision != VFS_CAP_REVISION_3) return Errno(EINVAL);
  uint32_t root = revision == VFS_CAP_REVISION_3 ? words[5] : 0;
  while (ToKernelUid(ns, 0) != root) {
    if (ns == nullptr) return out;
    ns = ns->parent();
  }
  out.permitted = (words[1] | uint64_t{words[3]} << 32) & kAllCapabilities;
  out.inheritable = (words[2] | uint64_t{words[4]} << 32) & kAllCapabilities;
  out.effective = (words[0] & VFS_CAP_FLAGS_EFFECTIVE) != 0;
  return out;
}

// Others could make the new program do what they want: a tracer that may not trace everybody, or a process that shares root and working
// directory (LSM_UNSAFE_PTRACE, LSM_UNSAFE_SHARE).
bool Exposed(const Task& task) {
  const Tracee* tracee = task.extras().tracee.get();
  if (tracee != nullptr && !tracee->tracer->leader()->creds().HasIn(task.creds().user_ns.get(), CAP_SYS_PTRACE)) return true;
  for (const RefPtr<Task>& other : task.kernel().LiveTasks()) {
    if (&other->group() != &task.group() && !other->exiting() && &other->fs() == &task.fs()) return true;
  }
  return false;
}

}  // namespace

ErrnoOr<RefPtr<const Credentials>> CredentialsForExec(const Task& task, const ExecIds& ids, bool* secure) {
  const Credentials& old = task.creds();
  auto next = MakeRef<Credentials>(old);
  FileCapabilities file;
  if (!task.no_new_privs()) {
    const UserNamespace* ns = old.user_ns.get();
    // Ids that do not exist in the namespace are not taken on (bprm_fill_uid).
    bool mapped = FromKernelUid(ns, ids.uid) != UserNamespace::kInvalidId && FromKernelGid(ns, ids.gid) != UserNamespace::kInvalidId;
    if (ids.set_uid && mapped) next->euid = ids.uid;
    if (ids.set_gid && mapped) next->egid = ids.gid;
    file = TRY(Parse(ids.capabilities, ns));
  }

  bool has_file_caps = (file.permitted | file.inheritable) != 0;
  bool noroot = (old.securebits & SECBIT_NOROOT) != 0;
  uid_t root = old.root_uid();
  bool has_root = root != UserNamespace::kInvalidId;
  if (!noroot && has_root && (next->euid == root || next->uid == root)) {
    // Root without file capabilities of its own gets everything.
    if (!(has_file_caps && next->uid != root && next->euid == root)) {
      file.permitted = file.inheritable = kAllCapabilities;
      if (next->euid == root) file.effective = true;
    }
  }
  bool privileged = has_file_caps || next->euid != old.uid || next->egid != old.gid;
  uint64_t ambient = privileged && (ids.set_uid || ids.set_gid || has_file_caps) ? 0 : old.ambient;
  next->ambient = ambient;
  next->permitted = (old.inheritable & file.inheritable) | (file.permitted & old.bounding) | ambient;
  next->effective = file.effective ? next->permitted : ambient;
  if (file.effective && has_file_caps && (file.permitted & ~next->permitted) != 0) return Errno(EPERM);
  bool gains = next->euid != old.uid || next->egid != old.gid || (next->permitted & ~old.permitted) != 0;
  if (gains && Exposed(task)) {
    // They get no more than they had (cap_bprm_creds_from_file).
    if (!old.HasOwn(CAP_SETUID)) {
      next->euid = next->uid;
      next->egid = next->gid;
    }
    next->permitted &= old.permitted;
    next->effective &= next->permitted;
  }
  next->suid = next->fsuid = next->euid;
  next->sgid = next->fsgid = next->egid;
  next->securebits &= ~static_cast<uint32_t>(SECBIT_KEEP_CAPS);
  bool ids_differ = next->euid != next->uid || next->egid != next->gid;
  *secure =
      (ids_differ && (ids.set_uid || ids.set_gid)) || ((next->uid != root || !has_root) && (file.effective || (next->permitted & ~ambient) != 0));
  return RefPtr<const Credentials>(std::move(next));
}

}  // namespace amber
