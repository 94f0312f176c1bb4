// The files of a group of the first version, but for memory. What they show and take is that of Documentation/admin-guide/cgroup-v1/.
#include <linux/capability.h>

#include <algorithm>
#include <optional>

#include "sentry/fs/cgroup/cgroup_fs.h"
#include "sentry/fs/cgroup/cgroup_text.h"
#include "sentry/fs/cgroup/first_version.h"
#include "sentry/kernel/cgroup_tree.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"

namespace amber {
namespace {

// --- the core ---

// cgroup1_procs_write(): root moves everybody, others their own.
ErrnoOr<void> MayMove(const Task& writer, const Task& moved) {
  const Credentials& own = writer.creds();
  const Credentials& other = moved.creds();
  return own.euid == 0 || own.euid == other.uid || own.euid == other.suid ? Ok() : ErrnoOr<void>(Errno(EACCES));
}

ErrnoOr<void> MoveProcess(Task& writer, Cgroup& g, std::string_view text) {
  RefPtr<Task> task(TRY(FindNumbered(writer, text)));
  TRY(MayMove(writer, *task));
  return g.Move(task->group());
}
ErrnoOr<void> MoveTask(Task& writer, Cgroup& g, std::string_view text) {
  RefPtr<Task> task(TRY(FindNumbered(writer, text)));
  TRY(MayMove(writer, *task));
  return g.MoveThread(*task);
}

ErrnoOr<bool> Switch(std::string_view text) {
  std::optional<int64_t> value = AnyNumber(text);
  return value && *value >= 0 ? ErrnoOr<bool>(*value != 0) : Errno(EINVAL);
}
template <bool FirstVersion::* Field>
std::string ShowFlag(Task&, Cgroup& g) {
  return Flag(g.first()->*Field);
}
template <bool FirstVersion::* Field>
ErrnoOr<void> SetFlag(Task&, Cgroup& g, std::string_view text) {
  g.first()->*Field = TRY(Switch(text));
  return Ok();
}

std::string Zero(Task&, Cgroup&) { return "0\n"; }
std::string ReleaseAgent(Task&, Cgroup& g) { return g.own_tree()->release_agent + "\n"; }
// It is run with what the container's first process may do, but whoever names it must be able to do as much.
ErrnoOr<void> SetReleaseAgent(Task& writer, Cgroup& g, std::string_view text) {
  if (!writer.Has(CAP_SYS_ADMIN)) return Errno(EPERM);
  g.own_tree()->release_agent = text;
  return Ok();
}

// --- cpu, cpuacct ---

std::string Shares(Task&, Cgroup& g) { return std::to_string(g.limits().cpu_idle ? 3 : g.limits().cpu_shares) + "\n"; }
ErrnoOr<void> SetShares(Task&, Cgroup& g, std::string_view text) {
  constexpr int64_t kLeast = 2, kMost = 262'144;
  std::optional<int64_t> shares = AnyNumber(text);
  if (!shares || *shares < 0 || g.parent() == nullptr || g.limits().cpu_idle) return Errno(EINVAL);
  g.limits().cpu_shares = static_cast<uint64_t>(std::clamp(*shares, kLeast, kMost));
  g.LimitsChanged();
  return Ok();
}
std::string Idle(Task&, Cgroup& g) { return Flag(g.limits().cpu_idle); }
ErrnoOr<void> SetIdle(Task&, Cgroup& g, std::string_view text) {
  std::optional<int64_t> on = AnyNumber(text);
  if (!on || *on < 0 || *on > 1 || g.parent() == nullptr) return Errno(EINVAL);
  g.limits().cpu_idle = *on == 1;
  if (*on == 0) g.limits().cpu_shares = Cgroup::kUsualShares;
  g.LimitsChanged();
  return Ok();
}

std::string Quota(Task&, Cgroup& g) { return g.limits().cpu_quota == Cgroup::kMax ? "-1\n" : std::to_string(g.limits().cpu_quota) + "\n"; }
std::string Period(Task&, Cgroup& g) { return std::to_string(g.limits().cpu_period) + "\n"; }
std::string Burst(Task&, Cgroup& g) { return std::to_string(g.limits().cpu_burst) + "\n"; }

// A group may not have more than the nearest one above it with a quota has (tg_cfs_schedulable_down()).
bool Fits(uint64_t quota, uint64_t period, const Cgroup::Limits& above) {
  return static_cast<__uint128_t>(quota) * above.cpu_period <= static_cast<__uint128_t>(above.cpu_quota) * period;
}
bool FitsBelow(Cgroup& g, const Cgroup::Limits& above) {
  return std::ranges::all_of(g.children(), [&above](const auto& c) {
    Cgroup::Limits& l = c.second->limits();
    return l.cpu_quota == Cgroup::kMax ? FitsBelow(*c.second, above) : Fits(l.cpu_quota, l.cpu_period, above);
  });
}

ErrnoOr<void> SetBandwidth(Cgroup& g, uint64_t quota, uint64_t period, uint64_t burst) {
  constexpr uint64_t kMostQuota = uint64_t{1} << 44;
  if (g.parent() == nullptr || period < 1000 || period > 1'000'000) return Errno(EINVAL);
  if (quota != Cgroup::kMax && (quota < 1000 || quota > kMostQuota || burst > quota)) return Errno(EINVAL);
  Cgroup::Limits next = g.limits();
  next.cpu_quota = quota, next.cpu_period = period, next.cpu_burst = burst;
  if (quota != Cgroup::kMax) {
    for (Cgroup* above = g.parent(); above != nullptr; above = above->parent()) {
      if (above->limits().cpu_quota == Cgroup::kMax) continue;
      if (!Fits(quota, period, above->limits())) return Errno(EINVAL);
      break;
    }
    if (!FitsBelow(g, next)) return Errno(EINVAL);
  }
  g.limits() = next;
  g.LimitsChanged();
  return Ok();
}
ErrnoOr<void> SetQuota(Task&, Cgroup& g, std::string_view text) {
  std::optional<int64_t> quota = AnyNumber(text);
  if (!quota) return Errno(EINVAL);
  return SetBandwidth(g, *quota < 0 ? Cgroup::kMax : static_cast<uint64_t>(*quota), g.limits().cpu_period, g.limits().cpu_burst);
}
ErrnoOr<void> SetPeriod(Task&, Cgroup& g, std::string_view text) {
  std::optional<int64_t> period = AnyNumber(text);
  if (!period || *period < 0) return Errno(EINVAL);
  return SetBandwidth(g, g.limits().cpu_quota, static_cast<uint64_t>(*period), g.limits().cpu_burst);
}
ErrnoOr<void> SetBurst(Task&, Cgroup& g, std::string_view text) {
  std::optional<int64_t> burst = AnyNumber(text);
  if (!burst || *burst < 0) return Errno(EINVAL);
  return SetBandwidth(g, g.limits().cpu_quota, g.limits().cpu_period, static_cast<uint64_t>(*burst));
}
std::string CpuStat(Task&, Cgroup& g) {
  const Cgroup::Counters& c = g.counters();
  return Line("nr_periods", c.periods) + Line("nr_throttled", c.throttled) + Line("throttled_time", c.throttled_ns) + "nr_bursts 0\nburst_time 0\n";
}
std::string CpuStatLocal(Task&, Cgroup& g) { return Line("throttled_time", g.counters().throttled_ns); }

Cgroup::Cpu Used(Cgroup& g) {
  Cgroup::Cpu used = g.CpuUsed();
  return {std::max<int64_t>(used.user - g.first()->usage_base_user, 0), std::max<int64_t>(used.system - g.first()->usage_base_system, 0)};
}
std::string Usage(Task&, Cgroup& g) { return std::to_string(Used(g).user + Used(g).system) + "\n"; }
std::string UsageUser(Task&, Cgroup& g) { return std::to_string(Used(g).user) + "\n"; }
std::string UsageSystem(Task&, Cgroup& g) { return std::to_string(Used(g).system) + "\n"; }
// In USER_HZ.
std::string AccountStat(Task&, Cgroup& g) {
  constexpr int64_t kTick = 10'000'000;
  Cgroup::Cpu used = Used(g);
  return Line("user", static_cast<uint64_t>(used.user / kTick)) + Line("system", static_cast<uint64_t>(used.system / kTick));
}
ErrnoOr<void> ResetUsage(Task&, Cgroup& g, std::string_view text) {
  if (AnyNumber(text) != 0) return Errno(EINVAL);
  Cgroup::Cpu used = g.CpuUsed();
  g.first()->usage_base_user = used.user;
  g.first()->usage_base_system = used.system;
  return Ok();
}

// --- cpuset ---

std::string Cpus(Task&, Cgroup& g) {
  if (g.parent() == nullptr) return CpuListText(Cgroup::AllCpus()) + "\n";
  return (g.cpus() ? CpuListText(*g.cpus()) : "") + "\n";
}
ErrnoOr<void> SetCpus(Task&, Cgroup& g, std::string_view text) {
  if (text.empty()) return g.SetCpus(std::nullopt);
  return g.SetCpus(TRY(ParseCpus(text)));
}
std::string Mems(Task&, Cgroup& g) { return g.parent() == nullptr || g.has_mems() ? "0\n" : "\n"; }
ErrnoOr<void> SetMems(Task&, Cgroup& g, std::string_view text) {
  if (!text.empty() && text != "0" && text != "0-0") return Errno(EINVAL);
  return g.SetMems(!text.empty());
}
ErrnoOr<void> SetExclusive(Task&, Cgroup& g, std::string_view text) { return g.SetExclusiveCpus(TRY(Switch(text))); }
std::string RelaxLevel(Task&, Cgroup& g) { return std::to_string(g.first()->relax_domain_level) + "\n"; }
ErrnoOr<void> SetRelaxLevel(Task&, Cgroup& g, std::string_view text) {
  std::optional<int64_t> level = AnyNumber(text);
  constexpr int kLevels = 5;
  if (!level || *level < -1 || *level >= kLevels) return Errno(EINVAL);
  g.first()->relax_domain_level = static_cast<int>(*level);
  return Ok();
}

// --- freezer, pids ---

std::string FreezerState(Task&, Cgroup& g) { return !g.Freezes() ? "THAWED\n" : g.IsFrozen() ? "FROZEN\n" : "FREEZING\n"; }
ErrnoOr<void> SetFreezerState(Task&, Cgroup& g, std::string_view text) {
  if (text != "FROZEN" && text != "THAWED") return Errno(EINVAL);
  g.SetFreeze(text == "FROZEN");
  return Ok();
}
std::string SelfFreezing(Task&, Cgroup& g) { return Flag(g.freeze()); }
std::string ParentFreezing(Task&, Cgroup& g) { return Flag(g.parent() != nullptr && g.parent()->Freezes()); }

std::string PidsMax(Task&, Cgroup& g) { return Value(g.limits().pids); }
ErrnoOr<void> SetPidsMax(Task&, Cgroup& g, std::string_view text) {
  constexpr int64_t kPidMaxLimit = 4'194'304;
  std::optional<int64_t> value = AnyNumber(text);
  if (text != "max" && (!value || *value < 0 || *value > kPidMaxLimit)) return Errno(EINVAL);
  g.limits().pids = value ? static_cast<uint64_t>(*value) : Cgroup::kMax;
  return Ok();
}
std::string PidsCurrent(Task&, Cgroup& g) { return std::to_string(g.CountTasks()) + "\n"; }
std::string PidsPeak(Task&, Cgroup& g) {
  uint64_t& peak = g.counters().pids_peak;
  peak = std::max<uint64_t>(peak, g.CountTasks());
  return std::to_string(peak) + "\n";
}
std::string PidsEvents(Task&, Cgroup& g) { return Line("max", g.counters().pids_max); }

// --- devices ---

std::string DeviceNumber(uint32_t number) { return number == kAnyDevice ? "*" : std::to_string(number); }

// devcgroup_seq_show(): what is not allowed is not shown where all else is.
std::string Devices(Task&, Cgroup& g) {
  if (g.first()->devices_allowed) return "a *:* rwm\n";
  std::string out;
  for (const DeviceException& d : g.first()->devices) {
    out += std::string(d.block ? "b " : "c ") + DeviceNumber(d.major) + ":" + DeviceNumber(d.minor) + " ";
    out += std::string((d.access & kDeviceRead) != 0 ? "r" : "") + ((d.access & kDeviceWrite) != 0 ? "w" : "") +
           ((d.access & kDeviceMake) != 0 ? "m" : "");
    out += "\n";
  }
  return out;
}

ErrnoOr<uint32_t> TakeDeviceNumber(std::string_view text) {
  if (text == "*") return kAnyDevice;
  std::optional<uint32_t> number = Number<uint32_t>(text);
  return number && *number != kAnyDevice ? ErrnoOr<uint32_t>(*number) : Errno(EINVAL);
}

// "c 1:3 rw"
ErrnoOr<DeviceException> ParseDevice(std::string_view text) {
  DeviceException line{.block = text[0] == 'b'};
  if (text.size() < 2 || text[1] != ' ') return Errno(EINVAL);
  text.remove_prefix(2);
  size_t colon = text.find(':'), space = text.find(' ');
  if (colon == std::string_view::npos || space == std::string_view::npos || space < colon) return Errno(EINVAL);
  line.major = TRY(TakeDeviceNumber(text.substr(0, colon)));
  line.minor = TRY(TakeDeviceNumber(text.substr(colon + 1, space - colon - 1)));
  constexpr size_t kMostLetters = 3;
  for (char c : text.substr(space + 1, kMostLetters)) {
    if (c != 'r' && c != 'w' && c != 'm') return Errno(EINVAL);
    line.access |= c == 'r' ? kDeviceRead : c == 'w' ? kDeviceWrite : kDeviceMake;
  }
  return line;
}

ErrnoOr<void> ChangeDevices(Task& writer, Cgroup& g, std::string_view text, bool allow) {
  if (!writer.Has(CAP_SYS_ADMIN)) return Errno(EPERM);
  if (text.starts_with('a')) return g.SetAllDevices(allow);
  if (!text.starts_with('b') && !text.starts_with('c')) return Errno(EINVAL);
  DeviceException line = TRY(ParseDevice(text));
  return allow ? g.AllowDevice(line) : g.DenyDevice(line);
}
ErrnoOr<void> AllowDevices(Task& writer, Cgroup& g, std::string_view text) { return ChangeDevices(writer, g, text, true); }
ErrnoOr<void> DenyDevices(Task& writer, Cgroup& g, std::string_view text) { return ChangeDevices(writer, g, text, false); }

using F = FirstVersion;
constexpr auto kAll = CgroupEntry::Where::kAll, kRoot = CgroupEntry::Where::kRoot, kNotRoot = CgroupEntry::Where::kNotRoot;
constexpr auto kNone = Cgroup::kNoEvents;
constexpr uint32_t kRead = 0444, kReadWrite = 0644, kWrite = 0200;

constexpr CgroupEntry kEntries[] = {
    {"cgroup.clone_children", 0, kReadWrite, &ShowFlag<&F::clone_children>, &SetFlag<&F::clone_children>},
    {"cgroup.procs", 0, kReadWrite, &ProcsText, &MoveProcess},
    {"cgroup.sane_behavior", 0, kRead, &Zero, nullptr, kNone, kRoot},
    {"cpu.cfs_burst_us", Cgroup::kCpu, kReadWrite, &Burst, &SetBurst},
    {"cpu.cfs_period_us", Cgroup::kCpu, kReadWrite, &Period, &SetPeriod},
    {"cpu.cfs_quota_us", Cgroup::kCpu, kReadWrite, &Quota, &SetQuota},
    {"cpu.idle", Cgroup::kCpu, kReadWrite, &Idle, &SetIdle},
    {"cpu.shares", Cgroup::kCpu, kReadWrite, &Shares, &SetShares},
    {"cpu.stat", Cgroup::kCpu, kRead, &CpuStat},
    {"cpu.stat.local", Cgroup::kCpu, kRead, &CpuStatLocal},
    {"cpuacct.stat", Cgroup::kCpuacct, kRead, &AccountStat},
    {"cpuacct.usage", Cgroup::kCpuacct, kReadWrite, &Usage, &ResetUsage},
    {"cpuacct.usage_sys", Cgroup::kCpuacct, kRead, &UsageSystem},
    {"cpuacct.usage_user", Cgroup::kCpuacct, kRead, &UsageUser},
    {"cpuset.cpu_exclusive", Cgroup::kCpuset, kReadWrite, &ShowFlag<&F::cpu_exclusive>, &SetExclusive},
    {"cpuset.cpus", Cgroup::kCpuset, kReadWrite, &Cpus, &SetCpus},
    {"cpuset.effective_cpus", Cgroup::kCpuset, kRead, &Cpus},
    {"cpuset.effective_mems", Cgroup::kCpuset, kRead, &Mems},
    {"cpuset.mem_exclusive", Cgroup::kCpuset, kReadWrite, &ShowFlag<&F::mem_exclusive>, &SetFlag<&F::mem_exclusive>},
    {"cpuset.mem_hardwall", Cgroup::kCpuset, kReadWrite, &ShowFlag<&F::mem_hardwall>, &SetFlag<&F::mem_hardwall>},
    {"cpuset.memory_migrate", Cgroup::kCpuset, kReadWrite, &ShowFlag<&F::memory_migrate>, &SetFlag<&F::memory_migrate>},
    {"cpuset.memory_pressure", Cgroup::kCpuset, kRead, &Zero},
    {"cpuset.memory_pressure_enabled", Cgroup::kCpuset, kReadWrite, &ShowFlag<&F::pressure>, &SetFlag<&F::pressure>, kNone, kRoot},
    {"cpuset.memory_spread_page", Cgroup::kCpuset, kReadWrite, &ShowFlag<&F::spread_page>, &SetFlag<&F::spread_page>},
    {"cpuset.memory_spread_slab", Cgroup::kCpuset, kReadWrite, &ShowFlag<&F::spread_slab>, &SetFlag<&F::spread_slab>},
    {"cpuset.mems", Cgroup::kCpuset, kReadWrite, &Mems, &SetMems},
    {"cpuset.sched_load_balance", Cgroup::kCpuset, kReadWrite, &ShowFlag<&F::load_balance>, &SetFlag<&F::load_balance>},
    {"cpuset.sched_relax_domain_level", Cgroup::kCpuset, kReadWrite, &RelaxLevel, &SetRelaxLevel},
    {"devices.allow", Cgroup::kDevices, kWrite, nullptr, &AllowDevices},
    {"devices.deny", Cgroup::kDevices, kWrite, nullptr, &DenyDevices},
    {"devices.list", Cgroup::kDevices, kRead, &Devices},
    {"freezer.parent_freezing", Cgroup::kFreezer, kRead, &ParentFreezing, nullptr, kNone, kNotRoot},
    {"freezer.self_freezing", Cgroup::kFreezer, kRead, &SelfFreezing, nullptr, kNone, kNotRoot},
    {"freezer.state", Cgroup::kFreezer, kReadWrite, &FreezerState, &SetFreezerState, kNone, kNotRoot},
    {"notify_on_release", 0, kReadWrite, &ShowFlag<&F::notify_on_release>, &SetFlag<&F::notify_on_release>},
    {"pids.current", Cgroup::kPids, kRead, &PidsCurrent, nullptr, kNone, kNotRoot},
    {"pids.events", Cgroup::kPids, kRead, &PidsEvents, nullptr, Cgroup::kPidsEvents, kNotRoot},
    {"pids.max", Cgroup::kPids, kReadWrite, &PidsMax, &SetPidsMax, kNone, kNotRoot},
    {"pids.peak", Cgroup::kPids, kRead, &PidsPeak, nullptr, kNone, kNotRoot},
    {"release_agent", 0, kReadWrite, &ReleaseAgent, &SetReleaseAgent, kNone, kRoot},
    {"tasks", 0, kReadWrite, &ThreadsText, &MoveTask, kNone, kAll},
};

}  // namespace

std::span<const CgroupEntry> FirstVersionEntries() {
  static const auto* all = [] {
    auto* list = new std::vector<CgroupEntry>(std::begin(kEntries), std::end(kEntries));
    std::ranges::copy(FirstVersionMemoryEntries(), std::back_inserter(*list));
    AMBER_CHECK(list->size() < kInosPerGroup);
    return list;
  }();
  return *all;
}

}  // namespace amber
