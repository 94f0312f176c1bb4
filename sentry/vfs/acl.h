// POSIX access control lists: acl(5), fs/posix_acl.c. Values; guarded by whoever has them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sentry/base/errno_or.h"

namespace amber {

class Inode;
class UserNamespace;
struct Credentials;
struct NewNode;
struct VfsContext;

// How lists look as extended attributes (POSIX_ACL_XATTR_VERSION): what programs pass, with their user namespace's ids, and what file systems keep, with
// the kernel's.
inline constexpr std::string_view kAccessAcl = "system.posix_acl_access";
inline constexpr std::string_view kDefaultAcl = "system.posix_acl_default";
inline bool IsAclName(std::string_view name) { return name == kAccessAcl || name == kDefaultAcl; }

class Acl {
 public:
  enum Tag : uint16_t { kUserObj = 1, kUser = 2, kGroupObj = 4, kGroup = 8, kMask = 16, kOther = 32 };
  struct Entry {
    uint16_t tag, perm;
    uint32_t id;
  };

  // No list if `bytes` has no entries. EINVAL for what is not one, EOPNOTSUPP for another version. `ns`: whose ids they are.
  static ErrnoOr<std::optional<Acl>> Parse(std::string_view bytes, const UserNamespace* ns);
  std::string Bytes(const UserNamespace* ns) const;

  // The permission bits that say the same, as far as they can; `exact`: they say all of it.
  uint32_t Mode(bool* exact) const;
  // After chmod: the entries that the permission bits stand for (posix_acl_chmod).
  void SetMode(uint32_t mode);
  // For something new below a directory with this default list: keeps what `mode` grants, of which it takes away what the list does not
  // (posix_acl_create_masq). True if the list says more than the mode.
  bool Restrict(uint32_t* mode);
  // posix_acl_permission(): `may` is a MayAccess bit set, of somebody who does not own the file.
  bool Permits(const Credentials& creds, uint32_t owner, uint32_t group, int may) const;

 private:
  bool Valid() const;
  Entry* Find(Tag tag);

  std::vector<Entry> entries_;
};

// An inode whose file system, outside, hands lists down to what is made and follows chmod(2) by itself.
class AclKeeper {
 protected:
  ~AclKeeper() = default;
};

// setxattr(2) of one of the two names, checked already: sets the list and what the mode says of it, or takes it away. Kernel lock.
ErrnoOr<void> SetAcl(const VfsContext& ctx, Inode& inode, std::string_view name, std::optional<Acl> acl);
// What a new node gets from its directory's default list.
struct InheritedAcl {
  std::optional<Acl> access, defaults;
};
// Changes the node's mode: as the list says, or by the umask if there is no list. Kernel lock.
InheritedAcl InheritAcl(const Inode& dir, NewNode* node);
// When it is made. Kernel lock.
ErrnoOr<void> AdoptAcl(const InheritedAcl& acl, Inode& made);

}  // namespace amber
