#include "runsc-cli/oci.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "runsc-cli/json_reader.h"
#include "runsc-cli/names.h"
#include "sentry/base/unique_fd.h"

namespace amber::cli {
namespace {

constexpr int64_t kMaxId = 0xffffffff;

absl::StatusOr<std::string> ReadBounded(const std::string& path) {
  UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file.valid()) return absl::NotFoundError(absl::StrCat("cannot open ", path, ": ", strerrordesc_np(errno)));
  struct stat st;
  if (fstat(file.get(), &st) != 0 || S_ISDIR(st.st_mode)) return absl::InvalidArgumentError(path + " is not a file");
  std::string text;
  char buffer[16384];
  for (;;) {
    ssize_t n = read(file.get(), buffer, sizeof(buffer));
    if (n < 0) return absl::InternalError(absl::StrCat("cannot read ", path, ": ", strerrordesc_np(errno)));
    if (n == 0) return text;
    text.append(buffer, static_cast<size_t>(n));
    if (text.size() > kMaxConfigBytes) {
      return absl::InvalidArgumentError(absl::StrCat(path, " is larger than ", kMaxConfigBytes >> 20, " MiB"));
    }
  }
}

uint64_t ReadCapabilitySet(const JsonReader& list) {
  uint64_t set = 0;
  list.ForEach([&set](const JsonReader& item) {
    // Names of a newer kernel stand for nothing that we could give.
    if (std::optional<int> number = CapabilityNumber(item.String())) set |= uint64_t{1} << *number;
  });
  return set;
}

void ReadRlimits(const JsonReader& list, ProcessSpec* process) {
  list.ForEach([process](const JsonReader& item) {
    std::optional<int> resource = RlimitNumber(item["type"].String());
    if (!resource) return item["type"].Fail("the name of a resource limit, like RLIMIT_NOFILE");
    // Engines write RLIM_INFINITY as -1 or as the largest unsigned number.
    auto value = [](const JsonReader& r) { return static_cast<uint64_t>(r.OptionalInteger().value_or(0)); };
    process->rlimits.push_back({*resource, value(item["soft"]), value(item["hard"])});
  });
}

ProcessSpec ReadProcess(const JsonReader& json) {
  ProcessSpec process;
  process.argv = json["args"].Strings();
  if (process.argv.empty()) json["args"].Fail("a list with the program and its arguments");
  process.env = json["env"].Strings();
  process.cwd = json["cwd"].String("/");
  if (process.cwd.empty() || process.cwd[0] != '/') json["cwd"].Fail("an absolute path");
  JsonReader user = json["user"];
  process.uid = static_cast<uint32_t>(user["uid"].Integer(0, 0, kMaxId));
  process.gid = static_cast<uint32_t>(user["gid"].Integer(0, 0, kMaxId));
  if (user["umask"].exists()) process.umask = static_cast<uint32_t>(user["umask"].Integer(022, 0, 0777));
  user["additionalGids"].ForEach([&process](const JsonReader& item) { process.groups.push_back(static_cast<uint32_t>(item.Integer(0, 0, kMaxId))); });
  JsonReader caps = json["capabilities"];
  process.capabilities = {.bounding = ReadCapabilitySet(caps["bounding"]),
                          .effective = ReadCapabilitySet(caps["effective"]),
                          .inheritable = ReadCapabilitySet(caps["inheritable"]),
                          .permitted = ReadCapabilitySet(caps["permitted"]),
                          .ambient = ReadCapabilitySet(caps["ambient"])};
  ReadRlimits(json["rlimits"], &process);
  process.no_new_privs = json["noNewPrivileges"].Bool();
  process.terminal = json["terminal"].Bool();
  JsonReader size = json["consoleSize"];
  process.window = {static_cast<uint16_t>(size["height"].Integer(0, 0, UINT16_MAX)), static_cast<uint16_t>(size["width"].Integer(0, 0, UINT16_MAX))};
  if (json["oomScoreAdj"].exists()) {
    process.oom_score_adj = static_cast<int>(json["oomScoreAdj"].Integer(0, -1000, 1000));
  }
  return process;
}

void ReadMounts(const JsonReader& list, ContainerSpec* container) {
  list.ForEach([container](const JsonReader& item) {
    MountSpec mount;
    mount.destination = item["destination"].String();
    if (mount.destination.empty()) return item["destination"].Fail("a path");
    if (mount.destination[0] != '/') mount.destination.insert(0, "/");
    mount.type = item["type"].String();
    mount.source = item["source"].String();
    mount.options = item["options"].Strings();
    for (const std::string& option : mount.options) {
      if (option == "ro" || option == "rro") mount.read_only = true;
      if (option == "rw") mount.read_only = false;
    }
    if (IsBind(mount) && mount.source.empty()) return item["source"].Fail("the path that is to be shown");
    container->mounts.push_back(std::move(mount));
  });
}

void ReadDevices(const JsonReader& list, ContainerSpec* container) {
  list.ForEach([container](const JsonReader& item) {
    DeviceSpec device;
    device.path = item["path"].String();
    std::string type = item["type"].String();
    if (device.path.empty() || device.path[0] != '/') return item["path"].Fail("an absolute path");
    if (type.size() != 1 || !absl::StrContains("cbup", type)) return item["type"].Fail("one of c, b, u, p");
    device.type = type[0];
    device.major = static_cast<uint32_t>(item["major"].Integer(0, -1, INT32_MAX));
    device.minor = static_cast<uint32_t>(item["minor"].Integer(0, -1, INT32_MAX));
    device.mode = static_cast<uint32_t>(item["fileMode"].Integer(0666, 0, INT32_MAX)) & 07777;
    device.uid = static_cast<uint32_t>(item["uid"].Integer(0, 0, kMaxId));
    device.gid = static_cast<uint32_t>(item["gid"].Integer(0, 0, kMaxId));
    container->devices.push_back(std::move(device));
  });
}

void ReadNamespaces(const JsonReader& list, Bundle* bundle) {
  bundle->host_network = true;
  list.ForEach([bundle](const JsonReader& item) {
    std::string type = item["type"].String();
    std::string path = item["path"].String();
    if (!path.empty() && path[0] != '/') return item["path"].Fail("an absolute path");
    if (type == "network") {
      bundle->host_network = false;
      bundle->network_path = path;
    }
    if (type == "time") {
      if (!path.empty()) return item["path"].Fail("absent: a sandbox joins no time namespace of the host");
      bundle->container.time.emplace();
    }
  });
}

// Only with a time namespace, as runc wants it.
void ReadTimeOffsets(const JsonReader& json, ContainerSpec* container) {
  constexpr int64_t kMostSeconds = INT64_MAX / 1'000'000'000 - 1;
  json.ForEachMember([container](const std::string& clock, const JsonReader& value) {
    if (!container->time) return value.Fail("absent: there is no time namespace in linux.namespaces");
    if (clock != "monotonic" && clock != "boottime") return value.Fail("below monotonic or boottime");
    int64_t ns = value["secs"].Integer(0, -kMostSeconds, kMostSeconds) * 1'000'000'000 + value["nanosecs"].Integer(0, 0, 999'999'999);
    (clock == "monotonic" ? container->time->monotonic : container->time->boottime) = ns;
  });
}

std::vector<Hook> ReadHooks(const JsonReader& list) {
  std::vector<Hook> hooks;
  list.ForEach([&hooks](const JsonReader& item) {
    Hook hook = {.path = item["path"].String(),
                 .args = item["args"].Strings(),
                 .env = item["env"].Strings(),
                 .timeout_s = static_cast<int>(item["timeout"].Integer(0, 0, 86400))};
    if (hook.path.empty() || hook.path[0] != '/') return item["path"].Fail("an absolute path");
    if (hook.args.empty()) hook.args.push_back(hook.path);
    hooks.push_back(std::move(hook));
  });
  return hooks;
}

Resources ReadResources(const JsonReader& json) {
  Resources r;
  JsonReader memory = json["memory"];
  r.memory_limit = memory["limit"].OptionalInteger();
  r.memory_reservation = memory["reservation"].OptionalInteger();
  r.memory_swap = memory["swap"].OptionalInteger();
  JsonReader cpu = json["cpu"];
  r.cpu_shares = cpu["shares"].OptionalUnsigned();
  r.cpu_quota = cpu["quota"].OptionalInteger();
  r.cpu_period = cpu["period"].OptionalUnsigned();
  r.cpuset_cpus = cpu["cpus"].String();
  r.cpuset_mems = cpu["mems"].String();
  r.pids_limit = json["pids"]["limit"].OptionalInteger();
  json["unified"].ForEachMember([&r](const std::string& name, const JsonReader& value) {
    // The name becomes a file name below the cgroup.
    if (name.empty() || name.find('/') != std::string::npos || name.find('\0') != std::string::npos || name[0] == '.') {
      return value.Fail("below the name of a cgroup file");
    }
    r.unified[name] = value.String();
  });
  return r;
}

void ReadStringMap(const JsonReader& json, std::map<std::string, std::string>* out) {
  json.ForEachMember([out](const std::string& name, const JsonReader& value) { (*out)[name] = value.String(); });
}

// Pods: Kubernetes' engines mark the containers that share a sandbox.
void ReadPod(Bundle* bundle) {
  const auto& annotations = bundle->container.annotations;
  for (const auto& [type_key, id_key] : {std::pair("io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id"),
                                         std::pair("io.kubernetes.cri-o.ContainerType", "io.kubernetes.cri-o.SandboxID")}) {
    auto type = annotations.find(type_key);
    auto id = annotations.find(id_key);
    if (type == annotations.end() || id == annotations.end()) continue;
    bundle->shares_sandbox = type->second == "container";
    bundle->sandbox_id = id->second;
  }
}

void NoteWhatIsNotDone(const JsonReader& json, Bundle* bundle) {
  if (json["linux"]["seccomp"].exists()) {
    bundle->warnings.push_back("linux.seccomp is not applied: the guest's calls never reach the host kernel");
  }
  if (!json["process"]["apparmorProfile"].String().empty()) {
    bundle->warnings.push_back("process.apparmorProfile is not applied inside a sandbox");
  }
  if (!json["process"]["selinuxLabel"].String().empty()) {
    bundle->warnings.push_back("process.selinuxLabel is not applied inside a sandbox");
  }
}

}  // namespace

