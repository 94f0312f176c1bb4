// Signal actions that a stub keeps for its thread, so that rt_sigaction costs no hand-over (SignalActions in stub_abi.h, docs/decisions/044).
//
// For threads that share their actions with nobody and whose calls nobody wants to see (tracers, filters). All calls under the client's lock. What
// the guest has changed is taken at its next contact and whenever somebody looks at its actions meanwhile; it is as untrusted as a call's arguments.
#pragma once

#include <cstdint>
#include <span>

#include "sentry/platform/platform.h"

namespace amber::platform {

// Four words each, as in the kernel's struct sigaction: handler, flags, restorer, mask.
inline constexpr int kActions = 64, kActionWords = 4;
using ActionTable = std::span<uint64_t, kActions * kActionWords>;

// Before `thread` runs. False if it makes its calls the ordinary way.
bool OfferActions(Thread* thread, std::span<const uint64_t, kActions * kActionWords> actions);
// Only for a thread that has been offered them: the client changed one; from now on it asks by calls; and the changes since the last time, into
// their places in `out`, as a set of signals (bit number - 1).
void SetAction(Thread* thread, int signo, std::span<const uint64_t, kActionWords> action);
void WithdrawActions(Thread* thread);
uint64_t TakeActions(Thread* thread, ActionTable out);

}  // namespace amber::platform
