// Restore: read and check the image, make objects, bind them to the new surroundings, build the processes.
#include <string.h>

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "checkpoint/cpu_features.h"
#include "checkpoint/image.h"
#include "checkpoint/image.pb.h"
#include "checkpoint/state.h"
#include "sentry/fs/gofer/gofer_fs.h"
#include "sentry/fs/image/image_fs.h"
#include "sentry/kernel/task_restore.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/runtime/gpu_checkpoint.h"
#include "sentry/runtime/image_mounts.h"
#include "sentry/runtime/kernel_runtime.h"

namespace amber {
namespace {

absl::Status CheckMachine(const checkpoint::ImageReader& reader) {
  checkpoint::CpuFeatures needed = checkpoint::CpuFeatures::Load(reader.manifest().cpu());
  std::string missing = checkpoint::CpuFeatures::Here().Missing(needed);
  if (missing.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("the image was made on a processor with features that this one lacks: ", missing, "; restore it on such a machine"));
}

std::map<int, UniqueFd> ByIndex(ProcessFds fds) {
  std::map<int, UniqueFd> out;
  int index = 0;
  for (UniqueFd& fd : fds.stdio) out[index++] = std::move(fd);
  for (UniqueFd& fd : fds.extra) out[index++] = std::move(fd);
  // With a terminal there are no standard streams, and its number is the first's (Container::NewProcess).
  if (fds.console.valid()) out[0] = std::move(fds.console);
  std::erase_if(out, [](const auto& entry) { return !entry.second.valid(); });
  return out;
}

// What GPU processes' libraries will read when they bring the GPUs' memory back, and the driver pin page by page.
std::map<const MemoryManager*, std::vector<std::pair<uint64_t, uint64_t>>> FilledRanges(const checkpoint::proto::Manifest& manifest,
                                                                                        const PidNamespace& pids) {
  std::map<const MemoryManager*, std::vector<std::pair<uint64_t, uint64_t>>> out;
  for (const auto& process : manifest.gpu_processes()) {
    for (const RefPtr<ThreadGroup>& g : pids.Groups()) {
      if (g->pid() != process.pid()) continue;
      auto task = std::ranges::find_if(g->tasks(), [](const RefPtr<Task>& t) { return t->has_mm(); });
      if (task == g->tasks().end()) continue;
      for (int i = 0; i + 1 < process.filled_size(); i += 2) {
        if (process.filled(i) < process.filled(i + 1)) out[&(*task)->mm()].emplace_back(process.filled(i), process.filled(i + 1));
      }
    }
  }
  return out;
}

}  // namespace

absl::StatusOr<RestoreResult> KernelRuntime::Restore(RestoreOptions options, const ContainerSpec& spec, ContainerFds fds) {
  absl::StatusOr<std::unique_ptr<checkpoint::ImageReader>> reader = checkpoint::ImageReader::Open(options.image.get());
  if (!reader.ok()) return reader.status();
  if (absl::Status s = CheckMachine(**reader); !s.ok()) return s;
  GpuCheckpoint gpu(kernel_, {});
  if (absl::Status s = gpu.LoadGpus((*reader)->manifest()); !s.ok()) return s;
  if (fds.gofer.empty() && NeedsGofer(spec)) return absl::InvalidArgumentError("the container needs a gofer");
  auto gofer = fds.gofer.empty() ? nullptr : std::make_shared<gofer::Client>(std::move(fds.gofer));
  absl::StatusOr<ImageMounts> images = OpenImageMounts(spec, std::move(fds.file_systems));
  if (!images.ok()) return images.status();

  KernelLock lock(kernel_);
  if (!containers_.empty() || kernel_.task_count() != 0) return absl::FailedPreconditionError("the sandbox is in use already");
  if (spec.pids_limit != 0) kernel_.set_max_tasks(std::min<size_t>(spec.pids_limit, kernel_.max_tasks()));
  image_ = std::move(options.image);
  kernel_.SetHostFdsForRestore(ByIndex(std::move(fds.process)));
  // The image names the container as it was called when it was saved; more than one is refused by Adopt().
  std::optional<std::string> saved;
  auto is_it = [&saved](const std::string& container) {
    if (!saved) saved = container;
    return *saved == container;
  };
  SetGoferFinder([gofer, is_it](const std::string& container, const std::string&) { return is_it(container) ? gofer : nullptr; });
  SetImageFinder([&images, is_it](const std::string& container, const std::string& attach) {
    auto it = images->find(attach);
    return is_it(container) && it != images->end() ? it->second : nullptr;
  });
  // What is loaded must not move before all of it is there.
  kernel_.Freeze([] {});
  std::optional<state::Loader> loader(std::in_place, [&](uint64_t id) {
    absl::StatusOr<UniqueFd> file = (*reader)->OpenFile(id);
    return file.ok() ? file->release() : -1;
  });
  loader->Provide(1, &kernel_);
  absl::StatusOr<RestoreResult> result = Adopt(**reader, *loader, spec, gofer, gpu.replacements());
  // It holds what it has loaded, and files of processes that end from now on are to be closed.
  loader.reset();
  SetGoferFinder(nullptr);
  SetImageFinder(nullptr);
  kernel_.SetHostFdsForRestore({});
  if (!result.ok()) return result.status();
  // Engines pause a container before they have it saved and expect it to run when it is back, as after CRIU.
  paused_ = options.paused;
  if (absl::Status s = RefillGpus(gpu, **reader); !s.ok()) {
    for (const auto& [id, container] : containers_) container->KillAll();
    kernel_.Thaw();
    return s;
  }
  if (!paused_) kernel_.Thaw();
  return result;
}

// Has the CUDA libraries bring the state of GPUs back; tasks run meanwhile, and those that touch GPU memory wait for it. Called with the kernel
// lock, which it lets go.
absl::Status KernelRuntime::RefillGpus(GpuCheckpoint& gpu, checkpoint::ImageReader& reader) {
  std::vector<RefPtr<Container>> containers;
  for (const auto& [id, container] : containers_) containers.push_back(container);
  if (absl::Status s = gpu.LoadTargets(reader.manifest(), std::move(containers)); !s.ok()) return s;
  if (gpu.empty()) return absl::OkStatus();
  gpu.AwaitMemory();
  kernel_.Thaw();
  absl::Status status;
  {
    KernelUnlock unlock(kernel_);
    status = gpu.Refill();
  }
  if (status.ok() && paused_) kernel_.Freeze([] {});
  return status;
}

absl::StatusOr<RestoreResult> KernelRuntime::Adopt(checkpoint::ImageReader& reader, state::Loader& loader, const ContainerSpec& spec,
                                                   std::shared_ptr<gofer::Client> gofer, uint64_t gpus) {
  if (!loader.Run(reader.objects())) return absl::FailedPreconditionError(absl::StrCat("the image cannot be restored: ", loader.error()));
  RestoreResult result;
  for (const state::Saver::Record& r : reader.objects()) {
    if (r.kind != state::Kind::kContainer) continue;
    RefPtr<Container> container = loader.GetRef<Container>(r.id);
    if (!containers_.empty()) return absl::UnimplementedError("images with several containers cannot be restored yet");
    if (absl::Status s = container->Rebind(spec, gofer, gpus); !s.ok()) return s;
    containers_[container->id()] = container;
    result.containers.push_back(container->id());
  }
  if (containers_.empty()) return absl::InvalidArgumentError("the image holds no container");
  result.init = {1};

  std::map<const MemoryManager*, const checkpoint::SpaceIndex*> spaces;
  for (const checkpoint::SpaceIndex& s : reader.index().spaces) {
    MemoryManager* mm = loader.Get<MemoryManager>(s.object);
    if (mm == nullptr) return absl::DataLossError("the image is damaged: its memory index names no address space");
    spaces[mm] = &s;
  }
  TaskRestore::Options options;
  options.image_fd = image_.get();
  options.runs = [&](const MemoryManager& mm) {
    std::vector<ImageRun> runs;
    auto it = spaces.find(&mm);
    if (it == spaces.end()) return runs;
    runs.reserve(it->second->extents.size());
    for (const checkpoint::ImageExtent& e : it->second->extents) runs.push_back({e.start, e.start + e.size, e.offset});
    return runs;
  };
  auto filled = FilledRanges(reader.manifest(), containers_.begin()->second->pids());
  options.fill = [&filled](const MemoryManager& mm) { return filled[&mm]; };
  std::string error = TaskRestore(kernel_, std::move(options)).Build();
  if (!error.empty()) return absl::FailedPreconditionError(absl::StrCat("the image cannot be restored: ", error));
  return result;
}

}  // namespace amber
