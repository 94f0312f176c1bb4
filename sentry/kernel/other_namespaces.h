// Cgroup and time namespaces (cgroup_namespaces(7), time_namespaces(7)). Owned by their tasks; guarded by the kernel lock.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "sentry/kernel/namespace.h"

namespace amber {

// There is one cgroup, so there is nothing to see in it but its number.
class CgroupNamespace final : public Namespace {
 public:
  CgroupNamespace() = default;  // for Loader
  explicit CgroupNamespace(RefPtr<UserNamespace> owner) : Namespace(std::move(owner)) {}
  ~CgroupNamespace() override = default;
  int type() const override { return 0x02000000; }  // CLONE_NEWCGROUP

  state::Kind kind() const override { return state::Kind::kCgroupNamespace; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
};

class TimeNamespace final : public Namespace {
 public:
  TimeNamespace() = default;  // for Loader
  explicit TimeNamespace(RefPtr<UserNamespace> owner) : Namespace(std::move(owner)) {}
  ~TimeNamespace() override = default;
  int type() const override { return 0x00000080; }  // CLONE_NEWTIME

  state::Kind kind() const override { return state::Kind::kTimeNamespace; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
};

}  // namespace amber
