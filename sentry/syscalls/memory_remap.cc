// mremap.
#include <sys/mman.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>

#include "sentry/mm/guard.h"
#include "sentry/mm/moved.h"
#include "sentry/mm/userfault.h"
#include "sentry/syscalls/memory_map.h"
#include "sentry/syscalls/memory_ops.h"
#include "sentry/vfs/file.h"

namespace amber {

namespace {

using platform::kGuestTop;
using platform::StubOp;

// One checked mremap that does not just shrink.
struct Remap {
  uint64_t old_start, old_size, new_size;
  bool in_place;
  uint64_t new_start;
  bool keep_old;           // MREMAP_DONTUNMAP
  bool duplicate;          // old size 0: a second view of shared memory
  std::vector<Vma> parts;  // of the old range; to the guest they are one mapping
  Vma grown;               // what lies behind the old part afterwards; start == end if nothing
};

// The end of what the guest sees as the mapping that contains `vma`: neighbours that differ only in what the host maps.
uint64_t GuestEnd(const VmaSet& set, const Vma& vma) {
  const Vma* at = &vma;
  while (const Vma* next = set.Find(at->end)) {
    if (!GuestView(*at).MergesWith(GuestView(*next))) break;
    at = next;
  }
  return at->end;
}

// True if the host maps [offset, offset + size) of the file in two pieces.
bool CrossesSeam(const Vma& vma, uint64_t size) {
  uint64_t seam = vma.file ? vma.file->map_seam() : UINT64_MAX;
  return seam != UINT64_MAX && vma.offset < seam && vma.offset + size > seam;
}

// The parts as the host has them.
std::vector<Vma> CutAtSeams(std::vector<Vma> parts) {
  std::vector<Vma> cut;
  for (Vma& part : parts) {
    if (part.image || !CrossesSeam(part, part.size())) {
      cut.push_back(std::move(part));
      continue;
    }
    uint64_t at = part.start + (part.file->map_seam() - part.offset);
    cut.push_back(part.Part(part.start, at));
    cut.push_back(part.Part(at, part.end));
  }
  return cut;
}

ErrnoOr<void> CheckArguments(uint64_t old_address, uint64_t new_length, uint64_t old_length, uint64_t flags) {
  if ((flags & ~uint64_t{MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP}) != 0) return Errno(EINVAL);
  if ((flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)) != 0 && (flags & MREMAP_MAYMOVE) == 0) return Errno(EINVAL);
  if ((flags & MREMAP_DONTUNMAP) != 0 && old_length != new_length) return Errno(EINVAL);
  if (old_address % kPageSize != 0 || new_length == 0) return Errno(EINVAL);
  if (new_length > kGuestTop || old_length > kGuestTop) return Errno(ENOMEM);
  return Ok();
}

// vma_to_resize() of mm/mremap.c.
ErrnoOr<void> CheckResize(Task& task, const Vma& vma, uint64_t guest_end, uint64_t address, uint64_t old_size, uint64_t new_size, bool keep_old) {
  if (old_size == 0 && (!vma.shared || IsMoved(vma))) return Errno(EINVAL);
  // A device has its pages: what a host mapping of them could grow into or leave behind would not be the guest's private memory.
  if (IsMoved(vma) && (new_size > old_size || keep_old)) return Errno(ENOMEM);
  if (IsDevice(vma) && keep_old) return Errno(EINVAL);
  if (old_size > guest_end - address) return Errno(EFAULT);
  if (IsDevice(vma) && new_size > old_size) return Errno(EFAULT);
  uint64_t grow = keep_old ? new_size : new_size > old_size ? new_size - old_size : 0;
  if (vma.file && vma.offset + (address - vma.start) + new_size < new_size) return Errno(EINVAL);
  return task.mm().CheckLimits(MemoryLimitsOf(task), grow, vma.data() ? grow : 0, vma.locked() ? grow : 0, 4);
}

// The operations, in order. The grown part is mapped by itself where the host's mapping cannot simply be longer: image memory, or
// several pieces.
ErrnoOr<std::vector<StubOp>> Plan(Task& task, Remap& r) {
  std::vector<StubOp> ops;
  bool seam = CrossesSeam(r.parts[0], r.new_size);
  bool simple = r.parts.size() == 1 && !r.parts[0].image && !seam;
  bool grows = r.grown.start < r.grown.end;
  uint64_t flags = MREMAP_MAYMOVE | MREMAP_FIXED | (r.keep_old ? MREMAP_DONTUNMAP : 0);
  if (simple) {
    if (r.in_place) {
      ops.push_back(MemoryManager::Op(SYS_mremap, r.old_start, r.old_size, r.new_size, 0));
    } else {
      ops.push_back(MemoryManager::Op(SYS_mremap, r.old_start, r.duplicate ? 0 : r.old_size, r.new_size, flags, r.new_start));
    }
  } else if (r.duplicate) {
    Vma copy = r.parts[0];
    copy.start = r.new_start;
    copy.end = r.new_start + r.new_size;
    MemoryManager::AppendMapOps(copy, TRY(copy.file->Map(task, copy.offset, copy.size(), copy.prot, copy.shared)), 0, &ops);
  } else {
    if (!r.in_place) {
      for (const Vma& part : CutAtSeams(r.parts)) {
        uint64_t to = r.new_start + (part.start - r.old_start);
        ops.push_back(MemoryManager::Op(SYS_mremap, part.start, part.size(), part.size(), flags, to));
      }
    }
    if (grows) {
      MapSource source;
      if (r.grown.file) source = TRY(r.grown.file->Map(task, r.grown.offset, r.grown.size(), r.grown.prot, r.grown.shared));
      MemoryManager::AppendMapOps(r.grown, source, 0, &ops);
    }
  }
  if (grows && simple) {
    Vma whole = r.grown;
    whole.start = r.new_start;
    MemoryManager::AppendHugeAdvice(whole, &ops);
  }
  return ops;
}

void Apply(MemoryManager& mm, const Remap& r) {
  if (!r.in_place) {
    if (!r.keep_old && !r.duplicate) mm.vmas().Remove(r.old_start, r.old_start + r.old_size);
    for (Vma part : r.parts) {
      uint64_t size = part.size();
      part.start = r.new_start + (part.start - r.old_start);
      part.end = part.start + size;
      part.flags &= ~kUffdBits;  // mremap_userfaultfd_prep(): nobody has UFFD_FEATURE_EVENT_REMAP
      mm.Record(std::move(part));
    }
    if (r.keep_old) {
      // What stays behind is empty memory of the same kind.
      mm.vmas().Update(r.old_start, r.old_start + r.old_size, [](Vma& v) {
        v = GuestView(v);
        v.flags &= ~Vma::kLocked;
      });
    }
  }
  if (r.grown.start < r.grown.end) {
    Vma grown = r.grown;
    // As the moved parts: the host has dropped the registration.
    if (!r.in_place) grown.flags &= ~kUffdBits;
    mm.Record(std::move(grown));
  }
}

// Fills in where the mapping goes. ENOMEM if it must stay and cannot.
ErrnoOr<void> ChoosePlace(Task& task, uint64_t guest_end, uint64_t flags, uint64_t new_address, Remap* r) {
  MemoryManager& mm = task.mm();
  if ((flags & MREMAP_FIXED) != 0) {
    r->new_start = new_address;
    return Ok();
  }
  uint64_t old_end = r->old_start + r->old_size, new_end = r->old_start + r->new_size;
  if (!r->keep_old && r->old_size > 0 && old_end == guest_end && new_end <= kGuestTop && mm.IsGuestRange(r->old_start, new_end) &&
      mm.vmas().IsFree(old_end, new_end)) {
    r->in_place = true;
    r->new_start = r->old_start;
    return Ok();
  }
  if ((flags & MREMAP_MAYMOVE) == 0) return Errno(ENOMEM);
  uint64_t hint = (flags & MREMAP_DONTUNMAP) != 0 ? PageDown(new_address) : 0;
  r->new_start = TRY(mm.Place(hint, r->new_size));
  return Ok();
}

}  // namespace

