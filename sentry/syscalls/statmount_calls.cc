// statmount(2) and listmount(2): mounts by their ids, of the caller's namespace or another one.
#include <linux/capability.h>
#include <linux/mount.h>
#include <string.h>
#include <sys/vfs.h>

#include <algorithm>

#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/statmount.h"
#include "sentry/syscalls/table.h"
#include "sentry/vfs/fs_context.h"
#include "sentry/vfs/mount.h"
#include "sentry/vfs/path.h"
#include "sentry/vfs/propagation.h"

namespace amber {
namespace {

constexpr uint64_t kStatMount = 457, kListMount = 458;
constexpr uint64_t kRoot = ~uint64_t{0};           // LSMT_ROOT
constexpr uint64_t kIdsStart = uint64_t{1} << 31;  // MNT_UNIQUE_ID_OFFSET
constexpr unsigned kReverse = 1;                   // LISTMOUNT_REVERSE

// struct mnt_id_req.
struct Request {
  uint32_t size, spare;
  uint64_t mount_id, param, namespace_id;
};
constexpr uint32_t kRequestFirstSize = 24;
static_assert(sizeof(Request) == 32);

// struct statmount, with the members that are filled in by name.
struct StatMount {
  uint32_t size, options;
  uint64_t mask;
  uint32_t dev_major, dev_minor;
  uint64_t magic;
  uint32_t sb_flags, type;
  uint64_t id, parent_id;
  uint32_t id_old, parent_id_old;
  uint64_t attributes, propagation, peer_group, master, propagate_from;
  uint32_t root, point;
  uint64_t namespace_id;
  uint32_t subtype, source;
  uint32_t option_count, option_array, security_count, security_array;
  uint64_t supported;
  uint32_t uidmap_count, uidmap, gidmap_count, gidmap;
  uint64_t spare[43];
};
static_assert(sizeof(StatMount) == 512);

constexpr uint64_t kSbBasic = 1, kMntBasic = 2, kPropagateFrom = 4, kMntRoot = 8, kMntPoint = 0x10, kFsType = 0x20, kNsId = 0x40;
constexpr uint64_t kOptions = 0x80, kSubtype = 0x100, kSource = 0x200, kOptionArray = 0x400, kSecurityArray = 0x800, kSupported = 0x1000;
constexpr uint64_t kUidMap = 0x2000, kGidMap = 0x4000;
// What is a string, if there is any: file systems here have no subtypes, security options and maps of ids.
constexpr uint64_t kAbsent = kSubtype | kSecurityArray | kUidMap | kGidMap;
constexpr uint64_t kStrings = kMntRoot | kMntPoint | kFsType | kOptions | kSource | kOptionArray | kAbsent;
constexpr uint64_t kAll = kSbBasic | kMntBasic | kPropagateFrom | kNsId | kStrings | kSupported;

ErrnoOr<Request> CopyInRequest(Task& task, UserPtr<const Request> p) {
  uint32_t size = TRY(task.CopyIn(p.Cast<const uint32_t>()));
  if (size < kRequestFirstSize) return Errno(EINVAL);
  if (size > 4096) return Errno(E2BIG);
  std::vector<uint8_t> bytes(std::max<size_t>(size, sizeof(Request)));
  TRY(task.CopyInBytes(p.address(), bytes.data(), size));
  if (std::any_of(bytes.begin() + sizeof(Request), bytes.end(), [](uint8_t b) { return b != 0; })) return Errno(E2BIG);
  Request r;
  memcpy(&r, bytes.data(), sizeof(r));
  if (r.spare != 0) return Errno(EINVAL);
  if (r.mount_id <= kIdsStart) return Errno(EINVAL);
  return r;
}

// The namespace that is asked about, and where its paths begin. Others than one's own are those of processes that the caller sees and may administer.
struct Scope {
  RefPtr<MountNamespace> ns;
  VfsPath root;
};
ErrnoOr<Scope> ScopeOf(Task& task, const Request& request) {
  if (request.namespace_id == 0 || request.namespace_id == task.mounts().ino())
    return Scope{RefPtr<MountNamespace>(&task.mounts()), task.fs().root()};
  for (const RefPtr<ThreadGroup>& group : task.group().pids().Groups()) {
    Task* leader = group->leader();
    if (leader == nullptr || leader->exiting() || leader->mounts().ino() != request.namespace_id) continue;
    if (!task.creds().HasIn(leader->mounts().owner(), CAP_SYS_ADMIN)) break;
    return Scope{RefPtr<MountNamespace>(&leader->mounts()), leader->mounts().root()};
  }
  return Errno(ENOENT);
}

Mount* FindMount(const MountNamespace& ns, uint64_t id) {
  for (Mount* m : ns.All()) {
    if (UniqueMountId(*m) == id) return m;
  }
  return nullptr;
}

uint64_t AttributesOf(const Mount& m) {
  uint64_t attr = 0;
  if ((m.flags() & MS_RDONLY) != 0) attr |= MOUNT_ATTR_RDONLY;
  if ((m.flags() & MS_NOSUID) != 0) attr |= MOUNT_ATTR_NOSUID;
  if ((m.flags() & MS_NODEV) != 0) attr |= MOUNT_ATTR_NODEV;
  if ((m.flags() & MS_NOEXEC) != 0) attr |= MOUNT_ATTR_NOEXEC;
  if ((m.flags() & MS_NODIRATIME) != 0) attr |= MOUNT_ATTR_NODIRATIME;
  if ((m.flags() & MS_NOATIME) != 0) attr |= MOUNT_ATTR_NOATIME;
  if ((m.flags() & kNoSymFollow) != 0) attr |= MOUNT_ATTR_NOSYMFOLLOW;
  return attr;
}

// mnt_to_propagation_flags()
uint64_t PropagationOf(const Mount& m) {
  uint64_t flags = (m.peers() != nullptr ? MS_SHARED : 0) | (m.master() != nullptr ? MS_SLAVE : 0);
  return flags != 0 ? flags : m.unbindable() ? MS_UNBINDABLE : MS_PRIVATE;
}

// get_dominating_id(): the nearest group above that has a mount below `root`.
uint64_t PropagatesFrom(const Mount& m, const VfsPath& root) {
  const PeerGroup* group = m.master();
  MountReach reach(root);
  for (int depth = 0; group != nullptr && depth < 1024; ++depth) {
    const PeerGroup* above = nullptr;
    for (const Mount* member : group->members) {
      if (member->ns() == m.ns() && reach.Reaches(*member)) return static_cast<uint64_t>(group->id());
      above = member->master();
    }
    group = above;
  }
  return 0;
}

// The strings behind the structure; the first is empty, for what is missing.
class Strings {
 public:
  explicit Strings(bool any) : bytes_(any ? 1 : 0, '\0') {}
  uint32_t Add(const std::string& text) {
    uint32_t at = static_cast<uint32_t>(bytes_.size());
    bytes_ += text;
    bytes_ += '\0';
    return at;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

void FillBasics(Mount& m, uint64_t mask, StatMount* out) {
  if ((mask & kSbBasic) != 0) {
    uint64_t dev = m.fs().dev();
    out->dev_major = static_cast<uint32_t>((dev >> 8 & 0xfff) | (dev >> 32 & ~uint64_t{0xfff}));
    out->dev_minor = static_cast<uint32_t>((dev & 0xff) | (dev >> 12 & ~uint64_t{0xff}));
    struct statfs stats{};
    if (m.fs().StatFs(&stats).ok()) out->magic = static_cast<uint64_t>(stats.f_type);
    out->sb_flags = m.fs().read_only() ? MS_RDONLY : 0;
  }
  if ((mask & kMntBasic) != 0) {
    const Mount& parent = m.parent() != nullptr ? *m.parent() : m;
    out->id = UniqueMountId(m);
    out->parent_id = UniqueMountId(parent);
    out->id_old = static_cast<uint32_t>(m.id());
    out->parent_id_old = static_cast<uint32_t>(parent.id());
    out->attributes = AttributesOf(m);
    out->propagation = PropagationOf(m);
    if (m.peers() != nullptr) out->peer_group = static_cast<uint64_t>(m.peers()->id());
    if (m.master() != nullptr) out->master = static_cast<uint64_t>(m.master()->id());
  }
  if ((mask & kSupported) != 0) out->supported = kAll;
}

// What cannot be seen from the root is for those who may administer the namespace.
ErrnoOr<void> CheckReach(Task& task, const Scope& scope, const Mount& mount) {
  if (MountReach(scope.root).Reaches(mount) || task.creds().HasIn(scope.ns->owner(), CAP_SYS_ADMIN)) return Ok();
  return Errno(EPERM);
}

// Options of the file system, without the first comma.
void FillOptions(const Mount& m, StatMount* out, Strings* strings) {
  std::string options = m.fs().ShowOptions();
  if (options.empty()) {
    out->mask &= ~(kOptions | kOptionArray);
    return;
  }
  options.erase(0, 1);
  if ((out->mask & kOptions) != 0) out->options = strings->Add(options);
  if ((out->mask & kOptionArray) == 0) return;
  out->option_count = static_cast<uint32_t>(std::ranges::count(options, ',')) + 1;
  std::ranges::replace(options, ',', '\0');
  out->option_array = strings->Add(options);
}

ErrnoOr<uint64_t> StatMountCall(Task& task, UserPtr<const Request> request_p, UserPtr<void> buffer, uint64_t size, unsigned flags) {
  if (flags != 0) return Errno(EINVAL);
  Request request = TRY(CopyInRequest(task, request_p));
  Scope scope = TRY(ScopeOf(task, request));
  Mount* m = FindMount(*scope.ns, request.mount_id);
  if (m == nullptr) return Errno(ENOENT);
  TRY(CheckReach(task, scope, *m));
  StatMount out{};
  Strings strings((request.param & kStrings) != 0);
  // The mask tells what was asked for and is there.
  out.mask = request.param & kAll & ~kAbsent;
  FillBasics(*m, out.mask, &out);
  if ((out.mask & kPropagateFrom) != 0) out.propagate_from = PropagatesFrom(*m, scope.root);
  if ((out.mask & kNsId) != 0) out.namespace_id = scope.ns->ino();
  VfsPath place{RefPtr<Mount>(m), m->root()};
  if ((out.mask & kFsType) != 0) out.type = strings.Add(m->fs().type_name());
  if ((out.mask & kMntRoot) != 0) out.root = strings.Add(PathInside(*m->root()));
  if ((out.mask & kMntPoint) != 0) out.point = strings.Add(PathName(place, scope.root));
  FillOptions(*m, &out, &strings);
  if (m->source().empty()) out.mask &= ~kSource;
  if ((out.mask & kSource) != 0) out.source = strings.Add(m->source());
  uint64_t total = sizeof(out) + strings.bytes().size();
  if (size < total && !strings.bytes().empty()) return Errno(EOVERFLOW);
  out.size = static_cast<uint32_t>(std::min<uint64_t>(size, total));
  std::string bytes(reinterpret_cast<const char*>(&out), sizeof(out));
  bytes += strings.bytes();
  TRY(task.CopyOutBytes(buffer.address(), bytes.data(), out.size));
  return 0;
}

ErrnoOr<uint64_t> ListMountCall(Task& task, UserPtr<const Request> request_p, UserPtr<uint64_t> ids, uint64_t count, unsigned flags) {
  if ((flags & ~kReverse) != 0) return Errno(EINVAL);
  if (count > 1'000'000) return Errno(EOVERFLOW);
  Request request = TRY(CopyInRequest(task, request_p));
  if (request.param != 0 && request.param <= kIdsStart) return Errno(EINVAL);
  Scope scope = TRY(ScopeOf(task, request));
  VfsPath top = scope.root;
  if (request.mount_id != kRoot) {
    Mount* start = FindMount(*scope.ns, request.mount_id);
    if (start == nullptr) return Errno(ENOENT);
    TRY(CheckReach(task, scope, *start));
    top = {RefPtr<Mount>(start), start->root()};
  }
  MountReach reach(top);
  bool reverse = (flags & kReverse) != 0;
  std::vector<uint64_t> found;
  for (const Mount* m : scope.ns->All()) {
    uint64_t id = UniqueMountId(*m);
    if (!reach.Reaches(*m) || id == request.mount_id) continue;
    if (request.param != 0 && (reverse ? id >= request.param : id <= request.param)) continue;
    found.push_back(id);
  }
  std::sort(found.begin(), found.end());
  if (reverse) std::reverse(found.begin(), found.end());
  if (found.size() > count) found.resize(count);
  TRY(task.CopyOutArray(ids, std::span<const uint64_t>(found)));
  return uint64_t{found.size()};
}

}  // namespace

void RegisterStatMountCalls(SyscallTable& table) {
  table.Set(kStatMount, Full<&StatMountCall>());
  table.Set(kListMount, Full<&ListMountCall>());
}

}  // namespace amber
