// Symbols of the stub text, for the sentry. The text is linked into the sentry's binary but runs
// only in stubs, at kTextAddress; StubAddress() turns the address of one of its labels into the
// address it has there.
#pragma once

#include <cstdint>

#include "sentry/platform/stub_abi.h"

extern "C" {
extern const char __start_stub_text[] __attribute__((visibility("hidden")));
extern const char __stop_stub_text[] __attribute__((visibility("hidden")));
extern const char stub_sigreturn_end[] __attribute__((visibility("hidden")));
extern const char stub_futex_start[] __attribute__((visibility("hidden")));
extern const char stub_futex_syscall[] __attribute__((visibility("hidden")));
extern const char stub_futex_end[] __attribute__((visibility("hidden")));
extern const char stub_fast_start[] __attribute__((visibility("hidden")));
extern const char stub_fast_gather[] __attribute__((visibility("hidden")));
extern const char stub_fast_posted[] __attribute__((visibility("hidden")));
extern const char stub_fast_given_up[] __attribute__((visibility("hidden")));
extern const char stub_fast_taken[] __attribute__((visibility("hidden")));
extern const char stub_fast_answered[] __attribute__((visibility("hidden")));
extern const char stub_fast_scatter[] __attribute__((visibility("hidden")));
extern const char stub_fast_scattered[] __attribute__((visibility("hidden")));
extern const char stub_fast_redo[] __attribute__((visibility("hidden")));
extern const char stub_fast_ask[] __attribute__((visibility("hidden")));
extern const char stub_fast_actions[] __attribute__((visibility("hidden")));
extern const char stub_fast_actions_set[] __attribute__((visibility("hidden")));
extern const char stub_fast_end[] __attribute__((visibility("hidden")));

// Turns the calling process, a fresh copy of the sentry, into the seed. Runs on the caller's stack
// for its first steps and makes only raw system calls. Never returns.
[[noreturn]] void StubBoot(const amber::platform::BootParams* params) __attribute__((visibility("hidden")));
}

namespace amber::platform {

inline uint64_t StubAddress(const char* label) { return kTextAddress + static_cast<uint64_t>(label - __start_stub_text); }

// True if `ip`, the address behind a `syscall` instruction, lies in the stub text.
inline bool InStubText(uint64_t ip) { return ip >= kTextAddress && ip <= kTextAddress + kTextSize; }

}  // namespace amber::platform