ErrnoOr<uint64_t> Mremap(Task& task, uint64_t old_address, uint64_t old_length, uint64_t new_length, uint64_t flags, uint64_t new_address) {
  uint64_t old_size = PageUp(old_length), new_size = PageUp(new_length);
  TRY(CheckArguments(old_address, new_size, old_size, flags));
  MmLock lock(task, 0, ~uint64_t{0});
  if (!lock.held()) return WaitForMm(task);
  RefPtr<MemoryManager> mm(&task.mm());
  const Vma* vma = mm->vmas().Find(old_address);
  if (vma == nullptr) return Errno(EFAULT);
  bool fixed = (flags & MREMAP_FIXED) != 0, keep_old = (flags & MREMAP_DONTUNMAP) != 0;
  if (fixed) {
    if (new_address % kPageSize != 0 || new_address > kGuestTop - new_size) return Errno(EINVAL);
    if (old_address < new_address + new_size && new_address < old_address + old_size) return Errno(EINVAL);
    if (!mm->IsGuestRange(new_address, new_address + new_size)) return Errno(EINVAL);
  }
  if (mm->vmas().AnySealed(old_address, old_address + std::max(old_size, kPageSize))) return Errno(EPERM);
  if (fixed && mm->vmas().AnySealed(new_address, new_address + new_size)) return Errno(EPERM);
  uint64_t guest_end = GuestEnd(mm->vmas(), *vma);
  std::vector<StubOp> ops;
  uint64_t cut = 0;  // what lies behind the new size goes first
  if (old_size > new_size) {
    // Linux unmaps the tail even if it reaches into other mappings.
    cut = old_size - new_size;
    if (!mm->IsGuestRange(old_address, old_address + old_size)) return Errno(EINVAL);
    ops.push_back(MemoryManager::Op(SYS_munmap, old_address + new_size, cut));
    old_size = new_size;
  }
  uint64_t cut_start = old_address + new_size;
  auto unmap_tail = [mm, cut_start, cut] {
    if (cut > 0) mm->vmas().Remove(cut_start, cut_start + cut);
  };
  if (old_size == new_size && !fixed && !keep_old) {
    return RunMemoryOps(task, lock, std::move(ops), [unmap_tail, old_address](std::span<const int64_t>) {
      unmap_tail();
      return static_cast<int64_t>(old_address);
    });
  }

  TRY(CheckResize(task, *vma, guest_end, old_address, old_size, new_size, keep_old));
  Remap r{old_address, old_size, new_size, false, 0, keep_old, old_size == 0, {}, {}};
  TRY(ChoosePlace(task, guest_end, flags, new_address, &r));
  uint64_t view = r.duplicate ? std::min(new_size, guest_end - old_address) : old_size;
  if (r.duplicate) {
    // One mapping of the same file from the same offset on, however long.
    Vma copy = vma->Part(old_address, std::min(old_address + view, vma->end));
    copy.end = copy.start + new_size;
    r.parts = {copy};
  } else {
    r.parts = mm->vmas().Slice(old_address, old_address + view);
    const Vma& last = r.parts.back();
    r.grown = GuestView(last);
    r.grown.start = r.new_start + old_size;
    r.grown.end = r.new_start + new_size;
    if (r.grown.file) r.grown.offset = last.offset + last.size();
  }
  std::vector<StubOp> moves = TRY(Plan(task, r));
  ops.insert(ops.end(), moves.begin(), moves.end());
  return RunMemoryOps(task, lock, std::move(ops), [mm, r, unmap_tail](std::span<const int64_t>) {
    unmap_tail();
    Apply(*mm, r);
    return static_cast<int64_t>(r.new_start);
  });
}

