// Installs the table of host_calls.h as this process's seccomp filter, on all its threads, for good.
#pragma once

#include "absl/status/status.h"

namespace amber {

// Needs no_new_privs or privilege. Before this, the seed must exist: a child made later would inherit the filter.
absl::Status InstallHostCallFilter(bool host_network);

}  // namespace amber
