#include "sentry/host/host_calls.h"

#include <gtest/gtest.h>
#include <string.h>

#include <fstream>
#include <set>
#include <sstream>

namespace amber {
namespace {

TEST(HostCalls, EqualTheReviewedList) {
  std::ifstream file("sentry/host/host_calls.golden.txt");
  std::stringstream golden;
  golden << file.rdbuf();
  EXPECT_EQ(DescribeHostCalls(), golden.str()) << "The sentry's host calls have changed. Have the change reviewed, then put the text above into "
                                                  "sentry/host/host_calls.golden.txt.";
}

TEST(HostCalls, AreFewAndUnique) {
  EXPECT_LE(HostCalls().size(), 72u);
  std::set<int> numbers;
  for (const HostCall& call : HostCalls()) {
    EXPECT_TRUE(numbers.insert(call.number).second) << call.name;
    EXPECT_GT(strlen(call.reason), 8u) << call.name;
  }
  for (const HostCall& call : HostNetworkCalls()) EXPECT_TRUE(numbers.insert(call.number).second) << call.name;
}

}  // namespace
}  // namespace amber
