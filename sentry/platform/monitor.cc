#include "sentry/platform/monitor.h"

#include <errno.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <utility>

#include "sentry/base/sandbox_log.h"
#include "sentry/platform/listener.h"
#include "sentry/platform/platform_impl.h"
#include "sentry/platform/process.h"
#include "sentry/platform/thread_impl.h"

namespace amber::platform {
namespace {

constexpr int64_t kMillisecond = 1000000;
// Waiting times after the kick and after each resend. Counted from the last step, so that a sentry
// that was itself frozen or starved gives everybody the full time.
constexpr int64_t kStages[] = {10 * kMillisecond, 90 * kMillisecond, 900 * kMillisecond, 1000 * kMillisecond};
constexpr int64_t kOrderPeriod = 2000 * kMillisecond;
constexpr int64_t kOrderLimit = 30000 * kMillisecond;
// A thread that could run but got less CPU time than this was not scheduled (throttled,
// overloaded).
constexpr int64_t kStarved = 2 * kMillisecond;

constexpr uint64_t kTimerTag = 1ull << 40;
constexpr uint64_t kWakeTag = 1ull << 41;

int64_t Now() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1000000000ll + time.tv_nsec;
}

}  // namespace

Monitor::~Monitor() { Stop(); }

bool Monitor::Start() {
  epoll_.reset(epoll_create1(EPOLL_CLOEXEC));
  timer_.reset(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  wake_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!epoll_.valid() || !timer_.valid() || !wake_.valid()) return false;
  epoll_event event = {.events = EPOLLIN, .data = {.u64 = kTimerTag}};
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, timer_.get(), &event) != 0) return false;
  event.data.u64 = kWakeTag;
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wake_.get(), &event) != 0) return false;
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, &before);
  int error = pthread_create(
      &thread_, nullptr,
      +[](void* self) -> void* {
        static_cast<Monitor*>(self)->Loop();
        return nullptr;
      },
      this);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  started_ = error == 0;
  return started_;
}

void Monitor::KillAll() {
  absl::MutexLock lock(&mu_);
  while (!processes_.empty()) {
    for (auto& [pid, process] : processes_) process->Kill();
    // Children that were just being born add themselves: look again.
    empty_.WaitWithTimeout(&mu_, absl::Milliseconds(50));
  }
}

void Monitor::Stop() {
  if (!started_) return;
  {
    // A child that was being born while KillAll() ended is killed by whoever bore it, and taken apart here.
    absl::MutexLock lock(&mu_);
    while (!strays_.empty() || !processes_.empty()) empty_.WaitWithTimeout(&mu_, absl::Milliseconds(50));
  }
  stop_ = true;
  eventfd_write(wake_.get(), 1);
  pthread_join(thread_, nullptr);
  started_ = false;
}

bool Monitor::Watch(const std::shared_ptr<Process>& process) {
  absl::MutexLock lock(&mu_);
  epoll_event event = {.events = EPOLLIN | EPOLLONESHOT, .data = {.u64 = static_cast<uint64_t>(process->pid())}};
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, process->pidfd(), &event) != 0) return false;
  processes_[process->pid()] = process;
  return true;
}

void Monitor::WatchStray(pid_t pid, UniqueFd pidfd) {
  absl::MutexLock lock(&mu_);
  epoll_event event = {.events = EPOLLIN, .data = {.u64 = static_cast<uint64_t>(pid)}};
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, pidfd.get(), &event) == 0) strays_[pid] = std::move(pidfd);
}

void Monitor::Arm(int64_t delay) {
  // A timer that is set to fire earlier stays; it looks at everything and arms itself again.
  int64_t at = Now() + delay;
  if (armed_until_ != 0 && armed_until_ <= at) return;
  armed_until_ = at;
  itimerspec spec = {};
  spec.it_value.tv_sec = at / 1000000000;
  spec.it_value.tv_nsec = at % 1000000000;
  timerfd_settime(timer_.get(), TFD_TIMER_ABSTIME, &spec, nullptr);
}

void Monitor::WatchKick(ThreadImpl& thread, uint64_t kick) {
  absl::MutexLock lock(&mu_);
  for (const KickWatch& watch : kicks_) {
    if (watch.kick == kick) return;
  }
  kicks_.push_back({RefPtr<ThreadImpl>(&thread), kick, Now(), 0, 0});
  Arm(kStages[0]);
}

void Monitor::NoteOrder() {
  if (!orders_noted_.load(std::memory_order_relaxed)) orders_noted_.store(true, std::memory_order_relaxed);
  if (order_timer_.load(std::memory_order_relaxed) || order_timer_.exchange(true)) return;
  absl::MutexLock lock(&mu_);
  Arm(kOrderPeriod);
}

void Monitor::Loop() {
  epoll_event events[64];
  while (!stop_) {
    int n = epoll_wait(epoll_.get(), events, 64, -1);
    for (int i = 0; i < n; i++) {
      uint64_t tag = events[i].data.u64;
      if (tag == kTimerTag) {
        OnTimer();
      } else if (tag != kWakeTag) {
        OnExit(static_cast<pid_t>(tag));
      }
    }
  }
}

