#include "runsc-cli/report.h"

#include <gtest/gtest.h>

namespace amber::cli {
namespace {

TEST(Report, PrintableTakesControlOfTerminalsAway) {
  EXPECT_EQ(Printable("sh -c 'a b'\tfür\n"), "sh -c 'a b'\tfür\n");
  EXPECT_EQ(Printable("\x1b]0;title\x07\x1b[2J"), "\\x1b]0;title\\x07\\x1b[2J");
  EXPECT_EQ(Printable("a\rb\x7f"), "a\\x0db\\x7f");
  EXPECT_EQ(Printable("\xc2\x9b 2J"), "\\x9b 2J");  // CSI in UTF-8
  EXPECT_EQ(Printable("\xc2\xa0\xc3\x9b\xc2"), "\xc2\xa0\xc3\x9b\xc2");
  EXPECT_EQ(Printable(std::string_view("\0", 1)), "\\x00");
}

}  // namespace
}  // namespace amber::cli
