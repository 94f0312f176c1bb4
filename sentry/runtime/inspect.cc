// What the runtime tells about the sandbox: ps, events, debug.
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "sentry/fs/nvidia/gpu_support.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/runtime/kernel_runtime.h"
#include "sentry/syscalls/table.h"

namespace amber {

absl::StatusOr<std::vector<ProcessInfo>> KernelRuntime::Processes(std::string_view container) {
  KernelLock lock(kernel_);
  absl::StatusOr<Container*> found = Find(container);
  if (!found.ok()) return found.status();
  std::vector<ProcessInfo> out;
  for (const RefPtr<ThreadGroup>& g : (*found)->pids().Groups()) {
    if (g->zombie()) continue;
    ProcessInfo info;
    info.pid = (*found)->pids().IdOf(*g);
    info.parent = g->parent() != nullptr ? (*found)->pids().IdOf(*g->parent()) : 0;
    info.uid = g->leader()->creds().uid;
    info.threads = static_cast<uint32_t>(g->live_tasks());
    info.state = std::string(1, g->leader()->state_letter());
    info.command = g->leader()->name();
    info.cpu_ns = static_cast<uint64_t>(g->CpuTime());
    if (!g->leader()->exiting() && g->leader()->thread() != nullptr) {
      info.resident_bytes = g->leader()->mm().GetUsage().resident;
      info.stub = g->leader()->thread()->host_pid();
    }
    out.push_back(std::move(info));
  }
  return out;
}

absl::StatusOr<ContainerStats> KernelRuntime::Stats(std::string_view container) {
  absl::StatusOr<std::vector<ProcessInfo>> processes = Processes(container);
  if (!processes.ok()) return processes.status();
  ContainerStats stats;
  for (const ProcessInfo& p : *processes) {
    stats.cpu_ns += p.cpu_ns;
    stats.memory_bytes += p.resident_bytes;
    stats.threads += p.threads;
    ++stats.processes;
  }
  stats.cpu_user_ns = stats.cpu_ns;
  if (GpuSupport* gpus = GpuSupport::Of(kernel_); gpus != nullptr) gpus->AddStats(&stats);
  return stats;
}

std::string KernelRuntime::StatsText() {
  KernelLock lock(kernel_);
  const KernelStats& k = kernel_.stats();
  platform::Stats p = kernel_.platform().stats();
  std::string out;
  auto line = [&](const char* name, uint64_t value) { absl::StrAppend(&out, name, " ", value, "\n"); };
  line("syscalls", k.syscalls);
  line("blocks", k.blocks);
  line("restarts", k.restarts);
  line("signals", k.signals);
  line("forks", k.forks);
  line("execs", k.execs);
  line("tasks", kernel_.task_count());
  line("notifications", p.notifications);
  line("stops", p.stops);
  line("faults", p.faults);
  line("kicks", p.kicks);
  line("kick_resends", p.kick_resends);
  line("stub_ops", p.stub_ops);
  line("stub_forks", p.forks);
  line("stub_execs", p.execs);
  line("stub_clones", p.clones);
  line("continues", p.answers_continue);
  line("parks", p.parks);
  line("fast_calls", p.fast_calls);
  line("fast_redone", p.fast_redone);
  line("patched_sites", p.patched_sites);
  line("posted_contacts", p.posted_contacts);
  uint64_t gofer_calls = 0;
  for (const auto& [id, container] : containers_) gofer_calls += container->gofer_calls();
  line("gofer_calls", gofer_calls);
  return out;
}

std::string KernelRuntime::UnknownText() {
  KernelLock lock(kernel_);
  std::string out;
  const auto& unknown = kernel_.stats().unknown;
  for (size_t n = 0; n < unknown.size(); ++n) {
    uint64_t count = unknown[n];
    if (count == 0) continue;
    const char* name = SyscallName(n);
    absl::StrAppend(&out, name != nullptr ? std::string(name) : absl::StrCat("number_", n), " ", count, "\n");
  }
  return out;
}

std::string KernelRuntime::StacksText() {
  KernelLock lock(kernel_);
  std::string out;
  for (const RefPtr<Task>& t : kernel_.LiveTasks()) {
    const SyscallState& call = t->syscall();
    const char* name = SyscallName(call.number);
    absl::StrAppend(&out, "pid ", t->pid(), " tid ", t->tid(), " ", t->name(), " ", std::string(1, t->state_letter()), " ", t->Describe(),
                    name != nullptr ? name : "", "\n");
  }
  return out;
}

absl::StatusOr<std::string> KernelRuntime::Debug(std::string_view query) {
  if (query == "stats") {
    GpuSupport* gpus = GpuSupport::Of(kernel_);
    return StatsText() + (gpus != nullptr ? gpus->StatsText() : "");
  }
  if (query == "unknown-syscalls") return UnknownText();
  if (query == "stacks") return StacksText();
  return absl::InvalidArgumentError("unknown query; there are: stats, unknown-syscalls, stacks");
}

}  // namespace amber
