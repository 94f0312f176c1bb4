#include "sentry/runtime/kernel_runtime.h"

#include <errno.h>
#include <signal.h>

#include "absl/strings/str_cat.h"
#include "sentry/base/check.h"
#include "sentry/base/program_pages.h"
#include "sentry/fs/devpts/tty.h"
#include "sentry/fs/nvidia/gpu_support.h"
#include "sentry/fs/proc/entry.h"
#include "sentry/fs/proc/proc.h"
#include "sentry/kernel/strace.h"
#include "sentry/kernel/task_lifecycle.h"
#include "sentry/net/inet/host_socket.h"
#include "sentry/runtime/release_agent.h"
#include "sentry/vfs/mount_setup.h"

namespace amber {
namespace {

// A program has started when it has run for so long, ns.
constexpr int64_t kSettleTime = 100'000'000;

// linux.sysctl of config.json.
absl::Status ApplySysctls(Task& init, const ContainerSpec& spec) {
  for (const auto& [name, value] : spec.sysctls) {
    ErrnoOr<void> set = ApplySysctl(init, name, value);
    if (set.ok()) continue;
    const char* why = "it takes no such value";
    switch (set.error().number()) {
      case ENOENT: why = "there is no such setting"; break;
      case EACCES: why = "it cannot be changed in a sandbox"; break;
      case EPERM: why = "the network is the host's"; break;
      default: break;
    }
    return absl::InvalidArgumentError(absl::StrCat("sysctl ", name, " = \"", value, "\": ", why));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Runtime>> Runtime::Create(const SandboxOptions& options, SandboxFds fds) {
  return KernelRuntime::Make(options, std::move(fds));
}

absl::StatusOr<std::unique_ptr<KernelRuntime>> KernelRuntime::Make(const SandboxOptions& options, SandboxFds fds) {
  std::unique_ptr<KernelRuntime> runtime(new KernelRuntime(options, std::move(fds)));
  // Before the tables of /proc and /sys are first read.
  if (options.network == NetworkKind::kHost) HostNetwork::Enable();
  std::string error = GpuSupport::Start(runtime->kernel_, options.gpu);
  if (!error.empty()) return absl::FailedPreconditionError(error);
  RegisterFileSystems();
  ProvideReleaseAgents();
  RegisterFileSystemType("proc", ProcFileSystem::Make);
  error = runtime->kernel_.CreatePlatform({.fast_path = options.fast_path});
  if (!error.empty()) return absl::FailedPreconditionError(error);
  SetCheckLog(runtime->fds_.log.valid() ? runtime->fds_.log.get() : -1);
  LogCrashes();
  if (options.strace) {
    if (absl::Status s = runtime->SetStrace(true); !s.ok()) return s;
  }
  return runtime;
}

absl::Status KernelRuntime::Boot() {
  kernel_.Boot();
  return absl::OkStatus();
}

absl::StatusOr<Container*> KernelRuntime::Find(std::string_view id) {
  auto it = containers_.find(id);
  if (it == containers_.end()) return absl::NotFoundError(absl::StrCat("container \"", id, "\" does not exist"));
  return it->second.get();
}

absl::StatusOr<RefPtr<ThreadGroup>> KernelRuntime::FindProcess(std::string_view container, ProcessId process) {
  absl::StatusOr<Container*> found = Find(container);
  if (!found.ok()) return found.status();
  ThreadGroup* group = (*found)->pids().FindGroup(process.pid);
  if (group == nullptr || group->zombie()) {
    return absl::NotFoundError(absl::StrCat("process ", process.pid, ": no such process"));
  }
  return RefPtr<ThreadGroup>(group);
}

absl::StatusOr<ProcessId> KernelRuntime::CreateContainer(const ContainerSpec& spec, ContainerFds fds) {
  KernelLock lock(kernel_);
  if (containers_.contains(spec.id)) return absl::AlreadyExistsError(absl::StrCat("container \"", spec.id, "\" exists already"));
  if (spec.pids_limit != 0) kernel_.set_max_tasks(std::min<size_t>(spec.pids_limit, kernel_.max_tasks()));
  auto container = MakeRef<Container>(kernel_, spec);
  if (absl::Status s = container->SetUp(std::move(fds.gofer), std::move(fds.file_systems)); !s.ok()) return s;
  absl::StatusOr<RefPtr<Task>> init = container->NewProcess(spec.process, std::move(fds.process));
  if (!init.ok()) return init.status();
  if (absl::Status s = ApplySysctls(**init, spec); !s.ok()) {
    kernel_.lifecycle().ExitGroup((*init)->group(), 1 << 8);
    return s;
  }
  containers_[spec.id] = container;
  return ProcessId{(*init)->pid()};
}

absl::Status KernelRuntime::StartContainer(std::string_view id) {
  KernelLock lock(kernel_);
  absl::StatusOr<Container*> found = Find(id);
  if (!found.ok()) return found.status();
  RefPtr<Container> container(*found);
  auto entry = container->started().find(1);
  if (entry == container->started().end() || entry->second.task == nullptr) {
    return absl::FailedPreconditionError("the container's process has ended: it cannot be started again");
  }
  if (entry->second.running) return absl::FailedPreconditionError("the container is running already");
  RefPtr<Task> init = entry->second.task;
  if (absl::Status s = container->LoadProgram(*init, container->spec().process); !s.ok()) {
    kernel_.lifecycle().ExitGroup(init->group(), 127 << 8);
    return s;
  }
  entry->second.running = true;
  kernel_.lifecycle().Start(*init);
  if (settled_ == nullptr) {
    settled_ = std::make_unique<Timer>(ReleaseProgramPages);
    settled_->Arm(kernel_.timers(), kernel_.clocks().Monotonic() + kSettleTime);
  }
  return absl::OkStatus();
}

absl::StatusOr<ProcessId> KernelRuntime::Exec(std::string_view id, const ProcessSpec& process, ProcessFds fds) {
  KernelLock lock(kernel_);
  absl::StatusOr<Container*> found = Find(id);
  if (!found.ok()) return found.status();
  RefPtr<Container> container(*found);
  auto init = container->started().find(1);
  if (init == container->started().end() || !init->second.running || init->second.wait_status) {
    return absl::FailedPreconditionError("cannot exec in a container that is not running");
  }
  absl::StatusOr<RefPtr<Task>> task = container->NewProcess(process, std::move(fds));
  if (!task.ok()) return task.status();
  if (absl::Status s = container->LoadProgram(**task, process); !s.ok()) {
    kernel_.lifecycle().ExitGroup((*task)->group(), 127 << 8);
    return s;
  }
  int pid = (*task)->pid();
  container->started()[pid].running = true;
  kernel_.lifecycle().Start(**task);
  return ProcessId{pid};
}

absl::Status KernelRuntime::Signal(std::string_view container, ProcessId process, int signal) {
  if (signal < 0 || signal > kNumSignals) return absl::InvalidArgumentError(absl::StrCat("there is no signal ", signal));
  KernelLock lock(kernel_);
  absl::StatusOr<RefPtr<ThreadGroup>> group = FindProcess(container, process);
  if (!group.ok()) return group.status();
  // A sender outside of the namespace has pid 0 (pid_namespaces(7)).
  if (signal != 0) (*group)->SendSignal(SigInfo::User(signal, SI_USER, 0, 0));
  return absl::OkStatus();
}

absl::Status KernelRuntime::SignalAll(std::string_view container, int signal) {
  if (signal < 0 || signal > kNumSignals) return absl::InvalidArgumentError(absl::StrCat("there is no signal ", signal));
  KernelLock lock(kernel_);
  absl::StatusOr<Container*> found = Find(container);
  if (!found.ok()) return found.status();
  for (const RefPtr<ThreadGroup>& g : (*found)->pids().Groups()) {
    if (signal != 0) g->SendSignal(SigInfo::User(signal, SI_USER, 0, 0));
  }
  return absl::OkStatus();
}

absl::Status KernelRuntime::SignalForeground(std::string_view container, ProcessId process, int signal) {
  // Without a terminal of its own the process's group is what the user means.
  KernelLock lock(kernel_);
  absl::StatusOr<RefPtr<ThreadGroup>> group = FindProcess(container, process);
  if (!group.ok()) return group.status();
  Tty* tty = (*group)->session().tty();
  RefPtr<ProcessGroup> target(tty != nullptr && tty->foreground() != nullptr ? tty->foreground() : &(*group)->process_group());
  target->SendSignal(SigInfo::User(signal, SI_USER, 0, 0));
  return absl::OkStatus();
}

void KernelRuntime::Wait(std::string_view container, ProcessId process, WaitCallback done) {
  absl::StatusOr<int> answer = absl::NotFoundError("");
  {
    KernelLock lock(kernel_);
    absl::StatusOr<Container*> found = Find(container);
    if (!found.ok()) {
      answer = found.status();
    } else {
      auto it = (*found)->started().find(process.pid);
      if (it == (*found)->started().end()) {
        answer = absl::NotFoundError(absl::StrCat("process ", process.pid, " was not started from outside: no such process"));
      } else if (it->second.wait_status) {
        answer = *it->second.wait_status;
      } else {
        it->second.waiters.push_back(std::move(done));
        return;
      }
    }
  }
  done(std::move(answer));
}

void KernelRuntime::Pause(DoneCallback done) {
  KernelLock lock(kernel_);
  auto callback = std::make_shared<DoneCallback>(std::move(done));
  if (paused_) {
    kernel_.AfterUnlock([callback] { (*callback)(absl::OkStatus()); });
    return;
  }
  paused_ = true;
  kernel_.Freeze([this, callback] { kernel_.AfterUnlock([callback] { (*callback)(absl::OkStatus()); }); });
}

absl::Status KernelRuntime::Resume() {
  KernelLock lock(kernel_);
  if (!paused_) return absl::FailedPreconditionError("the container is not paused");
  paused_ = false;
  // A checkpoint in progress lets them go when it is done.
  if (!checkpointing_) kernel_.Thaw();
  return absl::OkStatus();
}

absl::Status KernelRuntime::ResizeTerminal(std::string_view container, ProcessId process, WindowSize size) {
  KernelLock lock(kernel_);
  absl::StatusOr<RefPtr<ThreadGroup>> group = FindProcess(container, process);
  if (!group.ok()) return group.status();
  Tty* tty = (*group)->session().tty();
  if (tty == nullptr) return absl::FailedPreconditionError("the process has no terminal");
  tty->SetWindow({size.rows, size.columns, 0, 0});
  return absl::OkStatus();
}

absl::Status KernelRuntime::SetMemoryLimit(std::string_view id, uint64_t bytes) {
  KernelLock lock(kernel_);
  absl::StatusOr<Container*> found = Find(id);
  if (!found.ok()) return found.status();
  (*found)->ChangeMemoryLimit(bytes);
  return absl::OkStatus();
}

absl::Status KernelRuntime::SetStrace(bool on) {
  if (on && !fds_.log.valid()) return absl::FailedPreconditionError("--strace needs a log: give --log FILE");
  KernelLock lock(kernel_);
  kernel_.set_strace(on ? std::make_unique<Strace>(fds_.log.get()) : nullptr);
  return absl::OkStatus();
}

void KernelRuntime::DestroyContainer(std::string_view id, DoneCallback done) {
  absl::Status status;
  {
    KernelLock lock(kernel_);
    absl::StatusOr<Container*> found = Find(id);
    if (found.ok()) {
      RefPtr<Container> container(*found);
      container->KillAll();
      containers_.erase(containers_.find(id));
    } else {
      status = found.status();
    }
  }
  done(status);
}

}  // namespace amber
