// The checkpoint helper's program (helper.c), as the sentry carries it into containers.
#pragma once

#include <span>

namespace amber::gpu_helper {

std::span<const unsigned char> Bytes();

}  // namespace amber::gpu_helper
