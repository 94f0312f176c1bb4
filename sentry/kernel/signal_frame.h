// What the kernel pushes on a guest's stack for a handler: struct rt_sigframe and what it holds
// (arch/x86/include/asm/sigframe.h, uapi/asm/{ucontext,sigcontext}.h).
#pragma once

#include <signal.h>

#include <cstddef>
#include <cstdint>

#include "sentry/platform/platform.h"

namespace amber {

inline constexpr uint64_t kUcFpXstate = 1, kUcSigcontextSs = 2, kUcStrictRestoreSs = 4;
inline constexpr uint16_t kUserCs = 0x33, kUserSs = 0x2b;
inline constexpr uint64_t kFlagTf = 0x100, kFlagDf = 0x400, kFlagRf = 0x10000;
// The flags that rt_sigreturn takes from the frame (FIX_EFLAGS): CF PF AF ZF SF TF DF OF RF AC.
inline constexpr uint64_t kUserFlags = 0x1 | 0x4 | 0x10 | 0x40 | 0x80 | kFlagTf | kFlagDf | 0x800 | kFlagRf | 0x40000;
inline constexpr uint32_t kSsAutodisarm = 1u << 31;

// The software-reserved bytes of the legacy area (struct _fpx_sw_bytes).
struct XstateSoftware {
  uint32_t magic1;
  uint32_t extended_size;  // with the end mark
  uint64_t features;
  uint32_t xstate_size;
  uint32_t padding[7];
};
static_assert(sizeof(XstateSoftware) == 48);
inline constexpr uint64_t kXstateSoftwareOffset = 464;
inline constexpr uint32_t kXstateMagic1 = 0x46505853;
inline constexpr size_t kLegacyXstateSize = 512;
inline constexpr size_t kMaxXstateSize = 16384;

struct SignalStack {
  uint64_t sp;
  uint32_t flags;
  uint32_t padding;
  uint64_t size;
};

struct SignalContext {
  uint64_t flags;
  uint64_t link;
  struct {
    uint64_t sp;
    uint32_t flags;
    uint64_t size;
  } stack;
  platform::Registers regs;
  uint16_t cs, gs, fs, ss;
  uint64_t error_code, trapno, old_mask, cr2;
  uint64_t fpstate;
  uint64_t reserved[8];
  uint64_t mask;
};
static_assert(sizeof(SignalContext) == 304);
static_assert(offsetof(SignalContext, regs) == 40);
static_assert(offsetof(SignalContext, mask) == 296);

struct SignalFrame {
  uint64_t return_address;
  SignalContext context;
  siginfo_t info;
};
static_assert(sizeof(SignalFrame) == 440);

}  // namespace amber
