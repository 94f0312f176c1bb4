#include "sentry/net/ip/buffer.h"

#include <stdlib.h>

#include <vector>

#include "sentry/base/check.h"

namespace amber::net {
namespace {

// Large blocks that are kept for the next stream, so that it finds their pages present.
constexpr size_t kMaxSpare = 16;

std::vector<uint8_t*>& Spare() {
  static auto* spare = new std::vector<uint8_t*>();
  return *spare;
}

}  // namespace

Buffer::Buffer(size_t capacity) : capacity_(capacity <= kSmall ? kSmall : std::max(capacity, kLarge)) {
  if (capacity > kSmall && capacity <= kLarge / 4) capacity_ = (capacity + kSmall - 1) / kSmall * kSmall;
  if (capacity_ == kLarge && !Spare().empty()) {
    data_ = Spare().back();
    Spare().pop_back();
    return;
  }
  data_ = static_cast<uint8_t*>(malloc(capacity_));
  AMBER_CHECK(data_ != nullptr);
}

Buffer::~Buffer() {
  if (capacity_ == kLarge && Spare().size() < kMaxSpare) {
    Spare().push_back(data_);
    return;
  }
  free(data_);
}

}  // namespace amber::net
