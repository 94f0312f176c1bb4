#include "sentry/vfs/file_lock.h"

#include <fcntl.h>
#include <poll.h>

#include <algorithm>

#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/file.h"
#include "sentry/vfs/lock_keeper.h"
#include "sentry/vfs/vfs.pb.h"

namespace amber {
namespace {

bool Overlap(const FileLock& a, const FileLock& b) { return a.start <= b.end && b.start <= a.end; }
bool SameSpace(const FileLock& a, const FileLock& b) { return (a.kind == LockKind::kFlock) == (b.kind == LockKind::kFlock); }
bool SameOwner(const FileLock& a, const FileLock& b) { return a.owner == b.owner && a.kind == b.kind; }

// Beside the values of LockKind in an image: a lease; `start` is how it is being broken, `end` until when.
constexpr uint32_t kLease = 4;

}  // namespace

const FileLock* FileLocks::Conflict(const FileLock& lock) const {
  for (const FileLock& held : locks_) {
    if (SameSpace(held, lock) && !SameOwner(held, lock) && Overlap(held, lock) && (held.exclusive || lock.exclusive)) {
      return &held;
    }
  }
  return nullptr;
}

bool FileLocks::Cut(const FileLock& range) {
  bool changed = false;
  std::vector<FileLock> pieces;
  std::erase_if(locks_, [&](const FileLock& held) {
    if (!SameOwner(held, range) || !Overlap(held, range)) return false;
    changed = true;
    if (held.start < range.start) {
      pieces.push_back(held);
      pieces.back().end = range.start - 1;
    }
    if (held.end > range.end) {
      pieces.push_back(held);
      pieces.back().start = range.end + 1;
    }
    return true;
  });
  locks_.insert(locks_.end(), pieces.begin(), pieces.end());
  return changed;
}

ErrnoOr<void> FileLocks::Take(const FileLock& lock) {
  if (Conflict(lock) != nullptr) return Errno(EAGAIN);
  bool changed = Cut(lock);
  FileLock merged = lock;
  // Neighbours of the same owner and type become one lock, as F_GETLK shows them.
  std::erase_if(locks_, [&](const FileLock& held) {
    if (!SameOwner(held, lock) || held.exclusive != lock.exclusive) return false;
    bool touches = (held.end != UINT64_MAX && held.end + 1 == merged.start) || (merged.end != UINT64_MAX && merged.end + 1 == held.start);
    if (!touches) return false;
    merged.start = std::min(merged.start, held.start);
    merged.end = std::max(merged.end, held.end);
    return true;
  });
  locks_.push_back(merged);
  std::sort(locks_.begin(), locks_.end(), [](const FileLock& a, const FileLock& b) { return a.start < b.start; });
  // A write lock that became a read lock lets others in.
  if (changed && !lock.exclusive) queue_.Notify(POLLIN);
  return Ok();
}

void FileLocks::Release(const FileLock& lock) {
  if (Cut(lock)) queue_.Notify(POLLIN);
}

void FileLocks::ReleaseAll(const state::Saveable* owner) {
  size_t gone = std::erase_if(locks_, [&](const FileLock& held) { return held.owner == owner; });
  gone += std::erase_if(leases_, [&](const Lease& held) { return static_cast<const state::Saveable*>(held.owner) == owner; });
  if (gone > 0) queue_.Notify(POLLIN);
}

void FileLocks::Save(state::Saver& saver, vfs_state::Inode* out) const {
  out->set_write_hint(write_hint);
  for (const FileLock& l : locks_) {
    auto* m = out->add_locks();
    m->set_kind(static_cast<uint32_t>(l.kind));
    m->set_type(l.exclusive ? F_WRLCK : F_RDLCK);
    m->set_start(l.start);
    m->set_end(l.end);
    m->set_owner(saver.Ref(l.owner));
    m->set_pid(l.pid);
  }
  for (const Lease& l : leases_) {
    if (!l.confirmed) continue;
    auto* m = out->add_locks();
    m->set_kind(kLease);
    m->set_type(l.write ? F_WRLCK : F_RDLCK);
    m->set_start(l.breaking);
    m->set_end(static_cast<uint64_t>(l.deadline));
    m->set_owner(saver.Ref(static_cast<const state::Saveable*>(l.owner)));
  }
}

void FileLocks::Confirm(const state::Saveable& owner) {
  for (Lease& l : leases_) {
    if (static_cast<const state::Saveable*>(l.owner) == &owner) l.confirmed = true;
  }
  size_t before = locks_.size();
  std::erase_if(loaded_, [&](const FileLock& l) {
    if (l.owner == &owner) locks_.push_back(l);
    return l.owner == &owner;
  });
  if (locks_.size() != before) std::ranges::sort(locks_, {}, &FileLock::start);
}

std::string SaveLocks(const FileLocks& locks, state::Saver& saver) {
  if (locks.empty() && locks.write_hint == 0) return "";
  vfs_state::Inode m;
  locks.Save(saver, &m);
  return m.SerializeAsString();
}

bool LoadLocks(state::Loader& loader, const std::string& bytes, FileLocks* locks) {
  vfs_state::Inode m;
  return m.ParseFromString(bytes) ? locks->Load(loader, m) : loader.Fail("the locks of a file are malformed");
}

bool FileLocks::Load(state::Loader& loader, const vfs_state::Inode& m) {
  if (m.write_hint() > kLastWriteHint) return loader.Fail("a file's hint makes no sense");
  write_hint = static_cast<uint8_t>(m.write_hint());
  for (const auto& l : m.locks()) {
    if (l.kind() == kLease) {
      File* owner = loader.Get<File>(l.owner());
      if (owner == nullptr || l.start() > Lease::kToNone) return loader.Fail("a lease makes no sense");
      leases_.push_back({owner, l.type() == F_WRLCK, static_cast<Lease::Breaking>(l.start()), static_cast<int64_t>(l.end()), false});
      continue;
    }
    if (l.kind() < 1 || l.kind() > 3 || l.end() < l.start()) return loader.Fail("a file lock makes no sense");
    auto kind = static_cast<LockKind>(l.kind());
    const state::Saveable* owner = kind == LockKind::kPosix ? static_cast<const state::Saveable*>(loader.Get<FdTable>(l.owner()))
                                                            : static_cast<const state::Saveable*>(loader.Get<File>(l.owner()));
    if (owner == nullptr) return false;
    loaded_.push_back({kind, l.type() == F_WRLCK, l.start(), l.end(), owner, l.pid()});
  }
  return true;
}

}  // namespace amber
