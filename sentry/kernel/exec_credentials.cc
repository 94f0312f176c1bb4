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

}  // namespace

// What bprm->unsafe and ptracer_capable() say: somebody without the right to do so could use what the program gains. A tracer could have it do
// anything, who shares its root or working directory could have it find other files.
bool GainsAreUnsafe(const Task& task) {
  if (task.no_new_privs()) return true;
  const Tracee* tracee = task.extras().tracee.get();
  if (tracee != nullptr && !tracee->tracer->leader()->creds().HasIn(task.creds().user_ns.get(), CAP_SYS_PTRACE)) return true;
  for (const RefPtr<Task>& other : task.kernel().LiveTasks()) {
    if (&other->group() != &task.group() && &other->fs() == &task.fs()) return true;
  }
  return false;
}

bool IsGain(const Task& task, const Credentials& next) {
  const Credentials& old = task.creds();
  return next.euid != old.uid || next.egid != old.gid || (next.permitted & ~old.permitted) != 0;
}

// cap_bprm_creds_from_file().
ErrnoOr<RefPtr<const Credentials>> CredentialsForExec(const Task& task, const ExecIds& ids, bool* secure) {
  const Credentials& old = task.creds();
  auto next = MakeRef<Credentials>(old);
  const UserNamespace* ns = old.user_ns.get();
  // Ids that do not exist in the namespace are not taken on (bprm_fill_uid).
  bool mapped = FromKernelUid(ns, ids.uid) != UserNamespace::kInvalidId && FromKernelGid(ns, ids.gid) != UserNamespace::kInvalidId;
  if (!task.no_new_privs() && mapped) {
    if (ids.set_uid) next->euid = ids.uid;
    if (ids.set_gid) next->egid = ids.gid;
  }
  FileCapabilities file = TRY(Parse(ids.capabilities, ns));
  bool has_file_caps = (file.permitted | file.inheritable) != 0;
  next->permitted = (file.permitted & old.bounding) | (old.inheritable & file.inheritable);
  bool effective = file.effective;
  // A program that knows nothing of capabilities must not go on without some of them.
  if (effective && (file.permitted & ~next->permitted) != 0) return Errno(EPERM);

  // handle_privileged_root().
  bool noroot = (old.securebits & SECBIT_NOROOT) != 0;
  uid_t root = old.root_uid();
  bool has_root = root != UserNamespace::kInvalidId;
  bool real_root = has_root && next->uid == root, effective_root = has_root && next->euid == root;
  if (!noroot && !(has_file_caps && effective_root && !real_root)) {
    if (real_root || effective_root) next->permitted = old.bounding | old.inheritable;
    if (effective_root) effective = true;
  }

  bool is_setid = next->euid != old.uid || next->egid != old.gid;
  if (IsGain(task, *next) && GainsAreUnsafe(task)) {
    // It gets no more than it had, and maybe less.
    if (!old.HasOwn(CAP_SETUID) || task.no_new_privs()) {
      next->euid = next->uid;
      next->egid = next->gid;
    }
    next->permitted &= old.permitted;
  }
  next->suid = next->fsuid = next->euid;
  next->sgid = next->fsgid = next->egid;
  if (has_file_caps || is_setid) next->ambient = 0;
  next->permitted |= next->ambient;
  next->effective = effective ? next->permitted : next->ambient;
  next->securebits &= ~static_cast<uint32_t>(SECBIT_KEEP_CAPS);
  *secure = is_setid || (!real_root && (effective || (next->permitted & ~next->ambient) != 0));
  return RefPtr<const Credentials>(std::move(next));
}

}  // namespace amber
