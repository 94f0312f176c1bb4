#include "sentry/runtime/gpu_helper.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <charconv>
#include <span>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "nvproxy/helper/helper_bytes.h"
#include "sentry/fs/memfd/memfd.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task_lifecycle.h"
#include "sentry/vfs/io.h"

namespace amber {
namespace {

constexpr size_t kMostLine = 256;
constexpr int kMostDropped = 1024;
// A killed helper is gone at once, unless a call of its does not return from the driver.
constexpr absl::Duration kStopLimit = absl::Seconds(10);
constexpr uint64_t kAllCapabilities = (uint64_t{1} << 41) - 1;
constexpr char kName[] = "gpu-checkpoint";

// As the container's own programs see the world, with a root's rights inside it.
ProcessSpec SpecFor(const ContainerSpec& container) {
  ProcessSpec spec;
  spec.argv = {kName};
  for (const std::string& e : container.process.env) {
    // Hidden GPUs could not be mapped at a restore.
    if (!e.starts_with("CUDA_VISIBLE_DEVICES=") && !e.starts_with("LD_PRELOAD=")) spec.env.push_back(e);
  }
  spec.capabilities = {kAllCapabilities, kAllCapabilities, 0, kAllCapabilities, 0};
  return spec;
}

ErrnoOr<RefPtr<File>> HelperFile(Task& task) {
  RefPtr<File> file = TRY(MemFd::Create(task, kName, 0));
  std::span<const unsigned char> bytes = gpu_helper::Bytes();
  BufferSource source(bytes.data(), bytes.size());
  size_t written = TRY(file->PWrite(task, source, 0));
  if (written != bytes.size()) return Errno(EIO);
  return file->Reopen(task, O_RDONLY);
}

bool ParseInt(std::string_view text, int* out) {
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *out);
  return error == std::errc() && end == text.data() + text.size();
}

}  // namespace

std::string GpuResultText(int result) {
  switch (result) {
    case 1: return "invalid value (CUDA error 1)";
    case 2: return "out of memory (CUDA error 2)";
    case 3: return "not a process that uses CUDA (CUDA error 3)";
    case 304: return "operating system error (CUDA error 304)";
    case 401: return "in the wrong state (CUDA error 401)";
    case 600: return "not ready in time (CUDA error 600)";
    case 801: return "not supported (CUDA error 801)";
    case 900: return "a graph is being captured (CUDA error 900)";
    default: return absl::StrCat("CUDA error ", result);
  }
}

absl::Status GpuHelper::Launch() {
  KernelLock lock(kernel_);
  ProcessFds fds;
  const int streams[] = {streams_.its_input, streams_.its_output, streams_.its_output};
  for (int i = 0; i < 3; ++i) fds.stdio[i].reset(fcntl(streams[i], F_DUPFD_CLOEXEC, 3));
  ProcessSpec spec = SpecFor(container_->spec());
  absl::StatusOr<RefPtr<Task>> task = container_->NewProcess(spec, std::move(fds));
  if (!task.ok()) return task.status();
  pid_ = (*task)->pid();
  process_ = GpuSupport::ProcessOf((*task)->group());
  ErrnoOr<RefPtr<File>> file = HelperFile(**task);
  ErrnoOr<void> loaded = Errno(ENOMEM);
  if (file.ok()) {
    ExecArgs args;
    args.file = *file;
    args.path = absl::StrCat("/memfd:", kName);
    args.argv = spec.argv;
    args.envp = spec.env;
    loaded = kernel_.lifecycle().FirstExec(**task, args);
  }
  if (!loaded.ok()) {
    kernel_.lifecycle().ExitGroup((*task)->group(), 127 << 8);
    container_->started().erase(pid_);
    pid_ = 0;
    return absl::NotFoundError("the container's C library cannot run the checkpoint helper");
  }
  container_->started()[pid_].running = true;
  kernel_.lifecycle().Start(**task);
  return absl::OkStatus();
}

