#include "sentry/keys/key.h"

#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <set>
#include <utility>

#include "sentry/keys/keys.pb.h"

namespace amber {
namespace {

int NewSerial(const std::map<int, Key*>& taken) {
  while (true) {
    uint32_t serial;
    if (getrandom(&serial, sizeof(serial), 0) != sizeof(serial)) continue;
    serial >>= 1;  // a positive number
    if (serial >= 3 && !taken.contains(static_cast<int>(serial))) return static_cast<int>(serial);
  }
}

}  // namespace

KeyStore& KeyStore::Get() {
  static KeyStore& store = *new KeyStore;
  return store;
}

Key* KeyStore::Find(int serial) const {
  auto it = keys_.find(serial);
  return it == keys_.end() ? nullptr : it->second;
}

ErrnoOr<RefPtr<Key>> Key::Make(Type type, std::string description, uint32_t uid, uint32_t gid, uint32_t perm) {
  KeyStore& store = KeyStore::Get();
  KeyStore::User& user = store.user(uid);
  if (user.keys + 1 > (uid == 0 ? KeyStore::kRootKeys : KeyStore::kMaxKeys)) return Errno(EDQUOT);
  if (user.bytes + description.size() + 1 > (uid == 0 ? KeyStore::kRootBytes : KeyStore::kMaxBytes)) return Errno(EDQUOT);
  auto key = MakeRef<Key>();
  key->serial_ = NewSerial(store.keys_);
  key->type_ = type;
  key->description_ = std::move(description);
  key->uid_ = uid;
  key->gid_ = gid;
  key->perm_ = perm;
  store.keys_[key->serial_] = key.get();
  ++user.keys;
  user.bytes += key->Bytes();
  return key;
}

Key::~Key() {
  if (serial_ == 0) return;
  KeyStore& store = KeyStore::Get();
  store.keys_.erase(serial_);
  KeyStore::User& user = store.user(uid_);
  --user.keys;
  user.bytes -= Bytes();
  // A chain of rings ends link by link, not one inside the other.
  static std::vector<RefPtr<Key>> doomed;
  static bool ending = false;
  for (RefPtr<Key>& key : links_) doomed.push_back(std::move(key));
  if (std::exchange(ending, true)) return;
  while (!doomed.empty()) {
    RefPtr<Key> next = std::move(doomed.back());
    doomed.pop_back();
  }
  ending = false;
}

const char* Key::type_name() const {
  switch (type_) {
    case Type::kUser: return "user";
    case Type::kLogon: return "logon";
    case Type::kKeyring: return "keyring";
  }
  return "";
}

// Its size has changed from `before`: EDQUOT if that is too much for its owner.
ErrnoOr<void> Key::Charge(size_t before) {
  KeyStore::User& user = KeyStore::Get().user(uid_);
  size_t now = Bytes();
  if (now > before && user.bytes - before + now > (uid_ == 0 ? KeyStore::kRootBytes : KeyStore::kMaxBytes)) return Errno(EDQUOT);
  user.bytes = user.bytes - before + now;
  return Ok();
}

ErrnoOr<void> Key::ChangeOwner(uint32_t uid, uint32_t gid) {
  if (uid != uid_) {
    KeyStore::User& to = KeyStore::Get().user(uid);
    if (to.keys + 1 > (uid == 0 ? KeyStore::kRootKeys : KeyStore::kMaxKeys) ||
        to.bytes + Bytes() > (uid == 0 ? KeyStore::kRootBytes : KeyStore::kMaxBytes)) {
      return Errno(EDQUOT);
    }
    KeyStore::User& from = KeyStore::Get().user(uid_);
    --from.keys, from.bytes -= Bytes();
    ++to.keys, to.bytes += Bytes();
  }
  uid_ = uid;
  gid_ = gid;
  return Ok();
}

ErrnoOr<void> Key::SetPayload(std::string payload) {
  size_t before = Bytes();
  std::string old = std::exchange(payload_, std::move(payload));
  if (auto charged = Charge(before); !charged.ok()) {
    payload_ = std::move(old);
    return charged.error();
  }
  expiry_ = INT64_MAX;
  return Ok();
}

void Key::Revoke() {
  if (revoked_) return;
  revoked_ = true;
  size_t before = Bytes();
  payload_.clear();
  (void)Charge(before);
  if (is_ring()) Clear();
}

void Key::Invalidate() { invalidated_ = true; }

ErrnoOr<void> Key::Validate(int64_t now) const {
  if (invalidated_) return Errno(ENOKEY);
  if (revoked_) return Errno(EKEYREVOKED);
  if (now >= expiry_) return Errno(EKEYEXPIRED);
  return Ok();
}

Key* Key::Linked(Type type, const std::string& description) const {
  for (const RefPtr<Key>& key : links_) {
    if (key->type_ == type && key->description_ == description && !key->invalidated_) return key.get();
  }
  return nullptr;
}

bool Key::Reaches(const Key& key) const {
  std::set<const Key*> seen = {this};
  std::vector<const Key*> todo = {this};
  while (!todo.empty()) {
    const Key* ring = todo.back();
    todo.pop_back();
    if (ring == &key) return true;
    for (const RefPtr<Key>& next : ring->links_) {
      if (seen.insert(next.get()).second) todo.push_back(next.get());
    }
  }
  return false;
}

ErrnoOr<void> Key::Link(Key& key) {
  if (key.is_ring() && key.Reaches(*this)) return Errno(EDEADLK);
  for (RefPtr<Key>& old : links_) {
    if (old.get() == &key) return Ok();
    if (old->type_ != key.type_ || old->description_ != key.description_) continue;
    old = RefPtr<Key>(&key);
    return Ok();
  }
  size_t before = Bytes();
  links_.emplace_back(&key);
  if (auto charged = Charge(before); !charged.ok()) {
    links_.pop_back();
    return charged.error();
  }
  return Ok();
}

ErrnoOr<void> Key::Unlink(Key& key) {
  size_t before = Bytes();
  auto it = std::find(links_.begin(), links_.end(), RefPtr<Key>(&key));
  if (it == links_.end()) return Errno(ENOENT);
  RefPtr<Key> gone = std::move(*it);
  links_.erase(it);
  return Charge(before);
}

void Key::Clear() {
  size_t before = Bytes();
  std::vector<RefPtr<Key>> gone = std::exchange(links_, {});
  (void)Charge(before);
}

void Key::DropDead() {
  size_t before = Bytes();
  std::vector<RefPtr<Key>> kept, gone;
  for (RefPtr<Key>& key : links_) (key->invalidated_ ? gone : kept).push_back(std::move(key));
  links_ = std::move(kept);
  (void)Charge(before);
}

std::string Key::Save(state::Saver& saver) const {
  keys_state::Key m;
  m.set_serial(serial_);
  m.set_type(static_cast<int>(type_));
  m.set_description(description_);
  m.set_payload(payload_);
  m.set_uid(uid_);
  m.set_gid(gid_);
  m.set_perm(perm_);
  m.set_expiry(expiry_);
  m.set_revoked(revoked_);
  m.set_invalidated(invalidated_);
  for (const RefPtr<Key>& key : links_) m.add_link(saver.Ref(key));
  const auto& users = KeyStore::Get().users();
  if (auto it = users.find(uid_); it != users.end()) m.set_of_user(it->second.ring.get() == this ? 1 : it->second.session.get() == this ? 2 : 0);
  return m.SerializeAsString();
}

bool Key::Load(state::Loader& loader, std::string_view bytes) {
  keys_state::Key m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return loader.Fail("a key is malformed");
  KeyStore& store = KeyStore::Get();
  if (m.serial() < 3 || store.keys_.contains(m.serial()) || m.type() < 0 || m.type() > 2 || m.payload().size() > kMaxPayload) {
    return loader.Fail("a key is malformed");
  }
  type_ = static_cast<Type>(m.type());
  description_ = m.description();
  payload_ = m.payload();
  uid_ = m.uid();
  gid_ = m.gid();
  perm_ = m.perm();
  expiry_ = m.expiry();
  revoked_ = m.revoked();
  invalidated_ = m.invalidated();
  for (uint64_t id : m.link()) {
    RefPtr<Key> key = loader.GetRef<Key>(id);
    if (!key || !is_ring()) return loader.Fail("a ring links what is no key");
    links_.push_back(std::move(key));
  }
  serial_ = m.serial();
  store.keys_[serial_] = this;
  KeyStore::User& user = store.user(uid_);
  ++user.keys;
  user.bytes += Bytes();
  if (m.of_user() == 1) user.ring = RefPtr<Key>(this);
  if (m.of_user() == 2) user.session = RefPtr<Key>(this);
  of_user_ = m.of_user() != 0;
  return true;
}

bool Key::AfterLoad(state::Loader& loader) {
  // No circles, which nothing could ever free.
  for (const RefPtr<Key>& key : links_) {
    if (key->Reaches(*this)) return loader.Fail("a ring contains itself");
  }
  return true;
}

}  // namespace amber
