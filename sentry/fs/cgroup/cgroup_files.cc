// The files of a group. What they show and take is that of Documentation/admin-guide/cgroup-v2.rst.
#include <charconv>
#include <optional>
#include <vector>

#include "sentry/fs/cgroup/cgroup_fs.h"
#include "sentry/fs/proc/machine.h"
#include "sentry/fs/proc/memory_view.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/vfs/fd_table.h"

namespace amber {
namespace {

struct Name {
  const char* name;
  uint32_t bit;
};
constexpr Name kControllers[] = {{"cpuset", Cgroup::kCpuset}, {"cpu", Cgroup::kCpu}, {"memory", Cgroup::kMemory}, {"pids", Cgroup::kPids}};

std::string Names(uint32_t set) {
  std::string out;
  for (const Name& c : kControllers) {
    if ((set & c.bit) == 0) continue;
    if (!out.empty()) out += ' ';
    out += c.name;
  }
  return out + "\n";
}

std::string Value(uint64_t v) { return (v == Cgroup::kMax ? std::string("max") : std::to_string(v)) + "\n"; }
std::string Line(const char* name, uint64_t v) { return std::string(name) + " " + std::to_string(v) + "\n"; }

std::vector<std::string_view> Words(std::string_view text) {
  std::vector<std::string_view> out;
  while (!text.empty()) {
    size_t end = std::min(text.find_first_of(" \t\n"), text.size());
    if (end > 0) out.push_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return out;
}

template <typename T>
std::optional<T> Number(std::string_view text) {
  T value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// memparse(): a suffix multiplies. In whole pages.
ErrnoOr<uint64_t> Bytes(std::string_view text) {
  if (text == "max") return Cgroup::kMax;
  int shift = 0;
  if (!text.empty()) {
    switch (text.back() | 0x20) {
      case 'k': shift = 10; break;
      case 'm': shift = 20; break;
      case 'g': shift = 30; break;
      case 't': shift = 40; break;
      default: break;
    }
  }
  if (shift != 0) text.remove_suffix(1);
  std::optional<uint64_t> number = Number<uint64_t>(text);
  if (!number || *number > (~uint64_t{0} >> shift)) return Errno(EINVAL);
  return (*number << shift) & ~uint64_t{4095};
}

// --- the core ---

std::string Controllers(Task&, Cgroup& g) { return Names(g.available()); }
std::string SubtreeControl(Task&, Cgroup& g) { return Names(g.enabled()); }

ErrnoOr<void> SetSubtreeControl(Task&, Cgroup& g, std::string_view text) {
  uint32_t on = 0, off = 0;
  for (std::string_view word : Words(text)) {
    uint32_t bit = 0;
    for (const Name& c : kControllers) {
      if (word.substr(1) == c.name) bit = c.bit;
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

std::string Procs(Task& reader, Cgroup& g) {
  std::string out;
  for (const ThreadGroup* group : g.members()) {
    if (int pid = reader.group().pids().IdOf(*group); pid != 0 || reader.group().pids().level() > 0) out += std::to_string(pid) + "\n";
  }
  return out;
}
std::string Threads(Task& reader, Cgroup& g) {
  std::string out;
  for (const ThreadGroup* group : g.members()) {
    for (const RefPtr<Task>& t : group->tasks()) {
      if (!t->exiting()) out += std::to_string(reader.group().pids().IdOf(*t)) + "\n";
    }
  }
  return out;
}

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
  std::optional<int> pid = Number<int>(text);
  if (!pid || *pid < 0) return Errno(EINVAL);
  ThreadGroup* group = *pid == 0 ? &writer.group() : nullptr;
  if (group == nullptr) {
    Task* task = writer.group().pids().FindTask(*pid);
    if (task == nullptr || task->group().zombie()) return Errno(ESRCH);
    group = &task->group();
  }
  RefPtr<ThreadGroup> moved(group);
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
  g.limits().cpu_quota = quota;
  g.limits().cpu_period = period;
  g.LimitsChanged();
  return Ok();
}
std::string CpuStat(Task&, Cgroup& g) {
  Cgroup::Cpu used = g.CpuUsed();
  uint64_t user = static_cast<uint64_t>(used.user) / 1000, system = static_cast<uint64_t>(used.system) / 1000;
  std::string out = Line("usage_usec", user + system) + Line("user_usec", user) + Line("system_usec", system);
  if ((g.available() & Cgroup::kCpu) == 0) return out;
  const Cgroup::Counters& c = g.counters();
  return out + Line("nr_periods", c.periods) + Line("nr_throttled", c.throttled) + Line("throttled_usec", c.throttled_ns / 1000) +
         "nr_bursts 0\nburst_usec 0\n";
}
ErrnoOr<void> SetCpuWeight(Task&, Cgroup& g, std::string_view text) {
  std::optional<uint64_t> value = Number<uint64_t>(text);
  if (!value) return Errno(EINVAL);
  if (*value < 1 || *value > 10000) return Errno(ERANGE);
  g.limits().cpu_weight = *value;
  return Ok();
}

// --- cpuset ---

// bitmap_parselist() without its rarer forms ("0-10:1/2", "all"): ranges and numbers with commas between.
ErrnoOr<cpu_set_t> ParseCpus(std::string_view text) {
  cpu_set_t set;
  CPU_ZERO(&set);
  while (!text.empty()) {
    size_t end = std::min(text.find(','), text.size());
    std::string_view part = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    size_t dash = part.find('-');
    std::optional<int> first = Number<int>(part.substr(0, std::min(dash, part.size())));
    std::optional<int> last = dash == std::string_view::npos ? first : Number<int>(part.substr(dash + 1));
    if (!first || !last || *first < 0 || *last < *first) return Errno(EINVAL);
    if (static_cast<uint32_t>(*last) >= Cgroup::PossibleCpus()) return Errno(ERANGE);
    for (int cpu = *first; cpu <= *last; ++cpu) CPU_SET(cpu, &set);
  }
  return set;
}

std::string Cpus(Task&, Cgroup& g) { return (g.cpus() ? CpuListText(*g.cpus()) : "") + "\n"; }
std::string EffectiveCpus(Task&, Cgroup& g) { return CpuListText(g.EffectiveCpus()) + "\n"; }
ErrnoOr<void> SetCpus(Task&, Cgroup& g, std::string_view text) {
  if (text.empty()) {
    g.SetCpus(std::nullopt);
    return Ok();
  }
  g.SetCpus(TRY(ParseCpus(text)));
  return Ok();
}
// One memory node.
std::string Mems(Task&, Cgroup& g) { return g.has_mems() ? "0\n" : "\n"; }
std::string EffectiveMems(Task&, Cgroup&) { return "0\n"; }
ErrnoOr<void> SetMems(Task&, Cgroup& g, std::string_view text) {
  if (!text.empty() && text != "0" && text != "0-0") return Errno(Number<int>(text) ? ERANGE : EINVAL);
  g.set_has_mems(!text.empty());
  return Ok();
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
         "oom_group_kill 0\n";
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
    {"cgroup.procs", 0, kReadWrite, &Procs, &MoveHere},
    {"cgroup.stat", 0, kRead, &Stat},
    {"cgroup.subtree_control", 0, kReadWrite, &SubtreeControl, &SetSubtreeControl},
    {"cgroup.threads", 0, kReadWrite, &Threads, &MoveThread},
    {"cgroup.type", 0, kReadWrite, &Type, &SetType},
    {"cpu.max", Cgroup::kCpu, kReadWrite, &CpuMax, &SetCpuMax},
    {"cpu.stat", 0, kRead, &CpuStat},
    {"cpu.weight", Cgroup::kCpu, kReadWrite, &ShowLimit<&L::cpu_weight>, &SetCpuWeight},
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
    {"memory.stat", Cgroup::kMemory, kRead, &MemoryStat},
    {"memory.swap.current", Cgroup::kMemory, kRead, &Zero},
    {"memory.swap.max", Cgroup::kMemory, kReadWrite, &ShowLimit<&L::swap_max>, &SetBytes<&L::swap_max>},
    {"pids.current", Cgroup::kPids, kRead, &PidsCurrent},
    {"pids.events", Cgroup::kPids, kRead, &PidsEvents, nullptr, Cgroup::kPidsEvents},
    {"pids.max", Cgroup::kPids, kReadWrite, &ShowLimit<&L::pids>, &SetPidsMax},
    {"pids.peak", Cgroup::kPids, kRead, &PidsPeak},
};
static_assert(std::size(kEntries) < 64);  // kInosPerGroup

}  // namespace

std::span<const CgroupEntry> CgroupEntries() { return kEntries; }

// cgroup_css_set_fork()
ErrnoOr<RefPtr<Cgroup>> CgroupForClone(Task& task, int fd, bool thread) {
  RefPtr<File> file = TRY(task.files().GetAny(fd));
  auto* place = dynamic_cast<VfsFile*>(file.get());
  auto* inode = place != nullptr ? dynamic_cast<CgroupInode*>(&place->inode()) : nullptr;
  if (inode == nullptr || inode->entry() != nullptr) return Errno(EBADF);
  RefPtr<Cgroup> group = inode->GroupFor(&task);
  if (!group) return Errno(EBADF);
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
