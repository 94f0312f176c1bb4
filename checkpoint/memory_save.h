// Guest memory into an image: which ranges of an address space, and of the sentry's own files, are copied.
//
// Two steps, so that the copying needs no kernel lock: a plan is made with the lock held and all tasks stopped; it is carried out on any thread
// while they stay stopped.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoint/image.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/base/unique_fd.h"
#include "sentry/platform/platform.h"

namespace amber {
class MemoryManager;
}

namespace amber::checkpoint {

// Holes up to this size between pages that are kept become zeros in the image, so that a heap stays one mapping on the host.
inline constexpr uint64_t kMaxJoinedHole = 64 << 10;

struct SaveRange {
  uint64_t start = 0, end = 0;
  // What is absent here reads as zeros, so zeros need not be kept. False for private mappings of files.
  bool zero_filled = false;
  // Ranges with the same number lie in one mapping: the hole between them may be filled.
  uint64_t mapping = 0;
};

struct SpacePlan {
  uint64_t object = 0;  // id of the MemoryManager
  RefPtr<platform::AddressSpace> space;
  std::vector<SaveRange> ranges;
  uint64_t bytes = 0;
};

struct FilePlan {
  uint64_t id = 0;
  UniqueFd fd;
  uint64_t size = 0;
};

absl::StatusOr<SpacePlan> PlanSpace(const MemoryManager& mm, uint64_t object);

// Called now and then with the bytes gone through.
using SaveProgress = std::function<void(uint64_t bytes)>;

absl::StatusOr<SpaceIndex> SaveSpace(const SpacePlan& plan, ImageWriter& writer, const SaveProgress& progress);
absl::StatusOr<FileIndex> SaveFile(const FilePlan& plan, ImageWriter& writer, const SaveProgress& progress);

// Gathers pages into extents: skips zeros, fills small holes. Public for tests.
class ExtentBuilder {
 public:
  ExtentBuilder(ImageWriter& writer, std::vector<ImageExtent>* extents) : writer_(writer), extents_(*extents) {}
  // The bytes at `address`, whole pages, in ascending order. `mapping` as in SaveRange.
  absl::Status Add(uint64_t address, const char* bytes, size_t size, bool skip_zeros, uint64_t mapping);

 private:
  absl::Status Keep(uint64_t address, const char* bytes, size_t size, bool may_fill, uint64_t mapping);

  ImageWriter& writer_;
  std::vector<ImageExtent>& extents_;
  uint64_t mapping_ = ~uint64_t{0};
  bool may_fill_ = false;
  uint64_t filled_ = 0;  // bytes of holes in the last extent
};

}  // namespace amber::checkpoint
