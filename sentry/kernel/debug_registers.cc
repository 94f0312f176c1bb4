#include "sentry/kernel/debug_registers.h"

#include <utility>

#include "sentry/kernel/task.h"
#include "sentry/mm/memory_manager.h"

namespace amber {
namespace {

constexpr unsigned kExecute = 0, kWrite = 1;
// What of DR7 is kept (~DR_CONTROL_RESERVED), and what of DR6 always reads as one.
constexpr uint64_t kControlBits = 0xffff03ff, kStatusReserved = 0xffff0ff0;

}  // namespace

// Nothing if no processor could watch that, or this one does not.
std::optional<DebugRegisters::Point> DebugRegisters::Decode(uint64_t control, int number) {
  Point point;
  point.on = (control >> (2 * number) & 3) != 0;
  unsigned bits = static_cast<unsigned>(control >> (16 + 4 * number) & 15);
  constexpr unsigned kSizes[] = {1, 2, 8, 4};
  point.type = bits & 3;
  point.size = kSizes[bits >> 2];
  if (!point.on) return point;
  if (point.type != kExecute && point.type != kWrite) return std::nullopt;
  if (point.type == kExecute && point.size != 1) return std::nullopt;
  return point;
}

ErrnoOr<void> DebugRegisters::Set(int number, uint64_t value) {
  switch (number) {
    case 0:
    case 1:
    case 2:
    case 3:
      if (value >= platform::kGuestTop) return Errno(EINVAL);
      if (std::optional<Point> point = Decode(registers_[kControl], number); point && point->on && value % point->size != 0) return Errno(EINVAL);
      seen_[static_cast<size_t>(number)].reset();
      break;
    case kStatus: value = (value & 0xe00f) | kStatusReserved; break;
    case kControl:
      value &= kControlBits;
      for (int i = 0; i < 4; ++i) {
        std::optional<Point> point = Decode(value, i);
        if (!point || (point->on && registers_[static_cast<size_t>(i)] % point->size != 0)) return Errno(EINVAL);
        seen_[static_cast<size_t>(i)].reset();
      }
      break;
    default: return Errno(EIO);
  }
  registers_[static_cast<size_t>(number)] = value;
  return Ok();
}

std::optional<uint64_t> DebugRegisters::Watched(Task& task, int number, unsigned size) const {
  uint64_t value = 0;
  auto read = task.mm().space().Read(registers_[static_cast<size_t>(number)], &value, size);
  return read.ok() && *read == size ? std::optional<uint64_t>(value) : std::nullopt;
}

void DebugRegisters::Prime(Task& task) {
  for (int i = 0; i < 4; ++i) {
    Point point = PointOf(i);
    std::optional<uint64_t>& seen = seen_[static_cast<size_t>(i)];
    if (point.on && point.type == kWrite && !seen) seen = Watched(task, i, point.size);
  }
}

uint64_t DebugRegisters::Check(Task& task, uint64_t ip, bool by_program) {
  uint64_t hits = 0;
  for (int i = 0; i < 4; ++i) {
    Point point = PointOf(i);
    if (!point.on) continue;
    if (point.type == kExecute) {
      if (ip == registers_[static_cast<size_t>(i)]) hits |= uint64_t{1} << i;
      continue;
    }
    std::optional<uint64_t> now = Watched(task, i, point.size);
    std::optional<uint64_t> before = std::exchange(seen_[static_cast<size_t>(i)], now);
    if (by_program && before && now && *before != *now) hits |= uint64_t{1} << i;
  }
  registers_[kStatus] = kStatusReserved | hits;
  return hits;
}

}  // namespace amber
