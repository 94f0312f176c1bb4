#include "sentry/kernel/seccomp_program.h"

#include <gtest/gtest.h>
#include <linux/audit.h>

#include <cerrno>

namespace amber {
namespace {

using Program = std::vector<sock_filter>;

constexpr sock_filter kAllow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
constexpr sock_filter kReturnA = BPF_STMT(BPF_RET | BPF_A, 0);

seccomp_data Data() {
  seccomp_data data{};
  data.nr = 39;
  data.arch = AUDIT_ARCH_X86_64;
  data.instruction_pointer = 0x123456789abcdef0;
  for (int i = 0; i < 6; ++i) data.args[i] = 0x1111111100000000u * static_cast<unsigned>(i) + static_cast<unsigned>(i);
  return data;
}

bool Good(const Program& program) { return CheckSeccompProgram(program).ok(); }

// What `program`, which must be good, leaves in the accumulator.
uint32_t Result(Program program) {
  program.push_back(kReturnA);
  EXPECT_TRUE(Good(program));
  return RunSeccompProgram(program, Data());
}

TEST(SeccompProgram, NeedsAReturnAtTheEnd) {
  EXPECT_FALSE(Good({}));
  EXPECT_TRUE(Good({kAllow}));
  EXPECT_FALSE(Good({BPF_STMT(BPF_LD | BPF_IMM, 1)}));
  EXPECT_TRUE(Good(Program(4096, kAllow)));
  EXPECT_FALSE(Good(Program(4097, kAllow)));
}

TEST(SeccompProgram, KnowsItsInstructions) {
  EXPECT_FALSE(Good({BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 0), kAllow}));
  EXPECT_FALSE(Good({BPF_STMT(BPF_LD | BPF_W | BPF_IND, 0), kAllow}));
  EXPECT_FALSE(Good({BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 2), kAllow}));
  EXPECT_FALSE(Good({BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 64), kAllow}));
  EXPECT_TRUE(Good({BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 60), kAllow}));
  EXPECT_FALSE(Good({BPF_STMT(BPF_ALU | BPF_DIV | BPF_K, 0), kAllow}));
  EXPECT_FALSE(Good({BPF_STMT(BPF_ALU | BPF_MOD | BPF_K, 3), kAllow}));
  EXPECT_FALSE(Good({BPF_STMT(BPF_ALU | BPF_LSH | BPF_K, 32), kAllow}));
  EXPECT_FALSE(Good({BPF_STMT(BPF_ST, 16), kAllow}));
  EXPECT_FALSE(Good({BPF_STMT(0xffff, 0), kAllow}));
}

TEST(SeccompProgram, JumpsGoForwardAndStayInside) {
  EXPECT_TRUE(Good({BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0), kAllow, kAllow}));
  EXPECT_FALSE(Good({BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 2, 0), kAllow, kAllow}));
  EXPECT_FALSE(Good({BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 2), kAllow, kAllow}));
  EXPECT_FALSE(Good({BPF_STMT(BPF_JMP | BPF_JA, 0xffffffff), kAllow}));
  EXPECT_FALSE(Good({BPF_STMT(BPF_JMP | BPF_JA, 1), kAllow}));
}

TEST(SeccompProgram, ScratchIsWrittenBeforeItIsRead) {
  EXPECT_FALSE(Good({BPF_STMT(BPF_LD | BPF_MEM, 3), kAllow}));
  EXPECT_TRUE(Good({BPF_STMT(BPF_ST, 3), BPF_STMT(BPF_LD | BPF_MEM, 3), kAllow}));
  // Written on one of two ways only.
  EXPECT_FALSE(Good({BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0), BPF_STMT(BPF_ST, 3), BPF_STMT(BPF_LD | BPF_MEM, 3), kAllow}));
}

TEST(SeccompProgram, LoadsTheCall) {
  EXPECT_EQ(Result({BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0)}), 39u);
  EXPECT_EQ(Result({BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 4)}), uint32_t{AUDIT_ARCH_X86_64});
  EXPECT_EQ(Result({BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 8)}), 0x9abcdef0u);
  EXPECT_EQ(Result({BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 16 + 5 * 8)}), 5u);
  EXPECT_EQ(Result({BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 20 + 5 * 8)}), 0x55555555u);
  EXPECT_EQ(Result({BPF_STMT(BPF_LD | BPF_W | BPF_LEN, 0)}), 64u);
}

TEST(SeccompProgram, Computes) {
  EXPECT_EQ(Result({BPF_STMT(BPF_LD | BPF_IMM, 7), BPF_STMT(BPF_ALU | BPF_SUB | BPF_K, 9)}), 0xfffffffeu);
  EXPECT_EQ(Result({BPF_STMT(BPF_LD | BPF_IMM, 7), BPF_STMT(BPF_ALU | BPF_NEG, 0)}), 0xfffffff9u);
  EXPECT_EQ(Result({BPF_STMT(BPF_LD | BPF_IMM, 7), BPF_STMT(BPF_MISC | BPF_TAX, 0), BPF_STMT(BPF_ALU | BPF_MUL | BPF_X, 0)}), 49u);
  EXPECT_EQ(Result({BPF_STMT(BPF_LDX | BPF_IMM, 4), BPF_STMT(BPF_MISC | BPF_TXA, 0), BPF_STMT(BPF_ALU | BPF_LSH | BPF_K, 28)}), 0x40000000u);
  // Division by a register that is zero ends the program.
  EXPECT_EQ(Result({BPF_STMT(BPF_LD | BPF_IMM, 7), BPF_STMT(BPF_ALU | BPF_DIV | BPF_X, 0), BPF_STMT(BPF_LD | BPF_IMM, 5)}), 0u);
}

TEST(SeccompProgram, Branches) {
  auto takes = [](uint16_t op, uint32_t a, uint32_t k) {
    return RunSeccompProgram({BPF_STMT(BPF_LD | BPF_IMM, a), BPF_JUMP(static_cast<uint16_t>(BPF_JMP | op | BPF_K), k, 0, 1),
                              BPF_STMT(BPF_RET | BPF_K, 1), BPF_STMT(BPF_RET | BPF_K, 0)},
                             Data()) == 1;
  };
  EXPECT_TRUE(takes(BPF_JEQ, 5, 5));
  EXPECT_FALSE(takes(BPF_JGT, 5, 5));
  EXPECT_TRUE(takes(BPF_JGE, 5, 5));
  EXPECT_TRUE(takes(BPF_JGT, 0x80000000, 1));  // unsigned
  EXPECT_TRUE(takes(BPF_JSET, 6, 2));
  EXPECT_FALSE(takes(BPF_JSET, 6, 1));
}

}  // namespace
}  // namespace amber
