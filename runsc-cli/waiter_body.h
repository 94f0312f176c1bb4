// What waiter.cc hands to the waiter's body: one block of memory, code page first.
#pragma once

#include <cstddef>
#include <cstdint>

namespace amber::cli {

inline constexpr size_t kWaiterDataBytes = 32 << 10;
inline constexpr size_t kWaiterStackBytes = 8 << 10;

struct WaiterData {
  // Everything in [low, high) but [keep_low, keep_high) is unmapped first.
  uint64_t keep_low;
  uint64_t keep_high;
  uint64_t top;  // end of the user address space
  int32_t stream;
  int32_t signals;  // signalfd
  int32_t owner;
  // Clean-up steps: a kind, the path, a NUL; the end is a NUL in place of a kind.
  char cleanup[kWaiterDataBytes - 64];
};
static_assert(sizeof(WaiterData) <= kWaiterDataBytes);

// Bounds of the code, given by the linker.
extern "C" const char __start_waiter_text[];
extern "C" const char __stop_waiter_text[];
// Position independent; never returns.
extern "C" [[noreturn]] void AmberWaiterBody(WaiterData* data);

}  // namespace amber::cli
