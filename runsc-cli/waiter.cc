#include "runsc-cli/waiter.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/rseq.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/rseq.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "runsc-cli/waiter_body.h"
#include "sentry/base/clone_into.h"

namespace amber::cli {
namespace {

absl::Status Failed(const char* what) { return absl::InternalError(absl::StrCat("starting the waiter: ", what, ": ", strerrordesc_np(errno))); }

size_t RoundUp(size_t bytes) { return (bytes + 4095) & ~size_t{4095}; }

// Code page(s), data, stack, in one block. -1 pages: no memory.
struct Block {
  char* code = nullptr;
  size_t code_bytes = 0;
  WaiterData* data = nullptr;
  char* stack_top = nullptr;
  size_t bytes = 0;
};

absl::StatusOr<Block> MakeBlock(const WaiterOptions& options) {
  Block block;
  size_t text = static_cast<size_t>(__stop_waiter_text - __start_waiter_text);
  block.code_bytes = RoundUp(text);
  block.bytes = block.code_bytes + kWaiterDataBytes + kWaiterStackBytes;
  void* memory = mmap(nullptr, block.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return Failed("mmap");
  block.code = static_cast<char*>(memory);
  memcpy(block.code, __start_waiter_text, text);
  block.data = new (block.code + block.code_bytes) WaiterData;
  block.stack_top = block.code + block.bytes;
  char* out = block.data->cleanup;
  char* end = out + sizeof(block.data->cleanup) - 1;
  for (const CleanupStep& step : options.cleanup) {
    if (static_cast<size_t>(end - out) < step.path.size() + 2) {
      munmap(memory, block.bytes);
      return absl::InvalidArgumentError("starting the waiter: paths too long");
    }
    *out++ = static_cast<char>(step.kind);
    out = std::copy(step.path.begin(), step.path.end(), out);
    *out++ = '\0';
  }
  *out = '\0';
  if (mprotect(block.code, block.code_bytes, PROT_READ | PROT_EXEC) != 0) return Failed("mprotect");
  block.data->keep_low = reinterpret_cast<uint64_t>(memory);
  block.data->keep_high = block.data->keep_low + block.bytes;
  block.data->top = 0x7ffffffff000;
  return block;
}

// The kernel writes into this thread's restartable-sequence area whenever it is scheduled: it must let go first.
void ForgetRseq() {
  if (__rseq_size == 0) return;
  void* area = static_cast<char*>(__builtin_thread_pointer()) + __rseq_offset;
  // The length that the C library registered: 32, whatever __rseq_size says (sysdeps/unix/sysv/linux/rseq-internal.h).
  syscall(SYS_rseq, area, 32, RSEQ_FLAG_UNREGISTER, RSEQ_SIG);
}

[[noreturn]] void Become(const WaiterOptions& options, const Block& block) {
  setsid();
  if (options.console >= 0) ioctl(options.console, TIOCSCTTY, 0);
  prctl(PR_SET_NAME, "sandbox-waiter");
  rlimit core = {0, 1};
  setrlimit(RLIMIT_CORE, &core);
  core = {1, 1};
  setrlimit(RLIMIT_CORE, &core);
  if (chdir("/") != 0) _exit(1);
  for (int signal = 1; signal < NSIG; ++signal) ::signal(signal, SIG_DFL);
  sigset_t all;
  sigfillset(&all);  // blocked already
  // Pipes that engines read to the end must be held by nobody but the sentry.
  int null = open("/dev/null", O_RDWR);
  for (int fd = 0; fd < 3; ++fd) dup2(null, fd);
  // The descriptors that stay move to 3 and up, through numbers that none of them has.
  int* kept[3] = {&block.data->stream, &block.data->owner, &block.data->signals};
  int sources[3] = {options.stream, options.owner, signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK)};
  for (int i = 0; i < 3; ++i) *kept[i] = sources[i] < 0 ? -1 : fcntl(sources[i], F_DUPFD, 900);
  for (int i = 0; i < 3; ++i) {
    if (*kept[i] >= 0) *kept[i] = dup2(*kept[i], 3 + i);
  }
  close_range(6, ~0u, 0);
  for (int i = 0; i < 3; ++i) {
    if (*kept[i] < 0) close(3 + i);
  }
  ForgetRseq();
  syscall(SYS_set_robust_list, nullptr, 24);
  auto body =
      reinterpret_cast<uintptr_t>(block.code) + (reinterpret_cast<uintptr_t>(&AmberWaiterBody) - reinterpret_cast<uintptr_t>(__start_waiter_text));
  asm volatile(
      "mov %0, %%rsp\n"
      "xor %%ebp, %%ebp\n"
      "call *%1\n"
      :
      : "r"(block.stack_top), "r"(body), "D"(block.data)
      : "memory");
  __builtin_unreachable();
}

}  // namespace

absl::StatusOr<WaiterStream> MakeWaiterStream() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) return Failed("socketpair");
  return WaiterStream{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

absl::StatusOr<pid_t> StartWaiter(const WaiterOptions& options) {
  absl::StatusOr<Block> block = MakeBlock(options);
  if (!block.ok()) return block.status();
  // A signal that comes before the child can take it waits.
  sigset_t all, before;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, &before);
  pid_t pid = options.cgroup < 0 ? fork() : static_cast<pid_t>(CloneInto({.exit_signal = SIGCHLD}, options.cgroup));
  if (pid == 0) Become(options, *block);
  absl::Status failed = Failed("fork");
  sigprocmask(SIG_SETMASK, &before, nullptr);
  munmap(block->code, block->bytes);
  if (pid < 0) return failed;
  return pid;
}

}  // namespace amber::cli
