// Attach, Walk, ReadDir, and reading what is known about a node.
#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <charconv>
#include <cstring>
#include <utility>
#include <vector>

#include "gofer/client.h"
#include "gofer/session.h"

namespace amber::gofer {
namespace {

// linux_dirent64 is not in a header for users.
struct DirectoryRecord {
  uint64_t ino;
  int64_t offset;
  uint16_t length;
  uint8_t type;
  char name[];
};

// How much of a directory is read for one answer. An entry's encoding is larger than its record; these keep the worst
// case (names of one to four bytes) below kMaxPacket.
constexpr size_t kDirectoryChunk = 32 * 1024;
constexpr size_t kLargestRecord = 280;  // of a name of NAME_MAX bytes
constexpr size_t kDirectoryPlusChunk = 16 * 1024;

// File systems that are interfaces to the kernel, and nothing that a sandbox's files may lie on.
bool IsKernelInterface(int fd) {
  struct statfs fs;
  if (fstatfs(fd, &fs) != 0) return true;
  switch (static_cast<uint32_t>(fs.f_type)) {
    case PROC_SUPER_MAGIC:
    case SYSFS_MAGIC:
    case DEBUGFS_MAGIC:
    case TRACEFS_MAGIC:
    case SECURITYFS_MAGIC:
    case CGROUP_SUPER_MAGIC:
    case CGROUP2_SUPER_MAGIC:
    case BPF_FS_MAGIC:
    case DEVPTS_SUPER_MAGIC:
    case NSFS_MAGIC:
    case SELINUX_MAGIC:
    case SMACK_MAGIC:
    case BINDERFS_SUPER_MAGIC:
    case EFIVARFS_MAGIC:
    case 0x62656570:  // configfs
    case 0x65735543:  // fusectl
      return true;
    default: return false;
  }
}

// openat2 of one name, with a NUL behind it.
int OpenPath(int parent, std::string_view name) {
  char text[kNameMax + 1];
  memcpy(text, name.data(), name.size());
  text[name.size()] = '\0';
  open_how how = {};
  how.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  for (int tries = 0;; ++tries) {
    int fd = static_cast<int>(syscall(SYS_openat2, parent, text, &how, sizeof how));
    // EAGAIN: a mount or rename happened meanwhile (openat2(2)); another try decides.
    if (fd >= 0 || errno != EAGAIN || tries == 16) return fd;
  }
}

ErrnoOr<std::string> ReadTarget(int fd) {
  char target[kTargetMax + 1];
  ssize_t length = readlinkat(fd, "", target, sizeof target);
  if (length < 0) return Errno(errno == ENOENT ? EINVAL : errno);  // ENOENT: not a symbolic link
  return std::string(target, length);
}

}  // namespace

FdName::FdName(int fd) { *std::to_chars(text, text + sizeof text - 1, fd).ptr = '\0'; }

uint64_t DeviceOf(const struct statx& s) { return makedev(s.stx_dev_major, s.stx_dev_minor); }
uint64_t Inode::dev() const { return DeviceOf(attributes); }

ErrnoOr<struct statx> StatDescriptor(int fd) {
  struct statx s;
  if (statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, &s) != 0) return Errno(errno);
  return s;
}

void EncodeAttributes(const struct statx& s, wire::Attributes::Builder b) {
  b.setDev(DeviceOf(s));
  b.setIno(s.stx_ino);
  b.setRdev(makedev(s.stx_rdev_major, s.stx_rdev_minor));
  b.setSize(s.stx_size);
  b.setBlocks(s.stx_blocks);
  b.setMode(s.stx_mode);
  b.setNlink(s.stx_nlink);
  b.setUid(s.stx_uid);
  b.setGid(s.stx_gid);
  b.setBlksize(s.stx_blksize);
  b.setHasBtime((s.stx_mask & STATX_BTIME) != 0);
  b.setAtime(s.stx_atime.tv_sec);
  b.setMtime(s.stx_mtime.tv_sec);
  b.setCtime(s.stx_ctime.tv_sec);
  b.setBtime(s.stx_btime.tv_sec);
  b.setAtimeNs(s.stx_atime.tv_nsec);
  b.setMtimeNs(s.stx_mtime.tv_nsec);
  b.setCtimeNs(s.stx_ctime.tv_nsec);
  b.setBtimeNs(s.stx_btime.tv_nsec);
}

