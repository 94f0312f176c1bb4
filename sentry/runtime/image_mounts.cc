#include "sentry/runtime/image_mounts.h"

#include "absl/strings/str_cat.h"

namespace amber {

absl::StatusOr<ImageMounts> OpenImageMounts(const ContainerSpec& spec, std::vector<UniqueFd> files) {
  std::vector<std::pair<std::string, std::string>> names;  // of the mount; for an error
  if (spec.root_image) names.emplace_back(spec.root_attach, "the root file system");
  for (const MountSpec& m : spec.mounts) {
    if (m.image) names.emplace_back(m.attach, absl::StrCat("the mount ", m.destination));
  }
  if (names.size() != files.size()) {
    return absl::InvalidArgumentError(absl::StrCat("the configuration has ", names.size(), " image files, and ", files.size(), " came along"));
  }
  ImageMounts out;
  for (size_t i = 0; i < names.size(); ++i) {
    absl::StatusOr<std::unique_ptr<ImageSource>> source = ImageSource::Open(std::move(files[i]));
    if (!source.ok()) return absl::Status(source.status().code(), absl::StrCat(names[i].second, ": ", source.status().message()));
    if (!out.emplace(names[i].first, std::move(*source)).second) return absl::InvalidArgumentError("two image files have one name");
  }
  return out;
}

}  // namespace amber
