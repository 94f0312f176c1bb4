// memfd_create, protection keys, memory policies, membarrier; and the table's entries for the whole family.
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/mman.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <string>

#include "sentry/fs/memfd/memfd.h"
#include "sentry/fs/pidfd/pidfd.h"
#include "sentry/fs/proc/entry.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/memory_map.h"
#include "sentry/syscalls/memory_ops.h"
#include "sentry/syscalls/table.h"
#include "sentry/vfs/fd_table.h"

namespace amber {

namespace {

constexpr unsigned kNoExecSeal = 8, kExec = 16;  // MFD_NOEXEC_SEAL, MFD_EXEC

ErrnoOr<uint64_t> MemfdCreate(Task& task, UserPtr<const char> name, unsigned flags) {
  constexpr unsigned kHugeSizes = 0x3fu << 26;  // MFD_HUGE_MASK << MFD_HUGE_SHIFT
  bool huge = (flags & MFD_HUGETLB) != 0;
  if ((flags & ~(huge ? MFD_HUGETLB | kHugeSizes : 0) & ~(MFD_CLOEXEC | MFD_ALLOW_SEALING | kNoExecSeal | kExec)) != 0) return Errno(EINVAL);
  if ((flags & kNoExecSeal) != 0 && (flags & kExec) != 0) return Errno(EINVAL);
  // 249 bytes and the NUL: NAME_MAX less "memfd:".
  auto text = task.CopyInString(name, 250);
  if (!text.ok()) return text.Is(ENAMETOOLONG) ? Errno(EINVAL) : text.error();
  if (huge) return Errno(ENOSYS);  // as without CONFIG_HUGETLBFS
  RefPtr<File> file = TRY(MemFd::Create(task, *text, flags));
  int fd = TRY(task.files().Allocate(std::move(file), (flags & MFD_CLOEXEC) != 0, task.limit(RLIMIT_NOFILE)));
  return static_cast<uint64_t>(fd);
}

// There are no protection keys: the stub's PKRU must stay as the platform set it.
ErrnoOr<uint64_t> PkeyAlloc(Task&, uint64_t flags, uint64_t rights) {
  if (flags != 0 || (rights & ~uint64_t{3}) != 0) return Errno(EINVAL);
  return Errno(ENOSPC);
}
ErrnoOr<uint64_t> PkeyFree(Task&, int) { return Errno(EINVAL); }
ErrnoOr<uint64_t> PkeyMprotect(Task& task, uint64_t address, uint64_t length, uint64_t prot, int key) {
  if (key != -1) return Errno(EINVAL);
  return Mprotect(task, address, length, prot);
}

// The commands that concern this process only; what the stub's kernel says is the answer.
ErrnoOr<uint64_t> Membarrier(Task& task, int command, unsigned flags, int cpu) {
  (void)cpu;
  constexpr int kPrivateRseq = 128, kRegisterPrivateRseq = 256;
  constexpr int kQuery = 0, kGlobal = 1, kPrivate = 8, kRegisterPrivate = 16, kSyncCore = 32, kRegisterSyncCore = 64;
  constexpr int kGlobalExpedited = 2, kRegisterGlobal = 4, kGetRegistrations = 512;
  // MEMBARRIER_CMD_FLAG_CPU: which processor to interrupt.
  if (flags != 0 && (flags != 1 || command != kPrivateRseq)) return Errno(EINVAL);
  switch (command) {
    case kQuery:
      return uint64_t{kGlobal | kGlobalExpedited | kRegisterGlobal | kPrivate | kRegisterPrivate | kSyncCore | kRegisterSyncCore | kPrivateRseq |
                      kRegisterPrivateRseq | kGetRegistrations};
    case kGetRegistrations: return uint64_t{task.mm().membarrier()};
    case kRegisterPrivate:
    case kRegisterGlobal:
    case kRegisterSyncCore:
    case kRegisterPrivateRseq:
      // A restored process registers again: the host's memory is a new one.
      task.mm().NoteMembarrier(static_cast<uint32_t>(command));
      [[fallthrough]];
    case kGlobal:
    case kGlobalExpedited:
    case kPrivate:
    case kSyncCore:
    case kPrivateRseq: return RunUnlocked(task);
    default: return Errno(EINVAL);
  }
}

// mseal(2): what is mapped there stays as it is.
ErrnoOr<uint64_t> Mseal(Task& task, uint64_t address, uint64_t length, uint64_t flags) {
  if (flags != 0 || address % kPageSize != 0) return Errno(EINVAL);
  uint64_t size = PageUp(length);
  if (size < length || address + size < address) return Errno(EINVAL);
  if (size == 0) return uint64_t{0};
  MmLock lock(task, address, address + size);
  if (!lock.held()) return WaitForMm(task);
  if (!task.mm().IsMapped(address, address + size)) return Errno(ENOMEM);
  task.mm().vmas().Update(address, address + size, [](Vma& v) { v.flags |= Vma::kSealed; });
  return uint64_t{0};
}

// process_mrelease(2): a process that dies here gives its memory back at once, so there is nothing left to reap.
ErrnoOr<uint64_t> ProcessMrelease(Task& task, int pidfd, unsigned flags) {
  if (flags != 0) return Errno(EINVAL);
  RefPtr<File> file = TRY(task.files().Get(pidfd));
  PidFd* target = PidFd::From(*file);
  if (target == nullptr) return Errno(EBADF);
  if (!target->alive()) return Errno(ESRCH);
  return target->group().exiting() || target->group().zombie() ? ErrnoOr<uint64_t>(0) : Errno(EINVAL);
}

// process_madvise(2). Cold, paged out and wanted soon are hints, which the host gets for the caller's own memory by madvise(2) alone.
ErrnoOr<uint64_t> ProcessMadvise(Task& task, int pidfd, UserPtr<const iovec> ranges_p, uint64_t count, int advice, unsigned flags) {
  if (flags != 0) return Errno(EINVAL);
  std::vector<iovec> ranges = TRY(task.CopyInIovecs(ranges_p, count));
  RefPtr<File> file = TRY(task.files().Get(pidfd));
  PidFd* target = PidFd::From(*file);
  if (target == nullptr) return Errno(EBADF);
  if (!target->alive()) return Errno(ESRCH);
  if (advice != MADV_COLD && advice != MADV_PAGEOUT && advice != MADV_WILLNEED && advice != MADV_COLLAPSE) return Errno(EINVAL);
  Task* leader = target->group().leader();
  if (leader == nullptr || !leader->has_mm()) return Errno(ESRCH);
  if (!MayInspect(task, *leader)) return Errno(EACCES);
  if (&target->group() != &task.group() && !task.Has(CAP_SYS_NICE)) return Errno(EPERM);
  uint64_t done = 0;
  for (const iovec& range : ranges) {
    uint64_t start = reinterpret_cast<uint64_t>(range.iov_base), end = start + PageUp(range.iov_len);
    int error = start % kPageSize != 0 || end < start ? EINVAL : !leader->mm().IsMapped(start, end) ? ENOMEM : 0;
    if (error != 0) return done > 0 ? ErrnoOr<uint64_t>(done) : Errno(error);
    done += range.iov_len;
  }
  return done;
}

}  // namespace

void RegisterMemoryCalls(SyscallTable& table) {
  table.Set(SYS_mmap, Full<&Mmap>());
  table.Set(SYS_munmap, Full<&Munmap>());
  table.Set(SYS_mprotect, Full<&Mprotect>());
  table.Set(SYS_brk, Full<&Brk>());
  table.Set(SYS_mremap, Full<&Mremap>());
  table.Set(SYS_madvise, Full<&Madvise>());
  table.Set(SYS_mincore, Full<&Mincore>());
  table.Set(SYS_msync, Full<&Msync>());
  constexpr const char* kNotPinned = "pages are brought in and counted, not pinned in the host";
  table.Set(SYS_mlock, Partial<&Mlock>(kNotPinned));
  table.Set(SYS_mlock2, Partial<&Mlock2>(kNotPinned));
  table.Set(SYS_munlock, Full<&Munlock>());
  table.Set(SYS_mlockall, Partial<&Mlockall>(kNotPinned));
  table.Set(SYS_munlockall, Full<&Munlockall>());
  table.Set(SYS_memfd_create, Partial<&MemfdCreate>("no MFD_HUGETLB"));
  table.Set(SYS_pkey_alloc, Refused<&PkeyAlloc>("ENOSPC: no protection keys"));
  table.Set(SYS_pkey_free, Refused<&PkeyFree>("EINVAL: no protection keys"));
  table.Set(SYS_pkey_mprotect, Full<&PkeyMprotect>());
  table.Set(SYS_membarrier, Full<&Membarrier>());
  table.Set(SYS_process_vm_readv, Full<&ProcessVmReadv>());
  table.Set(SYS_process_vm_writev, Full<&ProcessVmWritev>());
  table.Set(462 /* mseal */, Full<&Mseal>());
  table.Set(SYS_process_mrelease, Full<&ProcessMrelease>());
  table.Set(SYS_process_madvise, Partial<&ProcessMadvise>("hints, checked and not passed on"));
  table.Set(SYS_remap_file_pages, Full<&RemapFilePages>());
}

}  // namespace amber
