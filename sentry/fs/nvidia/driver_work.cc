#include "sentry/fs/nvidia/driver_work.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task_lifecycle.h"

namespace amber {
namespace {

constexpr int kMostThreads = 256, kMostCalls = 192;
constexpr absl::Duration kPatience = absl::Milliseconds(300);

}  // namespace

void DriverWork::Begin() {
  ++under_way_;
  kernel_.lifecycle().BeginAway();
}

void DriverWork::Finish(const Job& done) {
  KernelLock lock(kernel_);
  if (done) done();
  --under_way_;
  kernel_.lifecycle().EndAway();
}

bool DriverWork::Call(uint64_t process, Job call, Job done) {
  absl::MutexLock lock(&mu_);
  ++processes_[process].calls;
  calls_.push_back([this, process, before = next_, call = std::move(call), done = std::move(done)] { RunCall(process, before, call, done); });
  Wake();
  if (threads_ == 0) {
    calls_.pop_back();
    --processes_[process].calls;
    Consider(process);
    return false;
  }
  Begin();
  return true;
}

void DriverWork::Add(uint64_t process, Job job, bool last) {
  Begin();
  absl::MutexLock lock(&mu_);
  uint64_t id = next_++;
  processes_[process].files.push_back({std::move(job), last, id});
  unclosed_[id] = {process, absl::Now() + kPatience};
  Consider(process);
}

bool DriverWork::HasCalls(uint64_t process) {
  absl::MutexLock lock(&mu_);
  auto it = processes_.find(process);
  return it != processes_.end() && it->second.calls > 0;
}

void DriverWork::RunCall(uint64_t process, uint64_t before, const Job& call, const Job& done) {
  AwaitClosed(process, before);
  call();
  Finish(done);
  absl::MutexLock lock(&mu_);
  --calling_;
  --processes_[process].calls;
  Consider(process);
  Wake();
}

void DriverWork::AwaitClosed(uint64_t process, uint64_t before) {
  absl::MutexLock lock(&mu_);
  while (!unclosed_.empty()) {
    absl::Time until = absl::InfinitePast(), now = absl::Now();
    for (auto it = unclosed_.begin(); it != unclosed_.end() && it->first < before; ++it) {
      until = std::max(until, it->second.process == process ? absl::InfiniteFuture() : it->second.patience);
    }
    if (until <= now) return;
    closed_.WaitWithDeadline(&mu_, until);
  }
}

void DriverWork::RunCloses(uint64_t process) {
  for (;;) {
    Closing next;
    {
      absl::MutexLock lock(&mu_);
      Process& p = processes_[process];
      if (p.files.empty() || (p.files.front().last && p.calls > 0)) {
        p.closes = false;
        return Consider(process);
      }
      next = std::move(p.files.front());
      p.files.pop_front();
    }
    next.job();
    next.job = nullptr;  // what it holds is closed now
    {
      absl::MutexLock lock(&mu_);
      unclosed_.erase(next.id);
      closed_.SignalAll();
    }
    Finish(nullptr);
  }
}

void DriverWork::Consider(uint64_t process) {
  auto it = processes_.find(process);
  if (it == processes_.end() || it->second.closes) return;
  Process& p = it->second;
  if (p.files.empty()) {
    if (p.calls == 0) processes_.erase(it);
    return;
  }
  if (p.files.front().last && p.calls > 0) return;
  p.closes = true;
  closes_.push_back([this, process] { RunCloses(process); });
  Wake();
}

bool DriverWork::HasWork() const { return !closes_.empty() || (!calls_.empty() && calling_ < kMostCalls); }

void DriverWork::Wake() {
  if (!HasWork()) return;
  wake_.Signal();
  if (calls_.size() + closes_.size() <= static_cast<size_t>(idle_) || threads_ >= kMostThreads) return;
  // Signals are for the thread that asks for them.
  sigset_t all, saved;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, &saved);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_t thread;
  // If the host has no thread left, those that are there do it all.
  if (pthread_create(&thread, &attributes, &Main, this) == 0) ++threads_;
  pthread_attr_destroy(&attributes);
  pthread_sigmask(SIG_SETMASK, &saved, nullptr);
}

void* DriverWork::Main(void* work) {
  static_cast<DriverWork*>(work)->Loop();
  return nullptr;
}

void DriverWork::Loop() {
  for (;;) {
    Job job;
    {
      absl::MutexLock lock(&mu_);
      while (!HasWork()) {
        ++idle_;
        wake_.Wait(&mu_);
        --idle_;
      }
      std::deque<Job>& from = closes_.empty() ? calls_ : closes_;
      if (closes_.empty()) ++calling_;
      job = std::move(from.front());
      from.pop_front();
    }
    job();
  }
}

}  // namespace amber
