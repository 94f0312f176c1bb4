// Controls that tell about the whole host or change it: what a sandbox is told, and what it only believes to have done.
#include <algorithm>
#include <set>

#include "nvproxy/control.h"

namespace amber::nvproxy {
namespace {

constexpr uint32_t kNoGpu = ~0u, kAllProbed = 0xffff;  // NV0000_CTRL_GPU_INVALID_ID, _ATTACH_ALL_PROBED_IDS
constexpr size_t kIds = 32;
constexpr size_t kMostExported = 512;  // to one descriptor: as many as one call can name

// NV2080_CTRL_FB_INFO_INDEX_*, all in KiB.
enum FbInfo : uint32_t { kRamSize = 7, kTotalRam = 8, kHeapSize = 9, kLargestFree = 18, kHeapFree = 22, kUsableRam = 32 };

// Keeps the sandbox's own of `count` ids at `offset`.
void KeepOwn(ControlCall& c, size_t offset, size_t count, uint32_t filler) {
  size_t kept = 0;
  for (size_t i = 0; i < count; ++i) {
    uint32_t id = c.params.Get<uint32_t>(offset + 4 * i);
    if (id == kNoGpu || c.call.proxy.GpuById(id, c.call.session) == nullptr) continue;
    c.params.Put<uint32_t>(offset + 4 * kept++, id);
  }
  for (; kept < count; ++kept) c.params.Put<uint32_t>(offset + 4 * kept, filler);
}

// The program sees its quota where the card's size would stand, or it would plan with memory that it cannot have.
void ClampFb(ControlCall& c, std::byte* list, size_t count) {
  Ledger& ledger = c.call.proxy.ledger();
  if (ledger.limit() == 0 || c.object.gpu < 0) return;
  uint64_t limit = ledger.limit() >> 10;
  uint64_t used = ledger.used(static_cast<uint32_t>(c.object.gpu)) >> 10;
  uint64_t left = used < limit ? limit - used : 0;
  for (size_t i = 0; i < count; ++i) {
    uint32_t pair[2];
    std::memcpy(pair, list + 8 * i, sizeof(pair));
    uint64_t most = ~0u;
    if (pair[0] == kRamSize || pair[0] == kTotalRam || pair[0] == kHeapSize || pair[0] == kUsableRam) most = limit;
    if (pair[0] == kHeapFree || pair[0] == kLargestFree) most = left;
    pair[1] = static_cast<uint32_t>(std::min<uint64_t>(pair[1], most));
    std::memcpy(list + 8 * i, pair, sizeof(pair));
  }
}

// The guest's own processes that have a client with this GPU; the host's pids, other tenants' among them, are not its business.
std::set<uint32_t> PidsOn(ControlCall& c) {
  std::set<uint32_t> pids;
  uint64_t container = c.call.session.container;
  for (const auto& client : c.call.proxy.ClientsOf([&](const Client& k) { return k.session().container == container; })) {
    pids.insert(client->session().pid);
  }
  return pids;
}

void AnswerPids(ControlCall& c) {
  auto& params = c.params.As<GpuPids>();
  size_t count = 0;
  for (uint32_t pid : PidsOn(c)) {
    if (count < std::size(params.pidTbl)) params.pidTbl[count++] = pid;
  }
  std::fill(params.pidTbl + count, std::end(params.pidTbl), 0u);
  params.pidTblCount = static_cast<uint32_t>(count);
  c.answered = true;
}

// Entries of 72 bytes: pid 0, index 4, result 8, data 16. The sandbox's use stands at its own pids; others are not found.
ErrnoOr<uint32_t> AnswerPidInfo(ControlCall& c) {
  constexpr size_t kEntry = 72, kFirst = 8, kMost = 200;
  uint32_t count = c.params.Get<uint32_t>(0);
  if (count == 0 || count > kMost) return uint32_t{kNvInvalidArgument};
  std::set<uint32_t> pids = PidsOn(c);
  uint64_t used = c.object.gpu >= 0 ? c.call.proxy.ledger().used(static_cast<uint32_t>(c.object.gpu)) : 0;
  for (size_t i = 0; i < count; ++i) {
    size_t at = kFirst + i * kEntry;
    bool known = pids.contains(c.params.Get<uint32_t>(at));
    c.params.Put<uint32_t>(at + 8, known ? kNvOk : kNvObjectNotFound);
    for (size_t word = 16; word < 64; word += 8) c.params.Put<uint64_t>(at + word, 0);
    // memPrivate; the ledger knows the sandbox's use, not each process's.
    if (known) c.params.Put<uint64_t>(at + 16, used);
  }
  c.answered = true;
  return uint32_t{kNvOk};
}

NvStatus CheckAttach(ControlCall& c) {
  if (c.params.Get<uint32_t>(0) == kAllProbed) {
    std::vector<const Gpu*> gpus = c.call.proxy.GpusOf(c.call.session);
    for (size_t i = 0; i < kIds; ++i) c.params.Put<uint32_t>(4 * i, i < gpus.size() ? gpus[i]->gpu_id : kNoGpu);
    c.saved_ids = {kAllProbed};
    return kNvOk;
  }
  for (size_t i = 0; i < kIds; ++i) {
    uint32_t id = c.params.Get<uint32_t>(4 * i);
    if (id == kNoGpu) break;
    if (id != 0 && c.call.proxy.GpuById(id, c.call.session) == nullptr) return kNvInvalidArgument;
  }
  return kNvOk;
}

// `before`, what a descriptor holds, with the objects that are exported to it. Imported memory can be exported again, to any number of descriptors:
// without looking for what is there already, and a bound, a guest could let the lists double again and again.
Exports WithExports(ControlCall& c, const Exports& before) {
  std::vector<std::shared_ptr<Allocation>> all;
  if (before != nullptr) all = *before;
  size_t old = all.size();
  std::set<Allocation*> known;
  for (const auto& bytes : all) known.insert(bytes.get());
  auto add = [&](const std::shared_ptr<Allocation>& bytes) {
    if (bytes != nullptr && known.insert(bytes.get()).second) all.push_back(bytes);
  };
  for (const Field& field : FieldsOf(c.entry)) {
    for (size_t i = 0; field.role == Role::kObject && i < field.count; ++i) {
      Object* object = c.client.Find(c.params.Get<uint32_t>(field.offset + 4 * i));
      if (object == nullptr || object == c.client.root()) continue;
      add(object->bytes);
      if (object->imported != nullptr) std::ranges::for_each(*object->imported, add);
    }
  }
  return all.size() == old ? before : std::make_shared<const std::vector<std::shared_ptr<Allocation>>>(std::move(all));
}

// Descriptors inside parameters.
NvStatus TranslateFd(ControlCall& c) {
  for (const Field& field : FieldsOf(c.entry)) {
    if (field.role != Role::kFd) continue;
    auto fd = std::make_unique<FdField>(c.params, field.offset, c.entry.kind == Kind::kMulticastAttach);
    c.fd_target = fd->Resolve(c.call.caller);
    if (c.fd_target == nullptr || !c.fd_target->is_frontend()) return kNvInvalidArgument;
    if (c.entry.kind == Kind::kExportObject || c.entry.kind == Kind::kExportObjects) {
      absl::MutexLock lock(&c.fd_target->mu);
      Exports all = WithExports(c, c.fd_target->exported);
      if (all != nullptr && all->size() > kMostExported) return kNvInsufficientResources;
    }
    if (c.entry.kind == Kind::kMulticastAttach && c.fd_target->node().kind != NodeKind::kGpu) return kNvInvalidArgument;
    fd->Set(*c.fd_target);
    c.fds.push_back(std::move(fd));
  }
  return kNvOk;
}

NvStatus PrepareInherited(ControlCall& c) {
  auto policy = c.params.Get<SharePolicy>(0);
  c.guest_policy = policy;
  c.new_shares = c.client.inherited();
  NvStatus status = RecordShare(policy, c.new_shares);
  c.params.Put(0, policy);
  return status;
}

// An object that came out of a descriptor: which of those that went in is not known, so it keeps them all.
void MarkImported(ControlCall& c, Object& object) {
  object.category = Category::kMemory;
  object.origin = c.entry.name;
  absl::MutexLock lock(&c.fd_target->mu);
  object.imported = c.fd_target->exported;
}

// Exported objects live on in the descriptor, whatever becomes of their handles.
void RecordExport(ControlCall& c) {
  absl::MutexLock lock(&c.fd_target->mu);
  c.fd_target->exports = true;
  c.fd_target->exported = WithExports(c, c.fd_target->exported);
}

void RecordImport(ControlCall& c) {
  Object* parent = c.client.Find(c.params.Get<uint32_t>(12));
  if (parent == nullptr) return;
  Object* object = c.client.Add(c.params.Get<uint32_t>(16), 0, nullptr, parent);
  if (object == nullptr) return;
  MarkImported(c, *object);
}

void RecordImports(ControlCall& c) {
  Object* parent = c.client.Find(c.params.Get<uint32_t>(4));
  size_t count = std::min<size_t>(c.params.Get<uint16_t>(648), 128);
  for (size_t i = 0; parent != nullptr && i < count; ++i) {
    Object* object = c.client.Add(c.params.Get<uint32_t>(8 + 4 * i), 0, nullptr, parent);
    if (object == nullptr) continue;
    MarkImported(c, *object);
  }
}

}  // namespace

ErrnoOr<uint32_t> PrepareFilter(ControlCall& c) {
  switch (c.entry.kind) {
    case Kind::kAttachIds:
    case Kind::kDetachIds: return uint32_t{CheckAttach(c)};
    case Kind::kScheduling:  // how the GPU is shared out among tenants is not a tenant's to say
    case Kind::kPerfmonSamples:
      if (c.entry.kind == Kind::kPerfmonSamples) std::memset(c.params.data(), 0, c.params.size());
      c.answered = true;
      return uint32_t{kNvOk};
    case Kind::kGpuPids: AnswerPids(c); return uint32_t{kNvOk};
    case Kind::kGpuPidInfo: return AnswerPidInfo(c);
    case Kind::kBoostGroups:
      std::memset(c.params.data(), 0, c.params.size());
      c.answered = true;
      return uint32_t{kNvOk};
    case Kind::kFbInfoV2:
      // Where the tables have no size the guest's may be any.
      if (c.params.size() < 4) return uint32_t{kNvInvalidParamStruct};
      return uint32_t{c.params.Get<uint32_t>(0) > (c.params.size() - 4) / 8 ? kNvInvalidArgument : kNvOk};
    case Kind::kInheritedShare: return uint32_t{PrepareInherited(c)};
    case Kind::kExportObject:
    case Kind::kExportInfo:
    case Kind::kExportObjects:
    case Kind::kMulticastAttach: return uint32_t{TranslateFd(c)};
    case Kind::kImportObject:
    case Kind::kImportObjects:
      if (c.call.proxy.Full(c.client, 128)) return uint32_t{kNvInsufficientResources};
      return uint32_t{TranslateFd(c)};
    default: return uint32_t{kNvOk};
  }
}

void FinishFilter(ControlCall& c) {
  switch (c.entry.kind) {
    case Kind::kProbedIds:
      KeepOwn(c, 0, kIds, kNoGpu);
      KeepOwn(c, 128, kIds, kNoGpu);
      break;
    case Kind::kAttachedIds: KeepOwn(c, 0, kIds, kNoGpu); break;
    case Kind::kActiveIds: {
      // {count, {gpu_id, gpu instance, compute instance}[256]}
      uint32_t kept = 0, count = std::min<uint32_t>(c.params.Get<uint32_t>(0), 256);
      for (uint32_t i = 0; i < count; ++i) {
        auto device = c.params.Get<std::array<uint32_t, 3>>(4 + 12 * i);
        if (c.call.proxy.GpuById(device[0], c.call.session) != nullptr) c.params.Put(4 + 12 * kept++, device);
      }
      for (uint32_t i = kept; i < count; ++i) c.params.Put(4 + 12 * i, std::array<uint32_t, 3>{});
      c.params.Put<uint32_t>(0, kept);
      break;
    }
    case Kind::kDeviceIds: {
      uint32_t mask = 0;  // by device instance
      for (const Gpu* gpu : c.call.proxy.GpusOf(c.call.session)) mask |= gpu->instance < 32 ? 1u << gpu->instance : 0;
      c.params.Put<uint32_t>(0, c.params.Get<uint32_t>(0) & mask);
      break;
    }
    case Kind::kAttachIds:
      if (!c.saved_ids.empty()) c.params.Put<uint32_t>(0, c.saved_ids[0]);
      break;
    case Kind::kFbInfoV2:
      // The count is the driver's now.
      if (c.params.size() >= 4) ClampFb(c, c.params.data() + 4, std::min<size_t>(c.params.Get<uint32_t>(0), (c.params.size() - 4) / 8));
      break;
    case Kind::kFbInfo:
      if (!c.lists.empty()) ClampFb(c, c.lists[0].bytes.data(), c.lists[0].bytes.size() / 8);
      break;
    case Kind::kInheritedShare:
      c.client.inherited() = std::move(c.new_shares);
      c.params.Put(0, c.guest_policy);
      break;
    case Kind::kRegisterVaSpace:
      if (Object* space = c.client.Find(c.params.Get<uint32_t>(0)); space != nullptr && space != c.client.root()) {
        Client::Depend(c.object, *space);
      }
      break;
    case Kind::kExportObject:
    case Kind::kExportObjects: RecordExport(c); break;
    case Kind::kImportObject: RecordImport(c); break;
    case Kind::kImportObjects: RecordImports(c); break;
    default: break;
  }
}

}  // namespace amber::nvproxy
