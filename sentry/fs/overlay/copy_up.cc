// Copy-up, whiteouts and attributes of overlays.
#include "sentry/fs/overlay/names.h"
#include "sentry/fs/overlay/overlay.h"
#include "sentry/vfs/data_io.h"

namespace amber {
namespace {

// Contents of `from`, at most `max_size` bytes, into the fresh file `to`.
ErrnoOr<void> CopyData(const VfsContext& ctx, Inode& from, Inode& to, uint64_t max_size) {
  uint64_t size = std::min(from.attr().size, max_size);
  if (size == 0) return Ok();
  TRY(from.BeginIo(false));
  auto begun = to.BeginIo(true);
  auto copy = [&]() -> ErrnoOr<void> {
    if (!begun.ok()) return begun.error();
    if (TRY(to.PrepareWrite(0, size)) < size) return Errno(ENOSPC);
    TRY(CopyContents(from, TRY(to.HostFd(true)), size));
    // A hole at the end is in the size alone.
    return to.SetAttr(ctx, {.size = size});
  };
  auto r = copy();
  if (begun.ok()) to.EndIo(true);
  from.EndIo(false);
  return r;
}

void CopyXattrs(Inode& from, Inode& to) {
  auto names = from.ListXattr();
  if (!names.ok()) return;
  for (const std::string& name : *names) {
    if (name.starts_with(kOverlayPrefix)) continue;
    auto value = from.GetXattr(name);
    if (value.ok()) (void)to.SetXattr(name, *value, 0);
  }
}

}  // namespace

ErrnoOr<void> OverlayInode::CopyUp(const VfsContext& ctx, uint64_t max_size) {
  if (upper_) return Ok();
  if (!overlay().upper_) return Errno(EROFS);
  // From the top down: a tree may be too deep for a recursion.
  std::vector<RefPtr<OverlayInode>> missing;
  for (OverlayInode* i = this; i != nullptr && !i->upper_; i = i->named_ ? i->parent_.get() : nullptr) missing.emplace_back(i);
  for (auto it = missing.rbegin(); it != missing.rend(); ++it) TRY((*it)->CopyUpHere(ctx, *it == this ? max_size : UINT64_MAX));
  return Ok();
}

ErrnoOr<void> OverlayInode::CopyUpHere(const VfsContext& ctx, uint64_t max_size) {
  RefPtr<Inode> copy;
  if (named_) {
    AMBER_CHECK(parent_);
    Inode& dir = *parent_->upper_;
    timespec mtime = dir.attr().mtime, atime = dir.attr().atime;
    copy = TRY(MakeCopy(ctx, dir, max_size));
    // Nothing changed in the directory as the guest sees it.
    TRY(dir.SetAttr(ctx, {.atime = AttrChange::Time{.time = atime}, .mtime = AttrChange::Time{.time = mtime}}));
  } else {
    copy = TRY(MakeCopy(ctx, *overlay().upper_.inode(), max_size));
  }
  overlay().by_real_.erase(&real());
  upper_ = std::move(copy);
  if (!IsDir()) lowers_.clear();
  Register();
  return Ok();
}

ErrnoOr<RefPtr<Inode>> OverlayInode::MakeCopy(const VfsContext& ctx, Inode& upper_dir, uint64_t max_size) {
  RefPtr<Inode> lower = lowers_[0];
  TRY(lower->Refresh());
  const Attr a = lower->attr();
  // ovl_copy_up_one(): who mounted this could not give the copy its owner.
  const UserNamespace* mounter = overlay().owner();
  if (FromKernelUid(mounter, a.uid) == UserNamespace::kInvalidId || FromKernelGid(mounter, a.gid) == UserNamespace::kInvalidId)
    return Errno(EOVERFLOW);
  NewNode node{.mode = a.mode, .uid = a.uid, .gid = a.gid, .rdev = a.rdev};
  if (lower->IsSymlink()) node.target = TRY(lower->ReadLink(ctx));
  // A file gets its name when it is complete.
  bool unnamed = lower->IsRegular() || !named_;
  RefPtr<Inode> copy = TRY(unnamed ? upper_dir.MakeUnnamed(ctx, node) : upper_dir.Make(ctx, name_, node));
  if (lower->IsRegular()) TRY(CopyData(ctx, *lower, *copy, max_size));
  CopyXattrs(*lower, *copy);
  if (!lower->IsDir()) {
    TRY(copy->SetXattr(kOrigin, std::string_view(reinterpret_cast<const char*>(&ino_), sizeof(ino_)), 0));
  }
  TRY(copy->SetAttr(ctx, {.atime = AttrChange::Time{.time = a.atime}, .mtime = AttrChange::Time{.time = a.mtime}}));
  if (unnamed && named_) TRY(upper_dir.Link(ctx, name_, *copy));
  return copy;
}

ErrnoOr<bool> OverlayInode::LowerHas(const VfsContext& ctx, std::string_view name) {
  if (lowers_.empty()) return false;
  if (!lower_names_) {
    auto names = std::make_unique<std::set<std::string, std::less<>>>();
    for (const RefPtr<Inode>& lower : lowers_) {
      for (DirEnt& e : TRY(lower->List(ctx))) names->insert(std::move(e.name));
    }
    lower_names_ = std::move(names);
  }
  return lower_names_->contains(name);
}

ErrnoOr<void> OverlayInode::CoverName(const VfsContext& ctx, std::string_view name) {
  if (!TRY(LowerHas(ctx, name))) return Ok();
  TRY(upper_->Make(ctx, name, {.mode = S_IFCHR}));
  return Ok();
}

ErrnoOr<bool> OverlayInode::UncoverName(const VfsContext& ctx, std::string_view name) {
  auto r = upper_->Lookup(ctx, name);
  if (r.Is(ENOENT)) return false;
  if (!r.ok()) return r.error();
  if (!IsWhiteout(**r)) return Errno(EEXIST);
  TRY(upper_->Unlink(ctx, name, **r));
  return true;
}

ErrnoOr<void> OverlayInode::SetAttr(const VfsContext& ctx, const AttrChange& change) {
  TRY(CopyUp(ctx, change.size.value_or(UINT64_MAX)));
  return upper_->SetAttr(ctx, change);
}

ErrnoOr<std::string> OverlayInode::GetXattr(std::string_view name) {
  if (name.starts_with(kOverlayPrefix)) return Errno(ENODATA);
  return real().GetXattr(name);
}

ErrnoOr<void> OverlayInode::SetXattr(std::string_view name, std::string_view value, int flags) {
  if (name.starts_with(kOverlayPrefix)) return Errno(EPERM);
  TRY(CopyUp(VfsContext()));
  return upper_->SetXattr(name, value, flags);
}

ErrnoOr<uint32_t> OverlayInode::GetFlags() {
  auto* flags = dynamic_cast<FlaggedInode*>(&real());
  return flags != nullptr ? flags->GetFlags() : Errno(EOPNOTSUPP);
}

std::optional<uint32_t> OverlayInode::known_flags() const {
  auto* flags = dynamic_cast<const FlaggedInode*>(&real());
  return flags != nullptr ? flags->known_flags() : std::nullopt;
}

ErrnoOr<void> OverlayInode::SetFlags(uint32_t flags) {
  TRY(CopyUp(VfsContext()));
  auto* upper = dynamic_cast<FlaggedInode*>(upper_.get());
  return upper != nullptr ? upper->SetFlags(flags) : Errno(EOPNOTSUPP);
}

ErrnoOr<std::vector<std::string>> OverlayInode::ListXattr() {
  std::vector<std::string> names = TRY(real().ListXattr());
  std::erase_if(names, [](const std::string& n) { return n.starts_with(kOverlayPrefix); });
  return names;
}

ErrnoOr<void> OverlayInode::RemoveXattr(std::string_view name) {
  if (name.starts_with(kOverlayPrefix)) return Errno(ENODATA);
  TRY(CopyUp(VfsContext()));
  return upper_->RemoveXattr(name);
}

}  // namespace amber
