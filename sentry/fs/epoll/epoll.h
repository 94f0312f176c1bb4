// epoll(7), fs/eventpoll.c. Guarded by the kernel lock.
#pragma once

#include <sys/epoll.h>

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "sentry/vfs/file.h"

namespace amber {

class Epoll final : public File {
 public:
  Epoll();
  ~Epoll() override;

  // EPOLL_CTL_ADD: `file` at descriptor `fd`. EPERM if it cannot be polled, EEXIST, ELOOP (cycles, more than four levels), EINVAL.
  ErrnoOr<void> Add(Task& task, int fd, File& file, const epoll_event& event);
  ErrnoOr<void> Modify(Task& task, int fd, File& file, const epoll_event& event);
  ErrnoOr<void> Remove(int fd, File& file);

  // What is watched under descriptor `fd`, the `index`th of several; null if there is none.
  const File* Target(int fd, uint32_t index) const;

  // Moves up to `max` events that hold now out of the ready list; empty if there are none.
  std::vector<epoll_event> Harvest(Task& task, size_t max);
  // Those of the last Harvest() from `first` on were not told to anybody after all: what they used up (EPOLLET, EPOLLONESHOT) is there again.
  void PutBack(size_t first);
  // Where epoll_wait waits, exclusively.
  WaitQueue& wait_calls() { return wait_calls_; }

  ErrnoOr<void> Stat(Task& task, struct stat* out) override;
  // EPIOCGPARAMS, EPIOCSPARAMS. No interface is polled in a loop here, so that what is set is only kept.
  ErrnoOr<uint64_t> Ioctl(Task& task, uint32_t command, uint64_t argument) override;
  uint32_t Poll(Task& task) override;
  WaitQueue* wait_queue() override { return &poll_queue_; }
  bool pollable() const override { return true; }
  std::string LinkName() const override { return "anon_inode:[eventpoll]"; }
  std::string FdInfo() const override;

  state::Kind kind() const override { return state::Kind::kEpoll; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 private:
  class Item;
  using Key = std::pair<File*, int>;

  // What `item` reports now: its wanted events that its file has.
  static uint32_t Current(Task& task, Item& item);
  void Watch(Item& item);
  void MakeReady(Item& item);
  void Unready(Item& item);
  void Erase(Item& item);
  // Each epoll that a walk has met, with the levels that it found below or above it. A guest can make more ways through a few hundred epolls
  // than could ever be walked.
  using Met = std::map<const Epoll*, int>;
  // How many levels of epolls hang below this one, itself included; more than EP_MAX_NESTS if `avoid` is among them.
  int Depth(const Epoll* avoid, int level, Met* met) const;
  // How many levels of epolls watch this one. `level`: how far the walk has come.
  int Height(int level, Met* met) const;

  // What an item was that the last Harvest() took out of the ready list.
  struct Spent {
    size_t index;  // among what was harvested
    Key key;
    uint32_t events;
  };

  // struct epoll_params of linux/eventpoll.h.
  struct Params {
    uint32_t microseconds = 0;
    uint16_t budget = 0;
    uint8_t prefer = 0, pad = 0;
  };

  Params params_;
  std::map<Key, std::unique_ptr<Item>> items_;
  std::list<Item*> ready_;
  std::vector<Spent> spent_;      // until the call ends
  std::vector<Epoll*> watchers_;  // epolls that have this one as an item
  WaitQueue wait_calls_;
  WaitQueue poll_queue_;
};

}  // namespace amber
