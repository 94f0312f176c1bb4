// Extended attributes: xattr(7).
#include <linux/capability.h>
#include <linux/xattr.h>
#include <netinet/in.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

#include "sentry/kernel/task.h"
#include "sentry/net/socket.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/table.h"
#include "sentry/vfs/acl.h"
#include "sentry/vfs/at.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/notify.h"
#include "sentry/vfs/ops.h"
#include "sentry/vfs/restrict.h"

namespace amber {
namespace {

constexpr size_t kNameMax = 255;
constexpr uint64_t kSizeMax = 65536;

ErrnoOr<VfsPath> PlaceOf(Task& task, UserPtr<const char> path, bool follow) {
  return ResolvePlaceAt(task, AT_FDCWD, TRY(task.CopyInString(path, 4096)), follow ? kFollowLast : 0);
}

ErrnoOr<VfsPath> PlaceOf(Task& task, int fd) {
  RefPtr<File> file = TRY(task.files().Get(fd));
  if (file->path() == nullptr) return Errno(EOPNOTSUPP);
  return *file->path();
}

ErrnoOr<std::string> CopyInName(Task& task, UserPtr<const char> p) {
  auto name = task.CopyInString(p, kNameMax + 1);
  if (name.Is(ENAMETOOLONG) || (name.ok() && name->empty())) return Errno(ERANGE);
  return name;
}

// cap_convert_nscap(), which comes before all permissions: capabilities of files have a form, or are empty.
ErrnoOr<void> CheckForm(std::string_view name, const std::string& value) {
  if (value.empty() || name != "security.capability") return Ok();
  uint32_t magic = 0;
  if (value.size() >= sizeof(magic)) memcpy(&magic, value.data(), sizeof(magic));
  bool version2 = value.size() == XATTR_CAPS_SZ_2 && (magic & VFS_CAP_REVISION_MASK) == VFS_CAP_REVISION_2;
  bool version3 = value.size() == XATTR_CAPS_SZ_3 && (magic & VFS_CAP_REVISION_MASK) == VFS_CAP_REVISION_3;
  return version2 || version3 ? Ok() : Errno(EINVAL);
}

// xattr_resolve_name(), after them: a class alone is no name.
ErrnoOr<void> CheckClass(std::string_view name) {
  for (std::string_view prefix : {"user.", "trusted.", "security."}) {
    if (name == prefix) return Errno(EINVAL);
    if (name.starts_with(prefix)) return Ok();
  }
  return Errno(EOPNOTSUPP);
}

// xattr_permission(): who may touch which class of names. A class that nobody knows is asked for like any other, and then refused.
ErrnoOr<void> CheckName(Task& task, const VfsPath& place, std::string_view name, bool write) {
  if (write && place.mount->read_only()) return Errno(EROFS);
  const Inode& inode = *place.inode();
  if (write) TRY(CheckUnflagged(inode));
  if (name.starts_with("security.")) {
    int capability = name == "security.capability" ? CAP_SETFCAP : CAP_SYS_ADMIN;
    if (write && !task.Has(capability)) return Errno(EPERM);
    return CheckClass(name);
  }
  if (name.starts_with("system.")) return Errno(EOPNOTSUPP);
  if (name.starts_with("trusted.")) {
    if (!task.Has(CAP_SYS_ADMIN)) return Errno(write ? EPERM : ENODATA);
    return CheckClass(name);
  }
  if (name.starts_with("user.")) {
    if (!inode.IsRegular() && !inode.IsDir()) return Errno(write ? EPERM : ENODATA);
    if (write && inode.IsDir() && (inode.attr().mode & S_ISVTX) != 0) TRY(CheckOwner(task.creds(), inode));
  }
  TRY(CheckPermission(task.creds(), inode, write ? kMayWrite : kMayRead));
  return CheckClass(name);
}

// Access control lists: do_get_acl(), do_set_acl() and vfs_remove_acl().
ErrnoOr<std::string> GetAclBytes(Task& task, const Inode& inode, std::string_view name) {
  if (!inode.takes_acls()) return Errno(EOPNOTSUPP);
  const Acl* acl = name == kAccessAcl ? inode.acl() : inode.default_acl();
  if (acl == nullptr) return Errno(ENODATA);
  return acl->Bytes(task.creds().user_ns.get());
}

// `bytes`: null to take it away.
ErrnoOr<uint64_t> ChangeAcl(Task& task, const VfsPath& place, std::string_view name, const std::string* bytes) {
  Inode& inode = *place.inode();
  std::optional<Acl> acl;
  if (bytes != nullptr && !bytes->empty()) acl = TRY(Acl::Parse(*bytes, task.creds().user_ns.get()));
  if (place.mount->read_only()) return Errno(EROFS);
  TRY(CheckUnflagged(inode));
  if (!inode.takes_acls()) return Errno(EOPNOTSUPP);
  if (name == kDefaultAcl && !inode.IsDir()) return acl ? ErrnoOr<uint64_t>(Errno(EACCES)) : ErrnoOr<uint64_t>(uint64_t{0});
  TRY(CheckOwner(task.creds(), inode));
  TRY(SetAcl(ContextOf(task), inode, name, std::move(acl)));
  NotifyEntry(*place.dentry, IN_ATTRIB);
  return uint64_t{0};
}

ErrnoOr<uint64_t> CopyOutSized(Task& task, uint64_t address, uint64_t size, const std::string& bytes) {
  if (size == 0) return uint64_t{bytes.size()};
  if (bytes.size() > size) return Errno(ERANGE);
  TRY(task.CopyOutBytes(address, bytes.data(), bytes.size()));
  return uint64_t{bytes.size()};
}

// Of all that follow: the name is copied before the path is looked at (import_xattr_name()).
ErrnoOr<uint64_t> Get(Task& task, const VfsPath& place, const std::string& name, UserPtr<void> value, uint64_t size) {
  if (IsAclName(name)) return CopyOutSized(task, value.address(), size, TRY(GetAclBytes(task, *place.inode(), name)));
  TRY(CheckName(task, place, name, false));
  std::string bytes = TRY(place.inode()->GetXattr(name));
  // cap_inode_getsecurity(): what has not the form of capabilities is none.
  if (name == "security.capability" && bytes.empty()) return Errno(EINVAL);
  return CopyOutSized(task, value.address(), size, bytes);
}

// setxattr_copy(): looked at before the path is.
struct NewValue {
  std::string name, bytes;
  int flags = 0;
};
ErrnoOr<NewValue> CopyInValue(Task& task, UserPtr<const char> name, UserPtr<const void> value, uint64_t size, int flags) {
  if ((flags & ~(XATTR_CREATE | XATTR_REPLACE)) != 0) return Errno(EINVAL);
  NewValue next{TRY(CopyInName(task, name)), "", flags};
  if (size > kSizeMax) return Errno(E2BIG);
  next.bytes.assign(size, '\0');
  TRY(task.CopyInBytes(value.address(), next.bytes.data(), size));
  return next;
}

ErrnoOr<uint64_t> Set(Task& task, const VfsPath& place, const NewValue& next) {
  const std::string& name = next.name;
  const std::string& bytes = next.bytes;
  if (IsAclName(name)) return ChangeAcl(task, place, name, &bytes);
  TRY(CheckForm(name, bytes));
  TRY(CheckName(task, place, name, true));
  TRY(place.inode()->SetXattr(name, bytes, next.flags));
  NotifyEntry(*place.dentry, IN_ATTRIB);
  return uint64_t{0};
}

ErrnoOr<uint64_t> List(Task& task, const VfsPath& place, UserPtr<char> out, uint64_t size) {
  std::string all;
  for (const std::string& name : TRY(place.inode()->ListXattr())) {
    if (name.starts_with("trusted.") && !task.Has(CAP_SYS_ADMIN)) continue;
    all += name;
    all += '\0';
  }
  return CopyOutSized(task, out.address(), size, all);
}

ErrnoOr<uint64_t> Remove(Task& task, const VfsPath& place, const std::string& name) {
  if (IsAclName(name)) return ChangeAcl(task, place, name, nullptr);
  TRY(CheckName(task, place, name, true));
  TRY(place.inode()->RemoveXattr(name));
  NotifyEntry(*place.dentry, IN_ATTRIB);
  return uint64_t{0};
}

// What pipes, sockets and their like answer: they are neither files nor folders (xattr_permission()).
Errno OfUnnamed(std::string_view name, int error) { return Errno(name.starts_with("user.") ? error : EOPNOTSUPP); }

// What a socket has all the same: the name of its protocol (sockfs_xattr_get()).
constexpr std::string_view kProtocolName = "system.sockprotoname";

std::string ProtocolName(const Socket& socket) {
  if (socket.family() == AF_UNIX) return socket.type() == SOCK_DGRAM ? "UNIX" : "UNIX-STREAM";
  if (socket.family() == AF_NETLINK) return "NETLINK";
  if (socket.family() == AF_PACKET) return "PACKET";
  std::string version = socket.family() == AF_INET6 ? "v6" : "";
  if (socket.type() == SOCK_STREAM) return "TCP" + version;
  if (socket.type() == SOCK_RAW) return "RAW" + version;
  switch (socket.protocol()) {
    case IPPROTO_UDPLITE: return version.empty() ? "UDP-Lite" : "UDPLITEv6";
    case IPPROTO_ICMP:
    case IPPROTO_ICMPV6: return "PING" + version;
    default: return "UDP" + version;
  }
}

ErrnoOr<uint64_t> GetOfUnnamed(Task& task, int fd, UserPtr<const char> name_p, UserPtr<void> value, uint64_t size) {
  std::string name = TRY(CopyInName(task, name_p));
  auto* socket = dynamic_cast<Socket*>(TRY(task.files().Get(fd)).get());
  if (socket == nullptr || name != kProtocolName) return OfUnnamed(name, ENODATA);
  std::string protocol(ProtocolName(*socket));
  protocol += '\0';
  return CopyOutSized(task, value.address(), size, protocol);
}

ErrnoOr<uint64_t> GetXattr(Task& task, UserPtr<const char> path, UserPtr<const char> name, UserPtr<void> value, uint64_t size) {
  std::string copied = TRY(CopyInName(task, name));
  return Get(task, TRY(PlaceOf(task, path, true)), copied, value, size);
}
ErrnoOr<uint64_t> LGetXattr(Task& task, UserPtr<const char> path, UserPtr<const char> name, UserPtr<void> value, uint64_t size) {
  std::string copied = TRY(CopyInName(task, name));
  return Get(task, TRY(PlaceOf(task, path, false)), copied, value, size);
}
ErrnoOr<uint64_t> FGetXattr(Task& task, int fd, UserPtr<const char> name, UserPtr<void> value, uint64_t size) {
  auto place = PlaceOf(task, fd);
  if (place.Is(EOPNOTSUPP)) return GetOfUnnamed(task, fd, name, value, size);
  VfsPath found = TRY(std::move(place));
  return Get(task, found, TRY(CopyInName(task, name)), value, size);
}
ErrnoOr<uint64_t> SetXattr(Task& task, UserPtr<const char> path, UserPtr<const char> name, UserPtr<const void> value, uint64_t size, int flags) {
  NewValue next = TRY(CopyInValue(task, name, value, size, flags));
  return Set(task, TRY(PlaceOf(task, path, true)), next);
}
ErrnoOr<uint64_t> LSetXattr(Task& task, UserPtr<const char> path, UserPtr<const char> name, UserPtr<const void> value, uint64_t size, int flags) {
  NewValue next = TRY(CopyInValue(task, name, value, size, flags));
  return Set(task, TRY(PlaceOf(task, path, false)), next);
}
ErrnoOr<uint64_t> FSetXattr(Task& task, int fd, UserPtr<const char> name, UserPtr<const void> value, uint64_t size, int flags) {
  NewValue next = TRY(CopyInValue(task, name, value, size, flags));
  auto place = PlaceOf(task, fd);
  if (place.Is(EOPNOTSUPP)) return OfUnnamed(next.name, EPERM);
  return Set(task, TRY(std::move(place)), next);
}
ErrnoOr<uint64_t> ListXattr(Task& task, UserPtr<const char> path, UserPtr<char> out, uint64_t size) {
  return List(task, TRY(PlaceOf(task, path, true)), out, size);
}
ErrnoOr<uint64_t> LListXattr(Task& task, UserPtr<const char> path, UserPtr<char> out, uint64_t size) {
  return List(task, TRY(PlaceOf(task, path, false)), out, size);
}
ErrnoOr<uint64_t> FListXattr(Task& task, int fd, UserPtr<char> out, uint64_t size) {
  RefPtr<File> file = TRY(task.files().Get(fd));
  if (file->path() != nullptr) return List(task, *file->path(), out, size);
  std::string all;
  if (dynamic_cast<Socket*>(file.get()) != nullptr) all = std::string(kProtocolName) + '\0';
  return CopyOutSized(task, out.address(), size, all);
}
ErrnoOr<uint64_t> RemoveXattr(Task& task, UserPtr<const char> path, UserPtr<const char> name) {
  std::string copied = TRY(CopyInName(task, name));
  return Remove(task, TRY(PlaceOf(task, path, true)), copied);
}
ErrnoOr<uint64_t> LRemoveXattr(Task& task, UserPtr<const char> path, UserPtr<const char> name) {
  std::string copied = TRY(CopyInName(task, name));
  return Remove(task, TRY(PlaceOf(task, path, false)), copied);
}
ErrnoOr<uint64_t> FRemoveXattr(Task& task, int fd, UserPtr<const char> name) {
  auto place = PlaceOf(task, fd);
  if (place.Is(EOPNOTSUPP)) return OfUnnamed(TRY(CopyInName(task, name)), EPERM);
  VfsPath found = TRY(std::move(place));
  return Remove(task, found, TRY(CopyInName(task, name)));
}

// The calls of Linux 6.13: a descriptor, flags, and value, size and flags in a structure.
struct XattrArgs {
  uint64_t value;
  uint32_t size;
  uint32_t flags;
};

ErrnoOr<VfsPath> PlaceOf(Task& task, int dirfd, UserPtr<const char> path_p, unsigned at_flags) {
  if ((at_flags & ~unsigned{AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH}) != 0) return Errno(EINVAL);
  bool empty = (at_flags & AT_EMPTY_PATH) != 0;
  std::string path;
  if (!(empty && path_p.is_null())) path = TRY(task.CopyInString(path_p, 4096));
  uint32_t walk = (at_flags & AT_SYMLINK_NOFOLLOW) != 0 ? 0 : kFollowLast;
  Resolved r = TRY(ResolveAt(task, dirfd, path, walk, empty));
  if (!r.path) return Errno(EOPNOTSUPP);
  if (r.file && (r.file->flags() & O_PATH) != 0) return Errno(EBADF);
  return r.path;
}

// copy_struct_from_user().
ErrnoOr<XattrArgs> CopyInArgs(Task& task, UserPtr<const XattrArgs> p, uint64_t size) {
  if (size < sizeof(XattrArgs)) return Errno(EINVAL);
  if (size > 4096) return Errno(E2BIG);
  std::vector<uint8_t> bytes(size);
  TRY(task.CopyInBytes(p.address(), bytes.data(), size));
  for (size_t i = sizeof(XattrArgs); i < size; ++i) {
    if (bytes[i] != 0) return Errno(E2BIG);
  }
  XattrArgs args;
  memcpy(&args, bytes.data(), sizeof(args));
  return args;
}

ErrnoOr<uint64_t> SetXattrAt(Task& task, int dirfd, UserPtr<const char> path, unsigned at_flags, UserPtr<const char> name, UserPtr<const XattrArgs> p,
                             uint64_t size) {
  XattrArgs args = TRY(CopyInArgs(task, p, size));
  NewValue next = TRY(CopyInValue(task, name, UserPtr<const void>(args.value), args.size, static_cast<int>(args.flags)));
  return Set(task, TRY(PlaceOf(task, dirfd, path, at_flags)), next);
}
ErrnoOr<uint64_t> GetXattrAt(Task& task, int dirfd, UserPtr<const char> path, unsigned at_flags, UserPtr<const char> name, UserPtr<const XattrArgs> p,
                             uint64_t size) {
  XattrArgs args = TRY(CopyInArgs(task, p, size));
  if (args.flags != 0) return Errno(EINVAL);
  std::string copied = TRY(CopyInName(task, name));
  return Get(task, TRY(PlaceOf(task, dirfd, path, at_flags)), copied, UserPtr<void>(args.value), args.size);
}
ErrnoOr<uint64_t> ListXattrAt(Task& task, int dirfd, UserPtr<const char> path, unsigned at_flags, UserPtr<char> out, uint64_t size) {
  return List(task, TRY(PlaceOf(task, dirfd, path, at_flags)), out, size);
}
ErrnoOr<uint64_t> RemoveXattrAt(Task& task, int dirfd, UserPtr<const char> path, unsigned at_flags, UserPtr<const char> name) {
  std::string copied = TRY(CopyInName(task, name));
  return Remove(task, TRY(PlaceOf(task, dirfd, path, at_flags)), copied);
}

constexpr uint64_t kSetXattrAt = 463, kGetXattrAt = 464, kListXattrAt = 465, kRemoveXattrAt = 466;

}  // namespace

void RegisterXattrCalls(SyscallTable& table) {
  constexpr const char* kNote = "no POSIX access control lists on bind mounts and roots that are written through";
  table.Set(SYS_getxattr, Partial<&GetXattr>(kNote));
  table.Set(SYS_lgetxattr, Partial<&LGetXattr>(kNote));
  table.Set(SYS_fgetxattr, Partial<&FGetXattr>(kNote));
  table.Set(SYS_setxattr, Partial<&SetXattr>(kNote));
  table.Set(SYS_lsetxattr, Partial<&LSetXattr>(kNote));
  table.Set(SYS_fsetxattr, Partial<&FSetXattr>(kNote));
  table.Set(SYS_listxattr, Full<&ListXattr>());
  table.Set(SYS_llistxattr, Full<&LListXattr>());
  table.Set(SYS_flistxattr, Full<&FListXattr>());
  table.Set(SYS_removexattr, Full<&RemoveXattr>());
  table.Set(SYS_lremovexattr, Full<&LRemoveXattr>());
  table.Set(SYS_fremovexattr, Full<&FRemoveXattr>());
  table.Set(kSetXattrAt, Partial<&SetXattrAt>(kNote));
  table.Set(kGetXattrAt, Partial<&GetXattrAt>(kNote));
  table.Set(kListXattrAt, Full<&ListXattrAt>());
  table.Set(kRemoveXattrAt, Full<&RemoveXattrAt>());
}

}  // namespace amber