bool IsBind(const MountSpec& mount) {
  if (mount.type == "bind") return true;
  return std::any_of(mount.options.begin(), mount.options.end(), [](const std::string& option) { return option == "bind" || option == "rbind"; });
}

absl::StatusOr<Bundle> ParseConfig(std::string_view text, const std::string& directory) {
  absl::StatusOr<nlohmann::json> document = ParseJson(text, "config.json");
  if (!document.ok()) return document.status();
  absl::Status error;
  JsonReader json(&*document, "", &error);
  Bundle bundle;
  bundle.directory = directory;
  bundle.oci_version = json["ociVersion"].String("1.0.2");
  if (!absl::StartsWith(bundle.oci_version, "1.") && !absl::StartsWith(bundle.oci_version, "0.")) {
    json["ociVersion"].Fail("a version that we know, 1.x");
  }
  JsonReader root = json["root"];
  std::string root_path = root["path"].String();
  if (root_path.empty()) root["path"].Fail("the path of the root file system");
  bundle.root = absl::StartsWith(root_path, "/") ? root_path : absl::StrCat(directory, "/", root_path);
  ContainerSpec& container = bundle.container;
  container.root_read_only = root["readonly"].Bool();
  if (!json["process"].exists()) json["process"].Fail("an object");
  container.process = ReadProcess(json["process"]);
  container.hostname = json["hostname"].String();
  container.domainname = json["domainname"].String();
  ReadMounts(json["mounts"], &container);
  bundle.hooks = {.prestart = ReadHooks(json["hooks"]["prestart"]),
                  .create_runtime = ReadHooks(json["hooks"]["createRuntime"]),
                  .create_container = ReadHooks(json["hooks"]["createContainer"]),
                  .start_container = ReadHooks(json["hooks"]["startContainer"]),
                  .poststart = ReadHooks(json["hooks"]["poststart"]),
                  .poststop = ReadHooks(json["hooks"]["poststop"])};
  ReadStringMap(json["annotations"], &container.annotations);
  JsonReader linux = json["linux"];
  ReadNamespaces(linux["namespaces"], &bundle);
  ReadTimeOffsets(linux["timeOffsets"], &container);
  ReadDevices(linux["devices"], &container);
  ReadStringMap(linux["sysctl"], &container.sysctls);
  container.masked_paths = linux["maskedPaths"].Strings();
  container.read_only_paths = linux["readonlyPaths"].Strings();
  bundle.cgroups_path = linux["cgroupsPath"].String();
  bundle.resources = ReadResources(linux["resources"]);
  container.pids_limit = static_cast<uint64_t>(std::max<int64_t>(0, bundle.resources.pids_limit.value_or(0)));
  container.memory_limit = static_cast<uint64_t>(std::max<int64_t>(0, bundle.resources.memory_limit.value_or(0)));
  ReadPod(&bundle);
  NoteWhatIsNotDone(json, &bundle);
  if (!error.ok()) return absl::InvalidArgumentError(absl::StrCat("config.json: ", error.message()));
  return bundle;
}

