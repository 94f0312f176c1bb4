#include "sentry/platform/windows.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

namespace amber::platform {
namespace {

// Room for a million address spaces; nothing is allocated until it is touched.
constexpr uint64_t kFileSize = kWindowSize << 20;
constexpr size_t kMaxKept = 64;

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

// Nothing of one guest may be seen by the next.
void Windows::Clear(const Lease& lease) {
  // A guest can touch any page of its window, so the sentry cannot tell which are in use: drop them
  // all but the first ones that nearly every address space uses.
  constexpr uint64_t kBox = offsetof(Window, mailboxes);
  off_t base = static_cast<off_t>(lease.index * kWindowSize);
  memset(static_cast<void*>(lease.window), 0, 4096);
  memset(reinterpret_cast<char*>(lease.window) + kBox, 0, 4096);
  fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, base + 4096, kBox - 4096);
  fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, base + static_cast<off_t>(kBox) + 4096,
            static_cast<off_t>(kWindowSize - kBox) - 4096);
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
