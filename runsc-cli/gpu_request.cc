#include "runsc-cli/gpu_request.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace amber::cli {
namespace {

// In the order of nvproxy::Capability.
constexpr std::string_view kCapabilities[] = {"compute", "utility", "graphics", "video", "profiling"};
constexpr uint8_t kDefaultCapabilities = 3;
// What "all" stands for: everything that a container may ask for by itself.
constexpr uint8_t kAllCapabilities = 0xf;
constexpr uint32_t kNvidiaMajor = 195, kControlMinor = 255;

// The value, of several the last one; with CDI, Docker appends NVIDIA_VISIBLE_DEVICES=void behind the one that counts.
std::optional<std::string> Variable(const Bundle& bundle, std::string_view name, bool skip_void = false) {
  std::optional<std::string> value, before;
  for (const std::string& e : bundle.container.process.env) {
    if (e.size() <= name.size() || e[name.size()] != '=' || !absl::StartsWith(e, name)) continue;
    before = value;
    value = e.substr(name.size() + 1);
  }
  return skip_void && value == "void" && before ? before : value;
}

bool EndsWithName(std::string_view path, std::string_view name) { return path == name || absl::EndsWith(path, absl::StrCat("/", name)); }

bool IsLegacyHook(const Hook& hook) {
  return EndsWithName(hook.path, "nvidia-container-runtime-hook") || EndsWithName(hook.path, "nvidia-container-toolkit");
}

// The hooks of CDI specifications: "nvidia-cdi-hook VERB" or "nvidia-ctk hook VERB".
std::string_view CdiVerb(const Hook& hook) {
  size_t at = EndsWithName(hook.path, "nvidia-cdi-hook") ? 1 : EndsWithName(hook.path, "nvidia-ctk") ? 2 : 0;
  if (at == 0 || hook.args.size() <= at || (at == 2 && hook.args[1] != "hook")) return "";
  return hook.args[at];
}

// Which capabilities NVIDIA_DRIVER_CAPABILITIES asks for. Old images without it, known by CUDA_VERSION alone, get all.
absl::StatusOr<uint8_t> WantedCapabilities(const Bundle& bundle) {
  std::optional<std::string> text = Variable(bundle, "NVIDIA_DRIVER_CAPABILITIES");
  if (!text || text->empty()) {
    bool old_image = !text && Variable(bundle, "CUDA_VERSION") && !Variable(bundle, "NVIDIA_REQUIRE_CUDA");
    return old_image ? kAllCapabilities : kDefaultCapabilities;
  }
  return ParseGpuCapabilities(*text, "NVIDIA_DRIVER_CAPABILITIES");
}

absl::Status ReadDeviceList(std::string_view list, GpuRequest* request) {
  request->wanted = true;
  if (list == "none") return absl::OkStatus();
  if (list == "all") {
    request->all = true;
    return absl::OkStatus();
  }
  for (std::string_view word : absl::StrSplit(list, ',', absl::SkipEmpty())) {
    bool index = std::all_of(word.begin(), word.end(), [](char c) { return c >= '0' && c <= '9'; });
    if (absl::StartsWith(word, "MIG-") || absl::StrContains(word, ':')) {
      return absl::InvalidArgumentError(absl::StrCat("NVIDIA_VISIBLE_DEVICES asks for \"", word, "\": parts of a GPU (MIG) are not supported"));
    }
    if (!index && !absl::StartsWith(word, "GPU-")) {
      return absl::InvalidArgumentError(absl::StrCat("NVIDIA_VISIBLE_DEVICES: \"", word, "\" is neither an index nor GPU-uuid"));
    }
    request->devices.emplace_back(word);
  }
  return absl::OkStatus();
}

// Nodes in linux.devices, as CDI and device plugins write them.
void ReadNodes(const Bundle& bundle, GpuRequest* request) {
  for (const DeviceSpec& d : bundle.container.devices) {
    if (!absl::StartsWith(d.path, "/dev/nvidia") || d.type != 'c') continue;
    std::string_view rest = std::string_view(d.path).substr(11);
    uint32_t number = 0;
    auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), number);
    bool gpu = error == std::errc() && end == rest.data() + rest.size();
    if (!gpu && rest != "ctl") continue;
    if (d.major != kNvidiaMajor || (rest == "ctl" && d.minor != kControlMinor)) {
      request->warnings.push_back(absl::StrCat(d.path, " is left out: ", d.major, ":", d.minor, " is not the NVIDIA driver's"));
      continue;
    }
    request->wanted = true;
    if (gpu) request->devices.push_back(absl::StrCat("minor:", d.minor));
  }
}

absl::Status ReadAnnotations(const Bundle& bundle, GpuRequest* request) {
  const auto& annotations = bundle.container.annotations;
  if (auto it = annotations.find(kGpuMemoryAnnotation); it != annotations.end()) {
    request->memory_limit = ParseGpuBytes(it->second);
    if (request->memory_limit == 0) {
      return absl::InvalidArgumentError(absl::StrCat("annotation ", kGpuMemoryAnnotation, " must be a size, as 8GiB, not \"", it->second, "\""));
    }
  }
  return absl::OkStatus();
}

}  // namespace

uint64_t ParseGpuBytes(std::string_view text) {
  uint64_t value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc()) return 0;
  std::string_view unit(end, static_cast<size_t>(text.data() + text.size() - end));
  int shift = 0;
  if (unit == "K" || unit == "KiB") {
    shift = 10;
  } else if (unit == "M" || unit == "MiB") {
    shift = 20;
  } else if (unit == "G" || unit == "GiB") {
    shift = 30;
  } else if (!unit.empty() && unit != "B") {
    return 0;
  }
  return value > (uint64_t{1} << 55) >> shift ? 0 : value << shift;
}

