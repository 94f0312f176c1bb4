#include "sentry/fs/inotify/inotify.h"

#include <poll.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>

#include <cstdio>

#include "sentry/fs/anon/anon.h"
#include "sentry/fs/inotify/inotify.pb.h"
#include "sentry/kernel/task.h"
#include "sentry/vfs/notify.h"
#include "sentry/vfs/reconfigure.h"

namespace amber {
namespace {

// What a watch may ask to be told of, and what it is always told.
constexpr uint32_t kAlways = IN_IGNORED | IN_UNMOUNT | IN_Q_OVERFLOW;
// Bits that say how to watch.
constexpr uint32_t kKept = IN_ALL_EVENTS | IN_EXCL_UNLINK | IN_ONESHOT;

}  // namespace

class Inotify::Item final : public InodeWatch {
 public:
  Item(Inotify& owner, int wd, uint32_t mask, RefPtr<Mount> keeper, RefPtr<Dentry> dentry)
      : owner_(owner), wd_(wd), mask_(mask), keeper_(std::move(keeper)), dentry_(std::move(dentry)) {}
  ~Item() { Disarm(); }
  void Arm() {
    dentry_->inode()->MakeWatches().Add(this);
    armed_ = true;
  }
  void Disarm() {
    if (armed_) dentry_->inode()->watches()->Remove(this);
    armed_ = false;
  }

  void OnInodeEvent(const InodeEvent& event) override {
    uint32_t what = event.mask & IN_ALL_EVENTS;
    if ((what & mask_) != 0 && !(event.unlinked && (mask_ & IN_EXCL_UNLINK) != 0)) {
      uint32_t mask = event.mask;
      // inotify_handle_inode_event(): never for events about the watched file itself.
      if ((what & (IN_MOVE_SELF | IN_DELETE_SELF)) != 0) mask &= ~uint32_t{IN_ISDIR};
      owner_.Post({wd_, mask, event.cookie, std::string(event.name)});
      if ((mask_ & IN_ONESHOT) != 0) return owner_.Drop(wd_);
    }
    // The inode is gone, whether that was asked for or not.
    if (what == IN_DELETE_SELF) owner_.Drop(wd_);
  }

  int wd() const { return wd_; }
  uint32_t mask() const { return mask_; }
  void set_mask(uint32_t mask) { mask_ = mask; }
  const RefPtr<Mount>& keeper() const { return keeper_; }
  const RefPtr<Dentry>& dentry() const { return dentry_; }

