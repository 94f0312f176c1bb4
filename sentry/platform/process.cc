#include "sentry/platform/process.h"

#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "sentry/platform/listener.h"
#include "sentry/platform/reaped.h"
#include "sentry/platform/thread_impl.h"

namespace amber::platform {

Process::Process(std::shared_ptr<SpaceCore> space, std::shared_ptr<Listener> listener, pid_t pid, UniqueFd pidfd)
    : space_(std::move(space)), listener_(std::move(listener)), pid_(pid), pidfd_(std::move(pidfd)) {}

Process::~Process() = default;

void Process::Kill() {
  if (!killed_.exchange(true, std::memory_order_relaxed)) syscall(SYS_pidfd_send_signal, pidfd_.get(), SIGKILL, nullptr, 0);
}

bool Process::AddThread(RefPtr<ThreadImpl> thread) {
  absl::MutexLock lock(&mu_);
  if (dead_) return false;
  listener_->Add(thread->host_tid(), thread);
  space_->AddTid(thread->host_tid());
  threads_.push_back(std::move(thread));
  return true;
}

std::vector<RefPtr<ThreadImpl>> Process::threads(size_t at_most) {
  absl::MutexLock lock(&mu_);
  return {threads_.begin(), threads_.begin() + static_cast<ptrdiff_t>(std::min(at_most, threads_.size()))};
}

void Process::RemoveThread(const ThreadImpl* thread) {
  RefPtr<ThreadImpl> last;
  absl::MutexLock lock(&mu_);
  for (RefPtr<ThreadImpl>& entry : threads_) {
    if (entry.get() != thread) continue;
    last = std::move(entry);
    entry = std::move(threads_.back());
    threads_.pop_back();
    return;
  }
}

size_t Process::thread_count() {
  absl::MutexLock lock(&mu_);
  return threads_.size();
}

int Process::NoteCall(int64_t now) {
  constexpr int64_t kClose = 100'000;  // ns
  bool close = now - last_call_.exchange(now, std::memory_order_relaxed) < kClose;
  int streak = close ? streak_.load(std::memory_order_relaxed) + 1 : 0;
  streak_.store(streak, std::memory_order_relaxed);
  return streak;
}

void Process::NoteOtherCall() {
  int streak = streak_.load(std::memory_order_relaxed);
  if (streak > 0) streak_.store(streak - 1, std::memory_order_relaxed);
}

bool Process::IsAlone() { return thread_count() == 1 && space_->process_count() == 1; }

std::vector<RefPtr<ThreadImpl>> Process::TakeThreads() {
  std::deque<Waiting> waiting;  // dropped outside the lock
  absl::MutexLock lock(&mu_);
  dead_ = true;
  waiting.swap(waiting_);
  return std::move(threads_);
}

void Process::RunWaiting() {
  std::vector<std::function<void()>> ready;
  // What came after TakeThreads() would never be run nor dropped; it holds its thread, and that holds this process and its descriptors.
  std::deque<Waiting> dropped;  // outside the lock
  if (dead_) dropped.swap(waiting_);
  while (!waiting_.empty()) {
    Waiting& next = waiting_.front();
    if (next.fork ? descriptor_users_ > 0 : forks_ > 0) break;
    (next.fork ? forks_ : descriptor_users_)++;
    ready.push_back(std::move(next.work));
    waiting_.pop_front();
  }
  mu_.Unlock();
  for (std::function<void()>& work : ready) work();
}

void Process::WhenNoFork(std::function<void()> work) {
  mu_.Lock();
  waiting_.push_back({false, std::move(work)});
  RunWaiting();
}

void Process::WhenNoDescriptor(std::function<void()> work) {
  mu_.Lock();
  waiting_.push_back({true, std::move(work)});
  RunWaiting();
}

void Process::DescriptorDone() {
  mu_.Lock();
  descriptor_users_--;
  RunWaiting();
}

int Process::AllocateFd() {
  absl::MutexLock lock(&mu_);
  if (fds_ == ~0ull) return -1;
  int number = __builtin_ctzll(~fds_);
  fds_ |= 1ull << number;
  return number;
}

void Process::FreeFds(uint64_t mask) {
  absl::MutexLock lock(&mu_);
  fds_ &= ~mask;
}

void Process::ForkDone() {
  mu_.Lock();
  forks_--;
  RunWaiting();
}

bool Process::WhenReaped(std::function<void(const rusage&)> done) {
  absl::MutexLock lock(&mu_);
  if (reaped_) return false;
  when_reaped_.push_back(std::move(done));
  return true;
}

std::vector<std::function<void(const rusage&)>> Process::TakeWhenReaped() {
  absl::MutexLock lock(&mu_);
  reaped_ = true;
  return std::exchange(when_reaped_, {});
}

bool WhenReaped(Thread& thread, std::function<void(const rusage&)> done) {
  auto* impl = dynamic_cast<ThreadImpl*>(&thread);
  return impl != nullptr && impl->process().WhenReaped(std::move(done));
}

}  // namespace amber::platform
