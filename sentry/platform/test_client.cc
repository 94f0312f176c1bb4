#include "sentry/platform/test_client.h"

#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <chrono>

namespace amber::platform {

TestClient::TestClient(const Options& options) {
  std::string error;
  platform_ = Platform::Create(*this, options, &error);
  if (platform_ == nullptr) fprintf(stderr, "platform: %s\n", error.c_str());
}

TestClient::~TestClient() { Shutdown(); }

void TestClient::Shutdown() {
  std::vector<Thread*> dead;
  {
    std::lock_guard lock(mu_);
    dead.swap(dead_);
  }
  for (Thread* thread : dead) thread->Release();
  platform_.reset();
}

uint64_t TestClient::Address(void (*entry)(uint64_t, uint64_t)) {
  return kGuestCode + static_cast<uint64_t>(reinterpret_cast<const char*>(entry) - __start_guest_text);
}

ExecPlan TestClient::Plan(void (*entry)(uint64_t, uint64_t), uint64_t a, uint64_t b) {
  ExecPlan plan;
  auto map = [&](uint64_t at, uint64_t size, uint64_t protection) {
    plan.ops.push_back({.number = SYS_mmap, .args = {at, size, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, ~0ull, 0}});
  };
  map(kGuestCode, 0x10000, PROT_READ | PROT_WRITE | PROT_EXEC);
  map(kGuestData, kGuestDataSize, PROT_READ | PROT_WRITE);
  map(kGuestStackTop - kGuestStackSize, kGuestStackSize, PROT_READ | PROT_WRITE);
  plan.writes.push_back({kGuestCode, std::string(__start_guest_text, __stop_guest_text)});
  plan.frame = {};
  plan.frame.regs.rip = Address(entry);
  plan.frame.regs.rsp = kGuestStackTop - 8;
  plan.frame.regs.rflags = 0x202;
  plan.frame.regs.rdi = a;
  plan.frame.regs.rsi = b;
  return plan;
}

Thread* TestClient::Start(void (*entry)(uint64_t, uint64_t), uint64_t a, uint64_t b) {
  ErrnoOr<Thread*> thread = platform_->Exec(Plan(entry, a, b));
  if (!thread.ok()) {
    fprintf(stderr, "exec: %d\n", thread.error().number());
    return nullptr;
  }
  return *thread;
}

Thread* TestClient::StartFast(void (*entry)(uint64_t, uint64_t), uint64_t a, uint64_t b) {
  constexpr uint64_t kArea = 0x18000000;
  ExecPlan plan = Plan(entry, a, b);
  plan.ops.push_back({.number = SYS_mmap, .args = {kArea, kFastAreaSize, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, ~0ull, 0}});
  plan.fast_areas = {{kArea, kFastAreaSize}};
  ErrnoOr<Thread*> thread = platform_->Exec(plan);
  return thread.ok() ? *thread : nullptr;
}

void TestClient::OnSyscall(Thread& thread, const Syscall& call) {
  if (on_syscall && on_syscall(thread, call)) return;
  switch (call.number) {
    case kGuestEcho: return thread.Answer(static_cast<int64_t>(call.args[0] + 1));
    case kGuestLog: {
      {
        std::lock_guard lock(mu_);
        log_.push_back(static_cast<int64_t>(call.args[0]));
      }
      changed_.notify_all();
      return thread.Answer(0);
    }
    case kGuestBlock: {
      {
        std::lock_guard lock(mu_);
        blocked_.push_back(&thread);
      }
      changed_.notify_all();
      return;
    }
    case kGuestExit: return thread.space().KillProcess(thread);
    case SYS_exit: thread.Exit(); return thread.Release();
    case SYS_munmap:
    case SYS_mprotect:
    case SYS_madvise: return thread.AnswerContinue(nullptr);
    default: return thread.Answer(-ENOSYS);
  }
}

void TestClient::OnFrame(Thread& thread, Stop stop, const Fault* fault) {
  if (on_frame && on_frame(thread, stop, fault)) return;
  switch (stop) {
    case Stop::kSyscall: return Trapped(thread);
    case Stop::kKick: return thread.Resume();
    case Stop::kFault:
    case Stop::kForeign: return thread.space().KillProcess(thread);
  }
}

void TestClient::Trapped(Thread& thread) {
  Registers& regs = thread.frame().regs;
  switch (regs.rax) {
    case SYS_mmap: {
      StubOp op = {.number = SYS_mmap, .args = {regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9}};
      return thread.RunOps({op}, [&thread](std::span<const int64_t> results) {
        thread.frame().regs.rax = static_cast<uint64_t>(results[0]);
        thread.Resume();
      });
    }
    case SYS_fork:
      return thread.Fork([this, &thread](ErrnoOr<Thread*> child) {
        if (child.ok()) {
          (*child)->frame().regs.rax = 0;
          if (on_child) on_child(**child);
          (*child)->Resume();
        }
        thread.frame().regs.rax = child.ok() ? static_cast<uint64_t>((*child)->host_pid()) : static_cast<uint64_t>(-child.error().number());
        thread.Resume();
      });
    case SYS_vfork:
    case SYS_clone: {
      Thread::CloneOptions options;
      options.new_process = regs.rax == SYS_vfork;
      options.frame = thread.frame();
      options.frame.regs.rsp = regs.rsi;
      options.frame.regs.rax = 0;
      if (regs.rax == SYS_clone) {
        options.frame.regs.rip = regs.rdx;
        options.frame.regs.rdi = regs.r10;
      }
      return thread.Clone(options, [this, &thread](ErrnoOr<Thread*> child) {
        if (child.ok()) {
          if (on_child) on_child(**child);
          (*child)->Resume();
        }
        thread.frame().regs.rax = child.ok() ? static_cast<uint64_t>((*child)->host_tid()) : static_cast<uint64_t>(-child.error().number());
        thread.Resume();
      });
    }
    default: regs.rax = static_cast<uint64_t>(-ENOSYS); return thread.Resume();
  }
}

void TestClient::OnProcessDeath(AddressSpace&, std::span<Thread* const> threads, int wait_status) {
  {
    std::lock_guard lock(mu_);
    deaths_++;
    last_status_ = wait_status;
    for (Thread* thread : threads) std::erase(blocked_, thread);
  }
  if (keep_dead) {
    std::lock_guard lock(mu_);
    dead_.insert(dead_.end(), threads.begin(), threads.end());
  } else {
    for (Thread* thread : threads) thread->Release();
  }
  changed_.notify_all();
}

bool TestClient::Await(const std::function<bool()>& condition) {
  std::unique_lock lock(mu_);
  return changed_.wait_for(lock, std::chrono::seconds(30), condition);
}

bool TestClient::AwaitDeaths(int count) {
  return Await([&] { return deaths_ >= count; });
}

bool TestClient::AwaitLog(size_t count) {
  return Await([&] { return log_.size() >= count; });
}

std::vector<int64_t> TestClient::log() {
  std::lock_guard lock(mu_);
  return log_;
}

std::vector<Thread*> TestClient::blocked() {
  std::lock_guard lock(mu_);
  return blocked_;
}

int TestClient::deaths() {
  std::lock_guard lock(mu_);
  return deaths_;
}

int TestClient::last_status() {
  std::lock_guard lock(mu_);
  return last_status_;
}

}  // namespace amber::platform
