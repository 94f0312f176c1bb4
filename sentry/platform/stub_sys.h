// Raw system calls and structures for the stub text: freestanding, always inlined, no errno.
#pragma once

#include <cstdint>

#include "sentry/platform/stub_abi.h"

#define STUB_TEXT __attribute__((section("stub_text"), used, visibility("hidden"), noinline))
#define STUB_INLINE __attribute__((always_inline)) static inline

namespace amber::platform {

STUB_INLINE int64_t Sys(uint64_t number, uint64_t a = 0, uint64_t b = 0, uint64_t c = 0, uint64_t d = 0, uint64_t e = 0, uint64_t f = 0) {
  register uint64_t r10 asm("r10") = d;
  register uint64_t r8 asm("r8") = e;
  register uint64_t r9 asm("r9") = f;
  int64_t result;
  asm volatile("syscall" : "=a"(result) : "0"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
  return result;
}

STUB_INLINE int64_t Call(uint64_t a = 0, uint64_t b = 0, uint64_t c = 0) { return Sys(kStubCall, a, b, c); }

// Not a loop: the compiler would turn it into a call of memcpy.
STUB_INLINE void CopyBytes(void* to, const void* from, uint64_t size) { asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory"); }

enum : uint64_t {
  kSysClose = 3,
  kSysMmap = 9,
  kSysMprotect = 10,
  kSysMunmap = 11,
  kSysRtSigaction = 13,
  kSysRtSigprocmask = 14,
  kSysSchedYield = 24,
  kSysMremap = 25,
  kSysGetpid = 39,
  kSysRecvmsg = 47,
  kSysClone = 56,
  kSysExit = 60,
  kSysGetppid = 110,
  kSysSetsid = 112,
  kSysSigaltstack = 131,
  kSysPrctl = 157,
  kSysSetrlimit = 160,
  kSysFutex = 202,
  kSysExitGroup = 231,
  kSysTgkill = 234,
  kSysSeccomp = 317,
  kSysRseq = 334,
  kSysCloseRange = 436,
};

enum : uint64_t {
  kFutexWait = 0,
  kFutexWake = 1,
  kProtRead = 1,
  kProtWrite = 2,
  kProtExec = 4,
  kMapShared = 1,
  kMapPrivate = 2,
  kMapFixed = 0x10,
  kMapAnonymous = 0x20,
  kMapNoreserve = 0x4000,
  kMapFixedNoreplace = 0x100000,
};

// struct kernel_sigaction
struct StubSigaction {
  uint64_t handler, flags, restorer, mask;
};

struct StubStack {
  uint64_t sp;
  uint32_t flags, pad;
  uint64_t size;
};

// struct ucontext of the kernel (arch/x86/include/uapi/asm/ucontext.h), up to the signal mask.
struct StubContext {
  uint64_t flags, link;
  StubStack stack;
  uint64_t gregs[18];
  uint64_t segments, error_code, trapno, oldmask, cr2;
  uint64_t fpstate;
  uint64_t reserved[8];
  uint64_t sigmask;
};
static_assert(sizeof(StubContext) == 304);

struct StubSiginfo {
  int32_t signo, error, code, pad;
  uint64_t address;  // si_addr, si_call_addr
  int32_t number;    // si_syscall
  uint32_t arch;     // si_arch
};

enum : uint32_t { kSsAutodisarm = 1u << 31 };

STUB_INLINE uint32_t LoadAcquire(const uint32_t* p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
STUB_INLINE void StoreRelease(uint32_t* p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }

}  // namespace amber::platform
