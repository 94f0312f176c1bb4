#include "sentry/fs/epoll/epoll.h"

#include <linux/capability.h>
#include <poll.h>

#include <algorithm>
#include <cstdio>

#include "sentry/fs/anon/anon.h"
#include "sentry/fs/epoll/epoll.pb.h"
#include "sentry/kernel/task.h"

namespace amber {
namespace {

constexpr uint32_t kPrivateBits = EPOLLWAKEUP | EPOLLONESHOT | EPOLLET | EPOLLEXCLUSIVE;
constexpr uint32_t kExclusiveOk = EPOLLIN | EPOLLOUT | EPOLLERR | EPOLLHUP | EPOLLWAKEUP | EPOLLET | EPOLLEXCLUSIVE;
// Reported whether asked for or not. Without them an item is a spent EPOLLONESHOT.
constexpr uint32_t kAlways = EPOLLERR | EPOLLHUP;
constexpr int kMaxNests = 4;  // EP_MAX_NESTS

}  // namespace

class Epoll::Item final : public Waiter, public File::ReleaseObserver {
 public:
  Item(Epoll& owner, int fd, File& file, const epoll_event& e) : epoll(owner), file(&file), fd(fd), events(e.events | kAlways), data(e.data.u64) {
    file.AddReleaseObserver(this);
    nested = dynamic_cast<Epoll*>(&file);
    if (nested != nullptr) nested->watchers_.push_back(&owner);
  }
  ~Item() override {
    if (file != nullptr) {
      file->RemoveReleaseObserver(this);
      if (nested != nullptr) {
        auto it = std::find(nested->watchers_.begin(), nested->watchers_.end(), &epoll);
        if (it != nested->watchers_.end()) nested->watchers_.erase(it);
      }
    }
  }
  void OnEvent(uint32_t) override {
    if ((events & ~kPrivateBits) != 0) epoll.MakeReady(*this);
  }
  void OnRelease(File&) override { epoll.Erase(*this); }

