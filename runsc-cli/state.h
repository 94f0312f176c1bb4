// What the command line remembers of a container between its calls: ROOT/ID/ with
//   state.json    this file's State; replaced atomically, so reading it needs no lock
//   lock          flock()ed by whoever changes the container
//   control.sock  the sentry's control socket (of the first container of a sandbox)
// A directory whose owner died half-way (no state.json, lock free) is stale and is taken over by the next create.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runsc-cli/oci.h"
#include "sentry/base/unique_fd.h"

namespace amber::cli {

// A process that cannot be mistaken for a later one with the same number.
struct ProcessRef {
  pid_t pid = 0;
  uint64_t start = 0;  // field 22 of /proc/PID/stat

  static ProcessRef Of(pid_t pid);
  // A zombie is not alive.
  bool Alive() const;
};

struct State {
  std::string id;
  std::string status;  // "created", "running" or "paused"; what Status() makes of it counts
  std::string bundle;
  std::string rootfs;
  std::string created;  // RFC 3339
  std::map<std::string, std::string> annotations;
  ProcessRef waiter;  // the pid that engines see
  ProcessRef sentry;
  ProcessRef gofer;
  ProcessRef owner;        // the command line that runs it in the foreground; 0 if detached
  std::string sandbox_id;  // whose control.sock serves this container
  int32_t guest_pid = 0;   // init, in its own pid namespace
  uint32_t host_id = 0;
  bool host_sockets = false;              // the sentry may use Unix sockets of the host (--host-uds)
  std::vector<std::string> cgroups;       // directories it is in
  std::vector<std::string> made_cgroups;  // those of them that are ours to remove
  std::vector<Hook> poststop;

  // "stopped" once the init has ended or the sandbox is gone, else as stored.
  std::string Status() const;
};

std::string Serialize(const State& state);
absl::StatusOr<State> ParseState(std::string_view text);

// Letters, digits, "_", "+", "-", "."; at most 255; neither "." nor "..": an id names a directory.
absl::Status CheckId(std::string_view id);

// A container's directory. With a lock held (the object's life long) or without.
class StateDir {
 public:
  // A new container, locked. ALREADY_EXISTS if there is one with that id; stale ones are removed first, and so are
  // stopped ones with `replace_stopped`.
  static absl::StatusOr<StateDir> Create(const std::string& root, const std::string& id, bool replace_stopped);
  // An existing one, locked for changing. NOT_FOUND: "container ID does not exist".
  static absl::StatusOr<StateDir> OpenLocked(const std::string& root, const std::string& id);
  // Without a lock, for reading.
  static absl::StatusOr<State> Read(const std::string& root, const std::string& id);
  // Ids of all containers below `root`, sorted. An absent root has none.
  static absl::StatusOr<std::vector<std::string>> List(const std::string& root);

  absl::StatusOr<State> Load() const;
  absl::Status Save(const State& state) const;
  // Everything in it, then itself.
  absl::Status Remove();
  // Lets others change the container.
  void Unlock() { lock_.reset(); }

  const std::string& path() const { return path_; }
  std::string socket_path() const { return path_ + "/control.sock"; }

 private:
  StateDir(std::string path, UniqueFd lock) : path_(std::move(path)), lock_(std::move(lock)) {}
  static absl::StatusOr<UniqueFd> Lock(const std::string& path);
  std::string path_;
  UniqueFd lock_;
};

}  // namespace amber::cli
