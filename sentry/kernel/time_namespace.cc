#include "sentry/kernel/time_namespace.h"

#include <linux/capability.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <optional>

#include "sentry/kernel/clock.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/kernel.pb.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/user_namespace.h"
#include "sentry/loader/loader.h"
#include "sentry/loader/vdso/vdso.h"
#include "sentry/mm/memory_manager.h"

namespace amber {
namespace {

// KTIME_SEC_MAX.
constexpr int64_t kMostSeconds = INT64_MAX / kNsPerSecond;
// Namespaces with a page of their own: each costs the sentry a descriptor.
constexpr int kMostPages = 64;
std::atomic<int> pages = 0;

// One line of what is written (timens_offsets_write).
struct Line {
  clockid_t clock;
  int64_t seconds;
  unsigned long ns;
};

std::optional<Line> ParseLine(const std::string& text) {
  char clock[10] = {};
  long long seconds;
  char ns[32] = {};
  if (sscanf(text.c_str(), "%9s %lld %31[0-9]", clock, &seconds, ns) != 3) return std::nullopt;
  Line line{.clock = -1, .seconds = seconds, .ns = strtoul(ns, nullptr, 10)};
  std::string_view name(clock);
  if (name == "monotonic" || name == "1") line.clock = CLOCK_MONOTONIC;
  if (name == "boottime" || name == "7") line.clock = CLOCK_BOOTTIME;
  if (line.clock < 0 || line.ns >= static_cast<unsigned long>(kNsPerSecond)) return std::nullopt;
  return line;
}

void AppendOffset(std::string* out, const char* clock, int64_t offset) {
  int64_t seconds = offset / kNsPerSecond, ns = offset % kNsPerSecond;
  if (ns < 0) {
    ns += kNsPerSecond;
    --seconds;
  }
  char line[64];
  snprintf(line, sizeof(line), "%-10s %10lld %9lld\n", clock, static_cast<long long>(seconds), static_cast<long long>(ns));
  *out += line;
}

// The clock stays between 0 and half of what it can show, so that no sum of times overflows.
bool InRange(int64_t now, int64_t offset) {
  int64_t sum;
  return !__builtin_add_overflow(now, offset, &sum) && sum >= 0 && sum / kNsPerSecond <= kMostSeconds / 2;
}

}  // namespace

int64_t TimeOffsets::Of(clockid_t clock) const {
  switch (clock) {
    case CLOCK_MONOTONIC:
    case CLOCK_MONOTONIC_RAW:
    case CLOCK_MONOTONIC_COARSE: return monotonic;
    case CLOCK_BOOTTIME:
    case CLOCK_BOOTTIME_ALARM: return boottime;
    default: return 0;
  }
}

TimeNamespace::TimeNamespace() = default;
TimeNamespace::TimeNamespace(RefPtr<UserNamespace> owner, const TimeNamespace* from) : Namespace(std::move(owner)) {
  if (from != nullptr) offsets_ = from->offsets_;
}
TimeNamespace::~TimeNamespace() {
  if (page_ != nullptr) --pages;
}

ErrnoOr<void> TimeNamespace::SetOffsets(const Clocks& clocks, const TimeOffsets& offsets) {
  if (!InRange(clocks.Monotonic(), offsets.monotonic) || !InRange(clocks.Boottime(), offsets.boottime)) return Errno(ERANGE);
  if (frozen_) return Errno(EACCES);
  offsets_ = offsets;
  return Ok();
}

std::string TimeNamespace::Save(state::Saver& saver) const {
  proto::PlainNamespace m;
  m.set_ino(ino());
  m.set_owner(SaveOwner(saver));
  m.set_monotonic_offset(offsets_.monotonic);
  m.set_boottime_offset(offsets_.boottime);
  m.set_frozen(frozen_);
  return m.SerializeAsString();
}

bool TimeNamespace::Load(state::Loader& loader, std::string_view bytes) {
  proto::PlainNamespace m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return false;
  constexpr int64_t kMost = kMostSeconds / 2 * kNsPerSecond;
  for (int64_t offset : {m.monotonic_offset(), m.boottime_offset()}) {
    if (offset > kMost || offset < -kMost) return loader.Fail("a time namespace's offset is out of range");
  }
  offsets_ = {m.monotonic_offset(), m.boottime_offset()};
  frozen_ = m.frozen();
  return LoadCommon(loader, m.ino(), m.owner());
}

const TimeOffsets& TimeOffsetsOf(const Task& task) {
  static constexpr TimeOffsets kNone;
  const RefPtr<TimeNamespace>& ns = task.extras().time;
  return ns ? ns->offsets() : kNone;
}

int VdsoParamsFd(TimeNamespace* ns, const Clocks& clocks) {
  loader::Vdso* vdso = loader::SharedVdso(0);
  if (vdso == nullptr) return -1;
  if (ns == nullptr || ns->offsets_ == TimeOffsets()) return vdso->params_fd();
  if (ns->page_ == nullptr && pages < kMostPages) {
    auto made = vdso->OtherParams(clocks.monotonic_offset() + ns->offsets_.monotonic, clocks.boottime_offset() + ns->offsets_.boottime);
    if (!made.ok()) return -1;
    ns->page_ = std::move(made).value();
    ++pages;
  }
  return ns->page_ != nullptr ? ns->page_->fd() : -1;
}

std::vector<platform::StubOp> VdsoParamsOps(const MemoryManager& mm, TimeNamespace* ns, const Clocks& clocks) {
  std::vector<platform::StubOp> ops;
  for (const auto& [start, vma] : mm.vmas()) {
    if (vma.name == VmaName::kVvar) ops.push_back(MemoryManager::MapOp(vma, {.fd = VdsoParamsFd(ns, clocks)}));
  }
  return ops;
}

std::string TimeOffsetsText(const Task& target) {
  TimeOffsets offsets;
  if (target.extras().time_for_children) offsets = target.extras().time_for_children->offsets();
  std::string out;
  AppendOffset(&out, "monotonic", offsets.monotonic);
  AppendOffset(&out, "boottime", offsets.boottime);
  return out;
}

ErrnoOr<void> WriteTimeOffsets(const Credentials& opener, Task& target, std::string_view text) {
  const RefPtr<TimeNamespace>& ns = target.extras().time_for_children;
  std::vector<Line> lines;
  for (size_t at = 0; at <= text.size() && lines.size() < 2;) {
    size_t end = std::min(text.find('\n', at), text.size());
    std::optional<Line> line = ParseLine(std::string(text.substr(at, end - at)));
    if (!line) return Errno(EINVAL);
    lines.push_back(*line);
    at = end + 1;
  }
  if (target.exiting()) return Errno(ESRCH);
  if (!opener.HasIn(ns ? ns->owner() : nullptr, CAP_SYS_TIME)) return Errno(EPERM);
  TimeOffsets next;
  if (ns) next = ns->offsets();
  for (const Line& line : lines) {
    // Twice as much as any clock can show, so that the sum of both parts is one.
    if (line.seconds >= kMostSeconds || line.seconds <= -kMostSeconds) return Errno(ERANGE);
    (line.clock == CLOCK_MONOTONIC ? next.monotonic : next.boottime) = line.seconds * kNsPerSecond + static_cast<int64_t>(line.ns);
  }
  // Nobody's: the initial namespace's offsets are settled.
  if (!ns) return Errno(EACCES);
  return ns->SetOffsets(target.kernel().clocks(), next);
}

}  // namespace amber
