// The memory calls, for the table (memory_calls.cc) and for tests.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <optional>

#include "sentry/base/errno_or.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/base/user_ptr.h"

namespace amber {

class File;
class Task;

// memory_map.cc
// What mmap(2) does once the descriptor is a file (null: anonymous); `length` is not 0. Answers with the address, or with `answer`.
ErrnoOr<uint64_t> MapFile(Task& task, uint64_t address, uint64_t length, int prot, int flags, RefPtr<File> file, uint64_t offset,
                          std::optional<uint64_t> answer = std::nullopt);
ErrnoOr<uint64_t> Mmap(Task& task, uint64_t address, uint64_t length, int prot, int flags, int fd, uint64_t offset);
ErrnoOr<uint64_t> Munmap(Task& task, uint64_t address, uint64_t length);
ErrnoOr<uint64_t> Mprotect(Task& task, uint64_t address, uint64_t length, uint64_t prot);
ErrnoOr<uint64_t> Brk(Task& task, uint64_t address);
// memory_remap.cc
ErrnoOr<uint64_t> RemapFilePages(Task& task, uint64_t address, uint64_t length, uint64_t prot, uint64_t page_offset, uint64_t flags);
ErrnoOr<uint64_t> Mremap(Task& task, uint64_t old_address, uint64_t old_length, uint64_t new_length, uint64_t flags, uint64_t new_address);
// memory_advise.cc
ErrnoOr<uint64_t> Madvise(Task& task, uint64_t address, uint64_t length, int advice);
ErrnoOr<uint64_t> Mincore(Task& task, uint64_t address, uint64_t length, UserPtr<uint8_t> out);
ErrnoOr<uint64_t> Msync(Task& task, uint64_t address, uint64_t length, int flags);
ErrnoOr<uint64_t> Mlock(Task& task, uint64_t address, uint64_t length);
ErrnoOr<uint64_t> Mlock2(Task& task, uint64_t address, uint64_t length, int flags);
ErrnoOr<uint64_t> Munlock(Task& task, uint64_t address, uint64_t length);
ErrnoOr<uint64_t> Mlockall(Task& task, int flags);
ErrnoOr<uint64_t> Munlockall(Task& task);
// memory_process_vm.cc
ErrnoOr<uint64_t> ProcessVmReadv(Task& task, int pid, UserPtr<const iovec> local, uint64_t local_count, UserPtr<const iovec> remote,
                                 uint64_t remote_count, uint64_t flags);
ErrnoOr<uint64_t> ProcessVmWritev(Task& task, int pid, UserPtr<const iovec> local, uint64_t local_count, UserPtr<const iovec> remote,
                                  uint64_t remote_count, uint64_t flags);

}  // namespace amber
