// Watching: instead of going back to sleep, one worker spins on the mailboxes of threads that make many calls, and takes what they post.
// See stub_fast.cc for the guest's side.
//
// It pays only while another CPU is idle. Nobody tells the sentry which CPUs are idle, so it is found by trying: a watch that gets few calls,
// or whose calls block, is a failure of the threads that it watched, and each makes the time until that thread is watched again four times
// as long; a watch that finds itself scheduled away is one of all threads of its listener. (Others are held up for some milliseconds by a
// neighbour's failure, so that a crowd of short-lived threads is not tried one by one.) The guest thread stays where it is, and its receiver
// with it, and does not wait: the worker that watches is one that slept on another CPU. (The other way round, answering the guest thread so
// that it wakes elsewhere, fails as often as not: a host that has been busy does not look for an idle CPU, and the guest thread then waits
// behind the one that watches.)
//
// One watch at a time in the sandbox; threads that become hot meanwhile join it. Thread-safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "sentry/base/brief_wait.h"
#include "sentry/base/ref_ptr.h"

namespace amber::platform {

class Listener;
class ThreadImpl;

// What is known of how well watching goes; one for each listener and each thread. Written by whoever watches; races cost a wrong guess.
struct WatchCredit {
  std::atomic<int64_t> not_before{0};  // CLOCK_MONOTONIC, ns
  std::atomic<int64_t> pause{0};
};

class Watcher : private BriefWaiter {
 public:
  // `possible`: not with a single CPU. `always`: whatever experience says, and patiently. For tests.
  Watcher(bool possible, bool always) : possible_(possible), always_(always) {}
  // `thread` made a call at a patched site by the base path, or a contact, and will be answered soon. True if the caller should have a worker
  // Watch() afterwards, on another CPU (or GiveUp()).
  bool Consider(ThreadImpl& thread, WatchCredit& credit, int64_t now);
  // Adds a thread that is about to run to the watch that goes on, if one does.
  void Join(ThreadImpl& thread);
  // Spins until nothing is posted any more. The caller holds no lock.
  void Watch(WatchCredit& credit);
  void GiveUp();
  // Whether anything will ever be watched.
  bool possible() const { return possible_; }
  // True on the thread that is in Watch().
  static bool Watching();
  // Takes no more threads; Watch() returns soon.
  void Stop();

 private:
  struct Entry {
    RefPtr<ThreadImpl> thread;
    int64_t last;    // when it posted, or was last seen to be served
    int64_t posted;  // when it posted, or was admitted
    int64_t wait;    // how long after `last` it may post nothing
    uint64_t taken = 0, redone = 0;
  };
  void Admit(int64_t now);
  void Dismiss(size_t index, bool judge);
  bool Round(int64_t now);
  // A call that was taken asks another process: its thread gives its CPU away meanwhile.
  void BeginWait() override;
  void EndWait() override;

  const bool possible_;
  const bool always_;
  std::atomic<bool> active_{false};
  std::atomic<bool> stopping_{false};
  std::atomic<bool> new_{false};
  absl::Mutex mu_;
  std::vector<RefPtr<ThreadImpl>> joining_ ABSL_GUARDED_BY(mu_);
  // Of the thread that watches.
  std::vector<Entry> entries_;
  uint64_t taken_ = 0, redone_ = 0;
  ThreadImpl* serving_ = nullptr;  // whose call is being handled
};

int64_t WatchClock();

}  // namespace amber::platform
