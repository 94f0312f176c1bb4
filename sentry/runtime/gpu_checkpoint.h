// GPU processes in checkpoints: what only their own CUDA library can save is drained into their memory before, and brought back after.
//
// One per checkpoint or restore, on that one's thread, without the kernel lock. A failure of Drain() has undone what it did, as far as the
// library lets it; the error says if a process was lost.
#pragma once

#include <cstdint>
#include <map>
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
  GpuCheckpoint(Kernel& kernel, std::vector<RefPtr<Container>> containers) : kernel_(kernel), containers_(std::move(containers)) {}

  // The processes with GPU state that no image can hold. Empty also without GPUs.
  void FindTargets();
  // As an image has them. INVALID_ARGUMENT if it names what is not there.
  absl::Status LoadTargets(const checkpoint::proto::Manifest& manifest);
  void SaveTargets(checkpoint::proto::Manifest* manifest) const;
  bool empty() const { return targets_.empty(); }

  // Nothing is changed: says whether Drain() would find what it needs, and leaves a mark by which GPU state is no obstacle.
  absl::Status Check();
  // Locks all, then checkpoints all. OK without targets.
  absl::Status Drain();
  // Before tasks run again after a restore: threads that touch GPU memory wait for it.
  void AwaitMemory();
  // FAILED_PRECONDITION if the GPUs have less free memory than the targets need.
  absl::Status CheckFreeMemory();
  // Restores and unlocks all that Drain() drained, while tasks run. An error names the processes that are lost.
  absl::Status Refill();
  // How long the steps of Drain() and Refill() took, ns.
  const std::vector<std::pair<std::string, uint64_t>>& phases() const { return phases_; }
  // Takes the mark of Check() away.
  ~GpuCheckpoint();

 private:
  struct Target {
    RefPtr<Container> container;
    RefPtr<ThreadGroup> group;
    uint64_t process = 0;  // nvproxy::Session::process
    int pid = 0;           // in its container
    bool locked = false, drained = false;
    bool unsure = false;                              // a verb was not answered: only the library knows how far it got
    std::vector<std::pair<uint64_t, uint64_t>> away;  // mapped from devices when it was drained
  };
  absl::StatusOr<GpuHelper::Answer> Ask(Target& target, const char* verb, const std::string& rest, absl::Duration limit);
  absl::Status Verb(Target& target, const char* verb, const std::string& rest, absl::Duration limit);
  absl::Status AskStates();
  std::vector<std::pair<std::string, std::string>> DeviceMap() const;
  absl::Status StartHelper(const RefPtr<Container>& container);
  absl::Status LearnState(Target& target);
  absl::Status BringBack(Target& target, const std::string& pairs);
  absl::Status Undo(absl::Status why);
  absl::Status VerifyDrained();
  void NoteAway();
  void ComeBack();
  absl::Duration CopyTime() const;

  Kernel& kernel_;
  std::vector<RefPtr<Container>> containers_;
  std::vector<Target> targets_;
  std::map<std::string, uint64_t> bytes_;  // of each GPU, by uuid
  std::unique_ptr<GpuHelper> helper_;
  RefPtr<Container> helper_for_;
  bool marked_ = false;
  std::vector<std::pair<std::string, uint64_t>> phases_;
};

}  // namespace amber
