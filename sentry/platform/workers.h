// Host threads, pooled: receivers and other short jobs run on them. The one that went idle last is
// used first. Their stacks are small and are touched as needed. Thread-safe.
#pragma once

#include <functional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace amber::platform {

class Workers {
 public:
  Workers() = default;
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;
  ~Workers() { Drain(); }

  // Waits for all jobs to end; no further ones are taken.
  void Drain();

  // Runs `job` on a thread of the pool. False if the host has no thread left; then `job` will not
  // run.
  bool Run(std::function<void()> job);
  // The same, by a worker that was last on another CPU than `cpu`: the host wakes it there if that CPU is idle.
  bool RunElsewhere(int cpu, std::function<void()> job);

 private:
  struct Worker;
  static void* Main(void* worker);
  void Loop(Worker* worker);

  absl::Mutex mu_;
  absl::CondVar ended_;
  std::vector<Worker*> idle_ ABSL_GUARDED_BY(mu_);
  int live_ ABSL_GUARDED_BY(mu_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace amber::platform