absl::StatusOr<uint8_t> ParseGpuCapabilities(std::string_view text, std::string_view what) {
  uint8_t capabilities = 0;
  for (std::string_view word : absl::StrSplit(text, ',', absl::SkipEmpty())) {
    if (word == "all") {
      capabilities |= kAllCapabilities;
      continue;
    }
    auto known = std::find(std::begin(kCapabilities), std::end(kCapabilities), word);
    if (known == std::end(kCapabilities)) return absl::InvalidArgumentError(absl::StrCat(what, ": there is no \"", word, "\""));
    capabilities |= static_cast<uint8_t>(1 << (known - std::begin(kCapabilities)));
  }
  return capabilities;
}

bool IsReplacedHook(const Hook& hook) { return IsLegacyHook(hook) || CdiVerb(hook) == "disable-device-node-modification"; }

absl::StatusOr<GpuRequest> ReadGpuRequest(const Bundle& bundle) {
  GpuRequest request;
  if (absl::Status s = ReadAnnotations(bundle, &request); !s.ok()) return s;
  request.legacy_hook = std::any_of(bundle.hooks.prestart.begin(), bundle.hooks.prestart.end(), IsLegacyHook);
  ReadNodes(bundle, &request);
  bool by_nodes = request.wanted;
  if (request.legacy_hook && !by_nodes) {
    std::string devices = Variable(bundle, "NVIDIA_VISIBLE_DEVICES", /*skip_void=*/true).value_or("");
    if (devices.empty() || devices == "void") {
      request.legacy_hook = false;  // the hook does nothing for such a container
      return request;
    }
    if (absl::Status s = ReadDeviceList(devices, &request); !s.ok()) return s;
  }
  if (!request.wanted) return request;
  absl::StatusOr<uint8_t> capabilities = WantedCapabilities(bundle);
  if (!capabilities.ok()) return capabilities.status();
  request.capabilities = *capabilities;
  request.all_capabilities = *capabilities == kAllCapabilities;
  return request;
}

absl::Status ApplyGpuRequest(const GpuRequest& request, GpuOptions* options) {
  if (request.memory_limit != 0 && (options->memory_limit == 0 || request.memory_limit < options->memory_limit)) {
    options->memory_limit = request.memory_limit;
  }
  if (!request.wanted) return absl::OkStatus();
  // "none" wants the driver's files alone.
  if (!request.all && request.devices.empty()) return absl::OkStatus();
  options->enabled = true;
  // What --gpu-devices does not have is refused where names are known to be one GPU's (nvproxy::Proxy).
  if (!request.all) options->wanted = request.devices;
  if (request.all_capabilities) return absl::OkStatus();
  if (uint8_t more = request.capabilities & static_cast<uint8_t>(~options->capabilities); more != 0) {
    std::string_view word = kCapabilities[std::countr_zero(more)];
    return absl::FailedPreconditionError(absl::StrCat("NVIDIA_DRIVER_CAPABILITIES asks for ", word, ", which --gpu-capabilities does not have"));
  }
  options->capabilities = request.capabilities;
  return absl::OkStatus();
}

std::vector<MountSpec> GpuDriverMounts(std::string_view listing) {
  std::vector<MountSpec> mounts;
  auto add = [&](std::string_view from, std::string to) {
    MountSpec mount;
    mount.destination = std::move(to);
    mount.type = "bind";
    mount.source = std::string(from);
    mount.options = {"rbind", "ro", "nosuid", "nodev"};
    mount.read_only = true;
    bool there = std::any_of(mounts.begin(), mounts.end(), [&](const MountSpec& m) { return m.destination == mount.destination; });
    if (!there) mounts.push_back(std::move(mount));
  };
  for (std::string_view line : absl::StrSplit(listing, '\n', absl::SkipEmpty())) {
    if (line[0] != '/' || absl::StartsWith(line, "/dev/")) continue;
    add(line, std::string(line));
    size_t so = line.rfind(".so."), slash = line.rfind('/');
    if (so == std::string_view::npos || so < slash) continue;
    // "libcuda.so.580.159.04" is linked with as libcuda.so.1; NVIDIA's tools run ldconfig for that.
    std::string name = absl::StrCat(line.substr(0, so), ".so.1");
    if (name != line) add(line, name);
    add(line, absl::StrCat(kGpuLibraries, line.substr(slash)));
    add(line, absl::StrCat(kGpuLibraries, std::string_view(name).substr(slash)));
  }
  return mounts;
}

void AddGpuLibraries(std::vector<std::string>* environment) {
  constexpr std::string_view kName = "LD_LIBRARY_PATH=";
  // Of several the last one counts.
  auto it = std::find_if(environment->rbegin(), environment->rend(), [&](const std::string& e) { return absl::StartsWith(e, kName); });
  if (it == environment->rend()) {
    environment->push_back(absl::StrCat(kName, kGpuLibraries));
    return;
  }
  std::vector<std::string_view> folders = absl::StrSplit(std::string_view(*it).substr(kName.size()), ':');
  if (std::find(folders.begin(), folders.end(), kGpuLibraries) != folders.end()) return;
  // An empty value is no folder; an empty part of a list is the current one.
  *it = it->size() == kName.size() ? absl::StrCat(kName, kGpuLibraries) : absl::StrCat(*it, ":", kGpuLibraries);
}

}  // namespace amber::cli
