#include "nvproxy/quota.h"

#include <algorithm>

namespace amber::nvproxy {

Allocation::~Allocation() {
  absl::MutexLock lock(&ledger_->mu_);
  ledger_->At(gpu_, pool_).used -= bytes_;
}

void Allocation::Correct(uint64_t bytes) {
  absl::MutexLock lock(&ledger_->mu_);
  Ledger::Count& count = ledger_->At(gpu_, pool_);
  count.used += bytes - bytes_;
  count.peak = std::max(count.peak, count.used);
  bytes_ = bytes;
}

Ledger::Count& Ledger::At(uint32_t gpu, Pool pool) { return pool == Pool::kHost ? host_ : used_[gpu]; }

std::shared_ptr<Allocation> Ledger::Charge(uint32_t gpu, Pool pool, uint64_t bytes) {
  {
    absl::MutexLock lock(&mu_);
    if (pool == Pool::kDevice && gpu >= used_.size()) return nullptr;
    Count& count = At(gpu, pool);
    uint64_t limit = pool == Pool::kHost ? host_limit_ : limit_;
    if (bytes > (uint64_t{1} << 56)) return nullptr;
    if (limit != 0 && (count.used > limit || bytes > limit - count.used)) return nullptr;
    count.used += bytes;
    count.peak = std::max(count.peak, count.used);
  }
  return std::make_shared<Allocation>(shared_from_this(), gpu, pool, bytes);
}

uint64_t Ledger::used(uint32_t gpu) const {
  absl::MutexLock lock(&mu_);
  return gpu < used_.size() ? used_[gpu].used : 0;
}

uint64_t Ledger::peak(uint32_t gpu) const {
  absl::MutexLock lock(&mu_);
  return gpu < used_.size() ? used_[gpu].peak : 0;
}

uint64_t Ledger::host_used() const {
  absl::MutexLock lock(&mu_);
  return host_.used;
}

uint64_t RoundToPages(uint64_t bytes, uint32_t attr, uint32_t attr2) {
  constexpr uint64_t kPage[] = {64 << 10, 4 << 10, 64 << 10, 2 << 20};  // default, 4 KiB, big, huge
  uint64_t page = kPage[attr >> 23 & 3];
  // 2 is 512 MiB; 0 and 1 are the default and 2 MiB.
  if ((attr >> 23 & 3) == 3 && (attr2 >> 20 & 3) == 2) page = 512 << 20;
  if (bytes > ~uint64_t{0} - page) return 0;
  return (bytes + page - 1) / page * page;
}

}  // namespace amber::nvproxy
