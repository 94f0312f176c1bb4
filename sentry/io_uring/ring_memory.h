// The memory that an io_uring shares with its program: two rings and the array of submissions, in a memfd of the sentry's own.
//
// The program writes all of it at any time. So every word is read once, atomically, and what is read is checked where it is used; masks,
// sizes and our own ends of the rings are kept here and never read back. Only we can change the file's size.
#pragma once

#include <linux/io_uring.h>

#include <cstdint>

#include "sentry/base/errno_or.h"
#include "sentry/base/unique_fd.h"

namespace amber {

class RingMemory {
 public:
  RingMemory() = default;
  ~RingMemory();
  RingMemory(const RingMemory&) = delete;
  RingMemory& operator=(const RingMemory&) = delete;

  struct Shape {
    bool large_submissions = false;  // of 128 bytes, half of which nobody here looks at
    bool large_completions = false;  // of 32 bytes, half of which are 0
    bool array = true;               // of the submissions' numbers
  };
  // Both are powers of two. ENOMEM.
  ErrnoOr<void> Create(uint32_t submissions, uint32_t completions, const Shape& shape);
  // The same memory out of an image, of that many entries.
  ErrnoOr<void> Adopt(UniqueFd fd, uint32_t submissions, uint32_t completions, const Shape& shape);
  int fd() const { return fd_.get(); }
  uint64_t size() const { return size_; }
  uint32_t submissions() const { return submissions_; }
  uint32_t completions() const { return completions_; }
  // Where a mapping at mmap offset `offset` (IORING_OFF_*) of that size lies in the file; EINVAL.
  ErrnoOr<uint64_t> Locate(uint64_t offset, uint64_t size) const;
  void Describe(io_uring_params* out) const;

  // The index of the submission that the program has put at `position` of its submission ring, and its end of the ring.
  uint32_t SubmissionIndex(uint32_t position) const;
  uint32_t SubmissionTail() const;
  void SetSubmissionHead(uint32_t head);
  // One copy of it; `index` is below submissions().
  io_uring_sqe Submission(uint32_t index) const;
  void CountDropped();
  void SetFlag(uint32_t flag, bool on);

  uint32_t CompletionHead() const;
  // At `position`, and then the ring's end behind it.
  void PutCompletion(uint32_t position, const io_uring_cqe& cqe);
  void CountOverflow();
  // The program does not want the eventfd to be told.
  bool EventsDisabled() const;

 private:
  struct Rings;
  ErrnoOr<void> Map(uint32_t submissions, uint32_t completions);
  uint64_t submission_size() const { return shape_.large_submissions ? 128 : 64; }
  uint64_t completion_size() const { return shape_.large_completions ? 32 : 16; }

  UniqueFd fd_;
  Rings* rings_ = nullptr;
  Shape shape_;
  char* cqes_ = nullptr;
  uint32_t* array_ = nullptr;
  uint64_t* sqes_ = nullptr;
  uint64_t size_ = 0, cqes_at_ = 0, array_at_ = 0, sqes_at_ = 0;
  uint32_t submissions_ = 0, completions_ = 0;
};

}  // namespace amber
