// A ring of io_uring by its raw calls.
#pragma once

#include <linux/io_uring.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <initializer_list>

#include "test/harness/guest_util.h"

namespace guest {

inline constexpr int kSetup = 425, kEnter = 426, kRegister = 427;

class Ring {
 public:
  explicit Ring(unsigned entries = 8, unsigned flags = 0, unsigned completions = 0) {
    params.flags = flags | (completions != 0 ? IORING_SETUP_CQSIZE : 0);
    params.cq_entries = completions;
    fd = static_cast<int>(syscall(kSetup, entries, &params));
    if (fd < 0 && (errno == ENOSYS || errno == EPERM)) Skip("no io_uring here");
    ASSERT(fd >= 0);
    if ((flags & IORING_SETUP_SQE128) != 0) sqe_step_ = 2;
    if ((flags & IORING_SETUP_CQE32) != 0) cqe_step_ = 2;
    has_array_ = (flags & kNoSqArray) == 0;
    size_ = params.cq_off.cqes + params.cq_entries * cqe_step_ * sizeof(io_uring_cqe);
    const size_t array_end = has_array_ ? params.sq_off.array + params.sq_entries * sizeof(unsigned) : 0;
    if (array_end > size_) size_ = array_end;
    base_ = static_cast<char*>(MUST(mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQ_RING)));
    sqes = static_cast<io_uring_sqe*>(MUST(mmap(nullptr, params.sq_entries * sqe_step_ * sizeof(io_uring_sqe), PROT_READ | PROT_WRITE, MAP_SHARED, fd,
                                                static_cast<off_t>(IORING_OFF_SQES))));
  }
  static constexpr unsigned kNoSqArray = 1u << 16;

  unsigned& Word(unsigned offset) { return *reinterpret_cast<unsigned*>(base_ + offset); }

  // A submission to be filled in; taken by the next Submit().
  io_uring_sqe& Next(int opcode, int file, uint64_t data) {
    const unsigned tail = Word(params.sq_off.tail) + queued_;
    const unsigned index = tail & (params.sq_entries - 1);
    if (has_array_) reinterpret_cast<unsigned*>(base_ + params.sq_off.array)[index] = index;
    ++queued_;
    io_uring_sqe& sqe = sqes[index * sqe_step_];
    memset(static_cast<void*>(&sqe), 0, sqe_step_ * sizeof(sqe));
    sqe.opcode = static_cast<uint8_t>(opcode);
    sqe.fd = file;
    sqe.user_data = data;
    return sqe;
  }

  io_uring_sqe& Buffer(int opcode, int file, uint64_t data, const void* memory, unsigned size, uint64_t offset = 0) {
    io_uring_sqe& sqe = Next(opcode, file, data);
    sqe.addr = reinterpret_cast<uint64_t>(memory);
    sqe.len = size;
    sqe.off = offset;
    return sqe;
  }

  long Submit(unsigned wait = 0) {
    const unsigned count = queued_;
    queued_ = 0;
    __atomic_store_n(&Word(params.sq_off.tail), Word(params.sq_off.tail) + count, __ATOMIC_RELEASE);
    return syscall(kEnter, fd, count, wait, wait != 0 ? IORING_ENTER_GETEVENTS : 0, nullptr, 0);
  }

  unsigned Ready() { return __atomic_load_n(&Word(params.cq_off.tail), __ATOMIC_ACQUIRE) - Word(params.cq_off.head); }

  // The next completion, waited for.
  io_uring_cqe Take() {
    if (Ready() == 0) MUST(syscall(kEnter, fd, 0, 1, IORING_ENTER_GETEVENTS, nullptr, 0));
    ASSERT(Ready() > 0);
    unsigned& head = Word(params.cq_off.head);
    const io_uring_cqe cqe = reinterpret_cast<io_uring_cqe*>(base_ + params.cq_off.cqes)[(head & (params.cq_entries - 1)) * cqe_step_];
    __atomic_store_n(&head, head + 1, __ATOMIC_RELEASE);
    return cqe;
  }

  void ExpectNext(uint64_t data, int result) {
    const io_uring_cqe cqe = Take();
    EXPECT_EQ(cqe.user_data, data);
    EXPECT_EQ(cqe.res, result);
  }
  struct Expected {
    uint64_t data;  // below 32
    int result;
  };
  // As many completions, each once.
  void ExpectInAnyOrder(std::initializer_list<Expected> expected) {
    uint32_t all = 0, seen = 0;
    for (const Expected& e : expected) all |= 1u << e.data;
    for (size_t i = 0; i < expected.size(); ++i) {
      const io_uring_cqe cqe = Take();
      for (const Expected& e : expected) {
        if (e.data == cqe.user_data) EXPECT_EQ(cqe.res, e.result);
      }
      seen |= 1u << cqe.user_data;
    }
    EXPECT_EQ(seen, all);
  }

  io_uring_params params = {};
  int fd = -1;
  io_uring_sqe* sqes = nullptr;

 private:
  char* base_ = nullptr;
  size_t size_ = 0;
  unsigned queued_ = 0;
  unsigned sqe_step_ = 1, cqe_step_ = 1;
  bool has_array_ = true;
};

inline constexpr unsigned kMore = IORING_CQE_F_MORE;

// What the flags of a completion say, but for the hint that there is more to read.
inline unsigned FlagsOf(const io_uring_cqe& cqe) { return cqe.flags & ~unsigned{IORING_CQE_F_SOCK_NONEMPTY}; }
inline unsigned Chose(unsigned id, unsigned more = 0) { return IORING_CQE_F_BUFFER | more | id << IORING_CQE_BUFFER_SHIFT; }

inline void ExpectNext(Ring& ring, uint64_t data, int result, unsigned flags) {
  const io_uring_cqe cqe = ring.Take();
  EXPECT_EQ(cqe.user_data, data);
  EXPECT_EQ(cqe.res, result);
  EXPECT_EQ(FlagsOf(cqe), flags);
}

// Of the one submission that waits: its completion's result.
inline int OneResult(Ring& ring, uint64_t data) {
  EXPECT_EQ(ring.Submit(1), 1);
  const io_uring_cqe cqe = ring.Take();
  EXPECT_EQ(cqe.user_data, data);
  return cqe.res;
}

// struct io_uring_buf and struct io_uring_buf_reg: a ring of buffers, whose tail lies in its first entry.
struct BufferEntry {
  uint64_t address;
  uint32_t size;
  uint16_t id, tail;
};
struct BufferRegistration {
  uint64_t address;
  uint32_t entries;
  uint16_t group, flags;
  uint64_t reserved[3];
};

}  // namespace guest
