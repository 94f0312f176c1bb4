// An inotify instance (inotify(7), fs/notify/inotify). Guarded by the kernel lock.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>

#include "sentry/kernel/wait_queue.h"
#include "sentry/vfs/file.h"
#include "sentry/vfs/mount.h"
#include "sentry/vfs/notify.h"

namespace amber {

class Inotify final : public File, public PlaceObserver {
 public:
  static constexpr size_t kMaxEvents = 16384, kMaxInstances = 128, kMaxWatches = 65536;  // fs.inotify.max_*

  Inotify();  // for Load()
  ~Inotify() override;
  // EMFILE if the user has too many.
  static ErrnoOr<RefPtr<Inotify>> Make(uint32_t uid, int flags);

  // inotify_add_watch(2) once the place is found and may be read. ENOSPC, EEXIST.
  ErrnoOr<int> Watch(const VfsPath& place, uint32_t mask);
  // EINVAL if there is no such watch.
  ErrnoOr<void> Unwatch(int wd);
  void OnUnmounted(const FileSystem& fs) override;

  ErrnoOr<size_t> Read(Task& task, Sink& sink) override;
  ErrnoOr<uint64_t> Ioctl(Task& task, uint32_t command, uint64_t argument) override;
  ErrnoOr<void> Stat(Task& task, struct stat* out) override;
  uint32_t Poll(Task& task) override;
  WaitQueue* wait_queue() override { return &queue_; }
  bool pollable() const override { return true; }
  std::string LinkName() const override { return "anon_inode:inotify"; }
  std::string FdInfo() const override;

  state::Kind kind() const override { return state::Kind::kInotify; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 private:
  class Item;
  struct Event {
    int wd = 0;
    uint32_t mask = 0, cookie = 0;
    std::string name;
    friend bool operator==(const Event&, const Event&) = default;
    size_t size() const;
  };
  void Post(Event event);
  // The watch goes, as its owner or the end of the file wants it.
  void Drop(int wd);
  static std::map<uint32_t, size_t>& Instances();

  std::map<int, std::unique_ptr<Item>> items_;
  std::deque<Event> events_;
  bool overflowed_ = false;  // the last event says so
  int last_wd_ = 0;
  uint32_t uid_ = 0;
  bool counted_ = false;
  WaitQueue queue_;
};

}  // namespace amber
