// Files of /proc/sys whose text is always the same.
#pragma once

#include <span>

namespace amber {

struct FixedSysctl {
  const char* path;  // below /proc/sys
  const char* value;
};

std::span<const FixedSysctl> FixedSysctls();

}  // namespace amber
