// The synchronous client of a gofer, used inside the sentry (and by tests).
//
// A Client owns a few channels (SOCK_SEQPACKET sockets, one server thread each). Every call takes a free channel, sends
// one message, sleeps in recvmsg until the answer is there, and gives the channel back; with all channels taken a call
// waits for one. Thread-safe: any number of threads may call at once, no lock is held while waiting for the gofer.
// Not async-signal-safe. Signals do not interrupt a call.
//
// What a node is: a number that stands for one inode (an O_PATH descriptor in the gofer), not for a path: it stays valid
// when the file is renamed or unlinked, until Forget(). Every successful call that returns a node returns a new one,
// which belongs to the caller; two nodes are the same file if dev and ino are equal. Nodes do not survive a checkpoint:
// walk again from the attach point.
//
// Names are single path components: never "", ".", ".." and never with '/' or NUL (EINVAL), at most 255 bytes
// (ENAMETOOLONG). No call follows a symbolic link. No call checks permissions: the sentry does, the gofer only keeps to
// its attach points and their read-only flags (EROFS).
//
// Errors that any call may return: EIO (the gofer is gone, or refused the message and closed the channel), EBADF (not a
// node, or forgotten), ENFILE (node limit reached: forget some), EINVAL, ENOMEM; and what the host's call returned.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "sentry/base/errno_or.h"
#include "sentry/base/unique_fd.h"

namespace amber::gofer {

using NodeId = uint64_t;
inline constexpr NodeId kNoNode = 0;

struct Time {
  int64_t seconds = 0;
  uint32_t nanoseconds = 0;
  friend bool operator==(const Time&, const Time&) = default;
};

// What statx tells. dev and rdev are Linux's dev_t as stat(2) has them (makedev(3)).
struct Attributes {
  uint64_t dev = 0;
  uint64_t ino = 0;
  uint64_t rdev = 0;
  uint64_t size = 0;
  uint64_t blocks = 0;  // of 512 bytes
  uint32_t mode = 0;    // with the type: S_IFREG | 0644
  uint32_t nlink = 0;
  uint32_t uid = 0;
  uint32_t gid = 0;
  uint32_t blksize = 0;
  bool has_btime = false;
  Time atime, mtime, ctime, btime;
};

// On whose behalf a call is made, in the host's numbers.
struct Identity {
  uint32_t uid = 0;
  uint32_t gid = 0;
  std::span<const uint32_t> groups;  // the supplementary ones
};

struct Node {
  NodeId id = kNoNode;
  Attributes attributes;
  std::string target;  // of a symbolic link
};

struct AttachedRoot {
  Node root;
  bool read_only = false;
};

struct WalkOptions {
  // Nodes are not kept (their ids are kNoNode): revalidates a path that the caller has nodes for.
  bool attributes_only = false;
  // If set and every name was found and the last one is a regular file: open it as Open() does, in the same call.
  std::optional<int> open_flags;
};

struct WalkResult {
  enum class Stop : uint8_t {
    kDone,     // every name was found
    kSymlink,  // found.back() is a symbolic link (possibly the last name)
    kMissing,  // names[found.size()] does not exist
    kError,    // names[found.size()] failed with `error` (ENOTDIR, ENAMETOOLONG, EACCES, ENFILE, ...)
  };
  std::vector<Node> found;  // one for each name up to the stop
  Stop stop = Stop::kDone;
  Errno error{0};       // of kError
  UniqueFd file;        // with WalkOptions::open_flags
  Errno open_error{0};  // why `file` is absent although it was asked for; 0 if there was nothing to open
};

struct DirEntry {
  std::string name;  // never "." or ".."
  uint64_t ino = 0;
  uint8_t type = 0;                      // DT_REG, DT_DIR, ... ; never DT_UNKNOWN
  std::optional<Attributes> attributes;  // with ReadDir(plus); absent if the entry vanished meanwhile
};

struct OpenedFile {
  size_t index = 0;  // of the names that were asked for
  Node node;
  UniqueFd file;
};

struct OtherListing {
  uint32_t index;  // of the names that were asked for
  Node node;
  std::vector<DirEntry> entries;
  UniqueFd look;
};

// A directory that was listed by its name.
struct ListedDirectory {
  Node node;
  std::vector<DirEntry> entries;
  UniqueFd look;  // as of OpenDirectory(), if that was asked for and the gofer gives any
  std::vector<OtherListing> others;
};

struct CreatedFile {
  Node node;
  UniqueFd file;
};

// Owner and permission bits of something new; mode holds permission bits only (07777). The host takes away what a directory's default access control
// list says, or else the bits of `umask`.
struct NewInode {
  uint32_t mode = 0;
  uint32_t uid = 0;
  uint32_t gid = 0;
  uint32_t umask = 0;
};

// What is set is changed, in this order: size, owner, mode, times.
struct AttributeChange {
  struct TimeChange {
    bool now = false;  // the host's current time; else `time`
    Time time;
  };
  std::optional<uint64_t> size;  // regular files only
  std::optional<uint32_t> uid;
  std::optional<uint32_t> gid;
  std::optional<uint32_t> mode;  // permission bits (07777); EOPNOTSUPP for symbolic links
  std::optional<TimeChange> atime;
  std::optional<TimeChange> mtime;
};

struct FileSystemStats {
  uint64_t type = 0;  // the magic number
  uint64_t block_size = 0;
  uint64_t fragment_size = 0;
  uint64_t blocks = 0;
  uint64_t blocks_free = 0;
  uint64_t blocks_available = 0;
  uint64_t files = 0;
  uint64_t files_free = 0;
  uint64_t id = 0;
  uint64_t name_max = 0;
  uint64_t flags = 0;  // ST_RDONLY and so on
};

// Open flags that Open, Create, TmpFile and WalkOptions take: the access mode, O_APPEND, O_TRUNC, O_DIRECT, O_SYNC,
// O_DSYNC, O_NOATIME, O_NONBLOCK, O_LARGEFILE. Others (O_PATH, O_DIRECTORY, O_CREAT ...) are refused with EINVAL.
class Client {
 public:
  // Takes over the client ends of the channels (at least one). Makes no call.
  explicit Client(std::vector<UniqueFd> channels);
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // The root of the attach point `name`: a directory, or a regular file (a single-file bind mount). ENOENT.
  ErrnoOr<AttachedRoot> Attach(std::string_view name);

