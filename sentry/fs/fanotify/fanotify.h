// A notification group of fanotify(7) (fs/notify/fanotify): events about files, each with a descriptor of the file or, in groups that were made with
// FAN_REPORT_FID and its kin, with handles and names (identify.cc).
//
// A group is told of everything that happens (PlaceObserver), and looks which of its marks want that: of the inode, of its directory, of the
// mount and of the file system. Guarded by the kernel lock.
#pragma once

#include <sys/fanotify.h>

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "sentry/fs/fanotify/permission.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/wait_queue.h"
#include "sentry/vfs/file.h"
#include "sentry/vfs/mount.h"
#include "sentry/vfs/notify.h"
#include "sentry/vfs/reconfigure.h"

namespace amber {

namespace fanotify_state {
class Fanotify_Event;
}

// What Debian 12's headers do not have yet.
inline constexpr uint32_t kFanReportFdError = 0x2000, kFanPreAccess = 0x100000;
inline constexpr uint32_t kFanFids = FAN_REPORT_FID | FAN_REPORT_DIR_FID | FAN_REPORT_NAME | FAN_REPORT_TARGET_FID;
// Events about names in directories, and about inodes.
inline constexpr uint32_t kFanNameEvents = FAN_CREATE | FAN_DELETE | FAN_MOVE | FAN_RENAME;
inline constexpr uint32_t kFanInodeEvents = FAN_ATTRIB | FAN_MOVE_SELF | FAN_DELETE_SELF;
// Those that come with a descriptor, if the group has descriptors.
inline constexpr uint32_t kFanPathEvents = FAN_ACCESS | FAN_MODIFY | FAN_CLOSE | FAN_OPEN | FAN_OPEN_EXEC;

class Fanotify final : public File, public PlaceObserver {
 public:
  // fs.fanotify.max_*: events of a group; groups and marks of a user. The events of all groups of a user are bounded, too.
  static constexpr size_t kMaxEvents = 16384, kMaxGroups = 128, kMaxMarks = 8192, kMaxUserEvents = 4 * kMaxEvents;
  enum class On : uint8_t { kInode, kMount, kFileSystem };

  Fanotify() = default;  // for Load()
  ~Fanotify() override;
  // `init_flags`: FAN_*, `event_flags`: O_* of the descriptors that events bring; both checked. EMFILE.
  static ErrnoOr<RefPtr<Fanotify>> Make(Task& task, uint32_t init_flags, uint32_t event_flags);

  // fanotify_mark(2), with `flags` FAN_MARK_IGNORED_MASK and the like.
  ErrnoOr<void> Add(const VfsPath& place, On on, uint32_t flags, uint32_t mask);
  ErrnoOr<void> Remove(const VfsPath& place, On on, uint32_t flags, uint32_t mask);
  void Flush(On on);
  // It is of a class that may be asked for leave.
  bool decides() const { return (init_flags_ & (FAN_CLASS_CONTENT | FAN_CLASS_PRE_CONTENT)) != 0; }
  uint32_t init_flags() const { return init_flags_; }
  // Of who made it.
  const UserNamespace* user_ns() const { return user_ns_.get(); }

  void OnPlaceEvent(const VfsPath& place, uint32_t mask) override;
  void OnNameEvent(const NameEvent& event) override;
  ErrnoOr<void> OnPlacePermission(const VfsPath& place, uint32_t mask) override;
  void OnMountGone(const Mount& mount) override;
  void OnUnmounted(const FileSystem& fs) override;

  ErrnoOr<size_t> Read(Task& task, Sink& sink) override;
  ErrnoOr<size_t> Write(Task& task, Source& source) override;
  ErrnoOr<uint64_t> Ioctl(Task& task, uint32_t command, uint64_t argument) override;
  ErrnoOr<void> Stat(Task& task, struct stat* out) override;
  uint32_t Poll(Task& task) override;
  WaitQueue* wait_queue() override { return &queue_; }
  bool pollable() const override { return true; }
  std::string LinkName() const override { return "anon_inode:[fanotify]"; }
  std::string FdInfo() const override;

