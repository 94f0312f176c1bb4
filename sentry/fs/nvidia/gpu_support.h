// A sandbox's GPUs: the proxy, its driver, and how the kernel's file systems come to know of them.
//
// One per kernel, made at start before the first container if GPUs were asked for; lives as long as the process. What it enters into the
// tables of devices and of /proc and /sys is fixed then. Kernel lock where nothing else is said; the proxy is called without it.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "nvproxy/proxy.h"
#include "sentry/base/unique_fd.h"
#include "sentry/control/spec.h"
#include "sentry/fs/nvidia/driver_work.h"

namespace amber {

class Container;
class Kernel;
class Task;
class ThreadGroup;
struct ContainerStats;

class GpuSupport {
 public:
  // "" or what went wrong. Before the sentry is confined.
  static std::string Start(Kernel& kernel, const GpuOptions& options);
  // Null if the sandbox has no GPUs.
  static GpuSupport* Of(const Kernel& kernel);
  ~GpuSupport();

  nvproxy::Proxy& proxy() { return *proxy_; }
  DriverWork& work() { return *work_; }
  // Whose clients a task's are.
  static nvproxy::Session SessionOf(Task& task);
  // Session::process.
  static uint64_t ProcessOf(const ThreadGroup& group);

  // Two pipes for the standard streams of a checkpoint helper, made while the sentry may still make pipes.
  struct HelperStreams {
    int to, from;  // never waited in
    int its_input, its_output;
    int old_input;  // what it has not read
  };
  HelperStreams helper_streams() const { return {pipes_[1].get(), pipes_[2].get(), pipes_[0].get(), pipes_[3].get(), drain_.get()}; }
  // Processes (Session::process) whose GPU state is no obstacle to a checkpoint, since their CUDA library can take it out. Kernel lock.
  void set_drainable(std::set<uint64_t> processes) { drainable_ = std::move(processes); }
  bool drainable(uint64_t process) const { return drainable_.contains(process); }
  // Those whose state was taken out: what children hold of their files leads to nothing. Kernel lock.
  void set_drained(std::set<uint64_t> processes) { drained_ = std::move(processes); }
  bool drained(uint64_t process) const { return drained_.contains(process); }

  struct Node {
    std::string path;
    uint32_t major, minor;
  };
  // Gives a container the GPUs that it asks for, of those that it may have; the others do not exist for it. FAILED_PRECONDITION names one that it cannot
  // have. Kernel lock, as for what follows up to NodesOf(). A container that this is not done for has none.
  absl::Status Admit(const Container* container, const ContainerSpec& spec);
  void Forget(const Container* container) { containers_.erase(container); }
  // nvproxy::Session::gpus, 0 if it has none.
  uint64_t GpusOf(const Container* container) const;
  // After a restore: it has those that take the places of its own (nvproxy::Proxy::SetReplacements), no others.
  void Narrow(const Container* container, uint64_t gpus) { containers_[container] &= gpus; }
  // What its /dev is to have.
  std::vector<Node> NodesOf(const Container* container) const;
  // Of GpuOptions.
  int64_t copy_seconds() const { return copy_seconds_; }
  // Lines for `sandbox debug --stats`.
  std::string StatsText();
  // For `sandbox events --stats`.
  void AddStats(ContainerStats* stats);

 private:
  GpuSupport() = default;
  // "" or what went wrong.
  std::string UseFake(const GpuOptions& options);
  std::string UseReal(const GpuOptions& options);
  void AddTexts();
  static bool IsShown(Task& reader, std::string_view path);
  static void OnExit(ThreadGroup& group);

  Kernel* kernel_ = nullptr;
  std::shared_ptr<void> fake_;  // the machine that a fake driver is on
  std::unique_ptr<nvproxy::HostDriver> driver_;
  std::unique_ptr<nvproxy::Proxy> proxy_;
  std::unique_ptr<DriverWork> work_;
  std::map<const Container*, uint64_t> containers_;  // nvproxy::Session::gpus
  int64_t copy_seconds_ = 0;
  UniqueFd pipes_[4];  // read and write end of its input, then of its output
  UniqueFd drain_;     // the read end of its input, for the sentry
  std::set<uint64_t> drainable_, drained_;
};

}  // namespace amber
