// Comparing what is cached of a shared tree with the host without asking the gofer.
//
// The sentry holds O_PATH descriptors of directories. newfstatat is the only thing that it can do with them: its list of host calls has no
// other that takes a path but openat, and Landlock lets that open nothing outside /proc (sentry/host/confine.h). A name that leads to the
// inode that is cached for it (device and number are those of a node that the gofer holds, so the number cannot have been used again) is
// current; its owner is not told, since the sentry's user namespace hides it, but nobody changes an owner without the ctime changing.
#include <fcntl.h>
#include <string.h>

#include "sentry/fs/gofer/gofer_fs.h"
#include "sentry/fs/gofer/later.h"

namespace amber {
namespace {

constexpr int64_t kSecond = 1'000'000'000;
// How long the owner of a file that the sandbox itself changes is believed although the ctime is another.
constexpr int64_t kOursNs = kSecond / 20;

bool SameTime(const timespec& a, const timespec& b) { return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec; }

}  // namespace

int64_t HostNow() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * kSecond + t.tv_nsec;
}

timespec FileClock() {
  timespec now;
  clock_gettime(CLOCK_REALTIME_COARSE, &now);
  return now;
}

bool GoferFileSystem::IsSettled(const timespec& ctime, uint64_t dev, const timespec& now) const {
  if (fine_times_ && dev == root_dev_ && ctime.tv_nsec != 0) return true;
  // Else the clock of file times moved every 1 to 10 ms, and some file systems keep whole seconds, or two.
  int64_t age = (now.tv_sec - ctime.tv_sec) * kSecond + now.tv_nsec - ctime.tv_nsec;
  return age > (ctime.tv_nsec == 0 ? 3 * kSecond : kSecond / 20);
}

void GoferInode::Settle() const {
  if (LaterChange::Waits(*this)) LaterChange::Flush();
}

bool GoferInode::Confirm(const struct stat& st) {
  if (stale_ || st.st_mode != attr_.mode) return false;
  int64_t now = HostNow();
  bool unchanged = settled_ && SameTime(st.st_ctim, owner_ctime_);
  // The sandbox changes it right now, which explains another ctime. A change of the owner by the host meanwhile is seen late, not never.
  bool ours = now - changed_at_ < kOursNs && now - owner_at_ < kOursNs;
  if (!unchanged && !ours) return false;
  TakeStat(st);
  fresh_at_ = now;
  return true;
}

void GoferInode::DidChange() {
  changed_at_ = HostNow();
  fresh_at_ = 0;
}

bool GoferInode::IsOf(const gofer::Attributes& a) const {
  return a.mode == attr_.mode && a.ctime.seconds == attr_.ctime.tv_sec && a.ctime.nanoseconds == static_cast<uint32_t>(attr_.ctime.tv_nsec);
}

bool GoferInode::NeedDirFd() {
  GoferFileSystem& g = gofer();
  if (dir_fd_.valid()) {
    g.with_dir_fd_.splice(g.with_dir_fd_.end(), g.with_dir_fd_, dir_position_);
    return true;
  }
  if (no_dir_fd_ || g.no_dir_fds_ || !NeedNode().ok()) return false;
  // A directory that is searched once is not worth a call of its own.
  if (!was_searched_) {
    was_searched_ = true;
    return false;
  }
  auto fd = client().OpenDirectory(node_);
  if (!fd.ok()) {
    (fd.Is(EACCES) ? g.no_dir_fds_ : no_dir_fd_) = true;
    return false;
  }
  KeepDirFd(std::move(*fd));
  return true;
}

void GoferInode::KeepDirFd(UniqueFd fd) {
  GoferFileSystem& g = gofer();
  dir_fd_ = std::move(fd);
  dir_position_ = g.with_dir_fd_.insert(g.with_dir_fd_.end(), this);
  if (g.with_dir_fd_.size() > GoferFileSystem::kMaxDirFds) {
    g.with_dir_fd_.front()->dir_fd_.reset();
    g.with_dir_fd_.pop_front();
  }
}

