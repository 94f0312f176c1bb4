// The command line: global flags, a verb, its flags and arguments.
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "runsc-cli/command.h"

namespace amber::cli {
namespace {

std::vector<FlagSpec> GlobalFlags() {
  return Join({{"root", 0, FlagKind::kString, "DIR", "where containers are remembered (default /run/sandbox)"},
               {"log", 0, FlagKind::kString, "FILE", "appends errors and warnings to FILE"},
               {"log-format", 0, FlagKind::kString, "FORMAT", "text or json (default text)"},
               {"systemd-cgroup", 0, FlagKind::kBool, nullptr, "cgroupsPath reads slice:prefix:name"},
               {"version", 'v', FlagKind::kBool, nullptr, "prints the version"},
               {"rootless", 0, FlagKind::kString, nullptr, nullptr},
               {"criu", 0, FlagKind::kString, nullptr, nullptr}},
              SandboxFlags());
}

std::string DefaultRoot() {
  const char* runtime = getenv("XDG_RUNTIME_DIR");
  if (geteuid() != 0 && runtime != nullptr && runtime[0] == '/') return absl::StrCat(runtime, "/sandbox");
  return "/run/sandbox";
}

// Programs that are started with a standard descriptor closed would get our files there.
void OpenStandardDescriptors() {
  struct stat st;
  for (int fd = 0; fd < 3; ++fd) {
    if (fstat(fd, &st) != 0 && freopen("/dev/null", fd == 0 ? "r" : "w", fd == 0 ? stdin : fd == 1 ? stdout : stderr) == nullptr) {
      _exit(1);
    }
  }
}

int Usage(Report& report, std::string_view problem, std::string_view hint) {
  report.Error(absl::StrCat(problem, " (see `sandbox ", hint, "`)"));
  return 1;
}

int Main(std::vector<std::string> arguments) {
  OpenStandardDescriptors();
  Report report;
  absl::StatusOr<Flags> global = ParseFlags(GlobalFlags(), arguments);
  if (!global.ok()) return Usage(report, std::string(global.status().message()), "--help");
  if (global->Bool("version")) {
    fputs(VersionText().c_str(), stdout);
    return 0;
  }
  if (global->arguments.empty() || global->help) {
    fputs((GeneralHelp() + DescribeFlags(GlobalFlags())).c_str(), stdout);
    return 0;
  }
  absl::Status opened = report.Open(global->String("log"), global->StringOr("log-format", "text"), global->Bool("debug"));
  if (!opened.ok()) return Usage(report, std::string(opened.message()), "--help");

  std::string name = global->arguments[0];
  const Command* command = FindCommand(name);
  if (command == nullptr) return Usage(report, absl::StrCat("unknown verb \"", name, "\""), "--help");
  Context context;
  context.options.report = &report;
  context.options.root = global->StringOr("root", DefaultRoot());
  if (context.options.root.empty()) return Usage(report, "--root must not be empty", "--help");
  context.options.systemd_cgroup = global->Bool("systemd-cgroup");
  std::vector<std::string> rest(global->arguments.begin() + 1, global->arguments.end());
  absl::StatusOr<Flags> flags = ParseFlags(command->flags, rest);
  if (!flags.ok()) return Usage(report, std::string(flags.status().message()), name + " --help");
  if (flags->help) {
    fputs(CommandHelp(*command).c_str(), stdout);
    return 0;
  }
  for (const Flags* given : {&*global, &*flags}) {
    absl::Status status = ReadSandboxFlags(*given, &context.options);
    if (!status.ok()) return Usage(report, std::string(status.message()), name + " --help");
  }
  context.flags = *std::move(flags);
  absl::StatusOr<int> result = command->run(context);
  if (result.ok()) return *result;
  report.Error(std::string(result.status().message()));
  return ExitStatusOf(result.status());
}

}  // namespace
}  // namespace amber::cli

int main(int argc, char** argv) {
  int status = amber::cli::Main(std::vector<std::string>(argv + 1, argv + argc));
  fflush(stdout);
  // No destructors: nothing of ours needs them, and they cost time.
  _exit(status);
}