 private:
  Inotify& owner_;
  int wd_;
  uint32_t mask_;
  bool armed_ = false;
  RefPtr<Mount> keeper_;  // of our own: keeps the file system, and no mount of the guest's busy
  RefPtr<Dentry> dentry_;
};

Inotify::Inotify() = default;

Inotify::~Inotify() {
  RemovePlaceObserver(*this);
  if (counted_) --Instances()[uid_];
}

std::map<uint32_t, size_t>& Inotify::Instances() {
  static auto* instances = new std::map<uint32_t, size_t>();
  return *instances;
}

ErrnoOr<RefPtr<Inotify>> Inotify::Make(uint32_t uid, int flags) {
  size_t& count = Instances()[uid];
  if (count >= kMaxInstances) return Errno(EMFILE);
  auto file = MakeRef<Inotify>();
  file->uid_ = uid;
  file->counted_ = true;
  ++count;
  file->set_flags(O_RDONLY | flags);
  AddPlaceObserver(*file, false);
  return file;
}

size_t Inotify::Event::size() const {
  size_t padded = name.empty() ? 0 : (name.size() + 1 + sizeof(inotify_event) - 1) / sizeof(inotify_event) * sizeof(inotify_event);
  return sizeof(inotify_event) + padded;
}

void Inotify::Post(Event event) {
  // The same as the last one that nobody has read: said already.
  if (!events_.empty() && events_.back() == event && (event.mask & IN_IGNORED) == 0) return;
  if (events_.size() >= kMaxEvents) {
    if (overflowed_) return;
    overflowed_ = true;
    event = {-1, IN_Q_OVERFLOW, 0, ""};
  }
  events_.push_back(std::move(event));
  queue_.Notify(POLLIN | POLLRDNORM);
}

ErrnoOr<int> Inotify::Watch(const VfsPath& place, uint32_t mask) {
  for (auto& [wd, item] : items_) {
    if (item->dentry()->inode() != place.inode()) continue;
    if ((mask & IN_MASK_CREATE) != 0) return Errno(EEXIST);
    uint32_t kept = (mask & IN_MASK_ADD) != 0 ? item->mask() : 0;
    item->set_mask(kept | (mask & kKept));
    return wd;
  }
  if (items_.size() >= kMaxWatches) return Errno(ENOSPC);
  do {
    last_wd_ = last_wd_ == INT32_MAX ? 1 : last_wd_ + 1;
  } while (items_.contains(last_wd_));
  auto keeper = MakeRef<Mount>(place.mount->fs_ref(), place.mount->fs().root(), 0, "");
  auto item = std::make_unique<Item>(*this, last_wd_, mask & kKept, std::move(keeper), place.dentry);
  item->Arm();
  items_[last_wd_] = std::move(item);
  return last_wd_;
}

void Inotify::Drop(int wd) {
  auto it = items_.find(wd);
  if (it == items_.end()) return;
  std::unique_ptr<Item> item = std::move(it->second);
  items_.erase(it);
  item->Disarm();
  Post({wd, IN_IGNORED, 0, ""});
}

// fsnotify_unmount_inodes()
void Inotify::OnUnmounted(const FileSystem& fs) {
  std::vector<int> gone;
  for (const auto& [wd, item] : items_) {
    if (&item->dentry()->fs() == &fs) gone.push_back(wd);
  }
  for (int wd : gone) {
    Post({wd, IN_UNMOUNT, 0, ""});
    Drop(wd);
  }
}

ErrnoOr<void> Inotify::Unwatch(int wd) {
  if (!items_.contains(wd)) return Errno(EINVAL);
  Drop(wd);
  return Ok();
}

ErrnoOr<size_t> Inotify::Read(Task&, Sink& sink) {
  if (events_.empty()) return Errno(EAGAIN);
  if (sink.remaining() < events_.front().size()) return Errno(EINVAL);
  size_t done = 0;
  while (!events_.empty() && events_.front().size() <= sink.remaining()) {
    Event event = std::move(events_.front());
    events_.pop_front();
    if ((event.mask & IN_Q_OVERFLOW) != 0) overflowed_ = false;
    size_t size = event.size();
    std::string bytes(size, '\0');
    inotify_event head{};
    head.wd = event.wd;
    head.mask = event.mask;
    head.cookie = event.cookie;
    head.len = static_cast<uint32_t>(size - sizeof(head));
    memcpy(bytes.data(), &head, sizeof(head));
    memcpy(bytes.data() + sizeof(head), event.name.data(), event.name.size());
    auto put = sink.Put(bytes.data(), size);
    // An event that cannot be delivered is lost, as in Linux.
    if (!put.ok() || *put != size) return done > 0 ? ErrnoOr<size_t>(done) : Errno(EFAULT);
    done += size;
  }
  return done;
}

ErrnoOr<uint64_t> Inotify::Ioctl(Task& task, uint32_t command, uint64_t argument) {
  if (command != FIONREAD) return Errno(ENOTTY);
  size_t bytes = 0;
  for (const Event& e : events_) bytes += e.size();
  TRY(task.CopyOut(UserPtr<int>(argument), static_cast<int>(bytes)));
  return 0;
}

ErrnoOr<void> Inotify::Stat(Task&, struct stat* out) {
  FillAnonStat(out, kAnonMinor, 1, 0600);
  return Ok();
}

uint32_t Inotify::Poll(Task&) { return events_.empty() ? 0 : POLLIN | POLLRDNORM; }

std::string Inotify::FdInfo() const {
  std::string out;
  for (const auto& [wd, item] : items_) {
    char line[160];
    snprintf(line, sizeof(line), "inotify wd:%x ino:%llx sdev:%llx mask:%x ignored_mask:0 ", static_cast<unsigned>(wd),
             static_cast<unsigned long long>(item->dentry()->inode()->ino()), static_cast<unsigned long long>(item->dentry()->fs().dev()),
             item->mask() & IN_ALL_EVENTS);
    out += line + ShowHandle(*item->dentry()->inode()) + '\n';
  }
  return out;
}

std::string Inotify::Save(state::Saver& saver) const {
  inotify_state::Inotify m;
  m.set_flags(static_cast<uint32_t>(flags()));
  for (const auto& [wd, item] : items_) {
    auto* w = m.add_watch();
    w->set_wd(wd);
    w->set_mask(item->mask());
    w->set_mount(saver.Ref(item->keeper()));
    w->set_dentry(saver.Ref(item->dentry()));
  }
  for (const Event& event : events_) {
    auto* e = m.add_event();
    e->set_wd(event.wd);
    e->set_mask(event.mask);
    e->set_cookie(event.cookie);
    e->set_name(event.name);
  }
  m.set_last_wd(last_wd_);
  m.set_uid(uid_);
  return m.SerializeAsString();
}

bool Inotify::Load(state::Loader& loader, std::string_view bytes) {
  inotify_state::Inotify m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return loader.Fail("an inotify descriptor is malformed");
  set_flags(static_cast<int>(m.flags()));
  for (const auto& w : m.watch()) {
    RefPtr<Mount> keeper = loader.GetRef<Mount>(w.mount());
    RefPtr<Dentry> dentry = loader.GetRef<Dentry>(w.dentry());
    if (!keeper || !dentry || w.wd() < 1) return loader.Fail("an inotify watch has no file");
    items_[w.wd()] = std::make_unique<Item>(*this, w.wd(), w.mask() & kKept, std::move(keeper), std::move(dentry));
  }
  for (const auto& e : m.event()) {
    events_.push_back({e.wd(), e.mask() & (IN_ALL_EVENTS | IN_ISDIR | kAlways), e.cookie(), e.name()});
    overflowed_ |= (e.mask() & IN_Q_OVERFLOW) != 0;
  }
  last_wd_ = m.last_wd();
  uid_ = m.uid();
  counted_ = true;
  ++Instances()[uid_];
  return last_wd_ >= 0;
}

bool Inotify::AfterLoad(state::Loader& loader) {
  for (auto& [wd, item] : items_) {
    if (item->dentry()->negative()) return loader.Fail("an inotify watch has no inode");
    item->Arm();
  }
  AddPlaceObserver(*this, false);
  return true;
}

}  // namespace amber
