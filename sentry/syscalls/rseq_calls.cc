// rseq(2), kernel/rseq.c: restartable sequences are the host's. It writes the number of the processor into the guest's own word and moves the guest's own
// instruction pointer; it does so for every stop of the thread, ours included, before the frame comes here. What it does with a bad word
// is a SIGSEGV of the guest. A sequence that covers text of the stub gives a guest nothing that a jump there would not.
#include <sys/mman.h>
#include <sys/syscall.h>

#include "sentry/kernel/extras.h"
#include "sentry/kernel/task.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/memory_ops.h"
#include "sentry/syscalls/table.h"

namespace amber {
namespace {

constexpr unsigned kOriginalSize = 32, kLargest = 4096;
constexpr uint64_t kAlignment = 32;
constexpr int kUnregister = 1;

bool IsWritable(const MemoryManager& mm, uint64_t start, uint64_t end) {
  while (start < end) {
    const Vma* vma = mm.vmas().Find(start);
    if (vma == nullptr || (vma->prot & PROT_WRITE) == 0) return false;
    start = vma->end;
  }
  return true;
}

ErrnoOr<uint64_t> Unregister(Task& task, uint64_t area, unsigned size, unsigned signature) {
  TaskExtras::Rseq& rseq = task.extras().rseq;
  if (rseq.area == 0 || rseq.area != area || rseq.size != size) return Errno(EINVAL);
  if (rseq.signature != signature) return Errno(EPERM);
  rseq = {};
  return RunUnlocked(task);
}

ErrnoOr<uint64_t> Rseq(Task& task, uint64_t area, unsigned size, int flags, unsigned signature) {
  if (flags == kUnregister) return Unregister(task, area, size, signature);
  if (flags != 0) return Errno(EINVAL);
  TaskExtras::Rseq& rseq = task.extras().rseq;
  if (rseq.area != 0) {
    if (rseq.area != area || rseq.size != size) return Errno(EINVAL);
    if (rseq.signature != signature) return Errno(EPERM);
    return Errno(EBUSY);
  }
  if (size < kOriginalSize || area % kAlignment != 0) return Errno(EINVAL);
  if (size > kLargest || area == 0 || area >= platform::kGuestTop || size > platform::kGuestTop - area) return Errno(EFAULT);
  // The host would say nothing now and a SIGSEGV later, or EFAULT, as it is new or old.
  if (!IsWritable(task.mm(), area, area + size)) return Errno(EFAULT);
  TaskExtras::Rseq next{area, size, signature};
  if (size == kOriginalSize && !task.framed()) {
    rseq = next;
    return RunUnlocked(task);
  }
  // How much more than that the host knows is its own affair: its answer counts.
  Task* self = &task;
  task.StopForOps({{SYS_rseq, {area, size, 0, signature}}}, [self, next](std::span<const int64_t> results) {
    int64_t result = results.empty() ? -EFAULT : results[0];
    if (result == 0) self->extras().rseq = next;
    self->FinishSyscall(result);
  });
  return kNoAnswer;
}

}  // namespace

void RegisterRseqCalls(SyscallTable& table) { table.Set(SYS_rseq, Full<&Rseq>()); }

}  // namespace amber