GoferInode::Look GoferInode::LookAt(std::string_view name, Inode* known, bool last, bool will_open, RefPtr<GoferInode>* listed) {
  // A directory on the way that had this name just now: who looks at many files in it asks the host once.
  if (!last && known != nullptr && static_cast<GoferInode*>(known)->WasJustNamed()) return Look::kSame;
  char text[NAME_MAX + 1];
  if (name.size() > NAME_MAX || !NeedDirFd()) return Look::kAsk;
  memcpy(text, name.data(), name.size());
  text[name.size()] = 0;
  struct stat st;
  constexpr int kFlags = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT;
  int result = fstatat(dir_fd_.get(), text, &st, kFlags);
  if (result == 0 && LaterChange::Waits(st.st_dev, st.st_ino)) {
    // The host's attributes are older than ours. Who wants all of them asks by Refresh().
    auto* inode = static_cast<GoferInode*>(known);
    if (inode != nullptr && LaterChange::Waits(*inode) && (!will_open || inode->has_fd())) return Look::kSame;
    LaterChange::Flush();
    result = fstatat(dir_fd_.get(), text, &st, kFlags);
  }
  if (result != 0) {
    if (errno == ENOENT) return Look::kMissing;
    // A directory that the sentry's user on the host may not search: the gofer may.
    no_dir_fd_ = true;
    dir_fd_.reset();
    gofer().with_dir_fd_.erase(dir_position_);
    return Look::kAsk;
  }
  if (known == nullptr) {
    bool opens = will_open && S_ISREG(st.st_mode);
    // One file of a directory that was listed says little; a second one, that more will be opened.
    if (opens && listed_ == nullptr && !std::exchange(was_opened_in_, true) && gofer().ahead_window_ == 0) return Look::kAsk;
    if (LookInListing(name, &st, listed) != Listed::kFound) return Look::kAsk;
    return !opens || (*listed)->has_fd() || OpenAhead(name, **listed) ? Look::kSame : Look::kAsk;
  }
  auto& inode = static_cast<GoferInode&>(*known);
  bool same = !inode.removed_ && !inode.detached_ && inode.key_ == std::pair<uint64_t, uint64_t>(st.st_dev, st.st_ino) &&
              inode.type() == (st.st_mode & S_IFMT);
  if (!same || (will_open && inode.IsRegular() && !inode.has_fd() && !OpenAhead(name, inode))) return Look::kAsk;
  if (!inode.Confirm(st)) {
    // Without a node the number may have been used again.
    if (inode.node_ == gofer::kNoNode) return Look::kAsk;
    auto attributes = client().GetAttr(inode.node_);
    if (!attributes.ok()) return Look::kAsk;
    inode.Take(*attributes);
  }
  inode.named_at_ = inode.fresh_at_;
  return Look::kSame;
}

bool GoferInode::WasJustNamed() const { return IsDir() && !removed_ && !detached_ && !stale_ && HostNow() - named_at_ < kFreshNs; }

bool GoferInode::BeginList() {
  if (gofer().options_.exclusive) return true;
  list_.reset();
  struct stat st;
  if (!NeedDirFd() || fstatat(dir_fd_.get(), "", &st, AT_EMPTY_PATH) != 0) return false;
  list_mtime_ = st.st_mtim;
  list_ctime_ = st.st_ctim;
  return gofer().IsSettled(st.st_ctim, key_.first, FileClock());
}

bool GoferInode::ListIsCurrent() {
  if (gofer().options_.exclusive) return true;
  struct stat st;
  return NeedDirFd() && fstatat(dir_fd_.get(), "", &st, AT_EMPTY_PATH) == 0 && SameTime(st.st_mtim, list_mtime_) && SameTime(st.st_ctim, list_ctime_);
}

}  // namespace amber
