// Names that configurations use for numbers. SignalNumber and CapabilityNumber are in oci.h.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace amber::cli {

std::string CapabilityName(int number);
uint64_t AllCapabilities();
// "RLIMIT_NOFILE" to its number.
std::optional<int> RlimitNumber(std::string_view name);

}  // namespace amber::cli
