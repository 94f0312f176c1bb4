#include "runsc-cli/report.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"

namespace amber::cli {

std::string JsonString(std::string_view text) { return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace); }

std::string Printable(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    auto c = static_cast<unsigned char>(text[i]);
    // C1, as UTF-8 has it: one more way to begin an escape sequence.
    bool c1 = c == 0xc2 && i + 1 < text.size() && (static_cast<unsigned char>(text[i + 1]) & 0xe0) == 0x80;
    if ((c >= 0x20 || c == '\n' || c == '\t') && c != 0x7f && !c1) {
      out += text[i];
    } else {
      absl::StrAppendFormat(&out, "\\x%02x", c1 ? static_cast<unsigned char>(text[++i]) : c);
    }
  }
  return out;
}

std::string TimestampNow() {
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  tm parts;
  gmtime_r(&now.tv_sec, &parts);
  char date[32];
  strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%S", &parts);
  return absl::StrFormat("%s.%09dZ", date, now.tv_nsec);
}

absl::Status Report::Open(const std::string& path, std::string_view format, bool debug) {
  debug_ = debug;
  if (format != "text" && format != "json") {
    return absl::InvalidArgumentError(absl::StrCat("--log-format must be text or json, not \"", format, "\""));
  }
  json_ = format == "json";
  if (path.empty()) return absl::OkStatus();
  fd_ = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd_ < 0) return absl::InvalidArgumentError(absl::StrCat("cannot open the log ", path, ": ", strerrordesc_np(errno)));
  return absl::OkStatus();
}

void Report::Write(std::string_view level, std::string_view message) {
  if (fd_ < 0) return;
  std::string line = json_ ? absl::StrCat("{\"level\":\"", level, "\",\"msg\":", JsonString(message), ",\"time\":\"", TimestampNow(), "\"}\n")
                           : absl::StrCat("time=\"", TimestampNow(), "\" level=", level, " msg=", JsonString(message), "\n");
  (void)!write(fd_, line.data(), line.size());
}

void Report::Error(std::string_view message) {
  Write("error", message);
  absl::FPrintF(stderr, "sandbox: %s\n", Printable(message));
}

void Report::Warning(std::string_view message) {
  Write("warning", message);
  if (debug_) absl::FPrintF(stderr, "sandbox: warning: %s\n", Printable(message));
}

void Report::Debug(std::string_view message) {
  if (debug_) Write("debug", message);
}

}  // namespace amber::cli
