#include "sentry/fs/proc/machine.h"

#include <sched.h>
#include <sys/sysinfo.h>

namespace amber {

const Machine& Machine::Get() {
  static const Machine machine = [] {
    Machine m;
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) == 0) m.cpus = static_cast<uint32_t>(CPU_COUNT(&set));
    struct sysinfo info{};
    m.memory_bytes = sysinfo(&info) == 0 ? info.totalram * info.mem_unit : uint64_t{1} << 30;
    return m;
  }();
  return machine;
}

}  // namespace amber
