// Which address spaces have contexts of userfaultfd(2) (sentry/fs/userfaultfd), and how mappings are marked that are registered with one.
//
// The host does the work: a context is a userfaultfd of the host's, made in the stub. What is here is what the tree must know, so that a restore can
// make it again. Contexts are noted by the address space without holding it, as Linux's hold no user of it. Any thread; contexts are called under
// the kernel lock.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "sentry/base/errno_or.h"
#include "sentry/platform/platform.h"

namespace amber {

class MemoryManager;
class Task;

// Bits of Vma::flags beside those that vma.h names: how the mapping is registered, and in the upper half the number of the context.
inline constexpr uint32_t kUffdMissing = 1 << 12, kUffdWriteProtect = 1 << 13, kUffdMinor = 1 << 14;
inline constexpr int kUffdShift = 16;
inline constexpr uint32_t kUffdBits = kUffdMissing | kUffdWriteProtect | kUffdMinor | 0xffffu << kUffdShift;

class UserfaultContext {
 public:
  // The last user of the address space has gone.
  virtual void OnMemoryGone() = 0;
  // A restore: `task` is the first thread of the new address space, stopped, and `run` has it make one host call.
  using RunOp = std::function<ErrnoOr<int64_t>(const platform::StubOp&)>;
  virtual ErrnoOr<void> MakeAgain(Task& task, const RunOp& run) = 0;

 protected:
  ~UserfaultContext() = default;
};

class Userfaults {
 public:
  // Notes a context; returns its number among those of the address space, 0 if there are too many. With `number`: as that, 0 if it is taken.
  static uint32_t Add(const MemoryManager& mm, UserfaultContext& context, uint32_t number = 0);
  static void Remove(const MemoryManager& mm, UserfaultContext& context);
  static std::vector<UserfaultContext*> Of(const MemoryManager& mm);
  static void MemoryGone(const MemoryManager& mm);
};

}  // namespace amber
