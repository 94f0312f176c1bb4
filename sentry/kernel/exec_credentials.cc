#include "sentry/kernel/exec_credentials.h"

#include <linux/capability.h>
#include <linux/securebits.h>

#include <cstring>

#include "sentry/kernel/task.h"

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
  next->suid = next->fsuid = next->euid;
  next->sgid = next->fsgid = next->egid;

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
  next->securebits &= ~static_cast<uint32_t>(SECBIT_KEEP_CAPS);
  bool ids_differ = next->euid != next->uid || next->egid != next->gid;
  *secure =
      (ids_differ && (ids.set_uid || ids.set_gid)) || ((next->uid != root || !has_root) && (file.effective || (next->permitted & ~ambient) != 0));
  return RefPtr<const Credentials>(std::move(next));
}

}  // namespace amber
