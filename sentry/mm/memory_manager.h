// The memory of a guest process (Linux: struct mm_struct): which mappings it has, and how they are changed.
//
// Owned by the tasks that share it (CLONE_VM). Guarded by the kernel lock. The tree of mappings is the truth for /proc, limits and checkpoints; host
// mappings in the stub mirror it, made by stub operations that the calls in sentry/syscalls/memory_*.cc order.
//
// The operation lock. A stub operation completes later than the handler that ordered it, so whoever changes mappings (or
// copies them: fork) holds the operation lock from before it looks at the tree until the operation is done:
//
//   if (!mm.TryLock(task)) return task.Block(mm.lock_queue(), POLLIN, kNever, kErestartnointr);
//   ... task.StopForOps(ops, [..](results) { update the tree; mm.Unlock(task); task.FinishSyscall(r); });
//   return kNoAnswer;
//
// A call that was answered by CONTINUE runs in the host kernel at an unknown moment; its range is noted by AddPending() and others
// that overlap it wait (and kick that thread) until it is done. A task that exits calls TaskGone().
//
// Exec: loader::LoadProgram() makes a MemoryManager with the tree already filled in; Attach() gives it the address space that was
// built from the plan. Fork: Fork() copies the tree (the lock must be held); Attach() the child's space.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/state.h"
#include "sentry/base/errno_or.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/kernel/wait_queue.h"
#include "sentry/mm/vma.h"
#include "sentry/platform/platform.h"

namespace amber {

class Task;

// Addresses that exec sets and prctl(PR_SET_MM) and /proc show.
struct MemoryLayout {
  uint64_t start_code = 0, end_code = 0, start_data = 0, end_data = 0;
  uint64_t start_brk = 0, brk = 0;
  uint64_t start_stack = 0;  // the stack pointer at the program's start
  uint64_t arg_start = 0, arg_end = 0, env_start = 0, env_end = 0;
  uint64_t mmap_base = 0;  // mappings are placed downwards from here
  uint64_t vdso = 0;
};

// Soft limits that apply to an operation, in bytes (RLIM_INFINITY: none).
struct MemoryLimits {
  uint64_t address_space = ~uint64_t{0};
  uint64_t data = ~uint64_t{0};
  uint64_t memlock = ~uint64_t{0};
  bool may_lock = true;  // CAP_IPC_LOCK
};

class MemoryManager final : public RefCounted<MemoryManager>, public state::Saveable {
 public:
  static constexpr size_t kMaxMappings = 65530;
  // The host's stub needs some mappings of its own.
  static constexpr size_t kHostReserve = 64;

  MemoryManager() = default;
  ~MemoryManager() override;

  // --- life ---
  void Attach(RefPtr<platform::AddressSpace> space) { space_ = std::move(space); }
  bool attached() const { return static_cast<bool>(space_); }
  platform::AddressSpace& space() const { return *space_; }
  RefPtr<platform::AddressSpace> space_ref() const { return space_; }
  // The tree that a forked child has. Mappings with MADV_DONTFORK are left out and those with MADV_WIPEONFORK are
  // empty: the host does the same, because the stub's mappings carry the same advice.
  RefPtr<MemoryManager> Fork() const;

  // --- operation lock (see above) ---
  // False if it is held, or if a pending CONTINUE of another task overlaps [start, end). The caller then blocks on lock_queue().
  bool TryLock(Task& task, uint64_t start = 0, uint64_t end = ~uint64_t{0});
  void Unlock(Task& task);
  bool locked() const { return owner_ != nullptr; }
  WaitQueue& lock_queue() { return lock_queue_; }
  // `task` was told to run a call in [start, end) natively; returns a token for RemovePending().
  uint64_t AddPending(Task& task, uint64_t start, uint64_t end);
  void RemovePending(uint64_t token);
  bool idle() const { return owner_ == nullptr && pending_.empty(); }
  // `task` leaves this address space (exit, exec): gives up what it holds.
  void TaskGone(Task& task);

