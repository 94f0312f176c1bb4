// The fake's frontend, controls and UVM.
#include <algorithm>
#include <cstddef>
#include <cstdio>

#include "nvproxy/fake/fake_internal.h"

namespace amber::nvproxy {
namespace {

template <typename T>
void Put(std::byte* at, T value) {
  std::memcpy(at, &value, sizeof(value));
}
template <typename T>
T Get(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof(value));
  return value;
}

void UuidBytes(const std::string& text, uint8_t* out) {
  size_t n = 0;
  for (size_t i = 4; i + 1 < text.size() && n < 16;) {
    if (text[i] == '-') {
      ++i;
      continue;
    }
    unsigned value = 0;
    std::sscanf(text.c_str() + i, "%2x", &value);
    out[n++] = static_cast<uint8_t>(value);
    i += 2;
  }
}

}  // namespace

void FakeHost::CardInfoCall(Args& args) {
  auto* cards = reinterpret_cast<CardInfo*>(args.block.data());
  size_t count = args.block.size() / sizeof(CardInfo);
  for (size_t i = 0; i < count && i < config_.gpus.size(); ++i) {
    const FakeGpu& gpu = config_.gpus[i];
    cards[i] = {.valid = 1,
                .domain = gpu.domain,
                .bus = static_cast<uint8_t>(gpu.bus),
                .slot = static_cast<uint8_t>(gpu.slot),
                .vendor = gpu.vendor,
                .device = gpu.device,
                .gpu_id = gpu.gpu_id,
                .irq = 16,
                .reg_address = 0xfeed00000000,
                .reg_size = 16 << 20,
                .fb_address = 0xfeed80000000,
                .fb_size = gpu.memory,
                .minor = gpu.minor};
  }
}

int FakeHost::Frontend(Args& args) {
  const Entry& entry = *FindEntry(branch_->frontend, args.number);
  bool list = entry.kind == Kind::kCardInfo || entry.kind == Kind::kAttachGpus;
  if (!list && entry.size != kUnknownSize && args.block.size() != entry.size) {
    Violation(std::string(entry.name) + " with a block of another size");
    return EINVAL;
  }
  uint32_t status = kNvOk;
  switch (entry.kind) {
    case Kind::kCardInfo: CardInfoCall(args); return 0;
    case Kind::kRegisterFd: {
      File* control = Find(static_cast<HostFile>(args.Word(0)));
      if (control == nullptr) {
        Violation("REGISTER_FD of a descriptor that is not the host's");
        return EINVAL;
      }
      if (args.file.linked != -1 || control->linked != -1) return EINVAL;
      args.file.linked = static_cast<HostFile>(args.Word(0));
      return 0;
    }
    case Kind::kAttachGpus: args.file.attached = true; return 0;
    case Kind::kAlloc: status = Alloc(args); break;
    case Kind::kAllocMemory: status = AllocMemory(args); break;
    case Kind::kHeap: status = Heap(args); break;
    case Kind::kFree: status = Free(args); break;
    case Kind::kDup: status = Dup(args); break;
    case Kind::kShare: status = ShareCall(args); break;
    case Kind::kMapMemory: status = MapMemory(args); break;
    case Kind::kControl: status = Control(args); break;
    case Kind::kOsEvent:
    case Kind::kFreeOsEvent:
      if (FindClient(args, args.Word(0)) == nullptr) status = kNvInvalidClient;
      if (File* target = Find(static_cast<HostFile>(args.Word(8))); target == nullptr) {
        Violation("an event at a descriptor that is not the host's");
      } else if (status == kNvOk) {
        target->os_events = std::max(0, target->os_events + (entry.kind == Kind::kOsEvent ? 1 : -1));
      }
      break;
    case Kind::kIdleChannels: {
      auto& block = args.As<IdleChannels>();
      for (uint64_t pointer : {block.phClients, block.phDevices, block.phChannels}) {
        if (block.numChannels > 0) Nested(args, pointer, block.numChannels * 4);
      }
      break;
    }
    case Kind::kContextDma: {
      auto& block = args.As<ContextDma>();
      Client* client = FindClient(args, block.hObjectParent);
      if (client == nullptr || !client->objects.contains(block.hMemory)) {
        status = kNvInvalidObjectHandle;
      } else {
        status = AddObject(*client, &block.hObjectNew, client->objects[block.hMemory].parent, 0x2);
        if (status == kNvOk) client->objects[block.hObjectNew].needs.push_back(block.hMemory);
      }
      break;
    }
    case Kind::kSimple:
    case Kind::kUnmapMemory:
      if (FindClient(args, args.Word(0)) == nullptr) status = kNvInvalidClient;
      break;
    default: Violation(std::string(entry.name) + " should have been answered by the proxy"); return EINVAL;
  }
  if (entry.status != kNoStatus) Put(args.block.data() + entry.status, status);
  return 0;
}

