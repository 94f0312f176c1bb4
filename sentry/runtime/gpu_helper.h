// The checkpoint helper as the sentry runs it: a guest process of the container, on the container's own libcuda, that nobody there started.
//
// One at a time, for one container, on the thread of a checkpoint or restore, without the kernel lock. It is a user of the GPU itself, so it must be
// gone before anything is saved. What it says is a guest's word: numbers in range, lines of bounded length, a deadline for each.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/fs/nvidia/gpu_support.h"
#include "sentry/kernel/task.h"
#include "sentry/runtime/container.h"

namespace amber {

class GpuHelper {
 public:
  using Streams = GpuSupport::HelperStreams;
  GpuHelper(Kernel& kernel, RefPtr<Container> container, Streams streams) : kernel_(kernel), container_(std::move(container)), streams_(streams) {}
  ~GpuHelper() { Stop(); }

  // NOT_FOUND if the container has no libcuda, or one without the checkpoint calls.
  absl::Status Start(absl::Duration limit);
  bool running() const { return pid_ != 0; }
  // nvproxy::Session::process; it uses the GPU itself.
  uint64_t process() const { return process_; }

  struct Answer {
    int result = 0;  // CUresult
    int state = -1;  // CUprocessState; -1 if unknown
  };
  // One line of helper.c's; UNAVAILABLE if it died, DEADLINE_EXCEEDED if it did not answer, after which it is stopped.
  absl::StatusOr<Answer> Ask(const std::string& line, absl::Duration limit);
  // Kills it and waits until it and its files are gone.
  void Stop();

 private:
  absl::Status Launch();
  absl::StatusOr<std::string> ReadLine(absl::Time deadline);
  void DropOldBytes();
  bool HasEnded();

  Kernel& kernel_;
  RefPtr<Container> container_;
  const Streams streams_;
  int pid_ = 0;
  uint64_t process_ = 0;
  std::string input_;
};

// "out of memory" and the like.
std::string GpuResultText(int result);

}  // namespace amber
