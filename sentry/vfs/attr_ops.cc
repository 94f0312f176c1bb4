// chmod, chown, utimes and truncate: fs/attr.c, fs/open.c.
#include <fcntl.h>
#include <linux/capability.h>
#include <sys/inotify.h>

#include "sentry/kernel/credentials.h"
#include "sentry/vfs/acl.h"
#include "sentry/vfs/lease.h"
#include "sentry/vfs/lock_keeper.h"
#include "sentry/vfs/notify.h"
#include "sentry/vfs/ops.h"
#include "sentry/vfs/restrict.h"
#include "sentry/vfs/want_write.h"

namespace amber {
namespace {

// setattr_prepare(), setattr_copy() and setattr_should_drop_suidgid(), for an owner of whatever kind.

uint32_t ModeToSet(const Credentials& creds, uint32_t uid, uint32_t gid, uint32_t mode) {
  mode &= 07777;
  if ((mode & S_ISGID) != 0 && !creds.InGroup(gid) && !creds.HasOver(uid, gid, CAP_FSETID)) mode &= ~S_ISGID;
  return mode;
}

// Whether what `uid` and `gid` own may be given to `to_uid` and `to_gid` (UINT32_MAX: stays).
ErrnoOr<void> CheckGivenAway(const Credentials& creds, uint32_t uid, uint32_t gid, uint32_t to_uid, uint32_t to_gid) {
  bool may = creds.HasOver(uid, gid, CAP_CHOWN), owner = creds.fsuid == uid;
  if (to_uid != UINT32_MAX && !may && !(owner && to_uid == uid)) return Errno(EPERM);
  if (to_gid != UINT32_MAX && !may && !(owner && (to_gid == gid || creds.InGroup(to_gid)))) return Errno(EPERM);
  return Ok();
}

uint32_t WithoutSetIds(uint32_t mode) {
  mode &= 07777 & ~static_cast<uint32_t>(S_ISUID);
  return (mode & S_IXGRP) != 0 ? mode & ~static_cast<uint32_t>(S_ISGID) : mode;
}

}  // namespace

ErrnoOr<void> ChmodPlace(const VfsContext& ctx, const VfsPath& place, uint32_t mode) {
  Inode& inode = *place.inode();
  TRY(WantWrite(*place.mount));
  if (inode.IsSymlink()) return Errno(EOPNOTSUPP);
  TRY(CheckUnflagged(inode));
  TRY(CheckOwner(*ctx.creds, inode));
  mode = ModeToSet(*ctx.creds, inode.attr().uid, inode.attr().gid, mode);
  TRY(inode.SetAttr(ctx, {.mode = mode}));
  if (const Acl* acl = dynamic_cast<const AclKeeper*>(&inode) == nullptr ? inode.acl() : nullptr; acl != nullptr) {
    Acl changed = *acl;
    changed.SetMode(mode);
    TRY(inode.SetXattr(kAccessAcl, changed.Bytes(nullptr), 0));
  }
  NotifyEntry(*place.dentry, IN_ATTRIB);
  return Ok();
}

ErrnoOr<void> ChownPlace(const VfsContext& ctx, const VfsPath& place, uint32_t uid, uint32_t gid) {
  Inode& inode = *place.inode();
  const Attr& a = inode.attr();
  TRY(WantWrite(*place.mount));
  TRY(CheckUnflagged(inode));
  TRY(CheckGivenAway(*ctx.creds, a.uid, a.gid, uid, gid));
  AttrChange change;
  if (uid != UINT32_MAX) change.uid = uid;
  if (gid != UINT32_MAX) change.gid = gid;
  // chown(2): set-ID bits of files go, whoever asks.
  if (inode.IsRegular()) {
    uint32_t mode = WithoutSetIds(a.mode);
    if (mode != (a.mode & 07777)) change.mode = mode;
  }
  if (!change.uid && !change.gid && !change.mode) return Ok();
  TRY(inode.SetAttr(ctx, change));
  NotifyEntry(*place.dentry, IN_ATTRIB);
  return Ok();
}

ErrnoOr<void> ChmodKept(const Credentials& creds, AnonOwner& kept, uint32_t mode) {
  if (creds.fsuid != kept.uid && !creds.HasOver(kept.uid, kept.gid, CAP_FOWNER)) return Errno(EPERM);
  kept.mode = ModeToSet(creds, kept.uid, kept.gid, mode);
  return Ok();
}

ErrnoOr<void> ChownKept(const Credentials& creds, AnonOwner& kept, uint32_t uid, uint32_t gid) {
  TRY(CheckGivenAway(creds, kept.uid, kept.gid, uid, gid));
  if (uid != UINT32_MAX) kept.uid = uid;
  if (gid != UINT32_MAX) kept.gid = gid;
  // As of every file that is no directory.
  kept.mode = WithoutSetIds(kept.mode);
  return Ok();
}

ErrnoOr<void> SetTimesPlace(const VfsContext& ctx, const VfsPath& place, const AttrChange& times) {
  if (!times.atime && !times.mtime) return Ok();
  Inode& inode = *place.inode();
  TRY(WantWrite(*place.mount));
  bool both_now = times.atime && times.atime->now && times.mtime && times.mtime->now;
  if (IsImmutable(inode) || (IsAppendOnly(inode) && !both_now)) return Errno(EPERM);
  if (!CheckOwner(*ctx.creds, inode).ok()) {
    if (!both_now) return Errno(EPERM);
    TRY(CheckPermission(*ctx.creds, inode, kMayWrite));
  }
  TRY(inode.SetAttr(ctx, times));
  // fsnotify_change(): both times are an attribute, one alone looks like reading or writing.
  NotifyEntry(*place.dentry, times.atime && times.mtime ? IN_ATTRIB : times.atime ? IN_ACCESS : IN_MODIFY);
  return Ok();
}

ErrnoOr<void> TruncatePlace(const VfsContext& ctx, const VfsPath& place, uint64_t size) {
  Inode& inode = *place.inode();
  if (inode.IsDir()) return Errno(EISDIR);
  if (!inode.IsRegular()) return Errno(EINVAL);
  TRY(CheckPermission(*ctx.creds, place, kMayWrite));
  if (IsAppendOnly(inode)) return Errno(EPERM);
  if (inode.deny_write > 0) return Errno(ETXTBSY);
  TRY(CheckRights(ctx, place, file_right::kTruncate));
  TRY(BreakLeases(ctx, inode, O_WRONLY));
  TRY(TruncateInode(ctx, inode, size));
  NotifyEntry(*place.dentry, IN_MODIFY);
  return Ok();
}

ErrnoOr<void> TruncateInode(const VfsContext& ctx, Inode& inode, uint64_t size) {
  TRY(StripSetIds(*ctx.creds, inode));
  return inode.SetAttr(ctx, {.size = size});
}

// fs/inode.c, file_remove_privs().
ErrnoOr<void> StripSetIds(const Credentials& creds, Inode& inode) {
  uint32_t mode = inode.attr().mode;
  if ((mode & (S_ISUID | S_ISGID)) == 0 || !inode.IsRegular() || creds.HasOver(inode.attr().uid, inode.attr().gid, CAP_FSETID)) return Ok();
  uint32_t stripped = WithoutSetIds(mode);
  if (stripped == (mode & 07777)) return Ok();
  VfsContext ctx{.creds = &creds};
  return inode.SetAttr(ctx, {.mode = stripped});
}

}  // namespace amber
