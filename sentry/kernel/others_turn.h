// Who has held the kernel lock for some milliseconds lets others have it for so long. Letting go of it alone is not enough: whoever waits needs
// about this time to wake up.
#pragma once

#include <cstdint>

namespace amber {

inline constexpr int64_t kOthersTurn = 150'000;  // ns

}  // namespace amber
