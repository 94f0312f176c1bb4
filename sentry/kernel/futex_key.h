// Futex words as the sentry sees them: what identifies one, and how one is told that its owner is dead.
//
// Functions and values. Kernel lock.
#pragma once

#include <compare>
#include <cstdint>

#include "sentry/base/errno_or.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/platform/platform.h"
#include "sentry/vfs/file.h"

namespace amber {

class Task;

// A place in a file, or in an address space.
struct FutexKey {
  uint64_t object = 0;  // the host's inode number, or the address of the MemoryManager
  uint64_t device = 0;  // 0: private
  uint64_t offset = 0;
  auto operator<=>(const FutexKey&) const = default;
};

// That of the word at `address` in the task's memory, `shared` unless FUTEX_PRIVATE_FLAG was given. EINVAL if it is not aligned, EFAULT if
// nothing is mapped. `*pin`, if given, keeps the file while the key is in use.
ErrnoOr<FutexKey> FutexKeyOf(Task& task, uint64_t address, bool shared, RefPtr<File>* pin);

// handle_futex_death(), but for the reading: the word becomes FUTEX_OWNER_DIED in one atomic step, and those who wait natively are woken. All of
// them: FUTEX_WAITERS is lost by that step, and each sets it again if it has to wait on.
//
// `wake_only`: one waiter is woken, the word stays. As an operation of the task's own thread, for a word in private memory. Who waits for a robust lock does so without FUTEX_PRIVATE_FLAG.
platform::StubOp TellWordOp(uint64_t address, bool wake_only);
// For a word in a shared mapping of a file, from here: the host knows the waiters by the file, whoever they are. The word is mapped for a
// moment and never touched but by the host's futex call, because the file may be cut short meanwhile. False if it is no such word.
bool TellSharedWord(Task& task, uint64_t address, bool wake_only);

}  // namespace amber
