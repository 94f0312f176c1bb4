// What the files of control groups are made of: numbers and lines.
#pragma once

#include <charconv>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sentry/base/errno_or.h"
#include "sentry/kernel/cgroup.h"

namespace amber {

inline std::string Value(uint64_t v) { return (v == Cgroup::kMax ? std::string("max") : std::to_string(v)) + "\n"; }
inline std::string Line(const char* name, uint64_t v) { return std::string(name) + " " + std::to_string(v) + "\n"; }

std::vector<std::string_view> Words(std::string_view text);

template <typename T>
std::optional<T> Number(std::string_view text) {
  T value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// kstrtoll() with base 0: hexadecimal and octal numbers, too.
std::optional<int64_t> AnyNumber(std::string_view text);
// memparse(): a suffix multiplies. In whole pages. `all`: the word for no limit.
ErrnoOr<uint64_t> Bytes(std::string_view text, std::string_view all = "max");
// "1\n" or "0\n".
inline std::string Flag(bool on) { return on ? "1\n" : "0\n"; }

// bitmap_parselist() without its rarer forms ("0-10:1/2", "all"): ranges and numbers with commas between.
ErrnoOr<cpu_set_t> ParseCpus(std::string_view text);
// The process or thread that a written number means; 0 is the writer. ESRCH, EINVAL.
ErrnoOr<Task*> FindNumbered(Task& writer, std::string_view text);
// Their numbers for a reader, a line each, in order.
std::string ProcsText(Task& reader, Cgroup& group);
std::string ThreadsText(Task& reader, Cgroup& group);

}  // namespace amber
