// An OCI bundle's config.json, read into plain values.
//
// The file is treated as hostile: its size and nesting are bounded, every value's type is checked where it is
// used, unknown fields are ignored, and an error names the field. Nothing here touches the host beyond reading that
// file; whether paths exist is found out by whoever opens them.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "sentry/control/spec.h"

namespace amber::cli {

inline constexpr size_t kMaxConfigBytes = 8 << 20;
inline constexpr int kMaxJsonDepth = 64;

// Limits for the container's cgroup. Absent: not touched.
struct Resources {
  std::optional<int64_t> memory_limit;  // bytes; -1 is no limit
  std::optional<int64_t> memory_reservation;
  std::optional<int64_t> memory_swap;  // memory and swap together, as in cgroup v1
  std::optional<uint64_t> cpu_shares;
  std::optional<int64_t> cpu_quota;  // microseconds in each period; -1 is no limit
  std::optional<uint64_t> cpu_period;
  std::string cpuset_cpus;
  std::string cpuset_mems;
  std::optional<int64_t> pids_limit;           // 0 and less is no limit
  std::map<std::string, std::string> unified;  // cgroup v2 files
};

struct Hook {
  std::string path;
  std::vector<std::string> args;
  std::vector<std::string> env;
  int timeout_s = 0;  // 0: no limit
};

struct Hooks {
  std::vector<Hook> prestart, create_runtime, create_container, start_container, poststart, poststop;
};

struct Bundle {
  std::string oci_version;
  std::string directory;  // absolute
  std::string root;       // absolute path of the root file system
  // Mounts with an empty attach name; those of `type` "bind" (or with a bind option) are to be served by the gofer.
  ContainerSpec container;
  bool host_network = false;    // no network namespace was asked for
  std::string network_path;     // join this one; empty: make one (unless host_network)
  bool shares_sandbox = false;  // pod member, by annotation
  std::string sandbox_id;       // of the pod
  std::string cgroups_path;
  Resources resources;
  Hooks hooks;
  // What the configuration asks for and we do not do, for the log.
  std::vector<std::string> warnings;
};

// `directory` is the bundle's, absolute or relative to the current directory.
absl::StatusOr<Bundle> LoadBundle(const std::string& directory);
// For tests and fuzzing: `text` is config.json, `directory` absolute.
absl::StatusOr<Bundle> ParseConfig(std::string_view text, const std::string& directory);
// The file of `exec --process`: a process object.
absl::StatusOr<ProcessSpec> LoadProcess(const std::string& path);
absl::StatusOr<ProcessSpec> ParseProcess(std::string_view text);
// The input of `update --resources`.
absl::StatusOr<Resources> ParseResources(std::string_view text);

// True for a mount that shows a host path.
bool IsBind(const MountSpec& mount);

// "CAP_CHOWN" or "chown" to its number.
std::optional<int> CapabilityNumber(std::string_view name);
// Signal by name ("KILL", "SIGKILL") or number; 0 is not one.
std::optional<int> SignalNumber(std::string_view name);

}  // namespace amber::cli