absl::StatusOr<Bundle> LoadBundle(const std::string& directory) {
  char resolved[PATH_MAX];
  if (realpath(directory.c_str(), resolved) == nullptr) {
    return absl::NotFoundError(absl::StrCat("cannot find the bundle ", directory, ": ", strerrordesc_np(errno)));
  }
  std::string path = absl::StrCat(resolved, "/config.json");
  absl::StatusOr<std::string> text = ReadBounded(path);
  if (!text.ok()) {
    if (!absl::IsNotFound(text.status())) return text.status();
    return absl::NotFoundError(absl::StrCat(text.status().message(), " (`sandbox spec` makes an example)"));
  }
  return ParseConfig(*text, resolved);
}

absl::StatusOr<ProcessSpec> ParseProcess(std::string_view text) {
  absl::StatusOr<nlohmann::json> document = ParseJson(text, "the process file");
  if (!document.ok()) return document.status();
  absl::Status error;
  ProcessSpec process = ReadProcess(JsonReader(&*document, "", &error));
  if (!error.ok()) return absl::InvalidArgumentError(absl::StrCat("the process file: ", error.message()));
  return process;
}

absl::StatusOr<ProcessSpec> LoadProcess(const std::string& path) {
  absl::StatusOr<std::string> text = ReadBounded(path);
  if (!text.ok()) return text.status();
  return ParseProcess(*text);
}

absl::StatusOr<Resources> ParseResources(std::string_view text) {
  absl::StatusOr<nlohmann::json> document = ParseJson(text, "the resources");
  if (!document.ok()) return document.status();
  absl::Status error;
  Resources resources = ReadResources(JsonReader(&*document, "", &error));
  if (!error.ok()) return absl::InvalidArgumentError(absl::StrCat("the resources: ", error.message()));
  return resources;
}

}  // namespace amber::cli
