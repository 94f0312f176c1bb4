// Memory policies, as a machine with one node has them.
#include <linux/mempolicy.h>
#include <stdlib.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

constexpr int kHomeNode = 450;  // set_mempolicy_home_node
constexpr size_t kNodeBits = 1024;

struct Nodes {
  unsigned long words[kNodeBits / 64] = {};
  explicit Nodes(unsigned long first = 0) { words[0] = first; }
  operator unsigned long*() { return words; }  // NOLINT: it is a mask.
};

void NeedOneNode() {
  Nodes allowed;
  if (Call(SYS_get_mempolicy, nullptr, allowed.words, kNodeBits, nullptr, MPOL_F_MEMS_ALLOWED) < 0) Skip("no memory policies here");
  if (allowed.words[0] != 1) Skip("more than one memory node");
}

int Set(int mode, unsigned long nodes) {
  Nodes mask(nodes);
  return Call(SYS_set_mempolicy, mode, mask.words, kNodeBits);
}

int Bind(void* at, size_t size, int mode, unsigned long nodes, unsigned flags = 0) {
  Nodes mask(nodes);
  return Call(SYS_mbind, at, size, mode, mask.words, kNodeBits, flags);
}

// Of the thread, or of the memory at an address.
void ExpectPolicy(const void* at, int mode, unsigned long nodes) {
  int told = -1;
  Nodes mask(0x55);
  MUST(Call(SYS_get_mempolicy, &told, mask.words, kNodeBits, at, at != nullptr ? MPOL_F_ADDR : 0));
  EXPECT_EQ(told, mode);
  EXPECT_EQ(mask.words[0], nodes);
  EXPECT_EQ(mask.words[1], 0ul);
}

char* Map(size_t pages) { return static_cast<char*>(mmap(nullptr, pages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)); }

// The line of numa_maps that begins at `at`.
void NumaLine(const void* at, char* line, size_t size) {
  static char text[1 << 16];
  ReadFile("/proc/self/numa_maps", text, sizeof(text));
  const Str key("%08lx ", reinterpret_cast<unsigned long>(at));
  const char* found = strstr(text, key);
  EXPECT(found != nullptr);
  snprintf(line, size, "%.*s", found == nullptr ? 0 : static_cast<int>(strcspn(found, "\n")), found == nullptr ? "" : found);
}

}  // namespace

GUEST_TEST(MemoryPolicy, ThreadsKeepTheirs) {
  NeedOneNode();
  ExpectPolicy(nullptr, MPOL_DEFAULT, 0);
  EXPECT_OK(Set(MPOL_INTERLEAVE, 1));
  ExpectPolicy(nullptr, MPOL_INTERLEAVE, 1);
  CheckpointHere();
  ExpectPolicy(nullptr, MPOL_INTERLEAVE, 1);
  JOIN_OK(Fork([] {
    ExpectPolicy(nullptr, MPOL_INTERLEAVE, 1);
    EXPECT_OK(Set(MPOL_BIND | MPOL_F_STATIC_NODES, 1 | 1 << 2));
    ExpectPolicy(nullptr, MPOL_BIND | MPOL_F_STATIC_NODES, 1 | 1 << 2);  // As it was asked for.
    EXPECT_OK(Set(MPOL_BIND | MPOL_F_RELATIVE_NODES, 1 << 3));           // Folded onto the node that there is.
    ExpectPolicy(nullptr, MPOL_BIND | MPOL_F_RELATIVE_NODES, 1 << 3);
    CheckpointHere();
    ExpectPolicy(nullptr, MPOL_BIND | MPOL_F_RELATIVE_NODES, 1 << 3);
  }));
  Thread thread([] {
    ExpectPolicy(nullptr, MPOL_INTERLEAVE, 1);
    EXPECT_OK(Set(MPOL_PREFERRED, 1));
    ExpectPolicy(nullptr, MPOL_PREFERRED, 1);
  });
  thread.Join();
  ExpectPolicy(nullptr, MPOL_INTERLEAVE, 1);
  EXPECT_OK(Set(MPOL_PREFERRED, 0));  // No node: that one where it runs.
  ExpectPolicy(nullptr, 4 /* MPOL_LOCAL */, 0);
  EXPECT_OK(Set(MPOL_DEFAULT, 0));
  ExpectPolicy(nullptr, MPOL_DEFAULT, 0);
}

