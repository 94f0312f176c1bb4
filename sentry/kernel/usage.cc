#include "sentry/kernel/usage.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <string>

#include "sentry/base/unique_fd.h"
#include "sentry/kernel/clock.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/mm/memory_manager.h"

namespace amber {
namespace {

constexpr int64_t kTick = kNsPerSecond / 100;

std::string ReadProc(const std::string& path) {
  char text[4096];
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return "";
  ssize_t n = read(fd.get(), text, sizeof(text));
  return n > 0 ? std::string(text, static_cast<size_t>(n)) : "";
}

long StatusNumber(const std::string& status, const char* key) {
  size_t at = status.find(key);
  return at == std::string::npos ? 0 : strtol(status.c_str() + at + strlen(key), nullptr, 10);
}

// Of /proc/PID or /proc/PID/task/TID; each end of a process and each exec reads them, so each file once. The times are in ticks
// only; `total` is exact and is divided as they are.
rusage ReadUsage(const std::string& directory, int64_t total) {
  rusage usage{};
  usage.ru_utime = ToTimeval(total);
  // proc_pid_stat(5), from behind the name: state is field 3, minflt 10, majflt 12, utime 14, stime 15.
  std::string stat = ReadProc(directory + "/stat");
  size_t name_end = stat.rfind(')');
  unsigned long minor = 0, major = 0, user = 0, system = 0;
  if (name_end == std::string::npos ||
      sscanf(stat.c_str() + name_end + 1, " %*c %*d %*d %*d %*d %*d %*u %lu %*u %lu %*u %lu %lu", &minor, &major, &user, &system) != 4) {
    return usage;
  }
  int64_t in_system = std::min(static_cast<int64_t>(system) * kTick, total);
  usage.ru_stime = ToTimeval(in_system);
  usage.ru_utime = ToTimeval(total - in_system);
  usage.ru_minflt = static_cast<long>(minor);
  usage.ru_majflt = static_cast<long>(major);
  std::string status = ReadProc(directory + "/status");
  usage.ru_nvcsw = StatusNumber(status, "\nvoluntary_ctxt_switches:");
  usage.ru_nivcsw = StatusNumber(status, "\nnonvoluntary_ctxt_switches:");
  // (What was more before a restore is in the group's base.)
  usage.ru_maxrss = std::max(StatusNumber(status, "\nVmRSS:"), StatusNumber(status, "\nVmHWM:"));
  return usage;
}

void Add(timeval* a, const timeval& b) { *a = ToTimeval(ToNs(*a) + ToNs(b)); }

}  // namespace

int64_t ToNs(const timeval& time) { return time.tv_sec * kNsPerSecond + time.tv_usec * 1000; }
timeval ToTimeval(int64_t ns) { return {ns / kNsPerSecond, ns % kNsPerSecond / 1000}; }

void AddUsage(rusage* a, const rusage& b) {
  Add(&a->ru_utime, b.ru_utime);
  Add(&a->ru_stime, b.ru_stime);
  a->ru_maxrss = std::max(a->ru_maxrss, b.ru_maxrss);
  a->ru_minflt += b.ru_minflt;
  a->ru_majflt += b.ru_majflt;
  a->ru_nvcsw += b.ru_nvcsw;
  a->ru_nivcsw += b.ru_nivcsw;
}

rusage UsageOf(const ThreadGroup& group) {
  for (const RefPtr<Task>& task : group.tasks()) {
    if (task->thread() == nullptr) continue;
    GroupExtras& extras = group.extras();
    int64_t total = group.CpuTime();
    rusage usage = ReadUsage("/proc/" + std::to_string(task->thread()->host_pid()), total - extras.cpu_base);
    AddUsage(&usage, extras.base);
    // cputime_adjust(): the parts only grow, although the ticks that divide them are coarse.
    int64_t user = std::clamp(ToNs(usage.ru_utime), extras.told_user, total);
    int64_t system = std::max(total - user, extras.told_system);
    user = std::max(total - system, extras.told_user);
    extras.told_user = user;
    extras.told_system = system;
    usage.ru_utime = ToTimeval(user);
    usage.ru_stime = ToTimeval(system);
    return usage;
  }
  return group.usage();
}

rusage UsageOf(const Task& task) {
  if (task.thread() == nullptr) return {};
  std::string directory = "/proc/" + std::to_string(task.thread()->host_pid()) + "/task/" + std::to_string(task.thread()->host_tid());
  return ReadUsage(directory, task.CpuTime());
}

}  // namespace amber
