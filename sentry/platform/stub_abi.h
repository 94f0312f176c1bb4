// What the sentry and the code inside stubs agree on: addresses of the stub region, mailboxes,
// orders.
//
// Freestanding: included by the stub text, which has no libc, no data and no relocations.
//
// The stub region lies above kGuestTop at the same addresses in every stub:
//   text      the stub's code and the filter program, read and execute only; never changes
//   window    the address space's part of the sentry's memfd, shared: one mailbox per thread,
//   scalars only stacks    private anonymous memory, one alternate signal stack per thread (in
//   shared memory fork would make
//             parent and child trample each other's frames)
// A guest can write to its window and stacks and can jump into the text. All that it reaches so is
// its own process: every host call made here is either one of the few that the filter allows to
// all, or is notified and compared with what the sentry ordered.
#pragma once

#include <cstddef>
#include <cstdint>

namespace amber::platform {

inline constexpr uint64_t kRegionStart = 0x7ffff0000000;
inline constexpr uint64_t kUserEnd = 0x7ffffffff000;

inline constexpr uint64_t kTextAddress = 0x7ffff0010000;
inline constexpr uint64_t kTextSize = 0x10000;
inline constexpr uint64_t kFilterOffset = 0x8000;            // inside the text: a sock_fprog, then its instructions
inline constexpr uint64_t kTrapFilterOffset = 0x9000;        // likewise, for those who filter themselves (TrapNativeCallsOp)
inline constexpr uint64_t kControlAddress = 0x7ffff0100000;  // only in the seed
inline constexpr uint64_t kControlSize = 0x1000;
// Aligned to kWindowAlignment, so that the fast path recognises a mailbox address by one shift.
inline constexpr uint64_t kWindowAddress = 0x7ffff4000000;
inline constexpr uint64_t kWindowAlignment = 0x400000;
inline constexpr uint64_t kVdsoAddress = 0x7ffff0800000;
inline constexpr uint64_t kVdsoLimit = 0x100000;
inline constexpr uint64_t kSeedStackAddress = 0x7ffff0a00000;  // only until a stub enters its first guest
inline constexpr uint64_t kSeedStackSize = 0x8000;
inline constexpr uint64_t kStacksAddress = 0x7ffff1000000;
inline constexpr uint64_t kStackSize = 0x4000;
inline constexpr uint32_t kMaxThreads = 2048;  // per address space
inline constexpr uint64_t kStacksSize = kMaxThreads * kStackSize;

// Private call numbers. Never executed: the first is notified, the second trapped.
inline constexpr uint64_t kStubCall = 0x5ab0;
inline constexpr uint64_t kStubTrap = 0x5ab1;

// First argument of a kStubCall.
enum StubCallKind : uint64_t {
  kContactFrame = 1,   // a signal's frame is handed over; arg 1: address of its ucontext
  kContactReport = 2,  // ordered operations are done; arg 1 as above
  kContactChild = 3,   // first call of a process that shares its parent's memory; arg 1: its nonce, arg 2: address of the ucontext
  kContactLost = 4,    // a signal's frame is not on an alternate stack of ours
  kContactFailed = 5,  // an operation failed that was to need no report
};

struct MailboxOp {
  uint64_t number;
  uint64_t args[6];
};

inline constexpr uint32_t kMailboxOps = 4;

// Commands: the low byte of Mailbox::order; the rest counts, so that every order differs from the
// one before.
enum Command : uint32_t {
  kCommandResume = 1,   // flags below; return to the guest
  kCommandRun = 2,      // run ops[0..op_count), report
  kCommandContact = 3,  // report at once (the sentry wants a notification to attach descriptors to)
  kCommandFork = 4,     // ops[0] is a clone without CLONE_VM, ops[1] a close of the windows' descriptor; report only failure
  kCommandClone = 5,    // ops[0] is a clone with CLONE_VM onto the stack of `child_slot`; a process
                        // (nonce set) as for fork, a thread is reported
};

// Mailbox::flags of a resume.
enum ResumeFlags : uint32_t {
  kResumeRegisters = 1,  // load `regs` into the frame
  kResumeBases = 2,      // load fs_base and gs_base
  kResumeClose = 4,      // close descriptor 0 first (the listener, right after exec)
};

// Mailbox::flags of a run.
enum RunFlags : uint32_t {
  kRunAhead = 1,  // no report if all succeed: the notification of the last operation stands for it
};

// A forked child's first call maps its window; what the host does not look at of its arguments carries the nonce: the upper halves of the
// flags (of a MAP_SHARED; do_mmap() ignores those it does not know) and of the descriptor (an int).
constexpr uint64_t BirthFlags(uint64_t flags, uint64_t nonce) { return flags | (nonce & ~uint64_t{0xffffffff}); }
constexpr uint64_t BirthFd(uint64_t fd, uint64_t nonce) { return fd | nonce << 32; }

// States of a call on the fast path (stub_fast.cc). The guest goes from idle to posted, and back if it gives up; the sentry from
// posted to taken, and on to one of the last three; the guest back to idle.
enum FastState : uint32_t {
  kFastIdle = 0,
  kFastPosted = 1,
  kFastTaken = 2,
  kFastDone = 3,  // `result` is the answer
  kFastRedo = 4,  // make the call itself
  kFastStop = 5,  // hand the frame over, by a trap
};

// A call of the fast path, and hand-overs of a stub's own while the sentry watches. Cache lines by who writes them.
struct FastCall {
  uint32_t state;
  uint32_t number;
  uint64_t args[6];
  int64_t result;
  uint64_t behind;  // the guest's: address behind the `syscall` instruction
  uint64_t memory;  // the sentry's: address of this thread's FastMemory in the stub
  uint64_t pad1[6];
  uint32_t watching;  // the sentry's: posted calls are looked for; the guest clears it when it posted in vain
  uint32_t actions;   // the sentry's: rt_sigaction is answered by the stub out of this thread's SignalActions
  uint32_t waits;     // the sentry's: the call that was taken waits for another process, which may need the guest's CPU
  uint32_t pad2[13];
  // A StubCallKind that is posted here instead of being told by a kStubCall, or 0; who takes it sets it back to 0. The stub withdraws one that
  // nobody took, and makes the call.
  uint32_t contact;
  uint32_t waiting;  // the stub's: it sleeps, or is about to, on `order`
  uint64_t context;  // of the contact: its argument
  uint64_t pad3[6];
  // Of an rt_sigaction that the stub answers: the new action until it is in its place, and the signals whose actions have changed (bit n - 1).
  uint64_t action[4];
  uint64_t changed_actions;
  uint64_t pad4[3 + 8 * 3];
};
static_assert(offsetof(FastCall, behind) == 64 && offsetof(FastCall, watching) == 128 && offsetof(FastCall, contact) == 192 &&
              offsetof(FastCall, action) == 256 && sizeof(FastCall) == 512);

// Where the fast path begins, an address that patched code knows: it must never change.
inline constexpr uint64_t kFastEntryOffset = 0x7fe0;
inline constexpr uint64_t kFastEntry = kTextAddress + kFastEntryOffset;

// One per thread. The thread waits natively on `order` while it has nothing to do.
struct Mailbox {
  uint32_t order;
  uint32_t flags;
  uint32_t op_count;
  uint32_t always_from;  // operations from this index on are run even if an earlier one failed
  uint64_t nonce;
  uint32_t child_slot;  // of a clone; of a fork: the number of the child's window
  uint32_t done_count;  // out: operations below always_from that were run
  uint64_t regs[18];    // as platform::Registers; out at a hand-over, in at a resume
  uint64_t fs_base, gs_base;
  int32_t signo, code, error, arch;  // out: of the siginfo
  uint64_t address, trapno, error_code;
  MailboxOp ops[kMailboxOps];
  int64_t results[kMailboxOps];
  int64_t deadline[2];  // a timespec for the timed futex wait
  uint64_t fpstate;     // out: address of the frame's extended state
  FastCall fast;
};
static_assert(sizeof(Mailbox) == 1024 && offsetof(Mailbox, fast) == 512);

// What a posted call's pointers point to, so that the sentry needs no host call to get or give it. The guest copies in before it posts, and out
// after the answer (stub_fast.cc). All of it is the guest's own memory in another place: what it forges here it could write there.
struct FastMemory {
  // In: `in_size[0]` bytes from `in_address[0]` lie in `in`, those of the second range behind them.
  uint64_t in_address[2];
  uint32_t in_size[2];
  // Out: so many ranges are to be written, from the bytes in `out` one after the other.
  uint32_t out_count;
  uint32_t pad;
  struct Range {
    uint64_t address, size;
  } ranges[6];
  uint8_t in[1920];
  uint8_t out[2048];
};
static_assert(sizeof(FastMemory) == 4096 && offsetof(FastMemory, ranges) == 32 && offsetof(FastMemory, in) == 128 &&
              offsetof(FastMemory, out) == 2048);

// The signal actions of a thread that is alone with them, so that asking for them and changing them needs no hand-over: the sentry takes the
// changes at the thread's next contact, or when it wants to know before (fast_actions.h). The guest's own word, as a call would be.
struct SignalActions {
  uint64_t actions[64][4];  // as in the kernel's sigaction: handler, flags, restorer, mask
  uint8_t pad[2048];
};
static_assert(sizeof(SignalActions) == 4096);

// One operation of an exec batch.
struct BatchOp {
  uint64_t number;
  uint64_t args[6];
  int32_t fd_index;  // into the descriptors sent along; -1: none
  int32_t fd_arg;
};

inline constexpr uint64_t kHeaderSize = 0x10000;
inline constexpr uint32_t kBatchMax = 800;
inline constexpr uint32_t kBatchFds = 200;

enum BatchFlags : uint32_t {
  kBatchLast = 1,  // then install the filter and become a guest thread
  kBatchQuit = 2,  // end the process
};

// The head of a window: conversation with a stub before it has its filter, and so before any guest
// code runs in it.
struct WindowHeader {
  uint32_t order;  // counts up: one more batch
  uint32_t ack;    // follows it
  uint32_t flags;
  uint32_t op_count;
  uint32_t fd_count;
  int32_t socket;
  int32_t result;  // 0, or -errno
  uint32_t failed_op;
  int32_t listener;
  uint64_t context;  // out: address of the first thread's ucontext
  uint32_t reserved[4];
  BatchOp ops[kBatchMax];
};
static_assert(sizeof(WindowHeader) <= kHeaderSize);

struct Window {
  WindowHeader header;
  uint8_t pad[kHeaderSize - sizeof(WindowHeader)];
  Mailbox mailboxes[kMaxThreads];  // within kWindowAlignment
  FastMemory memory[kMaxThreads];
  SignalActions actions[kMaxThreads];
};
inline constexpr uint64_t kWindowSize = sizeof(Window);
static_assert(offsetof(Window, actions) - offsetof(Window, memory) == 4096 * kMaxThreads);
static_assert(offsetof(Window, memory) % 4096 == 0 && offsetof(Window, memory) <= kWindowAlignment && kWindowAddress + kWindowSize <= kUserEnd);

// The seed's page.
struct Control {
  uint32_t order;  // counts up: clone one more stub
  uint32_t ack;
  uint32_t window;  // index of its window
  int32_t pid;      // out, or -errno
  uint32_t quit;
};

struct Range {
  uint64_t start, end;
};

// What the bootstrap of the seed needs; copied to its temporary page.
struct BootParams {
  const void* text;
  uint64_t text_size;
  uint64_t rseq_address;
  uint32_t rseq_size;
  int32_t memfd;
  int32_t socket;
  uint32_t vdso_count;
  Range vdso[4];  // vvar and vdso mappings in address order
  uint64_t temporary;
  int32_t parent;
};

}  // namespace amber::platform
