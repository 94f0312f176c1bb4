#include "gofer/node_table.h"

#include <cerrno>

namespace amber::gofer {

ErrnoOr<uint64_t> NodeTable::Add(RefPtr<HostNode> node) {
  absl::MutexLock lock(&mutex_);
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
  absl::ReaderMutexLock lock(&mutex_);
  const Slot* slot = Find(id);
  if (slot == nullptr) return Errno(EBADF);
  return slot->node;
}

void NodeTable::Remove(uint64_t id) {
  RefPtr<HostNode> node;  // closed after the lock is released
  absl::MutexLock lock(&mutex_);
  const Slot* found = Find(id);
  if (found == nullptr) return;
  Slot& slot = slots_[found - slots_.data()];
  node = std::move(slot.node);
  slot.node.reset();
  ++slot.generation;
  free_.push_back(static_cast<uint32_t>(found - slots_.data()));
}

size_t NodeTable::size() const {
  absl::ReaderMutexLock lock(&mutex_);
  return slots_.size() - free_.size();
}

}  // namespace amber::gofer
