// add_key(2), request_key(2), keyctl(2).
#include <linux/capability.h>
#include <linux/keyctl.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/keys/key.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/table.h"

namespace amber {
namespace {

constexpr uint64_t kMaxDescription = 4096, kMaxPlan = 1024 * 1024 - 1;

ErrnoOr<Key::Type> TypeOf(const std::string& name) {
  if (name == "user") return Key::Type::kUser;
  if (name == "logon") return Key::Type::kLogon;
  if (name == "keyring") return Key::Type::kKeyring;
  return Errno(ENODEV);
}

// key_get_type_from_user()
ErrnoOr<std::string> CopyType(Task& task, UserPtr<const char> p) {
  auto name = task.CopyInString(p, 32);
  if (name.Is(ENAMETOOLONG)) return Errno(EINVAL);
  if (!name.ok()) return name.error();
  if (name->empty()) return Errno(EINVAL);
  if ((*name)[0] == '.') return Errno(EPERM);
  return *name;
}

// strndup_user()
ErrnoOr<std::string> CopyText(Task& task, UserPtr<const char> p) {
  auto text = task.CopyInString(p, kMaxDescription);
  if (text.Is(ENAMETOOLONG)) return Errno(EINVAL);
  return text;
}

int64_t Now(const Task& task) { return task.kernel().clocks().Monotonic(); }

ErrnoOr<void> CheckPayload(Key::Type type, const std::string& description, size_t size) {
  if (type == Key::Type::kKeyring) return size == 0 ? Ok() : ErrnoOr<void>(Errno(EINVAL));
  // logon_vet_description(): "service:name".
  size_t colon = description.find(':');
  if (type == Key::Type::kLogon && (colon == std::string::npos || colon == 0)) return Errno(EINVAL);
  if (size == 0 || size > Key::kMaxPayload) return Errno(EINVAL);
  return Ok();
}

// key_create_or_update()'s default.
uint32_t DefaultPerm(Key::Type type) {
  uint32_t possessor = Key::kView | Key::kSearch | Key::kLink | Key::kSetAttr | Key::kWrite;
  if (type != Key::Type::kLogon) possessor |= Key::kRead;
  return possessor << 24 | Key::kView << 16;
}

ErrnoOr<uint64_t> AddKey(Task& task, UserPtr<const char> type_p, UserPtr<const char> description_p, uint64_t payload_p, uint64_t size, int ring_id) {
  if (size > kMaxPlan) return Errno(EINVAL);
  std::string type_name = TRY(CopyType(task, type_p));
  std::string description;
  if (description_p) description = TRY(CopyText(task, description_p));
  if (description.starts_with('.') && type_name == "keyring") return Errno(EPERM);
  std::string payload(size, '\0');
  if (size > 0) TRY(task.CopyInBytes(payload_p, payload.data(), size));
  KeyRef ring = TRY(LookUpKey(task, ring_id, true, Key::kWrite));
  Key::Type type = TRY(TypeOf(type_name));
  if (!ring.key->is_ring()) return Errno(ENOTDIR);
  TRY(CheckPayload(type, description, payload.size()));
  if (description.empty()) return Errno(EINVAL);
  if (Key* old = type != Key::Type::kKeyring ? ring.key->Linked(type, description) : nullptr; old != nullptr) {
    KeyRef ref{RefPtr<Key>(old), ring.possessed};
    TRY(CheckKey(task, ref, Key::kWrite));
    TRY(old->Validate(Now(task)));
    TRY(old->SetPayload(std::move(payload)));
    return static_cast<uint64_t>(old->serial());
  }
  RefPtr<Key> key = TRY(Key::Make(type, description, task.creds().fsuid, task.creds().fsgid, DefaultPerm(type)));
  if (!payload.empty()) TRY(key->SetPayload(std::move(payload)));
  TRY(ring.key->Link(*key));
  return static_cast<uint64_t>(key->serial());
}

// There is no program here that makes keys (/sbin/request-key): what is not there is ENOKEY, as where that fails.
ErrnoOr<uint64_t> RequestKey(Task& task, UserPtr<const char> type_p, UserPtr<const char> description_p, UserPtr<const char> callout_p, int ring_id) {
  std::string type_name = TRY(CopyType(task, type_p));
  std::string description = TRY(CopyText(task, description_p));
  if (callout_p) TRY(CopyText(task, callout_p));
  KeyRef ring;
  if (ring_id != 0) ring = TRY(LookUpKey(task, ring_id, true, Key::kWrite));
  auto type = TypeOf(type_name);
  if (!type.ok()) return Errno(ENOKEY);
  KeyRef found = TRY(SearchTask(task, *type, description));
  if (ring.key) {
    TRY(CheckKey(task, found, Key::kLink));
    if (!ring.key->is_ring()) return Errno(ENOTDIR);
    TRY(ring.key->Link(*found.key));
  }
  return static_cast<uint64_t>(found.key->serial());
}

ErrnoOr<uint64_t> JoinSession(Task& task, UserPtr<const char> name_p) {
  if (!name_p) {
    TRY(JoinNewSession(task));
    return static_cast<uint64_t>(task.extras().session_keys->serial());
  }
  std::string name = TRY(CopyText(task, name_p));
  if (name.starts_with('.')) return Errno(EPERM);
  Key* ring = KeyStore::Get().FindRing(name, task.creds());
  if (ring != nullptr) {
    task.extras().session_keys = RefPtr<Key>(ring);
  } else {
    constexpr uint32_t kPerm = Key::kAll << 24 | (Key::kView | Key::kRead | Key::kLink) << 16;
    task.extras().session_keys = TRY(Key::Make(Key::Type::kKeyring, name, task.creds().uid, task.creds().gid, kPerm));
  }
  return static_cast<uint64_t>(task.extras().session_keys->serial());
}

ErrnoOr<uint64_t> Update(Task& task, int id, uint64_t payload_p, uint64_t size) {
  if (size > 4096) return Errno(EINVAL);
  std::string payload(size, '\0');
  if (size > 0) TRY(task.CopyInBytes(payload_p, payload.data(), size));
  KeyRef ref = TRY(LookUpKey(task, id, false, Key::kWrite));
  if (ref.key->is_ring()) return Errno(EOPNOTSUPP);
  TRY(CheckPayload(ref.key->type(), ref.key->description(), size));
  TRY(ref.key->SetPayload(std::move(payload)));
  return 0;
}

ErrnoOr<uint64_t> Revoke(Task& task, int id) {
  auto ref = LookUpKey(task, id, false, Key::kWrite);
  if (ref.Is(EACCES)) ref = LookUpKey(task, id, false, Key::kSetAttr);
  TRY(std::move(ref)).key->Revoke();
  return 0;
}

ErrnoOr<uint64_t> Chown(Task& task, int id, uint32_t uid, uint32_t gid) {
  if (uid == UINT32_MAX && gid == UINT32_MAX) return 0;
  KeyRef ref = TRY(LookUpKey(task, id, true, Key::kSetAttr, true));
  if (!task.Has(CAP_SYS_ADMIN)) {
    if (uid != UINT32_MAX && uid != ref.key->uid()) return Errno(EACCES);
    if (gid != UINT32_MAX && gid != ref.key->gid() && !task.creds().InGroup(gid)) return Errno(EACCES);
  }
  TRY(ref.key->ChangeOwner(uid == UINT32_MAX ? ref.key->uid() : uid, gid == UINT32_MAX ? ref.key->gid() : gid));
  return 0;
}

ErrnoOr<uint64_t> SetPerm(Task& task, int id, uint32_t perm) {
  if ((perm & ~0x3f3f3f3fu) != 0) return Errno(EINVAL);
  KeyRef ref = TRY(LookUpKey(task, id, true, Key::kSetAttr, true));
  if (ref.key->uid() != task.creds().fsuid && !task.Has(CAP_SYS_ADMIN)) return Errno(EACCES);
  ref.key->set_perm(perm);
  return 0;
}

ErrnoOr<uint64_t> Describe(Task& task, int id, uint64_t buffer, uint64_t size) {
  KeyRef ref = TRY(LookUpKey(task, id, false, Key::kView, true));
  char head[96];
  snprintf(head, sizeof(head), "%s;%d;%d;%08x;", ref.key->type_name(), static_cast<int>(ref.key->uid()), static_cast<int>(ref.key->shown_gid()),
           ref.key->perm());
  std::string text = head + ref.key->description();
  if (buffer != 0 && size >= text.size() + 1) TRY(task.CopyOutBytes(buffer, text.c_str(), text.size() + 1));
  return uint64_t{text.size() + 1};
}

ErrnoOr<uint64_t> Read(Task& task, int id, uint64_t buffer, uint64_t size) {
  auto looked_up = LookUpKey(task, id, false, 0);
  if (!looked_up.ok()) return looked_up.Is(EKEYREVOKED) || looked_up.Is(EKEYEXPIRED) ? looked_up.error() : Errno(ENOKEY);
  KeyRef ref = *looked_up;
  // Who may search for a key that it possesses may read it.
  if (!CheckKey(task, ref, Key::kRead).ok() && !(ref.possessed && CheckKey(task, ref, Key::kSearch).ok())) return Errno(EACCES);
  std::string data;
  switch (ref.key->type()) {
    case Key::Type::kLogon: return Errno(EOPNOTSUPP);
    case Key::Type::kUser: data = ref.key->payload(); break;
    case Key::Type::kKeyring:
      for (const RefPtr<Key>& key : ref.key->links()) {
        int serial = key->serial();
        data.append(reinterpret_cast<const char*>(&serial), sizeof(serial));
      }
      // Rings are told as far as there is room.
      if (buffer != 0 && size > 0) TRY(task.CopyOutBytes(buffer, data.data(), std::min<uint64_t>(data.size(), size / 4 * 4)));
      return uint64_t{data.size()};
  }
  if (buffer != 0 && size >= data.size()) TRY(task.CopyOutBytes(buffer, data.data(), data.size()));
  return uint64_t{data.size()};
}

ErrnoOr<RefPtr<Key>> WritableRing(Task& task, int id, bool create) {
  KeyRef ring = TRY(LookUpKey(task, id, create, Key::kWrite));
  if (!ring.key->is_ring()) return Errno(ENOTDIR);
  return ring.key;
}

ErrnoOr<uint64_t> Link(Task& task, int id, int ring_id) {
  RefPtr<Key> ring = TRY(WritableRing(task, ring_id, true));
  KeyRef key = TRY(LookUpKey(task, id, true, Key::kLink));
  TRY(ring->Link(*key.key));
  return 0;
}

ErrnoOr<uint64_t> Unlink(Task& task, int id, int ring_id) {
  RefPtr<Key> ring = TRY(WritableRing(task, ring_id, false));
  KeyRef key = TRY(LookUpKey(task, id, false, 0, true));
  TRY(ring->Unlink(*key.key));
  return 0;
}

ErrnoOr<uint64_t> Move(Task& task, int id, int from_id, int to_id, unsigned flags) {
  if ((flags & ~1u) != 0) return Errno(EINVAL);  // KEYCTL_MOVE_EXCL
  KeyRef key = TRY(LookUpKey(task, id, true, Key::kLink));
  RefPtr<Key> from = TRY(WritableRing(task, from_id, false));
  RefPtr<Key> to = TRY(WritableRing(task, to_id, true));
  if (from == to) return 0;
  if (flags != 0 && to->Linked(key.key->type(), key.key->description()) != nullptr) return Errno(EEXIST);
  if (std::find(from->links().begin(), from->links().end(), key.key) == from->links().end()) return Errno(ENOENT);
  TRY(to->Link(*key.key));
  TRY(from->Unlink(*key.key));
  return 0;
}

ErrnoOr<uint64_t> Search(Task& task, int ring_id, UserPtr<const char> type_p, UserPtr<const char> description_p, int destination) {
  std::string type_name = TRY(CopyType(task, type_p));
  std::string description = TRY(CopyText(task, description_p));
  KeyRef ring = TRY(LookUpKey(task, ring_id, false, Key::kSearch));
  RefPtr<Key> to;
  if (destination != 0) to = TRY(WritableRing(task, destination, true));
  auto type = TypeOf(type_name);
  if (!type.ok()) return Errno(ENOKEY);
  auto found = SearchRing(task, ring, *type, description);
  if (found.Is(EAGAIN)) return Errno(ENOKEY);
  KeyRef key = TRY(std::move(found));
  if (to) {
    TRY(CheckKey(task, key, Key::kLink));
    TRY(to->Link(*key.key));
  }
  return static_cast<uint64_t>(key.key->serial());
}

ErrnoOr<uint64_t> SetTimeout(Task& task, int id, unsigned seconds) {
  KeyRef ref = TRY(LookUpKey(task, id, true, Key::kSetAttr, true));
  ref.key->set_expiry(seconds == 0 ? kNever : Now(task) + int64_t{seconds} * kNsPerSecond);
  return 0;
}

ErrnoOr<uint64_t> Invalidate(Task& task, int id) {
  KeyRef ref = TRY(LookUpKey(task, id, false, Key::kSearch));
  ref.key->Invalidate();
  std::vector<RefPtr<Key>> rings;
  for (const auto& [serial, key] : KeyStore::Get().all()) {
    if (key->is_ring()) rings.emplace_back(key);
  }
  for (const RefPtr<Key>& ring : rings) ring->DropDead();
  return 0;
}

ErrnoOr<uint64_t> SetRequestKeys(Task& task, int where) {
  if (where == KEY_REQKEY_DEFL_NO_CHANGE) return static_cast<uint64_t>(task.extras().request_keys_to);
  if (where < KEY_REQKEY_DEFL_DEFAULT || where > KEY_REQKEY_DEFL_REQUESTOR_KEYRING || where == KEY_REQKEY_DEFL_GROUP_KEYRING) return Errno(EINVAL);
  if (where == KEY_REQKEY_DEFL_THREAD_KEYRING) TRY(LookUpKey(task, KEY_SPEC_THREAD_KEYRING, true, 0));
  if (where == KEY_REQKEY_DEFL_PROCESS_KEYRING) TRY(LookUpKey(task, KEY_SPEC_PROCESS_KEYRING, true, 0));
  return static_cast<uint64_t>(std::exchange(task.extras().request_keys_to, where));
}

// KEYCTL_SESSION_TO_PARENT: at once, where Linux waits until the parent's next return from a call.
ErrnoOr<uint64_t> SessionToParent(Task& task) {
  KeyRef session = TRY(LookUpKey(task, KEY_SPEC_SESSION_KEYRING, false, Key::kLink));
  ThreadGroup* parent = task.group().parent();
  if (parent == nullptr || parent->live_tasks() != 1) return Errno(EPERM);
  Task& to = *parent->leader();
  const Credentials& mine = task.creds();
  const Credentials& theirs = to.creds();
  if (!to.has_mm() || theirs.uid != mine.euid || theirs.euid != mine.euid || theirs.suid != mine.euid || theirs.gid != mine.egid ||
      theirs.egid != mine.egid || theirs.sgid != mine.egid) {
    return Errno(EPERM);
  }
  to.extras().session_keys = session.key;
  return 0;
}

ErrnoOr<uint64_t> Capabilities(Task& task, uint64_t buffer, uint64_t size) {
  // KEYCTL_CAPS0_CAPABILITIES, _INVALIDATE, _MOVE.
  const uint8_t caps[] = {0x01 | 0x20 | 0x80, 0};
  std::vector<uint8_t> out(std::min<uint64_t>(size, 4096));
  std::copy_n(caps, std::min(out.size(), sizeof(caps)), out.begin());
  if (!out.empty()) TRY(task.CopyOutBytes(buffer, out.data(), out.size()));
  return uint64_t{sizeof(caps)};
}

ErrnoOr<uint64_t> Keyctl(Task& task, int command, uint64_t a, uint64_t b, uint64_t c, uint64_t d) {
  int id = static_cast<int>(a), second = static_cast<int>(b);
  switch (command) {
    case KEYCTL_GET_KEYRING_ID: return static_cast<uint64_t>(TRY(LookUpKey(task, id, second != 0, Key::kSearch)).key->serial());
    case KEYCTL_JOIN_SESSION_KEYRING: return JoinSession(task, UserPtr<const char>(a));
    case KEYCTL_UPDATE: return Update(task, id, b, c);
    case KEYCTL_REVOKE: return Revoke(task, id);
    case KEYCTL_CHOWN: return Chown(task, id, static_cast<uint32_t>(b), static_cast<uint32_t>(c));
    case KEYCTL_SETPERM: return SetPerm(task, id, static_cast<uint32_t>(b));
    case KEYCTL_DESCRIBE: return Describe(task, id, b, c);
    case KEYCTL_CLEAR: TRY(WritableRing(task, id, true))->Clear(); return 0;
    case KEYCTL_LINK: return Link(task, id, second);
    case KEYCTL_UNLINK: return Unlink(task, id, second);
    case KEYCTL_SEARCH: return Search(task, id, UserPtr<const char>(b), UserPtr<const char>(c), static_cast<int>(d));
    case KEYCTL_READ: return Read(task, id, b, c);
    case KEYCTL_SET_REQKEY_KEYRING: return SetRequestKeys(task, id);
    case KEYCTL_SET_TIMEOUT: return SetTimeout(task, id, static_cast<unsigned>(b));
    case KEYCTL_GET_SECURITY:
      TRY(LookUpKey(task, id, false, Key::kView, true));
      if (b != 0 && c > 0) TRY(task.CopyOutBytes(b, "", 1));
      return 1;
    case KEYCTL_SESSION_TO_PARENT: return SessionToParent(task);
    case KEYCTL_INVALIDATE: return Invalidate(task, id);
    case KEYCTL_MOVE: return Move(task, id, second, static_cast<int>(c), static_cast<unsigned>(d));
    case KEYCTL_CAPABILITIES: return Capabilities(task, a, b);
    // Nobody asks this task to make a key.
    case KEYCTL_INSTANTIATE:
    case KEYCTL_INSTANTIATE_IOV:
    case KEYCTL_NEGATE:
    case KEYCTL_REJECT: return Errno(EPERM);
    case KEYCTL_ASSUME_AUTHORITY:
      if (id < 0) return Errno(EINVAL);
      return id == 0 ? ErrnoOr<uint64_t>(uint64_t{0}) : Errno(ENOKEY);
    default: return Errno(EOPNOTSUPP);
  }
}

}  // namespace

void RegisterKeyCalls(SyscallTable& table) {
  table.Set(SYS_add_key, Partial<&AddKey>("types user, logon and keyring"));
  table.Set(SYS_request_key, Partial<&RequestKey>("finds keys that there are; nothing makes new ones"));
  table.Set(SYS_keyctl, Partial<&Keyctl>("no persistent rings, restrictions, watches, Diffie-Hellman and public key operations"));
}

}  // namespace amber
