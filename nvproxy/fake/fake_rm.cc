// The fake's resource manager: clients, objects, memory, sharing.
#include <algorithm>
#include <cstddef>
#include <unordered_set>

#include "nvproxy/fake/fake_internal.h"
#include "nvproxy/quota.h"

namespace amber::nvproxy {

void* FakeHost::Nested(Args& args, uint64_t pointer, size_t size) {
  for (const HostBuffer& buffer : args.nested) {
    if (reinterpret_cast<uint64_t>(buffer.data) == pointer && buffer.size == size) return const_cast<void*>(buffer.data);
  }
  Violation("ioctl " + std::to_string(args.number) + " leads to memory that is not the proxy's, or of another size");
  return nullptr;
}

// Strict validation: through the file that made it, or one registered with that.
FakeHost::Client* FakeHost::FindClient(Args& args, uint32_t handle) {
  auto it = clients_.find(handle);
  if (it == clients_.end()) return nullptr;
  return it->second->file == args.handle || it->second->file == args.file.linked ? it->second.get() : nullptr;
}

bool FakeHost::Reserve(int gpu, bool system, uint64_t bytes, std::shared_ptr<Bytes>* out) {
  uint64_t* counter = system ? &system_bytes_ : &device_bytes_[static_cast<size_t>(std::max(gpu, 0))];
  uint64_t most = system ? uint64_t{1} << 40 : config_.gpus[static_cast<size_t>(std::max(gpu, 0))].memory;
  if (bytes > most || *counter > most - bytes) return false;
  *counter += bytes;
  *out = std::make_shared<Bytes>(counter, bytes, UniqueFd());
  return true;
}

void FakeHost::FreeObject(Client& client, uint32_t handle) {
  std::vector<uint32_t> work{handle}, order;
  std::unordered_set<uint32_t> seen{handle};
  while (!work.empty()) {
    uint32_t h = work.back();
    work.pop_back();
    order.push_back(h);
    for (const auto& [other, object] : client.objects) {
      bool hangs = object.parent == h || std::ranges::find(object.needs, h) != object.needs.end();
      if (hangs && other != h && seen.insert(other).second) work.push_back(other);
    }
  }
  for (uint32_t h : order) client.objects.erase(h);
}

void FakeHost::FreeClient(uint32_t handle) { clients_.erase(handle); }

uint32_t FakeHost::AddObject(Client& client, uint32_t* handle, uint32_t parent, uint32_t number) {
  if (*handle == 0) *handle = client.next_handle++;
  if (client.objects.contains(*handle)) return kNvInsertDuplicateName;
  auto it = client.objects.find(parent);
  if (it == client.objects.end()) return kNvInvalidObjectParent;
  int gpu = it->second.gpu;
  Object& object = client.objects[*handle];
  object.number = number;
  object.parent = parent;
  object.gpu = gpu;
  return kNvOk;
}

uint32_t FakeHost::AllocClient(Args& args, RmAlloc& block) {
  if (args.file.node.kind != NodeKind::kControl) return kNvInvalidArgument;
  uint32_t handle = block.hRoot != 0 ? block.hRoot : next_client_++;
  if (clients_.contains(handle)) return kNvInsertDuplicateName;
  if (block.pAllocParms != 0) {
    void* out = Nested(args, block.pAllocParms, 4);
    if (out != nullptr) std::memcpy(out, &handle, 4);
  }
  auto client = std::make_unique<Client>();
  client->handle = handle;
  client->process = args.process;
  client->file = args.handle;
  client->objects[handle] = {.number = 0x41};
  client->inherited = {{.sharePolicy_accessMask = 1, .sharePolicy_type = 4}};
  clients_[handle] = std::move(client);
  block.hObjectNew = handle;
  return kNvOk;
}

uint32_t FakeHost::Alloc(Args& args) {
  auto& block = args.As<RmAlloc>();
  const Entry* entry = FindEntry(branch_->classes, block.hClass);
  if (entry == nullptr) return kNvInvalidClass;
  if (entry->kind == Kind::kRoot) return AllocClient(args, block);
  Client* client = FindClient(args, block.hRoot);
  if (client == nullptr) return kNvInvalidClient;
  void* params = nullptr;
  if (block.pAllocParms != 0 && entry->size != 0) params = Nested(args, block.pAllocParms, entry->size);
  if (block.pAllocParms != 0 && params == nullptr) return kNvInvalidArgument;
  if (block.pRightsRequested != 0) Nested(args, block.pRightsRequested, 4);
  if (uint32_t status = AddObject(*client, &block.hObjectNew, block.hObjectParent, block.hClass); status != kNvOk) return status;
  uint32_t status = FillObject(args, *client, client->objects[block.hObjectNew], *entry, params);
  if (status != kNvOk) client->objects.erase(block.hObjectNew);
  return status;
}

uint32_t FakeHost::FillObject(Args& args, Client& client, Object& object, const Entry& entry, void* params) {
  if (params != nullptr) {
    for (const Field& field : FieldsOf(entry)) {
      uint32_t handle = 0;
      std::memcpy(&handle, static_cast<std::byte*>(params) + field.offset, 4);
      if (field.role == Role::kDepends && handle != client.handle && client.objects.contains(handle)) object.needs.push_back(handle);
    }
  }
  if (entry.kind == Kind::kDevice) {
    uint32_t instance = params != nullptr ? static_cast<DeviceParams*>(params)->deviceId : 0;
    if (instance >= config_.gpus.size()) return kNvInvalidDevice;
    object.gpu = static_cast<int>(instance);
    // As the driver: the process must have the GPU's own node open.
    uint32_t minor = config_.gpus[instance].minor;
    bool open = std::ranges::any_of(
        files_, [&](const auto& f) { return f.second->process == args.process && f.second->node == Node{NodeKind::kGpu, minor}; });
    if (!open) return kNvInsufficientPermissions;
  }
  if (entry.kind == Kind::kEvent) {
    uint32_t kind = static_cast<EventParams*>(params)->hClass;
    if (kind != 0 && kind != 0x79) Violation("an event of a kind that the driver keeps for itself");
    if (Find(static_cast<HostFile>(static_cast<EventParams*>(params)->data)) == nullptr) {
      Violation("an event for a file that is not the host's");
      return kNvInvalidArgument;
    }
  }
  if (entry.kind == Kind::kMemoryLocal || entry.kind == Kind::kMemorySystem) {
    auto* memory = static_cast<MemoryParams*>(params);
    bool system = entry.kind == Kind::kMemorySystem;
    uint64_t bytes = RoundToPages(memory->size, system ? 1u << 23 : memory->attr, memory->attr2);
    if (!Reserve(object.gpu, system, bytes, &object.bytes)) return kNvNoMemory;
    memory->size = bytes;
  }
  if (entry.kind == Kind::kFabric && !Reserve(object.gpu, false, *reinterpret_cast<uint64_t*>(static_cast<std::byte*>(params) + 8), &object.bytes)) {
    return kNvNoMemory;
  }
  if (entry.category == Category::kGroup || entry.category == Category::kChannel) {
    for (uint32_t h = object.parent; client.objects.contains(h); h = client.objects[h].parent) {
      Object& device = client.objects[h];
      if (device.number != 0x80 || device.context != nullptr) continue;
      if (!Reserve(device.gpu, false, config_.context_bytes, &device.context)) return kNvNoMemory;
    }
  }
  return kNvOk;
}

uint32_t FakeHost::AllocMemory(Args& args) {
  auto& block = args.As<RmAllocMemory>();
  Client* client = FindClient(args, block.hRoot);
  if (client == nullptr) return kNvInvalidClient;
  uint64_t size = block.limit + 1;
  // Whole pages are pinned.
  if (block.hClass == 0x71 && Nested(args, block.pMemory, (size + 4095) & ~uint64_t{4095}) == nullptr) return kNvInvalidAddress;
  if (block.hClass != 0x71 && block.pMemory != 0) Violation("a guest's address in RM_ALLOC_MEMORY");
  if (uint32_t status = AddObject(*client, &block.hObjectNew, block.hObjectParent, block.hClass); status != kNvOk) return status;
  Object& object = client->objects[block.hObjectNew];
  bool system = block.hClass == 0x3e || block.hClass == 0x71;
  if (!Reserve(object.gpu, system, RoundToPages(size, 1u << 23, 0), &object.bytes)) {
    client->objects.erase(block.hObjectNew);
    return kNvNoMemory;
  }
  if (block.pad_fd >= 0 && block.hClass == 0x3e && (block.flags >> 16 & 3) != 1 && (block.flags >> 30 & 3) != 1) {
    File* target = Find(block.pad_fd);
    if (target == nullptr) {
      Violation("RM_ALLOC_MEMORY with a descriptor that is not the host's");
    } else {
      target->pending = {object.bytes, 0, (size + 4095) & ~uint64_t{4095}, target->node.kind == NodeKind::kGpu};
    }
  }
  return kNvOk;
}

uint32_t FakeHost::Heap(Args& args) {
  auto& block = args.As<RmHeap>();
  Client* client = FindClient(args, block.hRoot);
  if (client == nullptr) return kNvInvalidClient;
  if (block.function != 2) Violation("a heap function other than ALLOC_SIZE");
  if (block.AllocSize_address != 0) Nested(args, block.AllocSize_address, 8);
  bool is_virtual = (block.AllocSize_flags & 0x80000) != 0, system = (block.AllocSize_attr >> 25 & 3) == 1;
  uint32_t number = is_virtual ? 0x70 : system ? 0x3e : 0x40;
  if (uint32_t status = AddObject(*client, &block.AllocSize_hMemory, block.hObjectParent, number); status != kNvOk) return status;
  Object& object = client->objects[block.AllocSize_hMemory];
  if (is_virtual) {
    if (client->objects.contains(block.hVASpace) && block.hVASpace != client->handle) object.needs.push_back(block.hVASpace);
    return kNvOk;
  }
  uint64_t bytes = RoundToPages(block.AllocSize_size, system ? 1u << 23 : block.AllocSize_attr, block.AllocSize_attr2);
  if (Reserve(object.gpu, system, bytes, &object.bytes)) {
    block.AllocSize_size = bytes;
    return kNvOk;
  }
  client->objects.erase(block.AllocSize_hMemory);
  return kNvNoMemory;
}

uint32_t FakeHost::Free(Args& args) {
  auto& block = args.As<RmFree>();
  Client* client = FindClient(args, block.hRoot);
  if (client == nullptr) return kNvInvalidClient;
  if (block.hObjectOld == client->handle) {
    FreeClient(client->handle);
  } else if (client->objects.contains(block.hObjectOld)) {
    FreeObject(*client, block.hObjectOld);
  }
  return kNvOk;
}

uint32_t FakeHost::Dup(Args& args) {
  auto& block = args.As<RmDup>();
  Client* to = FindClient(args, block.hClient);
  auto it = clients_.find(block.hClientSrc);
  if (to == nullptr || it == clients_.end()) return kNvInvalidClient;
  Client& from = *it->second;
  auto source = from.objects.find(block.hObjectSrc);
  if (source == from.objects.end()) return kNvInvalidObjectHandle;
  const auto& shares = source->second.shared ? source->second.shares : from.inherited;
  // Type PID is the only one that the proxy may send.
  bool allowed = &from == to || std::ranges::any_of(shares, [&](const SharePolicy& s) {
    return s.sharePolicy_type == 4 && (s.sharePolicy_accessMask & 1) != 0 && from.process == to->process;
  });
  if (!allowed && from.process != to->process) return kNvInsufficientPermissions;
  Object copy = source->second;
  if (uint32_t status = AddObject(*to, &block.hObject, block.hParent, copy.number); status != kNvOk) return status;
  Object& object = to->objects[block.hObject];
  object.bytes = copy.bytes;
  object.gpu = copy.gpu;
  if (&from == to) object.needs = copy.needs;
  return kNvOk;
}

uint32_t FakeHost::ShareCall(Args& args) {
  auto& block = args.As<RmShare>();
  Client* client = FindClient(args, block.hClient);
  if (client == nullptr || !client->objects.contains(block.hObject)) return kNvInvalidObjectHandle;
  if (block.sharePolicy_type != 4 && block.sharePolicy_type != 0) Violation("a share policy other than PID reached the host");
  Object& object = client->objects[block.hObject];
  SharePolicy policy;
  std::memcpy(&policy, args.block.data() + 8, sizeof(policy));
  object.shares.push_back(policy);
  object.shared = true;
  return kNvOk;
}

uint32_t FakeHost::MapMemory(Args& args) {
  auto& block = args.As<RmMapMemory>();
  Client* client = FindClient(args, block.hClient);
  if (client == nullptr) return kNvInvalidClient;
  auto it = client->objects.find(block.hMemory);
  if (it == client->objects.end()) return kNvInvalidObjectHandle;
  File* target = Find(block.pad_fd);
  if (target == nullptr) {
    Violation("MAP_MEMORY with a descriptor that is not the host's");
    return kNvInvalidArgument;
  }
  if (target->pending) return kNvStateInUse;
  if (it->second.bytes == nullptr) {  // a doorbell page and the like
    if (!Reserve(it->second.gpu, true, 0, &it->second.bytes)) return kNvNoMemory;
  }
  uint64_t head = block.offset % 4096;
  target->pending = {it->second.bytes, block.offset - head, (head + block.length + 4095) & ~uint64_t{4095}, target->node.kind == NodeKind::kGpu};
  block.pLinearAddress = 0x7ead00000000 + block.hMemory;  // opaque
  return kNvOk;
}

}  // namespace amber::nvproxy
