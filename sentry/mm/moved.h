// Private memory that was moved to a file of the sentry's because a device uses it (sentry/fs/nvidia/moved_memory.h).
//
// The host maps it shared; to the guest it is still private, so a forked child must get a copy of its own. Kernel lock.
#pragma once

#include <span>
#include <vector>

#include "sentry/mm/memory_manager.h"

namespace amber {

inline constexpr state::Kind kMovedMemoryKind = static_cast<state::Kind>(181);
// NvidiaFile (sentry/fs/nvidia/nvidia_file.h). Its mappings are those of drivers: VM_PFNMAP or VM_MIXEDMAP, and VM_DONTEXPAND.
inline constexpr state::Kind kDeviceFileKind = static_cast<state::Kind>(180);

inline bool IsDevice(const Vma& vma) { return vma.file && vma.file->kind() == kDeviceFileKind; }
inline bool IsMoved(const Vma& vma) { return vma.file && vma.file->kind() == kMovedMemoryKind; }

// The mapping as a forked child has it: ordinary memory.
Vma UnmovedVma(Vma vma);

// What the only thread of a forked child runs before it goes on: memory of its own with the same bytes, wherever `parent` has moved memory.
struct MovedCopies {
  std::vector<platform::StubOp> ops;
  std::vector<RefPtr<File>> files;  // whose descriptors the operations use
};
ErrnoOr<MovedCopies> CopyMovedOps(Task& task, const MemoryManager& parent);
// True if `results` are those of operations that have all done what they should.
bool CopiedMoved(std::span<const platform::StubOp> ops, std::span<const int64_t> results);

}  // namespace amber
