// Whether a container asks for GPUs, and for which: Docker's --gpus (a prestart hook and variables), CDI (device nodes, mounts and hooks that the
// engine merged into config.json), device plugins (device nodes), and annotations.
//
// A container's own variables say nothing by themselves: images set NVIDIA_VISIBLE_DEVICES, and only an engine decides who gets a GPU.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runsc-cli/oci.h"

namespace amber::cli {

inline constexpr char kGpuMemoryAnnotation[] = "org.amber.gpu.memory";

struct GpuRequest {
  bool wanted = false;  // the driver's files; maybe no GPU ("none")
  bool all = false;
  // Else these: an index in PCI order ("0"), a uuid ("GPU-..."), or a minor number ("minor:0").
  std::vector<std::string> devices;
  uint8_t capabilities = 3;       // as GpuOptions::capabilities
  bool all_capabilities = false;  // whatever may be asked for
  uint64_t memory_limit = 0;      // by annotation; 0: none given
  // The old hook stands in the bundle: its work (libraries and programs of the driver in the container) is ours to do.
  bool legacy_hook = false;
  std::vector<std::string> warnings;
};

// INVALID_ARGUMENT names what cannot be: unknown words, MIG devices.
absl::StatusOr<GpuRequest> ReadGpuRequest(const Bundle& bundle);

// What the sandbox gets, from what its owner's flags allow and what the container asks for: FAILED_PRECONDITION if that is more.
absl::Status ApplyGpuRequest(const GpuRequest& request, GpuOptions* options);

// True for what is not to be run as it is: the old hook, which would look for the container in the host's namespaces, and the CDI hook that covers
// /proc/driver/nvidia/params, which guests see without.
bool IsReplacedHook(const Hook& hook);

// "8GiB", "512MiB", "8G", a number of bytes; 0 if it is none of these.
uint64_t ParseGpuBytes(std::string_view text);
// "compute,utility" and the like; `what` is named in errors.
absl::StatusOr<uint8_t> ParseGpuCapabilities(std::string_view text, std::string_view what);

// Mounts for what `nvidia-container-cli list` printed, a host path a line: libraries (also by the names that programs link with), programs, firmware,
// sockets; nodes of /dev are left out. Libraries are in kGpuLibraries as well, which NVIDIA's own images search, and nothing else is: where their own folder is
// not one that the container's loader looks into, or its cache does not know them, the variable of AddGpuLibraries() finds them, without ldconfig.
std::vector<MountSpec> GpuDriverMounts(std::string_view listing);
inline constexpr char kGpuLibraries[] = "/usr/local/nvidia/lib64";
// Appends it to LD_LIBRARY_PATH, if it is not there.
void AddGpuLibraries(std::vector<std::string>* environment);

}  // namespace amber::cli
