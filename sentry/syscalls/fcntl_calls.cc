// fcntl(2), flock(2) and the ioctls that concern descriptors.
#include <asm/sockios.h>
#include <linux/capability.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <map>

#include "sentry/kernel/sigio.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/mm/vma.h"
#include "sentry/net/socket.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/mount_checks.h"
#include "sentry/syscalls/table.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/file_lock.h"
#include "sentry/vfs/lease.h"
#include "sentry/vfs/mount.h"
#include "sentry/vfs/path.h"
#include "sentry/vfs/pseudo.h"
#include "sentry/vfs/restrict.h"
#include "sentry/vfs/vfs_file.h"

namespace amber {
namespace {

constexpr int kSettableFlags = O_APPEND | O_NONBLOCK | O_ASYNC | O_DIRECT | O_NOATIME;

// FMODE_CAN_ODIRECT: regular files whose contents are kept somewhere, block devices, and pipes, where it means something else.
bool TakesDirect(Task& task, File& file) {
  struct stat status;
  if (!file.Stat(task, &status).ok()) return false;
  if (S_ISFIFO(status.st_mode)) return true;
  if (file.path() == nullptr) return false;
  return S_ISBLK(status.st_mode) || (S_ISREG(status.st_mode) && !IsPseudo(file.path()->mount->fs()));
}

ErrnoOr<uint64_t> SetStatusFlags(Task& task, File& file, int fd, int flags) {
  // setfl(): what may only grow is written at its end.
  bool stops_appending = ((flags ^ file.flags()) & O_APPEND) != 0;
  if (stops_appending && file.path() != nullptr && IsAppendOnly(*file.path()->inode())) return Errno(EPERM);
  if ((flags & O_NOATIME) != 0 && (file.flags() & O_NOATIME) == 0 && file.path() != nullptr) {
    TRY(CheckOwner(task.creds(), *file.path()->inode()));
  }
  if ((flags & O_DIRECT) != 0 && !TakesDirect(task, file)) return Errno(EINVAL);
  int next = (file.flags() & ~kSettableFlags) | (flags & kSettableFlags);
  // What tells nobody by signals does not keep the flag either (fasync_helper() sets it).
  if (!SigioOwner::Tells(file)) next &= ~O_ASYNC;
  TRY(file.OnSetFlags(task, next));
  file.set_flags(next);
  if ((next & O_ASYNC) != 0) {
    SigioOwner::Of(file, true)->Arm(file, fd);
  } else if (SigioOwner* owner = SigioOwner::Of(file, false)) {
    owner->Disarm();
  }
  return uint64_t{0};
}

// The range and type of a struct flock, as fs/locks.c reads it.
ErrnoOr<FileLock> ToLock(Task& task, File& file, const struct flock& l, bool ofd) {
  int64_t start = l.l_start;
  if (l.l_whence == SEEK_CUR) {
    if (__builtin_add_overflow(start, static_cast<int64_t>(file.position()), &start)) return Errno(EOVERFLOW);
  } else if (l.l_whence == SEEK_END) {
    struct stat st;
    TRY(file.Stat(task, &st));
    if (__builtin_add_overflow(start, st.st_size, &start)) return Errno(EOVERFLOW);
  } else if (l.l_whence != SEEK_SET) {
    return Errno(EINVAL);
  }
  if (start < 0) return Errno(EINVAL);
  FileLock lock{.kind = ofd ? LockKind::kOfd : LockKind::kPosix, .exclusive = l.l_type == F_WRLCK};
  if (l.l_len >= 0) {
    lock.start = static_cast<uint64_t>(start);
    int64_t end;
    if (l.l_len > 0) {
      if (__builtin_add_overflow(start, l.l_len - 1, &end)) return Errno(EOVERFLOW);
      lock.end = static_cast<uint64_t>(end);
    }
  } else {
    if (start + l.l_len < 0) return Errno(EINVAL);
    lock.start = static_cast<uint64_t>(start + l.l_len);
    lock.end = static_cast<uint64_t>(start - 1);
  }
  lock.owner = ofd ? static_cast<const state::Saveable*>(&file) : &task.files();
  lock.pid = ofd ? -1 : task.pid();
  return lock;
}

ErrnoOr<uint64_t> GetLock(Task& task, File& file, UserPtr<struct flock> p, bool ofd) {
  struct flock l = TRY(task.CopyIn(p));
  // fcntl_getlk(): who asks by its open file may ask about no lock at all; types are looked at last.
  bool locks_something = l.l_type == F_RDLCK || l.l_type == F_WRLCK;
  if (!ofd && !locks_something) return Errno(EINVAL);
  if (ofd && l.l_pid != 0) return Errno(EINVAL);
  FileLock wanted = TRY(ToLock(task, file, l, ofd));
  if (!locks_something) return l.l_type == F_UNLCK ? uint64_t{0} : ErrnoOr<uint64_t>(Errno(EINVAL));
  FileLocks* locks = LocksOf(file, false);
  const FileLock* held = locks != nullptr ? locks->Conflict(wanted) : nullptr;
  if (held == nullptr) {
    l.l_type = F_UNLCK;
  } else {
    l.l_type = held->exclusive ? F_WRLCK : F_RDLCK;
    l.l_whence = SEEK_SET;
    l.l_start = static_cast<off_t>(held->start);
    l.l_len = held->end == UINT64_MAX ? 0 : static_cast<off_t>(held->end - held->start + 1);
    l.l_pid = held->pid;
  }
  TRY(task.CopyOut(p, l));
  return uint64_t{0};
}

// What tasks in F_SETLKW wait for, by the owner of their POSIX locks. An entry may be stale (a signal ended the wait): it is
// checked when it is used. Guarded by the kernel lock.
struct LockWait {
  int tid;
  FileLock wanted;
};
std::map<const state::Saveable*, LockWait>& LockWaits() {
  static auto* waits = new std::map<const state::Saveable*, LockWait>();
  return *waits;
}

// The lock that keeps the waiter from going on; null if it does not wait (any more).
const FileLock* WaitsFor(Task& task, const state::Saveable* owner, const LockWait& wait) {
  Task* t = task.FindTask(wait.tid);
  if (t == nullptr || t->exiting() || &t->files() != owner) return nullptr;
  if (t->syscall().number != SYS_fcntl || static_cast<int>(t->syscall().args[1]) != F_SETLKW) return nullptr;
  auto file = t->files().Get(static_cast<int>(t->syscall().args[0]));
  FileLocks* locks = file.ok() ? LocksOf(**file, false) : nullptr;
  return locks != nullptr ? locks->Conflict(wait.wanted) : nullptr;
}

// fs/locks.c, posix_locks_deadlock(): whoever holds what we want waits, over at most ten others, for what we hold.
bool WouldDeadlock(Task& task, const FileLock& wanted, const FileLock* held) {
  for (int i = 0; i < 10 && held != nullptr && held->kind == LockKind::kPosix; ++i) {
    if (held->owner == wanted.owner) return true;
    auto it = LockWaits().find(held->owner);
    if (it == LockWaits().end()) return false;
    held = WaitsFor(task, it->first, it->second);
    if (held == nullptr) LockWaits().erase(it);
  }
  return false;
}

ErrnoOr<uint64_t> SetLock(Task& task, File& file, UserPtr<const struct flock> p, bool ofd, bool wait) {
  struct flock l = TRY(task.CopyIn(p));
  if (ofd && l.l_pid != 0) return Errno(EINVAL);
  FileLock lock = TRY(ToLock(task, file, l, ofd));
  FileLocks* locks = LocksOf(file, l.l_type != F_UNLCK);
  if (locks == nullptr) return uint64_t{0};
  switch (l.l_type) {
    case F_UNLCK: locks->Release(lock); return uint64_t{0};
    case F_RDLCK:
      if (!file.readable()) return Errno(EBADF);
      break;
    case F_WRLCK:
      if (!file.writable()) return Errno(EBADF);
      break;
    default: return Errno(EINVAL);
  }
  LockWaits().erase(lock.owner);
  auto r = locks->Take(lock);
  if (r.ok()) return uint64_t{0};
  if (!r.Is(EAGAIN) || !wait) return r.error();
  if (!ofd) {
    if (WouldDeadlock(task, lock, locks->Conflict(lock))) return Errno(EDEADLK);
    LockWaits().insert_or_assign(lock.owner, LockWait{task.tid(), lock});
  }
  return task.Block(locks->queue(), POLLIN);
}

// struct f_owner_ex.
struct OwnerEx {
  int type, pid;
};
constexpr int kOwnerUids = 17;  // F_GETOWNER_UIDS

// F_SETOWN and its like: who gets SIGIO. ESRCH if there is no such task or group.
ErrnoOr<uint64_t> SetOwner(Task& task, File& file, int type, int id) {
  if (type < F_OWNER_TID || type > F_OWNER_PGRP) return Errno(EINVAL);
  PidNamespace& pids = task.group().pids();
  bool found = id == 0 || (type == F_OWNER_PGRP ? pids.FindProcessGroup(id) != nullptr : pids.FindTask(id) != nullptr);
  if (!found) return Errno(ESRCH);
  SigioOwner::Of(file, true)->SetOwner(task, static_cast<SigioOwner::Kind>(type), id);
  return uint64_t{0};
}

ErrnoOr<uint64_t> OwnerCommand(Task& task, File& file, int command, uint64_t argument) {
  SigioOwner* owner = SigioOwner::Of(file, false);
  switch (command) {
    case F_SETOWN: {
      int who = static_cast<int>(argument);
      if (who == INT32_MIN) return Errno(EINVAL);
      return SetOwner(task, file, who < 0 ? F_OWNER_PGRP : F_OWNER_PID, who < 0 ? -who : who);
    }
    case F_SETOWN_EX: {
      OwnerEx ex = TRY(task.CopyIn(UserPtr<OwnerEx>(argument)));
      return SetOwner(task, file, ex.type, ex.pid);
    }
    case F_GETOWN: {
      if (owner == nullptr) return uint64_t{0};
      int id = owner->owner_kind() == SigioOwner::Kind::kGroup ? -owner->id() : owner->id();
      return static_cast<uint64_t>(static_cast<int64_t>(id));
    }
    case F_GETOWN_EX: {
      OwnerEx ex{F_OWNER_TID, 0};
      if (owner != nullptr) ex = {static_cast<int>(owner->owner_kind()), owner->id()};
      TRY(task.CopyOut(UserPtr<OwnerEx>(argument), ex));
      return uint64_t{0};
    }
    case kOwnerUids: {
      uint32_t ids[2] = {owner != nullptr ? owner->uid() : 0, owner != nullptr ? owner->euid() : 0};
      TRY(task.CopyOutBytes(argument, ids, sizeof(ids)));
      return uint64_t{0};
    }
    case F_SETSIG:
      if (argument > kNumSignals) return Errno(EINVAL);
      SigioOwner::Of(file, true)->set_signo(static_cast<int>(argument));
      return uint64_t{0};
    default:  // F_GETSIG
      return static_cast<uint64_t>(owner != nullptr ? owner->signo() : 0);
  }
}

// F_NOTIFY. fcntl_dirnotify().
ErrnoOr<uint64_t> NotifyOfDirectory(Task& task, File& file, int fd, uint32_t argument) {
  bool ends = (argument & ~uint32_t{DN_MULTISHOT}) == 0;
  if (ends && SigioOwner::Of(file, false) == nullptr) return uint64_t{0};
  bool is_dir = file.path() != nullptr && file.path()->inode()->IsDir();
  if (!is_dir) return ends ? ErrnoOr<uint64_t>(uint64_t{0}) : Errno(ENOTDIR);
  SigioOwner& owner = *SigioOwner::Of(file, true);
  if (!ends && owner.id() == 0) owner.SetOwner(task, SigioOwner::Kind::kProcess, task.pid());
  TRY(owner.WatchDirectory(*file.path(), fd, argument));
  return uint64_t{0};
}

// F_GET_RW_HINT and F_SET_RW_HINT (fcntl_set_rw_hint()).
ErrnoOr<uint64_t> WriteHint(Task& task, File& file, int command, UserPtr<uint64_t> p) {
  if (command == F_GET_RW_HINT) {
    FileLocks* kept = LocksOf(file, false);
    TRY(task.CopyOut(p, uint64_t{kept != nullptr ? kept->write_hint : uint8_t{0}}));
    return uint64_t{0};
  }
  struct stat status;
  TRY(file.Stat(task, &status));
  if (file.path() != nullptr) {
    TRY(CheckOwner(task.creds(), *file.path()->inode()));
  } else if (status.st_uid != task.creds().fsuid && !task.Has(CAP_FOWNER)) {
    return Errno(EPERM);
  }
  uint64_t hint = TRY(task.CopyIn(p));
  if (hint > kLastWriteHint) return Errno(EINVAL);
  if (FileLocks* kept = LocksOf(file, hint != 0)) kept->write_hint = static_cast<uint8_t>(hint);
  return uint64_t{0};
}

constexpr int kFDupfdQuery = 1024 + 3;    // linux/fcntl.h, 6.10: whether two descriptors are one open file
constexpr int kFCreatedQuery = 1024 + 4;  // 6.12: whether it was made when it was opened

ErrnoOr<uint64_t> Fcntl(Task& task, int fd, int command, uint64_t argument) {
  RefPtr<File> file = TRY(task.files().GetAny(fd));
  bool path_only = (file->flags() & O_PATH) != 0;
  switch (command) {
    case F_DUPFD:
    case F_DUPFD_CLOEXEC:
      if (argument >= task.limit(RLIMIT_NOFILE) || argument >= FdTable::kMaxFds) return Errno(EINVAL);
      return uint64_t(TRY(task.files().Allocate(std::move(file), command == F_DUPFD_CLOEXEC, task.limit(RLIMIT_NOFILE), static_cast<int>(argument))));
    case F_GETFD: return uint64_t{TRY(task.files().close_on_exec(fd)) ? 1u : 0u};
    case F_SETFD: TRY(task.files().set_close_on_exec(fd, (argument & FD_CLOEXEC) != 0)); return uint64_t{0};
    case F_GETFL: return static_cast<uint64_t>(file->flags());
    case kFDupfdQuery: return uint64_t{TRY(task.files().GetAny(static_cast<int>(argument))).get() == file.get() ? 1u : 0u};
    case kFCreatedQuery: {
      auto* placed = dynamic_cast<VfsFile*>(file.get());
      return uint64_t{placed != nullptr && placed->created() ? 1u : 0u};
    }
    default: break;
  }
  if (path_only) return Errno(EBADF);
  switch (command) {
    case F_SETFL: return SetStatusFlags(task, *file, fd, static_cast<int>(argument));
    case F_GETLK:
    case F_OFD_GETLK: return GetLock(task, *file, UserPtr<struct flock>(argument), command == F_OFD_GETLK);
    case F_SETLK:
    case F_SETLKW:
    case F_OFD_SETLK:
    case F_OFD_SETLKW:
      return SetLock(task, *file, UserPtr<const struct flock>(argument), command == F_OFD_SETLK || command == F_OFD_SETLKW,
                     command == F_SETLKW || command == F_OFD_SETLKW);
    case F_SETOWN:
    case F_GETOWN:
    case F_SETOWN_EX:
    case F_GETOWN_EX:
    case kOwnerUids:
    case F_SETSIG:
    case F_GETSIG: return OwnerCommand(task, *file, command, argument);
    case F_NOTIFY: return NotifyOfDirectory(task, *file, fd, static_cast<uint32_t>(argument));
    case F_GETLEASE: return static_cast<uint64_t>(GetLease(task, *file));
    case F_SETLEASE: TRY(SetLease(task, *file, fd, static_cast<int>(argument))); return uint64_t{0};
    case F_GET_RW_HINT:
    case F_SET_RW_HINT: return WriteHint(task, *file, command, UserPtr<uint64_t>(argument));
    case F_GETPIPE_SZ:
    case F_SETPIPE_SZ: {
      auto answer = file->Fcntl(task, command, argument);
      // pipe_fcntl(): what is no pipe has no such descriptor. A pipe's own EINVAL is for a size.
      struct stat status;
      if (answer.Is(EINVAL) && (!file->Stat(task, &status).ok() || !S_ISFIFO(status.st_mode))) return Errno(EBADF);
      return answer;
    }
    case F_ADD_SEALS:
      if (!file->writable()) return Errno(EPERM);
      return file->Fcntl(task, command, argument);
    default: return file->Fcntl(task, command, argument);
  }
}

ErrnoOr<uint64_t> Flock(Task& task, int fd, int operation) {
  bool wait = (operation & LOCK_NB) == 0;
  operation &= ~LOCK_NB;
  // Mandatory locks are no more, and asking for one is no mistake.
  if ((operation & LOCK_MAND) != 0) return uint64_t{0};
  if (operation != LOCK_SH && operation != LOCK_EX && operation != LOCK_UN) return Errno(EINVAL);
  RefPtr<File> file = TRY(task.files().Get(fd));
  FileLocks* locks = LocksOf(*file, true);
  FileLock lock{.kind = LockKind::kFlock, .exclusive = operation == LOCK_EX, .owner = file.get(), .pid = task.pid()};
  if (operation == LOCK_UN) {
    locks->Release(lock);
    return uint64_t{0};
  }
  auto r = locks->Take(lock);
  if (r.ok()) return uint64_t{0};
  // flock(2): converting a lock gives up the old one first.
  locks->Release(lock);
  if (wait) return task.Block(locks->queue(), POLLIN);
  return Errno(EWOULDBLOCK);
}

constexpr uint32_t kGetBlockSize = 2;  // FIGETBSZ (linux/fs.h)

// FIGETBSZ and FIOQSIZE, which do_vfs_ioctl() answers for every file system.
ErrnoOr<uint64_t> TellSizes(Task& task, File& file, uint32_t command, uint64_t argument) {
  struct stat st;
  TRY(file.Stat(task, &st));
  if (command == kGetBlockSize) {
    TRY(task.CopyOut(UserPtr<int>(argument), static_cast<int>(st.st_blksize)));
    return uint64_t{0};
  }
  if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode)) return Errno(ENOTTY);
  TRY(task.CopyOut(UserPtr<int64_t>(argument), int64_t{st.st_blocks} * 512));
  return uint64_t{0};
}

