// ptrace(2): orders of a tracer. How a tracee stops and goes on is in sentry/kernel/tracing.h; its registers are in ptrace_registers.cc.
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <algorithm>

#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/task_lifecycle.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/tracing.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/mm/memory_owner.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/ptrace_registers.h"
#include "sentry/syscalls/table.h"

namespace amber {
namespace {

// Not in every C library's headers.
constexpr int kPeekUser = 3, kPokeUser = 6, kGetRegs = 12, kSetRegs = 13, kGetFpRegs = 14, kSetFpRegs = 15, kSysemu = 31;
constexpr int kSysemuSinglestep = 32;
constexpr uint32_t kOptions = 0xff | PTRACE_O_EXITKILL;

ErrnoOr<uint32_t> Options(uint64_t data) {
  // PTRACE_O_SUSPEND_SECCOMP is for those who may suspend filters: nobody here.
  if ((data & ~uint64_t{kOptions}) != 0) return Errno(EINVAL);
  return static_cast<uint32_t>(data);
}

ErrnoOr<uint64_t> Word(Task& task, Task& tracee, bool poke, uint64_t address, uint64_t data) {
  // Of a program that it may not read the tracer sees nothing, though it traced the process before the exec (ptrace_access_vm()).
  if (!tracee.group().dumpable() && !task.creds().HasIn(MemoryOwner::Of(tracee.mm()).get(), CAP_SYS_PTRACE)) return Errno(EIO);
  if (poke) {
    size_t n = TRY(DebugCopy(tracee.mm(), address, &data, sizeof(data), true));
    if (n != sizeof(data)) return Errno(EIO);
    return uint64_t{0};
  }
  uint64_t word;
  size_t n = TRY(DebugCopy(tracee.mm(), address, &word, sizeof(word), false));
  if (n != sizeof(word)) return Errno(EIO);
  TRY(task.CopyOut(UserPtr<uint64_t>(data), word));
  return uint64_t{0};
}

ErrnoOr<uint64_t> Signals(Task& task, Task& tracee, int request, uint64_t address, uint64_t data) {
  Tracee& t = *tracee.extras().tracee;
  UserPtr<siginfo_t> p(data);
  switch (request) {
    case PTRACE_GETSIGINFO:
      if (t.stop == Tracee::Stop::kGroup && !t.seized) return Errno(EINVAL);
      TRY(task.CopyOut(p, t.info.raw));
      return uint64_t{0};
    case PTRACE_SETSIGINFO: {
      SigInfo info;
      info.raw = TRY(task.CopyIn(p));
      if (t.stop == Tracee::Stop::kGroup || info.signo() <= 0 || info.signo() > kNumSignals) return Errno(EINVAL);
      t.info = info;
      return uint64_t{0};
    }
    default: {
      // PTRACE_GETSIGMASK and SETSIGMASK; `address` is the set's size.
      if (address != sizeof(SignalSet)) return Errno(EINVAL);
      UserPtr<SignalSet> set(data);
      if (request == PTRACE_GETSIGMASK) {
        TRY(task.CopyOut(set, tracee.blocked()));
      } else {
        tracee.SetBlocked(TRY(task.CopyIn(set)));
      }
      return uint64_t{0};
    }
  }
}

// struct ptrace_syscall_info.
struct CallInfo {
  uint8_t op;
  uint8_t pad[3];
  uint32_t arch;
  uint64_t ip, sp;
  union {
    struct {
      uint64_t number;
      uint64_t args[6];
    } entry;
    struct {
      int64_t value;
      uint8_t is_error;
    } exit;
  };
};
static_assert(sizeof(CallInfo) == 80);

ErrnoOr<uint64_t> GetSyscallInfo(Task& task, Task& tracee, uint64_t size, uint64_t data) {
  Tracee& t = *tracee.extras().tracee;
  const platform::Registers& r = tracee.frame().regs;
  CallInfo info{};
  info.arch = AUDIT_ARCH_X86_64;
  info.ip = r.rip;
  info.sp = r.rsp;
  size_t actual = offsetof(CallInfo, entry);
  if (t.stop == Tracee::Stop::kEntry) {
    info.op = PTRACE_SYSCALL_INFO_ENTRY;
    info.entry = {static_cast<uint64_t>(t.orig_rax), {r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9}};
    actual = sizeof(info);
  } else if (t.stop == Tracee::Stop::kExit) {
    info.op = PTRACE_SYSCALL_INFO_EXIT;
    int64_t value = static_cast<int64_t>(r.rax);
    info.exit = {value, static_cast<uint8_t>(value < 0 && value >= -4095)};
    actual = offsetof(CallInfo, exit.is_error) + 1;
  }
  TRY(task.CopyOutBytes(data, &info, std::min<size_t>(size, actual)));
  return actual;
}

ErrnoOr<uint64_t> RegisterSet(Task& task, Task& tracee, bool set, uint64_t type, uint64_t data) {
  iovec range = TRY(task.CopyIn(UserPtr<iovec>(data)));
  uint64_t address = reinterpret_cast<uint64_t>(range.iov_base);
  size_t n = TRY(CopyRegisterSet(task, tracee, static_cast<uint32_t>(type), set, address, range.iov_len));
  range.iov_len = n;
  TRY(task.CopyOut(UserPtr<iovec>(data), range));
  return uint64_t{0};
}

// Orders that let the tracee go on.
ErrnoOr<uint64_t> GoOn(Task& tracee, int request, uint64_t data) {
  if (data > kNumSignals) return Errno(EIO);
  int signo = static_cast<int>(data);
  switch (request) {
    case PTRACE_DETACH: Tracing::Detach(tracee, signo); return uint64_t{0};
    case PTRACE_SYSCALL: Tracing::Resume(tracee, Tracee::Run::kSyscall, signo); return uint64_t{0};
    case PTRACE_SINGLESTEP: Tracing::Resume(tracee, Tracee::Run::kStep, signo); return uint64_t{0};
    case kSysemu: Tracing::Resume(tracee, Tracee::Run::kSysemu, signo); return uint64_t{0};
    default: Tracing::Resume(tracee, Tracee::Run::kCont, signo); return uint64_t{0};
  }
}

ErrnoOr<uint64_t> OfStopped(Task& task, Task& tracee, int request, uint64_t address, uint64_t data) {
  Tracee& t = *tracee.extras().tracee;
  switch (request) {
    case PTRACE_PEEKTEXT:
    case PTRACE_PEEKDATA:
    case PTRACE_POKETEXT:
    case PTRACE_POKEDATA: return Word(task, tracee, request == PTRACE_POKETEXT || request == PTRACE_POKEDATA, address, data);
    case kPeekUser: TRY(task.CopyOut(UserPtr<uint64_t>(data), TRY(PeekUser(tracee, address)))); return uint64_t{0};
    case kPokeUser: TRY(PokeUser(tracee, address, data)); return uint64_t{0};
    case kGetRegs:
    case kSetRegs: TRY(CopyRegisterSet(task, tracee, kGeneralSet, request == kSetRegs, data, ~uint64_t{0})); return uint64_t{0};
    case kGetFpRegs:
    case kSetFpRegs: TRY(CopyRegisterSet(task, tracee, kFloatingSet, request == kSetFpRegs, data, ~uint64_t{0})); return uint64_t{0};
    case PTRACE_GETREGSET:
    case PTRACE_SETREGSET: return RegisterSet(task, tracee, request == PTRACE_SETREGSET, address, data);
    case PTRACE_SETOPTIONS: t.options = TRY(Options(data)); return uint64_t{0};
    case PTRACE_GETEVENTMSG: TRY(task.CopyOut(UserPtr<uint64_t>(data), t.message)); return uint64_t{0};
    case PTRACE_GETSIGINFO:
    case PTRACE_SETSIGINFO:
    case PTRACE_GETSIGMASK:
    case PTRACE_SETSIGMASK: return Signals(task, tracee, request, address, data);
    case PTRACE_GET_SYSCALL_INFO: return GetSyscallInfo(task, tracee, address, data);
    case PTRACE_LISTEN: TRY(Tracing::Listen(tracee)); return uint64_t{0};
    case PTRACE_CONT:
    case PTRACE_SYSCALL:
    case PTRACE_SINGLESTEP:
    case PTRACE_DETACH:
    case kSysemu: return GoOn(tracee, request, data);
    case kSysemuSinglestep:
    default: return Errno(EIO);
  }
}

ErrnoOr<uint64_t> Ptrace(Task& task, int64_t request64, int pid, uint64_t address, uint64_t data) {
  int request = static_cast<int>(request64);
  if (request64 != request) return Errno(EIO);
  if (request == PTRACE_TRACEME) {
    TRY(Tracing::TraceMe(task));
    return uint64_t{0};
  }
  if (request == PTRACE_ATTACH || request == PTRACE_SEIZE) {
    bool seize = request == PTRACE_SEIZE;
    if (seize && address != 0) return Errno(EIO);
    Task* target = task.FindTask(pid);
    if (target == nullptr) return Errno(ESRCH);
    auto wanted = Options(data);
    if (seize && !wanted.ok()) return Errno(EIO);  // Not EINVAL as of PTRACE_SETOPTIONS (ptrace_attach).
    uint32_t options = seize ? *wanted : 0;
    RefPtr<Task> keep(target);
    TRY(Tracing::Attach(task, *target, seize, options));
    return uint64_t{0};
  }
  bool running = request == PTRACE_KILL || request == PTRACE_INTERRUPT;
  RefPtr<Task> tracee(TRY(Tracing::Find(task, pid, running)));
  if (request == PTRACE_KILL) {
    task.kernel().lifecycle().KillGroup(tracee->group(), SIGKILL);
    return uint64_t{0};
  }
  if (request == PTRACE_INTERRUPT) {
    TRY(Tracing::Interrupt(*tracee));
    return uint64_t{0};
  }
  return OfStopped(task, *tracee, request, address, data);
}

}  // namespace

void RegisterPtraceCalls(SyscallTable& table) {
  table.Set(SYS_ptrace, Partial<&Ptrace>("calls that run natively (futex without a time-out, sched_yield) are not seen; no breakpoints on reading; "
                                         "the tracer is a process, not a thread"));
}

}  // namespace amber
