// One mapping of a guest address space (Linux: struct vm_area_struct), and the ordered set of them.
//
// Values only: no host mapping is made or removed here. The set keeps neighbours merged where Linux would merge them, and keeps
// the sums that limits and /proc need. Owned by MemoryManager; guarded by the kernel lock.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "sentry/base/ref_ptr.h"
#include "sentry/mm/mempolicy.h"
#include "sentry/vfs/file.h"

namespace amber {

inline constexpr uint64_t kPageSize = 4096;
inline constexpr uint64_t PageDown(uint64_t a) { return a & ~(kPageSize - 1); }
// 0 if it wraps.
inline constexpr uint64_t PageUp(uint64_t a) { return PageDown(a + kPageSize - 1); }

// What /proc/PID/maps calls a mapping that has no file.
enum class VmaName : uint8_t { kNone, kHeap, kStack, kVdso, kVvar, kFast };

struct Vma {
  uint64_t start = 0, end = 0;
  int prot = 0;                                       // PROT_READ | PROT_WRITE | PROT_EXEC
  int max_prot = PROT_READ | PROT_WRITE | PROT_EXEC;  // what mprotect may grant
  bool shared = false;
  VmaName name = VmaName::kNone;
  // Bits of `flags`.
  static constexpr uint32_t kLocked = 1;        // mlock, MAP_LOCKED
  static constexpr uint32_t kDontFork = 2;      // MADV_DONTFORK
  static constexpr uint32_t kWipeOnFork = 4;    // MADV_WIPEONFORK
  static constexpr uint32_t kDontDump = 8;      // MADV_DONTDUMP
  static constexpr uint32_t kNoReserve = 16;    // MAP_NORESERVE
  static constexpr uint32_t kHuge = 32;         // MADV_HUGEPAGE by the guest
  static constexpr uint32_t kNoHuge = 64;       // MADV_NOHUGEPAGE
  static constexpr uint32_t kSequential = 128;  // MADV_SEQUENTIAL
  static constexpr uint32_t kRandom = 256;      // MADV_RANDOM
  static constexpr uint32_t kSealed = 512;      // mseal
  static constexpr uint32_t kGrowsDown = 1024;  // MAP_GROWSDOWN
  uint32_t flags = 0;
  MemoryPolicy policy;
  // The mapped file and its offset at `start`; null for anonymous memory. Shared anonymous memory is a file, too: a
  // sentry-owned memfd (see fs/memfd).
  RefPtr<File> file;
  uint64_t offset = 0;
  // Restored private memory: the host maps the checkpoint image at `image_offset` (for `start`) instead, privately. To the guest
  // it still is what the fields above say, so dropped pages must be mapped afresh (see MemoryManager::DropOps).
  bool image = false;
  uint64_t image_offset = 0;

  uint64_t size() const { return end - start; }
  bool anonymous() const { return !file; }
  bool locked() const { return (flags & kLocked) != 0; }
  bool sealed() const { return (flags & kSealed) != 0; }
  // The kernel makes it larger when what lies below is touched.
  bool grows_down() const { return name == VmaName::kStack || (flags & kGrowsDown) != 0; }
  // Counts for RLIMIT_DATA (Linux: is_data_mapping).
  bool data() const { return !shared && (prot & PROT_WRITE) != 0 && !grows_down(); }
  // True if [start, end) of `next` may be joined to this.
  bool MergesWith(const Vma& next) const;
  // The part [from, to) of this.
  Vma Part(uint64_t from, uint64_t to) const;
};

class VmaSet {
 public:
  using Map = std::map<uint64_t, Vma>;

  // Puts `vma` where nothing is (checked) and merges it with its neighbours.
  void Insert(Vma vma);
  // Takes out [start, end), splitting what sticks out; returns what was there, in order.
  std::vector<Vma> Remove(uint64_t start, uint64_t end);
  // Applies `change` to each mapping in [start, end), split at the borders, and merges again.
  template <typename F>
  void Update(uint64_t start, uint64_t end, F change) {
    for (Vma& vma : Remove(start, end)) {
      change(vma);
      Insert(std::move(vma));
    }
  }

  // The mapping that contains `address`, or null.
  const Vma* Find(uint64_t address) const;
  // The first mapping that ends above `address`, or end().
  Map::const_iterator FindFrom(uint64_t address) const;
  Map::const_iterator begin() const { return vmas_.begin(); }
  Map::const_iterator end() const { return vmas_.end(); }
  // True if nothing is mapped in [start, end).
  bool IsFree(uint64_t start, uint64_t end) const;
  // True if a mapping in [start, end) may not be changed (mseal).
  bool AnySealed(uint64_t start, uint64_t end) const;
  // Where the first hole in [start, end) begins; `end` if there is none.
  uint64_t FirstHole(uint64_t start, uint64_t end) const;
  // The mappings in [start, end), cut at its borders.
  std::vector<Vma> Slice(uint64_t start, uint64_t end) const;
  // The highest free range of `size` bytes, page aligned, within [low, high), or none.
  std::optional<uint64_t> FindFreeTopDown(uint64_t size, uint64_t low, uint64_t high, uint64_t alignment = kPageSize) const;
  // The lowest one.
  std::optional<uint64_t> FindFreeBottomUp(uint64_t size, uint64_t low, uint64_t high) const;

  size_t count() const { return vmas_.size(); }
  // Sums in bytes.
  uint64_t total() const { return total_; }
  uint64_t data() const { return data_; }
  uint64_t locked() const { return locked_; }
  void Clear();

 private:
  void Account(const Vma& vma, int sign);

  Map vmas_;
  uint64_t total_ = 0, data_ = 0, locked_ = 0;
};

}  // namespace amber
