// Checkpoint: freeze, objects, plan, copy, thaw. One at a time, on a thread of its own; checkpoint/README.md tells the order of work.
#include <fcntl.h>
#include <time.h>

#include <memory>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "checkpoint/cpu_features.h"
#include "checkpoint/image.h"
#include "checkpoint/image.pb.h"
#include "checkpoint/memory_save.h"
#include "checkpoint/state.h"
#include "sentry/fs/nvidia/gpu_support.h"
#include "sentry/kernel/task_restore.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/runtime/gpu_checkpoint.h"
#include "sentry/runtime/kernel_runtime.h"
#include "sentry/syscalls/table.h"

namespace amber {
namespace {

// The platform kills a guest process that does not stop within about a second; longer waits are the host's (a stuck disk, a throttled cgroup).
constexpr absl::Duration kFreezeDeadline = absl::Seconds(10);
constexpr uint64_t kProgressStep = 64 << 20;
constexpr char kVersion[] = "0.1";

uint64_t NowNs() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(t.tv_nsec);
}

}  // namespace

struct KernelRuntime::CheckpointJob {
  CheckpointOptions options;
  ProgressCallback progress;
  CheckpointCallback done;
  CheckpointResult result;
  const uint64_t started = NowNs();
  uint64_t frozen_at = 0;
  bool thawed = false;
  // Shared: the kernel may still hold the callback when the deadline has passed.
  std::shared_ptr<absl::Notification> frozen = std::make_shared<absl::Notification>();

  // Collected while the kernel lock is held; used without it.
  state::Saver saver;
  std::vector<checkpoint::SpacePlan> spaces;
  std::vector<checkpoint::FilePlan> files;
  checkpoint::proto::Manifest manifest;
  std::unique_ptr<GpuCheckpoint> gpu;
  absl::Status refilled;

  void Report(const char* stage, uint64_t at, uint64_t total) {
    if (progress) progress({stage, at, total});
  }
};

void KernelRuntime::Checkpoint(CheckpointOptions options, ProgressCallback progress, CheckpointCallback done) {
  auto job = std::make_shared<CheckpointJob>();
  job->options = std::move(options);
  job->progress = std::move(progress);
  job->done = std::move(done);
  absl::Status refused;
  {
    KernelLock lock(kernel_);
    if (checkpointing_) {
      refused = absl::UnavailableError("a checkpoint is under way already");
    } else if (containers_.empty()) {
      refused = absl::FailedPreconditionError("the sandbox has no container to save");
    } else if (job->options.parent.valid()) {
      refused = absl::UnimplementedError("incremental images are not supported yet: leave --parent-path out");
    } else if (job->options.compress) {
      refused = absl::UnimplementedError("compressed images are not supported: they could not be mapped at restore");
    } else {
      checkpointing_ = true;
    }
  }
  if (!refused.ok()) {
    job->result.status = refused;
    job->done(std::move(job->result));
    return;
  }
  std::thread([this, job] { RunCheckpoint(*job); }).detach();
}

void KernelRuntime::RunCheckpoint(CheckpointJob& job) {
  absl::Status status = DrainGpus(job);
  if (status.ok()) status = FreezeFor(job);
  if (status.ok()) status = Collect(job);
  if (status.ok() && !job.options.check_only) status = Write(job);
  // The saver's records are large, and the plans keep address spaces.
  bool ends = status.ok() && !job.options.check_only && !job.options.leave_running;
  if (ends) {
    job.result.pause_ns = NowNs() - job.frozen_at;
  } else {
    ThawAfter(job);
    if (status.ok()) status = job.refilled;
  }
  if (job.gpu != nullptr) job.result.phases = job.gpu->phases();
  job.gpu.reset();
  {
    KernelLock lock(kernel_);
    job.spaces.clear();
    checkpointing_ = false;
  }
  job.result.total_ns = NowNs() - job.started;
  job.result.status = status;
  job.done(std::move(job.result));
}

// GPU state goes into the memory of its processes first, while they run.
absl::Status KernelRuntime::DrainGpus(CheckpointJob& job) {
  std::vector<RefPtr<Container>> containers;
  {
    KernelLock lock(kernel_);
    for (const auto& [id, container] : containers_) containers.push_back(container);
  }
  auto gpu = std::make_unique<GpuCheckpoint>(kernel_, std::move(containers));
  gpu->FindTargets();
  if (gpu->empty()) return absl::OkStatus();
  job.Report("gpu", 0, 1);
  {
    KernelLock lock(kernel_);
    // An engine may have paused the sandbox before; the library's threads must run.
    if (paused_) kernel_.Thaw();
  }
  absl::Status status = job.options.check_only ? gpu->Check() : gpu->Drain();
  job.Report("gpu", 1, 1);
  job.gpu = std::move(gpu);
  // Without libcuda there is nothing to do, and what is left is found as an obstacle.
  return absl::IsNotFound(status) || job.options.check_only ? absl::OkStatus() : status;
}

absl::Status KernelRuntime::FreezeFor(CheckpointJob& job) {
  job.Report("pause", 0, 1);
  {
    KernelLock lock(kernel_);
    kernel_.Freeze([frozen = job.frozen] { frozen->Notify(); });
  }
  if (!job.frozen->WaitForNotificationWithTimeout(kFreezeDeadline)) {
    KernelLock lock(kernel_);
    if (!job.frozen->HasBeenNotified()) {
      Task* task = TaskRestore::NotHeld(kernel_);
      GpuSupport* gpus = GpuSupport::Of(kernel_);
      const char* other =
          gpus != nullptr && gpus->work().under_way() > 0 ? "a call of a process that has ended, which the GPU's driver holds," : "a thread";
      std::string who = task != nullptr
                            ? absl::StrCat("thread ", task->tid(), " (", task->name(), ") ", task->Describe(), SyscallName(task->syscall().number))
                            : other;
      return absl::DeadlineExceededError(absl::StrCat(who, " did not stop in time; the sandbox runs on"));
    }
  }
  job.frozen_at = NowNs();
  job.Report("pause", 1, 1);
  return absl::OkStatus();
}

