// Numbers of socket options and control messages that are newer than the C library's headers here (asm-generic/socket.h).
#pragma once

namespace amber {

inline constexpr int kSoPeerGroups = 59, kSoPassPidfd = 76, kSoPeerPidfd = 77, kSoPassRights = 83;
inline constexpr int kScmPidfd = 4;

}  // namespace amber
