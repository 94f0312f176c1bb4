// Which keys a task has, and what it may do with them (security/keys/process_keys.c, permission.c, keyring.c, proc.c).
#include <linux/capability.h>
#include <linux/keyctl.h>

#include <cinttypes>
#include <cstdio>
#include <set>

#include "sentry/kernel/credentials.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/keys/key.h"

namespace amber {
namespace {

constexpr int kMaxDepth = 6;
constexpr uint32_t kPossessor = Key::kAll << 24;
constexpr uint32_t kUserView = Key::kView << 16, kUserRead = Key::kRead << 16;

int64_t Now(const Task& task) { return task.kernel().clocks().Monotonic(); }

uint32_t Granted(const Credentials& creds, const Key& key, bool possessed) {
  uint32_t granted = key.perm();
  if (key.uid() == creds.fsuid) {
    granted >>= 16;
  } else if (key.gid() != UINT32_MAX && (key.perm() & Key::kAll << 8) != 0 && creds.InGroup(key.gid())) {
    granted >>= 8;
  }
  if (possessed) granted |= key.perm() >> 24;
  return granted & Key::kAll;
}

ErrnoOr<RefPtr<Key>> MakeRing(const Task& task, const char* name, uint32_t perm) {
  return Key::Make(Key::Type::kKeyring, name, task.creds().uid, task.creds().gid, perm);
}

ErrnoOr<KeyRef> Search(const Task& task, const KeyRef& ring, Key::Type type, const std::string& description, int depth, std::set<const Key*>* seen) {
  Errno why(ENOKEY);
  if (Key* key = ring.key->Linked(type, description); key != nullptr) {
    KeyRef found{RefPtr<Key>(key), ring.possessed};
    auto valid = key->Validate(Now(task));
    if (valid.ok() && CheckKey(task, found, Key::kSearch).ok()) return found;
    why = valid.ok() ? Errno(EACCES) : valid.error();
  }
  if (depth == kMaxDepth) return why;
  for (const RefPtr<Key>& inner : ring.key->links()) {
    if (!inner->is_ring() || !inner->Validate(Now(task)).ok() || !seen->insert(inner.get()).second) continue;
    KeyRef next{inner, ring.possessed};
    if (!CheckKey(task, next, Key::kSearch).ok()) continue;
    auto found = Search(task, next, type, description, depth + 1, seen);
    if (found.ok()) return found;
    if (!found.Is(ENOKEY)) why = found.error();
  }
  return why;
}

// The rings that make it the possessor of what they lead to.
std::vector<RefPtr<Key>> RingsOfTask(const Task& task) {
  std::vector<RefPtr<Key>> rings;
  if (task.extras().thread_keys) rings.push_back(task.extras().thread_keys);
  if (task.group().extras().process_keys) rings.push_back(task.group().extras().process_keys);
  if (task.extras().session_keys) {
    rings.push_back(task.extras().session_keys);
  } else if (const RefPtr<Key>& session = KeyStore::Get().user(task.creds().uid).session; session) {
    rings.push_back(session);
  }
  return rings;
}

ErrnoOr<KeyRef> SessionRing(Task& task, bool create) {
  TaskExtras& extras = task.extras();
  if (!extras.session_keys) {
    RefPtr<Key> session = KeyStore::Get().RingsOf(task.creds().uid).session;
    if (!session) return Errno(ENOKEY);
    extras.session_keys = std::move(session);
    if (create) TRY(JoinNewSession(task));
  } else if (extras.session_keys->of_user() && create) {
    TRY(JoinNewSession(task));
  }
  return KeyRef{extras.session_keys, true};
}

ErrnoOr<KeyRef> Special(Task& task, int id, bool create) {
  const Credentials& creds = task.creds();
  switch (id) {
    case KEY_SPEC_THREAD_KEYRING: {
      RefPtr<Key>& ring = task.extras().thread_keys;
      if (!ring && !create) return Errno(ENOKEY);
      if (!ring) ring = TRY(MakeRing(task, "_tid", kPossessor | kUserView));
      return KeyRef{ring, true};
    }
    case KEY_SPEC_PROCESS_KEYRING: {
      RefPtr<Key>& ring = task.group().extras().process_keys;
      if (!ring && !create) return Errno(ENOKEY);
      if (!ring) ring = TRY(MakeRing(task, "_pid", kPossessor | kUserView));
      return KeyRef{ring, true};
    }
    case KEY_SPEC_SESSION_KEYRING: return SessionRing(task, create);
    case KEY_SPEC_USER_KEYRING: {
      RefPtr<Key> ring = KeyStore::Get().RingsOf(creds.uid).ring;
      return ring ? ErrnoOr<KeyRef>(KeyRef{ring, true}) : Errno(ENOKEY);
    }
    case KEY_SPEC_USER_SESSION_KEYRING: {
      RefPtr<Key> ring = KeyStore::Get().RingsOf(creds.uid).session;
      return ring ? ErrnoOr<KeyRef>(KeyRef{ring, true}) : Errno(ENOKEY);
    }
    case KEY_SPEC_REQKEY_AUTH_KEY:
    case KEY_SPEC_REQUESTOR_KEYRING: return Errno(ENOKEY);  // nothing is being requested of this task
    default: return Errno(EINVAL);
  }
}

char Letter(bool on, char letter) { return on ? letter : '-'; }

}  // namespace

// Without those that there is no room for in the user's quota.
KeyStore::User& KeyStore::RingsOf(uint32_t uid) {
  User& user = users_[uid];
  constexpr uint32_t kPerm = (kPossessor & ~(Key::kSetAttr << 24)) | Key::kAll << 16;
  auto make = [&](const char* name) {
    auto ring = Key::Make(Key::Type::kKeyring, name + std::to_string(uid), uid, UINT32_MAX, kPerm);
    if (!ring.ok()) return RefPtr<Key>();
    (*ring)->set_of_user();
    return *ring;
  };
  if (!user.ring) user.ring = make("_uid.");
  if (user.ring && !user.session) {
    RefPtr<Key> session = make("_uid_ses.");
    if (session && session->Link(*user.ring).ok()) user.session = std::move(session);
  }
  return user;
}

Key* KeyStore::FindRing(const std::string& name, const Credentials& creds) const {
  for (const auto& [serial, key] : keys_) {
    if (!key->is_ring() || key->description() != name || key->revoked() || key->invalidated()) continue;
    if ((Granted(creds, *key, false) & Key::kSearch) != 0) return key;
  }
  return nullptr;
}

ErrnoOr<void> JoinNewSession(Task& task) {
  task.extras().session_keys = TRY(MakeRing(task, "_ses", kPossessor | kUserView | kUserRead));
  return Ok();
}

RefPtr<Key> NewThreadRing(const Task& maker) {
  auto ring = MakeRing(maker, "_tid", kPossessor | kUserView);
  return ring.ok() ? *ring : RefPtr<Key>();
}

bool Possesses(const Task& task, const Key& key) {
  for (const RefPtr<Key>& ring : RingsOfTask(task)) {
    if (ring->Reaches(key)) return true;
  }
  return false;
}

ErrnoOr<void> CheckKey(const Task& task, const KeyRef& ref, uint32_t need) {
  if ((Granted(task.creds(), *ref.key, ref.possessed) & need) != need) return Errno(EACCES);
  return Ok();
}

ErrnoOr<KeyRef> LookUpKey(Task& task, int id, bool create, uint32_t need, bool partial) {
  KeyRef ref;
  if (id > 0) {
    Key* key = KeyStore::Get().Find(id);
    if (key == nullptr) return Errno(ENOKEY);
    ref = {RefPtr<Key>(key), Possesses(task, *key)};
  } else {
    ref = TRY(Special(task, id, create));
  }
  if (!partial) TRY(ref.key->Validate(Now(task)));
  if (ref.key->invalidated()) return Errno(ENOKEY);
  TRY(CheckKey(task, ref, need));
  return ref;
}

ErrnoOr<KeyRef> SearchRing(const Task& task, const KeyRef& ring, Key::Type type, const std::string& description) {
  if (!ring.key->is_ring()) return Errno(ENOTDIR);
  TRY(CheckKey(task, ring, Key::kSearch));
  std::set<const Key*> seen = {ring.key.get()};
  return Search(task, ring, type, description, 0, &seen);
}

ErrnoOr<KeyRef> SearchTask(Task& task, Key::Type type, const std::string& description) {
  // That one of them does not have it counts for more than why another one's is no good (search_cred_keyrings_rcu()).
  Errno why(ENOKEY);
  bool missing = false;
  for (const RefPtr<Key>& ring : RingsOfTask(task)) {
    auto found = SearchRing(task, {ring, true}, type, description);
    if (found.ok()) return found;
    missing |= found.Is(ENOKEY);
    why = found.error();
  }
  return missing ? Errno(ENOKEY) : why;
}

// proc_keys_show(): keys that the reader may view.
std::string KeysText(Task& reader) {
  std::string out;
  for (const auto& [serial, key] : KeyStore::Get().all()) {
    KeyRef ref{RefPtr<Key>(key), Possesses(reader, *key)};
    if (!CheckKey(reader, ref, Key::kView).ok()) continue;
    char expires[24] = "perm";
    int64_t now = Now(reader);
    if (key->expiry() != INT64_MAX) {
      int64_t left = (key->expiry() - now) / 1'000'000'000;
      if (key->expiry() <= now) {
        snprintf(expires, sizeof(expires), "expd");
      } else if (left < 60) {
        snprintf(expires, sizeof(expires), "%" PRId64 "s", left);
      } else if (left < 60 * 60) {
        snprintf(expires, sizeof(expires), "%" PRId64 "m", left / 60);
      } else if (left < 60 * 60 * 24) {
        snprintf(expires, sizeof(expires), "%" PRId64 "h", left / 3600);
      } else if (left < 60 * 60 * 24 * 7) {
        snprintf(expires, sizeof(expires), "%" PRId64 "d", left / 86400);
      } else {
        snprintf(expires, sizeof(expires), "%" PRId64 "w", left / 604800);
      }
    }
    char line[160];
    snprintf(line, sizeof(line), "%08x %c%c%c%c%c%c%c %5d %4s %08x %5d %5d %-9.9s ", static_cast<uint32_t>(serial), 'I', Letter(key->revoked(), 'R'),
             '-', 'Q', '-', '-', Letter(key->invalidated(), 'i'), static_cast<int>(key->ref_count()) - 1, expires, key->perm(),
             static_cast<int>(key->uid()), static_cast<int>(key->shown_gid()), key->type_name());
    out += line + key->description();
    if (key->is_ring()) {
      out += key->links().empty() ? ": empty" : ": " + std::to_string(key->links().size());
    } else if (key->type() == Key::Type::kUser || key->type() == Key::Type::kLogon) {
      out += ": " + std::to_string(key->payload().size());
    }
    out += '\n';
  }
  return out;
}

// proc_key_users_show()
std::string KeyUsersText(Task&) {
  std::string out;
  for (const auto& [uid, user] : KeyStore::Get().users()) {
    if (user.keys == 0) continue;
    char line[128];
    size_t max_keys = uid == 0 ? KeyStore::kRootKeys : KeyStore::kMaxKeys, max_bytes = uid == 0 ? KeyStore::kRootBytes : KeyStore::kMaxBytes;
    snprintf(line, sizeof(line), "%5u: %5zu %zu/%zu %zu/%zu %zu/%zu\n", uid, user.keys + 1, user.keys, user.keys, user.keys, max_keys, user.bytes,
             max_bytes);
    out += line;
  }
  return out;
}

}  // namespace amber
