// landlock_create_ruleset(2), landlock_add_rule(2), landlock_restrict_self(2).
#include <fcntl.h>
#include <linux/capability.h>
#include <sys/mount.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstring>

#include "sentry/kernel/extras.h"
#include "sentry/kernel/task.h"
#include "sentry/landlock/landlock.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/table.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/vfs_file.h"

namespace amber {
namespace {

constexpr uint64_t kCreateRuleset = 444, kAddRule = 445, kRestrictSelf = 446;
constexpr uint64_t kMaxAttr = 4096;

struct RulesetAttr {
  uint64_t fs_rights, net_rights, scoped;
};
struct [[gnu::packed]] PathBeneath {
  uint64_t rights;
  int32_t fd;
};
static_assert(sizeof(PathBeneath) == 12);
struct NetPort {
  uint64_t rights, port;
};

// copy_struct_from_user(): what a newer program says beyond this must be zero.
ErrnoOr<RulesetAttr> CopyAttr(Task& task, uint64_t address, uint64_t size) {
  if (size < sizeof(uint64_t)) return Errno(EINVAL);
  if (size > kMaxAttr) return Errno(E2BIG);
  std::vector<uint8_t> bytes = TRY(task.CopyInArray(UserPtr<uint8_t>(address), size));
  if (std::any_of(bytes.begin() + static_cast<long>(std::min(size, sizeof(RulesetAttr))), bytes.end(), [](uint8_t b) { return b != 0; })) {
    return Errno(E2BIG);
  }
  RulesetAttr attr{};
  memcpy(&attr, bytes.data(), std::min(size, sizeof(attr)));
  return attr;
}

ErrnoOr<uint64_t> LandlockCreateRuleset(Task& task, UserPtr<void> attr_p, uint64_t size, unsigned flags) {
  constexpr unsigned kVersion = 1, kErrata = 2;
  if (flags != 0) {
    if ((flags != kVersion && flags != kErrata) || attr_p || size != 0) return Errno(EINVAL);
    return flags == kVersion ? uint64_t{LandlockRuleset::kAbi} : LandlockRuleset::kErrata;
  }
  if (!attr_p) return Errno(EFAULT);
  RulesetAttr attr = TRY(CopyAttr(task, attr_p.address(), size));
  if ((attr.fs_rights & ~LandlockRuleset::kFsRights) != 0 || (attr.net_rights & ~LandlockRuleset::kNetRights) != 0 ||
      (attr.scoped & ~LandlockRuleset::kScopes) != 0) {
    return Errno(EINVAL);
  }
  if (attr.fs_rights == 0 && attr.net_rights == 0 && attr.scoped == 0) return Errno(ENOMSG);
  auto ruleset = MakeRef<LandlockRuleset>(attr.fs_rights, attr.net_rights, attr.scoped);
  return static_cast<uint64_t>(TRY(task.files().Allocate(std::move(ruleset), true, task.limit(RLIMIT_NOFILE))));
}

ErrnoOr<RefPtr<LandlockRuleset>> GetRuleset(Task& task, int fd) {
  RefPtr<File> file = TRY(task.files().Get(fd));
  auto* ruleset = dynamic_cast<LandlockRuleset*>(file.get());
  if (ruleset == nullptr) return Errno(EBADFD);
  return RefPtr<LandlockRuleset>(ruleset);
}

ErrnoOr<void> AddPathRule(Task& task, LandlockRuleset& ruleset, uint64_t address) {
  PathBeneath attr = TRY(task.CopyIn(UserPtr<PathBeneath>(address)));
  if (attr.rights == 0) return Errno(ENOMSG);
  if ((attr.rights & ~ruleset.handled_fs()) != 0) return Errno(EINVAL);
  RefPtr<File> file = TRY(task.files().GetAny(attr.fd));
  auto* placed = dynamic_cast<VfsFile*>(file.get());
  if (placed == nullptr || placed->path()->mount->ns() == nullptr) return Errno(EBADFD);
  Inode& inode = placed->inode();
  if (!inode.IsDir() && (attr.rights & ~LandlockRuleset::kFileRights) != 0) return Errno(EINVAL);
  if (ruleset.full()) return Errno(E2BIG);
  ruleset.AddPathRule(inode, attr.rights);
  return Ok();
}

ErrnoOr<void> AddPortRule(Task& task, LandlockRuleset& ruleset, uint64_t address) {
  NetPort attr = TRY(task.CopyIn(UserPtr<NetPort>(address)));
  if (attr.rights == 0) return Errno(ENOMSG);
  if ((attr.rights & ~ruleset.net_rights()) != 0 || attr.port > UINT16_MAX) return Errno(EINVAL);
  if (ruleset.full()) return Errno(E2BIG);
  ruleset.AddPortRule(static_cast<uint16_t>(attr.port), attr.rights);
  return Ok();
}

ErrnoOr<uint64_t> LandlockAddRule(Task& task, int fd, int type, UserPtr<void> attr, unsigned flags) {
  constexpr int kPathBeneath = 1, kNetPort = 2;
  if (flags != 0) return Errno(EINVAL);
  RefPtr<LandlockRuleset> ruleset = TRY(GetRuleset(task, fd));
  switch (type) {
    case kPathBeneath: TRY(AddPathRule(task, *ruleset, attr.address())); return 0;
    case kNetPort: TRY(AddPortRule(task, *ruleset, attr.address())); return 0;
    default: return Errno(EINVAL);
  }
}

ErrnoOr<uint64_t> LandlockRestrictSelf(Task& task, int fd, unsigned flags) {
  if (!task.no_new_privs() && !task.creds().HasOwn(CAP_SYS_ADMIN)) return Errno(EPERM);
  // LANDLOCK_RESTRICT_SELF_LOG_*: about what an audit log would have.
  constexpr unsigned kSameExecOff = 1, kNewExecOn = 2, kSubdomainsOff = 4;
  if ((flags & ~(kSameExecOff | kNewExecOn | kSubdomainsOff)) != 0) return Errno(EINVAL);
  if (fd == -1 && flags == kSubdomainsOff) return 0;
  RefPtr<LandlockRuleset> ruleset = TRY(GetRuleset(task, fd));
  task.extras().landlock = TRY(ruleset->Freeze(task.extras().landlock));
  return 0;
}

}  // namespace

void RegisterLandlockCalls(SyscallTable& table) {
  InstallLandlockChecks();
  table.Set(kCreateRuleset, Full<&LandlockCreateRuleset>());
  table.Set(kAddRule, Full<&LandlockAddRule>());
  table.Set(kRestrictSelf, Full<&LandlockRestrictSelf>());
}

}  // namespace amber
