#include "sentry/mm/memory_owner.h"

namespace amber {

MemoryWatch::All& MemoryWatch::all() {
  static auto* all = new All();
  return *all;
}

void MemoryWatch::Watch(const MemoryManager* memory) {
  if (memory_ != nullptr) all().erase(place_);
  memory_ = memory;
  if (memory_ != nullptr) place_ = all().emplace(memory_, this);
}

void MemoryWatch::OnGone(const MemoryManager& memory) {
  auto [from, to] = all().equal_range(&memory);
  for (auto it = from; it != to; ++it) it->second->memory_ = nullptr;
  all().erase(from, to);
}

}  // namespace amber
