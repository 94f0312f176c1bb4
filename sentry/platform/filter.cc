#include "sentry/platform/filter.h"

#include <linux/audit.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/syscall.h>

#include <array>

#include "sentry/base/check.h"
#include "sentry/platform/platform.h"
#include "sentry/platform/stub_abi.h"

namespace amber::platform {
namespace {

constexpr uint32_t kClone3 = 435;
constexpr uint32_t kCloseRange = 436;

// Calls whose answer is more than a value: they need the frame, or another address, flag or
// descriptor than passed.
constexpr std::array<uint32_t, 12> kTrapSet = {SYS_mmap,  SYS_brk,        SYS_clone,           kClone3,      SYS_mremap,     SYS_execve, SYS_fork,
                                               SYS_vfork, SYS_arch_prctl, SYS_set_tid_address, SYS_execveat, SYS_sigaltstack};

constexpr uint32_t kNumber = offsetof(seccomp_data, nr);
constexpr uint32_t kArch = offsetof(seccomp_data, arch);
constexpr uint32_t kIpLow = offsetof(seccomp_data, instruction_pointer);
constexpr uint32_t kIpHigh = kIpLow + 4;
constexpr uint32_t ArgLow(int i) { return offsetof(seccomp_data, args) + 8 * i; }
constexpr uint32_t ArgHigh(int i) { return ArgLow(i) + 4; }

// Labels that jumps go to; resolved when the program is complete (jumps go forward only).
enum Label : uint8_t {
  kNext,
  kAllow,
  kNotify,
  kTrap,
  kForeign,
  kFutex,
  kWait,
  kSigreturn,
  kByPlace,  // notified if made by the stub text, else trapped
  kClosing,  // allowed if made by the stub text, else notified
  kLabels,
};

class Builder {
 public:
  void Load(uint32_t offset) { Add({BPF_LD | BPF_W | BPF_ABS, 0, 0, offset}, kNext, kNext); }
  void And(uint32_t mask) { Add({BPF_ALU | BPF_AND | BPF_K, 0, 0, mask}, kNext, kNext); }
  void If(uint16_t op, uint32_t k, Label yes, Label no = kNext) { Add({static_cast<uint16_t>(BPF_JMP | op | BPF_K), 0, 0, k}, yes, no); }
  void Equal(uint32_t k, Label yes, Label no = kNext) { If(BPF_JEQ, k, yes, no); }
  void Return(uint32_t action) { Add({BPF_RET | BPF_K, 0, 0, action}, kNext, kNext); }
  void Place(Label label) { place_[label] = program_.size(); }

  std::vector<sock_filter> Finish() {
    for (size_t i = 0; i < program_.size(); i++) {
      program_[i].jt = Distance(i, yes_[i]);
      program_[i].jf = Distance(i, no_[i]);
    }
    return program_;
  }

 private:
  void Add(sock_filter instruction, Label yes, Label no) {
    program_.push_back(instruction);
    yes_.push_back(yes);
    no_.push_back(no);
  }
  uint8_t Distance(size_t from, Label label) const {
    if (label == kNext) return 0;
    AMBER_CHECK(place_[label] > from && place_[label] - from - 1 < 256);
    return static_cast<uint8_t>(place_[label] - from - 1);
  }

