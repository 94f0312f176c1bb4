#include "runsc-cli/json_reader.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "runsc-cli/oci.h"

namespace amber::cli {
namespace {

using nlohmann::json;

bool NestsTooDeep(std::string_view text) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      if (++depth > kMaxJsonDepth) return true;
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return false;
}

}  // namespace

absl::StatusOr<json> ParseJson(std::string_view text, std::string_view what) {
  if (text.size() > kMaxConfigBytes) {
    return absl::InvalidArgumentError(absl::StrCat(what, " is larger than ", kMaxConfigBytes >> 20, " MiB"));
  }
  if (NestsTooDeep(text)) return absl::InvalidArgumentError(absl::StrCat(what, " nests deeper than ", kMaxJsonDepth, " levels"));
  json value = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (value.is_discarded()) return absl::InvalidArgumentError(absl::StrCat(what, " is not valid JSON"));
  if (!value.is_object()) return absl::InvalidArgumentError(absl::StrCat(what, " is not a JSON object"));
  return value;
}

void JsonReader::Fail(std::string_view expectation) const {
  if (error_->ok()) *error_ = absl::InvalidArgumentError(absl::StrCat(path_, " must be ", expectation));
}

JsonReader JsonReader::operator[](const char* name) const {
  std::string path = absl::StrCat(path_, path_.empty() ? "" : ".", name);
  if (value_ == nullptr) return JsonReader(nullptr, std::move(path), error_);
  if (!value_->is_object()) {
    Fail("an object");
    return JsonReader(nullptr, std::move(path), error_);
  }
  auto it = value_->find(name);
  bool absent = it == value_->end() || it->is_null();
  return JsonReader(absent ? nullptr : &*it, std::move(path), error_);
}

void JsonReader::ForEach(const std::function<void(const JsonReader&)>& visit) const {
  if (value_ == nullptr) return;
  if (!value_->is_array()) return Fail("a list");
  size_t index = 0;
  for (const json& item : *value_) visit(JsonReader(&item, absl::StrCat(path_, "[", index++, "]"), error_));
}

void JsonReader::ForEachMember(const std::function<void(const std::string&, const JsonReader&)>& visit) const {
  if (value_ == nullptr) return;
  const json::object_t* object = value_->get_ptr<const json::object_t*>();
  if (object == nullptr) return Fail("an object");
  for (const auto& [name, item] : *object) visit(name, JsonReader(&item, absl::StrCat(path_, ".", name), error_));
}

std::string JsonReader::String(std::string_view fallback) const {
  if (value_ == nullptr) return std::string(fallback);
  const std::string* text = value_->get_ptr<const std::string*>();
  if (text == nullptr) {
    Fail("a string");
    return std::string(fallback);
  }
  if (text->find('\0') != std::string::npos) {
    Fail("a string without NUL bytes");
    return std::string(fallback);
  }
  return *text;
}

bool JsonReader::Bool(bool fallback) const {
  if (value_ == nullptr) return fallback;
  if (!value_->is_boolean()) {
    Fail("true or false");
    return fallback;
  }
  return *value_->get_ptr<const bool*>();
}

std::optional<int64_t> JsonReader::OptionalInteger() const {
  if (value_ == nullptr) return std::nullopt;
  if (const auto* u = value_->get_ptr<const uint64_t*>(); value_->is_number_unsigned() && u != nullptr) {
    // Some engines write "no limit" as the largest unsigned number.
    return *u > INT64_MAX ? int64_t{-1} : static_cast<int64_t>(*u);
  }
  if (!value_->is_number_integer()) {
    Fail("a whole number");
    return std::nullopt;
  }
  return *value_->get_ptr<const int64_t*>();
}

std::optional<uint64_t> JsonReader::OptionalUnsigned() const {
  if (value_ == nullptr) return std::nullopt;
  if (!value_->is_number_unsigned()) {
    Fail("a whole number, not negative");
    return std::nullopt;
  }
  return *value_->get_ptr<const uint64_t*>();
}

uint64_t JsonReader::Unsigned(uint64_t fallback) const { return OptionalUnsigned().value_or(fallback); }

int64_t JsonReader::Integer(int64_t fallback, int64_t least, int64_t most) const {
  std::optional<int64_t> value = OptionalInteger();
  if (!value) return fallback;
  if (*value < least || *value > most) {
    Fail(absl::StrCat("a number from ", least, " to ", most));
    return fallback;
  }
  return *value;
}

std::vector<std::string> JsonReader::Strings() const {
  std::vector<std::string> out;
  ForEach([&out](const JsonReader& item) { out.push_back(item.String()); });
  return out;
}

}  // namespace amber::cli
