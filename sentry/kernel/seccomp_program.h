// Classic BPF as seccomp(2) takes it: the checks of a program, and its execution. No kernel objects.
#pragma once

#include <linux/filter.h>
#include <linux/seccomp.h>

#include <cstdint>
#include <vector>

#include "sentry/base/errno_or.h"

namespace amber {

// bpf_check_classic() and seccomp_check_filter(): EINVAL unless every instruction is one that a filter may have, all jumps go forward to one
// of the program, every way ends in a return, and no word of scratch memory is read before it was written.
ErrnoOr<void> CheckSeccompProgram(const std::vector<sock_filter>& program);
// Runs a checked program.
uint32_t RunSeccompProgram(const std::vector<sock_filter>& program, const seccomp_data& data);

}  // namespace amber
