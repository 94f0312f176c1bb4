#include "sentry/platform/test_guest.h"

#include "sentry/platform/stub_abi.h"
#include "sentry/platform/stub_sys.h"

#define GUEST_TEXT extern "C" __attribute__((section("guest_text"), used, visibility("hidden"), noinline))

namespace amber::platform {
namespace {

STUB_INLINE void Log(uint64_t value) { Sys(kGuestLog, value); }
STUB_INLINE void Leave() {
  for (;;) Sys(kGuestExit);
}

}  // namespace
}  // namespace amber::platform

using namespace amber::platform;  // NOLINT

GUEST_TEXT void GuestHello(uint64_t, uint64_t) {
  Log(1);
  Log(2);
  Log(3);
  Leave();
}

GUEST_TEXT void GuestEchoLoop(uint64_t rounds, uint64_t) {
  uint64_t wrong = 0;
  for (uint64_t i = 0; i < rounds; i++) {
    if (Sys(kGuestEcho, i) != static_cast<int64_t>(i + 1)) wrong++;
  }
  Log(wrong);
  Leave();
}

GUEST_TEXT void GuestEchoForever(uint64_t, uint64_t) {
  for (uint64_t i = 0;; i++) {
    if (Sys(kGuestEcho, i) != static_cast<int64_t>(i + 1)) Log(i);
  }
}

GUEST_TEXT void GuestSpin(uint64_t, uint64_t) {
  volatile uint64_t* counter = reinterpret_cast<volatile uint64_t*>(kGuestData);
  for (;;) *counter = *counter + 1;
}

GUEST_TEXT void GuestMmap(uint64_t, uint64_t) {
  int64_t at = Sys(kSysMmap, 0x40000000, 0x10000, kProtRead | kProtWrite, kMapPrivate | kMapAnonymous | kMapFixed, ~0ull, 0);
  Log(static_cast<uint64_t>(at));
  if (at > 0) {
    *reinterpret_cast<volatile uint64_t*>(at) = 42;
    Log(*reinterpret_cast<volatile uint64_t*>(at));
  }
  Leave();
}

GUEST_TEXT void GuestMmapLoop(uint64_t rounds, uint64_t) {
  uint64_t wrong = 0;
  for (uint64_t i = 0; i < rounds; i++) {
    int64_t at = Sys(kSysMmap, 0x40000000, 0x10000, kProtRead | kProtWrite, kMapPrivate | kMapAnonymous | kMapFixed, ~0ull, 0);
    if (at != 0x40000000) wrong++;
  }
  Log(wrong);
  Leave();
}

GUEST_TEXT void GuestMmapForever(uint64_t, uint64_t) {
  for (;;) {
    int64_t at = Sys(kSysMmap, 0x40000000, 0x10000, kProtRead | kProtWrite, kMapPrivate | kMapAnonymous | kMapFixed, ~0ull, 0);
    if (at != 0x40000000) Log(static_cast<uint64_t>(at));
  }
}

GUEST_TEXT void GuestFaultLoop(uint64_t rounds, uint64_t) {
  uint64_t wrong = 0;
  volatile uint64_t* page = reinterpret_cast<volatile uint64_t*>(kGuestData + 0x4000);
  for (uint64_t i = 0; i < rounds; i++) {
    *page = i;
    if (*page != i) wrong++;
    if (Sys(kSysMremap, kGuestData + 0x4000) != 7) wrong++;
  }
  Log(wrong);
  Leave();
}

GUEST_TEXT void GuestPostFor(uint64_t index, uint64_t) {
  for (uint64_t round = 0;; round++) {
    for (uint64_t slot = 0; slot < 6; slot++) {
      volatile Mailbox* box = &reinterpret_cast<Window*>(kWindowAddress)->mailboxes[slot];
      box->fast.context = kStacksAddress + slot * kStackSize + 1024;
      box->signo = round % 3 == 0 ? 31 : round % 3 == 1 ? 23 : 11;
      box->fast.waiting = 0;
      box->fast.contact = static_cast<uint32_t>((round + index) % 6);
    }
    if (round % 64 == 0) Sys(kGuestEcho, round);
    if (round % 256 == 0) Sys(kSysMmap, 0x40000000, 0x1000, 3, 0x32, ~0ull, 0);
  }
}

GUEST_TEXT void GuestMunmapLoop(uint64_t rounds, uint64_t) {
  uint64_t wrong = 0;
  for (uint64_t i = 0; i < rounds; i++) {
    if (Sys(kSysMunmap, 0x40000000, 0x10000) != 0) wrong++;
  }
  Log(wrong);
  Leave();
}

