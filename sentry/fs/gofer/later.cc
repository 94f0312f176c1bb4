// Changes of attributes that are answered at once and made with the next call of the gofer: who unpacks an archive makes a file, gives it owner,
// mode and times by three calls, and makes the next one, which takes them along.
//
// Only what cannot well fail is answered so: the file is one that the sandbox made a moment ago, its owner stays, and the file system is an
// ordinary one that has taken changes of the same kinds. What waits is made before anybody in the sandbox can see that it was not (Settle()), by the timer
// within a millisecond, before the outside hears of the end of a process, and before a checkpoint.
#include "sentry/fs/gofer/later.h"

#include <utility>

#include "gofer/protocol.h"
#include "sentry/base/sandbox_log.h"
#include "sentry/kernel/kernel.h"

namespace amber {
namespace {

// How long a file that the sandbox made is new.
constexpr int64_t kNew = 50'000'000;
constexpr int64_t kLatest = 1'000'000;

uint32_t KindsOf(const gofer::AttributeChange& c) {
  using namespace gofer;
  return (c.uid || c.gid ? kSetUid | kSetGid : 0) | (c.mode ? kSetMode : 0) | (c.atime || c.mtime ? kSetAtime | kSetMtime : 0);
}

bool IsNow(const std::optional<gofer::AttributeChange::TimeChange>& time) { return time && time->now; }

}  // namespace

GoferFileSystem* LaterChange::with_one_ = nullptr;

void LaterChange::Flush() {
  // `done` ends it.
  if (with_one_ != nullptr) with_one_->client_->FlushChange();
}

bool LaterChange::Waits(uint64_t dev, uint64_t ino) { return with_one_ != nullptr && with_one_->later_->inode_->key_ == std::pair(dev, ino); }

bool LaterChange::Waits(const GoferInode& inode) { return with_one_ != nullptr && with_one_->later_->inode_.get() == &inode; }

bool LaterChange::ChangesTimes() { return with_one_ != nullptr && (with_one_->later_->change_.atime || with_one_->later_->change_.mtime); }

void LaterChange::Worked(const GoferInode& inode, const gofer::AttributeChange& change) {
  if (inode.key_.first != dev_) kinds_ = 0;
  dev_ = inode.key_.first;
  kinds_ |= KindsOf(change);
}

bool LaterChange::MayWait(const GoferInode& inode, const gofer::AttributeChange& c) const {
  if (!inode.IsRegular() || inode.removed_ || inode.stale_ || inode.node_ == gofer::kNoNode) return false;
  if (inode.made_at_ == 0 || HostNow() - inode.made_at_ >= kNew) return false;
  if (!ordinary_ || inode.key_.first != fs_.root_dev_) return false;
  if (inode.key_.first != dev_ || (KindsOf(c) & ~kinds_) != 0) return false;
  if (c.size || IsNow(c.atime) || IsNow(c.mtime)) return false;
  if ((c.uid && *c.uid != inode.attr_.uid) || (c.gid && *c.gid != inode.attr_.gid)) return false;
  return (inode.attr_.mode & 07000) == 0 && (!c.mode || (*c.mode & 07000) == 0);
}

bool LaterChange::Take(Kernel& kernel, GoferInode& inode, const gofer::AttributeChange& c) {
  if (!MayWait(inode, c)) return false;
  if (!Waits(inode)) {
    Flush();
    change_ = {};
    inode_ = RefPtr<GoferInode>(&inode);
    with_one_ = &fs_;
  }
  if (c.uid) change_.uid = c.uid;
  if (c.gid) change_.gid = c.gid;
  if (c.mode) change_.mode = c.mode;
  if (c.atime) change_.atime = c.atime;
  if (c.mtime) change_.mtime = c.mtime;
  since_ = HostNow();
  // Permissions are checked by it; all else is asked for.
  if (c.mode) inode.attr_.mode = inode.type() | *c.mode;
  inode.fresh_at_ = 0;
  fs_.client_->SetAttrLater(inode.node_, change_, [this](ErrnoOr<gofer::Attributes> r) { Done(r); });
  kernel_ = &kernel;
  if (timer_ == nullptr) timer_ = std::make_unique<Timer>([this] { OnTimer(); });
  if (!timer_->armed()) timer_->Arm(kernel.timers(), kernel.clocks().Monotonic() + kLatest);
  return true;
}

void LaterChange::Done(const ErrnoOr<gofer::Attributes>& result) {
  // The inode is let go with the next change, not inside a call.
  with_one_ = nullptr;
  if (result.ok()) {
    inode_->Take(*result);
    inode_->changed_at_ = inode_->owner_at_;
    return;
  }
  LogNote("a change of a file's attributes failed after it was answered");
  inode_->stale_ = true;
  kinds_ = 0;
}

void LaterChange::OnTimer() {
  if (with_one_ != &fs_) {
    inode_.reset();
    return;
  }
  // Newer than the timer: it has its own millisecond.
  int64_t left = since_ + kLatest - HostNow();
  if (left > kLatest / 4) return timer_->Arm(kernel_->timers(), kernel_->clocks().Monotonic() + left);
  Flush();
  if (with_one_ != &fs_) inode_.reset();
}

}  // namespace amber
