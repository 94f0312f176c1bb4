#include "runsc-cli/command.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "runsc-cli/gpu_request.h"
#include "sentry/base/unique_fd.h"

namespace amber::cli {

std::span<const Command> Commands() {
  static const std::vector<Command>* commands = [] {
    auto* all = new std::vector<Command>;
    for (auto group : {ForegroundCommands, LifecycleCommands, ExecCommands, InspectCommands, MetricsCommands, CheckpointCommands, InfoCommands}) {
      for (Command& command : group()) all->push_back(std::move(command));
    }
    return all;
  }();
  return *commands;
}

const Command* FindCommand(std::string_view name) {
  for (const Command& command : Commands()) {
    if (name == command.name) return &command;
  }
  return nullptr;
}

absl::StatusOr<std::string> Context::ContainerId() const {
  if (flags.arguments.empty()) return absl::InvalidArgumentError("which container? Its id is missing (`sandbox list` shows them)");
  if (absl::Status status = CheckId(flags.arguments[0]); !status.ok()) return status;
  return flags.arguments[0];
}

absl::StatusOr<LaunchRequest> Context::BundleRequest() const {
  absl::StatusOr<std::string> id = ContainerId();
  if (!id.ok()) return id.status();
  absl::StatusOr<Bundle> bundle = LoadBundle(flags.StringOr("bundle", "."));
  if (!bundle.ok()) return bundle.status();
  LaunchRequest request;
  request.id = *std::move(id);
  request.bundle = *std::move(bundle);
  request.pid_file = flags.String("pid-file");
  request.console_socket = flags.String("console-socket");
  request.preserve_fds = static_cast<uint32_t>(flags.NumberOr("preserve-fds", 0));
  return request;
}

std::vector<FlagSpec> Join(std::vector<FlagSpec> a, std::vector<FlagSpec> b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

std::vector<FlagSpec> SandboxFlags() {
  return {{"network", 0, FlagKind::kString, "KIND", "none (loopback only), or host: sockets of the container's network namespace"},
          {"overlay", 0, FlagKind::kString, "KIND", "where writes to the root go: none (the root itself), memory, memory,size=2g,nr_inodes=100k"},
          {"host-uds", 0, FlagKind::kString, "KIND",
           "Unix sockets of the host in its directories: none (default), open (it sees the guest's uid and gid), create, all"},
          {"host-fifo", 0, FlagKind::kString, "KIND", "fifos of the host in bind mounts: none (default), open"},
          {"strace", 0, FlagKind::kBool, nullptr, "logs the guest's system calls"},
          {"timings", 0, FlagKind::kBool, nullptr, "prints how long each step of the start took"},
          {"fast-path", 0, FlagKind::kBool, nullptr, "patches hot system call instructions to spare the host's trap (default: true)"},
          {"gpu", 0, FlagKind::kBool, nullptr, "gives the sandbox the NVIDIA GPUs"},
          {"gpu-driver", 0, FlagKind::kString, "fake:FILE", "a driver that does not exist, as FILE describes it, for tests"},
          {"gpu-memory", 0, FlagKind::kString, "SIZE", "limits the memory of each GPU: 8GiB, 512MiB"},
          {"gpu-host-memory", 0, FlagKind::kString, "SIZE", "limits the host memory that the GPUs' driver allocates or pins"},
          {"gpu-devices", 0, FlagKind::kString, "LIST", "which GPUs containers may have: indices in PCI order, or GPU-uuid (default: all)"},
          {"gpu-capabilities", 0, FlagKind::kString, "LIST",
           "what may be asked for, of compute, utility, graphics, video, profiling (default: compute,utility)"},
          {"gpu-copy-time", 0, FlagKind::kNumber, "SECONDS",
           "most for copying a process's GPU memory at a checkpoint, beside a second per GB (default: 60)"},
          {"gpu-allow-other-driver", 0, FlagKind::kBool, nullptr, "takes point releases that are not known to work"},
          {"debug", 0, FlagKind::kBool, nullptr, "logs more"}};
}

namespace {

absl::Status ReadGpuDriver(std::string_view driver, GpuOptions* gpu) {
  constexpr std::string_view kFake = "fake:";
  if (!driver.starts_with(kFake)) return absl::InvalidArgumentError("--gpu-driver must be fake:FILE");
  std::string path(driver.substr(kFake.size()));
  UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  char text[16384];
  ssize_t size = file.valid() ? read(file.get(), text, sizeof(text)) : -1;
  if (size < 0) return absl::InvalidArgumentError(absl::StrCat("--gpu-driver: cannot read ", path));
  gpu->fake = true;
  gpu->driver.assign(text, static_cast<size_t>(size));
  return absl::OkStatus();
}

absl::Status ReadGpuFlags(const Flags& flags, GpuOptions* gpu) {
  gpu->enabled |= flags.Bool("gpu");
  gpu->allow_other_driver |= flags.Bool("gpu-allow-other-driver");
  if (flags.Has("gpu-driver")) {
    if (absl::Status s = ReadGpuDriver(flags.String("gpu-driver"), gpu); !s.ok()) return s;
  }
  if (flags.Has("gpu-memory")) {
    gpu->memory_limit = ParseGpuBytes(flags.String("gpu-memory"));
    if (gpu->memory_limit == 0) return absl::InvalidArgumentError("--gpu-memory must be a size, as 8GiB");
  }
  if (flags.Has("gpu-host-memory")) {
    gpu->host_limit = ParseGpuBytes(flags.String("gpu-host-memory"));
    if (gpu->host_limit == 0) return absl::InvalidArgumentError("--gpu-host-memory must be a size, as 8GiB");
  }
  gpu->copy_seconds = flags.NumberOr("gpu-copy-time", gpu->copy_seconds);
  if (gpu->copy_seconds <= 0 || gpu->copy_seconds > 86400) return absl::InvalidArgumentError("--gpu-copy-time must be seconds, at most a day");
  if (flags.Has("gpu-devices")) {
    gpu->devices = absl::StrSplit(flags.String("gpu-devices"), ',', absl::SkipEmpty());
    // An empty list would be all of them.
    if (gpu->devices.empty()) return absl::InvalidArgumentError("--gpu-devices names no GPU");
  }
  if (!flags.Has("gpu-capabilities")) return absl::OkStatus();
  absl::StatusOr<uint8_t> capabilities = ParseGpuCapabilities(flags.String("gpu-capabilities"), "--gpu-capabilities");
  if (!capabilities.ok()) return capabilities.status();
  gpu->capabilities = *capabilities;
  return absl::OkStatus();
}

}  // namespace

absl::Status ReadSandboxFlags(const Flags& flags, GlobalOptions* options) {
  options->debug |= flags.Bool("debug");
  options->strace |= flags.Bool("strace");
  options->timings |= flags.Bool("timings");
  if (flags.Has("fast-path")) options->fast_path = flags.Bool("fast-path");
  options->network = flags.StringOr("network", options->network);
  if (flags.Has("overlay")) {
    absl::StatusOr<OverlayFlag> overlay = ParseOverlay(flags.String("overlay"));
    if (!overlay.ok()) return overlay.status();
    options->overlay = *std::move(overlay);
  }
  if (absl::Status s = ReadGpuFlags(flags, &options->gpu); !s.ok()) return s;
  if (flags.Has("host-fifo")) {
    if (absl::Status s = ParseHostFifo(flags.String("host-fifo"), &options->host_files); !s.ok()) return s;
  }
  if (flags.Has("host-uds")) {
    if (absl::Status s = ParseHostUds(flags.String("host-uds"), &options->host_files); !s.ok()) return s;
  }
  auto one_of = [](std::string_view value, std::initializer_list<std::string_view> words) {
    return std::find(words.begin(), words.end(), value) != words.end();
  };
  if (!one_of(options->network, {"", "none", "host"})) return absl::InvalidArgumentError("--network must be none or host");
  return absl::OkStatus();
}

std::string GeneralHelp() {
  std::string out =
      "sandbox runs programs in a kernel of their own, and freezes and thaws them.\n"
      "\n"
      "  sandbox do bash                   a shell that sees this machine's files and cannot change them\n"
      "  sandbox do python3 job.py         the same for one program in the current directory\n"
      "  sandbox run --bundle DIR web      an OCI bundle, in the foreground\n"
      "  sandbox checkpoint --image-path DIR web\n"
      "  sandbox restore --image-path DIR --bundle DIR web\n"
      "\n"
      "Usage: sandbox [FLAGS] VERB [FLAGS] [ARGUMENTS]\n"
      "\n"
      "Verbs (each has --help):\n";
  for (const Command& command : Commands()) {
    if (command.summary != nullptr) absl::StrAppend(&out, absl::StrFormat("  %-12s %s\n", command.name, command.summary));
  }
  absl::StrAppend(&out, "\nFlags:\n");
  return out;
}

std::string CommandHelp(const Command& command) {
  std::string out = absl::StrCat("sandbox ", command.name, ": ", command.summary == nullptr ? "" : command.summary,
                                 "\n\nUsage: sandbox [GLOBAL FLAGS] ", command.name, " ", command.arguments, "\n");
  if (command.details[0] != '\0') absl::StrAppend(&out, "\n", command.details, "\n");
  std::string flags = DescribeFlags(command.flags);
  if (!flags.empty()) absl::StrAppend(&out, "\nFlags:\n", flags);
  return out;
}

int AwaitInForeground(pid_t waiter) {
  sigset_t forwarded;
  sigfillset(&forwarded);
  // These stop us, not the guest, as a shell's job control expects.
  for (int signal : {SIGTSTP, SIGTTIN, SIGTTOU, SIGCONT}) sigdelset(&forwarded, signal);
  sigprocmask(SIG_BLOCK, &forwarded, nullptr);
  for (;;) {
    int status;
    pid_t ended = waitpid(waiter, &status, WNOHANG);
    if (ended == waiter) return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    if (ended < 0 && errno != EINTR) return 1;
    siginfo_t info;
    int signal = sigwaitinfo(&forwarded, &info);
    if (signal > 0 && signal != SIGCHLD) kill(waiter, signal);
  }
}

int ExitStatusOf(const absl::Status& status) {
  if (!status.GetPayload(kStartFailed)) return 1;
  if (absl::IsNotFound(status)) return 127;
  return absl::IsPermissionDenied(status) ? 126 : 1;
}

}  // namespace amber::cli