// remap_file_pages(2), as mm/mmap.c has done it since Linux 4.0: another mapping of the same file.
ErrnoOr<uint64_t> RemapFilePages(Task& task, uint64_t address, uint64_t length, uint64_t prot, uint64_t page_offset, uint64_t flags) {
  uint64_t start = PageDown(address), size = PageDown(length), end = start + size;
  if (prot != 0 || end <= start || end > kGuestTop) return Errno(EINVAL);
  if (page_offset + size / kPageSize < page_offset || page_offset > INT64_MAX / kPageSize) return Errno(EINVAL);
  std::vector<Vma> parts = task.mm().vmas().Slice(start, end);
  uint64_t at = start;
  for (const Vma& part : parts) {
    // Linux forgets that a mapping is shared if it can never be written.
    bool shared = part.shared && (part.max_prot & PROT_WRITE) != 0 && part.file && !IsMoved(part) && !IsDevice(part);
    if (!shared || part.start > at || part.file != parts[0].file || part.flags != parts[0].flags || part.prot != parts[0].prot) return Errno(EINVAL);
    at = part.end;
  }
  if (at < end) return Errno(EINVAL);
  int how = MAP_SHARED | MAP_FIXED | MAP_POPULATE | static_cast<int>(flags & MAP_NONBLOCK) | (parts[0].locked() ? MAP_LOCKED : 0);
  return MapFile(task, start, size, parts[0].prot, how, parts[0].file, page_offset * kPageSize, uint64_t{0});
}

}  // namespace amber
