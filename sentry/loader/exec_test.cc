// Loaded programs in real stubs: a kernel of a few system calls is enough for busybox.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <condition_variable>
#include <mutex>
#include <set>

#include "sentry/loader/host_exec_file.h"
#include "sentry/loader/load.h"
#include "sentry/loader/vdso/vdso.h"
#include "sentry/platform/platform.h"

namespace amber::loader {
namespace {

using platform::Stop;
using platform::Syscall;
using platform::Thread;

class SmallKernel final : public platform::Client {
 public:
  void OnSyscall(Thread& thread, const Syscall& call) override {
    std::unique_lock lock(mu_);
    seen_.insert(call.number);
    switch (call.number) {
      case SYS_write: {
        std::string text(std::min<uint64_t>(call.args[2], 4096), '\0');
        auto n = thread.space().Read(call.args[1], text.data(), text.size());
        output_ += text.substr(0, n.ok() ? *n : 0);
        return thread.Answer(n.ok() ? static_cast<int64_t>(*n) : -EFAULT);
      }
      case SYS_exit_group: status_ = static_cast<int>(call.args[0]); return thread.space().Kill();
      case SYS_getrandom:  // refused, glibc would ask a clock before it knows of the vDSO
        return thread.Answer(static_cast<int64_t>(call.args[1]));
      case SYS_getuid:
      case SYS_geteuid: return thread.Answer(0);
      case SYS_mprotect: return thread.AnswerContinue(nullptr);
      default: return thread.Answer(-ENOSYS);
    }
  }
  void OnFrame(Thread& thread, Stop stop, const platform::Fault* fault) override {
    platform::Registers& regs = thread.frame().regs;
    std::unique_lock lock(mu_);
    if (stop == Stop::kFault) {
      fault_ = fault->address;
      return thread.space().Kill();
    }
    if (stop != Stop::kSyscall) return thread.Resume();
    seen_.insert(regs.rax);
    switch (regs.rax) {
      case SYS_brk:
        if (regs.rdi >= mm_->layout().start_brk) return GrowHeap(thread);
        regs.rax = mm_->layout().brk;
        break;
      case SYS_arch_prctl:
        thread.frame().fs_base = regs.rsi;
        regs.rax = regs.rdi == 0x1002 ? 0 : static_cast<uint64_t>(-EINVAL);
        break;
      case SYS_set_tid_address: regs.rax = 1; break;
      case SYS_mmap: return MapAnonymous(thread);
      default: regs.rax = static_cast<uint64_t>(-ENOSYS);
    }
    thread.Resume();
  }
  void OnProcessDeath(platform::AddressSpace&, std::span<Thread* const> threads, int) override {
    for (Thread* thread : threads) thread->Release();
    std::lock_guard lock(mu_);
    dead_ = true;
    changed_.notify_all();
  }

  // Runs the program to its end.
  bool Run(platform::Platform& platform, LoadResult program) {
    mm_ = program.mm;
    auto thread = platform.Exec(program.plan);
    EXPECT_TRUE(thread.ok()) << (thread.ok() ? 0 : thread.error().number());
    if (!thread.ok()) return false;
    mm_->Attach(RefPtr(&(*thread)->space()));
    (*thread)->Resume();
    std::unique_lock lock(mu_);
    bool ended = changed_.wait_for(lock, std::chrono::seconds(20), [this] { return dead_; });
    // Its address space goes before the platform does.
    mm_.reset();
    return ended;
  }

  std::string output_;
  std::set<uint64_t> seen_;
  int status_ = -1;
  uint64_t fault_ = 0;

 private:
  void GrowHeap(Thread& thread) {
    uint64_t to = thread.frame().regs.rdi;
    Vma vma;
    vma.start = PageUp(mm_->layout().brk);
    vma.end = PageUp(to);
    vma.prot = PROT_READ | PROT_WRITE;
    if (vma.end <= vma.start) {
      thread.frame().regs.rax = mm_->layout().brk = to;
      return thread.Resume();
    }
    thread.RunOps({MemoryManager::MapOp(vma, {})}, [this, to, &thread](std::span<const int64_t> results) {
      if (results[0] >= 0) mm_->layout().brk = to;
      thread.frame().regs.rax = mm_->layout().brk;
      thread.Resume();
    });
  }
  void MapAnonymous(Thread& thread) {
    Vma vma;
    uint64_t size = PageUp(thread.frame().regs.rsi);
    vma.start = mm_->Place(0, size).value();
    vma.end = vma.start + size;
    vma.prot = PROT_READ | PROT_WRITE;
    mm_->Record(vma);
    thread.RunOps({MemoryManager::MapOp(vma, {})}, [&thread](std::span<const int64_t> results) {
      thread.frame().regs.rax = static_cast<uint64_t>(results[0]);
      thread.Resume();
    });
  }

  std::mutex mu_;
  std::condition_variable changed_;
  RefPtr<MemoryManager> mm_;
  bool dead_ = false;
};

constexpr char kProgram[] = "/bin/busybox";

ErrnoOr<LoadResult> LoadBusybox(platform::Platform& platform, Vdso& vdso, std::vector<std::string> argv) {
  LoadEnvironment env;
  env.file = TRY(HostExecFile::Open(kProgram));
  env.open = HostExecFile::Open;
  env.identity = [](ExecFile&) -> ErrnoOr<ExecIdentity> { return ExecIdentity(); };
  env.random = [](void* out, size_t size) { ASSERT_EQ(getrandom(out, size, 0), static_cast<ssize_t>(size)); };
  env.vdso = &vdso;
  env.vdso_params_fd = env.vdso->params_fd();
  env.host_vdso_base = platform.host_vdso_base();
  env.host_vdso_size = platform.host_vdso_size();
  ExecRequest request;
  request.path = kProgram;
  request.argv = std::move(argv);
  request.envp = {"TZ=UTC0"};
  return Load(std::move(env), request);
}

TEST(ExecTest, RunsInAStub) {
  if (access(kProgram, X_OK) != 0) GTEST_SKIP() << "no static busybox here";
  std::string error;
  for (const char* what : {"echo", "date"}) {
    SmallKernel kernel;
    auto platform = platform::Platform::Create(kernel, {}, &error);
    ASSERT_NE(platform, nullptr) << error;
    auto vdso = Vdso::Create(platform->host_vdso_base());
    ASSERT_TRUE(vdso.ok());
    bool date = std::string(what) == "date";
    auto program = LoadBusybox(*platform, **vdso, date ? std::vector<std::string>{"date", "+%s"} : std::vector<std::string>{"echo", "hello"});
    ASSERT_TRUE(program.ok());
    time_t before = time(nullptr);
    ASSERT_TRUE(kernel.Run(*platform, std::move(*program)));
    EXPECT_EQ(kernel.fault_, 0u);
    EXPECT_EQ(kernel.status_, 0);
    if (date) {
      // The clock was read in the stub.
      long seconds = strtol(kernel.output_.c_str(), nullptr, 10);
      EXPECT_GE(seconds, before);
      EXPECT_LE(seconds, time(nullptr));
      EXPECT_FALSE(kernel.seen_.contains(SYS_clock_gettime));
      EXPECT_FALSE(kernel.seen_.contains(SYS_gettimeofday));
      EXPECT_FALSE(kernel.seen_.contains(SYS_time));
    } else {
      EXPECT_EQ(kernel.output_, "hello\n");
    }
  }
}

}  // namespace
}  // namespace amber::loader
