// state, list, ps, events, wait, debug.
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <map>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "nlohmann/json.hpp"
#include "runsc-cli/command.h"
#include "runsc-cli/files.h"
#include "runsc-cli/stats.h"

namespace amber::cli {
namespace {

void Print(std::string_view text) { fwrite(text.data(), 1, text.size(), stdout); }

// A guest's own words in a table.
std::string OneLine(std::string_view text) { return absl::StrReplaceAll(Printable(text), {{"\n", "\\n"}, {"\t", "\\t"}}); }

std::string Dump(const nlohmann::ordered_json& json) { return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n"; }

absl::StatusOr<State> ReadState(Context& context) {
  absl::StatusOr<std::string> id = context.ContainerId();
  if (!id.ok()) return id.status();
  return StateDir::Read(context.options.root, *id);
}

absl::StatusOr<control::Reply> Ask(Context& context, const State& state, control::Request request) {
  return AskSandbox(context.options, state, std::move(request));
}

absl::StatusOr<int> ShowState(Context& context) {
  absl::StatusOr<State> state = ReadState(context);
  if (!state.ok()) return state.status();
  Print(OciState(*state));
  return 0;
}

// What a foreground command line left that was killed together with its waiter.
bool RemoveIfAbandoned(const GlobalOptions& options, const State& state) {
  if (state.owner.pid == 0 || state.owner.Alive() || state.Status() != "stopped") return false;
  absl::StatusOr<StateDir> dir = StateDir::OpenLocked(options.root, state.id);
  return dir.ok() && Destroy(options, *dir, state).ok();
}

absl::StatusOr<int> List(Context& context) {
  std::string format = context.flags.StringOr("format", "table");
  if (format != "table" && format != "json") return absl::InvalidArgumentError("--format must be table or json");
  absl::StatusOr<std::vector<std::string>> ids = StateDir::List(context.options.root);
  if (!ids.ok()) return ids.status();
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  std::string table = absl::StrFormat("%-28s %-8s %-8s %-32s %s\n", "ID", "PID", "STATUS", "CREATED", "BUNDLE");
  for (const std::string& id : *ids) {
    absl::StatusOr<State> state = StateDir::Read(context.options.root, id);
    if (!state.ok() || RemoveIfAbandoned(context.options, *state)) continue;
    if (context.flags.Bool("quiet")) {
      Print(id + "\n");
      continue;
    }
    std::string status = state->Status();
    pid_t pid = status == "stopped" ? 0 : state->waiter.pid;
    absl::StrAppend(&table, absl::StrFormat("%-28s %-8d %-8s %-32s %s\n", id, pid, status, state->created, state->bundle));
    json.push_back({{"ociVersion", "1.1.0"},
                    {"id", id},
                    {"pid", pid},
                    {"status", status},
                    {"bundle", state->bundle},
                    {"rootfs", state->rootfs},
                    {"created", state->created},
                    {"annotations", state->annotations},
                    {"owner", "root"}});
  }
  if (!context.flags.Bool("quiet")) Print(format == "json" ? Dump(json) : table);
  return 0;
}

// This process's numbers of the sentry's children, by their number in the sentry's pid namespace.
std::map<int, pid_t> StubsOf(pid_t sentry) {
  std::map<int, pid_t> stubs;
  std::error_code error;
  for (const auto& thread : std::filesystem::directory_iterator(absl::StrCat("/proc/", sentry, "/task"), error)) {
    absl::StatusOr<std::string> children = ReadSmallFile(thread.path().string() + "/children");
    if (!children.ok()) continue;
    for (std::string_view child : absl::StrSplit(*children, ' ', absl::SkipWhitespace())) {
      absl::StatusOr<std::string> status = ReadSmallFile(absl::StrCat("/proc/", child, "/status"));
      if (!status.ok()) continue;
      for (std::string_view line : absl::StrSplit(*status, '\n')) {
        if (!absl::ConsumePrefix(&line, "NSpid:")) continue;
        std::vector<std::string_view> numbers = absl::StrSplit(line, absl::ByAnyChar("\t "), absl::SkipEmpty());
        int inner, outer;
        if (numbers.size() > 1 && absl::SimpleAtoi(numbers.back(), &inner) && absl::SimpleAtoi(numbers.front(), &outer)) stubs[inner] = outer;
      }
    }
  }
  return stubs;
}

// Host pids, as engines want them: the one that stands for the container, and those that its processes run in.
absl::StatusOr<std::string> HostPidsJson(Context& context, const State& state) {
  nlohmann::ordered_json pids = nlohmann::ordered_json::array();
  if (state.Status() == "stopped") return Dump(pids);
  pids.push_back(state.waiter.pid);
  control::Request request = MakeRequest(state.id);
  request.mutable_processes();
  absl::StatusOr<control::Reply> reply = Ask(context, state, std::move(request));
  if (!reply.ok()) return reply.status();
  std::map<int, pid_t> stubs = StubsOf(state.sentry.pid);
  for (const control::ProcessEntry& p : reply->processes().processes()) {
    auto it = stubs.find(p.stub());
    if (it != stubs.end()) pids.push_back(it->second);
  }
  return Dump(pids);
}

absl::StatusOr<int> Ps(Context& context) {
  absl::StatusOr<State> state = ReadState(context);
  if (!state.ok()) return state.status();
  std::string format = context.flags.StringOr("format", "table");
  if (format != "table" && format != "json") return absl::InvalidArgumentError("--format must be table or json");
  if (format == "json") {
    absl::StatusOr<std::string> json = HostPidsJson(context, *state);
    if (!json.ok()) return json.status();
    Print(*json);
    return 0;
  }
  control::Request request = MakeRequest(state->id);
  request.mutable_processes();
  absl::StatusOr<control::Reply> reply = Ask(context, *state, std::move(request));
  if (!reply.ok()) return reply.status();
  Print(absl::StrFormat("%7s %7s %7s %3s %8s %9s %10s %s\n", "PID", "PPID", "UID", "S", "THREADS", "RSS KiB", "CPU ms", "COMMAND"));
  for (const control::ProcessEntry& p : reply->processes().processes()) {
    Print(absl::StrFormat("%7d %7d %7d %3s %8d %9d %10d %s\n", p.pid(), p.parent(), p.uid(), p.state(), p.threads(), p.resident_bytes() >> 10,
                          p.cpu_ns() / 1'000'000, OneLine(p.command())));
  }
  return 0;
}

// Of the whole sandbox: its containers share the limit.
nlohmann::ordered_json GpuJson(const control::StatsReply& s) {
  nlohmann::ordered_json devices = nlohmann::ordered_json::array();
  for (const control::GpuStatsEntry& g : s.gpus()) {
    devices.push_back({{"minor", g.minor()}, {"uuid", g.uuid()}, {"memory", {{"usage", g.used()}, {"max", g.peak()}, {"limit", g.limit()}}}});
  }
  return {{"devices", std::move(devices)}, {"hostMemory", s.gpu_host_bytes()}, {"calls", s.gpu_calls()}, {"refused", s.gpu_calls_refused()}};
}

absl::StatusOr<std::string> StatsJson(Context& context, const State& state) {
  absl::StatusOr<Stats> stats = ReadStats(context.options, state);
  if (!stats.ok()) return stats.status();
  const control::StatsReply& s = stats->reply;
  nlohmann::ordered_json data = {{"cpu", {{"usage", {{"total", stats->cpu_ns}, {"user", s.cpu_user_ns()}, {"kernel", s.cpu_system_ns()}}}}},
                                 {"memory", {{"usage", {{"usage", stats->memory_bytes}}}}},
                                 {"pids", {{"current", s.processes()}, {"threads", s.threads()}}}};
  if (s.gpus_size() > 0) data["gpu"] = GpuJson(s);
  return Dump({{"type", "stats"}, {"id", state.id}, {"data", std::move(data)}});
}

absl::StatusOr<int> Events(Context& context) {
  absl::StatusOr<State> state = ReadState(context);
  if (!state.ok()) return state.status();
  std::string interval = context.flags.StringOr("interval", "5s");
  int seconds;
  if (!interval.empty() && interval.back() == 's') interval.pop_back();
  if (!absl::SimpleAtoi(interval, &seconds) || seconds < 1) return absl::InvalidArgumentError("--interval must be whole seconds, like 5s");
  for (;;) {
    absl::StatusOr<std::string> line = StatsJson(context, *state);
    if (!line.ok()) {
      if (!context.flags.Bool("stats") && state->Status() == "stopped") return 0;
      return line.status();
    }
    Print(*line);
    fflush(stdout);
    if (context.flags.Bool("stats")) return 0;
    sleep(static_cast<unsigned>(seconds));
  }
}

absl::StatusOr<int> Wait(Context& context) {
  absl::StatusOr<State> state = ReadState(context);
  if (!state.ok()) return state.status();
  control::Request request = MakeRequest(state->id);
  request.mutable_wait()->set_pid(context.flags.Has("pid") ? static_cast<int32_t>(context.flags.NumberOr("pid", 0)) : state->guest_pid);
  absl::StatusOr<control::Reply> reply = Ask(context, *state, std::move(request));
  if (!reply.ok()) return reply.status();
  int status = reply->wait_status();
  int code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  Print(Dump({{"id", state->id}, {"exitStatus", code}}));
  return 0;
}

absl::StatusOr<int> Debug(Context& context) {
  absl::StatusOr<State> state = ReadState(context);
  if (!state.ok()) return state.status();
  const Flags& flags = context.flags;
  if (flags.Has("strace")) {
    control::Request request = MakeRequest(state->id);
    request.mutable_strace()->set_on(flags.Bool("strace"));
    if (absl::StatusOr<control::Reply> reply = Ask(context, *state, std::move(request)); !reply.ok()) return reply.status();
  }
  std::vector<std::string> queries;
  if (flags.Bool("stats")) queries.push_back("stats");
  if (flags.Bool("unknown-syscalls")) queries.push_back("unknown-syscalls");
  if (flags.Bool("stacks")) queries.push_back("stacks");
  if (flags.Has("maps")) queries.push_back("maps " + flags.String("maps"));
  if (queries.empty() && !flags.Has("strace")) queries = {"stats", "unknown-syscalls"};
  for (const std::string& query : queries) {
    control::Request request = MakeRequest(state->id);
    request.mutable_debug()->set_query(query);
    absl::StatusOr<control::Reply> reply = Ask(context, *state, std::move(request));
    if (!reply.ok()) return reply.status();
    if (queries.size() > 1) Print(absl::StrCat("== ", query, "\n"));
    Print(Printable(reply->text()));
  }
  return 0;
}

}  // namespace

std::vector<Command> InspectCommands() {
  return {
      {"state", "ID", "prints the state of a container as JSON", "", {}, ShowState},
      {"list",
       "[FLAGS]",
       "lists the containers",
       "",
       {{"format", 'f', FlagKind::kString, "FORMAT", "table or json"}, {"quiet", 'q', FlagKind::kBool, nullptr, "ids only"}},
       List},
      {"ps",
       "[FLAGS] ID",
       "lists the processes of a container",
       "The table shows the container's own process ids; JSON has the host's pids, as engines want them.",
       {{"format", 'f', FlagKind::kString, "FORMAT", "table or json"}},
       Ps},
      {"wait",
       "[FLAGS] ID",
       "waits for a container's end and prints its exit status as JSON",
       "",
       {{"pid", 'p', FlagKind::kNumber, "PID", "waits for this process of the container"}},
       Wait},
      {"events",
       "[FLAGS] ID",
       "prints statistics of a container as JSON lines",
       "",
       {{"stats", 0, FlagKind::kBool, nullptr, "once"}, {"interval", 0, FlagKind::kString, "SECONDS", "how often (default 5s)"}},
       Events},
      {"debug",
       "[FLAGS] ID",
       "looks into a running sandbox",
       "",
       {{"stats", 0, FlagKind::kBool, nullptr, "counters: notifications, stub operations, gofer calls, ..."},
        {"unknown-syscalls", 0, FlagKind::kBool, nullptr, "calls that the guest made and we do not know"},
        {"stacks", 0, FlagKind::kBool, nullptr, "what each task is doing"},
        {"maps", 0, FlagKind::kString, "PID", "memory mappings of a process"},
        {"strace", 0, FlagKind::kBool, nullptr, "turns the log of system calls on (--strace=false: off)"}},
       Debug},
  };
}

}  // namespace amber::cli
