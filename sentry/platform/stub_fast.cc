// The fast path's code in stubs: a patched call site jumps here (by way of a thunk, fast_sites.cc) instead of entering the kernel.
//
// In:   rax the call's number, its arguments where `syscall` wants them, rcx the address behind the site's `syscall` instruction.
// Out:  as `syscall` leaves them: rax the result, rcx and r11 spent, all else kept. The flags are spent, too (Linux keeps them in r11 only).
// No stack may be used: the guest's red zone lies below rsp.
//
// gs is this thread's mailbox; if it is anything else (the guest uses gs itself) the call is made the ordinary way. All of this runs in
// the guest's power: what it forges here it could as well pass to `syscall`. Labels split the code by what a thread that is stopped
// there has done already, see ThreadImpl::LeaveFastCode().
#include "sentry/platform/stub_abi.h"

namespace amber::platform {
namespace {

// What the assembler text has as numbers.
static_assert(offsetof(Mailbox, fast) == 512 && offsetof(FastCall, number) == 4 && offsetof(FastCall, args) == 8 && offsetof(FastCall, result) == 56);
static_assert(kWindowAddress >> 22 == 0x1ffffc1 && kWindowAlignment == 1 << 22 && kWindowSize <= kWindowAlignment);
static_assert(kFastPosted == 1 && kFastDone == 3 && kFastRedo == 4 && kFastStop == 5);

asm(R"(
  .pushsection stub_text, "ax", @progbits
  .globl stub_fast_start, stub_fast_posted, stub_fast_given_up, stub_fast_taken, stub_fast_answered, stub_fast_redo, stub_fast_end
  .hidden stub_fast_start, stub_fast_posted, stub_fast_given_up, stub_fast_taken, stub_fast_answered, stub_fast_redo, stub_fast_end
  .p2align 6
stub_fast_start:
  rdgsbase %r11
  shrq $22, %r11
  cmpl $0x1ffffc1, %r11d
  jne 9f
  cmpl $0, %gs:640
  je 9f
  movl %eax, %gs:516
  movq %rdi, %gs:520
  movq %rsi, %gs:528
  movq %rdx, %gs:536
  movq %r10, %gs:544
  movq %r8, %gs:552
  movq %r9, %gs:560
  movq %rcx, %gs:576
  movl $1, %r11d
  xchgl %r11d, %gs:512
stub_fast_posted:
  # The exchange is a fence: either this sees that nobody watches any more, or who stopped watching sees the post.
  cmpl $0, %gs:640
  je 2f
  movl $2000, %r11d
1:
  cmpl $3, %gs:512
  jae stub_fast_answered
  pause
  decl %r11d
  jnz 1b
2:
  # Given up, unless it has been taken.
  movl $1, %eax
  xorl %r11d, %r11d
  lock cmpxchgl %r11d, %gs:512
  jne 3f
  # Whoever watches has lost its CPU; it says so again when it is back.
  movl $0, %gs:640
  movl %gs:516, %eax
9:
stub_fast_given_up:
  leaq -2(%rcx), %r11
  jmpq *%r11
3:
stub_fast_taken:
  movl $2000, %r11d
4:
  cmpl $3, %gs:512
  jae stub_fast_answered
  pause
  decl %r11d
  jnz 4b
  # Whoever works on it may need this CPU.
  movl $24, %eax
  syscall
  movq %gs:576, %rcx
  jmp 3b
stub_fast_answered:
  cmpl $4, %gs:512
  jae stub_fast_redo
  movq %gs:568, %rax
  movl $0, %gs:512
  jmpq *%rcx
stub_fast_redo:
  cmpl $4, %gs:512
  jne 5f
  movl %gs:516, %eax
  movl $0, %gs:512
  jmp 9b
5:
  # To stop: the trap's frame is what the sentry wants; it knows where this thread goes on.
  int3
stub_fast_end:
  ud2
  .popsection
)");

}  // namespace
}  // namespace amber::platform
