// Memory objects that are made by calls of their own, and mapping contexts.
#include <sys/mman.h>

#include <algorithm>
#include <cstddef>

#include "nvproxy/call.h"

namespace amber::nvproxy {
namespace {

constexpr uint32_t kSystemMemory = 0x3e, kLocalPrivileged = 0x3f, kLocalMemory = 0x40, kOsDescriptor = 0x71;
constexpr uint32_t kHeapAllocSize = 2;      // NVOS32_FUNCTION_ALLOC_SIZE
constexpr uint32_t kHeapVirtual = 0x80000;  // NVOS32_ALLOC_FLAGS_VIRTUAL
constexpr uint64_t kPageSize = 4096;

uint32_t GpuOf(const Object& object) { return static_cast<uint32_t>(std::max(object.gpu, 0)); }

struct NewMemory {
  std::shared_ptr<Allocation> bytes;
  std::shared_ptr<PinnedMemory> pinned;
};

// Guest memory for the device: shared pieces, one alias of them in this process, counted. As the driver has it (RmCreateOsDescriptor(), os_lock_user_pages()): the
// address is a page's, the end need not be; pages are pinned for writing unless the memory is to be read-only (OS02_FLAGS_ALLOC_USER_READ_ONLY).
ErrnoOr<uint32_t> Pin(Call& call, uint64_t address, uint64_t bytes_wanted, bool write, NewMemory* memory) {
  if (address % kPageSize != 0) return uint32_t{kNvNotSupported};
  uint64_t size = (bytes_wanted + kPageSize - 1) & ~(kPageSize - 1);
  if (address + size < address) return uint32_t{kNvInvalidAddress};
  auto bytes = call.proxy.ledger().Charge(0, Pool::kHost, size);
  if (bytes == nullptr) return uint32_t{kNvNoMemory};
  auto pieces = call.caller.Share(address, size, write);
  if (pieces.Is(EAGAIN)) return pieces.error();  // the caller will make them shareable and call again
  if (!pieces.ok()) return uint32_t{pieces.Is(EFAULT) ? kNvInvalidAddress : pieces.Is(ENOMEM) ? kNvNoMemory : kNvNotSupported};
  auto alias = call.proxy.host().Alias(*pieces);
  if (!alias.ok()) return uint32_t{kNvNoMemory};
  memory->pinned = std::make_shared<PinnedMemory>();
  memory->pinned->host = &call.proxy.host();
  memory->pinned->alias = *alias;
  memory->pinned->size = size;
  memory->pinned->bytes = std::move(bytes);
  return uint32_t{kNvOk};
}

// The memory behind one RM_ALLOC_MEMORY, charged or pinned; a status.
ErrnoOr<uint32_t> Prepare(Call& call, const Object& parent, NewMemory* memory) {
  auto& block = call.As<RmAllocMemory>();
  uint64_t size = block.limit + 1;
  if (size == 0 || size > uint64_t{1} << 48) return uint32_t{block.hClass == kOsDescriptor && size == 0 ? kNvInvalidLimit : kNvInvalidArgument};
  constexpr uint32_t kUserReadOnly = 1u << 21;
  if (block.hClass == kOsDescriptor) return Pin(call, block.pMemory, size, (block.flags & kUserReadOnly) == 0, memory);
  Pool pool = block.hClass == kSystemMemory ? Pool::kHost : Pool::kDevice;
  memory->bytes = call.proxy.ledger().Charge(GpuOf(parent), pool, RoundToPages(size, 1u << 23, 0));
  return uint32_t{memory->bytes == nullptr ? kNvNoMemory : kNvOk};
}

// Whether the block wants a mapping context, and with which descriptor.
bool WantsMapping(const RmAllocMemory& block) {
  constexpr uint32_t kNone = 1, kNoMap = 1;
  return block.hClass == kSystemMemory && (block.flags >> 16 & 3) != kNone && (block.flags >> 30 & 3) != kNoMap;
}

void Record(Call& call, Client& client, Object& parent, uint32_t handle, uint32_t number, NewMemory memory) {
  const Entry* entry = FindEntry(call.proxy.branch().classes, number);
  Object* object = client.Add(handle, number, entry, &parent);
  if (object == nullptr) return;
  object->category = Category::kMemory;
  object->bytes = std::move(memory.bytes);
  object->pinned = std::move(memory.pinned);
  object->origin = call.entry.name;
}

NvStatus CheckNew(Call& call, Client& client, uint32_t parent, uint32_t handle) {
  if (client.dead()) return kNvInvalidClient;
  Object* under = client.Find(parent);
  if (under == nullptr || (under->category != Category::kDevice && under->category != Category::kSubdevice)) return kNvInvalidObjectParent;
  if (handle != 0 && client.Find(handle) != nullptr) return kNvInsertDuplicateName;
  if (call.proxy.Full(client)) return kNvInsufficientResources;
  return kNvOk;
}

}  // namespace

ErrnoOr<uint64_t> RmAllocMemoryCall(Call& call) {
  auto& block = call.As<RmAllocMemory>();
  uint32_t number = block.hClass;
  if (number != kSystemMemory && number != kLocalPrivileged && number != kLocalMemory && number != kOsDescriptor) {
    return call.Refuse(kNvInvalidClass);
  }
  std::shared_ptr<Client> client = call.OwnClient(block.hRoot);
  if (client == nullptr) return call.Refuse(kNvInvalidClient);
  ClientLock lock(client);
  if (NvStatus status = CheckNew(call, *client, block.hObjectParent, block.hObjectNew); status != kNvOk) return call.Refuse(status);
  Object& parent = *client->Find(block.hObjectParent);
  NewMemory memory;
  if (uint32_t status = TRY(Prepare(call, parent, &memory)); status != kNvOk) return call.Refuse(status);
  uint64_t guest_memory = block.pMemory;
  std::shared_ptr<OpenFile> target;
  HostBuffer nested[] = {{nullptr, 0}};
  {
    FdField fd(call.block, offsetof(RmAllocMemory, pad_fd));
    if (WantsMapping(block)) {
      target = fd.Resolve(call.caller);
      if (target == nullptr || !target->is_frontend()) return call.Refuse(kNvInvalidArgument);
      fd.Set(*target);
    } else {
      call.block.Put<int32_t>(offsetof(RmAllocMemory, pad_fd), -1);
    }
    // Only an OS descriptor has an address that means something; elsewhere the guest's must not reach the driver.
    block.pMemory = memory.pinned != nullptr ? memory.pinned->alias : 0;
    if (memory.pinned != nullptr) nested[0] = {reinterpret_cast<const void*>(memory.pinned->alias), memory.pinned->size};
    int error = call.Forward(std::span(nested, memory.pinned != nullptr ? 1 : 0));
    // Of a mapped object the driver's answer is the key by which user space speaks of the mapping later.
    if (error != 0 || memory.pinned != nullptr || block.status != kNvOk) block.pMemory = guest_memory;
    if (error != 0) return Errno(error);
  }
  if (block.status == kNvOk) {
    if (target != nullptr) {
      absl::MutexLock file_lock(&target->mu);
      target->pending = {.length = (block.limit + kPageSize) & ~(kPageSize - 1), .whole = target->node().kind == NodeKind::kGpu};
    }
    Record(call, *client, parent, block.hObjectNew, number, std::move(memory));
  }
  return call.Done();
}

ErrnoOr<uint64_t> RmHeapCall(Call& call) {
  auto& block = call.As<RmHeap>();
  if (block.function != kHeapAllocSize) return call.Refuse(kNvInvalidFunction, "a heap function other than ALLOC_SIZE");
  std::shared_ptr<Client> client = call.OwnClient(block.hRoot);
  if (client == nullptr) return call.Refuse(kNvInvalidClient);
  ClientLock lock(client);
  if (NvStatus status = CheckNew(call, *client, block.hObjectParent, block.AllocSize_hMemory); status != kNvOk) return call.Refuse(status);
  if (NvStatus status = CheckHandles(lock, call.entry, call.block, *client); status != kNvOk) return call.Refuse(status);
  Object& parent = *client->Find(block.hObjectParent);
  bool is_virtual = (block.AllocSize_flags & kHeapVirtual) != 0;
  bool in_system = (block.AllocSize_attr >> 25 & 3) == 1;
  NewMemory memory;
  if (!is_virtual) {
    uint64_t bytes = RoundToPages(block.AllocSize_size, in_system ? 1u << 23 : block.AllocSize_attr, block.AllocSize_attr2);
    if (bytes == 0 && block.AllocSize_size != 0) return call.Refuse(kNvNoMemory);
    memory.bytes = call.proxy.ledger().Charge(GpuOf(parent), in_system ? Pool::kHost : Pool::kDevice, bytes);
    if (memory.bytes == nullptr) return call.Refuse(kNvNoMemory);
  }
  uint64_t guest_address = block.AllocSize_address, address = 0;
  HostBuffer nested[] = {{&address, sizeof(address)}};
  if (guest_address != 0) {
    if (!call.caller.Read(guest_address, &address, sizeof(address))) return Errno(EFAULT);
    block.AllocSize_address = reinterpret_cast<uint64_t>(&address);
  }
  int error = call.Forward(std::span(nested, guest_address != 0 ? 1 : 0));
  block.AllocSize_address = guest_address;
  if (error != 0) return Errno(error);
  if (block.status == kNvOk) {
    if (memory.bytes != nullptr && block.AllocSize_size > memory.bytes->bytes()) memory.bytes->Correct(block.AllocSize_size);
    Record(call, *client, parent, block.AllocSize_hMemory, is_virtual ? 0x70 : in_system ? kSystemMemory : kLocalMemory, std::move(memory));
    Object* object = client->Find(block.AllocSize_hMemory);
    Object* space = client->Find(block.hVASpace);
    if (is_virtual && object != nullptr && space != nullptr && space != client->root()) Client::Depend(*object, *space);
  }
  if (guest_address != 0 && !call.caller.Write(guest_address, &address, sizeof(address))) return Errno(EFAULT);
  return call.Done();
}

ErrnoOr<uint64_t> RmContextDmaCall(Call& call) {
  auto& block = call.As<ContextDma>();
  std::shared_ptr<Client> client = call.OwnClient(block.hObjectParent);
  if (client == nullptr) return call.Refuse(kNvInvalidClient);
  ClientLock lock(client);
  if (NvStatus status = CheckHandles(lock, call.entry, call.block, *client); status != kNvOk) return call.Refuse(status);
  Object* memory = client->Find(block.hMemory);
  if (block.hMemory == 0 || memory == nullptr || memory->parent == nullptr) return call.Refuse(kNvInvalidObjectHandle);
  if (block.hObjectNew != 0 && client->Find(block.hObjectNew) != nullptr) return call.Refuse(kNvInsertDuplicateName);
  if (call.proxy.Full(*client)) return call.Refuse(kNvInsufficientResources);
  if (int error = call.Forward(); error != 0) return Errno(error);
  if (block.status == kNvOk) {
    Object* object = client->Add(block.hObjectNew, 0x2, nullptr, memory->parent);
    if (object != nullptr) {
      object->origin = call.entry.name;
      Client::Depend(*object, *memory);
    }
  }
  return call.Done();
}

ErrnoOr<uint64_t> RmMapMemoryCall(Call& call) {
  auto& block = call.As<RmMapMemory>();
  std::shared_ptr<Client> client = call.OwnClient(block.hClient);
  if (client == nullptr) return call.Refuse(kNvInvalidClient);
  ClientLock lock(client);
  if (NvStatus status = CheckHandles(lock, call.entry, call.block, *client); status != kNvOk) return call.Refuse(status);
  if (block.hMemory == 0 || block.length == 0 || block.length > uint64_t{1} << 48) return call.Refuse(kNvInvalidArgument);
  std::shared_ptr<OpenFile> target;
  {
    FdField fd(call.block, offsetof(RmMapMemory, pad_fd));
    target = fd.Resolve(call.caller);
    if (target == nullptr || !target->is_frontend()) return call.Refuse(kNvInvalidArgument);
    fd.Set(*target);
    if (int error = call.Forward(); error != 0) return Errno(error);
  }
  if (block.status == kNvOk) {
    uint64_t head = block.offset % kPageSize;
    absl::MutexLock file_lock(&target->mu);
    target->pending = {.length = (head + block.length + kPageSize - 1) & ~(kPageSize - 1), .whole = target->node().kind == NodeKind::kGpu};
  }
  return call.Done();
}

}  // namespace amber::nvproxy
