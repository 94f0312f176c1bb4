// The tables of /proc: one line per file, with its name, mode and the function that writes its text.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>

#include "sentry/base/errno_or.h"

namespace amber {

class PidNamespace;
class Task;

// Text of a file, or the target of a symbolic link. `reader` asks; `target` is the process or thread of a file under /proc/PID, which may
// have exited (then it has no memory, files or working directory), else null.
using ProcText = ErrnoOr<std::string> (*)(Task& reader, Task* target);
// What was written to the file, at most a page, without its newline.
using ProcWrite = ErrnoOr<void> (*)(Task& writer, Task* target, std::string_view text);

// In which pid namespace's terms ids are shown while a text is made: that of who mounted the file system. Kernel lock.
class ProcTerms {
 public:
  explicit ProcTerms(const PidNamespace& pids);
  ~ProcTerms();
  ProcTerms(const ProcTerms&) = delete;
  ProcTerms& operator=(const ProcTerms&) = delete;
  static const PidNamespace& Now();

 private:
  const PidNamespace* before_;
};

struct ProcEntry {
  const char* path;  // below /proc or below /proc/PID
  uint32_t mode;     // with the type: S_IFREG or S_IFLNK
  ProcText text;
  ProcWrite write = nullptr;
  // Reading needs ptrace_may_access() to the target.
  bool ptrace = false;
  // Writing needs the opener's user and user namespace.
  bool opener_writes = false;
};

inline constexpr uint32_t kProcFile = S_IFREG | 0444;
inline constexpr uint32_t kProcPrivate = S_IFREG | 0400;
inline constexpr uint32_t kProcWritable = S_IFREG | 0644;
inline constexpr uint32_t kProcLink = S_IFLNK | 0777;

// Files of the machine (entries_machine.cc) and of /proc/sys (entries_sys.cc).
std::span<const ProcEntry> MachineEntries();
std::span<const ProcEntry> SysctlEntries();
const std::string* SysctlText(std::string_view path);  // of an entry without a function
// Sets NAME ("net.core.somaxconn") for the container whose first process `init` is, before it runs: linux.sysctl of its config.json. ENOENT: no such file;
// EACCES: it is always the same here, and not `text`; EPERM: it is the host's; EINVAL. Kernel lock.
ErrnoOr<void> ApplySysctl(Task& init, std::string_view name, std::string_view text);
// Files of a process (entries_process.cc, entries_status.cc). Threads have the same but for `task`.
std::span<const ProcEntry> ProcessEntries();

// sysfs (entries_sysfs.cc): directories and fixed texts, without functions.
std::span<const ProcEntry> SysfsEntries();
const std::string* SysfsText(std::string_view path);

// Interfaces in sysfs (sysfs_net.cc): what is there for `reader`; a link's text is its target.
struct SysNode {
  uint32_t mode;
  ErrnoOr<std::string> text;
};
std::optional<SysNode> FindSysNet(Task& reader, std::string_view path);
// The names in a directory of theirs.
void ListSysNet(Task& reader, std::string_view path, std::set<std::string>* names);

// Texts of subsystems that not every sandbox has, fixed at start: before the first file system of the kind is made.
void AddProcText(std::string path, std::string text);  // below /proc
void AddSysText(std::string path, std::string text);   // below /sys
void AddProcDevices(std::string_view lines);           // character devices in /proc/devices
const std::string* AddedProcText(std::string_view path);
// Which paths of /proc and /sys are there for `reader`, of those that were added or others. Set once, likewise. Kernel lock.
using ProcFilter = bool (*)(Task& reader, std::string_view path);
void SetProcFilter(ProcFilter filter);
bool IsShown(Task* reader, std::string_view path);

// Texts that are long enough for files of their own.
ErrnoOr<std::string> ProcStatText(Task& reader, Task* target);    // /proc/PID/stat
ErrnoOr<std::string> ProcStatusText(Task& reader, Task* target);  // /proc/PID/status
ErrnoOr<std::string> ProcLimitsText(Task& reader, Task* target);  // /proc/PID/limits
std::string CpuInfoText();                                        // /proc/cpuinfo

// True if `caller` may look into `target` (ptrace_may_access with PTRACE_MODE_READ_FSCREDS).
bool MayInspect(Task& caller, Task& target);

// Appends as printf does.
[[gnu::format(printf, 2, 3)]] void AppendFormat(std::string* out, const char* format, ...);

}  // namespace amber
