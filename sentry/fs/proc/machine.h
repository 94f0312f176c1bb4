// What the machine looks like from inside: read once, before the sentry is confined, since later it cannot ask.
#pragma once

#include <cstdint>

namespace amber {

struct Machine {
  uint32_t cpus = 1;
  uint64_t memory_bytes = 0;

  // Asks the host on its first call, which is to be made at start.
  static const Machine& Get();
};

}  // namespace amber
