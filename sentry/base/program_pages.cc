#include "sentry/base/program_pages.h"

#include <elf.h>
#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>

namespace amber {
namespace {

// The first object is the program itself; the later ones are not its file's.
int ReleaseSegments(dl_phdr_info* object, size_t, void*) {
  uint64_t mask = static_cast<uint64_t>(getpagesize()) - 1;
  for (const ElfW(Phdr)* segment = object->dlpi_phdr; segment != object->dlpi_phdr + object->dlpi_phnum; ++segment) {
    // A writable segment holds relocated addresses, which its file has not, even where it is read-only by now.
    if (segment->p_type != PT_LOAD || (segment->p_flags & PF_W) != 0) continue;
    uint64_t start = (object->dlpi_addr + segment->p_vaddr) & ~mask;
    uint64_t end = (object->dlpi_addr + segment->p_vaddr + segment->p_memsz) & ~mask;
    if (start < end) madvise(reinterpret_cast<void*>(start), end - start, MADV_DONTNEED);
  }
  return 1;
}

}  // namespace

void ReleaseProgramPages() { dl_iterate_phdr(ReleaseSegments, nullptr); }

}  // namespace amber
