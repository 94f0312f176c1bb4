#include "sentry/platform/xstate.h"

#include <signal.h>
#include <string.h>
#include <sys/ucontext.h>

#include <algorithm>

namespace amber::platform {
namespace {

constexpr uint32_t kMagic1 = 0x46505853;  // FP_XSTATE_MAGIC1
constexpr uint32_t kMagic2 = 0x46505845;

// struct _fpx_sw_bytes (arch/x86/include/uapi/asm/sigcontext.h)
struct Software {
  uint32_t magic1;
  uint32_t extended_size;
  uint64_t features;
  uint32_t xstate_size;
  uint32_t padding[7];
};

Software probed;
uint32_t probed_mxcsr_mask;

template <typename T>
T At(const void* base, size_t offset) {
  T value;
  memcpy(&value, static_cast<const char*>(base) + offset, sizeof(value));
  return value;
}

void OnProbe(int, siginfo_t*, void* context) {
  const void* area = static_cast<ucontext_t*>(context)->uc_mcontext.fpregs;
  probed = At<Software>(area, kXstateSoftware);
  probed_mxcsr_mask = At<uint32_t>(area, kXstateMxcsr + 4);
}

}  // namespace

bool XstateLayout::Probe() {
  struct sigaction action = {}, before = {};
  action.sa_sigaction = OnProbe;
  action.sa_flags = SA_SIGINFO;
  probed = {};
  if (sigaction(SIGURG, &action, &before) != 0) return false;
  raise(SIGURG);
  sigaction(SIGURG, &before, nullptr);
  if (probed.magic1 != kMagic1 || probed.xstate_size < kXstateHeader + 64 || probed.extended_size != probed.xstate_size + 4) {
    return false;
  }
  size = probed.xstate_size;
  features = probed.features;
  if (probed_mxcsr_mask != 0) mxcsr_mask = probed_mxcsr_mask;
  return true;
}

bool XstateLayout::Loadable(std::span<const uint8_t> bytes) const {
  if (bytes.size() < kXstateHeader + 64 + 4) return false;
  Software software = At<Software>(bytes.data(), kXstateSoftware);
  if (software.magic1 != kMagic1 || software.extended_size != bytes.size() || software.xstate_size != bytes.size() - 4 ||
      software.xstate_size > size) {
    return false;
  }
  if (At<uint32_t>(bytes.data(), software.xstate_size) != kMagic2) return false;
  if ((At<uint64_t>(bytes.data(), kXstateHeader) & ~features) != 0) return false;
  for (size_t i = 8; i < 64; i++) {
    if (bytes[kXstateHeader + i] != 0) return false;  // compacted format, or reserved
  }
  return (At<uint32_t>(bytes.data(), kXstateMxcsr) & ~mxcsr_mask) == 0;
}

std::vector<uint8_t> XstateLayout::Convert(std::span<const uint8_t> bytes) const {
  std::vector<uint8_t> state(frame_size());
  std::copy(bytes.begin(), bytes.end() - 4, state.begin());
  Software software = {kMagic1, size + 4, features, size, {}};
  memcpy(state.data() + kXstateSoftware, &software, sizeof(software));
  memcpy(state.data() + size, &kMagic2, 4);
  return state;
}

}  // namespace amber::platform
