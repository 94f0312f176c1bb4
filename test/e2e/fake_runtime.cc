// A kernel that only pretends, for tests of everything around the kernel: command line, namespaces, control socket,
// waiters, terminals, clean-up. A "program" is one of the words below, carried out by a thread.
//
//   exit N | signal N | sleep MS | print TEXT | cat | wait (for a signal that ends it) | size (prints the window)
//   crash (ends the sentry) | hostcall N (makes a host call that is not allowed)
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <map>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "sentry/control/runtime.h"

namespace amber {
namespace {

struct FakeProcess {
  ProcessSpec spec;
  ProcessFds fds;
  int32_t pid = 0;
  bool started = false;
  bool ended = false;
  int status = 0;
  int pending = 0;
  std::vector<Runtime::WaitCallback> waiting;
};

class FakeRuntime final : public Runtime {
 public:
  absl::Status Boot() override { return absl::OkStatus(); }

  absl::StatusOr<ProcessId> CreateContainer(const ContainerSpec& spec, ContainerFds fds) override {
    if (spec.process.argv[0] == "uncreatable") return absl::InvalidArgumentError("the kernel does not like this container");
    gofer_ = std::move(fds.gofer);
    return Add(spec.id, spec.process, std::move(fds.process));
  }
  absl::Status StartContainer(std::string_view container) override {
    std::shared_ptr<FakeProcess> init = Find(container, 1);
    if (init == nullptr) return absl::NotFoundError("no such container");
    if (init->spec.argv[0] == "missing") return absl::NotFoundError("exec: \"missing\": not found in $PATH");
    if (init->spec.argv[0] == "forbidden") return absl::PermissionDeniedError("exec: \"forbidden\": permission denied");
    Launch(init);
    return absl::OkStatus();
  }
  absl::StatusOr<ProcessId> Exec(std::string_view container, const ProcessSpec& process, ProcessFds fds) override {
    if (Find(container, 1) == nullptr) return absl::NotFoundError("no such container");
    if (process.argv[0] == "missing") return absl::NotFoundError("exec: \"missing\": not found in $PATH");
    ProcessId id = Add(std::string(container), process, std::move(fds));
    Launch(Find(container, id.pid));
    return id;
  }
  absl::Status Signal(std::string_view container, ProcessId id, int signal) override {
    std::shared_ptr<FakeProcess> process = Find(container, id.pid);
    absl::MutexLock lock(&mutex_);
    if (process == nullptr || process->ended) return absl::NotFoundError("no such process");
    process->pending = signal;
    if (!process->started) EndLocked(*process, signal);
    return absl::OkStatus();
  }
  absl::Status SignalAll(std::string_view container, int signal) override { return Signal(container, {1}, signal); }
  absl::Status SignalForeground(std::string_view container, ProcessId process, int signal) override { return Signal(container, process, signal); }
  void Wait(std::string_view container, ProcessId id, WaitCallback done) override {
    std::shared_ptr<FakeProcess> process = Find(container, id.pid);
    if (process == nullptr) return done(absl::NotFoundError("no such process"));
    {
      absl::MutexLock lock(&mutex_);
      if (!process->ended) {
        process->waiting.push_back(std::move(done));
        return;
      }
    }
    done(process->status);
  }
  void Pause(DoneCallback done) override { done(absl::OkStatus()); }
  absl::Status SetMemoryLimit(std::string_view, uint64_t) override { return absl::OkStatus(); }
  absl::Status Resume() override { return absl::OkStatus(); }
  void Checkpoint(CheckpointOptions options, ProgressCallback progress, CheckpointCallback done) override {
    CheckpointResult result;
    if (options.check_only) {
      result.obstacles.push_back("this kernel pretends");
    } else if (write(options.image.get(), "fake image", 10) != 10) {
      result.status = absl::InternalError("cannot write");
    }
    progress({"memory", 1, 1});
    result.image_bytes = 10;
    done(std::move(result));
  }
  absl::StatusOr<RestoreResult> Restore(RestoreOptions options, const ContainerSpec& spec, ContainerFds fds) override {
    char text[11] = {};
    if (pread(options.image.get(), text, 10, 0) != 10 || std::string(text) != "fake image") {
      return absl::DataLossError("the image is damaged");
    }
    ProcessSpec process = spec.process;
    process.argv = {"print", "restored\n"};
    ProcessId init = Add(spec.id, process, std::move(fds.process));
    Launch(Find(spec.id, init.pid));
    return RestoreResult{{spec.id}, init};
  }
  absl::StatusOr<std::vector<ProcessInfo>> Processes(std::string_view container) override {
    std::vector<ProcessInfo> out;
    absl::MutexLock lock(&mutex_);
    for (const auto& [key, p] : processes_) {
      if (key.first == container && !p->ended) out.push_back({.pid = p->pid, .state = "S", .command = p->spec.argv[0]});
    }
    return out;
  }
  absl::StatusOr<ContainerStats> Stats(std::string_view) override { return ContainerStats{.cpu_ns = 1, .processes = 1}; }
  absl::Status ResizeTerminal(std::string_view container, ProcessId id, WindowSize size) override {
    std::shared_ptr<FakeProcess> process = Find(container, id.pid);
    if (process == nullptr) return absl::NotFoundError("no such process");
    std::string text = absl::StrCat("resized ", size.rows, "x", size.columns, "\r\n");
    (void)!write(process->fds.console.get(), text.data(), text.size());
    return absl::OkStatus();
  }
  absl::Status SetStrace(bool) override { return absl::OkStatus(); }
  absl::StatusOr<std::string> Debug(std::string_view query) override { return absl::StrCat("you asked for ", query, "\n"); }
  void DestroyContainer(std::string_view container, DoneCallback done) override {
    Signal(container, {1}, SIGKILL).IgnoreError();
    done(absl::OkStatus());
  }

