// Making files: every new inode gets exactly the owner and mode that the sentry decided on.
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <string>
#include <utility>

#include "gofer/session.h"

namespace amber::gofer {
namespace {

constexpr uint32_t kPermissions = 07777;
constexpr uint32_t kSpecial = S_ISUID | S_ISGID | S_ISVTX;

// Gives `node` its owner and its set-id and sticky bits (which chown and the parent's set-gid bit change); the other
// bits are those that it was made with, less what the parent's default ACL took away. Updates `s`.
ErrnoOr<void> Dress(int fd, wire::NewInode::Reader wanted, struct statx& s) {
  bool changed = false;
  if (s.stx_uid != wanted.getUid() || s.stx_gid != wanted.getGid()) {
    if (fchownat(fd, "", wanted.getUid(), wanted.getGid(), AT_EMPTY_PATH) != 0) return Errno(errno);
    changed = true;
    s = TRY(StatDescriptor(fd));
  }
  uint32_t special = wanted.getMode() & kSpecial;
  if ((s.stx_mode & S_IFMT) != S_IFLNK && (s.stx_mode & kSpecial) != special) {
    if (chmod(FdName(fd).text, (s.stx_mode & 0777) | special) != 0) return Errno(errno);
    changed = true;
  }
  if (changed) s = TRY(StatDescriptor(fd));
  return {};
}

ErrnoOr<UniqueFd> OpenNew(int directory, const char* name, int flags, uint32_t mode) {
  open_how how = {};
  how.flags = static_cast<uint64_t>(flags | O_CLOEXEC | O_NOCTTY | O_NOFOLLOW);
  how.mode = mode & 0777;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  UniqueFd fd(static_cast<int>(syscall(SYS_openat2, directory, name, &how, sizeof how)));
  if (!fd.valid()) return Errno(errno == EMFILE ? ENFILE : errno);
  return fd;
}

}  // namespace

ErrnoOr<void> CheckNew(wire::NewInode::Reader inode) {
  if ((inode.getMode() & ~kPermissions) != 0) return Errno(EINVAL);
  // -1 would mean "leave as it is" to chown.
  if (inode.getUid() == UINT32_MAX || inode.getGid() == UINT32_MAX) return Errno(EINVAL);
  return {};
}

ErrnoOr<void> Session::FinishFile(UniqueFd file, const AttachPoint& attach, wire::NewInode::Reader wanted, wire::Response::Builder response) {
  UniqueFd path(open(FdName(file.get()).text, O_PATH | O_CLOEXEC));
  if (!path.valid()) return Errno(errno == EMFILE ? ENFILE : errno);
  Inode inode{std::move(path), TRY(StatDescriptor(file.get()))};
  TRY(Dress(inode.fd.get(), wanted, inode.attributes));
  TRY(AddNode(std::move(inode), attach, response.initNode()));
  reply_files_.push_back(std::move(file));
  return {};
}

ErrnoOr<void> Session::Create(wire::Create::Reader request, wire::Response::Builder response) {
  RefPtr<HostNode> parent = TRY(DirectoryForChange(request.getParent()));
  TRY(CheckName(AsString(request.getName())));
  TRY(CheckNew(request.getInode()));
  int flags = static_cast<int>(request.getFlags());
  TRY(CheckOpenFlags(flags));
  std::string name(AsString(request.getName()));
  UniqueFd file = TRY([&] {
    UmaskOf scope(request.getInode());
    return OpenNew(parent->fd(), name.c_str(), flags | O_CREAT | O_EXCL, request.getInode().getMode());
  }());
  auto done = FinishFile(std::move(file), parent->attach(), request.getInode(), response);
  if (!done.ok()) unlinkat(parent->fd(), name.c_str(), 0);
  return done;
}

ErrnoOr<void> Session::TmpFile(wire::TmpFile::Reader request, wire::Response::Builder response) {
  RefPtr<HostNode> parent = TRY(DirectoryForChange(request.getParent()));
  TRY(CheckNew(request.getInode()));
  int flags = static_cast<int>(request.getFlags());
  TRY(CheckOpenFlags(flags));
  if ((flags & O_ACCMODE) == O_RDONLY) return Errno(EINVAL);
  flags |= O_TMPFILE | (request.getExclusive() ? O_EXCL : 0);
  UniqueFd file = TRY([&] {
    UmaskOf scope(request.getInode());
    return OpenNew(parent->fd(), ".", flags, request.getInode().getMode());
  }());
  return FinishFile(std::move(file), parent->attach(), request.getInode(), response);
}

ErrnoOr<void> Session::FinishNew(const HostNode& parent, std::string_view name, uint32_t type, wire::NewInode::Reader wanted,
                                 wire::Response::Builder response) {
  Inode inode = TRY(LookUp(parent, name));
  // Somebody else may have put another file here: then ours is gone, and theirs is not to be dressed.
  if (inode.type() != type) return Errno(ENOENT);
  auto finish = [&]() -> ErrnoOr<void> {
    TRY(Dress(inode.fd.get(), wanted, inode.attributes));
    return AddNode(std::move(inode), parent.attach(), response.initNode());
  };
  auto done = finish();
  if (!done.ok()) unlinkat(parent.fd(), std::string(name).c_str(), type == S_IFDIR ? AT_REMOVEDIR : 0);
  return done;
}

ErrnoOr<void> Session::MkDir(wire::Make::Reader request, wire::Response::Builder response) {
  RefPtr<HostNode> parent = TRY(DirectoryForChange(request.getParent()));
  TRY(CheckName(AsString(request.getName())));
  TRY(CheckNew(request.getInode()));
  std::string name(AsString(request.getName()));
  {
    UmaskOf scope(request.getInode());
    if (mkdirat(parent->fd(), name.c_str(), request.getInode().getMode() & 0777) != 0) return Errno(errno);
  }
  return FinishNew(*parent, name, S_IFDIR, request.getInode(), response);
}

ErrnoOr<void> Session::Symlink(wire::Symlink::Reader request, wire::Response::Builder response) {
  RefPtr<HostNode> parent = TRY(DirectoryForChange(request.getParent()));
  TRY(CheckName(AsString(request.getName())));
  std::string_view wanted = AsString(request.getTarget());
  if (wanted.empty()) return Errno(ENOENT);
  if (wanted.size() > kTargetMax) return Errno(ENAMETOOLONG);
  if (wanted.find('\0') != std::string_view::npos) return Errno(EINVAL);
  std::string name(AsString(request.getName()));
  std::string target(wanted);
  capnp::MallocMessageBuilder owner_message;
  auto owner = owner_message.initRoot<wire::NewInode>();
  owner.setUid(request.getUid());
  owner.setGid(request.getGid());
  TRY(CheckNew(owner.asReader()));
  if (symlinkat(target.c_str(), parent->fd(), name.c_str()) != 0) return Errno(errno);
  TRY(FinishNew(*parent, name, S_IFLNK, owner.asReader(), response));
  response.getNode().setTarget(AsData(target));
  return {};
}

ErrnoOr<void> Session::MkNod(wire::MkNod::Reader request, wire::Response::Builder response) {
  RefPtr<HostNode> parent = TRY(DirectoryForChange(request.getParent()));
  TRY(CheckName(AsString(request.getName())));
  TRY(CheckNew(request.getInode()));
  uint32_t type = request.getType();
  bool whiteout = type == S_IFCHR && request.getRdev() == 0;
  switch (type) {
    case S_IFREG:
    case S_IFIFO:
    case S_IFSOCK: break;
    case S_IFCHR:
    case S_IFBLK:
      // A whiteout is no device: it cannot be opened, and needs no capability on the host.
      if (!whiteout && !parent->attach().allow_devices) return Errno(EPERM);
      break;
    default: return Errno(EINVAL);
  }
  std::string name(AsString(request.getName()));
  dev_t device = type == S_IFCHR || type == S_IFBLK ? request.getRdev() : 0;
  {
    UmaskOf scope(request.getInode());
    if (mknodat(parent->fd(), name.c_str(), type | (request.getInode().getMode() & 0777), device) != 0) return Errno(errno);
  }
  return FinishNew(*parent, name, type, request.getInode(), response);
}

}  // namespace amber::gofer
