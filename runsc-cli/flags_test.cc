#include "runsc-cli/flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace amber::cli {
namespace {

using ::testing::ElementsAre;

constexpr FlagSpec kSpecs[] = {
    {"bundle", 'b', FlagKind::kString, "DIR", "where the bundle is"},
    {"detach", 'd', FlagKind::kBool, nullptr, "do not wait"},
    {"env", 'e', FlagKind::kList, "N=V", "adds a variable"},
    {"preserve-fds", 0, FlagKind::kNumber, "N", "passes descriptors"},
    {"hidden", 0, FlagKind::kBool, nullptr, nullptr},
};

absl::StatusOr<Flags> Parse(std::vector<std::string> arguments) { return ParseFlags(kSpecs, arguments); }

TEST(Flags, GoStyle) {
  absl::StatusOr<Flags> flags = Parse({"-bundle", "x", "--detach", "-e", "A=1", "--env=B=2", "-preserve-fds=3", "id", "-d"});
  ASSERT_TRUE(flags.ok()) << flags.status();
  EXPECT_EQ(flags->String("bundle"), "x");
  EXPECT_TRUE(flags->Bool("detach"));
  EXPECT_THAT(flags->List("env"), ElementsAre("A=1", "B=2"));
  EXPECT_EQ(flags->NumberOr("preserve-fds", 0), 3);
  EXPECT_THAT(flags->arguments, ElementsAre("id", "-d"));
}

TEST(Flags, BooleansTakeAValueOnlyAfterEquals) {
  absl::StatusOr<Flags> flags = Parse({"--detach=false", "--hidden", "false"});
  ASSERT_TRUE(flags.ok());
  EXPECT_FALSE(flags->Bool("detach"));
  EXPECT_TRUE(flags->Bool("hidden"));
  EXPECT_THAT(flags->arguments, ElementsAre("false"));
}

TEST(Flags, DashDashAndADashEnd) {
  EXPECT_THAT(Parse({"--", "-d"})->arguments, ElementsAre("-d"));
  EXPECT_THAT(Parse({"-", "-d"})->arguments, ElementsAre("-", "-d"));
  EXPECT_TRUE(Parse({"-h"})->help);
  EXPECT_TRUE(Parse({"--help", "x"})->help);
}

TEST(Flags, ErrorsAreGos) {
  EXPECT_EQ(Parse({"--bundle"}).status().message(), "flag needs an argument: -bundle");
  EXPECT_EQ(Parse({"--nope"}).status().message(), "flag provided but not defined: -nope");
  EXPECT_FALSE(Parse({"--preserve-fds=many"}).ok());
  EXPECT_FALSE(Parse({"--detach=perhaps"}).ok());
}

TEST(Flags, HelpLeavesHiddenOnesOut) {
  std::string help = DescribeFlags(kSpecs);
  EXPECT_THAT(help, ::testing::HasSubstr("-b, --bundle DIR"));
  EXPECT_THAT(help, ::testing::Not(::testing::HasSubstr("hidden")));
}

}  // namespace
}  // namespace amber::cli