 private:
  using Key = std::pair<std::string, int32_t>;

  ProcessId Add(const std::string& container, const ProcessSpec& spec, ProcessFds fds) {
    absl::MutexLock lock(&mutex_);
    auto process = std::make_shared<FakeProcess>();
    process->spec = spec;
    process->fds = std::move(fds);
    process->pid = next_pid_++;
    processes_[{container, process->pid}] = process;
    return {process->pid};
  }
  std::shared_ptr<FakeProcess> Find(std::string_view container, int32_t pid) {
    absl::MutexLock lock(&mutex_);
    auto it = processes_.find({std::string(container), pid});
    return it == processes_.end() ? nullptr : it->second;
  }
  void EndLocked(FakeProcess& process, int status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    process.ended = true;
    process.status = status;
    std::vector<WaitCallback> waiting = std::move(process.waiting);
    process.fds = ProcessFds();
    mutex_.Unlock();
    for (WaitCallback& done : waiting) done(status);
    mutex_.Lock();
  }
  void Launch(std::shared_ptr<FakeProcess> process) {
    process->started = true;
    std::thread([this, process] {
      int status = Play(*process);
      absl::MutexLock lock(&mutex_);
      if (!process->ended) EndLocked(*process, status);
    }).detach();
  }

  // A signal that came, or 0 after `ms`.
  int Sleep(FakeProcess& process, int ms) {
    absl::MutexLock lock(&mutex_);
    auto has_signal = [&process] { return process.pending != 0; };
    mutex_.AwaitWithTimeout(absl::Condition(&has_signal), absl::Milliseconds(ms));
    return process.pending;
  }

  // Copies until either side closes or a signal comes. A terminal's ^D ends it.
  int Cat(FakeProcess& process, int in, int out) {
    for (;;) {
      if (int signal = Sleep(process, 1)) return signal;
      pollfd p = {in, POLLIN, 0};

      if (poll(&p, 1, 20) <= 0) continue;
      char buffer[4096];
      ssize_t n = read(in, buffer, sizeof(buffer));
      if (n <= 0 || buffer[0] == 4) return 0;
      if (write(out, buffer, static_cast<size_t>(n)) != n) return SIGPIPE;
    }
  }

  int Play(FakeProcess& process) {
    const std::vector<std::string>& argv = process.spec.argv;
    const std::string argument = argv.size() > 1 ? argv[1] : "";
    int number = 0;
    (void)absl::SimpleAtoi(argument, &number);
    int in = process.fds.console.valid() ? process.fds.console.get() : process.fds.stdio[0].get();
    int out = process.fds.console.valid() ? process.fds.console.get() : process.fds.stdio[1].get();
    if (argv[0] == "exit") return number << 8;
    if (argv[0] == "signal") return number;
    if (argv[0] == "sleep") return Sleep(process, number);
    if (argv[0] == "wait") return Sleep(process, 60000);
    if (argv[0] == "cat") return Cat(process, in, out);
    if (argv[0] == "crash") _exit(3);
    if (argv[0] == "hostcall") {
      syscall(number);
      return 0;
    }
    std::string text = argument;
    if (argv[0] == "size") text = absl::StrCat(process.spec.window.rows, "x", process.spec.window.columns, "\r\n");
    if (argv[0] == "env") text = absl::StrCat(process.spec.cwd, " ", process.spec.uid, " ", process.spec.env.size(), "\n");
    if (argv[0] != "print" && argv[0] != "size" && argv[0] != "env") return 127 << 8;
    if (write(out, text.data(), text.size()) < 0) return SIGPIPE;
    return 0;
  }

  absl::Mutex mutex_;
  std::map<Key, std::shared_ptr<FakeProcess>> processes_;
  int32_t next_pid_ = 1;
  std::vector<UniqueFd> gofer_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Runtime>> Runtime::Create(const SandboxOptions&, SandboxFds) { return std::make_unique<FakeRuntime>(); }

}  // namespace amber
