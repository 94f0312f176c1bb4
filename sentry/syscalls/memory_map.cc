// mmap, munmap, mprotect, brk.
#include "sentry/syscalls/memory_map.h"

#include <linux/capability.h>
#include <linux/mman.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>

#include "sentry/fs/memfd/memfd.h"
#include "sentry/fs/proc/machine.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/mm/moved.h"
#include "sentry/syscalls/memory_ops.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/mount.h"
#include "sentry/vfs/pseudo.h"
#include "sentry/vfs/restrict.h"

namespace amber {

namespace {

using platform::kGuestTop;
using platform::kMinAddress;
using platform::StubOp;

constexpr int kProtBits = PROT_READ | PROT_WRITE | PROT_EXEC;
constexpr int kDroppable = 8;  // MAP_DROPPABLE, of Linux 6.11
// What MAP_SHARED_VALIDATE accepts (include/linux/mman.h: LEGACY_MAP_MASK); MAP_SYNC needs a DAX file.
constexpr int kLegacyFlags = MAP_SHARED | MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS | MAP_DENYWRITE | MAP_EXECUTABLE | MAP_GROWSDOWN | MAP_LOCKED |
                             MAP_NORESERVE | MAP_POPULATE | MAP_NONBLOCK | MAP_STACK | MAP_HUGETLB | MAP_32BIT | (MAP_HUGE_MASK << MAP_HUGE_SHIFT);

bool MayHoldPrograms(const File& file) {
  if (file.path() != nullptr) return (file.path()->mount->flags() & MS_NOEXEC) == 0 && !IsPseudo(file.path()->mount->fs());
  return file.kind() == state::Kind::kMemFd || file.kind() == state::Kind::kShmFile || file.kind() == state::Kind::kHostFile;
}

// The mapping that the flags, protection and file ask for, without its place.
ErrnoOr<Vma> Describe(int prot, int flags, RefPtr<File> file, uint64_t offset) {
  Vma vma;
  vma.prot = prot & kProtBits;
  int type = flags & MAP_TYPE;
  if (file) {
    switch (type) {
      case MAP_SHARED_VALIDATE:
        if ((flags & ~(kLegacyFlags | MAP_SHARED_VALIDATE | MAP_FIXED_NOREPLACE)) != 0) return Errno(EOPNOTSUPP);
        [[fallthrough]];
      case MAP_SHARED:
        vma.shared = true;
        if ((prot & PROT_WRITE) != 0 && !file->writable()) return Errno(EACCES);
        if (file->writable() && file->path() != nullptr && IsAppendOnly(*file->path()->inode())) return Errno(EACCES);
        if (!file->writable()) vma.max_prot &= ~PROT_WRITE;
        break;
      case MAP_PRIVATE: break;
      default: return Errno(EINVAL);
    }
    if (!file->readable()) return Errno(EACCES);
    // Nobody executes a device's memory, nor what shows the kernel's objects (SB_I_NOEXEC).
    if (file->kind() == kDeviceFileKind || !MayHoldPrograms(*file)) {
      if ((prot & PROT_EXEC) != 0) return Errno(EPERM);
      vma.max_prot &= ~PROT_EXEC;  // nor by mprotect later
    }
    if ((flags & MAP_GROWSDOWN) != 0) return Errno(EINVAL);
    vma.file = std::move(file);
    vma.offset = offset;
  } else {
    if (type != MAP_SHARED && type != MAP_PRIVATE && type != kDroppable) return Errno(EINVAL);
    vma.shared = type == MAP_SHARED;
    if (type != MAP_PRIVATE && (flags & MAP_GROWSDOWN) != 0) return Errno(EINVAL);
    if (type == kDroppable && (flags & MAP_LOCKED) != 0) return Errno(EINVAL);
    // What may be dropped when memory is short, and never is here: private memory that a child and a core file do not get.
    if (type == kDroppable) vma.flags |= Vma::kNoReserve | Vma::kWipeOnFork | Vma::kDontDump;
  }
  if ((flags & MAP_NORESERVE) != 0) vma.flags |= Vma::kNoReserve;
  if ((flags & MAP_LOCKED) != 0) vma.flags |= Vma::kLocked;
  if ((flags & MAP_GROWSDOWN) != 0) vma.flags |= Vma::kGrowsDown;
  return vma;
}

// Where it goes. For MAP_FIXED the whole range must be the guest's.
ErrnoOr<uint64_t> FindPlace(Task& task, uint64_t address, uint64_t size, int flags) {
  MemoryManager& mm = task.mm();
  bool fixed = (flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) != 0;
  if (!fixed) {
    uint64_t hint = PageDown(address);
    if (hint != 0) hint = std::max(hint, kMinAddress);
    return mm.Place(hint, size, (flags & MAP_32BIT) != 0);
  }
  if (size > kGuestTop || address > kGuestTop - size) return Errno(ENOMEM);
  if (address % kPageSize != 0) return Errno(EINVAL);
  if (address < kMinAddress) return Errno(EPERM);
  if (!mm.IsGuestRange(address, address + size)) return Errno((flags & MAP_FIXED_NOREPLACE) != 0 ? EEXIST : ENOMEM);
  if ((flags & MAP_FIXED_NOREPLACE) != 0 && !mm.vmas().IsFree(address, address + size)) return Errno(EEXIST);
  return address;
}

// Bytes of [start, end) that are mapped already, in all and writable and private.
struct Overlap {
  uint64_t total = 0, data = 0, locked = 0;
};
Overlap OverlapOf(const VmaSet& vmas, uint64_t start, uint64_t end) {
  Overlap o;
  for (const Vma& v : vmas.Slice(start, end)) {
    o.total += v.size();
    if (v.data()) o.data += v.size();
    if (v.locked()) o.locked += v.size();
  }
  return o;
}

// What the file has for the mapping. Anonymous shared memory gets a file of its own; a file that answers with no descriptor
// (/dev/zero) means anonymous memory.
ErrnoOr<MapSource> FindSource(Task& task, Vma* vma) {
  if (vma->file) {
    int prot = vma->shared ? vma->max_prot : vma->prot;
    MapSource source = TRY(vma->file->Map(task, vma->offset, vma->size(), prot, vma->shared));
    if (source.fd >= 0) return source;
    vma->file = nullptr;
    vma->offset = 0;
  }
  if (!vma->shared) return MapSource();
  // As the host says of private memory (__vm_enough_memory()).
  if ((vma->flags & Vma::kNoReserve) == 0 && vma->size() > Machine::Get().memory_bytes) return Errno(ENOMEM);
  vma->file = TRY(MemFd::CreateShared(task, vma->size()));
  return vma->file->Map(task, 0, vma->size(), vma->prot, true);
}

ErrnoOr<void> CheckNewMapping(Task& task, const Vma& vma) {
  MemoryManager& mm = task.mm();
  MemoryLimits limits = MemoryLimitsOf(task);
  if (vma.locked() && !limits.may_lock && limits.memlock == 0) return Errno(EPERM);
  Overlap o = OverlapOf(mm.vmas(), vma.start, vma.end);
  auto more = [&](bool counts, uint64_t have) { return counts && vma.size() > have ? vma.size() - have : 0; };
  return mm.CheckLimits(limits, more(true, o.total), more(vma.data(), o.data), more(vma.locked(), o.locked), 2);
}

// PROT_GROWSDOWN: mprotect begins where the mapping at `address` does, which must grow down.
ErrnoOr<uint64_t> StartOfGrowing(const MemoryManager& mm, uint64_t address) {
  const Vma* vma = mm.vmas().Find(address);
  if (vma == nullptr) return Errno(ENOMEM);
  if (!vma->grows_down()) return Errno(EINVAL);
  return vma->start;
}

}  // namespace

ErrnoOr<uint64_t> Mmap(Task& task, uint64_t address, uint64_t length, int prot, int flags, int fd, uint64_t offset) {
  if (offset % kPageSize != 0) return Errno(EINVAL);
  RefPtr<File> file;
  if ((flags & MAP_ANONYMOUS) == 0) file = TRY(task.files().Get(fd));
  if ((flags & MAP_HUGETLB) != 0) return Errno(EINVAL);  // as without CONFIG_HUGETLBFS
  if (length == 0) return Errno(EINVAL);
  return MapFile(task, address, length, prot, flags, std::move(file), offset);
}

ErrnoOr<uint64_t> MapFile(Task& task, uint64_t address, uint64_t length, int prot, int flags, RefPtr<File> file, uint64_t offset,
                          std::optional<uint64_t> answer) {
  uint64_t size = PageUp(length);
  if (size == 0 || size > kGuestTop) return Errno(ENOMEM);
  if (file && offset + size < offset) return Errno(EOVERFLOW);
  bool fixed = (flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) != 0;
  // Placement avoids ranges of calls that are still running; only a fixed address must wait for them.
  MmLock lock(task, fixed ? PageDown(address) : 0, fixed ? address + size : 0);
  if (!lock.held()) return WaitForMm(task);

  uint64_t start = TRY(FindPlace(task, address, size, flags));
  Vma vma = TRY(Describe(prot, flags, std::move(file), offset));
  vma.start = start;
  vma.end = start + size;
  vma.flags |= task.mm().default_flags();
  if (task.mm().vmas().AnySealed(vma.start, vma.end)) return Errno(EPERM);
  if (task.group().extras().DeniesProtection(vma.prot, vma.prot)) return Errno(EACCES);
  TRY(CheckNewMapping(task, vma));
  MapSource source = TRY(FindSource(task, &vma));

  std::vector<StubOp> ops;
  bool populate = (flags & MAP_POPULATE) != 0 && (flags & MAP_NONBLOCK) == 0;
  MemoryManager::AppendMapOps(vma, source, (populate || vma.locked() ? MAP_POPULATE : 0) | (flags & MAP_STACK), &ops);
  MemoryManager::AppendHugeAdvice(vma, &ops);
  if ((vma.flags & Vma::kWipeOnFork) != 0) ops.push_back(MemoryManager::Op(SYS_madvise, vma.start, vma.size(), MADV_WIPEONFORK));
  RefPtr<MemoryManager> mm(&task.mm());
  return RunMemoryOps(task, lock, std::move(ops), [mm, vma, answer](std::span<const int64_t>) {
    mm->Record(vma);
    return static_cast<int64_t>(answer.value_or(vma.start));
  });
}

ErrnoOr<uint64_t> Munmap(Task& task, uint64_t address, uint64_t length) {
  if (address % kPageSize != 0 || length > kGuestTop || address > kGuestTop - length) return Errno(EINVAL);
  uint64_t end = address + PageUp(length);
  if (end == address) return Errno(EINVAL);
  MmLock lock(task, address, end);
  if (!lock.held()) return WaitForMm(task);
  MemoryManager& mm = task.mm();
  std::vector<Vma> parts = mm.vmas().Slice(address, end);
  if (parts.empty()) return uint64_t{0};
  if (mm.vmas().AnySealed(address, end)) return Errno(EPERM);
  if (mm.vmas().count() + 1 + MemoryManager::kHostReserve > MemoryManager::kMaxMappings) {
    const Vma* whole = mm.vmas().Find(address);
    if (whole != nullptr && whole->start < address && end < whole->end) return Errno(ENOMEM);
  }
  if (mm.IsGuestRange(address, end)) {
    return RunNatively(task, lock, address, end, [&] { mm.vmas().Remove(address, end); });
  }
  // The range covers something that is not the guest's: take out what is, piece by piece.
  std::vector<StubOp> ops;
  for (const Vma& part : parts) ops.push_back(MemoryManager::Op(SYS_munmap, part.start, part.size()));
  RefPtr<MemoryManager> ref(&mm);
  return RunMemoryOps(task, lock, std::move(ops), [ref, address, end](std::span<const int64_t>) -> int64_t {
    ref->vmas().Remove(address, end);
    return 0;
  });
}

ErrnoOr<uint64_t> Mprotect(Task& task, uint64_t address, uint64_t length, uint64_t prot_bits) {
  // Nothing grows upwards on this machine: EINVAL, as from Linux.
  bool from_start = prot_bits & PROT_GROWSDOWN;
  constexpr uint64_t kProtSem = 8;  // asm-generic/mman-common.h: taken, and without effect on this machine
  prot_bits &= ~(PROT_GROWSDOWN | kProtSem);
  if ((prot_bits & ~uint64_t{kProtBits}) != 0) return Errno(EINVAL);
  if (address % kPageSize != 0) return Errno(EINVAL);
  if (length == 0) return uint64_t{0};
  uint64_t size = PageUp(length);
  if (size == 0 || size > kGuestTop || address > kGuestTop - size) return Errno(ENOMEM);
  uint64_t end = address + size;
  int prot = static_cast<int>(prot_bits);
  MmLock lock(task, from_start ? 0 : address, end);
  if (!lock.held()) return WaitForMm(task);
  MemoryManager& mm = task.mm();
  uint64_t asked = address;
  if (from_start) address = TRY(StartOfGrowing(mm, address));
  // Linux changes one mapping after the other and stops at the first hole or refusal.
  uint64_t good = mm.vmas().FirstHole(address, end);
  int error = good < end ? ENOMEM : 0;
  bool changes = false;
  uint64_t more_data = 0;
  for (const Vma& part : mm.vmas().Slice(address, good)) {
    if (part.sealed()) {
      good = part.start;
      error = EPERM;
      break;
    }
    if ((prot & ~part.max_prot) != 0 || task.group().extras().DeniesProtection(part.prot, prot)) {
      good = part.start;
      error = EACCES;
      break;
    }
    changes |= part.prot != prot;
    if ((prot & PROT_WRITE) != 0 && !part.shared && !part.data()) more_data += part.size();
  }
  if (good == address) return Errno(error);
  TRY(mm.CheckLimits(MemoryLimitsOf(task), 0, more_data, 0, 2));
  auto apply = [](VmaSet& vmas, uint64_t from, uint64_t to, int p) { vmas.Update(from, to, [p](Vma& v) { v.prot = p; }); };
  if (error == 0 && !changes) return uint64_t{0};
  if (error == 0 && address == asked) return RunNatively(task, lock, address, end, [&] { apply(mm.vmas(), address, end, prot); });
  RefPtr<MemoryManager> ref(&mm);
  return RunMemoryOps(task, lock, {MemoryManager::Op(SYS_mprotect, address, (error == 0 ? end : good) - address, prot_bits)},
                      [ref, address, good, prot, apply, error](std::span<const int64_t>) -> int64_t {
                        apply(ref->vmas(), address, good, prot);
                        return -error;
                      });
}

ErrnoOr<uint64_t> Brk(Task& task, uint64_t address) {
  MemoryManager& mm = task.mm();
  MemoryLayout& l = mm.layout();
  if (address < l.start_brk || address > kGuestTop) return l.brk;
  uint64_t old_end = PageUp(l.brk), new_end = PageUp(address);
  if (old_end == new_end) {
    l.brk = address;
    return address;
  }
  MmLock lock(task, std::min(old_end, new_end), std::max(old_end, new_end));
  if (!lock.held()) return WaitForMm(task);
  RefPtr<MemoryManager> ref(&mm);
  if (new_end < old_end) {
    if (mm.vmas().AnySealed(new_end, old_end)) return l.brk;
    return RunMemoryOps(task, lock, {MemoryManager::Op(SYS_munmap, new_end, old_end - new_end)},
                        [ref, address, new_end, old_end](std::span<const int64_t>) {
                          ref->vmas().Remove(new_end, old_end);
                          ref->layout().brk = address;
                          return static_cast<int64_t>(address);
                        });
  }
  uint64_t grow = new_end - old_end;
  Vma vma;
  vma.start = old_end;
  vma.end = new_end;
  vma.prot = PROT_READ | PROT_WRITE;
  vma.name = VmaName::kHeap;
  vma.flags = mm.default_flags();
  // brk(2) reports failure by the unchanged break. Linux keeps a page free below the next mapping.
  MemoryLimits limits = MemoryLimitsOf(task);
  if (!mm.IsGuestRange(vma.start, vma.end) || !mm.vmas().IsFree(vma.start, std::min(vma.end + kPageSize, kGuestTop)) ||
      !mm.CheckLimits(limits, grow, address - l.start_brk > limits.data ? ~uint64_t{0} : grow, vma.locked() ? grow : 0, 1).ok()) {
    return l.brk;
  }
  std::vector<StubOp> ops = {MemoryManager::MapOp(vma, {}, vma.locked() ? MAP_POPULATE : 0)};
  MemoryManager::AppendHugeAdvice(vma, &ops);
  return RunMemoryOps(
      task, lock, std::move(ops),
      [ref, vma, address](std::span<const int64_t>) {
        ref->Record(vma);
        ref->layout().brk = address;
        return static_cast<int64_t>(address);
      },
      [ref](int64_t) { return static_cast<int64_t>(ref->layout().brk); });
}

}  // namespace amber