  // --- mappings ---
  VmaSet& vmas() { return vmas_; }
  const VmaSet& vmas() const { return vmas_; }
  MemoryLayout& layout() { return layout_; }
  const MemoryLayout& layout() const { return layout_; }
  const std::vector<uint64_t>& auxv() const { return auxv_; }
  void set_auxv(std::vector<uint64_t> auxv) { auxv_ = std::move(auxv); }
  const RefPtr<File>& exe() const { return exe_; }
  void set_exe(RefPtr<File> exe) { exe_ = std::move(exe); }
  // mlockall(MCL_FUTURE): new mappings get these Vma flags.
  uint32_t default_flags() const { return default_flags_; }
  void set_default_flags(uint32_t flags) { default_flags_ = flags; }
  // Host mappings below kGuestTop that are not the guest's (the host's vDSO): never given out, never touched.
  void Reserve(uint64_t start, uint64_t end) { reserved_.emplace_back(start, end); }
  // True if [start, end) is not empty, lies in the guest's part and touches nothing reserved.
  bool IsGuestRange(uint64_t start, uint64_t end) const;
  // A free place for `size` bytes: at `hint` if that is free, else top-down from mmap_base, else anywhere. ENOMEM if there is none.
  ErrnoOr<uint64_t> Place(uint64_t hint, uint64_t size, bool low_2gb = false) const;
  // ENOMEM or EAGAIN if `grow` more bytes (of them `data`, `locked` bytes) break a limit; `pieces` mappings may be added.
  ErrnoOr<void> CheckLimits(const MemoryLimits& limits, uint64_t grow, uint64_t data, uint64_t locked, size_t pieces) const;
  // Those mappings that the platform patches call sites with.
  std::vector<platform::FastArea> FastAreas() const;
  // True if all of [start, end) is mapped.
  bool IsMapped(uint64_t start, uint64_t end) const { return vmas_.FirstHole(start, end) == end; }
  // Records a mapping that the host has: replaces what was there.
  void Record(Vma vma);

  // --- host operations (values; the caller runs them) ---
  // Maps `vma` as it is described. `source` is from File::Map (or the image); ignored for anonymous memory.
  static platform::StubOp MapOp(const Vma& vma, const MapSource& source, int extra_flags = 0);
  // The same in as many operations as the source has pieces (MapSource::rest_fd).
  static void AppendMapOps(const Vma& vma, const MapSource& source, int extra_flags, std::vector<platform::StubOp>* ops);
  static platform::StubOp Op(uint64_t number, uint64_t a = 0, uint64_t b = 0, uint64_t c = 0, uint64_t d = 0, uint64_t e = 0, uint64_t f = 0);
  // Operations that give large anonymous mappings huge pages; empty if not worth it.
  static void AppendHugeAdvice(const Vma& vma, std::vector<platform::StubOp>* ops);

  // membarrier(2) registrations (MEMBARRIER_CMD_REGISTER_*, or'ed), which a restore makes again.
  void NoteMembarrier(uint32_t command) { membarrier_ |= command; }
  uint32_t membarrier() const { return membarrier_; }

  // --- statistics ---
  struct Usage {
    uint64_t total = 0, peak = 0, data = 0, stack = 0, text = 0, lib = 0, locked = 0;  // bytes
    uint64_t resident = 0, resident_file = 0, resident_shared = 0, resident_peak = 0;
  };
  Usage GetUsage() const;

  // --- checkpoint ---
  state::Kind kind() const override { return state::Kind::kMemoryManager; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  std::string CannotSave() const override;

 private:
  struct Pending {
    uint64_t token;
    Task* task;
    uint64_t start, end;
  };

  RefPtr<platform::AddressSpace> space_;
  VmaSet vmas_;
  MemoryLayout layout_;
  std::vector<uint64_t> auxv_;
  RefPtr<File> exe_;
  uint32_t default_flags_ = 0;
  std::vector<std::pair<uint64_t, uint64_t>> reserved_;
  uint32_t membarrier_ = 0;
  uint64_t peak_total_ = 0;
  mutable uint64_t peak_resident_ = 0;

  Task* owner_ = nullptr;
  std::list<Pending> pending_;
  uint64_t next_token_ = 1;
  WaitQueue lock_queue_;
};

}  // namespace amber