absl::Status GpuHelper::Start(absl::Duration limit) {
  Stop();
  DropOldBytes();
  if (absl::Status s = Launch(); !s.ok()) return s;
  absl::StatusOr<std::string> line = ReadLine(absl::Now() + limit);
  if (line.ok() && *line == "ready 0") return absl::OkStatus();
  Stop();
  if (!line.ok()) return absl::UnavailableError(absl::StrCat("the GPU checkpoint helper does not start: ", line.status().message()));
  if (*line == "no library") return absl::NotFoundError("the container has no libcuda.so.1 that the checkpoint helper could use");
  if (*line == "no verbs") return absl::NotFoundError("the container's libcuda.so.1 has no checkpoint calls: driver 570 or newer is needed");
  return absl::UnavailableError("the GPU checkpoint helper cannot use the GPU");
}

absl::StatusOr<GpuHelper::Answer> GpuHelper::Ask(const std::string& line, absl::Duration limit) {
  if (pid_ == 0) return absl::UnavailableError("the GPU checkpoint helper has ended");
  std::string bytes = line + "\n";
  if (write(streams_.to, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) {
    return absl::UnavailableError("the GPU checkpoint helper takes no orders");
  }
  absl::StatusOr<std::string> text = ReadLine(absl::Now() + limit);
  if (!text.ok()) {
    Stop();
    return text.status();
  }
  std::vector<std::string_view> words = absl::StrSplit(*text, ' ');
  Answer answer;
  if (words.size() != 3 || !ParseInt(words[0], &answer.result) || !ParseInt(words[1], &answer.state)) {
    Stop();
    return absl::UnavailableError("the GPU checkpoint helper makes no sense");
  }
  return answer;
}

absl::StatusOr<std::string> GpuHelper::ReadLine(absl::Time deadline) {
  for (;;) {
    if (size_t end = input_.find('\n'); end != std::string::npos) {
      std::string line = input_.substr(0, end);
      input_.erase(0, end + 1);
      return line;
    }
    if (input_.size() > kMostLine) return absl::UnavailableError("the GPU checkpoint helper makes no sense");
    pollfd p = {streams_.from, POLLIN, 0};
    bool ready = poll(&p, 1, 20) > 0;
    char text[kMostLine];
    ssize_t n = ready ? read(streams_.from, text, sizeof(text)) : 0;
    if (n > 0) {
      input_.append(text, static_cast<size_t>(n));
      continue;
    }
    if (HasEnded()) return absl::UnavailableError("the GPU checkpoint helper has ended");
    if (absl::Now() > deadline) return absl::DeadlineExceededError("the GPU checkpoint helper does not answer");
  }
}

bool GpuHelper::HasEnded() {
  KernelLock lock(kernel_);
  auto it = container_->started().find(pid_);
  return it == container_->started().end() || it->second.wait_status.has_value();
}

void GpuHelper::DropOldBytes() {
  input_.clear();
  char text[256];
  // Of what somebody keeps writing there is no end.
  for (int fd : {streams_.from, streams_.old_input}) {
    for (int i = 0; i < kMostDropped && read(fd, text, sizeof(text)) > 0; ++i) {
    }
  }
}

void GpuHelper::Stop() {
  if (pid_ == 0) return;
  {
    KernelLock lock(kernel_);
    auto it = container_->started().find(pid_);
    if (it != container_->started().end() && it->second.task != nullptr) kernel_.lifecycle().KillGroup(it->second.task->group(), SIGKILL);
  }
  // One that does not end stays on record, and as a process that uses a GPU it is an obstacle to the next checkpoint.
  absl::Time deadline = absl::Now() + kStopLimit;
  bool ended = HasEnded();
  for (; !ended && absl::Now() < deadline; ended = HasEnded()) absl::SleepFor(absl::Milliseconds(1));
  KernelLock lock(kernel_);
  if (ended) container_->started().erase(pid_);
  pid_ = 0;
}

}  // namespace amber
