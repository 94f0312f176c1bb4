#include "sentry/vfs/lease.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>

#include <algorithm>
#include <vector>

#include "sentry/kernel/kernel.h"
#include "sentry/kernel/sigio.h"
#include "sentry/kernel/task.h"
#include "sentry/vfs/file.h"
#include "sentry/vfs/file_lock.h"
#include "sentry/vfs/inode.h"
#include "sentry/vfs/mount.h"

namespace amber {
namespace {

// time_out_leases() of fs/locks.c
void TimeOut(FileLocks& locks, int64_t now) {
  bool changed = false;
  auto late = [&](const Lease& l) { return l.breaking != Lease::kNot && l.deadline <= now; };
  for (Lease& l : locks.leases()) {
    if (!late(l) || l.breaking != Lease::kToRead) continue;
    l.write = false;
    l.breaking = Lease::kNot;
    changed = true;
  }
  changed |= std::erase_if(locks.leases(), late) > 0;
  if (changed) locks.queue().Notify(POLLIN);
}

Lease* Find(FileLocks& locks, const File& file) {
  auto it = std::ranges::find(locks.leases(), &file, &Lease::owner);
  return it == locks.leases().end() ? nullptr : &*it;
}

// check_conflicting_open()
bool IsOpenOtherwise(const File& file, const Inode& inode, int type) {
  if (type == F_RDLCK) return inode.writers > 0;
  return inode.open_files != 1 || inode.writers != (file.writable() ? 1 : 0) || inode.deny_write > 0;
}

ErrnoOr<void> Add(Task& task, File& file, Inode& inode, int fd, bool write) {
  FileLocks& locks = inode.locks();
  TimeOut(locks, task.kernel().clocks().Monotonic());
  if (IsOpenOtherwise(file, inode, write ? F_WRLCK : F_RDLCK)) return Errno(EAGAIN);
  Lease* own = Find(locks, file);
  for (const Lease& l : locks.leases()) {
    if (&l != own && (write || l.breaking == Lease::kToNone)) return Errno(EAGAIN);
  }
  if (own != nullptr) {
    own->write = write;
    // lease_clear_pending(): one that has to go goes all the same; to be no more than shared is enough for the others.
    if (!write && own->breaking != Lease::kToNone) own->breaking = Lease::kNot;
    locks.queue().Notify(POLLIN);
    return Ok();
  }
  locks.leases().push_back({&file, write, Lease::kNot, 0});
  // lease_setup(): the process is told, unless somebody else was named.
  SigioOwner& owner = *SigioOwner::Of(file, true);
  if (owner.id() == 0) owner.SetOwner(task, SigioOwner::Kind::kProcess, task.pid());
  owner.Arm(file, fd);
  return Ok();
}

}  // namespace

ErrnoOr<void> SetLease(Task& task, File& file, int fd, int type) {
  if (type != F_RDLCK && type != F_WRLCK && type != F_UNLCK) return Errno(EINVAL);
  if (file.path() == nullptr) return Errno(EINVAL);
  Inode& inode = *file.path()->inode();
  // vfs_setlease()
  if (inode.attr().uid != task.creds().fsuid && !task.Has(CAP_LEASE)) return Errno(EACCES);
  if (!inode.IsRegular()) return Errno(EINVAL);
  if (type != F_UNLCK) return Add(task, file, inode, fd, type == F_WRLCK);
  FileLocks* locks = inode.locks_if_any();
  if (locks == nullptr || std::erase_if(locks->leases(), [&](const Lease& l) { return l.owner == &file; }) == 0) return Errno(EAGAIN);
  locks->queue().Notify(POLLIN);
  // lease_modify(): nobody is told any more.
  if (SigioOwner* owner = SigioOwner::Of(file, false)) {
    owner->SetOwner(task, SigioOwner::Kind::kProcess, 0);
    owner->set_signo(0);
  }
  return Ok();
}

int GetLease(Task& task, File& file) {
  FileLocks* locks = file.path() != nullptr ? file.path()->inode()->locks_if_any() : nullptr;
  if (locks == nullptr) return F_UNLCK;
  TimeOut(*locks, task.kernel().clocks().Monotonic());
  const Lease* own = Find(*locks, file);
  // What it will be once it is broken (target_leasetype()).
  if (own == nullptr || own->breaking == Lease::kToNone) return F_UNLCK;
  return own->write && own->breaking == Lease::kNot ? F_WRLCK : F_RDLCK;
}

ErrnoOr<void> BreakLeases(const VfsContext& ctx, Inode& inode, int flags) {
  FileLocks* locks = inode.locks_if_any();
  if (locks == nullptr || locks->leases().empty() || ctx.task == nullptr) return Ok();
  int64_t now = ctx.task->kernel().clocks().Monotonic();
  TimeOut(*locks, now);
  bool write = (flags & O_ACCMODE) != O_RDONLY;
  int64_t until = 0;
  for (Lease& l : locks->leases()) {
    if (!write && !l.write) continue;
    // __break_lease()
    auto wanted = write ? Lease::kToNone : Lease::kToRead;
    if (l.breaking < wanted) {
      l.breaking = wanted;
      l.deadline = now + int64_t{kLeaseBreakTime} * kNsPerSecond;
      if (SigioOwner* owner = SigioOwner::Of(*l.owner, false)) owner->OnEvent(POLLMSG);
    }
    until = std::max(until, l.deadline);
  }
  if (until == 0) return Ok();
  if ((flags & O_NONBLOCK) != 0) return Errno(EWOULDBLOCK);
  // Not that of another file's lease, which the path led to before.
  ctx.task->syscall().deadline = kNever;
  return ctx.task->Block(locks->queue(), POLLIN, until);
}

}  // namespace amber
