#include "sentry/kernel/futex_key.h"

#include <limits.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sentry/kernel/task.h"
#include "sentry/mm/memory_manager.h"

namespace amber {
namespace {

// FUTEX_WAKE_OP: the word becomes 1 << 30, then its waiters are woken. (The comparison, which never holds, is for the second word.)
static_assert(FUTEX_OWNER_DIED == 1 << 30);
constexpr uint32_t kSetOwnerDied = static_cast<uint32_t>(FUTEX_OP(FUTEX_OP_SET | FUTEX_OP_OPARG_SHIFT, 30, FUTEX_OP_CMP_EQ, 0xfff));

}  // namespace

ErrnoOr<FutexKey> FutexKeyOf(Task& task, uint64_t address, bool shared, RefPtr<File>* pin) {
  if (address % 4 != 0) return Errno(EINVAL);
  if (address >= platform::kGuestTop) return Errno(EFAULT);
  FutexKey key{.object = reinterpret_cast<uint64_t>(&task.mm()), .device = 0, .offset = address};
  if (!shared) return key;
  const Vma* vma = task.mm().vmas().Find(address);
  if (vma == nullptr) return Errno(EFAULT);
  // Private pages, also those of a private mapping of a file that were written to, are known by their place in memory (get_futex_key()).
  if (!vma->shared || !vma->file) return key;
  RefPtr<File> file = vma->file;
  uint64_t offset = vma->offset + (address - vma->start);
  MapSource source = TRY(file->Map(task, offset & ~(kPageSize - 1), kPageSize, vma->prot, true));
  struct stat st;
  if (fstat(source.fd, &st) != 0) return Errno(EFAULT);
  if (pin != nullptr) *pin = std::move(file);
  return FutexKey{.object = st.st_ino, .device = st.st_dev + 1, .offset = source.offset + offset};
}

platform::StubOp TellWordOp(uint64_t address, bool wake_only) {
  if (wake_only) return {SYS_futex, {address, FUTEX_WAKE, 1, 0, 0, 0}};
  return {SYS_futex, {address, FUTEX_WAKE_OP, INT_MAX, 0, address, kSetOwnerDied}};
}

bool TellSharedWord(Task& task, uint64_t address, bool wake_only) {
  const Vma* vma = task.mm().vmas().Find(address);
  if (vma == nullptr || !vma->shared || !vma->file || (vma->prot & PROT_WRITE) == 0) return false;
  RefPtr<File> file = vma->file;
  uint64_t offset = vma->offset + (address - vma->start);
  auto source = file->Map(task, offset & ~(kPageSize - 1), kPageSize, vma->prot, true);
  if (!source.ok()) return false;
  void* page =
      mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, source->fd, static_cast<off_t>(source->offset + (offset & ~(kPageSize - 1))));
  if (page == MAP_FAILED) return false;
  uint64_t word = reinterpret_cast<uint64_t>(page) + offset % kPageSize;
  if (wake_only) {
    syscall(SYS_futex, word, FUTEX_WAKE, 1, nullptr, nullptr, 0);
  } else {
    syscall(SYS_futex, word, FUTEX_WAKE_OP, INT_MAX, 0, word, kSetOwnerDied);
  }
  munmap(page, kPageSize);
  return true;
}

}  // namespace amber
