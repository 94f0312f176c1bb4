#include "nvproxy/host_rules.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace amber::nvproxy {
namespace {

bool Passes(const std::vector<HostIoctlRule>& rules, uint32_t command) {
  return std::ranges::any_of(rules, [&](const HostIoctlRule& r) { return (command & r.mask) == r.value; });
}

TEST(HostRules, PassWhatTheTablesHave) {
  for (const Branch& branch : AllBranches()) {
    auto rules = HostIoctlRules(branch, kCompute | kUtility);
    EXPECT_TRUE(Passes(rules, 0xc030462b)) << branch.number;                   // RM_ALLOC, 48 bytes
    EXPECT_TRUE(Passes(rules, 0xc020462a)) << branch.number;                   // RM_CONTROL
    EXPECT_TRUE(Passes(rules, 0xc00046c8 | 72u * 32 << 16)) << branch.number;  // CARD_INFO of 32 cards
    EXPECT_TRUE(Passes(rules, 0x30000001)) << branch.number;                   // UVM_INITIALIZE
    EXPECT_TRUE(Passes(rules, 0x25)) << branch.number;                         // UVM_REGISTER_GPU
  }
}

TEST(HostRules, StopEverythingElse) {
  for (const Branch& branch : AllBranches()) {
    auto rules = HostIoctlRules(branch, kCompute | kUtility);
    EXPECT_FALSE(Passes(rules, 0xc01046d3)) << branch.number;  // the envelope
    EXPECT_FALSE(Passes(rules, 0xc020462b)) << branch.number;  // RM_ALLOC in its short form, which the proxy widens
    EXPECT_FALSE(Passes(rules, 0xc024462a)) << branch.number;  // RM_CONTROL of another size
    EXPECT_FALSE(Passes(rules, 0x0020462a)) << branch.number;  // without its direction
    EXPECT_FALSE(Passes(rules, 0x5401)) << branch.number;      // TCGETS
    EXPECT_FALSE(Passes(rules, 0x4d)) << branch.number;        // a UVM number that no table has
    for (const Named& named : RefusedFrontend()) EXPECT_FALSE(Passes(rules, 0xc0004600u | named.number)) << named.name;
  }
}

TEST(HostRules, FollowTheCapabilities) {
  const Branch& branch = *FindBranch(580);
  uint32_t map_dma = 0xc0404657;
  EXPECT_FALSE(Passes(HostIoctlRules(branch, kCompute | kUtility), map_dma));
  EXPECT_TRUE(Passes(HostIoctlRules(branch, kCompute | kGraphics), map_dma));
  EXPECT_TRUE(HostIoctlRules(branch, 0).empty());
}

// Every number that the proxy forwards has a rule: what a guest may call is what the filter lets out.
TEST(HostRules, CoverEveryEntry) {
  for (const Branch& branch : AllBranches()) {
    for (uint8_t caps : {uint8_t{kCompute | kUtility}, uint8_t{0x7f}}) {
      auto rules = HostIoctlRules(branch, caps);
      for (const Entry& e : branch.frontend) {
        if ((e.caps & caps) == 0 || e.kind == Kind::kRefuse) continue;
        uint32_t size = e.size == kUnknownSize ? 4 : e.size;
        EXPECT_TRUE(Passes(rules, 0xc0004600u | size << 16 | e.number)) << e.name;
      }
      for (const Entry& e : branch.uvm) {
        if ((e.caps & caps) != 0) EXPECT_TRUE(Passes(rules, e.number)) << e.name;
      }
    }
  }
}

}  // namespace
}  // namespace amber::nvproxy
