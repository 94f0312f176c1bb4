#include "sentry/mm/memory_owner.h"

#include <unordered_map>

namespace amber {
namespace {

std::unordered_map<const MemoryManager*, RefPtr<UserNamespace>>& Owners() {
  static auto* owners = new std::unordered_map<const MemoryManager*, RefPtr<UserNamespace>>();
  return *owners;
}

}  // namespace

void MemoryOwner::Set(const MemoryManager& mm, RefPtr<UserNamespace> ns) {
  if (ns) {
    Owners()[&mm] = std::move(ns);
  } else {
    Owners().erase(&mm);
  }
}

RefPtr<UserNamespace> MemoryOwner::Of(const MemoryManager& mm) {
  auto it = Owners().find(&mm);
  return it != Owners().end() ? it->second : RefPtr<UserNamespace>();
}

void MemoryOwner::MemoryGone(const MemoryManager& mm) { Owners().erase(&mm); }

}  // namespace amber
