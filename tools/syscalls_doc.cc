// Prints docs/syscalls.md from the table of system calls: ./dev docs.
#include <cstdio>

#include "sentry/syscalls/table.h"

namespace amber {
namespace {

const char* Word(Support support) {
  switch (support) {
    case Support::kNone: return "missing";
    case Support::kPartial: return "partial";
    case Support::kFull: return "full";
    case Support::kRefused: return "refused";
  }
  return "";
}

int PrintAll() {
  const SyscallTable& table = SyscallTable::Get();
  int counts[4] = {};
  int total = 0;
  for (int number = 0; number < kMaxSyscall; ++number) {
    const SyscallEntry* entry = table.Find(static_cast<uint64_t>(number));
    if (entry == nullptr) continue;
    ++counts[static_cast<int>(entry->support)];
    ++total;
  }
  printf(
      "# System calls\n\n"
      "Made from the table in `sentry/syscalls/` by `./dev docs`; do not edit.\n\n"
      "Of %d system calls that Linux has on x86-64, %d are full, %d partial, %d refused (they fail as on a machine "
      "without\nthe feature), %d missing (ENOSYS).\n\n"
      "| number | name | support | note |\n|---|---|---|---|\n",
      total, counts[static_cast<int>(Support::kFull)], counts[static_cast<int>(Support::kPartial)], counts[static_cast<int>(Support::kRefused)],
      counts[static_cast<int>(Support::kNone)]);
  for (int number = 0; number < kMaxSyscall; ++number) {
    const SyscallEntry* entry = table.Find(static_cast<uint64_t>(number));
    if (entry == nullptr) continue;
    printf("| %d | %s | %s | %s |\n", number, entry->name, Word(entry->support), entry->note);
  }
  return 0;
}

}  // namespace
}  // namespace amber

int main() { return amber::PrintAll(); }
