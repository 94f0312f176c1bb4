#include "sentry/platform/watcher.h"

#include <time.h>

#include <algorithm>
#include <utility>

#include "sentry/platform/platform_impl.h"
#include "sentry/platform/thread_impl.h"

namespace amber::platform {
namespace {

constexpr int64_t kMicrosecond = 1000;
constexpr size_t kMaxEntries = 8;
// How long a thread is given for its first call, and what each call that is taken adds to that. What a thread does not use it keeps, up to a limit: programs
// that load modules make ten or twenty calls at a time and compute for up to a millisecond between, and the CPU time that is spent in vain is the same.
constexpr int64_t kFirstWait = 120 * kMicrosecond;
constexpr int64_t kWait = 80 * kMicrosecond;
constexpr int64_t kLongestWait = 1'000 * kMicrosecond;
// Longer than that while a call of the thread that came by a notification is being handled: it may be one that asks the gofer, and the next calls
// are posted again.
constexpr int64_t kServedWait = 1'000 * kMicrosecond;
constexpr int64_t kTestWait = 50'000 * kMicrosecond;
// A round that took longer without work was interrupted: the CPU is wanted by others.
constexpr int64_t kInterrupted = 100 * kMicrosecond;
// A watch is worth it from so many calls on.
constexpr uint64_t kWorth = 8;
constexpr int64_t kShortPause = 500 * kMicrosecond;
// (A watch that fails costs a fifth of a millisecond at most: a three-hundredth of a CPU.)
constexpr int64_t kLongPause = 64'000 * kMicrosecond;
// Of a listener, after a watch that failed by what its threads did, or was scheduled away: that costs the CPUs a hundredth at most.
constexpr int64_t kOthersPause = 4'000 * kMicrosecond;
constexpr int64_t kBusyPause = 16'000 * kMicrosecond;

bool Failed(uint64_t taken, uint64_t redone) { return taken < kWorth || redone * 3 > taken; }

// After a failure, which makes the pause `growth` times as long, or a success, at `now`.
void Settle(WatchCredit& credit, bool failed, int64_t growth, int64_t longest, int64_t now) {
  int64_t before = std::min(credit.pause.load(std::memory_order_relaxed), longest);
  int64_t pause = failed ? std::clamp(before * growth, kShortPause, longest) : 0;
  credit.pause.store(pause, std::memory_order_relaxed);
  credit.not_before.store(now + pause, std::memory_order_relaxed);
}

bool Paused(const WatchCredit& credit, int64_t now) { return now < credit.not_before.load(std::memory_order_relaxed); }

}  // namespace

int64_t WatchClock() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1'000'000'000LL + now.tv_nsec;
}

// Nobody else may spin.
bool Watcher::Watching() { return Current() != nullptr; }

bool Watcher::Consider(ThreadImpl& thread, WatchCredit& credit, int64_t now) {
  if (!possible_ || stopping_.load(std::memory_order_relaxed)) return false;
  if (!always_ && (Paused(credit, now) || Paused(thread.watch_credit(), now))) return false;
  bool mine = !active_.exchange(true, std::memory_order_acquire);
  absl::MutexLock lock(&mu_);
  if (stopping_.load(std::memory_order_relaxed) || !active_.load(std::memory_order_relaxed)) return false;
  if (mine || joining_.size() < kMaxEntries) {
    joining_.push_back(RefPtr<ThreadImpl>(&thread));
    new_.store(true, std::memory_order_release);
    // Until the watch looks again, or it is found by the next one.
    if (!mine) credit.not_before.store(now + kShortPause, std::memory_order_relaxed);
  }
  return mine;
}

void Watcher::Join(ThreadImpl& thread) {
  if (!active_.load(std::memory_order_relaxed) || (!always_ && Paused(thread.watch_credit(), WatchClock()))) return;
  absl::MutexLock lock(&mu_);
  if (stopping_.load(std::memory_order_relaxed) || !active_.load(std::memory_order_relaxed) || joining_.size() >= kMaxEntries) return;
  joining_.push_back(RefPtr<ThreadImpl>(&thread));
  new_.store(true, std::memory_order_release);
}

