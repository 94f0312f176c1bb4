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
// Room for a dozen files and more, without which further directories are not tried.
constexpr size_t kLeastForOther = 1024;
static_assert(1 + kMaxListings <= kMaxDescriptors);

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

// One directory of a ReadDir.
struct Session::Listing {
  uint32_t index = 0;       // of others
  UniqueFd directory;       // open for reading
  RefPtr<HostNode> node;    // to become the peer's, if it was looked up
  struct statx attributes;  // of `node`
  UniqueFd look;
  size_t begin = 0, end = 0;  // of the records in scratch_
  unsigned count = 0;         // of the names in them
  bool more = false;
};

// `name` may be empty: `parent` itself.
ErrnoOr<void> Session::BeginListing(const RefPtr<HostNode>& parent, std::string_view name, bool look, Listing* listing) {
  RefPtr<HostNode> node = parent;
  if (!name.empty()) {
    Inode inode = TRY(LookUp(*parent, name));
    if (inode.type() != S_IFDIR) return Errno(ENOTDIR);
    listing->attributes = inode.attributes;
    node = MakeRef<HostNode>(std::move(inode.fd), parent->attach(), inode.type(), inode.dev());
    listing->node = node;
  }
  if (look && node->attach().allow_directories) listing->look.reset(fcntl(node->fd(), F_DUPFD_CLOEXEC, 0));
  listing->directory.reset(openat(node->fd(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
  if (!listing->directory.valid()) return Errno(errno == EMFILE ? ENFILE : errno);
  return {};
}

// Reads records behind those that scratch_ has, until it has `most` bytes; with `all` it fails with E2BIG if that is not enough.
ErrnoOr<void> Session::ReadRecords(size_t most, bool all, Listing* listing) {
  size_t at = scratch_.size();
  listing->begin = at;
  scratch_.resize(most);
  listing->more = true;
  // The end is told with the last names, not by a call of its own.
  while (listing->more && most - at >= kLargestRecord) {
    long n = syscall(SYS_getdents64, listing->directory.get(), scratch_.data() + at, most - at);
    if (n < 0 && (all || at == listing->begin)) return Errno(errno);
    if (n < 0) break;  // the next call finds it, too
    at += static_cast<size_t>(n);
    listing->more = n > 0;
  }
  scratch_.resize(at);
  listing->end = at;
  if (all && listing->more) return Errno(E2BIG);
  for (size_t i = listing->begin; i < at;) {
    auto* record = reinterpret_cast<const DirectoryRecord*>(scratch_.data() + i);
    i += record->length;
    // A broken file system may have names that the client must not see.
    if (CheckName(record->name).ok()) ++listing->count;
  }
  return {};
}

// What cannot be listed, or does not fit, is left out; who wants it all the same asks for it alone.
std::vector<Session::Listing> Session::ListOthers(const RefPtr<HostNode>& parent, wire::ReadDir::Reader request, size_t most) {
  std::vector<Listing> others;
  auto names = request.getOthers();
  for (uint32_t i = 0; i < names.size() && most - scratch_.size() >= kLeastForOther; ++i) {
    Listing other;
    other.index = i;
    size_t before = scratch_.size();
    if (!BeginListing(parent, AsString(names[i]), request.getLook(), &other).ok()) continue;
    if (!ReadRecords(most, true, &other).ok()) {
      scratch_.resize(before);
      break;
    }
    others.push_back(std::move(other));
  }
  return others;
}

void Session::EncodeEntries(const Listing& listing, bool plus, ::capnp::List<wire::DirEntry>::Builder list) const {
  unsigned i = 0;
  for (size_t at = listing.begin; at < listing.end;) {
    auto& record = *reinterpret_cast<const DirectoryRecord*>(scratch_.data() + at);
    at += record.length;
    if (!CheckName(record.name).ok()) continue;
    auto entry = list[i++];
    entry.setName(AsData(record.name));
    entry.setIno(record.ino);
    entry.setType(record.type);
    if (!plus && record.type != DT_UNKNOWN) continue;
    struct statx s;
    if (statx(listing.directory.get(), record.name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_BASIC_STATS | STATX_BTIME, &s) != 0) continue;
    entry.setType(IFTODT(s.stx_mode));
    if (plus) EncodeAttributes(s, entry.initAttributes());
  }
}

ErrnoOr<void> Session::ReadDir(wire::ReadDir::Reader request, wire::Response::Builder response) {
  Listing first;
  first.directory = std::move(directory_);
  RefPtr<HostNode> parent;
  if (request.getOthers().size() > kMaxListings) return Errno(EINVAL);
  for (auto name : request.getOthers()) TRY(CheckName(AsString(name)));
  if (!request.getContinue()) {
    parent = TRY(Directory(request.getNode()));
    TRY(BeginListing(parent, AsString(request.getName()), request.getLook(), &first));
  }
  if (!first.directory.valid()) return Errno(EINVAL);
  bool plus = request.getPlus();
  size_t most = plus ? kDirectoryPlusChunk : kDirectoryChunk;
  scratch_.clear();
  TRY(ReadRecords(most, false, &first));
  std::vector<Listing> others;
  if (!first.more && parent) others = ListOthers(parent, request, most);

  uint64_t id = first.node ? TRY(server_.nodes().Add(first.node)) : 0;
  std::vector<uint64_t> other_ids;
  for (Listing& other : others) {
    auto added = server_.nodes().Add(std::move(other.node));
    if (!added.ok()) break;
    other_ids.push_back(*added);
  }
  auto answer = response.initReadDir();
  answer.setMore(first.more);
  answer.setLooks(first.look.valid());
  if (first.look.valid()) reply_files_.push_back(std::move(first.look));
  if (first.node) {
    answer.initDirectory().setId(id);
    EncodeAttributes(first.attributes, answer.getDirectory().initAttributes());
  }
  EncodeEntries(first, plus, answer.initEntries(first.count));
  auto list = answer.initOthers(static_cast<unsigned>(other_ids.size()));
  for (unsigned i = 0; i < other_ids.size(); ++i) {
    list[i].setIndex(others[i].index);
    list[i].initDirectory().setId(other_ids[i]);
    EncodeAttributes(others[i].attributes, list[i].getDirectory().initAttributes());
    list[i].setLooks(others[i].look.valid());
    if (others[i].look.valid()) reply_files_.push_back(std::move(others[i].look));
    EncodeEntries(others[i], plus, list[i].initEntries(others[i].count));
  }
  if (first.more) directory_ = std::move(first.directory);
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
