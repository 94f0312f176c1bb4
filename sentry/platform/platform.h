// The platform: guest address spaces and threads, and how their system calls reach the kernel.
//
// This interface is all that the kernel above knows of stubs, seccomp and mailboxes (DESIGN: platform). The
// implementation here traps with seccomp user notification; another trap (KVM, say) would implement the same.
//
// Model. An AddressSpace is a guest memory image; it is backed by one or more host stub processes (more than one
// only while a vfork child shares it). A Thread is one stub thread. A thread is in one of these states:
//
//   running   executes guest code; the kernel may only Kick() or kill it.
//   notified  made a system call whose answer is a value: the client got OnSyscall and owes exactly one Answer*().
//   stopped   handed its frame over (trapped call, fault, kick): the client got OnFrame, may read and edit
//             frame(), run stub operations, fork, clone, and ends the state by Resume() or Exit(). A thread that
//             stays stopped is parked by the platform: it holds no outstanding notification and no worker.
//   gone      its host thread ended.
//
// Threads. Client methods and callbacks run on platform worker threads with no platform lock held; the client takes
// its own lock. Methods of this interface may be called from any thread and never block on a guest, except where a
// comment says so. Lock order: the client's lock, then the platform's.
//
// The guest is hostile: frames, mailboxes and results of stub operations are the guest's to forge. Every value read
// from them is as untrusted as a register.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "sentry/base/errno_or.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/base/unique_fd.h"

namespace amber::platform {

// Guest addresses lie below this; above it (up to the end of the user half) is the stub region.
inline constexpr uint64_t kGuestTop = 0x7ffff0000000;
inline constexpr uint64_t kMinAddress = 0x10000;

// General registers in the order of Linux's sigcontext (arch/x86/include/uapi/asm/sigcontext.h).
struct Registers {
  uint64_t r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, rflags;
};

struct Syscall {
  uint64_t number;
  uint64_t args[6];
  uint64_t ip;  // after the `syscall` instruction
};

// Why a thread handed its frame over.
enum class Stop {
  kSyscall,  // a call of the trap set; regs.rax holds its number, rip is after the instruction
  kFault,    // SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP: see Fault
  kKick,     // Kick(), or the first contact of a forked, cloned or new thread
  kForeign,  // a call by another architecture's entry (int 0x80): Linux without IA32 gives SIGSEGV
};

struct Fault {
  int signo;
  int code;                     // si_code
  uint64_t address;             // si_addr
  uint64_t trapno, error_code;  // as in the frame
};

// A stopped thread's state. Fields may be edited until Resume(). The signal mask and alternate stack of the host
// frame are the platform's and are not shown.
struct Frame {
  Registers regs;
  uint64_t fs_base, gs_base;  // gs_base: as the guest set it; 0 while the platform uses it for the fast path
};

// One host system call for a stub's own thread to make.
struct StubOp {
  uint64_t number;  // mmap, munmap, mprotect, mremap, madvise, arch_prctl, set_tid_address, ...
  uint64_t args[6];
  // If >= 0, the platform duplicates this host descriptor into the stub for the time of the operation and puts its
  // number there into args[fd_arg]. The caller keeps it open until the operation is done.
  int fd = -1;
  int fd_arg = 4;
};

// The operation after which the thread that runs it (with `all`: every thread of its process) stops for calls, too, that the host else
// executes by itself: futex and sched_yield. It cannot be undone; forked and cloned threads inherit it. For tasks with filters of their own.
StubOp TrapNativeCallsOp(bool all);

class Thread;
class AddressSpace;

// What the kernel implements.
class Client {
 public:
  virtual ~Client() = default;
  // `thread` made a call of the base path and waits for an Answer*().
  virtual void OnSyscall(Thread& thread, const Syscall& call) = 0;
  // `thread` is stopped. `fault` is null unless `stop` is kFault.
  virtual void OnFrame(Thread& thread, Stop stop, const Fault* fault) = 0;
  // A host process ended (killed, out of memory, or on order). Its threads are gone; no callback for them follows.
  // `wait_status` is the host's (WIFSIGNALED ...). `threads` lists the Threads that ended with it.
  virtual void OnProcessDeath(AddressSpace& space, std::span<Thread* const> threads, int wait_status) = 0;
};

// One stub thread. Created by the platform, deleted when it is both gone and Release()d.
class Thread {
 public:
  Thread(const Thread&) = delete;
  Thread& operator=(const Thread&) = delete;

