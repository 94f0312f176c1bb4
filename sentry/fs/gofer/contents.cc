// Host descriptors of files behind the gofer, and extended attributes.
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>

#include "sentry/base/check.h"
#include "sentry/fs/gofer/gofer_fs.h"
#include "sentry/fs/gofer/later.h"

namespace amber {
namespace {

// In the place of a list that cannot be read: nobody but the owner is granted anything.
const Acl& NothingGranted() {
  static const auto* acl = [] {
    struct [[gnu::packed]] {
      uint32_t version = 2;
      struct {
        uint16_t tag, permissions;
        uint32_t id;
      } entries[3] = {{Acl::kUserObj, 0, 0}, {Acl::kGroupObj, 0, 0}, {Acl::kOther, 0, 0}};
    } list;
    auto parsed = Acl::Parse({reinterpret_cast<const char*>(&list), sizeof(list)}, nullptr);
    AMBER_CHECK(parsed.ok() && *parsed);
    return new Acl(**std::move(parsed));
  }();
  return *acl;
}

}  // namespace

ErrnoOr<void> GoferInode::NeedFd(bool write) {
  if (write ? rw_fd_.valid() : has_fd()) return Ok();
  if (detached_) return Errno(ENOENT);
  if (!write && parent_ && !removed_ && parent_->OpenAhead(name_, *this)) return Ok();
  TRY(NeedNode());
  // O_NONBLOCK: should the file have become a fifo, the gofer does not wait.
  (write ? rw_fd_ : read_fd_) = TRY(client().Open(node_, (write ? O_RDWR : O_RDONLY) | O_NONBLOCK));
  return Ok();
}

ErrnoOr<void> GoferInode::BeginIo(bool write) {
  TRY(NeedFd(write));
  ++open_;
  if (idle_) {
    gofer().idle_.erase(idle_position_);
    idle_ = false;
  }
  return Ok();
}

void GoferInode::EndIo(bool write) {
  if (write) Outdate();
  if (--open_ > 0 || detached_) return;
  if (removed_) return;  // goes with the inode
  auto& idle = gofer().idle_;
  if (!idle_) {
    idle_ = true;
    idle_position_ = idle.insert(idle.end(), this);
  }
  if (idle.size() <= GoferFileSystem::kMaxIdleFds) return;
  GoferInode* oldest = idle.front();
  idle.pop_front();
  oldest->idle_ = false;
  oldest->CloseFds();
}

void GoferInode::CloseFds() {
  (void)Refresh();
  read_fd_.reset();
  rw_fd_.reset();
}

ErrnoOr<int> GoferInode::HostFd(bool write) {
  TRY(NeedFd(write));
  // Reads and writes change times.
  if (LaterChange::ChangesTimes()) Settle();
  if (write || rw_fd_.valid()) return rw_fd_.get();
  return read_fd_.get();
}

void GoferInode::DidWrite(uint64_t end) {
  attr_.size = std::max(attr_.size, end);
  DidChange();
}

ErrnoOr<void> GoferInode::Fallocate(const VfsContext&, int mode, uint64_t offset, uint64_t size) {
  TRY(NeedFd(true));
  Settle();
  if (fallocate(rw_fd_.get(), mode, static_cast<off_t>(offset), static_cast<off_t>(size)) != 0) return Errno(errno);
  DidChange();
  return Ok();
}

ErrnoOr<void> GoferInode::Sync(bool data_only) {
  if (detached_) return Ok();
  Settle();
  if (!has_fd()) {
    TRY(NeedNode());
    return client().Fsync(node_, data_only);
  }
  int fd = rw_fd_.valid() ? rw_fd_.get() : read_fd_.get();
  if ((data_only ? fdatasync(fd) : fsync(fd)) != 0) return Errno(errno);
  return Ok();
}

ErrnoOr<uint32_t> GoferInode::GetFlags() {
  if (!IsRegular() || detached_) return Errno(EOPNOTSUPP);
  TRY(BeginIo(false));
  auto fd = HostFd(false);
  uint32_t flags = 0;
  int error = !fd.ok() ? fd.error().number() : ioctl(*fd, FS_IOC_GETFLAGS, &flags) != 0 ? errno : 0;
  EndIo(false);
  if (error == ENOTTY) error = EOPNOTSUPP;
  return error != 0 ? ErrnoOr<uint32_t>(Errno(error)) : flags;
}

ErrnoOr<std::string> GoferInode::GetXattr(std::string_view name) {
  if (detached_) return Errno(ENODATA);
  bool is_capability = name == "security.capability";
  if (is_capability && no_capabilities_ && gofer().options_.exclusive) return Errno(ENODATA);
  TRY(NeedNode());
  auto r = client().GetXattr(node_, name);
  if (is_capability && (r.Is(ENODATA) || r.Is(EOPNOTSUPP))) no_capabilities_ = true;
  return r;
}

const Acl* GoferInode::NeedAcl(bool defaults) {
  if (!takes_acls()) return nullptr;
  if (acls_ == nullptr) acls_ = std::make_unique<KnownAcl[]>(2);
  KnownAcl& known = acls_[defaults ? 1 : 0];
  bool same = known.ctime.tv_sec == attr_.ctime.tv_sec && known.ctime.tv_nsec == attr_.ctime.tv_nsec;
  if (known.known && (gofer().options_.exclusive || same)) return known.list.get();
  known = {};
  // Whether there is a list, and whom it denies what, is not known where it cannot be read (check_acl() fails, too). It is asked for again.
  if (!NeedNode().ok()) return &NothingGranted();
  auto bytes = client().GetXattr(node_, defaults ? kDefaultAcl : kAccessAcl);
  if (!bytes.ok() && !bytes.Is(ENODATA) && !bytes.Is(EOPNOTSUPP)) return &NothingGranted();
  auto list = bytes.ok() ? Acl::Parse(*bytes, nullptr) : std::optional<Acl>();
  if (!list.ok()) return &NothingGranted();
  if (*list) known.list = std::make_unique<Acl>(**std::move(list));
  // In a tree of others a change that gives the same ctime may come yet.
  known.known = gofer().options_.exclusive || settled_;
  known.ctime = attr_.ctime;
  return known.list.get();
}

void GoferInode::ForgetAcl(std::string_view xattr) {
  if (acls_ != nullptr && IsAclName(xattr)) acls_[xattr == kDefaultAcl ? 1 : 0] = {};
}

ErrnoOr<void> GoferInode::SetXattr(std::string_view name, std::string_view value, int flags) {
  if (detached_) return Errno(EOPNOTSUPP);
  TRY(NeedNode());
  ForgetAcl(name);
  no_capabilities_ = false;
  stale_ = true;
  Outdate();
  return client().SetXattr(node_, name, value, flags);
}

ErrnoOr<std::vector<std::string>> GoferInode::ListXattr() {
  if (detached_) return std::vector<std::string>();
  TRY(NeedNode());
  return client().ListXattr(node_);
}

ErrnoOr<void> GoferInode::RemoveXattr(std::string_view name) {
  if (detached_) return Errno(ENODATA);
  TRY(NeedNode());
  ForgetAcl(name);
  stale_ = true;
  Outdate();
  return client().RemoveXattr(node_, name);
}

}  // namespace amber
