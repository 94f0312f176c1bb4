// Memory policies on a machine with one node: set_mempolicy(2), mbind(2), get_mempolicy(2), migrate_pages(2), move_pages(2) (mm/mempolicy.c, mm/migrate.c).
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/mempolicy.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>

#include "sentry/base/unique_fd.h"
#include "sentry/fs/proc/entry.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/task.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/memory_ops.h"
#include "sentry/syscalls/rw_util.h"
#include "sentry/syscalls/table.h"

namespace amber {
namespace {

constexpr uint64_t kNode0 = 1;
constexpr uint64_t kBits = 64;
// Pages that move_pages(2) looks at in one round (rw_util.h), some milliseconds.
constexpr uint64_t kPagesOfRound = 4096;

// get_nodes(): what lies beyond MAX_NUMNODES must be zero.
ErrnoOr<uint16_t> CopyInNodes(Task& task, UserPtr<const uint64_t> nodes, uint64_t max_node) {
  --max_node;
  if (max_node == 0 || nodes.is_null()) return uint16_t{0};
  if (max_node > kPageSize * 8) return Errno(EINVAL);
  uint64_t mask = 0;
  for (uint64_t i = 0; i * kBits < max_node; ++i) {
    uint64_t word = TRY(task.CopyIn(nodes + i));
    uint64_t left = max_node - i * kBits;
    if (left < kBits) word &= (uint64_t{1} << left) - 1;
    if (i == 0) mask = word;
    if (word >> (i == 0 ? MemoryPolicy::kMaxNodes : 0) != 0) return Errno(EINVAL);
  }
  return static_cast<uint16_t>(mask);
}

// sanitize_mpol_flags(), get_nodes(), mpol_new() and mpol_set_nodemask().
ErrnoOr<MemoryPolicy> CopyInPolicy(Task& task, int mode, UserPtr<const uint64_t> p, uint64_t max_node) {
  MemoryPolicy policy;
  constexpr int kModeFlags = 7 << MemoryPolicy::kFlagShift;
  uint8_t flags = static_cast<uint8_t>((mode & kModeFlags) >> MemoryPolicy::kFlagShift);
  unsigned plain = static_cast<unsigned>(mode & ~kModeFlags);
  bool by_user = (flags & (MemoryPolicy::kStatic | MemoryPolicy::kRelative)) != 0;
  if (plain >= MemoryPolicy::kModes) return Errno(EINVAL);
  if ((flags & MemoryPolicy::kStatic) != 0 && (flags & MemoryPolicy::kRelative) != 0) return Errno(EINVAL);
  if ((flags & MemoryPolicy::kBalancing) != 0 && plain != MemoryPolicy::kBind && plain != MemoryPolicy::kPreferredMany) return Errno(EINVAL);
  uint16_t nodes = TRY(CopyInNodes(task, p, max_node));
  policy.mode = static_cast<uint8_t>(plain);
  switch (policy.mode) {
    case MemoryPolicy::kDefault: return nodes != 0 ? ErrnoOr<MemoryPolicy>(Errno(EINVAL)) : MemoryPolicy();
    case MemoryPolicy::kLocal:
      if (nodes != 0 || by_user) return Errno(EINVAL);
      return policy;
    case MemoryPolicy::kPreferred:
      if (nodes != 0) break;
      if (by_user) return Errno(EINVAL);
      policy.mode = MemoryPolicy::kLocal;
      return policy;
    default: break;
  }
  // Relative nodes are folded onto those that there are.
  if (nodes == 0 || ((flags & MemoryPolicy::kRelative) == 0 && (nodes & kNode0) == 0)) return Errno(EINVAL);
  policy.flags = flags;
  if (by_user) policy.asked = nodes;
  return policy;
}

ErrnoOr<uint64_t> SetMempolicy(Task& task, int mode, UserPtr<const uint64_t> nodes, uint64_t max_node) {
  task.extras().memory_policy = TRY(CopyInPolicy(task, mode, nodes, max_node));
  return 0;
}

// The rest of the ranges that the calls below take: page aligned, rounded up, without wrapping.
ErrnoOr<uint64_t> EndOf(uint64_t start, uint64_t length) {
  if (start % kPageSize != 0) return Errno(EINVAL);
  uint64_t end = start + PageUp(length);
  if (end < start) return Errno(EINVAL);
  return end;
}

ErrnoOr<uint64_t> Mbind(Task& task, uint64_t start, uint64_t length, uint64_t mode, UserPtr<const uint64_t> nodes, uint64_t max_node,
                        unsigned flags) {
  MemoryPolicy policy = TRY(CopyInPolicy(task, static_cast<int>(mode), nodes, max_node));
  if ((flags & ~unsigned{MPOL_MF_STRICT | MPOL_MF_MOVE | MPOL_MF_MOVE_ALL}) != 0) return Errno(EINVAL);
  if ((flags & MPOL_MF_MOVE_ALL) != 0 && !task.Has(CAP_SYS_NICE)) return Errno(EPERM);
  uint64_t end = TRY(EndOf(start, length));
  if (end == start) return 0;
  MmLock lock(task, start, end);
  if (!lock.held()) return WaitForMm(task);
  if (!task.mm().IsMapped(start, end)) return Errno(EFAULT);
  TRY(task.mm().CheckLimits(MemoryLimitsOf(task), 0, 0, 0, 2));
  task.mm().vmas().Update(start, end, [&](Vma& v) { v.policy = policy; });
  return 0;
}

// Only checked: there is no other node that could be home.
ErrnoOr<uint64_t> SetMempolicyHomeNode(Task& task, uint64_t start, uint64_t length, uint64_t node, uint64_t flags) {
  if (start % kPageSize != 0 || flags != 0 || node != 0) return Errno(EINVAL);
  uint64_t end = TRY(EndOf(start, length));
  if (end == start) return 0;
  bool found = false;
  for (const Vma& part : task.mm().vmas().Slice(start, end)) {
    if (part.policy.mode == MemoryPolicy::kDefault) continue;
    if (part.policy.mode != MemoryPolicy::kBind && part.policy.mode != MemoryPolicy::kPreferredMany) return Errno(EOPNOTSUPP);
    found = true;
  }
  return found ? ErrnoOr<uint64_t>(0) : Errno(ENOENT);
}

// do_get_mempolicy(), with MPOL_F_NODE: which node memory at the address is on, or the next one is taken from.
ErrnoOr<int> NodeOf(Task& task, const MemoryPolicy& policy, const Vma* vma) {
  if (vma != nullptr) {
    // The page is brought in.
    return vma->prot == PROT_NONE ? ErrnoOr<int>(Errno(EFAULT)) : 0;
  }
  (void)task;
  bool interleaves = policy.mode == MemoryPolicy::kInterleave || policy.mode == MemoryPolicy::kWeightedInterleave;
  return interleaves ? ErrnoOr<int>(0) : Errno(EINVAL);
}

ErrnoOr<void> CopyOutNodes(Task& task, UserPtr<uint64_t> out, uint64_t max_node, uint64_t nodes) {
  uint64_t words = (max_node - 1 + kBits - 1) / kBits;
  if (words * 8 > kPageSize) return Errno(EINVAL);
  for (uint64_t i = 0; i < words; ++i) TRY(task.CopyOut(out + i, i == 0 ? nodes : uint64_t{0}));
  return Ok();
}

ErrnoOr<uint64_t> GetMempolicy(Task& task, UserPtr<int> mode, UserPtr<uint64_t> nodes, uint64_t max_node, uint64_t address, uint64_t flags) {
  if (!nodes.is_null() && max_node < 1) return Errno(EINVAL);  // nr_node_ids
  if ((flags & ~uint64_t{MPOL_F_NODE | MPOL_F_ADDR | MPOL_F_MEMS_ALLOWED}) != 0) return Errno(EINVAL);
  int told = 0;
  uint64_t mask = kNode0;
  if ((flags & MPOL_F_MEMS_ALLOWED) != 0) {
    if ((flags & (MPOL_F_NODE | MPOL_F_ADDR)) != 0) return Errno(EINVAL);
  } else {
    const Vma* vma = nullptr;
    MemoryPolicy policy = task.extras().memory_policy;
    if ((flags & MPOL_F_ADDR) != 0) {
      vma = task.mm().vmas().Find(address);
      if (vma == nullptr) return Errno(EFAULT);
      policy = vma->policy;
    } else if (address != 0) {
      return Errno(EINVAL);
    }
    told = (flags & MPOL_F_NODE) != 0 ? TRY(NodeOf(task, policy, vma)) : policy.told_mode();
    mask = policy.told_nodes();
  }
  if (!mode.is_null()) TRY(task.CopyOut(mode, told));
  if (!nodes.is_null()) TRY(CopyOutNodes(task, nodes, max_node, mask));
  return 0;
}

// Whose memory `pid` names; 0: one's own.
ErrnoOr<Task*> TargetOf(Task& task, int pid) {
  Task* target = pid == 0 ? &task : task.FindTask(pid);
  if (target == nullptr) return Errno(ESRCH);
  if (!MayInspect(task, *target)) return Errno(EPERM);
  return target;
}

// From and to the one node that there is: nothing stays behind.
ErrnoOr<uint64_t> MigratePages(Task& task, int pid, uint64_t max_node, UserPtr<const uint64_t> from, UserPtr<const uint64_t> to) {
  TRY(CopyInNodes(task, from, max_node));
  uint16_t wanted = TRY(CopyInNodes(task, to, max_node));
  Task* target = TRY(TargetOf(task, pid));
  if ((wanted & ~kNode0) != 0 && !task.Has(CAP_SYS_NICE)) return Errno(EPERM);
  if ((wanted & kNode0) == 0 || target->exiting() || !target->has_mm()) return Errno(EINVAL);
  return 0;
}

// Whether pages of an address space are there.
class Presence {
 public:
  explicit Presence(const MemoryManager& mm) : mm_(mm) {
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/pagemap", mm.attached() ? mm.space().host_pid() : 0);
    pagemap_.reset(open(path, O_RDONLY | O_CLOEXEC));
  }
  // 0: it is, on node 0; else -errno, as move_pages(2) tells it.
  int StatusOf(uint64_t address) const {
    const Vma* vma = mm_.vmas().Find(address);
    if (vma == nullptr) return -EFAULT;
    if (vma->image) return 0;
    uint64_t word = 0;
    if (pread(pagemap_.get(), &word, sizeof(word), static_cast<off_t>(address / kPageSize * sizeof(word))) != sizeof(word)) return -ENOENT;
    return word >> 63 != 0 ? 0 : -ENOENT;
  }

