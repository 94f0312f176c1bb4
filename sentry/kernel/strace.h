// The --strace log: a line per system call, readable, written when the call ends. Guarded by the kernel lock.
#pragma once

#include <cstdint>
#include <string>

#include "sentry/base/unique_fd.h"

namespace amber {

class Task;

class Strace {
 public:
  // `fd` is kept open by the caller for as long as this lives.
  explicit Strace(int fd) : fd_(fd) {}
  // Remembers what the arguments show now (paths may be gone or overwritten at the end).
  void Enter(Task& task);
  // `result` as the guest gets it; -512 and the like mean that the call will be restarted.
  void Exit(Task& task, int64_t result);
  // The guest faulted.
  void Fault(Task& task, int signo, uint64_t address, uint64_t ip);

 private:
  std::string Arguments(Task& task) const;
  int fd_;
};

}  // namespace amber
