// Small things that the control server, the CLI and the waiter agree on.
#pragma once

#include <time.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace amber::control {

// What a waiter sends besides signal numbers (1 to 64).
enum WaiterMessage : int32_t {
  kWaiterResize = 1001,  // the console's size has changed
};
// What a waiter is sent besides a wait status (0 to 0xffff): it no longer ends with its owner.
inline constexpr int32_t kWaiterDetach = 0x10000;
// As SIGKILL's status, because the owner is gone (or going): the waiter cleans up.
inline constexpr int32_t kWaiterAbandoned = 0x20009;

inline uint64_t MonotonicNs() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(t.tv_nsec);
}

// Named steps of a start, for --timings. One thread.
class StepTimings {
 public:
  struct Step {
    std::string name;
    uint64_t start_ns;
    uint64_t duration_ns;
  };
  // Ends the running step, if any, and begins another one. An empty name only ends.
  void Begin(std::string_view name) {
    uint64_t now = MonotonicNs();
    if (!current_.empty()) steps_.push_back({std::move(current_), started_, now - started_});
    current_ = std::string(name);
    started_ = now;
  }
  void End() { Begin({}); }
  const std::vector<Step>& steps() const { return steps_; }
  void Add(Step step) { steps_.push_back(std::move(step)); }

 private:
  std::string current_;
  uint64_t started_ = 0;
  std::vector<Step> steps_;
};

}  // namespace amber::control
