// madvise, mincore, msync, and the mlock family.
#include <linux/mman.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>

#include "sentry/mm/guard.h"
#include "sentry/mm/host_advice.h"
#include "sentry/mm/moved.h"
#include "sentry/syscalls/memory_map.h"
#include "sentry/syscalls/memory_ops.h"
#include "sentry/vfs/file.h"

namespace amber {

namespace {

using platform::kGuestTop;
using platform::StubOp;

constexpr int kDontNeedLocked = 24;  // MADV_DONTNEED_LOCKED

// How an advice changes a mapping's flags.
struct FlagChange {
  uint32_t set = 0, clear = 0;
};

FlagChange ChangeOf(int advice) {
  switch (advice) {
    case MADV_DONTFORK: return {Vma::kDontFork, 0};
    case MADV_DOFORK: return {0, Vma::kDontFork};
    case MADV_WIPEONFORK: return {Vma::kWipeOnFork, 0};
    case MADV_KEEPONFORK: return {0, Vma::kWipeOnFork};
    case MADV_DONTDUMP: return {Vma::kDontDump, 0};
    case MADV_DODUMP: return {0, Vma::kDontDump};
    case MADV_HUGEPAGE: return {Vma::kHuge, Vma::kNoHuge};
    case MADV_NOHUGEPAGE: return {Vma::kNoHuge, Vma::kHuge};
    case MADV_NORMAL: return {0, Vma::kSequential | Vma::kRandom};
    case MADV_SEQUENTIAL: return {Vma::kSequential, Vma::kRandom};
    case MADV_RANDOM: return {Vma::kRandom, Vma::kSequential};
    default: return {};
  }
}

// 0, or what Linux says to `advice` on this mapping (madvise_vma_behavior of mm/madvise.c).
int Refusal(const Vma& vma, int advice, bool even_locked = false) {
  // can_madv_modify() of mm/mseal.c: sealed memory that one may not write must not be emptied either.
  bool discards = advice == kGuardInstall || advice == MADV_DONTNEED || advice == MADV_FREE || advice == MADV_REMOVE || advice == MADV_DONTFORK ||
                  advice == MADV_WIPEONFORK;
  if (discards && vma.sealed() && !vma.file && (vma.prot & PROT_WRITE) == 0) return EPERM;
  switch (advice) {
    case MADV_DONTNEED:
    case MADV_COLD:
    case MADV_PAGEOUT: return vma.locked() && !even_locked ? EINVAL : 0;
    case MADV_FREE: return ((vma.file || vma.shared) && !IsMoved(vma)) || vma.locked() ? EINVAL : 0;
    case MADV_WIPEONFORK:
      // TODO(compat): restored memory would have to be copied out of the image first.
      return vma.file || vma.shared || vma.image ? EINVAL : 0;
    case MADV_REMOVE:
      if (vma.locked() || !vma.file || IsMoved(vma)) return EINVAL;
      return vma.shared && (vma.prot & PROT_WRITE) != 0 ? 0 : EACCES;
    default: return 0;
  }
}

bool IsKnown(int advice) {
  // Not here: MADV_MERGEABLE (pages merged across sandboxes leak what they hold; EINVAL is what Linux without KSM says).
  for (int known : {MADV_NORMAL,     MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED,      MADV_DONTNEED,       MADV_FREE,    MADV_REMOVE,
                    MADV_DONTFORK,   MADV_DOFORK, MADV_HUGEPAGE,   MADV_NOHUGEPAGE,    MADV_DONTDUMP,       MADV_DODUMP,  MADV_WIPEONFORK,
                    MADV_KEEPONFORK, MADV_COLD,   MADV_PAGEOUT,    MADV_POPULATE_READ, MADV_POPULATE_WRITE, MADV_COLLAPSE}) {
    if (advice == known) return true;
  }
  return false;
}

// Dropped image memory is mapped afresh: the host would show the image's bytes again. So is memory that a device has the pages of: it keeps them, and the guest gets
// others. Those are not the host's to free meanwhile, which MADV_FREE leaves open.
ErrnoOr<std::vector<StubOp>> DropOps(Task& task, const std::vector<Vma>& parts, int advice) {
  std::vector<StubOp> ops;
  for (const Vma& part : parts) {
    if (IsMoved(part) && advice == MADV_FREE) continue;
    if (!part.image && !IsMoved(part)) {
      ops.push_back(MemoryManager::Op(SYS_madvise, part.start, part.size(), static_cast<uint64_t>(advice)));
      continue;
    }
    Vma fresh = IsMoved(part) ? UnmovedVma(part) : part;
    fresh.image = false;
    MapSource source;
    if (fresh.file) source = TRY(fresh.file->Map(task, fresh.offset, fresh.size(), fresh.prot, false));
    MemoryManager::AppendMapOps(fresh, source, 0, &ops);
  }
  return ops;
}

// [start, end) for calls that take any length; 0 for an empty range.
ErrnoOr<uint64_t> EndOf(uint64_t address, uint64_t length, int error) {
  uint64_t size = PageUp(length);
  if (size < length || address + size < address) return Errno(error);
  return address + size;
}

// mlock, munlock and msync take a length so great that it is nothing, rounded up, for nothing.
ErrnoOr<uint64_t> EndOrNothing(uint64_t address, uint64_t length, int error) { return PageUp(length) == 0 ? address : EndOf(address, length, error); }

// MADV_GUARD_INSTALL and MADV_GUARD_REMOVE (madvise_guard_install()). What the host's madvise says is the answer: it may be older.
ErrnoOr<uint64_t> Guard(Task& task, MmLock& lock, const std::vector<Vma>& parts, uint64_t start, uint64_t end, bool install) {
  // Before anything is emptied.
  static const bool kHostHasThem = HostTakesAdvice(kGuardInstall);
  if (!kHostHasThem) return Errno(EINVAL);
  TRY(task.mm().CheckLimits(MemoryLimitsOf(task), 0, 0, 0, 2));
  std::vector<StubOp> ops;
  for (const Vma& part : parts) {
    if (int error = Refusal(part, install ? kGuardInstall : kGuardRemove); error != 0) return Errno(error);
    if (part.name == VmaName::kVdso || part.name == VmaName::kVvar || IsDevice(part) || IsMoved(part) || (install && part.locked()))
      return Errno(EINVAL);
    if (!install || !part.image) continue;
    // Its contents are gone; when the guard goes, the host would show the image's.
    Vma fresh = GuestView(part);
    MapSource source;
    if (fresh.file) source = TRY(fresh.file->Map(task, fresh.offset, fresh.size(), fresh.prot, false));
    MemoryManager::AppendMapOps(fresh, source, 0, &ops);
  }
  for (const Vma& part : parts) {
    ops.push_back(MemoryManager::Op(SYS_madvise, part.start, part.size(), static_cast<uint64_t>(install ? kGuardInstall : kGuardRemove)));
  }
  RefPtr<MemoryManager> mm(&task.mm());
  int64_t result = mm->vmas().FirstHole(start, end) < end ? -ENOMEM : 0;
  return RunMemoryOps(task, lock, std::move(ops), [=](std::span<const int64_t>) -> int64_t {
    mm->vmas().Update(start, end, [&](Vma& v) {
      if (install) v = GuestView(v);
      v.flags = install ? v.flags | kGuard : v.flags & ~kGuard;
    });
    return result;
  });
}

}  // namespace

ErrnoOr<uint64_t> Madvise(Task& task, uint64_t address, uint64_t length, int advice) {
  if (advice == MADV_HWPOISON || advice == MADV_SOFT_OFFLINE) return Errno(EPERM);
  // The guest's own call says it to the host, where it is made natively; that may be older.
  bool even_locked = advice == kDontNeedLocked;
  if (even_locked) advice = MADV_DONTNEED;
  bool guards = advice == kGuardInstall || advice == kGuardRemove;
  if (!IsKnown(advice) && !guards) return Errno(EINVAL);
  if (address % kPageSize != 0) return Errno(EINVAL);
  uint64_t end = TRY(EndOf(address, length, EINVAL));
  if (end == address) return uint64_t{0};
  if (end > kGuestTop) return Errno(ENOMEM);
  MmLock lock(task, address, end);
  if (!lock.held()) return WaitForMm(task);
  MemoryManager& mm = task.mm();
  std::vector<Vma> parts = mm.vmas().Slice(address, end);
  if (parts.empty()) return Errno(ENOMEM);
  if (guards) return Guard(task, lock, parts, address, end, advice == kGuardInstall);
  bool image = false;
  for (const Vma& part : parts) {
    // TODO(compat): Linux has advised the mappings before the first one that refuses.
    if (int error = Refusal(part, advice, even_locked); error != 0) return Errno(error);
    image |= part.image || IsMoved(part);
  }
  bool drops = advice == MADV_DONTNEED || advice == MADV_FREE;
  FlagChange change = ChangeOf(advice);
  if (!(drops && image) && mm.IsGuestRange(address, end)) {
    return RunNatively(task, lock, address, end, [&] {
      if (change.set == 0 && change.clear == 0) return;
      mm.vmas().Update(address, end, [&](Vma& v) { v.flags = (v.flags & ~change.clear) | change.set; });
    });
  }
  std::vector<StubOp> ops = TRY(DropOps(task, parts, advice));
  int result = mm.vmas().FirstHole(address, end) < end ? ENOMEM : 0;
  RefPtr<MemoryManager> ref(&mm);
  return RunMemoryOps(task, lock, std::move(ops), [=](std::span<const int64_t>) -> int64_t {
    ref->vmas().Update(address, end, [&](Vma& v) {
      if (drops) v.image = false;
      if (advice == MADV_DONTNEED && IsMoved(v)) v = UnmovedVma(std::move(v));
      v.flags = (v.flags & ~change.clear) | change.set;
    });
    return -result;
  });
}

ErrnoOr<uint64_t> Mincore(Task& task, uint64_t address, uint64_t length, UserPtr<uint8_t> out) {
  if (address % kPageSize != 0) return Errno(EINVAL);
  uint64_t end = TRY(EndOf(address, length, ENOMEM));
  if (end == address) return uint64_t{0};
  if (end > kGuestTop) return Errno(ENOMEM);
  uint64_t pages = (end - address) / kPageSize;
  if (out.address() > kGuestTop || pages > kGuestTop - out.address()) return Errno(EFAULT);
  if (!task.mm().IsMapped(address, end)) return Errno(ENOMEM);
  return RunUnlocked(task);
}

ErrnoOr<uint64_t> Msync(Task& task, uint64_t address, uint64_t length, int flags) {
  if ((flags & ~(MS_ASYNC | MS_INVALIDATE | MS_SYNC)) != 0) return Errno(EINVAL);
  if ((flags & MS_ASYNC) != 0 && (flags & MS_SYNC) != 0) return Errno(EINVAL);
  if (address % kPageSize != 0) return Errno(EINVAL);
  uint64_t end = TRY(EndOrNothing(address, length, ENOMEM));
  if (end == address) return uint64_t{0};
  if (end > kGuestTop) return Errno(ENOMEM);
  bool files = false;
  for (const Vma& part : task.mm().vmas().Slice(address, end)) {
    if ((flags & MS_INVALIDATE) != 0 && part.locked()) return Errno(EBUSY);
    files |= part.shared && part.file;
  }
  if (!task.mm().IsMapped(address, end)) return Errno(ENOMEM);
  // Only shared file pages have anything to write.
  if (!files || (flags & MS_SYNC) == 0) return uint64_t{0};
  return RunUnlocked(task);
}

namespace {

// Marks [start, end) and brings its pages in. The pages are not pinned in the host: the tree counts them, and RLIMIT_MEMLOCK of
// the guest is kept.
ErrnoOr<uint64_t> LockRange(Task& task, MmLock& lock, uint64_t start, uint64_t end, bool populate) {
  MemoryManager& mm = task.mm();
  MemoryLimits limits = MemoryLimitsOf(task);
  uint64_t more = 0;
  std::vector<StubOp> ops;
  std::vector<Vma> parts = mm.vmas().Slice(start, end);
  for (const Vma& part : parts) {
    if (!part.locked()) more += part.size();
    if (!populate || part.prot == PROT_NONE || part.name == VmaName::kStack) continue;
    bool write = !part.shared && (part.prot & PROT_WRITE) != 0;
    ops.push_back(MemoryManager::Op(SYS_madvise, part.start, part.size(), write ? MADV_POPULATE_WRITE : MADV_POPULATE_READ));
  }
  if (!limits.may_lock && (more > limits.memlock || mm.vmas().locked() > limits.memlock - more)) return Errno(ENOMEM);
  mm.vmas().Update(start, end, [](Vma& v) { v.flags |= Vma::kLocked; });
  if (mm.vmas().FirstHole(start, end) < end) return Errno(ENOMEM);
  // Pages that cannot be brought in (behind the end of a file) do not make mlock fail for what it has marked.
  return RunMemoryOps(
      task, lock, std::move(ops), [](std::span<const int64_t>) -> int64_t { return 0; },
      [](int64_t error) -> int64_t { return error == -ENOMEM ? -EAGAIN : 0; });
}

ErrnoOr<uint64_t> LockCall(Task& task, uint64_t address, uint64_t length, bool populate) {
  MemoryLimits limits = MemoryLimitsOf(task);
  if (!limits.may_lock && limits.memlock == 0) return Errno(EPERM);
  uint64_t start = PageDown(address);
  uint64_t end = TRY(EndOrNothing(start, length + (address - start), EINVAL));
  if (end == start) return uint64_t{0};
  if (end > kGuestTop) return Errno(ENOMEM);
  MmLock lock(task, start, end);
  if (!lock.held()) return WaitForMm(task);
  return LockRange(task, lock, start, end, populate);
}

}  // namespace

ErrnoOr<uint64_t> Mlock(Task& task, uint64_t address, uint64_t length) { return LockCall(task, address, length, true); }

ErrnoOr<uint64_t> Mlock2(Task& task, uint64_t address, uint64_t length, int flags) {
  if ((flags & ~MLOCK_ONFAULT) != 0) return Errno(EINVAL);
  return LockCall(task, address, length, (flags & MLOCK_ONFAULT) == 0);
}

ErrnoOr<uint64_t> Munlock(Task& task, uint64_t address, uint64_t length) {
  uint64_t start = PageDown(address);
  uint64_t end = TRY(EndOrNothing(start, length + (address - start), EINVAL));
  if (end == start) return uint64_t{0};
  MmLock lock(task, start, end);
  if (!lock.held()) return WaitForMm(task);
  bool whole = end <= kGuestTop && task.mm().IsMapped(start, end);
  task.mm().vmas().Update(start, end, [](Vma& v) { v.flags &= ~Vma::kLocked; });
  if (!whole) return Errno(ENOMEM);
  return uint64_t{0};
}

ErrnoOr<uint64_t> Mlockall(Task& task, int flags) {
  if (flags == 0 || (flags & ~(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT)) != 0 || flags == MCL_ONFAULT) return Errno(EINVAL);
  MemoryManager& mm = task.mm();
  MemoryLimits limits = MemoryLimitsOf(task);
  if (!limits.may_lock && limits.memlock == 0) return Errno(EPERM);
  if (!limits.may_lock && (flags & MCL_CURRENT) != 0 && mm.vmas().total() > limits.memlock) return Errno(ENOMEM);
  MmLock lock(task, 0, ~uint64_t{0});
  if (!lock.held()) return WaitForMm(task);
  mm.set_default_flags((flags & MCL_FUTURE) != 0 ? Vma::kLocked : 0);
  if ((flags & MCL_CURRENT) != 0) mm.vmas().Update(0, kGuestTop, [](Vma& v) { v.flags |= Vma::kLocked; });
  return uint64_t{0};
}

ErrnoOr<uint64_t> Munlockall(Task& task) {
  MmLock lock(task, 0, ~uint64_t{0});
  if (!lock.held()) return WaitForMm(task);
  task.mm().set_default_flags(0);
  task.mm().vmas().Update(0, kGuestTop, [](Vma& v) { v.flags &= ~Vma::kLocked; });
  return uint64_t{0};
}

}  // namespace amber
