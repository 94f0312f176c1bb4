#include "sentry/runtime/release_agent.h"

#include <string>
#include <utility>

#include "sentry/kernel/cgroup.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task_lifecycle.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/runtime/container.h"

namespace amber {
namespace {

// call_usermodehelper() from cgroup1_release_agent(): a program of the container, which nobody waits for. It may do what the container's first process may.
void RunAgent(Kernel& kernel, Cgroup& unified, std::string agent, std::string path) {
  KernelLock lock(kernel);
  const ThreadGroup* some = unified.AnyMember();
  if (some == nullptr || some->tasks().empty()) return;  // nobody is left
  RefPtr<Container> container(some->tasks().front()->container());
  const ThreadGroup* init = container ? container->pids().init() : nullptr;
  if (init == nullptr || init->zombie()) return;
  ProcessSpec spec = container->spec().process;
  spec.argv = {std::move(agent), std::move(path)};
  spec.env = {"HOME=/", "PATH=/sbin:/bin:/usr/sbin:/usr/bin"};
  spec.cwd = "/";
  spec.terminal = false;
  absl::StatusOr<RefPtr<Task>> task = container->NewProcess(spec, {});
  if (!task.ok()) return;
  (*task)->group().set_exit_watcher([](int) {});
  container->started().erase((*task)->pid());
  if (absl::Status loaded = container->LoadProgram(**task, spec); !loaded.ok()) {
    kernel.lifecycle().ExitGroup((*task)->group(), 127 << 8);
    return;
  }
  kernel.lifecycle().Start(**task);
}

}  // namespace

void ProvideReleaseAgents() { Cgroup::SetAgentRunner(&RunAgent); }

}  // namespace amber
