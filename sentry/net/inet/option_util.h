// Decoding and encoding values of socket options.
#pragma once

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

#include "sentry/base/errno_or.h"

namespace amber {

template <typename T>
ErrnoOr<T> ParseOption(std::span<const uint8_t> value) {
  if (value.size() < sizeof(T)) return Errno(EINVAL);
  T out;
  memcpy(&out, value.data(), sizeof(T));
  return out;
}

// SOL_IP options are also taken as a single byte (do_ip_setsockopt).
inline ErrnoOr<int> ParseShortOption(std::span<const uint8_t> value) {
  if (value.size() >= sizeof(int)) return ParseOption<int>(value);
  if (value.empty()) return 0;
  return int{value[0]};
}

template <typename T>
std::string OptionBytes(const T& value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}

}  // namespace amber
