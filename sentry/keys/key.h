// Keys and key rings (keyrings(7), security/keys).
//
// A Key is held by the rings that link it, and by the tasks, processes and users whose rings they are. All keys are known by their serial numbers
// in KeyStore, which exists once; it holds none of them but the users' own rings. Guarded by the kernel lock.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "checkpoint/state.h"
#include "sentry/base/errno_or.h"
#include "sentry/base/ref_ptr.h"

namespace amber {

class Task;
struct Credentials;

class Key final : public RefCounted<Key>, public state::Saveable {
 public:
  enum class Type : int { kUser, kLogon, kKeyring };
  // Bits of a permission mask, for one class of users; those of possessors lie 24 bits higher, of the owner 16, of the group 8.
  static constexpr uint32_t kView = 1, kRead = 2, kWrite = 4, kSearch = 8, kLink = 16, kSetAttr = 32, kAll = 63;
  static constexpr size_t kMaxPayload = 32767;

  Key() = default;  // for Loader
  // EDQUOT.
  static ErrnoOr<RefPtr<Key>> Make(Type type, std::string description, uint32_t uid, uint32_t gid, uint32_t perm);
  ~Key() override;

  int serial() const { return serial_; }
  Type type() const { return type_; }
  const char* type_name() const;
  bool is_ring() const { return type_ == Type::kKeyring; }
  const std::string& description() const { return description_; }
  uint32_t uid() const { return uid_; }
  uint32_t gid() const { return gid_; }
  uint32_t shown_gid() const { return gid_ == UINT32_MAX ? 65534 : gid_; }  // users' own rings have no group
  uint32_t perm() const { return perm_; }
  void set_perm(uint32_t perm) { perm_ = perm; }
  ErrnoOr<void> ChangeOwner(uint32_t uid, uint32_t gid);
  const std::string& payload() const { return payload_; }
  ErrnoOr<void> SetPayload(std::string payload);
  // CLOCK_MONOTONIC of the guest, ns; kNever.
  int64_t expiry() const { return expiry_; }
  void set_expiry(int64_t when) { expiry_ = when; }
  bool revoked() const { return revoked_; }
  void Revoke();
  void Invalidate();
  bool invalidated() const { return invalidated_; }
  bool of_user() const { return of_user_; }
  void set_of_user() { of_user_ = true; }
  // key_validate(): ENOKEY, EKEYREVOKED, EKEYEXPIRED.
  ErrnoOr<void> Validate(int64_t now) const;

  // --- rings ---
  const std::vector<RefPtr<Key>>& links() const { return links_; }
  Key* Linked(Type type, const std::string& description) const;
  // Replaces a link of the same type and name. EDEADLK for a circle, EDQUOT, ENFILE.
  ErrnoOr<void> Link(Key& key);
  // ENOENT.
  ErrnoOr<void> Unlink(Key& key);
  void Clear();
  // `key` is this, or is linked here or further down. Each ring is looked into once, whatever the links are.
  bool Reaches(const Key& key) const;
  // Takes out what is no more: invalidated keys.
  void DropDead();

  state::Kind kind() const override { return state::Kind::kKeyring; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 private:
  // What it counts for its owner's quota.
  size_t Bytes() const { return description_.size() + 1 + payload_.size() + links_.size() * 4; }
  ErrnoOr<void> Charge(size_t before);

  int serial_ = 0;
  Type type_ = Type::kUser;
  std::string description_, payload_;
  uint32_t uid_ = 0, gid_ = 0, perm_ = 0;
  int64_t expiry_ = INT64_MAX;
  bool revoked_ = false, invalidated_ = false, of_user_ = false;
  std::vector<RefPtr<Key>> links_;
};

// One per kernel.
class KeyStore {
 public:
  // Linux: sysctl_keys (kernel.keys.*).
  static constexpr size_t kMaxKeys = 200, kMaxBytes = 20000, kRootKeys = 1000000, kRootBytes = 25000000;
  struct User {
    RefPtr<Key> ring, session;  // _uid.N, _uid_ses.N
    size_t keys = 0, bytes = 0;
  };

  static KeyStore& Get();
  Key* Find(int serial) const;
  const std::map<int, Key*>& all() const { return keys_; }
  const std::map<uint32_t, User>& users() const { return users_; }
  User& user(uint32_t uid) { return users_[uid]; }
  // With both rings.
  User& RingsOf(uint32_t uid);
  // The ring with this name that `creds` may search (KEYCTL_JOIN_SESSION_KEYRING), or null.
  Key* FindRing(const std::string& name, const Credentials& creds) const;

 private:
  friend class Key;
  std::map<int, Key*> keys_;
  std::map<uint32_t, User> users_;
};

// Rings by KEY_SPEC_* or keys by number, as a task refers to them (lookup_user_key()).
struct KeyRef {
  RefPtr<Key> key;
  bool possessed = false;
};
ErrnoOr<KeyRef> LookUpKey(Task& task, int id, bool create, uint32_t need, bool partial = false);
// EACCES unless `task` has all of `need`.
ErrnoOr<void> CheckKey(const Task& task, const KeyRef& ref, uint32_t need);
// Depth first through rings that may be searched. ENOKEY, or why what was found is no good.
ErrnoOr<KeyRef> SearchRing(const Task& task, const KeyRef& ring, Key::Type type, const std::string& description);
// In the rings of the task: thread, process, session (search_process_keyrings()).
ErrnoOr<KeyRef> SearchTask(Task& task, Key::Type type, const std::string& description);
bool Possesses(const Task& task, const Key& key);
// For a new thread whose maker has a ring of its own (copy_creds()); null if there is no room.
RefPtr<Key> NewThreadRing(const Task& maker);
// KEYCTL_JOIN_SESSION_KEYRING: a new ring without a name.
ErrnoOr<void> JoinNewSession(Task& task);

// /proc/keys and /proc/key-users.
std::string KeysText(Task& reader);
std::string KeyUsersText(Task& reader);

}  // namespace amber
