#include "sentry/mm/mempolicy.h"

namespace amber {

std::string MemoryPolicy::Text() const {
  constexpr const char* kNames[] = {"default", "prefer", "bind", "interleave", "local", "prefer (many)", "weighted interleave"};
  static_assert(sizeof(kNames) / sizeof(kNames[0]) == kModes);
  std::string out = kNames[mode];
  if (flags != 0) {
    out += "=";
    if ((flags & kStatic) != 0) out += "static";
    if ((flags & kRelative) != 0) out += "relative";
    if ((flags & kBalancing) != 0) out += flags == kBalancing ? "balancing" : "|balancing";
  }
  if (has_nodes()) out += ":0";
  return out;
}

MemoryPolicy MemoryPolicy::Unpack(uint32_t packed) {
  MemoryPolicy p{
      .mode = static_cast<uint8_t>(packed & 0xff), .flags = static_cast<uint8_t>(packed >> 8 & 0x7), .asked = static_cast<uint16_t>(packed >> 16)};
  return p.mode < kModes ? p : MemoryPolicy();
}

}  // namespace amber