uint32_t FakeHost::Control(Args& args) {
  auto& block = args.As<RmControl>();
  Client* client = FindClient(args, block.hClient);
  if (client == nullptr) return kNvInvalidClient;
  auto it = client->objects.find(block.hObject);
  if (it == client->objects.end()) return kNvInvalidObjectHandle;
  const Entry* entry = FindEntry(branch_->controls, block.cmd);
  if (entry == nullptr) {
    for (const Legacy& known : LegacyCommands()) {
      bool same = known.command == block.cmd && known.size == block.paramsSize && branch_->number >= known.since;
      if (same) return Nested(args, block.params, block.paramsSize) != nullptr ? kNvOk : kNvInvalidArgument;
    }
    Violation("control " + std::to_string(block.cmd) + " is not in the list");
    return kNvNotSupported;
  }
  if (entry->size != kUnknownSize && block.paramsSize != entry->size) {
    Violation(std::string(entry->name) + " with parameters of another size");
    return kNvInvalidParamStruct;
  }
  std::byte* params = nullptr;
  if (block.paramsSize > 0) {
    params = static_cast<std::byte*>(Nested(args, block.params, block.paramsSize));
    if (params == nullptr) return kNvInvalidArgument;
  }
  if (entry->size != kUnknownSize) return RunControl(args, *client, it->second, *entry, params);
  // Of a size that only the real driver knows: room for whatever RunControl() looks at.
  std::vector<std::byte> padded(std::max<size_t>(block.paramsSize, 16384));
  std::copy_n(params, block.paramsSize, padded.begin());
  uint32_t status = RunControl(args, *client, it->second, *entry, padded.data());
  std::copy_n(padded.begin(), block.paramsSize, params);
  return status;
}

uint32_t FakeHost::FbInfoList(Object& object, std::byte* list, size_t count) {
  size_t gpu = static_cast<size_t>(std::max(object.gpu, 0));
  uint64_t total = config_.gpus[gpu].memory >> 10, free = total - (device_bytes_[gpu] >> 10);
  for (size_t i = 0; i < count; ++i) {
    uint32_t index = Get<uint32_t>(list + 8 * i);
    uint64_t value = index == 0x16 || index == 0x12 ? free : total;
    Put<uint32_t>(list + 8 * i + 4, static_cast<uint32_t>(value));
  }
  return kNvOk;
}

uint32_t FakeHost::RunControl(Args& args, Client& client, Object& object, const Entry& entry, std::byte* params) {
  auto gpu_of = [&](uint32_t id) { return std::ranges::find(config_.gpus, id, &FakeGpu::gpu_id); };
  switch (entry.number) {
    case 0x205: {
      auto gpu = gpu_of(Get<uint32_t>(params));
      if (gpu == config_.gpus.end()) return kNvInvalidArgument;
      reinterpret_cast<GpuIdInfo*>(params)->deviceInstance = static_cast<uint32_t>(gpu - config_.gpus.begin());
      return kNvOk;
    }
    case 0x275: {
      auto gpu = gpu_of(Get<uint32_t>(params));
      if (gpu == config_.gpus.end()) return kNvInvalidArgument;
      auto* info = reinterpret_cast<GpuUuidInfo*>(params);
      std::memcpy(info->gpuUuid, gpu->uuid.c_str(), gpu->uuid.size() + 1);
      info->uuidStrLen = static_cast<uint32_t>(gpu->uuid.size() + 1);
      return kNvOk;
    }
    case 0x201:
    case 0x214:
      for (size_t i = 0; i < 32; ++i) Put<uint32_t>(params + 4 * i, i < config_.gpus.size() ? config_.gpus[i].gpu_id : ~0u);
      return kNvOk;
    case 0x20801303: return FbInfoList(object, params + 4, Get<uint32_t>(params));
    case 0x20801301: {
      void* list = Nested(args, Get<uint64_t>(params + 8), Get<uint32_t>(params) * 8);
      return list == nullptr ? kNvInvalidArgument : FbInfoList(object, static_cast<std::byte*>(list), Get<uint32_t>(params));
    }
    case 0x20800110: std::memcpy(params + 4, "NVIDIA Fake H100", 17); return kNvOk;
    case 0x503c0102: object.needs.push_back(Get<uint32_t>(params)); return kNvOk;
    case 0xd04: {
      SharePolicy policy = Get<SharePolicy>(params);
      if (policy.sharePolicy_type != 4 && policy.sharePolicy_type != 0) Violation("a share policy other than PID reached the host");
      client.inherited.push_back(policy);
      return kNvOk;
    }
    default: break;
  }
  for (const Field& field : FieldsOf(entry)) {
    uint64_t pointer = field.role == Role::kPointer ? Get<uint64_t>(params + field.offset) : 0;
    bool known = pointer == 0 || std::ranges::any_of(args.nested, [&](const HostBuffer& b) { return reinterpret_cast<uint64_t>(b.data) == pointer; });
    if (!known) Violation(std::string(entry.name) + " leads to memory that is not the proxy's");
    if (field.role == Role::kFd && Find(Get<HostFile>(params + field.offset)) == nullptr)
      Violation(std::string(entry.name) + " with a descriptor that is not the host's");
  }
  return kNvOk;
}

