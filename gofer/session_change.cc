// Changing attributes, and names.
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <string>
#include <utility>

#include "gofer/session.h"

namespace amber::gofer {
namespace {

ErrnoOr<timespec> TimeOf(uint32_t mask, uint32_t set, uint32_t now, int64_t seconds, uint32_t nanoseconds) {
  if ((mask & now) != 0) return timespec{0, UTIME_NOW};
  if ((mask & set) == 0) return timespec{0, UTIME_OMIT};
  if (nanoseconds >= 1000000000) return Errno(EINVAL);
  return timespec{seconds, nanoseconds};
}

ErrnoOr<void> ChangeSize(const HostNode& node, uint64_t size) {
  if (node.type() == S_IFDIR) return Errno(EISDIR);
  if (node.type() != S_IFREG || size > INT64_MAX) return Errno(EINVAL);
  if (truncate(FdName(node.fd()).text, static_cast<off_t>(size)) != 0) return Errno(errno);
  return {};
}

}  // namespace

ErrnoOr<void> Session::SetAttr(wire::SetAttr::Reader request, wire::Response::Builder response) {
  EncodeAttributes(TRY(Change(request)), response.initAttributes());
  return {};
}

ErrnoOr<struct statx> Session::Change(wire::SetAttr::Reader request) const {
  RefPtr<HostNode> node = TRY(NodeOf(request.getNode()));
  if (node->attach().read_only) return Errno(EROFS);
  uint32_t mask = request.getMask();
  if ((mask & ~kSetAll) != 0) return Errno(EINVAL);
  if ((mask & kSetMode) != 0) {
    if ((request.getMode() & ~07777u) != 0) return Errno(EINVAL);
    if (node->type() == S_IFLNK) return Errno(EOPNOTSUPP);
  }
  timespec times[2] = {
      TRY(TimeOf(mask, kSetAtime, kSetAtimeNow, request.getAtime(), request.getAtimeNs())),
      TRY(TimeOf(mask, kSetMtime, kSetMtimeNow, request.getMtime(), request.getMtimeNs())),
  };
  if ((mask & kSetSize) != 0) TRY(ChangeSize(*node, request.getSize()));
  if ((mask & (kSetUid | kSetGid)) != 0) {
    uid_t uid = (mask & kSetUid) != 0 ? request.getUid() : UINT32_MAX;
    gid_t gid = (mask & kSetGid) != 0 ? request.getGid() : UINT32_MAX;
    if (fchownat(node->fd(), "", uid, gid, AT_EMPTY_PATH) != 0) return Errno(errno);
  }
  FdName path(node->fd());
  if ((mask & kSetMode) != 0 && chmod(path.text, request.getMode()) != 0) return Errno(errno);
  if (times[0].tv_nsec != UTIME_OMIT || times[1].tv_nsec != UTIME_OMIT) {
    if (utimensat(AT_FDCWD, path.text, times, 0) != 0) return Errno(errno);
  }
  return StatDescriptor(node->fd());
}

ErrnoOr<void> Session::Link(wire::Link::Reader request, wire::Response::Builder response) {
  RefPtr<HostNode> node = TRY(NodeOf(request.getNode()));
  RefPtr<HostNode> parent = TRY(DirectoryForChange(request.getNewParent()));
  TRY(CheckName(AsString(request.getNewName())));
  if (node->type() == S_IFDIR) return Errno(EPERM);
  if (&node->attach() != &parent->attach()) return Errno(EXDEV);
  std::string name(AsString(request.getNewName()));
  if (linkat(AT_FDCWD, FdName(node->fd()).text, parent->fd(), name.c_str(), AT_SYMLINK_FOLLOW) != 0) {
    return Errno(errno);
  }
  EncodeAttributes(TRY(StatDescriptor(node->fd())), response.initAttributes());
  return {};
}

ErrnoOr<void> Session::Rename(wire::Rename::Reader request) {
  RefPtr<HostNode> from = TRY(DirectoryForChange(request.getOldParent()));
  RefPtr<HostNode> to = TRY(DirectoryForChange(request.getNewParent()));
  TRY(CheckName(AsString(request.getOldName())));
  TRY(CheckName(AsString(request.getNewName())));
  if (&from->attach() != &to->attach()) return Errno(EXDEV);
  uint32_t flags = request.getFlags();
  if (flags != 0 && flags != RENAME_NOREPLACE && flags != RENAME_EXCHANGE) return Errno(EINVAL);
  std::string old_name(AsString(request.getOldName()));
  std::string new_name(AsString(request.getNewName()));
  // Not through the C library: its renameat2() makes the older call renameat when flags are 0, which the filter kills.
  if (syscall(SYS_renameat2, from->fd(), old_name.c_str(), to->fd(), new_name.c_str(), flags) != 0) return Errno(errno);
  return {};
}

ErrnoOr<void> Session::Unlink(wire::Unlink::Reader request) {
  RefPtr<HostNode> parent = TRY(DirectoryForChange(request.getParent()));
  TRY(CheckName(AsString(request.getName())));
  uint32_t flags = request.getFlags();
  if (flags != 0 && flags != AT_REMOVEDIR) return Errno(EINVAL);
  std::string name(AsString(request.getName()));
  if (unlinkat(parent->fd(), name.c_str(), static_cast<int>(flags)) != 0) return Errno(errno);
  return {};
}

}  // namespace amber::gofer
