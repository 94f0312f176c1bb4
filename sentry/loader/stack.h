// The contents of a new program's stack: strings, auxiliary vector, pointers, count (Linux: create_elf_tables).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "sentry/base/errno_or.h"

namespace amber::loader {

// Longest single argument or environment string, its NUL included (MAX_ARG_STRLEN).
inline constexpr size_t kMaxStringBytes = 131072;

struct StackInput {
  uint64_t top = 0;    // the end of the stack mapping, page aligned
  uint64_t shift = 0;  // random, below 8192: moves the stack pointer down
  std::vector<std::string> argv, envp;
  std::string path;                  // AT_EXECFN
  std::array<uint8_t, 16> random{};  // AT_RANDOM
  // Entries before the ones whose value is an address in the stack (AT_RANDOM, AT_EXECFN, AT_PLATFORM), which are added
  // after them, and AT_NULL.
  std::vector<std::pair<uint64_t, uint64_t>> auxv;
};

struct StackImage {
  uint64_t sp = 0;    // argc is here
  std::string bytes;  // [sp, top)
  uint64_t arg_start = 0, arg_end = 0, env_start = 0, env_end = 0;
  std::vector<uint64_t> auxv;  // as in memory, for /proc/PID/auxv
};

// E2BIG as Linux: a string that is too long, or all of them more than a quarter of `stack_limit` (at least 128 KiB,
// at most 6 MiB).
ErrnoOr<void> CheckArguments(const std::vector<std::string>& argv, const std::vector<std::string>& envp, const std::string& path,
                             uint64_t stack_limit);
// The arguments passed CheckArguments().
StackImage BuildStack(const StackInput& input);

}  // namespace amber::loader
