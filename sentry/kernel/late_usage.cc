#include "sentry/kernel/late_usage.h"

#include <poll.h>

#include <utility>

#include "sentry/kernel/clock.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/usage.h"
#include "sentry/platform/reaped.h"

namespace amber {

struct LateUsage : RefCounted<LateUsage> {
  ThreadGroup* whose = nullptr;  // null: nobody's any more
  bool child = false;            // of a child that `whose` has waited for

  void Arrive(const rusage& usage) {
    if (whose == nullptr) return;
    whose->AddLateUsage(usage, child);
    ExpectedUsage& expected = whose->extras().expected_usage;
    std::erase_if(expected.late_, [this](const RefPtr<LateUsage>& late) { return late.get() == this; });
    whose = nullptr;
    if (expected.empty()) expected.queue_.Notify(POLLIN);
  }
};

ExpectedUsage::ExpectedUsage() = default;
ExpectedUsage::~ExpectedUsage() {
  for (const RefPtr<LateUsage>& late : late_) late->whose = nullptr;
}

bool TakeUsageLater(ThreadGroup& group) {
  constexpr int64_t kTick = kNsPerSecond / 100;
  GroupExtras& extras = group.extras();
  if (group.CpuTime() - extras.cpu_base >= kTick) return false;
  for (const RefPtr<Task>& task : group.tasks()) {
    if (task->thread() == nullptr) continue;
    auto late = MakeRef<LateUsage>();
    Kernel& kernel = task->kernel();
    bool will_come = platform::WhenReaped(*task->thread(), [late, &kernel](const rusage& usage) {
      KernelLock lock(kernel);
      late->Arrive(usage);
    });
    if (!will_come) return false;
    late->whose = &group;
    extras.expected_usage.late_.push_back(std::move(late));
    return true;
  }
  return false;
}

void HandOnUsage(ThreadGroup& child, ThreadGroup& parent) {
  std::vector<RefPtr<LateUsage>>& to = parent.extras().expected_usage.late_;
  for (RefPtr<LateUsage>& late : std::exchange(child.extras().expected_usage.late_, {})) {
    late->whose = &parent;
    late->child = true;
    to.push_back(std::move(late));
  }
  // Who waits for it in another thread finds the child gone.
  child.extras().expected_usage.queue_.Notify(POLLIN);
}

// The host reaps within some 100 us; a busy one takes longer.
constexpr int64_t kLongest = 50'000'000;  // ns

ErrnoOr<void> AwaitUsage(Task& task, ThreadGroup& whose) {
  ExpectedUsage& expected = whose.extras().expected_usage;
  // A process whose threads never stop making children would never have it all.
  if (expected.empty() || task.syscall().timed_out) return Ok();
  return task.Block(expected.queue(), POLLIN, task.kernel().clocks().Monotonic() + kLongest, kKillable);
}

}  // namespace amber
