// The control server's Runtime, on the kernel. See README.md.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "sentry/control/runtime.h"
#include "sentry/kernel/kernel.h"
#include "sentry/runtime/container.h"

namespace amber {

class GpuCheckpoint;

namespace checkpoint {
class ImageReader;
}

class KernelRuntime final : public Runtime {
 public:
  static absl::StatusOr<std::unique_ptr<KernelRuntime>> Make(const SandboxOptions& options, SandboxFds fds);

  absl::Status Boot() override;
  absl::StatusOr<ProcessId> CreateContainer(const ContainerSpec& spec, ContainerFds fds) override;
  absl::Status StartContainer(std::string_view container) override;
  absl::StatusOr<ProcessId> Exec(std::string_view container, const ProcessSpec& process, ProcessFds fds) override;
  absl::Status Signal(std::string_view container, ProcessId process, int signal) override;
  absl::Status SignalAll(std::string_view container, int signal) override;
  absl::Status SignalForeground(std::string_view container, ProcessId process, int signal) override;
  void Wait(std::string_view container, ProcessId process, WaitCallback done) override;
  void Pause(DoneCallback done) override;
  absl::Status Resume() override;
  void Checkpoint(CheckpointOptions options, ProgressCallback progress, CheckpointCallback done) override;
  absl::StatusOr<RestoreResult> Restore(RestoreOptions options, const ContainerSpec& spec, ContainerFds fds) override;
  absl::StatusOr<std::vector<ProcessInfo>> Processes(std::string_view container) override;
  absl::StatusOr<ContainerStats> Stats(std::string_view container) override;
  absl::Status ResizeTerminal(std::string_view container, ProcessId process, WindowSize size) override;
  absl::Status SetMemoryLimit(std::string_view container, uint64_t bytes) override;
  absl::Status SetStrace(bool on) override;
  absl::StatusOr<std::string> Debug(std::string_view query) override;
  void DestroyContainer(std::string_view container, DoneCallback done) override;

  Kernel& kernel() { return kernel_; }

 private:
  KernelRuntime(const SandboxOptions& options, SandboxFds fds) : options_(options), fds_(std::move(fds)) {}
  absl::StatusOr<Container*> Find(std::string_view id);
  // The process started from outside or, failing that, any process of the container.
  absl::StatusOr<RefPtr<ThreadGroup>> FindProcess(std::string_view container, ProcessId process);
  // checkpoint.cc: one checkpoint on a thread of its own.
  struct CheckpointJob;
  void RunCheckpoint(CheckpointJob& job);
  absl::Status DrainGpus(CheckpointJob& job);
  absl::Status FreezeFor(CheckpointJob& job);
  absl::Status Collect(CheckpointJob& job);
  absl::Status Write(CheckpointJob& job);
  void ThawAfter(CheckpointJob& job);
  // restore.cc
  absl::Status RefillGpus(GpuCheckpoint& gpu, checkpoint::ImageReader& reader);
  absl::StatusOr<RestoreResult> Adopt(checkpoint::ImageReader& reader, state::Loader& loader, const ContainerSpec& spec,
                                      std::shared_ptr<gofer::Client> gofer, uint64_t gpus);
  std::string StatsText();
  std::string UnknownText();
  std::string StacksText();

  SandboxOptions options_;
  SandboxFds fds_;
  Kernel kernel_;
  std::map<std::string, RefPtr<Container>, std::less<>> containers_;  // kernel lock
  std::unique_ptr<Timer> settled_;                                    // kernel lock; goes off when a start is over
  bool paused_ = false;
  bool checkpointing_ = false;  // kernel lock: the tasks stand still for a checkpoint, whatever paused_ says
  UniqueFd image_;              // what restored memory is mapped from
};

}  // namespace amber
