// Users, groups and capabilities: credentials(7), setresuid(2), capget(2).
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/syscall.h>

#include <algorithm>

#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/table.h"

namespace amber {
namespace {

constexpr uint32_t kKeep = ~0u;  // -1: leave as it is
constexpr size_t kMaxGroups = 65536;

// What the guest calls a user or group: kKeep stays, EINVAL for what is not mapped.
ErrnoOr<void> MapUids(const Task& task, std::initializer_list<uint32_t*> ids) {
  for (uint32_t* id : ids) {
    if (*id == kKeep) continue;
    *id = ToKernelUid(task.creds().user_ns.get(), *id);
    if (*id == kKeep) return Errno(EINVAL);
  }
  return Ok();
}
ErrnoOr<void> MapGids(const Task& task, std::initializer_list<uint32_t*> ids) {
  for (uint32_t* id : ids) {
    if (*id == kKeep) continue;
    *id = ToKernelGid(task.creds().user_ns.get(), *id);
    if (*id == kKeep) return Errno(EINVAL);
  }
  return Ok();
}

// capabilities(7), "Effect of user ID changes on capabilities".
void AdjustCapabilities(const Task& task, const Credentials& old, Credentials* next) {
  if ((next->securebits & SECBIT_NO_SETUID_FIXUP) != 0) return;
  uid_t root = old.root_uid();
  if (root == kKeep) return;
  bool had_root = old.uid == root || old.euid == root || old.suid == root;
  bool has_root = next->uid == root || next->euid == root || next->suid == root;
  if (had_root && !has_root) {
    if (!task.keep_caps()) next->permitted = next->effective = 0;
    next->ambient = 0;
  }
  if (old.euid == root && next->euid != root) next->effective = 0;
  if (old.euid != root && next->euid == root) next->effective = next->permitted;
}

void Commit(Task& task, RefPtr<Credentials> next) {
  const Credentials& old = task.creds();
  if (next->euid != old.euid || next->egid != old.egid || next->fsuid != old.fsuid || next->fsgid != old.fsgid) {
    task.group().set_dumpable(false);
    task.clear_parent_death_signal();
  }
  task.set_creds(std::move(next));
}

bool OneOf(uint32_t id, std::initializer_list<uint32_t> allowed) {
  for (uint32_t a : allowed) {
    if (id == a) return true;
  }
  return false;
}

ErrnoOr<uint64_t> Setresuid(Task& task, uint32_t r, uint32_t e, uint32_t s) {
  TRY(MapUids(task, {&r, &e, &s}));
  const Credentials& old = task.creds();
  if (!task.creds().HasOwn(CAP_SETUID)) {
    for (uint32_t id : {r, e, s}) {
      if (id != kKeep && !OneOf(id, {old.uid, old.euid, old.suid})) return Errno(EPERM);
    }
  }
  auto next = MakeRef<Credentials>(old);
  if (r != kKeep) next->uid = r;
  if (e != kKeep) next->euid = e;
  if (s != kKeep) next->suid = s;
  next->fsuid = next->euid;
  AdjustCapabilities(task, old, next.get());
  Commit(task, next);
  return 0;
}

ErrnoOr<uint64_t> Setreuid(Task& task, uint32_t r, uint32_t e) {
  TRY(MapUids(task, {&r, &e}));
  const Credentials& old = task.creds();
  if (!task.creds().HasOwn(CAP_SETUID)) {
    if (r != kKeep && !OneOf(r, {old.uid, old.euid})) return Errno(EPERM);
    if (e != kKeep && !OneOf(e, {old.uid, old.euid, old.suid})) return Errno(EPERM);
  }
  auto next = MakeRef<Credentials>(old);
  if (r != kKeep) next->uid = r;
  if (e != kKeep) next->euid = e;
  if (r != kKeep || (e != kKeep && e != old.uid)) next->suid = next->euid;
  next->fsuid = next->euid;
  AdjustCapabilities(task, old, next.get());
  Commit(task, next);
  return 0;
}

ErrnoOr<uint64_t> Setuid(Task& task, uint32_t id) {
  TRY(MapUids(task, {&id}));
  const Credentials& old = task.creds();
  if (id == kKeep) return Errno(EINVAL);
  auto next = MakeRef<Credentials>(old);
  if (task.creds().HasOwn(CAP_SETUID)) {
    next->uid = next->suid = id;
  } else if (!OneOf(id, {old.uid, old.suid})) {
    return Errno(EPERM);
  }
  next->euid = next->fsuid = id;
  AdjustCapabilities(task, old, next.get());
  Commit(task, next);
  return 0;
}

ErrnoOr<uint64_t> Setresgid(Task& task, uint32_t r, uint32_t e, uint32_t s) {
  TRY(MapGids(task, {&r, &e, &s}));
  const Credentials& old = task.creds();
  if (!task.creds().HasOwn(CAP_SETGID)) {
    for (uint32_t id : {r, e, s}) {
      if (id != kKeep && !OneOf(id, {old.gid, old.egid, old.sgid})) return Errno(EPERM);
    }
  }
  auto next = MakeRef<Credentials>(old);
  if (r != kKeep) next->gid = r;
  if (e != kKeep) next->egid = e;
  if (s != kKeep) next->sgid = s;
  next->fsgid = next->egid;
  Commit(task, next);
  return 0;
}

ErrnoOr<uint64_t> Setregid(Task& task, uint32_t r, uint32_t e) {
  TRY(MapGids(task, {&r, &e}));
  const Credentials& old = task.creds();
  if (!task.creds().HasOwn(CAP_SETGID)) {
    if (r != kKeep && !OneOf(r, {old.gid, old.egid})) return Errno(EPERM);
    if (e != kKeep && !OneOf(e, {old.gid, old.egid, old.sgid})) return Errno(EPERM);
  }
  auto next = MakeRef<Credentials>(old);
  if (r != kKeep) next->gid = r;
  if (e != kKeep) next->egid = e;
  if (r != kKeep || (e != kKeep && e != old.gid)) next->sgid = next->egid;
  next->fsgid = next->egid;
  Commit(task, next);
  return 0;
}

ErrnoOr<uint64_t> Setgid(Task& task, uint32_t id) {
  TRY(MapGids(task, {&id}));
  const Credentials& old = task.creds();
  if (id == kKeep) return Errno(EINVAL);
  auto next = MakeRef<Credentials>(old);
  if (task.creds().HasOwn(CAP_SETGID)) {
    next->gid = next->sgid = id;
  } else if (!OneOf(id, {old.gid, old.sgid})) {
    return Errno(EPERM);
  }
  next->egid = next->fsgid = id;
  Commit(task, next);
  return 0;
}

// setfsuid(2): always returns the old value; a value that is not allowed changes nothing.
ErrnoOr<uint64_t> Setfsuid(Task& task, uint32_t id) {
  const Credentials& old = task.creds();
  uint32_t before = old.fsuid, shown = ShownUid(old.user_ns.get(), before);
  id = ToKernelUid(old.user_ns.get(), id);
  if (id == kKeep || (!task.creds().HasOwn(CAP_SETUID) && !OneOf(id, {old.uid, old.euid, old.suid, old.fsuid}))) return shown;
  auto next = MakeRef<Credentials>(old);
  next->fsuid = id;
  // The file system capabilities follow it: chown, dac_override, dac_read_search, fowner, fsetid, linux_immutable, mknod, mac_override.
  constexpr uint64_t kFsCaps = 0x1f | uint64_t{1} << CAP_LINUX_IMMUTABLE | uint64_t{1} << CAP_MKNOD | uint64_t{1} << CAP_MAC_OVERRIDE;
  if ((next->securebits & SECBIT_NO_SETUID_FIXUP) == 0) {
    uid_t root = old.root_uid();
    if (before == root && id != root) next->effective &= ~kFsCaps;
    if (before != root && id == root) next->effective |= next->permitted & kFsCaps;
  }
  Commit(task, next);
  return shown;
}

ErrnoOr<uint64_t> Setfsgid(Task& task, uint32_t id) {
  const Credentials& old = task.creds();
  uint32_t before = ShownGid(old.user_ns.get(), old.fsgid);
  id = ToKernelGid(old.user_ns.get(), id);
  if (id == kKeep || (!task.creds().HasOwn(CAP_SETGID) && !OneOf(id, {old.gid, old.egid, old.sgid, old.fsgid}))) return before;
  auto next = MakeRef<Credentials>(old);
  next->fsgid = id;
  Commit(task, next);
  return before;
}

ErrnoOr<uint64_t> Getuid(Task& task) { return ShownUid(task.creds().user_ns.get(), task.creds().uid); }
ErrnoOr<uint64_t> Geteuid(Task& task) { return ShownUid(task.creds().user_ns.get(), task.creds().euid); }
ErrnoOr<uint64_t> Getgid(Task& task) { return ShownGid(task.creds().user_ns.get(), task.creds().gid); }
ErrnoOr<uint64_t> Getegid(Task& task) { return ShownGid(task.creds().user_ns.get(), task.creds().egid); }

ErrnoOr<uint64_t> Getresuid(Task& task, UserPtr<uint32_t> r, UserPtr<uint32_t> e, UserPtr<uint32_t> s) {
  const Credentials& c = task.creds();
  TRY(task.CopyOut(r, ShownUid(c.user_ns.get(), c.uid)));
  TRY(task.CopyOut(e, ShownUid(c.user_ns.get(), c.euid)));
  TRY(task.CopyOut(s, ShownUid(c.user_ns.get(), c.suid)));
  return 0;
}

ErrnoOr<uint64_t> Getresgid(Task& task, UserPtr<uint32_t> r, UserPtr<uint32_t> e, UserPtr<uint32_t> s) {
  const Credentials& c = task.creds();
  TRY(task.CopyOut(r, ShownGid(c.user_ns.get(), c.gid)));
  TRY(task.CopyOut(e, ShownGid(c.user_ns.get(), c.egid)));
  TRY(task.CopyOut(s, ShownGid(c.user_ns.get(), c.sgid)));
  return 0;
}

ErrnoOr<uint64_t> Getgroups(Task& task, int count, UserPtr<uint32_t> list) {
  const std::vector<gid_t>& groups = task.creds().groups;
  if (count < 0) return Errno(EINVAL);
  if (count == 0) return groups.size();
  if (static_cast<size_t>(count) < groups.size()) return Errno(EINVAL);
  std::vector<uint32_t> shown;
  for (gid_t g : groups) shown.push_back(ShownGid(task.creds().user_ns.get(), g));
  TRY(task.CopyOutArray<uint32_t>(list, shown));
  return groups.size();
}

ErrnoOr<uint64_t> Setgroups(Task& task, int count, UserPtr<const uint32_t> list) {
  const UserNamespace* ns = task.creds().user_ns.get();
  // may_setgroups().
  if (!task.creds().HasOwn(CAP_SETGID) || (ns != nullptr && !ns->MayHaveGroups())) return Errno(EPERM);
  if (count < 0 || static_cast<size_t>(count) > kMaxGroups) return Errno(EINVAL);
  auto next = MakeRef<Credentials>(task.creds());
  next->groups = TRY(task.CopyInArray(list, static_cast<size_t>(count)));
  for (gid_t& g : next->groups) {
    g = ToKernelGid(ns, g);
    if (g == kKeep) return Errno(EINVAL);
  }
  std::sort(next->groups.begin(), next->groups.end());  // groups_sort()
  task.set_creds(std::move(next));
  return 0;
}

// --- capabilities ---

struct CapHeader {
  uint32_t version;
  int pid;
};
struct CapData {
  uint32_t effective, permitted, inheritable;
};

// The number of CapData words of a version; 0 if unknown.
int WordsOf(uint32_t version) {
  switch (version) {
    case _LINUX_CAPABILITY_VERSION_1: return 1;
    case _LINUX_CAPABILITY_VERSION_2:
    case _LINUX_CAPABILITY_VERSION_3: return 2;
    default: return 0;
  }
}

ErrnoOr<int> CheckVersion(Task& task, UserPtr<CapHeader> p, CapHeader* header) {
  *header = TRY(task.CopyIn(p));
  int words = WordsOf(header->version);
  if (words != 0) return words;
  header->version = _LINUX_CAPABILITY_VERSION_3;
  TRY(task.CopyOut(p, *header));
  return Errno(EINVAL);
}

ErrnoOr<uint64_t> Capget(Task& task, UserPtr<CapHeader> p, UserPtr<CapData> data) {
  CapHeader header;
  auto words = CheckVersion(task, p, &header);
  // A null data pointer asks for the version alone.
  if (!words.ok()) return data.is_null() && words.Is(EINVAL) ? ErrnoOr<uint64_t>(0) : ErrnoOr<uint64_t>(words.error());
  if (header.pid < 0) return Errno(EINVAL);
  Task* target = header.pid == 0 ? &task : task.FindTask(header.pid);
  if (target == nullptr) return Errno(ESRCH);
  const Credentials& c = target->creds();
  if (data.is_null()) return 0;
  for (int i = 0; i < *words; ++i) {
    CapData d{static_cast<uint32_t>(c.effective >> 32 * i), static_cast<uint32_t>(c.permitted >> 32 * i),
              static_cast<uint32_t>(c.inheritable >> 32 * i)};
    TRY(task.CopyOut(data + i, d));
  }
  return 0;
}

ErrnoOr<uint64_t> Capset(Task& task, UserPtr<CapHeader> p, UserPtr<const CapData> data) {
  CapHeader header;
  int words = TRY(CheckVersion(task, p, &header));
  if (header.pid != 0 && header.pid != task.tid()) return Errno(EPERM);
  uint64_t effective = 0, permitted = 0, inheritable = 0;
  for (int i = 0; i < words; ++i) {
    CapData d = TRY(task.CopyIn(data + i));
    effective |= uint64_t{d.effective} << 32 * i;
    permitted |= uint64_t{d.permitted} << 32 * i;
    inheritable |= uint64_t{d.inheritable} << 32 * i;
  }
  effective &= kAllCapabilities;
  permitted &= kAllCapabilities;
  inheritable &= kAllCapabilities;
  const Credentials& old = task.creds();
  // cap_capset().
  if (!task.creds().HasOwn(CAP_SETPCAP) && (inheritable & ~(old.inheritable | old.permitted)) != 0) return Errno(EPERM);
  if ((inheritable & ~(old.inheritable | old.bounding)) != 0) return Errno(EPERM);
  if ((permitted & ~old.permitted) != 0 || (effective & ~permitted) != 0) return Errno(EPERM);
  auto next = MakeRef<Credentials>(old);
  next->effective = effective;
  next->permitted = permitted;
  next->inheritable = inheritable;
  next->ambient &= permitted & inheritable;
  task.set_creds(std::move(next));
  return 0;
}

}  // namespace

void RegisterCredentialCalls(SyscallTable& table) {
  table.Set(SYS_getuid, Full<&Getuid>());
  table.Set(SYS_geteuid, Full<&Geteuid>());
  table.Set(SYS_getgid, Full<&Getgid>());
  table.Set(SYS_getegid, Full<&Getegid>());
  table.Set(SYS_setuid, Full<&Setuid>());
  table.Set(SYS_setgid, Full<&Setgid>());
  table.Set(SYS_setreuid, Full<&Setreuid>());
  table.Set(SYS_setregid, Full<&Setregid>());
  table.Set(SYS_setresuid, Full<&Setresuid>());
  table.Set(SYS_setresgid, Full<&Setresgid>());
  table.Set(SYS_getresuid, Full<&Getresuid>());
  table.Set(SYS_getresgid, Full<&Getresgid>());
  table.Set(SYS_setfsuid, Full<&Setfsuid>());
  table.Set(SYS_setfsgid, Full<&Setfsgid>());
  table.Set(SYS_getgroups, Full<&Getgroups>());
  table.Set(SYS_setgroups, Full<&Setgroups>());
  table.Set(SYS_capget, Full<&Capget>());
  table.Set(SYS_capset, Full<&Capset>());
}

}  // namespace amber
