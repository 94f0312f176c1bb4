#include "sentry/platform/fast_actions.h"

#include <sys/syscall.h>

#include "sentry/platform/platform_impl.h"
#include "sentry/platform/stub_text.h"
#include "sentry/platform/thread_impl.h"

namespace amber::platform {
namespace {

// Word by word: the guest may write here at the same time.
void CopyWords(uint64_t* to, const uint64_t* from, size_t count) {
  for (size_t i = 0; i < count; i++) __atomic_store_n(to + i, __atomic_load_n(from + i, __ATOMIC_RELAXED), __ATOMIC_RELAXED);
}

}  // namespace

bool ThreadImpl::OfferActions(std::span<const uint64_t, kActions * kActionWords> actions) {
  SpaceCore& space = process_->space();
  if (space.fast_sites() == nullptr) return false;
  CopyWords(space.signal_actions(slot_)->actions[0], actions.data(), actions.size());
  __atomic_store_n(&box_->fast.changed_actions, uint64_t{0}, __ATOMIC_RELAXED);
  box_->fast.memory = FastMemoryAddress();
  __atomic_store_n(&box_->fast.actions, 1u, __ATOMIC_RELEASE);
  return true;
}

void ThreadImpl::SetAction(int signo, std::span<const uint64_t, kActionWords> action) {
  CopyWords(process_->space().signal_actions(slot_)->actions[signo - 1], action.data(), action.size());
}

void ThreadImpl::WithdrawActions() { __atomic_store_n(&box_->fast.actions, 0u, __ATOMIC_RELEASE); }

uint64_t ThreadImpl::TakeActions(ActionTable out) {
  uint64_t* word = &box_->fast.changed_actions;
  if (__atomic_load_n(word, __ATOMIC_RELAXED) == 0) return 0;
  absl::MutexLock lock(&mu_);
  if (slot_freed_) return 0;  // it may be another thread's by now
  uint64_t changed = __atomic_exchange_n(word, uint64_t{0}, __ATOMIC_ACQUIRE);
  const SignalActions* table = process_->space().signal_actions(slot_);
  for (uint64_t rest = changed; rest != 0; rest &= rest - 1) {
    int index = __builtin_ctzll(rest);
    CopyWords(&out[static_cast<size_t>(index) * kActionWords], table->actions[index], kActionWords);
  }
  return changed;
}

// A thread that stopped in the code that answers rt_sigaction (stub_fast.cc): as in LeaveFastCode().
bool ThreadImpl::LeaveActions(uint64_t behind) {
  Registers& regs = frame_.regs;
  if (regs.rip < StubAddress(stub_fast_actions)) {
    regs.rip = regs.rcx - 2;
    return false;
  }
  if (regs.rip < StubAddress(stub_fast_actions_set)) {
    regs.rip = behind - 2;
    return true;
  }
  uint64_t index = static_cast<uint32_t>(regs.rdi) - 1;
  if (regs.rsi != 0 && index < kActions) {
    CopyWords(process_->space().signal_actions(slot_)->actions[index], box_->fast.action, kActionWords);
    __atomic_fetch_or(&box_->fast.changed_actions, uint64_t{1} << index, __ATOMIC_RELEASE);
  }
  regs.rax = 0;
  regs.rip = behind;
  return false;
}

bool OfferActions(Thread* thread, std::span<const uint64_t, kActions * kActionWords> actions) {
  auto* impl = dynamic_cast<ThreadImpl*>(thread);
  return impl != nullptr && impl->OfferActions(actions);
}

void SetAction(Thread* thread, int signo, std::span<const uint64_t, kActionWords> action) {
  static_cast<ThreadImpl*>(thread)->SetAction(signo, action);
}

void WithdrawActions(Thread* thread) { static_cast<ThreadImpl*>(thread)->WithdrawActions(); }

uint64_t TakeActions(Thread* thread, ActionTable out) { return static_cast<ThreadImpl*>(thread)->TakeActions(out); }

}  // namespace amber::platform
