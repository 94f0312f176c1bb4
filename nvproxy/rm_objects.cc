// Freeing, duplicating and sharing objects, and waiting for channels.
#include <vector>

#include "nvproxy/call.h"

namespace amber::nvproxy {

ErrnoOr<uint64_t> RmFreeCall(Call& call) {
  auto& block = call.As<RmFree>();
  std::shared_ptr<Client> client = call.OwnClient(block.hRoot);
  if (client == nullptr) return call.Refuse(kNvInvalidClient);
  ClientLock lock(client);
  if (client->dead()) return call.Refuse(kNvInvalidClient);
  Object* object = client->Find(block.hObjectOld);
  // The driver takes an unknown handle for one that is gone already.
  if (object == nullptr) return call.Refuse(kNvOk);
  if (int error = call.Forward(); error != 0) return Errno(error);
  if (block.status == kNvOk) {
    bool whole = object == client->root();
    client->Free(*object);
    if (whole) call.proxy.RemoveClient(*client);
  }
  return call.Done();
}

namespace {

bool MayDupFrom(Client& source, Object& object, const Session& to, uint32_t client) {
  if (source.session().process == to.process) return true;
  return MayDup(object.shares ? *object.shares : source.inherited(), source.session(), to, client);
}

}  // namespace

ErrnoOr<uint64_t> RmDupCall(Call& call) {
  auto& block = call.As<RmDup>();
  std::shared_ptr<Client> to = call.OwnClient(block.hClient);
  std::shared_ptr<Client> from = call.proxy.FindClient(block.hClientSrc);
  if (to == nullptr || from == nullptr) return call.Refuse(kNvInvalidClient);
  ClientLock lock(to, {from});
  if (to->dead() || from->dead()) return call.Refuse(kNvInvalidClient);
  Object* parent = to->Find(block.hParent);
  Object* source = from->Find(block.hObjectSrc);
  // Whether another process has an object of that handle is not for the caller to learn.
  if (source == nullptr || source == from->root() || !MayDupFrom(*from, *source, call.session, to->handle())) {
    return call.Refuse(from->session().process == call.session.process ? kNvInvalidObjectHandle : kNvInvalidClient);
  }
  if (parent == nullptr) return call.Refuse(kNvInvalidObjectParent);
  if (block.hObject != 0 && to->Find(block.hObject) != nullptr) return call.Refuse(kNvInsertDuplicateName);
  if (call.proxy.Full(*to)) return call.Refuse(kNvInsufficientResources);
  if (int error = call.Forward(); error != 0) return Errno(error);
  if (block.status == kNvOk) {
    const Entry* entry = FindEntry(call.proxy.branch().classes, source->number);
    Object* copy = to->Add(block.hObject, source->number, entry, parent);
    if (copy != nullptr) {
      copy->category = source->category;
      copy->gpu = source->gpu;
      copy->bytes = source->bytes;
      copy->pinned = source->pinned;
      copy->imported = source->imported;
      copy->origin = call.entry.name;
      if (to == from) {
        for (Object* on : std::vector<Object*>(source->needs)) Client::Depend(*copy, *on);
      }
    }
  }
  return call.Done();
}

NvStatus RecordShare(SharePolicy& policy, ShareList& list) {
  if (policy.sharePolicy_type > kShareFabric) return kNvInvalidArgument;
  if (policy.sharePolicy_type == kShareFabric) return kNvNotSupported;
  Share share{.target = policy.sharePolicy_target,
              .mask = policy.sharePolicy_accessMask,
              .type = policy.sharePolicy_type,
              .action = policy.sharePolicy_action};
  if (!ApplyShare(list, share)) return kNvInsufficientResources;
  // To the host "everybody", "same user" and "same GPU" would mean other sandboxes too. All guest processes are one process to it, so
  // that is enough; between them the recorded policy decides.
  if (policy.sharePolicy_type != kShareNone && policy.sharePolicy_type != kSharePid) {
    policy.sharePolicy_type = kSharePid;
    policy.sharePolicy_target = 0;
  }
  return kNvOk;
}

ErrnoOr<uint64_t> RmShareCall(Call& call) {
  auto& block = call.As<RmShare>();
  std::shared_ptr<Client> client = call.OwnClient(block.hClient);
  if (client == nullptr) return call.Refuse(kNvInvalidClient);
  ClientLock lock(client);
  Object* object = client->Find(block.hObject);
  if (client->dead() || object == nullptr) return call.Refuse(kNvInvalidObjectHandle);
  auto policy = call.block.Get<SharePolicy>(8);
  SharePolicy guest = policy;
  ShareList list = object->shares ? *object->shares : client->inherited();
  if (NvStatus status = RecordShare(policy, list); status != kNvOk) return call.Refuse(status);
  call.block.Put(8, policy);
  if (int error = call.Forward(); error != 0) return Errno(error);
  call.block.Put(8, guest);
  if (block.status == kNvOk) object->shares = std::move(list);
  return call.Done();
}

ErrnoOr<uint64_t> RmIdleChannelsCall(Call& call) {
  auto& block = call.As<IdleChannels>();
  constexpr uint32_t kMost = 4096;
  if (block.numChannels > kMost) return call.Refuse(kNvInvalidArgument);
  uint64_t guest[3] = {block.phClients, block.phDevices, block.phChannels};
  std::vector<uint32_t> lists[3];
  HostBuffer nested[3];
  for (int i = 0; i < 3; ++i) {
    lists[i].resize(block.numChannels);
    size_t bytes = lists[i].size() * sizeof(uint32_t);
    if (bytes > 0 && !call.caller.Read(guest[i], lists[i].data(), bytes)) return Errno(EFAULT);
    nested[i] = {lists[i].data(), bytes};
  }
  std::shared_ptr<Client> client = call.OwnClient(block.hClient);
  if (client == nullptr) return call.Refuse(kNvInvalidClient);
  std::vector<std::shared_ptr<Client>> others;
  uint32_t last = 0;
  for (uint32_t handle : lists[0]) {
    if (handle == last) continue;
    last = handle;
    others.push_back(call.OwnClient(handle));
    if (others.back() == nullptr) return call.Refuse(kNvInvalidClient);
  }
  ClientLock lock(client, std::move(others));
  for (uint32_t handle : lists[0]) {
    if (lock.Find(handle) == nullptr) return call.Refuse(kNvInvalidClient);
  }
  if (NvStatus status = CheckHandles(lock, call.entry, call.block, *client); status != kNvOk) return call.Refuse(status);
  block.phClients = reinterpret_cast<uint64_t>(lists[0].data());
  block.phDevices = reinterpret_cast<uint64_t>(lists[1].data());
  block.phChannels = reinterpret_cast<uint64_t>(lists[2].data());
  int error = call.Forward(nested);
  block.phClients = guest[0], block.phDevices = guest[1], block.phChannels = guest[2];
  if (error != 0) return Errno(error);
  return call.Done();
}

}  // namespace amber::nvproxy
