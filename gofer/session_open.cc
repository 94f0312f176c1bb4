// Descriptors for the peer.
#include <fcntl.h>
#include <unistd.h>

#include <utility>

#include "gofer/protocol.h"
#include "gofer/session.h"

namespace amber::gofer {
namespace {

// O_LARGEFILE as the kernel numbers it; glibc's is 0 on 64-bit machines.
constexpr int kLargeFile = 0100000;
constexpr int kAllowedFlags = O_ACCMODE | O_APPEND | O_TRUNC | O_DIRECT | O_SYNC | O_DSYNC | O_NOATIME | O_NONBLOCK | kLargeFile;

ErrnoOr<void> CheckType(const HostNode& node) {
  switch (node.type()) {
    case S_IFREG: return {};
    case S_IFDIR: return Errno(EISDIR);
    case S_IFLNK: return Errno(ELOOP);
    case S_IFSOCK: return Errno(ENXIO);
    case S_IFIFO:
      if (node.attach().allow_fifos) return {};
      return Errno(EACCES);
    default:
      if (node.attach().allow_devices) return {};
      return Errno(EACCES);
  }
}

// Opens what a node stands for, whatever it is called now.
ErrnoOr<UniqueFd> Reopen(const HostNode& node, int flags) {
  UniqueFd fd(open(FdName(node.fd()).text, flags | O_CLOEXEC | O_NOCTTY));
  if (!fd.valid()) return Errno(errno == EMFILE ? ENFILE : errno);
  return fd;
}

}  // namespace

ErrnoOr<void> CheckOpenFlags(int flags) {
  if ((flags & ~kAllowedFlags) != 0) return Errno(EINVAL);
  // Access mode 3 means "ioctl only, checked as read and write"; nothing here needs it.
  if ((flags & O_ACCMODE) == O_ACCMODE) return Errno(EINVAL);
  return {};
}

ErrnoOr<UniqueFd> OpenForPeer(const HostNode& node, int flags) {
  TRY(CheckOpenFlags(flags));
  TRY(CheckType(node));
  bool writes = (flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC) != 0;
  // As in Linux, a read-only file system says nothing about what is behind its fifos and devices.
  if (writes && node.attach().read_only && node.type() == S_IFREG) return Errno(EROFS);
  // A fifo or device must not hold up the channel.
  if (node.type() != S_IFREG) flags |= O_NONBLOCK;
  return Reopen(node, flags);
}

ErrnoOr<void> Session::Open(uint64_t id, uint32_t flags, wire::Response::Builder response) {
  RefPtr<HostNode> node = TRY(NodeOf(id));
  if (flags == kDirectoryForLooking) {
    if (node->type() != S_IFDIR) return Errno(ENOTDIR);
    TRY(GiveDirectory(*node));
  } else {
    reply_files_.push_back(TRY(OpenForPeer(*node, static_cast<int>(flags))));
  }
  response.setOpened();
  return {};
}

ErrnoOr<void> Session::GiveDirectory(const HostNode& node) {
  if (!node.attach().allow_directories) return Errno(EACCES);
  UniqueFd copy(fcntl(node.fd(), F_DUPFD_CLOEXEC, 0));
  if (!copy.valid()) return Errno(errno == EMFILE ? ENFILE : errno);
  reply_files_.push_back(std::move(copy));
  return {};
}

ErrnoOr<void> Session::OpenSeveral(wire::OpenSeveral::Reader request, wire::Response::Builder response) {
  auto names = request.getNames();
  if (names.size() > kMaxDescriptors) return Errno(EINVAL);
  RefPtr<HostNode> parent = TRY(Directory(request.getParent()));
  for (auto name : names) TRY(CheckName(AsString(name)));
  struct Opened {
    uint32_t index;
    uint64_t id;
    struct statx attributes;
  };
  std::vector<Opened> opened;
  for (uint32_t i = 0; i < names.size(); ++i) {
    // What cannot be opened is left out; who wants it all the same asks for it alone and hears why.
    auto inode = LookUp(*parent, AsString(names[i]));
    if (!inode.ok() || inode->type() != S_IFREG) continue;
    auto node = MakeRef<HostNode>(std::move(inode->fd), parent->attach(), inode->type(), inode->dev());
    auto file = OpenForPeer(*node, O_RDONLY | O_NONBLOCK);
    if (!file.ok()) continue;
    auto id = server_.nodes().Add(std::move(node));
    if (!id.ok()) break;
    opened.push_back({i, *id, inode->attributes});
    reply_files_.push_back(std::move(*file));
  }
  auto list = response.initOpenedSeveral(static_cast<unsigned>(opened.size()));
  for (unsigned i = 0; i < opened.size(); ++i) {
    list[i].setIndex(opened[i].index);
    auto node = list[i].initNode();
    node.setId(opened[i].id);
    EncodeAttributes(opened[i].attributes, node.initAttributes());
  }
  return {};
}

ErrnoOr<void> Session::Fsync(uint64_t id, bool data_only) {
  RefPtr<HostNode> node = TRY(NodeOf(id));
  if (node->type() != S_IFREG && node->type() != S_IFDIR) return Errno(EINVAL);
  UniqueFd fd = TRY(Reopen(*node, O_RDONLY));
  if ((data_only ? fdatasync(fd.get()) : fsync(fd.get())) != 0) return Errno(errno);
  return {};
}

}  // namespace amber::gofer
