#include "sentry/base/classic_bpf.h"

#include <linux/bpf_common.h>

#include <algorithm>
#include <cerrno>
#include <iterator>

namespace amber {
namespace {

// Codes without a condition on the rest of the instruction (chk_code_allowed()).
constexpr uint16_t kPlainCodes[] = {
    BPF_LD | BPF_W | BPF_LEN,  BPF_LD | BPF_W | BPF_IND,   BPF_LD | BPF_H | BPF_IND,   BPF_LD | BPF_B | BPF_IND,  BPF_LD | BPF_IMM,
    BPF_LDX | BPF_W | BPF_LEN, BPF_LDX | BPF_B | BPF_MSH,  BPF_LDX | BPF_IMM,          BPF_RET | BPF_K,           BPF_RET | BPF_A,
    BPF_ALU | BPF_ADD | BPF_K, BPF_ALU | BPF_ADD | BPF_X,  BPF_ALU | BPF_SUB | BPF_K,  BPF_ALU | BPF_SUB | BPF_X, BPF_ALU | BPF_MUL | BPF_K,
    BPF_ALU | BPF_MUL | BPF_X, BPF_ALU | BPF_DIV | BPF_X,  BPF_ALU | BPF_MOD | BPF_X,  BPF_ALU | BPF_AND | BPF_K, BPF_ALU | BPF_AND | BPF_X,
    BPF_ALU | BPF_OR | BPF_K,  BPF_ALU | BPF_OR | BPF_X,   BPF_ALU | BPF_XOR | BPF_K,  BPF_ALU | BPF_XOR | BPF_X, BPF_ALU | BPF_LSH | BPF_X,
    BPF_ALU | BPF_RSH | BPF_X, BPF_ALU | BPF_NEG,          BPF_MISC | BPF_TAX,         BPF_MISC | BPF_TXA,        BPF_JMP | BPF_JA,
    BPF_JMP | BPF_JEQ | BPF_K, BPF_JMP | BPF_JEQ | BPF_X,  BPF_JMP | BPF_JGE | BPF_K,  BPF_JMP | BPF_JGE | BPF_X, BPF_JMP | BPF_JGT | BPF_K,
    BPF_JMP | BPF_JGT | BPF_X, BPF_JMP | BPF_JSET | BPF_K, BPF_JMP | BPF_JSET | BPF_X,
};

// The offsets from here on name what belongs to a packet beside its bytes.
bool KnownAncillary(uint32_t k) {
  uint32_t what = k - static_cast<uint32_t>(SKF_AD_OFF);
  return k < static_cast<uint32_t>(SKF_AD_OFF) || (what < SKF_AD_MAX && what % 4 == 0);
}

bool KnownInstruction(const sock_filter& i) {
  switch (i.code) {
    case BPF_LD | BPF_W | BPF_ABS:
    case BPF_LD | BPF_H | BPF_ABS:
    case BPF_LD | BPF_B | BPF_ABS: return KnownAncillary(i.k);
    case BPF_ALU | BPF_DIV | BPF_K:
    case BPF_ALU | BPF_MOD | BPF_K: return i.k != 0;
    case BPF_ALU | BPF_LSH | BPF_K:
    case BPF_ALU | BPF_RSH | BPF_K: return i.k < 32;
    case BPF_LD | BPF_MEM:
    case BPF_LDX | BPF_MEM:
    case BPF_ST:
    case BPF_STX: return i.k < BPF_MEMWORDS;
    default: return std::find(std::begin(kPlainCodes), std::end(kPlainCodes), i.code) != std::end(kPlainCodes);
  }
}

// check_load_and_stores(): no word of scratch memory is read before it was written, whatever way was taken.
bool ScratchIsWritten(const BpfProgram& program) {
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

}  // namespace

namespace bpf {

uint32_t Alu(uint16_t code, uint32_t a, uint32_t operand) {
  switch (BPF_OP(code)) {
    case BPF_ADD: return a + operand;
    case BPF_SUB: return a - operand;
    case BPF_MUL: return a * operand;
    case BPF_DIV: return operand == 0 ? 0 : a / operand;
    case BPF_MOD: return operand == 0 ? 0 : a % operand;
    case BPF_AND: return a & operand;
    case BPF_OR: return a | operand;
    case BPF_XOR: return a ^ operand;
    case BPF_LSH: return a << (operand & 31);
    case BPF_RSH: return a >> (operand & 31);
    default: return static_cast<uint32_t>(-static_cast<int64_t>(a));  // BPF_NEG
  }
}

bool Holds(uint16_t code, uint32_t a, uint32_t operand) {
  switch (BPF_OP(code)) {
    case BPF_JEQ: return a == operand;
    case BPF_JGT: return a > operand;
    case BPF_JGE: return a >= operand;
    default: return (a & operand) != 0;  // BPF_JSET
  }
}

}  // namespace bpf

ErrnoOr<void> CheckBpfProgram(const BpfProgram& program) {
  if (program.empty() || program.size() > kMaxBpfProgram) return Errno(EINVAL);
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

}  // namespace amber
