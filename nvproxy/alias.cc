#include <sys/mman.h>

#include "nvproxy/host.h"

namespace amber::nvproxy {

ErrnoOr<uint64_t> MapAlias(std::span<const MemoryPiece> pieces) {
  uint64_t size = 0;
  for (const MemoryPiece& piece : pieces) size += piece.size;
  void* base = mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) return Errno(ENOMEM);
  uint64_t at = reinterpret_cast<uint64_t>(base);
  for (const MemoryPiece& piece : pieces) {
    void* want = reinterpret_cast<void*>(at);
    if (mmap(want, piece.size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, piece.fd, static_cast<off_t>(piece.offset)) != want) {
      munmap(base, size);
      return Errno(ENOMEM);
    }
    at += piece.size;
  }
  return reinterpret_cast<uint64_t>(base);
}

void UnmapAlias(uint64_t address, uint64_t size) { munmap(reinterpret_cast<void*>(address), size); }

}  // namespace amber::nvproxy