GUEST_TEXT void GuestBlocked(uint64_t argument, uint64_t) {
  Log(static_cast<uint64_t>(Sys(kGuestBlock, argument)));
  Leave();
}

GUEST_TEXT void GuestFault(uint64_t which, uint64_t) {
  if (which == 0) *reinterpret_cast<volatile uint64_t*>(0x1230) = 1;
  if (which == 1) asm volatile("ud2");
  if (which == 2) asm volatile("int3");
  if (which == 3) asm volatile("xor %%edx, %%edx; xor %%ecx, %%ecx; div %%ecx" : : : "rax", "rdx", "rcx");
  if (which == 4) asm volatile("hlt");
  Log(77);
  Leave();
}

GUEST_TEXT void GuestFork(uint64_t, uint64_t) {
  *reinterpret_cast<volatile uint64_t*>(kGuestData) = 5;
  int64_t pid = Sys(57);
  if (pid == 0) {
    Log(200 + *reinterpret_cast<volatile uint64_t*>(kGuestData));
    *reinterpret_cast<volatile uint64_t*>(kGuestData) = 6;
    Log(Sys(kGuestEcho, 300));
    Leave();
  }
  Log(100 + (pid > 0 ? 1 : 0));
  Leave();
}

GUEST_TEXT void GuestForkMany(uint64_t count, uint64_t) {
  for (uint64_t i = 0; i < count; i++) {
    int64_t pid = Sys(57);
    if (pid == 0) {
      Log(1000 + i);
      Leave();
    }
    if (pid < 0) Log(5000);
  }
  Log(1);
  Leave();
}

GUEST_TEXT void GuestForkExitLoop(uint64_t count, uint64_t) {
  for (uint64_t i = 0; i < count; i++) {
    int64_t pid = Sys(57);
    if (pid == 0) Leave();
    Sys(kGuestBlock, static_cast<uint64_t>(pid));
  }
  Log(1);
  Leave();
}

GUEST_TEXT void GuestVector(uint64_t, uint64_t) {
  uint64_t out[4];
  uint64_t in = 0x1122334455667788;
  uint64_t number = kGuestEcho;
  asm volatile(
      "vmovq %[in], %%xmm7\n"
      "vpbroadcastq %%xmm7, %%ymm7\n"
      "mov $9, %%eax\n"  // a trapped call with nonsense arguments
      "xor %%edi, %%edi\n"
      "xor %%esi, %%esi\n"
      "syscall\n"
      "vmovdqu %%ymm7, (%[out])\n"
      :
      : [in] "r"(in), [out] "r"(out), "r"(number)
      : "rax", "rdi", "rsi", "rcx", "r11", "memory");
  Log(out[0] == in && out[1] == in && out[2] == in && out[3] == in ? 1 : 0);
  Leave();
}

GUEST_TEXT void GuestForeign(uint64_t, uint64_t) {
  int64_t result;
  asm volatile("int $0x80" : "=a"(result) : "0"(20ull), "b"(0ull) : "memory");
  Log(static_cast<uint64_t>(result));
  Log(static_cast<uint64_t>(Sys(0x40000000 | 39)));
  Log(static_cast<uint64_t>(Sys(0xffffffff)));
  Leave();
}

GUEST_TEXT void GuestTouch(uint64_t address, uint64_t value) {
  *reinterpret_cast<volatile uint64_t*>(address) = value;
  GuestEchoForever(0, 0);
}

GUEST_TEXT void GuestCallAt(uint64_t address, uint64_t number) { asm volatile("jmp *%0" : : "r"(address), "a"(number) : "memory"); }

GUEST_TEXT void GuestSyscall(uint64_t number, uint64_t argument) {
  Log(static_cast<uint64_t>(Sys(number, argument, 0x1000)));
  Leave();
}

GUEST_TEXT void GuestFutexPair(uint64_t side, uint64_t) {
  uint32_t* word = reinterpret_cast<uint32_t*>(kGuestData + 64);
  for (uint64_t i = 0; i < 2000; i++) {
    for (;;) {
      uint32_t value = __atomic_load_n(word, __ATOMIC_ACQUIRE);
      if ((value & 1) == side) break;
      Sys(kSysFutex, reinterpret_cast<uint64_t>(word), 128, value, 0);
    }
    __atomic_fetch_add(word, 1, __ATOMIC_ACQ_REL);
    Sys(kSysFutex, reinterpret_cast<uint64_t>(word), 129, 10);
  }
  Log(side + 1);
  Sys(kGuestBlock);
  Leave();
}

