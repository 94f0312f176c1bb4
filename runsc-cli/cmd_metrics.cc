// metrics: what all sandboxes use, for Prometheus (text exposition format 0.0.4).
#include <stdio.h>

#include <map>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "runsc-cli/command.h"
#include "runsc-cli/stats.h"

namespace amber::cli {
namespace {

// One sandbox that does not answer does not keep the others' numbers back, s.
constexpr int kPatience = 3;

// A family of metrics with its samples; families come out in the order in which they were first used.
class Exposition {
 public:
  // `labels`: name and value, in turn.
  void Add(const char* name, const char* type, const char* help, std::initializer_list<std::string_view> labels, std::string_view value) {
    Family& family = FamilyOf(name, type, help);
    std::string line = name;
    const char* before = "{";
    for (auto it = labels.begin(); it != labels.end(); it += 2) {
      absl::StrAppend(&line, before, *it, "=\"", Escaped(*(it + 1)), "\"");
      before = ",";
    }
    absl::StrAppend(&line, labels.size() > 0 ? "} " : " ", value, "\n");
    family.samples += line;
  }
  void Add(const char* name, const char* type, const char* help, std::initializer_list<std::string_view> labels, uint64_t value) {
    Add(name, type, help, labels, absl::StrCat(value));
  }

  std::string Text() const {
    std::string out;
    for (const Family& f : families_) absl::StrAppend(&out, "# HELP ", f.name, " ", f.help, "\n# TYPE ", f.name, " ", f.type, "\n", f.samples);
    return out;
  }

 private:
  struct Family {
    std::string name, type, help, samples;
  };
  Family& FamilyOf(const char* name, const char* type, const char* help) {
    for (Family& f : families_) {
      if (f.name == name) return f;
    }
    return families_.emplace_back(Family{name, type, help, ""});
  }
  static std::string Escaped(std::string_view text) {
    std::string out;
    for (char c : text) {
      if (c == '\\' || c == '"') out += '\\';
      out += c == '\n' ? ' ' : c;
    }
    return out;
  }

  std::vector<Family> families_;
};

void AddStats(const State& state, const Stats& stats, Exposition* out) {
  const control::StatsReply& s = stats.reply;
  std::string_view id = state.id;
  out->Add("sandbox_cpu_seconds_total", "counter", "CPU time of the container, the sentry's included.", {"id", id},
           absl::StrFormat("%.6f", static_cast<double>(stats.cpu_ns) / 1e9));
  out->Add("sandbox_memory_bytes", "gauge", "Memory of the container, with the page cache that its cgroup pays for.", {"id", id}, stats.memory_bytes);
  out->Add("sandbox_processes", "gauge", "Processes in the container.", {"id", id}, s.processes());
  out->Add("sandbox_threads", "gauge", "Threads in the container.", {"id", id}, s.threads());
  // The GPUs and their limits are the sandbox's; a pod's containers share them.
  if (state.id != state.sandbox_id || s.gpus_size() == 0) return;
  for (const control::GpuStatsEntry& g : s.gpus()) {
    std::string minor = absl::StrCat(g.minor());
    out->Add("sandbox_gpu_memory_bytes", "gauge", "Memory of a GPU that the sandbox's programs have allocated.",
             {"id", id, "minor", minor, "uuid", g.uuid()}, g.used());
    out->Add("sandbox_gpu_memory_peak_bytes", "gauge", "The most that was allocated at once.", {"id", id, "minor", minor, "uuid", g.uuid()},
             g.peak());
    out->Add("sandbox_gpu_memory_limit_bytes", "gauge", "How much may be allocated; 0: no limit.", {"id", id, "minor", minor, "uuid", g.uuid()},
             g.limit());
  }
  out->Add("sandbox_gpu_host_memory_bytes", "gauge", "Host memory that the driver holds for the sandbox.", {"id", id}, s.gpu_host_bytes());
  out->Add("sandbox_gpu_calls_total", "counter", "Calls that went to the GPU driver.", {"id", id}, s.gpu_calls());
  out->Add("sandbox_gpu_calls_refused_total", "counter", "Calls to the GPU driver that were refused.", {"id", id}, s.gpu_calls_refused());
}

// "NAME NUMBER" lines, as `debug --stats` prints them.
void AddCounters(const State& state, std::string_view text, Exposition* out) {
  for (std::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    std::pair<std::string_view, std::string_view> parts = absl::StrSplit(line, absl::MaxSplits(' ', 1));
    uint64_t value;
    if (!absl::SimpleAtoi(parts.second, &value)) continue;
    out->Add("sandbox_events_total", "counter", "What the sentry counts; the names are those of debug --stats.",
             {"id", state.id, "event", parts.first}, value);
  }
}

absl::StatusOr<int> Metrics(Context& context) {
  absl::StatusOr<std::vector<std::string>> ids = StateDir::List(context.options.root);
  if (!ids.ok()) return ids.status();
  Exposition out;
  std::map<std::string, uint64_t> by_status = {{"created", 0}, {"running", 0}, {"paused", 0}, {"stopped", 0}};
  for (const std::string& id : *ids) {
    absl::StatusOr<State> state = StateDir::Read(context.options.root, id);
    if (!state.ok()) continue;  // it went meanwhile
    ++by_status[state->Status()];
    absl::StatusOr<Stats> stats = ReadStats(context.options, *state, kPatience);
    if (!stats.ok()) continue;
    AddStats(*state, *stats, &out);
    if (state->id != state->sandbox_id) continue;
    control::Request request = MakeRequest(state->id);
    request.mutable_debug()->set_query("stats");
    absl::StatusOr<control::Reply> reply = AskSandbox(context.options, *state, std::move(request), kPatience);
    if (reply.ok()) AddCounters(*state, reply->text(), &out);
  }
  for (const auto& [status, count] : by_status) out.Add("sandbox_containers", "gauge", "Containers by their state.", {"status", status}, count);
  std::string text = out.Text();
  fwrite(text.data(), 1, text.size(), stdout);
  return 0;
}

}  // namespace

std::vector<Command> MetricsCommands() {
  return {{"metrics",
           "",
           "prints what all containers use, for Prometheus",
           "Text in Prometheus' format: CPU time, memory, tasks, GPU memory and its limits, the sentry's counters. For a\n"
           "node exporter's textfile collector, or behind anything that serves a command's output.",
           {},
           Metrics}};
}

}  // namespace amber::cli
