// Sending signals: who gets them, what they discard, whom they wake (Linux: send_signal_locked, complete_signal, prepare_signal).
#include <sys/resource.h>

#include <algorithm>

#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/offered_actions.h"
#include "sentry/kernel/posix_timers.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/task_lifecycle.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/tracing.h"

namespace amber {
namespace {

// True if `info` must not be queued: nobody would ever see it. A blocked signal stays pending even if it is ignored now.
// What a tracer may want to see does, too.
bool Discarded(const SignalHandlers& handlers, SignalSet blocked, int signo, const Task* target) {
  if (target != nullptr && target->extras().tracee != nullptr) return false;
  return handlers.Ignores(signo) && (blocked & SignalBit(signo)) == 0;
}

// Queues `info`, or, where there is no room for another one of its kind, its number alone. (Timers have had their room since they were made.)
bool Enqueue(SignalQueue* queue, const ThreadGroup& group, const SigInfo& info) {
  if (info.signo() < kFirstRealtime || info.raw.si_code == SI_TIMER || group.MayQueueSignal()) return queue->Add(info);
  if ((queue->set() & SignalBit(info.signo())) != 0) return false;
  queue->Mark(info.signo());
  return true;
}

}  // namespace

// sigqueue_alloc(): what the processes of a user have queued together is counted. Short queues are not worth that.
bool ThreadGroup::MayQueueSignal() const {
  constexpr uint64_t kFew = 256;
  auto count = [](const ThreadGroup& g) {
    size_t n = g.pending_.size() + (g.posix_timers_ != nullptr ? g.posix_timers_->all().size() : 0);
    for (const RefPtr<Task>& t : g.tasks_) n += t->pending_.size();
    return n;
  };
  uint64_t limit = rlim(RLIMIT_SIGPENDING).rlim_cur;
  if (count(*this) < std::min(limit, kFew)) return true;
  size_t all = 0;
  for (const RefPtr<ThreadGroup>& g : kernel_->groups()) {
    if (g->leader_->creds().uid == leader_->creds().uid) all += count(*g);
  }
  return all < limit;
}

SigInfo SignalFrom(const Task& sender, const ThreadGroup& to, int signo, int code) {
  uint32_t uid = ShownUid(to.leader()->creds().user_ns.get(), sender.creds().uid);
  return SigInfo::User(signo, code, to.pids().IdOf(sender.group()), uid);
}

bool ImmuneTo(const Task& sender, const ThreadGroup& to, int signo) {
  return to.is_init() && (signo == SIGKILL || signo == SIGSTOP) && sender.group().pids().IsWithin(to.pids());
}

SignalSet Task::pending() const { return pending_.set() | group_->pending_.set(); }

bool Task::HasDeliverableSignal() const {
  if (exiting_) return false;
  return (pending() & Takeable()) != 0;
}

bool Task::HasFatalSignal() const { return group_->exiting() || (pending() & SignalBit(SIGKILL)) != 0; }

void Task::SetBlocked(SignalSet mask) {
  SignalSet newly_blocked = mask & ~kUnblockable & ~blocked_;
  blocked_ = mask & ~kUnblockable;
  // A process-wide signal that this thread would have taken may have to be taken by another one now.
  if ((group_->pending_.set() & newly_blocked) != 0) group_->WakeForPending();
}

void Task::SetSavedMask(SignalSet mask) {
  if (!has_saved_mask_) {
    has_saved_mask_ = true;
    saved_mask_ = blocked_;
  }
  blocked_ = mask & ~kUnblockable;
}

bool Task::TakeSignal(SignalSet wanted, SigInfo* out) {
  do {
    if (!pending_.Take(wanted, out) && !group_->pending_.Take(wanted, out)) return false;
  } while (out->raw.si_code == SI_TIMER && !group_->posix_timers().Deliver(out));
  return true;
}

bool ThreadGroup::PrepareSignal(int signo) {
  if ((SignalBit(signo) & kStopSignals) != 0) {
    DiscardEverywhere(SignalBit(SIGCONT));
  } else if (signo == SIGCONT) {
    DiscardEverywhere(kStopSignals);
    return EndStop();
  }
  return false;
}

void ThreadGroup::DiscardEverywhere(SignalSet signals) {
  pending_.Discard(signals);
  for (const RefPtr<Task>& t : tasks_) t->pending_.Discard(signals);
}

void Task::SendSignal(const SigInfo& info) {
  if (helps_ != nullptr) return helps_->SendSignal(info);
  if (exiting_ || info.signo() == 0) return;
  int signo = info.signo();
  if (signo == SIGKILL) return group_->SendSignal(info);
  // To go on, and to hear of it, may be the end of both.
  RefPtr<Task> self(this);
  RefPtr<ThreadGroup> group(group_);
  TakeActions(*this);
  bool goes_on = group->PrepareSignal(signo);
  bool queued = false;
  if (!Discarded(group->handlers(), blocked_ | (has_saved_mask_ ? saved_mask_ : 0), signo, this)) {
    ++kernel_->stats().signals;
    queued = Enqueue(&pending_, *group, info);
  }
  // With the signal in its queue: its handler runs before anything else of the program does (prepare_signal() and the sending are one step).
  if (goes_on) group->GoOn();
  if (!queued || exiting_) return;
  group->signal_queue().Notify(POLLIN);
  if ((blocked_ & SignalBit(signo)) == 0) Interrupt();
}

void ThreadGroup::SendSignal(const SigInfo& info, Task* first) {
  if (zombie_ || info.signo() == 0) return;
  RefPtr<ThreadGroup> self(this);
  RefPtr<Task> keep(first);
  int signo = info.signo();
  TakeActionsOf(*this);
  bool goes_on = PrepareSignal(signo);
  if (signo == SIGKILL) {
    // No handler can see it: the process goes now, whatever its threads do.
    ++kernel_->stats().signals;
    kernel_->lifecycle().KillGroup(*this, SIGKILL);
    return;
  }
  // Blocked by every thread: stays pending, even if ignored.
  SignalSet blocked_by_all = ~SignalSet{0};
  for (const RefPtr<Task>& t : tasks_) {
    if (!t->exiting_) blocked_by_all &= t->blocked_ | (t->has_saved_mask_ ? t->saved_mask_ : 0);
  }
  bool queued = false;
  if (!Discarded(*handlers_, blocked_by_all, signo, leader_)) {
    ++kernel_->stats().signals;
    queued = Enqueue(&pending_, *this, info);
  }
  if (goes_on) GoOn();
  if (!queued || zombie_) return;
  signal_queue_.Notify(POLLIN);
  WakeForPending(first);
}

void ThreadGroup::WakeForPending(Task* first) {
  // `first`, else the main thread, then any thread that does not block it (complete_signal). One taker per signal is enough; waking
  // one for each is simple, and a thread woken in vain goes on where it was.
  if (first == nullptr) first = leader_;
  SignalSet left = pending_.set();
  std::vector<RefPtr<Task>> order{RefPtr<Task>(first)};
  for (const RefPtr<Task>& t : tasks_) {
    if (t.get() != first) order.push_back(t);
  }
  for (const RefPtr<Task>& t : order) {
    if (t->exiting_ || (left & ~t->blocked_) == 0) continue;
    left &= t->blocked_;
    t->Interrupt();
    if (left == 0 || zombie_) return;
  }
}

void ProcessGroup::SendSignal(const SigInfo& info) {
  std::vector<RefPtr<ThreadGroup>> members;
  for (ThreadGroup* g : members_) members.emplace_back(g);
  for (const RefPtr<ThreadGroup>& g : members) g->SendSignal(info);
}

bool ProcessGroup::IsOrphaned() const {
  for (const ThreadGroup* g : members_) {
    if (g->zombie()) continue;
    const ThreadGroup* parent = g->parent();
    if (parent != nullptr && &parent->process_group() != this && &parent->session() == session_.get()) return false;
  }
  return true;
}

}  // namespace amber
