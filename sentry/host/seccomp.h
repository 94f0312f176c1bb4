// Installs the table of host_calls.h as this process's seccomp filter, on all its threads, for good.
#pragma once

#include <span>

#include "absl/status/status.h"
#include "sentry/host/host_calls.h"

namespace amber {

// Needs no_new_privs or privilege. Before this, the seed must exist: a child made later would inherit the filter.
// `more` is allowed besides.
absl::Status InstallHostCallFilter(bool host_network, std::span<const HostCall> more = {});

}  // namespace amber
