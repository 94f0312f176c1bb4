#include "sentry/mm/memory_owner.h"

#include <unordered_map>
#include <utility>

#include "absl/synchronization/mutex.h"

namespace amber {
namespace {

// A memory may go on a worker that does not hold the kernel lock: the last reference is that of a finished operation.
absl::Mutex& Lock() {
  static auto* lock = new absl::Mutex();
  return *lock;
}
std::unordered_map<const MemoryManager*, RefPtr<UserNamespace>>& Owners() {
  static auto* owners = new std::unordered_map<const MemoryManager*, RefPtr<UserNamespace>>();
  return *owners;
}

}  // namespace

void MemoryOwner::Set(const MemoryManager& mm, RefPtr<UserNamespace> ns) {
  RefPtr<UserNamespace> before;  // dropped outside the lock
  absl::MutexLock lock(&Lock());
  auto it = Owners().find(&mm);
  if (it != Owners().end()) before = std::move(it->second);
  if (ns) {
    Owners()[&mm] = std::move(ns);
  } else if (it != Owners().end()) {
    Owners().erase(it);
  }
}

RefPtr<UserNamespace> MemoryOwner::Of(const MemoryManager& mm) {
  absl::MutexLock lock(&Lock());
  auto it = Owners().find(&mm);
  return it != Owners().end() ? it->second : RefPtr<UserNamespace>();
}

void MemoryOwner::MemoryGone(const MemoryManager& mm) { Set(mm, nullptr); }

}  // namespace amber
