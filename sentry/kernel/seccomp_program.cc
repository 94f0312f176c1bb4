#include "sentry/kernel/seccomp_program.h"

#include <linux/bpf_common.h>

#include <cerrno>
#include <cstring>

namespace amber {
namespace {

constexpr size_t kMaxProgram = 4096;  // BPF_MAXINSNS

bool KnownInstruction(const sock_filter& i) {
  switch (i.code) {
    case BPF_LD | BPF_W | BPF_ABS:
      // Whole words of struct seccomp_data.
      return i.k < sizeof(seccomp_data) && i.k % 4 == 0;
    case BPF_LD | BPF_W | BPF_LEN:
    case BPF_LDX | BPF_W | BPF_LEN:
    case BPF_RET | BPF_K:
    case BPF_RET | BPF_A:
    case BPF_ALU | BPF_ADD | BPF_K:
    case BPF_ALU | BPF_ADD | BPF_X:
    case BPF_ALU | BPF_SUB | BPF_K:
    case BPF_ALU | BPF_SUB | BPF_X:
    case BPF_ALU | BPF_MUL | BPF_K:
    case BPF_ALU | BPF_MUL | BPF_X:
    case BPF_ALU | BPF_DIV | BPF_X:
    case BPF_ALU | BPF_AND | BPF_K:
    case BPF_ALU | BPF_AND | BPF_X:
    case BPF_ALU | BPF_OR | BPF_K:
    case BPF_ALU | BPF_OR | BPF_X:
    case BPF_ALU | BPF_XOR | BPF_K:
    case BPF_ALU | BPF_XOR | BPF_X:
    case BPF_ALU | BPF_LSH | BPF_X:
    case BPF_ALU | BPF_RSH | BPF_X:
    case BPF_ALU | BPF_NEG:
    case BPF_LD | BPF_IMM:
    case BPF_LDX | BPF_IMM:
    case BPF_MISC | BPF_TAX:
    case BPF_MISC | BPF_TXA: return true;
    case BPF_ALU | BPF_DIV | BPF_K: return i.k != 0;
    case BPF_ALU | BPF_LSH | BPF_K:
    case BPF_ALU | BPF_RSH | BPF_K: return i.k < 32;
    case BPF_LD | BPF_MEM:
    case BPF_LDX | BPF_MEM:
    case BPF_ST:
    case BPF_STX: return i.k < BPF_MEMWORDS;
    case BPF_JMP | BPF_JA:
    case BPF_JMP | BPF_JEQ | BPF_K:
    case BPF_JMP | BPF_JEQ | BPF_X:
    case BPF_JMP | BPF_JGE | BPF_K:
    case BPF_JMP | BPF_JGE | BPF_X:
    case BPF_JMP | BPF_JGT | BPF_K:
    case BPF_JMP | BPF_JGT | BPF_X:
    case BPF_JMP | BPF_JSET | BPF_K:
    case BPF_JMP | BPF_JSET | BPF_X: return true;
    default: return false;
  }
}

// check_load_and_stores(): no word of scratch memory is read before it was written, whatever way was taken.
bool ScratchIsWritten(const std::vector<sock_filter>& program) {
  std::vector<uint16_t> valid_at(program.size(), 0xffff);
  uint16_t valid = 0;
  for (size_t pc = 0; pc < program.size(); ++pc) {
    valid &= valid_at[pc];
    const sock_filter& i = program[pc];
    switch (BPF_CLASS(i.code)) {
      case BPF_ST:
      case BPF_STX: valid |= static_cast<uint16_t>(1 << i.k); break;
      case BPF_LD:
      case BPF_LDX:
        if (BPF_MODE(i.code) == BPF_MEM && (valid & 1 << i.k) == 0) return false;
        break;
      case BPF_JMP:
        if (BPF_OP(i.code) == BPF_JA) {
          valid_at[pc + 1 + i.k] &= valid;
        } else {
          valid_at[pc + 1 + i.jt] &= valid;
          valid_at[pc + 1 + i.jf] &= valid;
        }
        valid = 0xffff;
        break;
      default: break;
    }
  }
  return true;
}

uint32_t Alu(uint16_t code, uint32_t a, uint32_t b) {
  switch (BPF_OP(code)) {
    case BPF_ADD: return a + b;
    case BPF_SUB: return a - b;
    case BPF_MUL: return a * b;
    case BPF_DIV: return b == 0 ? 0 : a / b;
    case BPF_AND: return a & b;
    case BPF_OR: return a | b;
    case BPF_XOR: return a ^ b;
    case BPF_LSH: return a << (b & 31);
    case BPF_RSH: return a >> (b & 31);
    default: return static_cast<uint32_t>(-static_cast<int64_t>(a));  // BPF_NEG
  }
}

bool Holds(uint16_t code, uint32_t a, uint32_t b) {
  switch (BPF_OP(code)) {
    case BPF_JEQ: return a == b;
    case BPF_JGT: return a > b;
    case BPF_JGE: return a >= b;
    default: return (a & b) != 0;  // BPF_JSET
  }
}

uint32_t Load(uint16_t code, uint32_t k, const seccomp_data& data, const uint32_t* memory) {
  uint32_t word = 0;
  switch (BPF_MODE(code)) {
    case BPF_IMM: return k;
    case BPF_MEM: return memory[k % BPF_MEMWORDS];
    case BPF_LEN: return sizeof(seccomp_data);
    default:
      if (k <= sizeof(data) - sizeof(word)) memcpy(&word, reinterpret_cast<const char*>(&data) + k, sizeof(word));
      return word;
  }
}

}  // namespace

ErrnoOr<void> CheckSeccompProgram(const std::vector<sock_filter>& program) {
  if (program.empty() || program.size() > kMaxProgram) return Errno(EINVAL);
  for (size_t pc = 0; pc < program.size(); ++pc) {
    const sock_filter& i = program[pc];
    if (!KnownInstruction(i)) return Errno(EINVAL);
    if (BPF_CLASS(i.code) != BPF_JMP) continue;
    size_t left = program.size() - pc - 1;
    bool inside = BPF_OP(i.code) == BPF_JA ? i.k < left : i.jt < left && i.jf < left;
    if (!inside) return Errno(EINVAL);
  }
  if (BPF_CLASS(program.back().code) != BPF_RET) return Errno(EINVAL);
  return ScratchIsWritten(program) ? Ok() : ErrnoOr<void>(Errno(EINVAL));
}

uint32_t RunSeccompProgram(const std::vector<sock_filter>& program, const seccomp_data& data) {
  uint32_t a = 0, x = 0, memory[BPF_MEMWORDS] = {};
  for (size_t pc = 0; pc < program.size(); ++pc) {
    const sock_filter& i = program[pc];
    uint32_t operand = BPF_SRC(i.code) == BPF_X ? x : i.k;
    switch (BPF_CLASS(i.code)) {
      case BPF_LD: a = Load(i.code, i.k, data, memory); break;
      case BPF_LDX: x = Load(i.code, i.k, data, memory); break;
      case BPF_ST: memory[i.k % BPF_MEMWORDS] = a; break;
      case BPF_STX: memory[i.k % BPF_MEMWORDS] = x; break;
      case BPF_ALU:
        // Division by a zero register ends the program with 0 (bpf_convert_filter).
        if (BPF_OP(i.code) == BPF_DIV && operand == 0) return 0;
        a = Alu(i.code, a, operand);
        break;
      case BPF_JMP: pc += BPF_OP(i.code) == BPF_JA ? i.k : Holds(i.code, a, operand) ? i.jt : i.jf; break;
      case BPF_RET: return BPF_RVAL(i.code) == BPF_A ? a : i.k;
      default: (BPF_MISCOP(i.code) == BPF_TXA ? a : x) = BPF_MISCOP(i.code) == BPF_TXA ? x : a; break;
    }
  }
  return SECCOMP_RET_KILL_PROCESS;  // never: a checked program returns
}

}  // namespace amber