// generic_file_rw_checks(): what bytes can be moved to by the file systems themselves.
ErrnoOr<void> CheckMovable(Task& task, File& in, File& out) {
  struct stat from, to;
  TRY(in.Stat(task, &from));
  TRY(out.Stat(task, &to));
  if (S_ISDIR(from.st_mode) || S_ISDIR(to.st_mode)) return Errno(EISDIR);
  if (!S_ISREG(from.st_mode) || !S_ISREG(to.st_mode)) return Errno(EINVAL);
  if (!in.readable() || !out.writable() || (out.flags() & O_APPEND) != 0) return Errno(EBADF);
  return Ok();
}

// FICLONE, FICLONERANGE: ioctl_file_clone(). No file system here shares the blocks of two files.
ErrnoOr<uint64_t> CloneRange(Task& task, File& out, const file_clone_range& range) {
  RefPtr<File> in = TRY(task.files().Get(static_cast<int>(range.src_fd)));
  struct stat from, to;
  TRY(in->Stat(task, &from));
  TRY(out.Stat(task, &to));
  if (from.st_dev != to.st_dev) return Errno(EXDEV);
  TRY(CheckMovable(task, *in, out));
  return Errno(EOPNOTSUPP);
}

// FIDEDUPERANGE: ioctl_file_dedupe_range().
ErrnoOr<uint64_t> Deduplicate(Task& task, File& file, const file_dedupe_range& range) {
  if (sizeof(range) + range.dest_count * sizeof(file_dedupe_range_info) > kPageSize) return Errno(ENOMEM);
  if (!file.readable() || range.reserved1 != 0 || range.reserved2 != 0) return Errno(EINVAL);
  struct stat status;
  TRY(file.Stat(task, &status));
  if (S_ISDIR(status.st_mode)) return Errno(EISDIR);
  return Errno(S_ISREG(status.st_mode) ? EOPNOTSUPP : EINVAL);
}

