#include "sentry/base/program_pages.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <string_view>

#include "gtest/gtest.h"

namespace amber {
namespace {

// In .rodata; so large that faults nearby do not bring its middle in (16 pages at a time, aligned).
constexpr size_t kPages = 48;
constexpr char kConstants[kPages * 4096] = {1, 2, 3};
// Relocated: an address in the file's read-only part.
const char* const kAddresses[] = {"one", "two"};

int64_t ResidentOf(const void* address) {
  // /proc/self/pagemap, bit 63: present in this process's page table.
  FILE* file = fopen("/proc/self/pagemap", "re");
  uint64_t entry = 0;
  fseek(file, static_cast<long>(reinterpret_cast<uintptr_t>(address) / 4096 * 8), SEEK_SET);
  EXPECT_EQ(fread(&entry, sizeof(entry), 1, file), 1u);
  fclose(file);
  return static_cast<int64_t>(entry >> 63);
}

TEST(ProgramPagesTest, WhatWasTouchedGoesAndComesBack) {
  const volatile char* middle = kConstants + kPages / 2 * 4096;
  EXPECT_EQ(*middle, 0);
  ASSERT_EQ(ResidentOf(const_cast<const char*>(middle)), 1);
  ReleaseProgramPages();
  EXPECT_EQ(ResidentOf(const_cast<const char*>(middle)), 0);
  EXPECT_EQ(kConstants[2], 3);
  EXPECT_EQ(std::string_view(kAddresses[1]), "two");
}

}  // namespace
}  // namespace amber
