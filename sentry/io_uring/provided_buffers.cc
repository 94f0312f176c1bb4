#include "sentry/io_uring/provided_buffers.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <utility>

#include "sentry/io_uring/io_uring.pb.h"
#include "sentry/kernel/task.h"

namespace amber {
namespace {

struct RingEntry {
  uint64_t address;
  uint32_t size;
  uint16_t id;
  uint16_t tail;  // of the first entry alone
};
static_assert(sizeof(RingEntry) == 16);
constexpr uint64_t kTailOffset = 14;

struct RingRegistration {  // struct io_uring_buf_reg
  uint64_t address;
  uint32_t entries;
  uint16_t group;
  uint16_t flags;
  uint64_t reserved[3];
};

struct RingStatus {  // struct io_uring_buf_status
  uint32_t group;
  uint32_t head;
  uint32_t reserved[8];
};

template <typename T>
bool AnySet(const T& words) {
  return std::any_of(std::begin(words), std::end(words), [](auto w) { return w != 0; });
}

}  // namespace

ErrnoOr<void> ProvidedBuffers::Provide(uint16_t group, uint64_t address, uint32_t size, uint32_t count, uint16_t first_id) {
  auto it = groups_.find(group);
  if (it != groups_.end() && it->second.ring) return Errno(EINVAL);
  if (listed_ + count > kMaxListed) return Errno(ENOMEM);
  Group& g = groups_[group];
  // The number of a group's buffers has 16 bits.
  uint32_t room = UINT16_MAX - std::min<uint32_t>(static_cast<uint32_t>(g.list.size()), UINT16_MAX);
  if (room == 0) return Errno(EOVERFLOW);
  count = std::min(count, room);
  for (uint32_t i = 0; i < count; ++i) g.list.push_back({address + uint64_t{i} * size, size, static_cast<uint16_t>(first_id + i), 0});
  listed_ += count;
  return Ok();
}

ErrnoOr<uint32_t> ProvidedBuffers::Remove(uint16_t group, uint32_t count) {
  auto it = groups_.find(group);
  if (it == groups_.end()) return Errno(ENOENT);
  Group& g = it->second;
  if (g.ring) return Errno(EINVAL);
  count = std::min(count, static_cast<uint32_t>(g.list.size()));
  g.list.erase(g.list.begin(), g.list.begin() + count);
  listed_ -= count;
  return count;
}

ErrnoOr<void> ProvidedBuffers::RegisterRing(Task& task, uint64_t argument) {
  auto r = TRY(task.CopyIn(UserPtr<const RingRegistration>(argument)));
  // Neither memory of the ring's own (IOU_PBUF_RING_MMAP) nor buffers that are used up bit by bit (IOU_PBUF_RING_INC).
  if (AnySet(r.reserved) || r.flags != 0) return Errno(EINVAL);
  if (!std::has_single_bit(r.entries) || r.entries >= kMaxIds) return Errno(EINVAL);
  auto it = groups_.find(r.group);
  if (it != groups_.end() && (it->second.ring || !it->second.list.empty())) return Errno(EEXIST);
  if (r.address == 0) return Errno(EFAULT);
  if (r.address % 4096 != 0) return Errno(EINVAL);
  // Linux pins the memory; here it must be there each time, and is looked at now so that a wrong address is told.
  char byte;
  TRY(task.CopyInBytes(r.address, &byte, 1));
  TRY(task.CopyInBytes(r.address + uint64_t{r.entries} * sizeof(RingEntry) - 1, &byte, 1));
  groups_[r.group] = {.ring = true, .address = r.address, .entries = r.entries, .head = 0, .list = {}};
  return Ok();
}

ErrnoOr<void> ProvidedBuffers::UnregisterRing(Task& task, uint64_t argument) {
  auto r = TRY(task.CopyIn(UserPtr<const RingRegistration>(argument)));
  if (AnySet(r.reserved) || r.flags != 0) return Errno(EINVAL);
  auto it = groups_.find(r.group);
  if (it == groups_.end()) return Errno(ENOENT);
  if (!it->second.ring) return Errno(EINVAL);
  groups_.erase(it);
  return Ok();
}

ErrnoOr<void> ProvidedBuffers::Status(Task& task, uint64_t argument) {
  auto s = TRY(task.CopyIn(UserPtr<const RingStatus>(argument)));
  if (AnySet(s.reserved)) return Errno(EINVAL);
  auto it = s.group <= UINT16_MAX ? groups_.find(static_cast<uint16_t>(s.group)) : groups_.end();
  if (it == groups_.end()) return Errno(ENOENT);
  if (!it->second.ring) return Errno(EINVAL);
  s.head = it->second.head;
  return task.CopyOut(UserPtr<RingStatus>(argument), s);
}

ErrnoOr<ProvidedBuffers::Buffer> ProvidedBuffers::Take(Task& task, uint16_t group) {
  auto it = groups_.find(group);
  if (it == groups_.end()) return Errno(ENOBUFS);
  Group& g = it->second;
  Buffer buffer;
  if (g.ring) {
    uint16_t tail = TRY(task.CopyIn(UserPtr<const uint16_t>(g.address + kTailOffset)));
    if (tail == g.head) return Errno(ENOBUFS);
    auto entry = TRY(task.CopyIn(UserPtr<const RingEntry>(g.address + (g.head & (g.entries - 1)) * sizeof(RingEntry))));
    buffer = {entry.address, entry.size, entry.id, g.head++};
  } else {
    if (g.list.empty()) return Errno(ENOBUFS);
    buffer = g.list.front();
    g.list.pop_front();
    --listed_;
  }
  return buffer;
}

void ProvidedBuffers::PutBack(uint16_t group, const Buffer& buffer) {
  auto it = groups_.find(group);
  if (it == groups_.end()) return;
  Group& g = it->second;
  if (g.ring) {
    // Unless somebody has taken one since, while a call let go of the lock.
    if (g.head == static_cast<uint16_t>(buffer.position + 1)) --g.head;
  } else {
    g.list.push_front(buffer);
    ++listed_;
  }
}

void ProvidedBuffers::Save(proto::IoUring* out) const {
  for (const auto& [id, g] : groups_) {
    auto* m = out->add_group();
    m->set_id(id);
    m->set_ring(g.ring);
    m->set_address(g.address);
    m->set_entries(g.entries);
    m->set_head(g.head);
    for (const Buffer& b : g.list) {
      auto* buffer = m->add_buffer();
      buffer->set_address(b.address);
      buffer->set_size(b.size);
      buffer->set_id(b.id);
    }
  }
}

bool ProvidedBuffers::Load(const proto::IoUring& in) {
  for (const auto& m : in.group()) {
    bool good = m.id() <= UINT16_MAX && m.head() <= UINT16_MAX && (!m.ring() || (std::has_single_bit(m.entries()) && m.entries() < kMaxIds));
    if (!good || (m.ring() && m.buffer_size() > 0) || m.buffer_size() > UINT16_MAX) return false;
    auto [it, fresh] = groups_.try_emplace(static_cast<uint16_t>(m.id()));
    if (!fresh) return false;
    it->second = {.ring = m.ring(), .address = m.address(), .entries = m.entries(), .head = static_cast<uint16_t>(m.head()), .list = {}};
    for (const auto& b : m.buffer()) it->second.list.push_back({b.address(), b.size(), static_cast<uint16_t>(b.id()), 0});
    listed_ += static_cast<uint32_t>(m.buffer_size());
    if (listed_ > kMaxListed) return false;
  }
  return true;
}

}  // namespace amber
