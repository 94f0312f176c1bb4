// GPU processes in checkpoints: what only their own CUDA library can save is drained into their memory before, and brought back after.
//
// One per checkpoint or restore, on that one's thread, without the kernel lock. A failure of Drain() has undone what it did, as far as the
// library lets it; the error says if a process was lost.
#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "sentry/fs/nvidia/gpu_support.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/runtime/container.h"
#include "sentry/runtime/gpu_helper.h"

namespace amber {

namespace checkpoint::proto {
class Manifest;
}

class GpuCheckpoint {
 public:
  // `containers` are those that are saved; LoadTargets() names those of an image.
  GpuCheckpoint(Kernel& kernel, std::vector<RefPtr<Container>> containers) : kernel_(kernel), containers_(std::move(containers)) {}

  // The processes with GPU state that no image can hold, beside those that are known already. None also without GPUs.
  void FindTargets();
  // For the image of a sandbox without targets: which GPUs it has. Kernel lock.
  void SaveGpus(checkpoint::proto::Manifest* manifest);
  void SaveTargets(checkpoint::proto::Manifest* manifest) const;
  bool empty() const { return targets_.empty(); }

  // Before anything of an image is loaded: finds GPUs to take the places of those that it was made with, and looks at the driver, limits and free memory.
  // FAILED_PRECONDITION, RESOURCE_EXHAUSTED.
  absl::Status LoadGpus(const checkpoint::proto::Manifest& manifest);
  // Those, as nvproxy::Session::gpus; all, if the image says nothing of GPUs.
  uint64_t replacements() const { return replacements_; }
  // INVALID_ARGUMENT if the image names what is not there. Kernel lock.
  absl::Status LoadTargets(const checkpoint::proto::Manifest& manifest, std::vector<RefPtr<Container>> containers);

  // Nothing is changed: says whether Drain() would find what it needs, and leaves a mark by which GPU state is no obstacle.
  absl::Status Check();
  // Locks all, then checkpoints all. OK without targets.
  absl::Status Drain();
  // Before tasks run again after a restore: threads that touch GPU memory wait for it.
  void AwaitMemory();
  // Restores and unlocks all that Drain() drained, while tasks run. An error names the processes that are lost.
  absl::Status Refill();
  // How long the steps of Drain() and Refill() took, ns.
  const std::vector<std::pair<std::string, uint64_t>>& phases() const { return phases_; }
  // Takes the marks of Check() and Drain() away.
  ~GpuCheckpoint();

 private:
  struct Target {
    RefPtr<Container> container;
    RefPtr<ThreadGroup> group;
    uint64_t process = 0;  // nvproxy::Session::process
    int pid = 0;           // in its container
    bool known = false;    // its library has told its state
    bool locked = false, drained = false;
    bool unsure = false;                                // a verb was not answered: only the library knows how far it got
    bool lost = false;                                  // the library has given it up
    std::vector<std::pair<uint64_t, uint64_t>> away;    // mapped from devices when it was drained
    std::vector<std::pair<uint64_t, uint64_t>> before;  // private memory until then
    std::vector<std::pair<uint64_t, uint64_t>> filled;  // private memory that came while it was drained
  };
  absl::StatusOr<GpuHelper::Answer> Ask(Target& target, const char* verb, const std::string& rest, absl::Duration limit);
  absl::Status Verb(Target& target, const char* verb, const std::string& rest, absl::Duration limit);
  absl::Status AskStates();
  absl::Status LockAll();
  absl::Status DrainAll();
  bool HasEnded(const Target& target);
  void NoteGpus();
  absl::Status FindReplacements();
  absl::Status CheckMemory();
  absl::Status StartHelper(const RefPtr<Container>& container);
  absl::Status LearnState(Target& target);
  absl::Status BringBack(Target& target, const std::string& pairs);
  absl::Status Undo(absl::Status why);
  absl::Status VerifyDrained();
  void NoteAway();
  void NoteFilled();
  void ComeBack();
  absl::Duration CopyTime() const;

  Kernel& kernel_;
  std::vector<RefPtr<Container>> containers_;
  std::vector<Target> targets_;
  std::set<uint64_t> left_alone_;  // they hold GPU objects, and their library has nothing to do with that
  struct OldGpu {
    std::string uuid;
    uint64_t bytes = 0;
    uint32_t kind = 0;
    int now = -1;  // index among the sandbox's, after a restore
  };
  std::vector<OldGpu> gpus_;
  uint64_t replacements_ = ~uint64_t{0};
  std::unique_ptr<GpuHelper> helper_;
  RefPtr<Container> helper_for_;
  bool marked_ = false;
  std::vector<std::pair<std::string, uint64_t>> phases_;
};

}  // namespace amber