absl::Status KernelRuntime::Collect(CheckpointJob& job) {
  KernelLock lock(kernel_);
  // Somebody may have been killed since; then there is less to save, or nothing.
  if (kernel_.LiveTasks().empty()) return absl::FailedPreconditionError("the sandbox has ended");
  // The kernel's id is 1; containers, which it does not know, come with it.
  job.saver.Ref(&kernel_);
  for (const auto& [id, container] : containers_) job.saver.Ref(container);
  job.saver.Run(&kernel_);
  job.result.obstacles = job.saver.problems();
  for (const state::Saver::Record& r : job.saver.records()) {
    if (r.kind != state::Kind::kKernel && state::FactoryOf(r.kind) == nullptr) {
      job.result.obstacles.push_back(absl::StrCat("an object of kind ", static_cast<uint32_t>(r.kind), " is in use, which cannot be restored yet"));
    }
  }
  if (!job.result.obstacles.empty()) {
    if (job.options.check_only) return absl::OkStatus();
    return absl::FailedPreconditionError(absl::StrCat("the sandbox cannot be saved: ", job.result.obstacles.front(),
                                                      job.result.obstacles.size() > 1 ? " (and more: see --check)" : ""));
  }
  if (job.options.check_only) return absl::OkStatus();

  std::map<const MemoryManager*, bool> seen;
  for (const RefPtr<Task>& t : kernel_.LiveTasks()) {
    if (t->thread() == nullptr || !seen.emplace(&t->mm(), true).second) continue;
    auto plan = checkpoint::PlanSpace(t->mm(), job.saver.Ref(static_cast<const state::Saveable*>(&t->mm())));
    if (!plan.ok()) return plan.status();
    job.spaces.push_back(*std::move(plan));
  }
  for (const state::Saver::FileContents& f : job.saver.files()) {
    UniqueFd fd(fcntl(f.fd, F_DUPFD_CLOEXEC, 3));
    if (!fd.valid()) return absl::ResourceExhaustedError("too many descriptors are open to save the sandbox's memory files");
    job.files.push_back({f.id, std::move(fd), f.size});
  }
  for (const auto& [id, container] : containers_) {
    checkpoint::proto::Container* c = job.manifest.add_containers();
    c->set_id(id);
    c->set_init(1);
  }
  job.manifest.set_paused(paused_);
  if (job.gpu != nullptr) {
    job.gpu->SaveTargets(&job.manifest);
  } else {
    std::vector<RefPtr<Container>> containers;
    for (const auto& [id, container] : containers_) containers.push_back(container);
    GpuCheckpoint(kernel_, std::move(containers)).SaveGpus(&job.manifest);
  }
  return absl::OkStatus();
}

absl::Status KernelRuntime::Write(CheckpointJob& job) {
  uint64_t total = 0, done = 0, reported = 0;
  for (const checkpoint::SpacePlan& s : job.spaces) total += s.bytes;
  for (const checkpoint::FilePlan& f : job.files) total += f.size;
  auto progress = [&](uint64_t bytes) {
    done += bytes;
    if (done - reported < kProgressStep) return;
    reported = done;
    job.Report("memory", done, total);
  };
  checkpoint::ImageWriter writer(job.options.image.get());
  checkpoint::ImageIndex index;
  for (const checkpoint::SpacePlan& s : job.spaces) {
    auto saved = checkpoint::SaveSpace(s, writer, progress);
    if (!saved.ok()) return saved.status();
    index.spaces.push_back(*std::move(saved));
  }
  for (const checkpoint::FilePlan& f : job.files) {
    auto saved = checkpoint::SaveFile(f, writer, progress);
    if (!saved.ok()) return saved.status();
    index.files.push_back(*std::move(saved));
  }
  job.result.memory_bytes = writer.position() - checkpoint::kImagePage;
  job.manifest.set_creator(kVersion);
  job.manifest.set_created(time(nullptr));
  job.manifest.set_memory_pages(job.result.memory_bytes / checkpoint::kImagePage);
  checkpoint::CpuFeatures::Here().Save(job.manifest.mutable_cpu());
  if (absl::Status s = writer.Finish(job.manifest, job.saver.records(), index); !s.ok()) return s;
  // Everything is in the host's page cache: a sandbox that goes on need not wait for the disk.
  if (job.options.leave_running) ThawAfter(job);
  job.Report("disk", 0, 1);
  if (absl::Status s = writer.Sync(); !s.ok()) return s;
  job.Report("disk", 1, 1);
  job.result.image_bytes = writer.file_size();
  return absl::OkStatus();
}

void KernelRuntime::ThawAfter(CheckpointJob& job) {
  if (job.thawed) return;
  job.thawed = true;
  if (job.frozen_at != 0) job.result.pause_ns = NowNs() - job.frozen_at;
  bool refill = job.gpu != nullptr && !job.gpu->empty() && !job.options.check_only;
  {
    KernelLock lock(kernel_);
    checkpointing_ = false;
    if (!paused_ || refill) kernel_.Thaw();
  }
  if (refill) job.refilled = job.gpu->Refill();
  KernelLock lock(kernel_);
  if (job.gpu != nullptr && paused_) kernel_.Freeze([] {});
}

}  // namespace amber
