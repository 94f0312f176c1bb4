#include <linux/capability.h>

#include "sentry/kernel/credentials.h"
#include "sentry/vfs/acl.h"
#include "sentry/vfs/path.h"
#include "sentry/vfs/restrict.h"
#include "sentry/vfs/served.h"

namespace amber {

// fs/namei.c, generic_permission().
ErrnoOr<void> CheckModeBits(const Credentials& creds, const Inode& inode, int may) {
  const Attr& a = inode.attr();
  uint32_t bits = a.mode;
  auto overrides = [&] {
    // Executing needs at least one x bit, even for root.
    bool can_be = inode.IsDir() || (may & kMayExec) == 0 || (a.mode & 0111) != 0;
    return can_be && creds.HasOver(a.uid, a.gid, CAP_DAC_OVERRIDE);
  };
  if (creds.fsuid == a.uid) {
    bits >>= 6;
  } else if ((bits & 070) != 0 && overrides()) {
    // No list says otherwise, and some have to be asked for.
    return Ok();
  } else if (const Acl* acl = (bits & 070) != 0 ? inode.acl() : nullptr; acl != nullptr) {
    // Only the owner's bits count where there is a list.
    if (acl->Permits(creds, a.uid, a.gid, may & 7)) return Ok();
    bits = 0;
  } else if (creds.InGroup(a.gid)) {
    bits >>= 3;
  }
  if ((static_cast<uint32_t>(may) & ~(bits & 7)) == 0 || overrides()) return Ok();
  bool only_looks = inode.IsDir() ? (may & kMayWrite) == 0 : may == kMayRead;
  if (only_looks && creds.HasOver(a.uid, a.gid, CAP_DAC_READ_SEARCH)) return Ok();
  return Errno(EACCES);
}

ErrnoOr<void> CheckPermission(const Credentials& creds, const Inode& inode, int may) {
  if ((may & kMayWrite) != 0 && IsImmutable(inode)) return Errno(EPERM);
  if (ServedInode* served = ServedInode::From(inode)) return served->MayUse(creds, may);
  return CheckModeBits(creds, inode, may);
}

ServedInode* ServedInode::Cast(const Inode& inode) { return dynamic_cast<ServedInode*>(const_cast<Inode*>(&inode)); }

ErrnoOr<void> CheckPermission(const Credentials& creds, const VfsPath& path, int may) {
  const Inode& inode = *path.inode();
  if ((may & kMayWrite) != 0 && path.mount->read_only() && (inode.IsDir() || inode.IsRegular() || inode.IsSymlink())) {
    return Errno(EROFS);
  }
  return CheckPermission(creds, inode, may);
}

ErrnoOr<void> CheckOwner(const Credentials& creds, const Inode& inode) {
  if (creds.fsuid == inode.attr().uid || creds.HasOver(inode.attr().uid, inode.attr().gid, CAP_FOWNER)) return Ok();
  return Errno(EPERM);
}

}  // namespace amber
