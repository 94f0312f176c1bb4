// The extended state (x87, SSE, AVX, ...) of a signal frame, as the host's kernel lays it out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace amber::platform {

struct XstateLayout {
  uint32_t size = 0;      // of the XSAVE area, the trailing magic word not counted
  uint64_t features = 0;  // what a frame may hold
  uint32_t mxcsr_mask = 0xffff;

  // Read from a frame of this process: raises a signal. False if the host's frames have no XSAVE
  // area.
  bool Probe();
  // Bytes of a frame's extended state, trailing magic word included.
  size_t frame_size() const { return size + 4; }
  // True if `bytes` is a state that this machine can load: sizes, magic words, features, reserved
  // bits.
  bool Loadable(std::span<const uint8_t> bytes) const;
  // `bytes`, which are Loadable, as a frame of this machine (they may come from one with fewer
  // features).
  std::vector<uint8_t> Convert(std::span<const uint8_t> bytes) const;
};

// Offsets in the area.
inline constexpr size_t kXstateMxcsr = 24;
inline constexpr size_t kXstateSoftware = 464;  // struct _fpx_sw_bytes
inline constexpr size_t kXstateHeader = 512;    // XSTATE_BV, XCOMP_BV, reserved

}  // namespace amber::platform
