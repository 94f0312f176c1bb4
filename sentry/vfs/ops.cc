#include "sentry/vfs/ops.h"

#include <linux/capability.h>
#include <linux/fs.h>

#include "sentry/kernel/credentials.h"
#include "sentry/vfs/acl.h"
#include "sentry/vfs/fs_context.h"
#include "sentry/vfs/new_name.h"
#include "sentry/vfs/notify.h"
#include "sentry/vfs/restrict.h"
#include "sentry/vfs/want_write.h"

namespace amber {
namespace {

// may_create(): a name may be added to `dir`.
ErrnoOr<void> MayCreate(const VfsContext& ctx, const VfsPath& dir) {
  if (dir.dentry->unlinked()) return Errno(ENOENT);
  return CheckPermission(*ctx.creds, dir, kMayWrite | kMayExec);
}

// may_delete(): `victim` may be removed from `dir`.
ErrnoOr<void> MayDelete(const VfsContext& ctx, const VfsPath& dir, const Dentry& victim) {
  TRY(CheckPermission(*ctx.creds, dir, kMayWrite | kMayExec));
  if (IsAppendOnly(*dir.inode())) return Errno(EPERM);
  TRY(CheckUnflagged(*victim.inode()));
  const Attr& d = dir.inode()->attr();
  if ((d.mode & S_ISVTX) != 0 && ctx.creds->fsuid != victim.inode()->attr().uid && ctx.creds->fsuid != d.uid &&
      !ctx.creds->HasOver(victim.inode()->attr().uid, victim.inode()->attr().gid, CAP_FOWNER)) {
    return Errno(EPERM);
  }
  return Ok();
}

void SetOwner(const VfsContext& ctx, const Inode& dir, NewNode* node) {
  node->uid = ctx.creds->fsuid;
  node->gid = ctx.creds->fsgid;
  if ((dir.attr().mode & S_ISGID) == 0) return;
  node->gid = dir.attr().gid;
  if (S_ISDIR(node->mode)) {
    node->mode |= S_ISGID;
  } else if ((node->mode & S_ISGID) != 0 && (node->mode & S_IXGRP) != 0 && !ctx.creds->InGroup(node->gid) &&
             !ctx.creds->HasOver(dir.attr().uid, dir.attr().gid, CAP_FSETID)) {
    node->mode &= ~static_cast<uint32_t>(S_ISGID);
  }
}

ErrnoOr<RefPtr<Dentry>> Existing(const VfsContext& ctx, const ResolvedParent& p) {
  RefPtr<Dentry> d = TRY(LookupChild(ctx, p.dir, p.name));
  if (d->negative()) return Errno(ENOENT);
  return d;
}

}  // namespace

ErrnoOr<void> MakeChild(const VfsContext& ctx, const VfsPath& dir, Dentry& name, NewNode node) {
  TRY(MayCreate(ctx, dir));
  TRY(CheckRights(ctx, dir, MakeRight(node.mode)));
  SetOwner(ctx, *dir.inode(), &node);
  InheritedAcl acl = InheritAcl(*dir.inode(), &node);
  name.set_inode(TRY(dir.inode()->Make(ctx, name.name(), node)));
  TRY(AdoptAcl(acl, *name.inode()));
  NotifyCreated(*dir.inode(), name);
  return Ok();
}

ErrnoOr<RefPtr<Dentry>> MakeAt(const VfsContext& ctx, const VfsPath& start, std::string_view path, NewNode node) {
  PathWalker walker(ctx, start, 0);
  ResolvedParent p = TRY(walker.WalkParent(path));
  if (p.name.empty()) return Errno(EEXIST);
  return MakeNew(ctx, p.dir, p.name, [&](Dentry& d) -> ErrnoOr<void> {
    // A trailing slash on a name that does not exist is only right for a directory.
    if (p.trailing_slash && !S_ISDIR(node.mode)) return Errno(ENOENT);
    return MakeChild(ctx, p.dir, d, std::move(node));
  });
}

ErrnoOr<void> UnlinkAt(const VfsContext& ctx, const VfsPath& start, std::string_view path) {
  PathWalker walker(ctx, start, 0);
  ResolvedParent p = TRY(walker.WalkParent(path));
  if (p.name.empty()) return Errno(EISDIR);
  TRY(WantWrite(*p.dir.mount));
  RefPtr<Dentry> d = TRY(Existing(ctx, p));
  if (p.trailing_slash) return Errno(d->inode()->IsDir() ? EISDIR : ENOTDIR);
  TRY(MayDelete(ctx, p.dir, *d));
  if (d->inode()->IsDir()) return Errno(EISDIR);
  TRY(CheckRights(ctx, p.dir, file_right::kRemoveFile));
  if (d->mounts_here > 0) return Errno(EBUSY);
  TRY(p.dir.inode()->Unlink(ctx, p.name, *d->inode()));
  d->Drop(true);
  NotifyUnlinked(*p.dir.inode(), *d);
  return Ok();
}

ErrnoOr<void> RmdirAt(const VfsContext& ctx, const VfsPath& start, std::string_view path) {
  PathWalker walker(ctx, start, 0);
  ResolvedParent p = TRY(walker.WalkParent(path));
  if (p.dots == ".") return Errno(EINVAL);
  if (p.dots == "..") return Errno(ENOTEMPTY);
  if (p.dots == "/") return Errno(EBUSY);
  TRY(WantWrite(*p.dir.mount));
  RefPtr<Dentry> d = TRY(Existing(ctx, p));
  TRY(MayDelete(ctx, p.dir, *d));
  if (!d->inode()->IsDir()) return Errno(ENOTDIR);
  TRY(CheckRights(ctx, p.dir, file_right::kRemoveDir));
  if (d->mounts_here > 0) return Errno(EBUSY);
  TRY(p.dir.inode()->Rmdir(ctx, p.name, *d->inode()));
  d->PruneChildren();
  d->Drop(true);
  NotifyUnlinked(*p.dir.inode(), *d);
  return Ok();
}

ErrnoOr<void> LinkAt(const VfsContext& ctx, const VfsPath& target, const VfsPath& start, std::string_view path) {
  PathWalker walker(ctx, start, 0);
  ResolvedParent p = TRY(walker.WalkParent(path));
  if (p.name.empty()) return Errno(EEXIST);
  RefPtr<Dentry> d = TRY(LookupChild(ctx, p.dir, p.name));
  if (!d->negative()) return Errno(EEXIST);
  if (p.trailing_slash) return Errno(ENOENT);
  // Of what is not there /proc keeps no name that could become something (proc_lookup_de()).
  if (p.dir.inode()->fs().type_name() == std::string_view("proc")) return Errno(ENOENT);
  TRY(WantWrite(*p.dir.mount));
  if (target.mount != p.dir.mount) return Errno(EXDEV);
  TRY(MayCreate(ctx, p.dir));
  if (target.inode()->IsDir()) return Errno(EPERM);
  TRY(CheckUnflagged(*target.inode()));
  RefPtr<Inode> inode(target.inode());
  VfsPath from{target.mount, RefPtr<Dentry>(target.dentry->parent() != nullptr ? target.dentry->parent() : target.dentry.get())};
  TRY(CheckReferral(ctx, {.old_dir = from, .moved = *target.dentry, .new_dir = p.dir}));
  TRY(p.dir.inode()->Link(ctx, p.name, *inode));
  d->set_inode(inode);
  NotifyLinked(*inode);
  NotifyCreated(*p.dir.inode(), *d);
  return Ok();
}

namespace {

struct RenameEnds {
  ResolvedParent from, to;
  RefPtr<Dentry> source, target;  // target may be negative
};

// In the order of do_renameat2(): what is there, then trailing slashes, then who is above whom.
ErrnoOr<void> CheckRenameNames(const RenameEnds& e, uint32_t flags) {
  const Inode& moved = *e.source->inode();
  bool exchange = (flags & RENAME_EXCHANGE) != 0;
  if ((flags & RENAME_NOREPLACE) != 0 && !e.target->negative()) return Errno(EEXIST);
  if (exchange && e.target->negative()) return Errno(ENOENT);
  if (exchange && e.to.trailing_slash && !e.target->inode()->IsDir()) return Errno(ENOTDIR);
  if (!moved.IsDir() && (e.from.trailing_slash || (!exchange && e.to.trailing_slash))) return Errno(ENOTDIR);
  if (e.source->IsBelow(*e.to.dir.dentry) && e.to.dir.dentry->IsBelow(*e.source)) return Errno(EINVAL);
  if (e.to.dir.dentry->IsBelow(*e.source)) return Errno(EINVAL);
  if (e.from.dir.dentry->IsBelow(*e.target)) return Errno(exchange ? EINVAL : ENOTEMPTY);
  return Ok();
}

// may_delete()'s last question, and vfs_rename()'s first.
ErrnoOr<void> CheckRenameKinds(const RenameEnds& e, uint32_t flags) {
  const Inode& moved = *e.source->inode();
  if (e.source->mounts_here > 0 || e.target->mounts_here > 0) return Errno(EBUSY);
  if (e.target->negative() || (flags & RENAME_EXCHANGE) != 0) return Ok();
  if (moved.IsDir() && !e.target->inode()->IsDir()) return Errno(ENOTDIR);
  if (!moved.IsDir() && e.target->inode()->IsDir()) return Errno(EISDIR);
  return Ok();
}

ErrnoOr<void> CheckRenamePermissions(const VfsContext& ctx, const RenameEnds& e, uint32_t flags) {
  TRY(MayDelete(ctx, e.from.dir, *e.source));
  if (e.target->negative()) {
    TRY(MayCreate(ctx, e.to.dir));
  } else {
    TRY(MayDelete(ctx, e.to.dir, *e.target));
  }
  // A directory that changes its parent has its ".." written.
  if (e.from.dir.dentry == e.to.dir.dentry) return Ok();
  if (e.source->inode()->IsDir()) TRY(CheckPermission(*ctx.creds, *e.source->inode(), kMayWrite));
  if ((flags & RENAME_EXCHANGE) != 0 && e.target->inode()->IsDir()) {
    TRY(CheckPermission(*ctx.creds, *e.target->inode(), kMayWrite));
  }
  return Ok();
}

void MoveDentries(const RenameEnds& e, uint32_t flags) {
  RefPtr<Dentry> from_dir = e.from.dir.dentry, to_dir = e.to.dir.dentry;
  if ((flags & RENAME_EXCHANGE) != 0) {
    e.source->Drop(false);
    e.target->Drop(false);
    e.target->MoveTo(from_dir, e.from.name);
  } else {
    e.target->Drop(!e.target->negative());
  }
  e.source->MoveTo(to_dir, e.to.name);
}

}  // namespace

ErrnoOr<void> RenameAt(const VfsContext& ctx, const VfsPath& old_start, std::string_view old_path, const VfsPath& new_start,
                       std::string_view new_path, uint32_t flags) {
  RenameEnds e;
  e.from = TRY(PathWalker(ctx, old_start, 0).WalkParent(old_path));
  e.to = TRY(PathWalker(ctx, new_start, 0).WalkParent(new_path));
  if (e.from.dir.mount != e.to.dir.mount) return Errno(EXDEV);
  if (e.from.name.empty()) return Errno(EBUSY);
  if (e.to.name.empty()) return Errno((flags & RENAME_NOREPLACE) != 0 ? EEXIST : EBUSY);
  TRY(WantWrite(*e.from.dir.mount));
  e.source = TRY(Existing(ctx, e.from));
  e.target = TRY(LookupChild(ctx, e.to.dir, e.to.name));
  // One name, asked for twice: the second answer counts.
  if (e.from.dir.dentry == e.to.dir.dentry && e.from.name == e.to.name) e.source = e.target;
  if (e.source->negative()) return Errno(ENOENT);
  if (e.target->negative() && e.to.dir.dentry->unlinked()) return Errno(ENOENT);
  TRY(CheckRenameNames(e, flags));
  if (e.source->inode() == e.target->inode()) return Ok();
  TRY(CheckRenamePermissions(ctx, e, flags));
  TRY(CheckRenameKinds(e, flags));
  bool swaps = (flags & RENAME_EXCHANGE) != 0;
  TRY(CheckReferral(ctx, {.old_dir = e.from.dir, .moved = *e.source, .new_dir = e.to.dir, .replaced = e.target.get(), .exchange = swaps}));
  TRY(e.from.dir.inode()->Rename(ctx, e.from.name, *e.source->inode(), *e.to.dir.inode(), e.to.name, e.target->inode(), flags));
  MoveDentries(e, flags);
  bool exchange = (flags & RENAME_EXCHANGE) != 0;
  Inode* replaced = exchange || e.target->negative() ? nullptr : e.target->inode();
  NotifyMoved(*e.from.dir.inode(), e.from.name, *e.to.dir.inode(), *e.source, replaced);
  if (exchange) NotifyMoved(*e.to.dir.inode(), e.to.name, *e.from.dir.inode(), *e.target, nullptr);
  return Ok();
}

}  // namespace amber
