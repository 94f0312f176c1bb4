// create, start, delete, kill, pause, resume, update.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runsc-cli/cgroup.h"
#include "runsc-cli/command.h"
#include "runsc-cli/files.h"

namespace amber::cli {
namespace {

absl::StatusOr<int> Create(Context& context) {
  absl::StatusOr<LaunchRequest> request = context.BundleRequest();
  if (!request.ok()) return request.status();
  absl::StatusOr<Launched> launched = Launch(context.options, *std::move(request));
  if (!launched.ok()) return launched.status();
  return 0;
}

absl::StatusOr<int> Start(Context& context) {
  absl::StatusOr<std::string> id = context.ContainerId();
  if (!id.ok()) return id.status();
  absl::StatusOr<StateDir> dir = StateDir::OpenLocked(context.options.root, *id);
  if (!dir.ok()) return dir.status();
  absl::StatusOr<State> state = dir->Load();
  if (!state.ok()) return state.status();
  if (std::string status = state->Status(); status != "created") {
    return absl::FailedPreconditionError(absl::StrCat("cannot start container \"", *id, "\": it is ", status, ", not created"));
  }
  absl::StatusOr<control::Client> client = ConnectTo(context.options, *state);
  if (!client.ok()) return client.status();
  control::Request request = MakeRequest(*id);
  request.mutable_start();
  if (absl::StatusOr<control::Reply> reply = client->Call(request); !reply.ok()) return reply.status();
  state->status = "running";
  if (absl::Status status = dir->Save(*state); !status.ok()) return status;
  if (absl::Status status = RunPoststartHooks(context.options, *state); !status.ok()) return status;
  return 0;
}

absl::StatusOr<int> Delete(Context& context) {
  bool force = context.flags.Bool("force");
  absl::StatusOr<std::string> id = context.ContainerId();
  if (!id.ok()) return id.status();
  absl::StatusOr<StateDir> dir = StateDir::OpenLocked(context.options.root, *id);
  absl::StatusOr<State> state = dir.ok() ? dir->Load() : absl::StatusOr<State>(dir.status());
  if (!state.ok()) {
    if (force && dir.ok()) dir->Remove().IgnoreError();
    if (force && absl::IsNotFound(state.status())) return 0;
    return state.status();
  }
  std::string status = state->Status();
  if (!force && status != "stopped" && status != "created") {
    return absl::FailedPreconditionError(absl::StrCat("container \"", *id, "\" is ", status, ", not stopped: kill it first, or delete --force"));
  }
  if (absl::Status destroyed = Destroy(context.options, *dir, *state); !destroyed.ok()) {
    // Everything is gone by the time that poststop hooks fail.
    if (absl::IsNotFound(StateDir::Read(context.options.root, *id).status())) {
      context.options.report->Warning(std::string(destroyed.message()));
      return 0;
    }
    return destroyed;
  }
  return 0;
}

absl::StatusOr<int> Kill(Context& context) {
  absl::StatusOr<std::string> id = context.ContainerId();
  if (!id.ok()) return id.status();
  std::string name = context.flags.arguments.size() > 1 ? context.flags.arguments[1] : "SIGTERM";
  bool all = context.flags.Bool("all");
  std::optional<int> signal = SignalNumber(name);
  if (!signal) return absl::InvalidArgumentError(absl::StrCat("unknown signal \"", name, "\""));
  absl::StatusOr<State> state = StateDir::Read(context.options.root, *id);
  if (!state.ok()) return state.status();
  if (state->Status() == "stopped") {
    // Engines know these words; runc takes --all for stopped containers as done.
    if (all) return 0;
    return absl::FailedPreconditionError("container not running");
  }
  absl::StatusOr<control::Client> client = ConnectTo(context.options, *state);
  if (!client.ok()) return absl::FailedPreconditionError("container not running");
  control::Request request = MakeRequest(*id);
  control::SignalRequest* wanted = request.mutable_signal();
  wanted->set_pid(context.flags.Has("pid") ? static_cast<int32_t>(context.flags.NumberOr("pid", 0)) : state->guest_pid);
  wanted->set_signal(*signal);
  wanted->set_all(all);
  absl::Status status = client->Call(request).status();
  if (absl::IsNotFound(status)) return absl::NotFoundError("no such process");
  if (absl::IsUnavailable(status)) return absl::FailedPreconditionError("container not running");
  if (!status.ok()) return status;
  return 0;
}

// pause and resume.
absl::StatusOr<int> Freeze(Context& context, bool pause) {
  absl::StatusOr<std::string> id = context.ContainerId();
  if (!id.ok()) return id.status();
  absl::StatusOr<StateDir> dir = StateDir::OpenLocked(context.options.root, *id);
  if (!dir.ok()) return dir.status();
  absl::StatusOr<State> state = dir->Load();
  if (!state.ok()) return state.status();
  std::string wanted = pause ? "running" : "paused";
  if (std::string status = state->Status(); status != wanted) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot ", pause ? "pause" : "resume", " container \"", *id, "\": it is ", status, ", not ", wanted));
  }
  absl::StatusOr<control::Client> client = ConnectTo(context.options, *state);
  if (!client.ok()) return client.status();
  control::Request request = MakeRequest(*id);
  if (pause) {
    request.mutable_pause();
  } else {
    request.mutable_resume();
  }
  if (absl::StatusOr<control::Reply> reply = client->Call(request); !reply.ok()) return reply.status();
  state->status = pause ? "paused" : "running";
  if (absl::Status status = dir->Save(*state); !status.ok()) return status;
  return 0;
}