 private:
  const MemoryManager& mm_;
  UniqueFd pagemap_;
};

ErrnoOr<uint64_t> MovePages(Task& task, int pid, uint64_t count, UserPtr<const uint64_t> pages, UserPtr<const int> nodes, UserPtr<int> status,
                            int flags) {
  if ((flags & ~(MPOL_MF_MOVE | MPOL_MF_MOVE_ALL)) != 0) return Errno(EINVAL);
  if ((flags & MPOL_MF_MOVE_ALL) != 0 && !task.Has(CAP_SYS_NICE)) return Errno(EPERM);
  Task* target = TRY(TargetOf(task, pid));
  if (target->exiting() || !target->has_mm()) return Errno(EINVAL);
  BeginRound(task);
  uint64_t& done = task.syscall().scratch[0];
  Presence presence(target->mm());
  for (uint64_t end = done + std::min(count - std::min(count, done), kPagesOfRound); done < end; ++done) {
    uint64_t address = TRY(task.CopyIn(pages + done));
    if (!nodes.is_null() && TRY(task.CopyIn(nodes + done)) != 0) return Errno(ENODEV);
    TRY(task.CopyOut(status + done, presence.StatusOf(address)));
  }
  return done < count ? ErrnoOr<uint64_t>(GoOn(task)) : uint64_t{0};
}

}  // namespace

void RegisterMempolicyCalls(SyscallTable& table) {
  table.Set(SYS_set_mempolicy, Full<&SetMempolicy>());
  table.Set(SYS_get_mempolicy, Full<&GetMempolicy>());
  table.Set(SYS_mbind, Partial<&Mbind>("policies of shared memory are each mapping's own"));
  table.Set(450 /* set_mempolicy_home_node */, Full<&SetMempolicyHomeNode>());
  table.Set(SYS_migrate_pages, Full<&MigratePages>());
  table.Set(SYS_move_pages, Partial<&MovePages>("pages of zeros count as present"));
}

}  // namespace amber
