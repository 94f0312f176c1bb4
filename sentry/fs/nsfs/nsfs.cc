#include "sentry/fs/nsfs/nsfs.h"

#include <fcntl.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/sysmacros.h>

#include "sentry/fs/anon/anon.h"
#include "sentry/fs/nsfs/nsfs.pb.h"
#include "sentry/kernel/namespaces.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/mount.h"

namespace amber {
namespace {

constexpr uint32_t kNsfsMinor = 4;
constexpr uint32_t kNsfsMagic = 0x6e736673;
constexpr int kNewTime = 0x80;
// Of Linux 6.11; their argument is a number.
constexpr uint32_t kGetPidFromPidns = 0x8004b706, kGetTgidFromPidns = 0x8004b707, kGetPidInPidns = 0x8004b708, kGetTgidInPidns = 0x8004b709;
constexpr uint32_t kGetMountNsId = 0x8008b705;  // NS_GET_MNTNS_ID: as statmount(2) tells it

NsRef LoadRef(state::Loader& loader, const proto::NsFile& m) { return {static_cast<int>(m.type()), loader.GetRef<Namespace>(m.ns())}; }

bool GoodRef(const NsRef& ref, uint64_t id) {
  if (NamespaceTypeName(ref.type) == nullptr || (id != 0) != static_cast<bool>(ref.ns)) return false;
  bool may_be_initial = ref.type == CLONE_NEWUSER || ref.type == CLONE_NEWCGROUP || ref.type == kNewTime;
  return ref.ns ? ref.ns->type() == ref.type : may_be_initial;
}

}  // namespace

const char* NamespaceTypeName(int type) {
  switch (type) {
    case CLONE_NEWNS: return "mnt";
    case CLONE_NEWCGROUP: return "cgroup";
    case CLONE_NEWUTS: return "uts";
    case CLONE_NEWIPC: return "ipc";
    case CLONE_NEWUSER: return "user";
    case CLONE_NEWPID: return "pid";
    case CLONE_NEWNET: return "net";
    case kNewTime: return "time";
    default: return nullptr;
  }
}

uint64_t NsRef::ino() const {
  if (ns) return ns->ino();
  return type == CLONE_NEWUSER ? Namespace::kInitialUser : type == kNewTime ? Namespace::kInitialTime : Namespace::kInitialCgroup;
}

std::string NsRef::Name() const { return std::string(NamespaceTypeName(type)) + ":[" + std::to_string(ino()) + "]"; }

NsFile::NsFile(NsRef ref, int flags) : ref_(std::move(ref)) { set_flags(flags); }

ErrnoOr<void> NsFile::Stat(Task&, struct stat* out) {
  FillAnonStat(out, kNsfsMinor, ref_.ino(), S_IFREG | 0444);
  return Ok();
}

ErrnoOr<RefPtr<File>> NsFile::Reopen(Task&, int flags) {
  if ((flags & O_ACCMODE) != O_RDONLY) return Errno(EPERM);
  return RefPtr<File>(MakeRef<NsFile>(ref_, flags));
}

ErrnoOr<uint64_t> NsFile::Open(Task& task, NsRef ref) {
  auto file = MakeRef<NsFile>(std::move(ref), O_RDONLY);
  return static_cast<uint64_t>(TRY(task.files().Allocate(std::move(file), true, task.limit(RLIMIT_NOFILE))));
}

ErrnoOr<uint64_t> NsFile::TranslatePid(Task& task, uint32_t command, int pid) {
  if (ref_.type != CLONE_NEWPID) return Errno(EINVAL);
  auto& ns = static_cast<PidNamespace&>(*ref_.ns);
  PidNamespace& mine = task.group().pids();
  bool inwards = command == kGetPidInPidns || command == kGetTgidInPidns;
  Task* target = inwards ? mine.FindTask(pid) : ns.FindTask(pid);
  if (target == nullptr) return Errno(ESRCH);
  bool group = command == kGetTgidFromPidns || command == kGetTgidInPidns;
  const PidNamespace& shown = inwards ? ns : mine;
  int id = group ? shown.IdOf(target->group()) : shown.IdOf(*target);
  return id != 0 ? ErrnoOr<uint64_t>(static_cast<uint64_t>(id)) : Errno(ESRCH);
}

ErrnoOr<uint64_t> NsFile::Ioctl(Task& task, uint32_t command, uint64_t argument) {
  const UserNamespace* mine = task.creds().user_ns.get();
  switch (command) {
    case NS_GET_NSTYPE: return static_cast<uint64_t>(ref_.type);
    case NS_GET_OWNER_UID: {
      if (ref_.type != CLONE_NEWUSER) return Errno(EINVAL);
      uint32_t owner = ref_.ns ? static_cast<UserNamespace&>(*ref_.ns).creator_uid() : 0;
      TRY(task.CopyOut(UserPtr<uint32_t>(argument), ShownUid(mine, owner)));
      return 0;
    }
    case NS_GET_PARENT:
      if (ref_.type == CLONE_NEWPID) {
        auto* parent = static_cast<PidNamespace&>(*ref_.ns).parent();
        if (parent == nullptr || !parent->IsWithin(task.group().pids())) return Errno(EPERM);
        return Open(task, {CLONE_NEWPID, RefPtr<Namespace>(parent)});
      }
      if (ref_.type != CLONE_NEWUSER) return Errno(EINVAL);
      [[fallthrough]];
    case NS_GET_USERNS: {
      // Of a user namespace it is the parent (ns_get_owner). What lies above the caller's own is not shown.
      if (ref_.type == CLONE_NEWUSER && !ref_.ns) return Errno(EPERM);
      UserNamespace* owner = ref_.type == CLONE_NEWUSER ? static_cast<UserNamespace&>(*ref_.ns).parent() : ref_.ns ? ref_.ns->owner() : nullptr;
      if (!IsWithin(owner, mine)) return Errno(EPERM);
      return Open(task, {CLONE_NEWUSER, RefPtr<Namespace>(owner)});
    }
    case kGetMountNsId:
      if (ref_.type != CLONE_NEWNS) return Errno(EINVAL);
      TRY(task.CopyOut(UserPtr<uint64_t>(argument), ref_.ino()));
      return 0;
    case kGetPidFromPidns:
    case kGetTgidFromPidns:
    case kGetPidInPidns:
    case kGetTgidInPidns: return TranslatePid(task, command, static_cast<int>(argument));
    default: return Errno(ENOTTY);
  }
}

std::string NsFile::Save(state::Saver& saver) const {
  proto::NsFile m;
  m.set_type(static_cast<uint32_t>(ref_.type));
  m.set_ns(saver.Ref(ref_.ns));
  m.set_flags(static_cast<uint32_t>(flags()));
  return m.SerializeAsString();
}

bool NsFile::Load(state::Loader& loader, std::string_view bytes) {
  proto::NsFile m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return false;
  ref_ = LoadRef(loader, m);
  set_flags(static_cast<int>(m.flags()));
  return GoodRef(ref_, m.ns());
}

// --- bind mounts ---

NsFileSystem::NsFileSystem(NsRef ref) {
  set_dev(makedev(0, kNsfsMinor));
  SetRoot(MakeRef<NsInode>(this, std::move(ref)));
}

bool NsFileSystem::is_mount_namespace() const {
  const auto* inode = dynamic_cast<const NsInode*>(root()->inode());
  return inode != nullptr && inode->ref().type == CLONE_NEWNS;
}

ErrnoOr<void> NsFileSystem::StatFs(struct statfs* out) {
  *out = {};
  out->f_type = kNsfsMagic;
  out->f_bsize = out->f_frsize = 4096;
  out->f_namelen = 255;
  return Ok();
}

bool NsFileSystem::Load(state::Loader& loader, std::string_view bytes) {
  std::string specific;
  return LoadBase(loader, bytes, &specific);
}

NsInode::NsInode(FileSystem* fs, NsRef ref) : Inode(fs), ref_(std::move(ref)) {
  attr_.mode = S_IFREG | 0444;
  attr_.ino = ref_.ino();
  attr_.atime = attr_.mtime = attr_.ctime = attr_.btime = FileTimeNow();
}

ErrnoOr<RefPtr<File>> NsInode::Open(const VfsContext&, const VfsPath&, int flags) { return RefPtr<File>(MakeRef<NsFile>(ref_, flags)); }

std::string NsInode::Save(state::Saver& saver) const {
  proto::NsFile m;
  m.set_type(static_cast<uint32_t>(ref_.type));
  m.set_ns(saver.Ref(ref_.ns));
  m.set_base(SaveBase(saver));
  return m.SerializeAsString();
}

bool NsInode::Load(state::Loader& loader, std::string_view bytes) {
  proto::NsFile m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return false;
  ref_ = LoadRef(loader, m);
  return LoadBase(loader, m.base()) && GoodRef(ref_, m.ns());
}

}  // namespace amber
