// Host and domain name (uts_namespaces(7)). Guarded by the kernel lock.
#pragma once

#include <string>

#include "checkpoint/state.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/kernel/namespace.h"

namespace amber {

class UtsNamespace final : public Namespace {
 public:
  UtsNamespace() = default;
  // unshare(CLONE_NEWUTS): a copy of `from`.
  UtsNamespace(const UtsNamespace& from, RefPtr<UserNamespace> owner)
      : Namespace(std::move(owner)), hostname(from.hostname), domainname(from.domainname) {}
  ~UtsNamespace() override = default;

  std::string hostname = "amber";
  std::string domainname = "(none)";

  int type() const override { return 0x04000000; }  // CLONE_NEWUTS

  state::Kind kind() const override { return state::Kind::kUtsNamespace; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
};

// What uname(2) tells of this kernel.
inline constexpr char kKernelRelease[] = "6.18.0";
inline constexpr char kKernelVersion[] = "#1 SMP PREEMPT_DYNAMIC Amber";

}  // namespace amber
