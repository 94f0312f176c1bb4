// EROFS images (Linux: fs/erofs; the format's constants are those of its erofs_fs.h).
#pragma once

#include <memory>
#include <span>

#include "sentry/fs/image/image_source.h"

namespace amber {

// `head`: the first 2 KiB of the file, or all of it.
bool LooksLikeErofs(std::span<const uint8_t> head);
absl::StatusOr<std::unique_ptr<ImageSource>> OpenErofs(UniqueFd fd, uint64_t size, std::span<const uint8_t> head);

}  // namespace amber
