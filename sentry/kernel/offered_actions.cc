#include "sentry/kernel/offered_actions.h"

#include <signal.h>

#include <array>
#include <bit>
#include <cstring>

#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/platform/fast_actions.h"

namespace amber {
namespace {

constexpr uint64_t kKnownSaFlags = SA_NOCLDSTOP | SA_NOCLDWAIT | SA_SIGINFO | SA_ONSTACK | SA_RESTART | SA_NODEFER | SA_RESETHAND |
                                   0x04000000 /* SA_RESTORER */ | 0x800 /* SA_EXPOSE_TAGBITS */;
static_assert(kKnownSaFlags == 0xdc000807);  // stub_fast.cc has the number

using Words = std::array<uint64_t, platform::kActionWords>;
static_assert(sizeof(Words) == sizeof(SigAction) && platform::kActions == kNumSignals);

Words WordsOf(const SigAction& action) { return std::bit_cast<Words>(action); }

bool Has(Task& task) { return task.extras().actions_offered && task.thread() != nullptr && !task.exiting(); }

bool MayOffer(const Task& task) {
  const ThreadGroup& group = task.group();
  return group.tasks().size() == 1 && group.handlers().ref_count() == 1 && task.extras().seccomp_mode == 0 && task.extras().tracee == nullptr &&
         task.kernel().strace() == nullptr;
}

}  // namespace

void SetAction(ThreadGroup& group, int signo, SigAction action) {
  action.flags &= kKnownSaFlags;  // SA_UNSUPPORTED is how a caller learns what is known
  action.mask &= ~kUnblockable;
  group.handlers()[signo] = action;
  // POSIX: becoming ignored discards what is pending.
  if (group.handlers().Ignores(signo)) group.DiscardPending(SignalBit(signo));
}

void OfferActions(Task& task) {
  task.extras().actions_offered = false;
  if (!MayOffer(task)) return;
  std::array<uint64_t, kNumSignals * platform::kActionWords> table;
  for (int signo = 1; signo <= kNumSignals; signo++) {
    Words words = WordsOf(task.group().handlers()[signo]);
    memcpy(&table[static_cast<size_t>(signo - 1) * words.size()], words.data(), sizeof(words));
  }
  task.extras().actions_offered = platform::OfferActions(task.thread(), table);
}

void TakeActions(Task& task) {
  if (!Has(task)) return;
  std::array<uint64_t, kNumSignals * platform::kActionWords> table;
  uint64_t changed = platform::TakeActions(task.thread(), table);
  changed &= ~kUnblockable;  // only a forger sets these
  for (; changed != 0; changed &= changed - 1) {
    int signo = std::countr_zero(changed) + 1;
    SigAction action;
    memcpy(&action, &table[static_cast<size_t>(signo - 1) * platform::kActionWords], sizeof(action));
    SetAction(task.group(), signo, action);
  }
}

void TakeActionsOf(const ThreadGroup& group) {
  // Whoever is offered them is its group's only task, and has them until that changes.
  if (group.tasks().size() == 1) TakeActions(*group.tasks()[0]);
}

void WithdrawActions(Task& task, bool may_run) {
  if (!Has(task)) return;
  platform::WithdrawActions(task.thread());
  TakeActions(task);
  // One that runs may be in the middle of a change, which is taken at its next contact.
  if (!may_run) task.extras().actions_offered = false;
}

void TellAction(Task& task, int signo) {
  if (Has(task)) platform::SetAction(task.thread(), signo, WordsOf(task.group().handlers()[signo]));
}

}  // namespace amber