GUEST_TEST(MemoryPolicy, WhatIsRefused) {
  NeedOneNode();
  EXPECT_ERRNO(Set(MPOL_BIND | MPOL_F_STATIC_NODES | MPOL_F_RELATIVE_NODES, 1), EINVAL);
  EXPECT_ERRNO(Set(MPOL_INTERLEAVE | (1 << 13) /* MPOL_F_NUMA_BALANCING */, 1), EINVAL);
  EXPECT_ERRNO(Set(MPOL_BIND, 0), EINVAL);
  EXPECT_ERRNO(Set(MPOL_BIND, 2), EINVAL);  // There is no such node.
  EXPECT_ERRNO(Set(MPOL_DEFAULT, 1), EINVAL);
  EXPECT_ERRNO(Set(4 /* MPOL_LOCAL */, 1), EINVAL);
  EXPECT_ERRNO(Set(4 | MPOL_F_STATIC_NODES, 0), EINVAL);
  EXPECT_ERRNO(Set(MPOL_PREFERRED | MPOL_F_STATIC_NODES, 0), EINVAL);
  Nodes far;
  far.words[kNodeBits / 64 - 1] = 1ul << 62;
  EXPECT_ERRNO(Call(SYS_set_mempolicy, MPOL_BIND, far.words, kNodeBits), EINVAL);
  EXPECT_ERRNO(Call(SYS_set_mempolicy, MPOL_BIND, far.words, 0), EINVAL);  // One less is very many.
  int mode;
  EXPECT_ERRNO(Call(SYS_get_mempolicy, &mode, far.words, 0, nullptr, 0), EINVAL);
  EXPECT_ERRNO(Call(SYS_get_mempolicy, &mode, nullptr, 0, nullptr, MPOL_F_NODE), EINVAL);
  EXPECT_ERRNO(Call(SYS_get_mempolicy, &mode, nullptr, 0, &mode, 0), EINVAL);
  EXPECT_ERRNO(Call(SYS_get_mempolicy, &mode, nullptr, 0, kBadAddress, MPOL_F_ADDR), EFAULT);
  EXPECT_ERRNO(Call(SYS_get_mempolicy, &mode, nullptr, 0, nullptr, MPOL_F_MEMS_ALLOWED | MPOL_F_NODE), EINVAL);
  EXPECT_OK(Set(MPOL_INTERLEAVE, 1));
  MUST(Call(SYS_get_mempolicy, &mode, nullptr, 0, nullptr, MPOL_F_NODE));
  EXPECT_EQ(mode, 0);
}

GUEST_TEST(MemoryPolicy, MappingsKeepTheirs) {
  NeedOneNode();
  char* memory = Map(6);
  memset(memory, 1, 6 * kPage);
  EXPECT_OK(Bind(memory + kPage, 2 * kPage, MPOL_BIND, 1));
  EXPECT_OK(Bind(memory + 3 * kPage, kPage, MPOL_PREFERRED | MPOL_F_STATIC_NODES, 1));
  auto check = [=] {
    ExpectPolicy(memory, MPOL_DEFAULT, 0);
    ExpectPolicy(memory + kPage, MPOL_BIND, 1);
    ExpectPolicy(memory + 2 * kPage, MPOL_BIND, 1);
    ExpectPolicy(memory + 3 * kPage, MPOL_PREFERRED | MPOL_F_STATIC_NODES, 1);
    ExpectPolicy(memory + 4 * kPage, MPOL_DEFAULT, 0);
  };
  check();
  CheckpointHere();
  check();
  JOIN_OK(Fork(check));
  int node = -1;
  MUST(Call(SYS_get_mempolicy, &node, nullptr, 0, memory, MPOL_F_ADDR | MPOL_F_NODE));
  EXPECT_EQ(node, 0);
  // They move with the memory.
  char* moved = static_cast<char*>(mremap(memory + kPage, kPage, 2 * kPage, MREMAP_MAYMOVE));
  EXPECT_NE(moved, MAP_FAILED);
  ExpectPolicy(moved + kPage, MPOL_BIND, 1);
  EXPECT_ERRNO(Bind(memory, 4 * kPage, MPOL_BIND, 1), EFAULT);  // Now with a hole.
  EXPECT_OK(Bind(memory + 2 * kPage, 2 * kPage, MPOL_DEFAULT, 0));
  ExpectPolicy(memory + 3 * kPage, MPOL_DEFAULT, 0);
  EXPECT_ERRNO(Bind(memory + 1, kPage, MPOL_BIND, 1), EINVAL);
  EXPECT_ERRNO(Bind(memory, kPage, MPOL_BIND, 1, 1 << 9), EINVAL);
  if (geteuid() == 0) {
    EXPECT_OK(Bind(memory, kPage, MPOL_BIND, 1, MPOL_MF_MOVE_ALL));
    AS_USER([=] { EXPECT_ERRNO(Bind(memory, kPage, MPOL_BIND, 1, MPOL_MF_MOVE_ALL), EPERM); });
  }
}

GUEST_TEST(MemoryPolicy, HomeNode) {
  NeedOneNode();
  char* memory = Map(4);
  if (Call(kHomeNode, memory, 4 * kPage, 0ul, 0ul) < 0 && errno == ENOSYS) Skip("an older kernel");
  EXPECT_ERRNO(Call(kHomeNode, memory, 4 * kPage, 0ul, 0ul), ENOENT);  // Nothing has a policy.
  EXPECT_OK(Bind(memory, kPage, MPOL_BIND, 1));
  EXPECT_OK(Call(kHomeNode, memory, 4 * kPage, 0ul, 0ul));
  EXPECT_ERRNO(Call(kHomeNode, memory, 4 * kPage, 1ul, 0ul), EINVAL);
  EXPECT_ERRNO(Call(kHomeNode, memory, 4 * kPage, 0ul, 1ul), EINVAL);
  EXPECT_ERRNO(Call(kHomeNode, memory + 1, kPage, 0ul, 0ul), EINVAL);
  EXPECT_OK(Bind(memory + kPage, kPage, MPOL_INTERLEAVE, 1));
  EXPECT_ERRNO(Call(kHomeNode, memory, 4 * kPage, 0ul, 0ul), EOPNOTSUPP);
}

