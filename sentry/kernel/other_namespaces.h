// Cgroup namespaces (cgroup_namespaces(7)). Owned by their tasks; guarded by the kernel lock.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "sentry/kernel/namespace.h"

namespace amber {

class Cgroup;

class CgroupNamespace final : public Namespace {
 public:
  CgroupNamespace();  // for Loader
  CgroupNamespace(RefPtr<UserNamespace> owner, RefPtr<Cgroup> root);
  ~CgroupNamespace() override;
  // What its tasks see as "/". Null in images of before there were cgroups.
  const RefPtr<Cgroup>& root() const { return root_; }
  int type() const override { return 0x02000000; }  // CLONE_NEWCGROUP

  state::Kind kind() const override { return state::Kind::kCgroupNamespace; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;

 private:
  RefPtr<Cgroup> root_;
};

}  // namespace amber
