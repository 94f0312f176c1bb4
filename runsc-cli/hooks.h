// OCI hooks: programs of the engine's that run at points of a container's life with its state on standard input.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "runsc-cli/oci.h"

namespace amber::cli {

// One after the other; the first failure ends it and is described with what the hook wrote to stderr.
absl::Status RunHooks(const std::vector<Hook>& hooks, const char* kind, const std::string& state_json);

}  // namespace amber::cli
