// Command line flags in the style of Go's flag package, which engines rely on: -name and --name are the same, a value
// follows as =VALUE or as the next argument, booleans take a value only after "=", and the first argument that is not
// a flag (or "--") ends the flags.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace amber::cli {

enum class FlagKind { kBool, kString, kNumber, kList };

struct FlagSpec {
  const char* name;
  char letter;  // one-letter form, 0 for none
  FlagKind kind;
  const char* argument;  // what the value is called in the help; nullptr for booleans
  const char* help;      // nullptr: taken for compatibility, not shown
};

class Flags {
 public:
  bool Has(std::string_view name) const { return values_.contains(std::string(name)); }
  bool Bool(std::string_view name) const;
  // The last value given, or "".
  std::string String(std::string_view name) const;
  std::string StringOr(std::string_view name, std::string_view fallback) const;
  int64_t NumberOr(std::string_view name, int64_t fallback) const;
  std::vector<std::string> List(std::string_view name) const;

  // What follows the flags.
  std::vector<std::string> arguments;
  bool help = false;

 private:
  friend absl::StatusOr<Flags> ParseFlags(std::span<const FlagSpec>, std::span<const std::string>);
  std::map<std::string, std::vector<std::string>> values_;
};

// INVALID_ARGUMENT with Go's own words ("flag needs an argument: -name"), which some engines look for.
absl::StatusOr<Flags> ParseFlags(std::span<const FlagSpec> specs, std::span<const std::string> arguments);

// One line for each flag that has a help text.
std::string DescribeFlags(std::span<const FlagSpec> specs);

}  // namespace amber::cli
