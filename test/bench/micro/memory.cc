// Address-space calls and page faults.
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "test/bench/micro/micro.h"

namespace amber::bench {
namespace {

constexpr size_t kPage = 4096;

char* Map(size_t size, int flags = MAP_PRIVATE) {
  void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
  Require(memory != MAP_FAILED, "mmap");
  return static_cast<char*>(memory);
}

void Touch(char* memory, size_t size) {
  for (size_t i = 0; i < size; i += kPage) const_cast<volatile char*>(memory)[i] = 1;
}

int64_t MapUnmap(const Context&, int64_t count) {
  int64_t start = Now();
  for (int64_t i = 0; i < count; ++i) munmap(Map(65536), 65536);
  return Now() - start;
}

// To read-only and back, 64 KiB that has been touched.
int64_t Protect(const Context&, int64_t count) {
  char* memory = Map(65536);
  Touch(memory, 65536);
  int64_t start = Now();
  for (int64_t i = 0; i < count; ++i) {
    Require(mprotect(memory, 65536, PROT_READ) == 0, "mprotect");
    Require(mprotect(memory, 65536, PROT_READ | PROT_WRITE) == 0, "mprotect");
  }
  int64_t spent = Now() - start;
  munmap(memory, 65536);
  return spent;
}

// Grows the heap by 64 KiB and takes it back.
int64_t Brk(const Context&, int64_t count) {
  int64_t start = Now();
  for (int64_t i = 0; i < count; ++i) {
    Require(sbrk(65536) != reinterpret_cast<void*>(-1), "sbrk");
    Require(sbrk(-65536) != reinterpret_cast<void*>(-1), "sbrk");
  }
  return Now() - start;
}

// One operation is one first write to a page.
int64_t AnonymousFault(const Context&, int64_t count) {
  constexpr int64_t kPages = 4096;
  int64_t spent = 0;
  for (int64_t done = 0; done < count; done += kPages) {
    int64_t pages = count - done < kPages ? count - done : kPages;
    size_t size = static_cast<size_t>(pages) * kPage;
    char* memory = Map(size);
    int64_t start = Now();
    Touch(memory, size);
    spent += Now() - start;
    munmap(memory, size);
  }
  return spent;
}

// One operation is 512 writes of a forked child to pages that it shares with its parent.
int64_t CopyOnWrite(const Context&, int64_t count) {
  constexpr size_t kSize = 512 * kPage;
  char* memory = Map(kSize);
  auto* result = reinterpret_cast<volatile int64_t*>(Map(kPage, MAP_SHARED));
  Touch(memory, kSize);
  int64_t spent = 0;
  for (int64_t i = 0; i < count; ++i) {
    pid_t child = fork();
    Require(child >= 0, "fork");
    if (child == 0) {
      int64_t start = Now();
      Touch(memory, kSize);
      *result = Now() - start;
      _exit(0);
    }
    Require(waitpid(child, nullptr, 0) == child, "waitpid");
    spent += *result;
  }
  munmap(memory, kSize);
  munmap(const_cast<int64_t*>(result), kPage);
  return spent;
}

// Reads and writes 16 MiB of touched memory: must be as fast as native.
int64_t Bandwidth(const Context&, int64_t count) {
  constexpr size_t kSize = 16 << 20;
  char* memory = Map(kSize);
  Touch(memory, kSize);
  auto* words = reinterpret_cast<uint64_t*>(memory);
  int64_t start = Now();
  for (int64_t i = 0; i < count; ++i) {
    for (size_t k = 0; k < kSize / sizeof(uint64_t); ++k) words[k] += k;
    asm volatile("" : : "r"(words) : "memory");
  }
  int64_t spent = Now() - start;
  munmap(memory, kSize);
  return spent;
}

constexpr Row kRows[] = {
    {"mmap_munmap_64k", MapUnmap},  {"mprotect_x2", Protect}, {"brk", Brk},
    {"anon_fault", AnonymousFault}, {"cow_512", CopyOnWrite}, {"memory_16m", Bandwidth},
};

}  // namespace

std::span<const Row> MemoryRows() { return kRows; }

}  // namespace amber::bench
