// The one way from nvproxy to the host: device files, their ioctls, mappings and readiness.
//
// One instance per sandbox (of the fake, one per fake host, which several sandboxes may share). Methods are called from many threads, without locks of
// the sentry's, and may block. Blocks given to Ioctl() are the proxy's own memory; pointers inside them lead to memory named by `nested`,
// never to a guest's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "sentry/base/errno_or.h"

namespace amber::nvproxy {

enum class NodeKind : uint8_t { kControl, kGpu, kUvm, kUvmTools, kCapability };

struct Node {
  NodeKind kind = NodeKind::kControl;
  uint32_t minor = 0;  // of a GPU or a capability
  friend bool operator==(const Node&, const Node&) = default;
};

// An open device file of the host. For the real driver a descriptor of this process.
using HostFile = int;

// Memory of the proxy's that a pointer in a block leads to.
struct HostBuffer {
  const void* data;
  size_t size;
};

// What to map, shared and whole, into the process that runs guest code.
struct HostMapping {
  int fd = -1;
  uint64_t offset = 0;  // added to the guest's
};

// A piece of shareable guest memory.
struct MemoryPiece {
  int fd = -1;
  uint64_t offset = 0, size = 0;
};

// One contiguous alias of the pieces in this process's memory.
ErrnoOr<uint64_t> MapAlias(std::span<const MemoryPiece> pieces);
void UnmapAlias(uint64_t address, uint64_t size);

class HostDriver {
 public:
  virtual ~HostDriver() = default;

  // "580.159.04". Empty if there is no driver.
  virtual std::string Version() = 0;
  // A file below /proc/driver/nvidia, "params" or "gpus/0000:41:00.0/information"; ENOENT.
  virtual ErrnoOr<std::string> ReadInfo(const std::string& path) = 0;

  // Opens a node with O_RDONLY, O_WRONLY or O_RDWR; every call gives a new file description.
  virtual ErrnoOr<HostFile> Open(const Node& node, int access) = 0;
  // 0, or an errno. EINTR is given on.
  virtual int Ioctl(HostFile file, uint32_t command, std::span<std::byte> block, std::span<const HostBuffer> nested) = 0;
  // For mmap of `file`. The driver's mapping context is used up by it.
  virtual ErrnoOr<HostMapping> Map(HostFile file, uint64_t offset, uint64_t length, int prot) = 0;
  // Readiness now, POLL* bits. An event without data is consumed by asking.
  virtual uint32_t Poll(HostFile file) = 0;
  // A descriptor whose readiness can be waited for; -1 if `on_ready` is to be used.
  virtual int WaitFd(HostFile file) = 0;
  // Called, on any thread, when `file` may have become ready; empty to stop.
  virtual void SetReadyCallback(HostFile file, std::function<void()> on_ready) = 0;
  virtual void Close(HostFile file) = 0;

  // One contiguous alias, in this process, of guest memory that a device is to use; 0 is not an address.
  virtual ErrnoOr<uint64_t> Alias(std::span<const MemoryPiece> pieces) = 0;
  virtual void DropAlias(uint64_t address, uint64_t size) = 0;
};

}  // namespace amber::nvproxy