// What file_ioctl() answers for regular files: where a block lies (nowhere), how much there is behind the position.
ErrnoOr<uint64_t> OfRegular(Task& task, File& file, uint32_t command, uint64_t argument) {
  struct stat status;
  TRY(file.Stat(task, &status));
  if (!S_ISREG(status.st_mode)) return Errno(ENOTTY);
  if (command == FIONREAD) {
    TRY(task.CopyOut(UserPtr<int>(argument), static_cast<int>(status.st_size - static_cast<off_t>(file.position()))));
    return uint64_t{0};
  }
  if (!task.Has(CAP_SYS_RAWIO)) return Errno(EPERM);
  TRY(task.CopyIn(UserPtr<const int>(argument)));
  return Errno(EINVAL);
}

ErrnoOr<uint64_t> Ioctl(Task& task, int fd, uint32_t command, uint64_t argument) {
  RefPtr<File> file = TRY(task.files().Get(fd));
  switch (command) {
    case FIOCLEX:
    case FIONCLEX: TRY(task.files().set_close_on_exec(fd, command == FIOCLEX)); return uint64_t{0};
    case FIONBIO:
    case FIOASYNC: {
      int on = TRY(task.CopyIn(UserPtr<const int>(argument)));
      int flag = command == FIONBIO ? O_NONBLOCK : O_ASYNC;
      bool changes = ((file->flags() & O_ASYNC) != 0) != (on != 0);
      if (command == FIOASYNC && changes && !SigioOwner::Tells(*file)) return Errno(ENOTTY);
      return SetStatusFlags(task, *file, fd, on != 0 ? file->flags() | flag : file->flags() & ~flag);
    }
    case FIOSETOWN:
    case SIOCSPGRP:
      if (dynamic_cast<Socket*>(file.get()) == nullptr) break;
      return OwnerCommand(task, *file, F_SETOWN, static_cast<uint64_t>(static_cast<int64_t>(TRY(task.CopyIn(UserPtr<const int>(argument))))));
    case FIOGETOWN:
    case SIOCGPGRP: {
      if (dynamic_cast<Socket*>(file.get()) == nullptr) break;
      TRY(task.CopyOut(UserPtr<int>(argument), static_cast<int>(TRY(OwnerCommand(task, *file, F_GETOWN, 0)))));
      return uint64_t{0};
    }
    case kGetBlockSize:
    case FIOQSIZE: return TellSizes(task, *file, command, argument);
    case FICLONE: return CloneRange(task, *file, {.src_fd = static_cast<int>(argument)});
    case FICLONERANGE: return CloneRange(task, *file, TRY(task.CopyIn(UserPtr<const file_clone_range>(argument))));
    case FIDEDUPERANGE: return Deduplicate(task, *file, TRY(task.CopyIn(UserPtr<const file_dedupe_range>(argument))));
    case FS_IOC_GETFLAGS:
    case FS_IOC_SETFLAGS:
    case FS_IOC_FSGETXATTR:
    case FS_IOC_FSSETXATTR:
      if (auto r = FileFlagsIoctl(task, *file, command, argument); !r.Is(ENOTTY)) return r;
      break;
    case FS_IOC_FIEMAP: return Errno(EOPNOTSUPP);  // no file system here tells where its bytes lie
    case FIBMAP:
    case FIONREAD:
      if (auto r = OfRegular(task, *file, command, argument); !r.Is(ENOTTY)) return r;
      break;
    default: break;
  }
  // Of landlock's right to ioctls of devices those that the kernel itself answers are no part (is_masked_device_ioctl()).
  if (auto* placed = dynamic_cast<VfsFile*>(file.get()); placed != nullptr && placed->lacks(file_right::kIoctlDev)) {
    uint32_t type = placed->inode().type();
    if (S_ISCHR(type) || S_ISBLK(type)) return Errno(EACCES);
  }
  return file->Ioctl(task, command, argument);
}

}  // namespace

void RegisterFcntlCalls(SyscallTable& table) {
  table.Set(SYS_fcntl, Full<&Fcntl>());
  table.Set(SYS_flock, Full<&Flock>());
  table.Set(SYS_ioctl, Full<&Ioctl>());
}

}  // namespace amber
