// What programs are told of memory: a container's limit where it has one, and what the container's own programs use.
#pragma once

#include <cstdint>
#include <vector>

#include "sentry/base/ref_ptr.h"

namespace amber {

class Container;
class ThreadGroup;

// Bytes that the container may use; 0: no limit. It must be taken back (0) before the container goes. Kernel lock.
void SetMemoryLimit(const Container* container, uint64_t bytes);
// The container's limit, or the machine's memory. Null: no container. Kernel lock.
uint64_t MemoryOf(const Container* container);

// Bytes.
struct MemoryUse {
  uint64_t resident = 0;   // of processes; what several have mapped counts for each
  uint64_t anonymous = 0;  // of that, what is not of files
  uint64_t shared = 0;     // files in the sandbox's memory
  uint64_t FreeOf(uint64_t total) const { return total - (resident + shared < total ? resident + shared : total); }
};
// Of these processes. Kernel lock.
MemoryUse MemoryUsedBy(const std::vector<RefPtr<ThreadGroup>>& groups);

}  // namespace amber
