// A kernel for tests: answers the test calls of test_guest.h, does what trapped calls ask for,
// records the rest.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "sentry/platform/platform.h"
#include "sentry/platform/test_guest.h"

namespace amber::platform {

class TestClient : public Client {
 public:
  explicit TestClient(const Options& options = {});
  ~TestClient() override;

  void OnSyscall(Thread& thread, const Syscall& call) override;
  void OnFrame(Thread& thread, Stop stop, const Fault* fault) override;
  void OnProcessDeath(AddressSpace& space, std::span<Thread* const> threads, int wait_status) override;

  // Ends the platform.
  void Shutdown();
  Platform& platform() { return *platform_; }
  bool started() const { return platform_ != nullptr; }

  // A process that will run `entry`(a, b), stopped.
  Thread* Start(void (*entry)(uint64_t, uint64_t), uint64_t a = 0, uint64_t b = 0);
  // The same, with memory for thunks: calls may be posted.
  Thread* StartFast(void (*entry)(uint64_t, uint64_t), uint64_t a = 0, uint64_t b = 0);
  static ExecPlan Plan(void (*entry)(uint64_t, uint64_t), uint64_t a, uint64_t b);
  // Where guest code lies in the guest.
  static uint64_t Address(void (*entry)(uint64_t, uint64_t));

  // Hooks: true if they dealt with it.
  std::function<bool(Thread&, const Syscall&)> on_syscall;
  std::function<bool(Thread&, Stop, const Fault*)> on_frame;
  std::function<void(Thread&)> on_child;  // a forked or cloned thread, before it runs

  // Threads that died with their process stay valid until the client goes, for a test that answers
  // them without knowing.
  bool keep_dead = false;

  // Waiting, at most some seconds; false if it did not come true.
  bool AwaitDeaths(int count);
  bool AwaitLog(size_t count);
  bool Await(const std::function<bool()>& condition);  // called under the lock
  std::vector<int64_t> log();
  std::vector<Thread*> blocked();
  int deaths();
  int last_status();
  std::mutex& mutex() { return mu_; }
  void Notify() { changed_.notify_all(); }

 private:
  void Trapped(Thread& thread);

  std::mutex mu_;
  std::condition_variable changed_;
  std::vector<int64_t> log_;
  std::vector<Thread*> blocked_;
  std::vector<Thread*> dead_;
  int deaths_ = 0;
  int last_status_ = 0;
  std::unique_ptr<Platform> platform_;
};

}  // namespace amber::platform