GUEST_TEXT void GuestForge(uint64_t sigreturn, uint64_t) {
  // A frame of our own: all signals blocked, an alternate stack of our own.
  StubContext* context = reinterpret_cast<StubContext*>(kGuestData + 0x1000);
  context->flags = 0;
  context->stack = {kGuestData + 0x8000, 0, 0, 0x8000};
  context->fpstate = 0;
  context->sigmask = ~0ull;
  for (int i = 0; i < 18; i++) context->gregs[i] = 0;
  context->gregs[15] = kGuestStackTop - 0x1000;                 // rsp
  context->gregs[16] = reinterpret_cast<uint64_t>(&GuestSpin);  // rip
  context->gregs[17] = 0x202;                                   // flags
  context->segments = 0x33 | (0x2bull << 48);
  asm volatile(
      "mov %0, %%rsp\n"
      "mov $15, %%eax\n"
      "jmp *%1\n"
      :
      : "r"(context), "r"(sigreturn)
      : "memory");
}

// clone as the tests' kernel takes it: flags, stack, entry, argument.
GUEST_TEXT void GuestThreadMaker(uint64_t count, uint64_t entry) {
  for (uint64_t i = 0; i < count; i++) {
    if (Sys(kSysClone, 0x10100, kGuestData + 0x10000 + (i % 900) * 1024 + 1000, entry, i) <= 0) Log(9999);
  }
  Log(9000);
  Sys(kGuestBlock, 9000);
  Leave();
}

GUEST_TEXT void GuestThreadEcho(uint64_t index, uint64_t) {
  for (uint64_t i = 0; i < 50; i++) {
    if (Sys(kGuestEcho, index + i) != static_cast<int64_t>(index + i + 1)) Log(8888);
  }
  Log(index);
  for (;;) Sys(kSysExit);
}

GUEST_TEXT void GuestThreadBlock(uint64_t index, uint64_t) {
  Sys(kGuestBlock, index);
  for (;;) Sys(kSysExit);
}

GUEST_TEXT void GuestThreadWait(uint64_t index, uint64_t) {
  Log(static_cast<uint64_t>(Sys(kGuestBlock, index)));
  for (;;) Sys(kSysExit);
}

GUEST_TEXT void GuestThreadSpin(uint64_t index, uint64_t) {
  volatile uint64_t* counter = reinterpret_cast<volatile uint64_t*>(kGuestData + index * 8);
  for (;;) *counter = *counter + 1;
}

GUEST_TEXT void GuestThreadFutex(uint64_t index, uint64_t) {
  for (;;) Sys(kSysFutex, kGuestData + 0x8000 + index * 4, 128, 0, 0);
}

GUEST_TEXT void GuestVfork(uint64_t, uint64_t) {
  volatile uint64_t* word = reinterpret_cast<volatile uint64_t*>(kGuestData);
  *word = 1;
  int64_t pid = Sys(58, 0, kGuestData + 0x8000);
  if (pid == 0) {
    *word = 2;
    Log(20);
    Leave();
  }
  while (*word != 2) {
  }
  Log(pid > 0 ? 10 : 11);
  Leave();
}

GUEST_TEXT void GuestTimedWait(uint64_t, uint64_t) {
  Log(static_cast<uint64_t>(Sys(kSysFutex, kGuestData, 128, 0, kGuestData + 8)));
  Leave();
}

GUEST_TEXT void GuestWaker(uint64_t word, uint64_t) {
  while (Sys(kSysFutex, word, 129, 1) == 0) {
  }
  Log(500);
  for (;;) Sys(kSysExit);
}

GUEST_TEXT void GuestScribble(uint64_t index, uint64_t) {
  uint64_t random = index + 1;
  for (uint64_t round = 0; round < 40; round++) {
    for (uint64_t i = 0; i < 4000; i++) {
      random = random * 6364136223846793005 + 1442695040888963407;
      uint64_t offset = (random >> 20) % (64 * sizeof(Mailbox));
      uint64_t address = kWindowAddress + kHeaderSize + (offset & ~7ull);
      if (i % 4 == 0) address = kStacksAddress + ((random >> 20) % (64 * kStackSize) & ~7ull);
      *reinterpret_cast<volatile uint64_t*>(address) = i % 3 == 0 ? 1 : random;
    }
    Sys(kGuestEcho, round);
    if (round % 3 == 0) Sys(kSysMmap, 0x40000000, 0x1000, 3, 0x32, ~0ull, 0);
    if (round % 7 == 0 && Sys(57) == 0) Leave();
  }
  Leave();
}

