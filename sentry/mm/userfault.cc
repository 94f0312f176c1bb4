#include "sentry/mm/userfault.h"

#include <map>
#include <unordered_map>
#include <utility>

#include "absl/synchronization/mutex.h"

namespace amber {
namespace {

struct Registry {
  absl::Mutex mu;
  std::unordered_map<const MemoryManager*, std::map<uint32_t, UserfaultContext*>> contexts ABSL_GUARDED_BY(mu);
};

Registry& TheRegistry() {
  static auto* registry = new Registry;
  return *registry;
}

}  // namespace

uint32_t Userfaults::Add(const MemoryManager& mm, UserfaultContext& context, uint32_t number) {
  Registry& r = TheRegistry();
  absl::MutexLock lock(&r.mu);
  auto& contexts = r.contexts[&mm];
  if (number == 0) {
    number = 1;
    while (contexts.contains(number)) ++number;
  }
  if (number > 0xffff || !contexts.emplace(number, &context).second) return 0;
  return number;
}

void Userfaults::Remove(const MemoryManager& mm, UserfaultContext& context) {
  Registry& r = TheRegistry();
  absl::MutexLock lock(&r.mu);
  auto it = r.contexts.find(&mm);
  if (it == r.contexts.end()) return;
  std::erase_if(it->second, [&](const auto& entry) { return entry.second == &context; });
  if (it->second.empty()) r.contexts.erase(it);
}

std::vector<UserfaultContext*> Userfaults::Of(const MemoryManager& mm) {
  Registry& r = TheRegistry();
  absl::MutexLock lock(&r.mu);
  std::vector<UserfaultContext*> out;
  auto it = r.contexts.find(&mm);
  if (it == r.contexts.end()) return out;
  for (const auto& [number, context] : it->second) out.push_back(context);
  return out;
}

void Userfaults::MemoryGone(const MemoryManager& mm) {
  std::map<uint32_t, UserfaultContext*> gone;
  {
    Registry& r = TheRegistry();
    absl::MutexLock lock(&r.mu);
    auto it = r.contexts.find(&mm);
    if (it == r.contexts.end()) return;
    gone = std::move(it->second);
    r.contexts.erase(it);
  }
  for (const auto& [number, context] : gone) context->OnMemoryGone();
}

}  // namespace amber