ErrnoOr<Inode> LookUp(const HostNode& parent, std::string_view name) {
  if (parent.type() != S_IFDIR) return Errno(ENOTDIR);
  TRY(CheckName(name));
  UniqueFd fd(OpenPath(parent.fd(), name));
  if (!fd.valid()) return Errno(errno == EMFILE ? ENFILE : errno);
  struct statx attributes = TRY(StatDescriptor(fd.get()));
  Inode inode{std::move(fd), attributes};
  if (inode.dev() != parent.dev() && IsKernelInterface(inode.fd.get())) return Errno(EACCES);
  return inode;
}

ErrnoOr<void> Session::Attach(std::string_view name, wire::Response::Builder response) {
  for (const AttachPoint& attach : server_.attach_points()) {
    if (attach.name != name) continue;
    UniqueFd fd(fcntl(attach.root.get(), F_DUPFD_CLOEXEC, 0));
    if (!fd.valid()) return Errno(errno == EMFILE ? ENFILE : errno);
    struct statx attributes = TRY(StatDescriptor(fd.get()));
    auto answer = response.initAttach();
    answer.setReadOnly(attach.read_only);
    return AddNode(Inode{std::move(fd), attributes}, attach, answer.initRoot());
  }
  return Errno(ENOENT);
}

ErrnoOr<void> Session::Walk(wire::Walk::Reader request, wire::Response::Builder response) {
  using Stop = WalkResult::Stop;
  auto names = request.getNames();
  if (names.size() > kMaxNames) return Errno(ENAMETOOLONG);
  bool keep = !request.getAttributesOnly();
  int open_flags = static_cast<int>(request.getOpenFlags());
  if (request.getOpen()) TRY(CheckOpenFlags(open_flags));
  RefPtr<HostNode> current = TRY(NodeOf(request.getParent()));
  for (auto name : names) TRY(CheckName(AsString(name)));

  struct Found {
    uint64_t id;
    struct statx attributes;
    std::string target;
  };
  std::vector<Found> found;
  Stop stop = Stop::kDone;
  int error = 0;
  for (auto name : names) {
    // Whatever fails from here on ends the walk, but what was found before stays and is answered.
    auto step = [&]() -> ErrnoOr<void> {
      Inode inode = TRY(LookUp(*current, AsString(name)));
      Found next{0, inode.attributes, {}};
      if (inode.type() == S_IFLNK) {
        next.target = TRY(ReadTarget(inode.fd.get()));
        stop = Stop::kSymlink;
      }
      uint32_t type = inode.type();
      uint64_t dev = inode.dev();
      auto node = MakeRef<HostNode>(std::move(inode.fd), current->attach(), type, dev);
      if (keep) next.id = TRY(server_.nodes().Add(node));
      current = std::move(node);
      found.push_back(std::move(next));
      return {};
    }();
    if (!step.ok()) {
      stop = step.Is(ENOENT) ? Stop::kMissing : Stop::kError;
      error = step.error().number();
    }
    if (stop != Stop::kDone) break;
  }

  auto answer = response.initWalk();
  answer.setStop(static_cast<uint8_t>(stop));
  if (stop == Stop::kError) answer.setError(error);
  auto list = answer.initFound(static_cast<unsigned>(found.size()));
  for (unsigned i = 0; i < found.size(); ++i) {
    list[i].setId(found[i].id);
    EncodeAttributes(found[i].attributes, list[i].initAttributes());
    if (!found[i].target.empty()) list[i].setTarget(AsData(found[i].target));
  }
  if (request.getOpen() && stop == Stop::kDone && current->type() == S_IFREG) {
    auto file = OpenForPeer(*current, open_flags);
    answer.setOpened(file.ok());
    if (file.ok()) {
      reply_files_.push_back(std::move(file).value());
    } else {
      answer.setOpenError(file.error().number());
    }
  }
  return {};
}

