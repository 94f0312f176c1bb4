// One-line notes in the sandbox's log from places that have no logger at hand: signal handlers, the platform.
//
// They go where SetCheckLog() (check.h) points. Async-signal-safe, from any thread, no lock. A guest can bring such notes about, so
// only the first few hundred of a sandbox are written.
#pragma once

#include <source_location>

namespace amber {

// Writes "FILE:LINE: TEXT"; nothing if there is no log.
void LogNote(const char* text, std::source_location where = std::source_location::current());

}  // namespace amber
