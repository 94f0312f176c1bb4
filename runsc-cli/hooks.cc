#include "runsc-cli/hooks.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "sentry/base/unique_fd.h"

namespace amber::cli {
namespace {

std::vector<char*> Pointers(const std::vector<std::string>& strings) {
  std::vector<char*> out;
  for (const std::string& s : strings) out.push_back(const_cast<char*>(s.c_str()));
  out.push_back(nullptr);
  return out;
}

// The end of what was written to a memfd, one line.
std::string Tail(int file) {
  char text[513];
  off_t size = lseek(file, 0, SEEK_END);
  off_t from = size > 512 ? size - 512 : 0;
  ssize_t n = pread(file, text, sizeof(text) - 1, from);
  std::string out(text, static_cast<size_t>(n > 0 ? n : 0));
  for (char& c : out) {
    if (c == '\n') c = ' ';
  }
  return std::string(absl::StripAsciiWhitespace(out));
}

absl::Status RunHook(const Hook& hook, const char* kind, const std::string& state_json) {
  auto failed = [&](std::string_view why) { return absl::InternalError(absl::StrCat(kind, " hook ", hook.path, ": ", why)); };
  UniqueFd input(memfd_create("hook-input", MFD_CLOEXEC));
  UniqueFd output(memfd_create("hook-output", MFD_CLOEXEC));
  if (!input.valid() || !output.valid() || pwrite(input.get(), state_json.data(), state_json.size(), 0) != static_cast<ssize_t>(state_json.size())) {
    return failed(strerrordesc_np(errno));
  }
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, input.get(), 0);
  posix_spawn_file_actions_adddup2(&actions, output.get(), 1);
  posix_spawn_file_actions_adddup2(&actions, output.get(), 2);
  pid_t pid;
  int error = posix_spawn(&pid, hook.path.c_str(), &actions, nullptr, Pointers(hook.args).data(), Pointers(hook.env).data());
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) return failed(strerrordesc_np(error));
  UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  pollfd done = {pidfd.get(), POLLIN, 0};
  int ready;
  do {
    ready = poll(&done, 1, hook.timeout_s == 0 ? -1 : hook.timeout_s * 1000);
  } while (ready < 0 && errno == EINTR);
  if (ready == 0) kill(pid, SIGKILL);
  int status = 0;
  waitpid(pid, &status, 0);
  if (ready == 0) return failed(absl::StrCat("did not end within ", hook.timeout_s, " s"));
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return absl::OkStatus();
  std::string how = WIFEXITED(status) ? absl::StrCat("exit status ", WEXITSTATUS(status)) : absl::StrCat("killed by signal ", WTERMSIG(status));
  std::string said = Tail(output.get());
  return failed(said.empty() ? how : absl::StrCat(how, ": ", said));
}

}  // namespace

absl::Status RunHooks(const std::vector<Hook>& hooks, const char* kind, const std::string& state_json) {
  for (const Hook& hook : hooks) {
    if (absl::Status status = RunHook(hook, kind, state_json); !status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace amber::cli
