#include "nvproxy/tables.h"

#include <gtest/gtest.h>

#include <fstream>
#include <set>
#include <sstream>
#include <string>

namespace amber::nvproxy {
namespace {

TEST(Tables, EveryBranchIsThereAndSorted) {
  ASSERT_EQ(AllBranches().size(), 10u);
  for (const Branch& branch : AllBranches()) {
    for (auto section : {branch.frontend, branch.uvm, branch.controls, branch.classes}) {
      ASSERT_FALSE(section.empty());
      for (size_t i = 1; i < section.size(); ++i) EXPECT_LT(section[i - 1].number, section[i].number);
    }
  }
}

// The counts that the facts give for each branch (controls and classes with all capabilities).
TEST(Tables, Counts) {
  const Branch* b535 = FindBranch(535);
  const Branch* b580 = FindBranch(580);
  const Branch* b610 = FindBranch(610);
  EXPECT_EQ(b535->frontend.size(), 23u);
  EXPECT_EQ(b535->uvm.size(), 31u);
  EXPECT_EQ(b580->frontend.size(), 24u);
  EXPECT_EQ(b580->controls.size(), 213u);
  EXPECT_EQ(b580->classes.size(), 98u);
  EXPECT_EQ(b610->uvm.size(), 27u);
  EXPECT_EQ(b610->classes.size(), 101u);
}

uint32_t SizeOf(uint32_t branch, std::span<const Entry> Branch::* section, uint32_t number) {
  const Entry* entry = FindEntry(FindBranch(branch)->*section, number);
  return entry == nullptr ? 0 : entry->size;
}

// Nothing that is passed on asks for a privilege: the driver would look for it in the sandbox's process, and must not find one.
TEST(Tables, ControlsNeedNoPrivilege) {
  std::ifstream file("nvproxy/unprivileged_580.txt");
  ASSERT_TRUE(file.good());
  std::set<uint32_t> unprivileged;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line.starts_with('#') ? "" : line);
    for (std::string word; words >> word;) unprivileged.insert(static_cast<uint32_t>(std::stoul(word, nullptr, 16)));
  }
  ASSERT_EQ(unprivileged.size(), 758u);
  // Older forms with pointers, which the driver turns into those of today before it looks for the method; and one without a name, which this driver has not.
  std::set<uint32_t> others = {0x101, 0x801b01, 0x20800802, 0x20801301, 0x20801802, 0x80028b};
  for (const Entry& entry : FindBranch(580)->controls) {
    if (unprivileged.contains(entry.number)) continue;
    EXPECT_EQ(others.erase(entry.number), 1u) << std::hex << entry.number << " " << entry.name;
  }
  EXPECT_TRUE(others.empty());
}

TEST(Tables, SizesChangeBetweenBranches) {
  EXPECT_EQ(SizeOf(535, &Branch::uvm, 33), 1200u);
  EXPECT_EQ(SizeOf(550, &Branch::uvm, 33), 9264u);
  EXPECT_EQ(SizeOf(580, &Branch::uvm, 28), 28u);
  EXPECT_EQ(SizeOf(590, &Branch::uvm, 28), 12u);
  EXPECT_EQ(SizeOf(575, &Branch::frontend, 0x57), 56u);
  EXPECT_EQ(SizeOf(580, &Branch::frontend, 0x57), 64u);
  EXPECT_EQ(SizeOf(580, &Branch::controls, 0x20801303), 1028u);
  EXPECT_EQ(SizeOf(570, &Branch::classes, 0xc86f), 368u);
  EXPECT_EQ(SizeOf(610, &Branch::classes, 0xc86f), 376u);
}

TEST(Tables, FieldsMoveWithTheirStructures) {
  auto client_of = [](uint32_t branch) {
    for (const Field& field : FieldsOf(*FindEntry(FindBranch(branch)->uvm, 28))) {
      if (field.role == Role::kClient) return static_cast<int>(field.offset);
    }
    return -1;
  };
  EXPECT_EQ(client_of(580), 16);
  EXPECT_EQ(client_of(590), 0);
}

TEST(Tables, FieldsLieInsideTheirBlocks) {
  for (const Branch& branch : AllBranches()) {
    for (auto section : {branch.frontend, branch.uvm, branch.controls, branch.classes}) {
      for (const Entry& entry : section) {
        if (entry.size == kUnknownSize) continue;
        for (const Field& field : FieldsOf(entry)) EXPECT_LE(field.offset + 4u * field.count, entry.size) << entry.name << branch.number;
        if (entry.status != kNoStatus) EXPECT_LE(entry.status + 4u, entry.size) << entry.name;
      }
    }
  }
}

TEST(Version, Policy) {
  std::string_view error;
  EXPECT_EQ(BranchForVersion("580.159.04", false, &error)->number, 580u);
  EXPECT_EQ(BranchForVersion("535.288.01", false, &error)->number, 535u);
  EXPECT_EQ(BranchForVersion("580.200.01", false, &error), nullptr);
  EXPECT_NE(error.find("not known to work"), std::string_view::npos);
  EXPECT_EQ(BranchForVersion("580.200.01", true, &error)->number, 580u);
  EXPECT_EQ(BranchForVersion("560.35.03", true, &error), nullptr);
  EXPECT_EQ(BranchForVersion("999.1.2", true, &error), nullptr);
  for (const char* bad : {"", "580", "580.", "580.1.", ".580.1", "580.1.2.3", "580.x.1", "-580.1.1", "580.159.04 ", "99999999999.1.1"}) {
    EXPECT_EQ(BranchForVersion(bad, true, &error), nullptr) << bad;
  }
}

}  // namespace
}  // namespace amber::nvproxy
