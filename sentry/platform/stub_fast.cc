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
static_assert(offsetof(FastCall, memory) == 72 && offsetof(FastMemory, in_size) == 16 && offsetof(FastMemory, out_count) == 24 &&
              sizeof(FastMemory::in) == 1920);
static_assert(offsetof(FastCall, actions) == 132 && offsetof(FastCall, waits) == 136 && offsetof(FastCall, action) == 256 &&
              offsetof(FastCall, changed_actions) == 288);
static_assert(offsetof(Window, actions) - offsetof(Window, memory) == 0x800000);
static_assert(kWindowAddress >> 22 == 0x1ffffd0 && kWindowAlignment == 1 << 22);
static_assert(kFastPosted == 1 && kFastDone == 3 && kFastRedo == 4 && kFastStop == 5);

asm(R"(
  .pushsection stub_text, "ax", @progbits
  .globl stub_fast_start, stub_fast_gather, stub_fast_posted, stub_fast_given_up, stub_fast_taken, stub_fast_answered
  .globl stub_fast_scatter, stub_fast_scattered, stub_fast_redo, stub_fast_ask, stub_fast_actions
  .globl stub_fast_actions_set, stub_fast_end
  .hidden stub_fast_start, stub_fast_gather, stub_fast_posted, stub_fast_given_up, stub_fast_taken, stub_fast_answered
  .hidden stub_fast_scatter, stub_fast_scattered, stub_fast_redo, stub_fast_ask, stub_fast_actions
  .hidden stub_fast_actions_set, stub_fast_end
  .p2align 6
stub_fast_start:
  rdgsbase %r11
  shrq $22, %r11
  cmpl $0x1ffffd0, %r11d
  jne 9f
  cmpl $13, %eax
  je 50f
10:
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
stub_fast_gather:
  # What a pointer among the arguments points to goes along. A fault here ends in the sentry, which lets the thread make the call.
  movq %gs:584, %r11
  movq $0, 16(%r11)
  movl $0, 24(%r11)
  movl %eax, %eax
  cmpl $332, %eax
  ja 30f
  leaq 40f(%rip), %rcx
  movzbl (%rcx,%rax), %ecx
  testl %ecx, %ecx
  jz 30f
  cld
  cmpl $1, %ecx
  je 11f
  cmpl $2, %ecx
  je 12f
  cmpl $3, %ecx
  je 13f
  cmpl $4, %ecx
  je 14f
  cmpl $5, %ecx
  je 15f
  cmpl $6, %ecx
  je 16f
  cmpl $8, %ecx
  je 17f
  cmpl $9, %ecx
  je 54f
  cmpl $10, %ecx
  je 55f
  # 7: rsi times eight bytes at rdi
  movq %rsi, %rcx
  cmpq $240, %rcx
  ja 30f
  shlq $3, %rcx
  movq %rdi, %rsi
  jmp 20f
11: # rdx bytes at rsi
  movq %rdx, %rcx
  jmp 20f
12: # epoll_ctl: an event at r10, unless it is EPOLL_CTL_DEL
  cmpl $2, %edx
  je 30f
  movl $12, %ecx
  movq %r10, %rsi
  jmp 20f
17: # fcntl: F_GETLK to F_SETLKW and F_OFD_GETLK to F_OFD_SETLKW have a lock at rdx
  leal -5(%rsi), %ecx
  cmpl $2, %ecx
  jbe 18f
  leal -36(%rsi), %ecx
  cmpl $2, %ecx
  ja 30f
18:
  movl $32, %ecx
  movq %rdx, %rsi
  jmp 20f
54: # a kernel's sigaction at rsi, if any: posix_spawn(3) of glibc asks for 64 of them, and sets as many
  movl $32, %ecx
  testq %rsi, %rsi
  jnz 20f
  jmp 30f
55: # a set of r10 bytes at rsi, if any
  movl %r10d, %ecx
  testq %rsi, %rsi
  jnz 20f
  jmp 30f
13: # r8 bytes at r10
  movl %r8d, %ecx
  movq %r10, %rsi
20:
  cmpq $1920, %rcx
  ja 29f
  movq %rsi, (%r11)
  movl %ecx, 16(%r11)
  leaq 128(%r11), %rdi
  rep movsb
  jmp 29f
15: # a string at rdi
  movq %rdi, %rsi
14: # a string at rsi
  movq %rsi, (%r11)
  leaq 128(%r11), %rdi
  xorl %ecx, %ecx
21:
  movb (%rsi,%rcx), %al
  movb %al, (%rdi,%rcx)
  incl %ecx
  testb %al, %al
  jz 22f
  cmpl $512, %ecx
  jb 21b
  jmp 23f
22:
  movl %ecx, 16(%r11)
23:
  movl %gs:516, %eax
  jmp 29f
16: # rdx iovecs at rsi, and what the first is about
  leaq -1(%rdx), %rcx
  cmpq $7, %rcx
  ja 30f
  movq %rdx, %rcx
  shlq $4, %rcx
  movq %rsi, (%r11)
  movl %ecx, 16(%r11)
  leaq 128(%r11), %rdi
  rep movsb
  movq 136(%r11), %rcx
  cmpq $1536, %rcx
  ja 29f
  movq 128(%r11), %rsi
  movq %rsi, 8(%r11)
  movl %ecx, 20(%r11)
  rep movsb
29:
  movq %gs:520, %rdi
  movq %gs:528, %rsi
30:
  movq %gs:576, %rcx
  movl $1, %r11d
  xchgl %r11d, %gs:512
stub_fast_posted:
  # The exchange is a fence: either this sees that nobody watches any more, or who stopped watching sees the post.
  cmpl $0, %gs:640
  je 2f
  movl $2000, %r11d
1:
  cmpl $1, %gs:512
  jne stub_fast_taken
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
  cmpl $0, %gs:648
  jne 7f
  pause
  decl %r11d
  jnz 4b
7:
  # Whoever works on it, or whom that one waits for, may need this CPU.
  movl $24, %eax
  syscall
  movq %gs:576, %rcx
  jmp 3b
stub_fast_answered:
  cmpl $4, %gs:512
  jae stub_fast_redo
stub_fast_scatter:
  movq %gs:584, %r11
  movl 24(%r11), %eax
  testl %eax, %eax
  jz stub_fast_scattered
  cld
  leaq 2048(%r11), %rsi
6:
  movq 32(%r11), %rdi
  movq 40(%r11), %rcx
  rep movsb
  addq $16, %r11
  decl %eax
  jnz 6b
  movq %gs:520, %rdi
  movq %gs:528, %rsi
  movq %gs:576, %rcx
stub_fast_scattered:
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
50:
stub_fast_ask: # rt_sigaction of a thread whose actions are here. Anything odd goes the other way.
  cmpl $0, %gs:644
  je 10b
  cmpq $8, %r10
  jne 10b
  leal -1(%rdi), %r11d
  cmpl $63, %r11d
  ja 10b
  testq %rsi, %rsi
  jz 51f
  cmpl $9, %edi
  je 10b
  cmpl $19, %edi
  je 10b
51:
  movq %rcx, %gs:576
  # From here until it is set nothing has happened: a thread that stops makes the call, and so does one that has met a bad pointer.
stub_fast_actions:
  shll $5, %r11d
  movq %gs:584, %rcx
  leaq 0x800000(%rcx,%r11), %rcx
  testq %rsi, %rsi
  jz 52f
  movq (%rsi), %r11
  movq %r11, %gs:768
  # Flags that Linux does not know, and signals that cannot be blocked, are left out.
  movq 8(%rsi), %r11
  andl $0xdc000807, %r11d
  movq %r11, %gs:776
  movq 16(%rsi), %r11
  movq %r11, %gs:784
  movq 24(%rsi), %r11
  andq $-0x40101, %r11
  movq %r11, %gs:792
52:
  testq %rdx, %rdx
  jz stub_fast_actions_set
  movq (%rcx), %r11
  movq %r11, (%rdx)
  movq 8(%rcx), %r11
  movq %r11, 8(%rdx)
  movq 16(%rcx), %r11
  movq %r11, 16(%rdx)
  movq 24(%rcx), %r11
  movq %r11, 24(%rdx)
  # From here on it is done: what a thread that stops has not done yet the sentry does.
stub_fast_actions_set:
  testq %rsi, %rsi
  jz 53f
  movq %gs:768, %r11
  movq %r11, (%rcx)
  movq %gs:776, %r11
  movq %r11, 8(%rcx)
  movq %gs:784, %r11
  movq %r11, 16(%rcx)
  movq %gs:792, %r11
  movq %r11, 24(%rcx)
  leal -1(%rdi), %r11d
  lock btsq %r11, %gs:800
53:
  movq %gs:576, %rcx
  xorl %eax, %eax
  jmpq *%rcx
stub_fast_end:
  ud2
40: # by call number, which of the ways above
  .byte 0, 1, 5, 0, 5, 0, 5, 7, 0, 0, 0, 0, 0, 9, 10, 0, 0, 0, 1, 0, 6, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
  .byte 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0
  .byte 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 5, 0, 0, 0, 0, 0, 0
  .byte 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
  .byte 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
  .byte 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
  .byte 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
  .byte 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
  .byte 0, 4, 0, 0, 0, 0, 4, 4, 0, 0, 0, 4, 0, 4, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
  .byte 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
  .byte 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4
  .popsection
)");

}  // namespace
}  // namespace amber::platform