  // Looks up names one below the other. Fails only if nothing was tried (bad parent, a bad name, too many names);
  // everything else is in the result.
  ErrnoOr<WalkResult> Walk(NodeId parent, std::span<const std::string_view> names, WalkOptions options = {});
  // Gives nodes back. Buffered: ids travel with a later call (or at once when many have gathered). Unknown ids are
  // ignored. Never fails.
  void Forget(std::span<const NodeId> nodes);
  void Forget(NodeId node) { Forget(std::span(&node, 1)); }
  // Sends what Forget() has gathered.
  void FlushForgets();

  // A host descriptor (close-on-exec) of a regular file. EISDIR, ELOOP (symbolic link), ENXIO (socket); EACCES for
  // fifos and devices unless the attach point allows them.
  ErrnoOr<UniqueFd> Open(NodeId node, int flags);
  // An O_PATH descriptor of a directory, to look at its names with newfstatat. EACCES if the gofer does not give any.
  ErrnoOr<UniqueFd> OpenDirectory(NodeId directory);
  // Opens regular files of a directory for reading, kMaxDescriptors (gofer/protocol.h) at most. Those that cannot be opened
  // are not in the answer, which is in the order of the names.
  ErrnoOr<std::vector<OpenedFile>> OpenSeveral(NodeId parent, std::span<const std::string_view> names);
  // All entries of a directory, in the host's order.
  ErrnoOr<std::vector<DirEntry>> ReadDir(NodeId directory, bool plus = false);
  // The same of the directory that is called `name` in `parent`, looked up in the same call.
  // Also of `others` in it, kMaxListings at most, as far as they are directories and fit into the answer.
  ErrnoOr<ListedDirectory> ReadDirAt(NodeId parent, std::string_view name, bool plus, bool look, std::span<const std::string_view> others = {});
  ErrnoOr<Attributes> GetAttr(NodeId node);
  // Returns the attributes after the change. If a later step fails, earlier ones stay done.
  ErrnoOr<Attributes> SetAttr(NodeId node, const AttributeChange& change);
  // Makes the change with the next call, whatever it is, before it, or by FlushChange(). `done` hears what came of it, within that call and on its
  // thread. One that waits already is replaced: flush it, or put the new change into it.
  void SetAttrLater(NodeId node, const AttributeChange& change, std::function<void(ErrnoOr<Attributes>)> done);
  void FlushChange();
  ErrnoOr<std::string> ReadLink(NodeId node);
  ErrnoOr<FileSystemStats> StatFs(NodeId node);
  // fsync(2) or fdatasync(2) of a regular file or a directory. (Who has a descriptor of the file uses that.)
  ErrnoOr<void> Fsync(NodeId node, bool data_only = false);

