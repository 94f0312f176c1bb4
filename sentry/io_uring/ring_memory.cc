#include "sentry/io_uring/ring_memory.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <utility>

#include "sentry/base/guest_fd.h"

namespace amber {

// Ends that one side writes and the other reads lie in cache lines of their own.
struct RingMemory::Rings {
  alignas(64) uint32_t sq_head;
  alignas(64) uint32_t sq_tail;
  alignas(64) uint32_t cq_head;
  alignas(64) uint32_t cq_tail;
  alignas(64) uint32_t sq_mask;
  uint32_t cq_mask, sq_entries, cq_entries, sq_dropped, sq_flags, cq_flags, cq_overflow;
};

namespace {

constexpr uint64_t kPage = 4096;
uint64_t PagesOf(uint64_t size) { return (size + kPage - 1) & ~(kPage - 1); }
uint32_t Load(const uint32_t* word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
void Store(uint32_t* word, uint32_t value) { __atomic_store_n(word, value, __ATOMIC_RELEASE); }

}  // namespace

RingMemory::~RingMemory() {
  if (rings_ != nullptr) munmap(rings_, size_);
}

ErrnoOr<void> RingMemory::Create(uint32_t submissions, uint32_t completions, const Shape& shape) {
  shape_ = shape;
  fd_ = GuestFd(memfd_create("io_uring", MFD_CLOEXEC));
  if (!fd_.valid()) return Errno(ENOMEM);
  TRY(Map(submissions, completions));
  rings_->sq_mask = submissions - 1;
  rings_->sq_entries = submissions;
  rings_->cq_mask = completions - 1;
  rings_->cq_entries = completions;
  return Ok();
}

ErrnoOr<void> RingMemory::Adopt(UniqueFd fd, uint32_t submissions, uint32_t completions, const Shape& shape) {
  shape_ = shape;
  fd_ = std::move(fd);
  return Map(submissions, completions);
}

ErrnoOr<void> RingMemory::Map(uint32_t submissions, uint32_t completions) {
  submissions_ = submissions;
  completions_ = completions;
  cqes_at_ = sizeof(Rings);
  array_at_ = cqes_at_ + completion_size() * uint64_t{completions};
  sqes_at_ = PagesOf(array_at_ + (shape_.array ? sizeof(uint32_t) * uint64_t{submissions} : 0));
  size_ = sqes_at_ + PagesOf(submission_size() * uint64_t{submissions});
  // An image may have kept less: what lies behind its end was never written.
  if (ftruncate(fd_.get(), static_cast<off_t>(size_)) != 0) return Errno(ENOMEM);
  void* memory = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
  if (memory == MAP_FAILED) return Errno(ENOMEM);
  char* base = static_cast<char*>(memory);
  rings_ = reinterpret_cast<Rings*>(base);
  cqes_ = base + cqes_at_;
  array_ = reinterpret_cast<uint32_t*>(base + array_at_);
  sqes_ = reinterpret_cast<uint64_t*>(base + sqes_at_);
  return Ok();
}

ErrnoOr<uint64_t> RingMemory::Locate(uint64_t offset, uint64_t size) const {
  uint64_t start = 0, end = sqes_at_, base = offset & IORING_OFF_MMAP_MASK;
  if (base == IORING_OFF_SQES) {
    start = sqes_at_;
    end = size_;
  } else if (base != IORING_OFF_SQ_RING && base != IORING_OFF_CQ_RING) {
    return Errno(EINVAL);
  }
  if (offset - base > end - start || size > end - start - (offset - base)) return Errno(EINVAL);
  return start + (offset - base);
}

void RingMemory::Describe(io_uring_params* out) const {
  out->sq_entries = submissions_;
  out->cq_entries = completions_;
  out->sq_off = {};
  out->sq_off.head = offsetof(Rings, sq_head);
  out->sq_off.tail = offsetof(Rings, sq_tail);
  out->sq_off.ring_mask = offsetof(Rings, sq_mask);
  out->sq_off.ring_entries = offsetof(Rings, sq_entries);
  out->sq_off.flags = offsetof(Rings, sq_flags);
  out->sq_off.dropped = offsetof(Rings, sq_dropped);
  out->sq_off.array = shape_.array ? static_cast<uint32_t>(array_at_) : 0;
  out->cq_off = {};
  out->cq_off.head = offsetof(Rings, cq_head);
  out->cq_off.tail = offsetof(Rings, cq_tail);
  out->cq_off.ring_mask = offsetof(Rings, cq_mask);
  out->cq_off.ring_entries = offsetof(Rings, cq_entries);
  out->cq_off.overflow = offsetof(Rings, cq_overflow);
  out->cq_off.cqes = static_cast<uint32_t>(cqes_at_);
  out->cq_off.flags = offsetof(Rings, cq_flags);
}

uint32_t RingMemory::SubmissionIndex(uint32_t position) const {
  position &= submissions_ - 1;
  return shape_.array ? Load(&array_[position]) : position;
}
uint32_t RingMemory::SubmissionTail() const { return Load(&rings_->sq_tail); }
void RingMemory::SetSubmissionHead(uint32_t head) { Store(&rings_->sq_head, head); }

io_uring_sqe RingMemory::Submission(uint32_t index) const {
  constexpr size_t kWords = sizeof(io_uring_sqe) / sizeof(uint64_t);
  uint64_t words[kWords];
  for (size_t i = 0; i < kWords; ++i) words[i] = __atomic_load_n(&sqes_[index * (submission_size() / sizeof(uint64_t)) + i], __ATOMIC_RELAXED);
  io_uring_sqe sqe;
  memcpy(&sqe, words, sizeof(sqe));
  return sqe;
}

void RingMemory::CountDropped() { __atomic_fetch_add(&rings_->sq_dropped, 1, __ATOMIC_RELAXED); }

void RingMemory::SetFlag(uint32_t flag, bool on) {
  if (on) {
    __atomic_fetch_or(&rings_->sq_flags, flag, __ATOMIC_RELEASE);
  } else {
    __atomic_fetch_and(&rings_->sq_flags, ~flag, __ATOMIC_RELEASE);
  }
}

uint32_t RingMemory::CompletionHead() const { return Load(&rings_->cq_head); }

void RingMemory::PutCompletion(uint32_t position, const io_uring_cqe& cqe) {
  char* at = cqes_ + (position & (completions_ - 1)) * completion_size();
  memcpy(at, &cqe, sizeof(cqe));
  if (shape_.large_completions) memset(at + sizeof(cqe), 0, sizeof(cqe));
  Store(&rings_->cq_tail, position + 1);
}

void RingMemory::CountOverflow() { __atomic_fetch_add(&rings_->cq_overflow, 1, __ATOMIC_RELAXED); }
bool RingMemory::EventsDisabled() const { return (Load(&rings_->cq_flags) & IORING_CQ_EVENTFD_DISABLED) != 0; }

}  // namespace amber
