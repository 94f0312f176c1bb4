// What a sandbox with GPUs may call besides: ioctls of the NVIDIA driver's, those of its tables only, on descriptors of its own range.
#pragma once

#include <vector>

#include "sentry/control/spec.h"
#include "sentry/host/host_calls.h"

namespace amber {

// Nothing without a real driver whose version is known.
std::vector<HostCall> GpuHostCalls(const GpuOptions& options);

}  // namespace amber