  // Makes a regular file that did not exist (EEXIST) and opens it.
  ErrnoOr<CreatedFile> Create(NodeId parent, std::string_view name, int flags, NewInode inode);
  // O_TMPFILE: a file without a name; Link() gives it one unless `exclusive`.
  ErrnoOr<CreatedFile> TmpFile(NodeId parent, int flags, NewInode inode, bool exclusive = false);
  ErrnoOr<Node> MkDir(NodeId parent, std::string_view name, NewInode inode);
  ErrnoOr<Node> Symlink(NodeId parent, std::string_view name, std::string_view target, uint32_t uid, uint32_t gid);
  // `type` is S_IFREG, S_IFIFO, S_IFSOCK, or, where the attach point allows it (else EPERM), S_IFCHR or S_IFBLK.
  ErrnoOr<Node> MkNod(NodeId parent, std::string_view name, uint32_t type, uint64_t rdev, NewInode inode);
  // A socket of the host's that is connected to the one that `node` is; it never blocks. `type` is a SOCK_*. `who` is whom the other end sees, and
  // must be let through by the socket's mode (EACCES). ECONNREFUSED, EPROTOTYPE, EAGAIN (its queue is full), EPERM (the gofer cannot be `who`);
  // EOPNOTSUPP unless the attach point allows it.
  ErrnoOr<UniqueFd> Connect(NodeId node, int type, const Identity& who);
  // Makes a socket of the host's that is bound to a new name (EEXIST). EOPNOTSUPP unless the attach point allows it. ENAMETOOLONG from 100 bytes on.
  ErrnoOr<CreatedFile> BindSocket(NodeId parent, std::string_view name, int type, NewInode inode);
  // A hard link to `node`; returns its attributes after it. EXDEV across attach points.
  ErrnoOr<Attributes> Link(NodeId node, NodeId new_parent, std::string_view new_name);
  // `flags` as renameat2: 0, RENAME_NOREPLACE or RENAME_EXCHANGE. EXDEV across attach points.
  ErrnoOr<void> Rename(NodeId old_parent, std::string_view old_name, NodeId new_parent, std::string_view new_name, uint32_t flags = 0);
  // `flags`: 0 or AT_REMOVEDIR.
  ErrnoOr<void> Unlink(NodeId parent, std::string_view name, int flags = 0);

  // Extended attributes of the node itself. Values are bytes. user.*, system.posix_acl_* and security.capability may be
  // asked for (others: EOPNOTSUPP); what may be set depends on the gofer's capabilities.
  ErrnoOr<std::string> GetXattr(NodeId node, std::string_view name);
  // `flags`: 0, XATTR_CREATE or XATTR_REPLACE.
  ErrnoOr<void> SetXattr(NodeId node, std::string_view name, std::string_view value, int flags = 0);
  ErrnoOr<std::vector<std::string>> ListXattr(NodeId node);
  ErrnoOr<void> RemoveXattr(NodeId node, std::string_view name);

  // Round trips so far (for `sandbox debug --stats` and golden counters).
  uint64_t calls() const;

  struct Impl;

 private:
  std::unique_ptr<Impl> impl_;
};

// The two ends of one channel.
struct ChannelPair {
  UniqueFd client;
  UniqueFd server;
};
ErrnoOr<ChannelPair> MakeChannel();

}  // namespace amber::gofer
