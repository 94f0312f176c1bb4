// The kernel as the control server sees it: the interface between sentry/control/ and sentry/kernel/.
//
// Owner: SentryMain makes one Runtime and keeps it until the process ends.
// Life:
//   1. Create()  single-threaded, with the namespaces set up and capabilities dropped, *before* the seccomp
//                list is installed. The seed of the stubs is made here (it must not inherit that list). No
//                threads may be started.
//   2. The list is installed (with TSYNC).
//   3. Boot()    starts workers and prepares what every container needs.
//   4. The control server's calls.
// Threads: everything after Create() is called on the control thread, one call at a time. No call may block for
// longer than it takes to talk to the gofer; what lasts longer takes a callback. Callbacks are called exactly
// once, on any thread, also from within the call itself, and never while a lock of the kernel's is held that a
// Runtime call would take.
// Ids: `container` is the id of its ContainerSpec. Process ids are those of the container's pid namespace as ps
// shows them there; the init of a container with a pid namespace of its own is 1.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "sentry/base/unique_fd.h"
#include "sentry/control/spec.h"

namespace amber {

// Host descriptors that belong to the sandbox as a whole.
struct SandboxFds {
  UniqueFd log;     // append-only log for --debug and --strace; may be invalid
  UniqueFd proc;    // O_PATH descriptor of the sentry's own /proc (subset=pid)
  UniqueFd cgroup;  // O_PATH descriptor of the sandbox's cgroup directory; may be invalid
};

// Host descriptors that become a process's standard input, output and error. With ProcessSpec::terminal only
// `console` is valid: a host terminal in raw mode. The kernel makes a pty of its own in the container's devpts,
// gives the process its slave, and carries bytes between its master and `console` until either side hangs up.
struct ProcessFds {
  UniqueFd stdio[3];
  UniqueFd console;
  // Passed on as descriptors 3, 4, ... (--preserve-fds).
  std::vector<UniqueFd> extra;
};

// What a container gets besides: the client ends of the channels to its own gofer (gofer/client.h), whose attach
// points ContainerSpec names (none if it needs nothing of a gofer's), and the files that its mounts with MountSpec::image are in.
struct ContainerFds {
  std::vector<UniqueFd> gofer;
  std::vector<UniqueFd> file_systems;
  ProcessFds process;
};

struct ProcessId {
  int32_t pid = 0;
};

struct ProcessInfo {
  int32_t pid = 0;
  int32_t parent = 0;
  uint32_t uid = 0;
  uint32_t threads = 1;
  std::string state;    // "R", "S", "T", "Z" as in /proc/PID/stat
  std::string command;  // argv joined by blanks, or the name in brackets
  uint64_t cpu_ns = 0;
  uint64_t resident_bytes = 0;
  int32_t stub = 0;  // its host process, as the sentry's pid namespace numbers it; 0 if it has none
};

// One GPU of the sandbox, in bytes. The ledger's numbers: what its programs have allocated, with what contexts are taken to cost.
struct GpuStats {
  uint32_t minor = 0;
  std::string uuid;  // "GPU-..."
  uint64_t used = 0;
  uint64_t peak = 0;
  uint64_t limit = 0;  // 0: none
};

struct ContainerStats {
  uint64_t cpu_ns = 0;
  uint64_t cpu_user_ns = 0;
  uint64_t cpu_system_ns = 0;
  uint64_t memory_bytes = 0;
  uint64_t processes = 0;
  uint64_t threads = 0;
  // Of the whole sandbox.
  std::vector<GpuStats> gpus;
  uint64_t gpu_host_bytes = 0;  // host memory that the GPUs' driver allocated or pinned
  uint64_t gpu_calls = 0;
  uint64_t gpu_calls_refused = 0;
};

struct CheckpointOptions {
  // Where to write: an empty regular file, open for reading and writing. The CLI fsyncs and renames it.
  UniqueFd image;
  UniqueFd parent;             // image that this one is incremental to; may be invalid
  bool leave_running = false;  // otherwise the sandbox ends when the image is complete
  bool check_only = false;     // list what cannot be saved, touch nothing
  bool tcp_established = false;
  bool compress = false;
};

struct CheckpointResult {
  absl::Status status;
  std::vector<std::string> obstacles;  // for check_only: what cannot be saved, one line each
  uint64_t image_bytes = 0;
  uint64_t memory_bytes = 0;
  uint64_t pause_ns = 0;  // how long the guest stood still
  uint64_t total_ns = 0;
  // What GPUs took: "GPU lock", "GPU drain", "GPU return", in ns.
  std::vector<std::pair<std::string, uint64_t>> phases;
};

struct Progress {
  std::string stage;  // "pause", "objects", "memory", ...
  uint64_t done = 0;
  uint64_t total = 0;
};

struct RestoreOptions {
  UniqueFd image;  // read-only, kept open for as long as pages are mapped from it
  bool paused = false;
};

struct RestoreResult {
  // The container ids in the image with their init's pid, first container first. The first one is renamed to
  // the id of the ContainerSpec that Restore() was given.
  std::vector<std::string> containers;
  ProcessId init;
};

class Runtime {
 public:
  using WaitCallback = std::move_only_function<void(absl::StatusOr<int> wait_status)>;
  using DoneCallback = std::move_only_function<void(absl::Status)>;
  using ProgressCallback = std::move_only_function<void(const Progress&)>;
  using CheckpointCallback = std::move_only_function<void(CheckpointResult)>;