  // For the client: the task that this thread runs. Set before the first Resume().
  void* cookie = nullptr;

  virtual AddressSpace& space() = 0;
  virtual int host_tid() const = 0;
  virtual int host_pid() const = 0;

  // --- notified ---
  // Ends the call with `value` (a result, or -errno).
  virtual void Answer(int64_t value) = 0;
  // Lets the guest's own call run in the host kernel. Only for calls whose arguments are scalars and that the kernel
  // has checked (munmap, mprotect, madvise, MAP_FIXED anonymous mmap). It is done at the thread's next contact at the
  // latest: `done`, if set, runs at that moment, before the contact is delivered (or when the thread is gone).
  virtual void AnswerContinue(std::function<void()> done) = 0;
  // Undoes the call: the thread stops (OnFrame with kKick) with its registers as before the `syscall` instruction.
  virtual void AnswerStop() = 0;
  // Answers `value` and makes the thread stop right behind the call (OnFrame with kKick, rax = value).
  virtual void AnswerAndStop(int64_t value) = 0;

  // --- running or notified ---
  // Asks the thread to stop (OnFrame with kKick). If it is notified, it stops after its answer. Idempotent. The
  // platform resends after 10 ms, 100 ms and 1 s, and then kills the host process (OnProcessDeath follows).
  virtual void Kick() = 0;

  // --- stopped ---
  virtual Frame& frame() = 0;
  // The extended state (x87, sse, avx ...) in the XSAVE layout of a signal frame, its magic words included. Read from
  // the stub on the first call of each stop.
  virtual ErrnoOr<std::span<const uint8_t>> xstate() = 0;
  // Replaces it; EINVAL for bytes whose size, magic words or features this machine cannot load.
  virtual ErrnoOr<void> set_xstate(std::span<const uint8_t> bytes) = 0;
  // Writes the edited frame back and lets the thread run.
  virtual void Resume() = 0;
  // Runs `ops` one after the other on this thread. `done` gets their results (host return values: >= 0 or -errno);
  // the first failing one ends the run, so there may be fewer results than ops. The thread stays stopped.
  virtual void RunOps(std::vector<StubOp> ops, std::function<void(std::span<const int64_t>)> done) = 0;
  // Natively waits on a futex word until an absolute host time (CLOCK_MONOTONIC, or CLOCK_REALTIME if `realtime`).
  // A Kick() interrupts it. `done` gets 0, -EAGAIN, -ETIMEDOUT or -EINTR; the thread is then stopped, its frame as
  // before the call.
  virtual void FutexWait(uint64_t address, uint32_t value, uint32_t bitset, bool shared, bool realtime, int64_t deadline_ns,
                         std::function<void(int64_t)> done) = 0;
  // Forks the host process: `done` gets the child's only thread, stopped, with a copy of this thread's frame; its
  // space() is a new AddressSpace. EAGAIN or ENOMEM if the host refuses.
  virtual void Fork(std::function<void(ErrnoOr<Thread*>)> done) = 0;
  struct CloneOptions {
    bool new_process = false;      // vfork: a host process of its own that shares the address space
    Frame frame = {};              // where the new thread starts; its extended state is this thread's
    uint64_t clear_child_tid = 0;  // CLONE_CHILD_CLEARTID: cleared and woken by the host at the thread's end
  };
  // A further thread in this address space: `done` gets it, stopped.
  virtual void Clone(const CloneOptions& options, std::function<void(ErrnoOr<Thread*>)> done) = 0;
  // Ends this host thread (not its process); the thread becomes gone. No callback. Also allowed while the thread is
  // notified of its own exit(2): then it costs no stop.
  virtual void Exit() = 0;

  // The client will not use this object again. The platform deletes it when its host thread is gone.
  virtual void Release() = 0;

