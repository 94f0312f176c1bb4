// The platform's root object: owns the seed, the pool of ready stubs, the windows, the workers and
// the monitor.
//
// Lock order: Thread::mu_, then Process::mu_, then the rest (leaves).
#pragma once

#include <linux/seccomp.h>

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "sentry/platform/fast_sites.h"
#include "sentry/platform/mapped_files.h"
#include "sentry/platform/monitor.h"
#include "sentry/platform/platform.h"
#include "sentry/platform/seed.h"
#include "sentry/platform/thread_impl.h"
#include "sentry/platform/watcher.h"
#include "sentry/platform/windows.h"
#include "sentry/platform/workers.h"
#include "sentry/platform/xstate.h"

namespace amber::platform {

struct Counters {
  std::atomic<uint64_t> notifications{0}, stops{0}, faults{0}, kicks{0}, kick_resends{0}, stub_ops{0}, forks{0}, execs{0}, clones{0},
      answers_continue{0}, parks{0}, fast_calls{0}, fast_redone{0}, patched_sites{0}, posted_contacts{0};
};

class PlatformImpl final : public Platform {
 public:
  PlatformImpl(Client& client, const Options& options);
  ~PlatformImpl() override;
  bool Start(std::string* error);

  ErrnoOr<Thread*> Exec(const ExecPlan& plan) override;
  Stats stats() const override;
  uint64_t host_vdso_base() const override { return seed_.vdso_address(); }
  uint64_t host_vdso_size() const override { return seed_.vdso_size(); }

  Client& client() { return client_; }
  Windows& windows() { return windows_; }
  Workers& workers() { return workers_; }
  Monitor& monitor() { return monitor_; }
  const XstateLayout& xstate_layout() const { return xstate_layout_; }
  Counters& counters() { return counters_; }
  uint64_t NextKick() { return next_kick_.fetch_add(1, std::memory_order_relaxed); }
  int max_receivers() const { return max_receivers_; }
  MappedFiles& mapped_files() { return mapped_files_; }
  Watcher& watcher() { return watcher_; }
  HotSites& hot_sites() { return hot_sites_; }
  // The sentry's /proc, for files of stubs.
  int proc_fd() const { return proc_.get(); }
  // Fills the pool of ready stubs, on a worker.
  void Refill();
  // Whether call sites are patched at all.
  bool fast_path() const { return fast_path_; }
  // Whether the host can hand the CPU over with a notification.
  bool sync_wake_up() const { return sync_wake_up_.load(std::memory_order_relaxed); }
  void SetNoSyncWakeUp() { sync_wake_up_.store(false, std::memory_order_relaxed); }
  bool stopping() const { return stopping_.load(std::memory_order_relaxed); }

  // Births: children that were ordered and have not called yet. AddBirth returns the nonce.
  uint64_t AddBirth(std::unique_ptr<Birth> birth);
  // Null if nobody waits for that nonce (any more).
  std::unique_ptr<Birth> TakeBirth(uint64_t nonce);

  // A notification of a thread that nobody knows: a forked child's first call, or a reason to kill.
  void OnStranger(Listener& listener, const seccomp_notif& notification);
  // A process that ended has been taken apart by the monitor: tells the client.
  void OnDeath(Process& process, std::span<const RefPtr<ThreadImpl>> threads, int status, const rusage& usage);

  // How the host sees a thread: its state letter (0: unknown) and the CPU time it has used, ns.
  struct HostThread {
    char state = 0;
    int64_t cpu_time = 0;
  };
  HostThread LookAt(pid_t tid) const;
  // Threads of host process `pid` as its host sees them; -1 if unknown.
  int HostThreads(pid_t pid) const;

 private:
  bool Born(Listener& listener, uint64_t id, pid_t pid, UniqueFd pidfd, std::unique_ptr<Birth> birth);
  ErrnoOr<ReadyStub> TakeStub();
  ErrnoOr<Thread*> Enter(ReadyStub stub, const ExecPlan& plan);
  ErrnoOr<void> Fill(ThreadImpl& thread, SpaceCore& core, const ExecPlan& plan);

  Client& client_;
  const Options options_;
  const int max_receivers_;
  Counters counters_;
  std::atomic<uint64_t> next_kick_{1};
  std::atomic<bool> stopping_{false};
  std::atomic<bool> sync_wake_up_{true};
  UniqueFd proc_;
  XstateLayout xstate_layout_;
  Windows windows_;
  Seed seed_;
  absl::Mutex mu_;
  absl::flat_hash_map<uint64_t, std::unique_ptr<Birth>> births_ ABSL_GUARDED_BY(mu_);
  std::vector<RefPtr<ThreadImpl>> orphans_ ABSL_GUARDED_BY(mu_);
  absl::Mutex pool_mu_;
  std::vector<ReadyStub> pool_ ABSL_GUARDED_BY(pool_mu_);
  bool refilling_ ABSL_GUARDED_BY(pool_mu_) = false;
  const bool fast_path_;
  MappedFiles mapped_files_;
  HotSites hot_sites_;
  Watcher watcher_;
  Monitor monitor_;
  Workers workers_;
};

}  // namespace amber::platform
