// The ioctls of /dev/nvidiactl and /dev/nvidiaN that are not about RM objects.
#include <algorithm>

#include "nvproxy/call.h"

namespace amber::nvproxy {
namespace {

// All cards of the host in, the sandbox's own out, and no bus addresses.
ErrnoOr<uint64_t> CardInfoCall(Call& call) {
  size_t count = call.block.size() / sizeof(CardInfo);
  if (count == 0 || call.block.size() % sizeof(CardInfo) != 0) return Errno(EINVAL);
  if (int error = call.Forward(); error != 0) return Errno(error);
  auto* cards = reinterpret_cast<CardInfo*>(call.block.data());
  size_t kept = 0;
  for (size_t i = 0; i < count; ++i) {
    if (cards[i].valid == 0 || call.proxy.GpuById(cards[i].gpu_id, call.session) == nullptr) continue;
    CardInfo card = cards[i];
    card.reg_address = card.fb_address = 0;
    cards[kept++] = card;
  }
  std::fill(cards + kept, cards + count, CardInfo{});
  return call.Done();
}

// NV_ESC_REGISTER_FD: this file may use the clients of a control file. Once, no chains (the driver's rule).
ErrnoOr<uint64_t> RegisterFdCall(Call& call) {
  FdField fd(call.block, 0);
  std::shared_ptr<OpenFile> control = fd.Resolve(call.caller);
  if (control == nullptr || control->node().kind != NodeKind::kControl || control == call.file) return Errno(EINVAL);
  {
    absl::MutexLock lock(&control->mu);
    if (control->linked != nullptr) return Errno(EINVAL);
    control->has_links = true;
  }
  {
    absl::MutexLock lock(&call.file->mu);
    if (call.file->linked != nullptr || call.file->has_links) return Errno(EINVAL);
    call.file->linked = control;
  }
  fd.Set(*control);
  if (int error = call.Forward(); error != 0) {
    absl::MutexLock lock(&call.file->mu);
    call.file->linked = nullptr;
    return Errno(error);
  }
  return uint64_t{0};  // input only
}

// ALLOC_OS_EVENT and FREE_OS_EVENT: events of a client arrive at a file.
ErrnoOr<uint64_t> OsEventCall(Call& call) {
  auto& event = call.As<OsEvent>();
  std::shared_ptr<Client> client = call.OwnClient(event.hClient);
  if (client == nullptr) return call.Refuse(kNvInvalidClient);
  ErrnoOr<uint64_t> answer = Errno(EINVAL);
  {
    FdField fd(call.block, offsetof(OsEvent, fd));
    std::shared_ptr<OpenFile> target = fd.Resolve(call.caller);
    if (target == nullptr || !target->is_frontend()) return Errno(EINVAL);
    ClientLock lock(client);
    if (NvStatus status = CheckHandles(lock, call.entry, call.block, *client); status != kNvOk) {
      call.set_status(status);
    } else {
      fd.Set(*target);
      if (int error = call.Forward(); error != 0) return Errno(error);
    }
  }
  return call.Done();
}

// A strict mismatch would be logged in the host's kernel log and change nothing else, so the proxy answers.
ErrnoOr<uint64_t> VersionCall(Call& call) {
  constexpr uint32_t kRelaxed = 0x31, kQuery = 0x32;
  auto& check = call.As<VersionCheck>();
  const std::string& version = call.proxy.version();
  bool same = strnlen(check.text, sizeof(check.text)) == version.size() && version.compare(0, version.size(), check.text, version.size()) == 0;
  if (check.cmd != 0 && check.cmd != kRelaxed && check.cmd != kQuery) return Errno(EINVAL);
  check.reply = same || check.cmd == kQuery ? 1 : 0;
  std::memset(check.text, 0, sizeof(check.text));
  version.copy(check.text, sizeof(check.text) - 1);
  TRY(call.Done());
  if (!same && check.cmd == 0) return Errno(EINVAL);
  return uint64_t{0};
}

// Takes references of GPUs without opening their nodes: each must be the sandbox's.
ErrnoOr<uint64_t> AttachGpusCall(Call& call) {
  if (call.block.size() == 0 || call.block.size() % 4 != 0 || call.block.size() > 4 * 64) return Errno(EINVAL);
  for (size_t i = 0; i < call.block.size(); i += 4) {
    uint32_t id = call.block.Get<uint32_t>(i);
    if (id != 0 && call.proxy.GpuById(id, call.session) == nullptr) return Errno(EINVAL);
  }
  {
    absl::MutexLock lock(&call.file->mu);
    if (call.file->attached) return Errno(EINVAL);
    call.file->attached = true;
  }
  if (int error = call.Forward(); error != 0) {
    absl::MutexLock lock(&call.file->mu);
    call.file->attached = false;
    return Errno(error);
  }
  return call.Done();
}

// What changes nothing in the graph: UNMAP_MEMORY, MAP_MEMORY_DMA and the like.
ErrnoOr<uint64_t> PlainCall(Call& call) {
  std::shared_ptr<Client> client;
  for (const Field& field : FieldsOf(call.entry)) {
    if (field.role != Role::kClient) continue;
    client = call.OwnClient(call.block.Get<uint32_t>(field.offset));
    if (client == nullptr) return call.Refuse(kNvInvalidClient);
  }
  ClientLock lock(client, NamedClients(call, call.entry, call.block, client.get()));
  if (client != nullptr) {
    if (NvStatus status = CheckHandles(lock, call.entry, call.block, *client); status != kNvOk) return call.Refuse(status);
  }
  if (int error = call.Forward(); error != 0) return Errno(error);
  return call.Done();
}

}  // namespace

std::vector<std::shared_ptr<Client>> NamedClients(Call& call, const Entry& entry, Block& block, const Client* client) {
  std::vector<std::shared_ptr<Client>> out;
  for (const Field& field : FieldsOf(entry)) {
    for (size_t i = 0; field.role == Role::kClient && i < field.count; ++i) {
      uint32_t handle = block.Get<uint32_t>(field.offset + 4 * i);
      if (handle == 0 || client == nullptr || handle == client->handle()) continue;
      if (auto other = call.OwnClient(handle); other != nullptr) out.push_back(std::move(other));
    }
  }
  return out;
}

NvStatus CheckHandles(const ClientLock& lock, const Entry& entry, Block& block, Client& client) {
  if (client.dead()) return kNvInvalidClient;
  bool mine = true;  // the objects are `client`'s
  for (const Field& field : FieldsOf(entry)) {
    for (size_t i = 0; i < field.count; ++i) {
      uint32_t handle = block.Get<uint32_t>(field.offset + 4 * i);
      if (handle == 0) continue;
      if (field.role == Role::kClient && handle != client.handle()) {
        // Another client of the caller's: that it is the caller's is what keeps others safe; the driver checks its objects.
        if (lock.Find(handle) == nullptr) return kNvInvalidClient;
        mine = false;
      }
      if (field.role == Role::kObject && mine && client.Find(handle) == nullptr) {
        // 0xffffffff is "dynamic" where an address space is asked for.
        if (handle == ~0u && entry.number == 0x70) continue;
        return kNvInvalidObjectHandle;
      }
    }
  }
  return kNvOk;
}

NvStatus CheckGpus(Call& call, const Entry& entry, Block& block) {
  for (const Field& field : FieldsOf(entry)) {
    for (size_t i = 0; field.role == Role::kGpu && i < field.count; ++i) {
      uint32_t id = block.Get<uint32_t>(field.offset + 4 * i);
      // Lists are padded with zeros or ones.
      if (id == 0 || id == ~0u) continue;
      if (call.proxy.GpuById(id, call.session) == nullptr) return kNvInvalidArgument;
    }
    if (field.role == Role::kUuid) {
      Uuid uuid = block.Get<Uuid>(field.offset);
      // Managed memory goes to the processor as well, which has a uuid of its own (kernel-open/nvidia-uvm/nvCpuUuid.c).
      constexpr Uuid kCpu = {0xa6, 0x5e, 0x0f, 0x4e, 0xd7, 0xd4, 0x7b, 0xa2, 0x50, 0x47, 0x41, 0x2c, 0x14, 0x2a, 0x77, 0x73};
      if (uuid != Uuid{} && uuid != kCpu && call.proxy.GpuByUuid(uuid.data(), call.session) == nullptr) return kNvInvalidDevice;
    }
  }
  return kNvOk;
}

ErrnoOr<uint64_t> FrontendCall(Call& call) {
  switch (call.entry.kind) {
    case Kind::kAllocMemory: return RmAllocMemoryCall(call);
    case Kind::kFree: return RmFreeCall(call);
    case Kind::kControl: return RmControlCall(call);
    case Kind::kAlloc: return RmAllocCall(call);
    case Kind::kDup: return RmDupCall(call);
    case Kind::kShare: return RmShareCall(call);
    case Kind::kIdleChannels: return RmIdleChannelsCall(call);
    case Kind::kHeap: return RmHeapCall(call);
    case Kind::kMapMemory: return RmMapMemoryCall(call);
    case Kind::kContextDma: return RmContextDmaCall(call);
    case Kind::kCardInfo: return CardInfoCall(call);
    case Kind::kRegisterFd: return RegisterFdCall(call);
    case Kind::kOsEvent:
    case Kind::kFreeOsEvent: return OsEventCall(call);
    case Kind::kVersion: return VersionCall(call);
    case Kind::kAttachGpus: return AttachGpusCall(call);
    case Kind::kSysParams: return call.Done();                                // host-wide, and set by whoever came first: accepted, not given on
    case Kind::kWaitOpen: call.block.As<uint64_t>() = 0; return call.Done();  // opens here are complete
    case Kind::kUnmapMemory:
    case Kind::kSimple: return PlainCall(call);
    default: return Errno(EINVAL);  // dma-buf: not supported yet
  }
}

}  // namespace amber::nvproxy
