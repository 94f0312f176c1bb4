// Terminals of the host: the user's own in the foreground, and the pty whose master an engine gets.
#pragma once

#include <termios.h>

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "sentry/base/unique_fd.h"
#include "sentry/control/spec.h"

namespace amber::cli {

// Puts a terminal into raw mode for as long as this lives. Restore() is safe in every exit path, also twice.
class RawMode {
 public:
  RawMode() = default;
  ~RawMode() { Restore(); }
  RawMode(const RawMode&) = delete;
  RawMode& operator=(const RawMode&) = delete;
  absl::Status Enter(int terminal);
  void Restore();

 private:
  UniqueFd terminal_;
  termios saved_ = {};
};

// A new description of the terminal behind `fd`, so that flags set on it do not change the user's.
absl::StatusOr<UniqueFd> ReopenTerminal(int fd);

// Makes a pty in raw mode, sends its master over the Unix socket at `path` (connect, one SCM_RIGHTS message, as runc
// does), and returns the slave for the sentry.
absl::StatusOr<UniqueFd> SendConsole(const std::string& path, WindowSize size);

WindowSize SizeOf(int terminal);

}  // namespace amber::cli