void Monitor::OnExit(pid_t pid) {
  std::shared_ptr<Process> process;
  UniqueFd stray;
  {
    absl::MutexLock lock(&mu_);
    if (auto it = processes_.find(pid); it != processes_.end()) process = it->second;
    if (auto it = strays_.find(pid); it != strays_.end()) {
      stray = std::move(it->second);
      strays_.erase(it);
    }
  }
  if (stray.valid()) {
    epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, stray.get(), nullptr);
    int status;
    wait4(pid, &status, __WALL, nullptr);
    absl::MutexLock lock(&mu_);
    if (strays_.empty()) empty_.SignalAll();
    return;
  }
  if (process != nullptr) TakeApart(process);
}

void Monitor::TakeApart(const std::shared_ptr<Process>& process) {
  std::vector<RefPtr<ThreadImpl>> threads = process->TakeThreads();
  bool busy = false;
  for (const RefPtr<ThreadImpl>& thread : threads) {
    process->space().RemoveTid(thread->host_tid());
    process->listener().Remove(thread->host_tid());
    if (!thread->SetGone()) busy = true;
  }
  process->space().RemoveProcess(process.get());
  // The last use of the number is over.
  int status = 0;
  rusage usage = {};
  wait4(process->pid(), &status, __WALL, &usage);
  for (const RefPtr<ThreadImpl>& thread : threads) thread->FreeSlot();
  auto finish = [this, process, threads = std::move(threads), status, usage] {
    for (const RefPtr<ThreadImpl>& thread : threads) {
      thread->AwaitCallbacks();
      thread->DropOrders();
    }
    platform_.OnDeath(*process, threads, status, usage);
    absl::MutexLock lock(&mu_);
    processes_.erase(process->pid());
    if (processes_.empty()) empty_.SignalAll();
  };
  // A callback may be in the middle of something slow: this thread does not wait for it.
  if (!busy || !platform_.workers().Run(finish)) finish();
}

void Monitor::OnTimer() {
  uint64_t expirations;
  if (read(timer_.get(), &expirations, sizeof(expirations)) < 0) return;
  int64_t now = Now();
  {
    absl::MutexLock lock(&mu_);
    armed_until_ = 0;
  }
  CheckKicks(now);
  CheckOrders(now);
}

// True if the thread should have come to us: it sleeps though a signal or an order is there for it,
// or it had time to run and did not. Not so if it is frozen, in the host kernel (state D), or waits
// for a receiver of ours.
bool Monitor::Stuck(ThreadImpl& thread, int64_t cpu_before) {
  PlatformImpl::HostThread now = platform_.LookAt(thread.host_tid());
  if (thread.process().listener().Behind()) return false;
  if (now.state == 'S') return true;
  return now.state == 'R' && now.cpu_time - cpu_before >= kStarved;
}

void Monitor::CheckKicks(int64_t now) {
  std::vector<KickWatch> kicks;
  {
    absl::MutexLock lock(&mu_);
    kicks.swap(kicks_);
  }
  std::vector<KickWatch> open;
  for (KickWatch& watch : kicks) {
    // Delivered, or the thread is not running: its next answer or resume watches it again.
    if (watch.thread->KickDue() != watch.kick) continue;
    if (now - watch.since >= kStages[watch.stage]) {
      if (watch.stage == 3 && Stuck(*watch.thread, watch.cpu_time)) {
        LogNote("a guest process is killed: one of its threads does not stop");
        watch.thread->process().Kill();
        continue;
      }
      if (watch.stage < 3) watch.stage++;
      watch.since = now;
      watch.cpu_time = platform_.LookAt(watch.thread->host_tid()).cpu_time;
      watch.thread->ResendKick();
    }
    open.push_back(std::move(watch));
  }
  absl::MutexLock lock(&mu_);
  for (KickWatch& watch : open) {
    Arm(std::max(watch.since + kStages[watch.stage] - now, kMillisecond));
    kicks_.push_back(std::move(watch));
  }
}

void Monitor::CheckOrders(int64_t now) {
  if (!order_timer_.load(std::memory_order_relaxed)) return;
  std::vector<std::shared_ptr<Process>> processes;
  {
    absl::MutexLock lock(&mu_);
    for (auto& [pid, process] : processes_) processes.push_back(process);
  }
  bool noted = orders_noted_.exchange(false);
  std::vector<OrderWatch> open;
  for (const std::shared_ptr<Process>& process : processes) {
    for (RefPtr<ThreadImpl>& thread : process->threads()) {
      uint64_t order = thread->OrderInFlight();
      if (order == 0) continue;
      OrderWatch watch = {thread, order, now, platform_.LookAt(thread->host_tid()).cpu_time};
      for (const OrderWatch& old : orders_) {
        if (old.thread == thread && old.order == order) watch = old;
      }
      if (now - watch.since > kOrderLimit) {
        if (Stuck(*thread, watch.cpu_time)) {
          LogNote("a guest process is killed: it does not do what it was ordered to");
          process->Kill();
        }
        watch.since = now;
      }
      open.push_back(std::move(watch));
    }
  }
  orders_ = std::move(open);
  absl::MutexLock lock(&mu_);
  if (orders_.empty() && !noted) {
    order_timer_ = false;
  } else {
    Arm(kOrderPeriod);
  }
}

}  // namespace amber::platform
