#include "nvproxy/tables.h"

#include <algorithm>
#include <charconv>

namespace amber::nvproxy {
namespace {

// "580" of "580.159.04"; nothing if the text is not numbers with two or three dots' worth of parts.
std::optional<uint32_t> BranchNumber(std::string_view version) {
  uint32_t first = 0;
  int parts = 0;
  while (!version.empty() && parts < 4) {
    uint32_t value = 0;
    auto [end, error] = std::from_chars(version.data(), version.data() + version.size(), value);
    if (error != std::errc()) return std::nullopt;
    if (parts++ == 0) first = value;
    version.remove_prefix(static_cast<size_t>(end - version.data()));
    if (version.empty()) break;
    if (version.front() != '.' || version.size() == 1) return std::nullopt;
    version.remove_prefix(1);
  }
  return version.empty() && (parts == 2 || parts == 3) ? std::optional(first) : std::nullopt;
}

}  // namespace

const Branch* FindBranch(uint32_t number) {
  for (const Branch& branch : AllBranches()) {
    if (branch.number == number) return &branch;
  }
  return nullptr;
}

const Entry* FindEntry(std::span<const Entry> section, uint32_t number) {
  auto it = std::ranges::lower_bound(section, number, {}, &Entry::number);
  return it != section.end() && it->number == number ? &*it : nullptr;
}

const Branch* BranchForVersion(std::string_view version, bool allow_other, std::string_view* error) {
  for (const Version& known : AllVersions()) {
    if (known.text == version) return FindBranch(known.branch);
  }
  std::optional<uint32_t> number = BranchNumber(version);
  const Branch* branch = number ? FindBranch(*number) : nullptr;
  if (!number) {
    *error = "the driver's version is not one that can be read";
  } else if (branch == nullptr) {
    *error = "no tables for this branch of the driver";
  } else if (!allow_other) {
    *error = "this version of the driver is not known to work; --gpu-allow-other-driver uses the tables of its branch";
    return nullptr;
  }
  return branch;
}

}  // namespace amber::nvproxy