 protected:
  Thread() = default;
  virtual ~Thread() = default;
};

// A guest memory image. Reference counted; when the last reference goes, the host processes that are left are killed.
class AddressSpace : public RefCounted<AddressSpace> {
 public:
  virtual ~AddressSpace() = default;

  // Copies between guest memory and `buffer`. Returns the number of bytes copied: short if a page is missing or
  // protected, EFAULT if none was. Addresses in the stub region are refused.
  virtual ErrnoOr<size_t> Read(uint64_t address, void* buffer, size_t size) = 0;
  virtual ErrnoOr<size_t> Write(uint64_t address, const void* buffer, size_t size) = 0;
  // Vectored: guest ranges on one side, host buffers on the other.
  virtual ErrnoOr<size_t> ReadV(std::span<const iovec> guest, std::span<const iovec> local) = 0;
  virtual ErrnoOr<size_t> WriteV(std::span<const iovec> guest, std::span<const iovec> local) = 0;

  // A host pid of this address space, for /proc files (pagemap, oom_score_adj); 0 if none is left.
  virtual int host_pid() const = 0;
  // Kills every host process of this address space now (SIGKILL). OnProcessDeath follows for each.
  virtual void Kill() = 0;
  // Kills the host process of `thread` only (a vfork child, or an ordinary process).
  virtual void KillProcess(Thread& thread) = 0;
};

// A private mapping of the guest, readable and executable, that the platform writes code to: patched call sites jump there. It is
// an ordinary mapping otherwise (forked, saved, restored, even unmapped by the guest, whose loss it is). See fast_sites.h.
struct FastArea {
  uint64_t start, size;
};
inline constexpr uint64_t kFastAreaSize = 0x4000;

// What exec hands to a fresh stub: the operations that build its memory, and where it starts.
struct ExecPlan {
  std::vector<StubOp> ops;  // run before the filter is installed; all must succeed
  // Bytes written to the new address space after `ops` (stack contents and the like).
  struct Bytes {
    uint64_t address;
    std::string data;
  };
  std::vector<Bytes> writes;
  Frame frame = {};
  std::vector<uint8_t> xstate;  // empty: the initial state of a new process
  // Made by `ops`. With none, no call of this address space takes the fast path.
  std::vector<FastArea> fast_areas;
};

// Call on a platform worker, inside a callback, before host I/O that may take long: makes sure that another worker
// receives meanwhile, so that other guest threads are not kept waiting. Does nothing on other threads.
void AboutToBlock();

struct Options {
  int ready_stubs = 3;        // size of the pool
  int max_receivers = 0;      // per listener; 0: the number of CPUs
  bool fast_path = true;      // patch call sites, and watch for calls while a CPU is idle
  bool watch_always = false;  // watch however busy the machine is, for tests
};

struct Stats {
  uint64_t notifications, stops, faults, kicks, kick_resends, stub_ops, forks, execs, clones, answers_continue, parks, fast_calls, fast_redone,
      patched_sites, posted_contacts;
};

class Platform {
 public:
  // Kills and reaps every stub. No callback begins any more; waits for those that run (so hold no lock of the client's).
  // Threads that were not released are deleted; references to address spaces must have been dropped before.
  virtual ~Platform() = default;
  // Names what this host lacks ("" if nothing): found by trying, not read from a version number.
  static std::string Probe();
  // Starts the seed and the workers. Call once, early, while single-threaded; the caller should be pid 1 of the
  // stubs' pid namespace. On failure returns null and says in `error` what failed.
  static std::unique_ptr<Platform> Create(Client& client, const Options& options, std::string* error);

  // Builds an address space with one stopped thread (no OnFrame for that first stop). Blocks for about 0.2 ms.
  // E2BIG, ENOMEM, EAGAIN, or the errno of the failing operation.
  virtual ErrnoOr<Thread*> Exec(const ExecPlan& plan) = 0;

  virtual Stats stats() const = 0;
  // Where the host's vDSO lies in every stub (inherited from the seed); 0 if there is none.
  virtual uint64_t host_vdso_base() const = 0;
  virtual uint64_t host_vdso_size() const = 0;
};

}  // namespace amber::platform
