// A container: its namespaces, its mounts, and the processes that were started from outside (init and execs).
// Guarded by the kernel lock.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/state.h"
#include "gofer/client.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/control/runtime.h"
#include "sentry/control/spec.h"
#include "sentry/kernel/cgroup.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/uts_namespace.h"
#include "sentry/vfs/mount.h"

namespace amber {

class Kernel;

class Container final : public RefCounted<Container>, public state::Saveable {
 public:
  Container() = default;  // for Loader
  Container(Kernel& kernel, ContainerSpec spec) : kernel_(&kernel), spec_(std::move(spec)) {}
  ~Container() override;

  const std::string& id() const { return spec_.id; }
  const ContainerSpec& spec() const { return spec_; }
  PidNamespace& pids() const { return *pids_; }
  uint64_t gofer_calls() const { return gofer_ != nullptr ? gofer_->calls() : 0; }

  // Makes namespaces and mounts.
  absl::Status SetUp(std::vector<UniqueFd> gofer_channels, std::vector<UniqueFd> image_files);
  // A process without a program, with the descriptors that were passed.
  absl::StatusOr<RefPtr<Task>> NewProcess(const ProcessSpec& spec, ProcessFds fds);
  // Finds argv[0] and loads it. `task` is from NewProcess().
  absl::Status LoadProgram(Task& task, const ProcessSpec& spec);

  // Processes started from outside, by pid. An entry stays until the container goes, so that a late Wait() gets its answer.
  struct Started {
    RefPtr<Task> task;     // null once it ended
    bool running = false;  // its program was started
    std::optional<int> wait_status;
    std::vector<Runtime::WaitCallback> waiters;
  };
  std::map<int, Started>& started() { return started_; }
  // As MemoryOf() tells it from now on; 0: none.
  void ChangeMemoryLimit(uint64_t bytes);
  // Kills everything in it.
  void KillAll();

  state::Kind kind() const override { return state::Kind::kContainer; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;
  std::string CannotSave() const override;
  // After a restore: what the new bundle says replaces what the image remembers. `gpus` take the places of those that it had (GpuCheckpoint::replacements).
  absl::Status Rebind(const ContainerSpec& spec, std::shared_ptr<gofer::Client> gofer, uint64_t gpus);

 private:
  void OnExit(int pid, int wait_status);
  // The GPUs that it has are in /dev, and none that it has not.
  absl::Status MakeGpuNodes();
  // A task before its first program enters the time namespace that is asked for, or that of the first process.
  absl::Status EnterTime(Task& task);
  absl::Status AddStdio(FdTable& files, ProcessFds fds);

  Kernel* kernel_ = nullptr;
  ContainerSpec spec_;
  RefPtr<PidNamespace> pids_;
  RefPtr<UtsNamespace> uts_;
  RefPtr<Cgroup> cgroup_;  // the root of its tree; null in images of before there were any
  RefPtr<MountNamespace> mounts_;
  std::shared_ptr<gofer::Client> gofer_;
  std::map<int, Started> started_;
};

}  // namespace amber
