// Attributes, permissions and extended attributes.
#include "sentry/fs/fuse/fuse_inode.h"

#include <linux/xattr.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>

#include "sentry/kernel/credentials.h"
#include "sentry/kernel/task.h"
#include "sentry/vfs/path.h"
#include "sentry/vfs/vfs_file.h"

namespace amber {

namespace {

constexpr uint32_t kNobody = 65534;  // of ids that the mount's user namespace does not map

// What was valid for `seconds` and `ns` from now on.
int64_t Until(uint64_t seconds, uint32_t ns) {
  if (seconds == 0 && ns == 0) return 0;
  constexpr uint64_t kForever = uint64_t{1} << 32;
  return FuseNow() + static_cast<int64_t>(std::min(seconds, kForever)) * 1'000'000'000 + std::min<uint32_t>(ns, 999'999'999);
}

timespec TimeOf(uint64_t seconds, uint32_t ns) { return {static_cast<time_t>(seconds), static_cast<long>(std::min<uint32_t>(ns, 999'999'999))}; }

// new_decode_dev()
uint64_t DeviceOf(uint32_t d) { return makedev((d & 0xfff00) >> 8, (d & 0xff) | ((d >> 12) & 0xfff00)); }

}  // namespace

int64_t FuseNow() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * int64_t{1'000'000'000} + now.tv_nsec;
}

FuseInode::FuseInode(FuseFileSystem* fs, RefPtr<FuseConnection> connection, uint64_t node, uint64_t generation, uint32_t mode)
    : Inode(fs), connection_(std::move(connection)), node_(node), generation_(generation) {
  attr_.mode = mode;
  attr_.ino = node;
  connection_->inodes_[node] = this;
}

FuseInode::~FuseInode() {
  if (!connection_) return;
  connection_->OnInodeGone(*this);
  created_.reset();
  if (node_ != FUSE_ROOT_ID) connection_->Forget(node_, lookups_);
}

void FuseInode::NoteName(std::string_view name, const FuseRequest& request) {
  if (request.answer().size() < sizeof(fuse_entry_out)) return;
  // Names of a directory that a program reads once are not kept for ever.
  constexpr size_t kMaxNames = 8192;
  if (names_.size() >= kMaxNames) {
    int64_t now = FuseNow();
    std::erase_if(names_, [&](const auto& n) { return n.second.valid_until <= now; });
    if (names_.size() >= kMaxNames) names_.clear();
  }
  auto entry = FromBytes<fuse_entry_out>(request.answer());
  int64_t until = Until(entry.entry_valid, entry.entry_valid_nsec);
  if (until == 0) {
    ForgetName(name);
  } else {
    names_[std::string(name)] = {until, entry.nodeid == 0};
  }
}

void FuseInode::TakeAttr(const fuse_attr& a, uint64_t valid, uint32_t valid_ns, uint64_t version) {
  if (version < attr_version_) return;
  const UserNamespace* ns = connection_->user_ns();
  auto known = [](uint32_t id) { return id == UINT32_MAX ? kNobody : id; };
  attr_.ino = a.ino;
  attr_.mode = a.mode & (S_IFMT | 07777);
  attr_.nlink = a.nlink;
  attr_.uid = known(ToKernelUid(ns, a.uid));
  attr_.gid = known(ToKernelGid(ns, a.gid));
  attr_.rdev = DeviceOf(a.rdev);
  attr_.size = a.size;
  attr_.blocks = a.blocks;
  attr_.blksize = a.blksize >= 512 && a.blksize <= (1 << 30) && (a.blksize & (a.blksize - 1)) == 0 ? a.blksize : 4096;
  attr_.atime = TimeOf(a.atime, a.atimensec);
  attr_.mtime = TimeOf(a.mtime, a.mtimensec);
  attr_.ctime = TimeOf(a.ctime, a.ctimensec);
  attr_until_ = Until(valid, valid_ns);
}

void FuseInode::DidWriteTo(uint64_t end) {
  attr_.size = std::max(attr_.size, std::min<uint64_t>(end, INT64_MAX));
  attr_until_ = 0;
  attr_version_ = ++connection_->attr_version_;
}

void FuseInode::Invalidate(bool data) {
  attr_until_ = 0;
  attr_version_ = ++connection_->attr_version_;
  if (data) InvalidatePages();
}

ErrnoOr<void> FuseInode::Look() const {
  Task* task = ServedCall::Current();
  return task == nullptr ? Ok() : connection_->MayLook(task->creds());
}

ErrnoOr<void> FuseInode::Refresh() {
  if (!through_) TRY(Look());
  return Refresh(through_);
}

ErrnoOr<void> FuseInode::Refresh(const RefPtr<FuseHandle>& handle) {
  fuse_getattr_in in{};
  if (handle && !IsDir()) {
    in.getattr_flags = FUSE_GETATTR_FH;
    in.fh = handle->fh;
  }
  FuseQuestion q = About(FUSE_GETATTR, BytesOf(in));
  q.min_out = q.max_out = sizeof(fuse_attr_out);
  q.handle = handle;
  if (FuseNow() < attr_until_ && !connection_->WasAsked(q)) return connection_->connected() ? Ok() : ErrnoOr<void>(Errno(ENOTCONN));
  TRY(connection_->Ask(std::move(q)));
  return Ok();
}

ErrnoOr<void> FuseInode::StatThrough(const RefPtr<FuseHandle>& handle, struct stat* out) {
  through_ = handle;
  auto r = StatInode(*this, out);
  through_.reset();
  return r;
}

ErrnoOr<void> FuseInode::SetAttr(const AttrChange& change, const RefPtr<FuseHandle>& handle) {
  fuse_setattr_in in{};
  if (change.mode) {
    in.valid |= FATTR_MODE;
    in.mode = (attr_.mode & S_IFMT) | *change.mode;
  }
  const UserNamespace* ns = connection_->user_ns();
  if (change.uid) {
    in.valid |= FATTR_UID;
    in.uid = FromKernelUid(ns, *change.uid);
    if (in.uid == UINT32_MAX) return Errno(EOVERFLOW);
  }
  if (change.gid) {
    in.valid |= FATTR_GID;
    in.gid = FromKernelGid(ns, *change.gid);
    if (in.gid == UINT32_MAX) return Errno(EOVERFLOW);
  }
  if (change.size) {
    in.valid |= FATTR_SIZE;
    in.size = *change.size;
  }
  // With NOW the time itself is left out, so that the request stays the same one.
  if (change.atime) {
    in.valid |= FATTR_ATIME | (change.atime->now ? FATTR_ATIME_NOW : 0);
    if (!change.atime->now) in.atime = static_cast<uint64_t>(change.atime->time.tv_sec);
    if (!change.atime->now) in.atimensec = static_cast<uint32_t>(change.atime->time.tv_nsec);
  }
  if (change.mtime) {
    in.valid |= FATTR_MTIME | (change.mtime->now ? FATTR_MTIME_NOW : 0);
    if (!change.mtime->now) in.mtime = static_cast<uint64_t>(change.mtime->time.tv_sec);
    if (!change.mtime->now) in.mtimensec = static_cast<uint32_t>(change.mtime->time.tv_nsec);
  }
  if (handle && handle->opened) {
    in.valid |= FATTR_FH;
    in.fh = handle->fh;
  }
  FuseQuestion q = About(FUSE_SETATTR, BytesOf(in));
  q.min_out = q.max_out = sizeof(fuse_attr_out);
  q.handle = handle;
  TRY(connection_->Ask(std::move(q)));
  if (change.size && pages_.valid() && *change.size <= INT64_MAX) {
    (void)!ftruncate(pages_.get(), static_cast<off_t>(*change.size));
    InvalidatePages();
  }
  return Ok();
}

// --- permissions: fuse_permission(), fuse_access() ---

ErrnoOr<void> FuseInode::MayUse(const Credentials& creds, int may) {
  TRY(connection_->MayLook(creds));
  if (connection_->options().default_permissions) {
    TRY(Refresh());
    return CheckModeBits(creds, *this, may);
  }
  if ((may & kMayExec) != 0 && IsRegular() && (attr_.mode & 0111) == 0) {
    TRY(Refresh());
    if ((attr_.mode & 0111) == 0) return Errno(EACCES);
  }
  return Ok();
}

ErrnoOr<void> FuseInode::MayAccess(const Credentials& creds, int may) {
  TRY(connection_->MayLook(creds));
  if (connection_->options().default_permissions || connection_->lacks(FUSE_ACCESS)) return Ok();
  fuse_access_in in{};
  in.mask = static_cast<uint32_t>(may);
  auto r = connection_->Ask(About(FUSE_ACCESS, BytesOf(in)));
  if (r.Is(ENOSYS)) {
    connection_->set_lacks(FUSE_ACCESS);
    return Ok();
  }
  return r.ok() ? Ok() : ErrnoOr<void>(r.error());
}

// --- extended attributes ---

// Asks for the length first, as the caller has to give one, and then for the value.
ErrnoOr<std::string> FuseInode::AskXattr(uint32_t opcode, std::string name) {
  TRY(Look());
  if (connection_->lacks(opcode)) return Errno(EOPNOTSUPP);
  fuse_getxattr_in in{};
  FuseQuestion q = About(opcode, BytesOf(in) + name);
  q.min_out = q.max_out = sizeof(fuse_getxattr_out);
  auto length = connection_->Ask(std::move(q));
  if (length.Is(ENOSYS)) {
    connection_->set_lacks(opcode);
    return Errno(EOPNOTSUPP);
  }
  if (!length.ok()) return length.error();
  in.size = FromBytes<fuse_getxattr_out>((*length)->answer()).size;
  if (in.size == 0) return std::string();
  if (in.size > XATTR_SIZE_MAX) return Errno(E2BIG);
  q = About(opcode, BytesOf(in) + name);
  q.max_out = in.size;
  return TRY(connection_->Ask(std::move(q)))->answer();
}

ErrnoOr<std::string> FuseInode::GetXattr(std::string_view name) {
  // Programs of a server get no capabilities by what it says, and execve(2) could not wait for that.
  if (Task* task = ServedCall::Current(); name == "security.capability" && task != nullptr) {
    if (task->syscall().number == SYS_execve || task->syscall().number == SYS_execveat) return Errno(ENODATA);
  }
  return AskXattr(FUSE_GETXATTR, std::string(name) + '\0');
}

ErrnoOr<void> FuseInode::SetXattr(std::string_view name, std::string_view value, int flags) {
  TRY(Look());
  if (connection_->lacks(FUSE_SETXATTR)) return Errno(EOPNOTSUPP);
  struct {
    uint32_t size, flags;
  } in{static_cast<uint32_t>(value.size()), static_cast<uint32_t>(flags)};  // FUSE_COMPAT_SETXATTR_IN_SIZE: without FUSE_SETXATTR_EXT
  auto r = connection_->Ask(About(FUSE_SETXATTR, BytesOf(in) + std::string(name) + '\0' + std::string(value)));
  if (r.Is(ENOSYS)) {
    connection_->set_lacks(FUSE_SETXATTR);
    return Errno(EOPNOTSUPP);
  }
  if (!r.ok()) return r.error();
  attr_until_ = 0;
  return Ok();
}

ErrnoOr<std::vector<std::string>> FuseInode::ListXattr() {
  std::string all = TRY(AskXattr(FUSE_LISTXATTR, ""));
  std::vector<std::string> names;
  for (size_t at = 0; at < all.size();) {
    size_t end = all.find('\0', at);
    // fuse_verify_xattr_list(): names, each with an end.
    if (end == std::string::npos || end == at) return Errno(EIO);
    names.push_back(all.substr(at, end - at));
    at = end + 1;
  }
  return names;
}

ErrnoOr<void> FuseInode::RemoveXattr(std::string_view name) {
  TRY(Look());
  if (connection_->lacks(FUSE_REMOVEXATTR)) return Errno(EOPNOTSUPP);
  auto r = connection_->Ask(About(FUSE_REMOVEXATTR, std::string(name) + '\0'));
  if (r.Is(ENOSYS)) {
    connection_->set_lacks(FUSE_REMOVEXATTR);
    return Errno(EOPNOTSUPP);
  }
  if (!r.ok()) return r.error();
  attr_until_ = 0;
  return Ok();
}

}  // namespace amber