absl::StatusOr<int> Pause(Context& context) { return Freeze(context, true); }
absl::StatusOr<int> Resume(Context& context) { return Freeze(context, false); }

std::string ReadAll(FILE* file) {
  std::string text;
  char buffer[4096];
  size_t n;
  while ((n = fread(buffer, 1, sizeof(buffer), file)) > 0 && text.size() <= kMaxConfigBytes) text.append(buffer, n);
  return text;
}

// What programs are told of memory follows the cgroup's limit.
absl::Status TellMemoryLimit(const GlobalOptions& options, const State& state, const Resources& resources) {
  if (!resources.memory_limit || *resources.memory_limit == 0) return absl::OkStatus();
  absl::StatusOr<control::Client> client = ConnectTo(options, state);
  if (!client.ok()) return client.status();
  control::Request request = MakeRequest(state.id);
  request.mutable_update()->set_memory_limit(static_cast<uint64_t>(std::max<int64_t>(0, *resources.memory_limit)));
  return client->Call(request).status();
}

absl::StatusOr<int> Update(Context& context) {
  const Flags& flags = context.flags;
  absl::StatusOr<std::string> id = context.ContainerId();
  if (!id.ok()) return id.status();
  absl::StatusOr<State> state = StateDir::Read(context.options.root, *id);
  if (!state.ok()) return state.status();
  Resources resources;
  if (std::string source = flags.String("resources"); !source.empty()) {
    absl::StatusOr<std::string> text = source == "-" ? absl::StatusOr<std::string>(ReadAll(stdin)) : ReadSmallFile(source);
    if (!text.ok()) return text.status();
    absl::StatusOr<Resources> parsed = ParseResources(*text);
    if (!parsed.ok()) return parsed.status();
    resources = *std::move(parsed);
  }
  if (flags.Has("memory")) resources.memory_limit = flags.NumberOr("memory", 0);
  if (flags.Has("memory-reservation")) resources.memory_reservation = flags.NumberOr("memory-reservation", 0);
  if (flags.Has("memory-swap")) resources.memory_swap = flags.NumberOr("memory-swap", 0);
  if (flags.Has("pids-limit")) resources.pids_limit = flags.NumberOr("pids-limit", 0);
  if (flags.Has("cpu-share")) resources.cpu_shares = static_cast<uint64_t>(flags.NumberOr("cpu-share", 0));
  if (flags.Has("cpu-quota")) resources.cpu_quota = flags.NumberOr("cpu-quota", 0);
  if (flags.Has("cpu-period")) resources.cpu_period = static_cast<uint64_t>(flags.NumberOr("cpu-period", 0));
  if (flags.Has("cpuset-cpus")) resources.cpuset_cpus = flags.String("cpuset-cpus");
  if (flags.Has("cpuset-mems")) resources.cpuset_mems = flags.String("cpuset-mems");
  if (state->cgroups.empty()) {
    return absl::FailedPreconditionError(absl::StrCat("container \"", *id, "\" has no cgroup whose limits could be changed"));
  }
  absl::StatusOr<std::string> mountinfo = ReadSmallFile("/proc/self/mountinfo");
  if (!mountinfo.ok()) return mountinfo.status();
  Cgroup cgroup = Cgroup::Existing(ParseCgroupMounts(*mountinfo), state->cgroups);
  if (absl::Status status = cgroup.Apply(resources); !status.ok()) return status;
  if (absl::Status status = TellMemoryLimit(context.options, *state, resources); !status.ok()) return status;
  return 0;
}

}  // namespace