ErrnoOr<void> Session::ReadDir(wire::ReadDir::Reader request, wire::Response::Builder response) {
  UniqueFd directory = std::move(directory_);
  RefPtr<HostNode> named;
  struct statx found;
  bool looks = false;
  if (!request.getContinue()) {
    RefPtr<HostNode> node = TRY(Directory(request.getNode()));
    if (request.hasName() && request.getName().size() > 0) {
      Inode inode = TRY(LookUp(*node, AsString(request.getName())));
      if (inode.type() != S_IFDIR) return Errno(ENOTDIR);
      found = inode.attributes;
      node = MakeRef<HostNode>(std::move(inode.fd), node->attach(), inode.type(), inode.dev());
      named = node;
    }
    if (request.getLook()) looks = GiveDirectory(*node).ok();
    directory.reset(openat(node->fd(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
    if (!directory.valid()) return Errno(errno == EMFILE ? ENFILE : errno);
  }
  if (!directory.valid()) return Errno(EINVAL);
  bool plus = request.getPlus();
  scratch_.resize(plus ? kDirectoryPlusChunk : kDirectoryChunk);
  long bytes = syscall(SYS_getdents64, directory.get(), scratch_.data(), scratch_.size());
  if (bytes < 0) return Errno(errno);
  // The end is told with the last names, not by a call of its own.
  bool more = bytes > 0;
  while (more && scratch_.size() - static_cast<size_t>(bytes) >= kLargestRecord) {
    long n = syscall(SYS_getdents64, directory.get(), scratch_.data() + bytes, scratch_.size() - static_cast<size_t>(bytes));
    if (n < 0) break;  // the next call finds it, too
    bytes += n;
    more = n > 0;
  }

  std::vector<const DirectoryRecord*> records;
  for (long at = 0; at < bytes;) {
    auto* record = reinterpret_cast<const DirectoryRecord*>(scratch_.data() + at);
    at += record->length;
    std::string_view name = record->name;
    // A broken file system may have names that the client must not see.
    if (CheckName(name).ok()) records.push_back(record);
  }
  auto answer = response.initReadDir();
  answer.setMore(more);
  answer.setLooks(looks);
  if (named) {
    auto node = answer.initDirectory();
    node.setId(TRY(server_.nodes().Add(std::move(named))));
    EncodeAttributes(found, node.initAttributes());
  }
  auto list = answer.initEntries(static_cast<unsigned>(records.size()));
  for (unsigned i = 0; i < records.size(); ++i) {
    const DirectoryRecord& record = *records[i];
    auto entry = list[i];
    entry.setName(AsData(record.name));
    entry.setIno(record.ino);
    entry.setType(record.type);
    if (!plus && record.type != DT_UNKNOWN) continue;
    struct statx s;
    if (statx(directory.get(), record.name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_BASIC_STATS | STATX_BTIME, &s) != 0) {
      continue;
    }
    entry.setType(IFTODT(s.stx_mode));
    if (plus) EncodeAttributes(s, entry.initAttributes());
  }
  if (more) directory_ = std::move(directory);
  return {};
}

ErrnoOr<void> Session::GetAttr(uint64_t id, wire::Response::Builder response) {
  RefPtr<HostNode> node = TRY(NodeOf(id));
  EncodeAttributes(TRY(StatDescriptor(node->fd())), response.initAttributes());
  return {};
}

ErrnoOr<void> Session::ReadLink(uint64_t id, wire::Response::Builder response) {
  RefPtr<HostNode> node = TRY(NodeOf(id));
  if (node->type() != S_IFLNK) return Errno(EINVAL);
  response.setBytes(AsData(TRY(ReadTarget(node->fd()))));
  return {};
}

ErrnoOr<void> Session::StatFs(uint64_t id, wire::Response::Builder response) {
  RefPtr<HostNode> node = TRY(NodeOf(id));
  struct statfs fs;
  if (fstatfs(node->fd(), &fs) != 0) return Errno(errno);
  auto b = response.initStatFs();
  b.setType(static_cast<uint64_t>(fs.f_type));
  b.setBlockSize(fs.f_bsize);
  b.setFragmentSize(fs.f_frsize);
  b.setBlocks(fs.f_blocks);
  b.setBlocksFree(fs.f_bfree);
  b.setBlocksAvailable(fs.f_bavail);
  b.setFiles(fs.f_files);
  b.setFilesFree(fs.f_ffree);
  uint64_t fs_id;
  static_assert(sizeof fs_id == sizeof fs.f_fsid);
  memcpy(&fs_id, &fs.f_fsid, sizeof fs_id);
  b.setId(fs_id);
  b.setNameMax(fs.f_namelen);
  b.setFlags(fs.f_flags);
  return {};
}

}  // namespace amber::gofer
