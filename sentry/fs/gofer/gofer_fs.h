// A directory tree (or one file) of the host, served by the gofer: gofer/client.h.
//
// Exclusive trees (a container's root) are cached without asking again: nobody else changes them while the sandbox runs. Shared ones (bind
// mounts) are compared with the host on every walk: by newfstatat below O_PATH descriptors of their directories if the gofer gives
// any (look.cc), else all names of the path in one call. Data never crosses the protocol: the
// gofer hands out host descriptors, which the inode keeps while the file is open and, for the last kMaxIdleFds files, longer.
// Kernel lock; gofer calls are made with it held.
#pragma once

#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "gofer/client.h"
#include "sentry/base/unique_fd.h"
#include "sentry/vfs/acl.h"
#include "sentry/vfs/file_system.h"
#include "sentry/vfs/host_sockets.h"
#include "sentry/vfs/inode.h"
#include "sentry/vfs/reconfigure.h"
#include "sentry/vfs/restrict.h"

namespace amber {

class GoferFileSystem;
class HandleTable;
class LaterChange;

class GoferInode final : public Inode, public AclKeeper, public HostSocketInode, public FlaggedInode {
 public:
  GoferInode() = default;  // for Loader
  GoferInode(GoferFileSystem* fs, RefPtr<GoferInode> parent, std::string_view name, gofer::Node node);
  ~GoferInode() override;

  ErrnoOr<void> Refresh() override;
  ErrnoOr<void> SetAttr(const VfsContext& ctx, const AttrChange& change) override;
  ErrnoOr<RefPtr<Inode>> Lookup(const VfsContext& ctx, std::string_view name) override;
  ErrnoOr<void> LookupAhead(const VfsContext& ctx, std::span<const std::string_view> names, std::span<Inode* const> known, bool open_read,
                            std::vector<RefPtr<Inode>>* found) override;
  ErrnoOr<RefPtr<Inode>> Make(const VfsContext& ctx, std::string_view name, const NewNode& node) override;
  ErrnoOr<RefPtr<Inode>> MakeUnnamed(const VfsContext& ctx, const NewNode& node) override;
  ErrnoOr<void> Link(const VfsContext& ctx, std::string_view name, Inode& target) override;
  ErrnoOr<void> Unlink(const VfsContext& ctx, std::string_view name, Inode& victim) override;
  ErrnoOr<void> Rmdir(const VfsContext& ctx, std::string_view name, Inode& victim) override;
  ErrnoOr<void> Rename(const VfsContext& ctx, std::string_view old_name, Inode& moved, Inode& new_dir, std::string_view new_name, Inode* replaced,
                       uint32_t flags) override;
  ErrnoOr<std::vector<DirEnt>> List(const VfsContext& ctx) override;
  ErrnoOr<std::string> ReadLink(const VfsContext& ctx) override;

  // Fifos of the host, if the gofer opens them (--host-fifo=open); else a fifo is one of the sandbox's.
  ErrnoOr<RefPtr<File>> Open(const VfsContext& ctx, const VfsPath& path, int flags) override;

  // If the gofer does (--host-uds).
  ErrnoOr<UniqueFd> ConnectHostSocket(const Credentials& who, int socket_type) override;
  ErrnoOr<UniqueFd> BindHostSocketAgain(int socket_type) override;

  ErrnoOr<void> BeginIo(bool write) override;
  void EndIo(bool write) override;
  ErrnoOr<int> HostFd(bool write) override;
  bool sentry_owned() const override { return detached_; }
  void DidWrite(uint64_t end) override;
  ErrnoOr<void> Fallocate(const VfsContext& ctx, int mode, uint64_t offset, uint64_t size) override;
  ErrnoOr<void> Sync(bool data_only) override;

  ErrnoOr<std::string> GetXattr(std::string_view name) override;
  ErrnoOr<void> SetXattr(std::string_view name, std::string_view value, int flags) override;
  ErrnoOr<std::vector<std::string>> ListXattr() override;
  ErrnoOr<void> RemoveXattr(std::string_view name) override;
  // What the host's file has; only of regular files, which alone have descriptors here.
  ErrnoOr<uint32_t> GetFlags() override;
  ErrnoOr<void> SetFlags(uint32_t /*flags*/) override { return Errno(EOPNOTSUPP); }
  bool takes_acls() const override { return !IsSymlink() && !detached_; }
  const Acl* acl() const override { return const_cast<GoferInode*>(this)->NeedAcl(false); }
  const Acl* default_acl() const override { return IsDir() ? const_cast<GoferInode*>(this)->NeedAcl(true) : nullptr; }

