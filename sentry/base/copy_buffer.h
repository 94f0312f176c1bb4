// Memory that bytes pass through between the host's page cache and guests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

namespace amber {

// Begins half a page behind the start of a page. A copy whose destination lies 1 to 31 bytes behind its source, modulo the page size, runs at a
// fifth of its speed on many CPUs (string moves), and that is where large blocks of malloc() lie to the start of a page: guests' to a buffer of
// ours that begins with a page, and one of ours out of malloc() to the page cache.
struct CopyBufferDeleter {
  static constexpr size_t kPage = 4096;
  void operator()(uint8_t* bytes) const { operator delete[](bytes - kPage / 2, std::align_val_t(kPage)); }
};
using CopyBuffer = std::unique_ptr<uint8_t[], CopyBufferDeleter>;

// `size` bytes, not cleared.
inline CopyBuffer NewCopyBuffer(size_t size) {
  constexpr size_t kPage = CopyBufferDeleter::kPage;
  auto* start = static_cast<uint8_t*>(operator new[](size + kPage / 2, std::align_val_t(kPage)));
  return CopyBuffer(start + kPage / 2);
}

}  // namespace amber
