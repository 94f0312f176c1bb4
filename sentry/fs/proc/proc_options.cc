// Options of a mounted proc(5): whom it hides from whom (fs/proc/root.c).
#include <errno.h>
#include <stdlib.h>

#include <string_view>

#include "sentry/fs/proc/proc.h"
#include "sentry/kernel/task.h"

namespace amber {
namespace {

// Digits in the base that they tell, or a name: HIDEPID_*.
ErrnoOr<int> ParseHidePid(const std::string& text) {
  constexpr std::pair<std::string_view, int> kNames[] = {{"off", 0}, {"noaccess", 1}, {"invisible", 2}, {"ptraceable", 4}};
  for (const auto& [name, value] : kNames) {
    if (text == name) return value;
  }
  char* end = nullptr;
  errno = 0;
  unsigned long value = text.empty() || text[0] == '-' ? 3 : strtoul(text.c_str(), &end, 0);
  bool known = value <= 2 || value == 4;
  if (end == nullptr || *end != '\0' || errno != 0 || !known) return Errno(EINVAL);
  return static_cast<int>(value);
}

ErrnoOr<uint32_t> ParseGid(const Task* task, const std::string& text) {
  char* end = nullptr;
  errno = 0;
  unsigned long value = text.empty() || text[0] == '-' ? 0 : strtoul(text.c_str(), &end, 0);
  if (end == nullptr || *end != '\0' || errno != 0 || value >= UINT32_MAX) return Errno(EINVAL);
  auto gid = static_cast<uint32_t>(value);
  if (task == nullptr) return gid;
  uint32_t known = ToKernelGid(task->creds().user_ns.get(), gid);
  return known == UserNamespace::kInvalidId ? ErrnoOr<uint32_t>(Errno(EINVAL)) : known;
}

}  // namespace

ErrnoOr<ProcOptions> ProcOptions::Parse(const Task* task, const std::vector<std::string>& options, ProcOptions base) {
  for (const std::string& option : options) {
    size_t equals = option.find('=');
    std::string key = option.substr(0, equals), value = equals == std::string::npos ? "" : option.substr(equals + 1);
    if (key == "hidepid") {
      base.hide = TRY(ParseHidePid(value));
    } else if (key == "gid") {
      base.gid = TRY(ParseGid(task, value));
    } else if (key == "subset") {
      if (value != "pid") return Errno(EINVAL);
      base.processes_only = true;
    } else {
      return Errno(EINVAL);
    }
  }
  return base;
}

std::string ProcOptions::Text() const {
  std::string out;
  if (gid != 0) out += ",gid=" + std::to_string(gid);
  if (hide != 0) out += hide == kNoAccess ? ",hidepid=noaccess" : hide == kInvisible ? ",hidepid=invisible" : ",hidepid=ptraceable";
  if (processes_only) out += ",subset=pid";
  return out;
}

// has_pid_permissions()
bool ProcOptions::Permits(Task* reader, Task& target, int from) const {
  if (hide == 0 || reader == nullptr) return true;
  if (hide != kPtraceable && (hide < from || reader->creds().InGroup(gid))) return true;
  return MayInspect(*reader, target);
}

ErrnoOr<void> ProcFileSystem::Reconfigure(Task& task, const std::vector<std::string>& options) {
  ProcOptions next = TRY(ProcOptions::Parse(&task, options, options_));
  // What it shows at all stays (proc_reconfigure()).
  next.processes_only = options_.processes_only;
  options_ = next;
  return Ok();
}

}  // namespace amber
