// In which user namespace an address space was made by exec (Linux: mm->user_ns): who may trace a process that has hidden its memory needs the
// capability there, whatever namespace the process has entered since.
//
// Beside MemoryManager, as few have any other than the initial one (null). Guarded by the kernel lock.
#pragma once

#include <map>

#include "sentry/base/ref_ptr.h"
#include "sentry/kernel/user_namespace.h"

namespace amber {

class MemoryManager;

class MemoryOwner {
 public:
  static void Set(const MemoryManager& mm, RefPtr<UserNamespace> ns);
  static RefPtr<UserNamespace> Of(const MemoryManager& mm);
  static void MemoryGone(const MemoryManager& mm);
};

// For who knows an address space by where it lies in memory and does not keep it: another one may come to be at the same place. Kernel lock.
class MemoryWatch {
 public:
  MemoryWatch() = default;
  ~MemoryWatch() { Watch(nullptr); }
  MemoryWatch(const MemoryWatch&) = delete;
  MemoryWatch& operator=(const MemoryWatch&) = delete;

  // From now on this one; null: none.
  void Watch(const MemoryManager* memory);
  // It is the one that is watched, which is there still.
  bool Is(const MemoryManager& memory) const { return memory_ == &memory; }

  // For its destructor.
  static void OnGone(const MemoryManager& memory);

 private:
  using All = std::multimap<const MemoryManager*, MemoryWatch*>;
  static All& all();

  const MemoryManager* memory_ = nullptr;
  All::iterator place_;
};

}  // namespace amber
