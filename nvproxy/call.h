// One ioctl in progress, for the handlers; not for others.
#pragma once

#include <array>
#include <cstddef>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "nvproxy/abi.h"
#include "nvproxy/open_file.h"
#include "nvproxy/proxy.h"
#include "nvproxy/status.h"

namespace amber::nvproxy {

inline constexpr uint32_t kMaxParams = 1 << 20;

// A block of bytes, zero at first: on the stack up to 4 KiB.
class Block {
 public:
  explicit Block(size_t size) : size_(size) {
    if (size > sizeof(small_)) {
      large_.resize(size);
    } else {
      std::memset(small_, 0, sizeof(small_));
    }
  }
  std::byte* data() { return large_.empty() ? small_ : large_.data(); }
  size_t size() const { return size_; }
  std::span<std::byte> bytes() { return {data(), size_}; }
  template <typename T>
  T Get(size_t offset) {
    T value{};
    if (offset + sizeof(T) <= size_) std::memcpy(&value, data() + offset, sizeof(T));
    return value;
  }
  template <typename T>
  void Put(size_t offset, T value) {
    if (offset + sizeof(T) <= size_) std::memcpy(data() + offset, &value, sizeof(T));
  }
  // The block as a structure, which must fit.
  template <typename T>
  T& As() {
    AMBER_CHECK(sizeof(T) <= size_);
    return *reinterpret_cast<T*>(data());
  }

 private:
  alignas(16) std::byte small_[4096];
  std::vector<std::byte> large_;
  size_t size_;
};

struct Call {
  Proxy& proxy;
  std::shared_ptr<OpenFile> file;
  Caller& caller;
  const Entry& entry;
  uint32_t command;  // as the host is to get it
  uint64_t argument;
  Block& block;
  Session session;

  template <typename T>
  T& As() {
    return block.As<T>();
  }
  // Sends the block to the host: 0 or an errno.
  int Forward(std::span<const HostBuffer> nested = {}) { return proxy.HostIoctl(file->host(), command, block.bytes(), nested); }
  uint32_t status() { return entry.status == kNoStatus ? 0u : block.Get<uint32_t>(entry.status); }
  void set_status(uint32_t status) {
    if (entry.status != kNoStatus) block.Put<uint32_t>(entry.status, status);
  }
  // Copies the block out. EFAULT.
  ErrnoOr<uint64_t> Done();
  // A refusal of the proxy's, as the driver would put it.
  ErrnoOr<uint64_t> Refuse(uint32_t status, const char* why = "");
  std::shared_ptr<Client> OwnClient(uint32_t handle) { return proxy.OwnClient(handle, *file, session); }
};

// Puts the host's file where a guest's descriptor was for as long as it lives, then the descriptor back.
class FdField {
 public:
  // `wide` is for descriptors in 64-bit fields.
  FdField(Block& block, size_t offset, bool wide = false) : block_(block), offset_(offset), wide_(wide) {
    guest_ = wide ? block.Get<int64_t>(offset) : block.Get<int32_t>(offset);
  }
  ~FdField() { Store(guest_); }
  FdField(const FdField&) = delete;
  FdField& operator=(const FdField&) = delete;
  // The device file that the guest means; null if it is no descriptor of such a file.
  std::shared_ptr<OpenFile> Resolve(Caller& caller) {
    if (guest_ < 0 || guest_ > INT32_MAX) return nullptr;
    return caller.FileOf(static_cast<int>(guest_));
  }
  int64_t guest() const { return guest_; }
  void Set(const OpenFile& file) { Store(file.host()); }

 private:
  void Store(int64_t value) {
    if (wide_) {
      block_.Put<int64_t>(offset_, value);
    } else {
      block_.Put<int32_t>(offset_, static_cast<int32_t>(value));
    }
  }
  Block& block_;
  size_t offset_;
  bool wide_;
  int64_t guest_;
};

// The caller's clients, beside `client`, that `block` names in the fields of `entry`: they must be locked with it, or one could end, and its number
// become another process's, between the check and the host's call.
std::vector<std::shared_ptr<Client>> NamedClients(Call& call, const Entry& entry, Block& block, const Client* client);
// Checks the handles in `block` that `entry` names against `client`, which `lock` holds with NamedClients(); kNvOk or what is wrong. The objects of other
// clients of the caller's are left to the driver.
NvStatus CheckHandles(const ClientLock& lock, const Entry& entry, Block& block, Client& client);
// Checks GPU ids.
NvStatus CheckGpus(Call& call, const Entry& entry, Block& block);

// --- handlers ---
ErrnoOr<uint64_t> FrontendCall(Call& call);
ErrnoOr<uint64_t> UvmCall(Call& call);
ErrnoOr<uint64_t> RmControlCall(Call& call);
ErrnoOr<uint64_t> RmAllocCall(Call& call);
ErrnoOr<uint64_t> RmAllocMemoryCall(Call& call);
ErrnoOr<uint64_t> RmHeapCall(Call& call);
ErrnoOr<uint64_t> RmContextDmaCall(Call& call);
ErrnoOr<uint64_t> RmFreeCall(Call& call);
ErrnoOr<uint64_t> RmDupCall(Call& call);
ErrnoOr<uint64_t> RmShareCall(Call& call);
ErrnoOr<uint64_t> RmMapMemoryCall(Call& call);
ErrnoOr<uint64_t> RmIdleChannelsCall(Call& call);
// Records a share; kNvOk, or the refusal. Rewrites what the host is to see.
NvStatus RecordShare(SharePolicy& policy, ShareList& list);

}  // namespace amber::nvproxy
