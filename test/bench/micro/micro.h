// The micro benchmarks: small guest programs' inner loops, one row each.
//
// Every row is a function that makes `count` operations and returns how long they took; the main
// program chooses the count, so that a batch lasts some tens of milliseconds, and prints the least
// disturbed of several batches. Single-threaded unless a row says otherwise; no locks.
#ifndef TEST_BENCH_MICRO_MICRO_H_
#define TEST_BENCH_MICRO_MICRO_H_

#include <cstdint>
#include <span>
#include <string>

namespace amber::bench {

struct Context {
  std::string self_folder;  // where this program and exit0 lie
  std::string data;         // a folder on a bind mount, see bench_setup.py
};

struct Row {
  const char* name;
  // Nanoseconds for `count` operations.
  int64_t (*run)(const Context& context, int64_t count);
};

std::span<const Row> CallRows();
std::span<const Row> MessageRows();
std::span<const Row> NetworkRows();
std::span<const Row> FileRows();
std::span<const Row> MemoryRows();
std::span<const Row> ProcessRows();
std::span<const Row> ScaleRows();

// Sends a byte and waits for the answer of a forked child that echoes; one operation is a round trip. Both pairs are {to read, to write}.
int64_t PingPong(int to_child[2], int to_parent[2], int64_t count);

// CLOCK_MONOTONIC in nanoseconds.
int64_t Now();

// Ends the program with a message naming `what` and errno. A benchmark has no other error path: a
// call that fails makes the figure meaningless.
[[noreturn]] void Fail(const char* what);

inline void Require(bool ok, const char* what) {
  if (!ok) Fail(what);
}

}  // namespace amber::bench

#endif  // TEST_BENCH_MICRO_MICRO_H_