  // The host's device and inode number.
  const std::pair<uint64_t, uint64_t>& key() const { return key_; }

  state::Kind kind() const override { return state::Kind::kGoferInode; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;
  std::string CannotSave() const override;

 private:
  friend class GoferFileSystem;
  friend class LaterChange;
  GoferFileSystem& gofer() const;
  gofer::Client& client() const;
  void Take(const gofer::Attributes& a);  // the host's attributes become ours
  void TakeStat(const struct stat& st);   // what an open descriptor tells
  ErrnoOr<void> NeedNode();
  // `node` is what the parent has under our name. ESTALE: another file.
  ErrnoOr<void> TakeNode(gofer::Node node);
  ErrnoOr<void> NeedFd(bool write);
  // The host's list, asked for once in trees that are ours alone, and again when the file has changed in others.
  const Acl* NeedAcl(bool defaults);
  void ForgetAcl(std::string_view xattr);
  // A name of this directory came, or went.
  void NameAdded(std::string_view name);
  void NameRemoved(std::string_view name);
  void NamesChanged();
  // --- listed.cc ---
  // What a listing with attributes says of a name. Asks for that listing if names were listed and are looked at one by one now.
  enum class Listed { kUnknown, kMissing, kFound };
  Listed LookInListing(std::string_view name, const struct stat* now, RefPtr<GoferInode>* found);
  bool NeedListing();
  // `asked`: FileClock() of before it was read.
  void KeepListing(const std::vector<gofer::DirEntry>& entries, const timespec& asked);
  void DropListing();
  // Reads the names of this directory, by way of its parent if there is no node yet. If `keep` is given it is for list_, and says then
  // whether it can be kept.
  ErrnoOr<std::vector<gofer::DirEntry>> ReadNames(bool plus, bool* keep);
  // The directories of ours that will be listed after `child`, which is about to be.
  std::vector<std::string> DirectoriesAhead(const GoferInode& child);
  void KeepListedAhead(const std::string& name, gofer::OtherListing other, const timespec& asked);
  // We were listed ahead, and now we are listed.
  void UseListedAhead();
  // Our attributes change: the parent's listing is wrong about them.
  void Outdate();
  // Before a name of `victim` goes: who still uses it must find it without.
  static ErrnoOr<void> NeedNodeBeyond(GoferInode& victim);
  // The walk of names in a tree that is ours alone.
  ErrnoOr<void> WalkExclusive(std::span<const std::string_view> names, bool open_read, std::vector<RefPtr<Inode>>* found);
  // --- ahead.cc ---
  // Has `file`, which is called `name` here, opened for reading, with those that may be wanted next, or finds it opened.
  // False: it is to be opened alone.
  bool OpenAhead(std::string_view name, GoferInode& file);
  std::vector<std::string_view> NamesAhead(std::string_view name, uint32_t position, size_t most) const;
  void TakeOpened(gofer::NodeId node, UniqueFd file);
  // --- look.cc ---
  // --- special.cc ---
  // A socket's file, for who binds to it, or for nobody.
  ErrnoOr<gofer::Node> MakeSocket(std::string_view name, const gofer::NewInode& inode);
  // What newfstatat says about a name of this directory.
  enum class Look { kSame, kMissing, kAsk };
  Look LookAt(std::string_view name, Inode* known, bool last, bool will_open, RefPtr<GoferInode>* listed);
  // Whether the host was found to have this directory under the name that led here less than kFreshNs ago.
  bool WasJustNamed() const;
  // Takes over what the host says of this inode, unless that hides a change of its owner.
  bool Confirm(const struct stat& st);
  // Makes what waits for the next call (later.h) if it is about this file.
  void Settle() const;
  // We have changed times, size or links of the host's inode.
  void DidChange();
  // These are the attributes that we know, so that it is the file that we know.
  bool IsOf(const gofer::Attributes& a) const;
  bool NeedDirFd();
  void KeepDirFd(UniqueFd fd);
  // False if the listing that is about to be read cannot be kept.
  bool BeginList();
  // The listing is still that of the host's directory.
  bool ListIsCurrent();
  // The walk that asks the gofer.
  ErrnoOr<void> AskAhead(std::span<const std::string_view> names, bool open_read, std::vector<RefPtr<Inode>>* found);
  // One of the names is gone.
  void NameGone(const GoferInode& dir, std::string_view name);
  void CloseFds();
  // The path from the attach point; false if a name of it is gone.
  bool HostPath(std::vector<std::string>* names) const;
  bool has_fd() const { return read_fd_.valid() || rw_fd_.valid(); }

  gofer::NodeId node_ = gofer::kNoNode;
  std::pair<uint64_t, uint64_t> key_;  // host device and inode number
  RefPtr<GoferInode> parent_;          // with name_: one name of the file, to find it again after a restore
  std::string name_;
  std::string target_;
  bool removed_ = false;          // has no name any more
  bool detached_ = false;         // was removed before a restore: the contents are ours
  bool stale_ = false;            // attributes must be asked for
  int64_t fresh_at_ = 0;          // host time of the last answer
  int64_t named_at_ = 0;          // host time of the last answer that this directory has the name that led here
  bool settled_ = false;          // any change after the last answer gives another ctime
  timespec owner_ctime_{};        // of the answer that told the owner
  int64_t owner_at_ = 0;          // host time of it
  int64_t made_at_ = 0;           // host time of when we made the file
  int64_t changed_at_ = 0;        // host time of the last change that was ours
  bool no_capabilities_ = false;  // known to have no security.capability
  struct KnownAcl {
    bool known = false;
    timespec ctime{};  // of the file, when it was asked for
    std::unique_ptr<Acl> list;
  };
  std::unique_ptr<KnownAcl[]> acls_;  // access, default
  UniqueFd read_fd_, rw_fd_;
  int open_ = 0;
  bool idle_ = false;
  std::list<GoferInode*>::iterator idle_position_;
  std::unique_ptr<std::vector<DirEnt>> list_;
  timespec list_mtime_{}, list_ctime_{};  // the directory's, of before it was read
  // With attributes; a name without any is there, but was changed by us. Complete in exclusive trees; in shared ones a name
  // counts if newfstatat says the same of it.
  static constexpr uint32_t kNoPosition = UINT32_MAX;
  struct ListedName {
    std::optional<gofer::Attributes> attributes;
    uint32_t position = kNoPosition;  // in listed_order_
  };
  using ListedNames = absl::flat_hash_map<std::string, ListedName>;
  std::unique_ptr<ListedNames> listed_;
  std::vector<std::string> listed_order_;   // as the host told the names
  uint32_t opened_position_ = kNoPosition;  // of the file that was opened last
  uint32_t read_position_ = kNoPosition;    // of the directory that was listed last
  bool listed_ahead_ = false;
  std::list<GoferInode*>::iterator listed_position_;
  size_t listed_count_ = 0;  // of what List() found last
  bool was_opened_in_ = false;
  bool was_listed_ = false;  // by the guest, since the last listing with attributes
  bool listing_used_ = false;
  UniqueFd dir_fd_;  // O_PATH
  bool no_dir_fd_ = false;
  bool was_searched_ = false;
  std::list<GoferInode*>::iterator dir_position_;
};

class GoferFileSystem final : public FileSystem, public HandleFileSystem {
 public:
  static constexpr size_t kMaxIdleFds = 512;
  static constexpr size_t kMaxDirFds = 512;
  static constexpr size_t kMaxAhead = 64;
  static constexpr size_t kMaxListedAhead = 64;      // directories
  static constexpr size_t kMaxListed = 1 << 16;      // names with attributes
  static constexpr size_t kMaxListedHere = 1 << 13;  // in one directory

