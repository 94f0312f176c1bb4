// What the command line and the sentry believe about GPUs without having written it: environments and devices of bundles, hooks, the list of
// nvidia-container-cli, the driver's own texts, versions, sizes.
#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <cstdlib>
#include <string>

#include "nvproxy/fake/fake_host.h"
#include "nvproxy/gpu_texts.h"
#include "nvproxy/tables.h"
#include "runsc-cli/gpu_host.h"
#include "runsc-cli/gpu_request.h"

namespace amber::cli {
namespace {

void Must(bool good) {
  if (!good) std::abort();
}

std::string Word(FuzzedDataProvider& in) {
  static const char* const kWords[] = {"all",      "none", "void", "",    "0",       "1,0",     "GPU-6f2d1c00-1111-2222-3333-444455556666",
                                       "MIG-1",    "0:1",  "99",   ",,,", "compute", "utility", "graphics,video",
                                       "compat32", "8GiB", "-1"};
  return in.ConsumeBool() ? in.PickValueInArray(kWords) : in.ConsumeRandomLengthString(40);
}

Bundle Asking(FuzzedDataProvider& in) {
  static const char* const kNames[] = {"NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "CUDA_VERSION", "NVIDIA_REQUIRE_CUDA",
                                       "LD_LIBRARY_PATH"};
  static const char* const kNodes[] = {"/dev/nvidia0",          "/dev/nvidia1", "/dev/nvidiactl",        "/dev/nvidia-uvm",
                                       "/dev/nvidia-uvm-tools", "/dev/nvidia",  "/dev/nvidia99999999999"};
  static const char* const kHooks[] = {"/usr/bin/nvidia-container-runtime-hook", "/usr/bin/nvidia-ctk", "/usr/bin/nvidia-cdi-hook", "hook", ""};
  Bundle bundle;
  for (int i = in.ConsumeIntegralInRange(0, 4); i > 0; --i)
    bundle.container.process.env.push_back(in.PickValueInArray(kNames) + std::string("=") + Word(in));
  if (in.ConsumeBool()) bundle.container.process.env.push_back(in.ConsumeRandomLengthString(20));
  for (int i = in.ConsumeIntegralInRange(0, 4); i > 0; --i) {
    DeviceSpec device;
    device.path = in.ConsumeBool() ? in.PickValueInArray(kNodes) : in.ConsumeRandomLengthString(20);
    device.type = in.ConsumeBool() ? 'c' : 'b';
    device.major = in.ConsumeBool() ? 195 : in.ConsumeIntegral<uint32_t>();
    device.minor = in.ConsumeBool() ? 255 : in.ConsumeIntegral<uint8_t>();
    bundle.container.devices.push_back(device);
  }
  for (int i = in.ConsumeIntegralInRange(0, 2); i > 0; --i) {
    Hook hook{.path = in.PickValueInArray(kHooks), .args = {Word(in), "hook", Word(in)}};
    (void)IsReplacedHook(hook);
    bundle.hooks.prestart.push_back(std::move(hook));
  }
  if (in.ConsumeBool()) bundle.container.annotations[kGpuMemoryAnnotation] = Word(in);
  return bundle;
}

// Nobody gets more than the owner's flags say, and nothing without having asked.
void Request(FuzzedDataProvider& in) {
  Bundle bundle = Asking(in);
  GpuOptions flags{.enabled = in.ConsumeBool(),
                   .memory_limit = in.ConsumeBool() ? uint64_t{1} << 30 : 0,
                   .capabilities = static_cast<uint8_t>(in.ConsumeIntegral<uint8_t>() & 0x1f)};
  if (in.ConsumeBool()) flags.devices = {"0"};
  GpuOptions got = flags;
  auto request = ReadGpuRequest(bundle);
  if (!request.ok() || !ApplyGpuRequest(*request, &got).ok()) return;
  Must(got.devices == flags.devices);
  Must((got.capabilities & ~flags.capabilities) == 0);
  if (flags.memory_limit != 0) Must(got.memory_limit != 0 && got.memory_limit <= flags.memory_limit);
  if (!request->wanted) Must(got.enabled == flags.enabled);
}

void Texts(FuzzedDataProvider& in) {
  std::string text = in.ConsumeRandomLengthString(300);
  for (const MountSpec& mount : GpuDriverMounts(text)) Must(mount.read_only && mount.destination.starts_with("/") && mount.source.starts_with("/"));
  for (char c : GpuDriverVersion(in.ConsumeBool() ? "NVRM version: " + text : text)) Must((c >= '0' && c <= '9') || c == '.');
  std::string_view why;
  bool other = in.ConsumeBool();
  Must(nvproxy::BranchForVersion(text, other, &why) != nullptr || !why.empty());
  std::string params = nvproxy::GuestParams(text);
  Must(params.find("ModifyDeviceFiles: 1") == std::string::npos);
  nvproxy::FakeConfig config;
  std::string error;
  if (nvproxy::ParseFakeConfig(text, &config, &error)) {
    for (const auto& gpu : config.gpus) Must(gpu.uuid.size() == 40 && gpu.held <= gpu.memory);
  } else {
    Must(!error.empty());
  }
  Must(ParseGpuBytes(text) <= uint64_t{1} << 55);
  (void)ParseGpuCapabilities(text, "");
  std::vector<std::string> environment{"LD_LIBRARY_PATH=" + text, text};
  AddGpuLibraries(&environment);
  Must(std::ranges::any_of(environment, [](const std::string& e) { return e.find(kGpuLibraries) != std::string::npos; }));
}

}  // namespace
}  // namespace amber::cli

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  FuzzedDataProvider in(data, size);
  if (in.ConsumeBool()) {
    amber::cli::Request(in);
  } else {
    amber::cli::Texts(in);
  }
  return 0;
}
