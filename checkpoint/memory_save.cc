#include "checkpoint/memory_save.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "absl/strings/str_cat.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/mm/pages.h"

namespace amber::checkpoint {
namespace {

constexpr size_t kBatch = 2 << 20;
// More extents than this make restores slow and run into the host's limit on mappings: then holes are filled whatever it costs.
constexpr size_t kManyExtents = 16'000;

bool IsZero(const char* page) {
  uint64_t words[kImagePage / 8];
  memcpy(words, page, sizeof(words));
  if (words[0] != 0 || words[kImagePage / 16] != 0) return false;
  uint64_t all = 0;
  for (uint64_t w : words) all |= w;
  return all == 0;
}

uint64_t PageUp(uint64_t n) { return (n + kImagePage - 1) & ~uint64_t{kImagePage - 1}; }

}  // namespace

absl::Status ExtentBuilder::Keep(uint64_t address, const char* bytes, size_t size, bool may_fill, uint64_t mapping) {
  if (!extents_.empty() && mapping == mapping_) {
    ImageExtent& last = extents_.back();
    uint64_t hole = address - (last.start + last.size);
    // Not more zeros than pages, so that thinly used memory does not make the image many times larger.
    bool fill = hole == 0 || (may_fill && may_fill_ && hole <= kMaxJoinedHole && (filled_ + hole <= last.size || extents_.size() > kManyExtents));
    if (fill) {
      if (hole > 0) {
        if (absl::Status s = writer_.AppendZeros(hole); !s.ok()) return s;
      }
      filled_ += hole;
      last.size += hole + size;
      return writer_.Append(bytes, size);
    }
  }
  mapping_ = mapping;
  may_fill_ = may_fill;
  filled_ = 0;
  extents_.push_back({address, size, writer_.position()});
  return writer_.Append(bytes, size);
}

absl::Status ExtentBuilder::Add(uint64_t address, const char* bytes, size_t size, bool skip_zeros, uint64_t mapping) {
  if (!skip_zeros) return Keep(address, bytes, size, false, mapping);
  for (size_t at = 0; at < size;) {
    while (at < size && IsZero(bytes + at)) at += kImagePage;
    size_t begin = at;
    while (at < size && !IsZero(bytes + at)) at += kImagePage;
    if (at == begin) continue;
    if (absl::Status s = Keep(address + begin, bytes + begin, at - begin, true, mapping); !s.ok()) return s;
  }
  return absl::OkStatus();
}

absl::StatusOr<SpacePlan> PlanSpace(const MemoryManager& mm, uint64_t object) {
  SpacePlan plan;
  plan.object = object;
  if (!mm.attached()) return absl::FailedPreconditionError("a process has no memory");
  plan.space = mm.space_ref();
  auto runs = PagesToSave(mm);
  if (!runs.ok()) {
    return absl::InternalError(absl::StrCat("cannot find out which pages a process has: ", strerrordesc_np(runs.error().number())));
  }
  for (const PageRun& run : *runs) {
    for (const Vma& vma : mm.vmas().Slice(run.start, run.end)) {
      plan.ranges.push_back({vma.start, vma.end, vma.anonymous(), mm.vmas().Find(vma.start)->start});
      plan.bytes += vma.size();
    }
  }
  return plan;
}

namespace {

// Reads guest memory, protected pages included.
class GuestReader {
 public:
  explicit GuestReader(platform::AddressSpace& space) : space_(space) {}

  absl::Status Read(uint64_t address, char* buffer, size_t size) {
    size_t done = 0;
    while (done < size) {
      auto n = space_.Read(address + done, buffer + done, size - done);
      if (n.ok() && *n > 0) {
        done += *n;
        continue;
      }
      // PROT_NONE or write-only: the page exists, only its owner may not read it now. One page that way, then on.
      size_t piece = std::min(size - done, kImagePage - (address + done) % kImagePage);
      if (absl::Status s = ReadProtected(address + done, buffer + done, piece); !s.ok()) return s;
      done += piece;
    }
    return absl::OkStatus();
  }

 private:
  absl::Status ReadProtected(uint64_t address, char* buffer, size_t size) {
    if (!mem_.valid()) {
      char path[64];
      snprintf(path, sizeof(path), "/proc/%d/mem", space_.host_pid());
      mem_.reset(open(path, O_RDONLY | O_CLOEXEC));
    }
    if (!mem_.valid() || pread(mem_.get(), buffer, size, static_cast<off_t>(address)) != static_cast<ssize_t>(size)) {
      return absl::InternalError(absl::StrCat("cannot read the memory of a process at ", absl::Hex(address)));
    }
    return absl::OkStatus();
  }

  platform::AddressSpace& space_;
  UniqueFd mem_;
};

}  // namespace

absl::StatusOr<SpaceIndex> SaveSpace(const SpacePlan& plan, ImageWriter& writer, const SaveProgress& progress) {
  SpaceIndex index;
  index.object = plan.object;
  ExtentBuilder builder(writer, &index.extents);
  GuestReader reader(*plan.space);
  auto buffer = std::make_unique_for_overwrite<char[]>(kBatch);
  for (const SaveRange& range : plan.ranges) {
    for (uint64_t at = range.start; at < range.end;) {
      size_t size = static_cast<size_t>(std::min<uint64_t>(kBatch, range.end - at));
      if (absl::Status s = reader.Read(at, buffer.get(), size); !s.ok()) return s;
      if (absl::Status s = builder.Add(at, buffer.get(), size, range.zero_filled, range.mapping); !s.ok()) return s;
      at += size;
      if (progress) progress(size);
    }
  }
  return index;
}

absl::StatusOr<FileIndex> SaveFile(const FilePlan& plan, ImageWriter& writer, const SaveProgress& progress) {
  FileIndex index;
  index.id = plan.id;
  index.size = plan.size;
  ExtentBuilder builder(writer, &index.extents);
  auto buffer = std::make_unique_for_overwrite<char[]>(kBatch);
  uint64_t end = 0;  // of what was read
  while (end < plan.size) {
    off_t data = lseek(plan.fd.get(), static_cast<off_t>(end), SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;  // only a hole is left
    off_t hole = data < 0 ? -1 : lseek(plan.fd.get(), data, SEEK_HOLE);
    if (hole < 0) return absl::InternalError(absl::StrCat("cannot read a memory file: ", strerrordesc_np(errno)));
    uint64_t at = static_cast<uint64_t>(data) & ~uint64_t{kImagePage - 1};
    end = std::min(static_cast<uint64_t>(hole), plan.size);
    while (at < end) {
      size_t size = static_cast<size_t>(std::min<uint64_t>(kBatch, end - at));
      size_t padded = static_cast<size_t>(PageUp(size));
      ssize_t n = pread(plan.fd.get(), buffer.get(), size, static_cast<off_t>(at));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return absl::InternalError("cannot read a memory file");
      // A short read: whole pages of it, or all of the last one.
      size = static_cast<size_t>(n) == size ? size : static_cast<size_t>(n) & ~(kImagePage - 1);
      if (size == 0) return absl::InternalError("a memory file shrank while it was saved");
      padded = static_cast<size_t>(PageUp(size));
      memset(buffer.get() + size, 0, padded - size);
      if (absl::Status s = builder.Add(at, buffer.get(), padded, true, 0); !s.ok()) return s;
      at += padded;
      if (progress) progress(padded);
    }
    end = PageUp(end);
  }
  return index;
}

}  // namespace amber::checkpoint
