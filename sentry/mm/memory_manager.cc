#include "sentry/mm/memory_manager.h"

#include <poll.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>

#include "sentry/base/check.h"
#include "sentry/kernel/task.h"
#include "sentry/mm/guard.h"
#include "sentry/mm/host_advice.h"
#include "sentry/mm/memory_owner.h"
#include "sentry/mm/moved.h"
#include "sentry/mm/userfault.h"

namespace amber {

namespace {

using platform::kGuestTop;
using platform::kMinAddress;
using platform::StubOp;

// Below this, placement goes upwards when there is no room below mmap_base (Linux: TASK_UNMAPPED_BASE).
constexpr uint64_t kUnmappedBase = PageDown(kGuestTop / 3);
// Where MAP_32BIT mappings go.
constexpr uint64_t kLowStart = 0x40000000, kLowEnd = 0x80000000;
constexpr uint64_t kHugeSize = 2 << 20;
// Anonymous mappings from this size on get huge pages where the guest did not say otherwise.
constexpr uint64_t kHugeThreshold = 4 << 20;

}  // namespace

MemoryManager::~MemoryManager() {
  Userfaults::MemoryGone(*this);
  MemoryOwner::MemoryGone(*this);
  MemoryWatch::OnGone(*this);
}

RefPtr<MemoryManager> MemoryManager::Fork() const {
  auto child = MakeRef<MemoryManager>();
  for (const auto& [start, vma] : vmas_) {
    if ((vma.flags & Vma::kDontFork) != 0) continue;
    // The child's thread copies what was moved (CopyMovedOps).
    Vma copy = IsMoved(vma) ? UnmovedVma(vma) : vma;
    // mlock(2): locks are not inherited. Nor are registrations with userfaultfd (dup_userfaultfd() of fs/userfaultfd.c; nobody has UFFD_FEATURE_EVENT_FORK).
    copy.flags &= ~(Vma::kLocked | kUffdBits);
    // What is not copied has no guards either.
    if ((vma.flags & Vma::kWipeOnFork) != 0) copy = GuestView(copy);
    child->vmas_.Insert(std::move(copy));
  }
  MemoryOwner::Set(*child, MemoryOwner::Of(*this));
  child->layout_ = layout_;
  child->auxv_ = auxv_;
  child->exe_ = exe_;
  child->reserved_ = reserved_;
  child->membarrier_ = membarrier_;
  child->peak_total_ = child->vmas_.total();
  return child;
}

bool MemoryManager::TryLock(Task& task, uint64_t start, uint64_t end) {
  if (owner_ != nullptr) return false;
  bool free = true;
  for (const Pending& p : pending_) {
    if (p.task == &task || p.end <= start || end <= p.start) continue;
    free = false;
    // It may compute for long before it contacts us again: make it.
    if (p.task->thread() != nullptr) p.task->thread()->Kick();
  }
  if (free) owner_ = &task;
  return free;
}

void MemoryManager::Unlock(Task& task) {
  if (owner_ != &task) return;
  owner_ = nullptr;
  lock_queue_.Notify(POLLIN);
}

uint64_t MemoryManager::AddPending(Task& task, uint64_t start, uint64_t end) {
  pending_.push_back({next_token_, &task, start, end});
  return next_token_++;
}

void MemoryManager::RemovePending(uint64_t token) {
  if (std::erase_if(pending_, [&](const Pending& p) { return p.token == token; }) > 0) lock_queue_.Notify(POLLIN);
}

void MemoryManager::TaskGone(Task& task) {
  size_t gone = std::erase_if(pending_, [&](const Pending& p) { return p.task == &task; });
  if (owner_ == &task) {
    owner_ = nullptr;
    ++gone;
  }
  if (gone > 0) lock_queue_.Notify(POLLIN);
}

bool MemoryManager::IsGuestRange(uint64_t start, uint64_t end) const {
  if (start >= end || start < kMinAddress || end > kGuestTop) return false;
  return std::none_of(reserved_.begin(), reserved_.end(), [&](const auto& r) { return start < r.second && r.first < end; });
}

ErrnoOr<uint64_t> MemoryManager::Place(uint64_t hint, uint64_t size, bool low_2gb) const {
  if (size == 0 || size > kGuestTop) return Errno(ENOMEM);
  // The start of something reserved, or of a native call that is still running, in [at, at + size).
  auto clash = [&](uint64_t at) -> std::optional<uint64_t> {
    for (const auto& r : reserved_) {
      if (at < r.second && r.first < at + size) return r.first;
    }
    for (const Pending& p : pending_) {
      if (at < p.end && p.start < at + size) return p.start;
    }
    return std::nullopt;
  };
  if (hint != 0 && hint <= kGuestTop - size && IsGuestRange(hint, hint + size) && vmas_.IsFree(hint, hint + size) && !clash(hint)) {
    return hint;
  }
  // What clashes is cut off from the top of the range that is searched, so each turn ends or makes it smaller.
  auto top_down = [&](uint64_t low, uint64_t high) -> std::optional<uint64_t> {
    while (auto at = vmas_.FindFreeTopDown(size, low, high)) {
      auto clashing = clash(*at);
      if (!clashing) return at;
      high = *clashing;
      if (high <= low) break;
    }
    return std::nullopt;
  };
  if (low_2gb) {
    auto at = top_down(kLowStart, kLowEnd);
    return at ? ErrnoOr<uint64_t>(*at) : Errno(ENOMEM);
  }
  uint64_t base = layout_.mmap_base != 0 ? layout_.mmap_base : kGuestTop;
  if (auto at = top_down(kMinAddress, base)) return *at;
  if (auto at = top_down(kUnmappedBase, kGuestTop)) return *at;
  return Errno(ENOMEM);
}

ErrnoOr<void> MemoryManager::CheckLimits(const MemoryLimits& limits, uint64_t grow, uint64_t data, uint64_t locked, size_t pieces) const {
  if (vmas_.count() + pieces + kHostReserve > kMaxMappings) return Errno(ENOMEM);
  auto exceeds = [](uint64_t have, uint64_t more, uint64_t limit) { return more > limit || have > limit - more; };
  if (grow > 0 && exceeds(vmas_.total(), grow, limits.address_space)) return Errno(ENOMEM);
  if (data > 0 && exceeds(vmas_.data(), data, limits.data)) return Errno(ENOMEM);
  if (locked > 0 && !limits.may_lock && exceeds(vmas_.locked(), locked, limits.memlock)) return Errno(EAGAIN);
  return Ok();
}

void MemoryManager::Record(Vma vma) {
  vmas_.Remove(vma.start, vma.end);
  vmas_.Insert(std::move(vma));
  peak_total_ = std::max(peak_total_, vmas_.total());
}

StubOp MemoryManager::Op(uint64_t number, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f) {
  StubOp op;
  op.number = number;
  uint64_t args[6] = {a, b, c, d, e, f};
  std::copy(std::begin(args), std::end(args), op.args);
  return op;
}

StubOp MemoryManager::MapOp(const Vma& vma, const MapSource& source, int extra_flags) {
  int flags = MAP_FIXED | (vma.shared ? MAP_SHARED : MAP_PRIVATE) | extra_flags;
  if ((vma.flags & Vma::kNoReserve) != 0) flags |= MAP_NORESERVE;
  bool from_file = vma.file || vma.image || source.fd >= 0;
  if (!from_file) flags |= MAP_ANONYMOUS;
  uint64_t offset = vma.image ? vma.image_offset : vma.offset + source.offset;
  StubOp op =
      Op(SYS_mmap, vma.start, vma.size(), static_cast<uint64_t>(vma.prot), static_cast<uint64_t>(flags), ~uint64_t{0}, from_file ? offset : 0);
  if (from_file) op.fd = source.fd;
  return op;
}

void MemoryManager::AppendMapOps(const Vma& vma, const MapSource& source, int extra_flags, std::vector<StubOp>* ops) {
  if (vma.image || source.rest_fd < 0 || vma.offset + vma.size() <= source.rest_from) {
    ops->push_back(MapOp(vma, source, extra_flags));
    return;
  }
  uint64_t seam = vma.offset < source.rest_from ? vma.start + (source.rest_from - vma.offset) : vma.start;
  if (seam > vma.start) ops->push_back(MapOp(vma.Part(vma.start, seam), source, extra_flags));
  // Wraps: the offset in the file is added.
  MapSource rest{.fd = source.rest_fd, .offset = uint64_t{0} - source.rest_from};
  ops->push_back(MapOp(vma.Part(seam, vma.end), rest, extra_flags));
}

void MemoryManager::AppendHugeAdvice(const Vma& vma, std::vector<StubOp>* ops) {
  static const bool kHostHasThem = HostTakesAdvice(MADV_HUGEPAGE);
  if (!kHostHasThem) return;
  if (vma.file || vma.shared || vma.image || vma.size() < kHugeThreshold || (vma.prot & PROT_WRITE) == 0) return;
  if ((vma.flags & (Vma::kNoHuge | Vma::kNoReserve)) != 0 || vma.name == VmaName::kStack) return;
  uint64_t start = (vma.start + kHugeSize - 1) & ~(kHugeSize - 1), end = vma.end & ~(kHugeSize - 1);
  if (start < end) ops->push_back(Op(SYS_madvise, vma.start, vma.size(), MADV_HUGEPAGE));
}

std::vector<platform::FastArea> MemoryManager::FastAreas() const {
  std::vector<platform::FastArea> areas;
  for (const auto& [start, vma] : vmas_) {
    if (vma.name != VmaName::kFast) continue;
    // A restored one may consist of pieces.
    if (!areas.empty() && areas.back().start + areas.back().size == start) {
      areas.back().size += vma.size();
    } else {
      areas.push_back({start, vma.size()});
    }
  }
  return areas;
}

}  // namespace amber
