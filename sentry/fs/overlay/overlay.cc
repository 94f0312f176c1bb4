#include "sentry/fs/overlay/overlay.h"

#include <dirent.h>
#include <linux/fs.h>
#include <linux/magic.h>

#include <map>

#include "sentry/fs/overlay/names.h"

namespace amber {

bool IsWhiteout(const Inode& inode) { return S_ISCHR(inode.attr().mode) && inode.attr().rdev == 0; }

bool IsOpaque(Inode& dir) {
  auto r = dir.GetXattr(kOpaque);
  return r.ok() && *r == "y";
}

uint64_t OverlayInoOf(Inode& shown, bool is_upper) {
  if (!is_upper) return shown.ino();
  if (!shown.IsDir()) {
    auto origin = shown.GetXattr(kOrigin);
    uint64_t ino;
    if (origin.ok() && origin->size() == sizeof(ino)) {
      memcpy(&ino, origin->data(), sizeof(ino));
      return ino;
    }
  }
  return shown.ino() | uint64_t{1} << 48;
}

OverlayInode::OverlayInode(OverlayFileSystem* fs, RefPtr<OverlayInode> parent, std::string_view name, RefPtr<Inode> upper,
                           std::vector<RefPtr<Inode>> lowers)
    : Inode(fs), upper_(std::move(upper)), lowers_(std::move(lowers)), parent_(std::move(parent)), name_(name) {
  attr_.mode = real().attr().mode;  // for the image; the layers have the truth
  ino_ = IsDir() && !lowers_.empty() ? lowers_[0]->ino() : OverlayInoOf(real(), static_cast<bool>(upper_));
  Register();
}

OverlayInode::~OverlayInode() {
  if (attr_.mode == 0) return;  // never loaded
  auto& by_real = overlay().by_real_;
  auto it = by_real.find(&real());
  if (it != by_real.end() && it->second == this) by_real.erase(it);
  RefPtr<OverlayInode> up = std::move(parent_);
  while (up && up->ref_count() == 1) {
    RefPtr<OverlayInode> next = std::move(up->parent_);
    up = std::move(next);
  }
}

OverlayFileSystem& OverlayInode::overlay() const { return static_cast<OverlayFileSystem&>(fs()); }
void OverlayInode::Register() { overlay().by_real_[&real()] = this; }

void OverlayInode::SetName(OverlayInode& dir, std::string_view name) {
  parent_ = RefPtr<OverlayInode>(&dir);
  name_ = name;
  named_ = true;
}

ErrnoOr<RefPtr<OverlayInode>> OverlayInode::Merge(const VfsContext& ctx, std::string_view name, RefPtr<Inode> first_lower, bool asked) {
  RefPtr<Inode> upper;
  if (upper_) {
    auto r = upper_->Lookup(ctx, name);
    if (r.ok()) {
      if (IsWhiteout(**r)) return Errno(ENOENT);
      upper = std::move(*r);
    } else if (!r.Is(ENOENT)) {
      return r.error();
    }
  }
  std::vector<RefPtr<Inode>> lowers;
  if (!upper || (upper->IsDir() && !IsOpaque(*upper))) {
    for (size_t i = 0; i < lowers_.size(); ++i) {
      RefPtr<Inode> lower;
      if (i == 0 && asked) {
        lower = std::move(first_lower);
      } else {
        auto r = lowers_[i]->Lookup(ctx, name);
        if (!r.ok() && !r.Is(ENOENT)) return r.error();
        if (r.ok()) lower = std::move(*r);
      }
      if (!lower) continue;
      if (IsWhiteout(*lower)) break;
      bool merging = upper || !lowers.empty();
      if (merging && !lower->IsDir()) break;
      lowers.push_back(lower);
      if (!lower->IsDir() || (lowers_.size() > 1 && IsOpaque(*lower))) break;
    }
  }
  if (!upper && lowers.empty()) return Errno(ENOENT);
  auto known = overlay().by_real_.find(upper ? upper.get() : lowers[0].get());
  if (known != overlay().by_real_.end()) return RefPtr<OverlayInode>(known->second);
  return MakeRef<OverlayInode>(&overlay(), RefPtr<OverlayInode>(this), name, std::move(upper), std::move(lowers));
}

ErrnoOr<RefPtr<Inode>> OverlayInode::Lookup(const VfsContext& ctx, std::string_view name) {
  if (!IsDir()) return Errno(ENOTDIR);
  return RefPtr<Inode>(TRY(Merge(ctx, name, nullptr, false)));
}

ErrnoOr<void> OverlayInode::LookupAhead(const VfsContext& ctx, std::span<const std::string_view> names, std::span<Inode* const>, bool open_read,
                                        std::vector<RefPtr<Inode>>* found) {
  if (!IsDir()) return Errno(ENOTDIR);
  // The first lower layer is asked for the whole path at once: it may be a gofer's.
  std::vector<RefPtr<Inode>> lower;
  bool lower_ends = false;  // what follows `lower` is known to be missing
  if (!lowers_.empty()) {
    std::vector<Inode*> unknown(names.size(), nullptr);
    lower_ends = lowers_[0]->LookupAhead(ctx, names, unknown, open_read, &lower).Is(ENOENT);
  }
  RefPtr<OverlayInode> at(this);
  RefPtr<Inode> expected = lowers_.empty() ? nullptr : lowers_[0];
  for (size_t i = 0; i < names.size(); ++i) {
    bool in_chain = expected && !at->lowers_.empty() && at->lowers_[0] == expected;
    bool asked = in_chain && (i < lower.size() || (i == lower.size() && lower_ends));
    RefPtr<Inode> first = asked && i < lower.size() ? lower[i] : nullptr;
    RefPtr<OverlayInode> next = TRY(at->Merge(ctx, names[i], first, asked));
    expected = std::move(first);
    found->push_back(next);
    if (!next->IsDir()) break;
    at = std::move(next);
  }
  return Ok();
}

ErrnoOr<RefPtr<Inode>> OverlayInode::Make(const VfsContext& ctx, std::string_view name, const NewNode& node) {
  // ovl_mknod(): nobody makes whiteouts by way of an overlay.
  if (S_ISCHR(node.mode) && node.rdev == 0) return Errno(EPERM);
  TRY(CopyUp(ctx));
  bool covered = TRY(UncoverName(ctx, name));
  auto made = upper_->Make(ctx, name, node);
  if (!made.ok()) {
    if (covered) TRY(CoverName(ctx, name));
    return made.error();
  }
  // A new directory must not show what a removed one had.
  if (covered && S_ISDIR(node.mode)) TRY((*made)->SetXattr(kOpaque, "y", 0));
  return RefPtr<Inode>(MakeRef<OverlayInode>(&overlay(), RefPtr<OverlayInode>(this), name, std::move(*made), std::vector<RefPtr<Inode>>()));
}

ErrnoOr<RefPtr<Inode>> OverlayInode::MakeUnnamed(const VfsContext& ctx, const NewNode& node) {
  TRY(CopyUp(ctx));
  RefPtr<Inode> made = TRY(upper_->MakeUnnamed(ctx, node));
  auto inode = MakeRef<OverlayInode>(&overlay(), nullptr, "", std::move(made), std::vector<RefPtr<Inode>>());
  inode->named_ = false;
  return RefPtr<Inode>(std::move(inode));
}

ErrnoOr<void> OverlayInode::Link(const VfsContext& ctx, std::string_view name, Inode& target) {
  auto& inode = static_cast<OverlayInode&>(target);
  TRY(inode.CopyUp(ctx));
  TRY(CopyUp(ctx));
  bool covered = TRY(UncoverName(ctx, name));
  auto r = upper_->Link(ctx, name, *inode.upper_);
  if (!r.ok() && covered) TRY(CoverName(ctx, name));
  if (r.ok() && !inode.named_) inode.SetName(*this, name);
  return r;
}

ErrnoOr<void> OverlayInode::Unlink(const VfsContext& ctx, std::string_view name, Inode& victim) {
  auto& inode = static_cast<OverlayInode&>(victim);
  TRY(CopyUp(ctx));
  if (inode.upper_) TRY(upper_->Unlink(ctx, name, *inode.upper_));
  if (inode.parent_ == this && inode.name_ == name) inode.named_ = false;
  return CoverName(ctx, name);
}

ErrnoOr<void> OverlayInode::RemoveUpperDir(const VfsContext& ctx, std::string_view name, OverlayInode& victim) {
  if (!TRY(victim.List(ctx)).empty()) return Errno(ENOTEMPTY);
  if (!victim.upper_) return Ok();
  // Nothing but whiteouts is left in it.
  for (const DirEnt& e : TRY(victim.upper_->List(ctx))) {
    RefPtr<Inode> whiteout = TRY(victim.upper_->Lookup(ctx, e.name));
    TRY(victim.upper_->Unlink(ctx, e.name, *whiteout));
  }
  return upper_->Rmdir(ctx, name, *victim.upper_);
}

ErrnoOr<void> OverlayInode::Rmdir(const VfsContext& ctx, std::string_view name, Inode& victim) {
  auto& inode = static_cast<OverlayInode&>(victim);
  TRY(CopyUp(ctx));
  TRY(RemoveUpperDir(ctx, name, inode));
  inode.named_ = false;
  return CoverName(ctx, name);
}

ErrnoOr<void> OverlayInode::PrepareRename(const VfsContext& ctx, OverlayInode& source, OverlayInode& to, OverlayInode* target, bool exchange) {
  // As Linux without redirect_dir: a directory with lower parts cannot move; mv(1) and others copy then.
  if (source.IsDir() && !source.lowers_.empty()) return Errno(EXDEV);
  if (exchange && target->IsDir() && !target->lowers_.empty()) return Errno(EXDEV);
  TRY(source.CopyUp(ctx));
  TRY(CopyUp(ctx));
  TRY(to.CopyUp(ctx));
  if (exchange) return target->CopyUp(ctx);
  return Ok();
}

ErrnoOr<void> OverlayInode::Rename(const VfsContext& ctx, std::string_view old_name, Inode& moved, Inode& new_dir, std::string_view new_name,
                                   Inode* replaced, uint32_t flags) {
  if ((flags & RENAME_WHITEOUT) != 0) return Errno(EINVAL);
  RefPtr<OverlayInode> source(static_cast<OverlayInode*>(&moved));
  RefPtr<OverlayInode> target(static_cast<OverlayInode*>(replaced));
  auto& to = static_cast<OverlayInode&>(new_dir);
  bool exchange = (flags & RENAME_EXCHANGE) != 0;
  TRY(PrepareRename(ctx, *source, to, target.get(), exchange));
  Inode* upper_target = target && target->upper_ ? target->upper_.get() : nullptr;
  if (target && target->IsDir() && !exchange) {
    TRY(to.RemoveUpperDir(ctx, new_name, *target));
    upper_target = nullptr;
  }
  bool covered = upper_target == nullptr ? TRY(to.UncoverName(ctx, new_name)) : false;
  auto r = upper_->Rename(ctx, old_name, *source->upper_, *to.upper_, new_name, upper_target, flags & RENAME_EXCHANGE);
  if (!r.ok()) {
    if (covered || (target && target->IsDir() && !exchange)) TRY(to.CoverName(ctx, new_name));
    return r;
  }
  if (source->IsDir() && TRY(to.LowerHas(ctx, new_name))) TRY(source->upper_->SetXattr(kOpaque, "y", 0));
  source->SetName(to, new_name);
  if (exchange) {
    if (target->IsDir() && TRY(LowerHas(ctx, old_name))) TRY(target->upper_->SetXattr(kOpaque, "y", 0));
    target->SetName(*this, old_name);
    return Ok();
  }
  if (target && target->parent_ == &to && target->name_ == new_name) target->named_ = false;
  return CoverName(ctx, old_name);
}

ErrnoOr<std::vector<DirEnt>> OverlayInode::List(const VfsContext& ctx) {
  if (!IsDir()) return Errno(ENOTDIR);
  if (upper_ && lowers_.empty()) {
    std::vector<DirEnt> list = TRY(upper_->List(ctx));
    std::erase_if(list, [&](DirEnt& e) {
      auto child = upper_->Lookup(ctx, e.name);
      if (!child.ok() || IsWhiteout(**child)) return true;
      e.ino = OverlayInoOf(**child, true);
      return false;
    });
    return list;
  }
  if (!upper_ && lowers_.size() == 1) return lowers_[0]->List(ctx);
  std::map<std::string, DirEnt> merged;
  std::set<std::string> hidden;
  if (upper_) {
    for (DirEnt& e : TRY(upper_->List(ctx))) {
      RefPtr<Inode> child = TRY(upper_->Lookup(ctx, e.name));
      if (IsWhiteout(*child)) {
        hidden.insert(e.name);
        continue;
      }
      e.ino = OverlayInoOf(*child, true);
      if (child->IsDir() && IsOpaque(*child)) hidden.insert(e.name);
      merged.emplace(e.name, e);
    }
  }
  for (const RefPtr<Inode>& lower : lowers_) {
    std::vector<DirEnt> list = TRY(lower->List(ctx));
    for (DirEnt& e : list) {
      if (hidden.contains(e.name)) continue;
      if (e.type == DT_CHR) {
        auto child = lower->Lookup(ctx, e.name);
        if (child.ok() && IsWhiteout(**child)) {
          hidden.insert(e.name);
          continue;
        }
      }
      auto [it, is_new] = merged.emplace(e.name, e);
      // A merged directory has the first lower one's number.
      if (!is_new && it->second.type == DT_DIR && e.type == DT_DIR) it->second.ino = e.ino;
      if (!is_new || e.type != DT_DIR) hidden.insert(e.name);
    }
  }
  std::vector<DirEnt> list;
  for (auto& [name, e] : merged) list.push_back(std::move(e));
  return list;
}

ErrnoOr<RefPtr<Inode>> OverlayInode::DataInode(const VfsContext& ctx, bool write) {
  if (write) TRY(CopyUp(ctx));
  return real().DataInode(ctx, write);
}

ErrnoOr<UniqueFd> OverlayInode::ConnectHostSocket(const Credentials& who, int socket_type) {
  auto* inode = dynamic_cast<HostSocketInode*>(&real());
  return inode != nullptr ? inode->ConnectHostSocket(who, socket_type) : Errno(EOPNOTSUPP);
}

ErrnoOr<UniqueFd> OverlayInode::BindHostSocketAgain(int socket_type) {
  auto* inode = dynamic_cast<HostSocketInode*>(&real());
  return inode != nullptr ? inode->BindHostSocketAgain(socket_type) : Errno(EOPNOTSUPP);
}

}  // namespace amber
