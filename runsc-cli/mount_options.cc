#include "runsc-cli/mount_options.h"

#include <algorithm>
#include <charconv>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace amber::cli {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kFewestInodes = 1024;
// As sentry/vfs/mount_setup.h has them.
constexpr char kSizeAnnotation[] = "org.amber.overlay.size";
constexpr char kInodesAnnotation[] = "org.amber.overlay.nr_inodes";

void Complete(OverlayFlag* limits) {
  limits->bytes = (limits->bytes + kPage - 1) / kPage * kPage;
  // Files without contents take memory, too.
  if (limits->bytes != 0 && limits->inodes == 0) limits->inodes = std::max(kFewestInodes, limits->bytes / kPage);
}

}  // namespace

uint64_t ParseAmount(std::string_view text) {
  uint64_t value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc()) return 0;
  std::string unit = absl::AsciiStrToLower(std::string_view(end, static_cast<size_t>(text.data() + text.size() - end)));
  if (unit.ends_with("ib") && unit.size() == 3) unit.resize(1);
  constexpr std::string_view kUnits = "kmgt";
  if (unit.size() > 1) return 0;
  size_t which = unit.empty() ? 0 : kUnits.find(unit[0]) + 1;
  if (!unit.empty() && which == 0) return 0;
  int shift = static_cast<int>(which) * 10;
  return value > (uint64_t{1} << 55) >> shift ? 0 : value << shift;
}

absl::StatusOr<OverlayFlag> ParseOverlay(std::string_view text) {
  OverlayFlag flag;
  std::vector<std::string_view> words = absl::StrSplit(text, ',');
  flag.kind = words[0];
  if (flag.kind != "" && flag.kind != "none" && flag.kind != "memory") {
    return absl::InvalidArgumentError(absl::StrCat("--overlay must be none, memory or memory,size=SIZE, not \"", text, "\""));
  }
  for (size_t i = 1; i < words.size(); ++i) {
    if (flag.kind != "memory") return absl::InvalidArgumentError("--overlay: only memory has a size");
    std::pair<std::string_view, std::string_view> option = absl::StrSplit(words[i], absl::MaxSplits('=', 1));
    uint64_t* to = option.first == "size" ? &flag.bytes : option.first == "nr_inodes" ? &flag.inodes : nullptr;
    if (to == nullptr)
      return absl::InvalidArgumentError(absl::StrCat("--overlay: there is no option \"", words[i], "\": size=SIZE, nr_inodes=NUMBER"));
    *to = ParseAmount(option.second);
    if (*to == 0)
      return absl::InvalidArgumentError(
          absl::StrCat("--overlay: ", option.first, " must be a positive number, as 64m or 2g, not \"", option.second, "\""));
  }
  Complete(&flag);
  return flag;
}

absl::Status SetOverlayLimits(const OverlayFlag& flag, std::map<std::string, std::string>* annotations) {
  OverlayFlag limits = flag;
  for (auto [name, to] : {std::pair(kSizeAnnotation, &limits.bytes), std::pair(kInodesAnnotation, &limits.inodes)}) {
    auto it = annotations->find(name);
    if (it == annotations->end()) continue;
    uint64_t said = ParseAmount(it->second);
    if (said == 0)
      return absl::InvalidArgumentError(absl::StrCat("annotation ", name, " must be a positive number, as 64m or 2g, not \"", it->second, "\""));
    if (flag.bytes == 0 && flag.inodes == 0) *to = said;
    annotations->erase(it);
  }
  Complete(&limits);
  if (limits.bytes != 0) (*annotations)[kSizeAnnotation] = absl::StrCat(limits.bytes);
  if (limits.inodes != 0) (*annotations)[kInodesAnnotation] = absl::StrCat(limits.inodes);
  return absl::OkStatus();
}

absl::Status ParseHostFifo(std::string_view text, HostFiles* files) {
  if (text != "none" && text != "open") return absl::InvalidArgumentError("--host-fifo must be none or open");
  files->fifos = text == "open";
  return absl::OkStatus();
}

absl::Status ParseHostUds(std::string_view text, HostFiles* files) {
  if (text != "none" && text != "open" && text != "create" && text != "all") {
    return absl::InvalidArgumentError("--host-uds must be none, open, create or all");
  }
  files->connect = text == "open" || text == "all";
  files->bind = text == "create" || text == "all";
  return absl::OkStatus();
}

}  // namespace amber::cli
