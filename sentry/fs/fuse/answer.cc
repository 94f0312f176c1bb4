// What the server says: checked, and made into inodes, open files and attributes (Linux: fs/fuse/dev.c, inode.c). Nothing here is believed.
#include <poll.h>

#include <algorithm>

#include "sentry/fs/fuse/connection.h"
#include "sentry/fs/fuse/fuse_inode.h"

namespace amber {
namespace {

constexpr uint32_t kLeastMinor = 12;  // before that the structures were shorter

bool IsValidAttr(const fuse_attr& a) {
  switch (a.mode & S_IFMT) {
    case S_IFREG:
    case S_IFDIR:
    case S_IFLNK:
    case S_IFCHR:
    case S_IFBLK:
    case S_IFIFO:
    case S_IFSOCK: return a.size <= INT64_MAX;
    default: return false;
  }
}

}  // namespace

ErrnoOr<void> FuseConnection::OnAnswer(const fuse_out_header& header, std::string bytes) {
  if (header.error > 0 || header.error <= -512) return Errno(EINVAL);
  if ((header.unique & 1) != 0) {
    // About an interrupt: the server has none of them, or the request that it means is not there yet.
    uint64_t unique = header.unique & ~uint64_t{1};
    if (!sent_.contains(unique)) return Errno(ENOENT);
    if (!bytes.empty()) return Errno(EINVAL);
    if (header.error == -ENOSYS) no_interrupt_ = true;
    if (header.error == -EAGAIN && std::ranges::find(interrupts_, unique) == interrupts_.end()) {
      interrupts_.push_back(unique);
      device_queue_.Notify(POLLIN | POLLRDNORM);
    }
    return Ok();
  }
  auto it = sent_.find(header.unique);
  if (it == sent_.end()) return Errno(ENOENT);
  RefPtr<FuseRequest> request = std::move(it->second);
  sent_.erase(it);
  std::erase(interrupts_, header.unique);
  const FuseQuestion& q = request->question_;
  bool fits = header.error != 0 ? bytes.empty() : bytes.size() >= q.min_out && bytes.size() <= q.max_out;
  if (!fits) {
    Finish(*request, EIO, "");
    return Errno(EINVAL);
  }
  Finish(*request, -header.error, std::move(bytes));
  return Ok();
}

void FuseConnection::Finish(FuseRequest& request, int error, std::string bytes) {
  RefPtr<FuseRequest> keep(&request);
  if (request.state_ == FuseRequest::State::kDone) return;
  request.state_ = FuseRequest::State::kDone;
  request.answer_ = std::move(bytes);
  request.error_ = error;
  if (error == 0 && !Understand(request)) request.error_ = EIO;
  // Nobody wants it: FORGET and RELEASE follow.
  if (request.abandoned_) {
    request.inode_.reset();
    request.opened_.reset();
  }
  request.question_.handle.reset();
  if (request.opcode() == FUSE_INIT && connected_) {
    init_.reset();
    if (request.error_ != 0) return Abort();
    initialized_ = true;
    device_queue_.Notify(POLLIN | POLLRDNORM);
  }
  request.SetAnswered();
}

bool FuseConnection::Understand(FuseRequest& request) {
  const std::string& bytes = request.answer_;
  switch (request.opcode()) {
    case FUSE_INIT: return UnderstandInit(bytes);
    case FUSE_LOOKUP:
    case FUSE_MKNOD:
    case FUSE_MKDIR:
    case FUSE_SYMLINK:
    case FUSE_LINK: return UnderstandEntry(request, FromBytes<fuse_entry_out>(bytes));
    case FUSE_CREATE: {
      auto entry = FromBytes<fuse_entry_out>(bytes);
      if (!UnderstandEntry(request, entry)) return false;
      UnderstandOpen(request, entry.nodeid, FromBytes<fuse_open_out>(bytes, sizeof(entry)));
      return true;
    }
    case FUSE_OPEN:
    case FUSE_OPENDIR: UnderstandOpen(request, request.question_.node, FromBytes<fuse_open_out>(bytes)); return true;
    case FUSE_GETATTR:
    case FUSE_SETATTR: return UnderstandAttr(request);
    case FUSE_WRITE: {
      auto in = FromBytes<fuse_write_in>(request.question_.in);
      auto out = FromBytes<fuse_write_out>(bytes);
      if (out.size > in.size) return false;
      if (FuseInode* inode = Find(request.question_.node)) inode->DidWriteTo(in.offset + out.size);
      return true;
    }
    default: return true;
  }
}

bool FuseConnection::UnderstandInit(const std::string& bytes) {
  auto out = FromBytes<fuse_init_out>(bytes);
  if (out.major != FUSE_KERNEL_VERSION || out.minor < kLeastMinor || bytes.size() < 24) return false;
  minor_ = out.minor;
  flags_ = out.flags;
  max_write_ = std::clamp<uint32_t>(out.max_write, 4096, 1 << 20);
  if (bytes.size() >= sizeof(out) && (out.flags & FUSE_MAX_PAGES) != 0) max_pages_ = std::clamp<uint32_t>(out.max_pages, 1, 256);
  max_write_ = std::min(max_write_, max_pages_ * 4096);
  return true;
}

bool FuseConnection::UnderstandEntry(FuseRequest& request, const fuse_entry_out& entry) {
  if (entry.nodeid == 0) return request.opcode() == FUSE_LOOKUP;
  if (entry.nodeid == FUSE_ROOT_ID || !IsValidAttr(entry.attr) || fs_ == nullptr) return false;
  if (request.abandoned_) {
    Forget(entry.nodeid, 1);
    return true;
  }
  FuseInode* known = Find(entry.nodeid);
  if (known != nullptr && (known->generation() != entry.generation || known->type() != (entry.attr.mode & S_IFMT))) {
    // The number means something else now.
    inodes_.erase(entry.nodeid);
    known = nullptr;
  }
  RefPtr<FuseInode> inode(known);
  if (!inode) inode = MakeRef<FuseInode>(fs_, RefPtr<FuseConnection>(this), entry.nodeid, entry.generation, entry.attr.mode);
  inode->AddLookup();
  inode->TakeAttr(entry.attr, entry.attr_valid, entry.attr_valid_nsec, known == nullptr ? attr_version_ : request.attr_version_);
  request.inode_ = std::move(inode);
  return true;
}

bool FuseConnection::UnderstandAttr(FuseRequest& request) {
  auto out = FromBytes<fuse_attr_out>(request.answer_);
  FuseInode* inode = Find(request.question_.node);
  if (!IsValidAttr(out.attr)) return false;
  if (inode == nullptr) return true;  // forgotten meanwhile
  if (inode->type() != (out.attr.mode & S_IFMT)) return false;
  bool changes = request.opcode() == FUSE_SETATTR;
  if (changes) inode->set_attr_version(++attr_version_);
  inode->TakeAttr(out.attr, out.attr_valid, out.attr_valid_nsec, changes ? attr_version_ : request.attr_version_);
  return true;
}

void FuseConnection::UnderstandOpen(FuseRequest& request, uint64_t node, const fuse_open_out& out) {
  auto handle = MakeRef<FuseHandle>(RefPtr<FuseConnection>(this), node, request.opcode() == FUSE_OPENDIR);
  handle->fh = out.fh;
  handle->open_flags = out.open_flags;
  handle->flags = request.question_.flags;
  handle->opened = true;
  request.opened_ = std::move(handle);
  if (FuseInode* inode = Find(node); inode != nullptr && (out.open_flags & FOPEN_KEEP_CACHE) == 0) inode->InvalidatePages();
}

// A name in a directory, both told by an `Out` that the name follows.
template <typename Out>
ErrnoOr<void> FuseConnection::ForgetNamed(std::string_view bytes) {
  if (bytes.size() < sizeof(Out)) return Errno(EINVAL);
  auto out = FromBytes<Out>(bytes);
  std::string_view name = bytes.substr(sizeof(out));
  if (out.namelen > kMaxName) return Errno(ENAMETOOLONG);
  if (name.size() != size_t{out.namelen} + 1) return Errno(EINVAL);
  FuseInode* dir = Find(out.parent);
  if (dir == nullptr) return Errno(ENOENT);
  if (!dir->IsDir()) return Errno(ENOTDIR);
  dir->ForgetName(name.substr(0, out.namelen));
  return Ok();
}

ErrnoOr<void> FuseConnection::OnNotification(int code, std::string_view bytes) {
  switch (code) {
    case FUSE_NOTIFY_INVAL_INODE: {
      if (bytes.size() != sizeof(fuse_notify_inval_inode_out)) return Errno(EINVAL);
      auto out = FromBytes<fuse_notify_inval_inode_out>(bytes);
      FuseInode* inode = Find(out.ino);
      if (inode == nullptr) return Errno(ENOENT);
      inode->Invalidate(out.off >= 0);
      return Ok();
    }
    case FUSE_NOTIFY_INVAL_ENTRY: return ForgetNamed<fuse_notify_inval_entry_out>(bytes);
    case FUSE_NOTIFY_DELETE: return ForgetNamed<fuse_notify_delete_out>(bytes);
    // Nothing is cached that it could be stored to, and no poll is asked for.
    case FUSE_NOTIFY_STORE:
    case FUSE_NOTIFY_RETRIEVE: return Errno(ENOSYS);
    case FUSE_NOTIFY_POLL: return Ok();
    default: return Errno(EINVAL);
  }
}

}  // namespace amber
