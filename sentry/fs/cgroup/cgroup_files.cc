// The files of a group. What they show and take is that of Documentation/admin-guide/cgroup-v2.rst.
#include <optional>
#include <utility>
#include <vector>

#include "sentry/fs/cgroup/cgroup_fs.h"
#include "sentry/fs/cgroup/cgroup_text.h"
#include "sentry/fs/cgroup/first_version.h"
#include "sentry/fs/proc/machine.h"
#include "sentry/fs/proc/memory_view.h"
#include "sentry/kernel/cgroup_tree.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/vfs/fd_table.h"

namespace amber {
namespace {

// --- the core ---

std::string Controllers(Task&, Cgroup& g) { return ControllerNames(g.available(), ' ') + "\n"; }
std::string SubtreeControl(Task&, Cgroup& g) { return ControllerNames(g.enabled(), ' ') + "\n"; }

ErrnoOr<void> SetSubtreeControl(Task&, Cgroup& g, std::string_view text) {
  uint32_t on = 0, off = 0;
  for (std::string_view word : Words(text)) {
    uint32_t bit = 0;
    for (const ControllerName& c : kControllerNames) {
      if (word.substr(1) == c.name) bit = c.bit & Cgroup::kSecond;
    }
    if (bit == 0 || (word[0] != '+' && word[0] != '-')) return Errno(EINVAL);
    (word[0] == '+' ? on : off) |= bit;
    (word[0] == '+' ? off : on) &= ~bit;
  }
  return g.Enable(on, off);
}

std::string Events(Task&, Cgroup& g) { return Line("populated", g.IsPopulated() ? 1 : 0) + Line("frozen", g.IsFrozen() ? 1 : 0); }
std::string Freeze(Task&, Cgroup& g) { return g.freeze() ? "1\n" : "0\n"; }
ErrnoOr<void> SetFreeze(Task&, Cgroup& g, std::string_view text) {
  std::optional<int> on = Number<int>(text);
  if (!on) return Errno(EINVAL);
  if (*on < 0 || *on > 1) return Errno(ERANGE);
  g.SetFreeze(*on == 1);
  return Ok();
}
ErrnoOr<void> Kill(Task& writer, Cgroup& g, std::string_view text) {
  std::optional<int> kill = Number<int>(text);
  if (!kill) return Errno(EINVAL);
  if (*kill != 1) return Errno(ERANGE);
  g.KillAll(&writer.group());
  return Ok();
}

template <uint64_t Cgroup::Limits::* Limit>
std::string ShowLimit(Task&, Cgroup& g) {
  return Value(g.limits().*Limit);
}
template <uint64_t Cgroup::Limits::* Limit>
ErrnoOr<void> SetCount(Task&, Cgroup& g, std::string_view text) {
  std::optional<int64_t> value = Number<int64_t>(text);
  if (text != "max" && !value) return Errno(EINVAL);
  if (value && (*value < 0 || *value > INT32_MAX)) return Errno(ERANGE);
  g.limits().*Limit = value ? static_cast<uint64_t>(*value) : Cgroup::kMax;
  return Ok();
}

std::string Stat(Task&, Cgroup& g) { return Line("nr_descendants", g.CountDescendants()) + Line("nr_dying_descendants", 0); }
std::string Type(Task&, Cgroup&) { return "domain\n"; }
ErrnoOr<void> SetType(Task&, Cgroup&, std::string_view text) { return Errno(text == "threaded" ? EOPNOTSUPP : EINVAL); }

// cgroup_may_write()
ErrnoOr<void> CheckWrite(Task& writer, Cgroup& group) {
  Cgroup::Owner owner{0644, group.owner().uid, group.owner().gid};
  if (auto it = group.file_owners().find("cgroup.procs"); it != group.file_owners().end()) owner = it->second;
  const Credentials& creds = writer.creds();
  uint32_t bit = creds.fsuid == owner.uid ? 0200 : creds.InGroup(owner.gid) ? 0020 : 0002;
  return (owner.mode & bit) != 0 || writer.Has(1 /* CAP_DAC_OVERRIDE */) ? Ok() : ErrnoOr<void>(Errno(EACCES));
}

// cgroup_procs_write_permission(): whoever moves a process must be able to write the file of the group above both, too.
ErrnoOr<void> CheckMove(Task& writer, const Cgroup& from, Cgroup& to) {
  Cgroup& root = Cgroup::RootFor(writer);
  if (!from.IsWithin(root) || !to.IsWithin(root)) return Errno(ENOENT);
  Cgroup* common = &to;
  while (common != nullptr && !from.IsWithin(*common)) common = common->parent();
  if (common == nullptr) return Errno(ENOENT);
  return CheckWrite(writer, *common);
}

ErrnoOr<void> MoveHere(Task& writer, Cgroup& g, std::string_view text) {
  RefPtr<ThreadGroup> group(&TRY(FindNumbered(writer, text))->group());
  TRY(CheckMove(writer, Cgroup::Of(*group->leader()), g));
  return g.Move(*group);
}
ErrnoOr<void> MoveThread(Task&, Cgroup&, std::string_view) { return Errno(EOPNOTSUPP); }

// --- cpu ---

std::string CpuMax(Task&, Cgroup& g) {
  std::string quota = Value(g.limits().cpu_quota);
  quota.back() = ' ';
  return quota + std::to_string(g.limits().cpu_period) + "\n";
}
ErrnoOr<void> SetCpuMax(Task&, Cgroup& g, std::string_view text) {
  std::vector<std::string_view> words = Words(text);
  if (words.empty() || words.size() > 2) return Errno(EINVAL);
  uint64_t quota = Cgroup::kMax, period = g.limits().cpu_period;
  if (words[0] != "max") {
    std::optional<uint64_t> value = Number<uint64_t>(words[0]);
    if (!value || *value < 1000 || *value > uint64_t{1} << 44) return Errno(EINVAL);
    quota = *value;
  }
  if (words.size() == 2) {
    std::optional<uint64_t> value = Number<uint64_t>(words[1]);
    if (!value || *value < 1000 || *value > 1'000'000) return Errno(EINVAL);
    period = *value;
  }
  if (quota < g.limits().cpu_burst) return Errno(EINVAL);
  g.limits().cpu_quota = quota;
  g.limits().cpu_period = period;
  g.LimitsChanged();
  return Ok();
}
std::string CpuStat(Task&, Cgroup& g) {
  Cgroup::Cpu used = g.CpuUsed();
  uint64_t user = static_cast<uint64_t>(used.user) / 1000, system = static_cast<uint64_t>(used.system) / 1000;
  std::string out = Line("usage_usec", user + system) + Line("user_usec", user) + Line("system_usec", system) + "nice_usec 0\n";
  if ((g.available() & Cgroup::kCpu) == 0) return out;
  const Cgroup::Counters& c = g.counters();
  return out + Line("nr_periods", c.periods) + Line("nr_throttled", c.throttled) + Line("throttled_usec", c.throttled_ns / 1000) +
         "nr_bursts 0\nburst_usec 0\n";
}
std::string CpuStatLocal(Task&, Cgroup& g) {
  return (g.available() & Cgroup::kCpu) != 0 ? Line("throttled_usec", g.counters().throttled_ns / 1000) : "";
}

// sched_prio_to_weight: each step of a nice value is a quarter more or less.
constexpr uint64_t kNiceWeights[] = {88761, 71755, 56483, 46273, 36291, 29154, 23254, 18705, 14949, 11916, 9548, 7620, 6100, 4904,
                                     3906,  3121,  2501,  1991,  1586,  1277,  1024,  820,   655,   526,   423,  335,  272,  215,
                                     172,   137,   110,   87,    70,    56,    45,    36,    29,    23,    18,   15};
constexpr uint64_t kIdleShares = 3;  // WEIGHT_IDLEPRIO
uint64_t SharesOf(Cgroup& g) { return g.limits().cpu_idle ? kIdleShares : g.limits().cpu_shares; }

ErrnoOr<void> SetShares(Cgroup& g, uint64_t shares) {
  if (g.limits().cpu_idle) return Errno(EINVAL);
  g.limits().cpu_shares = shares;
  g.LimitsChanged();
  return Ok();
}
std::string CpuWeight(Task&, Cgroup& g) { return std::to_string((SharesOf(g) * 100 + 512) / 1024) + "\n"; }
ErrnoOr<void> SetCpuWeight(Task&, Cgroup& g, std::string_view text) {
  std::optional<uint64_t> value = Number<uint64_t>(text);
  if (!value) return Errno(EINVAL);
  if (*value < 1 || *value > 10000) return Errno(ERANGE);
  return SetShares(g, (*value * 1024 + 50) / 100);
}
// The nearest nice value.
std::string CpuWeightNice(Task&, Cgroup& g) {
  uint64_t shares = SharesOf(g), nearest = ~uint64_t{0};
  size_t index = 0;
  for (size_t i = 0; i < std::size(kNiceWeights); ++i) {
    uint64_t distance = shares > kNiceWeights[i] ? shares - kNiceWeights[i] : kNiceWeights[i] - shares;
    if (distance >= nearest) break;
    nearest = distance;
    index = i;
  }
  return std::to_string(static_cast<int>(index) - 20) + "\n";
}
ErrnoOr<void> SetCpuWeightNice(Task&, Cgroup& g, std::string_view text) {
  std::optional<int64_t> nice = AnyNumber(text);
  if (!nice) return Errno(EINVAL);
  if (*nice < -20 || *nice > 19) return Errno(ERANGE);
  return SetShares(g, kNiceWeights[*nice + 20]);
}
std::string CpuIdle(Task&, Cgroup& g) { return Flag(g.limits().cpu_idle); }
ErrnoOr<void> SetCpuIdle(Task&, Cgroup& g, std::string_view text) {
  std::optional<int64_t> on = AnyNumber(text);
  if (!on || *on < 0 || *on > 1) return Errno(EINVAL);
  g.limits().cpu_idle = *on == 1;
  if (*on == 0) g.limits().cpu_shares = Cgroup::kUsualShares;
  g.LimitsChanged();
  return Ok();
}
ErrnoOr<void> SetCpuBurst(Task&, Cgroup& g, std::string_view text) {
  std::optional<uint64_t> burst = Number<uint64_t>(text);
  if (!burst || (*burst > 0 && g.limits().cpu_quota != Cgroup::kMax && *burst > g.limits().cpu_quota)) return Errno(EINVAL);
  g.limits().cpu_burst = *burst;
  return Ok();
}

// --- cpuset ---

std::string Cpus(Task&, Cgroup& g) { return (g.cpus() ? CpuListText(*g.cpus()) : "") + "\n"; }
std::string EffectiveCpus(Task&, Cgroup& g) { return CpuListText(g.EffectiveCpus()) + "\n"; }
ErrnoOr<void> SetCpus(Task&, Cgroup& g, std::string_view text) {
  if (text.empty()) return g.SetCpus(std::nullopt);
  return g.SetCpus(TRY(ParseCpus(text)));
}
// One memory node.
std::string Mems(Task&, Cgroup& g) { return g.has_mems() ? "0\n" : "\n"; }
std::string EffectiveMems(Task&, Cgroup&) { return "0\n"; }
ErrnoOr<void> SetMems(Task&, Cgroup& g, std::string_view text) {
  if (!text.empty() && text != "0" && text != "0-0") return Errno(Number<int>(text) ? ERANGE : EINVAL);
  return g.SetMems(!text.empty());
}

// --- memory ---

template <uint64_t Cgroup::Limits::* Limit>
ErrnoOr<void> SetBytes(Task&, Cgroup& g, std::string_view text) {
  g.limits().*Limit = TRY(Bytes(text));
  g.LimitsChanged();
  return Ok();
}
// The container's own limit, which the host enforces, shows where it has set none itself.
std::string MemoryMax(Task& reader, Cgroup& g) {
  uint64_t own = g.limits().memory_max;
  if (g.parent() == nullptr && !g.removed()) {
    uint64_t outer = amber::MemoryOf(reader.container());
    if (outer < Machine::Get().memory_bytes) own = std::min(own, outer);
  }
  return Value(own);
}
std::string MemoryCurrent(Task&, Cgroup& g) { return std::to_string(g.MemoryUsed().resident) + "\n"; }
std::string MemoryPeak(Task&, Cgroup& g) {
  uint64_t& peak = g.counters().memory_peak;
  peak = std::max(peak, g.MemoryUsed().resident);
  return std::to_string(peak) + "\n";
}
std::string MemoryEvents(Task&, Cgroup& g) {
  const Cgroup::Counters& c = g.counters();
  return Line("low", 0) + Line("high", c.memory_high) + Line("max", c.memory_max) + Line("oom", c.oom) + Line("oom_kill", c.oom_kill) +
         Line("oom_group_kill", c.oom_group_kill);
}
std::string MemoryStat(Task&, Cgroup& g) {
  Cgroup::Memory used = g.MemoryUsed();
  return Line("anon", used.anonymous) + Line("file", used.resident - used.anonymous) +
         "kernel 0\nkernel_stack 0\npagetables 0\nsock 0\nshmem 0\nfile_mapped 0\nfile_dirty 0\nfile_writeback 0\n" + Line("inactive_anon", 0) +
         Line("active_anon", used.anonymous) + "inactive_file 0\n" + Line("active_file", used.resident - used.anonymous) +
         "unevictable 0\nslab_reclaimable 0\nslab_unreclaimable 0\nslab 0\npgfault 0\npgmajfault 0\n";
}
std::string OomGroup(Task&, Cgroup& g) { return g.limits().oom_group ? "1\n" : "0\n"; }
ErrnoOr<void> SetOomGroup(Task&, Cgroup& g, std::string_view text) {
  if (text != "0" && text != "1") return Errno(EINVAL);
  g.limits().oom_group = text == "1";
  return Ok();
}
std::string Zero(Task&, Cgroup&) { return "0\n"; }
std::string SwapEvents(Task&, Cgroup&) { return "high 0\nmax 0\nfail 0\n"; }
// memory_reclaim(): there is no swap, and pages of files are the host's to take: less than was asked for is EAGAIN.
ErrnoOr<void> Reclaim(Task&, Cgroup&, std::string_view text) {
  std::vector<std::string_view> words = Words(text);
  if (words.empty() || words.size() > 2 || (words.size() == 2 && !words[1].starts_with("swappiness="))) return Errno(EINVAL);
  return TRY(Bytes(words[0])) == 0 ? Ok() : ErrnoOr<void>(Errno(EAGAIN));
}

// --- pids ---

std::string PidsCurrent(Task&, Cgroup& g) { return std::to_string(g.CountTasks()) + "\n"; }
std::string PidsPeak(Task&, Cgroup& g) {
  uint64_t& peak = g.counters().pids_peak;
  peak = std::max<uint64_t>(peak, g.CountTasks());
  return std::to_string(peak) + "\n";
}
ErrnoOr<void> SetPidsMax(Task&, Cgroup& g, std::string_view text) {
  constexpr int64_t kPidMaxLimit = 4'194'304;
  std::optional<int64_t> value = Number<int64_t>(text);
  if (text != "max" && (!value || *value < 0 || *value > kPidMaxLimit)) return Errno(EINVAL);
  g.limits().pids = value ? static_cast<uint64_t>(*value) : Cgroup::kMax;
  return Ok();
}
std::string PidsEvents(Task&, Cgroup& g) { return Line("max", g.counters().pids_max); }

using L = Cgroup::Limits;
constexpr uint32_t kRead = 0444, kReadWrite = 0644, kWrite = 0200;

constexpr CgroupEntry kEntries[] = {
    {"cgroup.controllers", 0, kRead, &Controllers},
    {"cgroup.events", 0, kRead, &Events, nullptr, Cgroup::kEvents},
    {"cgroup.freeze", 0, kReadWrite, &Freeze, &SetFreeze},
    {"cgroup.kill", 0, kWrite, nullptr, &Kill},
    {"cgroup.max.depth", 0, kReadWrite, &ShowLimit<&L::max_depth>, &SetCount<&L::max_depth>},
    {"cgroup.max.descendants", 0, kReadWrite, &ShowLimit<&L::max_descendants>, &SetCount<&L::max_descendants>},
    {"cgroup.procs", 0, kReadWrite, &ProcsText, &MoveHere},
    {"cgroup.stat", 0, kRead, &Stat},
    {"cgroup.subtree_control", 0, kReadWrite, &SubtreeControl, &SetSubtreeControl},
    {"cgroup.threads", 0, kReadWrite, &ThreadsText, &MoveThread},
    {"cgroup.type", 0, kReadWrite, &Type, &SetType},
    {"cpu.max", Cgroup::kCpu, kReadWrite, &CpuMax, &SetCpuMax},
    {"cpu.idle", Cgroup::kCpu, kReadWrite, &CpuIdle, &SetCpuIdle},
    {"cpu.max.burst", Cgroup::kCpu, kReadWrite, &ShowLimit<&L::cpu_burst>, &SetCpuBurst},
    {"cpu.stat", 0, kRead, &CpuStat},
    {"cpu.stat.local", 0, kRead, &CpuStatLocal},
    {"cpu.weight", Cgroup::kCpu, kReadWrite, &CpuWeight, &SetCpuWeight},
    {"cpu.weight.nice", Cgroup::kCpu, kReadWrite, &CpuWeightNice, &SetCpuWeightNice},
    {"cpuset.cpus", Cgroup::kCpuset, kReadWrite, &Cpus, &SetCpus},
    {"cpuset.cpus.effective", Cgroup::kCpuset, kRead, &EffectiveCpus},
    {"cpuset.mems", Cgroup::kCpuset, kReadWrite, &Mems, &SetMems},
    {"cpuset.mems.effective", Cgroup::kCpuset, kRead, &EffectiveMems},
    {"memory.current", Cgroup::kMemory, kRead, &MemoryCurrent},
    {"memory.events", Cgroup::kMemory, kRead, &MemoryEvents, nullptr, Cgroup::kMemoryEvents},
    {"memory.high", Cgroup::kMemory, kReadWrite, &ShowLimit<&L::memory_high>, &SetBytes<&L::memory_high>},
    {"memory.low", Cgroup::kMemory, kReadWrite, &ShowLimit<&L::memory_low>, &SetBytes<&L::memory_low>},
    {"memory.max", Cgroup::kMemory, kReadWrite, &MemoryMax, &SetBytes<&L::memory_max>},
    {"memory.min", Cgroup::kMemory, kReadWrite, &ShowLimit<&L::memory_min>, &SetBytes<&L::memory_min>},
    {"memory.oom.group", Cgroup::kMemory, kReadWrite, &OomGroup, &SetOomGroup},
    {"memory.peak", Cgroup::kMemory, kRead, &MemoryPeak},
    {"memory.reclaim", Cgroup::kMemory, kWrite, nullptr, &Reclaim},
    {"memory.stat", Cgroup::kMemory, kRead, &MemoryStat},
    {"memory.swap.current", Cgroup::kMemory, kRead, &Zero},
    {"memory.swap.events", Cgroup::kMemory, kRead, &SwapEvents},
    {"memory.swap.high", Cgroup::kMemory, kReadWrite, &ShowLimit<&L::swap_high>, &SetBytes<&L::swap_high>},
    {"memory.swap.peak", Cgroup::kMemory, kRead, &Zero},
    {"memory.swap.max", Cgroup::kMemory, kReadWrite, &ShowLimit<&L::swap_max>, &SetBytes<&L::swap_max>},
    {"pids.current", Cgroup::kPids, kRead, &PidsCurrent},
    {"pids.events", Cgroup::kPids, kRead, &PidsEvents, nullptr, Cgroup::kPidsEvents},
    {"pids.max", Cgroup::kPids, kReadWrite, &ShowLimit<&L::pids>, &SetPidsMax},
    {"pids.peak", Cgroup::kPids, kRead, &PidsPeak},
};
static_assert(std::size(kEntries) < kInosPerGroup);

}  // namespace

std::span<const CgroupEntry> CgroupEntries(bool first_version) { return first_version ? FirstVersionEntries() : kEntries; }

// cgroup_css_set_fork()
ErrnoOr<RefPtr<Cgroup>> CgroupForClone(Task& task, int fd, bool thread) {
  RefPtr<File> file = TRY(task.files().GetAny(fd));
  auto* place = dynamic_cast<VfsFile*>(file.get());
  auto* inode = place != nullptr ? dynamic_cast<CgroupInode*>(&place->inode()) : nullptr;
  if (inode == nullptr || inode->entry() != nullptr) return Errno(EBADF);
  RefPtr<Cgroup> group = inode->GroupFor(&task);
  if (!group || group->first() != nullptr) return Errno(EBADF);
  if (group->removed()) return Errno(ENOENT);  // css_tryget_online_from_dir()
  TRY(CheckWrite(task, *group));
  Cgroup& own = Cgroup::Of(task);
  TRY(CheckMove(task, own, *group));
  if (group.get() == &own) return group;
  if (group->enabled() != 0) return Errno(EBUSY);  // no internal processes
  if (thread) return Errno(EOPNOTSUPP);
  return group;
}

}  // namespace amber
