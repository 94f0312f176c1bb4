#include "runsc-cli/flags.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace amber::cli {
namespace {

const FlagSpec* Find(std::span<const FlagSpec> specs, std::string_view name) {
  for (const FlagSpec& spec : specs) {
    if (name == spec.name || (name.size() == 1 && spec.letter != 0 && name[0] == spec.letter)) return &spec;
  }
  return nullptr;
}

// Go's strconv.ParseBool.
std::optional<bool> ParseBool(std::string_view text) {
  for (std::string_view word : {"1", "t", "T", "true", "TRUE", "True"}) {
    if (text == word) return true;
  }
  for (std::string_view word : {"0", "f", "F", "false", "FALSE", "False"}) {
    if (text == word) return false;
  }
  return std::nullopt;
}

absl::Status CheckValue(const FlagSpec& spec, std::string_view value) {
  int64_t number;
  bool good = true;
  if (spec.kind == FlagKind::kBool) good = ParseBool(value).has_value();
  if (spec.kind == FlagKind::kNumber) good = absl::SimpleAtoi(value, &number);
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat("invalid value \"%s\" for flag -%s: expected %s", value, spec.name,
                                                    spec.kind == FlagKind::kBool ? "true or false" : "a number"));
}

}  // namespace

absl::StatusOr<Flags> ParseFlags(std::span<const FlagSpec> specs, std::span<const std::string> arguments) {
  Flags flags;
  size_t i = 0;
  for (; i < arguments.size(); ++i) {
    std::string_view argument = arguments[i];
    if (argument.size() < 2 || argument[0] != '-') break;
    argument.remove_prefix(argument[1] == '-' ? 2 : 1);
    if (argument.empty()) {  // "--"
      ++i;
      break;
    }
    size_t equals = argument.find('=');
    std::string_view name = argument.substr(0, equals);
    const FlagSpec* spec = Find(specs, name);
    if (spec == nullptr && (name == "h" || name == "help")) {
      flags.help = true;
      continue;
    }
    if (spec == nullptr) return absl::InvalidArgumentError(absl::StrCat("flag provided but not defined: -", name));
    std::string value = "true";
    if (equals != std::string_view::npos) {
      value = argument.substr(equals + 1);
    } else if (spec->kind != FlagKind::kBool) {
      if (i + 1 == arguments.size()) return absl::InvalidArgumentError(absl::StrCat("flag needs an argument: -", name));
      value = arguments[++i];
    }
    if (absl::Status status = CheckValue(*spec, value); !status.ok()) return status;
    flags.values_[spec->name].push_back(std::move(value));
  }
  flags.arguments.assign(arguments.begin() + static_cast<ptrdiff_t>(std::min(i, arguments.size())), arguments.end());
  return flags;
}

bool Flags::Bool(std::string_view name) const { return ParseBool(StringOr(name, "false")).value_or(false); }

std::string Flags::String(std::string_view name) const { return StringOr(name, ""); }

std::string Flags::StringOr(std::string_view name, std::string_view fallback) const {
  auto it = values_.find(std::string(name));
  return it == values_.end() ? std::string(fallback) : it->second.back();
}

int64_t Flags::NumberOr(std::string_view name, int64_t fallback) const {
  int64_t number;
  return absl::SimpleAtoi(StringOr(name, ""), &number) ? number : fallback;
}

std::vector<std::string> Flags::List(std::string_view name) const {
  auto it = values_.find(std::string(name));
  return it == values_.end() ? std::vector<std::string>() : it->second;
}

std::string DescribeFlags(std::span<const FlagSpec> specs) {
  std::string out;
  for (const FlagSpec& spec : specs) {
    if (spec.help == nullptr) continue;
    std::string left = spec.letter != 0 ? absl::StrFormat("-%c, --%s", spec.letter, spec.name) : absl::StrCat("    --", spec.name);
    if (spec.argument != nullptr) absl::StrAppend(&left, " ", spec.argument);
    // A long name gets a line of its own.
    absl::StrAppend(&out, absl::StrFormat("  %-26s", left), left.size() > 26 ? "\n                            " : "", " ", spec.help, "\n");
  }
  return out;
}

}  // namespace amber::cli
