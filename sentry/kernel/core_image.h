// What a core file holds (core(5), elf(5)): notes on the threads of a process that stands still, and which of its memory follows them.
//
// Linux: fs/binfmt_elf.c, elf_core_dump() and its kin; fs/coredump.c, vma_dump_size(). Kernel lock held.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "sentry/kernel/signal.h"
#include "sentry/platform/platform.h"

namespace amber {

class Task;

// A mapping in a core file. What of it is not in `runs` is a hole.
struct CoreSegment {
  uint64_t start = 0, end = 0;
  uint64_t file_size = 0;  // from `start` on, page aligned; 0: only its place is told
  int prot = 0;
  struct Run {
    uint64_t start, end;
  };
  std::vector<Run> runs;  // what to copy, in order, within [start, start + file_size)
};

// One thread's part. `orig_rax` is -1 outside of calls.
struct CoreThread {
  Task* task;
  platform::Registers regs;
  uint64_t fs_base, gs_base;
  int64_t orig_rax;
};

// The mappings of the process of `task`, by the bits of `filter` (/proc/PID/coredump_filter).
std::vector<CoreSegment> CoreSegments(Task& task, uint32_t filter);
// The notes: `threads` begins with the one that died of `info`.
std::string CoreNotes(const std::vector<CoreThread>& threads, const SigInfo& info);
// The headers and `notes`, up to where the first segment's bytes lie.
std::string CoreHeader(const std::vector<CoreSegment>& segments, const std::string& notes);

}  // namespace amber
