#include "sentry/mm/vma.h"

#include <algorithm>

#include "sentry/base/check.h"

namespace amber {

bool Vma::MergesWith(const Vma& next) const {
  if (end != next.start || prot != next.prot || max_prot != next.max_prot || shared != next.shared || name != next.name || flags != next.flags ||
      policy != next.policy || !(file == next.file) || image != next.image) {
    return false;
  }
  if (file && offset + size() != next.offset) return false;
  return !image || image_offset + size() == next.image_offset;
}

Vma Vma::Part(uint64_t from, uint64_t to) const {
  AMBER_CHECK(start <= from && from < to && to <= end);
  Vma part = *this;
  part.start = from;
  part.end = to;
  if (file) part.offset += from - start;
  if (image) part.image_offset += from - start;
  return part;
}

void VmaSet::Account(const Vma& vma, int sign) {
  uint64_t size = sign > 0 ? vma.size() : -vma.size();
  total_ += size;
  if (vma.data()) data_ += size;
  if (vma.locked()) locked_ += size;
}

void VmaSet::Insert(Vma vma) {
  AMBER_CHECK(vma.start < vma.end && IsFree(vma.start, vma.end));
  Account(vma, 1);
  auto next = vmas_.lower_bound(vma.start);
  if (next != vmas_.end() && vma.MergesWith(next->second)) {
    vma.end = next->second.end;
    next = vmas_.erase(next);
  }
  if (next != vmas_.begin()) {
    Vma& before = std::prev(next)->second;
    if (before.MergesWith(vma)) {
      before.end = vma.end;
      return;
    }
  }
  vmas_.emplace_hint(next, vma.start, std::move(vma));
}

std::vector<Vma> VmaSet::Remove(uint64_t start, uint64_t end) {
  std::vector<Vma> removed;
  if (start >= end) return removed;
  auto it = vmas_.upper_bound(start);
  if (it != vmas_.begin() && std::prev(it)->second.end > start) --it;
  while (it != vmas_.end() && it->second.start < end) {
    Vma vma = std::move(it->second);
    it = vmas_.erase(it);
    uint64_t from = std::max(start, vma.start), to = std::min(end, vma.end);
    if (vma.start < from) vmas_.emplace_hint(it, vma.start, vma.Part(vma.start, from));
    if (to < vma.end) it = vmas_.emplace_hint(it, to, vma.Part(to, vma.end));
    removed.push_back(vma.Part(from, to));
    Account(removed.back(), -1);
    if (it != vmas_.end() && it->second.start >= end) break;
  }
  return removed;
}

VmaSet::Map::const_iterator VmaSet::FindFrom(uint64_t address) const {
  auto it = vmas_.upper_bound(address);
  if (it != vmas_.begin() && std::prev(it)->second.end > address) --it;
  return it;
}

const Vma* VmaSet::Find(uint64_t address) const {
  auto it = FindFrom(address);
  return it != vmas_.end() && it->second.start <= address ? &it->second : nullptr;
}

bool VmaSet::AnySealed(uint64_t start, uint64_t end) const {
  for (auto it = FindFrom(start); it != vmas_.end() && it->first < end; ++it) {
    if (it->second.sealed()) return true;
  }
  return false;
}

bool VmaSet::IsFree(uint64_t start, uint64_t end) const {
  auto it = FindFrom(start);
  return it == vmas_.end() || it->second.start >= end;
}

uint64_t VmaSet::FirstHole(uint64_t start, uint64_t end) const {
  uint64_t at = start;
  for (auto it = FindFrom(start); at < end; ++it) {
    if (it == vmas_.end() || it->second.start > at) return at;
    at = it->second.end;
  }
  return end;
}

std::vector<Vma> VmaSet::Slice(uint64_t start, uint64_t end) const {
  std::vector<Vma> parts;
  if (start >= end) return parts;
  for (auto it = FindFrom(start); it != vmas_.end() && it->second.start < end; ++it) {
    parts.push_back(it->second.Part(std::max(start, it->second.start), std::min(end, it->second.end)));
  }
  return parts;
}

std::optional<uint64_t> VmaSet::FindFreeTopDown(uint64_t size, uint64_t low, uint64_t high, uint64_t alignment) const {
  uint64_t top = high;  // the hole that is looked at ends here
  auto it = vmas_.lower_bound(high);
  while (true) {
    uint64_t bottom = low;
    bool last = it == vmas_.begin();
    if (!last) {
      --it;
      bottom = std::max(low, it->second.end);
    }
    if (top > bottom && top - bottom >= size) {
      uint64_t address = (top - size) & ~(alignment - 1);
      if (address >= bottom) return address;
    }
    if (last || it->second.start <= low) return std::nullopt;
    top = std::min(top, it->second.start);
  }
}

std::optional<uint64_t> VmaSet::FindFreeBottomUp(uint64_t size, uint64_t low, uint64_t high) const {
  uint64_t at = low;
  for (auto it = FindFrom(low);; ++it) {
    uint64_t top = it == vmas_.end() ? high : std::min(high, it->second.start);
    if (top > at && top - at >= size) return at;
    if (it == vmas_.end() || it->second.end >= high) return std::nullopt;
    at = std::max(at, it->second.end);
  }
}

void VmaSet::Clear() {
  vmas_.clear();
  total_ = data_ = locked_ = 0;
}

}  // namespace amber
