// The image files that a container's mounts are in.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "sentry/base/unique_fd.h"
#include "sentry/control/spec.h"
#include "sentry/fs/image/image_source.h"

namespace amber {

// By the names of their mounts (MountSpec::attach, ContainerSpec::root_attach).
using ImageMounts = std::map<std::string, std::shared_ptr<ImageSource>>;

// `files`: as ContainerFds::file_systems. Reads what their formats need read at the start; the status says which file is bad, and why.
absl::StatusOr<ImageMounts> OpenImageMounts(const ContainerSpec& spec, std::vector<UniqueFd> files);

}  // namespace amber
