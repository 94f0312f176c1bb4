// do, run.
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "runsc-cli/command.h"
#include "runsc-cli/console.h"
#include "runsc-cli/names.h"
#include "sentry/control/client.h"

extern char** environ;

namespace amber::cli {
namespace {

// Everything of a container that runs in the foreground, from its launch to the last trace of it.
absl::StatusOr<int> RunInForeground(Context& context, LaunchRequest request) {
  RawMode raw;
  bool terminal = request.bundle.container.process.terminal;
  if (terminal) {
    absl::StatusOr<UniqueFd> own = ReopenTerminal(STDIN_FILENO);
    if (!own.ok()) return own.status();
    request.terminal = *std::move(own);
    // Before the guest's first read, so that nothing typed meanwhile is taken for the host's line discipline.
    if (absl::Status status = raw.Enter(STDIN_FILENO); !status.ok()) return status;
  }
  request.start = true;
  request.foreground = true;
  absl::StatusOr<Launched> launched = Launch(context.options, std::move(request));
  if (!launched.ok()) return launched.status();
  absl::Status hooks = RunPoststartHooks(context.options, launched->state);
  int status = AwaitInForeground(launched->state.waiter.pid);
  raw.Restore();
  DestroyAfterForeground(context.options, launched->state);
  if (!hooks.ok()) return hooks;
  return status;
}

std::string UniqueId(std::string_view prefix) { return absl::StrCat(prefix, "-", getpid()); }

// The user who calls, with all that root has if it is root.
void BeLikeTheCaller(ProcessSpec* process) {
  process->uid = geteuid();
  process->gid = getegid();
  gid_t groups[64];
  int count = getgroups(64, groups);
  for (int i = 0; i < count; ++i) process->groups.push_back(groups[i]);
  if (process->uid == 0) {
    uint64_t all = AllCapabilities();
    process->capabilities = {.bounding = all, .effective = all, .inheritable = 0, .permitted = all, .ambient = 0};
  }
  for (char** variable = environ; *variable != nullptr; ++variable) process->env.emplace_back(*variable);
  for (__rlimit_resource_t resource : {RLIMIT_STACK, RLIMIT_NOFILE, RLIMIT_CORE}) {
    rlimit limit;
    if (getrlimit(resource, &limit) == 0) process->rlimits.push_back({static_cast<int>(resource), limit.rlim_cur, limit.rlim_max});
  }
}

// A container that looks like this machine: its root below an overlay, and the usual kernel file systems.
void LookLikeTheHost(ContainerSpec* container) {
  utsname names;
  if (uname(&names) == 0) container->hostname = names.nodename;
  container->overlay = OverlayKind::kMemory;
  container->mounts = {
      {.destination = "/proc", .type = "proc", .source = "proc", .options = {"nosuid", "noexec", "nodev"}, .attach = ""},
      {.destination = "/sys", .type = "sysfs", .source = "sysfs", .options = {"nosuid", "noexec", "nodev", "ro"}, .attach = ""},
      {.destination = "/sys/fs/cgroup", .type = "cgroup2", .source = "cgroup2", .options = {"nosuid", "noexec", "nodev"}, .attach = ""},
      {.destination = "/dev", .type = "tmpfs", .source = "tmpfs", .options = {"nosuid", "mode=755"}, .attach = ""},
      {.destination = "/dev/pts",
       .type = "devpts",
       .source = "devpts",
       .options = {"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"},
       .attach = ""},
      {.destination = "/dev/shm", .type = "tmpfs", .source = "shm", .options = {"nosuid", "nodev", "mode=1777"}, .attach = ""},
  };
}

absl::StatusOr<int> Do(Context& context) {
  const Flags& flags = context.flags;
  if (flags.arguments.empty()) return absl::InvalidArgumentError("do what? Give a program and its arguments: sandbox do PROGRAM [ARGUMENTS]");
  LaunchRequest request;
  request.id = flags.StringOr("id", UniqueId("do"));
  request.use_cgroup = flags.Has("memory") || flags.Has("pids");
  Bundle& bundle = request.bundle;
  bundle.directory = "/";
  bundle.root = flags.StringOr("rootfs", "/");
  bundle.host_network = true;
  ContainerSpec& container = bundle.container;
  LookLikeTheHost(&container);
  ProcessSpec& process = container.process;
  BeLikeTheCaller(&process);
  process.argv = flags.arguments;
  char cwd[PATH_MAX];
  process.cwd = flags.Has("cwd") ? flags.String("cwd") : flags.Has("rootfs") || getcwd(cwd, sizeof(cwd)) == nullptr ? "/" : cwd;
  if (process.cwd[0] != '/') return absl::InvalidArgumentError("--cwd must be an absolute path");
  for (const std::string& variable : flags.List("env")) process.env.push_back(variable);
  process.terminal = flags.Has("tty") ? flags.Bool("tty") : isatty(0) != 0 && isatty(1) != 0;
  if (flags.Has("memory")) bundle.resources.memory_limit = flags.NumberOr("memory", 0) << 20;
  if (flags.Has("pids")) bundle.resources.pids_limit = flags.NumberOr("pids", 0);
  container.pids_limit = static_cast<uint64_t>(std::max<int64_t>(0, flags.NumberOr("pids", 0)));
  container.memory_limit = static_cast<uint64_t>(std::max<int64_t>(0, flags.NumberOr("memory", 0))) << 20;
  if (context.options.network.empty()) context.options.network = "none";
  return RunInForeground(context, std::move(request));
}

absl::StatusOr<int> Run(Context& context) {
  absl::StatusOr<LaunchRequest> request = context.BundleRequest();
  if (!request.ok()) return request.status();
  if (!context.flags.Bool("detach")) return RunInForeground(context, *std::move(request));
  request->start = true;
  absl::StatusOr<Launched> launched = Launch(context.options, *std::move(request));
  if (!launched.ok()) return launched.status();
  if (absl::Status status = RunPoststartHooks(context.options, launched->state); !status.ok()) return status;
  return 0;
}

}  // namespace

std::vector<Command> ForegroundCommands() {
  return {
      {"do", "[FLAGS] PROGRAM [ARGUMENTS]", "runs a program on this machine's files, which it cannot change",
       "The program sees the root of this machine read-only below an overlay in memory, starts in the\n"
       "current directory with your environment, and has no network but loopback. What it wrote is gone\n"
       "when it ends. It gets a terminal if standard input and output are one.",
       Join({{"id", 0, FlagKind::kString, "ID", "name of the sandbox, for list, exec and checkpoint"},
             {"rootfs", 0, FlagKind::kString, "DIR", "another root than /: a directory, an EROFS image or a tar archive"},
             {"cwd", 'C', FlagKind::kString, "DIR", "where it starts"},
             {"env", 'e', FlagKind::kList, "NAME=VALUE", "adds a variable to the environment"},
             {"tty", 't', FlagKind::kBool, nullptr, "gives it a terminal (--tty=false: none)"},
             {"memory", 'm', FlagKind::kNumber, "MIB", "limits its memory"},
             {"pids", 0, FlagKind::kNumber, "N", "limits its tasks"}},
            SandboxFlags()),
       Do},
      {"run", "[FLAGS] ID", "creates and starts a container of an OCI bundle, and waits for it",
       "The exit status is that of the container's program, or 128 plus the signal that ended it.",
       Join({{"bundle", 'b', FlagKind::kString, "DIR", "the bundle (default: the current directory)"},
             {"detach", 'd', FlagKind::kBool, nullptr, "does not wait"},
             {"pid-file", 0, FlagKind::kString, "FILE", "writes the pid that stands for the container"},
             {"console-socket", 0, FlagKind::kString, "SOCKET", "sends the terminal's master there"},
             {"preserve-fds", 0, FlagKind::kNumber, "N", "passes descriptors 3 to N+2 on"},
             {"pidfd-socket", 0, FlagKind::kString, nullptr, nullptr},
             {"no-pivot", 0, FlagKind::kBool, nullptr, nullptr},
             {"no-new-keyring", 0, FlagKind::kBool, nullptr, nullptr},
             {"no-subreaper", 0, FlagKind::kBool, nullptr, nullptr},
             {"keep", 0, FlagKind::kBool, nullptr, nullptr}},
            SandboxFlags()),
       Run},
  };
}

}  // namespace amber::cli
