// Reads an ELF file's headers, which a guest wrote: every number is checked here, and nobody else looks at the bytes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "sentry/base/errno_or.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/vfs/file.h"

namespace amber::loader {

// What the loader needs of a file; the tests and the fuzz target have their own.
class ExecFile {
 public:
  virtual ~ExecFile() = default;
  // Reads up to `size` bytes at `offset`; fewer at the end of the file.
  virtual ErrnoOr<size_t> ReadAt(void* data, size_t size, uint64_t offset) = 0;
  // What to map privately for [offset, offset + size).
  virtual ErrnoOr<MapSource> Map(uint64_t offset, uint64_t size, int prot) = 0;
  // For the tree of mappings; may be null in tests.
  virtual RefPtr<File> file() = 0;
};

// One PT_LOAD, checked: filesz <= memsz, vaddr + memsz lies below kGuestTop, offset + filesz does not wrap, and vaddr and offset
// agree modulo the page size.
struct ElfSegment {
  uint64_t vaddr, offset, filesz, memsz;
  int prot;
  uint64_t page_start() const;  // of the first page
  uint64_t page_end() const;    // behind the last one
};

struct ElfImage {
  bool position_independent = false;  // ET_DYN
  uint64_t entry = 0;
  uint64_t phdr = 0;  // address of the program headers, before the bias
  uint16_t phnum = 0;
  std::vector<ElfSegment> loads;  // at least one, by ascending address as in the file
  std::string interpreter;        // PT_INTERP, "" if none
  bool executable_stack = false;  // PT_GNU_STACK has PF_X
  uint64_t low = 0, high = 0;     // the pages that the segments span
  uint64_t alignment = 0;         // the largest p_align that is a power of two, at least a page
};

// ENOEXEC if it is no x86-64 ELF program; EINVAL for segments that cannot be mapped; EIO where Linux says so.
ErrnoOr<ElfImage> ParseElf(ExecFile& file);

// The first line of a script.
struct Script {
  std::string interpreter, argument;  // argument: "" if none
  bool has_argument = false;
};
inline constexpr size_t kHeaderBytes = 256;  // BINPRM_BUF_SIZE
// `head`: the first kHeaderBytes of the file, zeros behind its end. ENOEXEC if it is no usable `#!` line.
ErrnoOr<Script> ParseScript(std::string_view head);

}  // namespace amber::loader
