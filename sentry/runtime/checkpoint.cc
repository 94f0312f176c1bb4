// Checkpoint and restore, as the runtime orders them.
#include "sentry/runtime/kernel_runtime.h"

namespace amber {

void KernelRuntime::Checkpoint(CheckpointOptions, ProgressCallback, CheckpointCallback done) {
  CheckpointResult result;
  result.status = absl::UnimplementedError("checkpoint is not there yet");
  done(std::move(result));
}

absl::StatusOr<RestoreResult> KernelRuntime::Restore(RestoreOptions, const ContainerSpec&, ContainerFds) {
  return absl::UnimplementedError("restore is not there yet");
}

}  // namespace amber
