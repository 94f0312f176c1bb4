#include "sentry/mm/pages.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>

#include "sentry/base/unique_fd.h"
#include "sentry/mm/guard.h"
#include "sentry/mm/userfault.h"

namespace amber {

namespace {

using platform::StubOp;

// linux/fs.h of 6.7, which Debian 12's headers do not have yet.
struct PageRegion {
  uint64_t start, end, categories;
};
struct PmScanArg {
  uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
  uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
static_assert(sizeof(PmScanArg) == 96);
constexpr unsigned long kPagemapScan = _IOWR('f', 16, PmScanArg);
constexpr uint64_t kIsFile = 1 << 2, kIsPresent = 1 << 3, kIsSwapped = 1 << 4, kIsPfnZero = 1 << 5;

void Add(std::vector<PageRun>* runs, uint64_t start, uint64_t end) {
  if (!runs->empty() && !runs->back().from_image && runs->back().end == start) {
    runs->back().end = end;
  } else {
    runs->push_back({start, end, false, 0});
  }
}

// Anonymous pages, present or swapped, that are not the shared zero page.
ErrnoOr<void> ScanByIoctl(int pagemap, uint64_t start, uint64_t end, std::vector<PageRun>* runs) {
  std::array<PageRegion, 512> regions;
  for (uint64_t at = start; at < end;) {
    PmScanArg arg = {};
    arg.size = sizeof(arg);
    arg.start = at;
    arg.end = end;
    arg.vec = reinterpret_cast<uint64_t>(regions.data());
    arg.vec_len = regions.size();
    arg.category_inverted = kIsFile | kIsPfnZero;
    arg.category_mask = kIsFile | kIsPfnZero;
    arg.category_anyof_mask = kIsPresent | kIsSwapped;
    arg.return_mask = kIsPresent | kIsSwapped;
    int n = ioctl(pagemap, kPagemapScan, &arg);
    if (n < 0) return Errno(errno);
    for (int i = 0; i < n; ++i) Add(runs, regions[static_cast<size_t>(i)].start, regions[static_cast<size_t>(i)].end);
    if (arg.walk_end <= at) return Errno(EIO);
    at = arg.walk_end;
  }
  return Ok();
}

// The same from the old interface, which does not tell the zero page.
ErrnoOr<void> ScanByReading(int pagemap, uint64_t start, uint64_t end, std::vector<PageRun>* runs) {
  std::array<uint64_t, 4096> entries;
  for (uint64_t at = start; at < end;) {
    size_t count = std::min<uint64_t>(entries.size(), (end - at) / kPageSize);
    ssize_t n = pread(pagemap, entries.data(), count * 8, static_cast<off_t>(at / kPageSize * 8));
    if (n < 8) return Errno(n < 0 ? errno : EIO);
    for (size_t i = 0; i < static_cast<size_t>(n) / 8; ++i, at += kPageSize) {
      bool exists = (entries[i] >> 62 & 3) != 0, file = (entries[i] >> 61 & 1) != 0;
      if (exists && !file) Add(runs, at, at + kPageSize);
    }
  }
  return Ok();
}

// Advice and the like that the host must know again.
void AppendFlagOps(const Vma& vma, std::vector<StubOp>* ops) {
  auto advise = [&](int advice) { ops->push_back(MemoryManager::Op(SYS_madvise, vma.start, vma.size(), static_cast<uint64_t>(advice))); };
  if ((vma.flags & Vma::kDontFork) != 0) advise(MADV_DONTFORK);
  if ((vma.flags & Vma::kWipeOnFork) != 0) advise(MADV_WIPEONFORK);
  if (vma.image) return;
  if ((vma.flags & Vma::kNoHuge) != 0) advise(MADV_NOHUGEPAGE);
  if ((vma.flags & Vma::kHuge) != 0) advise(MADV_HUGEPAGE);
  if ((vma.flags & Vma::kHuge) == 0) MemoryManager::AppendHugeAdvice(vma, ops);
}

}  // namespace

ErrnoOr<std::vector<PageRun>> PagesToSave(const MemoryManager& mm) {
  char path[64];
  snprintf(path, sizeof(path), "/proc/%d/pagemap", mm.attached() ? mm.space().host_pid() : 0);
  UniqueFd pagemap(open(path, O_RDONLY | O_CLOEXEC));
  if (!pagemap.valid()) return Errno(errno);
  std::vector<PageRun> runs;
  bool by_ioctl = true;
  for (const auto& [start, vma] : mm.vmas()) {
    if (vma.shared || vma.name == VmaName::kVdso || (vma.flags & kGuard) != 0) continue;
    if (vma.image) {
      runs.push_back({vma.start, vma.end, true, vma.image_offset});
      continue;
    }
    if (by_ioctl) {
      size_t before = runs.size();
      auto scanned = ScanByIoctl(pagemap.get(), vma.start, vma.end, &runs);
      if (scanned.ok()) continue;
      if (!scanned.Is(ENOTTY) && !scanned.Is(EINVAL)) return scanned.error();
      by_ioctl = false;
      runs.resize(before);
    }
    TRY(ScanByReading(pagemap.get(), vma.start, vma.end, &runs));
  }
  return runs;
}

ErrnoOr<std::vector<StubOp>> RestoreOps(MemoryManager& mm, std::span<const ImageRun> runs, const RestoreSources& sources,
                                        std::vector<ImageRun>* copies) {
  for (const ImageRun& run : runs) {
    if (run.start >= run.end || (run.start | run.end | run.image_offset) % kPageSize != 0 || run.image_offset > INT64_MAX - (run.end - run.start) ||
        !mm.IsMapped(run.start, run.end)) {
      return Errno(EINVAL);
    }
    for (const Vma& part : mm.vmas().Slice(run.start, run.end)) {
      uint64_t offset = run.image_offset + (part.start - run.start);
      if (part.shared || part.name == VmaName::kVdso) return Errno(EINVAL);
      // Registered memory must be anonymous in the host: it tells pages that are missing from others.
      if ((part.flags & (Vma::kWipeOnFork | kUffdBits)) != 0) {
        copies->push_back({part.start, part.end, offset});
        continue;
      }
      mm.vmas().Update(part.start, part.end, [&](Vma& v) {
        v.image = true;
        v.image_offset = offset + (v.start - part.start);
      });
    }
  }
  std::vector<StubOp> ops;
  for (const auto& [start, vma] : mm.vmas()) {
    MapSource source;
    if (vma.name == VmaName::kVdso || vma.name == VmaName::kVvar) {
      source.fd = vma.name == VmaName::kVdso ? sources.vdso_fd : sources.vdso_params_fd;
      if (vma.size() != (vma.name == VmaName::kVdso ? sources.vdso_size : kPageSize)) return Errno(EINVAL);
      ops.push_back(MemoryManager::MapOp(vma, source));
      continue;
    }
    if (vma.image) {
      source.fd = sources.image_fd;
    } else if (vma.file) {
      source = TRY(sources.map_file(vma));
    }
    MemoryManager::AppendMapOps(vma, source, vma.name == VmaName::kStack ? MAP_NORESERVE | MAP_STACK : 0, &ops);
    AppendFlagOps(vma, &ops);
    if ((vma.flags & kGuard) != 0 && !vma.image) ops.push_back(MemoryManager::Op(SYS_madvise, vma.start, vma.size(), kGuardInstall));
  }
  for (uint32_t command : {16u, 64u}) {  // MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, ..._SYNC_CORE
    if ((mm.membarrier() & command) != 0) ops.push_back(MemoryManager::Op(SYS_membarrier, command));
  }
  return ops;
}

}  // namespace amber
