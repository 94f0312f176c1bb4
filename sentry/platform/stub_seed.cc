// The part of the stub text that runs before any guest: the seed's bootstrap, the seed, and a ready
// stub until it has its filter. As trusted as the sentry. No data, no relocations; see stub_abi.h.
#include "sentry/platform/stub_abi.h"
#include "sentry/platform/stub_sys.h"
#include "sentry/platform/stub_text.h"

extern "C" {
void stub_signal_entry() __attribute__((visibility("hidden")));
void stub_exec_entry() __attribute__((visibility("hidden")));
void stub_restorer() __attribute__((visibility("hidden")));
}

namespace amber::platform {
namespace {

enum : uint64_t {
  kSaFlags = 4 | 0x04000000 | 0x08000000 | 0x10000000,  // SIGINFO, RESTORER, ONSTACK, RESTART
  kSigIll = 4,
  kSigTrap = 5,
  kSigBus = 7,
  kSigFpe = 8,
  kSigUsr1 = 10,
  kSigSegv = 11,
  kSigUrg = 23,
  kSigSys = 31,
};

extern "C" STUB_TEXT void StubObey(StubContext* context, uint32_t last);

[[noreturn]] STUB_INLINE void Die(int status) {
  for (;;) Sys(kSysExitGroup, static_cast<uint64_t>(status));
}

struct Timespec {
  int64_t seconds, nanoseconds;
};

// Waits until *word differs from `last`. Ends the process if its parent, the sentry, has died.
STUB_INLINE void AwaitChange(const uint32_t* word, uint32_t last, int64_t parent) {
  while (LoadAcquire(word) == last) {
    Timespec time = {10, 0};
    Sys(kSysFutex, reinterpret_cast<uint64_t>(word), kFutexWait, last, reinterpret_cast<uint64_t>(&time));
    if (Sys(kSysGetppid) != parent) Die(0);
  }
}

STUB_INLINE void Acknowledge(uint32_t* word, uint32_t value) {
  StoreRelease(word, value);
  Sys(kSysFutex, reinterpret_cast<uint64_t>(word), kFutexWake, 1);
}

STUB_INLINE void SetHandler(uint64_t signal, void (*entry)()) {
  StubSigaction action = {reinterpret_cast<uint64_t>(entry), kSaFlags, reinterpret_cast<uint64_t>(&stub_restorer), ~0ull};
  Sys(kSysRtSigaction, signal, reinterpret_cast<uint64_t>(&action), 0, 8);
}

STUB_INLINE void SetSignals() {
  for (uint64_t signal = 1; signal <= 64; signal++) {
    StubSigaction none = {0, 0, 0, 0};
    Sys(kSysRtSigaction, signal, reinterpret_cast<uint64_t>(&none), 0, 8);
  }
  SetHandler(kSigSys, stub_signal_entry);
  SetHandler(kSigSegv, stub_signal_entry);
  SetHandler(kSigBus, stub_signal_entry);
  SetHandler(kSigFpe, stub_signal_entry);
  SetHandler(kSigIll, stub_signal_entry);
  SetHandler(kSigTrap, stub_signal_entry);
  SetHandler(kSigUrg, stub_signal_entry);
  SetHandler(kSigUsr1, stub_exec_entry);
  StubStack stack = {kStacksAddress, kSsAutodisarm, 0, kStackSize};
  Sys(kSysSigaltstack, reinterpret_cast<uint64_t>(&stack), 0);
}

struct Iovec {
  void* base;
  uint64_t size;
};
struct Msghdr {
  void* name;
  uint32_t name_size, pad;
  Iovec* iov;
  uint64_t iov_count;
  void* control;
  uint64_t control_size;
  int32_t flags, pad2;
};
struct Cmsg {
  uint64_t size;
  int32_t level, type;
  int32_t fds[kBatchFds];
};

STUB_INLINE int64_t ReceiveFds(int socket, Cmsg* cmsg, uint32_t count) {
  char byte;
  Iovec iov = {&byte, 1};
  Msghdr message = {nullptr, 0, 0, &iov, 1, cmsg, sizeof(Cmsg), 0, 0};
  int64_t n = Sys(kSysRecvmsg, static_cast<uint64_t>(socket), reinterpret_cast<uint64_t>(&message), 0);
  if (n < 0) return n;
  if (message.control_size < 16 + 4ull * count || cmsg->size < 16 + 4ull * count) return -5;
  return 0;
}

// One batch: 0, or the error of header->failed_op.
STUB_INLINE int64_t RunBatch(WindowHeader* header, Cmsg* cmsg) {
  uint32_t fds = header->fd_count;
  uint32_t count = header->op_count;
  if (fds > kBatchFds || count > kBatchMax) return -22;
  header->failed_op = 0;
  if (fds > 0) {
    int64_t error = ReceiveFds(header->socket, cmsg, fds);
    if (error < 0) return error;
  }
  for (uint32_t i = 0; i < count; i++) {
    BatchOp* op = &header->ops[i];
    if (op->fd_index >= 0 && static_cast<uint32_t>(op->fd_index) < fds && op->fd_arg >= 0 && op->fd_arg < 6) {
      op->args[op->fd_arg] = static_cast<uint64_t>(cmsg->fds[op->fd_index]);
    }
    int64_t result = Sys(op->number, op->args[0], op->args[1], op->args[2], op->args[3], op->args[4], op->args[5]);
    if (result < 0 && result >= -4095) {
      header->failed_op = i;
      return result;
    }
  }
  if (header->flags & kBatchLast) return 0;  // all descriptors go
  for (uint32_t i = 0; i < fds; i++) Sys(kSysClose, static_cast<uint64_t>(cmsg->fds[i]));
  return 0;
}

// Runs in a signal handler on the first alternate stack, so that a genuine frame is there to enter
// the guest by.
extern "C" STUB_TEXT void StubExec(StubContext* context) {
  WindowHeader* header = reinterpret_cast<WindowHeader*>(kWindowAddress);
  int64_t parent = Sys(kSysGetppid);
  // The rest of this stack is free, and too small only for a frame of some 14 KiB.
  Cmsg* cmsg = reinterpret_cast<Cmsg*>(kStacksAddress);
  // Nothing goes back to where this signal came from. (Done here, while nobody waits for it.)
  Sys(kSysMunmap, kSeedStackAddress, kSeedStackSize);
  StubSigaction none = {0, 0, 0, 0};
  Sys(kSysRtSigaction, kSigUsr1, reinterpret_cast<uint64_t>(&none), 0, 8);
  uint32_t last = 0;
  for (;;) {
    AwaitChange(&header->order, last, parent);
    last = LoadAcquire(&header->order);
    if (header->flags & kBatchQuit) Die(0);
    int64_t result = RunBatch(header, cmsg);
    header->result = static_cast<int32_t>(result);
    if (result == 0 && (header->flags & kBatchLast)) break;
    Acknowledge(&header->ack, last);
    if (result < 0) Die(0);
  }
  for (uint64_t* p = reinterpret_cast<uint64_t*>(cmsg); p < reinterpret_cast<uint64_t*>(cmsg + 1); p++) {
    *const_cast<volatile uint64_t*>(p) = 0;
  }
  Sys(kSysCloseRange, 0, ~0u, 0);
  // SECCOMP_SET_MODE_FILTER with NEW_LISTENER and WAIT_KILLABLE_RECV.
  int64_t listener = Sys(kSysSeccomp, 1, (1 << 3) | (1 << 5), kTextAddress + kFilterOffset);
  header->listener = static_cast<int32_t>(listener);
  header->context = reinterpret_cast<uint64_t>(context);
  if (listener < 0) header->result = static_cast<int32_t>(listener);
  Acknowledge(&header->ack, last);
  if (listener < 0) Die(0);
  StubObey(context, 0);
}

STUB_INLINE void LoadInitialState() {
  // All extended state but PKRU (bit 9) to its initial value: nothing of the sentry's registers is
  // left. The area is fresh zero memory, but for MXCSR.
  uint8_t* area = reinterpret_cast<uint8_t*>(kStacksAddress);
  *reinterpret_cast<uint32_t*>(area + 24) = 0x1f80;
  asm volatile("xrstor64 (%0)" : : "r"(area), "a"(~(1u << 9)), "d"(~0u) : "memory");
  *reinterpret_cast<uint32_t*>(area + 24) = 0;
}

[[noreturn]] STUB_INLINE void BecomeStub(Control*, int memfd, uint32_t window) {
  Sys(kSysMunmap, kControlAddress, kControlSize);
  int64_t at =
      Sys(kSysMmap, kWindowAddress, kWindowSize, kProtRead | kProtWrite, kMapShared | kMapFixed, static_cast<uint64_t>(memfd), window * kWindowSize);
  if (at < 0) Die(1);
  uint64_t pid = static_cast<uint64_t>(Sys(kSysGetpid));
  Sys(kSysTgkill, pid, pid, kSigUsr1);
  uint64_t open = 0;
  Sys(kSysRtSigprocmask, 2, reinterpret_cast<uint64_t>(&open), 0, 8);
  Die(1);
}

// The seed proper, at its final address and on its own stack.
extern "C" STUB_TEXT void StubSeed(uint64_t memfd, uint64_t temporary, uint64_t parent) {
  (void)temporary;
  Sys(kSysMunmap, 0x1000, kRegionStart - 0x1000);
  LoadInitialState();
  Sys(kSysSetsid);
  uint64_t core[2] = {1, 1};  // 0 would not stop a core dump into a pipe
  Sys(kSysSetrlimit, 4, reinterpret_cast<uint64_t>(core));
  Sys(kSysPrctl, 38, 1);                                  // PR_SET_NO_NEW_PRIVS
  Sys(kSysPrctl, 4, 1);                                   // PR_SET_DUMPABLE
  uint64_t name = 0x62757473;                             // "stub"
  Sys(kSysPrctl, 15, reinterpret_cast<uint64_t>(&name));  // PR_SET_NAME
  SetSignals();
  Control* control = reinterpret_cast<Control*>(kControlAddress);
  uint32_t last = 0;
  Acknowledge(&control->ack, 1);
  last = 1;
  for (;;) {
    AwaitChange(&control->order, last, static_cast<int64_t>(parent));
    last = LoadAcquire(&control->order);
    if (control->quit) Die(0);
    uint32_t window = control->window;
    // CLONE_PARENT: the stub is the sentry's child.
    int64_t pid = Sys(kSysClone, 0x8000 | 17);
    if (pid == 0) BecomeStub(control, static_cast<int>(memfd), window);
    control->pid = static_cast<int32_t>(pid);
    Acknowledge(&control->ack, last);
  }
}

// Second step of the bootstrap, on the temporary page: drops the sentry's memory and builds the
// stub region.
extern "C" STUB_TEXT void StubBoot2(BootParams* p) {
  uint64_t temporary = p->temporary;
  uint64_t keep_end = temporary + 2 * kTextSize;
  // The host's vDSO, first beside us, then (after all else is gone) to its final place, pieces in
  // their order.
  uint64_t aside = keep_end;
  uint64_t total = 0;
  if (p->vdso_count > 0) total = p->vdso[p->vdso_count - 1].end - p->vdso[0].start;
  for (uint32_t i = 0; i < p->vdso_count; i++) {
    uint64_t size = p->vdso[i].end - p->vdso[i].start;
    int64_t at = Sys(kSysMremap, p->vdso[i].start, size, size, 3, aside + p->vdso[i].start - p->vdso[0].start);
    if (at < 0) Die(2);
  }
  Sys(kSysMunmap, 0x1000, temporary - 0x1000);
  if (Sys(kSysMunmap, aside + total, kUserEnd - aside - total) < 0) Die(3);
  for (uint32_t i = 0; i < p->vdso_count; i++) {
    uint64_t offset = p->vdso[i].start - p->vdso[0].start;
    uint64_t size = p->vdso[i].end - p->vdso[i].start;
    if (Sys(kSysMremap, aside + offset, size, size, 3, kVdsoAddress + offset) < 0) Die(4);
  }
  uint64_t memfd = static_cast<uint64_t>(p->memfd), socket = static_cast<uint64_t>(p->socket);
  uint64_t low = memfd < socket ? memfd : socket, high = memfd < socket ? socket : memfd;
  if (low > 0) Sys(kSysCloseRange, 0, low - 1);
  if (high > low + 1) Sys(kSysCloseRange, low + 1, high - 1);
  Sys(kSysCloseRange, high + 1, ~0u);
  uint64_t anonymous = kMapPrivate | kMapAnonymous | kMapFixed;
  uint64_t rw = kProtRead | kProtWrite;
  if (Sys(kSysMmap, kTextAddress, kTextSize, rw, anonymous, ~0ull, 0) < 0) Die(5);
  CopyBytes(reinterpret_cast<void*>(kTextAddress), reinterpret_cast<void*>(temporary), kTextSize);
  Sys(kSysMprotect, kTextAddress, kTextSize, kProtRead | kProtExec);
  if (Sys(kSysMmap, kSeedStackAddress, kSeedStackSize, rw, anonymous, ~0ull, 0) < 0) Die(6);
  if (Sys(kSysMmap, kStacksAddress, kStacksSize, rw, anonymous | kMapNoreserve, ~0ull, 0) < 0) Die(7);
  if (Sys(kSysMmap, kControlAddress, kControlSize, rw, kMapShared | kMapFixed, memfd, 0) < 0) Die(8);
  uint64_t seed = reinterpret_cast<uint64_t>(&StubSeed) - temporary + kTextAddress;
  uint64_t stack = kSeedStackAddress + kSeedStackSize;
  asm volatile(
      "mov %0, %%rsp\n"
      "xor %%ebp, %%ebp\n"
      "call *%1\n"
      "ud2"
      :
      : "r"(stack), "r"(seed), "D"(memfd), "S"(temporary), "d"(static_cast<int64_t>(p->parent))
      : "memory");
  __builtin_unreachable();
}

}  // namespace
}  // namespace amber::platform

