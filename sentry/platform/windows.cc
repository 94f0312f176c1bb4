#include "sentry/platform/windows.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <limits>

namespace amber::platform {
namespace {

// Room for a million address spaces; nothing is allocated until it is touched.
constexpr uint64_t kFileSize = kWindowSize << 20;
constexpr size_t kMaxKept = 64;

// Where the first page lies that is there, from `from` on. (Of a host that does not say so: all are.)
off_t NextData(int fd, off_t from) {
  off_t data = lseek(fd, from, SEEK_DATA);
  if (data >= 0) return data;
  return errno == ENXIO ? std::numeric_limits<off_t>::max() : from;
}

}  // namespace

Windows::~Windows() {
  absl::MutexLock lock(&mu_);
  for (const Lease& lease : free_) munmap(lease.window, kWindowSize);
  if (control_ != nullptr) munmap(control_, kControlSize);
}

bool Windows::Start() {
  fd_.reset(memfd_create("mailboxes", MFD_CLOEXEC));
  if (!fd_.valid() || ftruncate(fd_.get(), static_cast<off_t>(kFileSize)) != 0) return false;
  void* control = mmap(nullptr, kControlSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
  if (control == MAP_FAILED) return false;
  control_ = static_cast<Control*>(control);
  return true;
}

Windows::Lease Windows::Allocate() {
  Lease lease;
  {
    absl::MutexLock lock(&mu_);
    if (!free_.empty()) {
      lease = free_.back();
      free_.pop_back();
      return lease;
    }
    if (!unmapped_.empty()) {
      lease.index = unmapped_.back();
      unmapped_.pop_back();
    } else {
      lease.index = next_++;
    }
  }
  void* memory = mmap(nullptr, kWindowSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), static_cast<off_t>(lease.index * kWindowSize));
  if (memory == MAP_FAILED) {
    absl::MutexLock lock(&mu_);
    unmapped_.push_back(lease.index);
  } else {
    lease.window = static_cast<Window*>(memory);
  }
  return lease;
}

// Nothing of one guest may be seen by the next. A guest can touch any page of its window, so the host is asked which are there: the first page of each
// part, which nearly every address space uses, is cleared and kept (the next one would fault it in again, in the sentry and in the stub), and what is
// between them, usually nothing, is dropped.
void Windows::Clear(const Lease& lease) {
  constexpr uint64_t kKept[] = {0, offsetof(Window, mailboxes), offsetof(Window, memory), offsetof(Window, actions), kWindowSize};
  const off_t base = static_cast<off_t>(lease.index * kWindowSize);
  for (size_t i = 0; kKept[i] != kWindowSize; i++) {
    const off_t page = base + static_cast<off_t>(kKept[i]), rest = page + 4096, end = base + static_cast<off_t>(kKept[i + 1]);
    off_t data = NextData(fd_.get(), page);
    if (data == page) {
      memset(reinterpret_cast<char*>(lease.window) + kKept[i], 0, 4096);
      data = NextData(fd_.get(), rest);
    }
    if (data < end) fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, rest, end - rest);
  }
}

void Windows::Free(const Lease& lease) {
  Clear(lease);
  absl::MutexLock lock(&mu_);
  if (free_.size() < kMaxKept) {
    free_.push_back(lease);
    return;
  }
  fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(lease.index * kWindowSize), kWindowSize);
  munmap(lease.window, kWindowSize);
  unmapped_.push_back(lease.index);
}

}  // namespace amber::platform
