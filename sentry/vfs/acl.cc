#include "sentry/vfs/acl.h"

#include <linux/capability.h>
#include <string.h>
#include <sys/stat.h>

#include <algorithm>

#include "sentry/kernel/credentials.h"
#include "sentry/kernel/user_namespace.h"
#include "sentry/vfs/inode.h"

namespace amber {
namespace {

constexpr uint32_t kVersion = 2;
constexpr uint32_t kNoId = ~uint32_t{0};
static_assert(sizeof(Acl::Entry) == 8);

bool HasId(uint16_t tag) { return tag == Acl::kUser || tag == Acl::kGroup; }

}  // namespace

ErrnoOr<std::optional<Acl>> Acl::Parse(std::string_view bytes, const UserNamespace* ns) {
  uint32_t version;
  if (bytes.size() < sizeof(version)) return Errno(EINVAL);
  memcpy(&version, bytes.data(), sizeof(version));
  if (version != kVersion) return Errno(EOPNOTSUPP);
  bytes.remove_prefix(sizeof(version));
  if (bytes.size() % sizeof(Entry) != 0) return Errno(EINVAL);
  if (bytes.empty()) return std::optional<Acl>();
  Acl acl;
  acl.entries_.resize(bytes.size() / sizeof(Entry));
  memcpy(acl.entries_.data(), bytes.data(), bytes.size());
  for (Entry& e : acl.entries_) {
    if (!HasId(e.tag)) {
      e.id = kNoId;
      continue;
    }
    e.id = e.tag == kUser ? ToKernelUid(ns, e.id) : ToKernelGid(ns, e.id);
    if (e.id == kNoId) return Errno(EINVAL);
  }
  if (!acl.Valid()) return Errno(EINVAL);
  return std::optional<Acl>(std::move(acl));
}

std::string Acl::Bytes(const UserNamespace* ns) const {
  std::string out(sizeof(kVersion) + entries_.size() * sizeof(Entry), '\0');
  memcpy(out.data(), &kVersion, sizeof(kVersion));
  for (size_t i = 0; i < entries_.size(); ++i) {
    Entry e = entries_[i];
    if (e.tag == kUser) e.id = FromKernelUid(ns, e.id);
    if (e.tag == kGroup) e.id = FromKernelGid(ns, e.id);
    memcpy(out.data() + sizeof(kVersion) + i * sizeof(e), &e, sizeof(e));
  }
  return out;
}

// In this order: the owner, users, the owning group, groups, the mask (needed if there are users or groups), others.
bool Acl::Valid() const {
  constexpr uint16_t kOrder[] = {kUserObj, kUser, kGroupObj, kGroup, kMask, kOther};
  size_t at = 0;
  int counts[6] = {};
  for (const Entry& e : entries_) {
    auto found = std::find(std::begin(kOrder) + at, std::end(kOrder), e.tag);
    if (found == std::end(kOrder) || e.perm > 7) return false;
    at = static_cast<size_t>(found - std::begin(kOrder));
    ++counts[at];
  }
  bool needs_mask = counts[1] + counts[3] > 0;
  return counts[0] == 1 && counts[2] == 1 && counts[5] == 1 && counts[4] <= 1 && (!needs_mask || counts[4] == 1);
}

Acl::Entry* Acl::Find(Tag tag) {
  auto it = std::find_if(entries_.begin(), entries_.end(), [tag](const Entry& e) { return e.tag == tag; });
  return it == entries_.end() ? nullptr : &*it;
}

uint32_t Acl::Mode(bool* exact) const {
  uint32_t mode = 0;
  *exact = true;
  for (const Entry& e : entries_) {
    uint32_t perm = e.perm;
    switch (e.tag) {
      case kUserObj: mode |= perm << 6; break;
      case kGroupObj: mode |= perm << 3; break;
      case kOther: mode |= perm; break;
      case kMask: mode = (mode & ~uint32_t{070}) | perm << 3; [[fallthrough]];
      default: *exact = false;
    }
  }
  return mode;
}

void Acl::SetMode(uint32_t mode) {
  Entry* group = Find(kMask) != nullptr ? Find(kMask) : Find(kGroupObj);
  Find(kUserObj)->perm = mode >> 6 & 7;
  group->perm = mode >> 3 & 7;
  Find(kOther)->perm = mode & 7;
}

bool Acl::Restrict(uint32_t* mode) {
  Entry *user = Find(kUserObj), *other = Find(kOther), *mask = Find(kMask);
  Entry* group = mask != nullptr ? mask : Find(kGroupObj);
  user->perm &= *mode >> 6 & 7;
  group->perm &= *mode >> 3 & 7;
  other->perm &= *mode & 7;
  *mode = (*mode & ~uint32_t{0777}) | uint32_t{user->perm} << 6 | uint32_t{group->perm} << 3 | other->perm;
  return mask != nullptr;
}

bool Acl::Permits(const Credentials& creds, uint32_t owner, uint32_t group, int may) const {
  auto grants = [may](const Entry& e) { return (e.perm & may) == may; };
  const Entry* match = nullptr;
  bool in_a_group = false;
  for (const Entry& e : entries_) {
    switch (e.tag) {
      case kUserObj:
        if (creds.fsuid == owner) return grants(e);
        break;
      case kUser:
        if (creds.fsuid == e.id) match = &e;
        break;
      case kGroupObj:
      case kGroup:
        if (!creds.InGroup(e.tag == kGroupObj ? group : e.id)) break;
        in_a_group = true;
        if (grants(e)) match = &e;
        break;
      case kOther:
        if (match == nullptr) return !in_a_group && grants(e);
        break;
      default: break;
    }
    if (match != nullptr) break;
  }
  if (match == nullptr || !grants(*match)) return false;
  auto mask = std::find_if(entries_.begin(), entries_.end(), [](const Entry& e) { return e.tag == kMask; });
  return mask == entries_.end() || grants(*mask);
}

ErrnoOr<void> SetAcl(const VfsContext& ctx, Inode& inode, std::string_view name, std::optional<Acl> acl) {
  if (acl && name == kAccessAcl) {
    // posix_acl_update_mode()
    bool exact;
    uint32_t mode = (inode.attr().mode & 07000) | acl->Mode(&exact);
    const Attr& a = inode.attr();
    if (!ctx.creds->InGroup(a.gid) && !ctx.creds->HasOver(a.uid, a.gid, CAP_FSETID)) mode &= ~static_cast<uint32_t>(S_ISGID);
    TRY(inode.SetAttr(ctx, {.mode = mode}));
    if (exact) acl.reset();
  }
  if (acl) return inode.SetXattr(name, acl->Bytes(nullptr), 0);
  auto removed = inode.RemoveXattr(name);
  return removed.Is(ENODATA) ? Ok() : removed;
}

InheritedAcl InheritAcl(const Inode& dir, NewNode* node) {
  InheritedAcl out;
  if (S_ISLNK(node->mode)) return out;
  // That one gets the umask with the node.
  if (dynamic_cast<const AclKeeper*>(&dir) != nullptr) return out;
  const Acl* acl = dir.default_acl();
  if (acl == nullptr) {
    node->mode &= ~node->umask;
    return out;
  }
  Acl access = *acl;
  if (access.Restrict(&node->mode)) out.access = std::move(access);
  if (S_ISDIR(node->mode)) out.defaults = *acl;
  return out;
}

ErrnoOr<void> AdoptAcl(const InheritedAcl& acl, Inode& made) {
  if (acl.access) TRY(made.SetXattr(kAccessAcl, acl.access->Bytes(nullptr), 0));
  if (acl.defaults) TRY(made.SetXattr(kDefaultAcl, acl.defaults->Bytes(nullptr), 0));
  return Ok();
}

}  // namespace amber
