// exec.
#include <stdlib.h>
#include <unistd.h>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "runsc-cli/cgroup.h"
#include "runsc-cli/command.h"
#include "runsc-cli/console.h"
#include "runsc-cli/files.h"
#include "runsc-cli/names.h"
#include "runsc-cli/waiter.h"
#include "sentry/control/spec_codec.h"

namespace amber::cli {
namespace {

absl::Status ReadUser(const std::string& text, ProcessSpec* process) {
  std::pair<std::string, std::string> parts = absl::StrSplit(text, absl::MaxSplits(':', 1));
  if (!absl::SimpleAtoi(parts.first, &process->uid) || (!parts.second.empty() && !absl::SimpleAtoi(parts.second, &process->gid))) {
    return absl::InvalidArgumentError("--user must be UID or UID:GID, in numbers");
  }
  return absl::OkStatus();
}

// From --process, or from the container's own process with the flags' changes.
absl::StatusOr<ProcessSpec> ReadProcessFlags(const Flags& flags, const State& state) {
  if (flags.Has("process")) return LoadProcess(flags.String("process"));
  ProcessSpec process;
  absl::StatusOr<Bundle> bundle = state.bundle == "/" ? absl::NotFoundError("") : LoadBundle(state.bundle);
  if (bundle.ok()) {
    process = bundle->container.process;
    process.terminal = false;
    process.oom_score_adj.reset();
  } else {
    uint64_t all = AllCapabilities();
    process.capabilities = {.bounding = all, .effective = all, .inheritable = 0, .permitted = all, .ambient = 0};
    process.env = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"};
    if (const char* term = getenv("TERM")) process.env.push_back(absl::StrCat("TERM=", term));
  }
  process.argv.assign(flags.arguments.begin() + 1, flags.arguments.end());
  if (process.argv.empty()) return absl::InvalidArgumentError("exec what? Give a program and its arguments after the id");
  for (const std::string& variable : flags.List("env")) process.env.push_back(variable);
  if (flags.Has("cwd")) process.cwd = flags.String("cwd");
  if (process.cwd[0] != '/') return absl::InvalidArgumentError("--cwd must be an absolute path");
  if (flags.Has("user")) {
    if (absl::Status status = ReadUser(flags.String("user"), &process); !status.ok()) return status;
  }
  for (const std::string& gid : flags.List("additional-gids")) {
    if (!absl::SimpleAtoi(gid, &process.groups.emplace_back())) return absl::InvalidArgumentError("--additional-gids must be a number");
  }
  for (const std::string& name : flags.List("cap")) {
    std::optional<int> number = CapabilityNumber(name);
    if (!number) return absl::InvalidArgumentError(absl::StrCat("unknown capability \"", name, "\""));
    uint64_t bit = uint64_t{1} << *number;
    process.capabilities.bounding |= bit;
    process.capabilities.effective |= bit;
    process.capabilities.permitted |= bit;
  }
  process.terminal = flags.Has("tty") ? flags.Bool("tty") : false;
  process.no_new_privs |= flags.Bool("no-new-privs");
  return process;
}

// A process's host side: its terminal, its waiter.
struct HostSide {
  UniqueFd console;
  UniqueFd stream;
  pid_t waiter = 0;
};

absl::StatusOr<HostSide> MakeHostSide(const Flags& flags, bool detach, ProcessSpec* process) {
  HostSide side;
  if (process->terminal && flags.Has("console-socket")) {
    absl::StatusOr<UniqueFd> slave = SendConsole(flags.String("console-socket"), process->window);
    if (!slave.ok()) return slave.status();
    side.console = *std::move(slave);
  } else if (process->terminal) {
    if (detach) return absl::InvalidArgumentError("a detached process with a terminal needs --console-socket");
    absl::StatusOr<UniqueFd> own = ReopenTerminal(STDIN_FILENO);
    if (!own.ok()) return own.status();
    process->window = SizeOf(own->get());
    side.console = *std::move(own);
  }
  absl::StatusOr<WaiterStream> stream = MakeWaiterStream();
  if (!stream.ok()) return stream.status();
  WaiterOptions options = {.stream = stream->waiter.get()};
  if (flags.Has("console-socket")) options.console = side.console.get();
  absl::StatusOr<pid_t> waiter = StartWaiter(options);
  if (!waiter.ok()) return waiter.status();
  side.waiter = *waiter;
  side.stream = std::move(stream->sentry);
  return side;
}

// The waiter counts as the process in the container's cgroup.
void JoinCgroup(const State& state, pid_t waiter) {
  for (const std::string& directory : state.cgroups) {
    WriteExistingFile(directory + "/cgroup.procs", absl::StrCat(waiter)).IgnoreError();
  }
}

absl::StatusOr<int> Exec(Context& context) {
  absl::StatusOr<std::string> id = context.ContainerId();
  if (!id.ok()) return id.status();
  const Flags& flags = context.flags;
  absl::StatusOr<State> state = StateDir::Read(context.options.root, *id);
  if (!state.ok()) return state.status();
  if (std::string status = state->Status(); status != "running" && status != "created") {
    return absl::FailedPreconditionError(absl::StrCat("cannot exec in container \"", *id, "\": it is ", status));
  }
  absl::StatusOr<ProcessSpec> process = ReadProcessFlags(flags, *state);
  if (!process.ok()) return process.status();
  absl::StatusOr<control::Client> client = ConnectTo(context.options, *state);
  if (!client.ok()) return client.status();
  bool detach = flags.Bool("detach");
  absl::StatusOr<HostSide> side = MakeHostSide(flags, detach, &*process);
  if (!side.ok()) return side.status();

  control::Request request = MakeRequest(*id);
  control::Encode(*process, request.mutable_exec()->mutable_process());
  control::Descriptors* d = request.mutable_descriptors();
  std::vector<int> fds = {side->stream.get()};
  d->set_waiter(true);
  if (side->console.valid()) {
    d->set_console(true);
    fds.push_back(side->console.get());
  } else {
    d->set_stdio(true);
    fds.insert(fds.end(), {0, 1, 2});
  }
  uint32_t preserve = static_cast<uint32_t>(flags.NumberOr("preserve-fds", 0));
  absl::StatusOr<std::vector<UniqueFd>> extra = PreservedFds(preserve);
  if (!extra.ok()) return extra.status();
  d->set_extra(preserve);
  for (const UniqueFd& fd : *extra) fds.push_back(fd.get());
  RawMode raw;
  if (side->console.valid() && !flags.Has("console-socket")) {
    if (absl::Status status = raw.Enter(STDIN_FILENO); !status.ok()) return status;
  }
  absl::StatusOr<control::Reply> reply = client->Call(request, fds);
  side->stream.reset();  // the waiter of a process that was not made ends by this
  if (!reply.ok()) {
    absl::Status failed = reply.status();
    failed.SetPayload(kStartFailed, absl::Cord("1"));
    return failed;
  }
  JoinCgroup(*state, side->waiter);
  if (flags.Has("pid-file")) {
    if (absl::Status status = WritePidFile(flags.String("pid-file"), side->waiter); !status.ok()) return status;
  }
  if (detach) return 0;
  return AwaitInForeground(side->waiter);
}

}  // namespace

std::vector<Command> ExecCommands() {
  return {{"exec",
           "[FLAGS] ID [PROGRAM [ARGUMENTS]]",
           "runs one more program in a running container",
           "Without --process, user, environment and capabilities are those of the container's own program.",
           {{"process", 'p', FlagKind::kString, "FILE", "what to run, as an OCI process object"},
            {"detach", 'd', FlagKind::kBool, nullptr, "does not wait"},
            {"tty", 't', FlagKind::kBool, nullptr, "gives it a terminal"},
            {"env", 'e', FlagKind::kList, "NAME=VALUE", "adds a variable to the environment"},
            {"cwd", 0, FlagKind::kString, "DIR", "where it starts"},
            {"user", 'u', FlagKind::kString, "UID[:GID]", "who it runs as"},
            {"additional-gids", 'g', FlagKind::kList, "GID", "a further group"},
            {"cap", 'c', FlagKind::kList, "NAME", "adds a capability"},
            {"no-new-privs", 0, FlagKind::kBool, nullptr, "it cannot gain privileges"},
            {"pid-file", 0, FlagKind::kString, "FILE", "writes the pid that stands for it"},
            {"console-socket", 0, FlagKind::kString, "SOCKET", "sends the terminal's master there"},
            {"preserve-fds", 0, FlagKind::kNumber, "N", "passes descriptors 3 to N+2 on"},
            {"pidfd-socket", 0, FlagKind::kString, nullptr, nullptr},
            {"apparmor", 0, FlagKind::kString, nullptr, nullptr},
            {"process-label", 0, FlagKind::kString, nullptr, nullptr},
            {"cgroup", 0, FlagKind::kString, nullptr, nullptr},
            {"ignore-paused", 0, FlagKind::kBool, nullptr, nullptr},
            {"no-subreaper", 0, FlagKind::kBool, nullptr, nullptr}},
           Exec}};
}

}  // namespace amber::cli
