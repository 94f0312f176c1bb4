// The number of a mount that is never used again: statx(2) with STATX_MNT_ID_UNIQUE, statmount(2).
#pragma once

#include <cstdint>

#include "sentry/vfs/mount.h"

namespace amber {

// Ids here are never used again anyway; Linux starts its unique ones beyond those of 32 bits (MNT_UNIQUE_ID_OFFSET).
inline uint64_t UniqueMountId(const Mount& mount) { return (uint64_t{1} << 31) + static_cast<uint64_t>(mount.id()); }

}  // namespace amber
