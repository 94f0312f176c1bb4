// The table of verbs: what each is called, takes, says about itself, and does.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runsc-cli/flags.h"
#include "runsc-cli/launch.h"

namespace amber::cli {

struct Context {
  GlobalOptions options;
  Flags flags;  // of the verb
  // The argument that every verb about one container takes.
  absl::StatusOr<std::string> ContainerId() const;
  // What create, run and restore have in common: the container's id, its bundle, and the flags about pid file, terminal and descriptors.
  absl::StatusOr<LaunchRequest> BundleRequest() const;
};

struct Command {
  const char* name;
  const char* arguments;  // as in the usage line
  const char* summary;    // one line; nullptr: not listed
  const char* details;    // may be ""
  std::vector<FlagSpec> flags;
  // The exit status of the program.
  absl::StatusOr<int> (*run)(Context& context);
};

std::span<const Command> Commands();
const Command* FindCommand(std::string_view name);

// Groups of the table, one per file.
std::vector<Command> LifecycleCommands();
std::vector<Command> ForegroundCommands();
std::vector<Command> ExecCommands();
std::vector<Command> InspectCommands();
std::vector<Command> MetricsCommands();
std::vector<Command> CheckpointCommands();
std::vector<Command> InfoCommands();

// Flags about the sandbox as a whole that may stand before the verb or after it.
std::vector<FlagSpec> SandboxFlags();
std::vector<FlagSpec> Join(std::vector<FlagSpec> a, std::vector<FlagSpec> b);
absl::Status ReadSandboxFlags(const Flags& flags, GlobalOptions* options);

std::string GeneralHelp();
std::string CommandHelp(const Command& command);
std::string VersionText();

// Waits for a child that stands for a guest process, sending it every signal that comes meanwhile. The exit status as
// a shell shows it: the code, or 128 plus the signal.
int AwaitInForeground(pid_t waiter);

// A status that tells a program that could not be executed (exit status 126 or 127) from our own failures (1).
int ExitStatusOf(const absl::Status& status);

}  // namespace amber::cli
