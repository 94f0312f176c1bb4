// spec, features, version, help.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "runsc-cli/command.h"
#include "runsc-cli/names.h"
#include "runsc-cli/version.h"

namespace amber::cli {
namespace {

using Json = nlohmann::ordered_json;

Json ExampleCapabilities() { return Json::array({"CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"}); }

Json ExampleMounts() {
  return Json::array({
      {{"destination", "/proc"}, {"type", "proc"}, {"source", "proc"}},
      {{"destination", "/dev"}, {"type", "tmpfs"}, {"source", "tmpfs"}, {"options", {"nosuid", "strictatime", "mode=755", "size=65536k"}}},
      {{"destination", "/dev/pts"},
       {"type", "devpts"},
       {"source", "devpts"},
       {"options", {"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}}},
      {{"destination", "/dev/shm"}, {"type", "tmpfs"}, {"source", "shm"}, {"options", {"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}}},
      {{"destination", "/sys"}, {"type", "sysfs"}, {"source", "sysfs"}, {"options", {"nosuid", "noexec", "nodev", "ro"}}},
  });
}

Json Example(const std::vector<std::string>& command, bool terminal) {
  Json caps = ExampleCapabilities();
  Json process = {{"terminal", terminal},
                  {"user", {{"uid", 0}, {"gid", 0}}},
                  {"args", command},
                  {"env", {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"}},
                  {"cwd", "/"},
                  {"capabilities", {{"bounding", caps}, {"effective", caps}, {"permitted", caps}}},
                  {"rlimits", Json::array({{{"type", "RLIMIT_NOFILE"}, {"hard", 1024}, {"soft", 1024}}})},
                  {"noNewPrivileges", true}};
  Json namespaces = Json::array();
  for (const char* type : {"pid", "network", "ipc", "uts", "mount"}) namespaces.push_back({{"type", type}});
  return {{"ociVersion", "1.1.0"}, {"process", process},        {"root", {{"path", "rootfs"}, {"readonly", false}}},
          {"hostname", "sandbox"}, {"mounts", ExampleMounts()}, {"linux", {{"namespaces", namespaces}}}};
}

absl::StatusOr<int> Spec(Context& context) {
  const Flags& flags = context.flags;
  std::string path = absl::StrCat(flags.StringOr("bundle", "."), "/config.json");
  std::vector<std::string> command = flags.arguments.empty() ? std::vector<std::string>{"sh"} : flags.arguments;
  std::string text = Example(command, flags.arguments.empty()).dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
  UniqueFd file(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (!file.valid()) {
    if (errno == EEXIST) return absl::AlreadyExistsError(absl::StrCat(path, " exists already: remove it first"));
    return absl::InternalError(absl::StrCat("cannot make ", path, ": ", strerrordesc_np(errno)));
  }
  if (write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
    return absl::InternalError(absl::StrCat("cannot write ", path, ": ", strerrordesc_np(errno)));
  }
  return 0;
}

absl::StatusOr<int> Features(Context&) {
  Json capabilities = Json::array();
  for (int n = 0; !CapabilityName(n).empty(); ++n) capabilities.push_back(CapabilityName(n));
  Json features = {{"ociVersionMin", "1.0.0"},
                   {"ociVersionMax", "1.1.0"},
                   {"hooks", {"prestart", "createRuntime", "createContainer", "poststart", "poststop"}},
                   {"mountOptions",
                    {"bind", "rbind", "ro", "rw", "nosuid", "suid", "nodev", "dev", "noexec", "exec", "private", "rprivate", "relatime", "noatime"}},
                   {"linux",
                    {{"namespaces", {"pid", "network", "ipc", "uts", "mount", "cgroup"}},
                     {"capabilities", capabilities},
                     {"cgroup", {{"v1", true}, {"v2", true}, {"systemd", false}, {"systemdUser", false}}},
                     {"seccomp", {{"enabled", false}}},
                     {"apparmor", {{"enabled", false}}},
                     {"selinux", {{"enabled", false}}}}},
                   {"annotations", {{"org.amber.sandbox.version", kVersion}, {"org.amber.sandbox.checkpoint.enabled", "true"}}}};
  fputs((features.dump(2) + "\n").c_str(), stdout);
  return 0;
}

absl::StatusOr<int> Version(Context&) {
  fputs(VersionText().c_str(), stdout);
  return 0;
}

absl::StatusOr<int> Help(Context& context) {
  if (context.flags.arguments.empty()) {
    fputs((GeneralHelp() + DescribeFlags(SandboxFlags())).c_str(), stdout);
    return 0;
  }
  const Command* command = FindCommand(context.flags.arguments[0]);
  if (command == nullptr) return absl::NotFoundError(absl::StrCat("there is no verb \"", context.flags.arguments[0], "\" (see `sandbox --help`)"));
  fputs(CommandHelp(*command).c_str(), stdout);
  return 0;
}

}  // namespace

std::string VersionText() {
  // The shape that engines read from runc.
  return absl::StrCat("sandbox version ", kVersion, "\ncommit: ", kCommit, "\nspec: 1.1.0\n");
}

std::vector<Command> InfoCommands() {
  return {
      {"spec",
       "[FLAGS] [PROGRAM [ARGUMENTS]]",
       "writes an example config.json",
       "",
       {{"bundle", 'b', FlagKind::kString, "DIR", "where (default: the current directory)"}, {"rootless", 0, FlagKind::kBool, nullptr, nullptr}},
       Spec},
      {"features", "", "prints what this runtime can do, as JSON", "", {}, Features},
      {"version", "", "prints the version", "", {}, Version},
      {"help", "[VERB]", "explains a verb", "", {}, Help},
  };
}

}  // namespace amber::cli
