// System V shared memory: shmget(2), shmat(2), shmdt(2), shmctl(2).
#include <linux/capability.h>
#include <linux/mman.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <time.h>

#include "sentry/fs/proc/machine.h"
#include "sentry/ipc/ipc_namespace.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/ipc_owner.h"
#include "sentry/syscalls/memory_map.h"
#include "sentry/syscalls/memory_ops.h"
#include "sentry/syscalls/table.h"

namespace amber {
namespace {

constexpr int kShmHugeTlb = 04000, kShmNoReserve = 010000;
constexpr uint32_t kShmDest = 01000, kShmLocked = 02000;  // in the mode that IPC_STAT shows
constexpr int kShmStatAny = 15;

IpcNamespace& NamespaceOf(Task& task) { return *task.extras().ipc; }

ErrnoOr<uint64_t> Shmget(Task& task, int key, uint64_t size, int flags) {
  IpcNamespace& ns = NamespaceOf(task);
  auto check = [&](const ShmSegment& segment) -> ErrnoOr<void> { return size > segment.size ? Errno(EINVAL) : Ok(); };
  auto make = [&]() -> ErrnoOr<int> {
    if (size == 0 || size > ns.sysctl(kSysctlShmMax)) return Errno(EINVAL);
    if ((flags & kShmHugeTlb) != 0) return Errno(ENOSYS);  // as without CONFIG_HUGETLBFS
    if (ns.shms().all().size() >= ns.sysctl(kSysctlShmSegments)) return Errno(ENOSPC);
    uint64_t pages = 0;
    for (const auto& [index, other] : ns.shms().all()) pages += PageUp(other->size) / kPageSize;
    uint64_t all = ns.sysctl(kSysctlShmAll), more = size / kPageSize + (size % kPageSize != 0 ? 1 : 0);
    if (pages + more < more || pages + more > all) return Errno(ENOSPC);
    // __vm_enough_memory(): more than the machine has is refused, unless the caller means never to use it.
    if ((flags & kShmNoReserve) == 0 && size > Machine::Get().memory_bytes) return Errno(ENOMEM);
    RefPtr<ShmSegment> segment = TRY(ShmSegment::Make(ns, size));
    segment->perm.SetCreator(task.creds(), static_cast<uint32_t>(flags));
    segment->perm.key = key;
    segment->creator = task.pid();
    segment->ctime = time(nullptr);
    if (!ns.shms().Add(segment, ns.sysctl(kSysctlShmSegments))) return Errno(ENOSPC);
    return segment->perm.id;
  };
  return static_cast<uint64_t>(TRY(IpcGet(ns.shms(), task.creds(), key, flags, check, make)));
}

ErrnoOr<uint64_t> Shmat(Task& task, int id, uint64_t address, int flags) {
  if (id < 0) return Errno(EINVAL);
  int map_flags = MAP_SHARED;
  if (address != 0) {
    if (address % SHMLBA != 0) {
      if ((flags & SHM_RND) == 0) return Errno(EINVAL);
      address -= address % SHMLBA;
      if (address == 0 && (flags & SHM_REMAP) != 0) return Errno(EINVAL);
    }
    map_flags |= (flags & SHM_REMAP) != 0 ? MAP_FIXED : MAP_FIXED_NOREPLACE;
  } else if ((flags & SHM_REMAP) != 0) {
    return Errno(EINVAL);
  }
  bool read_only = (flags & SHM_RDONLY) != 0;
  int prot = PROT_READ | (read_only ? 0 : PROT_WRITE) | ((flags & SHM_EXEC) != 0 ? PROT_EXEC : 0);
  uint32_t wanted = (read_only ? 0444u : 0666u) | ((flags & SHM_EXEC) != 0 ? 0111u : 0);
  RefPtr<ShmSegment> segment = TRY(NamespaceOf(task).shms().Find(id));
  TRY(segment->perm.Check(task.creds(), wanted));
  auto result = MapFile(task, address, segment->size, prot, map_flags, MakeRef<ShmFile>(segment, read_only), 0);
  if (result.Is(EEXIST)) return Errno(EINVAL);
  if (result.ok() || result.Is(kNoAnswer.number())) {
    segment->atime = time(nullptr);
    segment->last = task.pid();
  }
  return result;
}

// The mappings of one attachment that begins at `address`, as ksys_shmdt() finds them: the first whose place in its file says that the
// file begins there, and all of the same file behind it.
std::vector<Vma> AttachmentAt(MemoryManager& mm, uint64_t address, RefPtr<ShmSegment>* segment) {
  std::vector<Vma> parts;
  const File* file = nullptr;
  uint64_t end = ~uint64_t{0};
  for (auto it = mm.vmas().FindFrom(address); it != mm.vmas().end() && it->second.start < end; ++it) {
    const Vma& vma = it->second;
    auto* shm = dynamic_cast<ShmFile*>(vma.file.get());
    if (shm == nullptr || vma.start < address || vma.start - address != vma.offset) continue;
    if (file == nullptr) {
      file = shm;
      *segment = RefPtr<ShmSegment>(&shm->segment());
      end = address + PageUp(shm->segment().size);
    }
    if (vma.file.get() == file) parts.push_back(vma);
  }
  return parts;
}

ErrnoOr<uint64_t> Shmdt(Task& task, uint64_t address) {
  if (address % kPageSize != 0) return Errno(EINVAL);
  RefPtr<ShmSegment> segment;
  if (AttachmentAt(task.mm(), address, &segment).empty()) return Errno(EINVAL);
  MmLock lock(task, address, address + PageUp(segment->size));
  if (!lock.held()) return WaitForMm(task);
  std::vector<Vma> parts = AttachmentAt(task.mm(), address, &segment);
  if (parts.empty()) return Errno(EINVAL);
  segment->last = task.pid();
  segment->dtime = time(nullptr);
  std::vector<platform::StubOp> ops;
  // Ranges alone: a reference to the file would keep a removed segment.
  std::vector<std::pair<uint64_t, uint64_t>> ranges;
  for (const Vma& part : parts) {
    ranges.emplace_back(part.start, part.end);
    ops.push_back(MemoryManager::Op(SYS_munmap, part.start, part.size()));
  }
  RefPtr<MemoryManager> mm(&task.mm());
  return RunMemoryOps(task, lock, std::move(ops), [mm, ranges = std::move(ranges)](std::span<const int64_t>) -> int64_t {
    for (const auto& [start, end] : ranges) mm->vmas().Remove(start, end);
    return 0;
  });
}

ErrnoOr<uint64_t> Stat(Task& task, const ShmSegment& segment, uint64_t out) {
  shmid_ds ds{};
  segment.perm.FillOut(&ds.shm_perm);
  ShowIpcOwner(task, &ds.shm_perm);
  uint32_t mode = segment.perm.mode | (segment.removed ? kShmDest : 0) | (segment.locked ? kShmLocked : 0);
  ds.shm_perm.mode = static_cast<decltype(ds.shm_perm.mode)>(mode);
  ds.shm_segsz = segment.size;
  ds.shm_atime = segment.atime;
  ds.shm_dtime = segment.dtime;
  ds.shm_ctime = segment.ctime;
  ds.shm_cpid = segment.creator;
  ds.shm_lpid = segment.last;
  ds.shm_nattch = segment.CountAttached(task.kernel());
  TRY(task.CopyOutBytes(out, &ds, sizeof(ds)));
  return 0;
}

ErrnoOr<uint64_t> Info(Task& task, int command, uint64_t out) {
  IpcNamespace& ns = NamespaceOf(task);
  if (command == IPC_INFO) {
    shminfo info{};
    info.shmmax = ns.sysctl(kSysctlShmMax);
    info.shmmin = 1;
    info.shmmni = info.shmseg = ns.sysctl(kSysctlShmSegments);
    info.shmall = ns.sysctl(kSysctlShmAll);
    TRY(task.CopyOutBytes(out, &info, sizeof(info)));
  } else {
    shm_info info{};
    info.used_ids = static_cast<int>(ns.shms().all().size());
    for (const auto& [index, segment] : ns.shms().all()) {
      info.shm_tot += PageUp(segment->size) / kPageSize;
      struct stat st{};
      if (fstat(segment->fd(), &st) == 0) info.shm_rss += static_cast<uint64_t>(st.st_blocks) * 512 / kPageSize;
    }
    TRY(task.CopyOutBytes(out, &info, sizeof(info)));
  }
  return static_cast<uint64_t>(ns.shms().max_index());
}

ErrnoOr<uint64_t> Lock(Task& task, ShmSegment& segment, bool on) {
  if (!task.Has(CAP_IPC_LOCK)) {
    if (task.creds().euid != segment.perm.uid && task.creds().euid != segment.perm.cuid) return Errno(EPERM);
    if (on && task.limit(RLIMIT_MEMLOCK) == 0) return Errno(EPERM);
  }
  segment.locked = on;
  return 0;
}

ErrnoOr<uint64_t> Change(Task& task, IpcNamespace& ns, ShmSegment& segment, int command, uint64_t argument) {
  shmid_ds ds{};
  if (command == IPC_SET) ds = TRY(task.CopyIn(UserPtr<shmid_ds>(argument)));
  TRY(segment.perm.CheckOwner(task.creds()));
  if (command == IPC_SET) {
    TRY(SetIpcOwner(task, ds.shm_perm, &segment.perm));
    segment.ctime = time(nullptr);
    return 0;
  }
  // do_shm_rmid(): it can be found no more by its key, and goes with its last attachment.
  if (!segment.in_use()) {
    ns.shms().Remove(segment.perm.id);
    return 0;
  }
  segment.removed = true;
  segment.perm.key = IPC_PRIVATE;
  return 0;
}

ErrnoOr<uint64_t> Shmctl(Task& task, int id, int command, uint64_t argument) {
  IpcNamespace& ns = NamespaceOf(task);
  if (id < 0 || command < 0) return Errno(EINVAL);
  switch (command) {
    case IPC_INFO:
    case SHM_INFO: return Info(task, command, argument);
    case SHM_STAT:
    case kShmStatAny: {
      RefPtr<ShmSegment> segment = TRY(ns.shms().FindIndex(id));
      if (command == SHM_STAT) TRY(segment->perm.Check(task.creds(), 0444));
      TRY(Stat(task, *segment, argument));
      return static_cast<uint64_t>(segment->perm.id);
    }
    default: break;
  }
  RefPtr<ShmSegment> segment = TRY(ns.shms().Find(id));
  switch (command) {
    case IPC_STAT: TRY(segment->perm.Check(task.creds(), 0444)); return Stat(task, *segment, argument);
    case IPC_SET:
    case IPC_RMID: return Change(task, ns, *segment, command, argument);
    case SHM_LOCK:
    case SHM_UNLOCK: return Lock(task, *segment, command == SHM_LOCK);
    default: return Errno(EINVAL);
  }
}

}  // namespace

void RegisterShmCalls(SyscallTable& table) {
  table.Set(SYS_shmget, Full<&Shmget>());
  table.Set(SYS_shmat, Full<&Shmat>());
  table.Set(SYS_shmdt, Full<&Shmdt>());
  table.Set(SYS_shmctl, Full<&Shmctl>());
}

}  // namespace amber
