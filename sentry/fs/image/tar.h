// Tar archives: ustar, GNU's long names, pax (POSIX.1-2017 pax; GNU tar manual, "Basic Tar Format").
#pragma once

#include <memory>
#include <span>

#include "sentry/fs/image/image_source.h"

namespace amber {

// `head`: the first 2 KiB of the file, or all of it.
bool LooksLikeTar(std::span<const uint8_t> head);
// Reads all headers. Members that come again replace earlier ones, as when unpacking.
absl::StatusOr<std::unique_ptr<ImageSource>> OpenTar(UniqueFd fd, uint64_t size);

}  // namespace amber
