// Buffers that a program gives a ring in advance, in groups, for requests that choose one when there is something to put there (io_uring/kbuf.c):
// lists of them (PROVIDE_BUFFERS), or rings in the program's memory (IORING_REGISTER_PBUF_RING). Guarded by the kernel lock.
#pragma once

#include <cstdint>
#include <deque>
#include <map>

#include "sentry/base/errno_or.h"

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

  void Save(proto::IoUring* out) const;
  bool Load(const proto::IoUring& in);

 private:
  struct Group {
    bool ring = false;
    // A ring: `entries` of 16 bytes; the program moves the tail, which lies in the last two bytes of the first.
    uint64_t address = 0;
    uint32_t entries = 0;
    uint16_t head = 0;
    std::deque<Buffer> list;
  };
  std::map<uint16_t, Group> groups_;
  uint32_t listed_ = 0;  // in all lists
};

}  // namespace amber
