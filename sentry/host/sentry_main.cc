#include "sentry/host/sentry_main.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <malloc.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <memory>

#include "absl/strings/str_cat.h"
#include "sentry/base/clone_into.h"
#include "sentry/base/descriptor_table.h"
#include "sentry/base/guest_fd.h"
#include "sentry/control/channel.h"
#include "sentry/control/control.pb.h"
#include "sentry/control/runtime.h"
#include "sentry/control/server.h"
#include "sentry/host/confine.h"
#include "sentry/host/gpu_calls.h"
#include "sentry/host/seccomp.h"

namespace amber {
namespace {

using control::StepTimings;

// More than most sandboxes ever have open at once.
constexpr int kReservedDescriptors = 4096;

// glibc gives each thread a heap of its own, which grows by one mprotect(2) for each few pages: hundreds of calls while a program walks a tree that the
// kernel gets to know. Nearly everything is allocated under the kernel lock anyway, and the rest from the threads' caches: one heap, that grows in larger
// steps by brk(2), is enough. What is not touched costs nothing.
void SetUpHeap() {
  mallopt(M_ARENA_MAX, 1);
  mallopt(M_TOP_PAD, 512 << 10);
  mallopt(M_TRIM_THRESHOLD, 8 << 20);
  mallopt(M_MMAP_THRESHOLD, 1 << 20);
}

// Sets up, serves, and returns when the sandbox has ended.
absl::Status Run(const SentryLaunch& launch, int gate, StepTimings& timings) {
  SetUpHeap();
  timings.Begin("sentry: detach");
  if (absl::Status s = DetachFromCaller("sandbox-sentry", launch.messages); !s.ok()) return s;
  std::vector<int> nodes;
  for (const GpuNode& node : launch.options.gpu.nodes) nodes.push_back(node.fd);
  std::vector<int> keep{gate, launch.primary, launch.listener, launch.log, launch.cgroup};
  keep.insert(keep.end(), nodes.begin(), nodes.end());
  if (absl::Status s = CloseOtherDescriptors(keep); !s.ok()) return s;
  timings.Begin("sentry: become an unprivileged user");
  if (absl::Status s = BecomeNamespaceRoot(gate); !s.ok()) return s;
  timings.Begin("sentry: enter an empty root");
  absl::StatusOr<UniqueFd> proc = EnterEmptyRoot();
  if (!proc.ok()) return proc.status();
  timings.Begin("sentry: drop privileges");
  if (absl::Status s = SetResourceLimits(); !s.ok()) return s;
  ReserveDescriptors(gate, kReservedDescriptors);
  KeepDescriptorsForSelf();
  if (absl::Status s = DropCapabilities(); !s.ok()) return s;
  if (absl::Status s = ForbidFileOpens(nodes); !s.ok()) return s;

  timings.Begin("sentry: wait for the command line");
  if (absl::Status s = WaitForCaller(gate); !s.ok()) return s;
  close(gate);
  timings.Begin("sentry: make the kernel and the seed");
  SandboxFds fds = {.log = UniqueFd(launch.log), .proc = *std::move(proc), .cgroup = UniqueFd(launch.cgroup)};
  absl::StatusOr<std::unique_ptr<Runtime>> runtime = Runtime::Create(launch.options, std::move(fds));
  if (!runtime.ok()) return runtime.status();
  control::ServerOptions server_options = {.listener = UniqueFd(launch.listener), .primary = UniqueFd(launch.primary)};
  control::Server server(runtime->get(), std::move(server_options), &timings);
  timings.Begin("sentry: install the list of host calls");
  bool host_network = launch.options.network == NetworkKind::kHost;
  std::vector<HostCall> more = GpuHostCalls(launch.options.gpu);
  if (launch.options.host_sockets) more.insert(more.end(), HostSocketCalls().begin(), HostSocketCalls().end());
  if (absl::Status s = InstallHostCallFilter(host_network, more); !s.ok()) return s;
  timings.Begin("sentry: boot the kernel");
  if (absl::Status s = (*runtime)->Boot(); !s.ok()) return s;
  timings.End();
  server.Run();
  // Threads of the kernel are still running: no destructors. The stubs die with us.
  _exit(0);
}

[[noreturn]] void SentryMain(const SentryLaunch& launch, int gate) {
  StepTimings timings;
  absl::Status status = Run(launch, gate, timings);
  // Nobody could connect yet but the command line, and its first request is the one that fails.
  control::Reply reply;
  reply.set_id(1);
  reply.set_code(static_cast<int>(status.code()));
  reply.set_error(std::string(status.message()));
  control::SendPacket(launch.primary, reply.SerializeAsString(), {}, /*wait=*/false).IgnoreError();
  _exit(1);
}

absl::Status WriteFile(const std::string& path, std::string_view text) {
  UniqueFd file(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!file.valid() || write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
    return absl::InternalError(absl::StrCat("cannot write ", path, ": ", strerrordesc_np(errno)));
  }
  return absl::OkStatus();
}

// The C library keeps the thread's id in the word that it gave to set_tid_address; a raw clone must update it.
uint64_t TidAddress() {
  int* address = nullptr;
  if (prctl(PR_GET_TID_ADDRESS, &address) != 0) return 0;
  return reinterpret_cast<uint64_t>(address);
}

}  // namespace

absl::Status LaunchedSentry::Release() {
  // A sentry that died has closed the other end: not a reason to die of SIGPIPE.
  sigset_t pipe, before;
  sigemptyset(&pipe);
  sigaddset(&pipe, SIGPIPE);
  sigprocmask(SIG_BLOCK, &pipe, &before);
  ssize_t n = write(gate.get(), "1", 1);
  timespec now = {0, 0};
  if (n < 0) sigtimedwait(&pipe, nullptr, &now);
  sigprocmask(SIG_SETMASK, &before, nullptr);
  if (n != 1) return absl::UnavailableError("the sandbox ended while it was set up");
  return absl::OkStatus();
}

absl::StatusOr<LaunchedSentry> LaunchSentry(const SentryLaunch& launch) {
  if (geteuid() != 0) {
    return absl::PermissionDeniedError("starting a sandbox needs root for now (for namespaces, user id maps and cgroups): try sudo");
  }
  if (launch.host_id == 0) return absl::InvalidArgumentError("a sentry must not run as the host's root");
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return absl::InternalError(absl::StrCat("pipe: ", strerrordesc_np(errno)));
  UniqueFd read_end(ends[0]);
  UniqueFd gate(ends[1]);

  int pidfd = -1;
  clone_args args = {};
  args.flags = CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_PIDFD;
  if (launch.options.network != NetworkKind::kHost) args.flags |= CLONE_NEWNET;
  args.pidfd = reinterpret_cast<uint64_t>(&pidfd);
  args.exit_signal = SIGCHLD;
  args.child_tid = TidAddress();
  if (args.child_tid != 0) args.flags |= CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID;
  fflush(nullptr);
  long pid = CloneInto(args, launch.born_in);
  if (pid < 0) {
    const char* hint = errno == ENOSPC || errno == EUSERS ? " (raise /proc/sys/user/max_*_namespaces)" : "";
    return absl::InternalError(absl::StrCat("cannot make the sandbox's namespaces: ", strerrordesc_np(errno), hint));
  }
  if (pid == 0) SentryMain(launch, read_end.get());

  LaunchedSentry launched = {static_cast<pid_t>(pid), UniqueFd(pidfd), std::move(gate)};
  std::string proc = absl::StrCat("/proc/", pid, "/");
  std::string map = absl::StrCat("0 ", launch.host_id, " 1");
  absl::Status status = WriteFile(proc + "uid_map", map);
  if (status.ok()) status = WriteFile(proc + "gid_map", map);
  if (status.ok()) status = launched.Release();
  if (!status.ok()) {
    kill(launched.pid, SIGKILL);
    waitpid(launched.pid, nullptr, 0);
    return status;
  }
  return launched;
}

}  // namespace amber
