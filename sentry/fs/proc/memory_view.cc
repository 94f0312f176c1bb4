#include "sentry/fs/proc/memory_view.h"

#include <algorithm>
#include <map>

#include "sentry/fs/proc/machine.h"
#include "sentry/fs/tmpfs/tmpfs.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/mm/memory_manager.h"

namespace amber {
namespace {

std::map<const Container*, uint64_t>& Limits() {
  static auto* limits = new std::map<const Container*, uint64_t>();
  return *limits;
}

}  // namespace

void SetMemoryLimit(const Container* container, uint64_t bytes) {
  if (bytes != 0) {
    Limits()[container] = bytes;
  } else {
    Limits().erase(container);
  }
}

uint64_t MemoryOf(const Container* container) {
  uint64_t total = Machine::Get().memory_bytes;
  auto it = Limits().find(container);
  return it == Limits().end() ? total : std::min(total, it->second);
}

MemoryUse MemoryUsedBy(const std::vector<RefPtr<ThreadGroup>>& groups) {
  MemoryUse out;
  for (const RefPtr<ThreadGroup>& g : groups) {
    for (const RefPtr<Task>& t : g->tasks()) {
      if (t->exiting() || !t->has_mm()) continue;
      MemoryManager::Usage usage = t->mm().GetUsage();
      out.resident += usage.resident;
      out.anonymous += usage.resident - std::min(usage.resident, usage.resident_file);
      break;
    }
  }
  // Pages of such files that programs have mapped count twice: free memory is told too low rather than too high.
  out.shared = TmpfsFileSystem::AllUsed();
  return out;
}

}  // namespace amber
