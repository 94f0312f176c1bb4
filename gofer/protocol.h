// Limits and rules that both ends of the gofer protocol keep to. No state, no Cap'n Proto.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "sentry/base/errno_or.h"

namespace amber::gofer {

// The largest packet either way. Twice the largest extended attribute (64 KiB), and less than the default send buffer of
// a Unix socket (212,992 bytes), which bounds a SEQPACKET message.
inline constexpr size_t kMaxPacket = 128 * 1024;
inline constexpr size_t kMaxNames = 256;         // of one Walk
inline constexpr size_t kMaxForgets = 4096;      // of one Request
inline constexpr size_t kMaxDescriptors = 32;    // that ride along with one Response
inline constexpr size_t kMaxListings = 16;       // further directories of one ReadDir; a descriptor each
inline constexpr size_t kMaxGroups = 4096;       // of one Connect
inline constexpr size_t kNameMax = 255;          // bytes, NAME_MAX
inline constexpr size_t kTargetMax = 4095;       // bytes, PATH_MAX less the NUL
inline constexpr size_t kXattrValueMax = 65536;  // XATTR_SIZE_MAX
inline constexpr size_t kXattrListMax = 65536;   // XATTR_LIST_MAX

// Request.open.flags that ask for a directory's O_PATH descriptor.
inline constexpr uint32_t kDirectoryForLooking = 010000000 | 0200000;  // O_PATH | O_DIRECTORY

// Request.setAttr.mask.
enum SetAttrMask : uint32_t {
  kSetSize = 1u << 0,
  kSetUid = 1u << 1,
  kSetGid = 1u << 2,
  kSetMode = 1u << 3,
  kSetAtime = 1u << 4,
  kSetAtimeNow = 1u << 5,
  kSetMtime = 1u << 6,
  kSetMtimeNow = 1u << 7,
  kSetAll = (1u << 8) - 1,
};

// A single path component that cannot lead out of its directory.
inline ErrnoOr<void> CheckName(std::string_view name) {
  if (name.size() > kNameMax) return Errno(ENAMETOOLONG);
  if (name.empty() || name == "." || name == "..") return Errno(EINVAL);
  for (char c : name) {
    if (c == '/' || c == '\0') return Errno(EINVAL);
  }
  return {};
}

}  // namespace amber::gofer