  struct Options {
    std::string container;  // whose gofer: with `attach`, how a restore finds the client again
    std::string attach;
    bool exclusive = false;
  };

  GoferFileSystem();  // for Loader
  ~GoferFileSystem() override;
  // Attaches. ENOENT if the gofer has no such attach point.
  static ErrnoOr<RefPtr<GoferFileSystem>> Make(std::shared_ptr<gofer::Client> client, Options options);

  const char* type_name() const override { return "amber"; }
  ErrnoOr<void> StatFs(struct statfs* out) override;
  bool revalidates() const override { return !options_.exclusive; }

  // --- handles.cc ---
  FileHandle HandleOf(Inode& inode) override;
  ErrnoOr<Place> FindHandle(const FileHandle& handle) override;
  bool IsOfHandle(Inode& inode, const FileHandle& handle) override;

  state::Kind kind() const override { return state::Kind::kGoferFileSystem; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;

 private:
  friend class GoferInode;
  friend class LaterChange;
  // The inode for `node`: the one that exists already (the node is given back), or a new one.
  RefPtr<GoferInode> InodeFor(RefPtr<GoferInode> parent, std::string_view name, gofer::Node node);
  GoferInode* Known(const gofer::Attributes& a) const;
  ErrnoOr<void> Connect();
  // True if a file of the host's device `dev` with this ctime, looked at at `now` (of FileClock()), gets another one by any later change.
  bool IsSettled(const timespec& ctime, uint64_t dev, const timespec& now) const;
  void KeepAhead(gofer::OpenedFile opened);
  void DropAhead(const std::pair<uint64_t, uint64_t>& key);
  uint64_t GuestIno(const gofer::Attributes& a);
  // The file's number in handles_, with those of the directories above.
  uint64_t NumberOf(const GoferInode& inode);
  // It has another name now; it is gone.
  void UpdateHandle(const GoferInode& inode);
  void ForgetHandle(const GoferInode& inode);
  static std::shared_ptr<HandleTable> MakeHandles();
  std::string SaveHandles() const;
  bool LoadHandles(std::string_view bytes);

  std::shared_ptr<gofer::Client> client_;
  Options options_;
  gofer::Node root_node_;
  uint64_t root_dev_ = 0;
  bool fine_times_ = false;                  // a time that was looked at is not given twice
  std::map<uint64_t, uint64_t> other_devs_;  // host device to a number of ours
  std::map<std::pair<uint64_t, uint64_t>, GoferInode*> inodes_;
  std::shared_ptr<HandleTable> handles_;  // shared, so that handles.cc alone needs to know it
  std::unique_ptr<LaterChange> later_;
  std::list<GoferInode*> idle_;
  std::list<GoferInode*> with_dir_fd_;  // least recently used first
  bool no_dir_fds_ = false;             // the gofer gives none
  // Opened ahead (ahead.cc), by device and number.
  struct Ahead {
    gofer::NodeId node;
    UniqueFd file;
    std::list<std::pair<uint64_t, uint64_t>>::iterator position;
  };
  absl::flat_hash_map<std::pair<uint64_t, uint64_t>, Ahead> ahead_;
  std::list<std::pair<uint64_t, uint64_t>> ahead_order_;  // oldest first
  size_t ahead_window_ = 0;
  int ahead_credit_ = 128;
  // Directories that were listed before the guest asked (listed.cc), oldest first.
  std::list<RefPtr<GoferInode>> listed_ahead_;
  size_t list_window_ = 0;
  int list_credit_ = 64;
  std::list<GoferInode*> with_listing_;  // oldest first
  size_t listed_ = 0;                    // names in them
  int stats_follow_ = 0;                 // so many of the next listings are asked for with attributes at once
};

inline timespec ToTimespec(const gofer::Time& t) { return {t.seconds, static_cast<long>(t.nanoseconds)}; }
// Host time, monotonic, in nanoseconds.
int64_t HostNow();
// How long the answer of a walk serves as the answer to the stat that follows it.
inline constexpr int64_t kFreshNs = 100'000;
// The host's clock of file times.
timespec FileClock();

// For a restore: finds the client of a container's attach point; null if the bundle has none. Set before Loader::Run().
using GoferFinder = std::function<std::shared_ptr<gofer::Client>(const std::string& container, const std::string& attach)>;
void SetGoferFinder(GoferFinder finder);

}  // namespace amber
