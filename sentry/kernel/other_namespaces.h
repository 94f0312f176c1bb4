// Cgroup namespaces (cgroup_namespaces(7)). Owned by their tasks; guarded by the kernel lock.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "sentry/kernel/namespace.h"

namespace amber {

class Cgroup;

class CgroupNamespace final : public Namespace {
 public:
  CgroupNamespace();  // for Loader
  CgroupNamespace(RefPtr<UserNamespace> owner, RefPtr<Cgroup> root, std::vector<RefPtr<Cgroup>> first_version);
  ~CgroupNamespace() override;
  // What its tasks see as "/". Null in images of before there were cgroups.
  const RefPtr<Cgroup>& root() const { return root_; }
  // Likewise in trees of the first version that were there when it was made.
  const std::vector<RefPtr<Cgroup>>& first_version() const { return first_version_; }
  int type() const override { return 0x02000000; }  // CLONE_NEWCGROUP

  state::Kind kind() const override { return state::Kind::kCgroupNamespace; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;

 private:
  RefPtr<Cgroup> root_;
  std::vector<RefPtr<Cgroup>> first_version_;
};

}  // namespace amber
