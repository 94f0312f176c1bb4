// Files of which a private mapping that may not be executed has succeeded: another one, of the same file and as small, can fail for want of the host's
// memory only, so its result is known before it is made (decision 044). Whether a file may be mapped is its file system's word, and whether it may be
// executed its mount's, which is why the latter are left out. Thread-safe.
#pragma once

#include <sys/types.h>

#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/synchronization/mutex.h"
#include "sentry/platform/platform.h"

namespace amber::platform {

class MappedFiles {
 public:
  // Both for operations with a descriptor.
  bool IsKnown(const StubOp& op);
  void NoteSuccess(const StubOp& op);

 private:
  using Id = std::pair<dev_t, ino_t>;
  static bool IsPlain(const StubOp& op);
  static bool Find(int fd, Id* id);
  absl::Mutex mu_;
  absl::flat_hash_set<Id> known_ ABSL_GUARDED_BY(mu_);
};

}  // namespace amber::platform
