// What the host's madvise(2) knows.
#pragma once

#include <sys/mman.h>

namespace amber {

// Whether it takes `advice` for private anonymous memory: an operation that it refuses would end a run of them.
inline bool HostTakesAdvice(int advice) {
  constexpr size_t kBytes = 4096;
  void* page = mmap(nullptr, kBytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return false;
  bool takes = madvise(page, kBytes, advice) == 0;
  munmap(page, kBytes);
  return takes;
}

}  // namespace amber
