// Host and domain name (uts_namespaces(7)). Guarded by the kernel lock.
#pragma once

#include <string>

#include "checkpoint/state.h"
#include "sentry/base/ref_ptr.h"

namespace amber {

class UtsNamespace final : public RefCounted<UtsNamespace>, public state::Saveable {
 public:
  UtsNamespace() = default;
  ~UtsNamespace() override = default;

  std::string hostname = "amber";
  std::string domainname = "(none)";

  state::Kind kind() const override { return state::Kind::kUtsNamespace; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
};

// What uname(2) tells of this kernel.
inline constexpr char kKernelRelease[] = "6.18.0";
inline constexpr char kKernelVersion[] = "#1 SMP PREEMPT_DYNAMIC Amber";

}  // namespace amber
