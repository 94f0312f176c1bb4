#include "sentry/kernel/namespace.h"

#include <algorithm>

#include "sentry/kernel/user_namespace.h"

namespace amber {
namespace {

// PROC_DYNAMIC_FIRST. Guarded by the kernel lock.
uint64_t next_number = 0xf0000000;

}  // namespace

Namespace::Namespace() : ino_(next_number++) {}
Namespace::Namespace(RefPtr<UserNamespace> owner) : ino_(next_number++), owner_(std::move(owner)) {}
Namespace::~Namespace() = default;

uint64_t Namespace::SaveOwner(state::Saver& saver) const { return saver.Ref(owner_); }

bool Namespace::LoadCommon(state::Loader& loader, uint64_t ino, uint64_t owner) {
  if (ino != 0) {
    ino_ = ino;
    next_number = std::max(next_number, ino + 1);
  }
  owner_ = loader.GetRef<UserNamespace>(owner);
  return owner == 0 || owner_;
}

}  // namespace amber