// First step of the bootstrap, in the sentry's own text and on its stack (a private copy of both).
extern "C" void StubBoot(const amber::platform::BootParams* params) {
  using namespace amber::platform;
  if (params->rseq_size != 0) {
    Sys(kSysRseq, params->rseq_address, params->rseq_size, 1, 0x53053053);
  }
  // Anywhere outside the stub region, with room behind it for the vDSO on its way.
  uint64_t size = 2 * kTextSize;
  uint64_t at = 0;
  for (uint64_t hint = 0x200000000; hint < kRegionStart - (1ull << 40) && at == 0; hint += 0x3300000000) {
    int64_t got = Sys(kSysMmap, hint, size + kVdsoLimit, kProtRead | kProtWrite, kMapPrivate | kMapAnonymous | kMapFixedNoreplace, ~0ull, 0);
    if (got == static_cast<int64_t>(hint)) at = hint;
  }
  if (at == 0) Die(9);
  CopyBytes(reinterpret_cast<void*>(at), params->text, params->text_size);
  BootParams* copy = reinterpret_cast<BootParams*>(at + kTextSize);
  CopyBytes(copy, params, sizeof(*params));
  copy->temporary = at;
  Sys(kSysMprotect, at, kTextSize, kProtRead | kProtExec);
  uint64_t entry = at + (reinterpret_cast<uint64_t>(&StubBoot2) - reinterpret_cast<uint64_t>(__start_stub_text));
  asm volatile(
      "mov %0, %%rsp\n"
      "call *%1\n"
      "ud2"
      :
      : "r"(at + size), "r"(entry), "D"(copy)
      : "memory");
  __builtin_unreachable();
}