  virtual ~Runtime() = default;

  // Defined by the kernel.
  static absl::StatusOr<std::unique_ptr<Runtime>> Create(const SandboxOptions& options, SandboxFds fds);

  virtual absl::Status Boot() = 0;

  // Makes the container's namespaces, mounts and init process, which does not run yet.
  virtual absl::StatusOr<ProcessId> CreateContainer(const ContainerSpec& spec, ContainerFds fds) = 0;
  // Lets the init process execute its program. NOT_FOUND and PERMISSION_DENIED if argv[0] cannot be executed.
  virtual absl::Status StartContainer(std::string_view container) = 0;
  virtual absl::StatusOr<ProcessId> Exec(std::string_view container, const ProcessSpec& process, ProcessFds fds) = 0;

  // NOT_FOUND if there is no such process (any more).
  virtual absl::Status Signal(std::string_view container, ProcessId process, int signal) = 0;
  virtual absl::Status SignalAll(std::string_view container, int signal) = 0;
  // To the foreground process group of the process's controlling terminal.
  virtual absl::Status SignalForeground(std::string_view container, ProcessId process, int signal) = 0;

  // Calls back with the wait status (wait(2)) when the process, an init or an exec, has ended. Its number is not
  // reused before that. A second Wait for the same process gives the same answer.
  virtual void Wait(std::string_view container, ProcessId process, WaitCallback done) = 0;

  // Stops every task of the sandbox before its next instruction; `done` when all stand still.
  virtual void Pause(DoneCallback done) = 0;
  virtual absl::Status Resume() = 0;

  // A paused sandbox is checkpointed as paused and stays paused. On failure the sandbox is as it was before.
  virtual void Checkpoint(CheckpointOptions options, ProgressCallback progress, CheckpointCallback done) = 0;
  // In place of CreateContainer, in a sandbox without containers. `spec` is the new bundle's: its mounts and
  // root say where the files are now; its process is ignored, but for the terminal flag.
  virtual absl::StatusOr<RestoreResult> Restore(RestoreOptions options, const ContainerSpec& spec, ContainerFds fds) = 0;

  virtual absl::StatusOr<std::vector<ProcessInfo>> Processes(std::string_view container) = 0;
  virtual absl::StatusOr<ContainerStats> Stats(std::string_view container) = 0;

  // The terminal of an init or exec takes over the size that its console has now.
  virtual absl::Status ResizeTerminal(std::string_view container, ProcessId process, WindowSize size) = 0;

  // What the container's programs are told of memory, in bytes (0: no limit); the host's cgroup enforces it.
  virtual absl::Status SetMemoryLimit(std::string_view container, uint64_t bytes) = 0;

  virtual absl::Status SetStrace(bool on) = 0;
  // Text for people. Queries: "stats" (counters, one "name value" a line, stable order), "unknown-syscalls",
  // "stacks" (what each task does), "maps PID". INVALID_ARGUMENT names the known queries.
  virtual absl::StatusOr<std::string> Debug(std::string_view query) = 0;

  // Kills what is left of the container and forgets it.
  virtual void DestroyContainer(std::string_view container, DoneCallback done) = 0;
};

}  // namespace amber
