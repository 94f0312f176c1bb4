#include "sentry/syscalls/ptrace_registers.h"

#include <sys/user.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <vector>

#include "sentry/kernel/extras.h"
#include "sentry/kernel/signal_frame.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/tracing.h"

namespace amber {
namespace {

constexpr size_t kLegacySize = 512;      // FXSAVE area
constexpr size_t kSoftwareOffset = 464;  // what the signal frame uses of it for itself
constexpr size_t kHeaderOffset = 512;    // XSTATE_BV
constexpr uint64_t kLegacyFeatures = 3;  // x87 and SSE

user_regs_struct Registers(Task& tracee) {
  const platform::Frame& f = tracee.frame();
  const platform::Registers& r = f.regs;
  user_regs_struct out{};
  out.r15 = r.r15;
  out.r14 = r.r14;
  out.r13 = r.r13;
  out.r12 = r.r12;
  out.rbp = r.rbp;
  out.rbx = r.rbx;
  out.r11 = r.r11;
  out.r10 = r.r10;
  out.r9 = r.r9;
  out.r8 = r.r8;
  out.rax = r.rax;
  out.rcx = r.rcx;
  out.rdx = r.rdx;
  out.rsi = r.rsi;
  out.rdi = r.rdi;
  out.orig_rax = static_cast<unsigned long long>(tracee.extras().tracee->orig_rax);
  out.rip = r.rip;
  out.cs = kUserCs;
  out.eflags = r.rflags;
  out.rsp = r.rsp;
  out.ss = kUserSs;
  out.fs_base = f.fs_base;
  out.gs_base = f.gs_base;
  return out;
}

// Segment registers stay; flags that only the kernel may set, too (FLAG_MASK).
ErrnoOr<void> SetRegisters(Task& tracee, const user_regs_struct& in) {
  if (in.fs_base >= platform::kGuestTop || in.gs_base >= platform::kGuestTop) return Errno(EIO);
  platform::Frame& f = tracee.frame();
  platform::Registers& r = f.regs;
  r.r15 = in.r15;
  r.r14 = in.r14;
  r.r13 = in.r13;
  r.r12 = in.r12;
  r.rbp = in.rbp;
  r.rbx = in.rbx;
  r.r11 = in.r11;
  r.r10 = in.r10;
  r.r9 = in.r9;
  r.r8 = in.r8;
  r.rax = in.rax;
  r.rcx = in.rcx;
  r.rdx = in.rdx;
  r.rsi = in.rsi;
  r.rdi = in.rdi;
  r.rip = in.rip;
  r.rsp = in.rsp;
  r.rflags = (r.rflags & ~kUserFlags) | (in.eflags & kUserFlags);
  tracee.extras().tracee->orig_rax = static_cast<int64_t>(in.orig_rax);
  f.fs_base = in.fs_base;
  f.gs_base = in.gs_base;
  return Ok();
}

ErrnoOr<size_t> CopyGeneral(Task& task, Task& tracee, bool set, uint64_t address, size_t size) {
  user_regs_struct regs = Registers(tracee);
  size = std::min(size, sizeof(regs));
  if (size % sizeof(uint64_t) != 0) return Errno(EINVAL);
  if (!set) {
    TRY(task.CopyOutBytes(address, &regs, size));
    return size;
  }
  TRY(task.CopyInBytes(address, &regs, size));
  TRY(SetRegisters(tracee, regs));
  return size;
}

// Extended state as the frame has it, less the second magic word behind it.
ErrnoOr<size_t> CopyExtended(Task& task, Task& tracee, bool whole, bool set, uint64_t address, size_t size) {
  auto held = TRY(tracee.thread()->xstate());
  std::vector<uint8_t> state(held.begin(), held.end());
  if (state.size() < kLegacySize) return Errno(EIO);
  bool extended = state.size() > kHeaderOffset + sizeof(uint64_t);
  size_t limit = whole && extended ? state.size() - sizeof(uint32_t) : kLegacySize;
  uint8_t software[kLegacySize - kSoftwareOffset];
  memcpy(software, &state[kSoftwareOffset], sizeof(software));
  size_t n = std::min(size, limit);
  if (!set) {
    // sw_reserved tells which features there are (xstateregs_get()).
    uint64_t features = kLegacyFeatures;
    if (extended) memcpy(&features, software + 8, sizeof(features));
    memset(&state[kSoftwareOffset], 0, sizeof(software));
    if (whole) memcpy(&state[kSoftwareOffset], &features, sizeof(features));
    TRY(task.CopyOutBytes(address, state.data(), n));
    return n;
  }
  if (n != limit) return Errno(whole ? EFAULT : EINVAL);
  TRY(task.CopyInBytes(address, state.data(), n));
  memcpy(&state[kSoftwareOffset], software, sizeof(software));
  if (!whole && extended) {
    uint64_t present;
    memcpy(&present, &state[kHeaderOffset], sizeof(present));
    present |= kLegacyFeatures;
    memcpy(&state[kHeaderOffset], &present, sizeof(present));
  }
  TRY(tracee.thread()->set_xstate(state));
  return n;
}

}  // namespace

ErrnoOr<size_t> CopyRegisterSet(Task& task, Task& tracee, uint32_t type, bool set, uint64_t address, uint64_t size) {
  switch (type) {
    case kGeneralSet: return CopyGeneral(task, tracee, set, address, size);
    case kFloatingSet:
    case kXstateSet: return CopyExtended(task, tracee, type == kXstateSet, set, address, size);
    default: return Errno(EINVAL);
  }
}

namespace {

// The debug register at this offset of struct user; -1 if there is none.
int DebugNumber(uint64_t offset) {
  constexpr size_t kDebug = offsetof(user, u_debugreg);
  if (offset < kDebug || offset >= kDebug + sizeof(user::u_debugreg)) return -1;
  return static_cast<int>((offset - kDebug) / sizeof(uint64_t));
}

}  // namespace

ErrnoOr<uint64_t> PeekUser(Task& tracee, uint64_t offset) {
  if (offset % sizeof(uint64_t) != 0 || offset >= sizeof(user)) return Errno(EIO);
  if (int number = DebugNumber(offset); number >= 0) {
    const DebugRegisters* debug = tracee.extras().tracee->debug.get();
    return debug != nullptr ? debug->Get(number) : uint64_t{0};
  }
  if (offset >= sizeof(user_regs_struct)) return uint64_t{0};
  user_regs_struct regs = Registers(tracee);
  uint64_t value;
  memcpy(&value, reinterpret_cast<char*>(&regs) + offset, sizeof(value));
  return value;
}

ErrnoOr<void> PokeUser(Task& tracee, uint64_t offset, uint64_t value) {
  if (offset % sizeof(uint64_t) != 0 || offset >= sizeof(user)) return Errno(EIO);
  if (offset < sizeof(user_regs_struct)) {
    user_regs_struct regs = Registers(tracee);
    memcpy(reinterpret_cast<char*>(&regs) + offset, &value, sizeof(value));
    return SetRegisters(tracee, regs);
  }
  int number = DebugNumber(offset);
  if (number < 0) return Errno(EIO);
  std::unique_ptr<DebugRegisters>& debug = tracee.extras().tracee->debug;
  if (debug == nullptr) debug = std::make_unique<DebugRegisters>();
  return debug->Set(number, value);
}

}  // namespace amber
