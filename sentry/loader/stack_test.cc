#include "sentry/loader/stack.h"

#include <elf.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>

namespace amber::loader {
namespace {

constexpr uint64_t kTop = 0x7fffefff0000;

uint64_t WordAt(const StackImage& s, uint64_t address) {
  uint64_t value;
  EXPECT_LE(address + 8, s.sp + s.bytes.size());
  memcpy(&value, s.bytes.data() + (address - s.sp), 8);
  return value;
}
std::string StringAt(const StackImage& s, uint64_t address) { return s.bytes.c_str() + (address - s.sp); }

TEST(StackTest, Golden) {
  StackInput in;
  in.top = kTop;
  in.argv = {"ls", "-l"};
  in.envp = {"A=1"};
  in.path = "/bin/ls";
  in.random.fill(0xab);
  in.auxv = {{AT_PAGESZ, 4096}};
  StackImage s = BuildStack(in);
  EXPECT_EQ(s.sp + s.bytes.size(), kTop);
  EXPECT_EQ(s.sp % 16, 0u);
  // From the top: a null word, the path, the environment, the arguments.
  EXPECT_EQ(WordAt(s, kTop - 8), 0u);
  EXPECT_EQ(StringAt(s, kTop - 16), "/bin/ls");
  EXPECT_EQ(s.env_end, kTop - 16);
  EXPECT_EQ(s.env_start, kTop - 20);
  EXPECT_EQ(s.arg_end, kTop - 20);
  EXPECT_EQ(s.arg_start, kTop - 26);
  EXPECT_EQ(StringAt(s, s.arg_start), "ls");
  EXPECT_EQ(StringAt(s, s.env_start), "A=1");
  // From the stack pointer upwards: count, arguments, environment, auxiliary vector.
  EXPECT_EQ(WordAt(s, s.sp), 2u);
  EXPECT_EQ(WordAt(s, s.sp + 8), s.arg_start);
  EXPECT_EQ(StringAt(s, WordAt(s, s.sp + 16)), "-l");
  EXPECT_EQ(WordAt(s, s.sp + 24), 0u);
  EXPECT_EQ(WordAt(s, s.sp + 32), s.env_start);
  EXPECT_EQ(WordAt(s, s.sp + 40), 0u);
  EXPECT_EQ(WordAt(s, s.sp + 48), static_cast<uint64_t>(AT_PAGESZ));
  EXPECT_EQ(WordAt(s, s.sp + 56), 4096u);
  EXPECT_EQ(WordAt(s, s.sp + 64), static_cast<uint64_t>(AT_RANDOM));
  EXPECT_EQ(WordAt(s, WordAt(s, s.sp + 72)), 0xabababababababab);
  EXPECT_EQ(WordAt(s, s.sp + 80), static_cast<uint64_t>(AT_EXECFN));
  EXPECT_EQ(WordAt(s, s.sp + 88), kTop - 16);
  EXPECT_EQ(WordAt(s, s.sp + 96), static_cast<uint64_t>(AT_PLATFORM));
  EXPECT_EQ(StringAt(s, WordAt(s, s.sp + 104)), "x86_64");
  EXPECT_EQ(WordAt(s, s.sp + 112), static_cast<uint64_t>(AT_NULL));
  EXPECT_EQ(s.auxv.size(), 10u);
}

TEST(StackTest, AlignedForEveryCountAndShift) {
  for (size_t args = 1; args < 5; ++args) {
    for (uint64_t shift : {0, 1, 17, 8191}) {
      StackInput in;
      in.top = kTop;
      in.shift = shift;
      in.argv.assign(args, "x");
      in.path = "p";
      StackImage s = BuildStack(in);
      EXPECT_EQ(s.sp % 16, 0u);
      EXPECT_EQ(s.sp + s.bytes.size(), kTop);
      EXPECT_EQ(WordAt(s, s.sp), args);
    }
  }
}

TEST(StackTest, TooManyArguments) {
  std::vector<std::string> none;
  EXPECT_TRUE(CheckArguments({std::string(kMaxStringBytes - 1, 'x')}, none, "p", 8 << 20).ok());
  EXPECT_TRUE(CheckArguments({std::string(kMaxStringBytes, 'x')}, none, "p", 8 << 20).Is(E2BIG));
  std::vector<std::string> many(30, std::string(100'000, 'x'));
  EXPECT_TRUE(CheckArguments(many, none, "p", 8 << 20).Is(E2BIG));
  EXPECT_TRUE(CheckArguments(many, none, "p", 16 << 20).ok());
  EXPECT_TRUE(CheckArguments(none, many, "p", 8 << 20).Is(E2BIG));
  // 128 KiB are always granted; pointers count.
  EXPECT_TRUE(CheckArguments({std::string(100'000, 'x')}, none, "p", 4096).ok());
  EXPECT_TRUE(CheckArguments(std::vector<std::string>(20'000, ""), none, "p", 4096).Is(E2BIG));
}

}  // namespace
}  // namespace amber::loader
