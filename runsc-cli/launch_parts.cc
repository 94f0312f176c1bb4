// What launching and other verbs have in common: mounts, descriptors, hooks, texts.
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "runsc-cli/files.h"
#include "runsc-cli/hooks.h"
#include "runsc-cli/launch.h"

namespace amber::cli {

// What a mount shows, as a path of the host's.
std::string SourceOf(const Bundle& bundle, const MountSpec& mount) {
  return mount.source[0] == '/' ? mount.source : absl::StrCat(bundle.directory, "/", mount.source);
}

absl::Status RunPoststartHooks(const GlobalOptions& options, const State& state) {
  if (state.bundle == "/") return absl::OkStatus();
  absl::StatusOr<Bundle> bundle = LoadBundle(state.bundle);
  if (!bundle.ok()) return absl::OkStatus();
  absl::Status status = RunHooks(bundle->hooks.poststart, "poststart", OciState(state));
  // The container runs: the specification wants a warning, not an end.
  if (!status.ok()) options.report->Warning(std::string(status.message()));
  return absl::OkStatus();
}

absl::Status PrepareMounts(const GlobalOptions& options, Bundle* bundle) {
  ContainerSpec& spec = bundle->container;
  if (options.overlay.kind == "memory") spec.overlay = OverlayKind::kMemory;
  if (absl::Status s = SetOverlayLimits(options.overlay, &spec.annotations); !s.ok()) return s;
  if (options.overlay.kind == "none") spec.overlay = OverlayKind::kNone;
  int number = 0;
  for (MountSpec& mount : spec.mounts) {
    mount.image = mount.type == "erofs" || mount.type == "tar";
    if (!mount.image && !IsBind(mount)) continue;
    if (mount.source.empty()) return absl::InvalidArgumentError(absl::StrCat("the mount ", mount.destination, " names no file as its source"));
    if (!mount.image) mount.type = "bind";
    mount.attach = absl::StrCat("mount", number++);
    std::string source = SourceOf(*bundle, mount);
    if (access(source.c_str(), F_OK) != 0) {
      return absl::NotFoundError(absl::StrCat("cannot show ", source, " at ", mount.destination, ": ", strerrordesc_np(errno)));
    }
  }
  struct stat root;
  if (stat(bundle->root.c_str(), &root) != 0) {
    return absl::NotFoundError(absl::StrCat("the root file system ", bundle->root, ": ", strerrordesc_np(errno)));
  }
  spec.root_image = S_ISREG(root.st_mode);
  // An image is never written: without another word its container writes to memory.
  if (spec.root_image && options.overlay.kind.empty() && spec.overlay == OverlayKind::kNone && !spec.root_read_only)
    spec.overlay = OverlayKind::kMemory;
  return absl::OkStatus();
}

absl::StatusOr<std::vector<UniqueFd>> PreservedFds(uint32_t count) {
  std::vector<UniqueFd> fds;
  if (count > 100) return absl::InvalidArgumentError("--preserve-fds: at most 100");
  for (uint32_t i = 0; i < count; ++i) {
    UniqueFd fd(fcntl(static_cast<int>(3 + i), F_DUPFD_CLOEXEC, 100));
    if (!fd.valid()) return absl::InvalidArgumentError(absl::StrCat("--preserve-fds: descriptor ", 3 + i, " is not open"));
    fds.push_back(std::move(fd));
  }
  return fds;
}

control::Request MakeRequest(const std::string& container) {
  control::Request request;
  request.set_container(container);
  return request;
}

absl::StatusOr<control::Client> ConnectTo(const GlobalOptions& options, const State& state) {
  return control::Client::Connect(absl::StrCat(options.root, "/", state.sandbox_id, "/control.sock"));
}

absl::Status WritePidFile(const std::string& path, pid_t pid) {
  // Renamed into place: engines read it as soon as it exists.
  return WriteFileAtomically(path, absl::StrCat(pid));
}

std::string OciState(const State& state) {
  std::string status = state.status == "creating" ? state.status : state.Status();
  nlohmann::ordered_json out = {
      {"ociVersion", "1.1.0"},  {"id", state.id},         {"status", status},         {"pid", status == "stopped" ? 0 : state.waiter.pid},
      {"bundle", state.bundle}, {"rootfs", state.rootfs}, {"created", state.created}, {"annotations", state.annotations}};
  return out.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace amber::cli
