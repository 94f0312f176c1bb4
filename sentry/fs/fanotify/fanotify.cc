#include "sentry/fs/fanotify/fanotify.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <array>
#include <cstdio>

#include "sentry/fs/anon/anon.h"
#include "sentry/fs/fanotify/fanotify.pb.h"
#include "sentry/fs/pidfd/pidfd.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/task.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/inode.h"
#include "sentry/vfs/open.h"
#include "sentry/vfs/ops.h"

namespace amber {
namespace {

// The values are those of inotify and of the hooks (include/linux/fsnotify_backend.h).
static_assert(FAN_ACCESS == IN_ACCESS && FAN_MODIFY == IN_MODIFY && FAN_CLOSE_WRITE == IN_CLOSE_WRITE && FAN_CLOSE_NOWRITE == IN_CLOSE_NOWRITE &&
              FAN_OPEN == IN_OPEN && FAN_OPEN_EXEC == kOpenExec && FAN_ONDIR == IN_ISDIR && FAN_OPEN_PERM == kOpenPermission &&
              FAN_ACCESS_PERM == kReadPermission && FAN_OPEN_EXEC_PERM == kExecPermission);
static_assert(FAN_ATTRIB == IN_ATTRIB && FAN_MOVED_FROM == IN_MOVED_FROM && FAN_MOVED_TO == IN_MOVED_TO && FAN_CREATE == IN_CREATE &&
              FAN_DELETE == IN_DELETE && FAN_DELETE_SELF == IN_DELETE_SELF && FAN_MOVE_SELF == IN_MOVE_SELF && FAN_RENAME == kRenamed);
constexpr uint32_t kHow = FAN_ONDIR | FAN_EVENT_ON_CHILD;

uint64_t next_number = 1;

// What the groups of a user add up to, but for what FAN_UNLIMITED_* frees (Linux charges events to the memory control group).
struct Usage {
  size_t groups = 0, marks = 0, events = 0;
};
std::map<uint32_t, Usage>& Users() {
  static auto* users = new std::map<uint32_t, Usage>();
  return *users;
}

}  // namespace

ErrnoOr<RefPtr<Fanotify>> Fanotify::Make(Task& task, uint32_t init_flags, uint32_t event_flags) {
  size_t& count = Users()[task.creds().uid].groups;
  if (count >= kMaxGroups) return Errno(EMFILE);
  auto file = MakeRef<Fanotify>();
  file->uid_ = task.creds().uid;
  file->counted_ = true;
  ++count;
  file->init_flags_ = init_flags;
  file->event_flags_ = event_flags;
  file->user_ns_ = task.creds().user_ns;
  file->unprivileged_ = !task.Has(CAP_SYS_ADMIN);
  file->pids_ = RefPtr<PidNamespace>(&task.group().pids());
  file->set_flags(O_RDWR | ((init_flags & FAN_NONBLOCK) != 0 ? O_NONBLOCK : 0));
  file->number_ = next_number++;
  AddPlaceObserver(*file, true);
  return file;
}

Fanotify::~Fanotify() {
  // First: mounts that marks keep tell observers when they go.
  RemovePlaceObserver(*this);
  AllowAll();
  DropMarks([](const auto&) { return true; });
  if (!counted_) return;
  auto user = Users().find(uid_);
  CountEvents(-static_cast<int64_t>(events_.size()));
  if (--user->second.groups == 0) Users().erase(user);
}

const void* Fanotify::KeyOf(const VfsPath& place, On on) {
  switch (on) {
    case On::kInode: return place.inode();
    case On::kMount: return place.mount.get();
    case On::kFileSystem: return &place.mount->fs();
  }
  return nullptr;
}

Fanotify::Mark* Fanotify::Find(On on, const void* key) {
  auto it = marks_.find({on, key});
  return it == marks_.end() ? nullptr : &it->second;
}

// fanotify_may_update_existing_mark()
ErrnoOr<void> Fanotify::CheckUpdate(const Mark& mark, uint32_t flags) {
  if ((flags & FAN_MARK_EVICTABLE) != 0 && !mark.evictable) return Errno(EEXIST);
  if ((flags & FAN_MARK_IGNORED_MASK) != 0 && mark.precise) return Errno(EEXIST);
  if ((flags & FAN_MARK_IGNORE) != 0 && (flags & FAN_MARK_IGNORED_SURV_MODIFY) == 0 && mark.survives) return Errno(EEXIST);
  return Ok();
}

ErrnoOr<void> Fanotify::Add(const VfsPath& place, On on, uint32_t flags, uint32_t mask) {
  bool ignores = (flags & (FAN_MARK_IGNORED_MASK | FAN_MARK_IGNORE)) != 0;
  Mark* mark = Find(on, KeyOf(place, on));
  if (mark != nullptr) TRY(CheckUpdate(*mark, flags));
  if (mark == nullptr) {
    if ((init_flags_ & FAN_UNLIMITED_MARKS) == 0 && Users()[uid_].marks >= kMaxMarks) return Errno(ENOSPC);
    mark = &marks_[{on, KeyOf(place, on)}];
    mark->on = on;
    mark->evictable = true;
    if (on != On::kMount) {
      mark->keeper = MakeRef<Mount>(place.mount->fs_ref(), place.mount->fs().root(), 0, "");
      mark->dentry = place.dentry;
    }
  } else {
    Count(*mark, -1);
  }
  (ignores ? mark->ignored : mark->mask) |= mask;
  if (ignores && (flags & FAN_MARK_IGNORED_SURV_MODIFY) != 0) mark->survives = true;
  if ((flags & FAN_MARK_IGNORE) != 0) mark->precise = true;
  if ((flags & FAN_MARK_EVICTABLE) == 0) mark->evictable = false;
  Count(*mark, 1);
  return Ok();
}

// What a mark keeps tells of its end when it goes, and so comes back to marks_: they go when they are out of it.
template <typename F>
void Fanotify::DropMarks(F matches) {
  std::vector<Marks::node_type> gone;
  for (auto it = marks_.begin(); it != marks_.end();) {
    auto next = std::next(it);
    if (matches(*it)) {
      Count(it->second, -1);
      gone.push_back(marks_.extract(it));
    }
    it = next;
  }
}

ErrnoOr<void> Fanotify::Remove(const VfsPath& place, On on, uint32_t flags, uint32_t mask) {
  Mark* mark = Find(on, KeyOf(place, on));
  if (mark == nullptr) return Errno(ENOENT);
  Count(*mark, -1);
  ((flags & (FAN_MARK_IGNORED_MASK | FAN_MARK_IGNORE)) != 0 ? mark->ignored : mark->mask) &= ~mask;
  Count(*mark, 1);
  if (((mark->mask | mark->ignored) & ~kHow) == 0) DropMarks([&](const auto& entry) { return &entry.second == mark; });
  return Ok();
}

void Fanotify::Flush(On on) {
  DropMarks([&](const auto& entry) { return entry.first.first == on; });
}

// Told of the mounts that others' marks keep, too: nothing here may look at all marks.
void Fanotify::OnMountGone(const Mount& mount) {
  if (mount_marks_ == 0) return;
  auto it = marks_.find({On::kMount, &mount});
  if (it == marks_.end()) return;
  Count(it->second, -1);
  marks_.erase(it);
}

void Fanotify::Count(const Mark& mark, int by) {
  if ((mark.mask & kFanotifyPermissions) != 0) judging_ += by;
  if (bool judges = judging_ > 0; judges != std::exchange(judges_, judges)) notify_internal::judges += judges ? 1 : size_t{0} - 1;
  if (mark.on == On::kMount) {
    mount_marks_ += by;
  } else if (const FileSystem* fs = &mark.dentry->fs(); (marked_[fs] += by) == 0) {
    marked_.erase(fs);
  }
  if ((init_flags_ & FAN_UNLIMITED_MARKS) == 0) Users()[uid_].marks += static_cast<size_t>(by);
}

void Fanotify::CountEvents(int64_t by) {
  if ((init_flags_ & FAN_UNLIMITED_QUEUE) == 0) Users()[uid_].events += static_cast<size_t>(by);
}

void Fanotify::OnUnmounted(const FileSystem& fs) {
  if (!marked_.contains(&fs)) return;
  DropMarks([&](const auto& entry) { return entry.second.dentry && &entry.second.dentry->fs() == &fs; });
}

uint32_t Fanotify::WantedBy(const Mark& mark, bool dir, bool of_child) {
  if ((dir && (mark.mask & FAN_ONDIR) == 0) || (of_child && (mark.mask & FAN_EVENT_ON_CHILD) == 0)) return 0;
  return mark.mask;
}

// fsnotify_effective_ignore_mask(): what FAN_MARK_IGNORED_MASK left is about directories always, and about children if the mark itself is.
uint32_t Fanotify::IgnoredBy(const Mark& mark, bool dir, bool of_child) {
  if (dir && mark.precise && (mark.ignored & FAN_ONDIR) == 0) return 0;
  if (of_child && ((mark.precise ? mark.ignored : mark.mask) & FAN_EVENT_ON_CHILD) == 0) return 0;
  return mark.ignored & ~kHow;
}

// fanotify_group_event_mask()
uint32_t Fanotify::InterestIn(const NameEvent& event, const Mount* mount, uint32_t* matched) {
  bool about_dir = (event.mask & IN_ISDIR) != 0, about_name = (event.mask & kFanNameEvents) != 0;
  // Without a path there is no descriptor; without a directory nothing that a group which tells only those could tell.
  if (!reports_ids() && mount == nullptr) return 0;
  if (reports_ids() && (init_flags_ & FAN_REPORT_FID) == 0 && event.dir == nullptr && !about_dir) return 0;
  struct Candidate {
    Mark* mark;
    bool of_child;
    uint32_t how;
  };
  // A change of a directory's names is its own.
  const Inode* subject = about_name ? event.dir : event.inode;
  std::array<Candidate, 4> found = {{{Find(On::kInode, subject), false, kByInode},
                                     {nullptr, !about_name, kByNewDir},
                                     {mount != nullptr ? Find(On::kMount, mount) : nullptr, false, 0},
                                     {Find(On::kFileSystem, &subject->fs()), false, kByFileSystem}}};
  if (const Inode* other = about_name ? event.new_dir : event.dir; other != nullptr) found[1].mark = Find(On::kInode, other);
  uint32_t wanted = 0, ignored = 0;
  for (const Candidate& c : found) {
    if (c.mark == nullptr) continue;
    if (c.of_child && ((c.mark->mask | c.mark->ignored) & FAN_EVENT_ON_CHILD) == 0) continue;
    // send_to_group(): what is ignored is so until the file is modified.
    if ((event.mask & IN_MODIFY) != 0 && !c.mark->survives) c.mark->ignored = 0;
    ignored |= IgnoredBy(*c.mark, about_dir, c.of_child);
    uint32_t wants = WantedBy(*c.mark, about_dir, c.of_child);
    wanted |= wants;
    if (wants != 0) *matched |= c.how;
  }
  uint32_t told = event.mask & wanted & ~ignored;
  return (told & ~kHow) != 0 ? told : 0;
}

NameEvent Fanotify::EventAt(const VfsPath& place, uint32_t mask) {
  Dentry* parent = place.dentry->parent();
  return {.mask = mask, .dir = parent != nullptr ? parent->inode() : nullptr, .name = place.dentry->name(), .inode = place.inode()};
}

void Fanotify::OnPlaceEvent(const VfsPath& place, uint32_t mask) {
  NameEvent event = EventAt(place, mask);
  uint32_t matched = 0;
  uint32_t told = InterestIn(event, place.mount.get(), &matched) & (kFanPathEvents | FAN_ONDIR);
  if ((told & kFanPathEvents) == 0) return;
  if (reports_ids()) {
    Post({.mask = told, .ids = Identify(event, told, matched)});
  } else {
    Post({.mask = told & kFanPathEvents, .place = place});
  }
}

void Fanotify::OnNameEvent(const NameEvent& event) {
  uint32_t matched = 0;
  uint32_t told = reports_ids() ? InterestIn(event, nullptr, &matched) : 0;
  if (told != 0) Post({.mask = told, .ids = Identify(event, told, matched)});
  // __fsnotify_inode_delete()
  if ((event.mask & IN_DELETE_SELF) != 0 && Find(On::kInode, event.inode) != nullptr)
    DropMarks([&](const auto& entry) { return entry.first == std::pair<On, const void*>{On::kInode, event.inode}; });
}

int Fanotify::ActorPid() const {
  if (notify_actor == nullptr) return 0;
  return (init_flags_ & FAN_REPORT_TID) != 0 ? pids_->IdOf(*notify_actor) : pids_->IdOf(notify_actor->group());
}

void Fanotify::Post(Event event) {
  event.pid = ActorPid();
  // fanotify_merge()
  std::string key = MergeKey(event);
  if (auto it = latest_.find(key); it != latest_.end()) {
    events_[it->second - taken_].mask |= event.mask;
    return;
  }
  if (Queue(std::move(event))) latest_[std::move(key)] = taken_ + events_.size() - 1;
}

bool Fanotify::Queue(Event event) {
  bool full = (init_flags_ & FAN_UNLIMITED_QUEUE) == 0 && (events_.size() >= kMaxEvents || Users()[uid_].events >= kMaxUserEvents);
  if (full && overflowed_) return false;
  if (full) {
    overflowed_ = true;
    events_.push_back({.mask = FAN_Q_OVERFLOW});
  } else {
    event.pid = ActorPid();
    event.serial = reports_pidfd() && notify_actor != nullptr ? notify_actor->group().extras().serial : 0;
    events_.push_back(std::move(event));
  }
  CountEvents(1);
  queue_.Notify(POLLIN | POLLRDNORM);
  return !full;
}

Fanotify::Event Fanotify::Take() {
  Event event = std::move(events_.front());
  events_.pop_front();
  CountEvents(-1);
  ++taken_;
  if (event.overflow()) overflowed_ = false;
  if (!event.permission) latest_.erase(MergeKey(event));
  return event;
}

void Fanotify::PutBack(Event event) {
  if (!event.overflow() && !event.permission) latest_[MergeKey(event)] = taken_ - 1;
  if (event.overflow()) overflowed_ = true;
  events_.push_front(std::move(event));
  CountEvents(1);
  --taken_;
}

// create_fd()
ErrnoOr<int> Fanotify::OpenFor(Task& task, const Event& event) {
  if (!event.place) return FAN_NOFD;
  Inode& inode = *event.place.inode();
  bool writes = (event_flags_ & O_ACCMODE) != O_RDONLY;
  if (writes && inode.IsDir()) return Errno(EISDIR);
  if (writes && event.place.mount->read_only()) return Errno(EROFS);
  if (writes && inode.IsRegular() && inode.deny_write > 0) return Errno(ETXTBSY);
  int flags = static_cast<int>(event_flags_ & ~uint32_t{O_CLOEXEC}) | kNoNotify;
  RefPtr<File> file = TRY(OpenUntold(ContextOf(task), event.place, flags));
  file->set_flags(file->flags() | kNoNotify);
  return task.files().Allocate(std::move(file), (event_flags_ & O_CLOEXEC) != 0, task.limit(RLIMIT_NOFILE));
}

// copy_event_to_user(). The process must not have been waited for, and be seen from the reader's namespace.
int Fanotify::PidFdFor(Task& task, const Event& event) const {
  Task* target = event.pid > 0 ? pids_->FindTask(event.pid) : nullptr;
  if (target == nullptr || target->group().leader() != target || target->group().extras().serial != event.serial) return FAN_NOPIDFD;
  auto file = MakeRef<PidFd>(RefPtr<ThreadGroup>(&target->group()), nullptr, 0);
  ErrnoOr<int> fd = task.files().Allocate(std::move(file), true, task.limit(RLIMIT_NOFILE));
  return fd.ok() ? *fd : FAN_EPIDFD;
}

// copy_event_to_user()
ErrnoOr<std::string> Fanotify::Describe(Task& task, const Event& event, std::string info, int fds[2]) {
  ErrnoOr<int> fd = OpenFor(task, event);
  // A file that its server opens: the call is executed again, with the event.
  bool tells_errors = (init_flags_ & kFanReportFdError) != 0;
  if (!fd.ok() && (fd.Is(kBlocked.number()) || !tells_errors)) return fd.error();
  fanotify_event_metadata m{};
  m.event_len = static_cast<uint32_t>(sizeof(m) + info.size() + (reports_pidfd() ? sizeof(fanotify_event_info_pidfd) : 0));
  m.vers = FANOTIFY_METADATA_VERSION;
  m.metadata_len = FAN_EVENT_METADATA_LEN;
  m.mask = event.mask;
  m.fd = fds[0] = fd.ok() ? *fd : -fd.error().number();
  // An unprivileged group knows its own process only.
  m.pid = unprivileged_ && event.pid != pids_->IdOf(task.group()) ? 0 : event.pid;
  std::string out(reinterpret_cast<const char*>(&m), sizeof(m));
  out += info;
  if (!reports_pidfd()) return out;
  fanotify_event_info_pidfd process{{FAN_EVENT_INFO_TYPE_PIDFD, 0, sizeof(process)}, FAN_NOPIDFD};
  process.pidfd = fds[1] = PidFdFor(task, event);
  if (tells_errors && process.pidfd == FAN_NOPIDFD) process.pidfd = -ESRCH;
  return out.append(reinterpret_cast<const char*>(&process), sizeof(process));
}

ErrnoOr<size_t> Fanotify::Read(Task& task, Sink& sink) {
  DropAbandoned();
  if (events_.empty()) return Errno(EAGAIN);
  size_t done = 0;
  for (; !events_.empty(); DropAbandoned()) {
    std::string info = InfoOf(events_.front());
    size_t size = FAN_EVENT_METADATA_LEN + info.size() + (reports_pidfd() ? sizeof(fanotify_event_info_pidfd) : 0);
    if (sink.remaining() < size) return done > 0 ? ErrnoOr<size_t>(done) : Errno(EINVAL);
    Event event = Take();
    int fds[2] = {-1, -1};
    auto text = Describe(task, event, std::move(info), fds);
    if (text.Is(kBlocked.number())) {
      PutBack(std::move(event));
      return done > 0 ? ErrnoOr<size_t>(done) : text.error();
    }
    // An event that cannot be opened or delivered is lost.
    auto put = text.ok() ? sink.Put(text->data(), size) : ErrnoOr<size_t>(text.error());
    if (!put.ok() || *put != size) {
      for (int fd : fds) {
        if (fd >= 0) (void)task.files().Remove(fd);
      }
      if (event.permission) event.permission->Answer(false);
      if (done > 0) return done;
      return !text.ok() ? text.error() : Errno(EFAULT);
    }
    done += size;
    if (event.permission) unanswered_.emplace_back(fds[0], std::move(event.permission));
    // Answers to those who were killed are taken, unless there are very many that nobody gives.
    constexpr size_t kMostGone = 4096;
    if (unanswered_.size() > kMostGone) std::erase_if(unanswered_, [](const auto& entry) { return entry.second->abandoned(); });
  }
  return done;
}

ErrnoOr<uint64_t> Fanotify::Ioctl(Task& task, uint32_t command, uint64_t argument) {
  if (command != FIONREAD) return Errno(ENOTTY);
  TRY(task.CopyOut(UserPtr<int>(argument), static_cast<int>(events_.size() * FAN_EVENT_METADATA_LEN)));
  return 0;
}

ErrnoOr<void> Fanotify::Stat(Task&, struct stat* out) {
  FillAnonStat(out, kAnonMinor, 1, 0600);
  return Ok();
}

uint32_t Fanotify::Poll(Task&) {
  DropAbandoned();
  return events_.empty() ? 0 : POLLIN | POLLRDNORM;
}

std::string Fanotify::FdInfo() const {
  char line[160];
  snprintf(line, sizeof(line), "fanotify flags:%x event-flags:%x\n", init_flags_, event_flags_);
  std::string out = line;
  // fanotify_fdinfo(). Devices are numbered as inside Linux.
  for (const auto& [key, mark] : marks_) {
    uint32_t flags =
        (mark.survives ? FAN_MARK_IGNORED_SURV_MODIFY : 0) | (mark.precise ? FAN_MARK_IGNORE : 0) | (mark.evictable ? FAN_MARK_EVICTABLE : 0);
    dev_t dev = mark.dentry ? mark.dentry->fs().dev() : 0;
    unsigned sdev = major(dev) << 20 | minor(dev);
    char what[80];
    switch (mark.on) {
      case On::kInode:
        snprintf(what, sizeof(what), "ino:%llx sdev:%x", static_cast<unsigned long long>(static_cast<const Inode*>(key.second)->ino()), sdev);
        break;
      case On::kMount: snprintf(what, sizeof(what), "mnt_id:%x", static_cast<unsigned>(static_cast<const Mount*>(key.second)->id())); break;
      case On::kFileSystem: snprintf(what, sizeof(what), "sdev:%x", sdev); break;
    }
    snprintf(line, sizeof(line), "fanotify %s mflags:%x mask:%x ignored_mask:%x", what, flags, mark.mask, mark.ignored);
    out += line;
    if (mark.on == On::kInode) out += " " + ShowHandle(*mark.dentry->inode());
    out += '\n';
  }
  return out;
}

std::string Fanotify::Save(state::Saver& saver) const {
  fanotify_state::Fanotify m;
  m.set_flags(static_cast<uint32_t>(flags()));
  m.set_init_flags(init_flags_);
  m.set_event_flags(event_flags_);
  m.set_uid(uid_);
  m.set_user_ns(saver.Ref(user_ns_));
  m.set_unprivileged(unprivileged_);
  m.set_pids(saver.Ref(pids_));
  for (const auto& [key, mark] : marks_) {
    auto* out = m.add_marks();
    out->set_on(static_cast<uint32_t>(mark.on));
    out->set_mask(mark.mask);
    out->set_ignored(mark.ignored);
    out->set_survives(mark.survives);
    out->set_precise(mark.precise);
    out->set_evictable(mark.evictable);
    out->set_mount(mark.on == On::kMount ? saver.Ref(static_cast<const Mount*>(key.second)) : saver.Ref(mark.keeper));
    out->set_dentry(saver.Ref(mark.dentry));
  }
  m.set_number(number_);
  for (const auto& [fd, permission] : unanswered_) {
    auto* out = m.add_unanswered();
    out->set_fd(fd);
    out->set_permission(saver.Ref(permission));
  }
  for (const Event& event : events_) {
    auto* out = m.add_events();
    out->set_mask(event.mask);
    out->set_pid(event.pid);
    out->set_serial(event.serial);
    out->set_permission(saver.Ref(event.permission));
    out->set_mount(saver.Ref(event.place.mount));
    out->set_dentry(saver.Ref(event.place.dentry));
    if (event.ids) SaveIds(*event.ids, out);
  }
  return m.SerializeAsString();
}

bool Fanotify::Load(state::Loader& loader, std::string_view bytes) {
  fanotify_state::Fanotify m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return loader.Fail("a fanotify group is malformed");
  set_flags(static_cast<int>(m.flags()));
  init_flags_ = m.init_flags();
  event_flags_ = m.event_flags();
  uid_ = m.uid();
  counted_ = true;
  ++Users()[uid_].groups;
  pids_ = loader.GetRef<PidNamespace>(m.pids());
  user_ns_ = loader.GetRef<UserNamespace>(m.user_ns());
  unprivileged_ = m.unprivileged();
  for (const auto& in : m.marks()) {
    RefPtr<Mount> mount = loader.GetRef<Mount>(in.mount());
    RefPtr<Dentry> dentry = loader.GetRef<Dentry>(in.dentry());
    if (!mount || in.on() > 2 || (in.on() != 1) != static_cast<bool>(dentry)) return loader.Fail("a fanotify mark has no place");
    auto on = static_cast<On>(in.on());
    // Keyed by what they are on once that is loaded.
    Mark mark{on, in.mask(), in.ignored(), in.survives(), in.precise(), in.evictable(), on == On::kMount ? nullptr : mount, std::move(dentry)};
    marks_[{on, on == On::kMount ? static_cast<const void*>(mount.get()) : mark.dentry.get()}] = std::move(mark);
  }
  for (const auto& in : m.events()) {
    VfsPath place{loader.GetRef<Mount>(in.mount()), loader.GetRef<Dentry>(in.dentry())};
    if (static_cast<bool>(place.mount) != static_cast<bool>(place.dentry)) return loader.Fail("a fanotify event has no place");
    Event event{.mask = in.mask(), .pid = in.pid(), .place = std::move(place), .serial = in.serial()};
    event.permission = loader.GetRef<FanotifyPermission>(in.permission());
    if (in.has_ids() && (event.place || event.permission || !LoadIds(in, &event))) return loader.Fail("a fanotify event is malformed");
    overflowed_ |= event.overflow();
    if (!event.overflow() && !event.permission) latest_[MergeKey(event)] = events_.size();
    events_.push_back(std::move(event));
    CountEvents(1);
  }
  for (const auto& in : m.unanswered()) {
    auto permission = loader.GetRef<FanotifyPermission>(in.permission());
    if (!permission) return loader.Fail("a fanotify group was asked by nobody");
    unanswered_.emplace_back(in.fd(), std::move(permission));
  }
  number_ = m.number();
  next_number = std::max(next_number, std::min(number_, uint64_t{1} << 62) + 1);
  return static_cast<bool>(pids_);
}

bool Fanotify::AfterLoad(state::Loader& loader) {
  Marks loaded = std::exchange(marks_, {});
  for (auto& [key, mark] : loaded) {
    const void* on = key.second;
    if (mark.on != On::kMount) {
      if (mark.dentry->negative()) return loader.Fail("a fanotify mark has no inode");
      on = mark.on == On::kInode ? static_cast<const void*>(mark.dentry->inode()) : &mark.dentry->fs();
    }
    auto [at, added] = marks_.try_emplace({mark.on, on}, std::move(mark));
    if (added) Count(at->second, 1);
  }
  for (const Event& event : events_) {
    if (event.place && event.place.dentry->negative()) return loader.Fail("a fanotify event has no inode");
  }
  AddPlaceObserver(*this, true);
  return true;
}

}  // namespace amber
