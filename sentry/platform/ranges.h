// Guards of the stub region.
#pragma once

#include <cstdint>

namespace amber::platform {

// True if a memory call with these arguments could change mappings at or above kGuestTop. The
// kernel above checks ranges itself; this is the second lock on the door.
bool TouchesStubRegion(uint64_t number, const unsigned long long* args);
bool TouchesStubRegion(uint64_t number, const unsigned long* args);

}  // namespace amber::platform
