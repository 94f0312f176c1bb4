// The memory controller of the first version (Documentation/admin-guide/cgroup-v1/memory.rst). There is no swap: memory with swap is memory.
#include <algorithm>
#include <optional>

#include "sentry/fs/cgroup/cgroup_text.h"
#include "sentry/fs/cgroup/first_version.h"
#include "sentry/kernel/cgroup_tree.h"
#include "sentry/kernel/task.h"

namespace amber {
namespace {

constexpr uint64_t kPage = 4096, kNoLimit = INT64_MAX / kPage * kPage;  // PAGE_COUNTER_MAX

std::string LimitText(uint64_t limit) { return std::to_string(std::min(limit, kNoLimit)) + "\n"; }
ErrnoOr<uint64_t> TakeLimit(std::string_view text) {
  uint64_t bytes = TRY(Bytes(text, "-1"));
  return bytes >= kNoLimit ? Cgroup::kMax : bytes;
}

uint64_t UsedBy(Cgroup& g) { return g.MemoryUsed().resident; }
std::string Usage(Task&, Cgroup& g) { return std::to_string(UsedBy(g)) + "\n"; }

std::string Limit(Task&, Cgroup& g) { return LimitText(g.limits().memory_max); }
// What is in use cannot be taken back: EBUSY, as where that fails.
ErrnoOr<void> SetLimit(Task&, Cgroup& g, std::string_view text) {
  uint64_t limit = TRY(TakeLimit(text));
  if (g.parent() == nullptr || limit > g.first()->memsw_limit) return Errno(EINVAL);
  if (limit != Cgroup::kMax && UsedBy(g) > limit) return Errno(EBUSY);
  g.limits().memory_max = limit;
  g.LimitsChanged();
  return Ok();
}
std::string SwapLimit(Task&, Cgroup& g) { return LimitText(g.first()->memsw_limit); }
ErrnoOr<void> SetSwapLimit(Task&, Cgroup& g, std::string_view text) {
  uint64_t limit = TRY(TakeLimit(text));
  if (g.parent() == nullptr || limit < g.limits().memory_max) return Errno(EINVAL);
  g.first()->memsw_limit = limit;
  return Ok();
}
std::string SoftLimit(Task&, Cgroup& g) { return LimitText(g.first()->soft_limit); }
ErrnoOr<void> SetSoftLimit(Task&, Cgroup& g, std::string_view text) {
  g.first()->soft_limit = TRY(TakeLimit(text));
  return Ok();
}

std::string Peak(Task&, Cgroup& g) {
  uint64_t& peak = g.counters().memory_peak;
  peak = std::max(peak, UsedBy(g));
  return std::to_string(peak) + "\n";
}
// Whatever is written begins anew.
ErrnoOr<void> ResetPeak(Task&, Cgroup& g, std::string_view) {
  g.counters().memory_peak = UsedBy(g);
  return Ok();
}
std::string Failures(Task&, Cgroup& g) { return std::to_string(g.counters().memory_max) + "\n"; }
ErrnoOr<void> ResetFailures(Task&, Cgroup& g, std::string_view) {
  g.counters().memory_max = 0;
  return Ok();
}

std::string OomControl(Task&, Cgroup& g) {
  return Line("oom_kill_disable", g.first()->oom_kill_disable ? 1 : 0) + Line("under_oom", g.under_oom() ? 1 : 0) +
         Line("oom_kill", g.counters().oom_kill);
}
ErrnoOr<void> SetOomControl(Task&, Cgroup& g, std::string_view text) {
  std::optional<int64_t> disable = AnyNumber(text);
  if (!disable || *disable < 0 || *disable > 1 || g.parent() == nullptr) return Errno(EINVAL);
  g.first()->oom_kill_disable = *disable == 1;
  g.LimitsChanged();
  return Ok();
}

std::string Swappiness(Task&, Cgroup& g) { return std::to_string(g.first()->swappiness) + "\n"; }
ErrnoOr<void> SetSwappiness(Task&, Cgroup& g, std::string_view text) {
  constexpr int64_t kMost = 200;
  std::optional<int64_t> value = AnyNumber(text);
  if (!value || *value < 0 || *value > kMost) return Errno(EINVAL);
  g.first()->swappiness = static_cast<uint64_t>(*value);
  return Ok();
}
std::string One(Task&, Cgroup&) { return "1\n"; }
ErrnoOr<void> SetOne(Task&, Cgroup&, std::string_view text) { return AnyNumber(text) == 1 ? Ok() : ErrnoOr<void>(Errno(EINVAL)); }
std::string Zero(Task&, Cgroup&) { return "0\n"; }
ErrnoOr<void> SetZero(Task&, Cgroup&, std::string_view text) { return AnyNumber(text) == 0 ? Ok() : ErrnoOr<void>(Errno(EINVAL)); }
// There is nothing that could be taken back.
ErrnoOr<void> ForceEmpty(Task&, Cgroup& g, std::string_view) { return g.parent() == nullptr ? ErrnoOr<void>(Errno(EINVAL)) : Ok(); }

// The processes of a group and of those below are counted together: what is of the group alone is not told apart.
std::string Stat(Task&, Cgroup& g) {
  Cgroup::Memory used = g.MemoryUsed();
  uint64_t cache = used.resident - used.anonymous, limit = Cgroup::kMax, memsw = Cgroup::kMax;
  for (Cgroup* c = &g; c != nullptr; c = c->parent()) {
    limit = std::min(limit, c->limits().memory_max);
    memsw = std::min(memsw, c->first()->memsw_limit);
  }
  auto lines = [&](const std::string& prefix) {
    std::string out;
    auto add = [&](const char* name, uint64_t value) { out += prefix + Line(name, value); };
    add("cache", cache);
    add("rss", used.anonymous);
    for (const char* name :
         {"rss_huge", "shmem", "mapped_file", "dirty", "writeback", "swap", "pgpgin", "pgpgout", "pgfault", "pgmajfault", "inactive_anon"}) {
      add(name, 0);
    }
    add("active_anon", used.anonymous);
    add("inactive_file", 0);
    add("active_file", cache);
    add("unevictable", 0);
    return out;
  };
  return lines("") + "hierarchical_memory_limit " + LimitText(limit) + "hierarchical_memsw_limit " + LimitText(memsw) + lines("total_");
}

constexpr uint32_t kMemory = Cgroup::kMemory, kRead = 0444, kReadWrite = 0644, kWrite = 0200;

constexpr CgroupEntry kEntries[] = {
    {"memory.failcnt", kMemory, kReadWrite, &Failures, &ResetFailures},
    {"memory.force_empty", kMemory, kWrite, nullptr, &ForceEmpty},
    {"memory.limit_in_bytes", kMemory, kReadWrite, &Limit, &SetLimit},
    {"memory.max_usage_in_bytes", kMemory, kReadWrite, &Peak, &ResetPeak},
    {"memory.memsw.failcnt", kMemory, kReadWrite, &Failures, &ResetFailures},
    {"memory.memsw.limit_in_bytes", kMemory, kReadWrite, &SwapLimit, &SetSwapLimit},
    {"memory.memsw.max_usage_in_bytes", kMemory, kReadWrite, &Peak, &ResetPeak},
    {"memory.memsw.usage_in_bytes", kMemory, kRead, &Usage},
    {"memory.move_charge_at_immigrate", kMemory, kReadWrite, &Zero, &SetZero},
    {"memory.oom_control", kMemory, kReadWrite, &OomControl, &SetOomControl},
    {"memory.soft_limit_in_bytes", kMemory, kReadWrite, &SoftLimit, &SetSoftLimit},
    {"memory.stat", kMemory, kRead, &Stat},
    {"memory.swappiness", kMemory, kReadWrite, &Swappiness, &SetSwappiness},
    {"memory.usage_in_bytes", kMemory, kRead, &Usage},
    {"memory.use_hierarchy", kMemory, kReadWrite, &One, &SetOne},
};

}  // namespace

std::span<const CgroupEntry> FirstVersionMemoryEntries() { return kEntries; }

}  // namespace amber
