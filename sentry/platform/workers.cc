#include "sentry/platform/workers.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <algorithm>
#include <iterator>
#include <utility>

namespace amber::platform {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
constexpr size_t kStackBytes = 2 << 20;
#else
constexpr size_t kStackBytes = 256 << 10;
#endif

// Idle threads beyond this end.
constexpr size_t kMaxIdle = 16;

}  // namespace

struct Workers::Worker {
  Workers* pool;
  std::function<void()> job;
  absl::CondVar wake;
  int cpu = -1;  // where it fell asleep
};

void Workers::Drain() {
  absl::MutexLock lock(&mu_);
  stopping_ = true;
  for (Worker* worker : idle_) worker->wake.Signal();
  idle_.clear();
  while (live_ > 0) ended_.Wait(&mu_);
}

bool Workers::Run(std::function<void()> job) { return RunElsewhere(-2, std::move(job)); }

bool Workers::RunElsewhere(int cpu, std::function<void()> job) {
  {
    absl::MutexLock lock(&mu_);
    // (Jobs that are still running may want helpers; they are waited for, too.)
    if (stopping_ && live_ == 0) return false;
    auto found = std::find_if(idle_.rbegin(), idle_.rend(), [cpu](const Worker* worker) { return worker->cpu != cpu; });
    if (found != idle_.rend()) {
      Worker* worker = *found;
      idle_.erase(std::next(found).base());
      worker->job = std::move(job);
      worker->wake.Signal();
      return true;
    }
    live_++;
  }
  Worker* worker = new Worker;
  worker->pool = this;
  worker->job = std::move(job);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, kStackBytes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  // Signals are for the thread that asks for them; workers take none.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, &before);
  pthread_t thread;
  int error = pthread_create(&thread, &attributes, &Main, worker);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_attr_destroy(&attributes);
  if (error != 0) {
    delete worker;
    absl::MutexLock lock(&mu_);
    live_--;
    return false;
  }
  return true;
}

void* Workers::Main(void* argument) {
  Worker* worker = static_cast<Worker*>(argument);
  worker->pool->Loop(worker);
  return nullptr;
}

void Workers::Loop(Worker* worker) {
  for (;;) {
    worker->job();
    worker->job = nullptr;  // what it holds goes now, outside the lock
    absl::MutexLock lock(&mu_);
    if (!stopping_ && idle_.size() < kMaxIdle) {
      worker->cpu = sched_getcpu();
      idle_.push_back(worker);
      while (worker->job == nullptr && !stopping_) worker->wake.Wait(&mu_);
    }
    if (worker->job == nullptr) {
      if (--live_ == 0) ended_.SignalAll();
      delete worker;
      return;
    }
  }
}

}  // namespace amber::platform
