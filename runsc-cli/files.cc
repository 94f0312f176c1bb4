#include "runsc-cli/files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "sentry/base/unique_fd.h"

namespace amber::cli {
namespace {

constexpr size_t kMaxBytes = 1 << 20;

absl::Status Failed(std::string_view what, const std::string& path) {
  std::string message = absl::StrCat("cannot ", what, " ", path, ": ", strerrordesc_np(errno));
  return errno == ENOENT ? absl::NotFoundError(message) : absl::InternalError(message);
}

absl::Status WriteAll(int fd, std::string_view text, const std::string& path) {
  while (!text.empty()) {
    ssize_t n = write(fd, text.data(), text.size());
    if (n < 0) return Failed("write", path);
    text.remove_prefix(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> ReadSmallFile(const std::string& path) {
  UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid()) return Failed("open", path);
  std::string text;
  char buffer[4096];
  for (;;) {
    ssize_t n = read(file.get(), buffer, sizeof(buffer));
    if (n < 0) return Failed("read", path);
    if (n == 0) return text;
    text.append(buffer, static_cast<size_t>(n));
    if (text.size() > kMaxBytes) return absl::InvalidArgumentError(absl::StrCat(path, " is larger than 1 MiB"));
  }
}

absl::Status WriteExistingFile(const std::string& path, std::string_view text) {
  UniqueFd file(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!file.valid()) return Failed("open", path);
  if (write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) return Failed("write", path);
  return absl::OkStatus();
}

absl::Status WriteFileAtomically(const std::string& path, std::string_view text) {
  std::string temporary = path + ".new";
  // Never through what somebody put there: a pid file's directory may be anybody's.
  if (unlink(temporary.c_str()) != 0 && errno != ENOENT) return Failed("remove", temporary);
  UniqueFd file(open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!file.valid()) return Failed("make", temporary);
  absl::Status status = WriteAll(file.get(), text, temporary);
  if (status.ok() && rename(temporary.c_str(), path.c_str()) != 0) status = Failed("rename to", path);
  if (!status.ok()) unlink(temporary.c_str());
  return status;
}

absl::Status MakeDirectories(const std::string& path, mode_t mode) {
  if (mkdir(path.c_str(), mode) == 0 || errno == EEXIST) return absl::OkStatus();
  if (errno != ENOENT) return Failed("make the directory", path);
  size_t slash = path.find_last_not_of('/');
  slash = path.rfind('/', slash);
  if (slash == std::string::npos || slash == 0) return Failed("make the directory", path);
  if (absl::Status status = MakeDirectories(path.substr(0, slash), mode); !status.ok()) return status;
  if (mkdir(path.c_str(), mode) != 0 && errno != EEXIST) return Failed("make the directory", path);
  return absl::OkStatus();
}

}  // namespace amber::cli
