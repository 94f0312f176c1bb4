// Where errors and warnings go: one line on stderr, and in the file that --log names, as text or JSON, which
// engines read for the last error.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace amber::cli {

class Report {
 public:
  // An empty path means no file. The file is appended to, and made if missing.
  absl::Status Open(const std::string& path, std::string_view format, bool debug);

  void Error(std::string_view message);
  void Warning(std::string_view message);
  void Debug(std::string_view message);
  // The log's descriptor for the sentry, or -1.
  int fd() const { return fd_; }
  bool debug() const { return debug_; }

 private:
  void Write(std::string_view level, std::string_view message);
  int fd_ = -1;
  bool json_ = false;
  bool debug_ = false;
};

// `text` as a JSON string with its quotes; bytes that are not UTF-8 become U+FFFD.
std::string JsonString(std::string_view text);
// `text` for somebody's terminal: control characters, with which what a guest has named could steer it, as \xNN. Lines and tabs stay.
std::string Printable(std::string_view text);
// Now, as RFC 3339 with nanoseconds in UTC.
std::string TimestampNow();

}  // namespace amber::cli