// Makes every kind of stub call by hand, through the stub's own `syscall` instruction at `ip`.
GUEST_TEXT void GuestStubCall(uint64_t ip, uint64_t kind) {
  asm volatile("jmp *%0" : : "r"(ip), "a"(kStubCall), "D"(kind), "S"(kStacksAddress + 64), "d"(0ull) : "memory");
}

// Breaks what the handler needs, then traps.
GUEST_TEXT void GuestBreak(uint64_t what, uint64_t) {
  if (what == 0) asm volatile("wrfsbase %0" : : "r"(0x7fffffffffffull));
  if (what == 1) asm volatile("pushfq; orl $0x40000, (%%rsp); popfq" : : : "memory", "cc");  // AC
  if (what == 2) asm volatile("std");
  if (what == 3) asm volatile("mov %0, %%rsp" : : "r"(0xdead0000dead0000));
  if (what == 4) asm volatile("mov %0, %%rsp" : : "r"(kStacksAddress + 0x2000));
  if (what == 5) asm volatile("mov $0, %%eax; mov %%eax, %%ds; mov %%eax, %%es; mov %%eax, %%fs" : : : "rax");
  asm volatile(
      "mov $9, %%eax\n"
      "syscall\n"
      "mov $2001, %%eax\n"
      "mov $66, %%edi\n"
      "syscall\n"
      "mov $2003, %%eax\n"
      "syscall\n"
      :
      :
      : "memory");
}

// Threads, mappings, forks and calls without end: to be killed at any moment.
GUEST_TEXT void GuestChurn(uint64_t, uint64_t) {
  for (uint64_t i = 0;; i++) {
    Sys(kGuestEcho, i);
    Sys(kSysMmap, 0x40000000, 0x3000, 3, 0x32, ~0ull, 0);
    if (i % 2 == 0) Sys(kSysClone, 0x10100, kGuestData + 0x10000 + (i % 200) * 4096 + 1000, reinterpret_cast<uint64_t>(&GuestThreadEcho), i);
    if (i % 5 == 0 && Sys(57) == 0) {
      Sys(kGuestEcho, i);
      Leave();
    }
    if (i % 7 == 0) Sys(58, 0, kGuestData + 0x8000);
    Sys(kSysMunmap, 0x40000000, 0x3000);
  }
}

// A site as libraries have them. One for all that use it.
GUEST_TEXT int64_t GuestFastSite(uint64_t value) {
  int64_t result;
  asm volatile("movl $2000, %%eax\n\tsyscall" : "=a"(result) : "D"(value) : "rcx", "r11", "cc", "memory");
  return result;
}

STUB_INLINE uint64_t FastEcho(uint64_t rounds) {
  uint64_t wrong = 0;
  for (uint64_t i = 0; i < rounds; i++) {
    if (GuestFastSite(i) != static_cast<int64_t>(i + 1)) wrong++;
  }
  return wrong;
}

GUEST_TEXT void GuestFastEcho(uint64_t rounds, uint64_t) {
  Log(FastEcho(rounds));
  Leave();
}

GUEST_TEXT void GuestFastEchoForever(uint64_t, uint64_t) {
  for (;;) {
    uint64_t wrong = FastEcho(1 << 20);
    if (wrong != 0) Log(wrong);
  }
}

// The five bytes before `syscall` lie in two cache lines.
GUEST_TEXT int64_t GuestFarSite(uint64_t value) {
  int64_t result;
  asm volatile(".p2align 6\n\t.skip 61, 0x90\n\tmovl $2000, %%eax\n\tsyscall" : "=a"(result) : "D"(value) : "rcx", "r11", "cc", "memory");
  return result;
}

GUEST_TEXT void GuestFarEcho(uint64_t rounds, uint64_t thread) {
  uint64_t wrong = 0;
  for (uint64_t i = 0; i < rounds; i++) {
    if (GuestFarSite(i) != static_cast<int64_t>(i + 1)) wrong++;
  }
  Log(wrong);
  if (thread == 0) Leave();
  for (;;) Sys(kSysExit, 0);
}

GUEST_TEXT void GuestFarThread(uint64_t, uint64_t) { GuestFarEcho(20000, 1); }

GUEST_TEXT int64_t GuestWriteSite(uint64_t fd, const void* data, uint64_t size) {
  int64_t result;
  asm volatile("movl $1, %%eax\n\tsyscall" : "=a"(result), "+D"(fd), "+S"(data) : "d"(size) : "rcx", "r11", "cc", "memory");
  return fd == 1 ? result : -1;
}