GUEST_TEST(MemoryPolicy, MigratePages) {
  NeedOneNode();
  Nodes one(1), none(0), other(2);
  EXPECT_OK(Call(SYS_migrate_pages, 0, kNodeBits, one.words, one.words));
  EXPECT_OK(Call(SYS_migrate_pages, getpid(), kNodeBits, one.words, one.words));
  EXPECT_ERRNO(Call(SYS_migrate_pages, 0, kNodeBits, one.words, none.words), EINVAL);
  EXPECT_ERRNO(Call(SYS_migrate_pages, 999999, kNodeBits, one.words, one.words), ESRCH);
  EXPECT_ERRNO(Call(SYS_migrate_pages, 0, kNodeBits, one.words, kBadAddress), EFAULT);
  if (geteuid() != 0) return;
  EXPECT_ERRNO(Call(SYS_migrate_pages, 0, kNodeBits, one.words, other.words), EINVAL);
  AS_USER([&] {
    EXPECT_ERRNO(Call(SYS_migrate_pages, 0, kNodeBits, one.words, other.words), EPERM);
    EXPECT_ERRNO(Call(SYS_migrate_pages, 1, kNodeBits, one.words, one.words), EPERM);
  });
}

GUEST_TEST(MemoryPolicy, MovePages) {
  NeedOneNode();
  char* memory = Map(3);
  memory[0] = memory[2 * kPage] = 1;
  void* pages[] = {memory, memory + kPage, memory + 2 * kPage, reinterpret_cast<void*>(kBadAddress)};
  int nodes[] = {0, 0, 0, 0}, status[4] = {77, 77, 77, 77};
  auto check = [&](int* to) {
    EXPECT_OK(Call(SYS_move_pages, 0, 4ul, pages, to, status, MPOL_MF_MOVE));
    EXPECT_EQ(status[0], 0);
    EXPECT_EQ(status[2], 0);
    EXPECT_EQ(status[3], -EFAULT);
  };
  check(nullptr);
  EXPECT_EQ(status[1], -ENOENT);
  check(nodes);
  EXPECT_EQ(status[1], -ENOENT);
  CheckpointHere();
  check(nullptr);
  EXPECT(status[1] == -ENOENT || status[1] == 0);  // Between pages that an image keeps one of zeros may be kept, too.
  EXPECT_EQ(memory[0] + memory[2 * kPage], 2);
  JOIN_OK(Fork([&] { EXPECT_OK(Call(SYS_move_pages, getppid(), 1ul, pages, nullptr, status, 0)); }));
  nodes[1] = 7;
  EXPECT_ERRNO(Call(SYS_move_pages, 0, 4ul, pages, nodes, status, MPOL_MF_MOVE), ENODEV);
  EXPECT_ERRNO(Call(SYS_move_pages, 0, 4ul, pages, nullptr, status, 1), EINVAL);
  EXPECT_ERRNO(Call(SYS_move_pages, 999999, 4ul, pages, nullptr, status, 0), ESRCH);
  EXPECT_ERRNO(Call(SYS_move_pages, 0, 4ul, kBadAddress, nullptr, status, 0), EFAULT);
  EXPECT_ERRNO(Call(SYS_move_pages, 0, 4ul, pages, nullptr, kBadAddress, 0), EFAULT);
  EXPECT_OK(Call(SYS_move_pages, 0, 0ul, nullptr, nullptr, nullptr, 0));
}

GUEST_TEST(MemoryPolicy, NumaMaps) {
  NeedOneNode();
  char* memory = Map(4);
  memset(memory, 1, 4 * kPage);
  EXPECT_OK(Bind(memory, 4 * kPage, MPOL_BIND | MPOL_F_STATIC_NODES, 1));
  char line[512];
  auto check = [&] {
    NumaLine(memory, line, sizeof(line));
    EXPECT(strstr(line, " bind=static:0 ") != nullptr);
    EXPECT(strstr(line, " anon=4 ") != nullptr);
    EXPECT(strstr(line, " N0=4 kernelpagesize_kB=4") != nullptr);
  };
  check();
  EXPECT_OK(Bind(memory, 4 * kPage, MPOL_DEFAULT, 0));
  EXPECT_OK(Bind(memory + kPage, kPage, 4 /* MPOL_LOCAL */, 0));  // Keeps it apart from its neighbours.
  EXPECT_OK(Set(MPOL_INTERLEAVE, 1));
  NumaLine(memory + kPage, line, sizeof(line));
  EXPECT(strstr(line, " local") != nullptr);
  NumaLine(memory + 2 * kPage, line, sizeof(line));
  EXPECT(strstr(line, " interleave:0") != nullptr);  // The thread's own.
}
