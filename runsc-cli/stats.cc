#include "runsc-cli/stats.h"

#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "runsc-cli/cgroup.h"
#include "runsc-cli/files.h"

namespace amber::cli {
namespace {

// A number from a cgroup file: alone, or behind `key` and a blank.
uint64_t CgroupNumber(const std::string& directory, const char* file, std::string_view key = "") {
  absl::StatusOr<std::string> text = ReadSmallFile(absl::StrCat(directory, "/", file));
  if (!text.ok()) return 0;
  for (std::string_view line : absl::StrSplit(*text, '\n', absl::SkipEmpty())) {
    uint64_t value = 0;
    if (key.empty()) return absl::SimpleAtoi(line, &value) ? value : 0;
    std::pair<std::string_view, std::string_view> parts = absl::StrSplit(line, absl::MaxSplits(' ', 1));
    if (parts.first == key && absl::SimpleAtoi(parts.second, &value)) return value;
  }
  return 0;
}

std::string CgroupDirectory(const State& state, std::string_view controller, bool* v2) {
  absl::StatusOr<std::string> mountinfo = ReadSmallFile("/proc/self/mountinfo");
  if (!mountinfo.ok()) return "";
  std::vector<CgroupHierarchy> hierarchies = ParseCgroupMounts(*mountinfo);
  std::string directory = Cgroup::Existing(hierarchies, state.cgroups).Directory(controller);
  *v2 = access((directory + "/cgroup.controllers").c_str(), F_OK) == 0;
  return directory;
}

}  // namespace

absl::StatusOr<control::Reply> AskSandbox(const GlobalOptions& options, const State& state, control::Request request, int seconds) {
  if (state.Status() == "stopped") return absl::FailedPreconditionError("container not running");
  absl::StatusOr<control::Client> client = ConnectTo(options, state);
  if (!client.ok()) return client.status();
  timeval limit{seconds, 0};
  if (seconds > 0) setsockopt(client->fd(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
  return client->Call(request);
}

absl::StatusOr<Stats> ReadStats(const GlobalOptions& options, const State& state, int seconds) {
  control::Request request = MakeRequest(state.id);
  request.mutable_stats();
  absl::StatusOr<control::Reply> reply = AskSandbox(options, state, std::move(request), seconds);
  if (!reply.ok()) return reply.status();
  Stats stats;
  stats.reply = std::move(*reply->mutable_stats());
  stats.memory_bytes = stats.reply.memory_bytes();
  stats.cpu_ns = stats.reply.cpu_ns();
  bool v2 = false;
  if (std::string directory = CgroupDirectory(state, "memory", &v2); !directory.empty()) {
    stats.memory_bytes = std::max(stats.memory_bytes, CgroupNumber(directory, v2 ? "memory.current" : "memory.usage_in_bytes"));
  }
  if (std::string directory = CgroupDirectory(state, "cpuacct", &v2); !directory.empty()) {
    uint64_t cpu = v2 ? CgroupNumber(directory, "cpu.stat", "usage_usec") * 1000 : CgroupNumber(directory, "cpuacct.usage");
    stats.cpu_ns = std::max(stats.cpu_ns, cpu);
  }
  return stats;
}

}  // namespace amber::cli
