#include "sentry/syscalls/stack_growth.h"

#include <sys/resource.h>

#include <algorithm>

#include "sentry/kernel/task.h"
#include "sentry/mm/guard.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/mm/pages.h"
#include "sentry/syscalls/memory_ops.h"

namespace amber {
namespace {

constexpr uint64_t kGuardGap = 256 * kPageSize;  // stack_guard_gap
constexpr uint64_t kPageFault = 14, kPresent = 1;

}  // namespace

std::optional<Vma> StackGrowth(Task& task, const platform::Fault& fault) {
  if (fault.signo != SIGSEGV || fault.trapno != kPageFault || (fault.error_code & kPresent) != 0) return std::nullopt;
  MemoryManager& mm = task.mm();
  uint64_t start = PageDown(fault.address);
  if (start >= platform::kGuestTop) return std::nullopt;
  auto next = mm.vmas().FindFrom(start);
  if (next == mm.vmas().end() || next->second.start <= start || !next->second.grows_down()) return std::nullopt;
  const Vma& above = next->second;
  if (!mm.IsGuestRange(start, above.start)) return std::nullopt;
  if (next != mm.vmas().begin()) {
    const Vma& below = std::prev(next)->second;
    if (!below.grows_down() && below.prot != PROT_NONE && start - below.end < kGuardGap) return std::nullopt;
  }
  // The whole of it, in pieces that differ in nothing that counts here.
  uint64_t end = above.end;
  for (auto it = std::next(next); it != mm.vmas().end() && it->second.start == end && it->second.grows_down(); ++it) end = it->second.end;
  if (end - start > task.limit(RLIMIT_STACK)) return std::nullopt;
  uint64_t grow = above.start - start;
  if (!mm.CheckLimits(MemoryLimitsOf(task), grow, 0, above.locked() ? grow : 0, 1).ok()) return std::nullopt;
  Vma part = GuestView(above);
  part.start = start;
  part.end = above.start;
  part.file.reset();
  part.offset = 0;
  return part;
}

UnusedStack StackBeyond(Task& task, uint64_t limit) {
  MemoryManager& mm = task.mm();
  const Vma* lowest = nullptr;
  uint64_t top = 0;
  for (const auto& [start, vma] : mm.vmas()) {
    if (vma.name != VmaName::kStack || vma.file) continue;
    if (lowest == nullptr) lowest = &vma;
    top = vma.end;
  }
  // Linux leaves a new program 128 KiB, whatever the limit is; here that much is kept.
  uint64_t keep = std::max<uint64_t>(PageUp(std::min(limit, uint64_t{1} << 40)), 32 * kPageSize);
  if (lowest == nullptr || top - lowest->start <= keep || mm.vmas().Find(task.mm().layout().start_stack) == nullptr) return {};
  uint64_t end = std::min(lowest->end, top - keep);
  auto pages = PagesToSave(mm);
  if (!pages.ok() || end <= lowest->start) return {};
  for (const PageRun& run : *pages) {
    if (run.end <= lowest->start) continue;
    end = std::min(end, run.start);
    break;
  }
  if (end <= lowest->start || mm.vmas().AnySealed(lowest->start, end)) return {};
  return {lowest->start, end};
}

}  // namespace amber
