// The seed: a process of ours without any of the sentry's memory, which clones itself into ready
// stubs on order. A ready stub runs only trusted code until it is built (Build), gets its filter,
// and becomes a guest.
//
// Thread-safe: one order at a time, under mu_.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "sentry/base/unique_fd.h"
#include "sentry/platform/platform.h"
#include "sentry/platform/windows.h"

namespace amber::platform {

struct ReadyStub {
  pid_t pid = 0;
  UniqueFd pidfd;
  Windows::Lease lease;
};

class Seed {
 public:
  explicit Seed(Windows& windows) : windows_(windows) {}
  ~Seed();
  // Clones the calling process, which should have one thread only. `error` says what failed.
  bool Start(std::string* error);
  // Clones a stub. Blocks for its making.
  ErrnoOr<ReadyStub> Clone();
  // Runs `ops` in the stub; with `last` it then gets its filter and waits to be resumed. After an
  // error the stub is on its way to its end.
  ErrnoOr<void> RunBatch(ReadyStub& stub, std::span<const StubOp> ops, bool last);
  // Kills and reaps a stub that never became a guest, and frees its window.
  void Discard(ReadyStub stub);

  // The host's vDSO image (its data pages lie below it); 0 if there is none.
  uint64_t vdso_address() const { return vdso_address_; }
  uint64_t vdso_size() const { return vdso_size_; }

 private:
  ErrnoOr<void> SendFds(std::span<const int> fds);
  // Lets the stub run the batch in its header, with these descriptors, and waits for it.
  ErrnoOr<void> Converse(ReadyStub& stub, std::span<const int> fds);
  ErrnoOr<void> Converse(ReadyStub& stub);
  void Drain();

  Windows& windows_;
  pid_t pid_ = 0;
  UniqueFd pidfd_;
  UniqueFd socket_, theirs_;
  int stub_socket_ = -1;  // the number of the other end in stubs
  uint64_t vdso_address_ = 0;
  uint64_t vdso_size_ = 0;
  absl::Mutex mu_;
  uint32_t order_ ABSL_GUARDED_BY(mu_) = 1;
  absl::Mutex batch_mu_;  // the socket is one for all stubs
};

}  // namespace amber::platform
