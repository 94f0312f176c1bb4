#include "sentry/io_uring/provided_buffers.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <utility>

#include "sentry/base/guest_fd.h"
#include "sentry/io_uring/io_uring.pb.h"
#include "sentry/kernel/task.h"

namespace amber {

struct ProvidedBuffers::Entry {
  uint64_t address;
  uint32_t size;
  uint16_t id;
  uint16_t tail;  // of the first entry alone
};

namespace {

constexpr uint64_t kEntrySize = 16;
constexpr uint16_t kMapped = 1, kIncremental = 2;  // IOU_PBUF_RING_MMAP, IOU_PBUF_RING_INC
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
  if (AnySet(r.reserved) || (r.flags & ~(kMapped | kIncremental)) != 0) return Errno(EINVAL);
  if (!std::has_single_bit(r.entries) || r.entries >= kMaxIds) return Errno(EINVAL);
  auto it = groups_.find(r.group);
  if (it != groups_.end() && (it->second.ring || !it->second.list.empty())) return Errno(EEXIST);
  if ((r.flags & kMapped) != 0) {
    auto pages = TRY(NewPages(r.group, r.entries));
    groups_[r.group] = {.ring = true, .incremental = (r.flags & kIncremental) != 0, .pages = std::move(pages), .entries = r.entries, .list = {}};
    return Ok();
  }
  if (r.address == 0) return Errno(EFAULT);
  if (r.address % 4096 != 0) return Errno(EINVAL);
  // Linux pins the memory; here it must be there each time, and is looked at now so that a wrong address is told.
  char byte;
  TRY(task.CopyInBytes(r.address, &byte, 1));
  TRY(task.CopyInBytes(r.address + uint64_t{r.entries} * kEntrySize - 1, &byte, 1));
  groups_[r.group] = {
      .ring = true, .incremental = (r.flags & kIncremental) != 0, .pages = {}, .address = r.address, .entries = r.entries, .head = 0, .list = {}};
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

// --- rings, in the program's memory or in ours, where it writes as well ---

std::shared_ptr<ProvidedBuffers::Pages> ProvidedBuffers::Pages::Make(UniqueFd fd, uint64_t size) {
  if (!fd.valid() || ftruncate(fd.get(), static_cast<off_t>(size)) != 0) return nullptr;
  void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (memory == MAP_FAILED) return nullptr;
  auto pages = std::make_shared<Pages>();
  pages->fd_ = std::move(fd);
  pages->base_ = static_cast<char*>(memory);
  pages->size_ = size;
  return pages;
}

ProvidedBuffers::Pages::~Pages() {
  if (base_ != nullptr) munmap(base_, size_);
}

ErrnoOr<std::shared_ptr<ProvidedBuffers::Pages>> ProvidedBuffers::NewPages(uint16_t group, uint32_t entries) {
  bool replaces = mapped_.contains(group);
  if (entries > kMaxMappedEntries || (!replaces && mapped_.size() >= kMaxMapped)) return Errno(ENOMEM);
  constexpr uint64_t kPage = 4096;
  auto pages = Pages::Make(GuestFd(memfd_create("io_uring_buffers", MFD_CLOEXEC)), (entries * kEntrySize + kPage - 1) & ~(kPage - 1));
  if (!pages) return Errno(ENOMEM);
  mapped_[group] = pages;
  return pages;
}

int ProvidedBuffers::Map(uint64_t offset, uint64_t size) const {
  uint64_t within = offset & ~uint64_t{0xf8000000} & UINT32_MAX;  // IORING_OFF_MMAP_MASK
  auto it = mapped_.find(static_cast<uint16_t>(within >> 16));
  if (it == mapped_.end()) return -1;
  // What lies behind the end of the memory cannot be used, but mapped.
  return (within & 0xffff) + size <= 0x10000 ? it->second->fd() : -1;
}

ErrnoOr<uint16_t> ProvidedBuffers::Tail(Task& task, const Group& g) const {
  if (!g.pages) return uint16_t{TRY(task.CopyIn(UserPtr<const uint16_t>(g.address + kTailOffset)))};
  return __atomic_load_n(reinterpret_cast<const uint16_t*>(g.pages->base() + kTailOffset), __ATOMIC_ACQUIRE);
}

ErrnoOr<ProvidedBuffers::Entry> ProvidedBuffers::EntryAt(Task& task, const Group& g, uint16_t position) const {
  uint64_t at = (position & (g.entries - 1)) * kEntrySize;
  if (!g.pages) return Entry{TRY(task.CopyIn(UserPtr<const Entry>(g.address + at)))};
  static_assert(sizeof(Entry) == kEntrySize);
  const auto* words = reinterpret_cast<const uint64_t*>(g.pages->base() + at);
  uint64_t copy[2] = {__atomic_load_n(&words[0], __ATOMIC_RELAXED), __atomic_load_n(&words[1], __ATOMIC_RELAXED)};
  Entry entry;
  memcpy(&entry, copy, sizeof(entry));
  return entry;
}

// Address and size alone: the tail is the program's.
ErrnoOr<void> ProvidedBuffers::SetEntry(Task& task, const Group& g, uint16_t position, const Entry& entry) {
  uint64_t at = (position & (g.entries - 1)) * kEntrySize;
  if (!g.pages) return task.CopyOutBytes(g.address + at, &entry, 12);
  char* base = g.pages->base() + at;
  __atomic_store_n(reinterpret_cast<uint64_t*>(base), entry.address, __ATOMIC_RELAXED);
  __atomic_store_n(reinterpret_cast<uint32_t*>(base + 8), entry.size, __ATOMIC_RELAXED);
  return Ok();
}

// --- taking ---

bool ProvidedBuffers::IsRing(uint16_t group) const {
  auto it = groups_.find(group);
  return it != groups_.end() && it->second.ring;
}

ErrnoOr<ProvidedBuffers::Buffer> ProvidedBuffers::Take(Task& task, uint16_t group) {
  auto it = groups_.find(group);
  if (it == groups_.end()) return Errno(ENOBUFS);
  Group& g = it->second;
  Buffer buffer;
  if (g.ring) {
    if (TRY(Tail(task, g)) == g.head) return Errno(ENOBUFS);
    Entry entry = TRY(EntryAt(task, g, g.head));
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

// io_kbuf_inc_commit().
bool ProvidedBuffers::Use(Task& task, uint16_t group, const Buffer& buffer, uint64_t bytes) {
  auto it = groups_.find(group);
  if (it == groups_.end() || !it->second.incremental) return false;
  Group& g = it->second;
  if (g.head != static_cast<uint16_t>(buffer.position + 1)) return false;
  auto entry = EntryAt(task, g, buffer.position);
  if (!entry.ok()) return false;
  uint32_t used = static_cast<uint32_t>(std::min<uint64_t>(bytes, entry->size));
  entry->address += used;
  entry->size -= used;
  if (!SetEntry(task, g, buffer.position, *entry).ok() || entry->size == 0) return false;
  --g.head;
  return true;
}

void ProvidedBuffers::Save(state::Saver& saver, proto::IoUring* out) const {
  for (const auto& [id, pages] : mapped_) {
    auto* m = out->add_mapped();
    m->set_group(id);
    m->set_memory(saver.File(pages->fd(), pages->size()));
    m->set_size(pages->size());
  }
  for (const auto& [id, g] : groups_) {
    auto* m = out->add_group();
    m->set_id(id);
    m->set_ring(g.ring);
    m->set_address(g.address);
    m->set_entries(g.entries);
    m->set_head(g.head);
    m->set_incremental(g.incremental);
    m->set_mapped(g.pages != nullptr);
    for (const Buffer& b : g.list) {
      auto* buffer = m->add_buffer();
      buffer->set_address(b.address);
      buffer->set_size(b.size);
      buffer->set_id(b.id);
    }
  }
}

bool ProvidedBuffers::Load(state::Loader& loader, const proto::IoUring& in) {
  if (in.mapped_size() > static_cast<int>(kMaxMapped)) return false;
  for (const auto& m : in.mapped()) {
    if (m.group() > UINT16_MAX || m.size() == 0 || m.size() > kMaxMappedEntries * kEntrySize || m.size() % 4096 != 0) return false;
    auto pages = Pages::Make(UniqueFd(loader.OpenFile(m.memory())), m.size());
    if (!pages) return false;
    mapped_[static_cast<uint16_t>(m.group())] = std::move(pages);
  }
  for (const auto& m : in.group()) {
    bool good = m.id() <= UINT16_MAX && m.head() <= UINT16_MAX && (!m.ring() || (std::has_single_bit(m.entries()) && m.entries() < kMaxIds));
    if (!good || (m.ring() && m.buffer_size() > 0) || m.buffer_size() > UINT16_MAX) return false;
    auto [it, fresh] = groups_.try_emplace(static_cast<uint16_t>(m.id()));
    if (!fresh) return false;
    it->second = {.ring = m.ring(),
                  .incremental = m.incremental() && m.ring(),
                  .pages = {},
                  .address = m.address(),
                  .entries = m.entries(),
                  .head = static_cast<uint16_t>(m.head()),
                  .list = {}};
    if (m.mapped()) {
      auto pages = mapped_.find(static_cast<uint16_t>(m.id()));
      if (!m.ring() || pages == mapped_.end() || m.entries() * kEntrySize > pages->second->size()) return false;
      it->second.pages = pages->second;
    }
    for (const auto& b : m.buffer()) it->second.list.push_back({b.address(), b.size(), static_cast<uint16_t>(b.id()), 0});
    listed_ += static_cast<uint32_t>(m.buffer_size());
    if (listed_ > kMaxListed) return false;
  }
  return true;
}

}  // namespace amber
