#include "sentry/kernel/robust_list.h"

#include <linux/futex.h>

#include "sentry/kernel/futex_key.h"
#include "sentry/kernel/task.h"
#include "sentry/mm/memory_manager.h"

namespace amber {
namespace {

constexpr size_t kLimit = 2048;  // ROBUST_LIST_LIMIT

// struct robust_list_head.
struct Head {
  uint64_t next;
  int64_t futex_offset;
  uint64_t pending;
};

// Bit 0 of an entry's address: a priority inheritance futex. Its word is treated alike; who waits for it is told by PiFutexes::OnExit().
uint64_t AddressOf(uint64_t entry) { return entry & ~uint64_t{1}; }

// `pending`: the task may have died between giving the word up and waking who waits for it.
void OwnerDied(Task& task, uint64_t address, bool pending, std::vector<platform::StubOp>* ops) {
  if (address % 4 != 0 || address >= platform::kGuestTop) return;
  auto word = task.CopyIn(UserPtr<uint32_t>(address));
  if (!word.ok()) return;
  bool wake_only = pending && *word == 0;
  if (!wake_only && (*word & FUTEX_TID_MASK) != static_cast<uint32_t>(task.tid())) return;
  if (TellSharedWord(task, address, wake_only)) return;
  if (ops != nullptr) {
    ops->push_back(TellWordOp(address, wake_only));
  } else if (!wake_only) {
    // Another process may share this memory (CLONE_VM).
    (void)task.CopyOut(UserPtr<uint32_t>(address), (*word & FUTEX_WAITERS) | FUTEX_OWNER_DIED);
  }
}

}  // namespace

void WalkRobustList(Task& task, std::vector<platform::StubOp>* ops) {
  uint64_t head_address = task.robust_list();
  if (head_address == 0 || task.thread() == nullptr || !task.has_mm()) return;
  task.set_robust_list(0);
  auto head = task.CopyIn(UserPtr<Head>(head_address));
  if (!head.ok()) return;
  uint64_t offset = static_cast<uint64_t>(head->futex_offset);
  uint64_t entry = head->next;
  for (size_t i = 0; i < kLimit && AddressOf(entry) != head_address; ++i) {
    // The next pointer first: the next owner of the word may free it.
    auto next = task.CopyIn(UserPtr<uint64_t>(AddressOf(entry)));
    if (AddressOf(entry) != AddressOf(head->pending)) OwnerDied(task, AddressOf(entry) + offset, false, ops);
    if (!next.ok()) return;
    entry = *next;
  }
  if (head->pending != 0) OwnerDied(task, AddressOf(head->pending) + offset, true, ops);
}

}  // namespace amber
