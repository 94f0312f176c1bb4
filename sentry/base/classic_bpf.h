// Classic BPF (Documentation/networking/filter.rst): the checks that every program has to pass, and its execution. What loads read is the caller's:
// a system call for seccomp(2), a packet for sockets. No kernel objects.
#pragma once

#include <linux/filter.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "sentry/base/errno_or.h"

namespace amber {

using BpfProgram = std::vector<sock_filter>;

inline constexpr size_t kMaxBpfProgram = 4096;  // BPF_MAXINSNS

// bpf_check_classic(): EINVAL unless every instruction is one that there is, all jumps go forward to one of the program, every way ends in a return, and
// no word of scratch memory is read before it was written.
ErrnoOr<void> CheckBpfProgram(const BpfProgram& program);

namespace bpf {
// What an instruction of BPF_ALU makes of `a`; the operand is not 0 where it divides.
uint32_t Alu(uint16_t code, uint32_t a, uint32_t operand);
bool Holds(uint16_t code, uint32_t a, uint32_t operand);
}  // namespace bpf

// Runs a checked program, which takes as many steps as it has instructions at most. `Data` has
//   uint32_t length();
//   bool Load(const sock_filter& i, uint32_t a, uint32_t x, uint32_t* out);   of BPF_ABS, BPF_IND and BPF_MSH; false ends the program with 0
template <typename Data>
uint32_t RunBpfProgram(const BpfProgram& program, Data& data) {
  uint32_t a = 0, x = 0, memory[BPF_MEMWORDS] = {};
  for (size_t pc = 0; pc < program.size(); ++pc) {
    const sock_filter& i = program[pc];
    uint32_t operand = BPF_SRC(i.code) == BPF_X ? x : i.k;
    switch (BPF_CLASS(i.code)) {
      case BPF_LD:
      case BPF_LDX: {
        uint32_t& to = BPF_CLASS(i.code) == BPF_LD ? a : x;
        switch (BPF_MODE(i.code)) {
          case BPF_IMM: to = i.k; break;
          case BPF_MEM: to = memory[i.k % BPF_MEMWORDS]; break;
          case BPF_LEN: to = data.length(); break;
          default:
            if (!data.Load(i, a, x, &to)) return 0;
        }
        break;
      }
      case BPF_ST: memory[i.k % BPF_MEMWORDS] = a; break;
      case BPF_STX: memory[i.k % BPF_MEMWORDS] = x; break;
      case BPF_ALU:
        // Division by a zero register ends the program with 0 (bpf_convert_filter).
        if ((BPF_OP(i.code) == BPF_DIV || BPF_OP(i.code) == BPF_MOD) && operand == 0) return 0;
        a = bpf::Alu(i.code, a, operand);
        break;
      case BPF_JMP: pc += BPF_OP(i.code) == BPF_JA ? i.k : bpf::Holds(i.code, a, operand) ? i.jt : i.jf; break;
      case BPF_RET: return BPF_RVAL(i.code) == BPF_A ? a : i.k;
      default: (BPF_MISCOP(i.code) == BPF_TXA ? a : x) = BPF_MISCOP(i.code) == BPF_TXA ? x : a; break;
    }
  }
  return 0;  // never: a checked program returns
}

}  // namespace amber
