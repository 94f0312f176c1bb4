// Names that configurations use for numbers.
#include "runsc-cli/names.h"

#include <linux/capability.h>
#include <signal.h>

#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
#include "runsc-cli/oci.h"

namespace amber::cli {
namespace {

// By number (capabilities(7)).
// clang-format off: a table
constexpr std::string_view kCapabilities[] = {
    "CHOWN",          "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER",        "FSETID",         "KILL",
    "SETGID",         "SETUID",       "SETPCAP",         "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST",
    "NET_ADMIN",      "NET_RAW",      "IPC_LOCK",        "IPC_OWNER",     "SYS_MODULE",     "SYS_RAWIO",
    "SYS_CHROOT",     "SYS_PTRACE",   "SYS_PACCT",       "SYS_ADMIN",     "SYS_BOOT",       "SYS_NICE",
    "SYS_RESOURCE",   "SYS_TIME",     "SYS_TTY_CONFIG",  "MKNOD",         "LEASE",          "AUDIT_WRITE",
    "AUDIT_CONTROL",  "SETFCAP",      "MAC_OVERRIDE",    "MAC_ADMIN",     "SYSLOG",         "WAKE_ALARM",
    "BLOCK_SUSPEND",  "AUDIT_READ",   "PERFMON",         "BPF",           "CHECKPOINT_RESTORE",
};
// clang-format on

// By number on x86-64 (asm-generic/resource.h).
// clang-format off: a table
constexpr std::string_view kRlimits[] = {
    "CPU",   "FSIZE", "DATA",  "STACK",      "CORE",     "RSS",  "NPROC",  "NOFILE",
    "MEMLOCK", "AS",  "LOCKS", "SIGPENDING", "MSGQUEUE", "NICE", "RTPRIO", "RTTIME",
};
// clang-format on

struct SignalName {
  std::string_view name;
  int number;
};
// clang-format off: a table
constexpr SignalName kSignals[] = {
    {"HUP", SIGHUP},       {"INT", SIGINT},       {"QUIT", SIGQUIT},   {"ILL", SIGILL},       {"TRAP", SIGTRAP},
    {"ABRT", SIGABRT},     {"IOT", SIGABRT},      {"BUS", SIGBUS},     {"FPE", SIGFPE},       {"KILL", SIGKILL},
    {"USR1", SIGUSR1},     {"SEGV", SIGSEGV},     {"USR2", SIGUSR2},   {"PIPE", SIGPIPE},     {"ALRM", SIGALRM},
    {"TERM", SIGTERM},     {"STKFLT", 16},        {"CHLD", SIGCHLD},   {"CLD", SIGCHLD},      {"CONT", SIGCONT},
    {"STOP", SIGSTOP},     {"TSTP", SIGTSTP},     {"TTIN", SIGTTIN},   {"TTOU", SIGTTOU},     {"URG", SIGURG},
    {"XCPU", SIGXCPU},     {"XFSZ", SIGXFSZ},     {"VTALRM", SIGVTALRM}, {"PROF", SIGPROF},   {"WINCH", SIGWINCH},
    {"IO", SIGIO},         {"POLL", SIGIO},       {"PWR", SIGPWR},     {"SYS", SIGSYS},       {"RTMIN", 34},
    {"RTMAX", 64},
};
// clang-format on

template <size_t N>
std::optional<int> IndexOf(const std::string_view (&names)[N], std::string_view name) {
  for (size_t i = 0; i < N; ++i) {
    if (names[i] == name) return static_cast<int>(i);
  }
  return std::nullopt;
}

}  // namespace

std::optional<int> CapabilityNumber(std::string_view name) {
  std::string upper = absl::AsciiStrToUpper(name);
  return IndexOf(kCapabilities, absl::StripPrefix(upper, "CAP_"));
}

std::string CapabilityName(int number) {
  if (number < 0 || number >= static_cast<int>(std::size(kCapabilities))) return "";
  return "CAP_" + std::string(kCapabilities[number]);
}

uint64_t AllCapabilities() { return (uint64_t{1} << std::size(kCapabilities)) - 1; }

std::optional<int> RlimitNumber(std::string_view name) {
  std::string upper = absl::AsciiStrToUpper(name);
  return IndexOf(kRlimits, absl::StripPrefix(upper, "RLIMIT_"));
}

std::optional<int> SignalNumber(std::string_view name) {
  int number;
  if (absl::SimpleAtoi(name, &number)) return number >= 1 && number <= 64 ? std::optional(number) : std::nullopt;
  std::string upper = absl::AsciiStrToUpper(name);
  std::string_view bare = absl::StripPrefix(upper, "SIG");
  for (const SignalName& signal : kSignals) {
    if (bare == signal.name) return signal.number;
  }
  if (absl::ConsumePrefix(&bare, "RTMIN+") && absl::SimpleAtoi(bare, &number) && number >= 0 && number <= 30) {
    return 34 + number;
  }
  return std::nullopt;
}

}  // namespace amber::cli
