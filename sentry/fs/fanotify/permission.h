// A call that waits for a fanotify group's leave (FAN_OPEN_PERM and its kin), as one that asks a guest (sentry/kernel/served_call.h).
//
// The call's record and the group's queue hold references. Guarded by the kernel lock. Who waits can be killed, and goes on when the group goes.
#pragma once

#include <sys/fanotify.h>

#include <string>

#include "sentry/kernel/served_call.h"

namespace amber {

inline constexpr state::Kind kFanotifyPermissionKind = static_cast<state::Kind>(203);

// (FAN_ALL_PERM_EVENTS lacks the last.)
inline constexpr uint32_t kFanotifyPermissions = FAN_OPEN_PERM | FAN_ACCESS_PERM | FAN_OPEN_EXEC_PERM;

class FanotifyPermission final : public ServedRequest {
 public:
  FanotifyPermission() = default;  // for Loader
  explicit FanotifyPermission(std::string key) { set_key(std::move(key)); }

  void Answer(bool allow);
  bool allowed() const { return allowed_; }
  // The call was killed: nobody waits any more.
  bool abandoned() const { return abandoned_; }

  void OnSignal() override {}
  void OnCallerGone() override { abandoned_ = !answered(); }

  state::Kind kind() const override { return kFanotifyPermissionKind; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;

 private:
  bool allowed_ = false, abandoned_ = false;
};

}  // namespace amber
