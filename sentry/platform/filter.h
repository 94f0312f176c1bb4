// The stubs' seccomp filter. Every stub has it, unchanged, from before its first guest instruction
// to its end.
#pragma once

#include <linux/filter.h>

#include <cstdint>
#include <vector>

namespace amber::platform {

// RET_DATA of trapped calls (si_errno of their SIGSYS).
inline constexpr uint16_t kTrapCall = 1;     // a call of the trap set
inline constexpr uint16_t kTrapForeign = 2;  // by another architecture's entry

// The program for stub text at kTextAddress whose rt_sigreturn ends at `sigreturn_ip`.
std::vector<sock_filter> BuildFilter(uint64_t sigreturn_ip);

// A program to be added to it: the calls that it lets run without a notification are trapped, but for those of the stub text.
std::vector<sock_filter> BuildTrapFilter();

// True if the filter lets this call run without a notification, wherever it comes from.
bool IsNative(uint64_t number, const uint64_t* args);

}  // namespace amber::platform
