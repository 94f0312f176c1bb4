// The ioctls of /dev/nvidia-uvm. The driver checks neither who owns the clients that are named here nor whether they came through the file of
// theirs, and all guest processes are one process to it: what keeps them apart is the check below.
#include <algorithm>
#include <cstddef>

#include "nvproxy/call.h"

namespace amber::nvproxy {
namespace {

constexpr uint64_t kMultiProcess = 2;  // UVM_INIT_FLAGS_MULTI_PROCESS_SHARING_MODE

// INITIALIZE. The proxy calls from another process than the one that maps, which the driver accepts in this mode alone.
ErrnoOr<uint64_t> InitializeCall(Call& call) {
  auto& block = call.As<UvmInitialize>();
  uint64_t guest = block.flags;
  block.flags |= kMultiProcess;
  int error = call.Forward();
  block.flags = guest;
  if (error != 0) return Errno(error);
  if (block.rmStatus == kNvOk) {
    absl::MutexLock lock(&call.file->mu);
    call.file->uvm_initialized = true;
    call.file->uvm_flags = guest;
  }
  return call.Done();
}

ErrnoOr<uint64_t> MmInitializeCall(Call& call) {
  FdField fd(call.block, 0);
  std::shared_ptr<OpenFile> uvm = fd.Resolve(call.caller);
  if (uvm == nullptr || uvm->node().kind != NodeKind::kUvm || uvm == call.file) return Errno(EINVAL);
  {
    fd.Set(*uvm);
    if (int error = call.Forward(); error != 0) return Errno(error);
  }
  // Done() must show the guest's own number.
  call.block.Put<int32_t>(0, static_cast<int32_t>(fd.guest()));
  return call.Done();
}

uint64_t Base(Call& call) { return call.block.Get<uint64_t>(0); }
uint64_t Length(Call& call) { return call.block.Get<uint64_t>(8); }

// MAP_EXTERNAL_ALLOCATION keeps the memory alive, whatever becomes of its handle.
void RecordExternal(Call& call, Client& client, uint32_t handle) {
  Object* memory = client.Find(handle);
  if (memory == nullptr) return;
  absl::MutexLock lock(&call.file->mu);
  call.file->externals.emplace(
      Base(call), OpenFile::External{.size = Length(call), .bytes = memory->bytes, .pinned = memory->pinned, .imported = memory->imported});
}

void DropExternals(OpenFile& file, uint64_t base, uint64_t length) {
  absl::MutexLock lock(&file.mu);
  auto it = file.externals.lower_bound(base);
  while (it != file.externals.end() && it->first - base < length) it = file.externals.erase(it);
}

// What changes in the file's state once the driver said yes.
void Record(Call& call, Client* client, uint32_t handle) {
  OpenFile& file = *call.file;
  switch (call.entry.kind) {
    case Kind::kRegisterGpu: {
      const Gpu* gpu = call.proxy.GpuByUuid(call.block.data(), call.session);
      absl::MutexLock lock(&file.mu);
      if (gpu != nullptr) file.uvm_gpus.insert(call.proxy.IndexOf(*gpu));
      break;
    }
    case Kind::kCreateExternal: {
      absl::MutexLock lock(&file.mu);
      file.external_ranges[Base(call)] = Length(call);
      break;
    }
    case Kind::kMapExternal:
      if (client != nullptr) RecordExternal(call, *client, handle);
      break;
    case Kind::kUnmapExternal: DropExternals(file, Base(call), Length(call)); break;
    case Kind::kSemaphorePool: {
      absl::MutexLock lock(&file.mu);
      // Not managed memory after all, if the pool is all of it.
      auto it = file.managed.find(Base(call));
      if (it != file.managed.end() && it->second.size <= Length(call)) file.managed.erase(it);
      break;
    }
    case Kind::kFree: {
      uint64_t length = 1;
      {
        absl::MutexLock lock(&file.mu);
        if (auto it = file.external_ranges.find(Base(call)); it != file.external_ranges.end()) {
          length = it->second;
          file.external_ranges.erase(it);
        }
      }
      DropExternals(file, Base(call), length);
      break;
    }
    default: break;
  }
}

// The descriptor of a control file that some calls carry; -1 stands for none.
ErrnoOr<void> TranslateFd(Call& call, std::unique_ptr<FdField>* fd) {
  for (const Field& field : FieldsOf(call.entry)) {
    if (field.role != Role::kFd) continue;
    auto translated = std::make_unique<FdField>(call.block, field.offset);
    if (translated->guest() < 0) return Ok();
    std::shared_ptr<OpenFile> target = translated->Resolve(call.caller);
    if (target == nullptr || !target->is_frontend()) return Errno(EINVAL);
    translated->Set(*target);
    *fd = std::move(translated);
  }
  return Ok();
}

// Ranges take the sentry's memory.
bool HasRoom(OpenFile& file) {
  absl::MutexLock lock(&file.mu);
  return file.externals.size() < OpenFile::kMostRanges && file.external_ranges.size() < OpenFile::kMostRanges;
}

ErrnoOr<uint64_t> GeneralCall(Call& call) {
  std::shared_ptr<Client> client;
  uint32_t handle = 0;
  for (const Field& field : FieldsOf(call.entry)) {
    uint32_t value = call.block.Get<uint32_t>(field.offset);
    if (field.role == Role::kObject) handle = value;
    if (field.role != Role::kClient || (value == 0 && call.entry.kind == Kind::kRegisterGpu)) continue;
    client = call.OwnClient(value);
    if (client == nullptr) return call.Refuse(kNvInvalidClient);
  }
  ClientLock lock(client, NamedClients(call, call.entry, call.block, client.get()));
  if (client != nullptr) {
    if (NvStatus status = CheckHandles(lock, call.entry, call.block, *client); status != kNvOk) return call.Refuse(status);
  }
  if (NvStatus status = CheckGpus(call, call.entry, call.block); status != kNvOk) return call.Refuse(status);
  if (call.entry.kind == Kind::kMapExternal || call.entry.kind == Kind::kSemaphorePool) {
    // The count of attributes follows the array, directly before the status or the descriptor.
    size_t first = call.entry.kind == Kind::kMapExternal ? 24 : 16;
    size_t most = call.block.size() < 2048 ? 32 : 256, count_at = first + most * 36;
    if (call.block.Get<uint64_t>(count_at) > most) return call.Refuse(kNvInvalidArgument);
    for (size_t i = 0; i < call.block.Get<uint64_t>(count_at); ++i) {
      if (call.proxy.GpuByUuid(call.block.data() + first + i * 36, call.session) == nullptr) return call.Refuse(kNvInvalidDevice);
    }
  }
  if (!HasRoom(*call.file)) return call.Refuse(kNvInsufficientResources);
  std::unique_ptr<FdField> fd;
  TRY(TranslateFd(call, &fd));
  int error = call.Forward();
  fd.reset();
  if (error != 0) return Errno(error);
  if (call.status() == kNvOk) Record(call, client.get(), handle);
  return call.Done();
}

}  // namespace

ErrnoOr<uint64_t> UvmCall(Call& call) {
  switch (call.entry.kind) {
    case Kind::kInitialize: return InitializeCall(call);
    case Kind::kMmInitialize: return MmInitializeCall(call);
    case Kind::kDeinitialize: {
      int error = call.Forward();
      if (error != 0) return Errno(error);
      return uint64_t{0};
    }
    default: return GeneralCall(call);
  }
}

}  // namespace amber::nvproxy