  std::vector<sock_filter> program_;
  std::vector<Label> yes_, no_;
  std::array<size_t, kLabels> place_ = {};
};

// Locks and condition variables run natively. Not so waits with a time-out (absolute ones are in
// the host's time, and a kicked one could not be restarted) and priority inheritance (it writes
// host thread ids).
void AddFutex(Builder& b) {
  b.Place(kFutex);
  b.Load(ArgLow(1));
  b.And(127);  // without PRIVATE and CLOCK_REALTIME; higher bits make the call fail natively
  b.Equal(FUTEX_WAKE, kAllow);
  b.Equal(FUTEX_WAIT, kWait);
  b.Equal(FUTEX_WAIT_BITSET, kWait);
  b.Equal(FUTEX_WAKE_BITSET, kAllow);
  b.Equal(FUTEX_REQUEUE, kAllow);
  b.Equal(FUTEX_CMP_REQUEUE, kAllow);
  b.Equal(FUTEX_WAKE_OP, kAllow, kNotify);

  b.Place(kWait);
  b.Load(ArgLow(3));
  b.Equal(0, kNext, kByPlace);
  b.Load(ArgHigh(3));
  b.Equal(0, kAllow, kByPlace);
}

// Goes on at `inside` if the stub text makes the call, else at `outside`.
void AddIsStubText(Builder& b, Label inside, Label outside) {
  b.Load(kIpHigh);
  b.Equal(kTextAddress >> 32, kNext, outside);
  b.Load(kIpLow);
  b.If(BPF_JGE, static_cast<uint32_t>(kTextAddress), kNext, outside);
  b.If(BPF_JGT, static_cast<uint32_t>(kTextAddress + kTextSize), outside, inside);
}

// When a filter is installed the host runs it for each of a thousand call numbers, to find those that it always allows (seccomp_cache_prepare());
// each stops where something else than the number is looked at. There are none here that matter, so something else is looked at first: the
// installation, which each exec waits for, takes 40 us that way and 150 the other.
void AddNotByNumberAlone(Builder& b) { b.Load(kIpLow); }

}  // namespace

std::vector<sock_filter> BuildFilter(uint64_t sigreturn_ip) {
  Builder b;
  AddNotByNumberAlone(b);
  b.Load(kArch);
  b.Equal(AUDIT_ARCH_X86_64, kNext, kForeign);
  b.Load(kNumber);
  b.Equal(SYS_futex, kFutex);
  b.Equal(SYS_rt_sigreturn, kSigreturn);
  b.Equal(SYS_sched_yield, kAllow);
  for (uint32_t number : kTrapSet) b.Equal(number, kByPlace);
  // What a stub drops of its own descriptors is nobody else's loss; a guest that jumps there spoils its own operations.
  b.Equal(SYS_close, kClosing);
  b.Equal(kCloseRange, kClosing);
  b.Equal(kStubTrap, kTrap, kNotify);

  b.Place(kClosing);
  AddIsStubText(b, kAllow, kNotify);

  b.Place(kSigreturn);
  b.Load(kIpLow);
  b.Equal(static_cast<uint32_t>(sigreturn_ip), kNext, kTrap);
  b.Load(kIpHigh);
  b.Equal(static_cast<uint32_t>(sigreturn_ip >> 32), kAllow, kTrap);

  AddFutex(b);

  b.Place(kByPlace);
  AddIsStubText(b, kNotify, kTrap);

  b.Place(kNotify);
  b.Return(SECCOMP_RET_USER_NOTIF);
  b.Place(kAllow);
  b.Return(SECCOMP_RET_ALLOW);
  b.Place(kTrap);
  b.Return(SECCOMP_RET_TRAP | kTrapCall);
  b.Place(kForeign);
  b.Return(SECCOMP_RET_TRAP | kTrapForeign);
  return b.Finish();
}

std::vector<sock_filter> BuildTrapFilter() {
  Builder b;
  AddNotByNumberAlone(b);
  b.Load(kNumber);
  b.Equal(SYS_futex, kByPlace);
  b.Equal(SYS_sched_yield, kByPlace, kAllow);
  b.Place(kByPlace);
  b.Load(kIpHigh);
  b.Equal(kTextAddress >> 32, kNext, kTrap);
  b.Load(kIpLow);
  b.If(BPF_JGE, static_cast<uint32_t>(kTextAddress), kNext, kTrap);
  b.If(BPF_JGT, static_cast<uint32_t>(kTextAddress + kTextSize), kTrap, kAllow);
  b.Place(kAllow);
  b.Return(SECCOMP_RET_ALLOW);
  b.Place(kTrap);
  b.Return(SECCOMP_RET_TRAP | kTrapCall);
  return b.Finish();
}

StubOp TrapNativeCallsOp(bool all) {
  uint64_t flags = all ? SECCOMP_FILTER_FLAG_TSYNC : 0;
  return {SYS_seccomp, {SECCOMP_SET_MODE_FILTER, flags, kTextAddress + kTrapFilterOffset}};
}

bool IsNative(uint64_t number, const uint64_t* args) {
  if (number == SYS_sched_yield || number == SYS_close || number == kCloseRange) return true;
  if (number != SYS_futex) return false;
  switch (args[1] & 127) {
    case FUTEX_WAKE:
    case FUTEX_WAKE_BITSET:
    case FUTEX_REQUEUE:
    case FUTEX_CMP_REQUEUE:
    case FUTEX_WAKE_OP: return true;
    case FUTEX_WAIT:
    case FUTEX_WAIT_BITSET: return args[3] == 0;
    default: return false;
  }
}

}  // namespace amber::platform
