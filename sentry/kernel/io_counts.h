// What /proc/PID/io tells of a thread or a process: bytes that it has read and written by calls, and those calls (Linux: task_io_accounting).
//
// Kernel lock.
#pragma once

#include <cstdint>

namespace amber {

struct IoCounts {
  uint64_t read_bytes = 0, written_bytes = 0, read_calls = 0, write_calls = 0;

  void Add(const IoCounts& other) {
    read_bytes += other.read_bytes;
    written_bytes += other.written_bytes;
    read_calls += other.read_calls;
    write_calls += other.write_calls;
  }
};

}  // namespace amber
