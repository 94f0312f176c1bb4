// Platform::Probe: tries, on a platform of its own, everything that the design needs from the host.
#include <errno.h>
#include <linux/seccomp.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "absl/synchronization/mutex.h"
#include "sentry/platform/platform_impl.h"
#include "sentry/platform/stub_abi.h"

#ifndef AT_MINSIGSTKSZ
#define AT_MINSIGSTKSZ 51
#endif

namespace amber::platform {
namespace {

constexpr uint64_t kCode = 0x10000000;
constexpr uint32_t kNumber = 2000;
constexpr uint64_t kRounds = 100;
constexpr unsigned kWaitKillableRecv = 1 << 5;

// for (;;) syscall(kNumber, rdi++)
constexpr unsigned char kProgram[] = {0xb8, kNumber & 0xff, kNumber >> 8, 0, 0, 0x0f, 0x05, 0x48, 0xff, 0xc7, 0xeb, 0xf4};

// Kicks the guest in the middle of each of its calls and answers at once. A kernel without
// "seccomp: Fix a race with WAIT_KILLABLE_RECV if the tracer replies too fast" (2025) restarts
// calls that have been answered.
class ProbeClient final : public Client {
 public:
  void OnSyscall(Thread& thread, const Syscall& call) override {
    {
      absl::MutexLock lock(&mu_);
      if (call.number != kNumber || call.args[0] != calls_) inexact_ = true;
      calls_ = call.args[0] + 1;
      if (calls_ >= kRounds || inexact_) return Finish();
    }
    thread.Kick();
    thread.Answer(0);
  }
  void OnFrame(Thread& thread, Stop stop, const Fault*) override {
    {
      absl::MutexLock lock(&mu_);
      kicks_++;
      if (stop != Stop::kKick) return Finish();
    }
    thread.Resume();
  }
  void OnProcessDeath(AddressSpace&, std::span<Thread* const> threads, int) override {
    for (Thread* thread : threads) thread->Release();
    absl::MutexLock lock(&mu_);
    Finish();
  }
  std::string Result() {
    absl::MutexLock lock(&mu_);
    if (!mu_.AwaitWithTimeout(absl::Condition(&finished_), absl::Seconds(10))) {
      return "seccomp user notification does not work: a test program made no progress";
    }
    if (inexact_) {
      return "this kernel executes a system call twice when a signal meets its answer (it lacks "
             "the 2025 fix of "
             "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV): a newer stable kernel is needed";
    }
    if (calls_ < kRounds || kicks_ == 0) return "a test program under seccomp user notification died";
    return "";
  }

 private:
  void Finish() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { finished_ = true; }

  absl::Mutex mu_;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  bool inexact_ ABSL_GUARDED_BY(mu_) = false;
  uint64_t calls_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t kicks_ ABSL_GUARDED_BY(mu_) = 0;
};

std::string ProbeProcessor() {
  if ((getauxval(AT_HWCAP2) & 2) == 0) return "the CPU or kernel lacks FSGSBASE";
  if (getauxval(AT_MINSIGSTKSZ) + 2048 > kStackSize) return "signal frames of this CPU do not fit alternate stacks";
  return "";
}

// An invalid flag gives EINVAL; with valid ones the kernel gets as far as reading the program.
std::string ProbeSeccomp() {
  uint32_t action = SECCOMP_RET_USER_NOTIF;
  if (syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) != 0) {
    return "the kernel lacks seccomp user notification (CONFIG_SECCOMP_FILTER)";
  }
  syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER | kWaitKillableRecv, nullptr);
  if (errno != EFAULT) return "the kernel lacks SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (Linux 5.19)";
  return "";
}

std::string ExplainExec(int error) {
  if (error == EPERM || error == EACCES) {
    return "pidfd_getfd on a child is refused (kernel.yama.ptrace_scope must be 0 or 1)";
  }
  if (error == EFAULT) return "process_vm_writev on a child is refused";
  return std::string("a test process cannot be started: ") + strerror(error);
}

}  // namespace

std::string Platform::Probe() {
  if (std::string missing = ProbeProcessor(); !missing.empty()) return missing;
  if (std::string missing = ProbeSeccomp(); !missing.empty()) return missing;
  ProbeClient client;
  Options options = {.ready_stubs = 0};
  PlatformImpl platform(client, options);
  std::string error;
  if (!platform.Start(&error)) return error;
  ExecPlan plan;
  plan.ops.push_back(
      {.number = SYS_mmap, .args = {kCode, 0x1000, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, ~0ull, 0}});
  plan.writes.push_back({kCode, std::string(reinterpret_cast<const char*>(kProgram), sizeof(kProgram))});
  plan.frame.regs.rip = kCode;
  plan.frame.regs.rsp = kCode + 0x800;
  plan.frame.regs.rflags = 0x202;
  ErrnoOr<Thread*> thread = platform.Exec(plan);
  if (!thread.ok()) return ExplainExec(thread.error().number());
  char byte;
  if (!(*thread)->space().Read(kCode, &byte, 1).ok()) return "process_vm_readv on a child is refused";
  if (!platform.sync_wake_up()) return "the kernel lacks SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP (Linux 6.6)";
  if ((*thread)->xstate().ok() == false) return "signal frames have no readable extended state";
  (*thread)->Resume();
  return client.Result();
}

}  // namespace amber::platform
