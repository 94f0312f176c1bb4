// The bytes of tmpfs files: memfds, sizes, holes and seals.
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "sentry/base/guest_fd.h"
#include "sentry/fs/tmpfs/tmpfs.h"
#include "sentry/vfs/data_io.h"

namespace amber {
namespace {

constexpr uint64_t kSmall = 64 * 1024;
constexpr size_t kMaxIdle = 256;
constexpr uint64_t kPage = 4096;

uint64_t RoundUp(uint64_t n) { return (n + kPage - 1) / kPage * kPage; }

}  // namespace

ErrnoOr<void> TmpfsInode::NeedMemFd() {
  if (memfd_.valid()) return Ok();
  UniqueFd fd = GuestFd(memfd_create("tmpfs", MFD_CLOEXEC));
  if (!fd.valid()) return Errno(errno == EMFILE ? ENFILE : errno);
  TRY(WriteAll(fd.get(), small_.data(), small_.size(), 0));
  if (small_.size() != attr_.size && ftruncate(fd.get(), static_cast<off_t>(attr_.size)) != 0) return Errno(errno);
  memfd_ = std::move(fd);
  small_ = std::string();
  return Ok();
}

// shmem_fileattr_set()
ErrnoOr<void> TmpfsInode::SetFlags(uint32_t flags) {
  constexpr uint32_t kMayBeSet = FS_IMMUTABLE_FL | FS_APPEND_FL | FS_NODUMP_FL | FS_NOATIME_FL;
  if (!HasFlags() || (flags & ~kMayBeSet) != 0) return Errno(EOPNOTSUPP);
  if (binding_flags() == 0 && (flags & (FS_IMMUTABLE_FL | FS_APPEND_FL)) != 0) ++restriction::flagged;
  flags_ = flags;
  attr_.ctime = FileTimeNow();
  return Ok();
}

void TmpfsInode::FoldMemFd() {
  if (!memfd_.valid() || open_ > 0 || attr_.size > kSmall) return;
  std::string bytes(attr_.size, '\0');
  ssize_t n = pread(memfd_.get(), bytes.data(), bytes.size(), 0);
  if (n != static_cast<ssize_t>(bytes.size())) return;
  small_ = std::move(bytes);
  memfd_.reset();
}

ErrnoOr<void> TmpfsInode::BeginIo(bool) {
  TRY(NeedMemFd());
  ++open_;
  if (idle_) {
    tmpfs().idle_.erase(idle_position_);
    idle_ = false;
  }
  return Ok();
}

void TmpfsInode::EndIo(bool) {
  if (--open_ > 0) return;
  Account();
  if (attr_.nlink == 0 || attr_.size > kSmall) return;
  auto& idle = tmpfs().idle_;
  idle_ = true;
  idle_position_ = idle.insert(idle.end(), this);
  if (idle.size() <= kMaxIdle) return;
  TmpfsInode* oldest = idle.front();
  idle.pop_front();
  oldest->idle_ = false;
  oldest->FoldMemFd();
}

ErrnoOr<int> TmpfsInode::HostFd(bool) {
  TRY(NeedMemFd());
  return memfd_.get();
}

ErrnoOr<void> TmpfsInode::Refresh() {
  if (!IsRegular()) {
    if (charge_ != accounted_) Reaccount(0);
    return Ok();
  }
  struct stat st;
  if (memfd_.valid() && fstat(memfd_.get(), &st) == 0) {
    // Guest mappings fill holes without our doing.
    attr_.blocks = static_cast<uint64_t>(st.st_blocks);
    Reaccount(attr_.blocks * 512);
  } else {
    attr_.blocks = RoundUp(small_.size()) / 512;
    Reaccount(attr_.blocks * 512);
  }
  return Ok();
}

// Kernel lock.
static uint64_t all_used = 0;

uint64_t TmpfsFileSystem::AllUsed() { return all_used; }

void TmpfsInode::Reaccount(uint64_t contents) {
  uint64_t bytes = contents + charge_;
  tmpfs().used_ += bytes - accounted_;
  all_used += bytes - accounted_;
  accounted_ = bytes;
}

void TmpfsInode::Account() { (void)Refresh(); }

ErrnoOr<uint64_t> TmpfsInode::PrepareWrite(uint64_t offset, uint64_t size) {
  DropCapabilities();
  // What was allocated beyond the end would stand for holes; only with a limit does that matter.
  dense_ = memfd_.valid() && !(tmpfs().options_.size != 0 && allocated_beyond_) && offset <= RoundUp(attr_.size) &&
           attr_.blocks * 512 == RoundUp(attr_.size);
  if (seals_ > 0 && (seals_ & F_SEAL_GROW) != 0 && offset + size > attr_.size) {
    if (offset >= attr_.size) return Errno(EPERM);
    size = attr_.size - offset;
  }
  if (offset + size <= RoundUp(attr_.size) && tmpfs().options_.size == 0) return size;
  uint64_t fits = FitsUpTo(offset, offset + size, tmpfs().free_bytes());
  if (size > 0 && fits <= offset) return Errno(ENOSPC);
  return std::min(size, fits - std::min(fits, offset));
}

uint64_t TmpfsInode::FitsUpTo(uint64_t offset, uint64_t end, uint64_t free) const {
  const uint64_t stored = RoundUp(attr_.size);
  // Holes are looked for under a limit of somebody's choice; elsewhere writing inside the file is taken to need nothing new.
  const bool holes = tmpfs().options_.size != 0 && memfd_.valid() && attr_.blocks * 512 < stored;
  uint64_t at = offset / kPage * kPage;
  while (at < end) {
    uint64_t gap_end = RoundUp(end);
    if (at < stored) {
      off_t data = holes ? lseek(memfd_.get(), static_cast<off_t>(at), SEEK_DATA) : static_cast<off_t>(at);
      if (data == static_cast<off_t>(at)) {
        off_t hole = holes ? lseek(memfd_.get(), data, SEEK_HOLE) : -1;
        at = hole > data ? RoundUp(static_cast<uint64_t>(hole)) : stored;
        continue;
      }
      if (data > 0) gap_end = std::min(gap_end, static_cast<uint64_t>(data));
    }
    if (gap_end - at > free) return std::min(end, at + free / kPage * kPage);
    free -= gap_end - at;
    at = gap_end;
  }
  return end;
}

void TmpfsInode::DidWrite(uint64_t end) {
  const uint64_t stored = RoundUp(attr_.size);
  const bool grew = end > stored, dense = std::exchange(dense_, false);
  attr_.size = std::max(attr_.size, end);
  attr_.mtime = attr_.ctime = FileTimeNow();
  if (dense) {
    if (!grew) return;
    attr_.blocks = RoundUp(end) / 512;
    Reaccount(attr_.blocks * 512);
  } else if (grew || tmpfs().options_.size != 0) {
    // Holes that were filled count at the next look; under a limit of somebody's choice at once.
    Account();
  }
}

ErrnoOr<void> TmpfsInode::SetSize(uint64_t size) {
  if (!IsRegular()) return Errno(EINVAL);
  if (size > INT64_MAX) return Errno(EFBIG);
  if (seals_ > 0) {
    if ((seals_ & F_SEAL_SHRINK) != 0 && size < attr_.size) return Errno(EPERM);
    if ((seals_ & F_SEAL_GROW) != 0 && size > attr_.size) return Errno(EPERM);
  }
  if (memfd_.valid()) {
    if (ftruncate(memfd_.get(), static_cast<off_t>(size)) != 0) return Errno(errno);
  } else if (size < small_.size()) {
    small_.resize(size);
  }
  attr_.size = size;
  attr_.mtime = FileTimeNow();
  Account();
  return Ok();
}

ErrnoOr<void> TmpfsInode::Fallocate(const VfsContext&, int mode, uint64_t offset, uint64_t size) {
  if (!IsRegular()) return Errno(ENODEV);
  if ((mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE)) != 0) return Errno(EOPNOTSUPP);
  bool punch = (mode & FALLOC_FL_PUNCH_HOLE) != 0;
  if (punch && (mode & FALLOC_FL_KEEP_SIZE) == 0) return Errno(EOPNOTSUPP);
  uint64_t end = offset + size;
  if (seals_ > 0 && punch && (seals_ & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)) != 0) return Errno(EPERM);
  if (seals_ > 0 && !punch && (seals_ & F_SEAL_GROW) != 0 && end > attr_.size) return Errno(EPERM);
  TRY(NeedMemFd());
  if (!punch) {
    // What is allocated inside the file is found by FitsUpTo() under a limit; what KEEP_SIZE put beyond its end counts twice.
    if (FitsUpTo(offset, end, tmpfs().free_bytes()) < end) return Errno(ENOSPC);
  }
  if (fallocate(memfd_.get(), mode, static_cast<off_t>(offset), static_cast<off_t>(size)) != 0) return Errno(errno);
  if (!punch && (mode & FALLOC_FL_KEEP_SIZE) != 0) allocated_beyond_ = true;
  if (!punch && (mode & FALLOC_FL_KEEP_SIZE) == 0) attr_.size = std::max(attr_.size, end);
  attr_.mtime = attr_.ctime = FileTimeNow();
  Account();
  return Ok();
}

ErrnoOr<void> TmpfsInode::AddSeals(int seals) {
  constexpr int kKnown = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE | 0x20;
  if ((seals & ~kKnown) != 0 || !IsRegular()) return Errno(EINVAL);
  if ((this->seals() & F_SEAL_SEAL) != 0) return Errno(EPERM);
  seals_ |= seals;
  return Ok();
}

}  // namespace amber
