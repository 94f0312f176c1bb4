// Core files (core(5)): a process that a signal with such a default action ends leaves its memory and registers in a file.
//
// The thread that dies makes the others stop; once all stand still, the file is written, some megabytes at a time under the kernel lock, and
// the process ends. A freeze waits for that, so that no image holds half a file. SIGKILL ends it early (Linux: fs/coredump.c).
//
// A CoreDump is owned by GroupExtras, from the signal to the process's end; CoreDumps by TaskLifecycle. Guarded by the kernel lock.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "sentry/base/ref_ptr.h"
#include "sentry/kernel/clock.h"
#include "sentry/kernel/core_image.h"
#include "sentry/kernel/task_lifecycle.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/vfs/file.h"

namespace amber {

// What exists once: settings, and the files that are being written.
struct CoreDumps {
  explicit CoreDumps(Kernel& the_kernel) : kernel(the_kernel), timer([this] { Step(); }) {}
  // Writes a part of the first file.
  void Step();

  Kernel& kernel;
  std::string pattern = "core";  // /proc/sys/kernel/core_pattern
  bool uses_pid = false;         // core_uses_pid
  std::deque<RefPtr<ThreadGroup>> writing;
  Timer timer;
};

class TaskLifecycle::CoreDump {
 public:
  // The bits of /proc/PID/coredump_filter.
  static constexpr uint32_t kFilterMask = 0x1ff;

  // `task`, whose frame is in our hands, dies of `info`. True if a file is to be written: then the process stands still, and ends by itself.
  static bool Begin(Task& task, const SigInfo& info);
  // The task must not run.
  static bool Holds(const Task& task);
  // A thread of this process came to stand still, or went.
  static void Check(ThreadGroup& group);
  // `group` ends, by this or otherwise.
  static void OnExit(ThreadGroup& group);
  // The name that `pattern` makes; "" if there is to be no file.
  static std::string FileName(const CoreDumps& settings, Task& task, int signo);

  CoreDump(Task& task, const SigInfo& info) : task_(&task), info_(info) {}
  CoreDump(const CoreDump&) = delete;
  CoreDump& operator=(const CoreDump&) = delete;

 private:
  friend struct CoreDumps;
  enum class State { kStopping, kWriting, kDone };

  bool Open();
  // False once there is nothing left to do.
  bool WriteSome();
  bool Put(const void* data, size_t size);
  void Finish(bool dumped);

  Task* task_;  // the one that dies; gone when this is kDone at the latest
  SigInfo info_;
  State state_ = State::kStopping;
  RefPtr<File> file_;
  uint64_t limit_ = 0;  // RLIMIT_CORE
  uint64_t written_ = 0;
  uint64_t offset_ = 0;  // of what is written next
  std::vector<CoreSegment> segments_;
  size_t segment_ = 0, run_ = 0;
  uint64_t segment_offset_ = 0;  // where the segment lies in the file
  uint64_t done_ = 0;            // of the run
};

using CoreDump = TaskLifecycle::CoreDump;

}  // namespace amber
