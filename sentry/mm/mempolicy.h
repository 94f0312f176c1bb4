// Policies of where memory comes from (set_mempolicy(2), mm/mempolicy.c), of threads and mappings, on a machine with one memory node: they are kept
// and told, and all memory comes from node 0 whatever they say.
#pragma once

#include <cstdint>
#include <string>

namespace amber {

struct MemoryPolicy {
  // MPOL_*, of which some are newer than Debian 12's headers.
  static constexpr uint8_t kDefault = 0, kPreferred = 1, kBind = 2, kInterleave = 3, kLocal = 4, kPreferredMany = 5, kWeightedInterleave = 6;
  static constexpr uint8_t kModes = 7;
  // MPOL_F_*, shifted down by kFlagShift.
  static constexpr uint8_t kBalancing = 1, kRelative = 2, kStatic = 4;
  static constexpr int kFlagShift = 13;
  // MAX_NUMNODES: with CONFIG_NODES_SHIFT=4.
  static constexpr uint64_t kMaxNodes = 16;

  uint8_t mode = kDefault;
  uint8_t flags = 0;
  uint16_t asked = 0;  // the nodes that were asked for, with kRelative or kStatic; else 0

  bool operator==(const MemoryPolicy&) const = default;
  bool has_nodes() const { return mode != kDefault && mode != kLocal; }
  // What get_mempolicy(2) tells.
  uint16_t told_nodes() const { return (flags & (kRelative | kStatic)) != 0 ? asked : has_nodes() ? 1 : 0; }
  int told_mode() const { return mode | flags << kFlagShift; }
  // As /proc/PID/numa_maps shows it (mpol_to_str).
  std::string Text() const;

  // For images.
  uint32_t Pack() const { return mode | uint32_t{flags} << 8 | uint32_t{asked} << 16; }
  static MemoryPolicy Unpack(uint32_t packed);
};

}  // namespace amber
