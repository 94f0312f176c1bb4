// The sentry's mailboxes: one big sparse memfd, one window of it per address space. Window 0 holds
// the seed's page. Thread-safe; memory of a window belongs to whoever allocated it, and its content
// is the guest's to forge.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "sentry/base/unique_fd.h"
#include "sentry/platform/stub_abi.h"

namespace amber::platform {

class Windows {
 public:
  struct Lease {
    uint32_t index = 0;
    Window* window = nullptr;  // all zero at first
  };

  Windows() = default;
  Windows(const Windows&) = delete;
  Windows& operator=(const Windows&) = delete;
  ~Windows();

  // False if the host refuses.
  bool Start();
  int fd() const { return fd_.get(); }
  Control* control() { return control_; }

  // A null window if the host has no memory left.
  Lease Allocate();
  // Only when no process maps the window any more.
  void Free(const Lease& lease);

 private:
  void Clear(const Lease& lease);

  UniqueFd fd_;
  Control* control_ = nullptr;
  absl::Mutex mu_;
  std::vector<Lease> free_ ABSL_GUARDED_BY(mu_);
  std::vector<uint32_t> unmapped_ ABSL_GUARDED_BY(mu_);
  uint32_t next_ ABSL_GUARDED_BY(mu_) = 1;
};

}  // namespace amber::platform
