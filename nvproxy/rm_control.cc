// NV_ESC_RM_CONTROL: which commands pass, with which sizes, and what is done around them.
#include <cstdio>

#include "nvproxy/control.h"

namespace amber::nvproxy {
namespace {

constexpr uint32_t kLegacyBit = 0x8000, kLegacyRoot = 0xc000, kBinaryClass = 0x2081;

// An entry for a command that goes to the firmware as it is. Its fields hold nothing but the size.
const Entry kLegacyEntry{
    .number = 0, .size = kUnknownSize, .status = kNoStatus, .kind = Kind::kOpaque, .caps = 0xff, .name = "a command for the firmware"};

bool IsLegacy(uint32_t command) { return (command & kLegacyBit) != 0 || command >> 16 == kBinaryClass; }

// The entry by which `command` passes; null if it does not.
const Entry* Lookup(Call& call, uint32_t command, uint32_t size) {
  char text[64];
  if (IsLegacy(command)) {
    if ((command & kLegacyRoot) == kLegacyRoot) return nullptr;
    for (const Legacy& known : LegacyCommands()) {
      if (known.command == command && known.size == size && command != 0 && call.proxy.branch().number >= known.since) return &kLegacyEntry;
    }
    std::snprintf(text, sizeof(text), "control %#x of %u bytes, for the firmware", command, size);
    call.proxy.LogOnce(std::string(call.proxy.options().permissive ? "let through " : "refused ") + text);
    return call.proxy.options().permissive ? &kLegacyEntry : nullptr;
  }
  const Entry* entry = FindEntry(call.proxy.branch().controls, command);
  if (entry == nullptr || !call.proxy.Allows(*entry) || (entry->kind == Kind::kOpaque && !call.proxy.options().permissive)) {
    std::snprintf(text, sizeof(text), "refused control %#x of %u bytes", command, size);
    call.proxy.LogOnce(text);
    return nullptr;
  }
  return entry;
}

// Sends the control to the host: 0 or an errno; the status is in the block.
int Forward(ControlCall& c) {
  HostBuffer nested[8];
  size_t count = 0;
  auto& block = c.call.As<RmControl>();
  if (c.params.size() > 0) nested[count++] = {c.params.data(), c.params.size()};
  for (NestedList& list : c.lists) {
    c.params.Put<uint64_t>(list.offset, list.guest == 0 ? 0 : reinterpret_cast<uint64_t>(list.bytes.data()));
    if (list.guest != 0 && count < std::size(nested)) nested[count++] = {list.bytes.data(), list.bytes.size()};
  }
  block.params = c.params.size() > 0 ? reinterpret_cast<uint64_t>(c.params.data()) : 0;
  int error = c.call.Forward(std::span(nested, count));
  block.params = c.request.params;
  for (NestedList& list : c.lists) c.params.Put<uint64_t>(list.offset, list.guest);
  return error;
}

bool CopyOut(ControlCall& c) {
  c.fds.clear();  // the guest's descriptors are in their places again
  for (NestedList& list : c.lists) {
    if (list.out && list.guest != 0 && !c.call.caller.Write(list.guest, list.bytes.data(), list.bytes.size())) return false;
  }
  return c.params.size() == 0 || c.call.caller.Write(c.request.params, c.params.data(), c.params.size());
}

}  // namespace

ErrnoOr<uint32_t> PrepareControl(ControlCall& c) {
  if (NvStatus status = CheckHandles(c.lock, c.entry, c.params, c.client); status != kNvOk) return uint32_t{status};
  if (NvStatus status = CheckGpus(c.call, c.entry, c.params); status != kNvOk) return uint32_t{status};
  if (uint32_t status = TRY(PrepareLists(c)); status != kNvOk) return status;
  return PrepareFilter(c);
}

void FinishControl(ControlCall& c) { FinishFilter(c); }

ErrnoOr<uint64_t> RmControlCall(Call& call) {
  const RmControl request = call.As<RmControl>();
  std::shared_ptr<Client> client = call.OwnClient(request.hClient);
  if (client == nullptr) return call.Refuse(kNvInvalidClient);
  if ((request.params == 0) != (request.paramsSize == 0) || request.paramsSize > kMaxParams) return call.Refuse(kNvInvalidArgument);
  const Entry* entry = Lookup(call, request.cmd, request.paramsSize);
  if (entry == nullptr) return call.Refuse(kNvNotSupported);
  if (entry->size != kUnknownSize && entry->size != request.paramsSize) return call.Refuse(kNvInvalidParamStruct);
  Block params(request.paramsSize);
  if (request.paramsSize > 0 && !call.caller.Read(request.params, params.data(), params.size())) return Errno(EFAULT);
  {
    ClientLock lock(client, NamedClients(call, *entry, params, client.get()));
    Object* object = client->dead() ? nullptr : client->Find(request.hObject);
    if (object == nullptr) return call.Refuse(client->dead() ? kNvInvalidClient : kNvInvalidObjectHandle);
    ControlCall c{call, lock, *entry, request, params, *client, *object, {}, {}, nullptr, {}, {}};
    auto prepared = PrepareControl(c);
    if (!prepared.ok()) return prepared.error();
    auto& block = call.As<RmControl>();
    block.status = *prepared;
    if (*prepared == kNvOk && !c.answered) {
      if (int error = Forward(c); error != 0) return Errno(error);
    }
    if (block.status == kNvOk) FinishControl(c);
    if (*prepared == kNvOk && !CopyOut(c)) return Errno(EFAULT);
  }
  return call.Done();
}

}  // namespace amber::nvproxy
