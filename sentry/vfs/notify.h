// Telling watchers of what happens to files: inotify(7) and leases hang on it.
//
// An InodeWatch is owned by who watches; it is in the list of the inode while it is armed. Guarded by the kernel lock.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace amber {

class InodeWatch {
 public:
  // `mask`: one IN_* event, with IN_ISDIR if it is about a directory; `name` is that of the entry if the event is about something in
  // the directory that is watched, else empty; `cookie` joins the two halves of a rename. May take itself out of the list.
  virtual void OnInodeEvent(uint32_t mask, uint32_t cookie, std::string_view name) = 0;

 protected:
  ~InodeWatch() = default;
};

class WatchList {
 public:
  void Add(InodeWatch* watch) { watches_.push_back(watch); }
  void Remove(InodeWatch* watch) { std::erase(watches_, watch); }
  bool empty() const { return watches_.empty(); }
  const std::vector<InodeWatch*>& watches() const { return watches_; }

 private:
  std::vector<InodeWatch*> watches_;
};

}  // namespace amber
