// What nvproxy needs of the kernel that it serves, and no more: the caller's memory and descriptors. sentry/fs/nvidia implements it, and
// tests do.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "nvproxy/host.h"
#include "sentry/base/errno_or.h"

namespace amber::nvproxy {

class OpenFile;

// A guest process, as far as ownership goes: RM clients belong to the process that made them.
struct Session {
  uint64_t process = 0;    // unique in the sandbox, never used again
  uint64_t container = 0;  // which container it is in
  uint32_t uid = 0;
  uint32_t pid = 0;  // as the guest sees it
  // Which of the sandbox's GPUs its container has, bit 0 for the first of Proxy::gpus().
  uint64_t gpus = ~uint64_t{0};
};

// The caller of one ioctl or mmap. Lives on the caller's stack; used by one thread.
class Caller {
 public:
  virtual ~Caller() = default;
  virtual Session session() const = 0;
  // False where Linux would give EFAULT. Nothing that is read is read twice.
  virtual bool Read(uint64_t address, void* out, size_t size) = 0;
  virtual bool Write(uint64_t address, const void* in, size_t size) = 0;
  // The device file behind a descriptor of the caller's; null if it is none of ours.
  virtual std::shared_ptr<OpenFile> FileOf(int fd) = 0;
  // The guest memory [address, address + size), which the guest itself can read or, with `write`, write, as shareable pieces that stay as they are until nobody refers to them any more;
  // and whose descriptors stay open for the caller's life; EFAULT, ENOMEM or EOPNOTSUPP; or EAGAIN, which the call then ends with, without any effect: it is made again when they are shareable.
  virtual ErrnoOr<std::vector<MemoryPiece>> Share(uint64_t address, uint64_t size, bool write) = 0;
  // True if the caller still has a mapping of `file` in [address, address + size).
  virtual bool IsMapped(const OpenFile& file, uint64_t address, uint64_t size) = 0;
};

}  // namespace amber::nvproxy