std::vector<Command> LifecycleCommands() {
  return {
      {"create", "[FLAGS] ID", "creates a container of an OCI bundle, without starting its program", "",
       Join({{"bundle", 'b', FlagKind::kString, "DIR", "the bundle (default: the current directory)"},
             {"pid-file", 0, FlagKind::kString, "FILE", "writes the pid that stands for the container"},
             {"console-socket", 0, FlagKind::kString, "SOCKET", "sends the terminal's master there"},
             {"preserve-fds", 0, FlagKind::kNumber, "N", "passes descriptors 3 to N+2 on"},
             {"pidfd-socket", 0, FlagKind::kString, nullptr, nullptr},
             {"no-pivot", 0, FlagKind::kBool, nullptr, nullptr},
             {"no-new-keyring", 0, FlagKind::kBool, nullptr, nullptr},
             {"user-log", 0, FlagKind::kString, nullptr, nullptr}},
            SandboxFlags()),
       Create},
      {"start", "ID", "starts the program of a created container", "", {}, Start},
      {"kill",
       "[FLAGS] ID [SIGNAL]",
       "sends a signal to a container's first process (default TERM)",
       "",
       {{"all", 'a', FlagKind::kBool, nullptr, "to all its processes"},
        {"pid", 'p', FlagKind::kNumber, "PID", "to this process, numbered as in the container"}},
       Kill},
      {"delete",
       "[FLAGS] ID",
       "removes a stopped container",
       "",
       {{"force", 'f', FlagKind::kBool, nullptr, "kills it first; a missing one is no error"}},
       Delete},
      {"pause", "ID", "stops every process of a container until resume", "", {}, Pause},
      {"resume", "ID", "lets a paused container run on", "", {}, Resume},
      {"update",
       "[FLAGS] ID",
       "changes the limits of a container",
       "",
       {{"resources", 'r', FlagKind::kString, "FILE", "linux.resources as JSON; - is standard input"},
        {"memory", 0, FlagKind::kNumber, "BYTES", "memory limit"},
        {"memory-reservation", 0, FlagKind::kNumber, "BYTES", "memory kept under pressure"},
        {"memory-swap", 0, FlagKind::kNumber, "BYTES", "memory and swap together"},
        {"pids-limit", 0, FlagKind::kNumber, "N", "number of tasks"},
        {"cpu-share", 0, FlagKind::kNumber, "N", "weight against others, 2 to 262144"},
        {"cpu-quota", 0, FlagKind::kNumber, "US", "CPU time in each period"},
        {"cpu-period", 0, FlagKind::kNumber, "US", "the period"},
        {"cpuset-cpus", 0, FlagKind::kString, "LIST", "CPUs, like 0-2,4"},
        {"cpuset-mems", 0, FlagKind::kString, "LIST", "memory nodes"},
        {"blkio-weight", 0, FlagKind::kNumber, nullptr, nullptr},
        {"cpu-rt-period", 0, FlagKind::kNumber, nullptr, nullptr},
        {"cpu-rt-runtime", 0, FlagKind::kNumber, nullptr, nullptr},
        {"kernel-memory", 0, FlagKind::kNumber, nullptr, nullptr},
        {"kernel-memory-tcp", 0, FlagKind::kNumber, nullptr, nullptr}},
       Update},
  };
}

}  // namespace amber::cli
