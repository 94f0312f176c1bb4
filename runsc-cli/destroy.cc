// The end of a container.
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runsc-cli/cgroup.h"
#include "runsc-cli/hooks.h"
#include "runsc-cli/launch.h"

namespace amber::cli {
namespace {

UniqueFd PidFd(pid_t pid) { return UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0))); }

// False if it is still there after `milliseconds`.
bool AwaitEnd(const ProcessRef& process, int milliseconds) {
  if (!process.Alive()) return true;
  UniqueFd pidfd = PidFd(process.pid);
  if (!pidfd.valid()) return true;
  pollfd p = {pidfd.get(), POLLIN, 0};
  return poll(&p, 1, milliseconds) == 1;
}

void EndProcess(const ProcessRef& process, int patience_ms) {
  if (AwaitEnd(process, patience_ms)) return;
  if (process.Alive()) kill(process.pid, SIGKILL);
  AwaitEnd(process, 5000);
}

}  // namespace

absl::Status Destroy(const GlobalOptions& options, StateDir& dir, const State& state) {
  bool owns_sandbox = state.sandbox_id == state.id;
  // Without its waiter a container has ended; a sandbox that is another's keeps what is left of it until it is told.
  if (state.sentry.Alive() && (state.waiter.Alive() || !owns_sandbox)) {
    absl::StatusOr<control::Client> client = ConnectTo(options, state);
    if (client.ok()) {
      control::Request destroy = MakeRequest(state.id);
      destroy.mutable_destroy();
      client->Call(destroy).IgnoreError();
    }
    EndProcess(state.waiter, 2000);
  }
  if (owns_sandbox) EndProcess(state.sentry, 2000);
  EndProcess(state.gofer, 2000);
  if (absl::Status status = RemoveCgroups(state.made_cgroups); !status.ok()) return status;
  if (absl::Status status = dir.Remove(); !status.ok()) return status;
  return RunHooks(state.poststop, "poststop", OciState(state));
}

void DestroyAfterForeground(const GlobalOptions& options, const State& state) {
  absl::StatusOr<StateDir> dir = StateDir::OpenLocked(options.root, state.id);
  absl::Status status = absl::IsNotFound(dir.status()) ? absl::OkStatus() : dir.ok() ? Destroy(options, *dir, state) : dir.status();
  if (!status.ok()) options.report->Warning(std::string(status.message()));
  // Sentry and gofer have ended: takes their exit statuses from the process table.
  while (waitpid(-1, nullptr, WNOHANG) > 0) {
  }
}

}  // namespace amber::cli
