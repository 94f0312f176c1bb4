#include "gofer/node_table.h"

#include <cerrno>

namespace amber::gofer {
namespace {

class ABSL_SCOPED_LOCKABLE WriterLock {
 public:
  explicit WriterLock(TableLock& lock) ABSL_EXCLUSIVE_LOCK_FUNCTION(lock) : lock_(lock) { lock_.Lock(); }
  ~WriterLock() ABSL_UNLOCK_FUNCTION() { lock_.Unlock(); }
  WriterLock(const WriterLock&) = delete;
  WriterLock& operator=(const WriterLock&) = delete;

 private:
  TableLock& lock_;
};

class ABSL_SCOPED_LOCKABLE ReaderLock {
 public:
  explicit ReaderLock(TableLock& lock) ABSL_SHARED_LOCK_FUNCTION(lock) : lock_(lock) { lock_.ReaderLock(); }
  ~ReaderLock() ABSL_UNLOCK_FUNCTION() { lock_.ReaderUnlock(); }
  ReaderLock(const ReaderLock&) = delete;
  ReaderLock& operator=(const ReaderLock&) = delete;

 private:
  TableLock& lock_;
};

}  // namespace

ErrnoOr<uint64_t> NodeTable::Add(RefPtr<HostNode> node) {
  WriterLock lock(mutex_);
  uint32_t index;
  if (!free_.empty()) {
    index = free_.back();
    free_.pop_back();
  } else {
    if (slots_.size() >= max_nodes_) return Errno(ENFILE);
    index = static_cast<uint32_t>(slots_.size());
    slots_.emplace_back();
  }
  Slot& slot = slots_[index];
  slot.node = std::move(node);
  return uint64_t{slot.generation} << 32 | (index + 1);
}

const NodeTable::Slot* NodeTable::Find(uint64_t id) const {
  uint64_t index = (id & 0xffffffff) - 1;  // of 0: too large
  if (index >= slots_.size()) return nullptr;
  const Slot& slot = slots_[index];
  return slot.node && slot.generation == id >> 32 ? &slot : nullptr;
}

ErrnoOr<RefPtr<HostNode>> NodeTable::Get(uint64_t id) const {
  ReaderLock lock(mutex_);
  const Slot* slot = Find(id);
  if (slot == nullptr) return Errno(EBADF);
  return slot->node;
}

void NodeTable::Remove(uint64_t id) {
  RefPtr<HostNode> node;  // closed after the lock is released
  WriterLock lock(mutex_);
  const Slot* found = Find(id);
  if (found == nullptr) return;
  Slot& slot = slots_[found - slots_.data()];
  node = std::move(slot.node);
  slot.node.reset();
  ++slot.generation;
  free_.push_back(static_cast<uint32_t>(found - slots_.data()));
}

size_t NodeTable::size() const {
  ReaderLock lock(mutex_);
  return slots_.size() - free_.size();
}

}  // namespace amber::gofer
