// Who a task is (Linux: struct cred). Immutable once shared: a change makes a new object, so that files and messages may
// keep the credentials they were made with.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <vector>

#include "sentry/base/ref_ptr.h"

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

  bool Has(int capability) const { return (effective >> capability & 1) != 0; }
  // True if `group` is the file system group or a supplementary one.
  bool InGroup(gid_t group) const {
    if (group == fsgid) return true;
    for (gid_t g : groups) {
      if (g == group) return true;
    }
    return false;
  }

 private:
  void CopyFrom(const Credentials& o) {
    uid = o.uid, euid = o.euid, suid = o.suid, fsuid = o.fsuid;
    gid = o.gid, egid = o.egid, sgid = o.sgid, fsgid = o.fsgid;
    groups = o.groups;
    inheritable = o.inheritable, permitted = o.permitted, effective = o.effective;
    bounding = o.bounding, ambient = o.ambient, securebits = o.securebits;
  }
};

}  // namespace amber
