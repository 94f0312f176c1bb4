// Small files, whole.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace amber::cli {

// Up to 1 MiB. NOT_FOUND if there is none.
absl::StatusOr<std::string> ReadSmallFile(const std::string& path);
// Writes to an existing file in one call, as kernel interfaces want it.
absl::Status WriteExistingFile(const std::string& path, std::string_view text);
// Beside the target and renamed, so that readers see the old text or the new one.
absl::Status WriteFileAtomically(const std::string& path, std::string_view text);
absl::Status MakeDirectories(const std::string& path, mode_t mode);

}  // namespace amber::cli
