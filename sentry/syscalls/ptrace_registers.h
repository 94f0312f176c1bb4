// Registers of a stopped tracee, as ptrace(2) shows them. Kernel lock.
#pragma once

#include <cstddef>
#include <cstdint>

#include "sentry/base/errno_or.h"

namespace amber {

class SyscallTable;
class Task;

void RegisterPtraceCalls(SyscallTable& table);  // ptrace_calls.cc

// NT_PRSTATUS, NT_PRFPREG, NT_X86_XSTATE of elf(5).
inline constexpr uint32_t kGeneralSet = 1, kFloatingSet = 2, kXstateSet = 0x202;

// Copies at most `size` bytes of the set between `tracee` and `address` of `task`'s memory; how many. EINVAL for an unknown set or a size
// that does not fit it.
ErrnoOr<size_t> CopyRegisterSet(Task& task, Task& tracee, uint32_t type, bool set, uint64_t address, uint64_t size);

// A word of struct user (sys/user.h): its registers, and the debug registers, which read as 0.
ErrnoOr<uint64_t> PeekUser(Task& tracee, uint64_t offset);
ErrnoOr<void> PokeUser(Task& tracee, uint64_t offset, uint64_t value);

}  // namespace amber
