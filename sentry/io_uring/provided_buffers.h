// Buffers that a program gives a ring in advance, in groups, for requests that choose one when there is something to put there (io_uring/kbuf.c):
// lists of them (PROVIDE_BUFFERS), or rings in the program's memory (IORING_REGISTER_PBUF_RING) or in ours that the program maps (IOU_PBUF_RING_MMAP).
// Guarded by the kernel lock.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>

#include "checkpoint/state.h"
#include "sentry/base/errno_or.h"
#include "sentry/base/unique_fd.h"

namespace amber {

class Task;
namespace proto {
class IoUring;
}

class ProvidedBuffers {
 public:
  // struct io_uring_buf, which headers of older kernels do not have.
  struct Buffer {
    uint64_t address = 0;
    uint32_t size = 0;
    uint16_t id = 0;
    uint16_t position = 0;  // in its ring
  };
  static constexpr uint32_t kMaxIds = 1 << 16, kMaxListed = 1 << 18;

  // PROVIDE_BUFFERS: `count` buffers of `size` bytes from `address` on. EINVAL for a group that is a ring; EOVERFLOW, ENOMEM if there are too many.
  ErrnoOr<void> Provide(uint16_t group, uint64_t address, uint32_t size, uint32_t count, uint16_t first_id);
  // REMOVE_BUFFERS: how many were. ENOENT, EINVAL.
  ErrnoOr<uint32_t> Remove(uint16_t group, uint32_t count);
  // io_uring_register(2): `argument` leads to the structs that they take.
  ErrnoOr<void> RegisterRing(Task& task, uint64_t argument);
  ErrnoOr<void> UnregisterRing(Task& task, uint64_t argument);
  ErrnoOr<void> Status(Task& task, uint64_t argument);

  // The next buffer of a group, which the caller has from then on. ENOBUFS.
  ErrnoOr<Buffer> Take(Task& task, uint16_t group);
  // It was not used after all: whoever takes one next gets it again.
  void PutBack(uint16_t group, const Buffer& buffer);
  // `bytes` of it were used. True if what is left of it will be used, too (IOU_PBUF_RING_INC).
  bool Use(Task& task, uint16_t group, const Buffer& buffer, uint64_t bytes);
  // One request may take several at once.
  bool IsRing(uint16_t group) const;
  // The file behind a mapping of `size` bytes at mmap offset `offset` (IORING_OFF_PBUF_RING), which begins at its start, or -1.
  int Map(uint64_t offset, uint64_t size) const;

  void Save(state::Saver& saver, proto::IoUring* out) const;
  bool Load(state::Loader& loader, const proto::IoUring& in);

 private:
  static constexpr size_t kMaxMapped = 16;             // each is a mapping of the sentry, of which it has no more than vm.max_map_count
  static constexpr uint32_t kMaxMappedEntries = 4096;  // as far as mmap offsets of two groups lie from each other
  // Memory of ours that only we can make smaller. It is there as long as the ring is, for it may be mapped.
  class Pages {
   public:
    static std::shared_ptr<Pages> Make(UniqueFd fd, uint64_t size);
    ~Pages();
    int fd() const { return fd_.get(); }
    uint64_t size() const { return size_; }
    char* base() const { return base_; }

   private:
    UniqueFd fd_;
    char* base_ = nullptr;
    uint64_t size_ = 0;
  };
  struct Entry;
  struct Group {
    bool ring = false, incremental = false;
    std::shared_ptr<Pages> pages;  // of a ring in our memory
    // A ring: `entries` of 16 bytes; the program moves the tail, which lies in the last two bytes of the first.
    uint64_t address = 0;
    uint32_t entries = 0;
    uint16_t head = 0;
    std::deque<Buffer> list;
  };
  ErrnoOr<uint16_t> Tail(Task& task, const Group& g) const;
  ErrnoOr<Entry> EntryAt(Task& task, const Group& g, uint16_t position) const;
  ErrnoOr<void> SetEntry(Task& task, const Group& g, uint16_t position, const Entry& entry);
  ErrnoOr<std::shared_ptr<Pages>> NewPages(uint16_t group, uint32_t entries);

  std::map<uint16_t, Group> groups_;
  std::map<uint16_t, std::shared_ptr<Pages>> mapped_;  // by the group that has them, or had them last
  uint32_t listed_ = 0;                                // in all lists
};

}  // namespace amber