  state::Kind kind() const override { return state::Kind::kFanotify; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 private:
  struct Mark {
    On on = On::kInode;
    uint32_t mask = 0, ignored = 0;
    bool survives = false;   // FAN_MARK_IGNORED_SURV_MODIFY
    bool precise = false;    // FAN_MARK_IGNORE: `ignored` says itself whether it is about directories and children
    bool evictable = false;  // FAN_MARK_EVICTABLE; told, and kept like any other
    // Not for marks of mounts, which keep nothing. A mount of our own keeps the file system, and no mount of the guest's busy.
    RefPtr<Mount> keeper;
    RefPtr<Dentry> dentry;
  };
  // By what a group without descriptors tells the file.
  struct Ids {
    uint64_t fsid = 0;
    FileHandle dir, new_dir, object;  // without bytes: not told
    std::string name, new_name;
  };
  struct Event {
    uint32_t mask = 0;
    int pid = 0;
    VfsPath place;                          // none: overflow, or `ids`
    uint64_t serial = 0;                    // the process (GroupExtras::serial), whose number may be another's by now; only with FAN_REPORT_PIDFD
    RefPtr<FanotifyPermission> permission;  // who waits for the answer to this event
    std::unique_ptr<Ids> ids;
    bool overflow() const { return !place && ids == nullptr; }
  };
  enum Matched : uint32_t { kByInode = 1, kByNewDir = 2, kByFileSystem = 4 };
  using Marks = std::map<std::pair<On, const void*>, Mark>;

  // What a mark wants to be told, and not, of an event of this kind.
  static uint32_t WantedBy(const Mark& mark, bool dir, bool of_child);
  static uint32_t IgnoredBy(const Mark& mark, bool dir, bool of_child);
  static ErrnoOr<void> CheckUpdate(const Mark& mark, uint32_t flags);
  // A descriptor of the process; FAN_NOPIDFD, FAN_EPIDFD.
  int PidFdFor(Task& task, const Event& event) const;
  bool reports_pidfd() const { return (init_flags_ & FAN_REPORT_PIDFD) != 0; }
  bool reports_ids() const { return (init_flags_ & kFanFids) != 0; }
  static const void* KeyOf(const VfsPath& place, On on);
  Mark* Find(On on, const void* key);
  // What of the event's mask the marks want; `mount`: of what it came by, if anything. `matched`: whose.
  uint32_t InterestIn(const NameEvent& event, const Mount* mount, uint32_t* matched);
  static NameEvent EventAt(const VfsPath& place, uint32_t mask);
  void Post(Event event);
  // False: there is no room.
  bool Queue(Event event);
  // --- identify.cc ---
  std::unique_ptr<Ids> Identify(const NameEvent& event, uint32_t told, uint32_t matched) const;
  // Events with the same one are merged.
  static std::string MergeKey(const Event& event);
  // What follows the event's metadata.
  std::string InfoOf(const Event& event) const;
  static void SaveIds(const Ids& ids, fanotify_state::Fanotify_Event* out);
  static bool LoadIds(const fanotify_state::Fanotify_Event& in, Event* event);
  int ActorPid() const;
  void DropAbandoned();
  void AllowAll();
  template <typename F>
  void DropMarks(F matches);
  // A mark comes (1) or goes (-1); a change of one is both.
  void Count(const Mark& mark, int by);
  void CountEvents(int64_t by);
  Event Take();
  void PutBack(Event event);
  // A descriptor for the event's file; -1 for overflow, and where there are none.
  ErrnoOr<int> OpenFor(Task& task, const Event& event);
  // The metadata and what follows; its descriptors are in `fds`.
  ErrnoOr<std::string> Describe(Task& task, const Event& event, std::string info, int fds[2]);

  uint32_t init_flags_ = 0, event_flags_ = 0;
  uint32_t uid_ = 0;
  RefPtr<UserNamespace> user_ns_;  // null: the initial one
  bool unprivileged_ = false;      // FANOTIFY_UNPRIV: it is not told who does something
  RefPtr<PidNamespace> pids_;      // who reads; events name processes as they are seen from there
  Marks marks_;
  std::deque<Event> events_;
  // Which event a further one with the same key is merged with, by the number of events that were queued before it.
  std::unordered_map<std::string, uint64_t> latest_;
  uint64_t taken_ = 0;       // events that were read
  bool overflowed_ = false;  // the last event says so
  bool counted_ = false;
  // Of the marks: those that ask for leave, those of mounts, the others by file system.
  int judging_ = 0, mount_marks_ = 0;
  std::unordered_map<const FileSystem*, int> marked_;
  bool judges_ = false;  // counted in notify_internal::judges
  uint64_t number_ = 0;  // tells it from other groups, in the keys of what waits
  // Permission events that were read: their descriptors, and who waits.
  std::vector<std::pair<int, RefPtr<FanotifyPermission>>> unanswered_;
  WaitQueue queue_;
};

}  // namespace amber
