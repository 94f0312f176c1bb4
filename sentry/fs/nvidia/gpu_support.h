// A sandbox's GPUs: the proxy, its driver, and how the kernel's file systems come to know of them.
//
// One per kernel, made at start before the first container if GPUs were asked for; lives as long as the process. What it enters into the
// tables of devices and of /proc and /sys is fixed then. Kernel lock where nothing else is said; the proxy is called without it.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "nvproxy/proxy.h"
#include "sentry/base/unique_fd.h"
#include "sentry/control/spec.h"

namespace amber {

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
  // Whose clients a task's are.
  static nvproxy::Session SessionOf(Task& task);
  // Session::process. Its pid is the one that it has in its own container.
  static uint64_t ProcessOf(const ThreadGroup& group);

  // Two pipes for the standard streams of a checkpoint helper, made while the sentry may still make pipes.
  struct HelperStreams {
    int to, from, its_input, its_output;
  };
  HelperStreams helper_streams() const { return {pipes_[1].get(), pipes_[2].get(), pipes_[0].get(), pipes_[3].get()}; }
  // Processes (Session::process) whose GPU state is no obstacle to a checkpoint, since their CUDA library can take it out. Kernel lock.
  void set_drainable(std::set<uint64_t> processes) { drainable_ = std::move(processes); }
  bool drainable(uint64_t process) const { return drainable_.contains(process); }

  struct Node {
    std::string path;
    uint32_t major, minor;
  };
  // What a container's /dev is to have.
  const std::vector<Node>& nodes() const { return nodes_; }
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
  static void OnExit(ThreadGroup& group);

  Kernel* kernel_ = nullptr;
  std::shared_ptr<void> fake_;  // the machine that a fake driver is on
  std::unique_ptr<nvproxy::HostDriver> driver_;
  std::unique_ptr<nvproxy::Proxy> proxy_;
  std::vector<Node> nodes_;
  UniqueFd pipes_[4];  // read and write end of its input, then of its output
  std::set<uint64_t> drainable_;
};

}  // namespace amber