void Watcher::Admit(int64_t now) {
  std::vector<RefPtr<ThreadImpl>> joining;
  {
    absl::MutexLock lock(&mu_);
    joining.swap(joining_);
    new_.store(false, std::memory_order_relaxed);
  }
  for (RefPtr<ThreadImpl>& thread : joining) {
    bool known = std::any_of(entries_.begin(), entries_.end(), [&](const Entry& e) { return e.thread.get() == thread.get(); });
    if (known || entries_.size() >= kMaxEntries || thread->gone() || !thread->BeginWatch()) continue;
    thread->SetWatched(true);
    entries_.push_back({std::move(thread), now, now, kFirstWait});
  }
}

void Watcher::Dismiss(size_t index, bool judge) {
  Entry& entry = entries_[index];
  if (judge) Settle(entry.thread->watch_credit(), Failed(entry.taken, entry.redone), 4, kLongPause, WatchClock());
  RefPtr<ThreadImpl> thread = std::move(entry.thread);
  entries_[index] = std::move(entries_.back());
  entries_.pop_back();
  thread->SetWatched(false);
  // A full fence is between this and the last look: the guest has one between its post and its look at `watching`.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  thread->TakePosted();
  thread->EndWatch();
}

void Watcher::BeginWait() {
  if (serving_ != nullptr) serving_->SetWaits(true);
}

void Watcher::EndWait() {
  if (serving_ != nullptr) serving_->SetWaits(false);
}

// True if anything was posted.
bool Watcher::Round(int64_t now) {
  bool any = false;
  for (size_t i = 0; i < entries_.size();) {
    Entry& entry = entries_[i];
    serving_ = entry.thread.get();
    ThreadImpl::Fast result = entry.thread->TakePosted();
    serving_ = nullptr;
    if (result == ThreadImpl::Fast::kNo) {
      // Time goes by only with rounds that do nothing, so a long call of one thread does not cost another its place.
      bool late = now - entry.last > (always_ ? kTestWait : entry.wait);
      if (late && now - entry.posted < kServedWait && entry.thread->IsServed()) {
        entry.last = now;
      } else if (late) {
        Dismiss(i, true);
        continue;
      }
      if (!entry.thread->IsWatched()) entry.thread->SetWatched(true);
    } else {
      any = true;
      taken_++;
      entry.taken++;
      entry.wait = std::min(std::max<int64_t>(entry.wait - (now - entry.last), 0) + kWait, kLongestWait);
      entry.last = entry.posted = WatchClock();
      // One that blocks is not about to compute and call again.
      if (result == ThreadImpl::Fast::kRedo) redone_++, entry.redone++, entry.wait = kWait;
    }
    i++;
  }
  return any;
}

void Watcher::Watch(WatchCredit& credit) {
  SetCurrent(this);
  taken_ = redone_ = 0;
  bool interrupted = false;
  int64_t before = WatchClock();
  while (!stopping_.load(std::memory_order_relaxed)) {
    if (new_.load(std::memory_order_acquire)) Admit(before);
    if (entries_.empty()) break;
    bool any = Round(before);
    int64_t now = WatchClock();
    if (!any && !always_ && now - before > kInterrupted) {
      interrupted = true;
      break;
    }
    // Calls that block are dearer this way.
    if (!always_ && redone_ > 8 && redone_ * 3 > taken_) break;
    before = now;
    if (!any) __builtin_ia32_pause();
  }
  while (!entries_.empty()) Dismiss(entries_.size() - 1, !interrupted);
  SetCurrent(nullptr);
  Settle(credit, interrupted || Failed(taken_, redone_), 2, interrupted ? kBusyPause : kOthersPause, before);
  GiveUp();
}

// Who joined too late is forgotten: in the list it would be held, with its process and its descriptors, until the next watch, which may be never.
void Watcher::GiveUp() {
  std::vector<RefPtr<ThreadImpl>> late;  // dropped outside the lock
  absl::MutexLock lock(&mu_);
  late.swap(joining_);
  new_.store(false, std::memory_order_relaxed);
  active_.store(false, std::memory_order_release);
}

void Watcher::Stop() {
  stopping_.store(true, std::memory_order_relaxed);
  absl::MutexLock lock(&mu_);
  joining_.clear();
}

}  // namespace amber::platform
