#include "runsc-cli/gpu_host.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <filesystem>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "runsc-cli/files.h"

namespace amber::cli {
namespace {

constexpr size_t kMaxInfo = 64 << 10;
constexpr uint64_t kMaxGpus = 64;

absl::Status AddNode(const std::string& path, GpuNode::Kind kind, uint32_t minor, GpuOptions* options, std::vector<UniqueFd>* keep) {
  UniqueFd fd(open(path.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  struct stat st;
  if (!fd.valid() || fstat(fd.get(), &st) != 0) return absl::NotFoundError(absl::StrCat(path, ": ", strerrordesc_np(errno)));
  if (!S_ISCHR(st.st_mode)) return absl::NotFoundError(absl::StrCat(path, " is not a device"));
  options->nodes.push_back({kind, minor, fd.get()});
  keep->push_back(std::move(fd));
  return absl::OkStatus();
}

absl::Status AddNodes(const std::string& dev, GpuOptions* options, std::vector<UniqueFd>* keep) {
  absl::Status status = AddNode(dev + "/nvidiactl", GpuNode::Kind::kControl, 0, options, keep);
  if (status.ok()) status = AddNode(dev + "/nvidia-uvm", GpuNode::Kind::kUvm, 0, options, keep);
  if (!status.ok()) return absl::NotFoundError(absl::StrCat(status.message(), ": load the driver and make its nodes (nvidia-modprobe -c 0 -u)"));
  std::error_code error;
  size_t gpus = 0;
  for (const auto& entry : std::filesystem::directory_iterator(dev, error)) {
    std::string name = entry.path().filename();
    uint32_t minor = 0;
    if (!absl::StartsWith(name, "nvidia")) continue;
    auto [end, bad] = std::from_chars(name.data() + 6, name.data() + name.size(), minor);
    if (bad != std::errc() || end != name.data() + name.size() || minor >= 248 || ++gpus > kMaxGpus) continue;
    if (absl::Status s = AddNode(entry.path(), GpuNode::Kind::kGpu, minor, options, keep); !s.ok()) return s;
  }
  return gpus == 0 ? absl::NotFoundError(absl::StrCat("there is no ", dev, "/nvidia0: run nvidia-modprobe -c 0")) : absl::OkStatus();
}

}  // namespace

std::string GpuDriverVersion(std::string_view text) {
  if (!absl::StartsWith(text, "NVRM version:")) return "";
  for (std::string_view word : absl::StrSplit(text.substr(0, text.find('\n')), ' ', absl::SkipEmpty())) {
    bool digits = std::all_of(word.begin(), word.end(), [](char c) { return (c >= '0' && c <= '9') || c == '.'; });
    if (digits && absl::StrContains(word, '.')) return std::string(word);
  }
  return "";
}

absl::Status FindGpuHost(const std::string& root, GpuOptions* options, std::vector<UniqueFd>* keep) {
  std::string proc = root + "/proc/driver/nvidia/";
  absl::StatusOr<std::string> version = ReadSmallFile(proc + "version");
  if (!version.ok()) return absl::NotFoundError("there is no NVIDIA driver on this machine (/proc/driver/nvidia/version)");
  options->version = GpuDriverVersion(*version);
  if (options->version.empty()) return absl::NotFoundError("/proc/driver/nvidia/version does not tell the driver's version");
  options->info["version"] = *std::move(version);
  if (absl::StatusOr<std::string> params = ReadSmallFile(proc + "params"); params.ok()) options->info["params"] = *std::move(params);
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(proc + "gpus", error)) {
    std::string path = absl::StrCat("gpus/", entry.path().filename().string(), "/information");
    absl::StatusOr<std::string> text = ReadSmallFile(proc + path);
    if (text.ok() && text->size() <= kMaxInfo && options->info.size() < kMaxGpus) options->info[path] = *std::move(text);
  }
  return AddNodes(root + "/dev", options, keep);
}

absl::StatusOr<std::string> ListGpuDriverFiles() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return absl::InternalError("pipe");
  UniqueFd in(ends[0]), out(ends[1]);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, out.get(), 1);
  const char* argv[] = {"nvidia-container-cli", "list", "--libraries", "--binaries", "--firmwares", nullptr};
  pid_t pid;
  int error = posix_spawnp(&pid, argv[0], &actions, nullptr, const_cast<char**>(argv), environ);
  posix_spawn_file_actions_destroy(&actions);
  out.reset();
  if (error != 0) {
    return absl::NotFoundError(absl::StrCat("the container asks for GPUs by NVIDIA's hook, and nvidia-container-cli cannot be run: ",
                                            strerrordesc_np(error), "; install NVIDIA's container toolkit or use CDI"));
  }
  std::string text;
  char buffer[4096];
  for (ssize_t n; (n = read(in.get(), buffer, sizeof(buffer))) > 0 && text.size() < (1u << 20);) text.append(buffer, static_cast<size_t>(n));
  int status = 0;
  waitpid(pid, &status, 0);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) return absl::InternalError("nvidia-container-cli list has failed");
  return text;
}

}  // namespace amber::cli
