// Classic BPF as seccomp(2) takes it: the checks of a program, and its execution. No kernel objects; the machine itself is in
// sentry/base/classic_bpf.h.
#pragma once

#include <linux/seccomp.h>

#include <cstdint>
#include <vector>

#include "sentry/base/classic_bpf.h"
#include "sentry/base/errno_or.h"

namespace amber {

// bpf_check_classic() and seccomp_check_filter(): EINVAL unless it is a program, and every instruction is one that a filter of calls may have.
ErrnoOr<void> CheckSeccompProgram(const std::vector<sock_filter>& program);
// Runs a checked program.
uint32_t RunSeccompProgram(const std::vector<sock_filter>& program, const seccomp_data& data);

}  // namespace amber
