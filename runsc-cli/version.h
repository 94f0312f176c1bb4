// What this program calls itself.
#pragma once

namespace amber::cli {

inline constexpr char kVersion[] = "0.1.0";
inline constexpr char kCommit[] = "amber";

}  // namespace amber::cli
