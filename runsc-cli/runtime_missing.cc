// Stands in for the kernel in builds that have none.
#include "sentry/control/runtime.h"

namespace amber {

absl::StatusOr<std::unique_ptr<Runtime>> Runtime::Create(const SandboxOptions&, SandboxFds) {
  return absl::UnimplementedError("this build of sandbox has no kernel in it");
}

}  // namespace amber
