// What this machine has of an NVIDIA driver, gathered while the command line still sees it: the sentry has an empty root and its own /proc.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "sentry/base/unique_fd.h"
#include "sentry/control/spec.h"

namespace amber::cli {

// Fills in options->version, info and nodes, whose descriptors `keep` owns. `root` is "" but in tests. NOT_FOUND says what is missing, and what to do.
absl::Status FindGpuHost(const std::string& root, GpuOptions* options, std::vector<UniqueFd>* keep);

// "580.159.04" of /proc/driver/nvidia/version; "" if it is not that file.
std::string GpuDriverVersion(std::string_view text);

// What `nvidia-container-cli list` prints: which files of the driver containers get. NOT_FOUND without that program.
absl::StatusOr<std::string> ListGpuDriverFiles();

}  // namespace amber::cli
