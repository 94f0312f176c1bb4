// NV_ESC_RM_ALLOC: making clients and the objects under them.
#include <algorithm>

#include "nvproxy/call.h"

namespace amber::nvproxy {
namespace {

constexpr uint32_t kOsEvent = 0x79;
constexpr uint32_t kEventAlias = 0x5;  // NV01_EVENT: the real class is in the parameters

// An allocation on its way, whatever form it came in.
struct Making {
  RmAlloc request;  // as the guest gave it
  const Entry* entry = nullptr;
  Block params{0};
  std::shared_ptr<Allocation> bytes, context;
  int gpu = -1;
};

ParamRule RuleOf(const Entry& entry) { return entry.size == 0 ? ParamRule::kNone : entry.params; }

// Answers in the form in which the guest asked.
ErrnoOr<uint64_t> Answer(Call& call, const RmAlloc& request, uint32_t handle, uint32_t status) {
  if (call.block.size() == sizeof(RmAllocShort)) {
    auto& block = call.As<RmAllocShort>();
    block.hObjectNew = handle;
    block.status = status;
  } else {
    auto& block = call.As<RmAlloc>();
    block = request;
    block.hObjectNew = handle;
    block.status = status;
  }
  return call.Done();
}

bool MayHangUnder(const Entry& entry, const Object& parent) {
  if ((entry.parents & kUnderAny) != 0) return true;
  switch (parent.category) {
    case Category::kClient: return (entry.parents & kUnderClient) != 0;
    case Category::kDevice: return (entry.parents & kUnderDevice) != 0;
    case Category::kSubdevice: return (entry.parents & kUnderSubdevice) != 0;
    case Category::kChannel: return (entry.parents & kUnderChannel) != 0;
    case Category::kGroup: return (entry.parents & kUnderGroup) != 0;
    default: return false;
  }
}

// Copies parameters in, once: a status, or an errno.
ErrnoOr<uint32_t> ReadParams(Call& call, Making& making) {
  const Entry& entry = *making.entry;
  if (RuleOf(entry) == ParamRule::kNone) return uint32_t{kNvOk};
  if (entry.size == kUnknownSize) return uint32_t{kNvNotSupported};
  if (making.request.pAllocParms == 0) {
    return uint32_t{RuleOf(entry) == ParamRule::kRequired ? kNvInvalidArgument : kNvOk};
  }
  // The driver takes the size from the class, whatever the guest says.
  making.params = Block(entry.size);
  if (!call.caller.Read(making.request.pAllocParms, making.params.data(), entry.size)) return Errno(EFAULT);
  return uint32_t{kNvOk};
}

// Bytes that the object will occupy; false if they are not there.
bool Charge(Call& call, Making& making, Client& client, const Object& parent) {
  Ledger& ledger = call.proxy.ledger();
  uint32_t gpu = static_cast<uint32_t>(std::max(making.gpu, 0));
  uint64_t bytes = 0;
  Pool pool = Pool::kDevice;
  switch (making.entry->kind) {
    case Kind::kMemorySystem: pool = Pool::kHost; [[fallthrough]];
    case Kind::kMemoryLocal: {
      auto& params = making.params.As<MemoryParams>();
      params.address = 0;  // the driver's own, for kernel callers
      bytes = RoundToPages(params.size, pool == Pool::kHost ? 1u << 23 : params.attr, params.attr2);
      if (bytes == 0 && params.size != 0) return false;
      break;
    }
    case Kind::kMemoryVirtual: making.params.As<MemoryParams>().address = 0; return true;
    case Kind::kFabric: bytes = making.params.Get<uint32_t>(40) == 0 ? making.params.Get<uint64_t>(8) : 0; break;
    case Kind::kMulticast: return true;  // memory is attached by handle
    default:
      // A process's first channels on a GPU bring a context with buffers that no handle stands for.
      if (making.entry->category != Category::kGroup && making.entry->category != Category::kChannel) return true;
      for (const Object* o = &parent; o != nullptr; o = o->parent) {
        if (o->category != Category::kDevice) continue;
        if (o->context != nullptr) return true;
        making.context = ledger.Charge(gpu, Pool::kDevice, call.proxy.options().context_bytes);
        return making.context != nullptr;
      }
      return true;
  }
  (void)client;
  making.bytes = ledger.Charge(gpu, pool, bytes);
  return making.bytes != nullptr;
}

// Device parameters: the GPU must be the sandbox's.
NvStatus CheckDevice(Call& call, Making& making) {
  uint32_t instance = making.params.size() > 0 ? making.params.As<DeviceParams>().deviceId : 0;
  const Gpu* gpu = call.proxy.GpuByInstance(instance, call.session);
  if (gpu == nullptr) return kNvInvalidDevice;
  making.gpu = call.proxy.IndexOf(*gpu);
  return kNvOk;
}

// Enters what the driver made.
void Record(Making& making, Client& client, Object& parent, uint32_t handle) {
  Object* object = client.Add(handle, making.entry->number, making.entry, &parent);
  if (object == nullptr) return;
  object->origin = making.entry->name;
  if (making.gpu >= 0) object->gpu = making.gpu;
  if (making.bytes != nullptr) {
    bool sized = making.entry->kind == Kind::kMemoryLocal || making.entry->kind == Kind::kMemorySystem;
    uint64_t real = sized ? making.params.As<MemoryParams>().size : 0;
    if (real > making.bytes->bytes()) making.bytes->Correct(real);
    object->bytes = making.bytes;
  }
  for (Object* o = &parent; making.context != nullptr && o != nullptr; o = o->parent) {
    if (o->category == Category::kDevice) o->context = std::move(making.context);
  }
  for (const Field& field : FieldsOf(*making.entry)) {
    if (field.role != Role::kDepends || making.params.size() == 0) continue;
    if (Object* on = client.Find(making.params.Get<uint32_t>(field.offset)); on != nullptr && on != client.root()) {
      Client::Depend(*object, *on);
    }
  }
  // These can be made again after a restore.
  if (object->category == Category::kDevice || object->category == Category::kSubdevice) {
    object->params.emplace(reinterpret_cast<const char*>(making.params.data()), making.params.size());
  }
}

ErrnoOr<uint64_t> MakeClient(Call& call, const RmAlloc& request) {
  if (call.file->node().kind != NodeKind::kControl) return Answer(call, request, request.hObjectNew, kNvInvalidArgument);
  auto held = call.proxy.ClientsOf([&](const Client& c) { return c.session().process == call.session.process; });
  if (held.size() >= call.proxy.options().max_clients) return Answer(call, request, request.hObjectNew, kNvInsufficientResources);
  uint32_t handle = 0;
  RmAlloc block{.hRoot = request.hRoot,
                .hObjectNew = request.hObjectNew,
                .hClass = 0x41,
                .pAllocParms = request.pAllocParms != 0 ? reinterpret_cast<uint64_t>(&handle) : 0,
                .paramsSize = request.pAllocParms != 0 ? 4u : 0u};
  HostBuffer nested[] = {{&handle, 4}};
  uint32_t command = 0xc0004600u | static_cast<uint32_t>(sizeof(block)) << 16 | 0x2b;
  int error = call.proxy.HostIoctl(call.file->host(), command, std::as_writable_bytes(std::span(&block, 1)),
                                   std::span(nested, request.pAllocParms != 0 ? 1 : 0));
  if (error != 0) return Errno(error);
  if (block.status != kNvOk) return Answer(call, request, request.hObjectNew, block.status);
  if (!call.proxy.AddClient(std::make_shared<Client>(block.hObjectNew, call.session, call.file, call.proxy.objects()))) {
    RmFree undo{.hRoot = block.hObjectNew, .hObjectOld = block.hObjectNew};
    call.proxy.HostIoctl(call.file->host(), 0xc0004600u | static_cast<uint32_t>(sizeof(undo)) << 16 | 0x29,
                         std::as_writable_bytes(std::span(&undo, 1)));
    return Answer(call, request, request.hObjectNew, kNvInsufficientResources);
  }
  if (request.pAllocParms != 0) {
    handle = block.hObjectNew;
    if (!call.caller.Write(request.pAllocParms, &handle, sizeof(handle))) return Errno(EFAULT);
  }
  return Answer(call, request, block.hObjectNew, kNvOk);
}

// The descriptor of an event's file, or of a multicast group's, in the parameters. The file; null with kNvOk if there is none.
NvStatus ResolveFd(Call& call, Making& making, std::unique_ptr<FdField>* field) {
  size_t offset = 0;
  if (making.entry->kind == Kind::kEvent) {
    offset = offsetof(EventParams, data);
  } else if (making.entry->kind == Kind::kMulticast) {
    offset = making.entry->size - 8;
    if (making.params.Get<uint64_t>(offset) == 0) return kNvOk;
  } else {
    return kNvOk;
  }
  *field = std::make_unique<FdField>(making.params, offset, /*wide=*/true);
  std::shared_ptr<OpenFile> target = (*field)->Resolve(call.caller);
  if (target == nullptr || !target->is_frontend()) return kNvInvalidArgument;
  (*field)->Set(*target);
  return kNvOk;
}

// Sends it to the host with pointers to the proxy's memory. An errno, or the status.
ErrnoOr<uint32_t> Forward(Call& call, Making& making, uint32_t* handle) {
  RmAlloc block = making.request;
  uint32_t rights = 0;
  HostBuffer nested[2];
  size_t count = 0;
  block.pAllocParms = 0;
  block.paramsSize = static_cast<uint32_t>(making.params.size());
  if (making.params.size() > 0) {
    block.pAllocParms = reinterpret_cast<uint64_t>(making.params.data());
    nested[count++] = {making.params.data(), making.params.size()};
  }
  if (block.pRightsRequested != 0) {
    if (!call.caller.Read(block.pRightsRequested, &rights, sizeof(rights))) return Errno(EFAULT);
    block.pRightsRequested = reinterpret_cast<uint64_t>(&rights);
    nested[count++] = {&rights, sizeof(rights)};
  }
  uint32_t command = 0xc0004600u | static_cast<uint32_t>(sizeof(block)) << 16 | 0x2b;
  int error = call.proxy.HostIoctl(call.file->host(), command, std::as_writable_bytes(std::span(&block, 1)), std::span(nested, count));
  if (error != 0) return Errno(error);
  *handle = block.hObjectNew;
  return block.status;
}

// `read` is what ReadParams() said.
ErrnoOr<uint32_t> MakeObject(Call& call, Making& making, uint32_t read, const ClientLock& lock, Client& client, uint32_t* handle) {
  const RmAlloc& request = making.request;
  Object* parent = client.Find(request.hObjectParent);
  if (client.dead()) return uint32_t{kNvInvalidClient};
  if (parent == nullptr || !MayHangUnder(*making.entry, *parent)) return uint32_t{kNvInvalidObjectParent};
  if (request.hObjectNew != 0 && client.Find(request.hObjectNew) != nullptr) return uint32_t{kNvInsertDuplicateName};
  if (call.proxy.Full(client)) return uint32_t{kNvInsufficientResources};
  if (read != kNvOk) return read;
  if (making.params.size() > 0) {
    if (NvStatus status = CheckHandles(lock, *making.entry, making.params, client); status != kNvOk) return uint32_t{status};
  }
  making.gpu = parent->gpu;
  if (making.entry->kind == Kind::kDevice) {
    if (NvStatus status = CheckDevice(call, making); status != kNvOk) return uint32_t{status};
  }
  if (making.entry->kind == Kind::kImexSession) return uint32_t{kNvNotSupported};
  // The driver goes by the class that stands here, and has others, whose `data` are addresses of functions in its own memory.
  if (making.entry->kind == Kind::kEvent) {
    uint32_t real = making.params.As<EventParams>().hClass;
    if (real != 0 && real != kOsEvent) return uint32_t{kNvInvalidClass};
  }
  std::unique_ptr<FdField> fd;
  if (NvStatus status = ResolveFd(call, making, &fd); status != kNvOk) return uint32_t{status};
  if (!Charge(call, making, client, *parent)) return uint32_t{kNvNoMemory};
  uint32_t status = TRY(Forward(call, making, handle));
  if (status == kNvOk) Record(making, client, *parent, *handle);
  return status;
}

}  // namespace

ErrnoOr<uint64_t> RmAllocCall(Call& call) {
  Making making{.request = {}};
  if (call.block.size() == sizeof(RmAllocShort)) {
    const auto& block = call.As<RmAllocShort>();
    making.request = {.hRoot = block.hRoot,
                      .hObjectParent = block.hObjectParent,
                      .hObjectNew = block.hObjectNew,
                      .hClass = block.hClass,
                      .pAllocParms = block.pAllocParms,
                      .paramsSize = block.paramsSize};
  } else {
    making.request = call.As<RmAlloc>();
  }
  RmAlloc& request = making.request;
  auto answer = [&](uint32_t status, uint32_t handle) { return Answer(call, request, handle, status); };
  // The one kind of event that there is for processes; MakeObject() sees to it that the parameters say so.
  bool alias = request.hClass == kEventAlias;
  uint32_t number = alias ? kOsEvent : request.hClass;
  making.entry = FindEntry(call.proxy.branch().classes, number);
  if (making.entry == nullptr || !call.proxy.Allows(*making.entry)) {
    call.proxy.LogOnce("refused RM class " + std::to_string(number));
    return answer(kNvInvalidClass, request.hObjectNew);
  }
  request.hClass = number;
  if (making.entry->kind == Kind::kRoot) return MakeClient(call, request);
  if (call.file->node().kind == NodeKind::kGpu && making.entry->kind != Kind::kEvent) return Errno(EINVAL);
  std::shared_ptr<Client> client = call.OwnClient(request.hRoot);
  if (client == nullptr) return answer(kNvInvalidClient, request.hObjectNew);
  uint32_t handle = request.hObjectNew;
  uint32_t status = TRY(ReadParams(call, making));
  if (alias && status == kNvOk && making.params.As<EventParams>().hClass != kOsEvent) return answer(kNvInvalidClass, handle);
  {
    ClientLock lock(client, NamedClients(call, *making.entry, making.params, client.get()));
    status = TRY(MakeObject(call, making, status, lock, *client, &handle));
  }
  if (making.params.size() > 0 && !call.caller.Write(request.pAllocParms, making.params.data(), making.params.size())) {
    return Errno(EFAULT);
  }
  return answer(status, handle);
}

}  // namespace amber::nvproxy
