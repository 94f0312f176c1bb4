// Who a task is (Linux: struct cred). Immutable once shared: a change makes a new object, so that files and messages may
// keep the credentials they were made with. Ids are those of the initial user namespace (user_namespace.h).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <vector>

#include "sentry/base/ref_ptr.h"
#include "sentry/kernel/user_namespace.h"

namespace amber {

inline constexpr uint64_t kAllCapabilities = (uint64_t{1} << 41) - 1;  // CAP_CHECKPOINT_RESTORE is 40

struct Credentials : public RefCounted<Credentials> {
  Credentials() = default;
  Credentials(const Credentials& o) : RefCounted<Credentials>() { CopyFrom(o); }

  uid_t uid = 0, euid = 0, suid = 0, fsuid = 0;
  gid_t gid = 0, egid = 0, sgid = 0, fsgid = 0;
  std::vector<gid_t> groups;
  uint64_t inheritable = 0, permitted = 0, effective = 0, bounding = kAllCapabilities, ambient = 0;
  uint32_t securebits = 0;
  // In which the capabilities above hold; null: the initial one.
  RefPtr<UserNamespace> user_ns;

  // capable(): the capability over everything.
  bool Has(int capability) const { return !user_ns && (effective >> capability & 1) != 0; }
  // ns_capable(): over what belongs to `ns` (null: the initial one).
  bool HasIn(const UserNamespace* ns, int capability) const;
  // In the own user namespace.
  bool HasOwn(int capability) const { return (effective >> capability & 1) != 0; }
  // capable_wrt_inode_uidgid(): over a file with this owner.
  bool HasOver(uint32_t owner, uint32_t group, int capability) const {
    if (!HasOwn(capability)) return false;
    if (!user_ns) return true;
    return FromKernelUid(user_ns.get(), owner) != UserNamespace::kInvalidId && FromKernelGid(user_ns.get(), group) != UserNamespace::kInvalidId;
  }
  // True if `group` is the file system group or a supplementary one.
  bool InGroup(gid_t group) const {
    if (group == fsgid) return true;
    for (gid_t g : groups) {
      if (g == group) return true;
    }
    return false;
  }
  // The root user of the own user namespace; UserNamespace::kInvalidId if it has none.
  uid_t root_uid() const { return ToKernelUid(user_ns.get(), 0); }

 private:
  void CopyFrom(const Credentials& o) {
    uid = o.uid, euid = o.euid, suid = o.suid, fsuid = o.fsuid;
    gid = o.gid, egid = o.egid, sgid = o.sgid, fsgid = o.fsgid;
    groups = o.groups;
    inheritable = o.inheritable, permitted = o.permitted, effective = o.effective;
    bounding = o.bounding, ambient = o.ambient, securebits = o.securebits;
    user_ns = o.user_ns;
  }
};

}  // namespace amber
