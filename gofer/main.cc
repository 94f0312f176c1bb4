#include "gofer/main.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gofer/confine.h"
#include "gofer/seccomp.h"
#include "gofer/server.h"
#include "sentry/base/clone_into.h"
#include "sentry/base/descriptor_table.h"
#include "sentry/base/program_pages.h"

namespace amber::gofer {
namespace {

// Descriptors beside nodes: sockets, attach points, and what calls open for a moment (up to three a channel).
constexpr uint32_t kReservedFiles = 64;
// The table's size from the start: a gofer has a descriptor for every file that its sandbox has looked at.
constexpr int kDescriptors = 16384;

absl::StatusOr<std::unique_ptr<Server>> MakeServer(GoferConfig& config) {
  uint32_t reserved = kReservedFiles + static_cast<uint32_t>(config.mounts.size() + 4 * config.channels.size());
  uint32_t limit = RaiseFileLimit();
  if (limit <= reserved) return absl::ResourceExhaustedError("gofer: the limit of open files is too low");
  uint32_t max_nodes = limit - reserved;
  if (config.max_nodes != 0) max_nodes = std::min(max_nodes, config.max_nodes);
  // Before the process leaves the root that has /proc.
  auto proc = OpenProcSelfFd();
  if (!proc.ok()) return ErrnoStatus(proc.error().number(), "gofer: /proc/self/fd");
  auto points = config.new_mount_namespace ? EnterOwnRoot(config) : OpenAttachPoints(config);
  if (!points.ok()) return points.status();
  for (AttachPoint& point : *points) point.allow_directories = config.allow_directories;
  return std::make_unique<Server>(std::move(points).value(), std::move(proc).value(), max_nodes);
}

// Standard error goes just before the filter; a filter that cannot be installed is still reported.
absl::Status LastStep(const GoferConfig& config, int null) {
  UniqueFd messages(fcntl(2, F_DUPFD_CLOEXEC, 3));
  if (!config.keep_stderr && dup2(null, 2) < 0) return ErrnoStatus(errno, "gofer: dup2");
  if (!config.seccomp) return absl::OkStatus();
  bool sockets = std::ranges::any_of(config.mounts, [](const MountConfig& m) { return m.allow_connect || m.allow_bind; });
  absl::Status status = InstallSeccompFilter(sockets);
  if (!status.ok()) dup2(messages.get(), 2);
  return status;
}

// Where channel threads report that they are prepared, and wait for the word to serve. Not of Abseil: see TableLock.
class StartGate {
 public:
  // Called by a channel thread; `error` is 0 or why it cannot serve. True: serve.
  bool Arrive(int error) {
    std::unique_lock lock(mutex_);
    if (error != 0) error_ = error;
    ++arrived_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return open_; });
    return serve_;
  }
  // Waits for `count` threads; returns 0 or an error of one of them.
  int AwaitArrival(size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return arrived_ == count; });
    return error_;
  }
  void Open(bool serve) {
    std::unique_lock lock(mutex_);
    open_ = true;
    serve_ = serve;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  size_t arrived_ = 0;
  int error_ = 0;
  bool open_ = false;
  bool serve_ = false;
};

// Channel threads exist before the filter, so that it need not allow making any.
absl::Status ServeUntilClosed(Server& server, GoferConfig& config, int null) {
  StartGate gate;
  std::vector<std::thread> threads;
  for (UniqueFd& channel : config.channels) {
    threads.emplace_back([&server, &gate, socket = std::move(channel)]() mutable {
      auto ready = server.PrepareThread();
      if (gate.Arrive(ready.ok() ? 0 : ready.error().number())) server.Serve(socket.get());
      socket.reset();
    });
  }
  int error = gate.AwaitArrival(threads.size());
  ReleaseProgramPages();
  absl::Status status = error == 0 ? LastStep(config, null) : ErrnoStatus(error, "gofer: preparing threads");
  gate.Open(status.ok());
  for (std::thread& thread : threads) thread.join();
  return status;
}

absl::Status Run(GoferConfig& config) {
  if (config.die_with_parent) prctl(PR_SET_PDEATHSIG, SIGKILL);
  // A terminal's ^C is for the command line in the foreground, which tells the guest.
  setsid();
  prctl(PR_SET_NAME, "gofer");
  // Nothing of the sandbox's files may end up in a core file, nor may others of its user look into the process.
  prctl(PR_SET_DUMPABLE, 0);
  // A thread that was another user (ActAs) has made the process dumpable as fs.suid_dumpable says. A limit of 1 keeps pipes from getting a dump, too.
  rlimit no_core = {1, 1};
  setrlimit(RLIMIT_CORE, &no_core);
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);  // truncate beyond RLIMIT_FSIZE is to fail with EFBIG only
  UniqueFd null(open("/dev/null", O_RDWR | O_CLOEXEC));
  if (!null.valid()) return ErrnoStatus(errno, "gofer: /dev/null");
  if (dup2(null.get(), 0) < 0 || dup2(null.get(), 1) < 0) return ErrnoStatus(errno, "gofer: dup2");
  uint64_t capabilities = NeededCapabilities(config);
  auto server = MakeServer(config);
  if (!server.ok()) return server.status();
  ReserveDescriptors(null.get(), kDescriptors);
  if (config.drop_capabilities) {
    absl::Status status = KeepCapabilities(capabilities);
    if (!status.ok()) return status;
  }
  return ServeUntilClosed(**server, config, null.get());
}

// Closes all descriptors above 2 but those in `keep`.
void CloseOthers(std::vector<int> keep) {
  std::sort(keep.begin(), keep.end());
  unsigned next = 3;
  for (int fd : keep) {
    if (fd < 3) continue;
    if (static_cast<unsigned>(fd) > next) syscall(SYS_close_range, next, fd - 1, 0);
    next = fd + 1;
  }
  syscall(SYS_close_range, next, ~0u, 0);
}

}  // namespace

int GoferMain(GoferConfig config) {
  absl::Status status = Run(config);
  if (status.ok()) return 0;
  std::string line = absl::StrCat(std::string(status.message()), "\n");
  (void)!write(2, line.data(), line.size());
  return 1;
}

absl::StatusOr<pid_t> StartGofer(GoferConfig config) {
  // As fork(2), which cannot make the namespace; the C library sees no difference in a process with one thread.
  uint64_t flags = config.new_pid_namespace ? CLONE_NEWPID : 0;
  pid_t pid = static_cast<pid_t>(config.cgroup < 0 ? syscall(SYS_clone, flags | SIGCHLD, nullptr, nullptr, nullptr, nullptr)
                                                   : CloneInto({.flags = flags, .exit_signal = SIGCHLD}, config.cgroup));
  if (pid < 0) return ErrnoStatus(errno, "gofer: clone");
  if (pid > 0) return pid;
  setsid();  // no keys of the caller's terminal
  std::vector<int> keep;
  for (const UniqueFd& channel : config.channels) keep.push_back(channel.get());
  for (const MountConfig& mount : config.mounts) keep.push_back(mount.fd.get());
  CloseOthers(std::move(keep));
  _exit(GoferMain(std::move(config)));
}

}  // namespace amber::gofer
