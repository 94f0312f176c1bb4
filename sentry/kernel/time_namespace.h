// Time namespaces (time_namespaces(7), kernel/time/namespace.c): what is added to CLOCK_MONOTONIC and CLOCK_BOOTTIME where programs see them.
//
// Owned by their tasks; guarded by the kernel lock. Inside the kernel all times are those of the initial namespace. A null pointer stands for that one.
//
// The vDSO of a process in such a namespace reads another parameter page than others do (loader::VdsoParams). Only so many namespaces get one; the
// programs of others have an empty page instead, with which the vDSO makes calls.
#pragma once

#include <time.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "sentry/base/errno_or.h"
#include "sentry/kernel/namespace.h"
#include "sentry/platform/platform.h"

namespace amber {

class Clocks;
class MemoryManager;
class Task;
struct Credentials;
namespace loader {
class VdsoParams;
}

// In nanoseconds; may be negative.
struct TimeOffsets {
  int64_t monotonic = 0, boottime = 0;
  bool operator==(const TimeOffsets&) const = default;
  // What `clock` is ahead of the initial namespace's, 0 for clocks that no namespace moves.
  int64_t Of(clockid_t clock) const;
};

class TimeNamespace final : public Namespace {
 public:
  TimeNamespace();  // for Loader
  // With the offsets of `from`, which may be null.
  TimeNamespace(RefPtr<UserNamespace> owner, const TimeNamespace* from);
  ~TimeNamespace() override;
  int type() const override { return 0x00000080; }  // CLONE_NEWTIME

  const TimeOffsets& offsets() const { return offsets_; }
  // proc_timens_set_offset(): EINVAL, ERANGE if a clock would leave its range, EACCES once somebody has entered.
  ErrnoOr<void> SetOffsets(const Clocks& clocks, const TimeOffsets& offsets);
  // Somebody enters.
  void Freeze() { frozen_ = true; }

  state::Kind kind() const override { return state::Kind::kTimeNamespace; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;

 private:
  friend int VdsoParamsFd(TimeNamespace* ns, const Clocks& clocks);

  TimeOffsets offsets_;
  bool frozen_ = false;
  std::unique_ptr<loader::VdsoParams> page_;  // made at first use
};

// What the clocks of `task` are ahead of the kernel's.
const TimeOffsets& TimeOffsetsOf(const Task& task);
// What the vDSO of programs in `ns` reads; -1: an empty page.
int VdsoParamsFd(TimeNamespace* ns, const Clocks& clocks);
// The operations that give `mm` the parameter page of `ns` in place of the one it has. The namespace outlives them.
std::vector<platform::StubOp> VdsoParamsOps(const MemoryManager& mm, TimeNamespace* ns, const Clocks& clocks);

// /proc/PID/timens_offsets: of the namespace for children of `target`.
std::string TimeOffsetsText(const Task& target);
// EPERM unless the opener, whose credentials these are, has CAP_SYS_TIME in it.
ErrnoOr<void> WriteTimeOffsets(const Credentials& opener, Task& target, std::string_view text);

}  // namespace amber
