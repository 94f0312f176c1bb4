// Finding the host's GPUs with the driver's own calls, and what the guest reads of them below /proc/driver/nvidia.
#include <fcntl.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <tuple>

#include "nvproxy/call.h"
#include "nvproxy/gpu_texts.h"

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
  bool Allocate(uint32_t parent, uint32_t handle, uint32_t number, std::span<std::byte> params) {
    RmAlloc alloc{.hRoot = client_,
                  .hObjectParent = parent == 0 ? client_ : parent,
                  .hObjectNew = handle,
                  .hClass = number,
                  .pAllocParms = reinterpret_cast<uint64_t>(params.data()),
                  .paramsSize = static_cast<uint32_t>(params.size())};
    HostBuffer nested[] = {{params.data(), params.size()}};
    return Run<RmAlloc>(0x2b, {&alloc, 1}, nested) && alloc.status == 0;
  }
  // On the client itself if `object` is 0.
  bool Control(uint32_t object, uint32_t command, void* params, size_t size) {
    RmControl block{.hClient = client_,
                    .hObject = object == 0 ? client_ : object,
                    .cmd = command,
                    .params = reinterpret_cast<uint64_t>(params),
                    .paramsSize = static_cast<uint32_t>(size)};
    HostBuffer nested[] = {{params, size}};
    return Run<RmControl>(0x2a, {&block, 1}, nested) && block.status == 0;
  }
  template <typename T>
  bool Control(uint32_t command, T* params) {
    return Control(0, command, params, sizeof(T));
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
  *gpu = {.minor = card.minor,
          .gpu_id = card.gpu_id,
          .domain = card.domain,
          .bus = card.bus,
          .slot = card.slot,
          .vendor = card.vendor,
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

std::string NoSuchGpu(const std::string& name) { return "there is no GPU \"" + name + "\" on this machine"; }

}  // namespace

std::string NotAllowed(const std::string& name) { return "GPU \"" + name + "\" is asked for, and --gpu-devices does not have it"; }

std::string GuestParams(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    if (line.find("ModifyDeviceFiles:") != line.npos) {
      out += "ModifyDeviceFiles: 0\n";
      continue;
    }
    if (line.starts_with("RegistryDwords") || line.starts_with("RmMsg")) {
      out += std::string(line.substr(0, line.find(':'))) + ": \"\"\n";
      continue;
    }
    out += std::string(line) + "\n";
  }
  return out;
}

std::string Proxy::FindGpus() {
  auto file = host_.Open({NodeKind::kControl, 0}, O_RDWR);
  if (!file.ok()) return "the NVIDIA driver's /dev/nvidiactl cannot be opened";
  Probe probe(*this, *file);
  CardInfo cards[kCards] = {};
  if (!probe.Run<CardInfo>(0xc8, cards)) return "the NVIDIA driver does not tell its GPUs";
  if (!probe.MakeClient()) return "the NVIDIA driver gives no client";
  std::ranges::sort(cards, {}, [](const CardInfo& c) { return std::tuple(c.valid == 0, c.domain, c.bus, c.slot); });
  std::vector<bool> found(options_.devices.size()), chosen(options_.wanted.size());
  for (uint32_t index = 0; index < kCards && cards[index].valid != 0; ++index) {
    const CardInfo& card = cards[index];
    Gpu gpu;
    if (!DescribeCard(probe, card, &gpu)) return "the NVIDIA driver does not describe GPU " + std::to_string(card.minor);
    gpu.index = index;
    bool may = options_.devices.empty();
    for (size_t i = 0; i < found.size(); ++i) {
      if (!gpu.IsNamed(options_.devices[i])) continue;
      may = found[i] = true;
    }
    bool wanted = options_.wanted.empty();
    for (size_t i = 0; i < chosen.size(); ++i) {
      if (!gpu.IsNamed(options_.wanted[i])) continue;
      if (!may) return NotAllowed(options_.wanted[i]);
      wanted = chosen[i] = true;
    }
    if (may && wanted) gpus_.push_back(gpu);
  }
  for (size_t i = 0; i < found.size(); ++i) {
    if (!found[i]) return NoSuchGpu(options_.devices[i]);
  }
  for (size_t i = 0; i < chosen.size(); ++i) {
    if (!chosen[i]) return NoSuchGpu(options_.wanted[i]);
  }
  return gpus_.empty() ? "the NVIDIA driver has no GPU" : "";
}

ErrnoOr<uint64_t> Proxy::FreeBytes(int index) {
  constexpr uint32_t kDeviceHandle = 0x5c000001, kSubdeviceHandle = 0x5c000002, kFbInfo = 0x20801303, kHeapFree = 0x16;
  const Gpu& gpu = gpus_[static_cast<size_t>(index)];
  const Entry* device = FindEntry(branch_->classes, 0x80);
  const Entry* subdevice = FindEntry(branch_->classes, 0x2080);
  const Entry* info = FindEntry(branch_->controls, kFbInfo);
  if (device == nullptr || subdevice == nullptr || info == nullptr) return Errno(EOPNOTSUPP);
  HostFile control = TRY(host_.Open({NodeKind::kControl, 0}, O_RDWR));
  Probe probe(*this, control);
  // A device can be made only by a process that has its node open.
  HostFile node = TRY(host_.Open({NodeKind::kGpu, gpu.minor}, O_RDWR));
  std::vector<std::byte> device_params(device->size), subdevice_params(subdevice->size), list(info->size);
  std::memcpy(device_params.data(), &gpu.instance, sizeof(gpu.instance));
  uint32_t ask[] = {1, kHeapFree, 0};  // one pair: index, KiB
  std::memcpy(list.data(), ask, sizeof(ask));
  bool good = probe.MakeClient() && probe.Allocate(0, kDeviceHandle, 0x80, device_params) &&
              probe.Allocate(kDeviceHandle, kSubdeviceHandle, 0x2080, subdevice_params) &&
              probe.Control(kSubdeviceHandle, kFbInfo, list.data(), list.size());
  host_.Close(node);
  if (!good) return Errno(EIO);
  std::memcpy(ask, list.data(), sizeof(ask));
  return uint64_t{ask[2]} << 10;
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
