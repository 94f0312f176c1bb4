// User namespaces (user_namespaces(7); Linux: struct user_namespace).
//
// Inside the kernel every user and group id is one of the initial user namespace; ids are translated where they come from the
// guest or go there, by the functions below, which take a null namespace as the initial one (in it nothing changes). Owned by
// credentials, namespaces and nested user namespaces. Guarded by the kernel lock.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "sentry/base/errno_or.h"
#include "sentry/kernel/namespace.h"

namespace amber {

struct Credentials;

// A map of ids: in the namespace, and in the initial namespace.
struct IdExtent {
  uint32_t first = 0, kernel_first = 0, count = 0;
};

class UserNamespace final : public Namespace {
 public:
  static constexpr int kMaxLevel = 32;
  static constexpr size_t kMaxExtents = 340;  // UID_GID_MAP_MAX_EXTENTS
  static constexpr uint32_t kInvalidId = UINT32_MAX;
  static constexpr uint32_t kOverflowId = 65534;  // /proc/sys/kernel/overflowuid

  UserNamespace() = default;  // for Loader
  UserNamespace(RefPtr<UserNamespace> parent, const Credentials& creator);
  ~UserNamespace() override;

  int type() const override;
  Namespace* above() const override { return parent_.get(); }
  // Null: the initial one.
  UserNamespace* parent() const { return parent_.get(); }
  // 1 for a child of the initial one.
  int level() const { return level_; }
  // Effective ids of who made it (initial namespace's ids).
  uint32_t creator_uid() const { return creator_uid_; }
  uint32_t creator_gid() const { return creator_gid_; }
  bool setgroups_allowed() const { return setgroups_allowed_; }
  // /proc/PID/setgroups: EPERM once gid_map is written.
  ErrnoOr<void> SetSetgroups(bool allow);
  bool MayHaveGroups() const { return setgroups_allowed_ && !gids_.empty(); }

  // The text of /proc/PID/uid_map, or gid_map, as a reader in `reader` (null: initial) sees it.
  std::string MapText(bool groups, const UserNamespace* reader) const;
  // map_write(): `writer` opened the file and writes `text`. Checks who may, and the syntax; a map is written once.
  ErrnoOr<void> WriteMap(bool groups, const Credentials& writer, std::string_view text);

  const std::vector<IdExtent>& uids() const { return uids_; }
  const std::vector<IdExtent>& gids() const { return gids_; }

  state::Kind kind() const override { return state::Kind::kUserNamespace; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 private:
  bool MayWriteMap(bool groups, const Credentials& writer, const std::vector<IdExtent>& wanted) const;

  RefPtr<UserNamespace> parent_;
  int level_ = 1;
  uint32_t creator_uid_ = 0, creator_gid_ = 0;
  bool creator_had_setfcap_ = false;
  bool setgroups_allowed_ = true;
  std::vector<IdExtent> uids_, gids_;
};

inline int LevelOf(const UserNamespace* ns) { return ns == nullptr ? 0 : ns->level(); }

// make_kuid() and make_kgid(): kInvalidId if `id` is not mapped.
uint32_t ToKernelUid(const UserNamespace* ns, uint32_t id);
uint32_t ToKernelGid(const UserNamespace* ns, uint32_t id);
// from_kuid() and from_kgid(): kInvalidId if `id` is not mapped there.
uint32_t FromKernelUid(const UserNamespace* ns, uint32_t id);
uint32_t FromKernelGid(const UserNamespace* ns, uint32_t id);
// from_kuid_munged() and from_kgid_munged(): the overflow id instead.
uint32_t ShownUid(const UserNamespace* ns, uint32_t id);
uint32_t ShownGid(const UserNamespace* ns, uint32_t id);
// True if `ns` is `outer` or lies below it.
bool IsWithin(const UserNamespace* ns, const UserNamespace* outer);

}  // namespace amber