GUEST_TEXT int64_t GuestReadSite(uint64_t fd, void* data, uint64_t size, uint64_t offset) {
  int64_t result;
  void* before = data;
  register uint64_t r10 asm("r10") = offset;
  asm volatile("movl $17, %%eax\n\tsyscall" : "=a"(result), "+D"(fd), "+S"(data) : "d"(size), "r"(r10) : "rcx", "r11", "cc", "memory");
  return fd == 1 && data == before ? result : -1;
}

// Writes are answered with the first of their bytes, which are all alike; reads with bytes that are the low byte of the offset.
GUEST_TEXT void GuestFastCopies(uint64_t rounds, uint64_t) {
  constexpr uint64_t kSize = 200;
  volatile uint8_t* out = reinterpret_cast<volatile uint8_t*>(kGuestData + 0x100);
  volatile uint8_t* in = reinterpret_cast<volatile uint8_t*>(kGuestData + 0x2000 - 50);
  uint64_t wrong = 0;
  for (uint64_t i = 0; rounds == 0 || i < rounds; i++) {
    uint64_t size = 1 + i % kSize;
    for (uint64_t k = 0; k < size; k++) out[k] = static_cast<uint8_t>(i);
    if (GuestWriteSite(1, const_cast<uint8_t*>(out), size) != static_cast<int64_t>(i & 0xff)) wrong++;
    in[size] = 0x77;
    if (GuestReadSite(1, const_cast<uint8_t*>(in), size, i) != static_cast<int64_t>(size)) wrong++;
    for (uint64_t k = 0; k < size; k++) wrong += in[k] != static_cast<uint8_t>(i) ? 1 : 0;
    wrong += in[size] != 0x77 ? 1 : 0;
    if (i % 32 == 31 && GuestWriteSite(1, reinterpret_cast<void*>(0x10), 8) != -14) wrong++;
    if (rounds == 0 && wrong != 0) {
      Log(wrong);
      wrong = 0;
    }
  }
  Log(wrong);
  Leave();
}

GUEST_TEXT int64_t GuestActionSite(uint64_t signo, const uint64_t* action, uint64_t* before) {
  int64_t result;
  register uint64_t r10 asm("r10") = 8;
  uint64_t number = signo;
  asm volatile("movl $13, %%eax\n\tsyscall" : "=a"(result), "+D"(number), "+S"(action) : "d"(before), "r"(r10) : "rcx", "r11", "cc", "memory");
  return number == signo ? result : -1;
}

GUEST_TEXT void GuestActions(uint64_t rounds, uint64_t) {
  uint64_t* next = reinterpret_cast<uint64_t*>(kGuestData + 0x100);
  volatile uint64_t* before = reinterpret_cast<volatile uint64_t*>(kGuestData + 0x200);
  uint64_t wrong = 0;
  for (uint64_t i = 1; rounds == 0 || i <= rounds; i++) {
    next[0] = next[2] = i;
    next[1] = 0x10000004;
    next[3] = ~0ull;  // what cannot be blocked is left out
    uint64_t* where = i % 32 == 31 ? reinterpret_cast<uint64_t*>(0x10) : const_cast<uint64_t*>(before);
    int64_t result = GuestActionSite(10, next, where);
    if (result != (i % 32 == 31 ? -14 : 0)) wrong++;
    if (i > 1 && i % 32 != 31 && (before[0] != i - 1 || before[1] != 0x10000004 || before[2] != i - 1 || before[3] != ~0x40100ull)) wrong++;
    before[0] = 0;
    if (GuestActionSite(10, nullptr, const_cast<uint64_t*>(before)) != 0 || before[0] != i) wrong++;
    if (i % 16 == 5 && (GuestActionSite(9, next, nullptr) != -22 || GuestActionSite(65, nullptr, next) != -22)) wrong++;
    if (rounds == 0 && wrong != 0) {
      Log(wrong);
      wrong = 0;
    }
  }
  Log(wrong);
  Leave();
}

GUEST_TEXT void GuestFastThread(uint64_t, uint64_t) {
  Log(FastEcho(20000));
  for (;;) Sys(kSysExit, 0);
}

GUEST_TEXT void GuestFastFork(uint64_t rounds, uint64_t) {
  Log(FastEcho(rounds));
  Sys(57);  // fork
  Log(FastEcho(rounds));
  Leave();
}
