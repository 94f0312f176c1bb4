// The part of the stub text that guests' threads run: signal handlers, the loop that obeys orders,
// clone children. No data, no relocations, no vector registers, no stack protector; see stub_abi.h.
#include "sentry/platform/stub_abi.h"
#include "sentry/platform/stub_sys.h"

namespace amber::platform {
namespace {

// Signal entry. The kernel clears the direction flag but not AC; with it an unaligned access would
// be a fault. The frame is given back by the one rt_sigreturn that the filter knows. (frame = stack
// pointer - 8 there.)
asm(R"(
  .pushsection stub_text, "ax", @progbits
  .globl stub_signal_entry
  .hidden stub_signal_entry
stub_signal_entry:
  cld
  pushfq
  andl $~0x40000, (%rsp)
  popfq
  movq %rdx, %rbx
  andq $-16, %rsp
  call StubHandler
  movq %rbx, %rsp
  .globl stub_return
  .hidden stub_return
stub_return:
  movl $15, %eax
  syscall
  .globl stub_sigreturn_end
  .hidden stub_sigreturn_end
stub_sigreturn_end:
  ud2

  .globl stub_exec_entry
  .hidden stub_exec_entry
stub_exec_entry:
  movq %rdx, %rbx
  movq %rdx, %rdi
  andq $-16, %rsp
  call StubExec
  movq %rbx, %rsp
  jmp stub_return

  .globl stub_restorer
  .hidden stub_restorer
stub_restorer:
  ud2

  # Timed futex wait, entered by an edited frame with all signals unblocked. The trap behind it hands the result over.
  .globl stub_futex_start
  .hidden stub_futex_start
stub_futex_start:
  movl $202, %eax
  .globl stub_futex_syscall
  .hidden stub_futex_syscall
stub_futex_syscall:
  syscall
  .globl stub_futex_end
  .hidden stub_futex_end
stub_futex_end:
  movq %rax, %rdi
  movl $0x5ab1, %eax
  syscall
  ud2

  # clone with CLONE_VM. rdi flags, rsi child stack, rdx parent_tid, rcx child_tid, r8 tls, r9 the child's ucontext.
  # On the stack: nonce.
  .globl stub_clone_vm
  .hidden stub_clone_vm
stub_clone_vm:
  pushq %rbx
  pushq %r12
  movq 24(%rsp), %r12
  movq %r9, %rbx
  movq %rcx, %r10
  movl $56, %eax
  syscall
  testq %rax, %rax
  jz 1f
  popq %r12
  popq %rbx
  ret
1:
  xorl %ebp, %ebp
  movq %rbx, %rdi
  movq %r12, %rsi
  call StubCloneChild
  movq %rbx, %rsp
  jmp stub_return
  .popsection
)");

extern "C" int64_t stub_clone_vm(uint64_t flags, uint64_t stack, uint64_t parent_tid, uint64_t child_tid, uint64_t tls, StubContext* child,
                                 uint64_t nonce) __attribute__((visibility("hidden")));

STUB_INLINE uint32_t SlotOf(const void* address) {
  return static_cast<uint32_t>((reinterpret_cast<uint64_t>(address) - kStacksAddress) / kStackSize);
}

STUB_INLINE bool OnOurStacks(const void* address) {
  uint64_t a = reinterpret_cast<uint64_t>(address);
  return a >= kStacksAddress && a < kStacksAddress + kStacksSize;
}

STUB_INLINE volatile Mailbox* MailboxOf(uint32_t slot) { return &reinterpret_cast<Window*>(kWindowAddress)->mailboxes[slot]; }

STUB_INLINE uint64_t StackTop(uint32_t slot) { return kStacksAddress + (slot + 1ull) * kStackSize; }

// Makes the frame fit to return to the guest: all signals open, our alternate stack.
STUB_INLINE void FinishFrame(StubContext* context, uint32_t slot, volatile Mailbox* box) {
  uint32_t flags = box->flags;
  if (flags & kResumeClose) Sys(kSysClose, 0);
  if (flags & kResumeRegisters) {
    for (int i = 0; i < 18; i++) context->gregs[i] = box->regs[i];
  }
  if (flags & kResumeBases) {
    asm volatile("wrfsbase %0" : : "r"(box->fs_base));
    asm volatile("wrgsbase %0" : : "r"(box->gs_base));
  }
  context->sigmask = 0;
  context->stack.sp = StackTop(slot) - kStackSize;
  context->stack.flags = kSsAutodisarm;
  context->stack.size = kStackSize;
}

// True if none failed.
STUB_INLINE bool RunOps(volatile Mailbox* box) {
  uint32_t count = box->op_count;
  uint32_t always_from = box->always_from;
  if (count > kMailboxOps) count = kMailboxOps;
  box->done_count = 0;
  bool ok = true;
  for (uint32_t i = 0; i < count; i++) {
    volatile MailboxOp* op = &box->ops[i];
    int64_t result = Sys(op->number, op->args[0], op->args[1], op->args[2], op->args[3], op->args[4], op->args[5]);
    box->results[i] = result;
    if (i < always_from) {
      box->done_count = i + 1;
      if (result < 0 && result >= -4095) {
        ok = false;
        if (always_from > count) break;
        i = always_from - 1;
      }
    }
  }
  return ok;
}

// A fork's child still sees its parent's mailbox and must not touch it. The parent read its part of the order before. `fd` are the mailboxes.
STUB_INLINE void ForkChild(uint64_t nonce, uint64_t window, uint64_t fd) {
  int64_t at = Sys(kSysMmap, kWindowAddress, kWindowSize, kProtRead | kProtWrite, BirthFlags(kMapShared | kMapFixed, nonce), BirthFd(fd, nonce),
                   window * kWindowSize);
  if (at < 0 && at >= -4095) Sys(kSysExitGroup, 1);
  Sys(kSysCloseRange, 0, ~0u, 0);
}

STUB_INLINE int64_t CloneThread(StubContext* context, uint32_t slot, volatile Mailbox* box) {
  uint32_t child_slot = box->child_slot;
  if (child_slot >= kMaxThreads) return -22;
  uint64_t delta = StackTop(child_slot) - StackTop(slot);
  uint64_t from = reinterpret_cast<uint64_t>(context);
  // The whole frame, from the ucontext to the end of the extended state at the top of the stack.
  CopyBytes(reinterpret_cast<void*>(from + delta), context, StackTop(slot) - from);
  StubContext* child = reinterpret_cast<StubContext*>(from + delta);
  child->fpstate += delta;
  uint64_t stack = (from + delta - 256) & ~15ull;
  volatile MailboxOp* op = &box->ops[0];
  return stub_clone_vm(op->args[0], stack, op->args[2], op->args[3], op->args[4], child, box->nonce);
}

// About 50 us of looking.
constexpr int kLooks = 1000;

// Hands over by the mailbox while the sentry watches it; false if it must be done by a call. Either the sentry takes it or the stub does
// not leave it there: never both, and never neither.
STUB_INLINE bool PostContact(volatile Mailbox* box, uint32_t kind, StubContext* context) {
  volatile FastCall* fast = &box->fast;
  if (fast->watching == 0) return false;
  fast->context = reinterpret_cast<uint64_t>(context);
  uint32_t* word = const_cast<uint32_t*>(&fast->contact);
  // A fence: either this sees that nobody watches any more, or who stopped watching sees the post.
  __atomic_exchange_n(word, kind, __ATOMIC_SEQ_CST);
  for (int i = 0; i < kLooks && fast->watching != 0; i++) {
    if (LoadAcquire(word) != kind) return true;
    __builtin_ia32_pause();
  }
  uint32_t posted = kind;
  if (!__atomic_compare_exchange_n(word, &posted, 0, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) return true;
  fast->watching = 0;  // whoever watches has lost its CPU; it says so again when it is back
  return false;
}

// Sleeps while the order is `last`. Whoever orders wakes if it sees `waiting`.
STUB_INLINE void AwaitOrder(volatile Mailbox* box, uint32_t last) {
  uint32_t* waiting = const_cast<uint32_t*>(&box->fast.waiting);
  __atomic_exchange_n(waiting, 1, __ATOMIC_SEQ_CST);
  Sys(kSysFutex, reinterpret_cast<uint64_t>(&box->order), kFutexWait, last);
  StoreRelease(waiting, 0);
}

// Obeys orders until one is to return to the guest. `last` is the order that was seen last; the next one is looked for `looks` times before
// this thread sleeps.
STUB_INLINE void Obey(StubContext* context, uint32_t last, int looks) {
  uint32_t slot = SlotOf(context);
  volatile Mailbox* box = MailboxOf(slot);
  for (;;) {
    uint32_t* word = const_cast<uint32_t*>(&box->order);
    uint32_t order = LoadAcquire(word);
    if (order == last) {
      if (looks-- > 0) {
        // Whom the sentry waits for may need this CPU.
        if (box->fast.waits != 0) Sys(kSysSchedYield);
        __builtin_ia32_pause();
      } else {
        AwaitOrder(box, last);
      }
      continue;
    }
    last = order;
    looks = 0;
    uint32_t command = order & 0xff;
    int64_t result = 0;
    if (command == kCommandResume) {
      FinishFrame(context, slot, box);
      return;
    }
    if (command == kCommandRun) {
      bool ahead = (box->flags & kRunAhead) != 0;
      bool ok = RunOps(box);
      if (ahead && !ok) Call(kContactFailed);
      if (ahead) continue;
    } else if (command == kCommandFork) {
      uint64_t nonce = box->nonce;
      uint64_t window = box->child_slot;
      uint64_t fd = box->ops[1].args[0];
      result = Sys(kSysClone, box->ops[0].args[0], 0, 0, 0, 0);
      if (result == 0) {
        ForkChild(nonce, window, fd);
        last = 0;
        continue;
      }
      Sys(kSysClose, fd);
      if (result > 0) continue;
      box->results[0] = result;
    } else if (command == kCommandClone) {
      uint64_t nonce = box->nonce;
      result = CloneThread(context, slot, box);
      if (result >= 0 && nonce != 0) continue;  // the child process makes itself known
      box->results[0] = result;
    }
    // What asks for a contact wants a notification.
    if (command != kCommandContact && PostContact(box, kContactReport, context)) {
      looks = kLooks;
    } else {
      Call(kContactReport, reinterpret_cast<uint64_t>(context));
    }
  }
}

extern "C" STUB_TEXT void StubObey(StubContext* context, uint32_t last) { Obey(context, last, 0); }

extern "C" STUB_TEXT void StubCloneChild(StubContext* context, uint64_t nonce) {
  if (nonce != 0) Call(kContactChild, nonce, reinterpret_cast<uint64_t>(context));
  StubObey(context, 0);
}

extern "C" STUB_TEXT void StubHandler(int, StubSiginfo* info, StubContext* context) {
  if (!OnOurStacks(context) || !OnOurStacks(context + 1)) {
    for (;;) Call(kContactLost, reinterpret_cast<uint64_t>(context));
  }
  volatile Mailbox* box = MailboxOf(SlotOf(context));
  uint32_t last = LoadAcquire(const_cast<uint32_t*>(&box->order));
  for (int i = 0; i < 18; i++) box->regs[i] = context->gregs[i];
  uint64_t base;
  asm volatile("rdfsbase %0" : "=r"(base));
  box->fs_base = base;
  asm volatile("rdgsbase %0" : "=r"(base));
  box->gs_base = base;
  box->signo = info->signo;
  box->code = info->code;
  box->error = info->error;
  box->arch = static_cast<int32_t>(info->arch);
  box->address = info->address;
  box->trapno = context->trapno;
  box->error_code = context->error_code;
  box->fpstate = context->fpstate;
  bool posted = PostContact(box, kContactFrame, context);
  if (!posted) Call(kContactFrame, reinterpret_cast<uint64_t>(context));
  Obey(context, last, posted ? kLooks : 0);
}

}  // namespace
}  // namespace amber::platform
