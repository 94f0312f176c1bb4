#include "sentry/mm/moved.h"

#include <sys/mman.h>
#include <sys/syscall.h>

#include <algorithm>

namespace amber {
namespace {

// read(2) and write(2) transfer at most a page less than 2 GiB.
constexpr uint64_t kMostAtOnce = 1 << 30;

}  // namespace

Vma UnmovedVma(Vma vma) {
  vma.file = nullptr;
  vma.offset = 0;
  vma.shared = false;
  return vma;
}

ErrnoOr<MovedCopies> CopyMovedOps(Task& task, const MemoryManager& parent) {
  MovedCopies copies;
  std::vector<platform::StubOp>& ops = copies.ops;
  for (const auto& [start, vma] : parent.vmas()) {
    if (!IsMoved(vma) || (vma.flags & Vma::kDontFork) != 0) continue;
    copies.files.push_back(vma.file);
    Vma own = UnmovedVma(vma);
    own.prot = PROT_READ | PROT_WRITE;
    ops.push_back(MemoryManager::MapOp(own, MapSource()));
    MapSource source = TRY(vma.file->Map(task, vma.offset, vma.size(), PROT_READ, true));
    for (uint64_t at = 0; at < vma.size() && (vma.flags & Vma::kWipeOnFork) == 0; at += kMostAtOnce) {
      platform::StubOp read = MemoryManager::Op(SYS_pread64, 0, vma.start + at, std::min(kMostAtOnce, vma.size() - at), vma.offset + at);
      read.fd = source.fd;
      read.fd_arg = 0;
      ops.push_back(read);
    }
    if (vma.prot != own.prot) ops.push_back(MemoryManager::Op(SYS_mprotect, vma.start, vma.size(), static_cast<uint64_t>(vma.prot)));
  }
  return copies;
}

bool CopiedMoved(std::span<const platform::StubOp> ops, std::span<const int64_t> results) {
  if (results.size() != ops.size()) return false;
  for (size_t i = 0; i < ops.size(); ++i) {
    bool whole = ops[i].number != SYS_pread64 && ops[i].number != SYS_pwrite64;
    if (!whole && results[i] != static_cast<int64_t>(ops[i].args[2])) return false;
    if (results[i] < 0 && results[i] >= -4095) return false;
  }
  return true;
}

}  // namespace amber
