// Reading JSON without trusting it: every access checks the type, and the first mismatch is remembered with the
// path of the field, so that code can read on and ask once at the end.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json_fwd.hpp"

namespace amber::cli {

// Refuses what nests deeper than kMaxJsonDepth or is no JSON.
absl::StatusOr<nlohmann::json> ParseJson(std::string_view text, std::string_view what);

// A JSON value with its path. Holds a reference into the document.
class JsonReader {
 public:
  // `error` receives the first mismatch and outlives all readers.
  JsonReader(const nlohmann::json* value, std::string path, absl::Status* error) : value_(value), path_(std::move(path)), error_(error) {}

  bool exists() const { return value_ != nullptr; }
  const std::string& path() const { return path_; }
  // A member of an object. Absent members and null give a reader that does not exist and answers with fallbacks.
  JsonReader operator[](const char* name) const;
  void ForEach(const std::function<void(const JsonReader&)>& visit) const;
  void ForEachMember(const std::function<void(const std::string& name, const JsonReader&)>& visit) const;

  // Strings with a NUL byte are refused: nothing that we pass them to could hold one.
  std::string String(std::string_view fallback = "") const;
  bool Bool(bool fallback = false) const;
  int64_t Integer(int64_t fallback, int64_t least, int64_t most) const;
  uint64_t Unsigned(uint64_t fallback = 0) const;  // whole range
  std::optional<int64_t> OptionalInteger() const;
  std::optional<uint64_t> OptionalUnsigned() const;
  std::vector<std::string> Strings() const;

  void Fail(std::string_view expectation) const;

 private:
  const nlohmann::json* value_;
  std::string path_;
  absl::Status* error_;
};

}  // namespace amber::cli
