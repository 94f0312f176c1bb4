// Assertions that stay on in release builds.
//
// CHECK(condition) ends the process with file, line and text if the condition is false. It is for what
// the sentry itself guarantees; nothing that a guest can bring about may be CHECKed.
#pragma once

namespace amber {

// From now on CheckFailed() also writes to `fd` (the sandbox's log; the sentry's standard error goes nowhere). -1: no longer.
void SetCheckLog(int fd);

// From now on a crash or an exception that nobody catches leaves a line there, too, with return addresses in this program. Not for programs with
// handlers of their own for these signals.
void LogCrashes();

// Writes "FILE:LINE: check failed: TEXT, at ADDRESS..." to stderr and the log, and aborts. Async-signal-safe.
[[noreturn]] void CheckFailed(const char* file, int line, const char* text);

}  // namespace amber

#define AMBER_CHECK(condition)                              \
  do {                                                      \
    if (__builtin_expect(!(condition), 0)) {                \
      ::amber::CheckFailed(__FILE__, __LINE__, #condition); \
    }                                                       \
  } while (0)
