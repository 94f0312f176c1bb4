#include "sentry/host/gpu_calls.h"

#include <sys/syscall.h>

#include "nvproxy/host_rules.h"

namespace amber {

std::vector<HostCall> GpuHostCalls(const GpuOptions& options) {
  if (!options.enabled || options.fake) return {};
  std::string_view why;
  const nvproxy::Branch* branch = nvproxy::BranchForVersion(options.version, options.allow_other_driver, &why);
  if (branch == nullptr) return {};
  HostCall call{SYS_ioctl, "ioctl", "the NVIDIA driver's files, by the numbers of nvproxy/tables.txt", {}};
  constexpr uint64_t kFd = nvproxy::kHostFdBase;
  for (const nvproxy::HostIoctlRule& rule : nvproxy::HostIoctlRules(*branch, options.capabilities)) {
    call.alternatives.push_back({{0, nvproxy::kHostFdMask, kFd}, {1, rule.mask, rule.value}});
  }
  return {call};
}

}  // namespace amber
