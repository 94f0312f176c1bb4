// Finding the host's GPUs with the driver's own calls, and what the guest reads of them below /proc/driver/nvidia.
#include <fcntl.h>

#include <algorithm>
#include <cstdio>

#include "nvproxy/call.h"

namespace amber::nvproxy {
namespace {

constexpr uint32_t kCards = 32;

// Runs calls on a control file of the proxy's own, closed at the end with all that was made on it.
class Probe {
 public:
  Probe(Proxy& proxy, HostFile file) : proxy_(proxy), file_(file) {}
  ~Probe() { proxy_.host().Close(file_); }

  template <typename T>
  bool Run(uint32_t number, std::span<T> blocks, std::span<const HostBuffer> nested = {}) {
    auto bytes = std::as_writable_bytes(blocks);
    return proxy_.HostIoctl(file_, 0xc0004600u | static_cast<uint32_t>(bytes.size()) << 16 | number, bytes, nested) == 0;
  }
  bool MakeClient() {
    RmAlloc alloc{.hClass = 0x41};
    if (!Run<RmAlloc>(0x2b, {&alloc, 1}) || alloc.status != 0) return false;
    client_ = alloc.hObjectNew;
    return true;
  }
  template <typename T>
  bool Control(uint32_t command, T* params) {
    RmControl block{.hClient = client_, .hObject = client_, .cmd = command, .params = reinterpret_cast<uint64_t>(params),
                    .paramsSize = sizeof(T)};
    HostBuffer nested[] = {{params, sizeof(T)}};
    return Run<RmControl>(0x2a, {&block, 1}, nested) && block.status == 0;
  }

 private:
  Proxy& proxy_;
  HostFile file_;
  uint32_t client_ = 0;
};

// "GPU-01234567-89ab-..." to bytes.
bool ParseUuid(const char* text, Uuid* out) {
  size_t digit = 0;
  for (const char* p = text + 4; *p != 0 && digit < 32; ++p) {
    if (*p == '-') continue;
    int value = *p >= '0' && *p <= '9' ? *p - '0' : *p >= 'a' && *p <= 'f' ? *p - 'a' + 10 : -1;
    if (value < 0) return false;
    auto& byte = (*out)[digit / 2];
    byte = static_cast<uint8_t>(digit % 2 == 0 ? value << 4 : byte | value);
    ++digit;
  }
  return digit == 32 && std::string_view(text, 4) == "GPU-";
}

struct AttachIds {
  uint32_t ids[32];
  uint32_t failed;
};

bool DescribeCard(Probe& probe, const CardInfo& card, Gpu* gpu) {
  *gpu = {.minor = card.minor, .gpu_id = card.gpu_id, .domain = card.domain, .bus = card.bus, .slot = card.slot, .vendor = card.vendor,
          .device = card.device};
  AttachIds attach;
  std::ranges::fill(attach.ids, ~0u);
  attach.ids[0] = card.gpu_id;
  attach.failed = 0;
  GpuIdInfo id{.gpuId = card.gpu_id};
  GpuUuidInfo uuid{.gpuId = card.gpu_id};
  if (!probe.Control(0x215, &attach) || !probe.Control(0x205, &id) || !probe.Control(0x275, &uuid)) return false;
  gpu->instance = id.deviceInstance;
  uuid.gpuUuid[255] = 0;
  return ParseUuid(reinterpret_cast<const char*>(uuid.gpuUuid), &gpu->uuid);
}

// "ModifyDeviceFiles: 1" to 0, so that nobody in the guest runs nvidia-modprobe; and no registry keys of the host's.
std::string GuestParams(std::string text) {
  std::string out;
  size_t at = 0;
  while (at < text.size()) {
    size_t end = std::min(text.find('\n', at), text.size());
    std::string line = text.substr(at, end - at);
    if (line.starts_with("ModifyDeviceFiles:")) line = "ModifyDeviceFiles: 0";
    if (line.starts_with("RegistryDwords") || line.starts_with("RmMsg")) line = line.substr(0, line.find(':') + 1) + " \"\"";
    out += line + "\n";
    at = end + 1;
  }
  return out;
}

}  // namespace

std::string Proxy::FindGpus() {
  auto file = host_.Open({NodeKind::kControl, 0}, O_RDWR);
  if (!file.ok()) return "the NVIDIA driver's /dev/nvidiactl cannot be opened";
  Probe probe(*this, *file);
  CardInfo cards[kCards] = {};
  if (!probe.Run<CardInfo>(0xc8, cards)) return "the NVIDIA driver does not tell its GPUs";
  if (!probe.MakeClient()) return "the NVIDIA driver gives no client";
  for (const CardInfo& card : cards) {
    if (card.valid == 0) continue;
    if (!options_.minors.empty() && std::ranges::find(options_.minors, card.minor) == options_.minors.end()) continue;
    Gpu gpu;
    if (!DescribeCard(probe, card, &gpu)) return "the NVIDIA driver does not describe GPU " + std::to_string(card.minor);
    gpus_.push_back(gpu);
  }
  for (uint32_t minor : options_.minors) {
    if (std::ranges::none_of(gpus_, [&](const Gpu& g) { return g.minor == minor; })) return "there is no GPU " + std::to_string(minor);
  }
  return gpus_.empty() ? "the NVIDIA driver has no GPU" : "";
}

ErrnoOr<std::string> Proxy::InfoFile(const std::string& path) {
  if (path == "params") return GuestParams(TRY(host_.ReadInfo(path)));
  if (path == "version") return host_.ReadInfo(path);
  for (const Gpu& gpu : gpus_) {
    if (path == "gpus/" + gpu.pci() + "/information") return host_.ReadInfo(path);
  }
  return Errno(ENOENT);
}

}  // namespace amber::nvproxy
