// Controls whose parameters lead to lists in the guest's memory: each is copied in, replaced by the proxy's copy, and copied out.
#include <algorithm>
#include <string_view>

#include "nvproxy/control.h"

namespace amber::nvproxy {
namespace {

constexpr size_t kPointer = 8;  // where nearly all of them have it; the count is at 0

// Takes the list of `count` elements of `each` bytes whose pointer is at `offset`.
ErrnoOr<uint32_t> Take(ControlCall& c, size_t offset, uint64_t count, size_t each, bool in, bool out) {
  uint64_t guest = c.params.Get<uint64_t>(offset);
  if (count > kMaxParams / each) return uint32_t{kNvInvalidArgument};
  NestedList list{.offset = offset, .guest = guest, .bytes = std::vector<std::byte>(guest == 0 ? 0 : count * each), .out = out};
  if (in && !list.bytes.empty() && !c.call.caller.Read(guest, list.bytes.data(), list.bytes.size())) return Errno(EFAULT);
  c.lists.push_back(std::move(list));
  return uint32_t{kNvOk};
}

// {count, pointer} to {index, data} pairs.
ErrnoOr<uint32_t> InfoList(ControlCall& c) {
  uint32_t count = c.params.Get<uint32_t>(0);
  if (count == 0 || c.params.Get<uint64_t>(kPointer) == 0) return uint32_t{kNvInvalidArgument};
  return Take(c, kPointer, count, 8, true, true);
}

// {count, pointer} to words; no pointer asks for the count.
ErrnoOr<uint32_t> WordList(ControlCall& c) {
  bool query = c.params.Get<uint64_t>(kPointer) == 0;
  return Take(c, kPointer, query ? 0 : c.params.Get<uint32_t>(0), 4, true, true);
}

ErrnoOr<uint32_t> CapsTable(ControlCall& c) {
  uint32_t size = c.params.Get<uint32_t>(0);
  if (size == 0 || c.params.Get<uint64_t>(kPointer) == 0) return uint32_t{kNvInvalidArgument};
  return Take(c, kPointer, size, 1, false, true);
}

// Three strings: the driver's version, its title. They say nothing that the version does not, so the proxy answers.
ErrnoOr<uint32_t> BuildVersion(ControlCall& c) {
  constexpr uint32_t kMost = 256;
  uint32_t size = std::min(c.params.Get<uint32_t>(0), kMost);
  const std::string& version = c.call.proxy.version();
  for (size_t offset : {8, 16, 24}) {
    uint64_t guest = c.params.Get<uint64_t>(offset);
    if (guest == 0) continue;
    if (size <= version.size()) return uint32_t{kNvInvalidArgument};
    NestedList list{.offset = offset, .guest = guest, .bytes = std::vector<std::byte>(version.size() + 1), .out = true};
    std::memcpy(list.bytes.data(), version.data(), version.size());
    c.lists.push_back(std::move(list));
  }
  c.params.Put<uint32_t>(0, static_cast<uint32_t>(version.size() + 1));
  c.answered = true;
  return uint32_t{kNvOk};
}

ErrnoOr<uint32_t> P2pCaps(ControlCall& c) {
  uint32_t count = c.params.Get<uint32_t>(128);
  if (count == 0 || count > 32) return uint32_t{kNvInvalidArgument};
  for (const Field& field : FieldsOf(c.entry)) {
    if (field.role != Role::kPointer) continue;
    if (uint32_t status = TRY(Take(c, field.offset, uint64_t{count} * count, 4, false, true)); status != kNvOk) return status;
  }
  return uint32_t{kNvOk};
}

ErrnoOr<uint32_t> ChannelList(ControlCall& c) {
  uint32_t count = c.params.Get<uint32_t>(0);
  if (count == 0) return uint32_t{kNvInvalidArgument};
  if (uint32_t status = TRY(Take(c, 8, count, 4, true, false)); status != kNvOk) return status;
  return Take(c, 16, count, 4, true, true);
}

ErrnoOr<uint32_t> RegOps(ControlCall& c) {
  uint32_t count = c.params.Get<uint32_t>(20);
  if (count == 0 || c.params.Get<uint64_t>(24) == 0) return uint32_t{kNvInvalidArgument};
  return Take(c, 24, count, 32, true, true);
}

ErrnoOr<uint32_t> ReadMemory(ControlCall& c) {
  // The driver sets no bound.
  uint32_t length = c.params.Get<uint32_t>(4);
  if (length == 0 || length > kMaxParams || c.params.Get<uint64_t>(16) == 0) return uint32_t{kNvInvalidArgument};
  if (c.client.Find(c.params.Get<uint32_t>(0)) == nullptr) return uint32_t{kNvInvalidObjectHandle};
  return Take(c, 16, length, 1, false, true);
}

}  // namespace

ErrnoOr<uint32_t> PrepareLists(ControlCall& c) {
  switch (c.entry.kind) {
    case Kind::kInfoList:
    case Kind::kFbInfo: return InfoList(c);
    case Kind::kU32List: return WordList(c);
    case Kind::kCapsTable: return CapsTable(c);
    case Kind::kBuildVersion: return BuildVersion(c);
    case Kind::kP2pCaps: return P2pCaps(c);
    case Kind::kChannelList: return ChannelList(c);
    case Kind::kRegOps: return RegOps(c);
    case Kind::kReadMemory: return ReadMemory(c);
    case Kind::kIdInfo: c.params.Put<uint64_t>(16, 0); return uint32_t{kNvOk};  // a name nobody fills
    case Kind::kDisableChannels:
      if (c.params.Get<uint64_t>(16) != 0) return uint32_t{kNvInvalidArgument};
      return uint32_t{c.params.Get<uint32_t>(4) > 64 ? kNvInvalidArgument : kNvOk};
    default: return uint32_t{kNvOk};
  }
}

}  // namespace amber::nvproxy
