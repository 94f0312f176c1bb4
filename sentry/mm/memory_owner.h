// In which user namespace an address space was made by exec (Linux: mm->user_ns): who may trace a process that has hidden its memory needs the
// capability there, whatever namespace the process has entered since.
//
// Beside MemoryManager, as few have any other than the initial one (null). Guarded by the kernel lock.
#pragma once

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

}  // namespace amber
