#include "sentry/kernel/under_lock.h"

#include <atomic>
#include <vector>

#include "absl/synchronization/mutex.h"

namespace amber {
namespace {

// One kernel is in a process; what dies with it may come later than its members.
struct Discarded {
  absl::Mutex mu;
  std::vector<std::function<void()>> holders ABSL_GUARDED_BY(mu);
  std::atomic<bool> any{false};
};

Discarded& All() {
  static auto* all = new Discarded;
  return *all;
}

}  // namespace

void Discard(std::function<void()> holder) {
  Discarded& all = All();
  absl::MutexLock lock(&all.mu);
  all.holders.push_back(std::move(holder));
  all.any.store(true, std::memory_order_release);
}

void ClearDiscarded() {
  Discarded& all = All();
  // What goes may discard more.
  while (all.any.load(std::memory_order_acquire)) {
    std::vector<std::function<void()>> holders;
    {
      absl::MutexLock lock(&all.mu);
      holders.swap(all.holders);
      all.any.store(false, std::memory_order_relaxed);
    }
  }
}

}  // namespace amber
