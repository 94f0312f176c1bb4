// A notification group of fanotify(7) (fs/notify/fanotify): events about open files, each with a descriptor of the file.
//
// A group is told of everything that happens by way of open files (PlaceObserver), and looks which of its marks want that: of the inode, of
// its directory, of the mount and of the file system. Guarded by the kernel lock.
#pragma once

#include <sys/fanotify.h>

#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "sentry/fs/fanotify/permission.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/wait_queue.h"
#include "sentry/vfs/file.h"
#include "sentry/vfs/mount.h"
#include "sentry/vfs/notify.h"

namespace amber {

class Fanotify final : public File, public PlaceObserver {
 public:
  static constexpr size_t kMaxEvents = 16384, kMaxGroups = 128, kMaxMarks = 8192;  // fs.fanotify.max_*
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

  void OnPlaceEvent(const VfsPath& place, uint32_t mask) override;
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
  struct Event {
    uint32_t mask = 0;
    int pid = 0;
    VfsPath place;                          // none: overflow
    uint64_t serial = 0;                    // the process (GroupExtras::serial), whose number may be another's by now; only with FAN_REPORT_PIDFD
    RefPtr<FanotifyPermission> permission;  // who waits for the answer to this event
  };
  using Marks = std::map<std::pair<On, const void*>, Mark>;

  // What a mark wants to be told, and not, of an event of this kind.
  static uint32_t WantedBy(const Mark& mark, bool dir, bool of_child);
  static uint32_t IgnoredBy(const Mark& mark, bool dir, bool of_child);
  static ErrnoOr<void> CheckUpdate(const Mark& mark, uint32_t flags);
  // A descriptor of the process; FAN_NOPIDFD, FAN_EPIDFD.
  int PidFdFor(Task& task, const Event& event) const;
  bool reports_pidfd() const { return (init_flags_ & FAN_REPORT_PIDFD) != 0; }
  size_t event_size() const;
  static const void* KeyOf(const VfsPath& place, On on);
  Mark* Find(On on, const void* key);
  // What of `mask` the marks want.
  uint32_t InterestIn(const VfsPath& place, uint32_t mask);
  void Post(const VfsPath& place, uint32_t mask);
  // False: there is no room.
  bool Queue(const VfsPath& place, uint32_t mask, RefPtr<FanotifyPermission> permission);
  int ActorPid() const;
  void DropAbandoned();
  void AllowAll();
  // After each change of marks.
  void CountJudges();
  Event Take();
  // A descriptor for the event's file; -1 for overflow.
  ErrnoOr<int> OpenFor(Task& task, const Event& event);

  uint32_t init_flags_ = 0, event_flags_ = 0;
  uint32_t uid_ = 0;
  RefPtr<PidNamespace> pids_;  // who reads; events name processes as they are seen from there
  Marks marks_;
  std::deque<Event> events_;
  // Which event of a place and process a further one is merged with, by the number of events that were queued before it.
  std::map<std::tuple<const Mount*, const Dentry*, int>, uint64_t> latest_;
  uint64_t taken_ = 0;       // events that were read
  bool overflowed_ = false;  // the last event says so
  bool counted_ = false;
  bool judges_ = false;  // counted in notify_internal::judges
  uint64_t number_ = 0;  // tells it from other groups, in the keys of what waits
  // Permission events that were read: their descriptors, and who waits.
  std::vector<std::pair<int, RefPtr<FanotifyPermission>>> unanswered_;
  WaitQueue queue_;
};

}  // namespace amber
