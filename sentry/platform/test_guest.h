// Guest programs for the platform's tests: raw functions, no libc, copied into a guest at
// kGuestCode. A guest talks to its test by call numbers that no kernel has.
#pragma once

#include <cstdint>

namespace amber::platform {

inline constexpr uint64_t kGuestCode = 0x10000000;
inline constexpr uint64_t kGuestData = 0x20000000;  // read and write, 1 MiB
inline constexpr uint64_t kGuestDataSize = 1 << 20;
inline constexpr uint64_t kGuestStackTop = 0x30100000;
inline constexpr uint64_t kGuestStackSize = 1 << 20;

enum GuestCall : uint64_t {
  kGuestEcho = 2000,   // answered with its first argument plus one
  kGuestLog = 2001,    // the argument is recorded
  kGuestBlock = 2002,  // answered when the test says so
  kGuestExit = 2003,   // the process is killed
};

}  // namespace amber::platform

extern "C" {
extern const char __start_guest_text[] __attribute__((visibility("hidden")));
extern const char __stop_guest_text[] __attribute__((visibility("hidden")));
}

#define GUEST(name) extern "C" void name(uint64_t a, uint64_t b) __attribute__((visibility("hidden")))

GUEST(GuestHello);      // logs 1, 2, 3; exits
GUEST(GuestEchoLoop);   // a: rounds; logs the number of wrong answers; exits
GUEST(GuestSpin);       // counts in memory for ever
GUEST(GuestMmap);       // maps memory by a trapped call, uses it, logs; exits
GUEST(GuestBlocked);    // makes a kGuestBlock call, logs its result; exits
GUEST(GuestFault);      // a: which fault
GUEST(GuestFork);       // forks; parent logs 100 + (result > 0), child 200; each exits
GUEST(GuestForkMany);   // a: number of children, one after the other
GUEST(GuestVector);     // loads vector registers, traps, checks them; logs 1 if they are unchanged
GUEST(GuestForeign);    // int 0x80, then an x32 call; logs their results
GUEST(GuestTouch);      // a: address to write to; then echoes for ever
GUEST(GuestCallAt);     // jumps to address a with rax = b
GUEST(GuestSyscall);    // a: number, b: first argument; logs the result; exits
GUEST(GuestFutexPair);  // two threads hand a word back and forth natively; a: 0 or 1
GUEST(GuestEchoForever);
GUEST(GuestForge);        // blocks all signals by a forged rt_sigreturn, then spins
GUEST(GuestThreadMaker);  // a: how many threads to make, b: what each does (its index is its
                          // argument)
GUEST(GuestThreadEcho);   // echoes 50 times, logs its argument, exits as a thread
GUEST(GuestThreadBlock);  // blocks, then exits as a thread
GUEST(GuestThreadWait);   // blocks, logs the result, then exits as a thread
GUEST(GuestThreadSpin);   // counts in a word of its own for ever
GUEST(GuestThreadFutex);  // waits natively on a word for ever
GUEST(GuestVfork);        // a process that shares memory: child stores and logs, parent sees it
GUEST(GuestTimedWait);    // a trapped futex wait with a time-out; logs the result
GUEST(GuestWaker);        // wakes a timed waiter natively; a: the word's address
GUEST(GuestMmapLoop);     // a: rounds of mmap and munmap through the trap
GUEST(GuestForkExitLoop);
GUEST(GuestScribble);         // fills window and alternate stacks with junk while making calls; a: a seed
GUEST(GuestStubCall);         // a: address of a `syscall` in the stub text, b: kind
GUEST(GuestBreak);            // a: what to break before a trap; logs 66 if it comes back
GUEST(GuestChurn);            // threads, mappings, forks, without end
GUEST(GuestMmapForever);      // the same without end; logs only wrong answers
GUEST(GuestFaultLoop);        // a: rounds; writes to a page and has it made read-only again by a trapped call; logs how many writes went wrong
GUEST(GuestPostFor);          // posts contacts of all kinds in the names of all threads, for ever
GUEST(GuestMunmapLoop);       // a: rounds of a notified munmap
GUEST(GuestFastEcho);         // as GuestEchoLoop, by a call site that can be patched
GUEST(GuestFastEchoForever);  // logs only wrong answers
GUEST(GuestFastCopies);       // a: rounds, 0: for ever; writes and reads memory by posted calls, logs how many went wrong
GUEST(GuestActions);          // a: rounds, 0: for ever; changes actions and asks for them by one site, logs how many answers were wrong
GUEST(GuestFastThread);       // echoes 20,000 times by that site, logs the number of wrong answers, exits as a thread
GUEST(GuestFarEcho);          // a: rounds, b: not 0: as a thread; GuestFastEcho by a site that lies in two cache lines
GUEST(GuestFarThread);        // the same 20,000 times, as a thread
GUEST(GuestFastFork);         // GuestFastEcho, then the same in a forked child and in the parent
