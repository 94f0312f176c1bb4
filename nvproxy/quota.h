// Who uses how much GPU memory, and how much may be used.
//
// Bytes belong to an Allocation, not to a handle: every RM object, duplicate and UVM mapping of the same memory holds a reference, and the bytes are
// given back with the last one. Thread safe; a Ledger outlives its allocations by their references.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace amber::nvproxy {

enum class Pool : uint8_t { kDevice, kHost };  // memory of a GPU; host memory that the driver allocates or pins

class Ledger;

class Allocation {
 public:
  Allocation(std::shared_ptr<Ledger> ledger, uint32_t gpu, Pool pool, uint64_t bytes)
      : ledger_(std::move(ledger)), gpu_(gpu), pool_(pool), bytes_(bytes) {}
  ~Allocation();
  Allocation(const Allocation&) = delete;
  Allocation& operator=(const Allocation&) = delete;

  uint64_t bytes() const { return bytes_; }
  uint32_t gpu() const { return gpu_; }
  Pool pool() const { return pool_; }
  // The driver gave another amount than was asked for. The caller is the only holder.
  void Correct(uint64_t bytes);

 private:
  std::shared_ptr<Ledger> ledger_;
  uint32_t gpu_;
  Pool pool_;
  uint64_t bytes_;
};

class Ledger : public std::enable_shared_from_this<Ledger> {
 public:
  // Limits in bytes; 0 means none. The limit on host memory is the sandbox's, over all GPUs.
  Ledger(size_t gpus, uint64_t limit, uint64_t host_limit) : limit_(limit), host_limit_(host_limit), used_(gpus) {}

  // Null if it would go over the limit.
  std::shared_ptr<Allocation> Charge(uint32_t gpu, Pool pool, uint64_t bytes);
  uint64_t used(uint32_t gpu) const;
  uint64_t host_used() const;
  uint64_t limit() const { return limit_; }
  uint64_t peak(uint32_t gpu) const;

 private:
  friend class Allocation;
  struct Count {
    uint64_t used = 0, peak = 0;
  };
  Count& At(uint32_t gpu, Pool pool) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const uint64_t limit_, host_limit_;
  mutable absl::Mutex mu_;
  std::vector<Count> used_ ABSL_GUARDED_BY(mu_);
  Count host_ ABSL_GUARDED_BY(mu_);
};

// `bytes` rounded to the page size that the attributes of a memory object ask for (NVOS32_ATTR_PAGE_SIZE in `attr` [24:23], its huge
// kind in `attr2` [21:20]). 0 if it does not fit 64 bits.
uint64_t RoundToPages(uint64_t bytes, uint32_t attr, uint32_t attr2);

}  // namespace amber::nvproxy