int FakeHost::Uvm(Args& args) {
  const Entry& entry = *FindEntry(branch_->uvm, args.number);
  if (args.block.size() != entry.size) {
    Violation(std::string(entry.name) + " with a block of another size");
    return EINVAL;
  }
  if (entry.kind == Kind::kDeinitialize) return 0;
  uint32_t status = kNvOk;
  if (entry.kind == Kind::kInitialize) {
    uint64_t flags = Get<uint64_t>(args.block.data());
    if (args.file.initialized && args.file.flags != flags) status = kNvInvalidState;
    args.file.initialized = true;
    args.file.flags = flags;
  } else if (!args.file.initialized && entry.kind != Kind::kMmInitialize) {
    status = kNvIllegalAction;
  } else {
    status = UvmRun(args, entry);
  }
  if (entry.status != kNoStatus) Put(args.block.data() + entry.status, status);
  return 0;
}

uint32_t FakeHost::UvmMapExternal(Args& args) {
  const Entry& entry = *FindEntry(branch_->uvm, args.number);
  uint32_t client = 0, memory = 0;
  for (const Field& field : FieldsOf(entry)) {
    if (field.role == Role::kClient) client = args.Word(field.offset);
    if (field.role == Role::kObject) memory = args.Word(field.offset);
  }
  auto it = clients_.find(client);
  // As the driver: nobody looks through which file the client was made, only in which process.
  if (it == clients_.end() || it->second->process != args.process) return kNvInvalidClient;
  auto object = it->second->objects.find(memory);
  if (object == it->second->objects.end()) return kNvInvalidObjectHandle;
  uint64_t base = Get<uint64_t>(args.block.data());
  auto range = args.file.ranges.upper_bound(base);
  if (range == args.file.ranges.begin()) return kNvInvalidAddress;
  --range;
  if (base - range->first >= range->second) return kNvInvalidAddress;
  args.file.externals.emplace(base, object->second.bytes);
  return kNvOk;
}

uint32_t FakeHost::UvmRun(Args& args, const Entry& entry) {
  File& file = args.file;
  uint64_t base = Get<uint64_t>(args.block.data()), length = args.block.size() >= 16 ? Get<uint64_t>(args.block.data() + 8) : 0;
  auto drop = [&](uint64_t from, uint64_t size) {
    auto it = file.externals.lower_bound(from);
    while (it != file.externals.end() && it->first - from < size) it = file.externals.erase(it);
  };
  constexpr uint32_t kValidateRange = 72;
  if (args.number == kValidateRange) {
    auto range = file.managed.upper_bound(base);
    if (range == file.managed.begin()) return kNvInvalidAddress;
    --range;
    return base - range->first <= range->second && length <= range->second - (base - range->first) ? kNvOk : kNvInvalidAddress;
  }
  switch (entry.kind) {
    case Kind::kRegisterGpu:
      for (const FakeGpu& gpu : config_.gpus) {
        uint8_t uuid[16] = {};
        UuidBytes(gpu.uuid, uuid);
        if (std::memcmp(uuid, args.block.data(), 16) != 0) continue;
        bool open = std::ranges::any_of(
            files_, [&](const auto& f) { return f.second->process == args.process && f.second->node == Node{NodeKind::kGpu, gpu.minor}; });
        return open ? kNvOk : kNvInsufficientPermissions;
      }
      return kNvInvalidDevice;
    case Kind::kRegisterVaspace:
    case Kind::kRegisterChannel: {
      auto it = clients_.find(args.Word(20));
      if (it == clients_.end() || it->second->process != args.process) return kNvInvalidClient;
      return it->second->objects.contains(args.Word(24)) ? kNvOk : kNvInvalidObjectHandle;
    }
    case Kind::kCreateExternal:
      if (file.ranges.contains(base)) return kNvInvalidAddress;
      file.ranges[base] = length;
      return kNvOk;
    case Kind::kMapExternal: return UvmMapExternal(args);
    case Kind::kUnmapExternal: drop(base, length); return kNvOk;
    case Kind::kFree:
      if (!file.ranges.contains(base)) return kNvInvalidAddress;
      drop(base, file.ranges[base]);
      file.ranges.erase(base);
      return kNvOk;
    case Kind::kMmInitialize:
      if (Find(static_cast<HostFile>(args.Word(0))) == nullptr) Violation("MM_INITIALIZE with a descriptor that is not the host's");
      return kNvNotSupported;  // no mm in multi-process mode
    default: return kNvOk;
  }
}

}  // namespace amber::nvproxy
