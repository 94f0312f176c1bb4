#include "sentry/platform/mapped_files.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

namespace amber::platform {

bool MappedFiles::IsPlain(const StubOp& op) {
  constexpr uint64_t kLargeWritable = 64 << 20;  // the host may refuse to promise so much memory
  return op.number == SYS_mmap && op.fd >= 0 && op.fd_arg == 4 && (op.args[2] & ~uint64_t{PROT_READ | PROT_WRITE}) == 0 &&
         (op.args[3] & ~uint64_t{MAP_NORESERVE | MAP_DENYWRITE}) == (MAP_PRIVATE | MAP_FIXED) && op.args[5] <= INT64_MAX &&
         op.args[1] <= INT64_MAX - op.args[5] && ((op.args[2] & PROT_WRITE) == 0 || op.args[1] <= kLargeWritable);
}

bool MappedFiles::Find(int fd, Id* id) {
  struct stat status;
  if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) return false;
  *id = {status.st_dev, status.st_ino};
  return true;
}

bool MappedFiles::IsKnown(const StubOp& op) {
  Id id;
  if (!IsPlain(op) || !Find(op.fd, &id)) return false;
  absl::MutexLock lock(&mu_);
  return known_.contains(id);
}

void MappedFiles::NoteSuccess(const StubOp& op) {
  constexpr size_t kMost = 4096;
  Id id;
  if (!IsPlain(op) || !Find(op.fd, &id)) return;
  absl::MutexLock lock(&mu_);
  if (known_.size() >= kMost) known_.clear();
  known_.insert(id);
}

}  // namespace amber::platform
