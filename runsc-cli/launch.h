// Making a container: the list of steps behind create, run, do and restore.
//
// A new sandbox gets, in this order: state directory, waiter, sentry, gofer, cgroup, hooks, and the answer of the sentry
// to the request that makes (or restores) the container. Set-up inside the sentry and the gofer goes on at the same time.
// What fails half-way is undone by Launcher's destructor; what is killed half-way is undone by the waiter.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runsc-cli/mount_options.h"
#include "runsc-cli/oci.h"
#include "runsc-cli/report.h"
#include "runsc-cli/state.h"
#include "sentry/base/unique_fd.h"
#include "sentry/control/client.h"
#include "sentry/control/spec.h"
#include "sentry/control/wire.h"

namespace amber::cli {

// What the flags before the verb, or after it where that makes sense, ask for.
struct GlobalOptions {
  std::string root;
  bool systemd_cgroup = false;
  bool debug = false;
  bool strace = false;
  bool fast_path = true;
  bool timings = false;
  std::string network;  // "", "none" or "host"
  OverlayFlag overlay;
  HostFiles host_files;
  GpuOptions gpu;
  Report* report = nullptr;
};

struct LaunchRequest {
  std::string id;
  Bundle bundle;
  std::string pid_file;
  std::string console_socket;
  // The user's own terminal, for a foreground container with ProcessSpec::terminal.
  UniqueFd terminal;
  uint32_t preserve_fds = 0;
  // Send the request to start at once, behind the one to create.
  bool start = false;
  bool foreground = false;
  bool use_cgroup = true;
  // Restore from this image instead of creating.
  UniqueFd image;
};

// Nobody holds the container's lock any more.
struct Launched {
  State state;
  control::Client client;
};

// Payload of a status that says why the container's program could not be executed.
inline constexpr char kStartFailed[] = "amber/start-failed";

// The container is created (and started or restored, if asked), its state saved, its pid file written.
absl::StatusOr<Launched> Launch(const GlobalOptions& options, LaunchRequest request);

// Ends what is left of a container and removes every trace: processes, cgroups, state.
absl::Status Destroy(const GlobalOptions& options, StateDir& dir, const State& state);

// For the command line that ran it in the foreground: removes what it made, if nobody else did.
void DestroyAfterForeground(const GlobalOptions& options, const State& state);

// The hooks of the bundle that the state names, which is read anew. A missing bundle has none.
absl::Status RunPoststartHooks(const GlobalOptions& options, const State& state);

// ASCII digits without a newline, which engines parse whole.
absl::Status WritePidFile(const std::string& path, pid_t pid);

// The OCI state object, as `state` prints it and hooks read it.
std::string OciState(const State& state);

// What a bind mount or an image mount shows, as a path of the host's.
std::string SourceOf(const Bundle& bundle, const MountSpec& mount);

// Applies the options that concern the root: overlay and the attach names of bind mounts.
absl::Status PrepareMounts(const GlobalOptions& options, Bundle* bundle);

control::Request MakeRequest(const std::string& container);
// The sandbox that serves this container.
absl::StatusOr<control::Client> ConnectTo(const GlobalOptions& options, const State& state);

// Descriptors 3 to 3+n-1 of this process, duplicated; fails if one is not open.
absl::StatusOr<std::vector<UniqueFd>> PreservedFds(uint32_t count);

}  // namespace amber::cli
