#include "sentry/platform/ranges.h"

#include <sys/mman.h>
#include <sys/syscall.h>

#include "sentry/platform/platform.h"

namespace amber::platform {
namespace {

bool Above(uint64_t address, uint64_t size) { return address >= kGuestTop || size > kGuestTop - address; }

template <typename T>
bool Touches(uint64_t number, const T* args) {
  switch (number) {
    case SYS_mmap:
      // Without an address the host chooses one: never among guests' mappings.
      return Above(args[0], args[1]) || (args[3] & (MAP_FIXED | MAP_FIXED_NOREPLACE)) == 0;
    case SYS_munmap:
    case SYS_mprotect:
    case SYS_madvise:
    case SYS_mlock:
    case SYS_munlock:
    case SYS_msync:
    case SYS_mbind:
    case SYS_remap_file_pages:
    case 325:  // mlock2
    case 329:  // pkey_mprotect
    case 462:  // mseal
      return Above(args[0], args[1]);
    case SYS_mremap: {
      bool fixed = (args[3] & MREMAP_FIXED) != 0;
      if (Above(args[0], args[1]) || Above(args[0], args[2])) return true;
      return fixed ? Above(args[4], args[2]) : (args[3] & MREMAP_MAYMOVE) != 0;
    }
    case SYS_pread64: return Above(args[1], args[2]);
    case SYS_brk:
    case SYS_shmat:
    case SYS_shmdt: return true;
    default: return false;
  }
}

}  // namespace

bool TouchesStubRegion(uint64_t number, const unsigned long long* args) { return Touches(number, args); }
bool TouchesStubRegion(uint64_t number, const unsigned long* args) { return Touches(number, args); }

}  // namespace amber::platform