  Epoll& epoll;
  File* file;
  Epoll* nested = nullptr;
  int fd;
  uint32_t events;  // as the guest gave them; a spent EPOLLONESHOT leaves only the private bits
  uint64_t data;
  bool ready = false;
  std::list<Item*>::iterator position;
};

Epoll::Epoll() { set_flags(O_RDWR); }
Epoll::~Epoll() { items_.clear(); }

uint32_t Epoll::Current(Task& task, Item& item) {
  uint32_t wanted = item.events & ~kPrivateBits;
  if (wanted == 0) return 0;
  return item.file->Poll(task) & wanted;
}

void Epoll::Watch(Item& item) {
  item.Waiter::Remove();
  uint32_t wanted = item.events & ~kPrivateBits;
  WaitQueue* queue = item.file->wait_queue();
  if (wanted == 0 || queue == nullptr) return;
  queue->Add(&item, wanted, (item.events & EPOLLEXCLUSIVE) != 0);
}

void Epoll::MakeReady(Item& item) {
  if (item.ready) return;
  item.ready = true;
  item.position = ready_.insert(ready_.end(), &item);
  wait_calls_.Notify(POLLIN);
  poll_queue_.Notify(POLLIN | POLLRDNORM);
}

void Epoll::Unready(Item& item) {
  if (!item.ready) return;
  item.ready = false;
  ready_.erase(item.position);
}

void Epoll::Erase(Item& item) {
  Unready(item);
  item.Waiter::Remove();
  // `file` is being destroyed; its own list of observers is no longer to be touched.
  File* file = std::exchange(item.file, nullptr);
  items_.erase({file, item.fd});
}

int Epoll::Depth(const Epoll* avoid, int level, Met* met) const {
  if (this == avoid || level > kMaxNests) return kMaxNests + 1;
  if (auto it = met->find(this); it != met->end()) return it->second;
  int below = 0;
  for (const auto& [key, item] : items_) {
    if (item->nested != nullptr) below = std::max(below, item->nested->Depth(avoid, level + 1, met));
  }
  return (*met)[this] = std::min(below, kMaxNests) + 1;
}

int Epoll::Height(int level, Met* met) const {
  if (level > kMaxNests) return 0;
  if (auto it = met->find(this); it != met->end()) return it->second;
  int above = 0;
  for (const Epoll* watcher : watchers_) above = std::max(above, watcher->Height(level + 1, met) + 1);
  return (*met)[this] = above;
}

ErrnoOr<void> Epoll::Add(Task& task, int fd, File& file, const epoll_event& event) {
  if (&file == this) return Errno(EINVAL);
  if (!file.pollable()) return Errno(EPERM);
  auto* nested = dynamic_cast<Epoll*>(&file);
  if ((event.events & EPOLLEXCLUSIVE) != 0 && (nested != nullptr || (event.events & ~kExclusiveOk) != 0)) {
    return Errno(EINVAL);
  }
  if (items_.contains({&file, fd})) return Errno(EEXIST);
  Met below, above;
  if (nested != nullptr && nested->Depth(this, 1, &below) + Height(0, &above) > kMaxNests) return Errno(ELOOP);
  auto& item = items_[{&file, fd}] = std::make_unique<Item>(*this, fd, file, event);
  Watch(*item);
  if (Current(task, *item) != 0) MakeReady(*item);
  return Ok();
}

ErrnoOr<void> Epoll::Modify(Task& task, int fd, File& file, const epoll_event& event) {
  auto it = items_.find({&file, fd});
  if (it == items_.end()) return Errno(ENOENT);
  Item& item = *it->second;
  if (((event.events | item.events) & EPOLLEXCLUSIVE) != 0) return Errno(EINVAL);
  item.events = event.events | kAlways;
  item.data = event.data.u64;
  Watch(item);
  if (Current(task, item) != 0) MakeReady(item);
  return Ok();
}

ErrnoOr<void> Epoll::Remove(int fd, File& file) {
  auto it = items_.find({&file, fd});
  if (it == items_.end()) return Errno(ENOENT);
  Unready(*it->second);
  items_.erase(it);
  return Ok();
}

std::vector<epoll_event> Epoll::Harvest(Task& task, size_t max) {
  std::vector<epoll_event> out;
  spent_.clear();
  // Level-triggered items go to the end of the list again, so the walk ends after those that were there at the start.
  for (size_t left = ready_.size(); left > 0 && out.size() < max && !ready_.empty(); --left) {
    Item& item = *ready_.front();
    Unready(item);
    uint32_t events = Current(task, item);
    if (events == 0) continue;
    epoll_event e{};
    e.events = events;
    e.data.u64 = item.data;
    if ((item.events & (EPOLLONESHOT | EPOLLET)) != 0) spent_.push_back({out.size(), {item.file, item.fd}, item.events});
    out.push_back(e);
    if ((item.events & EPOLLONESHOT) != 0) {
      item.events &= kPrivateBits;
    } else if ((item.events & EPOLLET) == 0) {
      item.ready = true;
      item.position = ready_.insert(ready_.end(), &item);
    }
  }
  // One waiter was woken; if something is left, the next one may have it.
  if (!ready_.empty() && !out.empty()) wait_calls_.Notify(POLLIN);
  return out;
}

void Epoll::PutBack(size_t first) {
  for (const Spent& spent : spent_) {
    auto it = items_.find(spent.key);
    if (spent.index < first || it == items_.end()) continue;
    it->second->events = spent.events;
    MakeReady(*it->second);
  }
  spent_.clear();
}

const File* Epoll::Target(int fd, uint32_t index) const {
  for (const auto& [key, item] : items_) {
    if (key.second == fd && index-- == 0) return key.first;
  }
  return nullptr;
}

ErrnoOr<void> Epoll::Stat(Task&, struct stat* out) {
  FillAnonStat(out, kAnonMinor, 1, 0600);
  return Ok();
}

ErrnoOr<uint64_t> Epoll::Ioctl(Task& task, uint32_t command, uint64_t argument) {
  constexpr uint32_t kSet = 0x40088a01, kGet = 0x80088a02;  // EPIOCSPARAMS, EPIOCGPARAMS
  constexpr uint16_t kFreeBudget = 64;                      // NAPI_POLL_WEIGHT
  static_assert(sizeof(Params) == 8);
  if (command == kGet) {
    TRY(task.CopyOut(UserPtr<Params>(argument), params_));
    return uint64_t{0};
  }
  if (command != kSet) return Errno(EINVAL);  // not ENOTTY (ep_eventpoll_ioctl())
  Params params = TRY(task.CopyIn(UserPtr<const Params>(argument)));
  if (params.pad != 0 || params.microseconds > INT32_MAX || params.prefer > 1) return Errno(EINVAL);
  if (params.budget > kFreeBudget && !task.Has(CAP_NET_ADMIN)) return Errno(EPERM);
  params_ = params;
  return uint64_t{0};
}

uint32_t Epoll::Poll(Task& task) {
  for (size_t left = ready_.size(); left > 0 && !ready_.empty(); --left) {
    Item& item = *ready_.front();
    if (Current(task, item) != 0) return POLLIN | POLLRDNORM;
    Unready(item);
  }
  return 0;
}

std::string Epoll::FdInfo() const {
  std::string out;
  for (const auto& [key, item] : items_) {
    char line[128];
    snprintf(line, sizeof(line), "tfd: %8d events: %8x data: %16llx  pos:%lld\n", item->fd, item->events, static_cast<unsigned long long>(item->data),
             static_cast<long long>(item->file->position()));
    out += line;
  }
  return out;
}

std::string Epoll::Save(state::Saver& saver) const {
  proto::Epoll m;
  auto add = [&](const Item& item) {
    auto* out = m.add_item();
    out->set_fd(item.fd);
    out->set_file(saver.Ref(item.file));
    out->set_events(item.events);
    out->set_data(item.data);
    out->set_ready(item.ready);
  };
  for (const Item* item : ready_) add(*item);
  for (const auto& [key, item] : items_) {
    if (!item->ready) add(*item);
  }
  m.set_flags(static_cast<uint32_t>(flags()));
  m.set_microseconds(params_.microseconds);
  m.set_budget(params_.budget);
  m.set_prefer(params_.prefer != 0);
  return m.SerializeAsString();
}

bool Epoll::Load(state::Loader& loader, std::string_view bytes) {
  proto::Epoll m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return false;
  set_flags(static_cast<int>(m.flags()));
  params_ = {.microseconds = m.microseconds(), .budget = static_cast<uint16_t>(m.budget()), .prefer = m.prefer() ? uint8_t{1} : uint8_t{0}};
  for (const auto& i : m.item()) {
    File* file = loader.Get<File>(i.file());
    if (file == nullptr || file == this || items_.contains({file, i.fd()})) return false;
    epoll_event e{};
    e.data.u64 = i.data();
    auto& item = items_[{file, i.fd()}] = std::make_unique<Item>(*this, i.fd(), *file, e);
    item->events = i.events();
    if (i.ready()) {
      item->ready = true;
      item->position = ready_.insert(ready_.end(), item.get());
    }
  }
  return true;
}

bool Epoll::AfterLoad(state::Loader& loader) {
  Met met;
  for (const auto& [key, item] : items_) {
    if (item->nested != nullptr && item->nested->Depth(this, 1, &met) > kMaxNests) return loader.Fail("epolls watch each other");
    Watch(*item);
  }
  return true;
}

}  // namespace amber
