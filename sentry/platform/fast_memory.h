// What a posted call's pointers point to: copied by the guest itself along with the call (FastMemory in stub_abi.h, docs/decisions/045), so that
// the client's copies for that call cost no host calls.
//
// Only on the thread that handles the call, inside OnSyscall() until the call is answered; elsewhere all of this does nothing and says no. A write
// is made by the guest when it has its answer, so nothing but the call itself may depend on it: not for words that other threads wait on.
#pragma once

#include <cstddef>
#include <cstdint>

#include "sentry/platform/platform.h"

namespace amber::platform {

// Gives `size` bytes at `address` if `thread` sent them along with its call.
bool ReadPosted(const Thread* thread, uint64_t address, void* data, size_t size);
// The bytes of a string at `address`, its end included, if the thread sent it along; 0 if not. At most `size`.
size_t ReadPostedString(const Thread* thread, uint64_t address, void* data, size_t size);
// Leaves `size` bytes for the guest to write to `address`, which the caller knows to be writable.
bool WritePosted(const Thread* thread, uint64_t address, const void* data, size_t size);
// False if WritePosted() is sure to fail: cheap.
bool MayPost(const Thread* thread);
// Writes now what WritePosted() has left, before a direct copy.
void FlushPosted(const Thread* thread);
// The same when the handler ends without an answer: from here on copies are direct.
void EndPosted(const Thread* thread);

}  // namespace amber::platform
