// The debug registers of a traced thread (PTRACE_POKEUSER of struct user's u_debugreg; arch/x86/kernel/ptrace.c).
//
// The host's registers are the host's. A thread with breakpoints is run instruction by instruction, and looked at after each: a data breakpoint is hit
// when its bytes have changed, one on an instruction when that comes next. So breakpoints on reading are not there, nor is a write noticed that
// changes nothing. Part of Tracee; guarded by the kernel lock.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "sentry/base/errno_or.h"

namespace amber {

class Task;

class DebugRegisters {
 public:
  static constexpr int kCount = 8;
  static constexpr int kStatus = 6, kControl = 7;

  uint64_t Get(int number) const { return number == 4 || number == 5 ? 0 : registers_[static_cast<size_t>(number)]; }
  // EINVAL for what no processor could watch, EIO for registers that there are not.
  ErrnoOr<void> Set(int number, uint64_t value);
  // Some breakpoint is on.
  bool armed() const { return (registers_[kControl] & 0xff) != 0; }
  // The bits of DR6 of those that are hit now that `task`, whose memory is looked at, is about to go on at `ip`. Forgets earlier ones. What has changed
  // since the last look is not the program's doing unless `by_program`: system calls hit nothing.
  uint64_t Check(Task& task, uint64_t ip, bool by_program);
  // Looks at what has not been looked at yet: news since then are its.
  void Prime(Task& task);
  // An instruction was executed for its tracer's sake.
  void NoteStep() { registers_[kStatus] |= 1 << 14; }

 private:
  struct Point {
    bool on = false;
    unsigned type = 0, size = 0;
  };
  static std::optional<Point> Decode(uint64_t control, int number);
  Point PointOf(int number) const { return Decode(registers_[kControl], number).value_or(Point{}); }
  std::optional<uint64_t> Watched(Task& task, int number, unsigned size) const;

  std::array<uint64_t, kCount> registers_{};
  // What the watched bytes were when they were looked at last.
  std::array<std::optional<uint64_t>, 4> seen_;
};

}  // namespace amber
